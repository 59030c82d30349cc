package cluster_test

import (
	"testing"
	"time"

	"heartbeat/cluster"
)

// TestThawedStartEnds: a node that was stalled while it started groups says
// nothing about them when they are up, and stops them before it ends.
func TestThawedStartEnds(t *testing.T) {
	m := cluster.New(cluster.Config{
		Self: "node1", Nodes: []string{"node1", "node2"}, Links: []string{"eth0"},
		Groups:    []cluster.Group{{Key: "web", Node: "node1"}, {Key: "db", Node: "node2"}},
		Keepalive: time.Second, Deadtime: 10 * time.Second, Warntime: 5 * time.Second, Initdead: 20 * time.Second,
		Failback: cluster.FailbackOff,
	})
	var jobs []cluster.Job
	var exit *cluster.Exit
	said := 0
	at := cluster.Instant(0)
	step := func(ev cluster.Event) {
		for _, a := range m.Step(at, ev) {
			switch a := a.(type) {
			case cluster.Run:
				if a.Job.Kind == cluster.JobTake || a.Job.Kind == cluster.JobGive {
					jobs = append(jobs, a.Job)
				}
			case cluster.Send:
				said++
			case cluster.Exit:
				exit = &a
			}
		}
	}
	hear := func(arrived cluster.Instant, msg cluster.Message) {
		step(cluster.Heard{From: "node2", Link: "eth0", At: arrived, Msg: msg, Generation: 5})
	}
	end := func(j cluster.Job) {
		done := cluster.JobDone{ID: j.ID}
		for _, key := range j.Keys {
			done.Groups = append(done.Groups, cluster.GroupResult{Key: key, Running: j.Kind == cluster.JobTake})
		}
		step(done)
	}

	status := cluster.Status{State: "active", Dt: 10 * time.Second}
	step(cluster.Wake{})
	hear(at, status)
	hear(at, cluster.RepNodes{Dest: "node1", Nodes: []string{"node1", "node2"}})
	hear(at, cluster.Resource{Hold: cluster.All, Full: true, Stable: cluster.Yes})
	hear(at, cluster.Shutdone{})
	if len(jobs) == 0 || jobs[0].Kind != cluster.JobTake {
		t.Fatalf("node2 shut down, but nothing is taken: %+v", jobs)
	}
	taking := jobs
	jobs = nil

	at = at.Add(30 * time.Second)
	hear(at.Add(-time.Second), status) // it ran while we did not
	if len(jobs) != 1 || jobs[0].Kind != cluster.JobGive || len(jobs[0].Keys) != 2 {
		t.Fatalf("a stalled node is to release everything: %+v", jobs)
	}
	said = 0
	end(jobs[0])
	for _, j := range taking {
		if exit != nil {
			t.Fatalf("it ends although %v is still being started", j.Keys)
		}
		end(j)
	}
	if m.View().Mine != cluster.None {
		t.Errorf("it holds %v after the release", m.View().Mine)
	}
	for _, j := range jobs[1:] {
		if exit != nil || j.Kind != cluster.JobGive {
			t.Fatalf("exit %v before %+v", exit, j)
		}
		end(j)
	}
	if len(jobs) < 2 || exit == nil || !exit.Restart {
		t.Errorf("the started groups were stopped %d times, exit: %+v", len(jobs)-1, exit)
	}
	if said > 0 {
		t.Errorf("it said %d things before everything was released", said)
	}
}
