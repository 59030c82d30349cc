package cluster_test

import (
	"testing"
	"time"

	"heartbeat/cluster"
)

// TestStatusBeforeNodes: a 3.0.6 node that asks for the list of nodes hears our
// status before it: with the list it goes on, and a node that it does not know to
// be active it does not ask for its groups, in legacy mode.
func TestStatusBeforeNodes(t *testing.T) {
	m := cluster.New(cluster.Config{
		Self: "node1", Nodes: []string{"node1", "node2"}, Links: []string{"eth0"},
		Groups:    []cluster.Group{{Key: "web", Node: "node1"}, {Key: "db", Node: "node2"}},
		Keepalive: time.Second, Deadtime: 10 * time.Second, Warntime: 5 * time.Second, Initdead: 20 * time.Second,
		Failback: cluster.FailbackLegacy,
	})
	at := cluster.Instant(0)
	for ; at < cluster.Instant(30*time.Second); at = at.Add(time.Second) {
		m.Step(at, cluster.Wake{}) // node2 is dead, we are alone and active
	}
	var said []cluster.Message
	for _, a := range m.Step(at, cluster.Heard{From: "node2", Link: "eth0", At: at, Msg: cluster.ReqNodes{Dest: "node1"}, Generation: 5, Seq: 3}) {
		if s, ok := a.(cluster.Send); ok {
			said = append(said, s.Msg)
		}
	}
	if len(said) != 2 {
		t.Fatalf("the answer is %v", said)
	}
	if s, ok := said[0].(cluster.Status); !ok || s.State != "active" {
		t.Errorf("first is said %v, not that we are active", said[0])
	}
	if _, ok := said[1].(cluster.RepNodes); !ok {
		t.Errorf("then is said %v, not the list of nodes", said[1])
	}
}

// TestRequestThatItsSenderIgnores: a 3.0.6 node to which we seem in flux ignores
// the standby request that it sends. We do not wait an hour for what does not
// come, and say what we hold, which ends its doubt; but for one that has begun to
// give we do wait.
func TestRequestThatItsSenderIgnores(t *testing.T) {
	for _, gives := range []bool{false, true} {
		m := cluster.New(cluster.Config{
			Self: "node1", Nodes: []string{"node1", "node2"}, Links: []string{"eth0"},
			Groups:    []cluster.Group{{Key: "web", Node: "node1"}, {Key: "db", Node: "node2"}},
			Keepalive: time.Second, Deadtime: 10 * time.Second, Warntime: 5 * time.Second, Initdead: 20 * time.Second,
			Failback: cluster.FailbackOff,
		})
		at, seq, claims := cluster.Instant(0), uint64(0), 0
		step := func(ev cluster.Event) {
			for _, a := range m.Step(at, ev) {
				switch a := a.(type) {
				case cluster.Run:
					if !gives && a.Job.Kind == cluster.JobTake {
						t.Errorf("%v taken, which nobody released", a.Job.Keys)
					}
				case cluster.Send:
					if r, ok := a.Msg.(cluster.Resource); ok && r.Stable == cluster.Yes {
						claims++
					}
				}
			}
		}
		hear := func(msg cluster.Message) {
			seq++
			step(cluster.Heard{From: "node2", Link: "eth0", At: at, Msg: msg, Generation: 5, Seq: seq})
		}
		live := func(span time.Duration) {
			for end := at.Add(span); at < end; {
				at = at.Add(time.Second)
				hear(cluster.Status{State: "active", Dt: 10 * time.Second})
				step(cluster.Wake{})
			}
		}
		step(cluster.Wake{})
		hear(cluster.Status{State: "active", Dt: 10 * time.Second})
		hear(cluster.RepNodes{Dest: "node1", Nodes: []string{"node1", "node2"}})
		hear(cluster.Resource{Hold: cluster.All, Full: true, Stable: cluster.Yes})
		live(5 * time.Second)
		hear(cluster.AskResources{Set: cluster.Foreign, Info: "me"})
		if m.View().StandbyNow == "" {
			t.Fatal("the request was not taken up")
		}
		if gives {
			hear(cluster.Resource{Hold: cluster.Local, Full: true, Stable: cluster.No, Info: "standby"})
		}
		claims = 0
		live(25 * time.Second)
		if waits := m.View().StandbyNow != ""; waits != gives {
			t.Errorf("it gives: %v; after 25 s we wait: %v", gives, waits)
		}
		if !gives && (claims != 1 || !m.View().Stable) {
			t.Errorf("%d claims said, stable: %v", claims, m.View().Stable)
		}
	}
}
