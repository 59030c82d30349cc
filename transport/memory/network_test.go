package memory

import (
	"bytes"
	"fmt"
	"math/bits"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const ms = time.Millisecond

// pair is two nodes on two links.
func pair(seed uint64) *Network {
	n := New(seed)
	n.Attach("eth0", true, "a", "b")
	n.Attach("eth1", false, "a", "b")
	return n
}

// drain takes everything off the network, as "at from>to link packet".
func drain(n *Network) (log []string) {
	for {
		d, ok := n.Next()
		if !ok {
			return log
		}
		log = append(log, fmt.Sprintf("%v %s>%s %s %s", d.At, d.From, d.To, d.Link, d.Packet))
	}
}

func TestDelivery(t *testing.T) {
	n := pair(1)
	n.SetFaults("a", "b", "", Faults{Delay: 3 * ms})
	if _, ok := n.Deadline(); ok {
		t.Error("deadline of an empty network")
	}
	n.Send(0, "a", "eth0", []byte("one"))
	n.Send(1*ms, "b", "eth1", []byte("two"))
	if at, ok := n.Deadline(); !ok || at != 0 {
		t.Errorf("deadline %v, %v", at, ok)
	}
	want := []string{"0s a>a eth0 one", "1ms b>a eth1 two", "3ms a>b eth0 one"}
	if got := drain(n); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestSendCopies: the packet belongs to the sender again after Send.
func TestSendCopies(t *testing.T) {
	n := pair(1)
	packet := []byte("one")
	n.Send(0, "a", "eth1", packet)
	packet[0] = 'X'
	if d, _ := n.Next(); string(d.Packet) != "one" {
		t.Errorf("%q", d.Packet)
	}
}

func TestCuts(t *testing.T) {
	for _, c := range []struct {
		name           string
		from, to, link string
		want           []string // what of six packets arrives
	}{
		{"nothing cut", "a", "a", "eth0", []string{"a>b eth0", "a>b eth1", "b>a eth0", "b>a eth1", "b>b eth0"}},
		{"one way, one link", "a", "b", "eth0", []string{"a>a eth0", "a>b eth1", "b>a eth0", "b>a eth1", "b>b eth0"}},
		{"one way, every link", "a", "b", "", []string{"a>a eth0", "b>a eth0", "b>a eth1", "b>b eth0"}},
		{"all that a sends", "a", "", "", []string{"a>a eth0", "b>a eth0", "b>a eth1", "b>b eth0"}},
		{"all that a hears", "", "a", "", []string{"a>a eth0", "a>b eth0", "a>b eth1", "b>b eth0"}},
		{"one link", "", "", "eth1", []string{"a>a eth0", "a>b eth0", "b>a eth0", "b>b eth0"}},
		{"everything", "", "", "", []string{"a>a eth0", "b>b eth0"}},
	} {
		all := func(n *Network) (got []string) {
			for _, node := range []string{"a", "b"} {
				n.Send(0, node, "eth0", nil)
				n.Send(0, node, "eth1", nil)
			}
			for {
				d, ok := n.Next()
				if !ok {
					slices.Sort(got)
					return got
				}
				got = append(got, fmt.Sprintf("%s>%s %s", d.From, d.To, d.Link))
			}
		}
		n := pair(1)
		n.Cut(c.from, c.to, c.link)
		if got := all(n); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
		n.Heal(c.from, c.to, c.link)
		if got := all(n); len(got) != 6 {
			t.Errorf("%s, healed: %q", c.name, got)
		}
	}
}

// TestCutUnderWay: what was under way when the cable went is lost, even if the
// cable comes back before it would have arrived.
func TestCutUnderWay(t *testing.T) {
	n := pair(1)
	n.SetFaults("", "", "", Faults{Delay: 10 * ms})
	n.Send(0, "a", "eth1", []byte("lost"))
	n.Send(0, "b", "eth1", []byte("kept"))
	n.Cut("a", "b", "")
	n.Heal("a", "b", "")
	n.Send(1*ms, "a", "eth1", []byte("later"))
	want := []string{"10ms b>a eth1 kept", "11ms a>b eth1 later"}
	if got := drain(n); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if c := n.Counts(); c != (Counts{Copies: 3, Delivered: 2, Cut: 1}) {
		t.Errorf("%+v", c)
	}
}

// TestRates: each fault happens about as often as asked. The seed is fixed, so
// the outcome is, too.
func TestRates(t *testing.T) {
	const sent = 20000
	n := pair(7)
	n.SetFaults("a", "b", "eth1", Faults{Loss: 0.3, Duplicate: 0.1, Corrupt: 0.2, Reorder: 0.05, Delay: ms, Jitter: ms})
	packet := bytes.Repeat([]byte{0x55}, 100)
	arrived, damaged := 0, 0
	for i := range sent {
		n.Send(time.Duration(i)*ms, "a", "eth1", packet)
		for {
			d, ok := n.Next()
			if !ok {
				break
			}
			arrived++
			flipped := 0
			for k, b := range d.Packet {
				flipped += bits.OnesCount8(b ^ packet[k])
			}
			if flipped > 3 || len(d.Packet) != len(packet) {
				t.Fatalf("%d bits flipped, %d bytes", flipped, len(d.Packet))
			}
			if flipped > 0 {
				damaged++
			}
		}
	}
	about := func(what string, got uint64, of, rate float64) {
		t.Helper()
		if share := float64(got) / of; share < rate*0.9 || share > rate*1.1 {
			t.Errorf("%s: %d of %v, %.3f instead of %v", what, got, of, share, rate)
		}
	}
	c := n.Counts()
	about("duplicated", c.Duplicated, sent, 0.1)
	about("lost", c.Lost, float64(c.Copies), 0.3)
	about("corrupted", uint64(damaged), float64(arrived), 0.2)
	about("reordered", c.Reordered, float64(arrived), 0.05)
	if c.Copies != sent+c.Duplicated || c.Delivered != uint64(arrived) || c.Corrupted != uint64(damaged) || c.Delivered+c.Lost != c.Copies {
		t.Errorf("counts do not add up: %+v, %d arrived, %d damaged", c, arrived, damaged)
	}
}

// TestOrder: however large the jitter is, one direction of a link keeps its
// order unless reordering is asked for; then no packet is held back for longer
// than asked.
func TestOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := pair(rapid.Uint64().Draw(t, "seed"))
		f := Faults{
			Delay:     time.Duration(rapid.IntRange(0, 5).Draw(t, "delay")) * ms,
			Jitter:    time.Duration(rapid.IntRange(0, 50).Draw(t, "jitter")) * ms,
			Duplicate: rapid.Float64Range(0, 1).Draw(t, "duplicate"),
			Reorder:   rapid.SampledFrom([]float64{0, 0.5, 1}).Draw(t, "reorder"),
			ReorderBy: 20 * ms,
		}
		n.SetFaults("", "", "", f)
		const count = 50
		for i := range count {
			n.Send(time.Duration(i)*ms, "a", "eth1", []byte{byte(i)})
		}
		newest, previous, overtaken := -1, time.Duration(0), false
		seen := map[int]bool{}
		for {
			d, ok := n.Next()
			if !ok {
				break
			}
			i := int(d.Packet[0])
			seen[i] = true
			if d.At < previous {
				t.Fatalf("packet %d at %v, the one before at %v", i, d.At, previous)
			}
			previous = d.At
			earliest := time.Duration(i)*ms + f.Delay
			if latest := time.Duration(count)*ms + f.Delay + f.Jitter + f.ReorderBy; d.At < earliest || d.At > latest {
				t.Fatalf("packet %d at %v, not between %v and %v", i, d.At, earliest, latest)
			}
			overtaken = overtaken || i < newest
			newest = max(newest, i)
		}
		if len(seen) != count {
			t.Fatalf("%d of %d packets", len(seen), count)
		}
		if overtaken && f.Reorder == 0 {
			t.Fatal("overtaken without reordering")
		}
		if !overtaken && f.Reorder == 0.5 {
			t.Fatal("nothing overtaken of 50 packets, half of them held back")
		}
	})
}

// run sends much over bad links and says what arrives.
func run(n *Network, change func(*Network)) []string {
	bad := Faults{Loss: 0.2, Duplicate: 0.2, Corrupt: 0.2, Reorder: 0.2, Delay: ms, Jitter: 5 * ms}
	n.SetFaults("", "", "", bad)
	change(n)
	for i := range 200 {
		n.Send(time.Duration(i)*ms, "a", "eth0", fmt.Appendf(nil, "a%d", i))
		n.Send(time.Duration(i)*ms, "b", "eth0", fmt.Appendf(nil, "b%d", i))
		n.Send(time.Duration(i)*ms, "a", "eth1", fmt.Appendf(nil, "A%d", i))
	}
	return drain(n)
}

func TestDeterminism(t *testing.T) {
	none := func(*Network) {}
	first := run(pair(42), none)
	if again := run(pair(42), none); !slices.Equal(first, again) {
		t.Error("same seed, different run")
	}
	if other := run(pair(43), none); slices.Equal(first, other) {
		t.Error("different seed, same run")
	}
}

// TestIndependence: a run stays as it was where nothing was changed, so that a
// failing one can be made smaller fault by fault.
func TestIndependence(t *testing.T) {
	only := func(log []string, path string) (kept []string) {
		for _, line := range log {
			if bytes.Contains([]byte(line), []byte(path)) {
				kept = append(kept, line)
			}
		}
		return kept
	}
	before := run(pair(42), func(*Network) {})
	after := run(pair(42), func(n *Network) { n.SetFaults("a", "b", "eth1", Faults{}) })
	for _, path := range []string{"a>b eth0", "b>a eth0"} {
		if !slices.Equal(only(before, path), only(after, path)) {
			t.Errorf("other faults on eth1 changed %s", path)
		}
	}
	// On the path itself: without loss everything that arrived still does, at
	// a time that only later packets changed.
	bare := run(pair(42), func(n *Network) { n.SetFaults("a", "b", "eth1", Faults{Corrupt: 0.2}) })
	more := run(pair(42), func(n *Network) { n.SetFaults("a", "b", "eth1", Faults{Corrupt: 0.2, Loss: 0.5}) })
	doubled := run(pair(42), func(n *Network) { n.SetFaults("a", "b", "eth1", Faults{Corrupt: 0.2, Duplicate: 0.5}) })
	for _, line := range only(bare, "a>b eth1") {
		if !slices.Contains(doubled, line) {
			t.Errorf("%q does not arrive when duplicates do", line)
		}
	}
	kept := only(more, "a>b eth1")
	for _, line := range kept {
		if !slices.Contains(bare, line) {
			t.Errorf("%q arrives with loss only", line)
		}
	}
	if len(kept) == 0 || len(kept) == 200 {
		t.Errorf("%d of 200 packets with half of them lost", len(kept))
	}
}

// TestCutLeavesTheRest: what a path does after a cut is what it would have
// done without.
func TestCutLeavesTheRest(t *testing.T) {
	bad := Faults{Loss: 0.3, Duplicate: 0.3, Corrupt: 0.3}
	run := func(cut bool) (log []string) {
		n := pair(42)
		n.SetFaults("", "", "", bad)
		for i := range 200 {
			if cut && i == 50 {
				n.Cut("a", "b", "eth1")
			}
			if cut && i == 100 {
				n.Heal("a", "b", "eth1")
			}
			n.Send(time.Duration(i)*ms, "a", "eth1", fmt.Appendf(nil, "%d", i))
			if got := drain(n); i >= 100 {
				log = append(log, got...)
			}
		}
		return log
	}
	if with, without := run(true), run(false); !slices.Equal(with, without) || len(with) == 0 {
		t.Errorf("with a cut before %q, without %q", with, without)
	}
}

// TestPathsDiffer: two paths do not lose the same packets.
func TestPathsDiffer(t *testing.T) {
	n := pair(42)
	n.SetFaults("", "", "", Faults{Loss: 0.5})
	arrived := map[string]string{}
	for i := range 64 {
		for _, from := range []string{"a", "b"} {
			n.Send(time.Duration(i)*ms, from, "eth0", nil)
			n.Send(time.Duration(i)*ms, from, "eth1", nil)
		}
		for {
			d, ok := n.Next()
			if !ok {
				break
			}
			if d.From != d.To {
				arrived[d.From+d.To+d.Link] += fmt.Sprintf("%d ", i)
			}
		}
	}
	seen := map[string]bool{}
	for path, which := range arrived {
		if seen[which] {
			t.Errorf("%s loses the same packets as another: %s arrive", path, which)
		}
		seen[which] = true
	}
	if len(seen) != 4 {
		t.Errorf("%d paths, want 4", len(seen))
	}
}

// TestOwnCopies: a node hears its own broadcasts at once, whatever the link
// does to the others.
func TestOwnCopies(t *testing.T) {
	n := pair(1)
	n.SetFaults("", "", "", Faults{Loss: 1, Delay: ms})
	n.Send(5*ms, "a", "eth0", []byte("x"))
	if got := drain(n); !slices.Equal(got, []string{"5ms a>a eth0 x"}) {
		t.Errorf("%q", got)
	}
	n.Cut("a", "a", "eth0")
	n.Send(6*ms, "a", "eth0", []byte("x"))
	if got := drain(n); got != nil {
		t.Errorf("cut by name: %q", got)
	}
}

func TestQueueBound(t *testing.T) {
	n := New(1)
	n.Attach("eth0", false, "a", "b")
	n.SetFaults("", "", "", Faults{Delay: ms})
	for range QueueMax + 5 {
		n.Send(0, "a", "eth0", nil)
	}
	if got := n.Counts().Overflowed; got != 5 {
		t.Errorf("%d overflowed", got)
	}
	if got := len(drain(n)); got != QueueMax {
		t.Errorf("%d delivered", got)
	}
}

func TestMistakesPanic(t *testing.T) {
	for name, mistake := range map[string]func(*Network){
		"unknown link":       func(n *Network) { n.Cut("", "", "eth2") },
		"unknown node":       func(n *Network) { n.Heal("c", "", "") },
		"no such path":       func(n *Network) { n.SetFaults("a", "a", "eth1", Faults{}) },
		"sender not on link": func(n *Network) { n.Send(0, "c", "eth0", nil) },
		"probability over 1": func(n *Network) { n.SetFaults("", "", "", Faults{Loss: 1.1}) },
		"negative delay":     func(n *Network) { n.SetFaults("", "", "", Faults{Delay: -1}) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			mistake(pair(1))
		}()
	}
}

func BenchmarkSend(b *testing.B) {
	n := pair(1)
	n.SetFaults("", "", "", Faults{Loss: 0.1, Delay: ms, Jitter: ms})
	packet := make([]byte, 300)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		n.Send(time.Duration(i)*ms, "a", "eth0", packet)
		for {
			if _, ok := n.Next(); !ok {
				break
			}
		}
	}
}
