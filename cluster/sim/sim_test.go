package sim

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"
)

var (
	seedFlag       = flag.Uint64("seed", 1, "first seed of TestSimulate")
	hoursFlag      = flag.Float64("hours", 0, "cluster hours that TestSimulate runs; 0 is about two thousand")
	stopFlag       = flag.Int("failures", 5, "end after so many failures; above 20 they are only listed")
	bypassFlag     = flag.Bool("bypass", false, "leave wire format and digests out, for long runs")
	transcriptFlag = flag.Uint64("transcript", 0, "print the transcript of this seed and do nothing else")
)

// usualSeeds take two minutes of processor time.
const usualSeeds = 6000

// draw is Draw as the flags have it.
func draw(seed uint64) Scenario {
	s := Draw(seed)
	s.Bypass = *bypassFlag
	return s
}

// TestSimulate runs one scenario per seed. A failure prints the seed, the
// smallest list of faults that still fails, and its transcript.
func TestSimulate(t *testing.T) {
	if *transcriptFlag != 0 {
		var out bytes.Buffer
		s := Minimise(draw(*transcriptFlag))
		Transcript(s, &out)
		fmt.Printf("%s%s", header(s), out.String())
		return
	}
	var mu sync.Mutex
	total := summary{begun: time.Now()}
	next := *seedFlag
	take := func() (uint64, bool) {
		mu.Lock()
		defer mu.Unlock()
		if total.failed >= *stopFlag || *hoursFlag == 0 && next >= *seedFlag+usualSeeds || *hoursFlag > 0 && total.time.Hours() >= *hoursFlag {
			return 0, false
		}
		next++
		return next - 1, true
	}
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for {
				seed, ok := take()
				if !ok {
					return
				}
				r := Run(draw(seed))
				mu.Lock()
				total.add(r)
				mu.Unlock()
				if r.Failure != nil {
					report(t, seed)
				}
			}
		})
	}
	workers.Wait()
	t.Log(total.String())
}

// TestMain lets the collector run rarely: a run lives for milliseconds.
func TestMain(m *testing.M) {
	debug.SetGCPercent(1000)
	os.Exit(m.Run())
}

func header(s Scenario) string {
	var b strings.Builder
	c := s.Cluster
	fmt.Fprintf(&b, "seed %d: keepalive %v deadtime %v initdead %v auto_failback %v, old peers %v, conflict guard %v, links %v, start %v, stop %v, healed at %v\n",
		s.Seed, c.Keepalive, c.Deadtime, c.Initdead, c.Failback, c.Old, c.Conflict, c.Links, c.Start, c.Stop, s.Span)
	for _, f := range s.Faults {
		fmt.Fprintf(&b, "  %v\n", f)
	}
	return b.String()
}

func report(t *testing.T, seed uint64) {
	if *stopFlag > 20 {
		t.Errorf("seed %d: %v", seed, Run(draw(seed)).Failure)
		return
	}
	small := Minimise(draw(seed))
	var out bytes.Buffer
	r := Transcript(small, &out)
	text := out.String()
	const tail = 12_000
	if len(text) > tail {
		text = "...\n" + text[len(text)-tail:]
	}
	record, err := json.Marshal(small)
	if err != nil {
		t.Fatal(err)
	}
	t.Errorf("%v\n%s%s\nthe whole transcript: go test ./cluster/sim -run TestSimulate -transcript %d\nas a file of testdata/found: %s", r.Failure, header(small), text, seed, record)
}

type summary struct {
	begun    time.Time
	runs     int
	failed   int
	time     time.Duration
	steps    uint64
	packets  uint64
	stale    int
	injected map[Kind]int
	windows  map[Class]Window
}

func (s *summary) add(r *Result) {
	if s.injected == nil {
		s.injected, s.windows = map[Kind]int{}, map[Class]Window{}
	}
	s.runs++
	s.time += r.Time
	s.steps += r.Steps
	s.packets += r.Packets
	s.stale += r.Stale
	if r.Failure != nil {
		s.failed++
	}
	for k, n := range r.Injected {
		s.injected[k] += n
	}
	for c, w := range r.Windows {
		sum := s.windows[c]
		sum.Count += w.Count
		sum.Total += w.Total
		sum.Longest = max(sum.Longest, w.Longest)
		sum.After = max(sum.After, w.After)
		s.windows[c] = sum
	}
}

func (s *summary) String() string {
	var b strings.Builder
	took := time.Since(s.begun)
	cpu := processorTime()
	fmt.Fprintf(&b, "%d runs, %d failed: %.0f cluster hours in %v (%v of processor time: %.0f cluster hours per processor minute), %d steps, %d packets\n",
		s.runs, s.failed, s.time.Hours(), took.Round(time.Second), cpu.Round(time.Second), s.time.Hours()/cpu.Minutes(), s.steps, s.packets)
	b.WriteString("faults:")
	for _, k := range Kinds {
		fmt.Fprintf(&b, " %s %d,", k, s.injected[k])
	}
	fmt.Fprintf(&b, " stale generations %d\n", s.stale)
	for _, c := range Classes {
		w := s.windows[c]
		fmt.Fprintf(&b, "windows with two owners, %-15s %6d, %10v in all, longest %v, longest after its cause %v\n",
			string(c)+":", w.Count, w.Total.Round(time.Second), w.Longest.Round(time.Millisecond), w.After.Round(time.Millisecond))
	}
	return b.String()
}

func processorTime() time.Duration {
	var r syscallUsage
	return r.read()
}
