package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"heartbeat/integration/lab"
)

// pid is the daemon's process id by its own pid file.
func (c *cluster) pid(n *lab.Node) string {
	c.t.Helper()
	o := c.run(n, "cat", "/run/heartbeat.pid")
	p := strings.TrimSpace(o.Stdout)
	if o.Code != 0 || p == "" {
		c.t.Fatalf("pid file of %s: %+v", n.Name, o)
	}
	return p
}

// signal sends a signal to the daemon of a node.
func (c *cluster) signal(n *lab.Node, sig unix.Signal) {
	c.t.Helper()
	if o := c.run(n, "kill", fmt.Sprintf("-%d", sig), c.pid(n)); o.Code != 0 {
		c.t.Fatalf("signal %v to %s: %s", sig, n.Name, o.Stderr)
	}
}

// TestFrozenOwner: the owner's daemon stands still longer than deadtime while
// its machine goes on answering for the address, which has no lifetime. When it wakes it must let go
// before it says anything, join anew, and get back what auto_failback says.
func TestFrozenOwner(t *testing.T) {
	t.Parallel()
	for _, failback := range []string{"on", "off"} {
		t.Run("auto_failback "+failback, func(t *testing.T) {
			t.Parallel()
			frozenOwner(t, failback)
		})
	}
}

func frozenOwner(t *testing.T, failback string) {
	cfg := calm()
	cfg.Failback = failback
	c := newCluster(t, both(), cfg)
	for _, n := range c.Nodes() {
		c.must(n.Write("/etc/ha.d/heartbeat.toml", "[guard]\naddress_lifetime = \"off\"\n", 0o600))
	}
	c.startBoth(cfg)
	p, err := c.Probe(t.Context(), lab.ProbeOptions{Addrs: cfg.Addrs, Interval: 2 * time.Millisecond, Nodes: true})
	c.must(err)
	peer := c.pid(c.N2)
	c.signal(c.N1, unix.SIGSTOP)
	c.says(c.N2, "mach_down takeover complete for node n1.")
	c.must(lab.Wait(t.Context(), limit, "both kernels hold the address", func() (bool, string) {
		return len(c.Owners(cfg.Addrs[0])) == 2, "one does"
	}))
	said, err := c.Capture(c.N1, lab.HeartbeatLink, c.on(c.N1).Keepalive)
	c.must(err)
	defer said.Close()
	woken := time.Now()
	c.signal(c.N1, unix.SIGCONT)
	c.says(c.N1, "This node was stalled and the other one was not: releasing all resources before saying anything")
	c.says(c.N2, "Heartbeat restart on node n1")
	c.becomes(c.N2, 0, "active\n", c.on(c.N2).Status, "nodestatus", "n1")
	owner, other := c.N1, c.N2
	if failback == "off" {
		owner, other = c.N2, c.N1
	}
	c.owns(owner, cfg.Addrs...)
	c.settled()
	c.owns(owner, cfg.Addrs...)
	c.must(c.WaitAnswerer(t.Context(), owner, limit, cfg.Addrs[0]))
	if failback == "off" {
		c.expect(other, 0, "none\n", c.on(other).Status, "rscstatus")
	}
	res, err := p.Stop()
	c.must(err)
	took, ok := res.Release("n1", woken)
	t.Logf("n1 let go %v after it woke; dual ownership %v, prober's worst stall %v", took, res.Dual(), res.Stall())
	if bound := silenceMax + lab.Paused(woken); !ok || took > bound {
		t.Errorf("n1 answered for %v after it woke (let go: %v); %v is allowed", took, ok, bound)
	}
	if words := said.Times(); len(words) == 0 || words[0].Sub(woken) < took {
		t.Errorf("n1 let go %v after it woke, and had spoken before: %d packets", took, len(words))
	}
	if now := c.pid(c.N2); now != peer {
		t.Errorf("the peer's process changed from %s to %s", peer, now)
	}
	if d := c.on(c.N2).PeerDeaths(c.N2); d != 1 {
		t.Errorf("n2 declared n1 dead %d times; it stood still once", d)
	}
	if d := c.on(c.N1).PeerDeaths(c.N1); d != 0 {
		t.Errorf("n1 declared n2 dead %d times; it never was", d)
	}
}

// TestShortFreeze: a daemon that stands still for less than deadtime, owner or
// not, loses nothing.
func TestShortFreeze(t *testing.T) {
	t.Parallel()
	cfg := calm()
	cfg.Deadtime, cfg.Initdead = 20*time.Second, 20*time.Second
	c := startCluster(t, both(), cfg)
	p, err := c.Probe(t.Context(), lab.ProbeOptions{Addrs: cfg.Addrs, Interval: 2 * time.Millisecond, Nodes: true})
	c.must(err)
	begun, kept := time.Now(), c.kept(c.N1, cfg)
	pids := [2]string{c.pid(c.N1), c.pid(c.N2)}
	for _, n := range c.Nodes() {
		c.signal(n, unix.SIGSTOP)
		c.must(c.keepalives(n.Peer(), int(2*time.Second/cfg.Keepalive)))
		c.signal(n, unix.SIGCONT)
		c.must(c.keepalives(n, int(2*time.Second/cfg.Keepalive)))
		c.settled()
	}
	c.owns(c.N1, cfg.Addrs...)
	c.expect(c.N1, 0, "local\n", c.on(c.N1).Status, "rscstatus")
	res, err := p.Stop()
	c.must(err)
	if res.Owned("n2") != 0 {
		t.Errorf("n2 owned the address %d times", res.Owned("n2"))
	}
	if out := res.Outage(begun); out.Worst > silenceMax {
		t.Errorf("the client saw an outage of %v", out.Worst)
	}
	kept()
	if now := [2]string{c.pid(c.N1), c.pid(c.N2)}; now != pids {
		t.Errorf("processes were %v and are %v", pids, now)
	}
	if c.deaths() != 0 {
		t.Error("a node was declared dead")
	}
}
