package cluster_test

import (
	"testing"
	"time"

	"heartbeat/cluster"
)

// TestFailbackWhenActiveIsLate: a returned node's claim may arrive before the
// status that calls it active; its resources are handed back all the same.
func TestFailbackWhenActiveIsLate(t *testing.T) {
	m := cluster.New(cluster.Config{
		Self: "node1", Nodes: []string{"node1", "node2"}, Links: []string{"eth0"},
		Groups:    []cluster.Group{{Key: "web", Node: "node1"}, {Key: "db", Node: "node2"}},
		Keepalive: time.Second, Deadtime: 10 * time.Second, Warntime: 5 * time.Second, Initdead: 20 * time.Second,
		Failback: cluster.FailbackOn,
	})
	at := cluster.Instant(0)
	asked := false
	var step func(ev cluster.Event)
	step = func(ev cluster.Event) {
		for _, a := range m.Step(at, ev) {
			switch a := a.(type) {
			case cluster.Run:
				done := cluster.JobDone{ID: a.Job.ID}
				for _, key := range a.Job.Keys {
					done.Groups = append(done.Groups, cluster.GroupResult{Key: key, Running: a.Job.Kind == cluster.JobTake})
				}
				step(done)
			case cluster.Send:
				if _, ok := a.Msg.(cluster.AskResources); ok {
					asked = true
				}
			}
		}
	}
	wait := func(span time.Duration) {
		for end := at.Add(span); at < end; at = at.Add(250 * time.Millisecond) {
			step(cluster.Wake{})
		}
	}
	hear := func(msg cluster.Message) {
		step(cluster.Heard{From: "node2", Link: "eth0", At: at, Msg: msg, Generation: 5})
	}
	wait(40 * time.Second)
	if m.View().Mine != cluster.All {
		t.Fatalf("alone it holds %v", m.View().Mine)
	}
	hear(cluster.Status{State: "up", Dt: 10 * time.Second})
	hear(cluster.Starting{})
	hear(cluster.Resource{Hold: cluster.None, Full: true, Stable: cluster.No})
	hear(cluster.Resource{Hold: cluster.None, Full: true, Stable: cluster.Yes})
	wait(3 * time.Second)
	if asked {
		t.Fatal("handed over to a node that has not said that it is active")
	}
	hear(cluster.Status{State: "active", Dt: 10 * time.Second})
	wait(2 * time.Second)
	if !asked {
		t.Error("nothing is handed back")
	}
}
