package engine

import (
	"testing"
	"time"

	"heartbeat/cluster"
)

// idle is a pair of new nodes with a wire that takes no time.
type idle struct {
	engines [2]*Engine
	now     cluster.Instant
	read    Readings
	wire    []delivery
	// wakes and jobs count what the nodes did.
	wakes, jobs int
}

type delivery struct {
	to   int
	data []byte
}

// newIdle runs a pair for a minute: they have met, and nothing moves any more.
func newIdle(t testing.TB) *idle {
	t.Helper()
	p := &idle{engines: newPair(t, cluster.FailbackOn), read: Readings{Unix: 1700000000, Load: "0.00 0.01 0.05 1/123 4567"}}
	p.wake(0)
	p.now = cluster.Instant(7 * time.Millisecond) // their keepalives do not coincide
	p.wake(1)
	p.run(time.Minute)
	for _, e := range p.engines {
		if v := e.View(); !v.CommUp || !v.Stable {
			t.Fatalf("the nodes have not settled: %+v", v)
		}
	}
	p.wakes, p.jobs = 0, 0
	return p
}

func (p *idle) step(i int, in Input) {
	for _, out := range p.engines[i].Step(p.now, p.read, in) {
		switch out := out.(type) {
		case Transmit:
			p.wire = append(p.wire, delivery{i, out.Netstring}, delivery{1 - i, out.Netstring})
		case Run:
			p.jobs++
			done := JobDone{ID: out.Job.ID}
			for _, key := range out.Job.Keys {
				done.Groups = append(done.Groups, cluster.GroupResult{Key: key, Running: out.Job.Kind == cluster.JobTake})
			}
			p.step(i, done)
		}
	}
}

func (p *idle) wake(i int) {
	p.wakes++
	p.step(i, Wake{})
	for len(p.wire) > 0 {
		d := p.wire[0]
		p.wire = p.wire[1:]
		p.step(d.to, Packet{Link: "eth1", Data: d.data, At: p.now})
	}
}

// run lets time pass.
func (p *idle) run(d time.Duration) {
	for end := p.now.Add(d); ; {
		first, at := 0, cluster.Instant(0)
		for i, e := range p.engines {
			if due, ok := e.Deadline(); ok && (i == 0 || due < at) {
				first, at = i, due
			}
		}
		if at > end {
			p.now = end
			return
		}
		p.now = max(p.now, at)
		p.wake(first)
	}
}

// TestIdle: a node that hears the other one is woken for its keepalives and for
// nothing else, however short the times are.
func TestIdle(t *testing.T) {
	p := newIdle(t)
	const intervals = 500
	p.run(intervals * pairKeepalive)
	if p.wakes > 2*intervals || p.jobs > 0 {
		t.Errorf("two nodes were woken %d times in %d intervals and ran %d jobs", p.wakes, intervals, p.jobs)
	}
}

// BenchmarkKeepalive is an idle interval of both nodes: their keepalives, the
// copies that come back, and the other's.
func BenchmarkKeepalive(b *testing.B) {
	p := newIdle(b)
	b.ReportAllocs()
	for b.Loop() {
		p.run(pairKeepalive)
	}
}
