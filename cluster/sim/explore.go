package sim

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"heartbeat/cluster"
)

// Options bound an exploration.
type Options struct {
	// Faults is how many faults one way may have. Their repairs come on top.
	Faults int
	// Limit bounds the places that are expanded; 0 is no limit.
	Limit int
	// Progress, when set, is called from time to time.
	Progress func(Progress)
}

// Progress is how far an exploration has come.
type Progress struct {
	Faults         int // of the ways that are being tried
	States, Runs   int
	Done, Waiting  int // places expanded, and known ones that are not yet
	VirtualElapsed time.Duration
}

// Findings of an exploration.
type (
	// Kind of a finding.
	FindingKind string

	// Finding is a state that should not be, and the shortest way there.
	Finding struct {
		Kind FindingKind `json:"kind"`
		// Class is why: one of Classes, or a reason of the kind's own.
		Class string `json:"class"`
		// Known findings follow from the configuration and cannot be avoided
		// with it; all others are defects or gaps.
		Known bool   `json:"known"`
		Group string `json:"group,omitempty"`
		// Faults is the number of faults on the way.
		Faults int `json:"faults"`
		// Ways is how many ways lead to it.
		Ways int `json:"ways"`
		// Longest is how long it lasted at most; Lasts: it goes on until a fault
		// is repaired. After is the longest time after the end of its cause.
		Longest Seconds `json:"longest"`
		After   Seconds `json:"after_cause"`
		Lasts   bool    `json:"lasts_until_repaired"`
		// Text says what is broken, for findings that are not known; Remedies
		// what would close it, for those that are.
		Text     string   `json:"text,omitempty"`
		Remedies []string `json:"remedies,omitempty"`
		// Way is the shortest way there.
		Way []Event `json:"way"`

		way   *way
		until place
	}

	// Exploration is the outcome.
	Exploration struct {
		Faults int `json:"faults"`
		// States are the different states seen, Runs the transitions tried.
		States int `json:"states"`
		Runs   int `json:"runs"`
		// Virtual is the time that all runs together simulated.
		Virtual Seconds `json:"virtual"`
		// Left are the known states from which nothing was tried any more: by
		// the limit, or since the exploration was interrupted. LeftFaults is the
		// number of faults on the ways to the first of them.
		Left       int `json:"left"`
		LeftFaults int `json:"left_faults"`
		// Kinds are the faults that were tried.
		Tried    []Kind    `json:"tried"`
		Findings []Finding `json:"findings"`
		// Gap is the longest time that a group ran nowhere although a node could
		// run it and did so in the end; GapWay the way there.
		Gap    Seconds `json:"gap"`
		GapWay []Event `json:"gap_way"`
	}

	// Seconds is a time that JSON shows in seconds.
	Seconds time.Duration
)

// The kinds of findings.
const (
	TwoOwners FindingKind = "two owners"
	NoOwner   FindingKind = "no owner"
	Unrest    FindingKind = "no rest"
	Broken    FindingKind = "broken rule"
)

// Reasons for which no node runs a group.
const (
	reasonNoNode   = "no node runs"
	reasonScript   = "its start fails"
	reasonReset    = "the other node cannot be reset"
	reasonResets   = "the nodes reset each other"
	reasonBoth     = "both reset" // the rule of that name
	reasonLegacy   = "auto_failback legacy"
	reasonUnknown  = "unexplained"
	reasonRetrying = "it is tried again and again"
)

// MarshalJSON writes a number of seconds.
func (s Seconds) MarshalJSON() ([]byte, error) {
	return fmt.Appendf(nil, "%g", time.Duration(s).Round(time.Millisecond).Seconds()), nil
}

// way is how a place is reached: what is done there is done at a place of the
// way before.
type way struct {
	before   *way
	at       moment
	fault    Fault
	repaired bool
	faults   int
}

// moment is a point of a run: after so many things have happened, at that time.
type moment struct {
	ticks int
	now   time.Duration
}

// place is a moment of the run that follows a way.
type place struct {
	way *way
	moment
}

func (w *way) used() int {
	if w == nil {
		return 0
	}
	return w.faults
}

// explorer enumerates.
type explorer struct {
	pair    Pair
	opts    Options
	seen    map[[sha256.Size]byte]bool
	out     Exploration
	index   map[string]int // of out.Findings
	gap     time.Duration
	gapWay  *way
	gapTill place
}

// Explore tries every fault of the alphabet at every moment at which something
// has just been decided, is just about to be, or nothing moves; and from each
// state that results again, until the faults are used up. Faults are repaired
// at such moments too, or never. It goes breadth first, so the first way to a
// finding has as few faults as any. Equal states are expanded once.
func Explore(ctx context.Context, p Pair, opts Options) *Exploration {
	x := &explorer{pair: p, opts: opts, seen: map[[sha256.Size]byte]bool{}, index: map[string]int{}}
	x.out.Faults = opts.Faults
	first := p.switchedOn()
	queue := make([][]place, opts.Faults+1)
	x.file(x.follow(first, nil), queue)
	done := 0
	for level := 0; level <= opts.Faults; level++ {
		for len(queue[level]) > 0 {
			wave := queue[level]
			const waveMax = 256
			if len(wave) > waveMax {
				wave = wave[:waveMax]
			}
			if opts.Limit > 0 {
				wave = wave[:min(len(wave), opts.Limit-done)]
			}
			if len(wave) == 0 || ctx.Err() != nil {
				x.out.LeftFaults = level
				for _, q := range queue {
					x.out.Left += len(q)
				}
				x.finish()
				return &x.out
			}
			queue[level] = queue[level][len(wave):]
			for _, runs := range x.expand(wave) {
				for _, r := range runs {
					x.file(r, queue)
				}
			}
			done += len(wave)
			if opts.Progress != nil {
				p := Progress{Faults: level, States: len(x.seen), Runs: x.out.Runs, Done: done, VirtualElapsed: time.Duration(x.out.Virtual)}
				for _, q := range queue {
					p.Waiting += len(q)
				}
				opts.Progress(p)
			}
		}
	}
	x.finish()
	return &x.out
}

// switchedOn is the pair at its very beginning.
func (p Pair) switchedOn() *world {
	w := p.world()
	newStory(w, false)
	for _, n := range w.nodes {
		n.plan(0)
	}
	return w
}

// expand tries everything at each of the places, several at a time.
func (x *explorer) expand(wave []place) [][]*ran {
	out := make([][]*ran, len(wave))
	next := make(chan int)
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() { // until next is closed
			for i := range next {
				out[i] = x.expandOne(wave[i])
			}
		})
	}
	for i := range wave {
		next <- i
	}
	close(next)
	workers.Wait()
	return out
}

func (x *explorer) expandOne(p place) (out []*ran) {
	w := x.replay(p, false)
	for _, f := range slices.Clone(w.active) {
		c := w.clone()
		c.repair(f)
		out = append(out, x.follow(c, &way{p.way, p.moment, f, true, p.way.used()}))
	}
	if p.way.used() == x.opts.Faults {
		return out
	}
	for _, f := range w.possible() {
		c := w.clone()
		c.inject(f)
		out = append(out, x.follow(c, &way{p.way, p.moment, f, false, p.way.used() + 1}))
	}
	return out
}

// more reports whether another fault may follow a way. If not, repairs are
// tried only shortly before the next decision and where nothing moves.
func (x *explorer) more(by *way) bool { return by.used() < x.opts.Faults }

// replay goes to a place from the beginning.
func (x *explorer) replay(p place, keep bool) *world {
	w := x.pair.switchedOn()
	w.watch.(*story).keep = keep
	var steps []*way
	for s := p.way; s != nil; s = s.before {
		steps = append(steps, s)
	}
	for _, s := range slices.Backward(steps) {
		w.goTo(s.at)
		if s.repaired {
			w.repair(s.fault)
		} else {
			w.inject(s.fault)
		}
	}
	w.goTo(p.moment)
	return w
}

// goTo lets the world go on to a moment of its future.
func (w *world) goTo(m moment) {
	for w.happened < m.ticks {
		if !w.advance(math.MaxInt64 - 1) {
			panic("sim: a world without a future")
		}
	}
	w.now = max(w.now, m.now)
}

// possible are the faults that may begin now. Links are alike to the nodes, so
// the first one that works is cut; in one direction only the last one, for what is
// lost on it comes on another. A script fails while it runs, and goes on
// failing; groups of one node go the same way, so it is the first one of each.
func (w *world) possible() (list []Fault) {
	c := w.scenario.Cluster
	add := func(f Fault) {
		if !slices.ContainsFunc(w.active, func(g Fault) bool { return same(f, g) }) {
			list = append(list, f)
		}
	}
	a, b := c.Nodes[0], c.Nodes[1]
	whole := slices.DeleteFunc(slices.Clone(c.Links), func(l string) bool { return w.isCut(a, b, l) || w.isCut(b, a, l) })
	if len(whole) > 0 {
		add(Fault{Kind: Partition, Node: a, Peer: b, Link: whole[0]})
	}
	if len(whole) == 1 && !slices.ContainsFunc(w.active, func(f Fault) bool { return f.Kind == Cut }) {
		add(Fault{Kind: Cut, Node: a, Peer: b, Link: whole[0]})
		add(Fault{Kind: Cut, Node: b, Peer: a, Link: whole[0]})
	}
	for _, n := range w.nodes {
		if n.powered && !w.suffers(n, PowerOff) {
			add(Fault{Kind: PowerOff, Node: n.name})
		}
		if n.powered && !n.clock.frozen {
			add(Fault{Kind: Freeze, Node: n.name})
		}
		if n.runs() && !w.kept(n) {
			add(Fault{Kind: Kill, Node: n.name})
			add(Fault{Kind: Stall, Node: n.name})
			add(Fault{Kind: Stop, Node: n.name})
			if c.Failback != cluster.FailbackLegacy {
				add(Fault{Kind: Standby, Node: n.name, Set: cluster.All})
			}
		}
		var sides []bool
		for _, r := range n.groups {
			if slices.Contains(sides, r.local) {
				continue
			}
			sides = append(sides, r.local)
			switch a := r.act; {
			case a == nil || a.over || a.fails || a.kind == cluster.JobAsk:
			case a.kind == cluster.JobGive || a.rollback:
				add(Fault{Kind: StopFails, Node: n.name, Group: r.key})
			case a.err == "" && !r.whole:
				add(Fault{Kind: StartFails, Node: n.name, Group: r.key})
			}
		}
		if slices.ContainsFunc(w.resets, func(r reset) bool { return !r.starts && r.by == n.index }) {
			add(Fault{Kind: FenceFails, Node: n.name})
		}
		if n.config.IPFail {
			for _, p := range n.config.PingNodes {
				add(Fault{Kind: PingCut, Node: n.name, Link: p.Name})
			}
		}
	}
	if first := w.nodes[0]; first.config.IPFail {
		for _, p := range first.config.PingNodes {
			add(Fault{Kind: PingCut, Link: p.Name})
		}
	}
	return list
}

// ran is what a run has shown.
type ran struct {
	way    *way
	places []place
	states [][sha256.Size]byte
	found  []Finding
	gap    time.Duration
	till   place
	took   time.Duration
}

// follow lets a world go on until it rests, and notes the places from which it
// might have gone on otherwise.
func (x *explorer) follow(w *world, by *way) *ran {
	r := &ran{way: by}
	begun := w.now
	s := w.watch.(*story)
	add := func(m moment, state [sha256.Size]byte) {
		r.places = append(r.places, place{by, m})
		r.states = append(r.states, state)
	}
	here := func() moment { return moment{w.happened, w.now} }
	if x.more(by) {
		add(here(), w.fingerprint())
	}
	type sample struct {
		moment
		state [sha256.Size]byte
	}
	var samples []sample
	s.decided = false
	rested := w.rest(func() {
		if !s.decided {
			return
		}
		s.decided = false
		if n := len(samples); n > 1 { // shortly before
			add(samples[n-1].moment, samples[n-1].state)
		}
		samples = nil
		if x.more(by) {
			add(here(), w.fingerprint())
		}
	}, func(state [sha256.Size]byte) { samples = append(samples, sample{here(), state}) })
	add(here(), w.fingerprint())
	r.took = w.now - begun
	r.gap, r.till = slices.Max(s.gaps), place{by, here()}
	x.judge(w, r, rested)
	return r
}

// file enters what a run has shown.
func (x *explorer) file(r *ran, queue [][]place) {
	x.out.Runs++
	x.out.Virtual += Seconds(r.took)
	used := r.way.used()
	for i, p := range r.places {
		if !x.seen[r.states[i]] {
			x.seen[r.states[i]] = true
			queue[used] = append(queue[used], p)
		}
	}
	if r.way != nil && !r.way.repaired && !slices.Contains(x.out.Tried, r.way.fault.Kind) {
		x.out.Tried = append(x.out.Tried, r.way.fault.Kind)
	}
	if r.gap > x.gap {
		x.gap, x.gapWay, x.gapTill = r.gap, r.way, r.till
	}
	for _, f := range r.found {
		key := fmt.Sprint(f.Kind, f.Class)
		if !f.Known {
			key += f.way.kinds()
		}
		i, ok := x.index[key]
		if !ok {
			i = len(x.out.Findings)
			x.index[key] = i
			x.out.Findings = append(x.out.Findings, f)
		}
		g := &x.out.Findings[i]
		g.Ways++
		g.Longest, g.After, g.Lasts = max(g.Longest, f.Longest), max(g.After, f.After), g.Lasts || f.Lasts
	}
}

// kinds are the kinds of the faults of a way.
func (w *way) kinds() string {
	var words []string
	for ; w != nil; w = w.before {
		if !w.repaired {
			words = append(words, string(w.fault.Kind))
		}
	}
	slices.Sort(words)
	return strings.Join(words, ",")
}

// finish tells the ways.
func (x *explorer) finish() {
	x.out.States = len(x.seen)
	for i := range x.out.Findings {
		f := &x.out.Findings[i]
		f.Way = x.tell(f.until)
		if f.Known {
			f.Remedies = x.pair.remedies(f.Class)
		}
	}
	x.out.Gap = Seconds(x.gap)
	if x.gap > 0 {
		x.out.GapWay = x.tell(x.gapTill)
	}
}

// tell is what happens on the way to a place.
func (x *explorer) tell(p place) []Event {
	w := x.replay(p, true)
	return w.watch.(*story).events
}

// judge looks at what a run came to.
func (x *explorer) judge(w *world, r *ran, rested bool) {
	end := r.till
	find := func(f Finding) {
		f.way, f.until, f.Faults = r.way, end, r.way.used()
		r.found = append(r.found, f)
	}
	if f := w.result.Failure; f != nil {
		if f.Rule == reasonBoth && w.nodes[0].config.FenceDelay == 0 {
			find(Finding{Kind: NoOwner, Class: reasonBoth, Known: true, Group: w.check.groups[0].key})
			return
		}
		find(Finding{Kind: Broken, Class: f.Rule, Text: f.Text})
		return
	}
	s := w.watch.(*story)
	for _, o := range s.overlaps {
		f := Finding{Kind: TwoOwners, Class: string(o.class), Known: true, Group: o.group, Longest: Seconds(o.length), After: Seconds(o.after)}
		if !o.over {
			f.Lasts, f.Longest = true, 0
		}
		find(f)
	}
	if len(s.resetBy) > 1 {
		find(Finding{Kind: Unrest, Class: reasonResets, Known: true, Lasts: true})
		return
	}
	reasons := map[string]bool{}
	for i := range w.check.groups {
		g := &w.check.groups[i]
		if g.owners > 0 {
			continue
		}
		reason, known := w.nobody(g.key, rested)
		if reasons[reason] {
			continue
		}
		reasons[reason] = true
		find(Finding{Kind: NoOwner, Class: reason, Known: known, Group: g.key, Lasts: true})
	}
	if !rested && len(reasons) == 0 {
		reason, known := w.unrest()
		find(Finding{Kind: Unrest, Class: reason, Known: known, Lasts: true})
	}
}

// failing reports whether a fault of the kind is active for the group on the
// node, or for any group.
func (w *world) failing(n *node, kind Kind, group string) bool {
	return slices.ContainsFunc(w.active, func(f Fault) bool {
		return f.Kind == kind && f.Node == n.name && (group == "" || f.Group == group)
	})
}

// nobody says why no node runs a group, and whether that is explained by the
// faults and the configuration.
func (w *world) nobody(group string, rested bool) (reason string, known bool) {
	var alive []*node
	for _, n := range w.nodes {
		if n.runs() {
			alive = append(alive, n)
		}
	}
	if len(alive) == 0 {
		return reasonNoNode, true
	}
	if len(alive) > 0 && !slices.ContainsFunc(alive, func(n *node) bool { return !w.failing(n, StartFails, group) }) {
		return reasonScript, true
	}
	for _, n := range alive {
		if n.config.Stonith && w.failing(n, FenceFails, "") {
			return reasonReset, true
		}
		if w.failing(n, StartFails, group) && w.scenario.Cluster.Failback == cluster.FailbackLegacy {
			return reasonLegacy, true
		}
	}
	if reason, known := w.unrest(); !rested && known {
		return reason, known
	}
	return reasonUnknown, false
}

// unrest says why a pair does not come to rest.
func (w *world) unrest() (reason string, known bool) {
	if a, b := w.nodes[0], w.nodes[1]; a.config.Stonith && b.config.Stonith && w.cutOff(a, b) && w.cutOff(b, a) && w.result.Resets > 0 {
		return reasonResets, true // in turn, after delays that grow
	}
	for _, f := range w.scenario.Faults {
		// The pauses between the tries grow while it fails.
		if f.Kind == StartFails || f.Kind == StopFails || f.Kind == FenceFails {
			return reasonRetrying, true
		}
	}
	return reasonUnknown, false
}

// Title is the finding in a line.
func (f *Finding) Title() string {
	known := ""
	if !f.Known {
		known = ", NOT EXPLAINED by the configuration"
	}
	if f.Group != "" {
		return fmt.Sprintf("%s of %s (%s)%s", f.Kind, f.Group, f.Class, known)
	}
	return fmt.Sprintf("%s (%s)%s", f.Kind, f.Class, known)
}

// because says what a class of findings means.
var because = map[string]string{
	string(ClassPartition): "Neither node hears the other, so each holds it for dead.",
	string(ClassOneWay):    "The taker does not hear the holder, which hears it.",
	string(ClassStall):     "The holder's daemon stands still, or the taker's did and goes on with what it had decided.",
	string(ClassFreeze):    "A machine that is paused with its clock cannot know that time passes.",
	string(ClassStart):     "The taker has started without ever hearing the holder.",
	string(ClassKill):      "The holder's daemon is gone and its resources stayed.",
	string(ClassLegacy):    "With auto_failback legacy nodes of 3.0.6 do not tell each other what they hold.",
	reasonNoNode:           "No daemon runs that could own it.",
	reasonScript:           "Its start fails on every node that runs.",
	reasonReset:            "Nothing is taken from a node before it is reset, and that does not work.",
	reasonResets:           "Each node holds the other for dead and resets it, again and again.",
	reasonBoth:             "Each node resets the other at the same time, and both are down until they have started again.",
	reasonLegacy:           "With auto_failback legacy a group that cannot be started is not offered to the other node.",
	reasonRetrying:         "A script fails or has failed; it is tried again after pauses that grow to 10 minutes.",
	reasonUnknown:          "Nothing in the configuration demands it: a defect.",
}

// Sentences tell what the finding means, how long it lasts and what would close
// it.
func (f *Finding) Sentences() (list []string) {
	if text := because[f.Class]; text != "" {
		list = append(list, text)
	}
	if f.Text != "" {
		list = append(list, "A rule is broken: "+f.Text+".")
	}
	ways := "1 way leads"
	if f.Ways > 1 {
		ways = fmt.Sprintf("%d ways lead", f.Ways)
	}
	text := fmt.Sprintf("%s there, the shortest by %d faults", ways, f.Faults)
	if f.Faults == 1 {
		text = ways + " there, the shortest by one fault"
	}
	if f.Kind == TwoOwners {
		text += fmt.Sprintf("; where it ends, it does so at most %.1fs after its cause", time.Duration(f.After).Seconds())
	}
	if f.Lasts {
		text += "; some last until a fault is repaired"
	}
	list = append(list, text+".")
	if len(f.Remedies) > 0 {
		list = append(list, "What would close it: "+strings.Join(f.Remedies, "; or ")+".")
	}
	return list
}
