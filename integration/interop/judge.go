package interop

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Baseline is what two nodes of heartbeat 3.0.6 did in each scenario.
type Baseline map[string]*Recorded

// Recorded is one scenario of a Baseline.
type Recorded struct {
	// Lines are the ERROR and CRIT lines of n1 and n2, normalised and sorted:
	// of all recorded runs together.
	Lines [2][]string `json:"lines"`
	// Dual is the longest double ownership of each act, and Outage the client's
	// longest silence, in milliseconds.
	Dual   map[string]int64 `json:"dual_ms"`
	Outage map[string]int64 `json:"outage_ms"`
}

// LoadBaseline reads a recorded baseline; no file is an empty one.
func LoadBaseline(path string) (Baseline, error) {
	b := Baseline{}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return b, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &b)
	}
	if err != nil {
		return nil, fmt.Errorf("read the baseline %s: %w", path, err)
	}
	return b, nil
}

// Save writes it.
func (b Baseline) Save(path string) error {
	text, err := json.MarshalIndent(b, "", "  ")
	if err == nil {
		err = os.WriteFile(path, append(text, '\n'), 0o644)
	}
	return err
}

// Add takes one more run of the old pair in.
func (b Baseline) Add(o Outcome) {
	r := b[o.Scenario]
	if r == nil {
		r = &Recorded{Dual: map[string]int64{}}
		b[o.Scenario] = r
	}
	if r.Outage == nil {
		r.Outage = map[string]int64{}
	}
	for i := range o.Lines {
		r.Lines[i] = slices.Compact(slices.Sorted(slices.Values(slices.Concat(r.Lines[i], o.Lines[i]))))
	}
	for _, a := range o.Acts {
		if d := a.Dual.Milliseconds(); d > 0 {
			r.Dual[a.Name] = max(r.Dual[a.Name], d)
		}
		if a.Probed {
			r.Outage[a.Name] = max(r.Outage[a.Name], a.Outage.Milliseconds())
		}
	}
}

// What a busy machine may add to a double ownership: an address is answered
// for while what removes it waits for a core. 3.0.6 needs some dozen processes
// for that.
const (
	dualSlack    = 300 * time.Millisecond
	dualSlackOld = time.Second
)

// noScheduling is what 3.0.6 says of a machine, or a control group, that does not let
// it have real-time priority. Ours warns.
const noScheduling = "Unable to set scheduler parameters"

// named are ERROR and CRIT lines of ours that two nodes of 3.0.6 need not
// write in the same place, with the reason.
var named = map[string]string{
	"ERROR: Both machines own our resources!":                                                               "the claims of a partition are compared, and said, before one side lets go",
	"ERROR: Both machines own foreign resources!":                                                           "the same, for the other set",
	"CRIT: This node was stalled and the other one was not: releasing all resources before saying anything": "3.0.6 does not notice its own stall",
}

// Judge returns what is wrong with an outcome, in sentences.
func (b Baseline) Judge(o Outcome, p Pair) []string {
	out := slices.Clone(o.Problems)
	old := b[o.Scenario]
	if old == nil {
		old = &Recorded{}
	}
	ours := [2]bool{p.Ours1, p.Ours2}
	all := slices.Concat(old.Lines[0], old.Lines[1])
	for i, lines := range o.Lines {
		for _, line := range lines {
			switch {
			case !ours[i] && strings.Contains(line, zeroFields): // by chance; see lost.go
			case !ours[i] && strings.Contains(line, noScheduling): // of this machine, which refuses it
			case slices.Contains(old.Lines[i], line), slices.ContainsFunc(o.allow, func(part string) bool { return strings.Contains(line, part) }):
			case !ours[i]:
				out = append(out, fmt.Sprintf("n%d (3.0.6) logs what it does not log beside its like: %s", i+1, line))
			case !slices.Contains(all, line) && named[line] == "":
				out = append(out, fmt.Sprintf("n%d (ours) logs a line that is neither 3.0.6's here nor named: %s", i+1, line))
			}
		}
	}
	for _, a := range o.Acts {
		if a.Free {
			continue
		}
		bound := dualSlack
		if p != New || o.legacy { // whose claims nobody compares
			bound = dualSlackOld + time.Duration(old.Dual[a.Name])*time.Millisecond
		}
		if a.Dual > bound {
			out = append(out, fmt.Sprintf("%s: both nodes owned an address for %v; 3.0.6: %d ms", a.Name, a.Dual.Round(time.Millisecond), old.Dual[a.Name]))
		}
	}
	return out
}

// What a busy machine may add to an outage, beside a quarter of it: 3.0.6
// reacts once per keepalive, and its scripts wait for a core.
const outageSlack = 2 * time.Second

// Slower says where a client was without service for longer than two nodes of
// 3.0.6 let it be, in this run or an earlier one.
func (b Baseline) Slower(o Outcome) (out []string) {
	old := b[o.Scenario]
	if old == nil || o.fragile {
		return nil // there chance decides
	}
	for _, a := range o.Acts {
		ms, ok := old.Outage[a.Name]
		if was := time.Duration(ms) * time.Millisecond; ok && a.Outage > was+was/4+outageSlack {
			out = append(out, fmt.Sprintf("%s: the client's outage was %v; with 3.0.6 on both nodes %v", a.Name, a.Outage.Round(time.Millisecond), was))
		}
	}
	return out
}

var (
	logLine  = regexp.MustCompile(`^(?:\w{3} \d\d [\d:]{8} \S+ \S+ \[\d+\]: |\S+_[\d:]{8}\s+|\S+\[\d+\]:\s+\S+_[\d:]{8}\s+)`)
	badLevel = regexp.MustCompile(`(?:^|\s)((?:ERROR|CRIT|EMERG|ALERT): .*)$`)
	// What differs from run to run.
	variable = []struct {
		re *regexp.Regexp
		to string
	}{
		{regexp.MustCompile(`0x[0-9a-f]+`), "0xN"},
		{regexp.MustCompile(`\bMSG(\[\d+\])? ?: .*`), "MSG …"},
		{regexp.MustCompile(`auth(token|str|en)?=\S+`), "auth=…"},
		{regexp.MustCompile(`\b10\.7[78]\.\d+\.\d+(/\d+)?`), "ADDR"},
		{regexp.MustCompile(`\[[0-9a-f:]+\]`), "[N]"},
		{regexp.MustCompile(`\b\d+\b`), "N"},
	}
)

// severe are the ERROR and CRIT lines of a log, without what differs from run
// to run, each once, sorted.
func severe(text string) []string {
	found := map[string]bool{}
	for line := range strings.Lines(text) {
		m := badLevel.FindStringSubmatch(strings.TrimRight(line, "\n"))
		if m == nil || !logLine.MatchString(line) && !strings.Contains(line, "heartbeat") {
			continue
		}
		l := m[1]
		for _, v := range variable {
			l = v.re.ReplaceAllString(l, v.to)
		}
		found[l] = true
	}
	return slices.SortedFunc(maps.Keys(found), cmp.Compare)
}
