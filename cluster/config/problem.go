package config

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// Severity is the weight of a Problem.
type Severity uint8

const (
	// Error keeps the node from starting.
	Error Severity = iota + 1
	// Warn is a trap that the node starts with.
	Warn
	// Info is worth a line and nothing more.
	Info
)

func (s Severity) String() string {
	switch s {
	case Error:
		return "ERROR"
	case Warn:
		return "WARN"
	case Info:
		return "info"
	}
	return "?"
}

// String is "file:line:col", without the parts that are 0.
func (p Pos) String() string {
	switch {
	case p.Line == 0:
		return p.File
	case p.Col == 0:
		return fmt.Sprintf("%s:%d", p.File, p.Line)
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Col)
}

// Problem is one thing wrong, or risky, in the files.
type Problem struct {
	Pos      Pos
	Severity Severity
	// What is wrong, why that is so, and how to mend it. An entry without
	// What only carries lines that the original prints at every start.
	What, Why, Fix string
	// Classic are the lines that heartbeat 3.0.6 prints for it, level
	// included; none where it says nothing.
	Classic []string
	// Err is the cause, when the machine gave one.
	Err error

	at order
}

// String is "file:line:col: what, why, how to mend".
func (p Problem) String() string {
	var parts []string
	for _, s := range []string{p.What, p.Why, p.Fix} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	text := strings.Join(parts, ", ")
	if pos := p.Pos.String(); pos != "" {
		return pos + ": " + text
	}
	return text
}

// order is where a problem comes up in the original's start: the phase, then
// the line (or the number of the check), then the value on that line.
type order struct{ phase, line, value int }

// The phases of the original's start. An error ends the start with its phase.
const (
	phaseHACF = iota
	phaseAuthKeys
	phaseDefaults
	phaseChecks
	phaseHAResources
)

// The checks after parsing, in the original's order.
const (
	checkMedia = iota
	checkNodes
	checkSelf
	checkDeadtime
	checkInitdead
	checkDeadping
	checkFailback
	checkLogging
	checkAutojoin
	checkTOML
)

// Problems is what Parse and Check found, in no particular order.
type Problems []Problem

// Report is what to tell a person: the problems that say something, errors
// first, then by file and line.
func (p Problems) Report() Problems {
	var out Problems
	for _, x := range p {
		if x.What != "" {
			out = append(out, x)
		}
	}
	slices.SortStableFunc(out, func(a, b Problem) int {
		if a.Severity != b.Severity {
			return int(a.Severity) - int(b.Severity)
		}
		return compareOrder(a.at, b.at)
	})
	return out
}

// Failed reports whether any problem keeps the node from starting.
func (p Problems) Failed() bool {
	return slices.ContainsFunc(p, func(x Problem) bool { return x.Severity == Error })
}

// ExitCode is the exit code of the starting command: 0, 6 for a configuration
// error, 4 when the cause was a missing right.
func (p Problems) ExitCode() int {
	code := 0
	for _, x := range p {
		if x.Severity != Error {
			continue
		}
		if errors.Is(x.Err, fs.ErrPermission) {
			return 4
		}
		code = 6
	}
	return code
}

// Classic is what a start of heartbeat 3.0.6 with these problems prints to
// stderr, in its order: it stops after the first phase that has an error.
// Without an error it ends with "Configuration validated".
func (p Problems) Classic() []string {
	sorted := slices.Clone(p)
	slices.SortStableFunc(sorted, func(a, b Problem) int { return compareOrder(a.at, b.at) })
	var lines []string
	for phase := phaseHACF; phase <= phaseHAResources; phase++ {
		if phase == phaseHAResources {
			lines = append(lines,
				"info: **************************",
				"info: Configuration validated. Starting heartbeat 3.0.6")
		}
		failed := false
		for _, x := range sorted {
			if x.at.phase == phase {
				lines = append(lines, x.Classic...)
				failed = failed || x.Severity == Error
			}
		}
		if !failed {
			continue
		}
		switch phase {
		case phaseHACF:
			lines = append(lines, "ERROR: Heartbeat not started: configuration error.")
		case phaseAuthKeys:
			lines = append(lines, "ERROR: Authentication configuration error.")
		}
		return append(lines, "ERROR: Configuration error, heartbeat not started.")
	}
	return lines
}

func compareOrder(a, b order) int {
	if a.phase != b.phase {
		return a.phase - b.phase
	}
	if a.line != b.line {
		return a.line - b.line
	}
	return a.value - b.value
}

// spoken gives an error that the original does not know a line of its own, so
// that the start does not fail without a word.
func spoken(p Problem) Problem {
	p.Classic = append(p.Classic, "ERROR: "+p.String())
	return p
}

// nearest is the candidate that a misspelt word probably means, or "".
func nearest(word string, candidates []string) string {
	best, bestDistance := "", 3
	if len(word) < 6 {
		bestDistance = 2
	}
	for _, c := range candidates {
		if strings.EqualFold(word, c) {
			return c
		}
		if d := len(word) - len(c); d >= bestDistance || -d >= bestDistance {
			continue
		}
		if d := editDistance(word, c); d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best
}

// editDistance counts insertions, deletions, changes and swaps of neighbours;
// words longer than any directive are far away.
func editDistance(a, b string) int {
	const wordBytesMax = 64
	if len(a) > wordBytesMax || len(b) > wordBytesMax {
		return wordBytesMax
	}
	d := make([][]int, len(a)+1)
	for i := range d {
		d[i] = make([]int, len(b)+1)
		d[i][0] = i
	}
	for j := range d[0] {
		d[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			change := d[i-1][j-1]
			if a[i-1] != b[j-1] {
				change++
			}
			d[i][j] = min(change, d[i-1][j]+1, d[i][j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d[i][j] = min(d[i][j], d[i-2][j-2]+1)
			}
		}
	}
	return d[len(a)][len(b)]
}
