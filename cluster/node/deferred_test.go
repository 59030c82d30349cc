package node

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"heartbeat/cluster"
	"heartbeat/cluster/engine"
	"heartbeat/transport"
)

// patientWire is a wire whose packets can wait.
type patientWire struct {
	*wire
	mu      sync.Mutex
	said    []string // what Defer was told, one word each
	waiting []packetAt
}

func newPatientWire(link string) *patientWire { return &patientWire{wire: newWire("bcast", link)} }

func (w *patientWire) Defer(beginnings [][]byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.said = append(w.said, fmt.Sprintf("%s", beginnings))
}

func (w *patientWire) Deferred() ([]byte, time.Time, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.waiting) == 0 {
		return nil, time.Time{}, false
	}
	p := w.waiting[0]
	w.waiting = w.waiting[1:]
	return []byte(p.data), p.at, true
}

func (w *patientWire) wait(packets ...packetAt) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waiting = append(w.waiting, packets...)
}

func (w *patientWire) told() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.said)
}

// TestDeferredBeforeWake: before the engine decides on a deadline, it has seen every
// packet that waits, of all media in the order of their arrival, with its time; so
// it does before the end of a job and an operator's question.
func TestDeferredBeforeWake(t *testing.T) {
	a, b := newPatientWire("eth1"), newPatientWire("eth2")
	start := time.Now()
	at := func(ms int) time.Time { return start.Add(time.Duration(ms-1000) * time.Millisecond) }
	var steps []string
	done := make(chan struct{})
	eng := &scripted{none: true}
	eng.on = func(now cluster.Instant, in engine.Input) []engine.Output {
		switch in := in.(type) {
		case engine.Packet:
			steps = append(steps, in.Link+" "+string(in.Data))
		case engine.Wake:
			steps = append(steps, "wake")
			eng.none = true
			close(done)
		case engine.JobDone:
			steps = append(steps, "job")
		case engine.Command:
			steps = append(steps, "command")
		}
		return nil
	}
	run(t, Options{Engine: eng, Media: []transport.Medium{a, b}}, func(n *Node) {
		a.wait(packetAt{"1", at(1)}, packetAt{"4", at(4)})
		b.wait(packetAt{"2", at(2)}, packetAt{"3", at(3)})
		// The deadline is long over: by it alone, the peer would be dead.
		_ = n.call(t.Context(), func() { b.wait(packetAt{"5", at(5)}); eng.none, eng.deadline = false, 0 })
		<-done
		_ = n.call(t.Context(), func() { a.wait(packetAt{"6", at(6)}) })
		n.results <- engine.JobDone{}
		for range 2 {
			_ = n.call(t.Context(), func() {})
		}
		a.wait(packetAt{"7", at(7)})
		_ = n.call(t.Context(), func() { n.step(engine.Command{}) })
	})
	want := []string{"eth1 1", "eth2 2", "eth2 3", "eth1 4", "eth2 5", "wake", "eth1 6", "job", "eth1 7", "command"}
	if !slices.Equal(steps, want) {
		t.Errorf("steps %q\nwant  %q", steps, want)
	}
}

// TestDeferredOrder: a message that ends the wait is stepped behind the keepalives
// that its sender sent before it, and before those that it sent later.
func TestDeferredOrder(t *testing.T) {
	w := newPatientWire("eth1")
	start := time.Now().Add(-time.Second)
	var steps []string
	eng := &scripted{none: true}
	eng.on = func(_ cluster.Instant, in engine.Input) []engine.Output {
		if p, ok := in.(engine.Packet); ok {
			steps = append(steps, string(p.Data))
		}
		return nil
	}
	run(t, Options{Engine: eng, Media: []transport.Medium{w}}, func(n *Node) {
		// While the loop is held up, its channel fills.
		_ = n.call(t.Context(), func() {
			buf := func(text string, ms int) packet {
				b := []byte(text)
				return packet{link: "eth1", at: start.Add(time.Duration(ms)), data: b, buf: &b}
			}
			w.wait(packetAt{"1", start.Add(1)}, packetAt{"4", start.Add(4)})
			n.packets <- buf("2", 2)
			n.packets <- buf("3", 3)
			n.packets <- buf("5", 5)
		})
		_ = n.call(t.Context(), func() {})
		_ = n.call(t.Context(), func() {})
	})
	if want := []string{"1", "2", "3", "4", "5"}; !slices.Equal(steps, want) {
		t.Errorf("steps %q, want %q", steps, want)
	}
}

// TestLetWait: the media are told what may wait when that changes, and what waits is
// stepped then; nothing waits across a replacement of the process.
func TestLetWait(t *testing.T) {
	w := newPatientWire("eth1")
	var steps []string
	eng := &scripted{none: true}
	eng.on = func(_ cluster.Instant, in engine.Input) []engine.Output {
		if p, ok := in.(engine.Packet); ok {
			steps = append(steps, string(p.Data))
		}
		return nil
	}
	out := run(t, Options{Engine: eng, Media: []transport.Medium{newWire("bcast", "eth2"), w}}, func(n *Node) {
		say := func(words ...string) {
			_ = n.call(t.Context(), func() {
				eng.routine = nil
				for _, word := range words {
					eng.routine = append(eng.routine, []byte(word))
				}
			})
			_ = n.call(t.Context(), func() {})
		}
		say("a", "b")
		say("a", "b")
		say("c")
		_ = n.call(t.Context(), func() { eng.routine = nil; w.wait(packetAt{"left", time.Now()}) })
		_ = n.call(t.Context(), func() {})
		say("c")
		_ = n.call(t.Context(), func() { n.reexec.wanted = true })
	})
	if out.Snapshot == nil {
		t.Error("no snapshot")
	}
	if got, want := w.told(), []string{"[a b]", "[c]", "[]", "[c]", "[]"}; !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
	if !slices.Equal(steps, []string{"left"}) {
		t.Errorf("steps %q", steps)
	}
}

// TestDeferredFlood: who sends thousands of packets that look like keepalives does
// not make the loop keep them all: they are stepped in portions, and for a while
// nothing waits.
func TestDeferredFlood(t *testing.T) {
	w := newPatientWire("eth1")
	count := 0
	eng := &scripted{none: true, routine: [][]byte{[]byte("k")}}
	eng.on = func(_ cluster.Instant, in engine.Input) []engine.Output {
		if _, ok := in.(engine.Packet); ok {
			count++
		}
		return nil
	}
	const flood = 10*waitingUsual + 7
	run(t, Options{Engine: eng, Media: []transport.Medium{w}}, func(n *Node) {
		_ = n.call(t.Context(), func() {})
		_ = n.call(t.Context(), func() {})
		for i := range flood {
			w.wait(packetAt{fmt.Sprintf("k%d", i), time.Now()})
		}
		for range 2 {
			_ = n.call(t.Context(), func() {})
		}
		_ = n.call(t.Context(), func() {
			if size := cap(n.deferred.batch); size > 4*(waitingUsual+packetsMax) {
				t.Errorf("room for %d packets", size)
			}
			if size := cap(n.deferred.room); size > 1<<16 {
				t.Errorf("%d bytes of room", size)
			}
		})
	})
	if count != flood {
		t.Errorf("%d of %d packets stepped", count, flood)
	}
	if got, want := w.told(), []string{"[k]", "[]"}; !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
}

// TestMayLeave: a wake-up for this node's own keepalive may leave what waits to a later
// one, but not for long, and not when anybody's silence is judged before that one, when
// it comes late, or when something has been received.
func TestMayLeave(t *testing.T) {
	const keepalive = 20 * time.Millisecond
	eng := &scripted{none: true}
	n := New(Options{Engine: eng, Facts: Facts{Keepalive: keepalive}})
	now := cluster.Instant(time.Hour)
	for _, c := range []struct {
		name   string
		taken  time.Duration // before now
		until  time.Duration // after now
		late   time.Duration
		change func()
		want   bool
	}{
		{"just taken", 0, time.Second, 0, nil, true},
		{"the next wake-up is in time", 80 * time.Millisecond, time.Second, 0, nil, true},
		{"it is not", 81 * time.Millisecond, time.Second, 0, nil, false},
		{"somebody is judged behind the next wake-up", 0, 31 * time.Millisecond, 0, nil, true},
		{"hardly behind it", 0, 30 * time.Millisecond, 0, nil, false},
		{"now", 0, 0, 0, nil, false},
		{"nobody knows when", 0, -time.Hour, 0, nil, false},
		{"late", 0, time.Second, settleAfter, nil, false},
		{"nothing may wait", 0, time.Second, 0, func() { n.deferred.beginnings = nil }, false},
		{"a packet was received", 0, time.Second, 0, func() { n.packets <- packet{} }, false},
		{"rare keepalives", 0, time.Hour, 0, func() { n.o.Facts.Keepalive = waitMost + 1 }, false},
	} {
		n.deferred.beginnings = [][]byte{[]byte("k")}
		n.deferred.taken = now.Add(-c.taken)
		n.o.Facts.Keepalive = keepalive
		eng.until = now.Add(c.until)
		for len(n.packets) > 0 {
			<-n.packets
		}
		if c.change != nil {
			c.change()
		}
		if got := n.mayLeave(now, c.late); got != c.want {
			t.Errorf("%s: %t", c.name, got)
		}
	}
}

// TestLeave: with frequent keepalives of ours, what waits is taken within waitMost,
// though nothing but they wakes the node, and some of them leave it.
func TestLeave(t *testing.T) {
	w := newPatientWire("eth1")
	const keepalive = 10 * time.Millisecond
	eng := &scripted{none: true, routine: [][]byte{[]byte("k")}, until: cluster.Instant(time.Hour)}
	left, taken := 0, 0
	done := make(chan struct{})
	eng.on = func(now cluster.Instant, in engine.Input) []engine.Output {
		switch in.(type) {
		case engine.Packet:
			taken++
		case engine.Wake:
			eng.deadline = now.Add(keepalive)
			if w.count() > 0 {
				left++
			} else {
				w.wait(packetAt{"k", time.Now()})
			}
			if left > 3 && taken > 3 && !eng.none {
				eng.none = true
				close(done)
			}
		}
		return nil
	}
	run(t, Options{Engine: eng, Media: []transport.Medium{w}, Facts: Facts{Keepalive: keepalive}}, func(n *Node) {
		_ = n.call(t.Context(), func() { eng.none, eng.deadline = false, 0 })
		<-done
	})
}

func (w *patientWire) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.waiting)
}
