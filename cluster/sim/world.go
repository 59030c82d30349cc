package sim

import (
	"fmt"
	"io"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"time"

	"heartbeat/cluster"
	"heartbeat/cluster/engine"
	"heartbeat/transport/memory"
	"heartbeat/transport/message"
)

// hangBudget is how long a hanging start or stop lasts before it is given up.
const hangBudget = 20 * time.Second

// Cluster is what is simulated.
type Cluster struct {
	Nodes, Links                            []string
	Groups                                  []cluster.Group
	Keepalive, Deadtime, Warntime, Initdead time.Duration
	Failback                                cluster.Failback
	// Old makes the nodes take each other for heartbeat 3.0.6.
	Old bool
	// Conflict is what the nodes do about addresses of the dead that are answered for.
	Conflict cluster.Conflict
	// Method is the digest: crc, md5, sha1, sha256.
	Method string
	// Start and Stop are how long a group usually takes.
	Start, Stop time.Duration
	// Delay and Jitter of every link.
	Delay, Jitter time.Duration
	// Drift is how much faster each node's clock runs, in millionths.
	Drift []int64
	// FenceTakes is how long a node's device needs to reset another one; zero
	// means that there is none. FenceDelay keeps the nodes' resets apart, and
	// with FenceWait a peer that was never heard is not reset.
	FenceTakes, FenceDelay time.Duration
	FenceWait              bool
	// StopReboot: a stop that fails restarts the machine.
	StopReboot bool `json:",omitempty"`
	// PingNodes are watched, and ipfail compares how many of them answer.
	PingNodes []string `json:",omitempty"`
	// Bystander is a node of Nodes that has no groups and takes none.
	Bystander string `json:",omitempty"`
	// InnerAuth puts the digest inside the packets too, as msgfmt classic does.
	InnerAuth bool
}

// Scenario is everything that a run depends on.
type Scenario struct {
	Seed    uint64
	Cluster Cluster
	// Faults are over by Span, when everything is healed.
	Faults []Fault
	Span   time.Duration
	// Quiet is how long the run goes on after the cluster must have settled.
	Quiet time.Duration

	// Bypass leaves the wire format and its digests out: a packet is a reference
	// to a message.
	Bypass bool `json:",omitempty"`

	planted planted
}

// planted are rules broken on purpose, to see that it is noticed.
type planted struct {
	// deadtime is what a node of that name is configured with.
	deadtime map[string]time.Duration
	// releaseLate: stops are reported done when they begin.
	releaseLate bool
	// silent: nobody hears what others hold.
	silent bool
}

type resultKey struct {
	node, life int
	job        uint64
}

type world struct {
	scenario Scenario
	config   engine.Config
	now      time.Duration
	source   *rand.PCG
	random   *rand.Rand // from source
	net      *memory.Network
	ring     *message.Keyring
	nodes    []*node
	agenda   []entry
	active   []Fault
	results  map[resultKey][]cluster.GroupResult
	orders   uint64
	resets   []reset
	replays  []letterTo
	replayed int
	wakes    int
	happened int

	bypass *bypass // nil: packets are as on the wire
	check  check
	result *Result
	trace  io.Writer
	// gone and addresses are the Pair's.
	gone      time.Duration
	addresses []string
	// steady worlds know no chance: everything takes as long as it usually
	// does, and keepalives keep to their places in time.
	steady bool
	watch  watcher
}

// watcher is told what happens in a world.
type watcher interface {
	// history is what a node tells of itself.
	history(n *node, h engine.History)
	// moved: a group has begun to start or stop, runs, is stopped, or one of
	// these has failed.
	moved(n *node, r *resource, what string)
	// ordered: a node has ordered a job, or ends.
	ordered(n *node, what string)
	// overlap: a group is up on two nodes, or not any more.
	overlap(g *groupCheck, taker *node)
	overlapped(g *groupCheck)
}

// entry is the begin or the end of a fault, or what the run itself does then.
type entry struct {
	at    time.Duration
	fault int
	end   bool
	do    func()
}

// letterTo is a packet that a node has handled.
type letterTo struct {
	letter
	to, life int
	gen      uint64
}

// Run simulates the scenario until the end or the first failure.
func Run(s Scenario) *Result { return run(s, nil) }

// Transcript runs the scenario and tells what happens.
func Transcript(s Scenario, out io.Writer) *Result { return run(s, out) }

func run(s Scenario, trace io.Writer) (res *Result) {
	w := newWorld(s)
	w.trace = trace
	defer func() {
		if p := recover(); p != nil {
			w.fail("panic", "%v\n%s", p, debug.Stack())
		}
		w.finishResult()
		res = w.result
	}()
	w.loop()
	return w.result
}

func newWorld(s Scenario) *world {
	c := s.Cluster
	source := rand.NewPCG(s.Seed, 0x68656172746265)
	w := &world{
		scenario: s,
		source:   source,
		random:   rand.New(source),
		net:      memory.New(s.Seed),
		results:  map[resultKey][]cluster.GroupResult{},
		result:   &Result{Windows: map[Class]Window{}, Injected: map[Kind]int{}},
	}
	w.config = engine.Config{
		Nodes: c.Nodes, Groups: c.Groups, HopFudge: 1, MaxRexmitDelay: 250 * time.Millisecond,
		Keepalive: c.Keepalive, Deadtime: c.Deadtime, Warntime: c.Warntime, Initdead: c.Initdead, Deadping: c.Deadtime,
		Failback: c.Failback, Conflict: c.Conflict, InnerAuth: c.InnerAuth, IPFail: len(c.PingNodes) > 0,
		Keys: engine.Keys{Outbound: 1, Keys: []engine.Key{{Index: 1, Method: c.Method, Secret: "simulated"}}},
	}
	w.config.StopReboot = c.StopReboot
	w.config.Stonith, w.config.FenceDelay, w.config.FenceWait = c.FenceTakes > 0, c.FenceDelay, c.FenceWait
	if c.Method == "crc" {
		w.config.Keys.Keys[0].Secret = ""
	}
	for _, p := range c.PingNodes {
		w.config.PingNodes = append(w.config.PingNodes, engine.PingNode{Name: p})
	}
	for _, l := range c.Links {
		w.config.Links = append(w.config.Links, engine.Link{Name: l})
	}
	w.assemble(func(string) engine.Config { return w.config })
	for _, n := range w.nodes {
		n.plan(time.Duration(w.random.Int64N(int64(2 * c.Keepalive))))
	}
	for i, f := range s.Faults {
		w.agenda = append(w.agenda, entry{at: f.At, fault: i}, entry{at: f.End(), fault: i, end: true})
	}
	w.agenda = append(w.agenda, entry{at: s.Span, do: w.heal}, entry{at: s.Span + s.SettleBound(), do: w.mustHaveSettled}, entry{at: s.Span + s.SettleBound() + s.Quiet, do: w.mustStillBe})
	slices.SortStableFunc(w.agenda, func(a, b entry) int { return int(a.at - b.at) })
	return w
}

// assemble builds the machines, each of which reads its configuration, and the
// paths between them.
func (w *world) assemble(config func(node string) engine.Config) {
	c := w.scenario.Cluster
	ring, err := message.NewKeyring(1, []message.Key{{Index: 1, Method: c.Method, Secret: w.config.Keys.Keys[0].Secret}})
	if err != nil {
		panic(err)
	}
	w.ring = ring
	if w.scenario.Bypass {
		w.bypass = new(bypass)
	}
	for _, l := range c.Links {
		w.net.Attach(l, false, c.Nodes...)
	}
	for i, name := range c.Nodes {
		n := &node{w: w, name: name, index: i, powered: true, wall: wallStart, heard: make([]hearing, len(c.Nodes)), config: config(name)}
		n.config.Self = name
		if i < len(c.Drift) {
			n.clock.ppm = c.Drift[i]
		}
		for _, g := range c.Groups {
			n.groups = append(n.groups, &resource{key: g.Key, local: g.Node == name})
		}
		w.nodes = append(w.nodes, n)
	}
	w.check.init(w)
	w.weather()
}

func (w *world) node(name string) *node {
	for _, n := range w.nodes {
		if n.name == name {
			return n
		}
	}
	panic("sim: no node " + name)
}

// happenedMax is how much may have happened by a time: a hundred times of what
// keepalives and faults explain.
func happenedMax(now time.Duration) int { return 100_000 + 1000*int(now/time.Second) }

// loop lets one thing after the other happen.
func (w *world) loop() {
	for w.result.Failure == nil {
		at, do := time.Duration(-1), func() {}
		if len(w.agenda) > 0 {
			at, do = w.agenda[0].at, w.turnPage
		}
		if at < 0 {
			return
		}
		if t, f, ok := w.nextReset(); ok && t <= at {
			at, do = t, f
		}
		// What arrives comes before what a clock causes at the same time.
		for _, n := range w.nodes {
			if t, f, ok := n.next(); ok && t <= at {
				at, do = t, f
			}
		}
		if t, ok := w.net.Deadline(); ok && t <= at {
			at, do = t, w.deliver
		}
		w.now = max(w.now, at)
		if w.happened++; w.happened > happenedMax(w.now) {
			w.fail("endless", "%d things have happened by now: the nodes talk without end", w.happened)
			return
		}
		do()
		w.check.step()
	}
}

func (w *world) deliver() {
	d, _ := w.net.Next()
	w.node(d.To).arrive(d)
}

func (w *world) wakeFunc(n *node) func() {
	return func() {
		w.wakes++
		n.step(engine.Wake{})
	}
}

// turnPage does what the agenda says next.
func (w *world) turnPage() {
	e := w.agenda[0]
	w.agenda = w.agenda[1:]
	if e.do != nil {
		e.do()
		return
	}
	f := w.scenario.Faults[e.fault]
	if e.end {
		if f.For == 0 {
			return
		}
		w.end(f)
		return
	}
	w.begin(f)
}

// begin lets a fault begin.
func (w *world) begin(f Fault) {
	w.result.Injected[f.Kind]++
	if w.tracing() {
		w.say("-----", "fault: "+f.String())
	}
	if f.For > 0 {
		w.active = append(w.active, f)
	}
	w.faultBegins(f)
}

// end ends a fault that lasts.
func (w *world) end(f Fault) {
	if w.tracing() {
		w.say("-----", "over: "+f.String())
	}
	w.active = slices.DeleteFunc(w.active, func(g Fault) bool { return g == f })
	w.faultEnds(f)
}

func (w *world) faultBegins(f Fault) {
	switch f.Kind {
	case Cut, Partition, Noise:
		w.weather()
		return
	case PingCut, FenceFails:
		return
	}
	n := w.node(f.Node)
	switch f.Kind {
	case Stall:
		n.stalled = true
	case Freeze:
		if !n.clock.frozen {
			n.clock.freeze(w.now)
		}
	case Suspend:
		if !n.clock.frozen {
			n.clock.freeze(w.now)
		}
	case Crash:
		n.crashIn = 1 + f.Factor
	case Kill:
		n.end()
	case PowerOff:
		w.powerOff(n, f.Disk)
	case Stop:
		n.order(engine.Shutdown, cluster.None)
	case Standby:
		n.order(engine.Standby, f.Set)
	case Takeover:
		n.order(engine.Takeover, f.Set)
	case Replay:
		w.replay(n)
	case Reexec:
		n.reexec()
	case WallClock:
		n.wall -= 24 * 3600
	}
}

func (w *world) faultEnds(f Fault) {
	switch f.Kind {
	case Cut, Partition, Noise:
		w.weather()
		return
	case PingCut, FenceFails:
		return
	}
	n := w.node(f.Node)
	switch f.Kind {
	case Stall:
		if n.stalled && !w.suffers(n, Stall) {
			n.stallEnd, n.woke, n.stallClass = w.now, n.local(), ClassStall
			if !n.clock.frozen { // else it goes on with its machine
				n.resume()
			}
		}
	case Freeze, Suspend:
		if f.Kind == Suspend {
			n.asleep += f.For
			n.wall += int64(f.For / time.Second)
		}
		if n.clock.frozen && !w.suffers(n, Freeze, Suspend) {
			n.clock.thaw(w.now)
			n.stallEnd, n.woke, n.stallClass = w.now, n.local(), ClassFreeze
			if n.stalled && !w.suffers(n, Stall) {
				n.resume()
			}
		}
	case Crash:
		n.crashIn = 0
		w.bringUp(n)
	case Kill, PowerOff, Stop:
		w.bringUp(n)
	}
}

// suffers reports whether a fault of the kind is active on the node.
func (w *world) suffers(n *node, kinds ...Kind) bool {
	return slices.ContainsFunc(w.active, func(f Fault) bool { return f.Node == n.name && slices.Contains(kinds, f.Kind) })
}

// kept reports whether something keeps the node's process down.
func (w *world) kept(n *node) bool { return w.suffers(n, Kill, PowerOff, Stop, Crash) }

// bringUp starts what may run again.
func (w *world) bringUp(n *node) {
	if !n.powered && !w.suffers(n, PowerOff) {
		n.powered = true
	}
	if n.engine == nil && !n.starts && n.booting == nil && n.powered && !w.kept(n) {
		n.plan(execTime)
	}
}

// powerOff takes everything from a machine but its disk.
func (w *world) powerOff(n *node, d Disk) {
	n.end()
	n.powered = false
	for _, r := range n.groups {
		if r.up {
			w.down(n, r)
		}
		r.stuck = false
	}
	switch d {
	case DiskLost:
		n.diskGen = 0
		n.uuid++
	case DiskStale:
		n.diskGen = max(n.diskGen, 4) - 3
	}
}

// rebootTime is how long a machine that was reset needs to start its daemon.
const rebootTime = 20 * time.Second

// reset is a device at work, or the machine that it has reset, which starts
// again. What was ordered happens, also when the one who ordered it is gone by
// then.
type reset struct {
	at         time.Duration
	by, target int
	life       int    // of the process that waits for the outcome
	job        uint64 // for which
	starts     bool
}

// resetStep does what resets have come to.
func (w *world) resetStep(i int) {
	r := w.resets[i]
	w.resets = slices.Delete(w.resets, i, i+1)
	by, target := w.nodes[r.by], w.nodes[r.target]
	if r.starts {
		w.bringUp(target)
		return
	}
	failed := ""
	if w.suffers(by, FenceFails) {
		failed = "reset " + target.name + ": the device does not answer"
	} else {
		w.reset(by, target)
	}
	if by.engine != nil && by.life == r.life {
		// It is reset before that is known.
		by.scripts = append(by.scripts, scriptRun{ends: by.local() + w.scenario.Cluster.FenceTakes/100, id: r.job, err: failed})
	}
}

// reset is what a device does to a machine: whatever kept its process from
// running is over when it starts again.
func (w *world) reset(by, target *node) {
	if w.tracing() {
		w.say("-----", target.name+" is reset by "+by.name)
	}
	w.result.Resets++
	w.check.causes++
	if target.clock.frozen {
		target.clock.thaw(w.now)
	}
	target.stalled = false
	if w.steady {
		w.active = slices.DeleteFunc(w.active, func(f Fault) bool {
			return f.Node == target.name && (f.Kind == Stall || f.Kind == Freeze || f.Kind == Kill)
		})
	}
	w.powerOff(target, DiskKept)
	if w.onlyCut() && !slices.ContainsFunc(w.nodes, func(n *node) bool { return n.powered }) {
		w.fail("both reset", "%s was reset by %s, and no other node is up", target.name, by.name)
	}
	w.resets = append(w.resets, reset{at: w.now + rebootTime, by: by.index, target: target.index, starts: true})
}

// onlyCut: nothing but the links and operators keeps the nodes from their work.
func (w *world) onlyCut() bool {
	return !w.scenario.Cluster.Old && !slices.ContainsFunc(w.scenario.Faults, func(f Fault) bool {
		return !slices.Contains([]Kind{Partition, Cut, Standby, Takeover}, f.Kind)
	})
}

// nextReset is the reset step that comes next.
func (w *world) nextReset() (at time.Duration, do func(), ok bool) {
	for i, r := range w.resets {
		if !ok || r.at < at {
			at, do, ok = r.at, func() { w.resetStep(i) }, true
		}
	}
	return at, do, ok
}

// weather sets every path to what the active faults make of it.
func (w *world) weather() {
	c := w.scenario.Cluster
	for _, link := range c.Links {
		faults := memory.Faults{Delay: c.Delay, Jitter: c.Jitter}
		for _, f := range w.active {
			if f.Kind == Noise && (f.Link == "" || f.Link == link) {
				faults.Loss = max(faults.Loss, f.Noise.Loss)
				faults.Duplicate = max(faults.Duplicate, f.Noise.Duplicate)
				faults.Corrupt = max(faults.Corrupt, f.Noise.Corrupt)
				faults.Reorder = max(faults.Reorder, f.Noise.Reorder)
				faults.Jitter = max(faults.Jitter, f.Noise.Jitter)
				faults.ReorderBy = max(faults.ReorderBy, f.Noise.ReorderBy)
			}
		}
		w.net.SetFaults("", "", link, faults)
		for _, from := range c.Nodes {
			for _, to := range c.Nodes {
				if from == to {
					continue
				}
				if w.isCut(from, to, link) {
					w.net.Cut(from, to, link)
				} else {
					w.net.Heal(from, to, link)
				}
			}
		}
	}
}

func (w *world) isCut(from, to, link string) bool {
	return slices.ContainsFunc(w.active, func(f Fault) bool {
		if f.Link != "" && f.Link != link {
			return false
		}
		return f.Kind == Cut && f.Node == from && f.Peer == to ||
			f.Kind == Partition && (f.Node == from && f.Peer == to || f.Node == to && f.Peer == from)
	})
}

// effort is how long a start or stop takes that begins now, and whether it
// fails.
func (w *world) effort(n *node, r *resource, kind cluster.JobKind) (took time.Duration, fails bool) {
	took = w.scenario.Cluster.Start
	if kind == cluster.JobGive {
		took = w.scenario.Cluster.Stop
	}
	if !w.steady {
		took += time.Duration(w.random.Int64N(int64(took)/4 + 1))
	}
	for _, f := range w.active {
		if f.Node != n.name || f.Group != r.key {
			continue
		}
		switch f.Kind {
		case Slow:
			took *= time.Duration(f.Factor)
		case Hang:
			return hangBudget, true
		case StartFails:
			fails = fails || kind == cluster.JobTake
		case StopFails:
			fails = fails || kind == cluster.JobGive
		}
	}
	return took, fails
}

// heal repairs what does not repair itself: among old nodes one whose disk came
// back with an old generation is a stranger to its peer until an administrator
// removes the file and sets the clock.
func (w *world) heal() {
	if w.tracing() {
		w.say("-----", "everything is healed")
	}
	if len(w.active) > 0 {
		panic(fmt.Sprintf("sim: %v is active after the span", w.active))
	}
	for _, n := range w.nodes {
		if !w.scenario.Cluster.Old || n.diskGen >= n.top && !n.stale {
			continue
		}
		n.wall, n.diskGen = max(n.wall, wallStart), 0
		if unix := uint64(n.readings().Unix); unix < n.top {
			n.diskGen = n.top
		}
		if n.engine != nil {
			n.say("the daemon is restarted without its old generation file")
			n.end()
			n.plan(execTime)
		}
	}
}

const replaysMax = 64

// keepForReplay remembers some of the packets that a node has handled.
func (w *world) keepForReplay(n *node, l letter) {
	if w.steady {
		return
	}
	w.replayed++
	if w.replayed%61 != 0 || n.engine == nil {
		return
	}
	r := letterTo{letter: l, to: n.index, life: n.life, gen: n.heard[w.node(l.from).index].gen}
	if len(w.replays) < replaysMax {
		w.replays = append(w.replays, r)
		return
	}
	w.replays[w.replayed/61%replaysMax] = r
}

// replay shows a node what it has heard before. It must not change anything.
func (w *world) replay(n *node) {
	if n.runs() {
		n.step(engine.Packet{Link: w.scenario.Cluster.Links[0], Data: []byte("nothing"), At: n.instant()}) // what the step itself notices
	}
	for _, r := range w.replays {
		if !n.runs() || r.to != n.index || r.life != n.life || n.instant() <= cluster.Instant(r.at-n.born).Add(time.Second) {
			continue
		}
		before := standing(n.engine.View())
		e := n.engine
		outs := e.Step(n.instant(), n.readings(), engine.Packet{Link: r.link, Data: r.data, At: n.instant()})
		if after := standing(e.View()); after != before {
			w.fail("replay", "%s: an old packet changed %s to %s", n.name, before, after)
		}
		for _, out := range outs {
			switch out.(type) {
			case engine.Run, engine.Exit, engine.Persist:
				w.fail("replay", "%s: an old packet made it order %T", n.name, out)
			}
		}
		n.carry(outs)
		if n.engine == e {
			n.rearm()
		}
	}
}

// standing is the part of a view that a replay must leave alone.
func standing(v engine.View) string {
	s := fmt.Sprint(v.Local, v.CommUp, v.Mine, v.Theirs, v.Phase, v.StandbyNow, v.Stable)
	for _, n := range v.Nodes {
		s += fmt.Sprint(" ", n.Name, n.State, n.Generation, n.Old)
	}
	return s
}

func (w *world) tracing() bool { return w.trace != nil }

func (w *world) say(who, what string) {
	fmt.Fprintf(w.trace, "%10.3f %s %s\n", w.now.Seconds(), who, what)
}

// describe is a message on one line, empty for an acknowledgement.
func (w *world) describe(data []byte) string {
	m, err := w.decode(data)
	if err != nil {
		return err.Error()
	}
	if m.Type() == "NS_ackmsg" {
		return ""
	}
	text := ""
	for _, f := range m.Fields {
		switch f.Name {
		case "src", "srcuuid", "destuuid", "hg", "ts", "ld", "ttl", "auth":
			continue
		}
		text += fmt.Sprintf("%s=%s ", f.Name, f.Value)
	}
	return text
}

func (w *world) outputsMax() int { return 3000 }
