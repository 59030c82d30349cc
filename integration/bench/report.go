package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Report is the outcome of a run.
type Report struct {
	Date     time.Time
	Machine  string
	Versions map[string]string
	Reps     int
	Rows     []Row
	Samples  []Sample
	Problems []Problem `json:",omitempty"`
}

// Row is one line of the table.
type Row struct {
	What string
	// Text per program, and their medians in the row's unit (NaN is absent).
	Text   map[string]string
	Median map[string]float64
	// Ratio is heartbeat's figure through ours.
	Ratio   string
	Target  string
	Verdict string // "met", "MISSED: why" or "not measured"
}

const (
	metVerdict = "met"
	notRun     = "not measured"
)

// OK reports whether everything was measured without a failure and no target
// was missed.
func (r *Report) OK() bool {
	if len(r.Problems) > 0 {
		return false
	}
	return !slices.ContainsFunc(r.Rows, func(w Row) bool { return strings.HasPrefix(w.Verdict, "MISSED") })
}

// noneSeen is the outage below which a client that probes every millisecond on
// a shared machine cannot tell it from none.
const noneSeen = 10.0

var driverNames = []string{"heartbeat", "keepalived", "ours"}

func (b *bench) report(now time.Time) *Report {
	r := &Report{Date: now, Machine: fmt.Sprintf("%d cores, %s", runtime.NumCPU(), kernel()), Versions: map[string]string{},
		Reps: b.reps, Samples: b.samples, Problems: b.problems}
	for _, d := range b.drivers {
		r.Versions[d.Name()] = d.Version()
	}
	r.Rows = rows(b.samples)
	return r
}

func kernel() string {
	b, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return "Linux " + strings.TrimSpace(string(b))
}

// rule decides a row's verdict from the medians; "" is met.
type rule func(ours, heartbeat, keepalived float64) string

// fraction demands at most 1/n of heartbeat's figure, or none seen.
func fraction(n float64) rule {
	return func(ours, hb, _ float64) string {
		if ours <= noneSeen || ours <= hb/n {
			return ""
		}
		return fmt.Sprintf("more than 1/%.0f of heartbeat's", n)
	}
}

// level demands no more than keepalived's figure, differences below noneSeen
// not counting.
func level(ours, _, ka float64) string {
	if ours <= ka+noneSeen {
		return ""
	}
	return "behind keepalived"
}

// ahead demands less than keepalived's figure, or none seen by a prober that
// asks for each address once in an interval.
func ahead(interval time.Duration) rule {
	return func(ours, _, ka float64) string {
		if ours <= noneSeen+msOf(interval) || ours < ka {
			return ""
		}
		return "not ahead of keepalived"
	}
}

// share demands at most 1/n of heartbeat's figure without a floor.
func share(n float64) rule {
	return func(ours, hb, _ float64) string {
		if ours <= hb/n {
			return ""
		}
		return fmt.Sprintf("more than 1/%.0f of heartbeat's", n)
	}
}

func atMost(v float64, unit string) rule {
	return func(ours, _, _ float64) string {
		if ours <= v {
			return ""
		}
		return fmt.Sprintf("more than %.0f %s", v, unit)
	}
}

// rows turns samples into the table.
func rows(all []Sample) []Row {
	many := 500.0
	for _, s := range all {
		if s.Cell == crashMany {
			many = s.More["addresses"]
		}
	}
	return []Row{
		row(all, "planned standby, one address: client's outage", planned, milliseconds, "≤ 1/50 of heartbeat's, or none seen", fraction(50)),
		row(all, "crash of the owner: time beyond detection (last keepalive + deadtime)", crash, milliseconds,
			"≤ 1/40 of heartbeat's, level with keepalived", fraction(40), level),
		row(all, "100 addresses, planned, worst address", planned99, milliseconds,
			"≤ 1/200 of heartbeat's, ahead of keepalived", fraction(200), ahead(hundredInterval)),
		row(all, fmt.Sprintf("%.0f addresses, crash, beyond detection", many), crashMany, milliseconds,
			"≤ 1/200 of heartbeat's, ahead of keepalived", fraction(200), ahead(manyInterval)),
		row(tightest(all), "tightest deadtime without a false death, idle and with every core busy", deadtime, milliseconds,
			"≤ 50 ms", atMost(50, "ms")),
		row(all, "processor time of the owner at keepalive 1 s", cpu1s, secondsPerHour, "≤ 1/3 of heartbeat's", share(3)),
		row(all, "processor time of the owner at keepalive 20 ms", cpu20ms, secondsPerHour, "≤ 1/3 of heartbeat's", share(3)),
		row(all, "resident memory of all processes (PSS)", rss, memory, "≤ 1/2 of heartbeat's", share(2)),
	}
}

func row(all []Sample, what, cellName string, format func([]Sample) string, target string, rules ...rule) Row {
	w := Row{What: what, Text: map[string]string{}, Median: map[string]float64{}, Target: target, Verdict: notRun, Ratio: "–"}
	for _, d := range driverNames {
		var mine []Sample
		for _, s := range all {
			if s.Cell == cellName && s.Driver == d {
				mine = append(mine, s)
			}
		}
		w.Text[d] = "–"
		if len(mine) > 0 {
			w.Median[d], w.Text[d] = median(mine), format(mine)
		}
	}
	ours, have := w.Median["ours"]
	hb, old := w.Median["heartbeat"]
	ka, other := w.Median["keepalived"]
	if !have {
		return w
	}
	if old && hb > 0 {
		if cellName == cpu1s || cellName == cpu20ms || cellName == rss || cellName == deadtime || ours > noneSeen {
			w.Ratio = fmt.Sprintf("1/%.3g", hb/ours)
		} else {
			w.Ratio = fmt.Sprintf("< 1/%.3g", hb/noneSeen)
		}
	}
	var misses []string
	for _, rule := range rules {
		if miss := rule(ours, or(hb, old), or(ka, other)); miss != "" {
			misses = append(misses, miss)
		}
	}
	if w.Verdict = metVerdict; len(misses) > 0 {
		w.Verdict = "MISSED: " + strings.Join(misses, "; ")
	}
	return w
}

// or is v, or nothing to compare with: then no demand can be met by it.
func or(v float64, have bool) float64 {
	if have {
		return v
	}
	return math.Inf(-1)
}

// tightest keeps of the deadtime samples, per program, the smallest that had no
// false death in either window.
func tightest(all []Sample) []Sample {
	best := map[string]Sample{}
	for _, s := range all {
		if s.Cell != deadtime || falseDeaths(s) > 0 {
			continue
		}
		if b, ok := best[s.Driver]; !ok || s.Value < b.Value {
			best[s.Driver] = s
		}
	}
	var out []Sample
	for _, s := range best {
		out = append(out, s)
	}
	return out
}

func falseDeaths(s Sample) float64 {
	m := s.More
	return m["idle_deaths"] + m["idle_takeovers"] + m["busy_deaths"] + m["busy_takeovers"]
}

func median(s []Sample) float64 {
	v := values(s)
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

func values(s []Sample) []float64 {
	v := make([]float64, len(s))
	for i := range s {
		v[i] = s[i].Value
	}
	slices.Sort(v)
	return v
}

func milliseconds(s []Sample) string {
	one := func(v float64) string {
		if math.Abs(v) >= 10_000 {
			return fmt.Sprintf("%.1f s", v/1000)
		}
		return fmt.Sprintf("%.0f ms", v)
	}
	v := values(s)
	if len(v) == 1 {
		return one(v[0])
	}
	return fmt.Sprintf("%s (%s – %s, n=%d)", one(median(s)), one(v[0]), one(v[len(v)-1]), len(v))
}

func secondsPerHour(s []Sample) string {
	v := values(s)
	if len(v) == 1 {
		return fmt.Sprintf("%.2f s/h", v[0])
	}
	return fmt.Sprintf("%.2f s/h (%.2f – %.2f, n=%d)", median(s), v[0], v[len(v)-1], len(v))
}

func memory(s []Sample) string {
	s = slices.SortedFunc(slices.Values(s), func(a, b Sample) int { return cmp.Compare(a.Value, b.Value) })
	m := s[(len(s)-1)/2] // of an even number the lower of the two
	return fmt.Sprintf("%.1f MB (%.1f), %.0f processes", m.Value/1e6, m.More["pss"]/1e6, m.More["processes"])
}

// Markdown is the report for people.
func (r *Report) Markdown() string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("# Failover, side by side\n\n%s, %s. Medians of %d or more (range). Below %.0f ms a client that probes every millisecond sees none.\n",
		r.Date.Format("2006-01-02 15:04"), r.Machine, r.Reps, noneSeen)
	for _, d := range driverNames {
		if v, ok := r.Versions[d]; ok {
			p("- %s: %s", d, v)
		}
	}
	p("\n| | heartbeat 3.0.6 | keepalived | ours | ours to heartbeat's | target | verdict |\n|---|---|---|---|---|---|---|")
	for _, w := range r.Rows {
		p("| %s | %s | %s | %s | %s | %s | %s |", w.What, w.Text["heartbeat"], w.Text["keepalived"], w.Text["ours"], w.Ratio, w.Target, w.Verdict)
	}
	r.many(p)
	var dead []Sample
	for _, s := range r.Samples {
		if s.Cell == deadtime {
			dead = append(dead, s)
		}
	}
	if len(dead) > 0 {
		p("\n## False deaths\n\n| program | keepalive | deadtime | idle: deaths, takeovers | busy: deaths, takeovers | longest stall of the prober |\n|---|---|---|---|---|---|")
		slices.SortFunc(dead, func(a, b Sample) int {
			if c := strings.Compare(a.Driver, b.Driver); c != 0 {
				return c
			}
			return int(a.Value - b.Value)
		})
		for _, s := range dead {
			m := s.More
			p("| %s | %.0f ms | %.0f ms | %.0f, %.0f | %.0f, %.0f | %.0f ms |", s.Driver, m["keepalive_ms"], s.Value,
				m["idle_deaths"], m["idle_takeovers"], m["busy_deaths"], m["busy_takeovers"], max(m["idle_stall_ms"], m["busy_stall_ms"]))
		}
	}
	if len(r.Problems) > 0 {
		p("\n## What failed\n")
		for _, f := range r.Problems {
			p("- %s, %s: %s", f.Cell, f.Driver, strings.ReplaceAll(f.Error, "\n", "\n  "))
		}
	}
	return b.String()
}

// many tells of the crash with many addresses what the table cannot: the client
// asks for each of them seldom, but every one is announced.
func (r *Report) many(p func(format string, args ...any)) {
	begun := false
	for _, s := range r.Samples {
		if s.Cell != crashMany {
			continue
		}
		if !begun {
			begun = true
			p("\n## Many addresses, crash: beyond detection\n\n| program | last address answers (asked every %v) | last address announced for the first time | addresses announced |\n|---|---|---|---|", manyInterval)
		}
		at := "–"
		if s.More["announced"] > 0 {
			at = milliseconds([]Sample{{Value: s.More["announced_ms"]}})
		}
		p("| %s | %s | %s | %.0f of %.0f |", s.Driver, milliseconds([]Sample{s}), at, s.More["announced"], s.More["addresses"])
	}
}

// write puts the report into a directory, as results.md and results.json.
func (r *Report) write(dir string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode results: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return errors.Join(os.WriteFile(filepath.Join(dir, "results.json"), append(text, '\n'), 0o644),
		os.WriteFile(filepath.Join(dir, "results.md"), []byte(r.Markdown()), 0o644))
}
