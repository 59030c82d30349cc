package cluster_test

import (
	"strings"
	"testing"
	"time"

	"heartbeat/cluster"
)

// lonely is node1 of a settled pair that holds its own group.
type lonely struct {
	m    *cluster.Machine
	at   cluster.Instant
	out  []cluster.Action
	peer cluster.Status
}

func newLonely(t *testing.T) *lonely {
	t.Helper()
	l := &lonely{
		m: cluster.New(cluster.Config{
			Self: "node1", Nodes: []string{"node1", "node2"}, Links: []string{"eth0", "eth1"},
			Groups:    []cluster.Group{{Key: "web", Node: "node1"}, {Key: "db", Node: "node2"}},
			Keepalive: time.Second, Deadtime: 10 * time.Second, Warntime: 3 * time.Second, Initdead: 20 * time.Second,
			Failback: cluster.FailbackOff,
		}),
		peer: cluster.Status{State: "active", Dt: 10 * time.Second, New: true},
	}
	l.step(cluster.Wake{})
	l.hear(l.peer)
	l.hear(cluster.RepNodes{Dest: "node1", Nodes: []string{"node1", "node2"}})
	l.hear(cluster.Resource{Hold: cluster.Local, Full: true, Stable: cluster.Yes})
	if v := l.m.View(); v.Mine != cluster.Local || v.Phase != "STABLE" {
		t.Fatalf("holds %v in phase %s, want local and STABLE", v.Mine, v.Phase)
	}
	l.out = nil
	return l
}

func (l *lonely) step(ev cluster.Event) { l.out = append(l.out, l.m.Step(l.at, ev)...) }

func (l *lonely) hear(msg cluster.Message) {
	l.step(cluster.Heard{From: "node2", Link: "eth0", At: l.at, Msg: msg, Generation: 5, Seq: uint64(l.at) + 1})
}

func (l *lonely) said(f func(cluster.Status)) {
	for _, a := range l.out {
		if s, ok := a.(cluster.Send); ok {
			if st, ok := s.Msg.(cluster.Status); ok {
				f(st)
			}
		}
	}
}

// TestOwnLateness: the next keepalive says by how much a step was late, also when
// packets were stepped before the wake-up that it belongs to.
func TestOwnLateness(t *testing.T) {
	l := newLonely(t)
	l.at = l.at.Add(3500 * time.Millisecond)
	l.hear(l.peer)
	l.out = nil
	l.step(cluster.Wake{})
	var got []time.Duration
	l.said(func(s cluster.Status) { got = append(got, s.Lateness) })
	if len(got) != 1 || got[0] != 2500*time.Millisecond {
		t.Errorf("keepalives say %v, want one with 2.5s: it was due after 1 s and came after 3.5 s", got)
	}
	l.at = l.at.Add(time.Second)
	l.out = nil
	l.step(cluster.Wake{})
	l.said(func(s cluster.Status) {
		if s.Lateness != 0 {
			t.Errorf("the one after it says %v", s.Lateness)
		}
	})
}

// TestStallIsNoSilenceOfALink: after a stall of ours a node is heard on one link first.
// The silence of the other one does not count the stall, and ends where it must.
func TestStallIsNoSilenceOfALink(t *testing.T) {
	l := newLonely(t)
	hear := func(link string) {
		l.step(cluster.Heard{From: "node2", Link: link, At: l.at, Msg: l.peer, Generation: 5, Seq: uint64(l.at) + 1})
	}
	hear("eth1")
	heardAt := l.at
	up := func() bool {
		for _, n := range l.m.View().Nodes {
			for _, k := range n.Links {
				if n.Name == "node2" && k.Name == "eth1" {
					return k.Up
				}
			}
		}
		t.Fatal("node2 has no eth1")
		return false
	}
	l.at = heardAt.Add(9500 * time.Millisecond) // the wake-up was due after a second
	hear("eth0")
	l.step(cluster.Wake{})
	for l.at < heardAt.Add(18*time.Second) {
		l.at = l.at.Add(time.Second)
		hear("eth0")
		l.step(cluster.Wake{})
		if silent := l.at.Sub(heardAt); up() != (silent < 18500*time.Millisecond) {
			t.Fatalf("eth1, silent for %v of which we did not run 8.5s, is up: %v; deadtime is 10s", silent, up())
		}
	}
	if up() {
		t.Error("eth1 never dies")
	}
}

// TestWhyLate: a late keepalive of a new node is put down to the node or to the
// way, as it says itself.
func TestWhyLate(t *testing.T) {
	for _, tt := range []struct {
		lateness time.Duration
		want     string
	}{
		{3900 * time.Millisecond, "node node2: it did not run: it says that it was late by 3900 ms"},
		{2 * time.Millisecond, "node node2: its packets were lost or delayed: it says that it was late by no more than 2 ms"},
	} {
		l := newLonely(t)
		for range 5 {
			l.at = l.at.Add(time.Second)
			l.step(cluster.Wake{})
		}
		l.out = nil
		late := l.peer
		late.Lateness = tt.lateness
		l.hear(late)
		var lines []string
		for _, a := range l.out {
			if r, ok := a.(cluster.Report); ok {
				lines = append(lines, r.Classic)
			}
		}
		if text := strings.Join(lines, "\n"); !strings.Contains(text, "Late heartbeat: Node node2: interval 5000 ms\n"+tt.want) {
			t.Errorf("late by %v: log is\n%s", tt.lateness, text)
		}
	}
}

// TestWallClockJump: a wall clock that went ahead proves no pause; but who is then
// told that it is held for dead lets go at once.
func TestWallClockJump(t *testing.T) {
	for _, jumped := range []bool{false, true} {
		l := newLonely(t)
		if jumped {
			l.step(cluster.ClockJump{Wall: 20 * time.Second})
		}
		gives := func() bool {
			for _, a := range l.out {
				if r, ok := a.(cluster.Run); ok && r.Job.Kind == cluster.JobGive {
					return true
				}
			}
			return false
		}
		if gives() {
			t.Fatal("a clock that was set made it let go")
		}
		l.at = l.at.Add(500 * time.Millisecond)
		dead := l.peer
		dead.Dead, dead.Holds, dead.Hold = []string{"node1"}, true, cluster.All
		l.hear(dead)
		if gives() != jumped {
			t.Errorf("wall clock jumped: %v; lets go with the first word: %v", jumped, gives())
		}
	}
}

// TestSuspended: a machine that was suspended for longer than the other's patience
// lets go in the first step and says nothing before.
func TestSuspended(t *testing.T) {
	for _, tt := range []struct {
		name  string
		sleep time.Duration
		gives bool
	}{
		{"shorter than the patience", 11 * time.Second, false}, // a young node asks for two seconds more
		{"longer than the patience", 12 * time.Second, true},
	} {
		l := newLonely(t)
		l.step(cluster.ClockJump{Asleep: tt.sleep})
		gives, said := false, false
		for _, a := range l.out {
			switch a := a.(type) {
			case cluster.Run:
				gives = gives || a.Job.Kind == cluster.JobGive
			case cluster.Send:
				said = true
			}
		}
		if gives != tt.gives || said {
			t.Errorf("%s: lets go %v, want %v; says something: %v", tt.name, gives, tt.gives, said)
		}
	}
}
