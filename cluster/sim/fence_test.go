package sim

import (
	"math/rand/v2"
	"testing"
	"time"

	"heartbeat/cluster"
)

// cutLives draws a pair with fencing devices whose links are all cut for a
// while, at a moment when an operator's order may be under way.
func cutLives(seed uint64) Scenario {
	s := Draw(seed)
	r := rand.New(rand.NewPCG(seed, 0x66656e6365))
	c := &s.Cluster
	c.Old, c.Conflict = false, cluster.ConflictOff // a live owner is not reset where the service network is believed
	if c.Failback == cluster.FailbackLegacy {
		c.Failback = cluster.FailbackOff
	}
	c.Keepalive = pick(r, 500*time.Millisecond, time.Second, 2*time.Second)
	c.Deadtime, c.Warntime = 6*c.Keepalive, 3*c.Keepalive
	c.Initdead = 12 * time.Second
	c.FenceTakes = time.Duration(1+r.IntN(3)) * time.Second
	// The nodes' patience ends within a keepalive of each other, and a young one
	// asks for two seconds more.
	c.FenceDelay = c.FenceTakes + c.Keepalive + 3*time.Second
	c.FenceWait = r.IntN(2) == 0
	s.Span = 5 * time.Minute
	s.Faults = nil
	at := 20*time.Second + time.Duration(r.Int64N(int64(40*time.Second)))
	if c.FenceWait {
		at -= 20 * time.Second // two that have never heard each other leave each other alone
	}
	if r.IntN(2) == 0 {
		s.Faults = append(s.Faults, Fault{Kind: pick(r, Standby, Takeover), At: max(0, at-time.Duration(r.Int64N(int64(15*time.Second)))), Node: pick(r, c.Nodes...), Set: pick(r, cluster.All, cluster.Local, cluster.Foreign)})
	}
	s.Faults = append(s.Faults, Fault{Kind: Partition, At: at, For: c.Deadtime + time.Duration(r.Int64N(int64(100*time.Second))), Node: c.Nodes[0], Peer: c.Nodes[1]})
	return s
}

// TestFenceCut: two nodes that live lose all their links. One of them is reset,
// never both, and nothing is up on two nodes at any time. Without a delay they
// do reset each other: the test would notice.
func TestFenceCut(t *testing.T) {
	resets, longest := 0, 0
	for seed := range uint64(300) {
		s := cutLives(seed + 1)
		r := Run(s)
		if r.Failure != nil {
			t.Fatalf("seed %d: %v\n%s", seed+1, r.Failure, header(s))
		}
		for class, w := range r.Windows {
			if w.Count > 0 {
				t.Errorf("seed %d: %d windows of two owners: %s", seed+1, w.Count, class)
			}
		}
		c, cut := s.Cluster, s.Faults[len(s.Faults)-1].For
		if must := cut > c.Deadtime+2*c.FenceDelay+5*time.Second && !c.FenceWait; must && r.Resets == 0 || c.FenceWait && r.Resets > 1 {
			t.Errorf("seed %d: %d resets in a partition of %v; waits at start: %v", seed+1, r.Resets, cut, c.FenceWait)
		}
		resets += r.Resets
		longest = max(longest, r.Resets)
	}
	t.Logf("%d resets in 300 partitions, %d at most in one", resets, longest)
	broken := 0
	for seed := range uint64(40) {
		s := cutLives(seed + 1)
		s.Cluster.FenceDelay = 0
		if r := Run(s); r.Failure != nil && r.Failure.Rule == "both reset" {
			broken++
		}
	}
	if broken < 10 {
		t.Errorf("without a delay both were reset in %d of 40 partitions only", broken)
	}
}
