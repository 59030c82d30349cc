package cluster

import (
	"fmt"
	"slices"
	"time"
)

// node is what is known of one node, ourselves included.
type node struct {
	Name  string
	Ping  bool
	State string // init, up, active, dead, ping: the node's own word, or dead by silence
	// Heard: a status (or ping reply) came since the start or since its
	// restart; HeardAt is when the last one arrived.
	Heard   bool
	HeardAt Instant
	// HeardSince: anything came since it was last declared dead.
	HeardSince bool
	// Dt is the deadtime it asked for; 0 until its first status.
	Dt time.Duration
	// Credit is the time within its silence in which we were not running.
	Credit     time.Duration
	Generation uint64
	Links      []link
	New        bool
	Digest     string
	Hears      []string
	Lateness   time.Duration
	// StatusSeq and ClaimSeq are the numbers of the newest status and the
	// newest resource message that were handled.
	StatusSeq, ClaimSeq uint64
	// Returning: it is being heard again after it was held for dead.
	Returning bool
	// TopSeq is the number of the newest message of any kind: an older one was
	// sent again, and what it says of us may be over.
	TopSeq uint64
	// Probe is what the service network says while it is silent.
	Probe probing
	// Reset is when it was reset last although it had started again by then, and
	// Resets how often in a row: more time is left to it before the next.
	Reset  timer
	Resets int
	// Down: it was reset, or an operator says that it is down, and nothing was
	// heard of it since.
	Down bool
	// AskSeq is that of the newest message of a standby exchange.
	AskSeq uint64
	// Hold is what it holds or has not stopped yet by its newest status, None when
	// it does not say.
	// HoldSeq is the number of the newest status whose word for it counted: what
	// a claim said before it is older.
	Hold    Set
	HoldSeq uint64
	// Gap: some of what it said is missing here.
	Gap bool
	// Parted: it has released everything and ends; until its restart.
	Parted bool
	// Deaf: since when it says that it holds us for dead. We hear it.
	Deaf timer
	// Outdated is when a packet of an older life of it came last, within the
	// time in which that is told; Refuses since when it says that of ours.
	Outdated, Refuses timer
	OutdatedSince     Instant
	OutdatedTold      bool
}

type link struct {
	Name    string
	Up      bool
	HeardAt Instant
	OneWay  bool
	// Unlike: since when we and the node say different things of this link.
	Unlike timer
}

func newNode(name string, ping bool, links []string) node {
	n := node{Name: name, Ping: ping, State: "init"}
	for _, l := range links {
		if n.link(l) == nil {
			n.Links = append(n.Links, link{Name: l})
		}
	}
	return n
}

func (n *node) link(name string) *link {
	for i := range n.Links {
		if n.Links[i].Name == name {
			return &n.Links[i]
		}
	}
	return nil
}

func (n *node) alive() bool { return n.Heard && n.State != "dead" }

func (m *Machine) node(name string) *node {
	for i := range m.st.Nodes {
		if m.st.Nodes[i].Name == name {
			return &m.st.Nodes[i]
		}
	}
	return nil
}

func (m *Machine) self() *node { return m.node(m.cfg.Self) }

// peers calls f for every other normal node.
func (m *Machine) peers(f func(*node)) {
	for i := range m.st.Nodes {
		if n := &m.st.Nodes[i]; !n.Ping && n.Name != m.cfg.Self {
			f(n)
		}
	}
}

// partner reports whether a node takes part in the resource protocol. Two nodes
// always do; of more, those that haresources names. The others are heard and
// watched, but what they say of resources, having none, concerns nobody.
func (m *Machine) partner(name string) bool {
	return len(m.cfg.Nodes) <= 2 || slices.ContainsFunc(m.cfg.Groups, func(g Group) bool { return g.Node == name })
}

// partners calls f for every other node that takes part in the resource
// protocol; for none when we do not.
func (m *Machine) partners(f func(*node)) {
	if !m.partner(m.cfg.Self) {
		return
	}
	m.peers(func(n *node) {
		if m.partner(n.Name) {
			f(n)
		}
	})
}

func (m *Machine) peerAlive() bool {
	alive := false
	m.partners(func(n *node) { alive = alive || n.alive() })
	return alive
}

// peerActive reports whether another node runs the resource protocol.
func (m *Machine) peerActive() bool {
	active := false
	m.partners(func(n *node) { active = active || n.State == "active" })
	return active
}

// peerNew reports whether every other node that is alive knows more than 3.0.6.
func (m *Machine) peerNew() bool {
	all, any := true, false
	m.partners(func(n *node) {
		if n.alive() {
			any = true
			all = all && n.New
		}
	})
	return any && all
}

// patience is the silence after which a node is dead: initdead until
// communication is up, then what the node itself asked for.
func (m *Machine) patience(n *node) time.Duration {
	switch {
	case !m.st.CommUp:
		return m.cfg.Initdead
	case n.Ping:
		return m.cfg.Deadping
	case n.Dt > 0:
		return n.Dt
	}
	return m.cfg.Deadtime
}

// deathAt is when a node that stays silent is dead.
func (m *Machine) deathAt(n *node) Instant {
	from := m.st.StartAt
	if n.Heard {
		from = n.HeardAt
	}
	return from.Add(m.patience(n) + n.Credit)
}

// linkDeathAt is when a link is dead on which a node stays silent. What the node is
// granted for a stall of ours ends when it is heard on any link; on the others time in
// which we did not run is no silence either.
func (m *Machine) linkDeathAt(n *node, l *link) Instant {
	return l.HeardAt.Add(m.patience(n) + max(n.Credit, m.stalledSince(l.HeardAt)))
}

// nodeTimers is timers for one node. The words are made only where they are
// read: this runs at every step.
func (m *Machine) nodeTimers(n *node, worded bool, f func(timer)) {
	if n.Name == m.cfg.Self {
		return
	}
	const silent = " is declared dead if it stays silent"
	what := ""
	if n.State != "dead" {
		if worded {
			what = n.Name + silent
		}
		f(timer{true, m.deathAt(n), what})
	}
	f(m.probeTimer(n))
	for i := range n.Links {
		l := &n.Links[i]
		if !l.Up {
			continue
		}
		if worded {
			what = "link " + n.Name + ":" + l.Name + silent
		}
		f(timer{true, m.linkDeathAt(n, l), what})
	}
}

// myDt is the deadtime that we ask the others for.
func (m *Machine) myDt() time.Duration {
	dt := m.cfg.Deadtime
	if m.now.Sub(m.st.StartAt) < youngTime {
		dt += youngExtra
	}
	if m.st.Restart && m.st.Shutdown >= shutdownParting {
		dt += restartExtra
	}
	return dt
}

// beat sends the periodic status and sets the next one. A late one is not made
// up for: the pace starts anew.
func (m *Machine) beat() {
	interval := m.now.Sub(m.st.BeatAt)
	switch {
	case interval > m.cfg.Deadtime:
		m.log(Crit, fmt.Sprintf("Late heartbeat: Node %s: interval %d ms (> deadtime)", m.cfg.Self, interval.Milliseconds()), "own keepalive late", "interval", interval)
	case interval > m.cfg.Warntime:
		m.warn(fmt.Sprintf("Late heartbeat: Node %s: interval %d ms", m.cfg.Self, interval.Milliseconds()), "own keepalive late", "interval", interval)
	}
	next := m.st.Beat.At.Add(m.cfg.Keepalive)
	if !m.st.Beat.On || next <= m.now {
		next = m.now.Add(m.cfg.Keepalive)
	}
	m.st.Beat.set(next, "next keepalive")
	m.st.BeatAt = m.now
	m.sayStatus(m.self().State, true)
	if len(m.cfg.PingNodes) > 0 {
		m.out = append(m.out, SendPing{})
	}
}

// sayStatus sends our status now.
func (m *Machine) sayStatus(state string, beat bool) {
	var hears []string
	m.peers(func(n *node) {
		for _, l := range n.Links {
			if l.Up {
				hears = append(hears, l.Name)
			}
		}
	})
	m.st.Local = state
	msg := Status{State: state, Dt: m.myDt(), Beat: beat, New: true, Digest: m.cfg.Digest, Hears: hears, Lateness: m.st.Lateness}
	m.st.Lateness = 0
	m.peers(func(n *node) {
		if n.State == "dead" && !n.Returning {
			msg.Dead = append(msg.Dead, n.Name)
			if n.Outdated.On && m.now.Sub(n.Outdated.At) < 2*m.cfg.Keepalive {
				msg.Outdated = append(msg.Outdated, Life{n.Name, n.Generation})
			}
		}
	})
	if len(msg.Dead) > 0 || m.peerNew() || !m.peerAlive() { // else a 3.0.6 hears it
		m.sayHolds(&msg)
	}
	m.send(msg)
}

// deafTime is how long a node must have said that it holds us for dead before
// that is no matter of keepalives which are on their way: ours must have gone
// out, and its next.
func (m *Machine) deafTime() time.Duration { return 3 * m.cfg.Keepalive }

// deaf reports whether another node says that it holds us for dead.
func (m *Machine) deaf() bool {
	deaf := false
	m.partners(func(n *node) { deaf = deaf || n.Deaf.On })
	return deaf
}

// outdatedHeard notes a packet of an older life of a node: if there are more, it
// is told which one we know.
func (m *Machine) outdatedHeard(ev OutdatedHeard) {
	n := m.node(ev.From)
	if n == nil || n.State != "dead" {
		return
	}
	// One may have been on its way for long; a node that is back goes on.
	if first := !n.Outdated.On || m.now.Sub(n.Outdated.At) > 2*m.cfg.Keepalive; first {
		n.OutdatedSince = m.now
		n.OutdatedTold = n.OutdatedTold && n.Outdated.On
	}
	if !n.OutdatedTold && m.now.Sub(n.OutdatedSince) >= m.cfg.Keepalive {
		n.OutdatedTold = true
		text := fmt.Sprintf("Node %s sends packets of an older life than generation %d: its hb_generation was lost or comes from a backup, unless somebody replays what it once sent", n.Name, ev.Generation)
		m.log(Error, text, "a dead node sends packets of an older life", "node", n.Name, "generation", ev.Generation)
		m.record("node", n.Name+" comes back with an old generation, or is replayed", fmt.Sprintf("generation %d is known", ev.Generation))
	}
	n.Generation = ev.Generation
	n.Outdated.set(m.now, "")
}

// refused looks at whether a node takes our packets for those of a life that it
// knows to be over. Then this node's generation came from a backup, and nothing
// that it says will be heard. It goes on above the generation that is known.
//
// Only a verified node says so, only to one that it holds for dead, and
// generations only grow: whoever replays an old one of these messages, or makes
// a node send one by a replay, moves nobody to a generation that was not used.
func (m *Machine) refused(n *node, msg Status, at Instant) {
	i := slices.IndexFunc(msg.Outdated, func(l Life) bool { return l.Node == m.cfg.Self && l.Generation >= m.cfg.Generation })
	switch {
	case i < 0:
		n.Refuses.stop()
	case !n.Refuses.On:
		n.Refuses.set(at, "")
	case at.Sub(n.Refuses.At) >= m.deafTime() && m.st.Shutdown == shutdownNo && !m.st.Silent:
		known := msg.Outdated[i].Generation
		reason := fmt.Sprintf("%s knows generation %d of this node, this life has %d: hb_generation was lost or comes from a backup", n.Name, known, m.cfg.Generation)
		m.log(Crit, "This node's packets are refused as old: "+reason+". Joining anew above it", "generation is outdated: joining anew", "node", n.Name, "known", known, "ours", m.cfg.Generation)
		m.record("daemon", "joins anew above the generation that is known of it", reason)
		m.out = append(m.out, KeepGeneration{known})
		m.leave(reason)
	}
}

// heldForDead looks at whether a node that we hear holds us for dead: our words
// do not reach it. Whatever it says that it holds it has taken from us, and it
// cannot be told that we live; so we let go of that. Only new nodes say so.
func (m *Machine) heldForDead(n *node, msg Status, ev Heard) {
	if !slices.Contains(msg.Dead, m.cfg.Self) {
		n.Deaf.stop()
		return
	}
	at := ev.At
	jumped := m.st.Jumped.On && m.now.Sub(m.st.Jumped.At) < m.deafTime()
	if !n.Deaf.On {
		n.Deaf.set(at, "")
	}
	if at.Sub(n.Deaf.At) < m.deafTime() && !jumped || !m.partner(n.Name) || m.st.Shutdown != shutdownNo {
		return
	}
	lose := m.st.Mine
	if m.cfg.Failback == FailbackLegacy {
		lose, _ = m.runs()
	}
	lose &= msg.Hold.Mirror() &^ m.stuck()
	if lose == None {
		return
	}
	m.log(Crit, fmt.Sprintf("Node %s holds this node for dead: it does not hear us, although we hear it", n.Name), "held for dead by a node that we hear", "node", n.Name)
	m.cancelStandby(n.Name, n.Name+" does not hear us")
	m.st.Theirs = msg.Hold
	m.st.HomeDue = m.cfg.Failback == FailbackLegacy
	m.yield(lose, n.Name+" holds this node for dead and has taken them; it cannot hear that we live")
}

// linkHeard notes that a link works.
func (m *Machine) linkHeard(from, name string, at Instant) {
	n := m.node(from)
	if n == nil {
		return
	}
	l := n.link(name)
	if l == nil {
		return
	}
	l.HeardAt = max(l.HeardAt, at)
	if !l.Up {
		l.Up = true
		m.info(fmt.Sprintf("Link %s:%s up.", from, name), "link up", "node", from, "link", name)
		m.ipfailLink(from, name, true)
		m.record("link", fmt.Sprintf("link %s:%s up", from, name), "a packet arrived on it")
	}
}

func (m *Machine) expireNodes() {
	for i := range m.st.Nodes {
		m.expireNode(i)
	}
}

func (m *Machine) expireNode(i int) {
	n := &m.st.Nodes[i]
	if n.Name == m.cfg.Self {
		return
	}
	if m.probeTimer(n).due(m.now) {
		m.probe(n)
	}
	if n.State != "dead" && m.deathAt(n) <= m.now {
		silent := m.now.Sub(m.st.StartAt)
		if n.Heard {
			silent = m.now.Sub(n.HeardAt)
		}
		m.declareDead(n, fmt.Sprintf("%s dead: silent for %v", n.Name, silent.Round(time.Millisecond)))
	}
	m.expireLinks(n)
}

func (m *Machine) expireLinks(n *node) {
	for j := range n.Links {
		l := &n.Links[j]
		if l.Up && m.linkDeathAt(n, l) <= m.now {
			l.Up = false
			m.info(fmt.Sprintf("Link %s:%s dead.", n.Name, l.Name), "link dead", "node", n.Name, "link", l.Name)
			m.ipfailLink(n.Name, l.Name, false)
			m.record("link", fmt.Sprintf("link %s:%s dead", n.Name, l.Name), fmt.Sprintf("nothing heard on it for %v", m.patience(n)))
		}
	}
}

// setState changes a node's state and tells the session.
func (m *Machine) setState(n *node, state string) {
	n.State = state
	if !n.Ping {
		m.out = append(m.out, NodeState{n.Name, state})
	}
}

// declareDead is the death of a node by silence.
func (m *Machine) declareDead(n *node, reason string) {
	m.warn(fmt.Sprintf("node %s: is dead", n.Name), "node dead", "node", n.Name, "reason", reason, "deadtime", m.patience(n))
	m.record("node", n.Name+" is dead", reason)
	m.setState(n, "dead")
	m.ipfailNode(n)
	m.statusScript(n)
	heardSince := n.HeardSince
	n.HeardSince = false
	n.Hold = None
	n.Deaf.stop()
	if !m.st.CommUp && !n.Ping {
		m.st.Ask.stop() // it may be the one that was asked
	}
	n.Hears = nil
	m.nodeDied(n, heardSince, reason)
	if n.New && m.st.CommUp {
		m.sayStatus(m.self().State, false) // it may hear us although we do not hear it
	}
}

// restarted forgets what a restart of the node made stale.
func (m *Machine) restarted(n *node) {
	if m.partner(n.Name) {
		m.cancelStandby(n.Name, n.Name+" restarted meanwhile")
		m.st.TheirReleasing, m.st.StandbyCut = None, false
		if n.Heard && !n.New && n.State != "dead" {
			m.st.Lingering |= m.st.Theirs.Mirror() &^ m.st.Mine
		}
	}
	n.Heard = false
	n.Dt = 0
	n.New = false
	n.Digest, n.Hears = "", nil
	n.StatusSeq, n.ClaimSeq, n.AskSeq, n.TopSeq = 0, 0, 0, 0
	n.Hold, n.HoldSeq = None, 0
	n.Parted, n.Down = false, false
	n.Deaf.stop()
	n.Outdated.stop()
	n.OutdatedTold = false
	n.Refuses.stop()
	m.record("node", n.Name+" restarted its heartbeat", "its generation grew")
}

// status handles another node's keepalive.
func (m *Machine) status(n *node, msg Status, ev Heard) {
	// One that was held for dead and is active in a life of which we have heard
	// nothing was alone while it started: to us it returns as well.
	resync := false
	if ev.Returned || ev.Restarted && n.State == "dead" && msg.State == "active" && m.st.CommUp {
		n.Returning = true // it is not dead any more, though its state is not set yet
		resync = m.returned(n, msg)
		n.Returning = false
	}
	if n.Heard && !(ev.Returned && msg.New) {
		interval := ev.At.Sub(n.HeardAt) - n.Credit
		switch {
		case interval > m.patience(n) && m.st.CommUp:
			m.log(Crit, fmt.Sprintf("Late heartbeat: Node %s: interval %d ms (> deadtime)", n.Name, interval.Milliseconds()), "keepalive late", "node", n.Name, "interval", interval)
			m.declareDead(n, fmt.Sprintf("%s dead: its last two keepalives were %v apart", n.Name, interval.Round(time.Millisecond)))
		case interval > m.cfg.Warntime:
			m.warn(fmt.Sprintf("Late heartbeat: Node %s: interval %d ms", n.Name, interval.Milliseconds()), "keepalive late", "node", n.Name, "interval", interval)
		}
		if interval > m.cfg.Warntime && msg.New {
			m.whyLate(n, msg.Lateness, interval)
		}
	}
	n.Heard, n.HeardAt = true, max(ev.At, n.HeardAt)
	n.Credit = m.stalledSince(n.HeardAt)
	n.HeardSince = true
	m.unprobe(n)
	if msg.Dt > 0 {
		n.Dt = msg.Dt
	}
	m.compare(n, msg)
	if n.State != msg.State {
		wasDead := n.State == "dead"
		m.info(fmt.Sprintf("Status update for node %s: status %s", n.Name, msg.State), "node status", "node", n.Name, "status", msg.State)
		m.record("node", fmt.Sprintf("%s is %s", n.Name, msg.State), "it says so")
		m.setState(n, msg.State)
		m.ipfailNode(n)
		m.statusScript(n)
		m.startPutOff(n, wasDead)
	}
	m.oneWay(n)
	m.resetOver(n)
	if ev.Seq >= n.TopSeq { // else it was sent again, and may be over
		m.statusHolds(n, msg, ev.Seq)
		m.heldForDead(n, msg, ev)
		m.refused(n, msg, ev.At)
	}
	if resync {
		// Only now: what is said to a dead node is not kept for retransmission.
		m.st.IPFail.Ask = true // what it has not been told is compared now
		m.cancelStandby(n.Name, n.Name+" was held for dead meanwhile")
		m.st.OtherStable = false
		m.sayHold(m.st.Phase == PhaseStable, infoResync, true)
	}
}

// whyLate says whether a node itself was late or the way to us: what to look at
// is its load in one case and the network in the other.
func (m *Machine) whyLate(n *node, lateness, interval time.Duration) {
	why := fmt.Sprintf("its packets were lost or delayed: it says that it was late by no more than %d ms", lateness.Milliseconds())
	if lateness >= interval/2 {
		why = fmt.Sprintf("it did not run: it says that it was late by %d ms", lateness.Milliseconds())
	}
	m.info(fmt.Sprintf("node %s: %s", n.Name, why), "why a keepalive was late", "node", n.Name, "interval", interval, "lateness", lateness)
	m.record("node", fmt.Sprintf("%s was heard %v late", n.Name, (interval-m.cfg.Keepalive).Round(time.Millisecond)), why)
}

// compare notes what kind of peer this is and whether its files differ.
func (m *Machine) compare(n *node, msg Status) {
	if msg.New != n.New {
		kind := "heartbeat 3.0.6's protocol"
		if msg.New {
			kind = "the extended protocol"
		}
		m.info(fmt.Sprintf("node %s speaks %s", n.Name, kind), "peer protocol", "node", n.Name, "new", msg.New)
	}
	n.New, n.Lateness = msg.New, msg.Lateness
	if msg.New && msg.Digest != n.Digest && msg.Digest != m.cfg.Digest && msg.Digest != "" {
		m.warn(fmt.Sprintf("node %s has other haresources, timing or keys than this node: compare the files", n.Name), "configuration differs between the nodes", "node", n.Name)
	}
	n.Digest = msg.Digest
	if msg.New {
		n.Hears = msg.Hears
	}
}

// oneWay compares the links on which we hear a node with those on which it
// hears us.
func (m *Machine) oneWay(n *node) {
	if !n.New || n.State != "active" || !m.st.CommUp {
		return
	}
	hearsUs := map[string]bool{}
	for _, l := range n.Hears {
		hearsUs[l] = true
	}
	for i := range n.Links {
		l := &n.Links[i]
		if l.Up == hearsUs[l.Name] {
			l.Unlike.stop()
		} else if !l.Unlike.On {
			l.Unlike.set(m.now, "")
		}
		// For a while after a change the two must differ: the news travels
		// with the keepalives.
		oneWay := l.Unlike.On && m.now.Sub(l.Unlike.At) > m.cfg.Warntime
		if oneWay == l.OneWay {
			continue
		}
		l.OneWay = oneWay
		if !oneWay {
			m.info(fmt.Sprintf("Link %s:%s works in both directions again", n.Name, l.Name), "link works both ways", "node", n.Name, "link", l.Name)
			continue
		}
		text := fmt.Sprintf("Link %s:%s is one-way: we hear %s there, it does not hear us", n.Name, l.Name, n.Name)
		if !l.Up {
			text = fmt.Sprintf("Link %s:%s is one-way: %s hears us there, we do not hear it", n.Name, l.Name, n.Name)
		}
		m.warn(text, "one-way link", "node", n.Name, "link", l.Name, "we hear", l.Up)
		m.record("link", text, "the two nodes' keepalives disagree")
	}
}

// pingReply handles the answer of a ping node.
func (m *Machine) pingReply(ev PingReply) {
	n := m.node(ev.From)
	if n == nil || !n.Ping {
		return
	}
	m.linkHeard(n.Name, n.Name, ev.At)
	if n.Heard {
		if interval := ev.At.Sub(n.HeardAt) - n.Credit; interval > m.patience(n) && m.st.CommUp {
			m.log(Crit, fmt.Sprintf("Late heartbeat: Node %s: interval %d ms (> deadtime)", n.Name, interval.Milliseconds()), "ping node late", "node", n.Name, "interval", interval)
			m.declareDead(n, fmt.Sprintf("%s did not answer for %v", n.Name, interval.Round(time.Millisecond)))
		}
	}
	n.Heard, n.HeardAt, n.HeardSince = true, max(ev.At, n.HeardAt), true
	n.Credit = m.stalledSince(n.HeardAt)
	if n.State != "ping" {
		m.info(fmt.Sprintf("Status update for node %s: status ping", n.Name), "node status", "node", n.Name, "status", "ping")
		m.record("node", n.Name+" answers", "ping reply")
		n.State = "ping"
		m.ipfailNode(n)
	}
}

// checkComm waits until every configured node, ourselves and ping nodes
// included, was heard or is dead; then the nodes' lists are compared and
// communication is up.
func (m *Machine) checkComm() {
	if m.st.CommUp || !m.st.Started || m.st.Ask.On {
		return
	}
	for i := range m.st.Nodes {
		if n := &m.st.Nodes[i]; n.Name != m.cfg.Self && !n.Heard && n.State != "dead" {
			return
		}
	}
	m.askNodes()
}

// askNodes asks the next candidate for its list of nodes. When nobody is left
// to ask, communication is up at once.
func (m *Machine) askNodes() {
	m.st.Ask.set(m.now.Add(askPause), "asking for the list of nodes again")
	var alive []string
	m.peers(func(n *node) {
		if n.State != "dead" {
			alive = append(alive, n.Name)
		}
	})
	if len(alive) == 0 {
		m.commUp()
		return
	}
	dest := alive[m.st.AskNext%len(alive)]
	m.st.AskNext++
	m.send(ReqNodes{dest})
}

// repNodes is the answer that makes communication be up.
func (m *Machine) repNodes(msg RepNodes) {
	if m.st.CommUp || msg.Dest != m.cfg.Self {
		return
	}
	for _, name := range msg.Nodes {
		if m.node(name) == nil {
			m.warn(fmt.Sprintf("the other node's configuration names node %s, ours does not", name), "node lists differ", "node", name)
		}
	}
	m.commUp()
}

func (m *Machine) commUp() {
	m.st.CommUp = true
	m.st.Ask.stop()
	m.info("Comm_now_up(): updating status to active", "communication up")
	m.info("Local status now set to: 'active'", "local status", "status", "active")
	m.sayStatus("active", false)
	m.record("daemon", "communication is up", "every configured node was heard or is dead")
	m.commNowUp()
	if m.cfg.Failback == FailbackLegacy {
		taken := false
		m.partners(func(n *node) { taken = taken || n.New && n.State == "dead" })
		if taken {
			m.sayStatus("active", false) // no claim says that it was taken, and it may hear us
		}
	}
	for i := range m.st.Nodes {
		m.expireLinks(&m.st.Nodes[i]) // from now on we have less patience
	}
}

// trouble notes that a link cannot send, or can again.
func (m *Machine) trouble(ev Trouble) {
	kept := m.st.Troubles[:0:0]
	was := false
	for _, t := range m.st.Troubles {
		if t.Link != ev.Link {
			kept = append(kept, t)
			continue
		}
		was = true
	}
	if ev.Err != "" {
		kept = append(kept, ev)
	}
	m.st.Troubles = kept
	switch {
	case ev.Err != "" && !was:
		m.log(Error, fmt.Sprintf("Unable to send HBcomm packet %s: %s", ev.Link, ev.Err), "medium cannot send", "link", ev.Link, "err", ev.Err)
		m.record("link", ev.Link+" cannot send", ev.Err)
	case ev.Err == "" && was:
		m.info(fmt.Sprintf("%s can send again", ev.Link), "medium can send again", "link", ev.Link)
		m.record("link", ev.Link+" can send again", "a send worked")
	}
}
