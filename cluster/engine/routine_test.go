package engine

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"heartbeat/cluster"
	"heartbeat/transport"
	"heartbeat/transport/message/messagetest"
)

// TestRoutineBytes: what a captured packet says, and what each has anew, are parted
// in front of the number's field; a packet without number has no such part.
func TestRoutineBytes(t *testing.T) {
	seen := 0
	for _, name := range messagetest.Scenarios(t) {
		for _, p := range messagetest.Load(t, name).Packets {
			size := routineBytes(p.Data)
			if p.Format != transport.FormatNetstring || !transport.Sequenced(p.Message.Type()) {
				if size > 0 && p.Format != transport.FormatNetstring {
					t.Errorf("%s: packet %d: %d bytes of another format", name, p.N, size)
				}
				continue
			}
			seen++
			said, rest := string(p.Data[:size]), p.Data[size:]
			if !bytes.HasSuffix([]byte(said), []byte(",")) || len(rest) < 10 || rest[0] < '1' || rest[0] > '9' || !bytes.Contains(rest[:12], []byte(":(0)seq="+p.Message.Get("seq")[:1])) {
				t.Fatalf("%s: packet %d: %q | %q", name, p.N, said, rest)
			}
		}
	}
	if seen < 1000 {
		t.Errorf("only %d packets", seen)
	}
}

// pairRun is two engines on one wire, in virtual time.
type pairRun struct {
	engines [2]*Engine
	now     cluster.Instant
	wire    []onWire
	sent    [2][][]byte // what each sent, since it was last looked at
	deaf    [2]bool
	jobs    [2][]uint64 // that are not told of their end
	slow    bool        // jobs last until they are told
}

type onWire struct {
	to   int
	data []byte
}

func (p *pairRun) carry(i int, outs []Output) {
	for _, out := range outs {
		switch out := out.(type) {
		case Transmit:
			p.sent[i] = append(p.sent[i], out.Netstring)
			p.wire = append(p.wire, onWire{i, out.Netstring}, onWire{1 - i, out.Netstring})
		case Run:
			if p.slow {
				p.jobs[i] = append(p.jobs[i], out.Job.ID)
				continue
			}
			done := JobDone{ID: out.Job.ID}
			for _, key := range out.Job.Keys {
				done.Groups = append(done.Groups, cluster.GroupResult{Key: key})
			}
			p.step(i, done)
		}
	}
}

func (p *pairRun) step(i int, in Input) {
	p.carry(i, p.engines[i].Step(p.now, Readings{Unix: 1700000000, Load: "0.00 0.01 0.05 1/123 4567"}, in))
}

func (p *pairRun) until(end cluster.Instant) {
	for {
		first, at := -1, end
		for i, e := range p.engines {
			if due, ok := e.Deadline(); ok && due <= at && (first < 0 || due < at) {
				first, at = i, due
			}
		}
		if first < 0 {
			p.now = end
			return
		}
		p.now = max(p.now, at)
		p.step(first, Wake{})
		for len(p.wire) > 0 {
			d := p.wire[0]
			p.wire = p.wire[1:]
			if !p.deaf[d.to] {
				p.step(d.to, Packet{Link: "eth1", Data: d.data, At: p.now})
			}
		}
	}
}

// waits reports whether a packet need not wake that node.
func (p *pairRun) waits(i int, packet []byte) bool {
	return slices.ContainsFunc(p.engines[i].Routine(), func(b []byte) bool { return bytes.HasPrefix(packet, b) })
}

// keepalives of a node in the next second.
func (p *pairRun) second(i int) [][]byte {
	p.sent[i] = nil
	p.until(p.now.Add(time.Second))
	return p.sent[i]
}

// TestRoutine: packets of a pair at rest wait, and nothing does as soon as anything
// goes on: while the nodes find each other, a job runs, a packet is missing, an
// exchange is under way, a node ends or is gone.
func TestRoutine(t *testing.T) {
	p := &pairRun{engines: newPair(t, cluster.FailbackOn)}
	for p.now < cluster.Instant(10*time.Second) && p.engines[0].Routine() == nil {
		p.until(p.now.Add(time.Millisecond))
		if v := p.engines[0].View(); p.engines[0].Routine() != nil && (!v.CommUp || v.Phase != "STABLE") {
			t.Fatalf("packets wait in phase %s", v.Phase)
		}
	}
	p.until(p.now.Add(10 * time.Second))
	for i := range p.engines {
		types := map[bool]int{}
		for _, packet := range p.second(1 - i) {
			types[p.waits(i, packet)]++
		}
		if types[true] < 50 || types[false] > 0 {
			t.Errorf("at rest, of the packets of n%d: wait or not: %v", 2-i, types)
		}
		if got := p.engines[i].Routine(); len(got) != 3 {
			t.Errorf("%d beginnings: %q", len(got), got)
		}
		// The last keepalive is at most 20 ms old; half way to the death of a silent
		// node it is asked who answers for its addresses.
		if left := p.engines[i].RoutineUntil().Sub(p.now); left < 80*time.Millisecond || left > 100*time.Millisecond {
			t.Errorf("nothing is due for %v", left)
		}
	}
	rest := func(want bool, when string) {
		t.Helper()
		for i, e := range p.engines {
			if got := e.Routine() != nil; got != want {
				t.Errorf("%s: n%d lets packets wait: %t", when, i+1, got)
			}
		}
	}
	settle := func() {
		t.Helper()
		p.until(p.now.Add(5 * time.Second))
		rest(true, "settled")
	}
	settle()

	// Everything that a standby sends is stepped at once, until both are at rest.
	p.slow = true
	p.sent = [2][][]byte{}
	p.step(0, Command{ID: 1, Verb: Standby, Set: cluster.All})
	if p.engines[0].Routine() != nil {
		t.Error("n1 asks for standby and lets packets wait")
	}
	for _, packet := range p.sent[0] {
		if p.waits(1, packet) {
			t.Errorf("n2 lets wait: %q", packet)
		}
	}
	p.until(p.now.Add(500 * time.Millisecond))
	if len(p.jobs[0]) == 0 {
		t.Fatal("no job runs")
	}
	if p.engines[0].Routine() != nil {
		t.Error("n1 releases and lets packets wait")
	}
	p.slow = false
	for i, jobs := range p.jobs {
		for _, id := range jobs {
			p.step(i, JobDone{ID: id, Groups: []cluster.GroupResult{{Key: "10.0.0.1"}}})
		}
	}
	settle()

	// A packet is lost: until it has come all the same, nothing waits.
	p.deaf[1] = true
	p.step(0, FIFOMessage{Fields: [][2]string{{"t", "lost"}}})
	p.until(p.now.Add(10 * time.Millisecond))
	p.deaf[1] = false
	p.wire = nil
	for range 40 {
		p.until(p.now.Add(time.Millisecond))
		if p.engines[1].session.Gap("n1") {
			break
		}
	}
	if !p.engines[1].session.Gap("n1") || p.engines[1].Routine() != nil {
		t.Errorf("n2 misses a packet: %t, and lets packets wait: %t", p.engines[1].session.Gap("n1"), p.engines[1].Routine() != nil)
	}
	settle()

	// A node is silent: what it says when it is back is heard at once.
	p.deaf[1] = true
	p.until(p.now.Add(time.Second))
	if p.engines[1].Routine() != nil {
		t.Error("n1 is dead, and n2 lets packets wait")
	}
	p.deaf[1] = false
	settle()

	// Its last words, too.
	p.sent = [2][][]byte{}
	p.step(0, Command{ID: 2, Verb: Shutdown})
	if p.engines[0].Routine() != nil {
		t.Error("n1 ends and lets packets wait")
	}
	p.until(p.now.Add(300 * time.Millisecond))
	if p.engines[1].Routine() != nil {
		t.Error("n1 ends and n2 lets packets wait")
	}
}

// TestRoutineWords: a keepalive that says anything else than the last one ends the
// wait, and so does the next one, until two have said the same.
func TestRoutineWords(t *testing.T) {
	p := &pairRun{engines: newPair(t, cluster.FailbackOn)}
	p.until(cluster.Instant(20 * time.Second))
	if p.engines[1].Routine() == nil {
		t.Fatal("not at rest")
	}
	e := p.engines[1]
	before := e.Routine()
	var w wording
	own := p.second(0)[0]
	for i, step := range []struct {
		packet         []byte
		changed, again bool
	}{
		{own, true, false},
		{own, true, true},
		{own, false, true},
		{bytes.Replace(own, []byte("13:(0)protocol=1,"), []byte("7:(0)x=2,"), 1), true, false},
		{own, true, false},
		{own, true, true},
		{[]byte(">>>\nt=status\n"), true, false},
		{[]byte(">>>\nt=status\n"), false, false},
	} {
		if got := w.note(step.packet); got != step.changed || w.again != step.again {
			t.Errorf("step %d: changed %t, again %t", i, got, w.again)
		}
	}
	// A late node says by how much, once.
	p.now = p.now.Add(45 * time.Millisecond)
	p.until(p.now.Add(10 * time.Millisecond))
	if slices.EqualFunc(before, e.Routine(), bytes.Equal) && p.engines[0].peerSays.again && e.peerSays.again {
		t.Error("a keepalive that says that its sender was late changes nothing")
	}
	p.until(p.now.Add(time.Second))
	if e.Routine() == nil {
		t.Error("not at rest again")
	}
}
