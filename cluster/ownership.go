package cluster

import (
	"fmt"
	"slices"
	"time"
)

// commNowUp begins the resource protocol.
func (m *Machine) commNowUp() {
	if m.st.Shutdown >= shutdownReleasing {
		return
	}
	if !m.partner(m.cfg.Self) {
		m.st.Phase, m.st.OtherStable = PhaseStable, true
		return
	}
	if m.cfg.Failback == FailbackLegacy {
		if m.refusing() != nil {
			return // all is taken, or nothing
		}
		if foreign := m.cfg.Held & m.st.Mine & Foreign; foreign != None && m.peerAlive() {
			m.yield(foreign, "found running at start, but their node lives")
		}
		if !m.awaitsReset() { // else when that is done
			m.acquireLocal(true, "startup")
		}
		return
	}
	m.send(Starting{})
	m.st.Phase = PhaseStarting
	alone := true
	m.partners(func(*node) { alone = false })
	if alone {
		m.st.Phase, m.st.OtherStable = PhaseStable, true
		m.acquireLocal(true, "startup: no other node is named in haresources")
		return
	}
	m.unanswered()
	if m.cfg.Held != None && !m.peerActive() {
		// The other node may be starting too and find nobody who owns it. One
		// that is active says first what it holds: a claim of ours to what it
		// took meanwhile would be an error in its log.
		m.sayResource(false, "")
	}
}

// infoResync in a resource message, between new nodes only: the sender has
// cancelled whatever exchange there was, and wants to hear what the other holds.
const infoResync = "resync"

// sayResource tells everybody what we hold.
func (m *Machine) sayResource(stable bool, info string) {
	m.sayHold(stable, info, m.peerNew() || !m.peerAlive())
	m.claimed()
}

// sayHold is sayResource; new says that no 3.0.6 hears it.
func (m *Machine) sayHold(stable bool, info string, new bool) {
	if m.cfg.Failback == FailbackLegacy {
		return
	}
	msg := Resource{Hold: m.st.Mine, Full: true, Stable: tri(stable), Info: info}
	if new {
		msg.Took = m.st.Took & m.st.Mine
		msg.Releasing = m.unreleased() &^ m.st.Mine
		if len(m.cfg.PingNodes) > 0 {
			msg.Pings = m.pings() + 1
		}
		m.st.SaidPings = msg.Pings
	}
	m.send(msg)
}

func (m *Machine) otherStarting(from string) {
	m.unanswered()
	switch m.st.Phase {
	case PhaseStarting:
		m.st.Phase = PhaseBothStarting
		m.st.OtherStable = false
		m.sayResource(false, "")
	case PhaseReceived, PhaseStable, PhaseShutdown:
		m.st.OtherStable = false
		giving := m.giving()
		if giving {
			// The other node would take, once it has settled, what still runs here.
			m.st.Mine |= m.unreleased()
		}
		m.sayResource(m.st.Phase == PhaseStable && !giving, "")
	default:
		m.log(Error, fmt.Sprintf("Received 'starting' message in state %d", m.st.Phase), "starting message in the wrong phase", "node", from, "phase", m.st.Phase.String())
	}
}

// giving reports whether something is being stopped.
func (m *Machine) giving() bool {
	return slices.ContainsFunc(m.st.Jobs, func(j job) bool { return j.Kind == JobGive })
}

// unreleased are the sets of which something may still run here.
func (m *Machine) unreleased() (set Set) {
	for i, g := range m.cfg.Groups {
		if s := &m.st.Groups[i]; s.Stuck || s.State != "" && s.State != "stopped" {
			set |= m.setOf(g)
		}
	}
	return set
}

// resourceHeard is what every resource message does first. It reports whether
// the message may be used.
func (m *Machine) resourceHeard() bool {
	switch m.st.Phase {
	case PhaseInit:
		m.log(Error, "resource message received in state 0", "resource message in the wrong phase", "phase", m.st.Phase.String())
		return false
	case PhaseStarting, PhaseBothStarting:
		m.st.Phase = PhaseReceived
		m.st.Settle.set(m.now.Add(settleTime), "taking the local groups although the other node has not settled")
	}
	return true
}

// merge applies a resource message to what was known.
func merge(known Set, msg Resource) Set {
	if msg.Full || msg.Hold == None {
		return msg.Hold
	}
	return known | msg.Hold
}

func (m *Machine) ownResource(msg Resource) {
	if msg.Info == "mach_down" {
		m.st.Takeover = false // also before communication is up
	}
	if !m.resourceHeard() {
		return
	}
	m.st.Mine = merge(m.st.Mine, msg)
	switch msg.Info {
	case "mach_down":
		m.info("mach_down takeover complete.", "takeover complete")
		m.st.Mine |= Foreign
		m.st.FailbackDue = true
		m.st.OtherStable = true
		m.acquired("mach_down")
		m.partners(func(n *node) {
			if n.State == "active" && !n.Parted {
				m.tryFailback() // it came back before all was taken
			}
		})
	case "shutdown":
		m.st.Phase = PhaseShutdown
	}
	if msg.Stable == Yes && m.st.Phase == PhaseStable && m.st.Mine.Has(Local) && msg.Info == "" && m.st.Standby == StandbyNot {
		m.acquired("T_RESOURCES(us)")
	}
	m.audit()
}

func (m *Machine) otherResource(from string, msg Resource) {
	first := m.st.Phase == PhaseStarting
	if !m.resourceHeard() {
		return
	}
	m.st.Theirs = merge(m.st.Theirs, msg)
	if msg.Full {
		m.st.TheirTook = None
	}
	m.st.TheirTook |= msg.Took
	m.st.TheirReleasing = msg.Releasing
	if msg.Full {
		m.st.TheirPings = msg.Pings
	}
	if msg.Stable == Yes && m.st.Phase == PhaseStable && m.st.Mine&m.st.Theirs.Mirror() == None {
		m.st.Took = None // the nodes agree; who took what then is history
	}
	m.answered()
	if msg.Info == "standby" {
		m.standbyGoesOn()
	}
	m.st.Lingering &^= m.st.Theirs.Mirror()
	if first && msg.Stable == No && m.cfg.Held != None {
		m.sayResource(false, "") // it is starting too
	}
	if msg.Info == infoResync {
		m.cancelStandby(from, from+" has cancelled the standby")
		m.st.OtherStable = false // so that it is answered
		if msg.Stable == No {
			m.sayResource(m.st.Phase == PhaseStable, "")
		}
	}
	if msg.Stable == Yes {
		m.st.StandbyCut = false
	}
	became := msg.Stable == Yes && !m.st.OtherStable
	switch msg.Stable {
	case Yes:
		if became {
			m.info("remote resource transition completed.", "other node settled", "node", from, "holds", m.st.Theirs.String())
			m.st.OtherStable = true
			if m.st.Phase == PhaseReceived {
				m.releaseClaimed(from) // before we claim it: the other node would call that an error
			}
			m.sayResource(m.st.Phase == PhaseStable, "")
			m.resolve(from, false)
			m.tryFailback()
		}
	case No:
		m.st.OtherStable = false
	}
	if m.st.OtherStable && m.st.Phase != PhaseStable && m.st.Phase != PhaseShutdown {
		m.info("remote resource transition completed.", "other node settled", "node", from, "holds", m.st.Theirs.String())
		m.releaseClaimed(from)
		m.st.Settle.stop()
		m.acquireLocal(false, "startup: "+from+" holds "+m.st.Theirs.String())
		m.st.Phase = PhaseStable
		m.sayResource(true, "")
		m.adopt()
		m.tryFailback()
	}
	if msg.Stable == Yes && m.cfg.Failback != FailbackOn && m.st.Theirs.Has(Foreign) {
		m.acquired("T_RESOURCES(them)")
	}
	if !became && msg.Stable == Yes {
		m.resolve(from, false)
	}
	m.watchOverlap()
	m.announceKept()
	if msg.Stable == Yes {
		m.reclaim()
	}
	m.audit()
}

// reclaim takes our groups when nobody holds them: a restart of the other node
// may cut an exchange off in its middle.
func (m *Machine) reclaim() {
	if m.st.Phase != PhaseStable || !m.stable() || m.st.Shutdown != shutdownNo || (m.st.Mine | m.st.Theirs.Mirror() | m.st.TheirReleasing.Mirror()).Has(Local) {
		return
	}
	if !m.st.Lingering.Has(Local) {
		m.acquireLocal(false, "nobody holds them")
		return
	}
	// Taken now it would run twice: 3.0.6 has forgotten it, and stops it only if
	// it is to go standby with it.
	if m.st.AskBack.On {
		return
	}
	m.st.AskBack.set(m.now.Add(askBackPause), "asking the other node again to release what it has forgotten")
	m.warn("The other node has restarted without releasing our resources, and does not know them any more: it is asked to release them", "restarted node has forgotten what it ran", "set", Local.String())
	m.record("owner", "asks for local resources", "the other node ran them when its daemon died, and has forgotten them")
	m.send(HBTakeover{Local})
}

// retake takes what was let go of for a node that has never come back: its claim
// was its last word.
func (m *Machine) retake() {
	if m.st.Phase != PhaseStable || m.st.Shutdown != shutdownNo || m.st.Mine == All || m.peerAlive() || m.awaitsReset() {
		return
	}
	m.peers(func(n *node) {
		if n.State == "dead" {
			m.takeDead(n, false, n.Name+" is dead, and its claim was its last word")
		}
	})
}

// releaseClaimed lets go of what was found running at start and is the other
// node's by now.
func (m *Machine) releaseClaimed(from string) {
	if both := m.st.Mine & m.st.Theirs.Mirror(); both != None {
		m.yield(both, fmt.Sprintf("found running at start, but %s owns it", from))
	}
}

// stuck are the sets of which something could not be stopped.
func (m *Machine) stuck() (set Set) {
	for i, g := range m.cfg.Groups {
		if m.st.Groups[i].Stuck {
			set |= m.setOf(g)
		}
	}
	return set
}

// peerClaims reports whether the other node has said in this life of its what it
// holds: what a former one held is no claim any more.
func (m *Machine) peerClaims() bool {
	claims := false
	m.partners(func(n *node) { claims = claims || n.alive() && n.claims() })
	return claims
}

// overlap is what both nodes claim, both being new, settled and not about to
// change it. What could not be stopped is left out: its stop is tried again at
// its time.
func (m *Machine) overlap() Set {
	if !m.peerNew() || !m.peerClaims() || m.cfg.Failback == FailbackLegacy || m.st.Phase != PhaseStable || m.st.Standby != StandbyNot || m.st.Shutdown != shutdownNo {
		return None
	}
	return m.st.Mine & m.st.Theirs.Mirror() &^ m.stuck()
}

// resolve ends an overlap of claims between two new nodes. Where both say how
// many ping nodes answer them, who has fewer lets go: the clients are there, too.
// Else who took a set because it held the other for dead lets go; if that does not
// decide either, the preferred node keeps it. Both sides apply the same rule to
// the same facts: what each has said last. auto_failback moves later what is not
// at home then.
func (m *Machine) resolve(from string, again bool) {
	both := m.overlap()
	if both == None {
		return
	}
	lose, why := m.losing(both, from)
	if lose != None {
		m.yield(lose, why)
	}
	keep := both &^ lose
	if idle := m.idle(keep); idle != None {
		// Claimed only, perhaps on stale news: what the other one runs is not
		// started beside it. Once it has let go, nobody holds it.
		keep &^= idle
		m.st.Mine &^= idle
		m.record("owner", fmt.Sprintf("gives up its claim to %s resources", idle), "they do not run here, and "+from+" claims them too")
		m.sayResource(true, "")
	}
	if keep == None {
		return
	}
	m.st.Kept |= keep
	switch {
	case again:
		m.sayResource(true, "")
		return
	case m.st.Overlap.On:
		return // it was answered, and is again at the next look
	}
	m.record("owner", fmt.Sprintf("keeps %s resources that %s claims too", keep, from), why)
	m.sayResource(true, "")
	// What is being started here runs there: it is started when they have stopped it.
	starting := slices.DeleteFunc(m.keys(keep), func(key string) bool { return m.group(key).State != "starting" })
	if len(starting) > 0 {
		m.run(job{Why: whyConfirm, Kind: JobGive, Set: keep, Keys: starting}, from+" runs it still")
	}
	if slices.ContainsFunc(m.keys(keep), m.busy) || m.deaf() {
		return
	}
	// What does not run here waits until the other node has stopped it.
	runs := slices.DeleteFunc(m.keys(keep), func(key string) bool { return m.group(key).State != "running" })
	if len(runs) > 0 {
		m.run(job{Why: whyConfirm, Kind: JobTake, Set: keep, Keys: runs}, "announced again: "+from+" claimed it too")
	}
}

// announceKept announces what we have kept of an overlap once more when the other
// node has stopped it: until then its addresses answered, too.
func (m *Machine) announceKept() {
	free := m.st.Kept &^ (m.st.Theirs | m.st.TheirReleasing).Mirror()
	if slices.ContainsFunc(m.keys(free), m.busy) {
		return // when that has ended
	}
	m.st.Kept &^= free
	if free &= m.st.Mine; free != None {
		m.run(job{Why: whyConfirm, Kind: JobTake, Set: free, Keys: m.keys(free)}, "announced again: the other node has stopped it")
	}
}

// theyHave reports whether a new node claims a set or is still stopping it.
func (m *Machine) theyHave(set Set) bool {
	if m.cfg.Failback == FailbackLegacy {
		return m.peerRuns(set)
	}
	return m.peerNew() && m.peerClaims() && m.st.Phase == PhaseStable && set&(m.st.Theirs|m.st.TheirReleasing).Mirror() != None
}

// losing is which of the sets that both claim this node lets go of, and why, or
// why it keeps them.
func (m *Machine) losing(both Set, from string) (lose Set, why string) {
	ours, theirs := m.st.SaidPings-1, m.st.TheirPings-1
	switch {
	case min(ours, theirs) < 0 || ours == theirs:
	case ours < theirs:
		return both, fmt.Sprintf("%s reaches %d ping nodes, this node %d", from, theirs, ours)
	default:
		return None, fmt.Sprintf("this node reaches %d ping nodes, %s %d", ours, from, theirs)
	}
	for _, s := range [...]Set{Local, Foreign} {
		if !both.Has(s) {
			continue
		}
		weTook, theyTook := m.st.Took.Has(s), m.st.TheirTook.Mirror().Has(s)
		if weTook && !theyTook || weTook == theyTook && s == Foreign {
			lose |= s
		}
	}
	if lose != None {
		return lose, from + " owned it before the nodes lost each other"
	}
	return None, "it was the owner before the nodes lost each other, or is the preferred one"
}

// watchOverlap has overlaps look at the claims later, as long as both nodes claim
// a set.
func (m *Machine) watchOverlap() {
	switch {
	case m.st.Mine&m.st.Theirs.Mirror() == None:
		m.st.Overlap.stop()
		m.st.OverlapLooks = 0
	case !m.st.Overlap.On:
		m.st.Overlap.set(m.now.Add(overlapPause), "")
	}
}

// overlaps goes on with an overlap that has lasted.
func (m *Machine) overlaps() {
	m.st.Overlap.stop()
	m.partners(func(n *node) {
		switch {
		case !n.alive():
		case !n.New:
			m.endOldOverlap(n)
		case m.st.OtherStable:
			m.resolve(n.Name, true)
		case m.overlap() != None:
			m.sayResource(true, "")
		}
	})
	m.watchOverlap()
}

// idle are the sets of which no group runs here or is about to.
func (m *Machine) idle(of Set) Set {
	idle := of
	for i, g := range m.cfg.Groups {
		if s := &m.st.Groups[i]; s.Stuck || s.State != "" && s.State != "stopped" && s.State != "failed" {
			idle &^= m.setOf(g)
		}
	}
	for _, q := range m.st.Queue {
		if q.Take != nil && q.Take.Kind == JobTake {
			idle &^= q.Take.Set
		}
	}
	for _, s := range [...]Set{Local, Foreign} {
		if len(m.keys(s)) == 0 {
			idle &^= s // a claim to nothing hurts nobody
		}
	}
	return idle
}

// yield releases a set that the other node owns.
func (m *Machine) yield(set Set, reason string) {
	m.warn(fmt.Sprintf("Releasing %s resources: %s", set, reason), "releasing what the other node owns", "set", set.String(), "reason", reason)
	m.record("owner", fmt.Sprintf("releases %s resources", set), reason)
	m.st.Mine &^= set
	m.st.Took &^= set
	m.st.Kept &^= set
	m.run(job{Why: whyYield, Kind: JobGive, Set: set, Keys: m.keys(set)}, reason)
}

// settled is the end of the wait for the other node to say that it is stable.
func (m *Machine) settled() {
	if m.st.Phase != PhaseReceived {
		m.st.Settle.stop()
		return
	}
	gap := false
	m.partners(func(n *node) { gap = gap || n.alive() && n.Gap })
	if gap && m.now.Sub(m.st.Settle.At) < m.cfg.Deadtime {
		return // what it holds may be among what was lost and is sent again
	}
	m.st.Settle.stop()
	m.st.Phase = PhaseStable
	if both := m.st.Mine & Foreign & m.st.Theirs.Mirror(); both != None && !m.peerNew() && m.peerClaims() {
		// Both have started and found the same. New nodes end that by their claims;
		// with a 3.0.6 only failback would, which two of us ask for at once.
		m.yield(both, "found running at start, but their node runs them too")
	}
	m.acquireLocal(false, "startup")
	m.info("local resource transition completed.", "settled", "holds", m.st.Mine.String())
	m.sayResource(true, "")
	m.adopt()
}

// acquireLocal takes the groups that prefer this node. Unless forced it does
// nothing when somebody holds them already.
func (m *Machine) acquireLocal(forced bool, reason string) {
	if m.st.Shutdown != shutdownNo && m.peerNew() {
		m.info("Local Resource acquisition completed. (none)", "nothing is taken: shutting down")
		return
	}
	if !forced && m.st.Standby == StandbyNot && (m.st.Theirs.Has(Foreign) || m.st.Mine.Has(Local)) {
		m.info("Local Resource acquisition completed. (none)", "no local resources to take")
		return
	}
	m.st.Mine |= Local
	keys := m.keys(Local)
	if len(keys) == 0 {
		m.info(fmt.Sprintf("No local resources [%s] to acquire.", m.cfg.Self), "no local resources configured")
	}
	ask := m.cfg.Failback == FailbackLegacy && (m.peerActive() || m.peerRuns(Local))
	m.run(job{Why: whyLocal, Kind: JobAsk, Set: Local, Keys: keys, AskPeer: ask}, reason)
}

// localAsked goes on when it is known which of our groups are idle.
func (m *Machine) localAsked(results []GroupResult, askPeer bool) {
	m.info("Local Resource acquisition completed.", "local resources asked for")
	// The answer may have taken long: the machine was paused.
	askPeer = askPeer || m.cfg.Failback == FailbackLegacy && m.peerRuns(Local)
	for _, r := range results {
		g := m.group(r.Key)
		if g == nil {
			continue
		}
		switch {
		case r.Running && !g.Stuck: // else a part of it runs: it is started again
			if g.Found && askPeer {
				m.askFor(g, r.Key) // the other node may have taken it while we were away
			}
			found := g.State != "running" || g.Found
			m.setGroup(r.Key, "running", g.Reason, "")
			g.Found = found
		case askPeer:
			m.askFor(g, r.Key)
		default:
			m.send(IPRequestResp{Dest: m.cfg.Self, Key: r.Key, WeOwn: true, OK: true})
		}
	}
	m.sayResource(true, "req_our_resources()")
	if m.cfg.Failback == FailbackLegacy {
		m.acquired("req_our_resources")
	}
	m.adopt()
}

// askFor asks the other node for a group of ours (legacy mode), and again until
// it answers: it may be gone before it does.
func (m *Machine) askFor(g *groupState, key string) {
	m.send(IPRequest{key})
	g.Wanted = true
	m.retryAt(g, m.now.Add(askAgainPause))
}

// wantAgain is the end of the wait for an answer to askFor.
func (m *Machine) wantAgain(g *groupState, key string) {
	switch {
	case m.st.Shutdown != shutdownNo:
		g.Wanted = false
	case m.peerAlive():
		m.askFor(g, key)
	case m.awaitsReset() || m.refusing() != nil:
		g.RetryAt = m.now.Add(settleTime)
	default:
		m.send(IPRequestResp{Dest: m.cfg.Self, Key: key, WeOwn: true, OK: true})
	}
}

// adopt takes what was found running at start and is ours to keep: nothing is
// started twice, but its addresses are announced and watched from now on. What the
// other node claims too is announced by who keeps it.
func (m *Machine) adopt() {
	var keys []string
	for i, g := range m.cfg.Groups {
		if s := &m.st.Groups[i]; s.Found && m.st.Mine.Has(m.setOf(g)) && !m.busy(g.Key) && !m.theyHave(m.setOf(g)) {
			keys = append(keys, g.Key)
		}
	}
	if len(keys) > 0 {
		m.run(job{Why: whyConfirm, Kind: JobTake, Set: All, Keys: keys}, "found running at start")
	}
}

// ipRequestResp allows us to take one of our groups.
func (m *Machine) ipRequestResp(msg IPRequestResp) {
	if !msg.OK || msg.Dest != m.cfg.Self {
		return
	}
	if g := m.group(msg.Key); g != nil {
		g.Wanted = false
	}
	m.enqueue(queued{Why: whyRequested, Key: msg.Key})
}

// nodeDied is what the death of a node means for the resources.
func (m *Machine) nodeDied(n *node, heardSince bool, reason string) {
	if n.Ping || !m.partner(n.Name) || !m.partner(m.cfg.Self) {
		return
	}
	m.st.Lingering = None
	if m.cfg.Stonith && m.st.Standby == StandbyDone && m.st.StandbyFrom == m.cfg.Self {
		m.st.Theirs |= m.st.StandbySet.Mirror() // it was taking what we gave, and says so only when it is done
	}
	m.cancelStandby(n.Name, n.Name+" died meanwhile")
	m.failPending(n.Name + " died meanwhile")
	m.st.FailbackDue = true
	if m.leaving() {
		m.st.OtherStable = true // a shutdown that waits for it need not wait for the dead
		return
	}
	if m.mayTake(n, heardSince, reason) {
		m.takeDead(n, heardSince, reason)
	}
}

// takeDead takes what a dead node had, once it is reset where that is configured.
func (m *Machine) takeDead(n *node, heardSince bool, reason string) {
	if heardSince && m.st.Theirs|m.st.TheirReleasing == None && (!m.cfg.Stonith || m.heldNothing(n)) {
		m.info(fmt.Sprintf("Dead node %s gave up resources.", n.Name), "dead node held nothing", "node", n.Name)
		m.send(Stonith{n.Name, "unneeded"})
		m.fenceForOurs(n, reason)
		if m.st.Mine == All {
			m.st.OtherStable = true
			return
		}
		if !m.st.Mine.Has(Local) && m.cfg.Failback != FailbackLegacy {
			m.acquireLocal(true, reason)
		}
		if !m.st.Mine.Has(Foreign) || m.cfg.Failback == FailbackLegacy {
			m.takeover(n.Name, reason)
		}
		return
	}
	if m.cfg.Stonith {
		m.mustFence(n, fencing{Node: n.Name, Reason: reason})
		return
	}
	m.send(Stonith{n.Name, "n_stnth"})
	m.warn("No STONITH device configured.", "no stonith device")
	m.warn("Shared disks are not protected.", "shared disks are not protected")
	m.takeover(n.Name, reason)
}

// leaving reports that nothing is taken over any more: a shutdown is wanted, and
// this node has settled or releases already.
func (m *Machine) leaving() bool {
	return m.st.Shutdown != shutdownNo && (m.st.Phase >= PhaseStable || m.st.Shutdown >= shutdownReleasing)
}

// takeover takes everything from a node that is dead or has shut down.
func (m *Machine) takeover(name, reason string) {
	if m.leaving() {
		m.info("Resource takeover cancelled - shutdown in progress.", "takeover cancelled: shutting down", "node", name)
		m.st.OtherStable = true
		return
	}
	m.info(fmt.Sprintf("Resources being acquired from %s.", name), "taking over", "node", name, "reason", reason)
	m.record("owner", "takes over from "+name, reason)
	m.enqueue(queued{Why: whyMachDown, Node: name, Reason: reason})
	m.st.Took |= Foreign
	if !m.st.Mine.Has(Local) {
		m.st.Took |= Local
	}
	m.st.Mine |= Foreign
	m.st.Theirs, m.st.TheirReleasing = None, None
	m.st.OtherStable = true
	m.st.Takeover = m.cfg.Failback != FailbackLegacy
	m.acquireLocal(true, reason)
}

// machDown is the end of taking a dead node's groups.
func (m *Machine) machDown(node string) {
	if m.cfg.Failback != FailbackLegacy && !m.st.Mine.Has(Foreign) {
		m.st.Takeover = false // let go of meanwhile
		return
	}
	if m.cfg.Failback != FailbackLegacy {
		msg := Resource{Hold: Foreign, Info: "mach_down"}
		if m.peerNew() {
			msg.Took = m.st.Took & Foreign
		}
		m.send(msg)
	}
	m.info(fmt.Sprintf("mach_down takeover complete for node %s.", node), "takeover complete for node", "node", node)
}

// ownShutdone is our own notice that everything is released.
func (m *Machine) ownShutdone() {
	m.st.Phase = PhaseShutdown
	m.st.Mine, m.st.Took = None, None
}

// otherShutdone is the other node's notice that it has released everything.
func (m *Machine) otherShutdone(from string) {
	m.record("node", from+" has released everything and shuts down", "its notice")
	if n := m.node(from); n != nil {
		n.Parted = true
	}
	if !m.partner(from) || !m.partner(m.cfg.Self) {
		return
	}
	m.st.Lingering = None // it stops what it has forgotten, too
	if m.cfg.Failback != FailbackLegacy {
		m.st.OtherStable = true
		m.st.Theirs = None
		if m.st.Mine != All && m.st.Shutdown == shutdownNo && m.st.CommUp && m.st.Phase != PhaseInit {
			m.st.Standby = StandbyDone
			m.st.StandbyEnd.set(m.now.Add(standbyLimit), "end of the takeover")
			set := m.st.Mine
			if set == None {
				set = All
			}
			m.runTake(whyDone, set, m.st.StandbySet, from+" shut down")
		}
	}
	m.info(fmt.Sprintf("Received shutdown notice from '%s'.", from), "other node shuts down", "node", from)
	if m.st.CommUp {
		m.takeover(from, from+" shut down and released everything")
	}
}

// tryFailback hands the other node's groups back to it.
func (m *Machine) tryFailback() {
	if m.st.Shutdown != shutdownNo || !m.st.Mine.Has(Foreign) || !m.st.FailbackDue || m.cfg.Failback != FailbackOn {
		m.st.FailbackDue = false
		m.st.FailbackTry.stop()
		return
	}
	overlap := m.peerNew() && m.st.Mine&m.st.Theirs.Mirror() != None
	if m.st.Standby != StandbyNot || !m.st.OtherStable || m.st.Phase != PhaseStable || overlap {
		m.st.FailbackTry.set(m.now.Add(failbackPause), "handing resources back")
		return
	}
	if !m.peerActive() {
		if m.peerAlive() {
			// The packet that says active was overtaken by what came after it.
			m.st.FailbackTry.set(m.now.Add(failbackPause), "handing resources back")
		}
		return
	}
	m.st.FailbackDue = false
	m.record("owner", "hands foreign resources back", "auto_failback on, and their node is back")
	m.send(AskResources{Set: Foreign, Info: "me"})
	m.st.FailbackAsked = true
}

// stable reports that no resources are about to move.
func (m *Machine) stable() bool {
	if m.st.Shutdown != shutdownNo && (m.st.Phase == PhaseInit || m.refusing() != nil) {
		return !m.resourceJobs()
	}
	if m.cfg.Failback == FailbackLegacy {
		return !m.resourceJobs() && len(m.st.Queue) == 0
	}
	return m.st.OtherStable && !m.st.Takeover && m.st.Standby == StandbyNot && !m.st.StandbyEnd.On && !m.resourceJobs() &&
		(m.st.Phase == PhaseStable || m.st.Phase == PhaseShutdown || m.st.Phase == PhaseInit)
}

// acquired says once per life that the first acquisition is over.
func (m *Machine) acquired(reason string) {
	if m.st.Acquired {
		return
	}
	m.st.Acquired = true
	m.info(fmt.Sprintf("Initial resource acquisition complete (%s)", reason), "initial resource acquisition complete", "reason", reason)
}

// audit says when a set has two owners or none.
func (m *Machine) audit() {
	if m.cfg.Failback == FailbackLegacy || !m.peerActive() {
		return
	}
	mine, theirs := m.st.Mine, m.st.Theirs.Mirror()
	if mine.Has(Local) && theirs.Has(Local) {
		m.log(Error, "Both machines own our resources!", "two owners", "set", "local")
	}
	if mine.Has(Foreign) && theirs.Has(Foreign) {
		m.log(Error, "Both machines own foreign resources!", "two owners", "set", "foreign")
	}
	if m.st.Shutdown != shutdownNo || !m.stable() {
		return
	}
	if !(mine | theirs).Has(Local) {
		m.log(Error, "No one owns our local resources!", "no owner", "set", "local")
	}
	if !(mine | theirs).Has(Foreign) {
		m.log(Error, "No one owns foreign resources!", "no owner", "set", "foreign")
	}
}

// returned is the return of a node that was held for dead. It reports whether
// the two are to tell each other what they hold: both know how to end an
// overlap without stopping everything, and each must hear the other, who may
// not have missed us.
func (m *Machine) returned(n *node, msg Status) (resync bool) {
	n.Down = false
	m.log(Crit, fmt.Sprintf("Cluster node %s returning after partition.", n.Name), "node returns after a partition", "node", n.Name)
	m.info("For information on cluster partitions, See URL: http://linux-ha.org/wiki/Split_Brain", "see the documentation on split brain")
	m.warn("Deadtime value may be too small.", "deadtime may be too small", "deadtime", m.cfg.Deadtime)
	m.info("See FAQ for information on tuning deadtime.", "see the documentation on deadtime")
	m.info("URL: http://linux-ha.org/wiki/FAQ#Heavy_Load", "see the documentation on heavy load")
	m.record("node", n.Name+" returns after a partition", "its keepalives are heard again, of the generation that was held for dead")
	m.sayStatus(m.self().State, false)
	if m.st.Phase == PhaseInit && m.cfg.Failback != FailbackLegacy || !m.partner(n.Name) || !m.partner(m.cfg.Self) {
		return false
	}
	if msg.New {
		m.st.HomeDue = m.cfg.Failback == FailbackLegacy // there the keepalives say enough
		return !m.st.HomeDue
	}
	if !m.st.RestartAt.On && m.st.Shutdown == shutdownNo {
		m.st.RestartAt.set(m.now.Add(partitionPause), "restart after the partition")
	}
	return false
}

// setGroup is the only place where a group's state changes.
func (m *Machine) setGroup(key, state, reason, err string) {
	g := m.group(key)
	if g == nil {
		return
	}
	if g.State != state {
		g.Since = m.now
		if state == "running" || state == "failed" || state == "stopped" && g.State != "" {
			text := fmt.Sprintf("group %s %s", key, state)
			if err != "" {
				text += ": " + err
			}
			m.record("owner", text, reason)
		}
	}
	g.State, g.Reason, g.Err = state, reason, err
	switch state {
	case "running":
		g.Failures, g.Stuck, g.Handed, g.Found = 0, false, false, false
	case "stopping", "stopped":
		g.Found = false
	}
}

// failed notes that a group could not be started or stopped and plans what to
// do about it.
func (m *Machine) failed(r GroupResult, stop bool, reason string) {
	g := m.group(r.Key)
	if g == nil {
		return
	}
	m.setGroup(r.Key, "failed", reason, r.Err)
	g.Stuck = stop
	if stop && m.cfg.StopReboot && (m.st.Silent || m.peerAlive()) {
		// The other node waits for it, or holds us for dead and has taken it. An
		// only node would restart for nobody.
		m.log(Crit, fmt.Sprintf("Rebooting system.  Reason: stop of resource group %s failed: %s", r.Key, r.Err), "stop failed: restarting the machine", "group", r.Key, "err", r.Err)
		m.record("daemon", "restarts the machine", "stop of group "+r.Key+" failed: "+r.Err)
		m.out = append(m.out, Reboot{Reason: "stop of group " + r.Key + " failed"})
	}
	pause := min(handOver<<min(g.Failures, 10), retryMax)
	g.Failures++
	if stop {
		m.log(Crit, fmt.Sprintf("Resource group %s may still be running: stop failed. It is not handed over. Next try in %v", r.Key, pause), "stop failed: the group is not handed over", "group", r.Key, "err", r.Err, "retry", pause)
	} else {
		m.log(Crit, fmt.Sprintf("Resource group %s runs nowhere: start failed. Next step in %v", r.Key, pause), "start failed", "group", r.Key, "err", r.Err, "retry", pause)
	}
	m.retryAt(g, m.now.Add(pause))
}

// retryAt has retry look at the group then.
func (m *Machine) retryAt(g *groupState, at Instant) {
	g.RetryAt = at
	m.armRetry()
}

// armRetry sets the timer for the group whose next try is first.
func (m *Machine) armRetry() {
	m.st.Retry.stop()
	for i, g := range m.cfg.Groups {
		if at := m.st.Groups[i].RetryAt; at > 0 && (!m.st.Retry.On || at < m.st.Retry.At) {
			m.st.Retry.set(at, "next try for group "+g.Key)
		}
	}
}

// retry deals with failed groups: what could not be stopped is stopped again,
// what could not be started is offered to the other node once, or tried again.
func (m *Machine) retry() {
	defer m.armRetry()
	for i, g := range m.cfg.Groups {
		s := &m.st.Groups[i]
		if s.RetryAt == 0 || s.RetryAt > m.now {
			continue
		}
		s.RetryAt = 0
		switch {
		case m.busy(g.Key) && s.Wanted:
			s.RetryAt = m.now.Add(settleTime)
			continue
		case m.busy(g.Key) || s.State != "failed" && !s.Wanted:
			continue
		}
		set := m.setOf(g)
		switch {
		case s.Wanted && !s.Stuck:
			m.wantAgain(s, g.Key)
		case s.Stuck:
			m.run(job{Why: whyRetry, Kind: JobGive, Set: set, Keys: []string{g.Key}}, "stop failed before: "+s.Err)
		case !m.st.Mine.Has(set) || m.st.Shutdown != shutdownNo:
			s.State = "stopped"
			if m.peerNew() && m.st.Phase == PhaseStable && m.st.Shutdown == shutdownNo && !m.unreleased().Has(set) {
				m.sayResource(true, "") // the other node waits for the end of our release
			}
		case m.cfg.Failback != FailbackLegacy && m.peerActive() && (!m.st.OtherStable || m.st.Theirs.Mirror().Has(set)):
			// The reason for which it was to be taken may be gone.
			s.RetryAt = m.now.Add(settleTime)
		case m.st.Standby != StandbyNot:
			s.RetryAt = m.now.Add(settleTime)
		case m.cfg.Failback == FailbackLegacy && m.peerActive():
			// It may have been taken meanwhile: our own is asked for again, the
			// other's is its own.
			if set == Local {
				m.askFor(s, g.Key)
			} else {
				s.State = "stopped"
			}
		case !s.Handed && m.peerActive() && m.cfg.Failback != FailbackLegacy && m.st.OtherStable && m.st.Standby == StandbyNot && m.st.Phase == PhaseStable:
			s.Handed = true
			s.RetryAt = m.now.Add(handOver) // the other node may not take it
			m.record("owner", fmt.Sprintf("offers %s resources to the other node", set), "start of group "+g.Key+" failed: "+s.Err)
			m.send(AskResources{Set: set, Info: "me"})
		default:
			m.run(job{Why: whyRetry, Kind: JobTake, Set: set, Keys: []string{g.Key}}, "start failed before: "+s.Err)
		}
	}
}

// busy reports whether a job works on the group.
func (m *Machine) busy(key string) bool {
	for _, j := range m.st.Jobs {
		for _, k := range j.Keys {
			if k == key && j.Kind != JobAsk && j.Kind != JobProbe {
				return true
			}
		}
	}
	return false
}

// tryShutdown begins a wanted shutdown as soon as no resources are moving.
func (m *Machine) tryShutdown() {
	if m.st.Shutdown != shutdownWanted || m.st.CommUp && !m.stable() {
		return
	}
	m.st.Shutdown = shutdownReleasing
	if m.st.CommUp && m.cfg.Failback != FailbackLegacy {
		m.st.Mine = None
		m.sayResource(false, "shutdown")
	}
	m.info(fmt.Sprintf("Heartbeat shutdown in progress. (%d)", m.cfg.PID), "shutting down")
	m.info("Giving up all HA resources.", "releasing everything")
	reason := "shutdown"
	if m.st.Restart {
		reason = "restart after a partition"
	}
	m.record("daemon", "shuts down", reason)
	m.run(job{Why: whyShutdown, Kind: JobGive, Set: All, Keys: m.keys(All)}, reason)
}

// allReleased reports whether nothing runs any more or is about to.
func (m *Machine) allReleased() bool {
	return m.unreleased() == None && !slices.ContainsFunc(m.st.Jobs, func(j job) bool { return j.Kind == JobTake || j.Kind == JobGive })
}

// released goes on when everything is given up.
func (m *Machine) released() {
	m.info("All HA resources relinquished.", "everything released")
	m.st.Shutdown = shutdownParting
	if !m.st.CommUp {
		m.exit()
		return
	}
	m.send(Shutdone{})
	if m.st.Restart || m.peerAlive() {
		m.st.ShutdownStep.set(m.now.Add(partingPause), "last words before the exit")
		return
	}
	m.exit()
}

func (m *Machine) shutdownStep() {
	m.st.ShutdownStep.stop()
	if m.st.Shutdown == shutdownParting {
		m.leaveIPFail()
		m.st.Shutdown = shutdownLast
		if m.st.Restart {
			m.sayStatus(m.self().State, false)
			m.sayStatus(m.self().State, false)
		}
		m.st.ShutdownStep.set(m.now.Add(partingPause), "exit")
		return
	}
	m.exit()
}

func (m *Machine) exit() {
	m.info(fmt.Sprintf("%s Heartbeat shutdown complete.", m.cfg.Self), "shutdown complete")
	for _, id := range m.st.ShutdownID {
		m.out = append(m.out, Reply{ID: id, Text: "everything released, the daemon ends", Final: true})
	}
	m.st.ShutdownID = nil
	e := Exit{Restart: m.st.Restart, Reason: "shutdown"}
	if e.Restart {
		m.info("Heartbeat restart triggered.", "restart triggered")
		m.info("Restarting heartbeat.", "restarting")
		e.Reason = "restart after a partition"
		e.Pause = m.cfg.Deadtime.Truncate(time.Second) + time.Second
		if m.cfg.Deadtime%time.Second != 0 {
			e.Pause += time.Second
		}
	}
	m.out = append(m.out, e)
}
