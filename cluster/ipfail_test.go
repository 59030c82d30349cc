package cluster

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func ipfailMachine(failback Failback, on bool, pings ...string) *Machine {
	return New(Config{
		Self: "node1", Nodes: []string{"node1", "node2"}, PingNodes: pings, Links: []string{"eth0", "eth1"}, Stonith: true, Failback: failback, IPFail: on,
		Keepalive: time.Second, Deadtime: 10 * time.Second, Warntime: 5 * time.Second, Initdead: 20 * time.Second, Deadping: 10 * time.Second,
	})
}

// TestIPFailWarnings: where ipfail can do nothing the status says so.
func TestIPFailWarnings(t *testing.T) {
	for _, c := range []struct {
		name     string
		failback Failback
		on       bool
		pings    []string
		want     string
	}{
		{"off", FailbackOn, false, nil, ""},
		{"on", FailbackOff, true, []string{"router"}, ""},
		{"no ping nodes", FailbackOn, true, nil, "names no ping node"},
		{"legacy", FailbackLegacy, true, []string{"router"}, "auto_failback legacy"},
	} {
		got := ipfailMachine(c.failback, c.on, c.pings...).View().Warnings
		says := slices.ContainsFunc(got, func(w string) bool { return strings.Contains(w, "ipfail") && strings.Contains(w, c.want) })
		if says != (c.want != "") {
			t.Errorf("%s: %q", c.name, got)
		}
	}
}

// TestIPFailSwitchedOnInPlace: a restart in place with a new respawn line joins
// at once, and one without it leaves.
func TestIPFailSwitchedOnInPlace(t *testing.T) {
	m := ipfailMachine(FailbackOn, false, "router")
	now := Instant(0)
	sent := func(m *Machine, ev Event) (texts []Message) {
		for _, a := range m.Step(now, ev) {
			if s, ok := a.(Send); ok {
				if state, ok := s.Msg.(ClientState); ok {
					texts = append(texts, state)
				}
			}
		}
		return texts
	}
	for range 40 { // until the others are dead and communication is up
		if got := sent(m, Wake{}); len(got) > 0 {
			t.Fatalf("switched off, it says %v", got)
		}
		now = now.Add(time.Second)
	}
	restart := func(on bool) {
		snapshot, err := m.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		if m, err = Restore(ipfailMachine(FailbackOn, on, "router").cfg, snapshot); err != nil {
			t.Fatal(err)
		}
	}
	for _, on := range []bool{true, false, true} {
		restart(on)
		info := "signoff"
		if on {
			info = "signon"
		}
		want := ClientState{Src: "node1", Client: "ipfail", Joined: on, Info: info}
		if got := sent(m, Wake{}); len(got) != 1 || got[0] != want {
			t.Errorf("after a restart with ipfail %v it says %v", on, got)
		}
		now = now.Add(time.Second)
		if got := sent(m, Wake{}); len(got) > 0 {
			t.Errorf("and then %v", got)
		}
		now = now.Add(time.Second)
	}
}
