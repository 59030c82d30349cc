package interop

import (
	"fmt"
	"strings"
	"time"

	"heartbeat/integration/lab"
)

// Upgrades are so many rolling upgrades of a running 3.0.6 pair to ours and
// back again, one node at a time.
func Upgrades(times int) []Scenario {
	var out []Scenario
	for range times {
		out = append(out, Scenario{Name: "rolling-upgrade", Setup: Setup{Failback: "off", Groups: 1}, Pairs: []Pair{Old}, Play: upgrade, Check: noWorseThanPlanned})
	}
	return out
}

// RunsWith are the pairs that the scenario is played with.
func (s Scenario) RunsWith() []Pair {
	if s.Pairs == nil {
		return AllPairs
	}
	return s.Pairs
}

// replace stops the daemon of a node, puts the other program in its place and
// starts that; the node's files and state stay.
func (r *Run) replace(n *lab.Node, with *lab.Heartbeat) {
	r.stop(n)
	r.do(func() error {
		r.on[index(n)] = with
		return r.configure(index(n), n)
	})
	r.start(n)
	r.active(n)
}

// upgrade has the service on n1, as ever, and moves it by hand.
func upgrade(r *Run) {
	old, ours := r.progs.Original, r.progs.Ours
	onN1, onN2 := Owners{1}, Owners{2}
	r.act("both start", onN1, r.startBoth)
	r.probe()
	r.act(planned+"n1 to n2", onN2, func() { r.standby(r.N1, "all") })
	r.act(planned+"n2 to n1", onN1, func() { r.standby(r.N2, "all") })
	swap := func(to *lab.Heartbeat, word string) {
		r.act(fmt.Sprintf("n2 %s", word), onN1, func() { r.replace(r.N2, to) })
		r.act(fmt.Sprintf("n1 to n2, n2 %s", word), onN2, func() { r.standby(r.N1, "all") })
		r.act(fmt.Sprintf("n1 %s", word), onN2, func() { r.replace(r.N1, to) })
		r.act(fmt.Sprintf("n2 to n1, both %s", word), onN1, func() { r.standby(r.N2, "all") })
	}
	swap(ours, "upgraded")
	swap(old, back)
}

// planned begins the names of the acts that are the measure: what a planned
// change costs with 3.0.6 on both.
const planned = "3.0.6 alone: "

// back ends the names of the acts of the way back; when both are, a change is
// again one of the old pair.
const back = "back on 3.0.6"

// upgradeSlack is what a busy machine may add to an outage: six labs fork
// scripts on two cores.
const upgradeSlack = 500 * time.Millisecond

// noWorseThanPlanned demands that no act costs the client more than a planned
// change of the old pair, and that nothing is owned twice.
func noWorseThanPlanned(o Outcome) []string {
	var bound time.Duration
	for _, a := range o.Acts {
		if strings.HasPrefix(a.Name, planned) || strings.HasSuffix(a.Name, "both "+back) {
			bound = max(bound, a.Outage)
		}
	}
	var out []string
	for _, a := range o.Acts {
		if a.Outage > bound+upgradeSlack {
			out = append(out, fmt.Sprintf("%s: an outage of %v; planned changes of the 3.0.6 pair took %v", a.Name, a.Outage.Round(time.Millisecond), bound.Round(time.Millisecond)))
		}
	}
	return out
}
