//go:build vm

package vm

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// guarded are two machines of ours with a watchdog each: softdog on n1, which
// is the kernel's own, and an i6300esb on n2. Neither preferred, n1 owns first.
func guarded(t *testing.T, group string) *pair {
	t.Helper()
	p := machines(t)
	for _, n := range p.Nodes {
		p.install(n)
		p.join(n, group)
	}
	p.owns(p.n1)
	for _, n := range p.Nodes {
		p.sees(n)
	}
	return p
}

// join configures and starts a machine that is as new.
func (p *pair) join(n *Node, group string) {
	p.t.Helper()
	p.configure(n, cluster{media: []string{"bcast eth1"}, group: group, failback: "off", extra: []string{"watchdog /dev/watchdog"}})
	p.run(n, map[*Node]string{p.n1: "modprobe softdog", p.n2: "modprobe i6300esb"}[n])
	p.start(n)
}

const (
	addressOnly = "IPaddr2::" + address + "/24/eth0"
	// timeout is what the daemon makes of keepalive 1 and deadtime 10.
	timeout = 8 * time.Second
)

// idle lets the watchdogs expire if nobody feeds them.
func idle() { time.Sleep(timeout + 3*time.Second) }

// steady fails the test if a machine was reset.
func (p *pair) steady(boots [2]int, after string) {
	p.t.Helper()
	if now := [2]int{p.n1.Boots(), p.n2.Boots()}; now != boots {
		p.t.Fatalf("after %s a machine was reset: %v boots, before %v", after, now, boots)
	}
}

// TestWatchdog: fed while the node lives, over a restart in place and a crash
// that is mended in time; stopped by a clean end; and with a daemon that is
// stopped or killed the machine is reset before the other one takes over.
func TestWatchdog(t *testing.T) {
	p := guarded(t, addressOnly)
	boots := [2]int{p.n1.Boots(), p.n2.Boots()}
	for n, identity := range map[*Node]string{p.n1: "Software Watchdog", p.n2: "i6300ESB timer"} {
		p.until(n, "cat /var/log/ha-log", "notice: Using watchdog device: /dev/watchdog")
		p.until(n, "cat /var/log/ha-log", fmt.Sprintf("info: watchdog /dev/watchdog (%s) resets this machine when it was not fed with a keepalive for %v", identity, timeout))
		p.until(n, "cat /sys/class/watchdog/watchdog0/timeout", fmt.Sprint(int(timeout.Seconds())))
		if got := p.run(n, "{ hbctl status; cat /var/log/ha-log; } | grep -iE 'warn.*watchdog|ERROR' || true"); got != "" {
			t.Errorf("%s, though all is well: %s", n.Name, got)
		}
	}

	pid := p.run(p.n1, "cat /run/heartbeat.pid")
	p.run(p.n1, "sed -i 's/warntime 5/warntime 6/' /etc/ha.d/ha.cf && "+daemon+" -r")
	p.until(p.n1, "cat /var/log/ha-log", "Performing heartbeat restart exec.")
	p.signal(p.n2, "KILL")
	p.start(p.n2)
	idle()
	p.steady(boots, "a restart in place on n1 and a crash on n2")
	if now := p.run(p.n1, "cat /run/heartbeat.pid"); now != pid {
		t.Errorf("the pid was %s and is %s", pid, now)
	}
	if got := p.run(p.n1, "grep -c 'Using watchdog device' /var/log/ha-log"); got != "1" {
		t.Errorf("n1 has opened its watchdog %s times", got)
	}
	p.sees(p.n1)
	p.owns(p.n1)

	for _, n := range []*Node{p.n2, p.n1} {
		p.run(n, daemon+" -k")
		p.until(n, "cat /var/log/ha-log", "watchdog /dev/watchdog is stopped")
		p.until(n, "cat /sys/class/watchdog/watchdog0/state", "inactive")
	}
	idle()
	p.steady(boots, "a clean stop")
	for _, n := range p.Nodes {
		p.start(n)
	}

	for _, f := range []struct {
		owner  *Node
		signal string
	}{{p.n1, "KILL"}, {p.n2, "STOP"}, {p.n1, "STOP"}, {p.n2, "KILL"}} {
		what := fmt.Sprintf("SIG%s on %s", f.signal, f.owner.Name)
		p.owns(f.owner)
		other := p.other(f.owner)
		p.sees(other)
		resets, boots := len(f.owner.Resets()), f.owner.Boots()
		stop := p.Ask(service)
		begun := time.Now()
		p.signal(f.owner, f.signal)
		p.must(f.owner.WaitReset(t.Context(), resets+1))
		p.owns(other)
		answers := stop()
		taken := slices.IndexFunc(answers, func(a Answer) bool { return a.Node == other })
		if taken < 1 {
			t.Fatalf("%s: %d answers, the other machine's first is number %d", what, len(answers), taken)
		}
		last := answers[taken-1].At
		t.Logf("%s: reset after %v; the last answer for the address after %v, the other machine's first after %v", what,
			f.owner.Resets()[resets].Sub(begun).Round(10*time.Millisecond), last.Sub(begun).Round(10*time.Millisecond),
			answers[taken].At.Sub(begun).Round(10*time.Millisecond))
		if both := after(answers, f.owner, other); len(both) > 0 {
			t.Errorf("%s: the machine answered %d times after the other one had taken the address, for %v", what, len(both), both[len(both)-1].At.Sub(last))
		}
		p.must(f.owner.WaitBoot(t.Context(), boots+1))
		p.install(f.owner)
		p.join(f.owner, addressOnly)
		p.sees(f.owner)
	}
}
