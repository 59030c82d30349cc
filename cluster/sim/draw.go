package sim

import (
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"heartbeat/cluster"
	"heartbeat/transport/memory"
)

// Draw makes a scenario from a seed: a cluster of two nodes and up to a dozen
// faults within some minutes.
func Draw(seed uint64) Scenario {
	d := drawer{rand.New(rand.NewPCG(seed, 0x64726177)), Scenario{Seed: seed, Quiet: time.Minute}}
	d.cluster()
	d.s.Span = time.Duration(5+d.r.IntN(15)) * time.Minute
	for range 1 + d.r.IntN(12) {
		d.fault(commonKinds)
	}
	d.r = rand.New(rand.NewPCG(seed, 0x72617265))
	d.extend()
	d.s.Cluster.StopReboot = rand.New(rand.NewPCG(seed, 0x7265626f6f74)).IntN(12) == 0
	for range d.r.IntN(4) {
		d.fault(rareKinds)
	}
	slices.SortStableFunc(d.s.Faults, func(a, b Fault) int { return int(a.At - b.At) })
	return d.s
}

type drawer struct {
	r *rand.Rand
	s Scenario
}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

// between draws a duration, as often from each order of magnitude.
func (d *drawer) between(low, high time.Duration) time.Duration {
	x := math.Log(float64(low)) + d.r.Float64()*(math.Log(float64(high))-math.Log(float64(low)))
	return time.Duration(math.Exp(x)).Truncate(time.Millisecond)
}

func (d *drawer) cluster() {
	r := d.r
	c := Cluster{Nodes: []string{"node1", "node2"}, Links: []string{"eth0", "eth1"}}
	c.Keepalive = pick(r, 500*time.Millisecond, time.Second, time.Second, 2*time.Second, 2*time.Second, 2*time.Second)
	c.Deadtime = c.Keepalive * time.Duration(4+r.IntN(12))
	c.Warntime = c.Deadtime / 2
	c.Initdead = max(c.Deadtime, 12*time.Second) * time.Duration(1+r.IntN(2))
	c.Failback = pick(r, cluster.FailbackOn, cluster.FailbackOn, cluster.FailbackOff, cluster.FailbackLegacy)
	c.Old = r.IntN(3) == 0
	c.Method = pick(r, "crc", "crc", "md5", "sha1")
	c.InnerAuth = r.IntN(8) == 0
	if r.IntN(6) == 0 {
		c.Links = c.Links[:1]
	}
	c.Groups = []cluster.Group{{Key: "a", Node: "node1"}, {Key: "b", Node: "node2"}}
	if r.IntN(2) == 0 {
		c.Groups = append(c.Groups, cluster.Group{Key: "c", Node: "node1"})
	}
	if r.IntN(8) == 0 {
		c.Groups = c.Groups[:1]
	}
	for i := range c.Groups {
		c.Groups[i].Resources = []string{c.Groups[i].Key}
	}
	c.Start = d.between(5*time.Millisecond, 5*time.Second)
	c.Stop = d.between(5*time.Millisecond, 3*time.Second)
	c.Delay = d.between(100*time.Microsecond, 20*time.Millisecond)
	c.Jitter = c.Delay / 2
	// By the seed itself, so that the rest of a known seed stays what it was.
	c.Conflict = [...]cluster.Conflict{cluster.ConflictOff, cluster.ConflictWarn, cluster.ConflictRefuse}[d.s.Seed%3]
	for range c.Nodes {
		c.Drift = append(c.Drift, int64(r.IntN(2*maxDrift/2)-maxDrift/2))
	}
	d.s.Cluster = c
}

// extend gives some clusters what most do not have.
func (d *drawer) extend() {
	c := &d.s.Cluster
	switch d.r.IntN(12) {
	case 0, 1:
		c.FenceTakes = time.Duration(1+d.r.IntN(3)) * time.Second
		c.FenceDelay = c.FenceTakes + c.Keepalive + 3*time.Second
	case 2, 3:
		c.PingNodes = []string{"ping1", "ping2"}[:1+d.r.IntN(2)]
	case 4:
		if len(c.Groups) < 2 {
			return // node2 would be one too
		}
		c.Nodes, c.Bystander = append(c.Nodes, "node3"), "node3"
	}
}

func (d *drawer) fault(kinds []Kind) {
	r, c := d.r, d.s.Cluster
	f := Fault{Kind: pick(r, kinds...)}
	f.At = time.Duration(r.Int64N(int64(d.s.Span))).Truncate(time.Millisecond)
	if n := len(d.s.Faults); n > 0 && r.IntN(2) == 0 {
		// The worst moment is soon after another fault, or after its end.
		g := d.s.Faults[r.IntN(n)]
		f.At = pick(r, g.At, g.End()) + d.between(time.Millisecond, 2*c.Deadtime+20*time.Second)
	}
	a, b := c.Nodes[0], c.Nodes[1]
	if r.IntN(2) == 0 {
		a, b = b, a
	}
	if f.Kind == PingCut && len(c.PingNodes) == 0 || f.Kind == FenceFails && c.FenceTakes == 0 {
		return
	}
	if c.Bystander != "" && r.IntN(3) == 0 {
		switch f.Kind {
		case Standby, Takeover, StartFails, StopFails, Hang, Slow, FenceFails:
		default:
			a = c.Bystander
		}
	}
	link := pick(r, append([]string{"", ""}, c.Links...)...)
	long := 3*c.Deadtime + 20*time.Second
	switch f.Kind {
	case Cut, Partition:
		f.Node, f.Peer, f.Link = a, b, link
		f.For = d.between(100*time.Millisecond, long)
	case Noise:
		f.Link = link
		f.For = d.between(time.Second, 2*long)
		f.Noise = memory.Faults{
			Loss: pick(r, 0, 0.1, 0.3, 0.6, 0.9), Duplicate: pick(r, 0, 0.2), Corrupt: pick(r, 0, 0.05, 0.3), Reorder: pick(r, 0, 0.3),
			Jitter: pick(r, 0, c.Keepalive/2), ReorderBy: pick(r, 0, c.Keepalive),
		}
	case PingCut:
		f.Node, f.Link = a, pick(r, c.PingNodes...)
		f.For = d.between(time.Second, long)
	case FenceFails:
		f.Node = a
		f.For = d.between(time.Second, long)
	case Crash:
		f.Node, f.Factor = a, r.IntN(20)
		f.For = d.between(time.Second, long)
	case Stall, Freeze, Suspend:
		f.Node = a
		f.For = d.between(20*time.Millisecond, long)
	case Kill:
		f.Node = a
		f.For = d.between(100*time.Millisecond, long)
	case PowerOff:
		f.Node = a
		f.For = d.between(2*time.Second, 2*long)
		f.Disk = pick(r, DiskKept, DiskKept, DiskKept, DiskLost, DiskStale)
	case Stop:
		f.Node = a
		f.For = d.between(2*time.Second, 2*long)
	case Standby, Takeover:
		f.Node, f.Set = a, pick(r, cluster.All, cluster.Local, cluster.Foreign)
	case StartFails, StopFails, Hang:
		f.Node, f.Group = a, pick(r, c.Groups...).Key
		f.For = d.between(time.Second, 2*time.Minute)
	case Slow:
		f.Node, f.Group, f.Factor = a, pick(r, c.Groups...).Key, 2+r.IntN(4)
		f.For = d.between(time.Second, 2*time.Minute)
	case Replay, Reexec, WallClock:
		f.Node = a
	}
	if f.At >= d.s.Span {
		f.At = d.s.Span - time.Second
	}
	f.For = min(f.For, d.s.Span-f.At)
	d.s.Faults = append(d.s.Faults, f)
}
