package engine

import (
	"bytes"
	"slices"

	"heartbeat/cluster"
)

// Routine returns how packets begin that need not be stepped before this node's
// next wake-up: acknowledgements, and keepalives that say word for word what their
// sender's last two said, while nothing is under way. What stands behind these
// beginnings is the number of the packet, the time and the load. nil: every packet
// must be stepped when it arrives. What is returned does not change any more.
//
// The delay costs nothing that anybody waits for: who is dead is judged in a wake-up,
// before which such packets are stepped with the time of their arrival; and whatever
// else a node has to say stands in other packets, or in front of the number. But a
// message that was lost on every medium is noticed, by the gap in the numbers, up to
// one keepalive of ours later.
func (e *Engine) Routine() [][]byte {
	if !e.peerSays.again || !e.machine.AtRest() || len(e.cfg.Nodes) != 2 {
		return nil
	}
	for _, n := range e.cfg.Nodes {
		if n != e.cfg.Self && e.session.Gap(n) {
			return nil
		}
	}
	if e.routine == nil {
		e.routine = append(e.routine, e.peerSays.words, acknowledgements)
		if e.weSay.again { // ours come back where packets are broadcast
			e.routine = append(e.routine, e.weSay.words)
		}
	}
	return e.routine
}

// RoutineUntil is until when packets that wait change nothing of what this node does
// but send its keepalives: nobody else's silence is judged before. It means something
// only while Routine returns something.
func (e *Engine) RoutineUntil() cluster.Instant {
	at, _ := e.machine.RestUntil() // none, then at once
	return at
}

// acknowledgements is how packets begin by which a node says what it has heard: they
// make room in what is kept for sending again, and nothing else.
var acknowledgements = []byte("###\n14:(0)t=NS_ackmsg,")

// wording is what a node's keepalives say.
type wording struct {
	// words is the beginning of the last one, up to what each has anew.
	words []byte
	// again: the one before said the same.
	again bool
}

// note takes a keepalive and reports whether what was known has changed.
func (w *wording) note(packet []byte) (changed bool) {
	size := routineBytes(packet)
	if size > 0 && bytes.Equal(packet[:size], w.words) {
		changed, w.again = !w.again, true
		return changed
	}
	changed = w.again || size > 0
	w.words, w.again = slices.Clone(packet[:size]), false
	return changed
}

// routineBytes is the length of a packet up to its number, 0 for one in a format in
// which nothing waits. The length of the number's field belongs to the number.
func routineBytes(packet []byte) int {
	if !bytes.HasPrefix(packet, []byte("###\n")) {
		return 0
	}
	at := bytes.Index(packet, []byte(":(0)seq="))
	for at > 0 && packet[at-1] >= '0' && packet[at-1] <= '9' {
		at--
	}
	return max(at, 0)
}
