package node

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"heartbeat/cluster"
	"heartbeat/cluster/control"
	"heartbeat/cluster/engine"
	"heartbeat/cluster/node/logging"
	"heartbeat/transport"
)

// stepper is the engine as the loop drives it: [engine.Engine], or a scripted
// one in tests.
type stepper interface {
	Step(now cluster.Instant, r engine.Readings, in engine.Input) []engine.Output
	Deadline() (cluster.Instant, bool)
	View() engine.View
	Snapshot() ([]byte, error)
	Routine() [][]byte
	RoutineUntil() cluster.Instant
}

// Group is a resource group as jobs use it: [resources.Group].
type Group interface {
	Take(ctx context.Context) error
	Give(ctx context.Context) error
	FirstRunning(ctx context.Context) (bool, error)
}

// Paths are the places on disk, so that several nodes can run side by side.
type Paths struct {
	// Config is /etc/ha.d, State /var/lib/heartbeat, Run /run/heartbeat.
	Config, State, Run string
	// PIDFile is /run/heartbeat.pid.
	PIDFile string
}

// DefaultPaths are the original's.
var DefaultPaths = Paths{
	Config:  "/etc/ha.d",
	State:   "/var/lib/heartbeat",
	Run:     "/run/heartbeat",
	PIDFile: "/run/heartbeat.pid",
}

// Generation, UUID, History and FIFO are the files in the state directory.
func (p Paths) Generation() string { return filepath.Join(p.State, "hb_generation") }
func (p Paths) UUID() string       { return filepath.Join(p.State, "hb_uuid") }
func (p Paths) History() string    { return filepath.Join(p.State, "history.jsonl") }
func (p Paths) FIFO() string       { return filepath.Join(p.State, "fifo") }

// Facts are what the status shows beside the engine's view.
type Facts struct {
	Version                                 string
	PID                                     int
	Started                                 time.Time
	Keepalive, Warntime, Deadtime, Initdead time.Duration
	// Groups are the lines of haresources.
	Groups []cluster.Group
	// Params answer `cl_status hbparameter`.
	Params map[string]string
}

// Options are what a node is made of.
type Options struct {
	Engine stepper
	Paths  Paths
	Media  []transport.Medium
	// Groups are the resource groups by key.
	Groups map[string]Group
	// ScriptEnv is added to the environment of rc.d scripts.
	ScriptEnv func() []string
	Log       *logging.Log
	Facts     Facts
	// Origin is the clock's reading (CLOCK_MONOTONIC) at Instant 0; zero means
	// now. A process that replaced itself carries it over.
	Origin time.Duration
	// Timer wakes the loop; nil takes Go's own.
	Timer Timer
	// Realtime and Notifier may be nil.
	Realtime *Realtime
	Notifier *Notifier
	// Fence resets another node; nil means that no device is configured. It
	// returns nil only when the node is reset.
	Fence func(ctx context.Context, node string) error
	// Probe asks the service network who answers for the addresses of groups that
	// do not run here, and returns one result for each; nil means that there is
	// nobody to ask. The error says why none of them could be asked for.
	Probe func(ctx context.Context, keys []string) ([]cluster.GroupResult, error)
	// Alive are called in order by the loop whenever a keepalive of this node
	// has been handed to the media, with the moment before it was: what guards
	// a node that hangs (addresses that run out, a watchdog device) is fed by
	// them and by nothing else. They must not block. A node that must first
	// release what it holds sends no keepalive and so calls none.
	Alive []func(at time.Time)
	// Guards say what is wrong with a configured guard against a node that
	// hangs; empty for nothing. The status shows it, and the log when resources
	// are taken without it. They must not block.
	Guards []func() string
	// Reboot restarts the machine at once and returns only when that failed. It
	// runs outside the loop.
	Reboot func() error
	// Programs are the respawn and failfast lines; nil for none.
	Programs *Programs
	// Reload decides what a SIGHUP or the orders reload and reexec mean; nil
	// means that nothing can be reloaded. It runs outside the loop.
	Reload func(force bool) Change
}

// Change is what a reload found.
type Change struct {
	// Reexec: the process must replace itself to take the new files up.
	Reexec bool
	// Keys are new authentication keys, when only they have changed.
	Keys *engine.Keys
	// Err says why the running configuration stays in force.
	Err error
}

// Outcome is why Run returned.
type Outcome struct {
	// Exit is set when the engine ended the node; everything is released.
	Exit *engine.Exit
	// Snapshot is set when the process shall replace itself, holding what it
	// holds. Run may be called again if that turns out to be impossible.
	Snapshot []byte
}

// Bounds of the loop's channels, and what a full one means: a packet is
// dropped and counted, a result or an order waits outside the loop.
const (
	packetsMax = 512
	resultsMax = 64
	callsMax   = 64
	repliesMax = 64
	// heldMax bounds the outputs that wait for a Persist; beyond it
	// transmissions and log lines are dropped (peers ask for lost packets again).
	heldMax = 1024
)

// packet is a received packet on its way to the loop.
type packet struct {
	link string
	at   time.Time
	data []byte
	buf  *[]byte // what data lies in, to be given back; nil for a packet that waited
}

// Node is one running node.
type Node struct {
	o     Options
	clock clock
	log   *logging.Log

	packets chan packet
	results chan engine.Input
	calls   chan func()
	durable chan error
	// gone is closed when the node has ended for good.
	gone    chan struct{}
	buffers sync.Pool
	workers sync.WaitGroup
	fifo    *FIFO

	// What follows belongs to the loop's goroutine.
	timer    Timer
	armed    cluster.Instant // what the timer is set for
	armedOK  bool
	load     loadReader
	held     []engine.Output
	waiting  *engine.Persist
	heldLost int
	// persistFailures counts the failures of the Persist that waits.
	persistFailures int
	// follow are inputs that a step itself caused: media that cannot send, and
	// those that lead back here.
	follow   []engine.Input
	media    []*medium
	deferred deferred
	jobs     map[uint64]context.CancelCauseFunc
	turns    map[string]*turn // the last job ordered for each group
	replies  map[uint64]chan engine.Reply
	orderID  uint64
	history  history
	disk     chan control.Event
	floods   floods
	outcome  *Outcome
	reexec   reexecWish
	lateness control.Lateness
}

// clock turns times into Instants: CLOCK_MONOTONIC less the origin.
type clock struct{ zero time.Time }

func newClock(origin time.Duration) clock {
	now := time.Now()
	if origin == 0 {
		return clock{now}
	}
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return clock{now}
	}
	return clock{now.Add(origin - time.Duration(ts.Nano()))}
}

// origin is the reading of CLOCK_MONOTONIC at Instant 0.
func (c clock) origin() (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0, fmt.Errorf("read monotonic clock: %w", err)
	}
	return time.Duration(ts.Nano()) - time.Since(c.zero), nil
}

func (c clock) now() cluster.Instant { return cluster.Instant(time.Since(c.zero)) }

// instant is t on the loop's clock, but not after now.
func (c clock) instant(t time.Time, now cluster.Instant) cluster.Instant {
	return max(0, min(now, cluster.Instant(t.Sub(c.zero))))
}

// wall is i as wall time, for people.
func (c clock) wall(i cluster.Instant) time.Time { return c.zero.Add(time.Duration(i)).Round(0) }

// asleep is how long this machine has been suspended since its boot. The clocks
// are read in the order in which a pause between the two readings makes it less,
// never more.
func asleep() time.Duration {
	// Raw system calls: this runs at every step, and a call that tells the runtime
	// wakes its monitor thread, which costs more than the step.
	read := func(clock uintptr) (ts unix.Timespec, ok bool) {
		_, _, errno := unix.RawSyscall(unix.SYS_CLOCK_GETTIME, clock, uintptr(unsafe.Pointer(&ts)), 0)
		return ts, errno == 0
	}
	boot, ok1 := read(unix.CLOCK_BOOTTIME)
	mono, ok2 := read(unix.CLOCK_MONOTONIC)
	if !ok1 || !ok2 {
		return 0
	}
	return time.Duration(boot.Nano() - mono.Nano())
}

// New makes a node of its parts. Nothing runs until Run.
func New(o Options) *Node {
	n := &Node{
		o:       o,
		clock:   newClock(o.Origin),
		log:     o.Log,
		packets: make(chan packet, packetsMax),
		results: make(chan engine.Input, resultsMax),
		calls:   make(chan func(), callsMax),
		durable: make(chan error, 1),
		gone:    make(chan struct{}),
		jobs:    make(map[uint64]context.CancelCauseFunc),
		replies: make(map[uint64]chan engine.Reply),
		disk:    make(chan control.Event, historyQueue),
	}
	if n.timer = o.Timer; n.timer == nil {
		n.timer = newRuntimeTimer()
	}
	n.buffers.New = func() any {
		b := make([]byte, transport.PacketBytesMax)
		return &b
	}
	for _, m := range o.Media {
		n.media = append(n.media, &medium{Medium: m})
	}
	return n
}

// ErrGone is the answer to orders that come after the node has ended.
var ErrGone = errors.New("heartbeat is ending")

// call runs f in the loop and waits for it.
func (n *Node) call(ctx context.Context, f func()) error {
	done := make(chan struct{})
	select {
	case n.calls <- func() { f(); close(done) }:
	case <-n.gone:
		return ErrGone
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-done:
		return nil
	case <-n.gone:
		return ErrGone
	case <-ctx.Done():
		return ctx.Err()
	}
}

// post hands an input to the loop without waiting for its step.
func (n *Node) post(in engine.Input) {
	select {
	case n.calls <- func() { n.step(in) }:
	case <-n.gone:
	}
}

// Shutdown asks for a clean end: release everything, tell the peer, exit.
func (n *Node) Shutdown(from string) {
	n.o.Programs.Close()
	n.post(engine.Command{Verb: engine.Shutdown, From: from})
}

// Origin is the reading of CLOCK_MONOTONIC at the node's Instant 0.
func (n *Node) Origin() (time.Duration, error) { return n.clock.origin() }

// Started is when the node began.
func (n *Node) Started() time.Time { return n.o.Facts.Started }
