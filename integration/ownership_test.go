package integration

import (
	"testing"
	"time"

	"heartbeat/integration/lab"
)

// TestOriginal runs the main scenario with heartbeat 3.0.6 on both nodes: what
// the other tests demand of ours must hold for the real program in this lab.
func TestOriginal(t *testing.T) {
	t.Parallel()
	mainJob(t, pair{original, original})
}

// TestMainJob: both start, the owner crashes, the other takes over, the first
// returns and gets everything back, both stop cleanly.
func TestMainJob(t *testing.T) {
	t.Parallel()
	mainJob(t, chosen(t))
}

func mainJob(t *testing.T, p pair) {
	cfg := calm()
	cfg.Services = []string{"web"}
	c := newCluster(t, p, cfg)
	c.script("web", lab.WebScript())
	c.expect(c.N1, 3, "heartbeat is stopped. No process\n", c.on(c.N1).Daemon, "-s")
	c.expect(c.N1, 1, "Heartbeat is stopped on this machine.\n", c.on(c.N1).Status, "hbstatus")
	c.start(c.N1)
	c.start(c.N2)
	vip := lab.ServiceAddr(0)
	c.owns(c.N1, vip)
	c.settled()

	http, err := c.ProbeHTTP(t.Context(), "http://"+vip.String()+"/", 20*time.Millisecond)
	c.must(err)
	for _, n := range c.Nodes() {
		s := c.on(n).Status
		c.expect(n, 0, "Heartbeat is running on this machine.\n", s, "hbstatus")
		c.expect(n, 0, "n2\nn1\n", s, "listnodes")
		c.becomes(n, 0, "active\n", s, "nodestatus", n.Peer().Name)
		c.becomes(n, 0, "up\n", s, "hblinkstatus", n.Peer().Name, "eth1")
		c.expect(n, 0, "6\n", s, "hbparameter", "-p", "deadtime")
	}

	c.must(c.N1.Crash())
	crashed := time.Now()
	c.owns(c.N2, vip)
	c.says(c.N2, "WARN: node n1: is dead")
	c.says(c.N2, "mach_down takeover complete for node n1.")
	c.settled()
	c.expect(c.N2, 1, "dead\n", c.on(c.N2).Status, "nodestatus", "n1")
	c.expect(c.N2, 0, "all\n", c.on(c.N2).Status, "rscstatus")

	c.must(c.N1.Boot(t.Context()))
	c.start(c.N1)
	c.owns(c.N1, vip)
	c.settled()
	c.says(c.N2, "Heartbeat restart on node n1")
	c.says(c.N2, "n2 wants to go standby [foreign]")
	c.expect(c.N1, 0, "local\n", c.on(c.N1).Status, "rscstatus")

	res, err := http.Stop()
	c.must(err)
	outage, back, open := res.Outage(crashed)
	if open || outage < cfg.Deadtime/2 || outage > limit {
		t.Errorf("HTTP outage after the crash: %v until %v (open: %v); deadtime is %v", outage, back, open, cfg.Deadtime)
	}
	if last := res.Answers[len(res.Answers)-1].Body; last != "n1" {
		t.Errorf("in the end %q answers, not n1", last)
	}

	// One that has been stopped is dead after deadtime; so this is counted before.
	if d := c.on(c.N2).PeerDeaths(c.N2); d != 1 {
		t.Errorf("n2 declared n1 dead %d times; it crashed once", d)
	}
	// Stopped cleanly the owner hands over at once and leaves nothing.
	c.must(c.on(c.N1).Stop(t.Context(), c.N1))
	if c.N1.Holds(vip) {
		t.Error("n1 kept the address when it stopped")
	}
	c.owns(c.N2, vip)
	c.must(c.on(c.N2).Stop(t.Context(), c.N2))
	for _, n := range c.Nodes() {
		if n.Holds(vip) {
			t.Errorf("%s kept the address when it stopped", n.Name)
		}
		c.ended(n)
		// 1 and not 3 when the pid file was left behind, as the original does.
		if o := c.run(n, c.on(n).Daemon, "-s"); o.Stdout != "heartbeat is stopped. No process\n" || o.Code != 1 && o.Code != 3 {
			t.Errorf("heartbeat -s on %s: %+v", n.Name, o)
		}
	}
}

// TestStandby moves two groups about with every set of hb_standby and
// hb_takeover.
func TestStandby(t *testing.T) {
	t.Parallel()
	cfg := calm()
	a, b := lab.ServiceAddr(0), lab.ServiceAddr(1)
	cfg.Addrs = nil
	cfg.Haresources = "n1 IPaddr::" + a.String() + "/16/eth0\nn2 IPaddr2::" + b.String() + "/16/eth0\n"
	c := newCluster(t, chosen(t), cfg)
	c.start(c.N1)
	c.start(c.N2)
	home := func() {
		t.Helper()
		c.owns(c.N1, a)
		c.owns(c.N2, b)
		c.settled()
	}
	home()
	standby := func(n *lab.Node, set string) {
		t.Helper()
		if o := c.run(n, c.on(n).Standby, set); o.Code != 0 {
			t.Errorf("hb_standby %s on %s: %+v", set, n.Name, o)
		}
	}
	takeover := func(n *lab.Node, set string) {
		t.Helper()
		if o := c.run(n, c.on(n).Takeover, set); o.Code != 0 {
			t.Errorf("hb_takeover %s on %s: %+v", set, n.Name, o)
		}
	}
	standby(c.N1, "local")
	c.owns(c.N2, a, b)
	c.settled()
	standby(c.N2, "foreign")
	home()
	standby(c.N2, "all")
	c.owns(c.N1, a, b)
	c.settled()
	standby(c.N1, "failback")
	home()
	takeover(c.N1, "foreign")
	c.owns(c.N1, a, b)
	c.settled()
	takeover(c.N2, "local")
	home()
	takeover(c.N2, "all")
	c.owns(c.N2, a, b)
	c.settled()
	takeover(c.N1, "local")
	home()
	if o := c.run(c.N1, c.on(c.N1).Standby, "everything"); o.Code != 1 {
		t.Errorf("hb_standby with a bad word: %+v", o)
	}
	if c.deaths() != 0 {
		t.Error("a node was declared dead, and none was")
	}
}

// TestFailbackOff: with auto_failback off a returning node leaves its group
// where it is.
func TestFailbackOff(t *testing.T) {
	t.Parallel()
	cfg := calm()
	cfg.Failback = "off"
	c := startCluster(t, chosen(t), cfg)
	c.must(c.N1.Crash())
	c.owns(c.N2, cfg.Addrs...)
	c.must(c.N1.Boot(t.Context()))
	c.start(c.N1)
	c.says(c.N2, "Status update for node n1: status active")
	c.settled()
	c.owns(c.N2, cfg.Addrs...)
	c.expect(c.N1, 0, "none\n", c.on(c.N1).Status, "rscstatus")
}
