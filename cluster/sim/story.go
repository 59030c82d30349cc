package sim

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"heartbeat/cluster"
	"heartbeat/cluster/engine"
)

// Event is one thing that happens in a [Pair].
type Event struct {
	// At is virtual time since both machines were switched on.
	At time.Duration
	// Fault is set for what is done to the pair: faults, repairs, orders.
	Fault bool
	Text  string
}

// MarshalJSON writes the time in seconds.
func (e Event) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		At    float64 `json:"at"`
		Fault bool    `json:"fault"`
		Text  string  `json:"text"`
	}{e.At.Seconds(), e.Fault, e.Text})
}

// overlapping is a time in which a group was up on two nodes.
type overlapping struct {
	group       string
	class       Class
	since       time.Duration
	length      time.Duration // once it is over
	after       time.Duration // of it: what went on after the cause had ended
	ended       time.Duration
	over, begun bool // in this story
}

// story watches a world and keeps what matters of it.
type story struct {
	w      *world
	keep   bool // the events
	events []Event
	// decided: something has been decided since it was cleared.
	decided  bool
	overlaps []overlapping
	// idle is since when each group has been whole nowhere, -1 while it is;
	// gaps are the longest such times that ended in this story.
	idle, gaps []time.Duration
	dead       time.Duration // when a node was first held for dead, -1 for never
	deadText   string        // which one, by whom
	resetBy    []string      // the nodes that have ordered a reset
}

func newStory(w *world, keep bool) *story {
	s := &story{w: w, keep: keep, idle: make([]time.Duration, len(w.check.groups)), gaps: make([]time.Duration, len(w.check.groups)), dead: -1}
	for i := range s.idle {
		s.idle[i] = -1
	}
	w.watch = s
	return s
}

// clone is the story of a clone: it continues what is under way.
func (s *story) clone(w *world) *story {
	return &story{w: w, keep: s.keep, idle: slices.Clone(s.idle), gaps: make([]time.Duration, len(s.idle)), dead: -1}
}

func (s *story) tell(fault bool, format string, args ...any) {
	if s.keep {
		s.events = append(s.events, Event{s.w.now, fault, fmt.Sprintf(format, args...)})
	}
}

func (s *story) history(n *node, h engine.History) {
	if h.Kind == "link" && !n.config.IPFail {
		return
	}
	switch {
	case h.Kind == "node" && strings.HasSuffix(h.Text, " is dead"):
		s.decided = true
		if s.dead < 0 {
			s.dead, s.deadText = s.w.now, n.name+" holds "+strings.TrimSuffix(h.Text, " is dead")+" for dead"
		}
	case h.Kind == "standby", h.Kind == "daemon":
		s.decided = true
	}
	if h.Kind == "owner" && strings.HasPrefix(h.Text, "group ") {
		return // told when it happens
	}
	if h.Kind == "node" && strings.HasPrefix(h.Text, "resets ") {
		return // told when it is ordered
	}
	if h.Kind == "node" && slices.ContainsFunc([]string{" is init", " is up", " restarted its heartbeat"}, func(end string) bool { return strings.HasSuffix(h.Text, end) }) {
		return // on its way
	}
	if h.Reason != "" {
		s.tell(false, "%s: %s (%s)", n.name, h.Text, h.Reason)
	} else {
		s.tell(false, "%s: %s", n.name, h.Text)
	}
}

func (s *story) ordered(n *node, what string) {
	s.decided = true
	switch what {
	case cluster.JobTake.String(), cluster.JobGive.String():
	default:
		s.tell(false, "%s: %s", n.name, what)
	}
	if strings.HasPrefix(what, "resets ") && !slices.Contains(s.resetBy, n.name) {
		s.resetBy = append(s.resetBy, n.name)
	}
}

func (s *story) moved(n *node, r *resource, what string) {
	s.decided = true
	s.tell(false, "%s: group %s %s", n.name, r.key, what)
	i := slices.IndexFunc(s.w.check.groups, func(g groupCheck) bool { return g.key == r.key })
	switch what {
	case "begins to stop":
		if s.w.check.groups[i].owners == 1 && s.idle[i] < 0 {
			s.idle[i] = s.w.now
		}
	case "is stopped":
		if s.w.check.groups[i].owners == 0 && s.idle[i] < 0 {
			s.idle[i] = s.w.now
		}
	case "runs":
		if s.idle[i] >= 0 {
			s.gaps[i] = max(s.gaps[i], s.w.now-s.idle[i])
		}
		s.idle[i] = -1
	}
}

func (s *story) overlap(g *groupCheck, taker *node) {
	s.overlaps = append(s.overlaps, overlapping{group: g.key, class: g.class, since: g.since, begun: true})
	s.tell(false, "group %s is up on two nodes", g.key)
}

func (s *story) overlapped(g *groupCheck) {
	length, after := s.w.now-g.since, s.w.now-g.excusedAt
	i := slices.IndexFunc(s.overlaps, func(o overlapping) bool { return o.group == g.key && !o.over })
	if i < 0 {
		s.overlaps = append(s.overlaps, overlapping{group: g.key, class: g.class, since: g.since})
		i = len(s.overlaps) - 1
	}
	o := &s.overlaps[i]
	o.length, o.after, o.ended, o.over = length, after, s.w.now, true
	s.tell(false, "group %s has one owner again", g.key)
}

// deed is a fault, or its end, in words.
func deed(f Fault, repaired bool) string {
	link := "link " + f.Link
	if f.Link == "" {
		link = "every link"
	}
	set := f.Set.String()
	words := map[Kind][2]string{
		Partition: {link + " is cut", link + " works again"},
		Cut:       {link + " loses all from " + f.Node + " to " + f.Peer, link + " carries all from " + f.Node + " to " + f.Peer + " again"},
		PowerOff:  {f.Node + " loses its power", f.Node + " is switched on again"},
		Kill:      {"the daemon on " + f.Node + " is killed (SIGKILL)", "the daemon on " + f.Node + " is started again"},
		Stop:      {f.Node + " is stopped in order (heartbeat -k)", f.Node + " is started again"},
		Stall:     {"the daemon on " + f.Node + " stands still (SIGSTOP, swapping)", "the daemon on " + f.Node + " goes on"},
		Freeze:    {"the machine " + f.Node + " freezes, clock and all", "the machine " + f.Node + " goes on"},
		Standby:   {fmt.Sprintf("operator on %s: hb_standby %s", f.Node, set), ""},
		Takeover:  {fmt.Sprintf("operator on %s: hb_takeover %s", f.Node, set), ""},
		StartFails: {
			fmt.Sprintf("from now on every start of %s on %s fails", f.Group, f.Node), fmt.Sprintf("%s can be started on %s again", f.Group, f.Node)},
		StopFails: {
			fmt.Sprintf("from now on every stop of %s on %s fails", f.Group, f.Node), fmt.Sprintf("%s can be stopped on %s again", f.Group, f.Node)},
		PingCut:    {"ping node " + f.Link + " does not answer" + onlyTo(f.Node), "ping node " + f.Link + " answers" + onlyTo(f.Node) + " again"},
		FenceFails: {f.Node + "'s fencing device does not answer", f.Node + "'s fencing device answers again"},
	}[f.Kind]
	if repaired {
		return words[1]
	}
	return words[0]
}

func onlyTo(node string) string {
	if node == "" {
		return ""
	}
	return " " + node
}
