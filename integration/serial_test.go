package integration

import (
	"testing"
	"time"

	"heartbeat/integration/lab"
)

// serialLine adds a serial line to the configuration's media.
func serialLine(cfg *lab.Cluster) {
	cfg.Media = append(cfg.Media, "baud 19200", "serial "+lab.SerialDevice)
}

// link waits until a node's command says that its peer's link is up or dead.
func (c *cluster) link(n *lab.Node, link, state string) {
	c.t.Helper()
	c.must(lab.Wait(c.t.Context(), limit, n.Name+" sees its peer's "+link+" "+state, func() (bool, string) {
		o := c.run(n, c.on(n).Status, "hblinkstatus", n.Peer().Name, link)
		return o.Stdout == state+"\n", o.Stdout + o.Stderr
	}))
}

// TestSerialOnly: a null modem cable is all that joins two nodes. It carries
// their keepalives, shows the crash of one, and when it is interrupted and
// mended they find each other again.
func TestSerialOnly(t *testing.T) {
	t.Parallel()
	cfg := calm()
	cfg.Keepalive = 500 * time.Millisecond // a status takes a tenth of a second on such a line
	serialLine(&cfg)
	c := newCluster(t, chosen(t), cfg)
	line, err := c.SerialLine()
	c.must(err)
	c.startBoth(cfg)
	for _, n := range c.Nodes() {
		c.expect(n, 0, "active\n", c.on(n).Status, "nodestatus", n.Peer().Name)
		c.link(n, lab.SerialDevice, "up")
	}
	if c.deaths() != 0 {
		t.Error("a node was declared dead with the line in order")
	}

	c.must(c.N1.Crash())
	c.owns(c.N2, cfg.Addrs...)
	c.settled()
	c.must(c.N1.Boot(t.Context()))
	c.start(c.N1)
	c.owns(c.N1, cfg.Addrs...)
	c.settled()

	// As with every link cut: both own, and once mended one of them does.
	line.Cut()
	for _, n := range c.Nodes() {
		c.says(n, "Link "+n.Peer().Name+":"+lab.SerialDevice+" dead.")
	}
	c.must(lab.Wait(t.Context(), limit, "both nodes own", func() (bool, string) {
		return len(c.Owners(cfg.Addrs[0])) == 2, "one owns"
	}))
	line.Heal()
	c.owns(c.N1, cfg.Addrs...)
	c.settled()
	c.owns(c.N1, cfg.Addrs...)
	for _, n := range c.Nodes() {
		c.link(n, lab.SerialDevice, "up")
	}
}

// TestSerialBesideUnicast: of a serial line and a network either may fail.
func TestSerialBesideUnicast(t *testing.T) {
	t.Parallel()
	cfg := calm()
	cfg.Media = []string{"ucast eth1 10.78.0.1", "ucast eth1 10.78.0.2"}
	serialLine(&cfg)
	c := newCluster(t, chosen(t), cfg)
	line, err := c.SerialLine()
	c.must(err)
	c.startBoth(cfg)
	for _, f := range []struct {
		link      string
		cut, heal func() error
	}{
		{lab.SerialDevice, func() error { line.Cut(); return nil }, func() error { line.Heal(); return nil }},
		{lab.HeartbeatLink, func() error { return c.Cut(lab.HeartbeatLink) }, func() error { return c.Heal(lab.HeartbeatLink) }},
	} {
		c.must(f.cut())
		for _, n := range c.Nodes() {
			c.link(n, f.link, "dead")
			c.expect(n, 0, "active\n", c.on(n).Status, "nodestatus", n.Peer().Name)
		}
		c.must(f.heal())
		for _, n := range c.Nodes() {
			c.link(n, f.link, "up")
		}
	}
	c.owns(c.N1, cfg.Addrs...)
	if c.deaths() != 0 {
		t.Error("a node was declared dead while a link was left")
	}
}
