package cluster_test

import (
	"testing"
	"time"

	"heartbeat/cluster"
)

// TestOldClaimIsOvertaken: a claim of a 3.0.6 node that was lost and comes
// again after a newer one says nothing any more. Believed, it would leave a set
// without owner in our books, and we would take what the other node runs.
func TestOldClaimIsOvertaken(t *testing.T) {
	m := cluster.New(cluster.Config{
		Self: "node1", Nodes: []string{"node1", "node2"}, Links: []string{"eth0"},
		Groups:    []cluster.Group{{Key: "web", Node: "node1"}, {Key: "db", Node: "node2"}},
		Keepalive: time.Second, Deadtime: 10 * time.Second, Warntime: 5 * time.Second, Initdead: 20 * time.Second,
		Failback: cluster.FailbackOff,
	})
	var taken []string
	var seq uint64
	hear := func(seq uint64, msg cluster.Message) {
		for _, a := range m.Step(0, cluster.Heard{From: "node2", Link: "eth0", Msg: msg, Generation: 5, Seq: seq}) {
			if run, ok := a.(cluster.Run); ok && run.Job.Kind != cluster.JobGive {
				taken = append(taken, run.Job.Keys...)
			}
		}
	}
	next := func(msg cluster.Message) { seq++; hear(seq, msg) }
	m.Step(0, cluster.Wake{})
	next(cluster.Status{State: "active", Dt: 10 * time.Second})
	next(cluster.RepNodes{Dest: "node1", Nodes: []string{"node1", "node2"}})
	seq++ // "local", lost
	next(cluster.Resource{Hold: cluster.All, Full: true, Stable: cluster.Yes})
	hear(3, cluster.Resource{Hold: cluster.Local, Full: true, Stable: cluster.Yes})
	if len(taken) > 0 {
		t.Errorf("%v taken, which node2 owns", taken)
	}
	if got := m.View().Theirs; got != cluster.All {
		t.Errorf("node2 holds %v, want all", got)
	}
}

// TestOldStartIsOvertaken: the "starting" of a 3.0.6 node that was lost and
// comes again once that node has settled is answered, and says nothing any more.
// Believed, it would leave the node unstable in our books for good: a stable one
// has no reason to say so again.
func TestOldStartIsOvertaken(t *testing.T) {
	m := cluster.New(cluster.Config{
		Self: "node1", Nodes: []string{"node1", "node2"}, Links: []string{"eth0"},
		Groups:    []cluster.Group{{Key: "web", Node: "node1"}, {Key: "db", Node: "node2"}},
		Keepalive: time.Second, Deadtime: 10 * time.Second, Warntime: 5 * time.Second, Initdead: 20 * time.Second,
		Failback: cluster.FailbackOff,
	})
	hear := func(seq uint64, msg cluster.Message) (said []cluster.Message) {
		for _, a := range m.Step(0, cluster.Heard{From: "node2", Link: "eth0", Msg: msg, Generation: 5, Seq: seq}) {
			if s, ok := a.(cluster.Send); ok {
				said = append(said, s.Msg)
			}
		}
		return said
	}
	m.Step(0, cluster.Wake{})
	hear(1, cluster.Status{State: "active", Dt: 10 * time.Second})
	hear(2, cluster.RepNodes{Dest: "node1", Nodes: []string{"node1", "node2"}})
	hear(4, cluster.Resource{Hold: cluster.All, Full: true, Stable: cluster.Yes}) // 3 is lost
	if !m.View().Stable {
		t.Fatal("not stable to begin with")
	}
	said := hear(3, cluster.Starting{})
	if len(said) != 1 || said[0] != (cluster.Resource{Full: true, Stable: cluster.Yes}) {
		t.Errorf("the answer is %v", said)
	}
	if !m.View().Stable {
		t.Error("no longer stable")
	}
}
