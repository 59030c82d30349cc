// Package probe measures from a client's side when a service address answers,
// from which node, and for how long two nodes answered at once.
//
// Run sends an ICMP echo request to every address each interval, on up to
// three streams:
//
//	cl      through the client kernel's normal path: the address is resolved
//	        with the client's own, dynamic ARP entry, so an announcement that
//	        a takeover forgot costs here what it costs a real client
//	n1, n2  in a frame addressed to that node's MAC: answered only by a node
//	        whose kernel holds the address, whatever ARP tables say
//
// The reply comes from the owner's kernel, so no server of ours disturbs the
// measurement, and receive times are the client kernel's stamps. The prober's
// own lateness (a paused machine) is recorded, and silences it explains are
// not counted as outages.
package probe

import (
	"cmp"
	"slices"
	"time"
)

// Streams of a Result.
const (
	Client = "cl"
	Node1  = "n1"
	Node2  = "n2"
)

// Result is what one run saw. Times are wall clock nanoseconds since 1970, so
// that they compare with kernel stamps taken elsewhere on the machine.
type Result struct {
	Start, End int64
	// IntervalNS is the time between two echo requests to one address.
	IntervalNS int64
	// Realtime is false when the kernel refused SCHED_FIFO: expect more stalls.
	Realtime bool
	Tracks   []Track
	Stalls   []Span
	// Announcements are the gratuitous ARP packets seen for the addresses.
	Announcements []Announcement
}

// Span is a closed interval of time.
type Span struct{ From, To int64 }

func (s Span) length() int64 { return s.To - s.From }

// Announcement is one gratuitous ARP packet.
type Announcement struct {
	At   int64
	Addr int    // index of the address
	MAC  string // who it says the owner is
}

// Track is one address on one stream.
type Track struct {
	Stream string
	// Addr is the address's index, from 0.
	Addr           int
	Sent, Received int
	// Up are the times in which replies came without a hole of more than two
	// intervals: first to last reply.
	Up []Span
}

// Gap is a silence of one address on the client's stream.
type Gap struct {
	Span
	// Open says that no reply came before the end of the run.
	Open bool
	// Outage is the silence less the one interval that is normal.
	Outage time.Duration
}

// Outage sums up how the client's stream fared after a moment.
type Outage struct {
	// Worst and Median are over the addresses, each with its longest silence
	// that ended after the moment.
	Worst, Median time.Duration
	// Back is when the worst address was answered again; zero when none was out.
	Back time.Time
	// Open is the number of addresses still silent at the end.
	Open int
}

// explained reports whether the prober's own lateness covers most of a silence.
func (r *Result) explained(s Span) bool {
	var late int64
	for _, st := range r.Stalls {
		late += max(0, min(st.To, s.To)-max(st.From, s.From))
	}
	return float64(late) >= 0.7*float64(s.length())
}

// Gaps are the silences of one address on a stream that the prober's own
// stalls do not explain, in order of time. An address that was never answered
// is one open gap from the start.
func (r *Result) Gaps(stream string, addr int) []Gap {
	t := r.track(stream, addr)
	if t == nil {
		return nil
	}
	if len(t.Up) == 0 {
		s := Span{r.Start, r.End}
		return []Gap{{Span: s, Open: true, Outage: time.Duration(s.length())}}
	}
	var gaps []Gap
	for i := 1; i < len(t.Up); i++ {
		s := Span{t.Up[i-1].To, t.Up[i].From}
		if !r.explained(s) {
			gaps = append(gaps, Gap{Span: s, Outage: time.Duration(s.length() - r.IntervalNS)})
		}
	}
	if s := (Span{t.Up[len(t.Up)-1].To, r.End}); s.length() > 3*r.IntervalNS && !r.explained(s) {
		gaps = append(gaps, Gap{Span: s, Open: true, Outage: time.Duration(s.length() - r.IntervalNS)})
	}
	return gaps
}

// Outage reports what the client missed after t0.
func (r *Result) Outage(t0 time.Time) Outage {
	var o Outage
	var worst []time.Duration
	for _, t := range r.Tracks {
		if t.Stream != Client {
			continue
		}
		var longest Gap
		for _, g := range r.Gaps(Client, t.Addr) {
			if g.To > t0.UnixNano() && g.Outage > longest.Outage {
				longest = g
			}
		}
		if longest.Open {
			o.Open++
		}
		if longest.Outage > o.Worst {
			o.Worst = longest.Outage
			o.Back = time.Unix(0, longest.To)
		}
		worst = append(worst, longest.Outage)
	}
	if len(worst) > 0 {
		slices.SortFunc(worst, cmp.Compare)
		o.Median = worst[len(worst)/2]
	}
	return o
}

// Takeover is the time from t0 until a node answered for the first address,
// on that node's own stream; false when it never did.
func (r *Result) Takeover(node string, t0 time.Time) (time.Duration, bool) {
	for _, s := range r.owned(node, 0) {
		if s.To > t0.UnixNano() {
			return time.Duration(max(0, s.From-t0.UnixNano())), true
		}
	}
	return 0, false
}

// Release is the time from t0 until a node that had owned the first address no
// longer answered for it, 0 when its last answer came before t0 already; false
// when it never owned it before or never let go.
func (r *Result) Release(node string, t0 time.Time) (time.Duration, bool) {
	took, ok := time.Duration(0), false
	for _, s := range r.owned(node, 0) {
		if s.From <= t0.UnixNano() {
			took, ok = time.Duration(max(0, s.To-t0.UnixNano())), s.To+20*r.IntervalNS < r.End
		}
	}
	return took, ok
}

// Dual is for how long both nodes answered for the first address.
func (r *Result) Dual() time.Duration {
	var sum int64
	for _, a := range r.owned(Node1, 0) {
		for _, b := range r.owned(Node2, 0) {
			sum += max(0, min(a.To, b.To)-max(a.From, b.From))
		}
	}
	return time.Duration(sum)
}

// Owned is how often a node came to own the first address.
func (r *Result) Owned(node string) int { return len(r.owned(node, 0)) }

// Announced is the number of gratuitous ARP packets after t0.
func (r *Result) Announced(t0 time.Time) int {
	n := 0
	for _, a := range r.Announcements {
		if a.At > t0.UnixNano() {
			n++
		}
	}
	return n
}

// FirstAnnounced is when the last of the addresses was announced for the first
// time after t0, and how many were announced at all; the time is zero when none
// was.
func (r *Result) FirstAnnounced(t0 time.Time) (last time.Time, addresses int) {
	first := make(map[int]int64)
	for _, a := range r.Announcements {
		if at, seen := first[a.Addr]; a.At > t0.UnixNano() && (!seen || a.At < at) {
			first[a.Addr] = a.At
		}
	}
	for _, at := range first {
		if at := time.Unix(0, at); at.After(last) {
			last = at
		}
	}
	return last, len(first)
}

// Stall is the longest lateness of the prober itself.
func (r *Result) Stall() time.Duration {
	var worst int64
	for _, s := range r.Stalls {
		worst = max(worst, s.length())
	}
	return time.Duration(worst)
}

// owned are the times in which a node answered; holes of less than 20
// intervals are lost packets, no change of owner.
func (r *Result) owned(node string, addr int) []Span {
	t := r.track(node, addr)
	if t == nil {
		return nil
	}
	var out []Span
	for _, s := range t.Up {
		if n := len(out); n > 0 && (s.From-out[n-1].To < 20*r.IntervalNS || r.explained(Span{out[n-1].To, s.From})) {
			out[n-1].To = s.To
			continue
		}
		out = append(out, s)
	}
	return out
}

func (r *Result) track(stream string, addr int) *Track {
	for i := range r.Tracks {
		if r.Tracks[i].Stream == stream && r.Tracks[i].Addr == addr {
			return &r.Tracks[i]
		}
	}
	return nil
}
