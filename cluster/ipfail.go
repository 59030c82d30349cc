package cluster

import (
	"fmt"
	"time"
)

// ipfail lets the node that reaches fewer ping nodes give its resources to the
// other one. In the original a program of that name did it, a client of the
// daemon on each node; the two talked to each other through the daemons. Here
// it is part of the machine and says the same words, so that the other side may
// be either.
//
// When a link dies, a ping node comes back or the other ipfail joins, a node
// tells the other how many ping nodes answer it. Who has more says "you are
// dead", and who has fewer gives everything up two keepalives later: time in
// which the other one's loss of the same ping node arrives, if it has one too,
// and with it "abort".

// ipfailName is the client's name on the wire.
const ipfailName = "ipfail"

// giveUpAgain is the time between the moment at which the other node is stable
// again and the next try of a give-up that met moving resources.
const giveUpAgain = 10 * time.Second

// ClientState announces that a client of the original's API has joined or left
// the sender.
type ClientState struct {
	Src, Client string
	Joined      bool
	// Info is signon, signoff or died.
	Info string
}

// PingCount tells Dest's ipfail how many ping nodes answer the sender.
type PingCount struct {
	Src, Dest string
	Count     int
}

// YouAreDead tells Dest's ipfail that more ping nodes answer the sender.
type YouAreDead struct{ Dest string }

// AbortGiveUp tells Dest's ipfail that as many ping nodes answer the sender: a
// planned give-up is off.
type AbortGiveUp struct{ Src, Dest string }

// ClientQuery asks Dest whether a client runs there; Asker is who wants to know,
// a client on the sender.
type ClientQuery struct{ Dest, Client, Asker string }

// ClientAnswer answers a ClientQuery.
type ClientAnswer struct {
	Dest, Client, Asker string
	Online              bool
}

// ClientAsk is an ask_resources by which ipfail has its node go standby.
type ClientAsk struct {
	Src string
	AskResources
}

func (ClientState) isMessage()  {}
func (PingCount) isMessage()    {}
func (YouAreDead) isMessage()   {}
func (AbortGiveUp) isMessage()  {}
func (ClientQuery) isMessage()  {}
func (ClientAnswer) isMessage() {}
func (ClientAsk) isMessage()    {}

// ipfail is its part of the state.
type ipfail struct {
	Joined, Refused bool
	// Ask: something has changed; the count goes out at the end of the step.
	Ask bool
	// GiveUp is when Set is given up, Reason why. Again: that met moving
	// resources and waits until the other node is stable.
	GiveUp timer
	Set    Set
	Reason string
	Again  bool
	// Gave: our node goes standby because we asked for it. Pings is how many
	// answered when that was planned.
	Gave  bool
	Pings int
}

// ipfailLog writes a line in ipfail's name.
func (m *Machine) ipfailLog(level Level, classic, msg string, attrs ...any) {
	m.out = append(m.out, Report{Level: level, Classic: classic, Msg: msg, Attrs: attrs, Entity: ipfailName})
}

// pings counts the ping nodes that answer.
func (m *Machine) pings() (count int) {
	for i := range m.st.Nodes {
		if m.st.Nodes[i].State == "ping" {
			count++
		}
	}
	return count
}

// stepIPFail does, after every event, what follows from it: joins, leaves, tells
// the other node our count.
func (m *Machine) stepIPFail() {
	f := &m.st.IPFail
	switch {
	case !m.cfg.IPFail:
		m.leaveIPFail()
		return
	case !m.st.CommUp || m.st.Shutdown >= shutdownParting || f.Refused:
		return
	case m.cfg.Failback == FailbackLegacy:
		f.Refused = true
		m.ipfailLog(Error, "auto_failback set to incompatible legacy option.", "ipfail needs auto_failback on or off")
		return
	case !f.Joined:
		f.Joined, f.Ask = true, false
		m.send(ClientState{Src: m.cfg.Self, Client: ipfailName, Joined: true, Info: "signon"})
	}
	if f.Ask {
		f.Ask = false
		m.tellPings()
	}
	if f.Again && m.st.OtherStable {
		f.Again = false
		f.GiveUp.set(m.now.Add(giveUpAgain), fmt.Sprintf("giving up %s resources: %s", f.Set, f.Reason))
	}
}

// leaveIPFail is the end of our ipfail.
func (m *Machine) leaveIPFail() {
	if m.st.IPFail.Joined {
		m.send(ClientState{Src: m.cfg.Self, Client: ipfailName, Info: "signoff"})
	}
	m.st.IPFail = ipfail{}
}

// tellPings tells every other node our count.
func (m *Machine) tellPings() {
	m.peers(func(n *node) {
		if n.alive() {
			m.ipfailLog(Info, "Asking other side for ping node count.", "comparing the numbers of ping nodes", "node", n.Name, "ours", m.pings())
			m.send(PingCount{Src: m.cfg.Self, Dest: n.Name, Count: m.pings()})
		}
	})
}

// ipfailNode notes a change of a ping node.
func (m *Machine) ipfailNode(n *node) {
	if !m.st.IPFail.Joined {
		return
	}
	m.ipfailLog(Info, fmt.Sprintf("Status update: Node %s now has status %s", n.Name, n.State), "node status", "node", n.Name, "status", n.State)
	switch {
	case !n.Ping:
	case n.State == "ping":
		m.ipfailLog(Info, "A ping node just came up.", "ping node answers", "node", n.Name)
		m.st.IPFail.Ask = true
	case m.pings() > 0:
		m.ipfailLog(Info, "NS: We are still alive!", "some ping nodes still answer", "count", m.pings())
	default:
		m.ipfailLog(Info, "NS: We are dead. :<", "no ping node answers")
	}
}

// ipfailLink notes that a link has died or works again.
func (m *Machine) ipfailLink(from, link string, up bool) {
	if !m.st.IPFail.Joined {
		return
	}
	state := "dead"
	if up {
		state = "up"
	}
	m.ipfailLog(Info, fmt.Sprintf("Link Status update: Link %s/%s now has status %s", from, link, state), "link status", "node", from, "link", link, "status", state)
	if !up {
		m.st.IPFail.Ask = true
	}
}

// ipfailHeard handles what the other node's ipfail says, and questions about
// ours.
func (m *Machine) ipfailHeard(from string, msg Message) {
	f := &m.st.IPFail
	if q, ok := msg.(ClientQuery); ok {
		if q.Dest == m.cfg.Self {
			m.send(ClientAnswer{Dest: from, Client: q.Client, Asker: q.Asker, Online: q.Client == ipfailName && f.Joined})
		}
		return
	}
	if !f.Joined || m.st.Shutdown != shutdownNo {
		return
	}
	switch msg := msg.(type) {
	case ClientState:
		if msg.Client == ipfailName && msg.Joined {
			m.ipfailLog(Info, fmt.Sprintf("Got join message from another ipfail client. (%s)", from), "the other node's ipfail joined", "node", from)
			f.Ask = true
		}
	case PingCount:
		if msg.Dest == m.cfg.Self {
			m.comparePings(from, msg.Count)
		}
	case YouAreDead:
		if msg.Dest == m.cfg.Self {
			m.ipfailLog(Info, "Giving up because we were told that we have less ping nodes.", "fewer ping nodes here", "node", from)
			m.planGiveUp(All, fmt.Sprintf("%s reaches more ping nodes than the %d that answer here", from, m.pings()))
		}
	case AbortGiveUp:
		if msg.Dest != m.cfg.Self {
			return
		}
		back := f.Set == Foreign
		if !m.abortGiveUp() {
			m.ipfailLog(Info, "No giveup timer to abort.", "no give-up to abort", "node", from)
			back = true
		}
		if back {
			m.giveForeignBack(from)
		}
	}
}

// comparePings answers the other node's count.
func (m *Machine) comparePings(from string, theirs int) {
	ours := m.pings()
	switch {
	case ours > theirs:
		m.ipfailLog(Info, "Telling other node that we have more visible ping nodes.", "more ping nodes here", "node", from, "ours", ours, "theirs", theirs)
		m.send(YouAreDead{Dest: from})
	case ours < theirs:
		m.ipfailLog(Info, "Giving up because we have less visible ping nodes.", "fewer ping nodes here", "node", from, "ours", ours, "theirs", theirs)
		m.planGiveUp(All, fmt.Sprintf("%s reaches %d ping nodes, this node %d", from, theirs, ours))
	default:
		m.ipfailLog(Info, "Ping node count is balanced.", "as many ping nodes here", "node", from, "count", ours)
		m.send(AbortGiveUp{Src: m.cfg.Self, Dest: from})
		if back := m.st.IPFail.Set == Foreign; !m.abortGiveUp() || back {
			m.giveForeignBack(from) // planned anew, if it was planned
		}
	}
}

// giveForeignBack hands back, with auto_failback on, what ipfail had moved here
// or would have: both reach as many ping nodes.
func (m *Machine) giveForeignBack(from string) {
	if m.cfg.Failback == FailbackOn && m.st.Mine.Has(Foreign) {
		m.ipfailLog(Info, "Giving up foreign resources (auto_failback).", "handing foreign resources back", "node", from)
		m.planGiveUp(Foreign, fmt.Sprintf("auto_failback on, and %s reaches as many ping nodes", from))
	}
}

// planGiveUp gives a set up two keepalives from now, unless told otherwise. A
// new reason starts the delay anew.
func (m *Machine) planGiveUp(set Set, reason string) {
	f := &m.st.IPFail
	if f.GiveUp.On {
		m.ipfailLog(Info, "Detected existing delay timer, overriding", "give-up planned anew")
	}
	delay := 2 * m.cfg.Keepalive
	m.ipfailLog(Info, fmt.Sprintf("Delayed giveup in %d seconds.", int(delay.Seconds())), "give-up planned", "set", set.String(), "reason", reason, "delay", delay)
	f.Set, f.Reason, f.Again, f.Pings = set, reason, false, m.pings()
	f.GiveUp.set(m.now.Add(delay), fmt.Sprintf("giving up %s resources: %s", set, reason))
}

// abortGiveUp reports whether a give-up was planned; now none is.
func (m *Machine) abortGiveUp() bool {
	f := &m.st.IPFail
	planned := f.GiveUp.On || f.Again
	f.GiveUp.stop()
	f.Again = false
	if planned {
		m.ipfailLog(Info, fmt.Sprintf("Aborted delayed giveup (%s)", f.Set), "give-up aborted", "set", f.Set.String())
	}
	return planned
}

// expireIPFail carries out a planned give-up.
func (m *Machine) expireIPFail() {
	f := &m.st.IPFail
	if !f.GiveUp.due(m.now) {
		return
	}
	f.GiveUp.stop()
	switch {
	case m.st.Shutdown != shutdownNo || !m.peerActive():
		return // nobody takes it
	case !m.stable():
		f.Again = true
		return
	case m.st.Mine&f.Set == None:
		return // an empty exchange would make both sides unstable for nothing
	}
	m.ipfailLog(Info, "giveup() called (timeout worked)", "giving up resources", "set", f.Set.String(), "reason", f.Reason)
	m.record("standby", fmt.Sprintf("ipfail gives up %s resources", f.Set), f.Reason)
	f.Gave = true
	m.send(ClientAsk{m.cfg.Self, AskResources{Set: f.Set, Info: "me"}})
}

// ipfailWarnings are standing conditions under which ipfail does nothing.
func (m *Machine) ipfailWarnings() (w []string) {
	switch {
	case !m.cfg.IPFail:
	case m.cfg.Failback == FailbackLegacy:
		w = append(w, "ipfail does nothing with auto_failback legacy: write auto_failback on or off")
	case len(m.cfg.PingNodes) == 0:
		w = append(w, "ipfail has nothing to compare: ha.cf names no ping node")
	}
	return w
}
