package cluster

import "fmt"

// askResources handles every message of the standby exchange, the other
// node's and our own.
func (m *Machine) askResources(from string, msg AskResources) {
	self := from == m.cfg.Self
	if m.st.Phase == PhaseShutdown {
		return
	}
	if m.cfg.Failback == FailbackLegacy {
		m.info("Standby mode only implemented when nice_failback on", "no standby with auto_failback legacy")
		return
	}
	if !self && msg.Info != "me" && msg.Exchange != 0 && msg.Exchange != m.st.Exchange {
		m.info(fmt.Sprintf("standby message [%s] from %s belongs to exchange %d, this is %d", msg.Info, from, msg.Exchange, m.st.Exchange), "standby message of another exchange ignored", "node", from, "info", msg.Info)
		if m.st.Standby == StandbyNot && msg.Info == "other" {
			m.sayHold(m.st.Phase == PhaseStable, infoResync, true) // it answers what was cancelled
		}
		return
	}
	if m.st.StandbyEnd.On && msg.Info == "me" && m.crossed(from) {
		m.record("standby", "withdraws its standby request", from+" has asked for one at the same time")
		m.cancelStandby(from, from+" has asked for a standby at the same time")
		m.st.OtherStable = true // what was said before both requests still holds
	}
	if m.st.StandbyEnd.On && msg.Info == "me" {
		left := m.st.StandbyEnd.At.Sub(m.now).Seconds()
		m.warn(fmt.Sprintf("Standby in progress- new request from %s ignored [%d seconds left]", from, int(left)), "standby request ignored: one is in progress", "node", from)
		return
	}
	switch m.st.Standby {
	case StandbyNot:
		m.standbyBegin(from, self, msg)
		if msg.Info == "other" && !self && m.peerNew() {
			m.sayHold(m.st.Phase == PhaseStable, infoResync, true) // it answers what was cancelled
		}
		return
	case StandbyMe:
		if msg.Info == "other" && !self {
			m.st.StandbyEnd.set(m.now.Add(standbyLimit), "end of the standby")
			m.info(fmt.Sprintf("standby: %s can take our %s resources", from, msg.Set), "other node is ready to take over", "node", from, "set", msg.Set.String())
			m.progress(fmt.Sprintf("%s is ready; releasing %s resources", from, msg.Set))
			m.st.StandbySet = msg.Set
			m.giveUp(msg.Set)
			return
		}
		if msg.Info == "done" && self {
			m.info(fmt.Sprintf("Local standby process completed [%s].", msg.Set), "released for standby", "set", msg.Set.String())
			m.progress(fmt.Sprintf("%s resources released", msg.Set))
			m.st.Standby = StandbyDone
			m.st.Mine &^= msg.Set
			m.st.StandbyEnd.set(m.now.Add(standbyLimit), "end of the standby")
			return
		}
	case StandbyOther:
		if msg.Info == "other" && self {
			return
		}
		if msg.Info == "done" && !self {
			m.takeReleased(from, msg.Set)
			return
		}
	case StandbyDone:
		if msg.Info == "done" {
			m.standbyDone(from, self, msg.Set)
			return
		}
	}
	m.log(Error, fmt.Sprintf("Ignored standby message '%s' from %s in state %d", msg.Info, from, m.st.Standby), "standby message in the wrong phase", "node", from, "info", msg.Info)
}

// takeReleased takes what the other node has released for us.
func (m *Machine) takeReleased(from string, set Set) {
	m.info(fmt.Sprintf("standby: acquire [%s] resources from %s", set, from), "taking over after standby", "node", from, "set", set.String())
	m.st.Standby, m.st.StandbyCut = StandbyDone, false
	m.st.StandbyEnd.set(m.now.Add(standbyLimit), "end of the standby")
	m.record("owner", fmt.Sprintf("takes %s resources", set.Mirror()), from+" went standby and released them")
	m.runTake(whyTake, set.Mirror(), set, from+" went standby and released them")
}

func (m *Machine) standbyBegin(from string, self bool, msg AskResources) {
	switch {
	case msg.Info == "done" && !self && m.st.StandbyCut && msg.Set == m.st.StandbySet && m.st.Phase == PhaseStable && m.st.Shutdown < shutdownReleasing:
		// It was held for dead meanwhile, a 3.0.6 that does not know it; what it
		// has released by now nobody has.
		m.takeReleased(from, msg.Set)
	case msg.Info == "done" && !self && m.releasedUnasked(from, msg.Set):
		m.warn(fmt.Sprintf("%s has released %s resources in a standby that is over here: they are taken all the same", from, msg.Set), "released in a standby that is over", "node", from, "set", msg.Set.String())
		m.takeReleased(from, msg.Set)
	case !m.st.OtherStable:
		m.warn(fmt.Sprintf("standby message [%s] from %s ignored.  Other side is in flux.", msg.Info, from), "standby message ignored: other side in flux", "node", from)
	case m.st.Phase != PhaseStable:
		m.warn(fmt.Sprintf("standby message [%s] from %s ignored.  local resources in flux.", msg.Info, from), "standby message ignored: local resources in flux", "node", from)
	case msg.Info == "other" && !self && !m.peerNew():
		m.answeredLate(from, msg.Set)
	case msg.Info != "me":
		m.log(Error, fmt.Sprintf("Ignored standby message '%s' from %s in state %d", msg.Info, from, m.st.Standby), "standby message in the wrong phase", "node", from, "info", msg.Info)
	default:
		m.st.OtherStable, m.st.FailbackAsked = false, false
		m.info(fmt.Sprintf("%s wants to go standby [%s]", from, msg.Set), "standby wanted", "node", from, "set", msg.Set.String())
		m.record("standby", fmt.Sprintf("%s wants to give up %s resources", from, msg.Set), "standby request")
		m.st.StandbySet, m.st.StandbyFrom, m.st.StandbyCut = msg.Set, from, false
		m.st.Exchange = msg.Exchange
		if self {
			m.st.Standby = StandbyMe
			m.st.StandbyEnd.set(m.now.Add(standbyAnswer), "answer of the other node to our standby request")
			return
		}
		m.st.Standby = StandbyOther
		limit := standbyLimit
		if !m.peerNew() {
			// 3.0.6 sends a request that it then ignores itself, because to it we
			// are in flux.
			limit = standbyBegun
		}
		m.st.StandbyEnd.set(m.now.Add(limit), "end of the standby")
		m.progress(fmt.Sprintf("%s is giving up %s resources", from, msg.Set))
		m.send(AskResources{Set: msg.Set, Info: "other"})
	}
}

// crossed reports whether another new node's request has met ours, which it
// ignores: of two the one of the first by name counts. Else both would wait in vain,
// and ask again at the same time.
func (m *Machine) crossed(from string) bool {
	waits := m.st.Standby == StandbyMe && m.st.StandbyEnd.At.Sub(m.now) <= standbyAnswer
	return waits && m.peerNew() && from < m.cfg.Self
}

// releasedUnasked reports whether a 3.0.6 node has released a set, by its newest
// word, in an exchange that was given up here. It waits for an hour for the end of
// it, and neither of us would start what it has stopped.
func (m *Machine) releasedUnasked(from string, set Set) bool {
	n := m.node(from)
	newest := n.AskSeq > n.ClaimSeq || m.st.Theirs&set == None
	giver := m.st.StandbyFrom == from && m.st.StandbySet == set // the taker's last word is the same
	return !n.New && giver && newest && m.st.Phase == PhaseStable && m.st.Shutdown < shutdownReleasing
}

// standbyGoesOn is the giver's word that it has begun to give.
func (m *Machine) standbyGoesOn() {
	if m.st.Standby == StandbyOther {
		m.st.StandbyEnd.set(m.now.Add(standbyLimit), "end of the standby")
	}
}

// answeredLate honours the answer to a request that nobody waits for any more:
// ours was on its way for longer than we waited. A 3.0.6 node that has answered
// waits for an hour, and meanwhile neither stops nor moves anything.
func (m *Machine) answeredLate(from string, set Set) {
	m.warn(fmt.Sprintf("%s answers a standby request that was given up: %s resources go there now", from, set), "standby answered late", "node", from, "set", set.String())
	m.record("standby", fmt.Sprintf("gives up %s resources", set), from+" answered a request that had been given up, and would wait for an hour")
	m.st.OtherStable = false
	m.st.Standby, m.st.StandbySet, m.st.StandbyFrom = StandbyMe, set, m.cfg.Self
	m.askResources(from, AskResources{Set: set, Info: "other"})
}

// giveUp releases a set for the other node.
func (m *Machine) giveUp(set Set) {
	m.st.Mine &^= set
	m.st.Took &^= set
	m.st.Kept &^= set
	m.sayResource(false, "standby")
	title := fmt.Sprintf("give up %s HA resources (standby).", set)
	m.info(title, "releasing for standby", "set", set.String())
	m.run(job{Why: whyGive, Kind: JobGive, Set: set, Keys: m.keys(set), Title: title}, "standby")
}

// runTake takes a set (seen from here) as part of an exchange about said (seen
// from the node that gives).
func (m *Machine) runTake(why jobWhy, set, said Set, reason string) {
	title := fmt.Sprintf("acquire %s HA resources (standby).", set)
	m.info(title, "taking resources", "set", set.String())
	m.st.StandbySet = said
	m.run(job{Why: why, Kind: JobTake, Set: set, Keys: m.keys(set), Title: title}, reason)
}

// standbyDone ends the exchange on both sides.
func (m *Machine) standbyDone(from string, self bool, set Set) {
	m.endStandby()
	if self {
		m.info(fmt.Sprintf("Standby resource acquisition done [%s].", set), "took over after standby", "set", set.String())
		m.st.Mine |= set.Mirror()
		m.st.Took &^= set.Mirror()
		m.st.Lingering &^= set.Mirror()
		if set.Mirror().Has(Local) {
			m.acquired("auto_failback")
		}
		m.finish(fmt.Sprintf("%s resources taken over", set.Mirror()), "")
	} else {
		m.info(fmt.Sprintf("Other node completed standby takeover of %s resources.", set), "other node took over", "node", from, "set", set.String())
		m.finish(fmt.Sprintf("%s has taken over %s resources", from, set), "")
	}
	m.sayResource(true, "")
}

// cancelStandby ends an exchange that the other node does not know any more.
func (m *Machine) cancelStandby(node, reason string) {
	if m.st.Standby == StandbyNot && !m.st.StandbyEnd.On {
		return
	}
	m.info("Cancelling pending standby operation", "standby cancelled", "node", node)
	m.st.StandbyCut = m.st.Standby == StandbyOther
	m.failbackLater()
	m.endStandby()
	m.claimTaken()
	m.notHanded()
	m.failPending(reason)
}

// claimTaken claims at once, and not only when it is done, what an exchange that
// is no more has us take: the other node gave it up, and after a restart it asks
// what nobody holds.
func (m *Machine) claimTaken() {
	claim := func(j job) {
		if j.Why == whyTake || j.Why == whyDone {
			m.st.Mine |= j.Set
		}
	}
	for _, j := range m.st.Jobs {
		claim(j)
	}
	for _, q := range m.st.Queue {
		if q.Take != nil {
			claim(*q.Take)
		}
	}
}

// notHanded has failed groups be offered again: nobody took them.
func (m *Machine) notHanded() {
	for i := range m.st.Groups {
		if s := &m.st.Groups[i]; s.State == "failed" {
			s.Handed = false
		}
	}
}

// failbackLater has a failback that comes to nothing be tried again.
func (m *Machine) failbackLater() {
	if m.st.Standby == StandbyMe && m.st.FailbackAsked {
		m.st.FailbackDue = true
		m.st.FailbackTry.set(m.now.Add(failbackAgain), "handing resources back, once more")
	}
}

func (m *Machine) endStandby() {
	if f := &m.st.IPFail; f.Gave {
		f.Gave = false
		f.Ask = f.Ask || m.pings() > f.Pings // what was given up for may be over already
	}
	m.st.Standby = StandbyNot
	m.st.StandbyEnd.stop()
}

// standbyTimeout is the other node's failure to answer.
func (m *Machine) standbyTimeout() {
	m.failbackLater()
	m.st.StandbyCut = m.st.StandbyCut || m.st.Standby == StandbyOther // it may still release
	m.endStandby()
	m.claimTaken()
	m.notHanded()
	m.st.OtherStable = true
	m.st.Mine |= m.stuck() // it may still run here, and nobody took it
	m.warn("No reply to standby request.  Standby request cancelled.", "standby request cancelled: no answer")
	m.failPending("the other node did not answer the standby request")
	if m.peerNew() {
		m.sayHold(m.st.Phase == PhaseStable, infoResync, true) // it may have answered
		return
	}
	m.sayResource(m.st.Phase == PhaseStable, "") // it may think us in flux
}

// order carries out an operator's wish and answers it.
func (m *Machine) order(o Order) {
	if o.Verb == OrderShutdown {
		m.st.ShutdownID = append(m.st.ShutdownID, o.ID)
		if m.st.Shutdown == shutdownNo {
			m.st.Shutdown = shutdownWanted
			m.record("operator", "asks for a shutdown", o.From)
			if m.st.CommUp && !m.stable() {
				m.warn("Shutdown delayed until current resource activity finishes.", "shutdown delayed: resources are moving")
			}
		}
		return
	}
	if o.Verb == OrderConfirmDown {
		m.confirmDown(o)
		return
	}
	m.record("operator", fmt.Sprintf("asks for %s of %s resources", verbWord(o.Verb), o.Set), o.From)
	if text, refused := m.refuse(o); refused != "" || text != "" {
		m.out = append(m.out, Reply{ID: o.ID, Text: text, Final: true, Err: refused})
		return
	}
	m.st.Pending = pendingOrder{On: true, ID: o.ID, Verb: o.Verb, Set: o.Set}
	m.st.Pending.Timeout.set(m.now.Add(takeoverAnswer), "answer to the operator's order")
	if o.Verb == OrderStandby {
		m.progress(fmt.Sprintf("asking the other node to take %s resources", o.Set))
		m.send(AskResources{Set: o.Set, Info: "me"})
		return
	}
	m.progress(fmt.Sprintf("asking the other node to give up %s resources", o.Set.Mirror()))
	m.send(HBTakeover{o.Set})
}

func verbWord(v Verb) string {
	return [...]string{"nothing", "standby", "takeover", "shutdown"}[v]
}

// refuse says why an order cannot be carried out now, or (text) that there is
// nothing to do.
func (m *Machine) refuse(o Order) (text, err string) {
	switch {
	case m.cfg.Failback == FailbackLegacy:
		return "", "auto_failback is legacy: standby and takeover need auto_failback on or off in ha.cf"
	case m.st.Shutdown != shutdownNo:
		return "", "this node is shutting down"
	case !m.st.CommUp:
		return "", "communication is not up yet: waiting for every configured node to be heard or to be dead"
	case m.st.Pending.On || m.st.Standby != StandbyNot:
		return "", "a standby or takeover is in progress"
	case o.Verb == OrderStandby && m.st.Mine&o.Set == None:
		return fmt.Sprintf("nothing to do: this node holds %s, not %s resources", m.st.Mine, o.Set), ""
	case o.Verb == OrderTakeover && m.st.Mine.Has(o.Set):
		return fmt.Sprintf("nothing to do: this node holds %s resources already", o.Set), ""
	case !m.peerActive():
		return "", "no other node is active: nobody could take or give the resources"
	case !m.st.OtherStable:
		return "", "the other side is in flux: its resources are moving; try again in some seconds"
	case m.st.Phase != PhaseStable:
		return "", "local resources are in flux: this node has not settled since its start; try again in some seconds"
	}
	return "", ""
}

// progress tells the operator what is going on.
func (m *Machine) progress(text string) {
	if m.st.Pending.On {
		if m.st.Standby != StandbyNot {
			m.st.Pending.Begun = true
			m.st.Pending.Timeout.stop()
		}
		m.out = append(m.out, Reply{ID: m.st.Pending.ID, Text: text})
	}
}

// finish answers the operator for good.
func (m *Machine) finish(text, err string) {
	if m.st.Pending.On {
		m.out = append(m.out, Reply{ID: m.st.Pending.ID, Text: text, Final: true, Err: err})
		m.st.Pending = pendingOrder{}
	}
}

func (m *Machine) failPending(reason string) { m.finish("", reason) }

// checkPending gives up on an order that nothing came of.
func (m *Machine) checkPending() {
	p := &m.st.Pending
	if !p.On {
		return
	}
	if m.st.Standby != StandbyNot {
		p.Timeout.stop()
		p.Begun = true
	}
	switch {
	case p.Verb == OrderStandby && !p.Begun && m.st.Standby == StandbyNot:
		m.failPending("the request was refused: resources are moving")
	case p.Timeout.due(m.now):
		m.failPending("the other node did not react to the request")
	}
}
