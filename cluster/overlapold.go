package cluster

import "fmt"

// What is done when a 3.0.6 node claims what this one holds.
//
// 3.0.6 ends an overlap by a restart, when it hears again a node that it held for
// dead, or by a failback. But time in which it did not run it takes for our silence:
// it holds us for dead with the same keepalive with which it hears us, takes
// everything, and then only complains that both own it, for ever. So it is left to
// this node: it asks what the other one holds, which has it hand back what it is to,
// and then lets go of what is still claimed.

// oldOverlapMax is how many looks at an overlap wait for the other node to be
// stable, or for what it said to arrive.
const oldOverlapMax = 6

// oldOverlap is what this node and an old one claim both. What they are moving, or
// a restart that will end it, is waited for; what could not be stopped is tried
// again at its time.
func (m *Machine) oldOverlap(n *node) Set {
	switch {
	case n.New || n.State != "active" || !n.claims() || m.cfg.Failback == FailbackLegacy || m.st.Phase != PhaseStable:
		return None
	case m.st.Standby != StandbyNot || m.st.Shutdown != shutdownNo || m.st.RestartAt.On || m.resourceJobs():
		return None
	}
	return m.st.Mine & m.st.Theirs.Mirror() &^ m.stuck()
}

// endOldOverlap goes on with an overlap with an old node that has lasted for
// overlapPause since the last look at it.
func (m *Machine) endOldOverlap(n *node) {
	both := m.oldOverlap(n)
	if both == None {
		return
	}
	m.st.OverlapLooks++
	if m.st.OverlapLooks == 1 {
		m.info(fmt.Sprintf("Node %s claims %s resources that this node holds: it is asked what it holds", n.Name, both), "overlap with a 3.0.6 node", "node", n.Name, "set", both.String())
		// It answers who has become stable, and hands back then.
		m.sayResource(false, "")
		m.sayResource(true, "")
		return
	}
	if (n.Gap || !m.st.OtherStable) && m.st.OverlapLooks < oldOverlapMax {
		return
	}
	m.st.OverlapLooks = 0
	m.st.AskHome = m.cfg.Failback == FailbackOn && both.Has(Local)
	m.yield(both, n.Name+" claims them too, and heartbeat 3.0.6 does not let go by itself")
}

// askHome asks an old node for our groups which were let go of because it had taken
// them: with auto_failback on they are at home here.
func (m *Machine) askHome() {
	if !m.st.AskHome {
		return
	}
	m.st.AskHome = false
	if m.st.Phase == PhaseStable && m.st.Shutdown == shutdownNo && !m.peerNew() && m.st.Theirs.Has(Foreign) && !m.st.Mine.Has(Local) {
		m.send(HBTakeover{Local})
	}
}
