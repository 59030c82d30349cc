package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"heartbeat/cluster"
	"heartbeat/cluster/config"
	"heartbeat/cluster/engine"
	"heartbeat/cluster/node/logging"
	"heartbeat/resources"
	"heartbeat/resources/ipaddr"
	"heartbeat/transport"
	"heartbeat/transport/ping"
	"heartbeat/transport/serial"
	"heartbeat/transport/udp"
)

// openMedia opens all media of the configuration, and continues those that were
// handed over.
func openMedia(c *config.Config, from handed) ([]transport.Medium, error) {
	defer from.close()
	var specs []udp.Spec
	for _, m := range c.Media {
		if m.Kind != "serial" {
			specs = append(specs, udp.Spec{Kind: m.Kind, Interface: m.Interface, Port: m.Port, Addr: m.Addr, TTL: m.TTL, Loop: m.Loop})
		}
	}
	media, err := udp.Open(specs, from.udp)
	if err != nil {
		return nil, err
	}
	fail := func(err error) ([]transport.Medium, error) {
		for _, m := range media {
			_ = m.Close() // nothing was sent on it
		}
		return nil, err
	}
	for _, m := range c.Media {
		if m.Kind != "serial" {
			continue
		}
		line, err := serial.Continue(serial.Spec{Device: m.Interface, Baud: m.Baud}, from.lines["serial "+m.Interface])
		if err != nil {
			return fail(err)
		}
		media = append(media, line)
	}
	for _, p := range c.PingNodes {
		kind := "ping"
		switch {
		case p.Group:
			kind = "ping_group"
		case p.V6:
			kind = "ping6"
		}
		node, err := ping.Continue(ping.Spec{Kind: kind, Name: p.Name, Hosts: p.Hosts}, from.pings[kind+" "+p.Name])
		if err != nil {
			return fail(err)
		}
		media = append(media, node)
	}
	return media, nil
}

// scriptDir is where scripts run, as the original's do.
func (d *daemonProcess) scriptDir() string { return filepath.Join(d.paths.State, "cores", "root") }

// network is what the service addresses have in common.
func (d *daemonProcess) network() *ipaddr.Network {
	t := d.config.TOML
	o := ipaddr.Options{
		Announce: ipaddr.Announce{
			Burst: t.Announce.Burst, Interval: time.Duration(t.Announce.Interval), Refresh: time.Duration(t.Announce.Refresh),
		},
		Deadtime: d.config.Deadtime,
		Watch:    t.Guard.AddressConflict != "off",
		Claim: func(c *ipaddr.Claimed) { // never before the node's first keepalive
			d.node.Note("address", fmt.Sprintf("%v is ours on %s, and %v claims it too", c.Addr, c.Link, c.MAC), "a packet of it was seen on the service network")
		},
		Log: d.event,
	}
	if t.Guard.AddressLifetime == "auto" {
		var err error
		if o.Lifetime, err = ipaddr.LifetimeFor(d.config.Deadtime, d.config.Keepalive); err != nil {
			d.guardMissing = fmt.Sprintf("service addresses have no lifetime: %v; a daemon that is killed or hangs keeps its addresses while the other node takes them", err)
			d.log.Printf(cluster.Warn, "%s", d.guardMissing)
		}
	}
	return ipaddr.New(o)
}

// addressTrouble is what is wrong with the guard of the service addresses.
func (d *daemonProcess) addressTrouble() string {
	if d.guardMissing != "" {
		return d.guardMissing
	}
	return d.addresses.Trouble()
}

// probe asks the service network who answers for the addresses of groups. The error
// says why none could be asked for, if there are any.
func (d *daemonProcess) probe(groups []*resources.Group) func(context.Context, []string) ([]cluster.GroupResult, error) {
	return func(ctx context.Context, keys []string) ([]cluster.GroupResult, error) {
		results := make([]cluster.GroupResult, len(keys))
		var all []resources.Resource
		var of []int // index of the result each belongs to
		for i, key := range keys {
			results[i].Key = key
			for _, g := range groups {
				if g.Key() != key {
					continue
				}
				list, err := g.Resources(ctx)
				if err != nil {
					results[i].Err = err.Error()
				}
				for range list {
					of = append(of, i)
				}
				all = append(all, list...)
			}
		}
		errs, asked := d.addresses.Probe(ctx, all)
		var failed error
		for j, err := range errs {
			r := &results[of[j]]
			_, claimed := errors.AsType[*ipaddr.Claimed](err)
			if err != nil && !claimed && failed == nil {
				failed = err
			}
			if err != nil && (claimed && !r.Running || r.Err == "") {
				r.Running, r.Err = claimed, err.Error()
			}
		}
		if asked > 0 {
			return results, nil
		}
		return results, failed
	}
}

// groups are the resource groups of haresources, in file order.
func (d *daemonProcess) groups() []*resources.Group {
	if d.flags.unmanaged {
		return nil
	}
	t := d.config.TOML
	if d.addresses == nil {
		d.addresses = d.network()
	}
	lib := resources.NewLibrary(resources.Options{
		ResourceDir: filepath.Join(d.paths.Config, "resource.d"),
		InitDir:     filepath.Join(d.root, "/etc/init.d"),
		Builtin:     d.addresses.Factories(),
		Env:         d.scriptEnv, Dir: d.scriptDir(),
		Budgets: resources.Budgets{Start: time.Duration(t.Scripts.Start), Stop: time.Duration(t.Scripts.Stop), Status: time.Duration(t.Scripts.Status)},
		Log:     d.event,
	})
	var groups []*resources.Group
	for _, g := range d.config.Groups {
		groups = append(groups, lib.Group(g.Node, g.Resources))
	}
	return groups
}

// event writes a line of the resource groups as the original's scripts would.
func (d *daemonProcess) event(e resources.Event) {
	r := logging.Record{Level: levelWords[e.Level], Script: e.Tag, Word: e.Level + ":", Text: e.Classic, Msg: e.Msg}
	for i := 0; i+1 < len(e.Attrs); i += 2 {
		if key, ok := e.Attrs[i].(string); ok {
			r.Attrs = append(r.Attrs, logging.Attr{Key: key, Value: e.Attrs[i+1]})
		}
	}
	d.log.Write(r)
}

// heldLimit bounds the question what a crashed predecessor left running.
const heldLimit = 5 * time.Second

// findHeld looks for what a crashed predecessor left running. A side of which
// all groups run is held on: the engine keeps it unless the other node claims
// it. A side of which only some run is released first: this node cannot be sure
// what it owns, and asks afterwards. So is a group of which the address has run out
// and the rest has not.
func (d *daemonProcess) findHeld(groups []*resources.Group, crashed bool) cluster.Set {
	ctx, cancel := context.WithTimeout(context.Background(), heldLimit)
	defer cancel()
	running := map[cluster.Set][]*resources.Group{}
	total := map[cluster.Set]int{}
	for i, g := range groups {
		side := cluster.Foreign
		if d.config.Groups[i].Node == d.config.Self {
			side = cluster.Local
		}
		total[side]++
		found, err := g.FirstRunning(ctx)
		if err != nil {
			d.log.Printf(cluster.Warn, "cannot tell whether group %s runs already: %v", g.Key(), err)
		}
		if found {
			running[side] = append(running[side], g)
		} else if crashed && d.config.TOML.Guard.AddressLifetime != "off" {
			d.releaseRest(g)
		}
	}
	held := cluster.None
	for _, side := range []cluster.Set{cluster.Local, cluster.Foreign} {
		switch len(running[side]) {
		case 0:
		case total[side]:
			held |= side
			d.log.Printf(cluster.Warn, "%s resources were found running at start: they are kept unless the other node claims them", side)
			d.keep(running[side], false)
		default:
			d.log.Printf(cluster.Warn, "only some of the %s resources were found running at start: they are released", side)
			for _, g := range running[side] {
				if err := g.Give(context.Background()); err != nil {
					d.log.Printf(cluster.Error, "%v", err)
				}
			}
		}
	}
	return held
}

// releaseRest stops what runs of a group whose first resource does not.
func (d *daemonProcess) releaseRest(g *resources.Group) {
	// Scripts are asked here, and the other node waits for a keepalive.
	ctx, cancel := context.WithTimeout(context.Background(), d.config.Deadtime/8)
	defer cancel()
	n, _, err := g.Status(ctx)
	if err != nil {
		d.log.Printf(cluster.Warn, "cannot tell what of group %s runs already: %v", g.Key(), err)
	}
	if n == 0 {
		return
	}
	d.log.Printf(cluster.Warn, "only a part of group %s was found running after a crash: it is released", g.Key())
	if err := g.Give(context.Background()); err != nil {
		d.log.Printf(cluster.Error, "%v", err)
	}
}

// keep makes the lifetimes of what an earlier process started be renewed.
func (d *daemonProcess) keep(groups []*resources.Group, watched bool) {
	ctx, cancel := context.WithTimeout(context.Background(), heldLimit)
	defer cancel()
	for _, g := range groups {
		if err := g.Keep(ctx, watched); err != nil {
			d.log.Printf(cluster.Warn, "%v", err)
		}
	}
}

// keepRunning is keep for what a predecessor in place owned.
func (d *daemonProcess) keepRunning(groups []*resources.Group, v engine.View) {
	var running []*resources.Group
	for _, g := range groups {
		if slices.ContainsFunc(v.Groups, func(s engine.GroupView) bool { return s.Key == g.Key() && s.Owner == v.Self && s.State == "running" }) {
			running = append(running, g)
		}
	}
	d.keep(running, true)
}

// scriptEnv is the environment of all scripts, beside what they inherit.
func (d *daemonProcess) scriptEnv() []string {
	c := d.config
	env := []string{
		"HA_CURHOST=" + c.Self,
		"HA_DIR=" + d.paths.Config,
		"HA_FUNCS=" + d.paths.Config + "//shellfuncs",
		"HA_DATEFMT=%Y/%m/%d_%T\t",
		"HA_LOGFILE=" + orNull(c.Logfile),
		"HA_DEBUGLOG=" + orNull(c.Debugfile),
		"HA_RESOURCEDIR=" + filepath.Join(d.paths.Config, "resource.d"),
		"HA_RCDIR=" + filepath.Join(d.paths.Config, "rc.d"),
		"HA_FIFO=" + d.paths.FIFO(),
		"HA_RSCTMP=" + filepath.Join(d.paths.Run, "rsctmp"),
		"HA_BIN=/usr/libexec/heartbeat",
		"HA_NOARCHBIN=/usr/share/heartbeat",
		"HA_LOGD=no",
		"OCF_ROOT=/usr/lib/ocf",
	}
	if c.LogFacility != "" {
		env = append(env, "HA_LOGFACILITY="+c.LogFacility)
	}
	for _, p := range c.Params {
		env = append(env, "HA_"+p.Name+"="+p.Value)
	}
	if level := d.log.Debug(); level > 0 {
		env = append(env, "HA_debug="+strconv.Itoa(level))
	}
	for _, e := range c.Env {
		env = append(env, "HA_"+e[0]+"="+e[1])
	}
	path := "/usr/share/heartbeat:/usr/libexec/heartbeat:" + os.Getenv("PATH")
	if os.Getenv("PATH") == "" {
		path += "/usr/sbin:/usr/bin:/sbin:/bin"
	}
	return append(env, "PATH="+path)
}

// messageEnv is the environment of scripts that run for a message.
func (d *daemonProcess) messageEnv() []string {
	env := d.scriptEnv()
	if d.config.Failback != cluster.FailbackLegacy {
		env = append(env, "HA_NICEFAILBACK=yes")
	}
	return env
}

func orNull(path string) string {
	if path == "" {
		return "/dev/null"
	}
	return path
}

// logOwner is hacluster:haclient, or nobody if they do not exist.
func logOwner() (uid, gid int) {
	u, err := user.Lookup("hacluster")
	if err != nil {
		return -1, -1
	}
	g, err := user.LookupGroup("haclient")
	if err != nil {
		return -1, -1
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(g.Gid)
	if err1 != nil || err2 != nil {
		return -1, -1
	}
	return uid, gid
}
