package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"heartbeat/cluster"
	"heartbeat/cluster/control"
	"heartbeat/cluster/engine"
	"heartbeat/cluster/node/logging"
	"heartbeat/transport"
)

// scripted is an engine that notes what it is given and answers as the test
// says.
type scripted struct {
	deadline cluster.Instant
	none     bool
	on       func(now cluster.Instant, in engine.Input) []engine.Output
	view     engine.View
	routine  [][]byte
	until    cluster.Instant
}

func (s *scripted) Step(now cluster.Instant, _ engine.Readings, in engine.Input) []engine.Output {
	return s.on(now, in)
}
func (s *scripted) Deadline() (cluster.Instant, bool) { return s.deadline, !s.none }
func (s *scripted) View() engine.View                 { return s.view }
func (s *scripted) Snapshot() ([]byte, error)         { return []byte("snapshot"), nil }
func (s *scripted) Routine() [][]byte                 { return s.routine }
func (s *scripted) RoutineUntil() cluster.Instant     { return s.until }

// wire is a medium of which the test holds the other end.
type wire struct {
	kind, link string
	format     transport.Format
	in         chan packetAt
	closed     chan struct{}
	once       sync.Once

	mu   sync.Mutex
	sent []string
	err  error
}

type packetAt struct {
	data string
	at   time.Time
}

func newWire(kind, link string) *wire {
	return &wire{kind: kind, link: link, in: make(chan packetAt, 100), closed: make(chan struct{})}
}

func (w *wire) Kind() string             { return w.kind }
func (w *wire) Link() string             { return w.link }
func (w *wire) Name() string             { return w.kind + " " + w.link }
func (w *wire) Format() transport.Format { return w.format }
func (w *wire) Close() error             { w.once.Do(func() { close(w.closed) }); return nil }

func (w *wire) Send(p []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return w.err
	}
	w.sent = append(w.sent, string(p))
	return nil
}

func (w *wire) got() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.sent)
}

func (w *wire) Receive(buf []byte) (int, time.Time, error) {
	select {
	case p := <-w.in:
		return copy(buf, p.data), p.at, nil
	case <-w.closed:
		return 0, time.Time{}, net.ErrClosed
	}
}

// plausible is a packet that passes for a heartbeat message at first sight.
const plausible = ">>>\nt=status\n<<<\n"

func quietLog(t *testing.T) *logging.Log {
	t.Helper()
	l, err := logging.New(logging.Options{Host: "node1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// run drives a node until f returns, then ends it with an Exit.
func run(t *testing.T, o Options, f func(n *Node)) Outcome {
	t.Helper()
	if o.Log == nil {
		l, err := logging.New(logging.Options{Host: "node1"})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		o.Log = l
	}
	if o.Paths == (Paths{}) {
		dir := t.TempDir()
		o.Paths = Paths{Config: dir, State: dir, Run: dir, PIDFile: filepath.Join(dir, "pid")}
	}
	n := New(o)
	n.Start(nil, nil)
	out := make(chan Outcome, 1)
	go func() { out <- n.Run() }()
	f(n)
	// Ignored if the engine ended it already.
	go func() { _ = n.call(context.Background(), func() { n.do(0, engine.Exit{Reason: "test ends"}) }) }()
	result := <-out
	n.End()
	return result
}

// TestPersistHoldsBack: what stands behind a Persist is carried out when that is
// on disk, in its order; keepalives overtake.
func TestPersistHoldsBack(t *testing.T) {
	dir := t.TempDir()
	w := newWire("bcast", "eth0")
	var stored bool
	eng := &scripted{}
	eng.on = func(_ cluster.Instant, in engine.Input) []engine.Output {
		if _, ok := in.(engine.Wake); !ok {
			return nil
		}
		eng.none = true
		return []engine.Output{
			engine.Transmit{Netstring: []byte("1 before")},
			engine.Persist{Name: "epoch", Data: []byte("7")},
			engine.Transmit{Netstring: []byte("4 behind")},
			engine.Persist{Name: "epoch", Data: []byte("8")},
			engine.Transmit{Netstring: []byte("2 keepalive"), Keepalive: true},
			engine.Transmit{Netstring: []byte("5 behind both")},
			engine.Transmit{Netstring: []byte("3 keepalive"), Keepalive: true},
			engine.Reply{ID: 1, Final: true},
		}
	}
	run(t, Options{Engine: eng, Media: []transport.Medium{w}, Paths: Paths{State: dir}}, func(n *Node) {
		replies := make(chan engine.Reply, 1)
		if err := n.call(context.Background(), func() { n.replies[1] = replies }); err != nil {
			t.Fatal(err)
		}
		<-replies
		text, err := os.ReadFile(filepath.Join(dir, "epoch"))
		stored = err == nil && string(text) == "8"
	})
	want := []string{"1 before", "2 keepalive", "3 keepalive", "4 behind", "5 behind both"}
	if got := w.got(); !slices.Equal(got, want) {
		t.Errorf("sent %q, want %q", got, want)
	}
	if !stored {
		t.Error("the last output came before the second Persist was on disk")
	}
}

// TestAlive: what guards a node that hangs is fed by keepalives that went out,
// and by nothing else the node says.
func TestAlive(t *testing.T) {
	w := newWire("bcast", "eth0")
	done := make(chan struct{})
	eng := &scripted{}
	eng.on = func(now cluster.Instant, in engine.Input) []engine.Output {
		if _, ok := in.(engine.Wake); !ok {
			return nil
		}
		if len(w.got()) > 2 {
			eng.none = true
			close(done)
			return nil
		}
		eng.deadline = now.Add(time.Millisecond)
		return []engine.Output{engine.Transmit{Netstring: []byte("a question")}, engine.Transmit{Netstring: []byte("keepalive"), Keepalive: true}}
	}
	var fed []int // how much was on the wire each time
	begun := time.Now()
	alive := func(at time.Time) {
		if at.Before(begun) || at.After(time.Now()) {
			t.Errorf("fed for %v, between %v and now", at, begun)
		}
		fed = append(fed, len(w.got()))
	}
	run(t, Options{Engine: eng, Media: []transport.Medium{w}, Alive: []func(time.Time){alive}}, func(*Node) { <-done })
	if want := []int{2, 4}; !slices.Equal(fed, want) {
		t.Errorf("fed when %v messages were out, want %v", fed, want)
	}
}

// TestPersistFailure: on a state directory that takes nothing keepalives go on
// and nothing else does, until it works.
func TestPersistFailure(t *testing.T) {
	state := filepath.Join(t.TempDir(), "missing")
	w := newWire("bcast", "eth0")
	beats := 0
	ended := make(chan struct{})
	eng := &scripted{}
	eng.on = func(now cluster.Instant, in engine.Input) []engine.Output {
		if _, ok := in.(engine.Wake); !ok {
			return nil
		}
		beats++
		eng.deadline = now.Add(10 * time.Millisecond)
		switch beats {
		case 1:
			return []engine.Output{engine.Persist{Name: "epoch"}, engine.Transmit{Netstring: []byte("behind")}}
		case 20:
			if err := os.Mkdir(state, 0o755); err != nil {
				t.Error(err)
			}
			close(ended)
		}
		return []engine.Output{engine.Transmit{Netstring: []byte("keepalive"), Keepalive: true}}
	}
	run(t, Options{Engine: eng, Media: []transport.Medium{w}, Paths: Paths{State: state}}, func(*Node) {
		<-ended
		for deadline := time.Now().Add(30 * time.Second); !slices.Contains(w.got(), "behind"); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("what waited for the disk was never sent")
			}
		}
	})
	if i := slices.Index(w.got(), "behind"); i < 19 {
		t.Errorf("what waits for the disk was sent after %d keepalives, while nothing could be stored", i)
	}
}

// TestPacketsBeforeWake: after a stall, every packet that has arrived is stepped
// before the wake-up that is due, with the time of its arrival.
func TestPacketsBeforeWake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire("bcast", "eth0")
		var story []string
		var arrivals []cluster.Instant
		eng := &scripted{}
		eng.on = func(now cluster.Instant, in engine.Input) []engine.Output {
			switch in := in.(type) {
			case engine.Wake:
				story = append(story, "wake")
				if len(story) == 1 {
					eng.deadline = now.Add(time.Second)
					time.Sleep(6 * time.Second) // the machine stands still
				} else {
					eng.none = true
				}
			case engine.Packet:
				story = append(story, "packet")
				arrivals = append(arrivals, in.At)
				if in.At > now {
					t.Errorf("packet stepped at %v has arrived at %v", now, in.At)
				}
			}
			return nil
		}
		var lateness control.Status
		run(t, Options{Engine: eng, Media: []transport.Medium{w}, Facts: Facts{Keepalive: time.Second}}, func(n *Node) {
			start := time.Now()
			time.Sleep(500 * time.Millisecond)
			for i := range 3 {
				w.in <- packetAt{plausible, start.Add(time.Duration(i+1) * time.Second)}
			}
			time.Sleep(10 * time.Second)
			synctest.Wait()
			lateness, _ = n.Status(t.Context())
		})
		if want := []string{"wake", "packet", "packet", "packet", "wake"}; !slices.Equal(story, want) {
			t.Errorf("the engine saw %q, want %q", story, want)
		}
		for i, at := range arrivals {
			if at != cluster.Instant(i+1)*cluster.Instant(time.Second) {
				t.Errorf("packet %d arrived at %v", i, at)
			}
		}
		if l := lateness.Lateness; time.Duration(l.Worst) != 5*time.Second || l.Count != 1 {
			t.Errorf("lateness is %v, %d times; want 5s, once", time.Duration(l.Worst), l.Count)
		}
	})
}

// TestPacketHeldUpInReader: a reader that is late like the loop gets time to
// deliver what its socket holds before a late wake-up is judged.
func TestPacketHeldUpInReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire("bcast", "eth0")
		w.in = make(chan packetAt) // a packet that waits here is still in the kernel
		var story []string
		eng := &scripted{}
		eng.on = func(now cluster.Instant, in engine.Input) []engine.Output {
			switch in.(type) {
			case engine.Wake:
				story = append(story, "wake")
				if len(story) == 1 {
					eng.deadline = now.Add(time.Second)
					time.Sleep(2 * time.Second)
				} else {
					eng.none = true
				}
			case engine.Packet:
				story = append(story, "packet")
			}
			return nil
		}
		run(t, Options{Engine: eng, Media: []transport.Medium{w}}, func(*Node) {
			time.Sleep(2*time.Second + settleQuiet/2)
			w.in <- packetAt{plausible, time.Now()}
			time.Sleep(time.Second)
		})
		if want := []string{"wake", "packet", "wake"}; !slices.Equal(story, want) {
			t.Errorf("the engine saw %q, want %q", story, want)
		}
	})
}

// TestGarbage: what is no message is counted and goes no further; a full queue
// drops and counts.
func TestGarbage(t *testing.T) {
	w := newWire("bcast", "eth0")
	hold := make(chan struct{})
	seen := 0
	eng := &scripted{none: true}
	eng.on = func(_ cluster.Instant, in engine.Input) []engine.Output {
		if _, ok := in.(engine.Packet); ok {
			seen++
			<-hold
		}
		return nil
	}
	run(t, Options{Engine: eng, Media: []transport.Medium{w}}, func(n *Node) {
		const each = 2 * packetsMax
		for range each {
			w.in <- packetAt{"garbage", time.Now()}
			w.in <- packetAt{plausible, time.Now()}
		}
		m := n.media[0]
		for deadline := time.Now().Add(30 * time.Second); m.implausible.Load() != each || m.overrun.Load() == 0; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%d implausible and %d overrun packets were counted", m.implausible.Load(), m.overrun.Load())
			}
		}
		if got := len(n.packets); got > packetsMax {
			t.Errorf("%d packets wait", got)
		}
		close(hold)
		s, err := n.Status(t.Context())
		if err != nil || !strings.Contains(strings.Join(s.Warnings, "\n"), "came faster than they could be judged") {
			t.Errorf("status has warnings %q (%v)", s.Warnings, err)
		}
	})
	if seen == 0 {
		t.Error("no real packet came through")
	}
}

// TestTransmit: a message goes to every medium in its format, a ping to its ping
// node only, and a medium that fails is told once, as is its return.
func TestTransmit(t *testing.T) {
	eth, tty, ping, other := newWire("ucast", "eth1"), newWire("serial", "/dev/ttyS0"), newWire("ping", "192.0.2.1"), newWire("ping_group", "routers")
	tty.format = transport.FormatClassic
	var troubles []engine.LinkTrouble
	step := 0
	done := make(chan struct{})
	eng := &scripted{}
	eng.on = func(now cluster.Instant, in engine.Input) []engine.Output {
		if t, ok := in.(engine.LinkTrouble); ok {
			troubles = append(troubles, t)
			return nil
		}
		if _, ok := in.(engine.Wake); !ok {
			return nil
		}
		eng.deadline = now
		step++
		eth.mu.Lock()
		eth.err = nil
		if step == 2 || step == 3 {
			eth.err = errors.New("cable is out")
		}
		eth.mu.Unlock()
		if step == 4 {
			eng.none = true
			close(done)
		}
		return []engine.Output{
			engine.Transmit{Netstring: []byte("n"), Classic: []byte("c")},
			engine.Transmit{Link: "192.0.2.1", Netstring: []byte("p")},
		}
	}
	run(t, Options{Engine: eng, Media: []transport.Medium{eth, tty, ping, other}}, func(n *Node) {
		<-done
		if _, err := n.Status(t.Context()); err != nil {
			t.Error(err)
		}
	})
	for _, c := range []struct {
		w    *wire
		want string
	}{{eth, "n n"}, {tty, "c c c c"}, {ping, "p p p p"}, {other, ""}} {
		if got := strings.Join(c.w.got(), " "); got != c.want {
			t.Errorf("%s sent %q, want %q", c.w.Name(), got, c.want)
		}
	}
	if want := []engine.LinkTrouble{{Link: "eth1", Err: "cable is out"}, {Link: "eth1"}}; !slices.Equal(troubles, want) {
		t.Errorf("the engine was told %q, want %q", troubles, want)
	}
}

// loop is a medium that leads back to its node while back says so.
type loop struct {
	*wire
	back bool
}

func (l *loop) Loops() bool { return l.back }

// TestTransmitLoops: what a medium would send to this node itself is not sent;
// the engine hears of it, once for each message, in the place of the packet.
func TestTransmitLoops(t *testing.T) {
	own := &loop{newWire("ucast", "eth1"), true}
	other := &loop{newWire("ucast", "eth2"), false}
	var heard []string
	done := make(chan struct{})
	eng := &scripted{}
	eng.on = func(_ cluster.Instant, in engine.Input) []engine.Output {
		switch in := in.(type) {
		case engine.Looped:
			heard = append(heard, in.Link)
		case engine.Wake:
			eng.none = true
			close(done)
			return []engine.Output{engine.Transmit{Netstring: []byte("1")}, engine.Transmit{Netstring: []byte("2")}}
		}
		return nil
	}
	run(t, Options{Engine: eng, Media: []transport.Medium{own, other}}, func(n *Node) {
		<-done
		if _, err := n.Status(t.Context()); err != nil {
			t.Error(err)
		}
	})
	if got := own.got(); len(got) > 0 {
		t.Errorf("sent %q to itself", got)
	}
	if got := other.got(); !slices.Equal(got, []string{"1", "2"}) {
		t.Errorf("sent %q to the other node", got)
	}
	if want := []string{"eth1", "eth1"}; !slices.Equal(heard, want) {
		t.Errorf("the engine was told of %q, want %q", heard, want)
	}
}

// group is a resource group that does what the test says.
type group struct {
	running bool
	err     error
	block   chan struct{} // Take waits for it or for its context
}

func (g *group) Take(ctx context.Context) error {
	if g.block != nil {
		select {
		case <-g.block:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if g.err == nil {
		g.running = true
	}
	return g.err
}

func (g *group) Give(context.Context) error {
	if g.err == nil {
		g.running = false
	}
	return g.err
}
func (g *group) FirstRunning(context.Context) (bool, error) { return g.running, g.err }

// TestJobs: what comes back for each kind of job and each outcome.
func TestJobs(t *testing.T) {
	good, bad, up, stuck := &group{}, &group{err: errors.New("no such device")}, &group{running: true}, &group{block: make(chan struct{})}
	groups := map[string]Group{"good": good, "bad": bad, "up": up, "stuck": stuck}
	for _, c := range []struct {
		name string
		job  cluster.Job
		kill bool
		want string
	}{
		{"ask", cluster.Job{Kind: cluster.JobAsk, Keys: []string{"up", "good", "bad"}}, false, "[{up true } {good false } {bad false no such device}]"},
		{"take", cluster.Job{Kind: cluster.JobTake, Keys: []string{"good", "bad", "none"}}, false, "[{good true } {bad false no such device} {none false group none is not in haresources}]"},
		{"take ended early", cluster.Job{Kind: cluster.JobTake, Keys: []string{"stuck", "good"}}, true, "[{stuck false ended by the cluster} {good false ended by the cluster}]"},
		{"give", cluster.Job{Kind: cluster.JobGive, Keys: []string{"bad", "up"}}, false, "[{bad true no such device} {up false }]"},
		{"fence", cluster.Job{Kind: cluster.JobFence, Node: "node2"}, false, "[] reset node2: no fencing device configured"},
		{"probe where nobody can be asked", cluster.Job{Kind: cluster.JobProbe, Keys: []string{"good"}}, false, "[]"},
		{"script of a type that has none", cluster.Job{Kind: cluster.JobScript, Title: "status"}, false, "[]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			done := make(chan engine.JobDone, 1)
			eng := &scripted{}
			eng.on = func(_ cluster.Instant, in engine.Input) []engine.Output {
				switch in := in.(type) {
				case engine.Wake:
					eng.none = true
					c.job.ID = 9
					outs := []engine.Output{engine.Run{Job: c.job}}
					if c.kill {
						outs = append(outs, engine.Kill{ID: 9}, engine.Kill{ID: 10})
					}
					return outs
				case engine.JobDone:
					done <- in
				}
				return nil
			}
			var got engine.JobDone
			run(t, Options{Engine: eng, Groups: groups}, func(*Node) { got = <-done })
			text := strings.TrimSpace(fmt.Sprintf("%v %s", got.Groups, got.Err))
			if text != c.want || got.ID != 9 {
				t.Errorf("job %d ended with %s, want %s", got.ID, text, c.want)
			}
		})
	}
}

// TestOrder: an operator's order gets its steps and its outcome.
func TestOrder(t *testing.T) {
	eng := &scripted{none: true}
	eng.on = func(_ cluster.Instant, in engine.Input) []engine.Output {
		c, ok := in.(engine.Command)
		if !ok {
			return nil
		}
		switch {
		case c.Verb == engine.Takeover:
			return []engine.Output{engine.Reply{ID: c.ID, Final: true, Err: "the other side is in flux"}}
		case c.Set == cluster.Local:
			return []engine.Output{engine.Reply{ID: c.ID, Text: "asked"}, engine.Reply{ID: c.ID, Text: "gave up"}, engine.Reply{ID: c.ID, Text: "node2 runs them", Final: true}}
		}
		return []engine.Output{engine.Reply{ID: c.ID, Text: "asked"}, engine.Reply{ID: c.ID, Final: true, Err: "no answer"}}
	}
	run(t, Options{Engine: eng}, func(n *Node) {
		for _, c := range []struct {
			o     control.Order
			steps string
			err   string
		}{
			{control.Order{Verb: "standby", Set: "local"}, "asked, gave up, node2 runs them", ""},
			{control.Order{Verb: "standby", Set: "all"}, "asked", "no answer"},
			{control.Order{Verb: "takeover", Set: "all"}, "", "the other side is in flux"},
			{control.Order{Verb: "standby", Set: "none"}, "", `standby of "none": the set must be all, local or foreign`},
			{control.Order{Verb: "reload"}, "", "this node cannot reload its configuration"},
			{control.Order{Verb: "dance"}, "", `order "dance" is not known`},
		} {
			var steps []string
			err := n.Order(t.Context(), c.o, func(s control.Step) { steps = append(steps, s.Text) })
			text := ""
			if err != nil {
				text = err.Error()
			}
			if got := strings.Join(steps, ", "); got != c.steps || text != c.err {
				t.Errorf("%v: steps %q, error %q; want %q, %q", c.o, got, text, c.steps, c.err)
			}
		}
	})
}

// TestReexecWaitsForQuiet: the process replaces itself when no job runs any
// more, and the node goes on if that fails.
func TestReexecWaitsForQuiet(t *testing.T) {
	busy := &group{block: make(chan struct{})}
	started := make(chan struct{})
	eng := &scripted{}
	eng.on = func(_ cluster.Instant, in engine.Input) []engine.Output {
		if _, ok := in.(engine.Wake); ok {
			eng.none = true
			close(started)
			return []engine.Output{engine.Run{Job: cluster.Job{ID: 1, Kind: cluster.JobTake, Keys: []string{"busy"}}}}
		}
		return nil
	}
	var change Change
	n := New(Options{
		Engine: eng, Groups: map[string]Group{"busy": busy}, Log: quietLog(t),
		Reload: func(bool) Change { return change },
	})
	n.Start(nil, nil)
	out := make(chan Outcome, 1)
	go func() { out <- n.Run() }()
	<-started
	say := func(string) {}

	change = Change{Err: errors.New("ha.cf:1:1: bad")}
	if err := n.Reload(t.Context(), false, "test", say); err == nil || !strings.Contains(err.Error(), "stays in force") {
		t.Errorf("a bad configuration is answered with %v", err)
	}
	change = Change{Reexec: true}
	asked := make(chan error, 1)
	go func() { asked <- n.Reload(t.Context(), false, "test", say) }()
	for deadline, told := time.Now().Add(30*time.Second), false; !told; {
		if err := n.call(t.Context(), func() { told = n.reexec.told }); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(deadline) {
			t.Fatal("the wish to replace the process never came")
		}
	}
	select {
	case o := <-out:
		t.Fatalf("the loop ended with a job running: %+v", o)
	default:
	}
	close(busy.block)
	if o := <-out; string(o.Snapshot) != "snapshot" || o.Exit != nil {
		t.Fatalf("the loop ended with %+v", o)
	}
	select {
	case err := <-asked:
		t.Errorf("answered before the exec: %v", err)
	default:
	}
	n.Stay(errors.New("exec: no such file"))
	if err := <-asked; err == nil || err.Error() != "heartbeat goes on as before: exec: no such file" {
		t.Errorf("an exec that failed is answered with %v", err)
	}
	go func() { out <- n.Run() }()
	if _, err := n.Status(t.Context()); err != nil {
		t.Errorf("after an exec that failed: %v", err)
	}
	if err := n.call(t.Context(), func() { n.do(0, engine.Exit{}) }); err != nil {
		t.Error(err)
	}
	<-out
	n.End()
	if _, err := n.Status(t.Context()); !errors.Is(err, ErrGone) {
		t.Errorf("an ended node answers %v", err)
	}
}

// TestNotify: systemd hears of the start and, from the loop alone, that it goes
// round; scripts do not inherit the way to systemd.
func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "30000")
	t.Setenv("WATCHDOG_PID", fmt.Sprint(os.Getpid()))
	notifier, env := StartNotifier()
	if os.Getenv("NOTIFY_SOCKET") != "" || len(env) != 3 || env[0] != "NOTIFY_SOCKET="+path {
		t.Errorf("scripts inherit %q, a successor is given %q", os.Getenv("NOTIFY_SOCKET"), env)
	}
	receive := func() string {
		buf := make([]byte, 512)
		if err := socket.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := socket.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	eng := &scripted{none: true, on: func(cluster.Instant, engine.Input) []engine.Output { return nil }}
	run(t, Options{Engine: eng, Notifier: notifier}, func(*Node) {
		notifier.Ready()
		seen := map[string]int{}
		for seen["READY=1"] == 0 || seen["WATCHDOG=1"] < 3 {
			seen[receive()]++
		}
	})
	if none, env := StartNotifier(); none != nil || env != nil {
		t.Error("a notifier without systemd")
	}
}

// TestFloods: the first line of a flood is written at once, then one line a
// minute with a count, and other lines pass untouched.
func TestFloods(t *testing.T) {
	var f floods
	bad := engine.Log{Level: cluster.Error, Classic: "authtoken does not match", Msg: "packet refused", Attrs: []engine.Attr{{Key: "reason", Value: "digest"}}}
	written := 0
	for range 1000 {
		if f.pass(0, bad) {
			written++
		}
		if !f.pass(0, engine.Log{Msg: "late heartbeat"}) {
			t.Fatal("a line that no stranger can cause was held back")
		}
	}
	other := bad
	other.Attrs = []engine.Attr{{Key: "reason", Value: "no auth"}}
	if written != 1 || !f.pass(0, other) {
		t.Errorf("%d of 1000 equal lines were written, and another reason is not told apart", written)
	}
	if lines := f.due(cluster.Instant(floodEvery - 1)); len(lines) != 0 {
		t.Errorf("summary before its time: %v", lines)
	}
	if f.next() != cluster.Instant(floodEvery) {
		t.Errorf("summary is due at %v", f.next())
	}
	lines := f.due(cluster.Instant(floodEvery))
	if len(lines) != 1 || lines[0].Text != "authtoken does not match (and 998 more like it in 60 seconds)" {
		t.Errorf("summary is %v", lines)
	}
	f.due(cluster.Instant(2 * floodEvery))
	if !f.pass(cluster.Instant(2*floodEvery), bad) || len(f.kinds) != 1 {
		t.Error("after a quiet minute the first is not written at once")
	}
}
