package cluster

import (
	"fmt"
	"slices"
)

// What keepalives say of ownership.
//
// A claim (Resource) is said once, and again when a packet is missed. Under heavy
// loss that may take long, and what was said to a node while it was held for dead
// is not kept at all. So between new nodes every keepalive says what its sender
// holds: whoever hears anything of a node knows what not to start.

// claims reports whether the node has said in this life of its what it holds.
func (n *node) claims() bool { return n.ClaimSeq > 0 || n.HoldSeq > 0 }

// sayHolds adds to a status what this node holds, or is about to start.
func (m *Machine) sayHolds(msg *Status) {
	msg.Holds = true
	if m.cfg.Failback == FailbackLegacy {
		msg.Hold, msg.Releasing = m.runs()
		return
	}
	msg.Hold, msg.Took, msg.Releasing = m.st.Mine, m.st.Took&m.st.Mine, m.unreleased()&^m.st.Mine
}

// runs are the sets of which something runs here or is or will be started, and those
// of which something is not stopped yet. With auto_failback legacy groups move one
// by one, and there is no other word for what a node has.
func (m *Machine) runs() (set, stopping Set) {
	for i, g := range m.cfg.Groups {
		switch s := &m.st.Groups[i]; {
		case s.Stuck, s.State == "stopping":
			stopping |= m.setOf(g)
		case s.State == "starting", s.State == "running":
			set |= m.setOf(g)
		}
	}
	for _, q := range m.st.Queue {
		switch {
		case q.Take != nil && q.Take.Kind == JobTake:
			set |= q.Take.Set
		case q.Why == whyMachDown:
			set |= Foreign
		case q.Why == whyRequested:
			set |= m.keySet(q.Key)
		}
	}
	return set, stopping
}

// statusHolds takes what the newest keepalive of a node says that it holds.
func (m *Machine) statusHolds(n *node, msg Status, seq uint64) {
	n.Hold = msg.Hold | msg.Releasing
	if !msg.Holds || !m.partner(n.Name) || !m.partner(m.cfg.Self) || m.st.Shutdown != shutdownNo {
		return
	}
	switch {
	case !m.st.CommUp:
		if msg.State != "active" {
			return // it has only found something, perhaps
		}
		if both := m.st.Mine & msg.Hold.Mirror(); both != None {
			m.yield(both, fmt.Sprintf("found running at start, but %s owns it", n.Name))
		}
		if m.cfg.Failback != FailbackLegacy {
			n.HoldSeq = seq // it may not live to tell it again
			m.holdKnown(n, msg)
		}
	case m.cfg.Failback == FailbackLegacy:
		m.legacyHolds(n, msg)
	case seq > n.ClaimSeq && (n.claims() || m.st.Phase < PhaseStable || len(msg.Dead) > 0):
		// One that has just started claims nothing yet: it asks first.
		n.HoldSeq = seq
		m.holdKnown(n, msg)
	}
}

// holdKnown corrects what is known of the other node's ownership by its
// keepalive, when a claim of its was not heard.
func (m *Machine) holdKnown(n *node, msg Status) {
	if m.st.Theirs == msg.Hold && m.st.TheirTook == msg.Took && m.st.TheirReleasing == msg.Releasing {
		return
	}
	m.info(fmt.Sprintf("node %s holds %s resources, by its keepalive", n.Name, msg.Hold), "ownership known by a keepalive", "node", n.Name, "holds", msg.Hold.String(), "known", m.st.Theirs.String())
	m.st.Theirs, m.st.TheirTook, m.st.TheirReleasing = msg.Hold, msg.Took, msg.Releasing
	m.st.Lingering &^= m.st.Theirs.Mirror()
	m.announceKept()
	m.reclaim()
}

// asKnown is a claim that came after a keepalive said later: it tells of
// everything but of what its sender holds.
func (m *Machine) asKnown(msg Resource) Resource {
	if !msg.Full {
		msg.Pings = m.st.TheirPings
	}
	msg.Hold, msg.Full, msg.Took, msg.Releasing = m.st.Theirs, true, m.st.TheirTook, m.st.TheirReleasing
	return msg
}

// peerRuns reports whether a new node says of a set, seen from here, that
// something of it runs there (legacy mode).
func (m *Machine) peerRuns(set Set) bool {
	runs := false
	m.partners(func(n *node) { runs = runs || n.New && n.alive() && !n.Parted && n.Hold.Mirror()&set != None })
	return runs
}

// legacyHolds looks at what two new nodes with auto_failback legacy run after they
// had lost each other. A group is at home on the node that haresources names: of
// what both run the one that took it lets go, and what a node misses it asks for
// as after a start.
func (m *Machine) legacyHolds(n *node, msg Status) {
	if msg.State != "active" || m.st.RestartAt.On || slices.Contains(msg.Dead, m.cfg.Self) {
		return
	}
	switch runs, stopping := m.runs(); {
	case (runs|stopping)&Foreign == None:
		m.st.Took &^= Foreign
	case m.st.Took.Has(Foreign) && msg.Hold.Has(Local) && runs.Has(Foreign) && !m.stopping(m.keys(Foreign)):
		m.yield(Foreign, n.Name+" runs its own")
	}
	if !m.st.HomeDue {
		return
	}
	moving := false
	for _, key := range m.keys(Local) {
		if m.missing(key) {
			m.acquireLocal(true, n.Name+" lives")
			return
		}
		moving = moving || m.busy(key)
	}
	m.st.HomeDue = moving
}

// missing reports whether a group of ours is stopped and nothing is under way that
// will start it.
func (m *Machine) missing(key string) bool {
	s := m.group(key)
	if s.State != "" && s.State != "stopped" || s.Wanted || m.busy(key) || m.refusing() != nil {
		return false
	}
	return !slices.ContainsFunc(m.st.Jobs, func(j job) bool { return j.Why == whyLocal }) &&
		!slices.ContainsFunc(m.st.Queue, func(q queued) bool { return q.Key == key || q.Take != nil && slices.Contains(q.Take.Keys, key) })
}
