package cluster_test

import (
	"slices"
	"testing"
	"time"

	"heartbeat/cluster"
)

// TestOldOverlapEnds: a 3.0.6 node that has stood still takes its own pause for our
// silence, takes everything, and hears us in the same moment; it does not restart
// then, and claims all for ever. This node asks it once, so that it hands back what
// it is to; what it claims even then is let go of.
func TestOldOverlapEnds(t *testing.T) {
	const limit = 11 * time.Second
	for _, tt := range []struct {
		name     string
		failback cluster.Failback
		// before is what this node holds when it begins.
		before cluster.Set
		// handsBack: the other node does when it is asked.
		handsBack bool
		mine      cluster.Set
		asksHome  bool
	}{
		{"failback off", cluster.FailbackOff, cluster.Local, false, cluster.None, false},
		{"failback on, and it does not hand back", cluster.FailbackOn, cluster.Local, false, cluster.None, true},
		{"failback on, and it hands back", cluster.FailbackOn, cluster.Local, true, cluster.Local, false},
		{"both hold everything", cluster.FailbackOff, cluster.All, false, cluster.None, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newOldPair(t, tt.failback)
			p.hear(cluster.Resource{Hold: cluster.Local, Full: true, Stable: cluster.Yes})
			p.run(time.Second)
			if p.m.View().Mine != cluster.Local || !p.m.View().Stable {
				t.Fatalf("to begin with this node holds %v", p.m.View().Mine)
			}
			if tt.before == cluster.All {
				p.hear(cluster.Resource{Full: true, Stable: cluster.Yes, Info: "shutdown"})
				p.hear(cluster.Shutdone{})
				p.run(time.Second)
			}
			// What it says when it has stood still.
			p.hear(cluster.Stonith{Node: "node1", Result: "n_stnth"})
			p.hear(cluster.Resource{Hold: cluster.All, Full: true, Stable: cluster.Yes, Info: "req_our_resources()"})
			p.hear(cluster.Resource{Hold: cluster.Foreign, Info: "mach_down"})
			p.said = nil
			began := p.at
			asked := false
			for p.at.Sub(began) < limit {
				p.run(time.Second)
				if !asked && slices.Contains(p.said, cluster.Message(cluster.Resource{Hold: tt.before, Full: true, Stable: cluster.No})) {
					asked = true
					p.hear(cluster.Resource{Hold: cluster.All, Full: true, Stable: cluster.Yes})
					if tt.handsBack {
						p.hear(cluster.AskResources{Set: cluster.Foreign, Info: "me"})
						p.hear(cluster.Resource{Hold: cluster.Local, Full: true, Stable: cluster.No, Info: "standby"})
						p.hear(cluster.AskResources{Set: cluster.Foreign, Info: "done"})
					}
				}
			}
			if !asked {
				t.Error("the other node is not asked what it holds")
			}
			if got := p.m.View().Mine; got != tt.mine {
				t.Errorf("%v after the overlap began this node holds %v, want %v", limit, got, tt.mine)
			}
			if got := p.running(); got != tt.mine {
				t.Errorf("%v after the overlap began this node runs %v, want %v", limit, got, tt.mine)
			}
			if got := slices.Contains(p.said, cluster.Message(cluster.HBTakeover{Set: cluster.Local})); got != tt.asksHome {
				t.Errorf("asks for what is at home here: %v, want %v", got, tt.asksHome)
			}
		})
	}
}

// oldPair is node1, and what a node2 of 3.0.6 says to it.
type oldPair struct {
	m    *cluster.Machine
	at   cluster.Instant
	seq  uint64
	said []cluster.Message
	runs map[string]bool
}

func newOldPair(t *testing.T, failback cluster.Failback) *oldPair {
	t.Helper()
	p := &oldPair{runs: map[string]bool{}, m: cluster.New(cluster.Config{
		Self: "node1", Nodes: []string{"node1", "node2"}, Links: []string{"eth0"},
		Groups:    []cluster.Group{{Key: "web", Node: "node1"}, {Key: "db", Node: "node2"}},
		Keepalive: time.Second, Deadtime: 10 * time.Second, Warntime: 5 * time.Second, Initdead: 20 * time.Second,
		Failback: failback,
	})}
	p.step(cluster.Wake{})
	p.hear(cluster.Status{State: "active", Dt: 10 * time.Second})
	p.hear(cluster.RepNodes{Dest: "node1", Nodes: []string{"node1", "node2"}})
	return p
}

// run lets time pass, with the other node's keepalives.
func (p *oldPair) run(span time.Duration) {
	for end := p.at.Add(span); p.at < end; {
		p.at = p.at.Add(time.Second)
		p.hear(cluster.Status{State: "active", Dt: 10 * time.Second})
		p.step(cluster.Wake{})
	}
}

func (p *oldPair) hear(msg cluster.Message) {
	p.seq++
	p.step(cluster.Heard{From: "node2", Link: "eth0", At: p.at, Msg: msg, Generation: 5, Seq: p.seq})
}

func (p *oldPair) step(ev cluster.Event) {
	var ended []cluster.JobDone
	for _, a := range p.m.Step(p.at, ev) {
		switch a := a.(type) {
		case cluster.Send:
			p.said = append(p.said, a.Msg)
		case cluster.Run:
			done := cluster.JobDone{ID: a.Job.ID}
			for _, key := range a.Job.Keys {
				switch a.Job.Kind {
				case cluster.JobTake:
					p.runs[key] = true
				case cluster.JobGive:
					p.runs[key] = false
				}
				done.Groups = append(done.Groups, cluster.GroupResult{Key: key, Running: p.runs[key]})
			}
			ended = append(ended, done)
		}
	}
	for _, done := range ended {
		p.step(done)
	}
}

func (p *oldPair) running() (set cluster.Set) {
	if p.runs["web"] {
		set |= cluster.Local
	}
	if p.runs["db"] {
		set |= cluster.Foreign
	}
	return set
}
