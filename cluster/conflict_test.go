package cluster_test

import (
	"testing"
	"time"

	"heartbeat/cluster"
)

// TestShortDeadtimeConflict: with a deadtime that leaves no time for it the last
// question begins half of it before death, and its answer comes too late: refuse
// waits for it, warn takes without. Who can ask nobody, and is to refuse, takes
// nothing.
func TestShortDeadtimeConflict(t *testing.T) {
	const deadtime = 400 * time.Millisecond
	for _, c := range []struct {
		conflict cluster.Conflict
		answered bool
		failed   string
		// takes: at death, and after the answer.
		takes [2]bool
	}{
		{cluster.ConflictWarn, true, "", [2]bool{true, true}},
		{cluster.ConflictRefuse, true, "", [2]bool{false, false}},
		{cluster.ConflictRefuse, false, "", [2]bool{false, true}},
		{cluster.ConflictRefuse, false, "interface eth0 has no carrier", [2]bool{false, false}},
	} {
		m := cluster.New(cluster.Config{
			Self: "node1", Nodes: []string{"node1", "node2"}, Links: []string{"eth0"},
			Groups:    []cluster.Group{{Key: "web", Node: "node1"}, {Key: "db", Node: "node2"}},
			Keepalive: 50 * time.Millisecond, Deadtime: deadtime, Warntime: 200 * time.Millisecond, Initdead: 10 * time.Second,
			Failback: cluster.FailbackOff, Conflict: c.conflict,
		})
		at := cluster.Instant(0)
		var probe cluster.Job
		var asked cluster.Instant
		takes := false
		step := func(ev cluster.Event) {
			for _, a := range m.Step(at, ev) {
				if run, ok := a.(cluster.Run); ok {
					switch run.Job.Kind {
					case cluster.JobProbe:
						probe, asked = run.Job, at
					case cluster.JobTake:
						takes = true
					}
				}
			}
		}
		hear := func(msg cluster.Message) {
			step(cluster.Heard{From: "node2", Link: "eth0", At: at, Msg: msg, Generation: 5})
		}
		// live wakes the machine whenever it wants, until then.
		live := func(until cluster.Instant) {
			for {
				due, ok := m.Deadline()
				if !ok || due > until {
					at = until
					return
				}
				at = max(at, due)
				step(cluster.Wake{})
			}
		}
		step(cluster.Wake{})
		status := cluster.Status{State: "active", Dt: deadtime}
		hear(status)
		hear(cluster.RepNodes{Dest: "node1", Nodes: []string{"node1", "node2"}})
		hear(cluster.Resource{Hold: cluster.All, Full: true, Stable: cluster.Yes})
		for range 20 {
			live(at.Add(50 * time.Millisecond))
			hear(status)
		}
		silent := at
		dies := silent.Add(deadtime)
		takes = false
		live(dies - 1)
		if probe.ID == 0 || asked != dies.Add(-deadtime/2) {
			t.Fatalf("%v: asked at %v, the node dies at %v", c.conflict, asked, dies)
		}
		live(dies)
		if takes != c.takes[0] {
			t.Errorf("%v, not answered yet: takes %v", c.conflict, takes)
		}
		done := cluster.JobDone{ID: probe.ID, Err: c.failed, Groups: []cluster.GroupResult{{Key: "web"}, {Key: "db"}}}
		if c.answered {
			done.Groups[1].Running, done.Groups[1].Err = true, "db is answered for"
		}
		step(done)
		live(at.Add(10 * time.Millisecond))
		if takes != c.takes[1] {
			t.Errorf("%v, answered for: %v: takes %v", c.conflict, c.answered, takes)
		}
	}
}
