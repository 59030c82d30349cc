package config

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// buildParams fills Params: the text as written, the derived values, the
// defaults, in the original's order.
func (c *Config) buildParams() {
	c.Params = nil
	for _, d := range recorded {
		if value := cmp.Or(c.written[d.Name].text, c.derived[d.Name], d.Value); value != "" {
			c.Params = append(c.Params, Param{d.Name, value})
		}
	}
}

// Param is the recorded text of a directive: what cl_status hbparameter
// prints.
func (c *Config) Param(name string) (string, bool) {
	for _, p := range c.Params {
		if p.Name == name {
			return p.Value, true
		}
	}
	return "", false
}

// ClientAuth is who may sign on as the named API client: its apiauth line, or
// the built-in one.
func (c *Config) ClientAuth(name string) (APIAuth, bool) {
	for _, table := range [][]APIAuth{c.APIAuth, builtinAPIAuth} {
		for _, a := range table {
			if a.Name == name {
				return a, true
			}
		}
	}
	return APIAuth{}, false
}

// builtinAPIAuth holds where ha.cf has no line for the client.
var builtinAPIAuth = []APIAuth{
	{Name: "ipfail", UIDs: []string{"hacluster"}},
	{Name: "ccm", UIDs: []string{"hacluster"}},
	{Name: "ping", GIDs: []string{"haclient"}},
	{Name: "lha-snmpagent", UIDs: []string{"root"}},
	{Name: "anon", UIDs: []string{"root"}, GIDs: []string{"haclient"}},
}

// Origin is one effective value and where it came from.
type Origin struct {
	Name, Value string
	// From is a place in a file, "default", or what it was worked out from.
	From string
}

// Origins lists every effective value with where it came from: what
// "show --origin" prints. Keys are shown by fingerprint.
func (c *Config) Origins() []Origin {
	var out []Origin
	add := func(name, value, from string) { out = append(out, Origin{name, value, from}) }
	for i, n := range c.Nodes {
		add("node", n, c.nodePos[i].String())
	}
	for _, m := range c.Media {
		add(m.Kind, m.describe(), m.Pos.String())
	}
	for _, n := range c.PingNodes {
		kind := "ping"
		if n.V6 {
			kind = "ping6"
		}
		if n.Group {
			kind = "ping_group"
		}
		add(kind, strings.Join(n.Hosts, " "), c.path("ha.cf"))
	}
	derivedFrom := map[string]string{"deadping": "deadtime", "initdead": "deadtime", "warntime": "half of deadtime",
		"use_logd": "no other log directive", "udpport": "service ha-cluster"}
	for _, p := range c.Params {
		from := "default"
		if w, ok := c.written[p.Name]; ok {
			from = w.pos.String()
		} else if _, ok := c.derived[p.Name]; ok {
			from = "derived: " + derivedFrom[p.Name]
		}
		add(p.Name, p.Value, from)
	}
	keys := c.path("authkeys")
	add("auth", strconv.Itoa(c.Auth.Outbound), keys)
	for _, k := range c.Auth.Keys {
		add(fmt.Sprintf("key %d", k.Index), k.Method+" "+k.fingerprint(), keys)
	}
	for i, g := range c.Groups {
		add("group "+g.Key, g.Node+": "+strings.Join(g.Resources, " "), c.groupPos[i].node.String())
	}
	t := c.TOML
	for i, f := range t.Fences {
		add("fence "+f.Node, f.describe(), c.fencePos[i].String())
	}
	for _, v := range []Param{
		{"control_socket", t.ControlSocket}, {"log_format", t.LogFormat}, {"supervise", fmt.Sprint(t.Supervise)},
		{"fencing.delay", t.Fencing.Delay.String()}, {"fencing.at_start", t.Fencing.AtStart}, {"failure.stop", t.Failure.Stop},
		{"announce.burst", strconv.Itoa(t.Announce.Burst)}, {"announce.interval", t.Announce.Interval.String()},
		{"announce.refresh", t.Announce.Refresh.String()}, {"scripts.start", t.Scripts.Start.String()},
		{"scripts.stop", t.Scripts.Stop.String()}, {"scripts.status", t.Scripts.Status.String()},
		{"guard.address_lifetime", t.Guard.AddressLifetime}, {"guard.address_conflict", t.Guard.AddressConflict},
	} {
		from := "default"
		if pos, ok := c.tomlPos[v.Name]; ok {
			from = pos.String()
		}
		add(v.Name, v.Value, from)
	}
	return out
}

// describe is a medium's words after its kind.
func (m Medium) describe() string {
	switch m.Kind {
	case "serial":
		return fmt.Sprintf("%s (%d baud)", m.Interface, m.Baud)
	case "mcast", "mcast6":
		return fmt.Sprintf("%s %s %d %d %d", m.Interface, m.Addr, m.Port, m.TTL, loopNumber(m.Loop))
	case "ucast", "ucast6":
		return fmt.Sprintf("%s %s (port %d)", m.Interface, m.Addr, m.Port)
	}
	return fmt.Sprintf("%s (port %d)", m.Interface, m.Port)
}

func loopNumber(on bool) int {
	if on {
		return 1
	}
	return 0
}

// fingerprint names a key without telling it.
func (k Key) fingerprint() string {
	sum := sha256.Sum256([]byte("heartbeat key\x00" + k.Method + "\x00" + k.Secret))
	return hex.EncodeToString(sum[:4])
}

// FormatAuthKeys writes a as an authkeys file that reads back as the same.
func FormatAuthKeys(a Auth) string {
	var b strings.Builder
	fmt.Fprintf(&b, "auth %d\n", a.Outbound)
	for _, k := range a.Keys {
		fmt.Fprintln(&b, strings.TrimRight(fmt.Sprintf("%d %s %s", k.Index, k.Method, k.Secret), " "))
	}
	return b.String()
}

// Digest is a short digest of what both nodes must have alike: the groups of
// haresources, the timing directives and the keys (by fingerprint). The order
// of lines and the spelling of bare addresses do not count.
func (c *Config) Digest() string {
	var lines []string
	for _, g := range c.Groups {
		words := []string{"group", g.Node}
		for _, r := range g.Resources {
			typ, args := ParseResource(r)
			words = append(words, strings.Join(append([]string{typ}, args...), "::"))
		}
		lines = append(lines, strings.Join(words, " "))
	}
	for _, k := range c.Auth.Keys {
		lines = append(lines, fmt.Sprintf("key %d %s", k.Index, k.fingerprint()))
	}
	slices.Sort(lines)
	lines = append(lines, fmt.Sprintf("time %v %v %v %v %v", c.Keepalive, c.Deadtime, c.Warntime, c.Initdead, c.Deadping),
		fmt.Sprintf("auto_failback %v", c.Failback))
	if len(c.Stonith)+len(c.TOML.Fences) > 0 {
		lines = append(lines, fmt.Sprintf("fencing %v", c.TOML.Fencing.Delay))
	}
	sum := sha256.Sum256([]byte(strings.Join(lines, "\n")))
	return hex.EncodeToString(sum[:8])
}
