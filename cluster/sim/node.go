package sim

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"heartbeat/cluster"
	"heartbeat/cluster/engine"
	"heartbeat/transport/memory"
)

const (
	// mailMax is how many packets wait in the socket buffers of a stopped
	// process; what comes on top is lost, as in the kernel's.
	mailMax = 256
	// heldMax bounds the outputs that wait for a Persist.
	heldMax = 10_000
	// diskTime is how long a Persist takes.
	diskTime = 4 * time.Millisecond
	// scriptTime is how long an rc.d script or a question takes.
	scriptTime = 3 * time.Millisecond
	// execTime separates the end of a process from its successor's first step.
	execTime = 50 * time.Millisecond
	// sentMax is how many keepalives of a node are remembered, to recognise
	// them where they arrive.
	sentMax = 32
	// wallStart is the unix time at which every run begins.
	wallStart = 1_700_000_000
)

// node is one machine: its clock, disk and resources, and the process on it.
type node struct {
	w      *world
	name   string
	index  int
	config engine.Config

	clock   clock
	powered bool
	wall    int64 // unix seconds minus the clock's
	asleep  time.Duration
	crashIn int // outputs until the process crashes, 0: never
	pongs   []letter
	gen     uint64
	diskGen uint64 // 0: no such file
	top     uint64 // the highest it ever had
	stale   bool   // this life's is not higher than all before
	uuid    byte   // how often the uuid was lost

	groups []*resource

	// The process.
	engine   *engine.Engine
	record   engine.Boot   // with which it began
	born     time.Duration // machine time of its origin
	life     int
	deadline time.Duration // machine time; of the next Wake
	awaits   bool
	stalled  bool
	stallEnd time.Duration // world time of the last end of a stall or freeze
	woke     time.Duration // machine time of the same
	// stallClass is which of the two it was.
	stallClass Class
	mail       []letter
	pending    []engine.Input
	scripts    []scriptRun
	persist    time.Duration
	writes     engine.Persist // what is being made durable
	waiting    bool
	held       []engine.Output
	orders     map[uint64]string

	startAt time.Duration // machine time of the next start
	starts  bool
	booting *job // releases what was found half running

	heard  []hearing
	sent   []keepalive // ring
	sentAt int
	beats  int
	beatAt time.Duration // machine time of the last keepalive
}

type letter struct {
	at         time.Duration // machine time
	link, from string
	data       []byte
}

type scriptRun struct {
	ends time.Duration
	id   uint64
	err  string
}

// hearing is what a process has heard of another node, as the world knows it.
type hearing struct {
	at    time.Duration // machine time of the last keepalive, or of the start
	world time.Duration // world time of the last keepalive
	ever  bool
	gen   uint64
	// silent is the last world time at which the silence was long enough to
	// hold the sender for dead.
	silent    time.Duration
	wasSilent bool
	inSilence bool
	// first is the keepalive that was the first one heard, or the first after a
	// silence: older ones, sent again for another node, are dropped.
	first int
}

// keepalive is one that was sent; got are the nodes that it reached.
type keepalive struct {
	data []byte
	n    int // rises
	gen  uint64
	got  uint64
}

// resource is a group as it really is on one machine.
type resource struct {
	key     string
	local   bool
	up      bool          // at least a part of it runs
	whole   bool          // all of it does
	stuck   bool          // the last stop failed
	since   time.Duration // world time of the begin of its start
	act     *action
	waiting []*job
	giving  int
}

// action is a start, stop or question under way: it has the group's turn.
type action struct {
	job      *job
	kind     cluster.JobKind
	ends     time.Duration // machine time
	fails    bool
	err      string
	rollback bool
	over     bool // ended while the process was stopped
}

type job struct {
	cluster.Job
	next    int
	results []cluster.GroupResult
	boot    bool
	// ordered is the world's time at which it was.
	ordered time.Duration
	// skip are groups of a start, still ahead, that are released meanwhile.
	skip []string
}

func (n *node) local() time.Duration     { return n.clock.at(n.w.now) }
func (n *node) instant() cluster.Instant { return cluster.Instant(n.local() - n.born) }

// runs reports whether the process can take a step.
func (n *node) runs() bool { return n.engine != nil && !n.stalled && !n.clock.frozen }

func (n *node) readings() engine.Readings {
	return engine.Readings{Unix: n.wall + int64(n.local()/time.Second), Asleep: n.asleep, Load: "0.00 0.00 0.00 1/100 1"}
}

// plan sets the next start of the process.
func (n *node) plan(after time.Duration) {
	if n.w.steady {
		after = n.w.inPlace(n, n.w.now+after) - n.w.now
	}
	n.startAt, n.starts = n.local()+after, true
}

// start begins a process: what is found half running is released first.
func (n *node) start() {
	n.starts = false
	var half []string
	for _, side := range [...]bool{true, false} {
		up, total := 0, 0
		for _, r := range n.groups {
			if r.local == side {
				total++
				if r.up {
					up++
				}
			}
		}
		if up == 0 || up == total {
			continue
		}
		for _, r := range n.groups {
			if r.local == side && r.up {
				half = append(half, r.key)
			}
		}
	}
	if len(half) > 0 {
		n.say("releases %v, found half running at start", half)
		n.booting = &job{Job: cluster.Job{Kind: cluster.JobGive, Keys: half}, boot: true}
		n.advance(n.booting)
		return
	}
	n.boot()
}

// boot takes the next generation and makes the engine.
func (n *node) boot() {
	n.booting = nil
	unix := uint64(n.wall + int64(n.local()/time.Second))
	if n.diskGen == 0 {
		n.diskGen = unix
	}
	n.diskGen++
	n.stale = n.diskGen <= n.top
	if n.stale {
		n.w.result.Stale++
	}
	n.gen = n.diskGen
	n.top = max(n.top, n.gen)
	b := n.bootRecord()
	var held []string
	for _, r := range n.groups {
		if r.up {
			held = append(held, r.key)
			if r.local {
				b.Held |= cluster.Local
			} else {
				b.Held |= cluster.Foreign
			}
		}
	}
	e, err := engine.New(b)
	if err != nil {
		panic(err)
	}
	n.begin(e)
	n.say("starts, generation %d, holds %v", n.gen, held)
}

func (n *node) bystander() bool { return n.name == n.w.scenario.Cluster.Bystander }

func (n *node) bootRecord() engine.Boot {
	cfg := n.config
	if n.bystander() {
		cfg.Groups = nil
	}
	if d, ok := n.w.scenario.planted.deadtime[n.name]; ok {
		cfg.Deadtime = d
	}
	n.life++
	b := engine.Boot{Config: cfg, Generation: n.gen, Seed: n.w.scenario.Seed + uint64(n.index)<<32 + uint64(n.life), Digest: "d1", PID: 1000 + n.life}
	copy(b.UUID[:], n.name+"................")
	b.UUID[15] = n.uuid
	if n.w.bypass != nil {
		b.Codec = n.w.bypass
	}
	n.record = b
	return b
}

// begin makes the engine the process's.
func (n *node) begin(e *engine.Engine) {
	n.engine, n.born = e, n.local()
	n.mail, n.pending, n.scripts, n.held, n.pongs = nil, nil, nil, nil, nil
	n.waiting = false
	n.orders = map[uint64]string{}
	for i := range n.heard {
		h := &n.heard[i]
		h.at, h.ever, h.gen, h.inSilence = n.born, false, 0, false
	}
	n.rearm()
}

func (n *node) rearm() {
	at, ok := n.engine.Deadline()
	n.deadline, n.awaits = n.born+time.Duration(at), ok
}

// reexec replaces the process in place. As the daemon does, only when no job
// runs.
func (n *node) reexec() {
	if !n.runs() || len(n.scripts) > 0 || n.waiting || n.busy() {
		return
	}
	before, err := n.engine.Snapshot()
	if err != nil {
		n.w.fail("snapshot", "%s: %v", n.name, err)
		return
	}
	e, err := engine.Restore(n.bootRecord(), before)
	if err != nil {
		n.w.fail("snapshot", "%s: %v", n.name, err)
		return
	}
	after, err := e.Snapshot()
	if err != nil || !bytes.Equal(before, after) {
		n.w.fail("snapshot", "%s: a restored engine has another state (%v)", n.name, err)
	}
	n.say("is replaced in place")
	n.engine = e
	n.rearm()
}

func (n *node) busy() bool {
	if slices.ContainsFunc(n.w.resets, func(r reset) bool { return r.by == n.index && r.life == n.life }) {
		return true
	}
	return slices.ContainsFunc(n.groups, func(r *resource) bool { return r.act != nil || len(r.waiting) > 0 })
}

// end ends the process, whatever it does. Its scripts are orphans: what they
// were doing is half done or done.
func (n *node) end() {
	n.engine, n.booting = nil, nil
	n.mail, n.pending, n.scripts, n.held, n.waiting = nil, nil, nil, nil, false
	n.starts = false
	for _, r := range n.groups {
		if a := r.act; a != nil && !a.over {
			done := !n.w.steady && n.w.random.IntN(2) == 0
			switch {
			case a.kind == cluster.JobTake && !a.rollback:
				r.whole = done
			case a.kind == cluster.JobGive || a.rollback:
				if done && !a.fails {
					n.w.down(n, r)
				}
			}
		}
		r.act, r.waiting, r.giving = nil, nil, 0
	}
}

// step steps the engine and carries out what it orders.
func (n *node) step(in engine.Input) {
	if n.engine == nil {
		return
	}
	n.w.result.Steps++
	e := n.engine
	outs := e.Step(n.instant(), n.readings(), in)
	if len(outs) > n.w.outputsMax() {
		n.w.fail("bounded", "%s: %d outputs of one step", n.name, len(outs))
	}
	n.carry(outs)
	if n.engine != e {
		return
	}
	n.rearm()
	if _, ok := in.(engine.Wake); ok && n.awaits && n.deadline <= n.local() {
		n.w.fail("deadline", "%s: after a Wake at %v the deadline is %v", n.name, n.instant(), cluster.Instant(n.deadline-n.born))
	}
}

// carry carries outputs out in order: what follows a Persist waits until that
// is durable, and keepalives wait for nothing.
func (n *node) carry(outs []engine.Output) {
	for _, out := range outs {
		if n.engine == nil {
			return
		}
		if n.crashIn > 0 {
			if n.crashIn--; n.crashIn == 0 {
				n.say("crashes")
				n.end()
				return
			}
		}
		if t, ok := out.(engine.Transmit); ok && t.Keepalive {
			n.transmit(t)
			continue
		}
		if n.waiting {
			if len(n.held) == heldMax {
				n.w.fail("bounded", "%s: %d outputs wait for a Persist", n.name, heldMax)
				return
			}
			n.held = append(n.held, out)
			continue
		}
		n.do(out)
	}
}

func (n *node) do(out engine.Output) {
	switch out := out.(type) {
	case engine.Transmit:
		n.transmit(out)
	case engine.Persist:
		n.waiting, n.persist, n.writes = true, n.local()+diskTime, out
	case engine.Run:
		n.run(out.Job)
	case engine.Kill:
		n.w.fail("driver", "%s: Kill of job %d: not simulated", n.name, out.ID)
	case engine.Log:
		if n.w.tracing() && out.Level >= cluster.Warn {
			n.say("%v: %s", out.Level, out.Classic)
		}
	case engine.History:
		if n.w.watch != nil {
			n.w.watch.history(n, out)
		}
		if n.w.tracing() && out.Kind != "link" {
			n.say("%s: %s (%s)", out.Kind, out.Text, out.Reason)
		}
	case engine.Reboot:
		n.say("restarts its machine: %s", out.Reason)
		n.w.check.causes++
		n.w.powerOff(n, DiskKept)
		n.w.resets = append(n.w.resets, reset{at: n.w.now + rebootTime, by: n.index, target: n.index, starts: true})
	case engine.Reply:
		if out.Final {
			delete(n.orders, out.ID)
		}
		if n.w.tracing() {
			n.say("answers order %d: %s%s (final %v)", out.ID, out.Text, out.Err, out.Final)
		}
	case engine.Exit:
		n.exit(out)
	}
}

func (n *node) exit(out engine.Exit) {
	n.say("ends: %s", out.Reason)
	if n.w.watch != nil {
		n.w.watch.ordered(n, "ends")
	}
	for _, r := range n.groups {
		if r.up {
			n.w.fail("exit", "%s ends (%s) while %s runs there", n.name, out.Reason, r.key)
		}
	}
	n.end()
	switch {
	case out.Restart:
		n.plan(out.Pause + execTime)
	case !n.w.kept(n):
		n.plan(execTime)
	}
}

func (n *node) durable() {
	n.waiting = false
	if n.writes.Name == engine.GenerationFile {
		gen, err := strconv.ParseUint(strings.TrimSpace(string(n.writes.Data)), 10, 63)
		if err != nil || gen < n.diskGen {
			n.w.fail("generation", "%s: stores %q over %d (%v)", n.name, n.writes.Data, n.diskGen, err)
		}
		n.diskGen = gen
	}
	held := n.held
	n.held = nil
	n.carry(held)
}

// transmit sends a message on every link.
func (n *node) transmit(t engine.Transmit) {
	w := n.w
	data := t.Netstring
	if t.Link != "" {
		deaf := slices.ContainsFunc(w.active, func(f Fault) bool { return f.Kind == PingCut && (f.Node == n.name || f.Node == "") && f.Link == t.Link })
		if !deaf {
			n.pongs = append(n.pongs, letter{n.local() + w.scenario.Cluster.Delay, t.Link, n.name, data})
		}
		return
	}
	if w.scenario.planted.silent {
		if bytes.Contains(data, []byte("t=resource")) {
			return
		}
		data = w.strip(data, "xhold")
	}
	if w.scenario.Cluster.Old {
		data = w.strip(data, "x")
	}
	if t.Keepalive {
		n.beats++
		n.beatAt = n.local()
		k := keepalive{data: data, n: n.beats, gen: n.gen}
		if len(n.sent) < sentMax {
			n.sent = append(n.sent, k)
		} else {
			n.sent[n.sentAt] = k
		}
		n.sentAt = (n.sentAt + 1) % sentMax
	} else if w.tracing() {
		if text := w.describe(data); text != "" {
			n.say("-> %s", text)
		}
	}
	for _, l := range w.scenario.Cluster.Links {
		w.net.Send(w.now, n.name, l, data)
	}
}

// arrive is a packet at the machine's door.
func (n *node) arrive(d memory.Delivery) {
	if n.engine == nil || n.clock.frozen {
		return
	}
	if n.stalled && len(n.mail) == mailMax {
		return
	}
	if d.From != n.name {
		n.note(n.w.node(d.From), d.Packet)
	}
	if n.stalled {
		n.mail = append(n.mail, letter{n.local(), d.Link, d.From, d.Packet})
		return
	}
	n.packet(letter{n.local(), d.Link, d.From, d.Packet})
}

func (n *node) packet(l letter) {
	if n.engine == nil {
		return
	}
	n.step(engine.Packet{Link: l.link, Data: l.data, At: cluster.Instant(l.at - n.born)})
	if l.from != n.name {
		n.w.keepForReplay(n, l)
	}
}

var statusMark, nakMark = []byte("t=status"), []byte("t=NS_nak_")

// note recognises a keepalive that reaches this node for the first time.
func (n *node) note(from *node, data []byte) {
	switch start := data[:min(len(data), 48)]; {
	case bytes.Contains(start, nakMark):
		n.noteLost(from, data)
		return
	case !bytes.Contains(start, statusMark):
		return
	}
	h := &n.heard[from.index]
	for i := range from.sent {
		k := &from.sent[(from.sentAt+2*sentMax-1-i)%len(from.sent)]
		if !bytes.Equal(k.data, data) {
			continue
		}
		// One of a generation that was used before is taken for a replay.
		if k.got&(1<<n.index) == 0 && k.gen >= h.gen && !from.stale && (!h.ever || k.n >= h.first) {
			if !h.ever {
				h.first = k.n
			}
			if n.w.silence(from, n) { // as it was until now
				h.first = k.n
			}
			k.got |= 1 << n.index
			h.at, h.world, h.ever, h.gen = n.local(), n.w.now, true, k.gen
		}
		return
	}
}

// noteLost notes which keepalive this node gives up, being told that it is not kept
// any more. It may be on its way all the same, and counts for nothing then.
func (n *node) noteLost(from *node, data []byte) {
	m, err := n.w.decode(data)
	if err != nil || m.Get("dest") != n.name {
		return
	}
	for i := range from.sent {
		k := &from.sent[i]
		if s, err := n.w.decode(k.data); err == nil && s.Get("seq") == m.Get("firstseq") {
			k.got |= 1 << n.index
		}
	}
}

// resume lets a stopped process run again: the jobs that ended, the orders
// that wait, and the packets in its sockets come in any order, all of them
// before the next Wake.
func (n *node) resume() {
	n.stalled = false
	for _, r := range n.groups {
		if r.act != nil && r.act.over {
			n.finish(r)
		}
	}
	mail, pending := n.mail, n.pending
	n.mail, n.pending = nil, nil
	life := n.life
	for len(mail)+len(pending) > 0 {
		if n.life != life || n.engine == nil {
			return
		}
		if len(mail) == 0 || len(pending) > 0 && (n.w.steady || n.w.random.IntN(2) == 0) {
			n.step(pending[0])
			pending = pending[1:]
			continue
		}
		n.packet(mail[0])
		mail = mail[1:]
	}
}

// tell gives the process an input that is not a packet.
func (n *node) tell(in engine.Input) {
	if n.engine == nil {
		return
	}
	if n.stalled {
		n.pending = append(n.pending, in)
		return
	}
	n.step(in)
}

func (n *node) order(verb engine.Verb, set cluster.Set) {
	if n.engine == nil {
		return
	}
	n.w.orders++
	n.orders[n.w.orders] = fmt.Sprint(verb, " ", set)
	n.tell(engine.Command{ID: n.w.orders, Verb: verb, Set: set, From: "operator"})
}

// run starts a job.
func (n *node) run(j cluster.Job) {
	switch j.Kind {
	case cluster.JobScript:
		n.scripts = append(n.scripts, scriptRun{ends: n.local() + scriptTime, id: j.ID})
	case cluster.JobProbe:
		n.scripts = append(n.scripts, scriptRun{ends: n.local() + scriptTime, id: j.ID})
		n.w.results[resultKey{n.index, n.life, j.ID}] = n.w.answered(n, j.Keys)
	case cluster.JobFence:
		if n.w.watch != nil {
			n.w.watch.ordered(n, "resets "+j.Node)
		}
		if takes := n.w.scenario.Cluster.FenceTakes; takes > 0 {
			n.w.resets = append(n.w.resets, reset{at: n.w.now + takes, by: n.index, target: n.w.node(j.Node).index, life: n.life, job: j.ID})
		} else {
			n.scripts = append(n.scripts, scriptRun{ends: n.local() + scriptTime, id: j.ID, err: "reset " + j.Node + ": no device"})
		}
	default:
		if n.w.watch != nil && j.Kind != cluster.JobAsk {
			n.w.watch.ordered(n, j.Kind.String())
		}
		if n.w.tracing() {
			n.say("%v %v: %s", j.Kind, j.Keys, j.Reason)
		}
		if j.Kind == cluster.JobGive && n.w.scenario.planted.releaseLate {
			done := &job{Job: j, next: len(j.Keys)}
			for _, key := range j.Keys {
				done.results = append(done.results, cluster.GroupResult{Key: key})
			}
			n.advance(done)
			j.ID = 0
		}
		if j.Kind == cluster.JobGive {
			n.skipAhead(j.Keys)
		}
		n.advance(&job{Job: j, ordered: n.w.now})
	}
}

// skipAhead takes groups from the starts that have not come to them yet.
func (n *node) skipAhead(keys []string) {
	from := func(j *job) {
		for i := j.next + 1; j.Kind == cluster.JobTake && i < len(j.Keys); i++ {
			if slices.Contains(keys, j.Keys[i]) {
				j.skip = append(j.skip, j.Keys[i])
			}
		}
	}
	for _, r := range n.groups {
		if r.act != nil {
			from(r.act.job)
		}
		for _, j := range r.waiting {
			from(j)
		}
	}
}

func (n *node) group(key string) *resource {
	for _, r := range n.groups {
		if r.key == key {
			return r
		}
	}
	panic("sim: no group " + key)
}

// advance goes on with the next group of a job, or ends it.
func (n *node) advance(j *job) {
	for j.next < len(j.Keys) && slices.Contains(j.skip, j.Keys[j.next]) {
		j.results = append(j.results, cluster.GroupResult{Key: j.Keys[j.next], Err: "start " + j.Keys[j.next] + ": interrupted"})
		j.next++
	}
	if j.next == len(j.Keys) {
		if j.boot {
			n.boot()
			return
		}
		// The result travels through a channel: it is a step of its own.
		n.scripts = append(n.scripts, scriptRun{ends: n.local(), id: j.ID})
		n.w.results[resultKey{n.index, n.life, j.ID}] = j.results
		return
	}
	r := n.group(j.Keys[j.next])
	if j.Kind == cluster.JobGive {
		r.giving++
		if a := r.act; a != nil && a.kind == cluster.JobTake && !a.rollback && !a.over {
			a.err = "start " + r.key + ": interrupted"
			a.ends = min(a.ends, n.local()+scriptTime)
		}
	}
	r.waiting = append(r.waiting, j)
	n.turn(r)
}

// turn gives a free group to who waits for it.
func (n *node) turn(r *resource) {
	for r.act == nil && len(r.waiting) > 0 {
		j := r.waiting[0]
		r.waiting = r.waiting[1:]
		a := &action{job: j, kind: j.Kind}
		r.act = a
		now := n.local()
		took, failed := n.w.effort(n, r, j.Kind)
		switch j.Kind {
		case cluster.JobAsk:
			a.ends = now + scriptTime
		case cluster.JobTake:
			switch {
			case r.giving > 0:
				a.err, a.over = "start "+r.key+": interrupted", true
				n.finish(r)
				continue
			case r.whole:
				a.ends = now + scriptTime
			default:
				a.ends, a.fails = now+took, failed
				if !r.up {
					n.w.up(n, r)
				}
			}
		case cluster.JobGive:
			r.giving--
			a.ends, a.fails = now+took, failed
			if !r.up {
				a.ends, a.fails = now+scriptTime, false
			} else {
				n.moved(r, "begins to stop")
			}
		}
	}
}

// actionEnds makes the outcome true; the job goes on if the process runs.
func (n *node) actionEnds(r *resource) {
	a := r.act
	switch {
	case a.rollback || a.kind == cluster.JobGive:
		if a.fails {
			if a.err == "" {
				a.err = "stop " + r.key + ": exit status 1"
			}
			r.stuck = true
			n.moved(r, "stop failed")
		} else if r.up {
			n.w.down(n, r)
		}
	case a.kind == cluster.JobTake && a.err == "" && a.fails:
		n.moved(r, "start failed")
		took, failed := n.w.effort(n, r, cluster.JobGive)
		a.rollback, a.err = true, "start "+r.key+": exit status 1"
		a.ends, a.fails = n.local()+took, failed
		return
	case a.kind == cluster.JobTake && a.err == "":
		if !r.whole {
			n.moved(r, "runs")
		}
		r.whole, r.stuck = true, false
	}
	a.over = true
	if !n.stalled {
		n.finish(r)
	}
}

// finish hands the outcome to the job and the group to the next.
func (n *node) finish(r *resource) {
	a := r.act
	r.act = nil
	res := cluster.GroupResult{Key: r.key, Err: a.err}
	switch a.kind {
	case cluster.JobAsk:
		res.Running = r.up
	case cluster.JobTake:
		res.Running = a.err == "" || r.stuck
	case cluster.JobGive:
		res.Running = a.fails
	}
	j := a.job
	j.results = append(j.results, res)
	j.next++
	n.advance(j)
	n.turn(r)
}

func (n *node) scriptEnds(i int) {
	s := n.scripts[i]
	n.scripts = slices.Delete(n.scripts, i, i+1)
	key := resultKey{n.index, n.life, s.id}
	groups := n.w.results[key]
	delete(n.w.results, key)
	n.tell(engine.JobDone{ID: s.id, Groups: groups, Err: s.err})
}

// next is when something happens on this machine by itself, and what.
func (n *node) next() (at time.Duration, do func(), ok bool) {
	if n.clock.frozen || !n.powered {
		return 0, nil, false
	}
	var local time.Duration
	earlier := func(t time.Duration, f func()) {
		if !ok || t < local {
			local, do, ok = t, f, true
		}
	}
	for _, r := range n.groups {
		if a := r.act; a != nil && !a.over {
			earlier(a.ends, func() { n.actionEnds(r) })
		}
	}
	if at, ok := n.addressesEnd(); ok {
		earlier(at, n.loseAddresses)
	}
	if n.starts {
		earlier(n.startAt, n.start)
	}
	if n.engine != nil && len(n.pongs) > 0 {
		earlier(n.pongs[0].at, n.pong)
	}
	if n.engine != nil && !n.stalled {
		for i, s := range n.scripts {
			earlier(s.ends, func() { n.scriptEnds(i) })
		}
		if n.waiting {
			earlier(n.persist, n.durable)
		}
		if n.awaits {
			earlier(n.deadline, n.w.wakeFunc(n))
		}
	}
	if !ok {
		return 0, nil, false
	}
	return n.clock.when(local), do, true
}

// addressesEnd is when the kernel of a machine whose daemon is gone takes its
// addresses away (machine time).
func (n *node) addressesEnd() (at time.Duration, ok bool) {
	if n.w.gone == 0 || n.engine != nil {
		return 0, false
	}
	return n.beatAt + n.w.gone, slices.ContainsFunc(n.groups, n.losing)
}

// losing reports whether a group is up that lives no longer than its addresses.
func (n *node) losing(r *resource) bool {
	return r.up && r.act == nil && slices.Contains(n.w.addresses, r.key)
}

func (n *node) loseAddresses() {
	for _, r := range n.groups {
		if n.losing(r) {
			n.w.down(n, r)
		}
	}
}

// answered is what the service network, which no fault reaches, says of groups: who
// runs one answers for it, unless his machine is off or frozen.
func (w *world) answered(asks *node, keys []string) (results []cluster.GroupResult) {
	for _, key := range keys {
		r := cluster.GroupResult{Key: key}
		for _, n := range w.nodes {
			if n != asks && n.powered && !n.clock.frozen && n.group(key).up {
				r.Running, r.Err = true, key+" is answered for by "+n.name
			}
		}
		results = append(results, r)
	}
	return results
}

// pong is the answer of a ping node.
func (n *node) pong() {
	l := n.pongs[0]
	n.pongs = n.pongs[1:]
	switch {
	case !n.stalled:
		n.packet(l)
	case len(n.mail) < mailMax:
		n.mail = append(n.mail, l)
	}
}

// moved tells who watches what has become of a group.
func (n *node) moved(r *resource, what string) {
	if n.w.watch != nil {
		n.w.watch.moved(n, r, what)
	}
}

func (n *node) say(format string, args ...any) {
	if n.w.tracing() {
		n.w.say(n.name, fmt.Sprintf(format, args...))
	}
}
