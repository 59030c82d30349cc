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

// TestTakerDiesDuringRelease: the other node dies while we stop what we were
// about to give it. It is ours again, and started once the stop has ended.
func TestTakerDiesDuringRelease(t *testing.T) {
	m := cluster.New(cluster.Config{
		Self: "node1", Nodes: []string{"node1", "node2"}, Links: []string{"eth0"},
		Groups:    []cluster.Group{{Key: "web", Node: "node1"}},
		Keepalive: time.Second, Deadtime: 10 * time.Second, Warntime: 5 * time.Second, Initdead: 20 * time.Second,
		Failback: cluster.FailbackOff,
	})
	at := cluster.Instant(0)
	running, slow := false, false
	var held []cluster.JobDone
	var step func(ev cluster.Event)
	step = func(ev cluster.Event) {
		for _, a := range m.Step(at, ev) {
			run, ok := a.(cluster.Run)
			if !ok {
				continue
			}
			done := cluster.JobDone{ID: run.Job.ID}
			switch run.Job.Kind {
			case cluster.JobTake:
				running = running || len(run.Job.Keys) > 0
			case cluster.JobGive:
				running = false
			}
			for _, key := range run.Job.Keys {
				done.Groups = append(done.Groups, cluster.GroupResult{Key: key, Running: running})
			}
			if slow && run.Job.Kind == cluster.JobGive {
				held = append(held, done)
				continue
			}
			step(done)
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
	wait(40 * time.Second) // alone
	hear(cluster.Status{State: "up", Dt: 10 * time.Second})
	wait(time.Second)
	hear(cluster.Status{State: "active", Dt: 10 * time.Second})
	hear(cluster.Starting{})
	hear(cluster.Resource{Hold: cluster.None, Full: true, Stable: cluster.No})
	hear(cluster.Resource{Hold: cluster.None, Full: true, Stable: cluster.Yes})
	wait(3 * time.Second)
	if !running {
		t.Fatalf("the group does not run here: %+v", m.View())
	}
	slow = true
	step(cluster.Order{ID: 1, Verb: cluster.OrderStandby, Set: cluster.All})
	hear(cluster.AskResources{Set: cluster.All, Info: "other"})
	if len(held) != 1 {
		t.Fatalf("%d stops under way", len(held))
	}
	wait(30 * time.Second) // nothing is heard
	if got := m.View().Mine; got != cluster.All {
		t.Fatalf("it holds %v with the other node dead", got)
	}
	slow = false
	step(held[0])
	wait(5 * time.Second)
	if !running || m.View().Mine != cluster.All {
		t.Errorf("running %t, it holds %v", running, m.View().Mine)
	}
}
