package sim

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"heartbeat/cluster"
	"heartbeat/cluster/engine"
	"heartbeat/transport/memory"
)

// Pair is a cluster as its files describe it, for [Plan] and [Explore]. Nothing
// is left to chance in its world: groups take Start and Stop, packets a
// millisecond, and nodes send their keepalives in turn.
type Pair struct {
	// Nodes are the configurations as each node reads them, Self set.
	Nodes []engine.Config
	// Start and Stop are how long a group takes.
	Start, Stop time.Duration
	// Gone is how long after a node's last keepalive its addresses are gone at the
	// latest, by their lifetime; 0 is never. Addresses are the groups that consist of
	// nothing else.
	Gone      time.Duration
	Addresses []string

	planted planted
}

// pairDelay is how long a packet takes.
const pairDelay = time.Millisecond

// fenceTakes is how long a device needs to reset a machine.
const fenceTakes = 5 * time.Second

// lasting is the length of a fault that goes on until it is repaired.
const lasting = 10_000 * time.Hour

// scenario is what the checks must know of the pair.
func (p Pair) scenario() Scenario {
	c := p.Nodes[0]
	s := Scenario{Seed: 1, planted: p.planted, Cluster: Cluster{
		Groups: c.Groups, Keepalive: c.Keepalive, Deadtime: c.Deadtime, Warntime: c.Warntime, Initdead: c.Initdead,
		Failback: c.Failback, Method: "crc", Start: p.Start, Stop: p.Stop, Delay: pairDelay,
	}}
	for _, n := range p.Nodes {
		s.Cluster.Nodes = append(s.Cluster.Nodes, n.Self)
	}
	if slices.ContainsFunc(p.Nodes, func(n engine.Config) bool { return n.Stonith }) {
		s.Cluster.FenceTakes = fenceTakes
	}
	for _, l := range c.Links {
		if !slices.Contains(s.Cluster.Links, l.Name) {
			s.Cluster.Links = append(s.Cluster.Links, l.Name)
		}
	}
	return s
}

// world is the pair with both machines switched on and no daemon yet. Who signs
// and how changes no decision, so the packets carry a checksum only.
func (p Pair) world() *world {
	w := &world{
		scenario: p.scenario(), steady: true,
		net: memory.New(1), results: map[resultKey][]cluster.GroupResult{},
		result: &Result{Windows: map[Class]Window{}, Injected: map[Kind]int{}},
	}
	w.source = rand.NewPCG(1, 1)
	w.random = rand.New(w.source)
	w.config.Keys = engine.Keys{Outbound: 1, Keys: []engine.Key{{Index: 1, Method: "crc"}}}
	w.gone, w.addresses = p.Gone, p.Addresses
	w.assemble(func(node string) engine.Config {
		i := slices.IndexFunc(p.Nodes, func(c engine.Config) bool { return c.Self == node })
		c := p.Nodes[i]
		c.Keys = w.config.Keys
		c.Links = nil
		for _, l := range w.scenario.Cluster.Links {
			c.Links = append(c.Links, engine.Link{Name: l})
		}
		return c
	})
	return w
}

// inPlace is the first moment from t on at which a node may begin, so that its
// keepalives fall between the others'. Then what happens again later happens
// alike.
func (w *world) inPlace(n *node, t time.Duration) time.Duration {
	every := w.scenario.Cluster.Keepalive
	place := every * time.Duration(n.index) / time.Duration(len(w.nodes))
	return t + (place-t%every+every)%every
}

// clone returns a world in the same state, with a story of its own.
func (w *world) clone() *world {
	c := *w
	c.net = w.net.Clone()
	source := *w.source
	c.source = &source
	c.random = rand.New(c.source)
	c.scenario.Faults = slices.Clone(w.scenario.Faults)
	c.active = slices.Clone(w.active)
	c.results = maps.Clone(w.results)
	c.resets = slices.Clone(w.resets)
	result := *w.result
	result.Windows, result.Injected = maps.Clone(result.Windows), maps.Clone(result.Injected)
	c.result = &result
	c.check.w = &c
	c.check.groups = slices.Clone(w.check.groups)
	c.check.gens = slices.Clone(w.check.gens)
	c.nodes = nil
	for _, n := range w.nodes {
		c.nodes = append(c.nodes, n.clone(&c))
	}
	if s, ok := w.watch.(*story); ok {
		c.watch = s.clone(&c)
	}
	return &c
}

func (n *node) clone(w *world) *node {
	c := *n
	c.w = w
	jobs := map[*job]*job{}
	cloned := func(j *job) *job {
		if j == nil || jobs[j] != nil {
			return jobs[j]
		}
		k := *j
		k.results, k.skip = slices.Clone(j.results), slices.Clone(j.skip)
		jobs[j] = &k
		return &k
	}
	c.groups = nil
	for _, r := range n.groups {
		g := *r
		if r.act != nil {
			a := *r.act
			a.job = cloned(a.job)
			g.act = &a
		}
		g.waiting = nil
		for _, j := range r.waiting {
			g.waiting = append(g.waiting, cloned(j))
		}
		c.groups = append(c.groups, &g)
	}
	c.booting = cloned(n.booting)
	if n.engine != nil {
		snapshot, err := n.engine.Snapshot()
		if err == nil {
			c.engine, err = engine.Restore(n.record, snapshot)
		}
		if err != nil {
			panic(fmt.Sprintf("sim: %s: %v", n.name, err))
		}
	}
	c.mail, c.pending, c.scripts = slices.Clone(n.mail), slices.Clone(n.pending), slices.Clone(n.scripts)
	c.pongs = slices.Clone(n.pongs)
	c.held, c.orders = slices.Clone(n.held), maps.Clone(n.orders)
	c.heard, c.sent = slices.Clone(n.heard), slices.Clone(n.sent)
	return &c
}

// fingerprint is that of everything from which the future follows: equal ones
// have equal futures, but for what Engine.Fingerprint leaves out.
func (w *world) fingerprint() [sha256.Size]byte {
	h := sha256.New()
	w.describeTo(h)
	return [sha256.Size]byte(h.Sum(nil))
}

// describeTo writes what the fingerprint is of.
func (w *world) describeTo(h io.Writer) {
	at := map[string]engine.Position{}
	for _, n := range w.nodes {
		if n.engine != nil {
			at[n.name] = n.engine.Position()
		}
	}
	for _, n := range w.nodes {
		n.fingerprint(h, at)
	}
	w.net.Pending(func(d memory.Delivery) {
		put(h, d.From, d.To, d.Link, d.At-w.now, w.said(d.Packet))
	})
	for _, r := range w.resets {
		put(h, r.at-w.now, r.by, r.target, r.starts, r.life == w.nodes[r.by].life)
	}
	var active []string
	for _, f := range w.active {
		f.At, f.For = 0, 0
		active = append(active, f.String())
	}
	slices.Sort(active)
	put(h, active)
	for i := range w.check.groups {
		g := &w.check.groups[i]
		put(h, g.owners, g.open, g.class)
	}
}

func put(h io.Writer, values ...any) { fmt.Fprintln(h, values...) }

// since is a time ago, where all that is longer ago than most is alike.
func since(ago, most time.Duration) time.Duration { return min(ago, most) }

func (n *node) fingerprint(h io.Writer, at map[string]engine.Position) {
	now := n.local()
	put(h, n.name, n.powered, n.clock.frozen, n.stalled, n.starts, n.booting != nil, n.engine != nil, n.waiting, len(n.held), len(n.orders))
	if n.starts {
		put(h, n.startAt-now)
	}
	if n.clock.frozen || n.stalled {
		put(h, min(len(n.mail), 3), len(n.pending))
	}
	if at, ok := n.addressesEnd(); ok {
		put(h, at-now)
	}
	if n.engine != nil {
		f, err := n.engine.Fingerprint(n.instant(), at)
		if err != nil {
			panic(err)
		}
		put(h, string(f))
		if n.stallEnd > 0 {
			put(h, since(n.w.now-n.stallEnd, n.config.Deadtime))
		}
		for i := range n.heard {
			if i == n.index {
				continue
			}
			x := &n.heard[i]
			put(h, since(now-x.at, n.w.scenario.patience(x.ever)), x.ever, x.inSilence, x.wasSilent && n.w.now-x.silent <= n.w.scenario.startGrace())
		}
	}
	for _, r := range n.groups {
		put(h, r.up, r.whole, r.stuck, r.giving)
		if a := r.act; a != nil {
			put(h, a.kind, max(a.ends-now, 0), a.fails, a.err != "", a.rollback, a.over, a.job.next, a.job.skip, a.job.ordered <= n.stallEnd)
		}
		for _, j := range r.waiting {
			put(h, j.Kind, j.next, j.skip, j.ordered <= n.stallEnd)
		}
	}
	if n.engine != nil {
		for _, l := range n.pongs {
			put(h, max(l.at-now, 0), l.link)
		}
	}
	for _, s := range n.scripts {
		put(h, max(s.ends-now, 0), s.err)
	}
}

// unsaid are the fields of a message that change nothing.
var unsaid = []string{"srcuuid", "destuuid", "hg", "ts", "ld", "ttl", "auth", "seq", "ackseq"}

// said is what a packet says.
func (w *world) said(data []byte) string {
	m, err := w.decode(data)
	if err != nil {
		return err.Error()
	}
	var b bytes.Buffer
	for _, f := range m.Fields {
		if !slices.Contains(unsaid, f.Name) {
			fmt.Fprintf(&b, "%s=%s ", f.Name, f.Value)
		}
	}
	return b.String()
}

// advance lets the next thing happen, if that is not after limit; else time
// passes until then. It reports whether something happened.
func (w *world) advance(limit time.Duration) bool {
	at, do := limit+1, func() {}
	if t, f, ok := w.nextReset(); ok && t < at {
		at, do = t, f
	}
	for _, n := range w.nodes {
		if t, f, ok := n.next(); ok && t < at {
			at, do = t, f
		}
	}
	if t, ok := w.net.Deadline(); ok && t <= at {
		at, do = t, w.deliver
	}
	if at > limit {
		w.now = max(w.now, limit)
		return false
	}
	w.now = max(w.now, at)
	w.happened++
	do()
	w.check.step()
	return true
}

// inject begins a fault, which lasts until it is repaired.
func (w *world) inject(f Fault) {
	f.At = w.now
	switch f.Kind {
	case Standby, Takeover:
	default:
		f.For = lasting
	}
	w.scenario.Faults = append(w.scenario.Faults, f)
	if s, ok := w.watch.(*story); ok {
		s.tell(true, "%s", deed(f, false))
	}
	w.begin(f)
	if f.Kind == StartFails || f.Kind == StopFails {
		w.node(f.Node).group(f.Group).act.fails = true
	}
	w.check.step()
}

// repair ends a fault as soon as that leaves the keepalives in their places.
func (w *world) repair(f Fault) {
	i := slices.IndexFunc(w.active, func(g Fault) bool { return same(f, g) })
	if i < 0 {
		return
	}
	f = w.active[i]
	every := w.scenario.Cluster.Keepalive
	at := w.now
	switch f.Kind {
	case Stall:
		at = w.inPlace(w.node(f.Node), w.now)
	case Freeze:
		at = w.now + (every-(w.now-w.node(f.Node).clock.local)%every)%every
	}
	for at > w.now && w.advance(at) {
	}
	if s, ok := w.watch.(*story); ok {
		s.tell(true, "%s", deed(f, true))
	}
	w.end(f)
	w.check.step()
}

// same reports whether two faults are one but for their times.
func same(f, g Fault) bool {
	f.At, f.For, g.At, g.For = 0, 0, 0, 0
	return f == g
}

// idle reports whether nothing is under way on the machines. A process that
// stands still keeps nobody waiting.
func (w *world) idle() bool {
	if len(w.resets) > 0 {
		return false
	}
	for _, n := range w.nodes {
		if n.clock.frozen || !n.powered {
			continue
		}
		if n.starts || n.booting != nil || !n.stalled && (n.waiting || len(n.scripts) > 0) {
			return false
		}
		for _, r := range n.groups {
			if r.act != nil && !r.act.over {
				return false
			}
		}
	}
	return true
}

// patient is how long it may take at most until a pair has come to rest after a
// fault: restarts, initdead, the settling time, an unanswered standby, a retry.
func (w *world) patient() time.Duration {
	c := w.scenario.Cluster
	return 2*(c.Deadtime+c.Initdead) + 3*time.Minute + 2*w.scenario.startGrace()
}

// rest lets the pair go on until it stands still: until it is, some keepalives
// later, in a state in which it was. It calls happened after everything that
// happens, and sampled with the state once a keepalive. It reports whether the
// pair came to rest within its patience.
func (w *world) rest(happened func(), sampled func([sha256.Size]byte)) bool {
	every := w.scenario.Cluster.Keepalive
	end := w.now + w.patient()
	// A moment between the keepalives of all nodes.
	next := w.now - w.now%every + every/time.Duration(4*len(w.nodes))*3
	var before [][sha256.Size]byte
	for ; next <= end; next += every {
		if next < w.now {
			continue
		}
		for w.result.Failure == nil && w.advance(next) {
			if happened != nil {
				happened()
			}
		}
		if w.result.Failure != nil {
			return true
		}
		now := w.fingerprint()
		if w.idle() && slices.Contains(before, now) {
			return true
		}
		if sampled != nil {
			sampled(now)
		}
		before = append(before, now)
	}
	return false
}
