// Package engine is one node as one pure step: the state machine of package
// cluster, heartbeat's messages (cluster/protocol) and the session (transport)
// behind Step and Deadline. Package node drives it with real media and clocks,
// package sim with simulated ones; neither adds a rule of its own.
package engine

import (
	"time"

	"heartbeat/cluster"
)

// Readings are what the engine would ask the machine if it could. They come
// with every step.
type Readings struct {
	// Unix is the wall clock in seconds since 1970: for the ts field, and because
	// it may show a pause that no other clock does.
	Unix int64
	// Asleep is how long the machine has been suspended since its boot, while its
	// monotonic clock stood still: CLOCK_BOOTTIME less CLOCK_MONOTONIC. Only its
	// growth counts.
	Asleep time.Duration
	// Load is the first line of /proc/loadavg; for the ld field.
	Load string
}

// Input is one thing that happened.
type Input interface{ isInput() }

// Packet is a packet as a medium delivered it, unverified.
type Packet struct {
	// Link is the medium's Link().
	Link string
	// Data may be reused by the caller after Step returns.
	Data []byte
	// At is when it arrived, not later than the step's now.
	At cluster.Instant
}

// JobDone is the end of a job that an earlier Run ordered.
type JobDone struct {
	ID     uint64
	Groups []cluster.GroupResult
	// Err says why the job as a whole failed (a JobScript's or JobFence's
	// error, a job that could not be started); empty when it did not.
	Err string
}

// Command is an operator's order. Every command is answered by one or more
// Reply outputs with the same ID, the last of them final.
type Command struct {
	ID   uint64
	Verb Verb
	// Set is what Standby and Takeover are about, seen from this node.
	Set cluster.Set
	// Node is what ConfirmDown is about.
	Node string
	// From says who asked ("hbctl, uid 0"), for log and history.
	From string
}

// Verb names an operator's order.
type Verb uint8

const (
	Standby     Verb = iota + 1 // hb_standby
	Takeover                    // hb_takeover
	Shutdown                    // SIGTERM, heartbeat -k
	ConfirmDown                 // hbctl fence-ack
)

// FIFOMessage is a record written to the FIFO: fields in order, "t" among
// them. It is numbered, delivered to ourselves and sent to everybody.
type FIFOMessage struct{ Fields [][2]string }

// NewKeys replaces the authentication keys (authkeys re-read on SIGHUP).
type NewKeys struct{ Keys Keys }

// LinkTrouble reports that a medium cannot send (Err set) or can again.
type LinkTrouble struct {
	Link string
	Err  string
}

// Looped reports that a medium leads back to this node: what was sent on it
// counts as received.
type Looped struct{ Link string }

// Wake is a wake-up at or after Deadline, with nothing else to say.
type Wake struct{}

func (Packet) isInput()      {}
func (JobDone) isInput()     {}
func (Command) isInput()     {}
func (FIFOMessage) isInput() {}
func (NewKeys) isInput()     {}
func (LinkTrouble) isInput() {}
func (Looped) isInput()      {}
func (Wake) isInput()        {}

// Output is one order for the I/O side. Outputs are carried out in order, with
// two exceptions that the driver must keep: what follows a Persist waits until
// that is durable, and a keepalive never waits.
type Output interface{ isOutput() }

// Transmit sends one message on all media, or on one.
type Transmit struct {
	// Link limits the transmission to the ping medium of that name; empty
	// means every medium that is not a ping node.
	Link string
	// Netstring is the packet for UDP and ICMP media, Classic the one for
	// serial lines (nil when the configuration has no serial line).
	Netstring, Classic []byte
	// Keepalive is set for status messages: they overtake a waiting Persist.
	Keepalive bool
}

// GenerationFile is the name under which a Persist stores the generation that
// the next start goes on from.
const GenerationFile = "hb_generation"

// Persist stores Data under Name in the state directory and makes it durable.
type Persist struct {
	Name string
	Data []byte
}

// Run starts a job; its end comes back as JobDone.
type Run struct{ Job cluster.Job }

// Kill ends a running job early; its JobDone still comes.
type Kill struct{ ID uint64 }

// Log is one happening. Classic is the original's line without time stamp and
// level; Msg is the constant message of the structured log, Attrs its fields.
type Log struct {
	Level   cluster.Level
	Classic string
	Msg     string
	Attrs   []Attr
	// Entity is the program in whose name the original writes the line, when
	// that is not the daemon ("ipfail").
	Entity string
}

// Attr is one field of a structured log record.
type Attr struct {
	Key   string
	Value any
}

// History is one line of the story of this node: a change of ownership or
// membership with its reason. The driver keeps the last ones for `hbctl why`.
type History struct {
	Kind   string // "owner", "node", "link", "standby", "operator", "job", "daemon"
	Text   string // what happened, as a sentence
	Reason string // why
}

// Reply answers a Command. Final replies carry the outcome.
type Reply struct {
	ID    uint64
	Text  string
	Final bool
	// Err is empty on success; a sentence with the reason otherwise.
	Err string
}

// Exit ends the daemon. Everything held has been released before it.
type Exit struct {
	// Restart asks for the original's full restart (after a partition with an
	// old peer): exec again after Pause.
	Restart bool
	Pause   time.Duration
	Reason  string
}

// Reboot restarts the machine at once, without stopping anything.
type Reboot struct{ Reason string }

func (Reboot) isOutput()   {}
func (Transmit) isOutput() {}
func (Persist) isOutput()  {}
func (Run) isOutput()      {}
func (Kill) isOutput()     {}
func (Log) isOutput()      {}
func (History) isOutput()  {}
func (Reply) isOutput()    {}
func (Exit) isOutput()     {}

// Boot is everything an engine needs to begin: what would otherwise be asked
// of files, clocks and random sources.
type Boot struct {
	Config     Config
	Generation uint64 // already persisted
	UUID       [16]byte
	// Seed feeds the random delays (ack trigger, retransmission requests).
	Seed uint64
	// Held are the groups found running at start, seen from this node: they
	// are kept unless the peer claims them (crash and restart within deadtime).
	Held cluster.Set
	// Digest is the fingerprint of what both nodes must have alike; it travels
	// in our status messages.
	Digest string
	// PID is for one log line.
	PID int
	// Codec is nil for heartbeat's formats.
	Codec Codec
}

// Config is what the engine needs of the configuration. Durations are in
// monotonic time; all are set (defaults applied by cluster/config).
type Config struct {
	Self      string
	Nodes     []string // normal nodes in ha.cf order, lower case
	PingNodes []PingNode
	Links     []Link
	Groups    []cluster.Group // haresources, file order
	Keepalive, Deadtime, Warntime, Initdead, Deadping,
	MaxRexmitDelay time.Duration
	HopFudge     int
	Failback     cluster.Failback
	InnerAuth    bool // msgfmt classic: put the auth field inside netstring packets too
	LogBadPacket bool
	Stonith      bool // a device resets the peer
	FenceDelay   time.Duration
	FenceWait    bool             // a peer that was never heard is not reset
	StopReboot   bool             // a stop that fails restarts the machine
	Conflict     cluster.Conflict // what to do when a silent node's addresses are answered for
	IPFail       bool             // the node that reaches fewer ping nodes gives way
	// Scripts are the message types with a script of the administrator's in
	// rc.d, lower case: only for them JobScript jobs are ordered.
	Scripts []string
	Keys    Keys
}

// PingNode is a ping or ping_group directive.
type PingNode struct {
	Name  string
	Group bool
}

// Link is a medium as the engine knows it.
type Link struct {
	Name   string // the medium's Link()
	Serial bool
}

// Keys are the authentication keys.
type Keys struct {
	Outbound int
	Keys     []Key
}

// Key is one line of authkeys.
type Key struct {
	Index  int
	Method string // crc, md5, sha1, sha256, sha512
	Secret string
}

// View is what the engine shows of itself.
type (
	View      = cluster.View
	NodeView  = cluster.NodeView
	LinkView  = cluster.LinkView
	GroupView = cluster.GroupView
	Timer     = cluster.TimerView
)
