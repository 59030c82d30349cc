package interop

import (
	"slices"

	"golang.org/x/sys/unix"

	"heartbeat/integration/lab"
)

// Scenarios are all of them but the rolling upgrade.
func Scenarios() []Scenario {
	s := []Scenario{
		// Claims overtake each other there, in words; the kernels are probed.
		{Name: "lossy", Fragile: true, Play: lossy, Check: sentAgain, Allow: []string{"Both machines own", "No one owns", "Attempt to remove timeout", "Ignored standby message", "seqno too low", "Irretrievably lost"}},
		{Name: "switching", Core: true, Play: switching},
		{Name: "failures", Core: true, Play: failures},
		{Name: "failures-failback-off", Core: true, Setup: Setup{Failback: "off"}, Play: failuresOff},
		{Name: "failures-failback-legacy", Setup: Setup{Failback: "legacy"}, Play: failuresLegacy},
		{Name: "joining", Core: true, Play: joining},
		{Name: "joining-failback-off", Setup: Setup{Failback: "off"}, Play: joiningOff},
		{Name: "joining-failback-legacy", Setup: Setup{Failback: "legacy"}, Play: joining},
		{Name: "links", Core: true, Setup: Setup{Media: []string{"bcast eth1", "ucast eth0 10.77.0.1", "ucast eth0 10.77.0.2"}}, Play: links},
		{Name: "links-failback-off", Setup: Setup{Failback: "off"}, Play: partitionOnly},
		{Name: "links-failback-legacy", Setup: Setup{Failback: "legacy"}, Play: partitionOnly},
		{Name: "frozen", Core: true, Play: frozen},
		{Name: "killed", Play: killed},
		{Name: "forgotten", Core: true, Setup: Setup{Failback: "off"}, Play: forgotten, Allow: []string{"No one owns"}},
		{Name: "overlapping", Setup: Setup{Script: "slow", Before: withSlow}, Play: overlapping},
		{Name: "reload", Play: reload, Allow: []string{"auth=…", "failed authentication", "MSG …", "authentication failed", "which is not in authkeys"}},
		{Name: "habits", Setup: Setup{Before: withNote}, Play: habits},
		{Name: "habits-failback-legacy", Setup: Setup{Failback: "legacy"}, Play: habitsLegacy},
		{Name: "pinging", Setup: Setup{Extra: []string{"ping 10.77.0.100", "respawn hacluster /usr/libexec/heartbeat/ipfail"}}, Play: pinging},
	}
	return append(s, media()...)
}

// cold starts both nodes together and begins to probe.
func (r *Run) cold() {
	r.act("both start", home, r.startBoth)
	r.probe()
}

// switching moves the groups with every set of both commands from both sides.
func switching(r *Run) {
	r.cold()
	for _, m := range []struct {
		name   string
		order  func()
		owners Owners
	}{
		{"n1: hb_standby all", func() { r.standby(r.N1, "all") }, allN2},
		{"n2: hb_standby foreign", func() { r.standby(r.N2, "foreign") }, home},
		{"n2: hb_standby all", func() { r.standby(r.N2, "all") }, allN1},
		{"n1: hb_standby failback", func() { r.standby(r.N1, "failback") }, home},
		{"n1: hb_standby local", func() { r.standby(r.N1, "local") }, allN2},
		{"n2: hb_standby failback", func() { r.standby(r.N2, "failback") }, home},
		{"n2: hb_standby local", func() { r.standby(r.N2, "local") }, allN1},
		{"n1: hb_standby foreign", func() { r.standby(r.N1, "foreign") }, home},
		{"n1: hb_takeover all", func() { r.takeover(r.N1, "all") }, allN1},
		{"n2: hb_takeover local", func() { r.takeover(r.N2, "local") }, home},
		{"n2: hb_takeover all", func() { r.takeover(r.N2, "all") }, allN2},
		{"n1: hb_takeover local", func() { r.takeover(r.N1, "local") }, home},
		{"n1: hb_takeover foreign", func() { r.takeover(r.N1, "foreign") }, allN1},
		{"n2: hb_takeover local again", func() { r.takeover(r.N2, "local") }, home},
		{"n2: hb_takeover foreign", func() { r.takeover(r.N2, "foreign") }, allN2},
		// What this set leaves empty on the other node means everything there.
		{"n1: hb_takeover failback", func() { r.takeover(r.N1, "failback") }, allN1},
		{"n2: hb_takeover failback", func() { r.takeover(r.N2, "failback") }, allN2},
	} {
		r.act(m.name, m.owners, m.order)
	}
}

// failures are those of whole nodes and daemons, with auto_failback on.
func failures(r *Run) {
	r.cold()
	r.act("n1 loses its power", allN2, func() { r.crash(r.N1) })
	r.act("n1 returns", home, func() { r.boot(r.N1) })
	r.act("n2 loses its power", allN1, func() { r.crash(r.N2) })
	r.act("n2 returns", home, func() { r.boot(r.N2) })
	r.quick(r.N1, home)
	r.quick(r.N2, home)
	r.act("n1 is stopped", allN2, func() { r.stop(r.N1) })
	r.act("n1 is started", home, func() { r.start(r.N1) })
	r.act("n2 is stopped", allN1, func() { r.stop(r.N2) })
	r.act("n2 is started", home, func() { r.start(r.N2) })
	r.act("both are stopped at once", nobody, r.stopBoth)
}

// quick restarts a daemon, without its leave, before it is missed.
func (r *Run) quick(n *lab.Node, owners Owners) {
	r.act("kill -9 on "+n.Name+", started within deadtime", owners, func() {
		r.kill(n)
		r.start(n)
		r.says(n.Peer(), "Heartbeat restart on node "+n.Name)
	})
}

func failuresOff(r *Run) {
	r.cold()
	r.act("n1 loses its power", allN2, func() { r.crash(r.N1) })
	r.act("n1 returns", allN2, func() { r.boot(r.N1); r.active(r.N1) })
	r.act("n1: hb_takeover local", home, func() { r.takeover(r.N1, "local") })
	r.quick(r.N1, home)
	r.quick(r.N2, home)
	r.act("n2 is stopped", allN1, func() { r.stop(r.N2) })
	r.act("n2 is started", allN1, func() { r.start(r.N2); r.active(r.N2) })
	r.act("both are stopped at once", nobody, r.stopBoth)
}

// active waits until the peer has seen a returned node become active.
func (r *Run) active(n *lab.Node) {
	r.says(n.Peer(), "Status update for node "+n.Name+": status active")
}

func failuresLegacy(r *Run) {
	r.cold()
	r.act("n1 loses its power", allN2, func() { r.crash(r.N1) })
	r.act("n1 returns", home, func() { r.boot(r.N1) })
	r.act("n2 loses its power", allN1, func() { r.crash(r.N2) })
	r.act("n2 returns", home, func() { r.boot(r.N2) })
	r.act("n1 is stopped", allN2, func() { r.stop(r.N1) })
	r.act("n1 is started", home, func() { r.start(r.N1) })
	r.act("n2 is stopped", allN1, func() { r.stop(r.N2) })
	r.act("n2 is started", home, func() { r.start(r.N2) })
	r.act("both are stopped at once", nobody, r.stopBoth)
}

// joining lets each node find the other one running.
func joining(r *Run) {
	r.act("n1 starts alone", allN1, func() { r.start(r.N1) })
	r.probe()
	r.act("n2 joins", home, func() { r.start(r.N2) })
	r.act("n1 is stopped", allN2, func() { r.stop(r.N1) })
	r.act("n2 is stopped too", nobody, func() { r.stop(r.N2) })
	r.act("n2 starts alone", allN2, func() { r.start(r.N2) })
	r.act("n1 joins", home, func() { r.start(r.N1) })
}

func joiningOff(r *Run) {
	r.act("n1 starts alone", allN1, func() { r.start(r.N1) })
	r.probe()
	r.act("n2 joins", allN1, func() { r.start(r.N2); r.active(r.N2) })
	r.act("n1: hb_standby foreign", home, func() { r.standby(r.N1, "foreign") })
	r.act("n1 is stopped", allN2, func() { r.stop(r.N1) })
	r.act("n1 joins", allN2, func() { r.start(r.N1); r.active(r.N1) })
	r.act("n2: hb_standby all", allN1, func() { r.standby(r.N2, "all") })
}

// links are cut, one of two and all.
func links(r *Run) {
	r.cold()
	r.act("one of two links is cut", home, func() {
		r.do(func() error { return r.Cut(lab.HeartbeatLink) })
		r.says(r.N1, "Link n2:eth1 dead.")
		r.says(r.N2, "Link n1:eth1 dead.")
	})
	r.act("it is mended", home, func() {
		r.do(func() error { return r.Heal(lab.HeartbeatLink) })
		r.says(r.N1, "Link n2:eth1 up.")
		r.says(r.N2, "Link n1:eth1 up.")
	})
	r.partition()
	r.healed(home)
}

func partitionOnly(r *Run) {
	r.cold()
	r.partition()
	r.healed(home)
}

// partition cuts all links and waits until both nodes own everything.
func (r *Run) partition() {
	if r.err != nil {
		return
	}
	r.begin("all links are cut", true)
	r.do(r.Partition)
	r.do(func() error {
		return lab.Wait(r.ctx, limit, "both nodes own everything", func() (bool, string) {
			for _, a := range r.addrs() {
				if len(r.Owners(a)) != 2 {
					return false, r.holdings()
				}
			}
			return true, ""
		})
	})
	r.settled()
	r.end()
}

func (r *Run) healed(owners Owners) {
	r.act("they are mended", owners, func() {
		r.do(r.Reunite)
		for _, n := range r.Nodes() {
			r.says(n, "returning after partition", "Heartbeat restart on node")
		}
	})
}

// frozen stops the daemon's processes past deadtime and lets them go on.
func frozen(r *Run) {
	r.cold()
	for _, n := range r.Nodes() {
		p := n.Peer()
		r.act(n.Name+" is frozen past deadtime and thaws", home, func() {
			r.signal(n, unix.SIGSTOP)
			r.says(p, "node "+n.Name+": is dead")
			r.do(func() error {
				return lab.Wait(r.ctx, limit, p.Name+" owns everything", func() (bool, string) {
					for _, a := range r.addrs() {
						if !p.Holds(a) {
							return false, r.holdings()
						}
					}
					return true, ""
				})
			})
			// Its take over has ended, as far as its own word goes.
			r.says(p, "mach_down takeover complete for node "+n.Name)
			r.signal(n, unix.SIGCONT)
			r.says(p, "returning after partition", "Heartbeat restart on node")
		})
	}
}

// killed leaves a node without its daemon until the peer has taken over.
func killed(r *Run) {
	r.cold()
	for _, n := range r.Nodes() {
		p := n.Peer()
		r.act("kill -9 on "+n.Name+", started after the takeover", home, func() {
			r.kill(n)
			r.says(p, "mach_down takeover complete for node "+n.Name)
			if r.on[index(n)] == r.progs.Ours {
				r.letsGo(n)
			}
			r.start(n)
			r.active(n)
		})
	}
}

// movesNetstring has 3.0.6 die before it survives: that is where it loses
// messages of its own most of the time, and stays in transition. So it is alone
// in the last act only, where the addresses must be there all the same.
func movesNetstring(r *Run) {
	r.cold()
	r.act("n1: hb_standby all", allN2, func() { r.standby(r.N1, "all") })
	r.act("n2: hb_standby foreign", home, func() { r.standby(r.N2, "foreign") })
	first, then, owners := r.N2, r.N1, [2]Owners{allN1, allN2}
	if r.on[1] == r.progs.Ours {
		first, then, owners = r.N1, r.N2, [2]Owners{allN2, allN1}
	}
	if r.on[index(then)] == r.progs.Ours {
		r.act("one node loses its power", owners[0], func() { r.crash(first) })
		r.act("it returns", home, func() { r.boot(first) })
	}
	r.last("the other one loses its power", owners[1], func() { r.crash(then) })
}

// forgotten kills the daemon of a node that owns everything and starts it again
// within deadtime. 3.0.6 no longer knows of the other node's group, and its
// kernel still has it; in words nobody owns it.
func forgotten(r *Run) {
	r.cold()
	for i, n := range r.Nodes() {
		p, all := n.Peer(), [2]Owners{allN1, allN2}[i]
		knows, asks := r.on[i] == r.progs.Ours, r.on[1-i] == r.progs.Ours
		r.act(p.Name+": hb_standby all", all, func() { r.standby(p, "all") })
		name := "kill -9 on " + n.Name + ", which owns everything, started within deadtime"
		restart := func() {
			r.kill(n)
			r.start(n)
			r.says(p, "Heartbeat restart on node "+n.Name)
		}
		switch {
		case knows:
			r.act(name, all, restart)
		case asks:
			r.act(name, home, restart)
			continue
		case r.err == nil:
			r.begin(name, false)
			restart()
			r.active(n)
			r.owned(all)
			r.settled()
			r.expect(n, 0, "local\n", r.on[i].Status, "rscstatus")
			r.expect(p, 0, "none\n", r.on[1-i].Status, "rscstatus")
			r.end()
		}
		r.act(p.Name+": hb_takeover local", home, func() { r.takeover(p, "local") })
	}
}

// letsGo demands that a dead node's kernel gives its addresses up by itself.
func (r *Run) letsGo(n *lab.Node) {
	r.do(func() error {
		return r.wait("the kernel of "+n.Name+" has let go", func() (bool, string) {
			return !slices.ContainsFunc(r.addrs(), n.Holds), r.holdings()
		})
	})
}

// media are the paths, each with one of the methods and formats.
func media() []Scenario {
	ucast := []string{"ucast eth1 10.78.0.1", "ucast eth1 10.78.0.2"}
	mcast := []string{"mcast eth1 225.0.0.1 694 1 0"}
	var out []Scenario
	moves := func(r *Run) {
		r.cold()
		r.act("n1: hb_standby all", allN2, func() { r.standby(r.N1, "all") })
		r.act("n2 loses its power", allN1, func() { r.crash(r.N2) })
		r.act("n2 returns", home, func() { r.boot(r.N2) })
	}
	for _, m := range []struct {
		name  string
		core  bool
		setup Setup
		play  func(r *Run)
	}{
		{"bcast-crc-classic", false, Setup{Media: []string{"bcast eth1"}, Authkeys: "auth 1\n1 crc\n", Extra: []string{"msgfmt classic"}}, moves},
		{"mcast-md5-netstring", true, Setup{Media: mcast, Authkeys: "auth 2\n2 md5 secret\n", Extra: []string{"msgfmt netstring"}}, movesNetstring},
		{"ucast-sha1", false, Setup{Media: ucast, Authkeys: "auth 3\n3 sha1 another\n"}, moves},
		{"serial-md5", true, Setup{Media: []string{}, Serial: true, Authkeys: "auth 1\n1 md5 secret\n"}, moves},
		{"serial-and-ucast-netstring", false, Setup{Media: ucast, Serial: true, Extra: []string{"msgfmt netstring"}}, movesNetstring},
	} {
		out = append(out, Scenario{Name: "media-" + m.name, Core: m.core, Setup: m.setup, Play: m.play})
	}
	return out
}
