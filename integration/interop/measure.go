package interop

import (
	"time"

	"heartbeat/integration/probe"
)

// ownHole is the silence of a node on its own stream from which on it does not
// own the address; less is a lost packet or two. Two of our nodes hand an
// address to and fro within less than 100 ms.
const ownHole = 5 * probeInterval

// outage is the client's longest silence for an address that began in a span
// of time.
func outage(r *probe.Result, addr int, from, to time.Time) time.Duration {
	var worst time.Duration
	for _, g := range r.Gaps(probe.Client, addr) {
		// The last answer came up to an interval before what ended them.
		if began := g.From + 2*r.IntervalNS; began >= from.UnixNano() && began < to.UnixNano() {
			worst = max(worst, g.Outage)
		}
	}
	return worst
}

// dual is for how long within a span of time both kernels answered for an
// address.
func dual(r *probe.Result, addr int, from, to time.Time) time.Duration {
	var sum int64
	for _, a := range owned(r, probe.Node1, addr) {
		for _, b := range owned(r, probe.Node2, addr) {
			sum += max(0, min(a.To, b.To, to.UnixNano())-max(a.From, b.From, from.UnixNano()))
		}
	}
	return time.Duration(sum)
}

// owned are the times in which a node answered for an address.
func owned(r *probe.Result, stream string, addr int) []probe.Span {
	for _, t := range r.Tracks {
		if t.Stream != stream || t.Addr != addr || len(t.Up) == 0 {
			continue
		}
		var out []probe.Span
		from := t.Up[0].From
		for _, g := range r.Gaps(stream, addr) {
			if g.Outage >= ownHole || g.Open {
				out = append(out, probe.Span{From: from, To: g.Span.From})
				from = g.Span.To
			}
		}
		if last := t.Up[len(t.Up)-1].To; from < last {
			out = append(out, probe.Span{From: from, To: last})
		}
		return out
	}
	return nil
}
