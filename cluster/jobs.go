package cluster

import (
	"fmt"
	"slices"
)

// run orders a job and remembers what for. A start waits until no stop of the
// same group is under way, and until it is clear whether the others have given
// us up during a stall; a stop takes back the starts that wait. So does a
// question: its answer would soon be wrong.
func (m *Machine) run(j job, reason string) {
	switch {
	case j.Why == whyConfirm && j.Set == All:
		// One job each: the next thing may be to give one of them, and a stop
		// does not reach what a start has still before it.
		for _, set := range [...]Set{Local, Foreign} {
			one := j
			one.Set = set
			one.Keys = slices.DeleteFunc(slices.Clone(j.Keys), func(key string) bool { return m.keySet(key) != set })
			if len(one.Keys) > 0 {
				m.run(one, reason)
			}
		}
		return
	case (j.Kind == JobTake || j.Kind == JobAsk) && (m.stopping(j.Keys) || m.st.Doubt.On):
		m.enqueue(queued{Why: j.Why, Take: &j, Reason: reason})
		return
	case j.Kind == JobGive:
		m.dropStarts(j.Keys)
		for _, q := range m.st.Queue {
			if q.Take != nil {
				q.Take.Keys = slices.DeleteFunc(slices.Clone(q.Take.Keys), func(key string) bool { return slices.Contains(j.Keys, key) })
			}
		}
	}
	m.st.NextJob++
	j.ID = m.st.NextJob
	m.st.Jobs = append(m.st.Jobs, j)
	for _, key := range j.Keys {
		if g := m.group(key); g != nil && (j.Kind == JobTake || j.Kind == JobGive) {
			g.Job = j.ID
		}
		switch j.Kind {
		case JobTake:
			if g := m.group(key); g != nil && g.State != "running" {
				m.setGroup(key, "starting", reason, "")
			}
		case JobGive:
			if g := m.group(key); g != nil && g.State != "" && g.State != "stopped" {
				m.setGroup(key, "stopping", reason, "")
			}
		}
	}
	m.out = append(m.out, Run{Job{ID: j.ID, Kind: j.Kind, Keys: j.Keys, Reason: reason, Node: j.Node, Title: j.Title}})
}

// dropStarts drops what waits in the queue to start groups that are given up now.
func (m *Machine) dropStarts(keys []string) {
	given := func(key string) bool { return slices.Contains(keys, key) }
	foreign := m.keys(Foreign)
	all := !slices.ContainsFunc(foreign, func(key string) bool { return !given(key) })
	m.st.Queue = slices.DeleteFunc(m.st.Queue, func(q queued) bool {
		switch {
		case q.Why == whyRequested && q.Take == nil:
			return given(q.Key)
		case q.Why == whyMachDown && q.Take == nil && all && len(foreign) > 0:
			m.st.Takeover = false
			return true
		}
		return false
	})
}

// stopping reports whether a job stops one of the groups.
func (m *Machine) stopping(keys []string) bool {
	for _, j := range m.st.Jobs {
		if j.Kind == JobGive && slices.ContainsFunc(j.Keys, func(key string) bool { return slices.Contains(keys, key) }) {
			return true
		}
	}
	return false
}

// enqueue adds work that waits until no resource job runs.
func (m *Machine) enqueue(q queued) {
	const queueMax = 1000
	if len(m.st.Queue) == queueMax {
		m.log(Error, "Too many messages wait for their scripts: the oldest is dropped", "script queue is full", "waiting", queueMax)
		m.st.Queue = slices.Delete(m.st.Queue, 0, 1)
	}
	m.st.Queue = append(m.st.Queue, q)
}

// resourceJobs reports whether a job moves resources or waits to do so.
func (m *Machine) resourceJobs() bool {
	if slices.ContainsFunc(m.st.Queue, func(q queued) bool { return q.Take != nil }) {
		return true
	}
	for _, j := range m.st.Jobs {
		if j.Kind != JobScript && j.Kind != JobProbe {
			return true
		}
	}
	return false
}

// startable reports whether queued work may start: nothing moves resources.
// Questions do not count; and only a script waits for another script, so that
// one which hangs does not hold up a takeover.
func (m *Machine) startable(q queued) bool {
	if q.Take != nil {
		return !m.stopping(q.Take.Keys) && !m.st.Doubt.On
	}
	for _, j := range m.st.Jobs {
		switch j.Kind {
		case JobAsk, JobFence, JobProbe:
		case JobScript:
			if q.Why == whyScript {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// pump starts queued work, one at a time and in order, but for scripts, which
// are overtaken while they wait for each other.
func (m *Machine) pump() {
	for {
		i := slices.IndexFunc(m.st.Queue, m.startable)
		if i < 0 {
			return
		}
		q := m.st.Queue[i]
		m.st.Queue = slices.Delete(m.st.Queue, i, i+1)
		m.startQueued(q)
	}
}

func (m *Machine) startQueued(q queued) {
	if q.Take != nil {
		m.run(*q.Take, q.Reason)
		return
	}
	switch q.Why {
	case whyMachDown:
		if m.st.Shutdown >= shutdownReleasing || m.cfg.Failback != FailbackLegacy && !m.st.Mine.Has(Foreign) {
			m.st.Takeover = false
			return
		}
		if m.theyHave(Foreign) {
			m.st.Takeover = false
			if m.cfg.Failback != FailbackLegacy {
				m.st.Kept |= Foreign // it is started when they have stopped it, if it is ours then
			}
			return
		}
		m.run(job{Why: whyMachDown, Kind: JobTake, Set: Foreign, Node: q.Node, Keys: m.keys(Foreign)}, q.Reason)
	case whyRequested:
		if set := m.keySet(q.Key); set == None || m.st.Shutdown >= shutdownReleasing || m.cfg.Failback != FailbackLegacy && !m.st.Mine.Has(set) {
			return
		}
		if set := m.keySet(q.Key); m.cfg.Failback != FailbackLegacy && m.theyHave(set) && m.group(q.Key).State != "running" {
			m.st.Kept |= set // it is started when they have stopped it
			return
		}
		m.info(fmt.Sprintf("received ip-request-resp %s OK yes", q.Key), "taking a group of ours", "group", q.Key)
		m.run(job{Why: whyRequested, Kind: JobTake, Set: m.keySet(q.Key), Keys: []string{q.Key}}, "local group, nobody else holds it")
	case whyReleaseIP:
		if g := m.group(q.Key); g != nil && g.Stuck && g.Asked == q.Reply {
			return // its stop is tried again at its time, and the answer follows
		}
		m.run(job{Why: whyReleaseIP, Kind: JobGive, Set: m.keySet(q.Key), Node: q.Reply, Keys: []string{q.Key}}, q.Reply+" asked for its group")
	case whyGive: // the other node's hb_takeover
		if m.st.StandbyEnd.On {
			m.warn(fmt.Sprintf("Standby in progress- takeover by %s ignored", q.Node), "takeover ignored: a standby is in progress", "node", q.Node)
			return // the request would be refused here, and perhaps granted there
		}
		m.info(fmt.Sprintf("Going standby [%s].", q.Set), "going standby for the other node's takeover", "set", q.Set.String(), "node", q.Node)
		m.send(AskResources{Set: q.Set, Info: "me"})
	case whyScript:
		m.st.NextJob++
		j := job{ID: m.st.NextJob, Why: whyScript, Kind: JobScript, Node: q.Node, Title: q.Key}
		m.st.Jobs = append(m.st.Jobs, j)
		m.out = append(m.out, Run{Job{ID: j.ID, Kind: JobScript, Node: q.Node, Title: q.Key, Message: q.Msg}})
	}
}

// jobDone files the results and does what the job was run for.
func (m *Machine) jobDone(ev JobDone) {
	i := slices.IndexFunc(m.st.Jobs, func(j job) bool { return j.ID == ev.ID })
	if i < 0 {
		m.warn(fmt.Sprintf("end of unknown job %d ignored", ev.ID), "end of unknown job", "id", ev.ID)
		return
	}
	j := m.st.Jobs[i]
	m.st.Jobs = slices.Delete(m.st.Jobs, i, i+1)
	ok := m.fileResults(j, ev)
	if m.st.Silent {
		m.silentDone(j, ok)
		return
	}
	if j.Kind == JobGive && !ok {
		m.claimStuck()
	}
	if m.st.Shutdown == shutdownReleasing && m.allReleased() {
		m.released()
	}
	switch j.Why {
	case whyLocal:
		m.localAsked(ev.Groups, j.AskPeer)
		if m.cfg.Failback != FailbackLegacy {
			m.reclaim() // the claim may have been given up meanwhile
		}
	case whyGive:
		m.gaveUp(j, ok)
	case whyTake, whyDone:
		m.info(fmt.Sprintf("%s HA resource acquisition completed (standby).", j.Set), "resources taken", "set", j.Set.String(), "ok", ok)
		if m.st.Standby != StandbyDone {
			// The exchange was cancelled meanwhile; what runs here is ours, but for
			// what was given away since.
			m.st.Mine |= m.newest(j)
			m.sayResource(m.st.Phase == PhaseStable, "")
			if m.cfg.Failback != FailbackLegacy {
				m.reclaim() // what the other node has lost since
			}
			break
		}
		m.send(AskResources{Set: m.st.StandbySet, Info: "done"})
	case whyMachDown:
		m.machDown(j.Node)
	case whyRequested:
		if m.cfg.Failback == FailbackLegacy {
			m.acquired("ip-request-resp")
		}
	case whyReleaseIP:
		m.st.Mine &^= j.Set
		if g := m.group(j.Keys[0]); g != nil && !ok {
			g.Asked = j.Node
		}
		m.send(IPRequestResp{Dest: j.Node, Key: j.Keys[0], WeOwn: true, OK: ok})
	case whyConfirm:
		m.announceKept()
	case whyYield:
		if ok && m.cfg.Failback != FailbackLegacy {
			m.st.Mine &^= m.idle(j.Set) // claimed for a node that started meanwhile
		}
		if m.st.Phase < PhaseReceived && m.cfg.Failback != FailbackLegacy {
			break // what it holds a node says when it is asked
		}
		m.sayResource(m.st.Phase == PhaseStable, "")
		if m.cfg.Failback != FailbackLegacy {
			m.reclaim() // the other node may have let go of it too
			m.retake()
			m.askHome()
		}
	case whyFence:
		m.fenced(j, ev.Err)
		if m.cfg.Failback != FailbackLegacy {
			m.reclaim() // what nobody holds waited for the end of this
		}
	case whyProbe:
		m.probed(j, ev)
	case whyRetry:
		m.retried(j, ok)
	case whyScript:
		if ev.Err != "" {
			m.warn(ev.Err, "script for a message failed", "type", j.Title, "err", ev.Err)
		}
	}
}

// newest are the sets of a job of which no group was started or stopped since by
// another.
func (m *Machine) newest(j job) (set Set) {
	for _, key := range j.Keys {
		if m.group(key).Job == j.ID {
			set |= m.keySet(key)
		}
	}
	for _, s := range [...]Set{Local, Foreign} {
		if j.Set.Has(s) && len(m.keys(s)) == 0 {
			set |= s // a claim to nothing
		}
	}
	return set
}

// silentDone is the end of a job on a thawed node. What the job was run for is
// void: the other node owns everything, and nothing is said to it. A start that
// ends only now may have come after its group's stop, so that is done again.
func (m *Machine) silentDone(j job, ok bool) {
	if j.Kind == JobTake {
		m.run(job{Why: whyThaw, Kind: JobGive, Keys: j.Keys}, "its start ended after the release had begun")
		return
	}
	if j.Kind != JobGive || !ok {
		return
	}
	for _, other := range m.st.Jobs {
		if other.Kind == JobTake || other.Kind == JobGive {
			return
		}
	}
	for _, g := range m.st.Groups {
		if g.Stuck {
			return
		}
	}
	m.out = append(m.out, Exit{Restart: true, Reason: "everything released; joining anew"})
}

// gaveUp ends our part of a standby. A group that could not be stopped is
// never called stopped: the exchange goes no further until it is.
func (m *Machine) gaveUp(j job, ok bool) {
	if !ok {
		m.progress("a group could not be stopped: it stays here until it is; see hbctl why")
		if m.st.Standby == StandbyNot {
			// The exchange was cancelled: what could be stopped is the other node's.
			m.gaveForNobody(j.Set &^ m.stuck())
		}
		return
	}
	m.info(fmt.Sprintf("%s HA resource release completed (standby).", j.Set), "released for standby", "set", j.Set.String())
	if m.st.Standby == StandbyMe {
		// A stop of an exchange that was cancelled may end in the next one.
		keys := m.keys(m.st.StandbySet)
		stuck := slices.ContainsFunc(keys, func(key string) bool { return m.group(key).Stuck })
		if !stuck && !m.stopping(keys) {
			m.send(AskResources{Set: m.st.StandbySet, Info: "done"})
		}
		return
	}
	m.gaveForNobody(j.Set)
}

// gaveForNobody ends a release whose exchange is no more.
func (m *Machine) gaveForNobody(set Set) {
	if m.cfg.Failback != FailbackLegacy && m.st.CommUp {
		there := false
		m.partners(func(n *node) { there = there || n.alive() && !n.Parted })
		if there && m.st.Mine&set != None && m.st.Standby == StandbyNot && m.st.Shutdown == shutdownNo {
			// The other node restarted meanwhile and was told that we still
			// hold it; now it may take it. When it is gone it is ours again, and
			// its start waits for the end of this stop.
			m.st.Mine &^= set
		}
		if m.st.Standby == StandbyNot && m.st.Shutdown == shutdownNo {
			m.sayResource(m.st.Phase == PhaseStable, "")
		}
		m.reclaim()
	}
}

// retried goes on with what a failed stop held up.
func (m *Machine) retried(j job, ok bool) {
	if !ok || j.Kind != JobGive {
		return
	}
	stuck := m.stuck()
	switch {
	case m.st.Shutdown >= shutdownReleasing:
	case m.cfg.Failback == FailbackLegacy:
		if g := m.group(j.Keys[0]); g != nil && g.Asked != "" {
			m.send(IPRequestResp{Dest: g.Asked, Key: j.Keys[0], WeOwn: true, OK: true})
			g.Asked = ""
		}
		if g := m.group(j.Keys[0]); g != nil && g.Wanted {
			m.wantAgain(g, j.Keys[0])
		} else if g != nil && j.Set == Local && m.st.Mine.Has(Local) {
			g.State = "failed" // half of it was left by a start: it is started again
			m.retryAt(g, m.now.Add(handOver))
		}
	case m.st.Standby == StandbyMe:
		if stuck&m.st.StandbySet == None {
			m.gaveUp(job{Set: m.st.StandbySet}, true)
		}
	case stuck&j.Set != None: // until all of it is stopped
	case m.st.Theirs.Mirror().Has(j.Set):
		m.st.Mine &^= j.Set
		m.sayResource(m.st.Phase == PhaseStable, "")
	case m.st.Mine.Has(j.Set) && m.theyHave(j.Set):
		m.st.Kept |= j.Set // it is started when they have stopped it
	case m.st.Mine.Has(j.Set):
		m.run(job{Why: whyRetry, Kind: JobTake, Set: j.Set, Keys: m.keys(j.Set)}, "stopped for the other node, which has not taken it")
	}
}

// claimStuck goes on claiming what could not be stopped: nobody else may start
// it.
func (m *Machine) claimStuck() {
	stuck := m.stuck()
	if stuck&^m.st.Mine == None || !m.st.CommUp || m.cfg.Failback == FailbackLegacy {
		return
	}
	m.st.Mine |= stuck
	m.sayResource(m.st.Phase == PhaseStable && m.st.Standby == StandbyNot && m.st.Shutdown == shutdownNo, "")
}

// fileResults records what became of each group. It reports whether all is as
// the job wanted it.
func (m *Machine) fileResults(j job, ev JobDone) bool {
	ok := ev.Err == ""
	if j.Kind != JobTake && j.Kind != JobGive {
		return ok
	}
	reason := ""
	results := ev.Groups
	for _, key := range j.Keys {
		if ev.Err != "" && !slices.ContainsFunc(results, func(r GroupResult) bool { return r.Key == key }) {
			results = append(results, GroupResult{Key: key, Running: j.Kind == JobGive, Err: ev.Err})
		}
	}
	for _, r := range results {
		if g := m.group(r.Key); g != nil {
			if j.ID < g.Job {
				continue
			}
			reason = g.Reason
		}
		switch {
		case j.Kind == JobTake && m.stopping([]string{r.Key}):
			// Ended by the release behind it, whose result counts.
			ok = ok && r.Err == ""
		case r.Err != "" && j.Kind == JobTake:
			ok = false
			m.failed(r, r.Running, reason)
		case j.Kind == JobTake:
			m.setGroup(r.Key, "running", reason, "")
		case r.Err != "" && r.Running:
			ok = false
			m.failed(r, true, reason)
		default:
			if g := m.group(r.Key); g != nil {
				g.Stuck = false
			}
			m.setGroup(r.Key, "stopped", reason, r.Err)
		}
	}
	return ok
}
