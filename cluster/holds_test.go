package cluster_test

import (
	"slices"
	"testing"
	"time"

	"heartbeat/cluster"
)

// heard is node1 of a pair, of which node2 is new; what node2 says is numbered.
type heard struct {
	t     *testing.T
	m     *cluster.Machine
	at    cluster.Instant
	seq   uint64
	up    map[string]bool // what runs
	takes []string
	gives []string
	asked []string // for which groups node2 was asked
	said  []cluster.Status
}

func newHeard(t *testing.T, failback cluster.Failback, held cluster.Set) *heard {
	h := &heard{t: t, up: map[string]bool{}, m: cluster.New(cluster.Config{
		Self: "node1", Nodes: []string{"node1", "node2"}, Links: []string{"eth0"},
		Groups:    []cluster.Group{{Key: "web", Node: "node1"}, {Key: "db", Node: "node2"}},
		Keepalive: time.Second, Deadtime: 10 * time.Second, Warntime: 5 * time.Second, Initdead: 20 * time.Second,
		Failback: failback, Held: held,
	})}
	h.up["web"], h.up["db"] = held.Has(cluster.Local), held.Has(cluster.Foreign)
	h.step(cluster.Wake{})
	return h
}

func (h *heard) step(ev cluster.Event) {
	for _, a := range h.m.Step(h.at, ev) {
		switch a := a.(type) {
		case cluster.Run:
			done := cluster.JobDone{ID: a.Job.ID}
			for _, key := range a.Job.Keys {
				switch a.Job.Kind {
				case cluster.JobTake:
					h.up[key] = true
					h.takes = append(h.takes, key)
				case cluster.JobGive:
					h.up[key] = false
					h.gives = append(h.gives, key)
				}
				done.Groups = append(done.Groups, cluster.GroupResult{Key: key, Running: h.up[key]})
			}
			h.step(done)
		case cluster.Send:
			switch msg := a.Msg.(type) {
			case cluster.Status:
				h.said = append(h.said, msg)
			case cluster.IPRequest:
				h.asked = append(h.asked, msg.Key)
			}
		}
	}
}

// say has node2 say something; number is its own, 0 is the next.
func (h *heard) say(number uint64, msg cluster.Message) {
	if number == 0 {
		h.seq++
		number = h.seq
	}
	h.step(cluster.Heard{From: "node2", Link: "eth0", At: h.at, Msg: msg, Generation: 5, Seq: number})
}

// lose has node2 say something that is not heard.
func (h *heard) lose() uint64 { h.seq++; return h.seq }

// keepalives has node2 say the same for some time.
func (h *heard) keepalives(n int, msg cluster.Status) {
	for range n {
		h.at = h.at.Add(time.Second)
		h.step(cluster.Wake{})
		h.say(0, msg)
	}
}

func (h *heard) commUp() {
	h.say(0, cluster.RepNodes{Dest: "node1", Nodes: []string{"node1", "node2"}})
}

// alive is a keepalive of a new node.
func alive(hold cluster.Set, dead ...string) cluster.Status {
	return cluster.Status{State: "active", Dt: 10 * time.Second, New: true, Holds: true, Hold: hold, Dead: dead}
}

// TestKeepaliveClaims: two nodes start, and every claim of the first is lost. Its
// keepalives say enough: nothing is started that it runs.
func TestKeepaliveClaims(t *testing.T) {
	for _, tt := range []struct {
		name string
		hold cluster.Set
		want []string
	}{
		{"it holds its own", cluster.Local, []string{"web"}},
		{"it holds everything", cluster.All, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHeard(t, cluster.FailbackOff, cluster.None)
			h.say(0, alive(cluster.None))
			h.commUp()
			h.say(0, cluster.Starting{})
			h.say(0, cluster.Resource{Full: true, Stable: cluster.No})
			h.keepalives(12, alive(tt.hold))
			if !slices.Equal(h.takes, tt.want) {
				t.Errorf("takes %v, want %v", h.takes, tt.want)
			}
			if got := h.m.View().Theirs; got != tt.hold {
				t.Errorf("knows that the other node holds %v, want %v", got, tt.hold)
			}
		})
	}
}

// TestClaimBehindKeepalive: a claim that comes after a keepalive said later is the
// end of a transition, but tells nothing of who holds what.
func TestClaimBehindKeepalive(t *testing.T) {
	h := newHeard(t, cluster.FailbackOff, cluster.None)
	h.say(0, alive(cluster.None))
	h.commUp()
	h.say(0, cluster.Resource{Full: true, Stable: cluster.No})
	claim := h.lose()
	h.say(0, alive(cluster.All))
	h.say(claim, cluster.Resource{Hold: cluster.Local, Full: true, Stable: cluster.Yes})
	if v := h.m.View(); v.Theirs != cluster.All || !v.Stable || len(h.takes) > 0 {
		t.Errorf("the other node holds %v, stable %v, takes %v; want all, true, nothing", v.Theirs, v.Stable, h.takes)
	}
}

// TestOldKeepaliveTellsNothing: a keepalive that was lost and is sent again says
// what was, not what is: newer words of other kinds have come since.
func TestOldKeepaliveTellsNothing(t *testing.T) {
	h := newHeard(t, cluster.FailbackOff, cluster.None)
	h.say(0, alive(cluster.Local))
	h.commUp()
	h.say(0, cluster.Resource{Hold: cluster.Local, Full: true, Stable: cluster.Yes})
	h.step(cluster.ClockJump{Wall: 20 * time.Second}) // the first word that we are dead would count
	lost := h.lose()
	h.say(0, cluster.Resource{Hold: cluster.Local, Full: true, Stable: cluster.Yes})
	h.say(lost, alive(cluster.All, "node1"))
	if v := h.m.View(); v.Theirs != cluster.Local || len(h.gives) > 0 {
		t.Errorf("the other node holds %v, gives %v; want local, nothing", v.Theirs, h.gives)
	}
}

// TestFoundRunningThere: what was found running at start is let go of with the
// first keepalive of the node that owns it, and not when communication is up: a
// ping node that does not answer puts that off. Of a node that is starting too a
// keepalive proves nothing.
func TestFoundRunningThere(t *testing.T) {
	for _, failback := range []cluster.Failback{cluster.FailbackOn, cluster.FailbackLegacy} {
		h := newHeard(t, failback, cluster.Local)
		starting := alive(cluster.All)
		starting.State = "up"
		h.say(0, starting)
		if len(h.gives) > 0 {
			t.Errorf("auto_failback %v: gives %v for a node that starts", failback, h.gives)
		}
		h.say(0, alive(cluster.All))
		if !slices.Equal(h.gives, []string{"web"}) {
			t.Errorf("auto_failback %v: gives %v, want web", failback, h.gives)
		}
		// Nor is it taken again when the owner does not live to say more.
		h.commUp()
		for range 9 {
			h.at = h.at.Add(time.Second)
			h.step(cluster.Wake{})
		}
		if v := h.m.View(); failback == cluster.FailbackOn && v.Theirs != cluster.All {
			t.Errorf("the other node holds %v, want all", v.Theirs)
		}
		if failback == cluster.FailbackOn && len(h.takes) > 0 {
			t.Errorf("takes %v, which node2 held by its last keepalive", h.takes)
		}
	}
}

// TestLegacyHolds: with auto_failback legacy the keepalives are the only word for
// what a node runs.
func TestLegacyHolds(t *testing.T) {
	start := func(held cluster.Set, first cluster.Status) *heard {
		h := newHeard(t, cluster.FailbackLegacy, held)
		h.say(0, first)
		h.commUp()
		return h
	}
	t.Run("one that starts and is not active yet is asked for what it has found running", func(t *testing.T) {
		first := alive(cluster.Foreign)
		first.State = "up"
		h := start(cluster.None, first)
		if !slices.Equal(h.asked, []string{"web"}) || len(h.takes) > 0 {
			t.Errorf("asks for %v, takes %v; want web and nothing", h.asked, h.takes)
		}
	})
	t.Run("after a partition the preferred node keeps, the other one lets go, and nobody restarts", func(t *testing.T) {
		h := start(cluster.None, alive(cluster.Local))
		h.say(0, cluster.IPRequestResp{Dest: "node1", Key: "web", WeOwn: true, OK: true})
		for range 15 {
			h.at = h.at.Add(time.Second)
			h.step(cluster.Wake{})
		}
		if !h.up["web"] || !h.up["db"] {
			t.Fatalf("alone it runs %v, want both", h.up)
		}
		h.seq++
		h.step(cluster.Heard{From: "node2", Link: "eth0", At: h.at, Msg: alive(cluster.All, "node1"), Generation: 5, Seq: h.seq, Returned: true})
		h.keepalives(5, alive(cluster.All))
		if !slices.Equal(h.gives, []string{"db"}) || !h.up["web"] {
			t.Errorf("gives %v, runs %v; want db and web", h.gives, h.up)
		}
	})
	t.Run("what the other node was given by hand stays there", func(t *testing.T) {
		h := start(cluster.None, alive(cluster.Local))
		h.say(0, cluster.IPRequestResp{Dest: "node1", Key: "web", WeOwn: true, OK: true})
		h.asked = nil
		h.say(0, cluster.IPRequest{Key: "web"})
		h.keepalives(12, alive(cluster.All))
		if h.up["web"] || len(h.asked) > 0 {
			t.Errorf("runs %v, asks for %v; want nothing of both", h.up, h.asked)
		}
	})
	t.Run("a grant that was sent again, of what it has taken since, is none", func(t *testing.T) {
		h := start(cluster.None, alive(cluster.None))
		grant := h.lose()
		h.say(0, alive(cluster.All, "node1"))
		h.say(grant, cluster.IPRequestResp{Dest: "node1", Key: "web", WeOwn: true, OK: true})
		if len(h.takes) > 0 {
			t.Errorf("takes %v", h.takes)
		}
		h.keepalives(1, alive(cluster.Local))
		h.say(0, cluster.IPRequestResp{Dest: "node1", Key: "web", WeOwn: true, OK: true})
		if !slices.Equal(h.takes, []string{"web"}) {
			t.Errorf("takes %v, want web", h.takes)
		}
	})
	t.Run("what was taken from it while it was not heard it asks for", func(t *testing.T) {
		h := start(cluster.None, alive(cluster.Local))
		h.say(0, cluster.IPRequestResp{Dest: "node1", Key: "web", WeOwn: true, OK: true})
		h.asked = nil
		h.keepalives(5, alive(cluster.All, "node1"))
		if !slices.Equal(h.gives, []string{"web"}) || len(h.asked) > 0 {
			t.Fatalf("gives %v, asks for %v; want web and nothing: it is not heard yet", h.gives, h.asked)
		}
		h.keepalives(1, alive(cluster.All))
		if !slices.Equal(h.asked, []string{"web"}) {
			t.Errorf("asks for %v, want web", h.asked)
		}
	})
}

// TestKeepaliveSaysHolds: every keepalive between new nodes says what is held; one
// that a 3.0.6 hears does not.
func TestKeepaliveSaysHolds(t *testing.T) {
	for _, new := range []bool{true, false} {
		h := newHeard(t, cluster.FailbackOff, cluster.None)
		peer := cluster.Status{State: "active", Dt: 10 * time.Second, New: new}
		h.say(0, peer)
		h.commUp()
		h.say(0, cluster.Resource{Hold: cluster.Local, Full: true, Stable: cluster.Yes})
		h.said = nil
		h.keepalives(2, peer)
		if len(h.said) == 0 {
			t.Fatal("no keepalives")
		}
		for _, s := range h.said {
			if s.Holds != new || new && s.Hold != cluster.Local {
				t.Errorf("to a new node %v: says %v, %v; want local to a new one only", new, s.Holds, s.Hold)
			}
		}
	}
}
