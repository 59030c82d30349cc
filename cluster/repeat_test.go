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
