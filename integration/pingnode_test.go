package integration

import (
	"testing"

	"heartbeat/integration/lab"
)

// TestPingNodes: with ipfail's line in ha.cf the node that no longer reaches
// the ping node gives everything to the one that does, and gets it back when it
// reaches the ping node again.
func TestPingNodes(t *testing.T) {
	t.Parallel()
	cfg := calm()
	cfg.Extra = []string{"ping " + lab.ClientAddr.String(), "deadping 4", "respawn hacluster /usr/libexec/heartbeat/ipfail"}
	c := startCluster(t, chosen(t), cfg)
	for _, n := range c.Nodes() {
		c.must(lab.Wait(t.Context(), limit, n.Name+" reaches the ping node", func() (bool, string) {
			o := c.run(n, c.on(n).Status, "nodestatus", lab.ClientAddr.String())
			return o.Stdout == "ping\n", o.Stdout
		}))
	}
	c.must(c.Unplug(c.N1, lab.ServiceLink))
	c.says(c.N1, "Giving up because we were told that we have less ping nodes.")
	c.owns(c.N2, cfg.Addrs...)
	c.must(c.WaitAnswerer(t.Context(), c.N2, limit, cfg.Addrs[0]))
	c.settled()
	c.must(c.Plug(c.N1, lab.ServiceLink))
	c.owns(c.N1, cfg.Addrs...)
	c.settled()
	c.must(c.WaitAnswerer(t.Context(), c.N1, limit, cfg.Addrs[0]))
	if c.deaths() != 0 {
		t.Error("a node was declared dead; only a ping node was")
	}
}
