package cluster

import "time"

// Message is what the nodes say to each other, as the state machine sees it.
// Package protocol gives it its fields on the wire.
type Message interface{ isMessage() }

// Status is the keepalive: the sender's state and what the receiver must know
// to judge its silence.
type Status struct {
	// State is the sender's word for itself: init, up, active.
	State string
	// Dt is the deadtime that the receiver must apply to the sender.
	Dt time.Duration
	// Beat is set in periodic ones and clear in those sent for a change.
	Beat bool
	// New is set by nodes that know more than 3.0.6; the rest of the fields
	// are meaningful only then.
	New bool
	// Digest is a fingerprint of the files both nodes must share.
	Digest string
	// Hears are the links on which the sender hears the other node.
	Hears []string
	// Lateness is how late the sender's steps were at most since its last one.
	Lateness time.Duration
	// Dead are the nodes that the sender holds for dead. One of them that hears
	// this learns that it is not heard.
	Dead []string
	// Holds: the sender says what it holds or is about to start (Hold), what of
	// that it took because it held the other node for dead (Took), and what it is
	// still stopping (Releasing), as in Resource.
	Holds                 bool
	Hold, Took, Releasing Set
	// Outdated are the nodes whose packets the sender refuses, because they are
	// of an older life than one that it has heard.
	Outdated []Life
}

// Life is one life of a node.
type Life struct {
	Node       string
	Generation uint64
}

// ReqNodes asks Dest for its list of nodes.
type ReqNodes struct{ Dest string }

// RepNodes answers ReqNodes.
type RepNodes struct {
	Dest           string
	Nodes, Removed []string
}

// Starting says that the sender's communication has just come up.
type Starting struct{}

// Tri is a boolean that may be missing in a message.
type Tri uint8

const (
	Absent Tri = iota
	No
	Yes
)

func tri(b bool) Tri {
	if b {
		return Yes
	}
	return No
}

// Resource says what the sender holds, seen from the sender.
type Resource struct {
	Hold Set
	// Full: Hold replaces what was known; otherwise it is added (none clears).
	Full   bool
	Stable Tri
	Info   string
	// Took is the part of Hold that the sender took because it held the other
	// node for dead. New nodes only.
	Took Set
	// Releasing is what the sender does not hold any more, but has not stopped
	// yet. New nodes only.
	Releasing Set
	// Pings is how many ping nodes answer the sender, plus one; 0 when it has
	// none or does not say. New nodes only.
	Pings int
}

// AskResources is the standby protocol; Set is meant from the node that goes
// standby, Info is "me", "other" or "done".
type AskResources struct {
	Set  Set
	Info string
	// Exchange numbers the exchange, so that a late word of another one is known
	// as such; 0 when the sender, a 3.0.6, does not say.
	Exchange uint64
}

// HBTakeover asks the other node to go standby; Set is meant from the sender.
type HBTakeover struct{ Set Set }

// IPRequest asks the other node to release a group (legacy mode).
type IPRequest struct{ Key string }

// IPRequestResp answers; in the other modes a node sends it to itself.
type IPRequestResp struct {
	Dest, Key string
	WeOwn, OK bool
}

// Shutdone says that the sender has given up all its resources.
type Shutdone struct{}

// Stonith announces, before a takeover, what became of the dead node:
// n_stnth (no device), unneeded, OK, bad.
type Stonith struct{ Node, Result string }

// Other is any message of a type that this package does not handle.
type Other struct {
	Type   string
	Fields [][2]string
}

func (Status) isMessage()        {}
func (ReqNodes) isMessage()      {}
func (RepNodes) isMessage()      {}
func (Starting) isMessage()      {}
func (Resource) isMessage()      {}
func (AskResources) isMessage()  {}
func (HBTakeover) isMessage()    {}
func (IPRequest) isMessage()     {}
func (IPRequestResp) isMessage() {}
func (Shutdone) isMessage()      {}
func (Stonith) isMessage()       {}
func (Other) isMessage()         {}

// Event is something that happened.
type Event interface{ isEvent() }

// Wake is a wake-up at or after Deadline. Every packet that had arrived by
// then has been stepped before.
type Wake struct{}

// Heard is a verified, in-sequence message from another node.
type Heard struct {
	From, Link string
	// At is when it arrived.
	At  Instant
	Msg Message
	// Generation is the sender's, Seq the number of the message in it.
	Generation, Seq uint64
	// Restarted: the sender's generation grew. Returned: the sender was held
	// for dead and its generation is the old one.
	Restarted, Returned bool
	// Gap: messages of the sender are missing that it still has and sends again.
	Gap bool
}

// LinkHeard reports that a link from a node works, whatever it carried.
type LinkHeard struct {
	From, Link string
	At         Instant
}

// OutdatedHeard reports a refused packet of an older life of a node than the one
// that is known, of Generation: a replay, or a node that came back with an old
// generation.
type OutdatedHeard struct {
	From       string
	Generation uint64
}

// ClockJump reports that the machine did not run although its monotonic clock
// does not show it: by how much CLOCK_BOOTTIME and the wall clock went ahead of
// it since the last step. The former is a suspended machine for sure, the latter
// may be an administrator who set the date.
type ClockJump struct{ Asleep, Wall time.Duration }

// PingReply is the answer of a ping node.
type PingReply struct {
	From string
	At   Instant
}

// JobDone is the end of a job.
type JobDone struct {
	ID     uint64
	Groups []GroupResult
	Err    string
}

// Verb is an operator's order.
type Verb uint8

const (
	OrderStandby Verb = iota + 1
	OrderTakeover
	OrderShutdown
	OrderConfirmDown // the dead node is down, although no device has reset it
)

// Order is an operator's wish that wants an answer.
type Order struct {
	ID   uint64
	Verb Verb
	Set  Set
	Node string // for OrderConfirmDown
	From string
}

// Posted is a message that somebody wrote to the FIFO: sent as ours.
type Posted struct{ Msg Message }

// Trouble reports that a link cannot send (Err set) or can again.
type Trouble struct{ Link, Err string }

// PacketsLost reports that this node has asked another to send packets again, or
// has done so for another.
type PacketsLost struct{}

func (Wake) isEvent()          {}
func (Heard) isEvent()         {}
func (LinkHeard) isEvent()     {}
func (OutdatedHeard) isEvent() {}
func (ClockJump) isEvent()     {}
func (PingReply) isEvent()     {}
func (JobDone) isEvent()       {}
func (Order) isEvent()         {}
func (Posted) isEvent()        {}
func (Trouble) isEvent()       {}
func (PacketsLost) isEvent()   {}

// Action is an order for the world outside. The machine never performs one
// and never waits for one; the outcome comes back as an Event.
type Action interface{ isAction() }

// Send transmits a message to everybody. Our own copy has been handled
// already, and what it caused precedes this action.
type Send struct{ Msg Message }

// SendPing asks the ping nodes for an answer.
type SendPing struct{}

// NodeState tells the session what a node's state is now.
type NodeState struct{ Node, State string }

// Run starts a job.
type Run struct{ Job Job }

// KeepGeneration stores the generation that the next start goes on from. What
// follows waits until that is durable.
type KeepGeneration struct{ Generation uint64 }

// Report is a happening for the log. Classic is the original's line without
// time stamp and level, Msg the constant message of the structured log, Attrs
// its fields, alternating names and values. Entity is the program in whose name
// the original writes the line, when that is not the daemon.
type Report struct {
	Level   Level
	Classic string
	Msg     string
	Attrs   []any
	Entity  string
}

// Record is one line of the node's story, with its reason.
type Record struct{ Kind, Text, Reason string }

// Reply answers an Order. Err is empty on success.
type Reply struct {
	ID    uint64
	Text  string
	Final bool
	Err   string
}

// Exit ends the daemon; with Restart it starts again after Pause, with a new
// generation.
type Exit struct {
	Restart bool
	Pause   time.Duration
	Reason  string
}

// Reboot restarts the machine at once: what runs on it cannot be stopped.
type Reboot struct{ Reason string }

func (Reboot) isAction()         {}
func (Send) isAction()           {}
func (SendPing) isAction()       {}
func (NodeState) isAction()      {}
func (Run) isAction()            {}
func (KeepGeneration) isAction() {}
func (Report) isAction()         {}
func (Record) isAction()         {}
func (Reply) isAction()          {}
func (Exit) isAction()           {}
