package sim

import (
	"slices"
	"time"
)

// Minimise makes a failing scenario smaller: it leaves faults out, shortens
// what is left, and brings the end nearer, as long as the same rule is broken.
func Minimise(s Scenario) Scenario {
	failure := Run(s).Failure
	if failure == nil {
		return s
	}
	better := func(t Scenario) bool {
		f := Run(t).Failure
		if f == nil || f.Rule != failure.Rule {
			return false
		}
		s = t
		return true
	}
	for size := len(s.Faults); size >= 1; size /= 2 {
		for at := 0; at+size <= len(s.Faults); {
			t := s
			t.Faults = slices.Delete(slices.Clone(s.Faults), at, at+size)
			if !better(t) {
				at++
			}
		}
	}
	last := 30 * time.Second
	for _, f := range s.Faults {
		last = max(last, f.End())
	}
	if t := s; last < s.Span {
		t.Span = last
		better(t)
	}
	return s
}
