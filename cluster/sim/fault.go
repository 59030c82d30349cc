package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"heartbeat/cluster"
	"heartbeat/transport/memory"
)

// Kind is what a fault does.
type Kind string

const (
	// Cut stops packets from Node to Peer on Link ("" is every link), one way.
	Cut Kind = "cut"
	// Partition stops packets between Node and Peer on Link, both ways.
	Partition Kind = "partition"
	// Noise makes Link lose, duplicate, corrupt, reorder and delay.
	Noise Kind = "noise"
	// Stall stops the process of Node (SIGSTOP); what arrives waits in its
	// sockets, and its scripts go on.
	Stall Kind = "stall"
	// Freeze stops the machine of Node with its clock; what arrives is lost.
	Freeze Kind = "freeze"
	// Kill ends the process of Node (SIGKILL); its resources stay. It is
	// started again at the fault's end.
	Kill Kind = "kill"
	// PowerOff ends the machine of Node; nothing runs there afterwards. It is
	// switched on again at the fault's end.
	PowerOff Kind = "power off"
	// Stop ends the daemon of Node cleanly and starts it at the fault's end.
	Stop Kind = "stop"
	// Standby and Takeover are operators' orders on Node about Set.
	Standby  Kind = "standby"
	Takeover Kind = "takeover"
	// StartFails and StopFails: starts or stops of Group on Node fail.
	StartFails Kind = "start fails"
	StopFails  Kind = "stop fails"
	// Hang: starts and stops of Group that begin on Node use their whole
	// budget, and then fail.
	Hang Kind = "hang"
	// Slow: they take Factor times as long.
	Slow Kind = "slow"
	// Suspend stops the machine of Node with its monotonic clock, as Freeze does;
	// its other clocks run on.
	Suspend Kind = "suspend"
	// Crash ends the process of Node between two outputs of a step, after Factor
	// more of them; it is started again at the fault's end.
	Crash Kind = "crash"
	// PingCut keeps Node ("" is every node) from hearing the ping node Link.
	PingCut Kind = "ping cut"
	// FenceFails: resets ordered by Node do not work.
	FenceFails Kind = "fence fails"
	// Replay shows Node packets that it has heard before.
	Replay Kind = "replay"
	// Reexec replaces the process of Node in place, its state kept.
	Reexec Kind = "reexec"
	// WallClock sets the wall clock of Node back by a day.
	WallClock Kind = "wall clock"
)

// Kinds are all kinds, in the order of summaries.
var Kinds = slices.Concat(commonKinds, rareKinds)

// The rare ones are drawn in addition, and beside the common ones' random numbers:
// what a seed drew before there were any, it still draws.
var (
	commonKinds = []Kind{
		Cut, Partition, Noise, Stall, Freeze, Kill, PowerOff, Stop, Standby, Takeover, StartFails, StopFails, Hang, Slow, Replay, Reexec, WallClock,
	}
	rareKinds = []Kind{Suspend, Crash, PingCut, FenceFails}
)

// Disk is what a power loss leaves of the state directory.
type Disk uint8

const (
	DiskKept  Disk = iota
	DiskLost       // no generation, no uuid
	DiskStale      // a backup: the generation is lower than the last one used
)

// Fault is one thing that goes wrong, from At on for For.
type Fault struct {
	Kind   Kind
	At     time.Duration
	For    time.Duration `json:",omitzero"`
	Node   string        `json:",omitzero"`
	Peer   string        `json:",omitzero"`
	Link   string        `json:",omitzero"`
	Group  string        `json:",omitzero"`
	Set    cluster.Set   `json:",omitzero"`
	Factor int           `json:",omitzero"`
	Disk   Disk          `json:",omitzero"`
	Noise  memory.Faults `json:",omitzero"`
}

// End is when the fault is over.
func (f Fault) End() time.Duration { return f.At + f.For }

// lost is the share of packets that noise keeps from being understood.
func (f Fault) lost() float64 { return 1 - (1-f.Noise.Loss)*(1-f.Noise.Corrupt) }

func (f Fault) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%.3fs %s", f.At.Seconds(), f.Kind)
	add := func(format string, args ...any) { fmt.Fprintf(&b, " "+format, args...) }
	if f.Node != "" {
		add("%s", f.Node)
	}
	if f.Peer != "" {
		add("-> %s", f.Peer)
	}
	switch f.Kind {
	case Cut, Partition, Noise:
		if f.Link == "" {
			add("on all links")
		} else {
			add("on %s", f.Link)
		}
	case Standby, Takeover:
		add("%v", f.Set)
	case Slow:
		add("%d times", f.Factor)
	case Crash:
		add("after %d outputs", f.Factor)
	case PingCut:
		add("from %s", f.Link)
	case PowerOff:
		add("%s", [...]string{"disk kept", "disk lost", "disk stale"}[f.Disk])
	}
	if f.Group != "" {
		add("%s", f.Group)
	}
	if f.Kind == Noise {
		add("%+v", f.Noise)
	}
	if f.For > 0 {
		add("for %v", f.For)
	}
	return b.String()
}
