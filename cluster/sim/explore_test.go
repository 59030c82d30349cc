package sim

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"heartbeat/cluster"
	"heartbeat/cluster/engine"
)

// testPair has one group, which prefers alpha.
func testPair(change func(*engine.Config)) Pair {
	c := engine.Config{
		Nodes: []string{"alpha", "beta"}, Links: []engine.Link{{Name: "eth0"}, {Name: "eth1"}},
		Groups:    []cluster.Group{{Key: "web", Node: "alpha", Resources: []string{"web"}}},
		Keepalive: time.Second, Deadtime: 10 * time.Second, Warntime: 5 * time.Second, Initdead: 20 * time.Second, Deadping: 10 * time.Second,
		MaxRexmitDelay: 250 * time.Millisecond, HopFudge: 1, Failback: cluster.FailbackOn,
	}
	if change != nil {
		change(&c)
	}
	p := Pair{Start: time.Second, Stop: time.Second}
	for _, c.Self = range c.Nodes {
		p.Nodes = append(p.Nodes, c)
	}
	return p
}

func explored(t *testing.T, p Pair, faults int) *Exploration {
	t.Helper()
	x := Explore(t.Context(), p, Options{Faults: faults})
	if x.Left != 0 {
		t.Fatalf("%d states are left", x.Left)
	}
	return x
}

// find is the first finding of a kind and class.
func (x *Exploration) find(kind FindingKind, class string) *Finding {
	i := slices.IndexFunc(x.Findings, func(f Finding) bool { return f.Kind == kind && f.Class == class })
	if i < 0 {
		return nil
	}
	return &x.Findings[i]
}

func (f *Finding) faults() (list []string) {
	for _, e := range f.Way {
		if e.Fault {
			list = append(list, e.Text)
		}
	}
	return list
}

// TestExplore: with one fault nothing is found but what follows from the
// configuration, by the way that is the shortest.
func TestExplore(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*engine.Config)
		want   map[string]string // class of two owners: the only fault of the way
	}{
		{"two links", nil, map[string]string{
			"freeze": "the machine alpha freezes, clock and all", "killed": "the daemon on alpha is killed (SIGKILL)",
			"stall": "the daemon on alpha stands still (SIGSTOP, swapping)",
		}},
		{"one link", func(c *engine.Config) { c.Links = c.Links[:1] }, map[string]string{
			"freeze": "the machine alpha freezes, clock and all", "killed": "the daemon on alpha is killed (SIGKILL)",
			"stall":     "the daemon on alpha stands still (SIGSTOP, swapping)",
			"partition": "link eth0 is cut", "alone at start": "link eth0 is cut",
			"one-way": "link eth0 loses all from alpha to beta",
		}},
		{"fencing", func(c *engine.Config) { c.Links, c.Stonith, c.FenceDelay = c.Links[:1], true, 20*time.Second }, map[string]string{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := explored(t, testPair(tt.change), 1)
			for _, f := range x.Findings {
				if !f.Known {
					t.Errorf("%s: %v %v", f.Title(), f.Text, f.Way)
				}
				if f.Kind != TwoOwners {
					continue
				}
				want, ok := tt.want[f.Class]
				if got := f.faults(); !ok || !slices.Equal(got, []string{want}) {
					t.Errorf("two owners, %s: by %q, want %q", f.Class, got, want)
				}
				delete(tt.want, f.Class)
			}
			for class := range tt.want {
				t.Errorf("%s was not found", class)
			}
		})
	}
}

// TestExploreLegacy: with auto_failback legacy two new nodes are as safe as with on
// and off; its only own finding is a group that cannot be started.
func TestExploreLegacy(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*engine.Config)
	}{
		{"two links", func(*engine.Config) {}},
		{"one link", func(c *engine.Config) { c.Links = c.Links[:1] }},
		{"ping node", func(c *engine.Config) { c.Links, c.PingNodes = c.Links[:1], []engine.PingNode{{Name: "gw"}} }},
		{"fencing", func(c *engine.Config) { c.Links, c.Stonith, c.FenceDelay = c.Links[:1], true, 20*time.Second }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := explored(t, testPair(func(c *engine.Config) {
				c.Failback = cluster.FailbackLegacy
				c.Groups = append(c.Groups, cluster.Group{Key: "db", Node: "beta", Resources: []string{"db"}})
				tt.change(c)
			}), 1)
			for _, f := range x.Findings {
				if !f.Known || f.Class == string(ClassLegacy) {
					t.Errorf("%s: %v %v", f.Title(), f.Text, f.Way)
				}
			}
		})
	}
}

// TestExploreLifetime: where the kernel takes the addresses of a killed daemon before
// the other node takes them there is no window, unless the group is more than that.
func TestExploreLifetime(t *testing.T) {
	for _, tt := range []struct {
		name      string
		gone      time.Duration
		addresses []string
		window    bool
	}{
		{"none", 0, []string{"web"}, true},
		{"gone in time", 9750 * time.Millisecond, []string{"web"}, false},
		{"gone too late", 11 * time.Second, []string{"web"}, true},
		{"not only addresses", 9750 * time.Millisecond, nil, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := testPair(nil)
			p.Gone, p.Addresses = tt.gone, tt.addresses
			x := explored(t, p, 1)
			if f := x.find(TwoOwners, string(ClassKill)); (f != nil) != tt.window {
				t.Errorf("found %v, want it: %v", f, tt.window)
			}
			for _, f := range x.Findings {
				if !f.Known {
					t.Errorf("%s: %v", f.Title(), f.Text)
				}
			}
		})
	}
}

// TestExplorePlanted breaks rules on purpose: the exploration finds each by its
// shortest way, and the same pair without the breach has no such finding (that
// is TestExplore).
func TestExplorePlanted(t *testing.T) {
	for _, tt := range []struct {
		name    string
		planted planted
		rule    string
		way     []string
	}{
		{"a release reported before it is done", planted{releaseLate: true}, "two owners", []string{"alpha is stopped in order (heartbeat -k)"}},
		{
			"a node held for dead after half the deadtime", planted{deadtime: map[string]time.Duration{"alpha": 5 * time.Second}}, "two owners",
			[]string{"the machine alpha freezes, clock and all"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := testPair(nil)
			p.planted = tt.planted
			x := explored(t, p, 1)
			f := x.find(Broken, tt.rule)
			if f == nil {
				t.Fatalf("not found: %v", x.Findings)
			}
			if f.Known || f.Faults != 1 {
				t.Errorf("known %v, %d faults; want an unexplained one by one fault", f.Known, f.Faults)
			}
			if got := f.faults(); !slices.Equal(got, tt.way) {
				t.Errorf("the way is %q, want %q", got, tt.way)
			}
		})
	}
}

// TestExploreSame explores twice: everything follows from the configuration.
func TestExploreSame(t *testing.T) {
	text := func() string {
		out, err := json.Marshal(explored(t, testPair(func(c *engine.Config) { c.Links = c.Links[:1] }), 1))
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	if one, two := text(), text(); one != two {
		t.Errorf("two explorations differ:\n%s\n%s", one, two)
	}
}

// TestExploreLimit: what is not covered is said.
func TestExploreLimit(t *testing.T) {
	x := Explore(t.Context(), testPair(nil), Options{Faults: 2, Limit: 10})
	if x.Left == 0 || x.LeftFaults > 1 {
		t.Errorf("%d states left, of %d faults; want some, of the first fault or none", x.Left, x.LeftFaults)
	}
}

// TestClone: a clone lives on as its original does, and neither disturbs the
// other.
func TestClone(t *testing.T) {
	p := testPair(func(c *engine.Config) { c.IPFail, c.PingNodes = true, []engine.PingNode{{Name: "gw"}} })
	w := p.switchedOn()
	for w.now < 11*time.Second && w.advance(11*time.Second) {
	}
	for range 30 {
		w.advance(time.Hour) // in the middle of a start
	}
	c := w.clone()
	if w.fingerprint() != c.fingerprint() {
		t.Fatal("a clone has another fingerprint")
	}
	w.inject(Fault{Kind: PowerOff, Node: "alpha"})
	w.rest(nil, nil)
	d := c.clone()
	for _, x := range []*world{c, d} {
		x.inject(Fault{Kind: PowerOff, Node: "alpha"})
		x.rest(nil, nil)
		if x.fingerprint() != w.fingerprint() || x.now != w.now {
			t.Errorf("a clone came to another state, at %v; the original at %v", x.now, w.now)
		}
	}
}

// deeds are what is done to a pair, and when.
type deeds []struct {
	at     time.Duration
	fault  Fault
	repair bool
}

// live lets the pair live through deeds and come to rest.
func (d deeds) live(t *testing.T, p Pair) *world {
	t.Helper()
	w := p.switchedOn()
	for _, x := range d {
		for w.advance(x.at) {
		}
		if x.repair {
			w.repair(x.fault)
		} else {
			w.inject(x.fault)
		}
	}
	if !w.rest(nil, nil) {
		t.Error("the pair does not come to rest")
	}
	if f := w.result.Failure; f != nil {
		t.Error(f)
	}
	return w
}

// TestWays are ways to states that should not be, as exploration has found them.
func TestWays(t *testing.T) {
	freeze, stall := Fault{Kind: Freeze, Node: "alpha"}, Fault{Kind: Stall, Node: "alpha"}
	const ms = time.Millisecond
	for _, tt := range []struct {
		name   string
		change func(*engine.Config)
		deeds  deeds
		owners string
	}{
		{
			name:   "a machine that froze before its first start starts nothing that the other one has taken",
			deeds:  deeds{{10375 * ms, freeze, false}, {21375 * ms, freeze, true}},
			owners: "web: alpha; ",
		},
		{
			name:   "nor does it on an old claim that comes again",
			deeds:  deeds{{6375 * ms, freeze, false}, {16375 * ms, freeze, true}},
			owners: "web: alpha; ",
		},
		{
			name:   "a claim that was given up for nothing is made again",
			deeds:  deeds{{10375 * ms, freeze, false}, {21375 * ms, freeze, true}, {22001 * ms, stall, false}, {32 * time.Second, stall, true}},
			owners: "web: alpha; ",
		},
		{
			name: "nor what it could not start",
			deeds: deeds{
				{11500 * ms, Fault{Kind: StartFails, Node: "alpha", Group: "web"}, false}, {13003 * ms, freeze, false}, {35003 * ms, freeze, true},
			},
			owners: "web: beta; ",
		},
		{
			name: "who has been told to stop takes nothing first",
			deeds: deeds{
				{503 * ms, Fault{Kind: Stop, Node: "alpha"}, false}, {504 * ms, Fault{Kind: Stop, Node: "alpha"}, true},
				{10375 * ms, stall, false}, {63 * time.Second, stall, true},
			},
			owners: "web: alpha; ",
		},
		{
			name:   "a stop that waits for the other node ends when that one is dead",
			deeds:  deeds{{506 * ms, Fault{Kind: Stop, Node: "beta"}, false}, {10375 * ms, Fault{Kind: PowerOff, Node: "alpha"}, false}},
			owners: "web:; ",
		},
		{
			name:   "a stop during a reset ends after it",
			change: func(c *engine.Config) { c.Links, c.Stonith, c.FenceDelay = c.Links[:1], true, 10*time.Second },
			deeds: deeds{
				{30 * time.Second, Fault{Kind: PowerOff, Node: "alpha"}, false}, {52 * time.Second, Fault{Kind: Stop, Node: "beta"}, false},
			},
			owners: "web:; ",
		},
		{
			name:   "a reset of which a paused machine learns late is not held against who has started again since",
			change: func(c *engine.Config) { c.Stonith, c.FenceDelay = true, 0 },
			deeds: deeds{
				{10375 * ms, stall, false}, {21 * time.Second, stall, true}, {21 * time.Second, Fault{Kind: Freeze, Node: "beta"}, false},
				{66 * time.Second, Fault{Kind: Freeze, Node: "beta"}, true},
			},
			owners: "web: alpha; ",
		},
		{
			name:   "what is let go of for a node that dies at once is taken again",
			change: func(c *engine.Config) { c.Links, c.Failback = c.Links[:1], cluster.FailbackOff },
			deeds: deeds{
				{506 * ms, Fault{Kind: Partition, Node: "alpha", Peer: "beta", Link: "eth0"}, false},
				{12501 * ms, Fault{Kind: Partition, Node: "alpha", Peer: "beta", Link: "eth0"}, true},
				{12504 * ms, Fault{Kind: PowerOff, Node: "alpha"}, false},
			},
			owners: "web: beta; ",
		},
		{
			name: "what could not be started is offered again when nobody took it",
			deeds: deeds{
				{11500 * ms, Fault{Kind: StartFails, Node: "alpha", Group: "web"}, false},
				{42375 * ms, Fault{Kind: PowerOff, Node: "beta"}, false}, {51375 * ms, Fault{Kind: PowerOff, Node: "beta"}, true},
			},
			owners: "web: beta; ",
		},
		{
			name: "a word of a standby that is over does not answer in the next one",
			deeds: deeds{
				{503 * ms, Fault{Kind: PowerOff, Node: "alpha"}, false}, {33375 * ms, Fault{Kind: PowerOff, Node: "alpha"}, true},
				{34507 * ms, freeze, false}, {46507 * ms, freeze, true},
			},
			owners: "web: alpha; ",
		},
		{
			name:   "of two requests for a standby that cross one counts",
			change: func(c *engine.Config) { c.Links = c.Links[:1] },
			deeds: deeds{
				{0, Fault{Kind: Partition, Node: "alpha", Peer: "beta", Link: "eth0"}, false},
				{21003 * ms, Fault{Kind: Partition, Node: "alpha", Peer: "beta", Link: "eth0"}, true},
				{31503 * ms, Fault{Kind: Standby, Node: "beta", Set: cluster.All}, false},
			},
			owners: "web: alpha; ",
		},
		{
			name: "what could be stopped at last is not started again while the other node still stops it",
			change: func(c *engine.Config) {
				c.Links, c.IPFail, c.PingNodes = c.Links[:1], true, []engine.PingNode{{Name: "gw"}}
			},
			deeds: deeds{
				{506 * ms, Fault{Kind: Cut, Node: "alpha", Peer: "beta", Link: "eth0"}, false},
				{16501 * ms, Fault{Kind: StopFails, Node: "alpha", Group: "web"}, false},
				{264375 * ms, Fault{Kind: StopFails, Node: "alpha", Group: "web"}, true},
				{470375 * ms, Fault{Kind: Cut, Node: "alpha", Peer: "beta", Link: "eth0"}, true},
			},
			owners: "web: alpha; ",
		},
		{
			name:   "who was still starting, since it was not heard, does not reset at the time of the other's reset",
			change: func(c *engine.Config) { c.Links, c.Stonith, c.FenceDelay = c.Links[:1], true, 20*time.Second },
			deeds: deeds{
				{503 * ms, Fault{Kind: Cut, Node: "beta", Peer: "alpha", Link: "eth0"}, false},
				{12375 * ms, Fault{Kind: Cut, Node: "beta", Peer: "alpha", Link: "eth0"}, true},
				{12375 * ms, Fault{Kind: Partition, Node: "alpha", Peer: "beta", Link: "eth0"}, false},
				{60 * time.Second, Fault{Kind: Partition, Node: "alpha", Peer: "beta", Link: "eth0"}, true},
			},
			owners: "web: alpha; ",
		},
		{
			name:   "what nobody held a node may have taken before the links were cut: it is reset first",
			change: func(c *engine.Config) { c.Links, c.Stonith, c.FenceDelay = c.Links[:1], true, 20*time.Second },
			deeds: deeds{
				{506 * ms, Fault{Kind: Partition, Node: "alpha", Peer: "beta", Link: "eth0"}, false},
				{142375 * ms, Fault{Kind: Partition, Node: "alpha", Peer: "beta", Link: "eth0"}, true},
				{164009 * ms, Fault{Kind: Partition, Node: "alpha", Peer: "beta", Link: "eth0"}, false},
				{180 * time.Second, Fault{Kind: Partition, Node: "alpha", Peer: "beta", Link: "eth0"}, true},
			},
			owners: "web: alpha; ",
		},
		{
			name:   "who was still starting when the links were cut is reset like anybody",
			change: func(c *engine.Config) { c.Links, c.Stonith, c.FenceDelay = c.Links[:1], true, 10*time.Second },
			deeds: deeds{
				{10375 * ms, Fault{Kind: Partition, Node: "alpha", Peer: "beta", Link: "eth0"}, false},
				{70 * time.Second, Fault{Kind: Partition, Node: "alpha", Peer: "beta", Link: "eth0"}, true},
			},
			owners: "web: alpha; ",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := tt.deeds.live(t, testPair(tt.change))
			if got := w.owners(); got != tt.owners {
				t.Errorf("owners %q, want %q", got, tt.owners)
			}
			for _, n := range w.nodes {
				if n.w.suffers(n, Stop) && n.engine != nil {
					t.Errorf("%s has not ended", n.name)
				}
			}
		})
	}
}

// TestPingNode: the world's ping nodes send back what they get, and ipfail moves
// the groups away from a node that loses them.
func TestPingNode(t *testing.T) {
	p := testPair(func(c *engine.Config) { c.IPFail, c.PingNodes = true, []engine.PingNode{{Name: "gw"}} })
	lost := Fault{Kind: PingCut, Node: "alpha", Link: "gw"}
	if got := (deeds{{30 * time.Second, lost, false}}).live(t, p).owners(); got != "web: beta; " {
		t.Errorf("owners %q, want beta", got)
	}
	if got := (deeds{{30 * time.Second, Fault{Kind: PingCut, Link: "gw"}, false}}).live(t, p).owners(); got != "web: alpha; " {
		t.Errorf("lost by both: owners %q, want alpha", got)
	}
}

// TestPlan: the times are the configuration's, and two owners are told with what
// would close them.
func TestPlan(t *testing.T) {
	plan := Plan(testPair(func(c *engine.Config) { c.Deadtime, c.Keepalive = 30*time.Second, 2*time.Second }))
	scene := func(title string) *Scene {
		i := slices.IndexFunc(plan.Scenes, func(s Scene) bool { return strings.HasPrefix(s.Title, title) })
		if i < 0 {
			t.Fatalf("no scene %q", title)
		}
		return &plan.Scenes[i]
	}
	seconds := func(s *Span) [2]float64 {
		if s == nil {
			return [2]float64{}
		}
		return [2]float64{time.Duration(s.Least).Round(100 * time.Millisecond).Seconds(), time.Duration(s.Most).Round(100 * time.Millisecond).Seconds()}
	}
	dies := scene("alpha dies")
	if f := dies.Groups[0]; !slices.Equal(f.After, []string{"beta"}) || seconds(f.Outage) != [2]float64{29, 31} || seconds(dies.Dead) != [2]float64{28, 30} {
		t.Errorf("alpha dies: %+v, outage %v, dead %v", f, seconds(f.Outage), seconds(dies.Dead))
	}
	cut := scene("all 2 links die").Groups[0]
	if cut.Class != ClassPartition || !cut.Lasts || len(cut.After) != 2 || len(cut.Remedies) != 3 {
		t.Errorf("all links die: %+v", cut)
	}
	if f := scene("link eth0 dies").Groups[0]; f.Outage != nil || f.Class != "" || !slices.Equal(f.After, []string{"alpha"}) {
		t.Errorf("one link dies: %+v", f)
	}
}

// TestCloneSharesNothing: a field by which two worlds could disturb each other is
// known to clone, or shared on purpose.
func TestCloneSharesNothing(t *testing.T) {
	for _, tt := range []struct {
		of     any
		shared []string // never changed, or of the simulator's own loop
		cloned []string
	}{
		{world{}, []string{"config", "ring", "bypass", "agenda", "replays", "trace", "addresses"},
			[]string{"scenario", "source", "random", "net", "nodes", "active", "results", "resets", "check", "result", "watch"}},
		{node{}, []string{"config", "record", "writes"},
			[]string{"w", "groups", "engine", "mail", "pending", "scripts", "pongs", "held", "orders", "booting", "heard", "sent"}},
		{resource{}, nil, []string{"act", "waiting"}},
		{job{}, []string{"Job"}, []string{"results", "skip"}},
		{action{}, nil, []string{"job"}},
	} {
		typ := reflect.TypeOf(tt.of)
		for i := range typ.NumField() {
			f := typ.Field(i)
			if refers(f.Type) && !slices.Contains(tt.shared, f.Name) && !slices.Contains(tt.cloned, f.Name) {
				t.Errorf("%s.%s is not known to clone: copy it in cluster/sim/pair.go, and put it into the fingerprint if it decides anything", typ.Name(), f.Name)
			}
		}
	}
}

// refers reports whether copies of a value share memory.
func refers(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map, reflect.Interface, reflect.Func, reflect.Chan:
		return true
	case reflect.Struct:
		for i := range t.NumField() {
			if refers(t.Field(i).Type) {
				return true
			}
		}
	case reflect.Array:
		return refers(t.Elem())
	}
	return false
}
