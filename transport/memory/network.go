// Package memory is the in-memory network: several nodes on named links, with
// loss, delay, duplication, reordering, corruption and cuts that follow from a
// seed. [Network] has no clock: its caller carries virtual time, so that a
// simulated day takes seconds and every run can be repeated. [Bus] drives one
// by the clock and offers its links as media.
package memory

import (
	"bytes"
	"cmp"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"time"
)

// QueueMax bounds the packets in flight; what comes on top is dropped and
// counted. A pair of nodes has a few.
const QueueMax = 1 << 16

// Faults is what one direction of a link does to packets. The zero value
// delivers everything at once.
type Faults struct {
	// Loss, Duplicate, Corrupt and Reorder are probabilities from 0 to 1. A
	// corrupt packet has one to three bits flipped. A duplicate arrives in
	// addition and may be lost or corrupted on its own.
	Loss, Duplicate, Corrupt, Reorder float64
	// Delay is the time on the way; Jitter is added evenly from 0 up. Neither
	// makes a packet overtake another: that is Reorder's.
	Delay, Jitter time.Duration
	// ReorderBy is how long, at most, a reordered packet is held back while
	// others overtake it; 0 means 10 ms.
	ReorderBy time.Duration
}

const reorderByDefault = 10 * time.Millisecond

// Delivery is one packet arriving at one node.
type Delivery struct {
	At             time.Duration
	From, To, Link string
	// Packet is shared with other deliveries: read only.
	Packet []byte

	path  *path
	order uint64
}

// Counts says what became of the copies: one per receiver of each packet sent,
// and one per duplicate. A node's own copies of its broadcasts count as the
// others.
type Counts struct {
	Copies, Delivered, Lost, Cut, Duplicated, Corrupted, Reordered, Overflowed uint64
}

// Network carries packets between nodes in virtual time. The same seed and the
// same calls give the same deliveries. It is not for concurrent use.
type Network struct {
	seed   uint64
	paths  []*path    // in the order of Attach
	queue  []Delivery // from head on, the next delivery first
	head   int
	order  uint64
	counts Counts
}

// path is one direction of a link between two nodes, or a node's own copy.
type path struct {
	link, from, to string
	faults         Faults
	cut            bool
	last           time.Duration // when the newest packet that kept its place arrives
	source         *rand.PCG
	random         *rand.Rand // from source
}

// New makes a network without links.
func New(seed uint64) *Network { return &Network{seed: seed} }

// Attach makes a link between nodes. With loopback each node hears its own
// packets too, as it does on a broadcast interface; those copies come at once
// and suffer neither faults nor wildcard cuts, for they never leave the machine.
func (n *Network) Attach(link string, loopback bool, nodes ...string) {
	for _, from := range nodes {
		for _, to := range nodes {
			if from != to || loopback {
				source := n.source(link, from, to)
				n.paths = append(n.paths, &path{link: link, from: from, to: to, source: source, random: rand.New(source)})
			}
		}
	}
}

// source gives each path random numbers of its own, so that traffic or faults
// on one leave the others as they were: a failing run can be made smaller.
func (n *Network) source(names ...string) *rand.PCG {
	h := fnv.New64a()
	for _, name := range names {
		fmt.Fprintf(h, "%d:%s,", len(name), name)
	}
	return rand.NewPCG(n.seed, h.Sum64())
}

// Clone returns a network in the same state, packets under way included: what
// happens to one from now on leaves the other alone.
func (n *Network) Clone() *Network {
	c := &Network{seed: n.seed, order: n.order, counts: n.counts}
	of := make(map[*path]*path, len(n.paths))
	for _, p := range n.paths {
		q, source := *p, *p.source
		q.source, q.random = &source, rand.New(&source)
		of[p] = &q
		c.paths = append(c.paths, &q)
	}
	c.queue = slices.Clone(n.queue[n.head:])
	for i := range c.queue {
		c.queue[i].path = of[c.queue[i].path]
	}
	return c
}

// Pending calls f for every packet under way, the next first.
func (n *Network) Pending(f func(Delivery)) {
	for _, d := range n.queue[n.head:] {
		f(d)
	}
}

// matching are the paths of those names, where "" stands for all of them and a
// node's own copies are meant only when both ends are named.
func (n *Network) matching(from, to, link string) []*path {
	named := func(pattern, name string) bool { return pattern == "" || pattern == name }
	var found []*path
	for _, p := range n.paths {
		own := p.from == p.to
		if named(link, p.link) && named(from, p.from) && named(to, p.to) && (!own || from == to && from != "") {
			found = append(found, p)
		}
	}
	if found == nil {
		panic(fmt.Sprintf("memory: no path from %q to %q on link %q", from, to, link))
	}
	return found
}

// SetFaults sets what the paths do to packets sent from now on. "" stands for
// every node or link; naming a path that does not exist is the caller's
// mistake and panics, here and in Cut and Heal.
func (n *Network) SetFaults(from, to, link string, faults Faults) {
	for _, p := range []float64{faults.Loss, faults.Duplicate, faults.Corrupt, faults.Reorder} {
		if !(0 <= p && p <= 1) {
			panic(fmt.Sprintf("memory: probability %v in %+v", p, faults))
		}
	}
	if faults.Delay < 0 || faults.Jitter < 0 || faults.ReorderBy < 0 {
		panic(fmt.Sprintf("memory: negative time in %+v", faults))
	}
	for _, p := range n.matching(from, to, link) {
		p.faults = faults
	}
}

// Cut stops the paths from one node to another, one way; what is under way on
// them is lost. "" stands for every node or link.
func (n *Network) Cut(from, to, link string) {
	for _, p := range n.matching(from, to, link) {
		p.cut = true
	}
	n.compact()
	before := len(n.queue)
	n.queue = slices.DeleteFunc(n.queue, func(d Delivery) bool { return d.path.cut })
	n.counts.Cut += uint64(before - len(n.queue))
}

// Heal ends a Cut.
func (n *Network) Heal(from, to, link string) {
	for _, p := range n.matching(from, to, link) {
		p.cut = false
	}
}

// Send puts a packet on a link at the time now, which must not be earlier than
// that of any call before. It reaches every other node on the link, as far as
// the faults let it. The packet is copied.
func (n *Network) Send(now time.Duration, from, link string, packet []byte) {
	packet = bytes.Clone(packet)
	attached := false
	for _, p := range n.paths {
		if p.from == from && p.link == link {
			n.carry(now, p, packet)
			attached = true
		}
	}
	if !attached {
		panic(fmt.Sprintf("memory: node %q is not on link %q", from, link))
	}
}

// carry decides the fate of one packet on one path. It draws the same random
// numbers whatever the faults are, so that taking one away leaves the others
// where they were.
func (n *Network) carry(now time.Duration, p *path, packet []byte) {
	duplicate := p.random.Float64() < p.faults.Duplicate
	first, second := p.draw(), p.draw()
	n.copy(now, p, packet, first)
	if duplicate && !p.cut {
		n.counts.Duplicated++
		n.copy(now, p, packet, second)
	}
}

// fate is the random part of one copy's way.
type fate struct {
	lost, corrupt, reorder float64
	jitter, behind         float64
	bits                   uint64
}

func (p *path) draw() fate {
	r := p.random
	return fate{r.Float64(), r.Float64(), r.Float64(), r.Float64(), r.Float64(), r.Uint64()}
}

func (n *Network) copy(now time.Duration, p *path, packet []byte, f fate) {
	n.counts.Copies++
	switch {
	case p.cut:
		n.counts.Cut++
		return
	case f.lost < p.faults.Loss:
		n.counts.Lost++
		return
	case len(n.queue)-n.head >= QueueMax:
		n.counts.Overflowed++
		return
	}
	if f.corrupt < p.faults.Corrupt && len(packet) > 0 {
		packet = corrupt(packet, f.bits)
		n.counts.Corrupted++
	}
	at := now + p.faults.Delay + time.Duration(f.jitter*float64(p.faults.Jitter))
	if f.reorder < p.faults.Reorder {
		by := cmp.Or(p.faults.ReorderBy, reorderByDefault)
		at = max(at, p.last) + 1 + time.Duration(f.behind*float64(by-1))
		n.counts.Reordered++
	} else {
		at = max(at, p.last)
		p.last = at
	}
	n.order++
	d := Delivery{At: at, From: p.from, To: p.to, Link: p.link, Packet: packet, path: p, order: n.order}
	// Most packets arrive after all that are under way.
	i, _ := slices.BinarySearchFunc(n.queue[n.head:], d, byArrival)
	n.queue = slices.Insert(n.queue, n.head+i, d)
}

// byArrival: what arrives together arrives in the order in which it was sent.
func byArrival(a, b Delivery) int {
	return cmp.Or(cmp.Compare(a.At, b.At), cmp.Compare(a.order, b.order))
}

// corrupt flips one to three different bits of a copy.
func corrupt(packet []byte, bits uint64) []byte {
	packet = bytes.Clone(packet)
	total := uint64(len(packet)) * 8
	at := (bits >> 2) % total
	for range 1 + bits%3 {
		packet[at/8] ^= 1 << (at % 8)
		at = (at + 1) % total
	}
	return packet
}

// Deadline is when the next packet arrives; false when none is under way.
func (n *Network) Deadline() (time.Duration, bool) {
	if n.head == len(n.queue) {
		return 0, false
	}
	return n.queue[n.head].At, true
}

// Next takes the next packet off the network; false when none is under way.
func (n *Network) Next() (Delivery, bool) {
	if n.head == len(n.queue) {
		return Delivery{}, false
	}
	d := n.queue[n.head]
	n.queue[n.head] = Delivery{} // let go of the packet
	if n.head++; 2*n.head >= len(n.queue) {
		n.compact()
	}
	n.counts.Delivered++
	return d, true
}

// compact frees the room in front of the queue.
func (n *Network) compact() {
	n.queue = slices.Delete(n.queue, 0, n.head)
	n.head = 0
}

// Counts says what has become of everything sent so far. What is neither
// delivered nor counted as gone is under way.
func (n *Network) Counts() Counts { return n.counts }
