package interop

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"heartbeat/integration/lab"
)

const (
	// limit is how long a change may take: other labs run beside this one.
	limit = 90 * time.Second
	// probeInterval is the client's; with two addresses on three streams in six
	// labs at once a shorter one would be load, not precision.
	probeInterval = 5 * time.Millisecond
)

// Scenario is one life of a pair.
type Scenario struct {
	Name string
	// Core scenarios are run by go test with both mixed pairs.
	Core  bool
	Setup Setup
	// Pairs are those that the scenario makes sense for; none: all four.
	Pairs []Pair
	Play  func(r *Run)
	// Fragile says that two nodes of 3.0.6 do not always come through: their
	// failure is shown and is none of ours.
	Fragile bool
	// Allow are parts of ERROR lines that come or not by chance of time.
	Allow []string
	// Check, when set, looks at the whole for more.
	Check func(o Outcome) []string
}

// Setup is what both nodes' files say.
type Setup struct {
	Failback string // "" is on
	// Groups is 1 (a is n1's) or 2 (b is n2's); 0 is 2.
	Groups int
	Media  []string
	// Serial adds a line between the nodes.
	Serial   bool
	Authkeys string
	Extra    []string
	// Script follows the address in every group.
	Script string
	// Before prepares a configured node, before anything starts.
	Before func(n *lab.Node) error
}

// addrs are the service addresses: a, the group of n1, and b, that of n2.
var addrs = lab.ServiceAddrs(2)

// scripts are the usual ones for addresses, one for each group.
var scripts = [2]string{"IPaddr", "IPaddr2"}

// Owners says which node owns each address: 1, 2, or 0 for nobody.
type Owners [2]int

// The four usual states, and nobody.
var (
	home   = Owners{1, 2}
	allN1  = Owners{1, 1}
	allN2  = Owners{2, 2}
	nobody = Owners{0, 0}
)

// Act is what was seen of one step of a scenario.
type Act struct {
	Name     string
	From, To time.Time
	// Outage is the client's longest silence of any address that began in the
	// act, Dual the longest time in which both kernels answered for one.
	// Unprobed acts have neither.
	Outage, Dual time.Duration
	Probed       bool
	// Stopped says that nobody was left to own anything, so that a silence is
	// no outage.
	Stopped bool
	// Lost is what 3.0.6 lost of its own messages in a last act.
	Lost []string
	// Free says that nothing can bound double ownership: the nodes cannot see
	// each other.
	Free bool
}

// Outcome is what was seen of a scenario.
type Outcome struct {
	Scenario, Pair string
	Took           time.Duration
	Acts           []Act
	// Lines are the ERROR and CRIT lines of n1 and n2, normalised, each once.
	Lines [2][]string
	allow []string
	// legacy says that auto_failback is.
	legacy bool
	// fragile is the scenario's.
	fragile bool
	// Problems are sentences; none: the scenario is passed.
	Problems []string
	// Lost is what 3.0.6 lost of its own messages, as its logs show it.
	Lost []string
	// Paused is the longest time in which this machine stood still.
	Paused time.Duration
	// Logs are the nodes' whole logs, and Holds their addresses in the end.
	Logs, Holds [2]string
}

// Run is a scenario being played. Its methods do nothing after the first
// problem that makes going on senseless, so that scenarios read as a list.
type Run struct {
	*lab.Lab
	ctx    context.Context
	setup  Setup
	pair   Pair
	progs  Programs
	on     [2]*lab.Heartbeat
	up     [2]bool // the daemon is meant to run
	acts   []Act
	marks  [2]int // where the nodes' logs were when the act began
	prober *lab.Prober
	// lost are losses when they were last looked for.
	lost []string
	// problems goes on collecting; err stops.
	problems []string
	err      error
}

// Play plays a scenario with a pair in a lab of its own.
func Play(ctx context.Context, s Scenario, p Pair, progs Programs) Outcome {
	began := time.Now()
	out := Outcome{Scenario: s.Name, Pair: p.Name, allow: s.Allow, legacy: s.Setup.Failback == "legacy", fragile: s.Fragile}
	r := &Run{ctx: ctx, setup: s.Setup, pair: p, progs: progs, on: [2]*lab.Heartbeat{progs.Original, progs.Original}}
	if p.Ours1 {
		r.on[0] = progs.Ours
	}
	if p.Ours2 {
		r.on[1] = progs.Ours
	}
	if r.err = r.build(s.Name + "-" + p.shortLabel); r.err == nil {
		s.Play(r)
		r.finish()
		for i, n := range r.Nodes() {
			out.Logs[i] = n.Read(log)
			out.Lines[i] = severe(out.Logs[i])
			a, _ := n.Addresses()
			out.Holds[i] = fmt.Sprint(a)
		}
		if len(r.problems) > 0 || r.err != nil {
			out.Lost = r.allLosses()
		}
	}
	if r.err != nil {
		r.problem("%v", r.err)
	}
	if r.Lab != nil {
		if err := r.Close(); err != nil {
			r.problem("close the lab: %v", err)
		}
	}
	out.Acts, out.Problems, out.Took, out.Paused = r.acts, r.problems, time.Since(began), lab.Paused(began)
	if s.Check != nil && r.err == nil {
		out.Problems = append(out.Problems, s.Check(out)...)
	}
	return out
}

const log = "/var/log/ha-log"

func (r *Run) build(name string) (err error) {
	if r.Lab, err = lab.New(r.ctx, name); err != nil {
		return err
	}
	if r.setup.Serial {
		if _, err := r.SerialLine(); err != nil {
			return err
		}
	}
	for i, n := range r.Nodes() {
		if err := r.configure(i, n); err != nil {
			return err
		}
		if r.setup.Before != nil {
			if err := r.setup.Before(n); err != nil {
				return err
			}
		}
	}
	return nil
}

// Timings of every scenario: short enough to wait for, long enough for a busy
// machine.
const (
	keepalive = 250 * time.Millisecond
	deadtime  = 4 * time.Second
	initdead  = 8 * time.Second
)

func (r *Run) cluster() lab.Cluster {
	s := r.setup
	c := lab.Cluster{Keepalive: keepalive, Deadtime: deadtime, Initdead: initdead, Failback: s.Failback,
		Media: slices.Clone(s.Media), Extra: s.Extra, Authkeys: s.Authkeys}
	if c.Media == nil {
		c.Media = []string{"bcast eth1"}
	}
	if s.Serial {
		c.Media = append(c.Media, "serial "+lab.SerialDevice)
	}
	tail := "\n"
	if s.Script != "" {
		tail = " " + s.Script + "\n"
	}
	for k, a := range r.addrs() {
		// Both of the usual scripts, and both ways to write an address.
		c.Haresources += fmt.Sprintf("n%d %s::%s/16/eth0%s", k+1, scripts[k], a, tail)
	}
	return c
}

func (r *Run) configure(i int, n *lab.Node) error { return r.on[i].Configure(n, r.cluster()) }

func (r *Run) addrs() []netip.Addr {
	if r.setup.Groups == 1 {
		return addrs[:1]
	}
	return addrs
}

func (r *Run) problem(format string, args ...any) {
	r.problems = append(r.problems, fmt.Sprintf(format, args...))
}

// do runs f unless the scenario has come to an end.
func (r *Run) do(f func() error) {
	if r.err == nil {
		r.err = f()
	}
}

func index(n *lab.Node) int { return int(n.Name[1] - '1') }

// act does something to the nodes and then demands owners and quiet.
func (r *Run) act(name string, owners Owners, f func()) {
	if r.err != nil {
		return
	}
	r.begin(name, false)
	r.acts[len(r.acts)-1].Stopped = owners == nobody
	r.unhurried()
	f()
	r.owned(owners)
	r.settled()
	r.owned(owners)
	r.states(owners)
	r.end()
}

// last is act where 3.0.6 may lose a message of its own: the addresses must be
// where they should, and the change must end, or the log say why it does not.
func (r *Run) last(name string, owners Owners, f func()) {
	if r.err != nil {
		return
	}
	r.begin(name, false)
	r.unhurried()
	f()
	r.owned(owners)
	r.settled()
	if errors.Is(r.err, errLost) {
		r.err = nil
		r.acts[len(r.acts)-1].Lost = r.losses()
		r.owned(owners)
	} else {
		r.states(owners)
	}
	r.end()
}

func (r *Run) begin(name string, free bool) {
	r.acts = append(r.acts, Act{Name: name, From: time.Now(), Free: free, Probed: r.prober != nil})
	for i, n := range r.Nodes() {
		r.marks[i] = len(n.Read(log))
	}
}

func (r *Run) end() {
	a := &r.acts[len(r.acts)-1]
	a.To = time.Now()
	if r.err != nil {
		r.err = fmt.Errorf("%s: %w", a.Name, r.err)
	}
}

// wait waits until something is so, or 3.0.6 has lost a message of its own, after
// which nothing more will come of it.
func (r *Run) wait(what string, cond func() (bool, string)) error {
	ctx, cancel := context.WithCancelCause(r.ctx)
	defer cancel(nil)
	next := time.Now().Add(lossPatience)
	err := lab.Wait(ctx, limit, what, func() (bool, string) {
		ok, why := cond()
		if !ok && r.setup.netstring() && time.Now().After(next) {
			next = time.Now().Add(lossPatience)
			if lost := r.losses(); len(lost) > 0 && slices.Equal(lost, r.lost) {
				cancel(errLost)
			} else {
				r.lost = lost
			}
		}
		return ok, why
	})
	if context.Cause(ctx) == errLost {
		err = fmt.Errorf("wait until %s: %w", what, errLost)
	}
	return err
}

// owned demands that each kernel holds exactly the addresses it is said to.
func (r *Run) owned(owners Owners) {
	r.do(func() error {
		return r.wait(fmt.Sprintf("the owners are %v", owners), func() (bool, string) {
			return r.match(owners), r.holdings()
		})
	})
}

// match reports whether they do now.
func (r *Run) match(owners Owners) bool {
	for k, a := range r.addrs() {
		for i, n := range r.Nodes() {
			if n.Holds(a) != (owners[k] == i+1) {
				return false
			}
		}
	}
	return true
}

func (r *Run) holdings() string {
	var b strings.Builder
	for k, a := range r.addrs() {
		fmt.Fprintf(&b, "%c:", 'a'+k)
		for _, n := range r.Owners(a) {
			b.WriteString(" " + n.Name)
		}
		b.WriteString("; ")
	}
	return b.String()
}

func (r *Run) settled() {
	for i, n := range r.Nodes() {
		if r.up[i] {
			r.do(func() error {
				return r.wait(n.Name+" is settled", func() (bool, string) { return r.on[i].Settled(r.ctx, n) })
			})
		}
	}
}

// states asks cl_status on both nodes.
func (r *Run) states(owners Owners) {
	for i, n := range r.Nodes() {
		if r.err != nil || !n.Running() {
			continue
		}
		peer, status := n.Peer().Name, r.on[i].Status
		if !r.up[i] {
			r.expect(n, 1, "Heartbeat is stopped on this machine.\n", status, "hbstatus")
			continue
		}
		r.expect(n, 0, "Heartbeat is running on this machine.\n", status, "hbstatus")
		if r.up[1-i] {
			r.expect(n, 0, "active\n", status, "nodestatus", peer)
		} else {
			r.expect(n, 1, "dead\n", status, "nodestatus", peer)
		}
		r.expect(n, 0, r.word(i, owners)+"\n", status, "rscstatus")
	}
}

// word is what rscstatus says on a node: local are the groups that name it.
func (r *Run) word(i int, owners Owners) string {
	if r.setup.Failback == "legacy" {
		return "none"
	}
	local, foreign := owners[i] == i+1, owners[1-i] == i+1
	if r.setup.Groups == 1 {
		// A node without a group of its own holds its "local" ones, none as they
		// are, from start; and gives and takes them as any other.
		return ""
	}
	switch {
	case local && foreign:
		return "all"
	case local:
		return "local"
	case foreign:
		return "foreign"
	}
	return "none"
}

// expect waits until a command says what it must: a peer's death by silence
// follows its clean stop by deadtime, and words follow deeds.
func (r *Run) expect(n *lab.Node, code int, stdout string, argv ...string) {
	if stdout == "\n" {
		return
	}
	r.do(func() error {
		what := fmt.Sprintf("%s on %s says %q", strings.Join(argv, " "), n.Name, strings.TrimSpace(stdout))
		return r.wait(what, func() (bool, string) {
			o, err := n.Run(r.ctx, argv...)
			if err != nil {
				return false, err.Error()
			}
			return o.Code == code && o.Stdout == stdout, fmt.Sprintf("exit code %d, %q", o.Code, strings.TrimSpace(o.Stdout+o.Stderr))
		})
	})
}

// probe begins to ask for the addresses; it must be called when all have
// owners, and goes on until the scenario ends.
func (r *Run) probe() {
	r.do(func() (err error) {
		r.prober, err = r.Probe(r.ctx, lab.ProbeOptions{Addrs: r.addrs(), Interval: probeInterval, Nodes: true})
		return err
	})
}

// finish ends the probing and takes what it saw into the acts.
func (r *Run) finish() {
	if r.prober == nil {
		return
	}
	res, err := r.prober.Stop()
	if err != nil {
		r.err = errors.Join(r.err, err)
		return
	}
	for i := range r.acts {
		a := &r.acts[i]
		for k := range r.addrs() {
			if !a.Stopped {
				a.Outage = max(a.Outage, outage(res, k, a.From, a.To))
			}
			a.Dual = max(a.Dual, dual(res, k, a.From, a.To))
		}
	}
}

// start starts the daemon of a node.
func (r *Run) start(n *lab.Node) {
	r.do(func() error {
		r.up[index(n)] = true
		return r.on[index(n)].Start(r.ctx, n)
	})
}

func (r *Run) startBoth() { r.start(r.N1); r.start(r.N2) }

// stop stops it cleanly.
func (r *Run) stop(n *lab.Node) {
	r.do(func() error {
		r.up[index(n)] = false
		return r.on[index(n)].Stop(r.ctx, n)
	})
}

// stopBoth orders both to stop at the same time.
func (r *Run) stopBoth() {
	r.do(func() error {
		errs := make(chan error, 2)
		for i, n := range r.Nodes() {
			r.up[i] = false
			go func() { errs <- r.on[i].Stop(r.ctx, n) }()
		}
		return errors.Join(<-errs, <-errs)
	})
}

// crash cuts a node's power.
func (r *Run) crash(n *lab.Node) {
	r.do(func() error { r.up[index(n)] = false; return n.Crash() })
}

// boot switches a node on again and starts the daemon.
func (r *Run) boot(n *lab.Node) {
	r.do(func() error { return n.Boot(r.ctx) })
	r.start(n)
}

// daemon is a text in the command line of each of the daemon's processes.
func (r *Run) daemon(n *lab.Node) string {
	if r.on[index(n)] == r.progs.Ours {
		return r.progs.Ours.Daemon
	}
	return "heartbeat: "
}

// signal sends a signal to all of the daemon's processes.
func (r *Run) signal(n *lab.Node, sig unix.Signal) {
	r.do(func() error {
		k, err := n.Signal(sig, r.daemon(n))
		if err == nil && k == 0 {
			err = fmt.Errorf("no process of the daemon on %s", n.Name)
		}
		return err
	})
}

// kill kills the daemon without warning and waits until it is gone.
func (r *Run) kill(n *lab.Node) {
	var list []lab.Process
	r.do(func() (err error) { list, err = n.Processes(); return err })
	r.signal(n, unix.SIGKILL)
	r.do(func() error {
		r.up[index(n)] = false
		return r.wait("the daemon of "+n.Name+" is gone", func() (bool, string) {
			for _, p := range list {
				// Also a process that nobody has waited for yet counts as running
				// for a daemon that looks for its predecessor.
				if strings.Contains(p.Command, r.daemon(n)) && unix.Kill(p.PID, 0) == nil {
					return false, p.Command + " is there"
				}
			}
			return true, ""
		})
	})
}

// standby orders a node to hand a set over.
func (r *Run) standby(n *lab.Node, set string) {
	r.heeded(n, n.Name+" wants to go standby", r.on[index(n)].Standby, set)
}

// takeover orders a node to take a set.
func (r *Run) takeover(n *lab.Node, set string) {
	r.heeded(n, n.Peer().Name+" wants to go standby", r.on[index(n)].Takeover, set)
}

// lostAfter is when an order to 3.0.6 that shows no effect is given up for
// lost.
const lostAfter = 5 * time.Second

// heeded gives an order whose beginning shows in the node's log. 3.0.6 now and
// then loses what is written to its FIFO while scripts write to it too, as in
// the first moments after its start; nobody is told, so it is ordered again.
func (r *Run) heeded(n *lab.Node, text string, argv ...string) {
	r.order(n, argv...)
	if r.on[index(n)] == r.progs.Ours {
		return
	}
	for range 3 {
		if r.err != nil || lab.Wait(r.ctx, lostAfter, text, func() (bool, string) { return strings.Contains(r.since(n), text), "" }) == nil {
			return
		}
		r.order(n, argv...)
	}
}

func (r *Run) order(n *lab.Node, argv ...string) {
	r.do(func() error {
		_, err := r.on[index(n)].Run(r.ctx, n, argv...)
		return err
	})
}

// says waits until a node's log has said one of the texts in this act.
func (r *Run) says(n *lab.Node, texts ...string) {
	r.do(func() error {
		return r.wait(fmt.Sprintf("the log of %s says %q", n.Name, texts), func() (bool, string) {
			now := r.since(n)
			return slices.ContainsFunc(texts, func(t string) bool { return strings.Contains(now, t) }), ""
		})
	})
}

// since is what a node's log has said in this act.
func (r *Run) since(n *lab.Node) string {
	text := n.Read(log)
	return text[min(r.marks[index(n)], len(text)):]
}
