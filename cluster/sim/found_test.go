package sim

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"heartbeat/cluster"
	"heartbeat/cluster/engine"
)

// TestFound runs the smallest scenarios of what simulation has found. They are
// scenarios, not seeds: what a seed draws may change.
func TestFound(t *testing.T) {
	files, err := filepath.Glob("testdata/found/*.json")
	if err != nil || len(files) == 0 {
		t.Fatal("no scenarios")
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var s Scenario
			if err := json.Unmarshal(data, &s); err != nil {
				t.Fatal(err)
			}
			if r := Run(s); r.Failure != nil {
				t.Errorf("%v\n%s", r.Failure, header(s))
			}
		})
	}
}

func quietPair() Scenario {
	return Scenario{
		Seed: 1, Span: 3 * time.Minute, Quiet: time.Minute,
		Cluster: Cluster{
			Nodes: []string{"node1", "node2"}, Links: []string{"eth0", "eth1"},
			Groups:    []cluster.Group{{Key: "a", Node: "node1", Resources: []string{"a"}}, {Key: "b", Node: "node2", Resources: []string{"b"}}},
			Keepalive: time.Second, Deadtime: 10 * time.Second, Warntime: 5 * time.Second, Initdead: 20 * time.Second,
			Failback: cluster.FailbackOn, Method: "sha1", Start: 100 * time.Millisecond, Stop: 200 * time.Millisecond, Delay: time.Millisecond,
		},
	}
}

// TestPlanted breaks rules on purpose: each must be noticed, by name, and the
// same scenario without the breach must pass.
func TestPlanted(t *testing.T) {
	for _, tt := range []struct {
		name    string
		planted planted
		fault   Fault
		rule    string
	}{
		{
			name:    "a node held for dead after half the deadtime",
			planted: planted{deadtime: map[string]time.Duration{"node1": 5 * time.Second}},
			fault:   Fault{Kind: Partition, At: time.Minute, For: 7 * time.Second, Node: "node1", Peer: "node2"},
			rule:    "two owners",
		},
		{
			name:    "a release reported before it is done",
			planted: planted{releaseLate: true},
			fault:   Fault{Kind: Standby, At: time.Minute, Node: "node1", Set: cluster.All},
			rule:    "two owners",
		},
		{
			name:    "nobody says what it holds",
			planted: planted{silent: true},
			fault:   Fault{Kind: Kill, At: time.Minute, For: 30 * time.Second, Node: "node1"},
			rule:    "window",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := quietPair()
			s.Faults = []Fault{{Kind: Slow, At: 30 * time.Second, For: time.Second, Node: "node2", Group: "b", Factor: 2}, tt.fault}
			if r := Run(s); r.Failure != nil {
				t.Fatalf("fails without the breach: %v", r.Failure)
			}
			s.planted = tt.planted
			r := Run(s)
			if r.Failure == nil || r.Failure.Rule != tt.rule {
				t.Fatalf("got %v, want the rule %q broken", r.Failure, tt.rule)
			}
			if small := Minimise(s); len(small.Faults) != 1 || small.Faults[0] != tt.fault {
				t.Errorf("minimised to %v, want only %v", small.Faults, tt.fault)
			}
		})
	}
}

// TestSame runs the same scenario twice: everything follows from it.
func TestSame(t *testing.T) {
	for seed := uint64(1); seed <= 5; seed++ {
		var one, two strings.Builder
		Transcript(Draw(seed), &one)
		Transcript(Draw(seed), &two)
		if one.String() != two.String() {
			t.Errorf("seed %d: two runs differ", seed)
		}
	}
}

// TestBypass: without wire format and digests the same happens.
func TestBypass(t *testing.T) {
	for seed := uint64(1); seed <= 20; seed++ {
		s := Draw(seed)
		for i := range s.Faults {
			s.Faults[i].Noise.Corrupt = 0 // which bits are hit depends on the length
		}
		var one, two strings.Builder
		Transcript(s, &one)
		s.Bypass = true
		Transcript(s, &two)
		if one.String() != two.String() {
			t.Errorf("seed %d: two runs differ", seed)
		}
	}
}

// TestPersist: what follows a Persist waits until it is durable, but for
// keepalives.
func TestPersist(t *testing.T) {
	w := newWorld(quietPair())
	n := w.nodes[0]
	n.start()
	answered := func() bool { return len(n.orders) == 0 }
	n.orders[1] = "standby"
	n.carry([]engine.Output{engine.Persist{Name: "x"}, engine.Reply{ID: 1, Final: true}, engine.Transmit{Netstring: []byte("t=status"), Keepalive: true}})
	if answered() || len(n.sent) != 1 {
		t.Fatalf("before it is durable: answered %v, keepalives %d; want false and 1", answered(), len(n.sent))
	}
	n.durable()
	if !answered() {
		t.Error("not answered although it is durable")
	}
}
