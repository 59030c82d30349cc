package main

import (
	"strings"
	"testing"
)

func samples(cell string, figures map[string][]float64) []Sample {
	var out []Sample
	for _, d := range driverNames {
		for i, v := range figures[d] {
			out = append(out, Sample{Cell: cell, Driver: d, Rep: i + 1, Value: v, More: map[string]float64{"addresses": 500}})
		}
	}
	return out
}

func TestVerdicts(t *testing.T) {
	type figures = map[string][]float64
	for _, c := range []struct {
		name, cell string
		figures    figures
		verdict    string
	}{
		{"none seen", planned, figures{"heartbeat": {400}, "ours": {9.9}}, "met"},
		{"a fiftieth", planned, figures{"heartbeat": {1000}, "ours": {20}}, "met"},
		{"just more", planned, figures{"heartbeat": {1000}, "ours": {20.1}}, "MISSED: more than 1/50 of heartbeat's"},
		{"the median counts", planned, figures{"heartbeat": {1000}, "ours": {500, 1, 2}}, "met"},
		{"level", crash, figures{"heartbeat": {700}, "keepalived": {2}, "ours": {11}}, "met"},
		{"behind both", crash, figures{"heartbeat": {700}, "keepalived": {2}, "ours": {30}}, "MISSED: more than 1/40 of heartbeat's; behind keepalived"},
		{"not ahead", planned99, figures{"heartbeat": {50000}, "keepalived": {100}, "ours": {150}}, "MISSED: not ahead of keepalived"},
		{"nothing to compare with", crashMany, figures{"ours": {300}}, "MISSED: more than 1/200 of heartbeat's; not ahead of keepalived"},
		{"a third", cpu1s, figures{"heartbeat": {3}, "ours": {1}}, "met"},
		{"no floor for processor time", cpu1s, figures{"heartbeat": {3}, "ours": {1.1}}, "MISSED: more than 1/3 of heartbeat's"},
		{"not run", rss, figures{"heartbeat": {3}}, notRun},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := bench{reps: 1, samples: samples(c.cell, c.figures)}
			var got string
			for _, w := range rows(b.samples) {
				if w.Verdict != notRun {
					got += w.Verdict
				}
			}
			if got == "" {
				got = notRun
			}
			if got != c.verdict {
				t.Errorf("got %q, want %q", got, c.verdict)
			}
			r := Report{Rows: rows(b.samples)}
			if r.OK() == strings.HasPrefix(c.verdict, "MISSED") {
				t.Errorf("OK() is %v", r.OK())
			}
		})
	}
}

// TestTightest: a setting counts only when neither window had a false death.
func TestTightest(t *testing.T) {
	s := func(deadtimeMS float64, more map[string]float64) Sample {
		return Sample{Cell: deadtime, Driver: "ours", Value: deadtimeMS, More: more}
	}
	all := []Sample{s(25, map[string]float64{"busy_deaths": 1}), s(40, map[string]float64{"idle_takeovers": 1}), s(50, nil), s(80, nil)}
	got := tightest(all)
	if len(got) != 1 || got[0].Value != 50 {
		t.Errorf("got %+v", got)
	}
	if w := rows(all)[4]; w.Verdict != metVerdict || w.Text["ours"] != "50 ms" {
		t.Errorf("got %+v", w)
	}
}

// TestManyAddresses: the crash with many addresses shows when the last one was
// announced first, beside what the client saw.
func TestManyAddresses(t *testing.T) {
	r := Report{Samples: []Sample{
		{Cell: crashMany, Driver: "ours", Value: 80, More: map[string]float64{"addresses": 500, "announced": 500, "announced_ms": 31}},
		{Cell: crashMany, Driver: "keepalived", Value: 400, More: map[string]float64{"addresses": 500}},
	}}
	text := r.Markdown()
	for _, want := range []string{"| ours | 80 ms | 31 ms | 500 of 500 |", "| keepalived | 400 ms | – | 0 of 500 |"} {
		if !strings.Contains(text, want) {
			t.Errorf("no line %q in\n%s", want, text)
		}
	}
}
