package cluster

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// Fixed times of the protocol; each is the original's.
const (
	// settleTime is how long a node that has heard what the other one holds
	// waits for it to say that it is stable, before it takes its own groups.
	// The original counts in clock ticks of 10 ms: a keepalive exactly 10 s
	// later is too early for it.
	settleTime = 10*time.Second + 5*time.Millisecond
	// askPause separates two requests for the list of nodes.
	askPause = time.Second
	// failbackPause separates two attempts to hand resources back.
	failbackPause = time.Second
	// askAgainPause separates two requests for a group of ours (legacy mode).
	askAgainPause = 10 * time.Second
	// askBackPause separates two requests to release what a node has forgotten.
	askBackPause = 10 * time.Second
	// failbackAgain is how long after a request that got no answer it is made
	// again; 3.0.6 leaves it at that, and the resources where they are.
	failbackAgain = 5 * time.Second
	// standbyAnswer is how long the other node may take to answer a standby
	// request; standbyLimit bounds the whole exchange.
	standbyAnswer = 10 * time.Second
	standbyLimit  = time.Hour
	// standbyBegun is how long a 3.0.6 node may take from its request to the
	// word that it gives: it waits standbyAnswer itself, and reacts once per
	// keepalive.
	standbyBegun = 2 * standbyAnswer
	// youngTime is how long after its start a node asks for youngExtra more
	// patience.
	youngTime  = 5 * time.Second
	youngExtra = 2 * time.Second
	// restartExtra is the patience asked for in the last messages of a restart.
	restartExtra = 30 * time.Second
	// partitionPause is the time between the return of a node that was held
	// for dead and our own restart (with an old peer).
	partitionPause = 2 * time.Second
	// partingPause is one of the two pauses between shutdone and the exit.
	partingPause = time.Second
)

// Times that the original does not have.
const (
	// handOver is how long after a failed start the group is offered to the
	// other node (the original's 30 s), or tried again here when there is none.
	handOver = 30 * time.Second
	// overlapPause separates two attempts to end an overlap of claims: what
	// was said to end it may have been lost.
	overlapPause = 5 * time.Second
	// retryMax bounds the growing pause between retries of a failed start or
	// stop.
	retryMax = 10 * time.Minute
	// takeoverAnswer is how long an operator waits for the other node to start
	// giving up what a takeover asked for.
	takeoverAnswer = 15 * time.Second
)

// Config is what the machine must know of the configuration. All durations
// are set.
type Config struct {
	Self      string
	Nodes     []string // normal nodes in ha.cf order
	PingNodes []string
	// Links are the names of the media, in ha.cf order.
	Links  []string
	Groups []Group
	Keepalive, Deadtime, Warntime, Initdead,
	Deadping time.Duration
	Failback Failback
	// Stonith: a device that resets the other node is configured.
	Stonith bool
	// FenceDelay keeps the resets of two nodes apart that hold each other for
	// dead; see fenceDelay.
	FenceDelay time.Duration
	// FenceWait: a node of which nothing was heard since our start is not reset.
	FenceWait bool
	// StopReboot: a stop that fails restarts the machine, as in the original.
	StopReboot bool
	// Scripts are the message types that have a script of the administrator's
	// in rc.d, lower case.
	Scripts []string
	// Conflict is what to do when a silent node's addresses are answered for.
	Conflict Conflict
	// IPFail: the node that reaches fewer ping nodes gives way.
	IPFail bool
	// Digest is the fingerprint of what both nodes must have alike.
	Digest string
	// PID is for one log line.
	PID int
	// Held are the groups that were found running at start.
	Held Set
	// Generation is this life's.
	Generation uint64
}

// Phase is how far this node has come in the resource protocol. The numbers
// appear in log lines.
type Phase uint8

const (
	PhaseInit Phase = iota
	PhaseStarting
	PhaseBothStarting
	PhaseReceived
	PhaseStable
	PhaseShutdown
)

func (p Phase) String() string {
	return [...]string{"INIT", "STARTING", "BOTHSTARTING", "RSCRCVD", "STABLE", "SHUTDOWN"}[p]
}

// StandbyPhase is the place in a standby exchange.
type StandbyPhase uint8

const (
	StandbyNot   StandbyPhase = iota
	StandbyMe                 // we asked to give up
	StandbyOther              // the other node asked, we shall take
	StandbyDone               // released; the taker is at work
)

// timer is a point in time that may be switched off.
type timer struct {
	On   bool
	At   Instant
	What string
}

func (t *timer) set(at Instant, what string) { *t = timer{true, at, what} }
func (t *timer) stop()                       { t.On = false }
func (t timer) due(now Instant) bool         { return t.On && t.At <= now }

// Machine is the state machine of one node.
type Machine struct {
	cfg Config
	st  state
	now Instant
	out []Action
}

// state is everything that changes: what a snapshot carries.
type state struct {
	Started  bool
	StartAt  Instant
	LastStep Instant
	Local    string
	CommUp   bool
	Nodes    []node
	Beat     timer
	BeatAt   Instant // when the last periodic status went out
	Ask      timer
	AskNext  int
	Lateness time.Duration
	// StallFrom and StallTo are when this node last did not run.
	StallFrom, StallTo Instant
	// Jumped: the wall clock went ahead of the monotonic one by more than the
	// others' patience: perhaps this machine was paused.
	Jumped timer
	// Doubt: we did not run for longer than the others' patience, and are
	// looking for signs that they did.
	Doubt doubt
	// Silent: nothing may be said before everything is released (a thawed
	// node).
	Silent bool

	Phase     Phase
	Mine      Set
	Theirs    Set
	Took      Set // of Mine: taken because the other node was held for dead
	TheirTook Set // of Theirs, as they say: taken because they held us for dead
	// SaidPings and TheirPings are what the two last said of their ping nodes
	// (Resource.Pings).
	SaidPings, TheirPings int
	// TheirReleasing is what they are stopping for us.
	TheirReleasing Set
	Overlap        timer
	// OverlapLooks counts the looks at an overlap with a 3.0.6 node. AskHome: what
	// was let go of to end one is to be asked for, once it is stopped.
	OverlapLooks int
	AskHome      bool
	// Kept is what we keep of an overlap and they have not stopped yet.
	Kept Set
	// Lingering: what a 3.0.6 node owned when its daemon died and came again. It
	// has forgotten it; but its kernel has not.
	Lingering Set
	AskBack   timer
	// HomeDue: two new nodes with auto_failback legacy had lost each other; what
	// this one misses of its own is to be asked for.
	HomeDue     bool
	OtherStable bool
	Takeover    bool
	Settle      timer
	FailbackDue bool
	FailbackTry timer
	// FailbackAsked: the standby that is under way, if any, is a failback.
	FailbackAsked bool
	Acquired      bool // "Initial resource acquisition complete" was said
	Repeat        repeat

	Standby     StandbyPhase
	StandbyEnd  timer
	StandbySet  Set // of the last exchange; All before the first
	StandbyFrom string
	// Exchange is the number of the last exchange that began, LastExchange the
	// highest that was said or heard.
	Exchange, LastExchange uint64
	// StandbyCut: the last exchange, in which the other node was giving, was
	// cancelled here; that it has released may still be heard.
	StandbyCut bool

	Jobs    []job
	NextJob uint64
	Queue   []queued

	Shutdown     shutdown
	ShutdownStep timer
	Restart      bool
	RestartAt    timer
	ShutdownID   []uint64 // orders that wait for the exit

	Fencing fencing

	Groups  []groupState
	Retry   timer
	Pending pendingOrder
	IPFail  ipfail

	LastChange   Record
	LastChangeAt Instant
	Troubles     []Trouble
}

// doubt is the question, after a stall, whether the others ran meanwhile: a
// packet of theirs that arrived between From, when their patience with us
// ended, and Woke, when we ran again, says yes. A pause of the whole machine
// leaves no such packet.
//
// One that was dead before, and has started meanwhile, is active only when it
// holds us for dead, for it has not heard us.
type doubt struct {
	On bool
	// Knew: another node was alive when we stopped.
	Knew       bool
	From, Woke Instant
}

type shutdown uint8

const (
	shutdownNo shutdown = iota
	shutdownWanted
	shutdownReleasing
	shutdownParting // shutdone sent
	shutdownLast
)

type jobWhy uint8

const (
	whyLocal     jobWhy = iota + 1 // acquire-local
	whyGive                        // give up for a standby
	whyTake                        // acquire for a standby
	whyDone                        // acquire after the peer's clean stop
	whyMachDown                    // take the dead node's groups
	whyRequested                   // take one group after ip-request-resp
	whyReleaseIP                   // give one group on the peer's ip-request
	whyShutdown                    // give everything at the end
	whyYield                       // give what the other node owns
	whyThaw                        // give everything after a stall
	whyRetry                       // start or stop once more
	whyFence                       // reset the dead node
	whyScript                      // an rc.d script
	whyProbe                       // ask who answers for a silent node's addresses
	whyConfirm                     // start again what we keep, to announce it
)

// job is a running job and what is to happen at its end.
type job struct {
	ID    uint64
	Why   jobWhy
	Kind  JobKind
	Set   Set
	Node  string
	Keys  []string
	Title string
	// Reason is a reset's, and Generation what was known of its node then.
	Reason     string
	Generation uint64
	// AskPeer: idle groups are asked for, since the other node may run them
	// (legacy mode).
	AskPeer bool
}

// queued is a message that waits for its script: the next one starts when no
// resource job runs.
type queued struct {
	Why   jobWhy
	Node  string
	Key   string
	Set   Set
	Reply string // node that asked (whyReleaseIP)
	Msg   [][2]string
	// Reason is why, for whyMachDown and Take.
	Reason string
	// Take is a start that waits for the end of a stop of the same group.
	Take *job
}

// groupState is one group as this node works on it.
type groupState struct {
	State  string // "", starting, running, stopping, stopped, failed
	Since  Instant
	Reason string
	Err    string
	// Failures counts failed starts and stops in a row; RetryAt is when the next
	// step is due, 0 for never.
	Failures int
	RetryAt  Instant
	// Stuck: the last stop failed; it is not to be started anywhere.
	Stuck bool
	// Found: it was found running at start and has not been taken since; taking
	// it makes its addresses be announced and watched.
	Found bool
	// Handed: it was offered to the other node after a failed start.
	Handed bool
	// Asked is the node that asked for it (legacy mode) and must hear when a
	// stop that failed has succeeded after all.
	Asked string
	// Wanted: the other node was asked for it (legacy mode) and has not answered.
	Wanted bool
	// Job is the newest start or stop; what an older one reports is history.
	Job uint64
}

// pendingOrder is the operator's order that is being carried out.
type pendingOrder struct {
	On      bool
	ID      uint64
	Verb    Verb
	Set     Set
	Timeout timer
	Begun   bool
}

// New returns a machine that has not begun: its deadline is at once, and the
// first Wake sends the first status.
func New(cfg Config) *Machine {
	m := &Machine{cfg: cfg}
	m.st.Mine = cfg.Held
	m.st.StandbySet = All
	m.st.FailbackDue = cfg.Held.Has(Foreign)
	m.st.Local = "init"
	m.addNodes()
	m.st.Groups = make([]groupState, len(cfg.Groups))
	for i, g := range cfg.Groups {
		if cfg.Held.Has(m.setOf(g)) {
			m.st.Groups[i] = groupState{State: "running", Reason: "found running at start", Found: true}
		}
	}
	return m
}

func (m *Machine) addNodes() {
	for _, n := range m.cfg.Nodes {
		m.st.Nodes = append(m.st.Nodes, newNode(n, false, m.cfg.Links))
	}
	for _, n := range m.cfg.PingNodes {
		m.st.Nodes = append(m.st.Nodes, newNode(n, true, []string{n}))
	}
}

// Snapshot returns the whole state for Restore.
func (m *Machine) Snapshot() (json.RawMessage, error) { return json.Marshal(m.st) }

// Restore continues from a snapshot, perhaps with a changed configuration:
// nodes and groups are matched by name.
func Restore(cfg Config, snapshot json.RawMessage) (*Machine, error) {
	m := New(cfg)
	var st state
	if err := json.Unmarshal(snapshot, &st); err != nil {
		return nil, fmt.Errorf("restore cluster state: %w", err)
	}
	nodes, groups := m.st.Nodes, m.st.Groups
	for i := range nodes {
		j := slices.IndexFunc(st.Nodes, func(n node) bool { return n.Name == nodes[i].Name && n.Ping == nodes[i].Ping })
		if j < 0 {
			continue
		}
		links := nodes[i].Links
		nodes[i] = st.Nodes[j]
		for k := range links {
			if l := st.Nodes[j].link(links[k].Name); l != nil {
				links[k] = *l
			}
		}
		nodes[i].Links = links
	}
	m.st = st
	m.st.Nodes = nodes
	if len(st.Groups) == len(groups) {
		groups = st.Groups
	}
	m.st.Groups = groups
	return m, nil
}

// Step advances the machine by one event and returns what to do now, in order.
//
// Timers expire only on Wake, so that packets which had arrived before a
// deadline are heard before it is judged. Step never fails: what makes no
// sense in the current state is answered with a Report, because a cluster
// manager that stops deciding is worse than one that complains.
func (m *Machine) Step(now Instant, ev Event) []Action {
	if now < m.st.LastStep {
		panic(fmt.Sprintf("cluster: step at %v after step at %v", now, m.st.LastStep))
	}
	m.now, m.out = now, nil
	m.noteStall()
	m.st.LastStep = now
	if !m.st.Started {
		m.start()
	}
	if m.st.Silent {
		m.stepSilent(ev)
		return m.out
	}
	wasUp := m.st.CommUp
	switch ev := ev.(type) {
	case Wake:
		m.st.Doubt.On = false
		m.expire()
	case Heard:
		if m.doubted(ev.At, isActive(ev.Msg)) {
			return m.out
		}
		m.heard(ev)
	case LinkHeard:
		if ev.From != m.cfg.Self && m.doubted(ev.At, false) {
			return m.out
		}
		m.linkHeard(ev.From, ev.Link, ev.At)
	case ClockJump:
		m.clockJump(ev)
	case OutdatedHeard:
		m.outdatedHeard(ev)
	case PingReply:
		m.pingReply(ev)
	case JobDone:
		m.jobDone(ev)
	case Order:
		m.order(ev)
	case Posted:
		m.posted(ev.Msg)
	case Trouble:
		m.trouble(ev)
	case PacketsLost:
		m.packetsLost()
	}
	m.checkComm()
	if _, ok := ev.(Wake); ok && m.st.CommUp && !wasUp {
		m.expireNodes() // the patience is another since communication is up
	}
	m.advance()
	return m.out
}

// stepSilent is Step for a thawed node: it hears nothing and says nothing until
// it has let go.
func (m *Machine) stepSilent(ev Event) {
	if done, ok := ev.(JobDone); ok {
		m.jobDone(done)
	}
	if _, ok := ev.(Wake); ok {
		m.st.Beat.set(m.now.Add(m.cfg.Keepalive), "keepalive")
		if m.st.Retry.due(m.now) {
			m.retry()
		}
	}
}

// advance does what follows from the state after any event.
func (m *Machine) advance() {
	if m.st.Standby != StandbyNot && m.st.StandbyEnd.due(m.now) {
		m.standbyTimeout()
	}
	m.pump()
	m.stepIPFail()
	m.tryShutdown()
	m.pump()
	m.checkPending()
}

func (m *Machine) start() {
	m.st.Started, m.st.StartAt = true, m.now
	m.st.BeatAt = m.now
	for i := range m.st.Nodes {
		m.st.Nodes[i].Credit = 0
	}
	m.sayStatus("init", false)
	m.sayStatus("up", false)
	m.info("Local status now set to: 'up'", "local status", "status", "up")
	m.beat()
}

// noteStall finds out whether this node itself did not run. Time in which we
// were not running does not count as the silence of others; and if it was
// longer than the others' patience, they hold us for dead, and we let go
// before we say anything.
func (m *Machine) noteStall() {
	if !m.st.Started {
		return
	}
	due, ok := m.Deadline()
	if !ok {
		return
	}
	late := m.now.Sub(max(due, m.st.LastStep))
	m.st.Lateness = max(m.st.Lateness, late)
	if late < m.cfg.Deadtime/10 {
		return
	}
	m.st.StallFrom, m.st.StallTo = max(due, m.st.LastStep), m.now
	for i := range m.st.Nodes {
		n := &m.st.Nodes[i]
		from := m.st.StartAt
		if n.Heard {
			from = n.HeardAt
		}
		n.Credit = min(n.Credit+late, m.now.Sub(from)) // never more than the whole patience from now on
	}
	if late >= m.cfg.Deadtime/3 {
		m.log(Warn, fmt.Sprintf("This node did not run for %d ms", late.Milliseconds()), "late step: this node did not run", "late", late)
	}
	silent := m.now.Sub(m.st.BeatAt)
	if silent >= m.myDt() && m.st.CommUp && !m.st.Silent && m.st.Shutdown == shutdownNo {
		m.st.Doubt = doubt{On: true, Knew: m.peerAlive(), From: m.st.BeatAt.Add(m.myDt()), Woke: m.now}
	}
}

// clockJump is noteStall for a pause that the monotonic clock does not show. A
// suspended machine lets go as soon as it runs again, for the others ran. A wall
// clock that was set proves nothing; but if the others hold us for dead, their
// first word says so, and is taken at once.
func (m *Machine) clockJump(ev ClockJump) {
	silent := m.now.Sub(m.st.BeatAt) + max(ev.Asleep, ev.Wall)
	switch {
	case m.st.Silent || m.st.Shutdown != shutdownNo:
	case ev.Asleep > 0:
		m.warn(fmt.Sprintf("This machine was suspended for %d ms", ev.Asleep.Milliseconds()), "this machine was suspended", "for", ev.Asleep)
		if silent >= m.myDt() && m.st.CommUp && m.peerAlive() {
			m.thaw(silent)
		}
	case silent >= m.myDt():
		m.warn(fmt.Sprintf("The wall clock went ahead by %v: it was set, or this machine was paused", ev.Wall), "wall clock went ahead", "by", ev.Wall)
		m.st.Jumped.set(m.now, "")
	}
}

// stalledSince is how long of the time since t this node did not run, as far
// as its last stall goes.
func (m *Machine) stalledSince(t Instant) time.Duration {
	return max(m.st.StallTo.Sub(max(t, m.st.StallFrom)), 0)
}

// isActive reports whether a message is the status of an active node.
func isActive(msg Message) bool {
	st, ok := msg.(Status)
	return ok && st.State == "active"
}

// doubted looks at the arrival time of a packet while we are in doubt. It
// reports whether the packet settled the question for the worse.
func (m *Machine) doubted(at Instant, active bool) bool {
	if !m.st.Doubt.On || !m.st.Doubt.Knew && !active || at < m.st.Doubt.From || at >= m.st.Doubt.Woke {
		return false
	}
	m.st.Doubt.On = false
	m.thaw(m.st.Doubt.Woke.Sub(m.st.BeatAt))
	return true
}

// thaw lets go of everything: the other node has declared us dead.
func (m *Machine) thaw(silent time.Duration) {
	reason := fmt.Sprintf("this node was silent for %v, longer than its deadtime %v: the other node may own everything", silent.Round(time.Millisecond), m.myDt())
	m.log(Crit, "This node was stalled and the other one was not: releasing all resources before saying anything", "stalled: releasing everything", "silent", silent, "deadtime", m.myDt())
	m.record("owner", "releases everything after a stall", reason)
	m.leave(reason)
}

// leave releases everything without another word; then this node joins anew.
func (m *Machine) leave(reason string) {
	m.st.Silent = true
	m.st.Queue = nil
	m.st.Mine, m.st.Took = None, None
	m.run(job{Why: whyThaw, Kind: JobGive, Keys: m.keys(All)}, reason)
}

// Deadline returns when the machine must be woken at the latest.
func (m *Machine) Deadline() (Instant, bool) {
	if !m.st.Started {
		return 0, true
	}
	at, ok := Instant(0), false
	m.timers(func(t timer) {
		if t.On && (!ok || t.At < at) {
			at, ok = t.At, true
		}
	})
	return at, ok
}

// timers calls f with everything the machine waits for.
func (m *Machine) timers(f func(timer)) {
	f(m.st.Beat)
	if m.st.Silent {
		f(m.st.Retry)
		return
	}
	for _, t := range m.ownTimers() {
		f(t)
	}
	for i := range m.st.Nodes {
		m.nodeTimers(&m.st.Nodes[i], false, f)
	}
}

// ownTimers are those that no node's silence sets.
func (m *Machine) ownTimers() [11]timer {
	return [...]timer{m.st.Ask, m.st.FailbackTry, m.st.StandbyEnd, m.st.ShutdownStep, m.st.RestartAt, m.st.Fencing.Try, m.st.Retry, m.st.Pending.Timeout, m.st.IPFail.GiveUp, m.st.Repeat.Timer, m.st.AskBack}
}

// expire carries out everything that is due, in a fixed order: deaths before
// our own next status, so that what we say is up to date.
func (m *Machine) expire() {
	m.expireNodes()
	if m.st.Beat.due(m.now) {
		m.beat()
		switch {
		case m.st.Overlap.due(m.now):
			m.overlaps()
		case !m.st.Overlap.On && m.st.Mine&m.st.Theirs.Mirror() != None && m.overlap() != None:
			// Known by a keepalive, and the claims that decide it did not come.
			m.audit()
			m.watchOverlap()
		case !m.st.Overlap.On && m.peerAlive() && !m.peerNew():
			m.watchOverlap() // taken here after a 3.0.6 has claimed it, which it does once
		}
		// The original looks at this clock once per keepalive; so two nodes
		// that started together settle in the order of their keepalives.
		if m.st.Settle.due(m.now) {
			m.settled()
		}
	}
	if m.st.Ask.due(m.now) {
		m.askNodes()
	}
	if m.st.FailbackTry.due(m.now) {
		m.st.FailbackTry.stop()
		m.tryFailback()
	}
	if m.st.Fencing.Try.due(m.now) {
		m.fence()
	}
	if m.st.Retry.due(m.now) {
		m.retry()
	}
	m.expireIPFail()
	if m.st.AskBack.due(m.now) {
		m.st.AskBack.stop()
		m.reclaim()
	}
	if m.st.Repeat.Timer.due(m.now) {
		m.sayAgain()
	}
	if m.st.RestartAt.due(m.now) {
		m.st.RestartAt.stop()
		m.st.Restart = true
		m.st.Shutdown = max(m.st.Shutdown, shutdownWanted)
	}
	if m.st.ShutdownStep.due(m.now) {
		m.shutdownStep()
	}
}

// send handles our own copy of a message and then orders its transmission:
// what it causes goes out first, as it always has.
func (m *Machine) send(msg Message) {
	switch ask := msg.(type) {
	case AskResources:
		ask.Exchange = m.exchange(ask)
		msg = ask
	case ClientAsk:
		ask.Exchange = m.exchange(ask.AskResources)
		msg = ask
	}
	m.own(msg)
	m.out = append(m.out, Send{msg})
}

// exchange is the number of the exchange to which a word of ours belongs: a new
// one, higher than all that were heard, for a request.
func (m *Machine) exchange(ask AskResources) uint64 {
	switch {
	case !m.peerNew():
		return 0
	case ask.Info != "me":
		return m.st.Exchange
	}
	m.st.LastExchange++
	return m.st.LastExchange
}

// own handles a message of ours as it comes back to us.
func (m *Machine) own(msg Message) {
	switch msg := msg.(type) {
	case Status:
		if self := m.self(); self.State != msg.State {
			self.State = msg.State
			m.out = append(m.out, NodeState{self.Name, msg.State})
		}
	case Resource:
		m.ownResource(msg)
	case AskResources:
		m.askResources(m.cfg.Self, msg)
	case ClientAsk:
		m.askResources(m.cfg.Self, msg.AskResources)
	case IPRequestResp:
		m.ipRequestResp(msg)
	case Shutdone:
		m.ownShutdone()
	}
	m.script(m.cfg.Self, msg)
	m.checkComm()
}

// heard handles a message of another node.
func (m *Machine) heard(ev Heard) {
	n := m.node(ev.From)
	if n == nil {
		return
	}
	if ev.Restarted {
		m.restarted(n)
	}
	n.Generation, n.Gap = ev.Generation, ev.Gap
	m.linkHeard(ev.From, ev.Link, ev.At)
	n.HeardSince = true
	n.TopSeq = max(n.TopSeq, ev.Seq)
	if m.overtaken(n, ev) {
		return
	}
	if r, ok := ev.Msg.(Resource); ok && r.Info == infoResync && ev.Seq < n.AskSeq {
		r.Info = "" // said before the exchange that is under way
		ev.Msg = r
	}
	if r, ok := ev.Msg.(Resource); ok && ev.Seq < n.HoldSeq {
		ev.Msg = m.asKnown(r)
	}
	switch msg := ev.Msg.(type) {
	case Status:
		m.status(n, msg, ev)
	case ReqNodes:
		if !n.New {
			// We answer sooner than 3.0.6 does, which says this with its next
			// keepalive. One that has not heard by then that we are active takes its
			// groups without asking (legacy mode), and what is said to it before it
			// has heard a status is lost for good if it is lost.
			m.sayStatus(m.self().State, false)
		}
		m.send(RepNodes{Dest: ev.From, Nodes: m.cfg.Nodes})
	case RepNodes:
		m.repNodes(msg)
	case Shutdone:
		m.otherShutdone(ev.From)
	default:
		if m.st.CommUp {
			m.otherMessage(ev.From, msg)
		}
	}
}

// overtaken reports whether the message was lost and came only after a newer
// one of its kind, which it must not undo.
func (m *Machine) overtaken(n *node, ev Heard) bool {
	switch msg := ev.Msg.(type) {
	case Status:
		if ev.Seq < n.StatusSeq {
			n.HeardAt = max(n.HeardAt, ev.At)
			return true
		}
		n.StatusSeq = ev.Seq
	case Resource:
		// 3.0.6 sends the consequence of a claim before the claim, numbered
		// behind it, so there too the higher number is the newer knowledge.
		if (n.New || msg.Full) && ev.Seq < n.ClaimSeq {
			if msg.Info == infoResync && ev.Seq > n.AskSeq {
				m.cancelStandby(n.Name, n.Name+" has cancelled the standby")
			}
			if msg.Info == infoResync && m.st.Standby == StandbyNot {
				m.sayResource(m.st.Phase == PhaseStable, "") // the answer is owed
			}
			return true
		}
		n.ClaimSeq = max(n.ClaimSeq, ev.Seq)
	case AskResources:
		// A later word of the exchange, or of a later exchange, came before; or it
		// released what the sender has taken again since.
		if ev.Seq < n.AskSeq || n.New && msg.Info == "done" && m.st.StandbyFrom == n.Name && ev.Seq < max(n.ClaimSeq, n.HoldSeq) && m.st.Theirs&msg.Set != None {
			return true
		}
		n.AskSeq = ev.Seq
		m.st.LastExchange = max(m.st.LastExchange, msg.Exchange)
	case IPRequestResp:
		// It has taken again, since, what it released; it is asked again.
		return ev.Seq < n.StatusSeq && n.Hold.Mirror()&m.keySet(msg.Key) != None
	case Starting:
		if ev.Seq < n.ClaimSeq {
			m.sayResource(m.st.Phase == PhaseStable, "") // the answer is owed
			return true
		}
	}
	return false
}

// otherMessage handles what is only heard once communication is up.
func (m *Machine) otherMessage(from string, msg Message) {
	if !m.partner(from) || !m.partner(m.cfg.Self) {
		m.script(from, msg)
		return
	}
	if n := m.node(from); n.New && n.State == "dead" {
		switch msg.(type) {
		case HBTakeover, AskResources:
			return // an exchange with a node that is held for dead leads nowhere
		}
	}
	switch msg := msg.(type) {
	case Starting:
		m.otherStarting(from)
	case Resource:
		m.otherResource(from, msg)
	case AskResources:
		m.askResources(from, msg)
	case HBTakeover:
		m.enqueue(queued{Why: whyGive, Set: msg.Set.Mirror(), Node: from})
	case IPRequest:
		m.enqueue(queued{Why: whyReleaseIP, Key: msg.Key, Reply: from})
	case IPRequestResp:
		if msg.Dest == m.cfg.Self {
			m.ipRequestResp(msg)
		}
	case ClientState, ClientQuery, PingCount, YouAreDead, AbortGiveUp:
		m.ipfailHeard(from, msg)
	}
	m.script(from, msg)
}

// posted sends a message that came through the FIFO.
func (m *Machine) posted(msg Message) {
	m.send(msg)
}

func (m *Machine) log(level Level, classic, msg string, attrs ...any) {
	m.out = append(m.out, Report{Level: level, Classic: classic, Msg: msg, Attrs: attrs})
}

func (m *Machine) info(classic, msg string, attrs ...any) { m.log(Info, classic, msg, attrs...) }
func (m *Machine) warn(classic, msg string, attrs ...any) { m.log(Warn, classic, msg, attrs...) }

// record adds a line to the node's story. Changes of ownership are also kept
// as the answer to "why".
func (m *Machine) record(kind, text, reason string) {
	r := Record{kind, text, reason}
	m.out = append(m.out, r)
	if kind == "owner" {
		m.st.LastChange, m.st.LastChangeAt = r, m.now
	}
}

// setOf says whether a group is local or foreign here.
func (m *Machine) setOf(g Group) Set {
	if g.Node == m.cfg.Self {
		return Local
	}
	return Foreign
}

// keys lists the keys of the groups in a set, in file order.
func (m *Machine) keys(set Set) (keys []string) {
	for _, g := range m.cfg.Groups {
		if set.Has(m.setOf(g)) {
			keys = append(keys, g.Key)
		}
	}
	return keys
}

func (m *Machine) group(key string) *groupState {
	for i := range m.cfg.Groups {
		if m.cfg.Groups[i].Key == key {
			return &m.st.Groups[i]
		}
	}
	return nil
}

func (m *Machine) keySet(key string) Set {
	for _, g := range m.cfg.Groups {
		if g.Key == key {
			return m.setOf(g)
		}
	}
	return None
}
