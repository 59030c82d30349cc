package integration

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"heartbeat/integration/lab"
)

// TestStonith: cluster-glue's program resets the dead node, and nothing is taken
// before that.
func TestStonith(t *testing.T) {
	t.Parallel()
	cfg := calm()
	cfg.Extra = []string{"stonith_host * null n1 n2"}
	c := startCluster(t, chosen(t), cfg)
	c.must(c.N1.Crash())
	c.owns(c.N2, cfg.Addrs...)
	at := -1
	for _, text := range []string{"WARN: node n1: is dead", "info: Resetting node n1 with [", "info: node n1 now reset.", "info: Resources being acquired from n1.", "mach_down takeover complete"} {
		c.says(c.N2, text)
		i := strings.LastIndex(c.N2.Read("/var/log/ha-log"), text)
		if i < at {
			t.Errorf("%q comes too early", text)
		}
		at = i
	}
	// Both daemons' own word of the end, ours a little earlier than the original's.
	c.says(c.N2, "info: Managed STONITH n1 process ")
	c.says(c.N2, "info: Managed STONITH-stat process ")
}

// labAgent is a fence agent that has the lab cut the power of a node.
const labAgent = `#!/bin/sh
input=$(cat)
case $input in *action=monitor*) exit 0;; esac
[ -e /var/log/fence-broken ] && { echo "the switch does not answer" >&2; exit 1; }
echo "$input" >/var/log/fence-wanted.new && mv /var/log/fence-wanted.new /var/log/fence-wanted
until [ -e /var/log/fence-done ]; do sleep 0.05; done
`

// fenced configures both nodes to reset each other, and cuts a node's power when
// the other one wants it. It counts how often.
func (c *cluster) fenced(toml string) (resets map[*lab.Node]*atomic.Int32) {
	c.t.Helper()
	resets = map[*lab.Node]*atomic.Int32{}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{}, 2)
	for _, n := range c.Nodes() {
		resets[n] = new(atomic.Int32)
		c.must(n.Write("/etc/ha.d/fence_lab", labAgent, 0o755))
		text := toml
		for _, victim := range c.Nodes() {
			text += fmt.Sprintf("[[fence]]\nnode = %q\nagent = \"/etc/ha.d/fence_lab\"\noptions = { plug = %q, password = \"swordfish\" }\n", victim.Name, victim.Name)
		}
		c.must(n.Write("/etc/ha.d/heartbeat.toml", text, 0o600))
		go func() { // ends with the test
			defer func() { done <- struct{}{} }()
			for ctx.Err() == nil {
				time.Sleep(20 * time.Millisecond)
				if n.Read("/var/log/fence-wanted") == "" {
					continue
				}
				_ = os.Remove(n.Path("/var/log/fence-wanted"))
				resets[n.Peer()].Add(1)
				_ = n.Peer().Crash() // it may be down already
				_ = n.Write("/var/log/fence-done", "", 0o644)
			}
		}()
	}
	c.t.Cleanup(func() { cancel(); <-done; <-done })
	return resets
}

// TestFenceLivePair: all links are cut between two nodes that live. The one with
// the address resets the other; it is never the other way round, nor both, and
// the client sees nothing. Switched on again the reset node finds its place.
func TestFenceLivePair(t *testing.T) {
	t.Parallel()
	cfg := calm()
	c := newCluster(t, both(), cfg)
	resets := c.fenced("")
	c.startBoth(cfg)
	p, err := c.Probe(t.Context(), lab.ProbeOptions{Addrs: cfg.Addrs, Interval: 5 * time.Millisecond, Nodes: true})
	c.must(err)
	t0, kept := time.Now(), c.kept(c.N1, cfg)
	c.must(c.Partition())
	c.says(c.N1, "info: node n2 now reset.")
	c.settled()
	res, err := p.Stop()
	c.must(err)
	if out := res.Outage(t0); out.Worst > silenceMax || res.Owned("n2") != 0 || res.Dual() != 0 {
		t.Errorf("outage %v, n2 owned the address %d times, dual ownership %v", out.Worst, res.Owned("n2"), res.Dual())
	}
	kept()
	c.must(c.N2.Boot(t.Context()))
	c.must(c.Reunite())
	c.start(c.N2)
	c.says(c.N1, "Heartbeat restart on node n2")
	c.settled()
	c.owns(c.N1, cfg.Addrs...)
	if a, b := resets[c.N1].Load(), resets[c.N2].Load(); a != 0 || b != 1 {
		t.Errorf("n1 was reset %d times, n2 %d times", a, b)
	}
	if log := c.N1.Read("/var/log/ha-log") + c.N2.Read("/var/log/ha-log"); strings.Contains(log, "swordfish") {
		t.Error("the log tells the device's password")
	}
	o := c.run(c.N1, ours.Hbctl(), "why", "-n", "100")
	for _, want := range []string{"resets n2", "n2 was reset"} {
		if !strings.Contains(o.Stdout, want) {
			t.Errorf("hbctl why does not say %q:\n%s", want, o.Stdout)
		}
	}
}

// TestFenceDeviceGone: the owner dies together with the device that would reset
// it. Nothing is taken, and the status says why, until an operator says that it
// is down.
func TestFenceDeviceGone(t *testing.T) {
	t.Parallel()
	cfg := calm()
	c := newCluster(t, both(), cfg)
	c.fenced("[fencing]\ndelay = 1\n")
	c.startBoth(cfg)
	c.must(c.N2.Write("/var/log/fence-broken", "", 0o644))
	if o := c.run(c.N2, ours.Hbctl(), "fence-ack", "--yes", "n1"); o.Code != 1 || !strings.Contains(o.Stderr, "n1 is not dead but active") {
		t.Errorf("fence-ack of a living node: %+v", o)
	}
	c.must(c.N1.Crash())
	const failed = "ERROR: STONITH of n1 failed.  Retrying..."
	c.must(lab.Wait(t.Context(), limit, "it has been tried again", func() (bool, string) {
		k := strings.Count(c.N2.Read("/var/log/ha-log"), failed)
		return k >= 2, fmt.Sprint(k, " attempts have failed")
	}))
	if c.N2.Holds(cfg.Addrs[0]) {
		t.Error("the address was taken from a node that was not reset")
	}
	c.must(lab.Wait(t.Context(), limit, "the status says what it waits for", func() (bool, string) {
		o := c.run(c.N2, ours.Hbctl(), "status")
		return strings.Contains(o.Stdout, "action reboot: exit status 1: the switch does not answer") && strings.Contains(o.Stdout, "hbctl fence-ack n1"), o.Stdout + o.Stderr
	}))
	if o := c.run(c.N2, "/bin/sh", "-c", "echo no | "+ours.Hbctl()+" fence-ack n1"); o.Code != 1 || !strings.Contains(o.Stderr, "Only go on when you have seen to it that n1 is down") {
		t.Errorf("fence-ack without a yes: %+v", o)
	}
	if o := c.run(c.N2, "/bin/sh", "-c", "echo yes | "+ours.Hbctl()+" fence-ack n1"); o.Code != 0 {
		t.Errorf("fence-ack: %+v", o)
	}
	c.owns(c.N2, cfg.Addrs...)
	c.says(c.N2, "confirms that node n1 is down: its resources are taken without a reset")
	if o := c.run(c.N2, ours.Hbctl(), "why"); !strings.Contains(o.Stdout, "confirms that n1 is down") {
		t.Errorf("hbctl why:\n%s", o.Stdout)
	}
}

// TestStopReboot: a group that cannot be stopped restarts its machine where a
// setting says so, and the other node takes over. (Of a machine a lab's node has
// its processes: they end.)
func TestStopReboot(t *testing.T) {
	t.Parallel()
	cfg := calm()
	cfg.Services = []string{"stuck"}
	c := newCluster(t, both(), cfg)
	c.script("stuck", "#!/bin/sh\n[ \"$1\" = status ] && { [ -e /run/stuck ] && echo running OK || echo stopped; exit 0; }\n[ \"$1\" = start ] && touch /run/stuck && exit 0\nexit 1\n")
	for _, n := range c.Nodes() {
		c.must(n.Write("/etc/ha.d/heartbeat.toml", "[failure]\nstop = \"reboot\"\n", 0o600))
	}
	c.startBoth(cfg)
	if o := c.run(c.N1, c.on(c.N1).Standby, "all"); o.Code != 0 {
		t.Fatalf("hb_standby: %+v", o)
	}
	c.says(c.N1, "CRIT: Rebooting system.  Reason: stop of resource group")
	c.must(lab.Wait(t.Context(), limit, "the machine has restarted", func() (bool, string) {
		list, err := c.N1.Processes()
		return len(list) == 0, fmt.Sprint(list, err)
	}))
	c.must(lab.Wait(t.Context(), limit, "n2 has taken over", func() (bool, string) {
		return c.N2.Holds(cfg.Addrs[0]), c.N2.Tail("/var/log/ha-log", 10)
	}))
	c.must(lab.Wait(t.Context(), limit, "the service runs on n2", func() (bool, string) {
		return c.run(c.N2, "test", "-e", "/run/stuck").Code == 0, c.N2.Tail("/var/log/ha-log", 10)
	}))
}
