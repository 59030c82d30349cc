package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"time"

	"heartbeat/integration/lab"
	"heartbeat/integration/probe"
)

// cell is one kind of measurement.
type cell struct {
	name, what string
	limit      time.Duration
	run        func(context.Context, *bench) error
}

// The names of samples; a cell may yield several.
const (
	planned   = "planned"    // ms
	crash     = "crash"      // ms beyond detection
	planned99 = "planned100" // ms, worst address
	crashMany = "crash500"   // ms beyond detection, worst address
	deadtime  = "deadtime"   // ms; More says how often a peer was wrongly dead
	cpu1s     = "cpu1s"      // s per hour, owner
	cpu20ms   = "cpu20ms"    // s per hour, owner
	rss       = "rss"        // bytes, owner; More has pss
)

var allCells = []cell{
	{"single", "one address, keepalive 1 s, deadtime 4 s: planned standby and crash of the owner", time.Hour, runSingle},
	{"many-planned", "100 addresses, planned standby", time.Hour, runHundred},
	{"many-crash", "many addresses, crash of the owner", time.Hour, runMany},
	{"deadtime", "tightest deadtime without a false death, idle and with every core busy", time.Hour, runDeadtime},
	{"cost", "processor time and memory at keepalive 1 s and 20 ms", time.Hour, runCost},
}

func cellNames() []string {
	var out []string
	for _, c := range allCells {
		out = append(out, c.name)
	}
	return out
}

// running is a cluster at work.
type running struct {
	*lab.Lab
	drv lab.Driver
	cfg lab.Cluster
}

const (
	changeLimit = 10 * time.Minute // 500 addresses by shell scripts
	settleLimit = 3 * time.Minute
)

// up builds a lab and starts the program on both nodes, n1 owning.
func up(ctx context.Context, name string, drv lab.Driver, cfg lab.Cluster) (*running, error) {
	l, err := lab.New(ctx, name)
	if err != nil {
		return nil, err
	}
	r := &running{l, drv, cfg}
	if err := r.begin(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("%w\nthe end of n1's log:\n%s", err, l.N1.Tail(drv.Log(), 15)), l.Close())
	}
	return r, nil
}

func (r *running) begin(ctx context.Context) error {
	for _, n := range r.Nodes() {
		if err := r.drv.Configure(n, r.cfg); err != nil {
			return err
		}
	}
	for _, n := range r.Nodes() {
		if err := r.drv.Start(ctx, n); err != nil {
			return err
		}
	}
	return r.quiet(ctx, r.N1)
}

// quiet waits until a node owns everything, nothing is pending, and some
// keepalives have passed; it ends at a random phase of their interval.
func (r *running) quiet(ctx context.Context, owner *lab.Node) error {
	if err := r.WaitOwner(ctx, owner, changeLimit, r.cfg.Addrs...); err != nil {
		return err
	}
	for _, n := range r.Nodes() {
		if !n.Running() {
			continue
		}
		err := lab.Wait(ctx, settleLimit, n.Name+" is settled", func() (bool, string) { return r.drv.Settled(ctx, n) })
		if err != nil {
			return err
		}
	}
	return pass(ctx, time.Second+2*r.cfg.Keepalive+rand.N(r.cfg.Keepalive))
}

// pass lets time go by: the window of a measurement, or its random phase.
func pass(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// after is how long the client goes on probing when a change is complete.
const after = 1500 * time.Millisecond

// planned orders the owner to hand over and returns what the client saw.
func (r *running) planned(ctx context.Context, from *lab.Node, interval time.Duration) (*probe.Result, time.Time, error) {
	p, err := r.Probe(ctx, lab.ProbeOptions{Addrs: r.cfg.Addrs, Interval: interval, Nodes: len(r.cfg.Addrs) == 1})
	if err != nil {
		return nil, time.Time{}, err
	}
	if err := pass(ctx, rand.N(r.cfg.Keepalive)); err != nil {
		return nil, time.Time{}, err
	}
	t0 := time.Now()
	if from == r.N1 {
		err = r.drv.SwitchOver(ctx, from)
	} else {
		err = r.drv.SwitchBack(ctx, from)
	}
	if err == nil {
		err = r.WaitOwner(ctx, from.Peer(), changeLimit, r.cfg.Addrs...)
	}
	if err == nil {
		err = pass(ctx, after)
	}
	res, perr := p.Stop()
	return res, t0, errors.Join(err, perr)
}

// crashed is what a crash of the owner n1 showed.
type crashed struct {
	res    *probe.Result
	t0     time.Time
	beyond time.Duration // from last keepalive + detection to the worst address's answer
	// announced is from there to the last address's first announcement, and how
	// many were announced: the prober asks for many addresses seldom, the
	// announcements carry the kernel's stamps.
	announced time.Duration
	addresses int
	age       time.Duration // of the last keepalive when the power went
}

func (r *running) crash(ctx context.Context, interval time.Duration) (*crashed, error) {
	capture, err := r.Capture(r.N1, lab.HeartbeatLink, r.drv.Keepalive)
	if err != nil {
		return nil, err
	}
	defer capture.Close()
	p, err := r.Probe(ctx, lab.ProbeOptions{Addrs: r.cfg.Addrs, Interval: interval, Nodes: len(r.cfg.Addrs) == 1})
	if err != nil {
		return nil, err
	}
	err = lab.Wait(ctx, settleLimit, "n1 sends a keepalive", func() (bool, string) { return len(capture.Times()) > 0, "none" })
	if err != nil {
		return nil, err
	}
	// Between one and two intervals later: some keepalive is in the capture,
	// and the phase is random.
	if err := pass(ctx, r.cfg.Keepalive*5/4+rand.N(r.cfg.Keepalive)); err != nil {
		return nil, err
	}
	c := &crashed{t0: time.Now()}
	if err := r.N1.Crash(); err != nil {
		return nil, err
	}
	frames := capture.Times()
	if len(frames) == 0 {
		return nil, errors.New("no keepalive of the owner was captured before the crash")
	}
	last := frames[len(frames)-1]
	c.age = c.t0.Sub(last)
	err = r.WaitOwner(ctx, r.N2, changeLimit, r.cfg.Addrs...)
	if err == nil {
		err = pass(ctx, after)
	}
	var perr error
	if c.res, perr = p.Stop(); err != nil || perr != nil {
		return nil, errors.Join(err, perr)
	}
	out := c.res.Outage(c.t0)
	if out.Open > 0 {
		return nil, fmt.Errorf("%d addresses were silent to the end", out.Open)
	}
	detected := last.Add(r.drv.Detection(r.cfg))
	c.beyond = out.Back.Sub(detected)
	var at time.Time
	if at, c.addresses = c.res.FirstAnnounced(c.t0); c.addresses > 0 {
		c.announced = at.Sub(detected)
	}
	return c, nil
}

// back boots n1 again and waits until it owns everything.
func (r *running) back(ctx context.Context) error {
	if err := r.N1.Boot(ctx); err != nil {
		return err
	}
	if err := r.drv.Start(ctx, r.N1); err != nil {
		return err
	}
	return r.quiet(ctx, r.N1)
}

func msOf(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func facts(res *probe.Result, t0 time.Time) map[string]float64 {
	out := res.Outage(t0)
	return map[string]float64{"outage_ms": msOf(out.Worst), "median_ms": msOf(out.Median), "open": float64(out.Open),
		"dual_ms": msOf(res.Dual()), "garps": float64(res.Announced(t0)), "stall_ms": msOf(res.Stall())}
}

// classic are the timings of the comparison: keepalived has no deadtime.
func classic(addrs int) lab.Cluster {
	return lab.Cluster{Keepalive: time.Second, Deadtime: 4 * time.Second, Addrs: lab.ServiceAddrs(addrs)}
}

// together brings one cluster of each program up at once. Programs that fail
// are reported and left out.
func (b *bench) together(ctx context.Context, cellName string, drivers []lab.Driver, cfg lab.Cluster) []*running {
	out := make([]*running, len(drivers))
	errs := make([]error, len(drivers))
	var wg sync.WaitGroup
	for i, d := range drivers {
		wg.Go(func() { out[i], errs[i] = up(ctx, fmt.Sprintf("%s-%s", cellName, d.Name()), d, cfg) })
	}
	wg.Wait()
	var ok []*running
	for i, err := range errs {
		if err != nil {
			b.failed(cellName, drivers[i].Name(), err)
			continue
		}
		ok = append(ok, out[i])
	}
	return ok
}

func closeAll(rs []*running) {
	for _, r := range rs {
		if err := r.Close(); err != nil {
			fmt.Println("close:", err)
		}
	}
}

func runSingle(ctx context.Context, b *bench) error {
	rs := b.together(ctx, "single", b.drivers, classic(1))
	defer closeAll(rs)
	dead := map[*running]bool{}
	for rep := 1; rep <= b.reps; rep++ {
		for _, r := range rs {
			if dead[r] || ctx.Err() != nil {
				continue
			}
			if err := r.singleOnce(ctx, b, rep); err != nil {
				dead[r] = true
				b.failed("single", r.drv.Name(), err)
			}
		}
	}
	return ctx.Err()
}

func (r *running) singleOnce(ctx context.Context, b *bench, rep int) error {
	for _, from := range []*lab.Node{r.N1, r.N2} {
		res, t0, err := r.planned(ctx, from, time.Millisecond)
		if err != nil {
			return fmt.Errorf("planned standby of %s: %w", from.Name, err)
		}
		more := facts(res, t0)
		if took, ok := res.Takeover(from.Peer().Name, t0); ok {
			more["takeover_ms"] = msOf(took)
		}
		b.sample(Sample{planned, r.drv.Name(), rep, more["outage_ms"], more})
		if err := r.quiet(ctx, from.Peer()); err != nil {
			return err
		}
	}
	c, err := r.crash(ctx, time.Millisecond)
	if err != nil {
		return fmt.Errorf("crash: %w", err)
	}
	more := facts(c.res, c.t0)
	more["age_ms"] = msOf(c.age)
	b.sample(Sample{crash, r.drv.Name(), rep, msOf(c.beyond), more})
	return r.back(ctx)
}

// hundredInterval and manyInterval make ten thousand requests a second, a fifth
// of a core: more would slow down what is measured.
const (
	hundredInterval = 10 * time.Millisecond
	manyInterval    = 50 * time.Millisecond
)

func runHundred(ctx context.Context, b *bench) error {
	rs := b.together(ctx, "hundred", b.drivers, classic(100))
	defer closeAll(rs)
	dead := map[*running]bool{}
	for rep := 1; rep <= b.reps; rep++ {
		for _, r := range rs {
			if dead[r] || ctx.Err() != nil {
				continue
			}
			from := r.N1
			if rep%2 == 0 {
				from = r.N2
			}
			res, t0, err := r.planned(ctx, from, hundredInterval)
			if err == nil {
				more := facts(res, t0)
				b.sample(Sample{planned99, r.drv.Name(), rep, more["outage_ms"], more})
				err = r.quiet(ctx, from.Peer())
			}
			if err != nil {
				dead[r] = true
				b.failed("many-planned", r.drv.Name(), err)
			}
		}
	}
	return ctx.Err()
}

// runMany has one lab at a time: the kernel's neighbour table is shared by all
// namespaces and holds 1024 entries.
func runMany(ctx context.Context, b *bench) error {
	for _, d := range b.drivers {
		reps := b.reps
		if d.Name() == "heartbeat" {
			reps = b.slowReps
		}
		err := func() error {
			r, err := up(ctx, "many-"+d.Name(), d, classic(b.many))
			if err != nil {
				return err
			}
			defer closeAll([]*running{r})
			for rep := 1; rep <= reps; rep++ {
				c, err := r.crash(ctx, manyInterval)
				if err != nil {
					return err
				}
				more := facts(c.res, c.t0)
				more["age_ms"], more["addresses"] = msOf(c.age), float64(b.many)
				more["announced"], more["announced_ms"] = float64(c.addresses), msOf(c.announced)
				b.sample(Sample{crashMany, d.Name(), rep, msOf(c.beyond), more})
				if rep < reps {
					if err := r.back(ctx); err != nil {
						return err
					}
				}
			}
			return nil
		}()
		if err != nil {
			b.failed("many-crash", d.Name(), err)
		}
	}
	return ctx.Err()
}

// step is one setting whose false deaths are counted.
type step struct {
	drv                 lab.Driver
	keepalive, deadtime time.Duration
}

// steps are tried per program; keepalived's dead time follows from its advert
// interval.
func (b *bench) steps() []step {
	const ms = time.Millisecond
	var out []step
	for _, d := range b.drivers {
		switch d.Name() {
		case "ours":
			out = append(out, step{d, 5 * ms, 25 * ms}, step{d, 10 * ms, 40 * ms}, step{d, 10 * ms, 50 * ms}, step{d, 20 * ms, 80 * ms})
		case "heartbeat":
			out = append(out, step{d, 10 * ms, 50 * ms}, step{d, 20 * ms, 60 * ms}, step{d, 20 * ms, 80 * ms}, step{d, 20 * ms, 100 * ms})
		case "keepalived":
			d = &lab.Keepalived{Realtime: true}
			out = append(out, step{d, 10 * ms, 0}, step{d, 20 * ms, 0}, step{d, 50 * ms, 0})
		}
	}
	return out
}

// labsAtOnce bounds what runs beside a false-death measurement.
const labsAtOnce = 4

func runDeadtime(ctx context.Context, b *bench) error {
	steps := b.steps()
	// Deal them out so that each batch has some of each program.
	batches := make([][]step, (len(steps)+labsAtOnce-1)/labsAtOnce)
	for i, s := range steps {
		k := i % len(batches)
		batches[k] = append(batches[k], s)
	}
	for i, batch := range batches {
		b.say("  batch %d of %d: %v idle, %v with every core busy", i+1, len(batches), b.windows, b.windows)
		if err := b.falseDeaths(ctx, batch); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) falseDeaths(ctx context.Context, batch []step) error {
	var rs []*running
	for _, s := range batch {
		cfg := lab.Cluster{Keepalive: s.keepalive, Deadtime: s.deadtime, Addrs: lab.ServiceAddrs(1)}
		r, err := up(ctx, fmt.Sprintf("dead-%s-%d-%d", s.drv.Name(), s.keepalive.Milliseconds(), s.deadtime.Milliseconds()), s.drv, cfg)
		if err != nil {
			b.failed("deadtime", fmt.Sprintf("%s %v/%v", s.drv.Name(), s.keepalive, s.drv.Detection(cfg)), err)
			continue
		}
		rs = append(rs, r)
	}
	defer closeAll(rs)
	more := map[*running]map[string]float64{}
	for _, r := range rs {
		more[r] = map[string]float64{"keepalive_ms": msOf(r.cfg.Keepalive)}
	}
	for _, window := range []string{"idle", "busy"} {
		before := map[*running]int{}
		probers := map[*running]*lab.Prober{}
		for _, r := range rs {
			before[r] = r.drv.PeerDeaths(r.N1) + r.drv.PeerDeaths(r.N2)
			// A cluster that has lost its address already has failed already.
			if p, err := r.Probe(ctx, lab.ProbeOptions{Addrs: r.cfg.Addrs, Interval: 5 * time.Millisecond, Nodes: true}); err == nil {
				probers[r] = p
			}
		}
		stop := func() {}
		if window == "busy" {
			var err error
			stop, err = lab.Load(runtime.NumCPU())
			if err != nil {
				stop()
				return err
			}
		}
		err := pass(ctx, b.windows)
		stop()
		if err != nil {
			return err
		}
		for _, r := range rs {
			m := more[r]
			m[window+"_deaths"] = float64(r.drv.PeerDeaths(r.N1) + r.drv.PeerDeaths(r.N2) - before[r])
			m[window+"_takeovers"] = 1
			if p := probers[r]; p != nil {
				res, err := p.Stop()
				if err != nil {
					return err
				}
				m[window+"_takeovers"] = float64(res.Owned(probe.Node2))
				m[window+"_stall_ms"] = msOf(res.Stall())
				m[window+"_dual_ms"] = msOf(res.Dual())
			}
		}
	}
	for _, r := range rs {
		b.sample(Sample{Cell: deadtime, Driver: r.drv.Name(), Value: msOf(r.drv.Detection(r.cfg)), More: more[r]})
	}
	return nil
}

func runCost(ctx context.Context, b *bench) error {
	for _, k := range []struct {
		cell                string
		keepalive, deadtime time.Duration
	}{{cpu1s, time.Second, 4 * time.Second}, {cpu20ms, 20 * time.Millisecond, 200 * time.Millisecond}} {
		cfg := classic(1)
		cfg.Keepalive, cfg.Deadtime = k.keepalive, k.deadtime
		drivers := make([]lab.Driver, len(b.drivers))
		for i, d := range b.drivers {
			if d.Name() == "keepalived" && k.keepalive < 200*time.Millisecond {
				d = &lab.Keepalived{Realtime: true}
			}
			drivers[i] = d
		}
		rs := b.together(ctx, k.cell, drivers, cfg)
		// Announcements after a takeover go on for seconds; they are not the
		// steady state.
		err := pass(ctx, 10*time.Second)
		for rep := 1; rep <= min(b.reps, costReps) && err == nil; rep++ {
			err = b.cost(ctx, k.cell, rep, rs)
		}
		closeAll(rs)
		if err != nil {
			return err
		}
	}
	return nil
}

// costReps is how many windows the processor time is measured in at most.
const costReps = 3

func (b *bench) cost(ctx context.Context, cellName string, rep int, rs []*running) error {
	used := map[*lab.Node]time.Duration{}
	t0 := time.Now()
	for _, r := range rs {
		for _, n := range r.Nodes() {
			var err error
			if used[n], err = n.CPU(); err != nil {
				return err
			}
		}
	}
	if err := pass(ctx, b.windows); err != nil {
		return err
	}
	hours := time.Since(t0).Hours()
	for _, r := range rs {
		var perHour [2]float64
		var mem [2]lab.Memory
		for i, n := range r.Nodes() {
			now, err := n.CPU()
			if err != nil {
				return err
			}
			perHour[i] = (now - used[n]).Seconds() / hours
			if mem[i], err = n.Memory(); err != nil {
				return err
			}
		}
		b.sample(Sample{Cell: cellName, Driver: r.drv.Name(), Rep: rep, Value: perHour[0],
			More: map[string]float64{"standby": perHour[1], "seconds": hours * 3600}})
		if cellName == cpu1s {
			b.sample(Sample{Cell: rss, Driver: r.drv.Name(), Rep: rep, Value: float64(mem[0].RSS),
				More: map[string]float64{"pss": float64(mem[0].PSS), "processes": float64(mem[0].Processes), "standby_rss": float64(mem[1].RSS)}})
		}
	}
	return nil
}
