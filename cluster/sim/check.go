package sim

import (
	"fmt"
	"slices"
	"time"

	"heartbeat/cluster"
	"heartbeat/cluster/engine"
)

// Failure is a rule that was broken. The rules are: "two owners", "window",
// "settle", "stable", "generation", "replay", "ping-pong", "deadline",
// "bounded", "endless", "exit", "fencing", "order", "snapshot", "panic", "both reset".
type Failure struct {
	At   time.Duration
	Rule string
	Text string
}

func (f *Failure) String() string { return fmt.Sprintf("%.3fs %s: %s", f.At.Seconds(), f.Rule, f.Text) }

// Class is why a group may be up on two nodes.
type Class string

const (
	// ClassPartition: the taker had heard nothing of the holder for the whole
	// deadtime, nor the holder of the taker.
	ClassPartition Class = "partition"
	// ClassOneWay: the same, but the holder heard the taker all the time.
	ClassOneWay Class = "one-way"
	// ClassStall and ClassFreeze: the holder did not run, or the taker did not
	// and goes on with a job of before.
	ClassStall  Class = "stall"
	ClassFreeze Class = "freeze"
	// ClassStart: the taker has never heard the holder since its start.
	ClassStart Class = "alone at start"
	// ClassKill: the holder's process is gone and its resources stayed.
	ClassKill Class = "killed"
	// ClassLegacy: with auto_failback legacy old nodes do not say what they hold. A
	// node that has just been started again releases the other's groups, but
	// one that starts at the same time takes them without asking.
	ClassLegacy Class = "legacy restart"
)

// Classes are all classes, in the order of summaries.
var Classes = []Class{ClassPartition, ClassOneWay, ClassStall, ClassFreeze, ClassStart, ClassKill, ClassLegacy}

// Window is what is known of the windows of one class.
type Window struct {
	Count int
	// Total and Longest are their lengths; After is the longest time that one
	// went on after its cause had ended, the stops that end it not counted;
	// Past is the longest time that one went on after the last fault's end.
	Total, Longest, After, Past time.Duration
}

// Result is what became of a run.
type Result struct {
	Failure  *Failure
	Time     time.Duration
	Steps    uint64
	Packets  uint64
	Stale    int
	Resets   int
	Injected map[Kind]int
	Windows  map[Class]Window
}

// check compares what the nodes do with what they may do.
type check struct {
	w      *world
	groups []groupCheck
	open   int
	// Changes of the owner are bounded by what happened.
	causes  int
	settled string
	gens    []uint64
}

type groupCheck struct {
	key    string
	owners int
	taken  int
	// The open window.
	open      bool
	class     Class
	since     time.Duration
	excusedAt time.Duration
}

func (c *check) init(w *world) {
	c.w = w
	for _, g := range w.scenario.Cluster.Groups {
		c.groups = append(c.groups, groupCheck{key: g.Key})
	}
	c.gens = make([]uint64, len(w.nodes))
}

func (w *world) fail(rule, format string, args ...any) {
	if w.result.Failure != nil {
		return
	}
	w.result.Failure = &Failure{w.now, rule, fmt.Sprintf(format, args...)}
	if w.tracing() {
		w.say("=====", "FAILURE "+w.result.Failure.String())
	}
}

// maxDrift is the most by which any two clocks differ, in millionths.
const maxDrift = 2000

// patience is the silence that justifies to hold a node for dead. It is a
// little less than configured, since the packets took their time.
func (s Scenario) patience(ever bool) time.Duration {
	c := s.Cluster
	d := c.Deadtime
	if !ever {
		d = c.Initdead
	}
	return d - d/1000*5 - c.Delay - c.Jitter
}

// silence notes whether the node to has reason to hold from for dead, and
// reports it.
func (w *world) silence(from, to *node) bool {
	if to.engine == nil {
		return false
	}
	h := &to.heard[from.index]
	if to.local()-h.at < w.scenario.patience(h.ever || from.stale) {
		h.inSilence = false
		return false
	}
	if !h.inSilence {
		h.inSilence = true
		w.check.causes++
	}
	h.silent, h.wasSilent = w.now, true
	return true
}

// startGrace is how long after the end of a silence a take may still begin
// that was decided during it: its job does one group after the other.
func (s Scenario) startGrace() time.Duration {
	c := s.Cluster
	per := 2*c.Start + 2*c.Stop + 10*scriptTime
	for _, f := range s.Faults {
		switch f.Kind {
		case Slow:
			per = max(per, time.Duration(f.Factor+1)*(2*c.Start+2*c.Stop))
		case Hang:
			per = max(per, 2*hangBudget)
		}
	}
	return time.Duration(len(c.Groups))*per + 100*time.Millisecond
}

// legacyGrace is how long after its start a node with auto_failback legacy may
// still run what it found running.
func (s Scenario) legacyGrace() time.Duration {
	return s.Cluster.Initdead + s.Cluster.Keepalive + 2*time.Second + s.startGrace()
}

// WindowBound is how long a group may go on running on two nodes after all that
// excuses it has ended: the nodes hear each other (two keepalives), exchange
// what they hold (the settling time of the protocol, if one of them has just
// started), and the loser stops. Stops that are under way or fail excuse.
func (s Scenario) WindowBound() time.Duration {
	c := s.Cluster
	b := 10*time.Second + 4*c.Keepalive + 3*time.Second + s.startGrace()
	if c.Old {
		b += 2*time.Second + 10*time.Second + c.Initdead
	}
	return b
}

// SettleBound is how long after the last fault every group must have its one
// and right owner: restarts (deadtime and a second, the exit's two), initdead,
// the settling time, an unanswered standby, and the starts and stops of a
// takeover and a failback. Failures are tried again after pauses that grow as
// they last.
func (s Scenario) SettleBound() time.Duration {
	c := s.Cluster
	b := 2*(c.Deadtime+5*time.Second+c.Initdead+10*time.Second) + 10*time.Second + 10*c.Keepalive + 4*s.startGrace()
	var failing time.Duration
	for _, f := range s.Faults {
		switch f.Kind {
		case StartFails, StopFails, Hang:
			failing = max(failing, f.End()-firstFailing(s.Faults))
		}
	}
	if c.FenceTakes > 0 {
		b += 2*(rebootTime+c.Initdead+c.FenceTakes+2*c.FenceDelay) + 20*time.Second
	}
	if c.StopReboot {
		b += 2 * (rebootTime + c.Initdead)
	}
	if len(c.PingNodes) > 0 {
		b += 2*c.Deadtime + 30*time.Second // ipfail's pauses
	}
	if failing > 0 {
		b += min(failing*2, 10*time.Minute) + 60*time.Second + 2*hangBudget
	}
	return b
}

func firstFailing(faults []Fault) time.Duration {
	for _, f := range faults {
		switch f.Kind {
		case StartFails, StopFails, Hang:
			return f.At
		}
	}
	return 0
}

// up is the begin of a start.
func (w *world) up(n *node, r *resource) {
	r.up, r.whole, r.since = true, false, w.now
	g := w.check.group(r.key)
	g.owners++
	g.taken++
	n.moved(r, "begins to start")
	if w.tracing() {
		n.say("+ %s begins to start (up on %d)", r.key, g.owners)
	}
	if limit := 6 + 4*(w.check.causes+len(w.scenario.Faults)); g.taken > limit {
		w.fail("ping-pong", "%s was started %d times; %d faults and %d silences explain %d", r.key, g.taken, len(w.scenario.Faults), w.check.causes, limit)
	}
	if w.check.settled != "" {
		w.fail("stable", "%s starts on %s although everything was settled", r.key, n.name)
	}
	if g.owners < 2 {
		return
	}
	for _, h := range w.nodes {
		if h == n || !h.group(r.key).up {
			continue
		}
		class, ok := w.classify(r.key, n, h)
		if ok && w.scenario.Cluster.FenceTakes > 0 && class != ClassLegacy {
			w.fail("fencing", "%s starts on %s while it is up on %s (%s), which was not reset", r.key, n.name, h.name, class)
			return
		}
		if !ok {
			w.fail("two owners", "%s starts on %s while it is up on %s, of which %s heard %v ago", r.key, n.name, h.name, n.name, n.local()-n.heard[h.index].at)
			return
		}
		if !g.open {
			g.open, g.class, g.since, g.excusedAt = true, class, w.now, w.now
			w.check.open++
			if w.watch != nil {
				w.watch.overlap(g, n)
			}
			if w.tracing() {
				n.say("! %s is up on %d nodes: %s", r.key, g.owners, class)
			}
		}
	}
}

// down is the end of a stop, or of a machine.
func (w *world) down(n *node, r *resource) {
	r.up, r.whole, r.stuck = false, false, false
	g := w.check.group(r.key)
	g.owners--
	n.moved(r, "is stopped")
	if w.tracing() {
		n.say("- %s is stopped (up on %d)", r.key, g.owners)
	}
	if w.check.settled != "" {
		w.fail("stable", "%s is stopped on %s although everything was settled", r.key, n.name)
	}
	if g.open && g.owners < 2 {
		w.check.close(g)
	}
}

func (c *check) close(g *groupCheck) {
	g.open = false
	c.open--
	win := c.w.result.Windows[g.class]
	length := c.w.now - g.since
	win.Count++
	win.Total += length
	win.Longest = max(win.Longest, length)
	win.After = max(win.After, c.w.now-g.excusedAt)
	for _, f := range c.w.scenario.Faults {
		if past := c.w.now - f.End(); past >= 0 && f.End() >= g.since {
			win.Past = max(win.Past, past)
		}
	}
	c.w.result.Windows[g.class] = win
	if c.w.watch != nil {
		c.w.watch.overlapped(g)
	}
}

func (c *check) group(key string) *groupCheck {
	for i := range c.groups {
		if c.groups[i].key == key {
			return &c.groups[i]
		}
	}
	panic("sim: no group " + key)
}

// classify says why a node may take what another still runs: it must have had
// reason to hold that one for dead.
func (w *world) classify(key string, taker, holder *node) (Class, bool) {
	h := &taker.heard[holder.index]
	now := w.silence(holder, taker)
	if !now && w.scenario.Cluster.Old && w.scenario.Cluster.Failback == cluster.FailbackLegacy && holder.engine != nil && holder.local()-holder.born < w.scenario.legacyGrace() {
		return ClassLegacy, true
	}
	// A process that was stopped, or a machine, goes on with its jobs before it
	// hears anything.
	woke := taker.stallEnd > 0 && h.at <= taker.woke
	if a := taker.group(key).act; a != nil && a.job.ordered <= taker.stallEnd && w.now-taker.stallEnd <= w.scenario.startGrace() {
		woke = true // also where it waited for another's turn meanwhile
	}
	if taker.config.Stonith && !woke {
		return "", false // nothing is taken from a node that was not reset
	}
	// An old node does not know that it was held for dead while it stood still,
	// and what was said to it then is lost.
	w.silence(taker, holder)
	back := &holder.heard[taker.index]
	if w.scenario.Cluster.Old && !now && holder.engine != nil && back.wasSilent && w.now-back.silent <= w.scenario.WindowBound() {
		return ClassFreeze, true
	}
	// Nor can anybody know that the holder has just taken it, holding him for
	// dead.
	if !now && w.silence(taker, holder) && h.world <= holder.group(key).since {
		return ClassPartition, true
	}
	if !now && !woke && !(h.wasSilent && w.now-h.silent <= w.scenario.startGrace()) {
		return "", false
	}
	quiet := w.now - w.scenario.patience(true)
	switch {
	case woke:
		return taker.stallClass, true
	case holder.clock.frozen:
		return ClassFreeze, true
	case holder.engine == nil:
		return ClassKill, true
	case holder.stalled || holder.stallEnd > quiet && holder.stallEnd > 0:
		return ClassStall, true
	case !h.ever:
		return ClassStart, true
	case !w.silence(taker, holder) && !w.cutOff(taker, holder):
		return ClassOneWay, true
	}
	return ClassPartition, true
}

// cutOff reports whether nothing can get from one node to the other.
func (w *world) cutOff(from, to *node) bool {
	return !slices.ContainsFunc(w.scenario.Cluster.Links, func(l string) bool { return !w.isCut(from.name, to.name, l) })
}

// step looks at the open windows after every event.
func (c *check) step() {
	for i, n := range c.w.nodes {
		if n.gen < c.gens[i] && !c.w.mayLower(n) {
			c.w.fail("generation", "%s: generation %d after %d", n.name, n.gen, c.gens[i])
		}
		c.gens[i] = n.gen
	}
	if c.open == 0 {
		return
	}
	for i := range c.groups {
		g := &c.groups[i]
		if !g.open {
			continue
		}
		if c.excused(g.key) || g.class == ClassLegacy && c.w.neverTold() {
			g.excusedAt = c.w.now
		} else if over := c.w.now - g.excusedAt; over > c.w.scenario.WindowBound() {
			c.w.fail("window", "%s is up on two nodes (%s, since %.3fs) %v after the cause has ended; the bound is %v", g.key, g.class, g.since.Seconds(), over, c.w.scenario.WindowBound())
		}
	}
}

// mayLower: a stale or lost disk is what lowers a generation.
func (w *world) mayLower(*node) bool {
	return slices.ContainsFunc(w.scenario.Faults, func(f Fault) bool { return f.Kind == PowerOff && f.Disk != DiskKept })
}

// excused reports whether something still keeps the owners of a group from
// ending the overlap.
func (c *check) excused(key string) bool {
	if slices.ContainsFunc(c.w.active, func(f Fault) bool { return f.Kind == Noise && f.lost() >= heavyLoss }) {
		return true
	}
	var owners []*node
	for _, n := range c.w.nodes {
		if r := n.group(key); r.up {
			// Old nodes exchange all groups of a set or none.
			stuck := r.stuck || c.w.scenario.Cluster.Old && slices.ContainsFunc(n.groups, func(r *resource) bool { return r.stuck })
			if !n.runs() || stuck || r.act != nil && r.act.kind == cluster.JobGive {
				return true
			}
			owners = append(owners, n)
		}
	}
	for _, a := range owners {
		for _, b := range owners {
			if a != b && c.w.apart(a, b) {
				return true
			}
		}
	}
	return false
}

// apart reports whether two owners cannot know of each other. Between old nodes
// it takes both to hear each other. Of new ones the one that hears is told that
// it is held for dead, once it is, and lets go.
func (w *world) apart(a, b *node) bool {
	if w.scenario.Cluster.Old {
		return w.silence(a, b) || w.silence(b, a)
	}
	aHears, bHears := w.hears(a, b), w.hears(b, a)
	switch {
	case aHears && bHears:
		return false
	case aHears:
		return !w.silence(a, b)
	case bHears:
		return !w.silence(b, a)
	}
	return true
}

// hears reports whether a keepalive of the other node came lately.
func (w *world) hears(n, other *node) bool {
	h := &n.heard[other.index]
	return h.ever && n.local()-h.at <= 3*w.scenario.Cluster.Keepalive
}

// heavyLoss is the share of lost packets under which an exchange may take any
// time.
const heavyLoss = 0.5

// mustHaveSettled is the end of the bound: everything is as it should be.
func (w *world) mustHaveSettled() {
	w.settledCheck()
	w.check.settled = w.owners()
	for _, n := range w.nodes {
		for id, what := range n.orders {
			if w.mayMishear() {
				continue // it waits for a claim that was overtaken
			}
			w.fail("order", "%s: order %d (%s) was never answered", n.name, id, what)
		}
	}
}

// mustStillBe is the end of the run.
func (w *world) mustStillBe() {
	w.settledCheck()
	if w.tracing() {
		w.say("-----", "end: "+w.owners())
	}
}

func (w *world) owners() (text string) {
	for _, g := range w.check.groups {
		text += g.key + ":"
		for _, n := range w.nodes {
			if n.group(g.key).up {
				text += " " + n.name
			}
		}
		text += "; "
	}
	return text
}

func (w *world) settledCheck() {
	c := w.scenario.Cluster
	for _, n := range w.nodes {
		if !n.runs() {
			w.fail("settle", "%s does not run", n.name)
			return
		}
	}
	for _, g := range c.Groups {
		var owners []*node
		for _, n := range w.nodes {
			if r := n.group(g.Key); r.up {
				owners = append(owners, n)
				if !r.whole {
					w.fail("settle", "%s is half up on %s", g.Key, n.name)
				}
			}
		}
		if len(owners) > 1 && w.neverTold() {
			return
		}
		if len(owners) != 1 {
			w.fail("settle", "%s is up on %d nodes", g.Key, len(owners))
			return
		}
		if owners[0].name != g.Node && w.mustBeHome() {
			w.fail("settle", "%s is up on %s, not on %s", g.Key, owners[0].name, g.Node)
		}
	}
	for _, n := range w.nodes {
		v := n.engine.View()
		w.membersCheck(n, v)
		if n.bystander() {
			continue
		}
		mine := cluster.None
		for _, r := range n.groups {
			if r.up && r.local {
				mine |= cluster.Local
			} else if r.up {
				mine |= cluster.Foreign
			}
		}
		for _, s := range [...]cluster.Set{cluster.Local, cluster.Foreign} {
			has := slices.ContainsFunc(n.groups, func(r *resource) bool { return r.local == (s == cluster.Local) })
			if has && c.Failback != cluster.FailbackLegacy && v.Mine.Has(s) != mine.Has(s) {
				w.fail("settle", "%s says that it holds %v, and runs %v", n.name, v.Mine, mine)
			}
			if has && c.Failback != cluster.FailbackLegacy && !w.mayMishear() && v.Theirs.Mirror().Has(s) == mine.Has(s) {
				w.fail("settle", "%s says that the other node holds %v, and runs %v itself", n.name, v.Theirs, mine)
			}
		}
		for _, g := range v.Groups {
			if r := n.group(g.Key); (g.Owner == n.name) != r.up {
				w.fail("settle", "%s says that %s runs on %q; up here: %v", n.name, g.Key, g.Owner, r.up)
			}
		}
		if (!v.Stable || v.StandbyNow != "") && !w.mayMishear() {
			w.fail("settle", "%s: stable %v, standby %q, phase %s", n.name, v.Stable, v.StandbyNow, v.Phase)
		}
	}
}

// membersCheck: everybody is heard on every link.
func (w *world) membersCheck(n *node, v engine.View) {
	for _, other := range v.Nodes {
		want := "active"
		if other.Ping {
			want = "ping"
		}
		if other.State != want {
			w.fail("settle", "%s holds %s for %s", n.name, other.Name, other.State)
		}
		for _, l := range other.Links {
			if other.Name != n.name && (!l.Up || l.OneWay) {
				w.fail("settle", "%s: link %s:%s is not up", n.name, other.Name, l.Name)
			}
		}
	}
}

// mustBeHome: with auto_failback on every group goes to its preferred node,
// unless an operator or a failure moved it.
func (w *world) mustBeHome() bool {
	switch w.scenario.Cluster.Failback {
	case cluster.FailbackLegacy:
		return true
	case cluster.FailbackOff:
		return false
	}
	return !slices.ContainsFunc(w.scenario.Faults, func(f Fault) bool {
		switch f.Kind {
		case Standby, Takeover, StartFails, StopFails, Hang:
			return true
		}
		return false
	})
}

// mayMishear: among nodes that take each other for old, a claim that was lost
// and comes late counts as the newest, as in the original.
func (w *world) mayMishear() bool {
	return w.scenario.Cluster.Old && slices.ContainsFunc(w.scenario.Faults, func(f Fault) bool {
		return f.Kind == Noise || f.Kind == Cut || f.Kind == Partition || f.Kind == Freeze
	})
}

// neverTold: old nodes with auto_failback legacy do not say what they hold, and an
// old node believes a status that was lost and comes late, so that one which starts
// may not ask for its groups.
func (w *world) neverTold() bool {
	return w.scenario.Cluster.Failback == cluster.FailbackLegacy && w.mayMishear()
}

func (w *world) finishResult() {
	w.result.Time = w.now
	w.result.Packets = w.net.Counts().Delivered
	for i := range w.check.groups {
		if g := &w.check.groups[i]; g.open {
			w.check.close(g)
		}
	}
}
