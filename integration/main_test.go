package integration

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"heartbeat/integration/lab"
)

var programs = flag.String("programs", "ours", "what the nodes run: ours, heartbeat, mixed or mixed-reverse")

// limit is how long anything may take that is not itself being timed: the
// machine is shared, and other labs run beside this one.
const limit = 2 * time.Minute

// labsAtOnce bounds the labs that run side by side; each is mostly waiting.
var labsAtOnce = make(chan struct{}, 4)

var ours, original *lab.Heartbeat

func TestMain(m *testing.M) {
	lab.Main()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	flag.Parse()
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "integration: the labs make network namespaces: run the tests as root")
		return 1
	}
	// More labs than processors: they wait, they do not compute.
	if err := flag.Set("test.parallel", fmt.Sprint(cap(labsAtOnce))); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	original = lab.Original()
	if err := original.Check(); err != nil {
		fmt.Fprintln(os.Stderr, "integration:", err)
		return 1
	}
	dir, err := os.MkdirTemp("", "heartbeat-build-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := lab.Build(context.Background(), dir); err != nil {
		fmt.Fprintln(os.Stderr, "integration:", err)
		return 1
	}
	ours = lab.Ours(dir)
	if err := ours.Check(); err != nil {
		fmt.Fprintln(os.Stderr, "integration:", err)
		return 1
	}
	return m.Run()
}

// pair is what runs on n1 and n2.
type pair struct{ n1, n2 *lab.Heartbeat }

// chosen is the pair that -programs asks for.
func chosen(t *testing.T) pair {
	switch *programs {
	case "ours":
		return pair{ours, ours}
	case "heartbeat":
		return pair{original, original}
	case "mixed":
		return pair{ours, original}
	case "mixed-reverse":
		return pair{original, ours}
	}
	t.Fatalf("-programs %s: ours, heartbeat, mixed or mixed-reverse", *programs)
	return pair{}
}

// both is ours on both nodes, for what the original never did.
func both() pair { return pair{ours, ours} }

// cluster is a lab with a program on each node.
type cluster struct {
	*lab.Lab
	t    *testing.T
	pair pair
}

// calm are the timings of tests that are not about time: short enough to wait
// for, long enough for a busy machine and one that is paused for some seconds: two
// nodes that do not wake at the same moment from a pause longer than deadtime have
// every reason to hold each other for dead. Two nodes that start together do not wait
// for initdead: it is so long that the second one comes in time whatever holds it up.
func calm() lab.Cluster {
	return lab.Cluster{Keepalive: 250 * time.Millisecond, Deadtime: 6 * time.Second, Initdead: 15 * time.Second,
		Addrs: lab.ServiceAddrs(1)}
}

// silenceMax is for how long a client may miss an answer in a test in which it is
// to notice nothing. The address being there all the time is watched in the kernel
// (kept); this is only about the way to it, and a busy machine.
const silenceMax = 2 * time.Second

// kept begins to watch that the kernel of a node does not remove service addresses,
// and returns the check. Those with a lifetime run out when the machine is paused for
// longer: then nothing is demanded.
func (c *cluster) kept(n *lab.Node, cfg lab.Cluster, more ...netip.Addr) (check func()) {
	c.t.Helper()
	begun := time.Now()
	r, err := n.Removals()
	c.must(err)
	c.t.Cleanup(r.Close)
	return func() {
		c.t.Helper()
		gone, err := r.List()
		c.must(err)
		gone = slices.DeleteFunc(gone, func(a netip.Addr) bool { return !slices.Contains(cfg.Addrs, a) && !slices.Contains(more, a) })
		if p := lab.Paused(begun); len(gone) > 0 && p > cfg.Deadtime/2 {
			c.t.Logf("%s lost %v while this machine stood still for %v", n.Name, gone, p)
		} else if len(gone) > 0 {
			c.t.Errorf("%s removed %v", n.Name, gone)
		}
	}
}

// newCluster builds a lab and configures both nodes; nothing is started.
func newCluster(t *testing.T, p pair, cfg lab.Cluster) *cluster {
	t.Helper()
	labsAtOnce <- struct{}{}
	t.Cleanup(func() { <-labsAtOnce })
	name := strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(strings.TrimPrefix(t.Name(), "Test")))
	l, err := lab.New(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{Lab: l, t: t, pair: p}
	t.Cleanup(func() {
		if t.Failed() {
			for _, n := range l.Nodes() {
				a, _ := n.Addresses()
				t.Logf("%s (%s): addresses %v\n%s", n.Name, c.on(n).Name(), a, n.Tail("/var/log/ha-log", 60))
			}
		}
		if err := l.Close(); err != nil {
			t.Errorf("close the lab: %v", err)
		}
	})
	for _, n := range l.Nodes() {
		c.must(c.on(n).Configure(n, cfg))
	}
	return c
}

// startCluster builds, configures and starts both nodes, and waits until n1
// owns the configured addresses and nothing is pending.
func startCluster(t *testing.T, p pair, cfg lab.Cluster) *cluster {
	t.Helper()
	c := newCluster(t, p, cfg)
	c.startBoth(cfg)
	return c
}

// startBoth starts both nodes and waits as startCluster does.
func (c *cluster) startBoth(cfg lab.Cluster) {
	c.t.Helper()
	c.start(c.N1)
	c.start(c.N2)
	c.owns(c.N1, cfg.Addrs...)
	c.settled()
}

func (c *cluster) on(n *lab.Node) *lab.Heartbeat {
	if n == c.N1 {
		return c.pair.n1
	}
	return c.pair.n2
}

func (c *cluster) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) start(n *lab.Node) {
	c.t.Helper()
	c.must(c.on(n).Start(c.t.Context(), n))
}

// owns waits until a node holds the addresses and its peer does not.
func (c *cluster) owns(n *lab.Node, addrs ...netip.Addr) {
	c.t.Helper()
	c.must(c.WaitOwner(c.t.Context(), n, limit, addrs...))
}

// settled waits until no running node has a change under way.
func (c *cluster) settled() {
	c.t.Helper()
	for _, n := range c.Nodes() {
		if n.Running() {
			c.must(lab.Wait(c.t.Context(), limit, n.Name+" is settled", func() (bool, string) {
				return c.on(n).Settled(c.t.Context(), n)
			}))
		}
	}
}

// says waits until a node's log contains text.
func (c *cluster) says(n *lab.Node, text string) {
	c.t.Helper()
	c.must(n.WaitLog(c.t.Context(), limit, "/var/log/ha-log", text))
}

// run runs a command on a node.
func (c *cluster) run(n *lab.Node, argv ...string) lab.Output {
	c.t.Helper()
	o, err := n.Run(c.t.Context(), argv...)
	c.must(err)
	return o
}

// becomes waits until a command on a node has this exit code and output.
func (c *cluster) becomes(n *lab.Node, code int, stdout string, argv ...string) {
	c.t.Helper()
	c.must(lab.Wait(c.t.Context(), limit, fmt.Sprintf("%v on %s says %q", argv, n.Name, stdout), func() (bool, string) {
		o := c.run(n, argv...)
		return o.Code == code && o.Stdout == stdout, fmt.Sprintf("exit code %d, output %q (stderr %q)", o.Code, o.Stdout, o.Stderr)
	}))
}

// expect runs a command on a node and checks its exit code and output.
func (c *cluster) expect(n *lab.Node, code int, stdout string, argv ...string) {
	c.t.Helper()
	o := c.run(n, argv...)
	if o.Code != code || o.Stdout != stdout {
		c.t.Errorf("%v on %s: exit code %d, output %q; want %d, %q (stderr %q)", argv[1:], n.Name, o.Code, o.Stdout, code, stdout, o.Stderr)
	}
}

// deaths is how often the nodes' logs declared a peer dead.
func (c *cluster) deaths() int {
	return c.on(c.N1).PeerDeaths(c.N1) + c.on(c.N2).PeerDeaths(c.N2)
}

// ended waits until no process of the program is left on a node: one that was killed
// or has released everything may need a moment to be gone.
func (c *cluster) ended(n *lab.Node) {
	c.t.Helper()
	c.must(lab.Wait(c.t.Context(), limit, "the daemon of "+n.Name+" is gone", func() (bool, string) {
		k := c.daemons(n)
		return k == 0, fmt.Sprint(k, " processes")
	}))
}

// daemons is the number of the program's processes on a node.
func (c *cluster) daemons(n *lab.Node) int {
	c.t.Helper()
	list, err := n.Processes()
	c.must(err)
	k := 0
	for _, p := range list {
		if strings.Contains(p.Command, "heartbeat") {
			k++
		}
	}
	return k
}

// script puts an executable into a node's resource.d.
func (c *cluster) script(name, body string) {
	c.t.Helper()
	for _, n := range c.Nodes() {
		c.must(n.Write("/etc/ha.d/resource.d/"+name, body, 0o755))
	}
}
