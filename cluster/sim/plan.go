package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Forecast is what a pair would do.
type Forecast struct {
	Scenes []Scene `json:"scenes"`
}

// Scene is one thing that happens to the pair while it stands still, and what
// comes of it.
type Scene struct {
	// Title is what happens.
	Title string `json:"title"`
	// Groups are what becomes of each, in the order of haresources.
	Groups []Fate `json:"groups"`
	// Dead is set when a node is held for dead: how long after the event, at
	// least and at most, as it falls after or before a keepalive.
	Dead *Span `json:"held_for_dead,omitempty"`
	// Text is all of it in sentences.
	Text []string `json:"text"`
	// Steps are the events, with times since the first.
	Steps []Event `json:"steps"`
}

// Fate is what becomes of a group in a scene.
type Fate struct {
	Group string `json:"group"`
	// Before and After are where it is up; more than one node is two owners.
	Before []string `json:"before"`
	After  []string `json:"after"`
	// Outage is how long not all of it runs anywhere, when it comes back.
	Outage *Span `json:"outage,omitempty"`
	// Overlap is how long it is up on two nodes in this scene; Class why.
	Overlap *Span `json:"overlap,omitempty"`
	Class   Class `json:"class,omitempty"`
	Lasts   bool  `json:"overlap_lasts,omitempty"`
	// Remedies say what would close the overlap.
	Remedies []string `json:"remedies,omitempty"`
}

// Span is a time at least and at most.
type Span struct {
	Least Seconds `json:"least"`
	Most  Seconds `json:"most"`
}

func (s *Span) add(d time.Duration) *Span {
	if s == nil {
		return &Span{Seconds(d), Seconds(d)}
	}
	return &Span{min(s.Least, Seconds(d)), max(s.Most, Seconds(d))}
}

func (s Span) String() string {
	low, high := time.Duration(s.Least), time.Duration(s.Most)
	if high-low < 50*time.Millisecond {
		return tenths(high)
	}
	return fmt.Sprintf("%.1fs to %s", low.Seconds(), tenths(high))
}

func tenths(d time.Duration) string { return fmt.Sprintf("%.1fs", d.Seconds()) }

// act is what is done in a scene.
type act struct {
	title    string
	faults   []Fault
	repaired bool
	// of is the node whose keepalives decide about the times.
	of int
}

// Plan lets the pair live through what happens to such pairs, one thing at a
// time, and tells what it does: by the engine, with the configuration's times.
func Plan(p Pair) *Forecast {
	out := &Forecast{}
	first := p.switchedOn()
	out.Scenes = append(out.Scenes, p.scene([]*world{first}, act{title: "both nodes are switched on"}, true))
	c := first.scenario.Cluster
	for i, name := range c.Nodes {
		w := p.switchedOn()
		other := Fault{Kind: PowerOff, Node: c.Nodes[1-i]}
		w.inject(other)
		out.Scenes = append(out.Scenes, p.scene([]*world{w}, act{title: fmt.Sprintf("only %s is switched on", name)}, true))
	}
	rest := func() *world {
		w := p.switchedOn()
		w.rest(nil, nil)
		return w
	}
	base := rest()
	play := func(acts ...act) {
		worlds := []*world{base}
		for _, a := range acts {
			worlds = p.moments(worlds, a)
			out.Scenes = append(out.Scenes, p.scene(worlds, a, false))
		}
	}
	owns := func(n *node) bool {
		return slices.ContainsFunc(n.groups, func(r *resource) bool { return r.up })
	}
	for i, n := range base.nodes {
		if !owns(n) {
			continue
		}
		pair := func(k Kind, fault, repair string) {
			f := []Fault{{Kind: k, Node: n.name}}
			play(act{title: fault, faults: f, of: i}, act{title: repair, faults: f, repaired: true, of: i})
		}
		pair(PowerOff, n.name+" dies (its power fails)", n.name+" is back")
		pair(Stop, n.name+" is stopped in order (heartbeat -k, hbctl stop)", n.name+" is started again")
		pair(Kill, "the daemon on "+n.name+" is killed (SIGKILL) and nobody starts it again", "the daemon on "+n.name+" is started after all")
		pair(Freeze, "the machine "+n.name+" freezes, clock and all", "the machine "+n.name+" goes on")
		if c.Failback != 0 {
			play(act{title: "an operator types hb_standby on " + n.name, faults: []Fault{{Kind: Standby, Node: n.name, Set: 3}}, of: i})
		}
		if n.config.IPFail {
			for _, ping := range n.config.PingNodes {
				f := []Fault{{Kind: PingCut, Node: n.name, Link: ping.Name}}
				play(act{title: fmt.Sprintf("%s does not reach ping node %s any more, the other node does", n.name, ping.Name), faults: f, of: i},
					act{title: fmt.Sprintf("%s reaches ping node %s again", n.name, ping.Name), faults: f, repaired: true, of: i})
			}
		}
	}
	var cut []Fault
	for _, l := range c.Links {
		cut = append(cut, Fault{Kind: Partition, Node: c.Nodes[0], Peer: c.Nodes[1], Link: l})
	}
	if len(cut) > 1 {
		play(act{title: "link " + c.Links[0] + " dies", faults: cut[:1]}, act{title: "link " + c.Links[0] + " works again", faults: cut[:1], repaired: true})
	}
	title := fmt.Sprintf("all %d links die", len(cut))
	if len(cut) == 1 {
		title = "the only link, " + c.Links[0] + ", dies"
	}
	play(act{title: title, faults: cut}, act{title: "the links work again", faults: cut, repaired: true})
	if base.nodes[0].config.IPFail {
		for _, ping := range base.nodes[0].config.PingNodes {
			play(act{title: "ping node " + ping.Name + " answers nobody", faults: []Fault{{Kind: PingCut, Link: ping.Name}}})
		}
	}
	return out
}

// moments are the worlds in which an act begins: shortly after a keepalive of
// its node, and shortly before the next.
func (p Pair) moments(worlds []*world, a act) (list []*world) {
	const shortly = 2 * pairDelay
	for _, w := range worlds[:1] {
		for _, at := range []time.Duration{shortly, w.scenario.Cluster.Keepalive - shortly} {
			c := w.clone()
			at += c.inPlace(c.nodes[a.of], c.now)
			for c.advance(at) {
			}
			list = append(list, c)
		}
	}
	return list
}

// scene plays an act in each of the worlds, and tells of the last.
func (p Pair) scene(worlds []*world, a act, fromStart bool) Scene {
	sc := Scene{Title: a.title}
	groups := worlds[0].check.groups
	sc.Groups = make([]Fate, len(groups))
	var silent *Span
	var rested bool
	var deadText string
	for _, w := range worlds {
		begun := w.now
		before := w.whoHas()
		s := newStory(w, true)
		if fromStart {
			for i := range s.idle {
				s.idle[i] = 0
			}
		}
		for _, f := range a.faults {
			if a.repaired {
				w.repair(f)
			} else {
				w.inject(f)
			}
		}
		rested = w.rest(nil, nil)
		// Who has let go of everything is dead later without any consequence.
		if s.dead >= 0 && !slices.ContainsFunc(a.faults, func(f Fault) bool { return f.Kind == Stop }) {
			silent, deadText = silent.add(s.dead-begun), s.deadText
		}
		after := w.whoHas()
		for i := range sc.Groups {
			f := &sc.Groups[i]
			f.Group, f.Before, f.After = groups[i].key, before[i], after[i]
			if s.gaps[i] > 0 {
				f.Outage = f.Outage.add(s.gaps[i])
			}
			for _, o := range s.overlaps {
				if o.group != f.Group {
					continue
				}
				f.Class, f.Lasts = o.class, f.Lasts || !o.over
				if o.over {
					f.Overlap = f.Overlap.add(o.ended - max(o.since, begun))
				}
				f.Remedies = p.remedies(string(o.class))
			}
		}
		sc.Steps = s.events
		for i := range sc.Steps {
			sc.Steps[i].At -= begun
		}
	}
	sc.Dead = silent
	sc.Text = p.sentences(sc, deadText, rested, fromStart)
	return sc
}

// whoHas lists the nodes on which each group is up.
func (w *world) whoHas() [][]string {
	list := make([][]string, len(w.check.groups))
	for i, g := range w.check.groups {
		list[i] = []string{}
		for _, n := range w.nodes {
			if n.group(g.key).up {
				list[i] = append(list[i], n.name)
			}
		}
	}
	return list
}

// sentences are a scene in words. Groups with one fate share one.
func (p Pair) sentences(sc Scene, deadText string, rested, fromStart bool) (list []string) {
	if sc.Dead != nil {
		c := p.scenario().Cluster
		patience := fmt.Sprintf("deadtime %v after the last keepalive, one every %v", c.Deadtime, c.Keepalive)
		if fromStart {
			patience = fmt.Sprintf("initdead %v without a word", c.Initdead)
		}
		list = append(list, fmt.Sprintf("%s %v later (%s).", deadText, *sc.Dead, patience))
	}
	words := map[string][]string{}
	var order []string
	for _, f := range sc.Groups {
		text := p.fate(f, fromStart)
		if words[text] == nil {
			order = append(order, text)
		}
		words[text] = append(words[text], f.Group)
	}
	for _, text := range order {
		list = append(list, strings.Join(words[text], ", ")+" "+text)
	}
	if !rested {
		list = append(list, "The pair does not come to rest.")
	}
	return list
}

func (p Pair) fate(f Fate, fromStart bool) string {
	where := func(nodes []string) string {
		if len(nodes) == 0 {
			return "nowhere"
		}
		return "on " + strings.Join(nodes, " and ")
	}
	var b strings.Builder
	same := slices.Equal(f.Before, f.After)
	switch {
	case fromStart && f.Outage != nil:
		fmt.Fprintf(&b, "runs %s after %v, %s of them its start.", where(f.After), *f.Outage, tenths(p.Start))
		return b.String()
	case same && f.Outage == nil && f.Overlap == nil && !f.Lasts:
		fmt.Fprintf(&b, "stays %s: nothing moves.", where(f.After))
	case same:
		fmt.Fprintf(&b, "ends %s, where it was.", where(f.After))
	case len(f.Before) == 0:
		fmt.Fprintf(&b, "runs %s.", where(f.After))
	case len(f.Before) == 1 && len(f.After) == 1:
		fmt.Fprintf(&b, "moves from %s to %s.", f.Before[0], f.After[0])
	default:
		fmt.Fprintf(&b, "was %s and is %s.", where(f.Before), where(f.After))
	}
	if f.Outage != nil {
		fmt.Fprintf(&b, " The service is interrupted for %v, %s of them its start.", *f.Outage, tenths(p.Start))
	}
	switch {
	case f.Lasts:
		fmt.Fprintf(&b, " TWO OWNERS (%s) until this is over.", f.Class)
	case f.Overlap != nil && len(f.Before) > 1:
		fmt.Fprintf(&b, " TWO OWNERS (%s) for %v more.", f.Class, *f.Overlap)
		return b.String()
	case f.Overlap != nil:
		fmt.Fprintf(&b, " TWO OWNERS (%s) for %v.", f.Class, *f.Overlap)
	}
	if len(f.Remedies) > 0 {
		fmt.Fprintf(&b, " What would close this: %s.", strings.Join(f.Remedies, "; or "))
	}
	return b.String()
}
