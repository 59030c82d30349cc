package cluster

import "slices"

// AtRest reports whether nothing is under way on this node, and nothing is wrong
// with another one as far as it knows: all are active, every group's place is
// settled, and no time is waited for but the next keepalives. What a keepalive says
// that says the same as the one before cannot matter then before our own next one.
func (m *Machine) AtRest() bool {
	switch {
	case !m.st.Started, !m.st.CommUp, m.st.Silent, m.st.Doubt.On, m.self().State != "active":
		return false
	case m.st.Phase != PhaseStable && m.cfg.Failback != FailbackLegacy, m.st.Standby != StandbyNot, m.st.Shutdown != shutdownNo:
		return false
	case len(m.st.Jobs) > 0, len(m.st.Queue) > 0, m.st.Settle.On, m.st.Overlap.On, m.st.Mine&m.st.Theirs.Mirror() != None:
		return false
	case m.st.Jumped.On && m.now.Sub(m.st.Jumped.At) < m.deafTime():
		return false
	}
	timers := m.ownTimers()
	if slices.ContainsFunc(timers[:], func(t timer) bool { return t.On }) {
		return false
	}
	rest := true
	m.peers(func(n *node) {
		rest = rest && n.Heard && n.State == "active" && !n.Returning && !n.Gap && !n.Parted && !n.Deaf.On && !n.Refuses.On && !n.Outdated.On
	})
	return rest
}

// RestUntil is when, at rest, something is due for the first time if nothing is
// heard: own keepalives are left out.
func (m *Machine) RestUntil() (at Instant, ok bool) {
	for i := range m.st.Nodes {
		m.nodeTimers(&m.st.Nodes[i], false, func(t timer) {
			if t.On && (!ok || t.At < at) {
				at, ok = t.At, true
			}
		})
	}
	return at, ok
}
