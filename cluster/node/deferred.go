package node

import (
	"bytes"
	"slices"
	"time"

	"heartbeat/cluster"
	"heartbeat/transport"
)

const (
	// waitingUsual is how many packets wait at most when all is well. With more of
	// them somebody sends what only looks like a keepalive, and the media's readers,
	// who take packets as they come, cope with that better.
	waitingUsual = 256
	// waitingRounds times waitingUsual is more than a socket holds.
	waitingRounds = 32
	// waitAgain is how long nothing waits after that.
	waitAgain = time.Minute
	// waitMost is for how long what waits is left waiting when keepalives are
	// frequent: to take some at a time costs little more than to take one.
	waitMost = 100 * time.Millisecond
)

// deferred is what the loop knows of packets that wait in the media until something
// else wakes it.
type deferred struct {
	// beginnings are those in force.
	beginnings [][]byte
	// never is until when nothing may wait: the media were flooded.
	never cluster.Instant
	// taken is when what waited was taken last.
	taken cluster.Instant
	// batch and room are used anew by every wake-up.
	batch []packet
	room  []byte
}

// letWait tells the media which packets need not wake this node, when that has
// changed.
func (n *Node) letWait() {
	d := &n.deferred
	routine := n.o.Engine.Routine()
	if routine != nil && (n.reexec.wanted || n.clock.now() < d.never) {
		routine = nil
	}
	if slices.EqualFunc(routine, d.beginnings, bytes.Equal) {
		return
	}
	d.beginnings = routine
	for _, m := range n.media {
		if m, ok := m.Medium.(transport.Deferring); ok {
			m.Defer(routine)
		}
	}
	n.arrived() // what has waited so far need not wait for the next wake-up
}

// mayLeave reports whether a wake-up for this node's own keepalive, and nothing else,
// may leave what waits to a later one: nothing but the keepalive is due before that.
func (n *Node) mayLeave(now cluster.Instant, late time.Duration) bool {
	d, keepalive := &n.deferred, n.o.Facts.Keepalive
	if d.beginnings == nil || keepalive <= 0 || late >= settleAfter || len(n.packets) > 0 {
		return false
	}
	next := now.Add(keepalive)
	return next.Sub(d.taken) <= waitMost && n.o.Engine.RoutineUntil() > next.Add(keepalive/2)
}

// arrived steps what has been received, first of all packets that the caller has
// from the loop's channel, and what waits in the media, in the order of arrival: a
// keepalive must not be stepped before what its sender said earlier. It comes before
// everything that decides, so nobody is dead whose keepalive waits. It reports
// whether anything had waited.
func (n *Node) arrived(first ...packet) (waited bool) {
	d := &n.deferred
	d.taken = n.clock.now()
	for round := range waitingRounds {
		d.batch = append(d.batch[:0], first...)
		most := n.takeDeferred()
		if most == 0 && round > 0 {
			break
		}
		waited = waited || most > 0
		if most > 0 || len(first) == 0 {
			n.takeReceived()
		}
		slices.SortStableFunc(d.batch, func(a, b packet) int { return a.at.Compare(b.at) })
		for _, p := range d.batch {
			n.packet(p)
		}
		if most < waitingUsual {
			break
		}
		first = nil
		d.never = n.clock.now().Add(waitAgain)
	}
	return waited
}

// takeReceived adds to the batch what the media's readers have received.
func (n *Node) takeReceived() {
	d := &n.deferred
	for range packetsMax { // a flood must not keep the loop from its turn
		select {
		case p := <-n.packets:
			d.batch = append(d.batch, p)
		default:
			return
		}
	}
}

// takeDeferred adds to the batch what waits in the media, and returns how much the
// one had that had most: with waitingUsual there may be more.
func (n *Node) takeDeferred() (most int) {
	d := &n.deferred
	d.room = d.room[:0]
	for _, m := range n.media {
		medium, ok := m.Medium.(transport.Deferring)
		if !ok {
			continue
		}
		taken := 0
		for ; taken < waitingUsual; taken++ {
			data, at, ok := medium.Deferred()
			if !ok {
				break
			}
			begin := len(d.room)
			d.room = append(d.room, data...) // where it moves, former packets keep the old room
			d.batch = append(d.batch, packet{link: m.Link(), at: at, data: d.room[begin:len(d.room):len(d.room)]})
		}
		most = max(most, taken)
	}
	return most
}
