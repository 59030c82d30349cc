package vm

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

const addressOnly = "IPaddr2::" + address + "/24/eth0"

const (
	// guardedDeadtime makes the watchdogs' timeout, in whole seconds, leave as
	// much time as there can be between a reset and the other node's takeover.
	guardedDeadtime = "10400ms"
	// timeout is what the daemon makes of keepalive 1 and that.
	timeout = 8 * time.Second
)

// timer names a machine's watchdog: softdog on n1, which is the kernel's own, and
// an i6300esb on n2.
func (p *pair) timer(n *Node) (driver, identity string) {
	if n == p.n1 {
		return "softdog", "Software Watchdog"
	}
	return "i6300esb", "i6300ESB timer"
}

// onGuard are two machines of ours with a watchdog each that a test has left in
// order, for the next one.
var onGuard *pair

// guarded are two machines of ours with a watchdog each. Neither is preferred.
func guarded(t *testing.T) *pair {
	t.Helper()
	if p := onGuard; p != nil {
		onGuard = nil
		return p.as(t)
	}
	p := machines(t)
	p.install(p.Nodes...)
	for _, n := range p.Nodes {
		p.join(n)
	}
	p.owns(p.n1)
	for _, n := range p.Nodes {
		p.sees(n)
	}
	return p
}

// leave leaves the machines to the next test that wants them guarded.
func (p *pair) leave() {
	if !p.t.Failed() {
		onGuard = p
	}
}

// join configures and starts a machine that is as new.
func (p *pair) join(n *Node) {
	p.t.Helper()
	p.prepare(n)
	driver, _ := p.timer(n)
	p.run(n, "modprobe "+driver)
	p.start(n)
}

// prepare configures a machine that is as new.
func (p *pair) prepare(n *Node) {
	p.t.Helper()
	p.configure(n, cluster{media: []string{"bcast eth1"}, group: addressOnly, failback: "off", deadtime: guardedDeadtime, extra: []string{"watchdog /dev/watchdog"}})
}

// idle lets a watchdog expire if nobody feeds it.
func idle(timeout time.Duration) { time.Sleep(timeout + 3*time.Second) }

// expires is the timeout that a machine's watchdog has.
func (p *pair) expires(n *Node) time.Duration {
	p.t.Helper()
	d, err := time.ParseDuration(p.run(n, "cat /sys/class/watchdog/watchdog0/timeout") + "s")
	p.must(err)
	return d
}

// steady fails the test if a machine was reset since there were that many resets.
func (p *pair) steady(resets [2]int, after string) {
	p.t.Helper()
	if now := p.resets(); now != resets {
		p.t.Fatalf("after %s a machine was reset: %v resets, before %v", after, now, resets)
	}
}

// resets are the numbers of resets of both machines so far.
func (p *pair) resets() [2]int { return [2]int{len(p.n1.Resets()), len(p.n2.Resets())} }

// TestWatchdog: its absence is reported; it is fed while the node lives, over a
// restart in place and a crash that is mended in time; a clean end stops it.
func TestWatchdog(t *testing.T) {
	p := machines(t)
	p.install(p.Nodes...)
	// n1 begins without a driver: it takes what is its own, and says what lacks.
	const lacks = "Cannot open watchdog device: /dev/watchdog: no such file or directory (load its driver, for example modprobe softdog): nothing resets this machine when heartbeat hangs"
	p.prepare(p.n1)
	p.start(p.n1)
	p.join(p.n2)
	p.until(p.n1, "hbctl status", lacks)
	p.owns(p.n1)
	p.until(p.n1, "cat /var/log/ha-log", "ERROR: "+lacks)
	p.until(p.n1, "cat /var/log/ha-log", "WARN: resources are taken without a guard: "+lacks)
	p.run(p.n1, "modprobe softdog")
	p.until(p.n1, "cat /var/log/ha-log", "info: watchdog /dev/watchdog works")
	resets := p.resets()
	for _, n := range p.Nodes {
		_, identity := p.timer(n)
		p.until(n, "cat /var/log/ha-log", "notice: Using watchdog device: /dev/watchdog")
		p.until(n, "cat /var/log/ha-log", fmt.Sprintf("info: watchdog /dev/watchdog (%s) resets this machine when it was not fed with a keepalive for %v", identity, timeout))
		if got := p.expires(n); got != timeout {
			t.Errorf("%s: the watchdog's timeout is %v", n.Name, got)
		}
		if state := p.run(n, "cat /sys/class/watchdog/watchdog0/state"); state != "active" {
			t.Errorf("%s: the watchdog is %s", n.Name, state)
		}
		if got := p.run(n, "hbctl status | grep -i watchdog || true"); got != "" {
			t.Errorf("%s, though all is well: %s", n.Name, got)
		}
	}
	if got := p.run(p.n2, "grep -iE '(warn|error).*watchdog' /var/log/ha-log || true"); got != "" {
		t.Errorf("n2, though all is well: %s", got)
	}

	pid := p.run(p.n1, "cat /run/heartbeat.pid")
	p.change(p.n1, "warntime 5", "warntime 6")
	p.until(p.n1, "cat /var/log/ha-log", "Performing heartbeat restart exec.")
	p.signal(p.n2, "KILL")
	p.start(p.n2)
	idle(timeout)
	p.steady(resets, "a restart in place on n1 and a crash on n2")
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
	idle(timeout)
	p.steady(resets, "a clean stop")
	for _, n := range p.Nodes {
		p.start(n)
	}
	for _, n := range p.Nodes {
		p.sees(n)
	}
	p.owns(p.n1)
	p.leave()
}

// TestFreeze: a machine that stood still with all its clocks cannot know it,
// and neither can its watchdog. When it goes on both machines own the address,
// until the first packets have gone between them: as after a partition the one
// that took it from the other lets go, one step after the claim that shows the
// other owner. Time is counted in each machine's own keepalives, one a second,
// which are as late as it is itself on a busy host.
func TestFreeze(t *testing.T) {
	p := guarded(t)
	resets := p.resets()
	for _, owner := range p.Nodes { // softdog, then i6300esb
		other := p.other(owner)
		p.own(owner)
		answers, heartbeats := p.Ask(service), p.Heartbeats(1)
		p.must(owner.Freeze())
		p.owns(other) // by now a watchdog that ran on would have expired
		thawed := time.Now()
		p.must(owner.Thaw())
		p.sees(other)
		p.sees(owner)
		p.lone()
		yields, stays := owner, other
		if p.has(owner) {
			yields, stays = other, owner
		}
		var last time.Time
		count := 0
		for _, a := range answers() {
			if a.Node == yields && a.At.After(thawed) {
				last = a.At
				count++
			}
		}
		claimed := false
		newest := map[*Node]int64{}
		until, since := 0, 0 // the claim
		for _, h := range heartbeats() {
			if h.At.After(last) {
				break
			}
			kind := field(h.Data, "t")
			seq, _ := strconv.ParseInt(field(h.Data, "seq"), 16, 64)
			again := seq <= newest[h.Node]
			newest[h.Node] = max(seq, newest[h.Node])
			switch {
			case h.At.Before(thawed):
			case h.Node == stays && cmp.Or(field(h.Data, "rsc_hold"), field(h.Data, "xhold"), "none") != "none":
				claimed = true
			case kind != "status" || again:
			case h.Node == stays && !claimed:
				until++
			case h.Node == yields && claimed:
				since++
			}
		}
		t.Logf("%s thawed: %s let go; it answered %d times more, for %v: %s sent %d keepalives until it claimed the address, and %s %d since then",
			owner.Name, yields.Name, count, max(0, last.Sub(thawed)).Round(time.Millisecond), stays.Name, until, yields.Name, since)
		if until > 2 || since > 2 {
			t.Errorf("%s thawed: it took %s %d keepalives to claim the address, and %s %d more to let go of it", owner.Name, stays.Name, until, yields.Name, since)
		}
	}
	p.steady(resets, "a freeze")
	p.leave()
}

// has reports whether a machine has the service address.
func (p *pair) has(n *Node) bool {
	p.t.Helper()
	return strings.Contains(p.run(n, "ip -4 -br addr show dev eth0"), address+"/")
}

// field is a field of a message in a frame; empty when it has none.
func field(frame []byte, name string) string {
	_, rest, _ := bytes.Cut(frame, []byte(")"+name+"="))
	value, _, _ := bytes.Cut(rest, []byte(","))
	return string(value)
}

// TestWatchdogResets: when the daemon that owns the address is killed, or
// stopped as a process, or when nothing but its loop hangs, its machine is reset
// before the other one takes the address.
func TestWatchdogResets(t *testing.T) {
	p := guarded(t)
	hanging := p.hangingDaemon()
	for _, f := range []struct {
		owner *Node
		what  string
	}{{p.n1, "KILL"}, {p.n2, "STOP"}, {p.n1, "hang"}, {p.n2, "KILL"}} {
		for attempt := 1; ; attempt++ {
			p.own(f.owner)
			wrong, starved := p.dies(f.owner, f.what)
			for _, w := range wrong {
				if starved < time.Second || attempt == 3 {
					t.Errorf("%s on %s: %s", f.what, f.owner.Name, w)
				} else {
					t.Logf("%s on %s: %s; but the machines did not run for %v: once more", f.what, f.owner.Name, w, starved)
				}
			}
			p.install(f.owner)
			if f.what == "KILL" && f.owner == p.n1 {
				p.run(f.owner, "cp "+hanging+" "+daemon) // for its next turn
			}
			p.join(f.owner)
			p.sees(f.owner)
			if len(wrong) == 0 || t.Failed() {
				break
			}
		}
	}
}

// dies makes the owner's daemon go on no more, and returns what is wrong with
// what follows, and for how long machines waited for a processor meanwhile.
func (p *pair) dies(owner *Node, what string) (wrong []string, starved time.Duration) {
	p.t.Helper()
	other := p.other(owner)
	p.sees(other)
	resets, boots := len(owner.Resets()), owner.Boots()
	waited := p.starved()
	stop := p.Ask(service)
	begun := time.Now()
	if what == "hang" {
		p.run(owner, "touch "+hang)
	} else {
		p.signal(owner, what)
	}
	p.must(owner.WaitReset(p.t.Context(), resets+1))
	p.owns(other)
	answers := stop()
	starved = waited()
	reset := owner.Resets()[resets]
	first := slices.IndexFunc(answers, func(a Frame) bool { return a.Node == other })
	if first < 1 {
		p.t.Fatalf("%s on %s: %d answers, the other machine's first is number %d", what, owner.Name, len(answers), first)
	}
	taken, last := answers[first].At, answers[first-1].At
	since := func(at time.Time) time.Duration { return at.Sub(begun).Round(10 * time.Millisecond) }
	p.t.Logf("%s on %s: its last answer for the address after %v, its reset after %v, the other machine's first answer after %v",
		what, owner.Name, since(last), since(reset), since(taken))
	if !reset.Before(taken) {
		wrong = append(wrong, fmt.Sprintf("the reset came %v after the other machine's first answer for the address", reset.Sub(taken)))
	}
	if both := after(answers, owner, other); len(both) > 0 {
		wrong = append(wrong, fmt.Sprintf("the machine answered %d times after the other one had taken the address, for %v", len(both), both[len(both)-1].At.Sub(last)))
	}
	p.must(owner.WaitBoot(p.t.Context(), boots+1))
	return wrong, starved
}

// hang is the file that makes the loop of the daemon of hangingDaemon hang.
const hang = "/run/hang"

// hangingDaemon is this project's daemon, but its loop hangs when it finds the
// file hang, which it takes away; everything else in it goes on. It returns the program's path in the
// machines.
func (p *pair) hangingDaemon() string {
	p.t.Helper()
	const source, loop = "../../cluster/node/loop.go", "\tfor n.outcome == nil {\n"
	text, err := os.ReadFile(source)
	p.must(err)
	before, after, ok := strings.Cut(string(text), loop)
	if !ok {
		p.t.Fatalf("%s has no %q: it is not known where to make the loop hang", source, loop)
	}
	before = strings.Replace(before, "import (\n", "import (\n\t\"os\"\n", 1)
	changed := before + loop + "\t\tif os.Remove(\"" + hang + "\") == nil {\n\t\t\tselect {}\n\t\t}\n" + after
	p.build("heartbeat-hanging", source, changed)
	return "/share/heartbeat-hanging"
}

// starved measures for how long the machines, or this process, wait for a
// processor until the function that it returns is called.
func (p *pair) starved() func() time.Duration {
	before := make([]time.Duration, len(p.Nodes))
	for i, n := range p.Nodes {
		before[i] = n.waited()
	}
	done, worst := make(chan struct{}), make(chan time.Duration)
	go func() { // ends with the measurement
		var gap time.Duration
		for last := time.Now(); ; {
			select {
			case <-done:
				worst <- gap
				return
			case <-time.After(20 * time.Millisecond):
			}
			now := time.Now()
			gap = max(gap, now.Sub(last)-20*time.Millisecond)
			last = now
		}
	}()
	return func() time.Duration {
		close(done)
		longest := <-worst
		for i, n := range p.Nodes {
			longest = max(longest, n.waited()-before[i])
		}
		return longest.Round(time.Millisecond)
	}
}

// waited is for how long qemu's threads have waited for a processor so far.
func (n *Node) waited() (sum time.Duration) {
	n.mu.Lock()
	qemu := n.qemu
	n.mu.Unlock()
	if qemu == nil {
		return 0
	}
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", qemu.Process.Pid))
	for _, f := range tasks {
		text, _ := os.ReadFile(f)
		if fields := strings.Fields(string(text)); len(fields) > 1 {
			ns, _ := strconv.ParseInt(fields[1], 10, 64)
			sum += time.Duration(ns)
		}
	}
	return sum
}

// lone waits until one machine has the service address, and nothing moves any
// more.
func (p *pair) lone() {
	p.t.Helper()
	p.untilTrue(p.n1, "one machine owns the address", func() (bool, string) {
		states := p.run(p.n1, "cl_status rscstatus") + " " + p.run(p.n2, "cl_status rscstatus")
		one, two := p.has(p.n1), p.has(p.n2)
		return one != two && !strings.Contains(states, "transition"), fmt.Sprintf("n1 %v, n2 %v, %s", one, two, states)
	})
}

// own makes a machine the owner.
func (p *pair) own(n *Node) {
	p.t.Helper()
	p.until(n, "hbctl takeover all >/dev/null 2>&1; ip -4 -br addr show dev eth0", address)
	p.lone()
}
