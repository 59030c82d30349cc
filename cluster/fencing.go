package cluster

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// fencePause separates two attempts to reset a node, as in the original.
const fencePause = 5 * time.Second

// fencing is the reset of a dead node, from its death to the outcome: nothing of
// the node is taken before that.
type fencing struct {
	Node   string // "" when nothing waits for a reset
	Reason string // why it is dead
	Try    timer  // the next attempt
	Err    string // what the last attempt failed of
	// Ours: nothing is taken from the node, it is reset so that it does not
	// reset us.
	Ours bool
	// Begun is when the running attempt began.
	Begun Instant
}

// fenceDelay is how long this node waits before it resets the other one.
//
// When every link is cut between two nodes that live, each declares the other
// dead at the same time, give or take a keepalive. The one that is to win resets
// at once, the other one waits long enough to be gone by then. Neither can ask
// the other, and what each believes of the other's holdings may be old; so each
// goes by itself alone, and all cases that can meet lie a whole delay apart:
//
//	first by name, holds something               0
//	second, whatever it holds                    1 delay
//	first, holds nothing                         2 delays
//	first, has not heard the other one yet       3 delays
//	second, has not heard the other one yet      4 delays
//
// By name, since the node lines of the two files may differ in their order.
// Who was still starting, and so granted initdead too, counts as one that has not
// heard it. The first keeps what it has. The second wins only when the first has nothing
// to lose. One that has just started is granted initdead and so may be later than
// the other one by more than a keepalive, but not earlier: it comes last. Two that
// have both not heard each other have nothing in common to count from; only
// fencing.at_start = "wait" keeps those apart. 3.0.6 resets at once, whatever it
// holds, so towards it we always wait.
func (m *Machine) fenceDelay(n *node) time.Duration {
	first := m.cfg.Self < n.Name
	heard, times := n.Generation != 0 && m.st.CommUp, time.Duration(1)
	switch {
	case !heard && first:
		times = 3
	case !heard:
		times = 4
	case !n.New || !first:
	case m.st.Mine != None:
		times = 0
	default:
		times = 2
	}
	return times * m.cfg.FenceDelay
}

// fenceForOurs resets a dead node that held nothing, if this one does: when both
// live and only the links are cut, the other one waits for the end of its delay
// to reset us and take what we have. 3.0.6 leaves such a node alone, and so do we
// without a delay.
func (m *Machine) fenceForOurs(n *node, reason string) {
	if !m.cfg.Stonith || m.cfg.FenceDelay == 0 || m.st.Mine == None || n.Parted || n.Down {
		return
	}
	m.mustFence(n, fencing{Node: n.Name, Reason: reason, Ours: true})
}

// mustFence begins the reset of a node that has died.
func (m *Machine) mustFence(n *node, f fencing) {
	if n.Down {
		m.takeover(n.Name, f.Reason+"; it was reset and has not started again")
		return
	}
	f.Begun = m.st.Fencing.Begun
	m.st.Fencing = f
	if m.fenceRuns(n.Name) {
		return // begun before the node returned for a while: its outcome counts
	}
	if m.cfg.FenceWait && n.Generation == 0 {
		m.st.Fencing.Err = "nothing was heard of it since this node started, and fencing.at_start is \"wait\""
		m.warn(fmt.Sprintf("Node %s is not reset: %s", n.Name, m.st.Fencing.Err), "not reset: never heard", "node", n.Name)
		m.record("node", n.Name+" is not reset", m.st.Fencing.Err)
		return
	}
	delay := m.fenceDelay(n) + m.restartTime(n)
	if delay == 0 {
		m.fence()
		return
	}
	m.info(fmt.Sprintf("Resetting node %s in %v, if it stays silent: should it live, it resets this node first", n.Name, delay), "reset delayed", "node", n.Name, "delay", delay)
	m.st.Fencing.Try.set(m.now.Add(delay), "resetting "+n.Name+" if it stays silent")
}

// resetOver forgets the resets of a node that has lived for a while since.
func (m *Machine) resetOver(n *node) {
	if n.Reset.On && m.now.Sub(n.Reset.At) > 2*m.cfg.Initdead {
		n.Reset.stop()
		n.Resets = 0
	}
}

// restartTime is the time that a node is left in which to start, before it is
// reset once more: it may be the reset that keeps it from that. It doubles.
func (m *Machine) restartTime(n *node) time.Duration {
	if n.Resets == 0 {
		return 0
	}
	return min(m.cfg.Initdead<<min(n.Resets, 8), retryMax)
}

// awaitsReset reports whether nothing may be taken before a node is reset.
func (m *Machine) awaitsReset() bool {
	n := m.node(m.st.Fencing.Node)
	return n != nil && n.State == "dead" && !m.st.Fencing.Ours
}

// heldNothing reports whether a dead node has said that it held nothing and was
// not about to change that: it may have been stopping what it gave up. With
// auto_failback legacy nodes do not say what they hold, and one that has just
// been started may have found something running. What nobody held it may have taken
// since, its last word being lost.
func (m *Machine) heldNothing(n *node) bool {
	return n.Parted || m.cfg.Failback != FailbackLegacy && n.ClaimSeq > 0 && m.st.OtherStable && m.st.TheirReleasing == None && m.holdsAll()
}

// holdsAll reports whether this node holds every group.
func (m *Machine) holdsAll() bool {
	return !slices.ContainsFunc(m.cfg.Groups, func(g Group) bool { return !m.st.Mine.Has(m.setOf(g)) })
}

// startPutOff goes on with a start that waited for the reset of a node, or for
// nobody to answer for its addresses: it lives, and was held for dead. With
// auto_failback on or off a 3.0.6 has not heard that we start.
func (m *Machine) startPutOff(n *node, wasDead bool) {
	if wasDead && !n.New && n.State == "active" && m.st.Phase == PhaseStarting && m.partner(n.Name) {
		m.send(Starting{})
	}
	if m.cfg.Failback == FailbackLegacy && m.st.CommUp && n.State == "active" && m.st.Shutdown == shutdownNo && !m.st.RestartAt.On && m.partner(n.Name) && m.localPutOff() {
		m.acquireLocal(true, n.Name+" lives")
	}
}

// localPutOff reports whether nobody has looked at this node's own groups yet: they
// are not claimed, or only because they were found running at start.
func (m *Machine) localPutOff() bool {
	if !m.st.Mine.Has(Local) {
		return true
	}
	if slices.ContainsFunc(m.st.Jobs, func(j job) bool { return j.Why == whyLocal }) {
		return false
	}
	for i, g := range m.cfg.Groups {
		if m.setOf(g) == Local && m.st.Groups[i].Found && !m.busy(g.Key) {
			return true
		}
	}
	return false
}

func (m *Machine) fenceRuns(name string) bool {
	return slices.ContainsFunc(m.st.Jobs, func(j job) bool { return j.Kind == JobFence && j.Node == name })
}

// fence resets the node, if that is still wanted.
func (m *Machine) fence() {
	f := &m.st.Fencing
	f.Try.stop()
	n := m.node(f.Node)
	if n == nil || n.State != "dead" || m.leaving() {
		*f = fencing{}
		m.st.OtherStable = m.st.OtherStable || m.leaving() // a shutdown need not wait for the dead
		return
	}
	why := f.Reason + ", and it may still hold resources"
	if f.Ours {
		why = f.Reason + ", and would reset this node if it lives"
	}
	m.record("node", "resets "+f.Node, why)
	f.Begun = m.now
	m.run(job{Why: whyFence, Kind: JobFence, Node: f.Node, Reason: f.Reason, Generation: n.Generation}, f.Reason)
}

// fenced is the end of an attempt.
func (m *Machine) fenced(j job, err string) {
	f := &m.st.Fencing
	wanted := f.Node == j.Node
	n := m.node(j.Node)
	if err != "" {
		m.log(Error, fmt.Sprintf("STONITH of %s failed.  Retrying...", j.Node), "reset failed", "node", j.Node, "err", err)
		m.record("node", "reset of "+j.Node+" failed", err)
		if wanted {
			f.Err = err
			f.Try.set(m.now.Add(fencePause), "resetting "+j.Node+" again")
		}
		return
	}
	m.info(fmt.Sprintf("node %s now reset.", j.Node), "node reset", "node", j.Node)
	m.record("node", j.Node+" was reset", j.Reason)
	if n == nil {
		return
	}
	if n.State != "dead" && n.Generation != j.Generation {
		// It has started again since: we learn late of the reset, or it was another
		// life that was reset. If this one is gone, its silence will tell.
		m.record("node", j.Node+" has started again since it was reset", "its generation grew")
		n.Reset.set(m.now, "")
		n.Resets++
		return
	}
	n.Down = true
	if took := m.now.Sub(f.Begun); wanted && m.cfg.FenceDelay > 0 && took > m.cfg.FenceDelay {
		m.warn(fmt.Sprintf("The reset of %s took %v, longer than the delay of %v by which the nodes' resets are kept apart: two living nodes could reset each other. Raise fencing.delay", j.Node, took.Round(time.Millisecond), m.cfg.FenceDelay),
			"reset took longer than the delay", "node", j.Node, "took", took, "delay", m.cfg.FenceDelay)
	}
	if n.State != "dead" {
		// It was heard again while the device was at work, and is gone now.
		m.declareDead(n, j.Node+" was reset although it had returned")
		return
	}
	if wanted {
		ours := f.Ours
		*f = fencing{}
		if m.send(Stonith{j.Node, "OK"}); !ours {
			m.takeover(j.Node, j.Reason+"; it was reset")
		}
	}
}

// confirmDown is an operator's word that a node is down whose device cannot say
// so. It is believed, since nobody else can know, and written down.
func (m *Machine) confirmDown(o Order) {
	answer := func(text, err string) { m.out = append(m.out, Reply{ID: o.ID, Text: text, Err: err, Final: true}) }
	n := m.node(o.Node)
	switch {
	case n == nil || n.Ping || n.Name == m.cfg.Self:
		answer("", fmt.Sprintf("%s is no other node of this cluster", o.Node))
	case n.State != "dead":
		answer("", fmt.Sprintf("%s is not dead but %s: a node that is heard is not down", n.Name, n.State))
	case n.Probe.Refused:
		m.warn(fmt.Sprintf("%s confirms that node %s is down: its resources are taken although somebody answers for its addresses. If it is not down, both nodes own them now", o.From, n.Name),
			"operator confirms that a node is down", "node", n.Name, "from", o.From)
		m.record("operator", "confirms that "+n.Name+" is down", o.From+", after: "+cmp.Or(n.Probe.Answer, "no answer has come yet"))
		m.takeConfirmed(n, o)
		answer(fmt.Sprintf("%s counts as down: its resources are taken over", n.Name), "")
	case m.st.Fencing.Node != n.Name:
		answer(fmt.Sprintf("nothing to do: no takeover from %s is held up", n.Name), "")
	case m.st.Fencing.Ours:
		m.record("operator", "confirms that "+n.Name+" is down", o.From)
		m.st.Fencing, n.Down = fencing{}, true
		answer(fmt.Sprintf("%s counts as down and is not reset any more", n.Name), "")
	default:
		m.warn(fmt.Sprintf("%s confirms that node %s is down: its resources are taken without a reset. If it is not down, both nodes own them now", o.From, n.Name),
			"operator confirms that a node is down", "node", n.Name, "from", o.From)
		m.record("operator", "confirms that "+n.Name+" is down", o.From+", after: "+cmp.Or(m.st.Fencing.Err, "no reset has ended yet"))
		m.takeConfirmed(n, o)
		answer(fmt.Sprintf("%s counts as down: its resources are taken over", n.Name), "")
	}
}

// takeConfirmed takes the groups of a node that is down by an operator's word.
func (m *Machine) takeConfirmed(n *node, o Order) {
	m.st.Fencing, n.Down = fencing{}, true
	n.Probe.Refused = false
	n.Probe.Again.stop()
	m.send(Stonith{n.Name, "OK"})
	m.takeover(n.Name, n.Name+" is down, says "+o.From)
}

// fenceWarnings say what a takeover waits for.
func (m *Machine) fenceWarnings() (w []string) {
	f := m.st.Fencing
	if n := m.node(f.Node); n == nil || n.State != "dead" || f.Err == "" || m.leaving() {
		return nil
	}
	so := ", so its resources are not taken"
	if f.Ours {
		so = ""
	}
	return append(w, fmt.Sprintf("%s is dead and was not reset%s: %s. Mend that or, once you have seen to it that %s is down, type hbctl fence-ack %s", f.Node, so, f.Err, f.Node, f.Node))
}
