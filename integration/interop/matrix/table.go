package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"heartbeat/integration/interop"
)

// table has a line for each act: the client's longest outage with each pair,
// and how long both nodes owned an address, where they did.
func table(jobs []*job) string {
	var b strings.Builder
	b.WriteString("| scenario | 3.0.6 on both | ours on n1 | ours on n2 | ours on both |\n|---|---|---|---|---|\n")
	for i := 0; i < len(jobs); {
		n := i
		for n < len(jobs) && jobs[n].scenario.Name == jobs[i].scenario.Name {
			n++
		}
		group := jobs[i:n]
		i = n
		fmt.Fprintf(&b, "| **%s** |", strings.ReplaceAll(group[0].scenario.Name, "-", " "))
		for _, p := range interop.AllPairs {
			fmt.Fprintf(&b, " %s |", verdict(group, p))
		}
		b.WriteString("\n")
		for _, name := range acts(group) {
			fmt.Fprintf(&b, "| %s |", name)
			for _, p := range interop.AllPairs {
				fmt.Fprintf(&b, " %s |", cell(group, p, name))
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}

// acts are the names of a scenario's acts, as far as any pair came.
func acts(group []*job) []string {
	var names []string
	for _, j := range group {
		if len(j.outcome.Acts) > len(names) {
			names = nil
			for _, a := range j.outcome.Acts {
				if !slices.Contains(names, a.Name) { // a repeated act has one line
					names = append(names, a.Name)
				}
			}
		}
	}
	return names
}

func of(group []*job, p interop.Pair) []*job {
	var out []*job
	for _, j := range group {
		if j.pair == p {
			out = append(out, j)
		}
	}
	return out
}

func verdict(group []*job, p interop.Pair) string {
	list := of(group, p)
	if len(list) == 0 {
		return ""
	}
	passed := 0
	for _, j := range list {
		if len(j.problems) == 0 {
			passed++
		}
	}
	switch {
	case len(list) > 1:
		return fmt.Sprintf("**%d of %d passed**", passed, len(list))
	case passed == 1 && len(list[0].tries) > 1:
		return fmt.Sprintf("**passed**, 3.0.6 lost messages %d× before", len(list[0].tries)-1)
	case passed == 1:
		return "**passed**"
	case list[0].excused():
		return "does not always survive"
	}
	return "**failed**"
}

// cell is the worst of the runs.
func cell(group []*job, p interop.Pair, name string) string {
	var outage, dual time.Duration
	seen, probed, hung := false, false, ""
	for _, j := range of(group, p) {
		for _, a := range j.outcome.Acts {
			if a.Name == name {
				seen, probed = true, probed || a.Probed
				if len(a.Lost) > 0 {
					hung = ", in transition for good"
				}
				outage, dual = max(outage, a.Outage), max(dual, a.Dual)
			}
		}
	}
	switch {
	case !seen:
		return ""
	case !probed:
		return "–"
	case dual >= 10*time.Millisecond:
		return brief(outage) + ", two owners " + brief(dual) + hung
	}
	return brief(outage) + hung
}

func brief(d time.Duration) string {
	switch {
	case d < 10*time.Millisecond:
		return "none"
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}
