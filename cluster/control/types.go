package control

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// DefaultSocket is where the daemon listens when heartbeat.toml says nothing.
const DefaultSocket = "/run/heartbeat/control.sock"

// DefaultGroup is the group whose members may give orders.
const DefaultGroup = "haclient"

// Backend is the node behind the server. All methods may be called at the same
// time from several goroutines and return soon after ctx ends.
type Backend interface {
	// Status is the picture of now.
	Status(ctx context.Context) (Status, error)
	// Why returns the last n changes, newest first; fewer when there are fewer.
	Why(ctx context.Context, n int) ([]Event, error)
	// Order carries out o. It calls step once as soon as the order is accepted,
	// then once per sentence of progress, and returns nil when it succeeded.
	// An error is the reason for people, as a sentence; without any step before
	// it the order was refused. The end of ctx ends the reporting only, never
	// the order. step never blocks and must not be called after the return.
	Order(ctx context.Context, o Order, step func(Step)) error
	// Parameter is the value of a ha.cf directive as the original tells it to
	// `cl_status hbparameter`, and whether it has one.
	Parameter(ctx context.Context, name string) (string, bool)
}

// The verbs of an Order.
const (
	VerbStandby  = "standby"   // give groups to the peer
	VerbTakeover = "takeover"  // ask the peer for groups
	VerbStop     = "stop"      // release everything and end the daemon
	VerbReload   = "reload"    // re-read what has changed, as SIGHUP does
	VerbReexec   = "reexec"    // start the program again in place, keeping what it holds
	VerbFenceAck = "fence-ack" // a dead node is down, although no device has reset it
)

// Order is what an operator wants.
type Order struct {
	Verb string `json:"verb"`
	// Set is "all", "local" or "foreign", seen from this node; for standby and
	// takeover only.
	Set string `json:"set,omitempty"`
	// Node is what fence-ack is about.
	Node string `json:"node,omitempty"`
	// From says who asked, for log and history: "hb_standby, root (uid 0)". A
	// client sends the program's name; the server adds who the kernel says it is.
	From string `json:"from,omitempty"`
}

// Step is one sentence of an order's progress.
type Step struct {
	At   time.Time `json:"at"`
	Text string    `json:"text"`
	// Final marks the last step.
	Final bool `json:"final,omitempty"`
	// Err is why the order failed; in the final step only.
	Err string `json:"error,omitempty"`
}

// Event is one change of membership, ownership or of the daemon itself.
type Event struct {
	At time.Time `json:"at"`
	// Kind is "owner", "node", "link", "standby", "operator", "job" or "daemon".
	Kind string `json:"kind"`
	// Text is what happened, as a sentence.
	Text string `json:"text"`
	// Reason is why; empty when the text says it all.
	Reason string `json:"reason,omitempty"`
}

// Status is the state of a node and of the cluster as this node sees it.
type Status struct {
	// At is when the picture was taken.
	At time.Time `json:"at"`
	// Version is the daemon's version as cl_status prints it after "version:".
	Version string `json:"version"`
	// ManagedBy is "haresources".
	ManagedBy  string    `json:"managed_by"`
	Self       string    `json:"self"`
	PID        int       `json:"pid"`
	Generation uint64    `json:"generation"`
	Started    time.Time `json:"started"`
	// AutoFailback is "on", "off" or "legacy".
	AutoFailback string `json:"auto_failback"`
	// CommUp is false while the daemon waits for its media and its peer at
	// start; the original's clients count it as stopped until then.
	CommUp bool `json:"comm_up"`
	// Phase is the resource protocol's state: INIT, STARTING, BOTHSTARTING,
	// RSCRCVD, STABLE or SHUTDOWN.
	Phase string `json:"phase"`
	// Stable is true while no resource moves and none is about to.
	Stable bool `json:"stable"`
	// Hold is what this node holds: "none", "local", "foreign", "all", or
	// "transition" while not stable.
	Hold string `json:"hold"`
	// PeerHold is what the peer says it holds, seen from the peer.
	PeerHold string `json:"peer_hold"`
	// Standby says what a running standby is doing; empty when none runs.
	Standby string `json:"standby,omitempty"`

	Keepalive Seconds `json:"keepalive_seconds"`
	Warntime  Seconds `json:"warntime_seconds"`
	Deadtime  Seconds `json:"deadtime_seconds"`
	Initdead  Seconds `json:"initdead_seconds"`

	// Nodes in configuration order, this one included, ping nodes last.
	Nodes []Node `json:"nodes"`
	// Groups in the order of haresources.
	Groups []Group `json:"groups"`
	// Next is what happens next if nothing is heard; absent when nothing is due.
	Next *Timer `json:"next,omitempty"`
	// Last is the last change of ownership; absent when there was none.
	Last *Event `json:"last,omitempty"`
	// Warnings are sentences about what an operator should mend.
	Warnings []string `json:"warnings"`
	// Lateness is how late the daemon itself has been.
	Lateness Lateness `json:"lateness"`
}

// Node is one node of the cluster.
type Node struct {
	Name string `json:"name"`
	Self bool   `json:"self,omitempty"`
	// Type is "normal" or "ping".
	Type string `json:"type"`
	// State is "init", "up", "active", "dead" or, for a ping node that answers,
	// "ping".
	State string `json:"state"`
	// Old is set for a peer that speaks heartbeat 3.0.6's protocol only.
	Old        bool   `json:"old"`
	Generation uint64 `json:"generation,omitempty"`
	// Heard is false when nothing came from it since this daemon started; Age
	// is the time since its last status otherwise.
	Heard bool    `json:"heard"`
	Age   Seconds `json:"age_seconds"`
	// Deadtime is the silence after which it counts as dead.
	Deadtime Seconds `json:"deadtime_seconds"`
	// Links in configuration order.
	Links []Link `json:"links"`
}

// Link is one path to a node.
type Link struct {
	// Name is the interface, the device or the ping node.
	Name string `json:"name"`
	Up   bool   `json:"up"`
	// Heard and Age are as in Node, for this path alone.
	Heard bool    `json:"heard"`
	Age   Seconds `json:"age_seconds"`
	// OneWay is set when only one direction works.
	OneWay bool `json:"one_way"`
}

// State is the link's word in cl_status: "up" or "dead".
func (l Link) State() string {
	if l.Up {
		return "up"
	}
	return "dead"
}

// Group is one resource group, a line of haresources.
type Group struct {
	// Key is its first resource as written.
	Key string `json:"key"`
	// Resources are all of them as written, in starting order.
	Resources []string `json:"resources"`
	// Preferred is the node that haresources names.
	Preferred string `json:"preferred"`
	// Owner is the node that runs it as far as this node knows; empty when
	// nobody does.
	Owner string `json:"owner"`
	// State is "running", "starting", "stopping", "stopped" or "failed".
	State string `json:"state"`
	// Since is when this state began; zero when it was never anything else.
	Since time.Time `json:"since,omitzero"`
	// Reason is why it is so.
	Reason string `json:"reason,omitempty"`
	// Err is what failed, on what and why.
	Err string `json:"error,omitempty"`
}

// Timer is a deadline the node waits for.
type Timer struct {
	// In is the time until then; negative when it is overdue.
	In Seconds `json:"in_seconds"`
	// What happens then, as a sentence.
	What string `json:"what"`
}

// Lateness is how late the daemon's own loop woke up: what the machine did to
// it (load, swapping, a paused virtual machine), not what the peer did.
type Lateness struct {
	// Worst is the longest since start, WorstAt when that was.
	Worst   Seconds   `json:"worst_seconds"`
	WorstAt time.Time `json:"worst_at,omitzero"`
	// Count is how often it was more than half of the keepalive interval.
	Count uint64 `json:"count"`
}

// Seconds is a span of time: decimal seconds in JSON, to the millisecond.
type Seconds time.Duration

// MarshalJSON writes decimal seconds.
func (s Seconds) MarshalJSON() ([]byte, error) {
	return strconv.AppendFloat(nil, time.Duration(s).Round(time.Millisecond).Seconds(), 'f', -1, 64), nil
}

// UnmarshalJSON reads decimal seconds.
func (s *Seconds) UnmarshalJSON(text []byte) error {
	f, err := strconv.ParseFloat(string(text), 64)
	if err != nil {
		return fmt.Errorf("seconds %q: not a number", text)
	}
	*s = Seconds(time.Duration(f * float64(time.Second)).Round(time.Millisecond))
	return nil
}
