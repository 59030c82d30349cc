// Package boot makes of the configuration files what an engine needs of them:
// for the daemon, and for the commands that let the engine tell what it would
// do with these files.
package boot

import (
	"time"

	"heartbeat/cluster"
	"heartbeat/cluster/config"
	"heartbeat/cluster/engine"
)

// Config is what the engine of node c.Self needs of the configuration.
func Config(c *config.Config) engine.Config {
	e := engine.Config{
		Self: c.Self, Nodes: c.Nodes, Groups: c.Groups,
		Keepalive: c.Keepalive, Deadtime: c.Deadtime, Warntime: c.Warntime, Initdead: c.Initdead, Deadping: c.Deadping,
		MaxRexmitDelay: c.MaxRexmitDelay, HopFudge: c.HopFudge, Failback: c.Failback,
		InnerAuth: !c.NetstringOnly, LogBadPacket: c.LogBadPacket, IPFail: ipfail(c), Keys: Keys(c.Auth),
	}
	for _, p := range c.PingNodes {
		e.PingNodes = append(e.PingNodes, engine.PingNode{Name: p.Name, Group: p.Group})
	}
	for _, m := range c.Media {
		e.Links = append(e.Links, engine.Link{Name: m.Link(), Serial: m.Kind == "serial"})
	}
	_, e.Stonith = FenceDevice(c)
	for _, name := range c.Nodes {
		e.Stonith = e.Stonith || name != c.Self && len(c.Fences(name)) > 0
	}
	e.FenceDelay, e.FenceWait = time.Duration(c.TOML.Fencing.Delay), c.TOML.Fencing.AtStart == "wait"
	e.StopReboot = c.TOML.Failure.Stop == "reboot"
	e.Conflict, _ = cluster.ParseConflict(c.TOML.Guard.AddressConflict) // the words were checked
	return e
}

// Keys are the keys of authkeys.
func Keys(a config.Auth) engine.Keys {
	k := engine.Keys{Outbound: a.Outbound}
	for _, key := range a.Keys {
		k.Keys = append(k.Keys, engine.Key(key))
	}
	return k
}

// FenceDevice is the stonith or stonith_host line that node c.Self uses: the
// last one that names it, or everybody. False when there is none.
func FenceDevice(c *config.Config) (device config.Stonith, ok bool) {
	for _, s := range c.Stonith {
		if s.Host == "" || s.Host == "*" || s.Host == c.Self {
			device, ok = s, true
		}
	}
	return device, ok
}

// ipfail reports whether a respawn line switches ipfail on.
func ipfail(c *config.Config) bool {
	for _, line := range c.Respawn {
		if line.Builtin() == config.ClientIPFail {
			return true
		}
	}
	return false
}
