package integration

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"heartbeat/integration/lab"
)

// TestOneLinkOfTwo: losing one of two links is noticed and changes nothing.
func TestOneLinkOfTwo(t *testing.T) {
	t.Parallel()
	cfg := calm()
	cfg.Media = []string{"bcast eth1", "ucast eth0 10.77.0.1", "ucast eth0 10.77.0.2"}
	c := startCluster(t, chosen(t), cfg)
	c.must(c.Cut(lab.HeartbeatLink))
	c.says(c.N1, "Link n2:eth1 dead.")
	c.says(c.N2, "Link n1:eth1 dead.")
	c.expect(c.N1, 0, "active\n", c.on(c.N1).Status, "nodestatus", "n2")
	c.expect(c.N1, 1, "dead\n", c.on(c.N1).Status, "hblinkstatus", "n2", "eth1")
	c.must(c.Heal(lab.HeartbeatLink))
	c.link(c.N1, "eth1", "up")
	c.owns(c.N1, cfg.Addrs...)
	if c.deaths() != 0 {
		t.Error("a node was declared dead while a link was left")
	}
}

// TestPartition: with every link cut both nodes own the group, as nothing can
// prevent without fencing; once healed exactly one of them does, and it
// answers the client. Healed at once, the nodes meet with their takeovers still
// under way.
func TestPartition(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		settled bool
	}{{"healed at once", false}, {"healed when both had settled", true}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			partition(t, c.settled)
		})
	}
}

func partition(t *testing.T, settled bool) {
	cfg := calm()
	c := startCluster(t, chosen(t), cfg)
	p, err := c.Probe(t.Context(), lab.ProbeOptions{Addrs: cfg.Addrs, Interval: 5 * time.Millisecond, Nodes: true})
	c.must(err)
	c.must(c.Partition())
	vip := cfg.Addrs[0]
	c.must(lab.Wait(t.Context(), limit, "both nodes own", func() (bool, string) {
		return len(c.Owners(vip)) == 2, fmt.Sprint(len(c.Owners(vip)), " owners")
	}))
	if settled {
		for _, n := range c.Nodes() {
			c.says(n, "node "+n.Peer().Name+": is dead")
		}
		c.settled()
		for _, n := range c.Nodes() {
			c.becomes(n, 0, "all\n", c.on(n).Status, "rscstatus")
		}
	}
	healed := time.Now()
	c.must(c.Reunite())
	c.owns(c.N1, vip)
	c.settled()
	c.owns(c.N1, vip)
	c.must(c.WaitAnswerer(t.Context(), c.N1, limit, vip))
	res, err := p.Stop()
	c.must(err)
	out := res.Outage(healed)
	t.Logf("dual ownership %v in all; client outage after healing %v", res.Dual().Round(time.Millisecond), out.Worst.Round(time.Millisecond))
	if out.Open > 0 {
		t.Error("the client has no answer in the end")
	}
	if *programs == "ours" && out.Worst > cfg.Deadtime {
		t.Errorf("nobody owned the address for %v after healing", out.Worst)
	}
}

// TestDaemonKilled: the owner's daemon is killed without warning and started
// again within deadtime. Its address stays, and the client sees nothing.
func TestDaemonKilled(t *testing.T) {
	t.Parallel()
	cfg := calm()
	cfg.Deadtime, cfg.Initdead = 20*time.Second, 30*time.Second
	c := startCluster(t, chosen(t), cfg)
	p, err := c.Probe(t.Context(), lab.ProbeOptions{Addrs: cfg.Addrs, Interval: 5 * time.Millisecond, Nodes: true})
	c.must(err)
	t0, kept := time.Now(), c.kept(c.N1, cfg)
	if k, err := c.N1.Signal(unix.SIGKILL, "heartbeat"); err != nil || k == 0 {
		t.Fatalf("killed %d processes: %v", k, err)
	}
	c.ended(c.N1)
	c.start(c.N1)
	c.says(c.N2, "Heartbeat restart on node n1")
	c.settled()
	c.owns(c.N1, cfg.Addrs...)
	c.expect(c.N1, 0, "local\n", c.on(c.N1).Status, "rscstatus")
	res, err := p.Stop()
	c.must(err)
	if res.Owned("n2") != 0 || res.Dual() != 0 {
		t.Errorf("n2 owned the address %d times, dual ownership %v", res.Owned("n2"), res.Dual())
	}
	if out := res.Outage(t0); out.Worst > silenceMax {
		t.Errorf("the client saw an outage of %v", out.Worst)
	}
	kept()
}

// TestKeyFileReadable: a key file that others can read is refused.
func TestKeyFileReadable(t *testing.T) {
	t.Parallel()
	c := newCluster(t, chosen(t), calm())
	c.must(os.Chmod(c.N1.Path("/etc/ha.d/authkeys"), 0o644))
	o := c.run(c.N1, c.on(c.N1).Daemon)
	if o.Code != 6 {
		t.Errorf("exit code %d, want 6", o.Code)
	}
	all := o.Stderr + o.Stdout + c.N1.Read("/var/log/ha-log")
	if !strings.Contains(all, "Bad permissions on keyfile [/etc/ha.d//authkeys], 600 recommended.") {
		t.Errorf("no word about the file: %q", all)
	}
	if k := c.daemons(c.N1); k != 0 {
		t.Errorf("%d processes run", k)
	}
}

// TestDifferentKeys: two nodes with different keys hear each other and must
// not believe; both say so and both live.
func TestDifferentKeys(t *testing.T) {
	t.Parallel()
	c := newCluster(t, chosen(t), calm())
	c.must(c.N2.Write("/etc/ha.d/authkeys", "auth 1\n1 sha1 another\n", 0o600))
	c.start(c.N1)
	c.start(c.N2)
	for _, n := range c.Nodes() {
		c.must(lab.Wait(t.Context(), limit, n.Name+" logs the bad digest", func() (bool, string) {
			return strings.Contains(n.Read("/var/log/ha-log"), "authtoken does not match"), n.Tail("/var/log/ha-log", 10)
		}))
		c.says(n, "node "+n.Peer().Name+": is dead")
	}
	for _, n := range c.Nodes() {
		c.expect(n, 0, "Heartbeat is running on this machine.\n", c.on(n).Status, "hbstatus")
	}
}

// TestGarbageFlood: garbage on the port takes nothing away from the peer's
// keepalives, memory or log.
func TestGarbageFlood(t *testing.T) {
	t.Parallel()
	cfg := calm()
	cfg.Media = []string{"ucast eth0 10.77.0.1", "ucast eth0 10.77.0.2"} // the flood's own LAN
	c := startCluster(t, chosen(t), cfg)
	before, err := c.N1.Memory()
	c.must(err)
	lines := strings.Count(c.N1.Read("/var/log/ha-log"), "\n")
	const packets = 100_000
	c.must(c.Flood(t.Context(), c.N1.Addr(lab.ServiceLink), 694, packets, 10_000))
	c.expect(c.N1, 0, "active\n", c.on(c.N1).Status, "nodestatus", "n2")
	after, err := c.N1.Memory()
	c.must(err)
	if grown := after.RSS - before.RSS; grown > 16<<20 {
		t.Errorf("memory grew by %d kB", grown>>10)
	}
	grown := strings.Count(c.N1.Read("/var/log/ha-log"), "\n") - lines
	t.Logf("%d packets: RSS %d -> %d kB, %d log lines", packets, before.RSS>>10, after.RSS>>10, grown)
	if *programs == "ours" && grown > 200 {
		t.Errorf("the log grew by %d lines", grown)
	}
	c.owns(c.N1, cfg.Addrs...)
	if c.deaths() != 0 {
		t.Error("a node was declared dead under the flood")
	}
}

// TestFullDisk: a full disk under the log stops nothing.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	cfg := calm()
	c := newCluster(t, chosen(t), cfg)
	for _, n := range c.Nodes() {
		o := c.run(n, "sh", "-c", "mount -t tmpfs -o size=64k tmpfs /var/log && head -c 100000 /dev/zero >/var/log/filler; df /var/log | tail -1")
		if !strings.Contains(o.Stdout, "100%") {
			t.Fatalf("the disk is not full: %+v", o)
		}
	}
	c.start(c.N1)
	c.start(c.N2)
	c.owns(c.N1, cfg.Addrs...)
	c.settled()
	c.must(c.N1.Crash())
	c.owns(c.N2, cfg.Addrs...)
	c.settled()
}

// marker begins scripts that note their calls where the test can read them.
const marker = "#!/bin/sh\necho \"$(basename $0) $*\" >>/var/log/calls\n"

// TestScriptHangs: a script that never ends holds up its group only: the
// keepalives go on and the peer stays quiet.
func TestScriptHangs(t *testing.T) {
	t.Parallel()
	cfg := calm()
	cfg.Services = []string{"hang"}
	c := newCluster(t, chosen(t), cfg)
	c.script("hang", marker+"[ \"$1\" = start ] && sleep 100000\n[ \"$1\" = status ] && echo stopped\nexit 0\n")
	c.start(c.N1)
	c.start(c.N2)
	c.must(c.N1.WaitLog(t.Context(), limit, "/var/log/calls", "hang start"))
	// Longer than deadtime, measured by the peer's own count of keepalives.
	c.must(c.keepalives(c.N1, int(2*cfg.Deadtime/cfg.Keepalive)))
	c.expect(c.N2, 0, "active\n", c.on(c.N2).Status, "nodestatus", "n1")
	c.owns(c.N1, cfg.Addrs...)
	if c.deaths() != 0 {
		t.Error("a node was declared dead while a script hung")
	}
}

// TestScriptFails: when a start fails the whole group is given up, last
// resource first.
func TestScriptFails(t *testing.T) {
	t.Parallel()
	cfg := calm()
	cfg.Services = []string{"good", "bad"}
	c := newCluster(t, chosen(t), cfg)
	c.script("good", marker+"[ \"$1\" = status ] && echo stopped\nexit 0\n")
	c.script("bad", marker+"[ \"$1\" = status ] && echo stopped\n[ \"$1\" = start ] && exit 7\nexit 0\n")
	c.start(c.N1)
	c.start(c.N2)
	c.says(c.N1, "ERROR: Return code 7 from /etc/ha.d/")
	c.says(c.N1, "CRIT: Giving up resources due to failure of bad")
	c.must(lab.Wait(t.Context(), limit, "the address is released", func() (bool, string) {
		return !c.N1.Holds(cfg.Addrs[0]), "n1 holds it"
	}))
	want := "bad start\nbad stop\ngood stop\n"
	c.must(lab.Wait(t.Context(), limit, "the scripts' calls", func() (bool, string) {
		var calls strings.Builder
		for line := range strings.Lines(c.N1.Read("/var/log/calls")) {
			if !strings.HasSuffix(line, "status\n") {
				calls.WriteString(line)
			}
		}
		return strings.Contains(calls.String(), want), calls.String()
	}))
}

// TestScriptTalks: ten megabytes on a script's output neither stop it nor stay
// in the daemon's memory.
func TestScriptTalks(t *testing.T) {
	t.Parallel()
	cfg := calm()
	cfg.Services = []string{"talk"}
	c := newCluster(t, chosen(t), cfg)
	c.script("talk", marker+"[ \"$1\" = status ] && echo stopped && exit 0\nhead -c 10000000 /dev/zero | tr '\\0' x\nhead -c 100000 /dev/zero | tr '\\0' y >&2\necho \"$1 done\" >>/var/log/calls\n")
	c.start(c.N1)
	c.start(c.N2)
	c.must(c.N1.WaitLog(t.Context(), limit, "/var/log/calls", "start done"))
	c.owns(c.N1, cfg.Addrs...)
	c.settled()
	m, err := c.N1.Memory()
	c.must(err)
	t.Logf("RSS %d kB in %d processes", m.RSS>>10, m.Processes)
	if m.RSS > 80<<20 {
		t.Errorf("%d kB resident", m.RSS>>10)
	}
	if c.deaths() != 0 {
		t.Error("a node was declared dead while a script talked")
	}
}

// keepalives waits until a node has sent so many keepalives from now on.
func (c *cluster) keepalives(n *lab.Node, count int) error {
	capt, err := c.Capture(n, lab.HeartbeatLink, c.on(n).Keepalive)
	if err != nil {
		return err
	}
	defer capt.Close()
	seen := 0
	return lab.Wait(c.t.Context(), limit, fmt.Sprintf("%d keepalives of %s", count, n.Name), func() (bool, string) {
		seen += len(capt.Times())
		return seen >= count, fmt.Sprint(seen, " seen")
	})
}

// TestOldGeneration: a node comes back with a state directory from a backup. What
// it says is refused as a replay; both nodes say so, and it goes on above the
// generation that the other one knows.
func TestOldGeneration(t *testing.T) {
	t.Parallel()
	cfg := calm()
	c := startCluster(t, both(), cfg)
	c.must(c.on(c.N1).Stop(t.Context(), c.N1))
	c.says(c.N2, "node n1: is dead")
	const file = "/var/lib/heartbeat/hb_generation"
	known, err := strconv.ParseUint(strings.TrimSpace(c.N1.Read(file)), 10, 64)
	c.must(err)
	c.must(c.N1.Write(file, fmt.Sprintf("%15d\n", known-10), 0o644))
	c.start(c.N1)
	c.says(c.N2, "Node n1 sends packets of an older life")
	c.says(c.N1, "This node's packets are refused as old")
	c.settled()
	c.owns(c.N1, cfg.Addrs...)
	if now, err := strconv.ParseUint(strings.TrimSpace(c.N1.Read(file)), 10, 64); err != nil || now <= known {
		t.Errorf("the generation is %d (%v), want more than %d", now, err, known)
	}
}
