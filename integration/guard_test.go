package integration

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"heartbeat/integration/lab"
)

// guarded are timings with which service addresses have a lifetime that the kernel
// ends before deadtime even when it looks as late as it ever does.
func guarded() lab.Cluster {
	cfg := calm()
	cfg.Deadtime = 7 * time.Second
	return cfg
}

// address6 is a service address of IPv6 in the group of n1.
var address6 = netip.MustParseAddr("fd77::4:1")

// noteScript is a service that runs as long as a file is there.
const noteScript = `#!/bin/sh
case "$1" in
start) touch /run/note ;;
stop) rm -f /run/note ;;
status) [ -e /run/note ] && echo running || echo stopped ;;
esac
`

// startGuarded starts a cluster whose group has an address of each family, and behind
// them a service.
func startGuarded(t *testing.T, cfg lab.Cluster) *cluster {
	cfg.Haresources = fmt.Sprintf("n1 IPaddr2::%v/16/eth0 IPv6addr::%v/64/eth0 note\n", cfg.Addrs[0], address6)
	c := newCluster(t, both(), cfg)
	c.script("note", noteScript)
	c.must(c.EnableIPv6())
	c.startBoth(cfg)
	c.owns(c.N1, address6)
	c.expect(c.N1, 0, "running\n", "/etc/ha.d/resource.d/note", "status")
	return c
}

// TestDeadMan: a daemon that is killed, and one that stands still, loses its
// addresses without anybody's help before the peer takes them: no two kernels have
// them at the same time. One that wakes does not put them back.
func TestDeadMan(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		sig  unix.Signal
	}{{"killed", unix.SIGKILL}, {"frozen", unix.SIGSTOP}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			deadMan(t, c.sig)
		})
	}
}

func deadMan(t *testing.T, sig unix.Signal) {
	cfg := guarded()
	cfg.Failback = "off"
	c := startGuarded(t, cfg)
	p, err := c.Probe(t.Context(), lab.ProbeOptions{Addrs: cfg.Addrs, Interval: 2 * time.Millisecond, Nodes: true})
	c.must(err)
	removals, err := c.N1.Removals()
	c.must(err)
	defer removals.Close()
	hit := time.Now()
	if k, err := c.N1.Signal(sig, "heartbeat"); err != nil || k == 0 { // and its supervisor
		t.Fatalf("signal to %d processes: %v", k, err)
	}
	c.must(lab.Wait(t.Context(), limit, "n1 has lost its addresses", func() (bool, string) {
		dead := c.on(c.N2).PeerDeaths(c.N2) > 0 // looked at first
		if c.N1.Holds(cfg.Addrs[0]) || c.N1.Holds(address6) {
			if dead {
				t.Fatal("n2 has declared n1 dead before n1 has lost its addresses")
			}
			return false, "it has not"
		}
		return true, ""
	}))
	c.owns(c.N2, cfg.Addrs[0], address6)
	c.calms(c.N2)
	if sig == unix.SIGSTOP {
		if _, err := c.N1.Signal(unix.SIGCONT, "heartbeat"); err != nil {
			t.Fatal(err)
		}
		c.says(c.N1, "This node was stalled and the other one was not: releasing all resources before saying anything")
		c.says(c.N2, "Heartbeat restart on node n1")
	} else {
		c.start(c.N1)
	}
	c.says(c.N2, "Status update for node n1: status active")
	c.settled()
	c.owns(c.N2, cfg.Addrs[0], address6)
	// What stood behind the addresses was still there; it is not forgotten.
	c.becomes(c.N1, 0, "stopped\n", "/etc/ha.d/resource.d/note", "status")
	c.expect(c.N2, 0, "running\n", "/etc/ha.d/resource.d/note", "status")
	res, err := p.Stop()
	c.must(err)
	gone, released := res.Release("n1", hit)
	took, taken := res.Takeover("n2", hit)
	t.Logf("n1 lost the address after %v, n2 took it after %v; prober's worst stall %v", gone, took, res.Stall())
	if !released || !taken || gone > took || res.Dual() != 0 {
		t.Errorf("n1 lost the address after %v (%v), n2 took it after %v (%v): dual ownership %v", gone, released, took, taken, res.Dual())
	}
	lost, err := removals.List()
	c.must(err)
	if lost = slices.DeleteFunc(lost, func(a netip.Addr) bool { return a != cfg.Addrs[0] && a != address6 }); len(lost) != 2 || lost[0] == lost[1] {
		t.Errorf("n1 lost %v; each address was to run out once", lost)
	}
	if strings.Contains(c.N1.Read("/var/log/ha-log"), "by something else") {
		t.Error("n1 repaired an address that had run out")
	}
}

// calms is settled for one node.
func (c *cluster) calms(n *lab.Node) {
	c.t.Helper()
	c.must(lab.Wait(c.t.Context(), limit, n.Name+" is settled", func() (bool, string) {
		return c.on(n).Settled(c.t.Context(), n)
	}))
}

// lives waits until the kernel of a node has an address with a lifetime.
func (c *cluster) lives(n *lab.Node, addr netip.Addr) {
	c.t.Helper()
	c.must(lab.Wait(c.t.Context(), limit, fmt.Sprintf("%v has a lifetime on %s", addr, n.Name), func() (bool, string) {
		o := c.run(n, "ip", "-o", "address", "show", "to", addr.String())
		return strings.Contains(o.Stdout, "sec"), o.Stdout + o.Stderr
	}))
}

// TestLifetimesGoUnnoticed: while the daemon lives, is replaced in place, or hands
// over, nobody sees that its addresses have lifetimes.
func TestLifetimesGoUnnoticed(t *testing.T) {
	t.Parallel()
	cfg := guarded()
	c := startGuarded(t, cfg)
	p, err := c.Probe(t.Context(), lab.ProbeOptions{Addrs: cfg.Addrs, Interval: 2 * time.Millisecond, Nodes: true})
	c.must(err)
	begun, kept := time.Now(), c.kept(c.N1, cfg, address6)
	long := int(2 * cfg.Deadtime / cfg.Keepalive)
	c.lives(c.N1, cfg.Addrs[0])
	c.lives(c.N1, address6)
	pid := c.pid(c.N1)
	cf := c.N1.Read("/etc/ha.d/ha.cf")
	c.must(c.N1.Write("/etc/ha.d/ha.cf", cf+"# touched\n", 0o600))
	c.expect(c.N1, 0, "", ours.Daemon, "-r")
	c.says(c.N1, "Performing heartbeat restart exec.")
	c.must(c.keepalives(c.N1, long))
	c.owns(c.N1, cfg.Addrs[0], address6)
	c.lives(c.N1, address6)
	if now := c.pid(c.N1); now != pid {
		t.Errorf("the process changed from %s to %s", pid, now)
	}
	kept()
	// The successor watches what its predecessor started.
	for _, a := range []netip.Prefix{netip.PrefixFrom(cfg.Addrs[0], 16), netip.PrefixFrom(address6, 64)} {
		c.expect(c.N1, 0, "", "ip", "address", "del", a.String(), "dev", "eth0")
	}
	c.owns(c.N1, cfg.Addrs[0], address6)
	c.says(c.N1, "by something else")
	kept = c.kept(c.N1, cfg, address6)
	// With the guard switched off, what had a lifetime must not run out.
	c.must(c.N1.Write("/etc/ha.d/heartbeat.toml", "[guard]\naddress_lifetime = \"off\"\n", 0o600))
	c.must(c.N1.Write("/etc/ha.d/ha.cf", cf+"# touched again\n", 0o600))
	c.expect(c.N1, 0, "", ours.Daemon, "-r")
	c.must(lab.Wait(t.Context(), limit, "the addresses are permanent", func() (bool, string) {
		o := c.run(c.N1, "ip", "-o", "address", "show", "dev", "eth0")
		return !strings.Contains(o.Stdout, "sec") || !strings.Contains(strings.ReplaceAll(o.Stdout, "secondary", ""), "sec "), o.Stdout
	}))
	c.must(c.keepalives(c.N1, long))
	c.owns(c.N1, cfg.Addrs[0], address6)
	kept()
	res, err := p.Stop()
	c.must(err)
	if res.Owned("n2") != 0 {
		t.Errorf("n2 owned the address %d times", res.Owned("n2"))
	}
	if out := res.Outage(begun); out.Worst > silenceMax {
		t.Errorf("the client saw an outage of %v", out.Worst)
	}
	// And they move as ever.
	for _, m := range []struct {
		command, set string
		owner        *lab.Node
	}{{c.on(c.N1).Standby, "all", c.N2}, {c.on(c.N1).Takeover, "local", c.N1}} {
		c.succeeds(c.N1, m.command, m.set)
		c.owns(m.owner, cfg.Addrs[0], address6)
		c.settled()
	}
	if c.deaths() != 0 {
		t.Error("a node was declared dead")
	}
}

// succeeds runs a command that must succeed, whatever it prints.
func (c *cluster) succeeds(n *lab.Node, argv ...string) {
	c.t.Helper()
	if o := c.run(n, argv...); o.Code != 0 {
		c.t.Errorf("%v on %s: exit code %d, %s%s", argv, n.Name, o.Code, o.Stdout, o.Stderr)
	}
}

// TestGuardMissing: where deadtime leaves no room for lifetimes the log and the
// status say so.
func TestGuardMissing(t *testing.T) {
	t.Parallel()
	cfg := calm()
	cfg.Deadtime = 2 * time.Second
	c := newCluster(t, both(), cfg)
	c.start(c.N1)
	const text = "service addresses have no lifetime: deadtime 2s with keepalive 250ms leaves no room for it"
	c.says(c.N1, text)
	c.must(lab.Wait(t.Context(), limit, "the status says so", func() (bool, string) {
		o := c.run(c.N1, ours.Hbctl(), "status")
		return strings.Contains(o.Stdout, text), o.Stdout + o.Stderr
	}))
}

// TestOnlyTheHeartbeatLinkIsCut: the service network works while the two nodes hear
// nothing of each other. By default the other node's address is taken all the same,
// and it is said; with refuse it has one owner throughout.
func TestOnlyTheHeartbeatLinkIsCut(t *testing.T) {
	t.Parallel()
	for _, choice := range []string{"warn", "refuse"} {
		t.Run(choice, func(t *testing.T) {
			t.Parallel()
			onlyTheHeartbeatLink(t, choice)
		})
	}
}

func onlyTheHeartbeatLink(t *testing.T, choice string) {
	cfg := calm()
	cfg.Haresources = fmt.Sprintf("n1 IPaddr2::%v/16/eth0 IPv6addr::%v/64/eth0\n", cfg.Addrs[0], address6)
	vip := cfg.Addrs[0]
	c := newCluster(t, both(), cfg)
	c.must(c.EnableIPv6())
	if choice != "warn" { // the default
		for _, n := range c.Nodes() {
			c.must(n.Write("/etc/ha.d/heartbeat.toml", fmt.Sprintf("[guard]\naddress_conflict = %q\n", choice), 0o600))
		}
	}
	c.startBoth(cfg)
	mac := "" // of n1 on the service network
	if o := c.run(c.N1, "cat", "/sys/class/net/eth0/address"); o.Code == 0 {
		mac = strings.TrimSpace(o.Stdout)
	}
	p, err := c.Probe(t.Context(), lab.ProbeOptions{Addrs: cfg.Addrs, Interval: 5 * time.Millisecond, Nodes: true})
	c.must(err)
	cut, kept := time.Now(), c.kept(c.N1, cfg, address6)
	c.must(c.Cut(lab.HeartbeatLink))
	answered := fmt.Sprintf("Node n1 is silent on all media, but %v is answered for by %s on eth0", vip, mac)
	c.says(c.N2, answered)
	c.says(c.N1, "node n2: is dead")
	status := func(want string) {
		t.Helper()
		c.must(lab.Wait(t.Context(), limit, "the status of n2 says "+want, func() (bool, string) {
			o := c.run(c.N2, ours.Hbctl(), "status")
			return strings.Contains(o.Stdout, want), o.Stdout + o.Stderr
		}))
	}
	why := func(want string) {
		t.Helper()
		if o := c.run(c.N2, ours.Hbctl(), "why"); !strings.Contains(o.Stdout, want) {
			t.Errorf("hbctl why on n2: %s%s", o.Stdout, o.Stderr)
		}
	}
	if choice == "refuse" {
		status(fmt.Sprintf("nothing is taken from n1: it is silent on all media, but %v is answered for by %s on eth0; asked again every 5s", vip, mac))
		why("takes nothing from n1")
		c.must(c.keepalives(c.N2, int(2*cfg.Deadtime/cfg.Keepalive)))
		c.owns(c.N1, vip, address6)
		c.expect(c.N2, 0, "local\n", c.on(c.N2).Status, "rscstatus") // of which there are none
	} else {
		c.must(lab.Wait(t.Context(), limit, "both nodes own", func() (bool, string) {
			return len(c.Owners(vip)) == 2 && len(c.Owners(address6)) == 2, "one does"
		}))
		status("taken from n1 although it may be alive: when it fell silent on all media, " + vip.String() + " is answered for by " + mac)
		why("takes over from n1 although it may be alive")
		// The owner sees the other one's announcement, and says whose the address is.
		c.says(c.N1, vip.String()+" is ours on eth0, and ")
		c.says(c.N1, address6.String()+" is ours on eth0, and ")
	}
	c.must(c.Heal(lab.HeartbeatLink))
	c.says(c.N2, "Cluster node n1 returning after partition.")
	c.owns(c.N1, vip, address6)
	c.settled()
	c.owns(c.N1, vip, address6)
	c.must(c.WaitAnswerer(t.Context(), c.N1, limit, vip))
	status("n1") // and no word of the past
	c.must(lab.Wait(t.Context(), limit, "the status of n2 says nothing of the past", func() (bool, string) {
		o := c.run(c.N2, ours.Hbctl(), "status")
		return o.Code == 0 && !strings.Contains(o.Stdout, "taken from n1"), o.Stdout + o.Stderr
	}))
	res, err := p.Stop()
	c.must(err)
	t.Logf("dual ownership %v", res.Dual())
	if choice == "refuse" {
		if res.Owned("n2") != 0 || res.Dual() != 0 {
			t.Errorf("n2 owned the address %d times, dual ownership %v", res.Owned("n2"), res.Dual())
		}
		if out := res.Outage(cut); out.Worst > silenceMax {
			t.Errorf("the client saw an outage of %v", out.Worst)
		}
		kept()
	} else if res.Owned("n2") == 0 {
		t.Error("n2 took nothing: warn must not hold a takeover up")
	}
}

// TestRefusedUntilItDies: the heartbeat link is cut, and later the machine behind it
// dies: then its address is taken. A machine that dies at once loses nothing by the
// question.
func TestRefusedUntilItDies(t *testing.T) {
	t.Parallel()
	cfg := calm()
	cfg.Failback = "off"
	c := newCluster(t, both(), cfg)
	for _, n := range c.Nodes() {
		c.must(n.Write("/etc/ha.d/heartbeat.toml", "[guard]\naddress_conflict = \"refuse\"\n", 0o600))
	}
	c.startBoth(cfg)
	c.must(c.Cut(lab.HeartbeatLink))
	c.says(c.N2, "nothing is taken from it")
	c.must(c.N1.Crash())
	c.says(c.N2, "Nobody answers for the addresses of node n1 any more")
	c.owns(c.N2, cfg.Addrs...)
	c.settled()

	c.must(c.Heal(lab.HeartbeatLink))
	c.must(c.N1.Boot(t.Context()))
	c.start(c.N1)
	c.says(c.N2, "Status update for node n1: status active")
	c.settled()
	c.owns(c.N2, cfg.Addrs...)
	c.must(c.N2.Crash())
	c.owns(c.N1, cfg.Addrs...)
	c.says(c.N1, "node n2: is dead")
	if log := c.N1.Read("/var/log/ha-log"); strings.Contains(log, "nothing is taken from it") {
		t.Error("n1 refused to take from a machine that is off")
	}
}

// TestRefusedWithoutCarrier: a node that loses all its cables at once can ask nobody
// whether the other one lives, and takes nothing; that one takes what it had. With its
// cables back it takes part again.
func TestRefusedWithoutCarrier(t *testing.T) {
	t.Parallel()
	cfg := calm()
	c := newCluster(t, both(), cfg)
	for _, n := range c.Nodes() {
		c.must(n.Write("/etc/ha.d/heartbeat.toml", "[guard]\naddress_conflict = \"refuse\"\n", 0o600))
	}
	c.startBoth(cfg)
	c.expect(c.N2, 0, "", "ip", "link", "set", "eth0", "down")
	c.must(c.Cut(lab.HeartbeatLink))
	c.says(c.N2, "Node n1 is silent on all media, but the service network cannot be asked: ")
	c.says(c.N1, "node n2: is dead")
	c.must(c.keepalives(c.N1, int(2*cfg.Deadtime/cfg.Keepalive)))
	c.owns(c.N1, cfg.Addrs...)
	c.expect(c.N2, 0, "", "ip", "link", "set", "eth0", "up")
	c.must(c.Heal(lab.HeartbeatLink))
	c.says(c.N2, "Cluster node n1 returning after partition.")
	c.settled()
	c.owns(c.N1, cfg.Addrs...)
}
