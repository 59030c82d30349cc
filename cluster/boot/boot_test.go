package boot

import (
	"testing"

	"heartbeat/cluster/config"
)

// TestFenceDevice: the last line that names this node or everybody counts.
func TestFenceDevice(t *testing.T) {
	c := &config.Config{Self: "n1", Stonith: []config.Stonith{
		{Host: "*", Type: "null", Params: "n1 n2"},
		{Host: "n1", Type: "ssh", Params: "n2"},
		{Host: "n2", Type: "rhcs", Params: "x"},
	}}
	if d, ok := FenceDevice(c); !ok || d.Type != "ssh" {
		t.Errorf("device %v %v, want ssh", d, ok)
	}
	c.Self = "n3"
	if d, ok := FenceDevice(c); !ok || d.Type != "null" {
		t.Errorf("device %v %v, want null", d, ok)
	}
	c.Stonith = c.Stonith[2:]
	if d, ok := FenceDevice(c); ok || Config(c).Stonith {
		t.Errorf("device %v, want none", d)
	}
}

// TestConfig: what several lines of ha.cf decide together.
func TestConfig(t *testing.T) {
	c := &config.Config{
		Self: "n1", Respawn: []config.Client{{User: "hacluster", Command: "/usr/lib/heartbeat/ipfail"}},
		Media:     []config.Medium{{Kind: "bcast", Interface: "eth1"}, {Kind: "serial", Interface: "/dev/ttyS0"}},
		PingNodes: []config.PingNode{{Name: "gw", Group: true}},
		Stonith:   []config.Stonith{{Type: "external/ipmi"}},
		Auth:      config.Auth{Outbound: 2, Keys: []config.Key{{Index: 2, Method: "sha1", Secret: "s"}}},
	}
	e := Config(c)
	if !e.IPFail || !e.Stonith || !e.InnerAuth {
		t.Errorf("ipfail %v, stonith %v, inner auth %v; want all", e.IPFail, e.Stonith, e.InnerAuth)
	}
	if len(e.Links) != 2 || e.Links[0].Name != "eth1" || !e.Links[1].Serial || e.Links[0].Serial {
		t.Errorf("links %v", e.Links)
	}
	if len(e.PingNodes) != 1 || !e.PingNodes[0].Group || e.Keys.Outbound != 2 || e.Keys.Keys[0].Secret != "s" {
		t.Errorf("ping nodes %v, keys %v", e.PingNodes, e.Keys)
	}
}
