package probe

import (
	"testing"
	"time"
)

const ms = int64(time.Millisecond)

// seen is a result with one address; times are milliseconds.
func seen(up map[string][]Span, stalls ...Span) *Result {
	r := &Result{Start: 1, End: 10_000 * ms, IntervalNS: ms}
	scale := func(in []Span) (out []Span) {
		for _, s := range in {
			out = append(out, Span{s.From * ms, s.To * ms})
		}
		return out
	}
	for _, stream := range streams {
		if spans, ok := up[stream]; ok {
			r.Tracks = append(r.Tracks, Track{Stream: stream, Up: scale(spans), Received: 1})
		}
	}
	r.Stalls = scale(stalls)
	return r
}

func at(ms int) time.Time { return time.Unix(0, int64(ms)*int64(time.Millisecond)) }

func TestOutage(t *testing.T) {
	for _, c := range []struct {
		name   string
		up     []Span
		stalls []Span
		t0     int
		worst  time.Duration
		back   int
		open   int
	}{
		{name: "never silent", up: []Span{{1, 10_000}}, t0: 100},
		{name: "one silence, less the interval", up: []Span{{1, 1000}, {1501, 10_000}}, t0: 900, worst: 500 * time.Millisecond, back: 1501},
		{name: "a silence that ended before does not count", up: []Span{{1, 1000}, {1501, 10_000}}, t0: 2000},
		{name: "a silence that had begun before counts whole", up: []Span{{1, 1000}, {1501, 10_000}}, t0: 1200, worst: 500 * time.Millisecond, back: 1501},
		{name: "the longest of several", up: []Span{{1, 1000}, {1011, 2000}, {2101, 10_000}}, t0: 900, worst: 100 * time.Millisecond, back: 2101},
		{name: "the prober itself was late", up: []Span{{1, 1000}, {1501, 10_000}}, stalls: []Span{{1050, 1500}}, t0: 900},
		{name: "the prober was late for a part only", up: []Span{{1, 1000}, {1501, 10_000}}, stalls: []Span{{1400, 1500}}, t0: 900, worst: 500 * time.Millisecond, back: 1501},
		{name: "silent to the end", up: []Span{{1, 9000}}, t0: 8000, worst: 999 * time.Millisecond, back: 10_000, open: 1},
		{name: "never answered", up: nil, t0: 8000, worst: 10_000*time.Millisecond - 1, back: 10_000, open: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := seen(map[string][]Span{Client: c.up}, c.stalls...).Outage(at(c.t0))
			if got.Worst != c.worst || got.Median != c.worst || got.Open != c.open {
				t.Errorf("got %+v, want worst %v, open %d", got, c.worst, c.open)
			}
			if c.back != 0 && !got.Back.Equal(at(c.back)) {
				t.Errorf("back at %v, want %v", got.Back, at(c.back))
			}
		})
	}
}

func TestOwnership(t *testing.T) {
	for _, c := range []struct {
		name     string
		n1, n2   []Span
		takeover time.Duration // of n2, after 1000
		never    bool
		dual     time.Duration
		owned    int
		release  time.Duration // of n1, after 1000
		kept     bool
	}{
		{name: "a clean change", n1: []Span{{1, 1000}}, n2: []Span{{1200, 9000}}, takeover: 200 * time.Millisecond, owned: 1},
		{name: "both for a while", n1: []Span{{1, 1300}}, n2: []Span{{1200, 9000}}, takeover: 200 * time.Millisecond, dual: 100 * time.Millisecond, owned: 1, release: 300 * time.Millisecond},
		{name: "a lost reply is no change of owner", n1: []Span{{1, 500}, {505, 1300}}, n2: []Span{{1200, 9000}}, takeover: 200 * time.Millisecond, dual: 100 * time.Millisecond, owned: 1, release: 300 * time.Millisecond},
		{name: "twice", n1: []Span{{1, 5000}}, n2: []Span{{100, 200}, {1200, 1300}}, takeover: 200 * time.Millisecond, dual: 200 * time.Millisecond, owned: 2, release: 4000 * time.Millisecond},
		{name: "never", n1: []Span{{1, 5000}}, n2: nil, never: true, release: 4000 * time.Millisecond},
		{name: "to the end", n1: []Span{{1, 10_000}}, n2: nil, never: true, release: 9000 * time.Millisecond, kept: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := seen(map[string][]Span{Client: {{1, 10_000}}, Node1: c.n1, Node2: c.n2})
			took, ok := r.Takeover(Node2, at(1000))
			if ok == c.never || took != c.takeover {
				t.Errorf("takeover %v (%v)", took, ok)
			}
			if took, ok := r.Release(Node1, at(1000)); ok == c.kept || took != c.release {
				t.Errorf("release %v (%v)", took, ok)
			}
			if r.Dual() != c.dual || r.Owned(Node2) != c.owned {
				t.Errorf("dual %v, n2 owned %d times; want %v, %d", r.Dual(), r.Owned(Node2), c.dual, c.owned)
			}
		})
	}
}

func TestHTTPOutage(t *testing.T) {
	r := &HTTPResult{Start: 1, End: 1000 * ms, IntervalNS: 10 * ms}
	for i := int64(10); i < 1000; i += 10 {
		if i < 300 || i >= 500 {
			r.Answers = append(r.Answers, Answer{At: i * ms})
		}
	}
	d, back, open := r.Outage(at(100))
	if d != 200*time.Millisecond || !back.Equal(at(500)) || open {
		t.Errorf("got %v until %v, open %v", d, back, open)
	}
	r.Answers = r.Answers[:20]
	if _, _, open := r.Outage(at(100)); !open {
		t.Error("the end without answers was not seen")
	}
}

func TestChecksum(t *testing.T) {
	// The example of RFC 1071, section 3.
	if got := checksum([]byte{0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7}); got != ^uint16(0xddf2) {
		t.Errorf("%#x", got)
	}
}

// TestFirstAnnounced: the last address's first announcement after the moment
// counts, not its repetitions and not what came before.
func TestFirstAnnounced(t *testing.T) {
	r := &Result{Announcements: []Announcement{{At: 5, Addr: 1}, {At: 11, Addr: 0}, {At: 14, Addr: 1}, {At: 20, Addr: 0}, {At: 30, Addr: 1}}}
	if last, n := r.FirstAnnounced(time.Unix(0, 10)); last.UnixNano() != 14 || n != 2 {
		t.Errorf("%d addresses, the last at %d; want 2, 14", n, last.UnixNano())
	}
	if last, n := r.FirstAnnounced(time.Unix(0, 30)); !last.IsZero() || n != 0 {
		t.Errorf("%d addresses, the last at %v; want none", n, last)
	}
}
