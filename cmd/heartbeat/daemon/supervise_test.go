package daemon

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestLives: how many deaths are too many, and the pauses before that.
func TestLives(t *testing.T) {
	var l lives
	now := time.Unix(0, 0)
	want := []time.Duration{100, 200, 400, 800, 1600}
	for i, ms := range want {
		if pause, giveUp := l.died(now, false); pause != ms*time.Millisecond || giveUp != "" {
			t.Errorf("stillborn %d: pause %v, %q", i+1, pause, giveUp)
		}
	}
	if _, giveUp := l.died(now, false); giveUp != "the last 6 died before they were up" {
		t.Errorf("the sixth stillborn: %q", giveUp)
	}
	l = lives{stillborn: stillbornMax - 1}
	if pause, giveUp := l.died(now, true); pause != firstPause || giveUp != "" || l.stillborn != 0 {
		t.Errorf("one that was up: pause %v, %q, %d stillborn", pause, giveUp, l.stillborn)
	}
	l = lives{}
	for i := range deathsMax - 1 {
		if pause, giveUp := l.died(now.Add(time.Duration(i)*time.Second), true); pause != firstPause || giveUp != "" {
			t.Errorf("death %d: pause %v, %q", i+1, pause, giveUp)
		}
	}
	soon := l
	if _, giveUp := soon.died(now.Add(29*time.Second), true); giveUp != "30 died within 29s" {
		t.Errorf("the thirtieth: %q", giveUp)
	}
	if _, giveUp := l.died(now.Add(deathsWindow+time.Second), true); giveUp != "" {
		t.Errorf("the first has been forgotten by then: %q", giveUp)
	}
}

// TestFateOf: only an end that was asked for and an unusable configuration are
// final. Exit code 2 is what a panic leaves before the daemon has asked for
// SIGABRT.
func TestFateOf(t *testing.T) {
	for _, c := range []struct {
		status syscall.WaitStatus
		fate   fate
		text   string
	}{
		{0, fateEnded, "ended"},
		{exitConfig << 8, fateRefused, "cannot use its configuration"},
		{1 << 8, fateDied, "ended with exit code 1"},
		{exitUsage << 8, fateDied, "ended with exit code 2"},
		{syscall.WaitStatus(unix.SIGKILL), fateDied, "was killed by signal 9 (SIGKILL)"},
		{syscall.WaitStatus(unix.SIGSEGV) | 0x80, fateDied, "was killed by signal 11 (SIGSEGV)"},
		{syscall.WaitStatus(unix.SIGABRT), fateDied, "crashed"},
	} {
		if f, text := fateOf(c.status); f != c.fate || text != c.text {
			t.Errorf("%#x: %d, %q", int(c.status), f, text)
		}
	}
}

func (c *cell) signal(pid int, s syscall.Signal) {
	c.t.Helper()
	if err := syscall.Kill(pid, s); err != nil {
		c.t.Fatalf("signal %v to %d: %v", s, pid, err)
	}
}

func (c *cell) says(text string) {
	c.t.Helper()
	until(c.t, fmt.Sprintf("the log says %q", text), func() bool { return strings.Contains(c.file("ha-log"), text) })
}

// owner starts the daemon and waits until it has the address.
func (c *cell) owner() {
	c.t.Helper()
	c.write("ha.cf", strings.Replace(c.file("etc/ha.d/ha.cf"), "initdead 4", "initdead 2", 1), 0o644)
	c.expect(0, "Starting heartbeat")
	until(c.t, "it has taken the address", func() bool { return c.status().CommUp && c.hasAddress() })
}

// TestSupervised: killed or crashed, the daemon is there again, by the same
// supervisor, with what it owned; stopped, both are gone. A restart in place is
// no death.
func TestSupervised(t *testing.T) {
	t.Parallel()
	c := cells(t, 1)[0]
	c.owner()
	above := c.supervisor()
	if above == 0 || above == c.pid() {
		t.Fatalf("supervisor %d, daemon %d", above, c.pid())
	}
	again := func(dead int) {
		t.Helper()
		until(t, "a new daemon is up", func() bool {
			if !c.hasAddress() {
				t.Fatal("the address was away")
			}
			s := c.status()
			return s.PID != 0 && s.PID != dead && s.CommUp
		})
		if c.supervisor() != above {
			t.Errorf("supervisor %d, it was %d", c.supervisor(), above)
		}
	}
	first := c.pid()
	c.signal(first, syscall.SIGKILL)
	again(first)
	c.says(fmt.Sprintf("CRIT: heartbeat (pid %d) was killed by signal 9 (SIGKILL): starting it again", first))

	// QUIT is how a Go program crashes on demand.
	second := c.pid()
	c.signal(second, syscall.SIGQUIT)
	again(second)
	c.says(fmt.Sprintf("CRIT: heartbeat (pid %d) crashed, saying \"SIGQUIT: quit\" (all of it is in %s/var/lib/heartbeat/cores/root/heartbeat.crash): starting it again", second, c.root))
	if !strings.Contains(c.file("var/lib/heartbeat/cores/root/heartbeat.crash"), "goroutine 1 ") {
		t.Error("the crash file has no stacks")
	}

	third := c.pid()
	c.write("ha.cf", strings.Replace(c.file("etc/ha.d/ha.cf"), "warntime 1", "warntime 1500ms", 1), 0o644)
	c.signal(above, syscall.SIGHUP) // it passes it on
	until(t, "new warntime in force", func() bool { return time.Duration(c.status().Warntime) == 1500*time.Millisecond })
	if c.pid() != third {
		t.Errorf("pid %d after a restart in place, it was %d", c.pid(), third)
	}
	c.signal(third, syscall.SIGKILL)
	again(third)
	c.expect(0, "", "-k")
	if pid := c.supervisor(); pid != 0 || c.hasAddress() {
		t.Errorf("after a stop: supervisor %d, address %v", pid, c.hasAddress())
	}
	if n := strings.Count(c.file("ha-log"), "starting it again"); n != 3 {
		t.Errorf("started again %d times", n)
	}
}

// adopted waits until another supervisor than that watches the daemon.
func (c *cell) adopted(than int) (pid int) {
	c.t.Helper()
	until(c.t, "there is another supervisor", func() bool {
		pid = c.supervisor()
		return pid != 0 && pid != than
	})
	return pid
}

// revived kills the daemon and waits until another one has the address.
func (c *cell) revived(than int) {
	c.t.Helper()
	c.signal(than, syscall.SIGKILL)
	until(c.t, "a new daemon is up", func() bool {
		if !c.hasAddress() {
			c.t.Fatal("the address was away")
		}
		s := c.status()
		return s.PID != 0 && s.PID != than && s.CommUp
	})
}

// TestSupervisorKilled: the daemon starts another one, which does what the first
// did; no second daemon is started beside it. TERM to a supervisor is TERM to the
// daemon.
func TestSupervisorKilled(t *testing.T) {
	t.Parallel()
	c := cells(t, 1)[0]
	c.owner()
	pid, above := c.pid(), c.supervisor()
	warned := false
	// killed kills the supervisor and waits for another one. Meanwhile, which is for a
	// second, the status warns: a paused machine may miss it, but not each time.
	killed := func(than int) (next int) {
		t.Helper()
		c.signal(than, syscall.SIGKILL)
		until(t, "there is another supervisor", func() bool {
			warned = warned || slices.ContainsFunc(c.status().Warnings, func(w string) bool { return strings.HasPrefix(w, "the supervisor has ended") })
			next = c.supervisor()
			return next != 0 && next != than
		})
		return next
	}
	next := killed(above)
	c.says(fmt.Sprintf("WARN: the supervisor (pid %d) has ended: another one (pid %d) watches this daemon", above, next))
	until(t, "the warning is over", func() bool {
		s := c.status()
		return s.PID == pid && !slices.ContainsFunc(s.Warnings, func(w string) bool { return strings.Contains(w, "supervisor") })
	})
	c.expect(0, fmt.Sprintf("already running [pid %d]", pid))
	// Of one that is its child the daemon notices the end, too, also after a restart
	// in place.
	c.write("ha.cf", strings.Replace(c.file("etc/ha.d/ha.cf"), "warntime 1", "warntime 1500ms", 1), 0o644)
	c.signal(next, syscall.SIGHUP)
	until(t, "new warntime in force", func() bool { return time.Duration(c.status().Warntime) == 1500*time.Millisecond })
	last := killed(next)
	if c.pid() != pid || !c.hasAddress() {
		t.Errorf("daemon %d, was %d", c.pid(), pid)
	}
	c.revived(pid)
	c.says(fmt.Sprintf("CRIT: heartbeat (pid %d) has died, it is not known how: starting it again", pid))
	if c.supervisor() != last {
		t.Errorf("supervisor %d, it was %d", c.supervisor(), last)
	}
	killed(last)
	if !warned {
		t.Error("the status does not warn while there is no supervisor")
	}
	c.expect(0, "", "-k")
	if c.supervisor() != 0 || c.hasAddress() {
		t.Errorf("after a stop: supervisor %d, address %v", c.supervisor(), c.hasAddress())
	}
	if n := strings.Count(c.file("ha-log"), "starting it again"); n != 1 {
		t.Errorf("started again %d times", n)
	}
	c.expect(0, "Starting heartbeat")
	above = c.supervisor()
	c.signal(above, syscall.SIGTERM)
	until(t, "both have ended", func() bool { return c.supervisor() == 0 && c.pid() == 0 })
	if !strings.HasSuffix(c.file("ha-log"), "info: node1 Heartbeat shutdown complete.\n") {
		t.Error("the log does not end with the shutdown")
	}

	c.write("heartbeat.toml", "supervise = false\n", 0o644)
	c.expect(0, "Starting heartbeat")
	if c.supervisor() != 0 {
		t.Error("a supervisor, although there shall be none")
	}
	c.expect(0, "", "-k")
}

// TestSupervisorRenewed: after an upgrade in place the supervisor is one of the new
// program too.
func TestSupervisorRenewed(t *testing.T) {
	t.Parallel()
	c := cells(t, 1)[0]
	c.exe = filepath.Join(c.root, "heartbeat")
	c.install(program)
	c.owner()
	pid, above := c.pid(), c.supervisor()
	c.install(program)
	c.expect(0, "Signalling", "-r")
	next := c.adopted(above)
	c.says(fmt.Sprintf("info: the supervisor (pid %d) makes place for one of the installed program (pid %d)", above, next))
	installed, err1 := os.Stat(c.exe)
	runs, err2 := os.Stat(fmt.Sprintf("/proc/%d/exe", next))
	if err1 != nil || err2 != nil || !os.SameFile(installed, runs) {
		t.Errorf("the supervisor is not the installed program: %v, %v", err1, err2)
	}
	if c.pid() != pid || !c.hasAddress() {
		t.Errorf("daemon %d, was %d", c.pid(), pid)
	}
	c.revived(pid)
	c.expect(0, "", "-k")
	if c.supervisor() != 0 || c.pid() != 0 {
		t.Error("left after a stop")
	}
}

// install puts a program in the place of the cell's own.
func (c *cell) install(path string) {
	c.t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		c.t.Fatal(err)
	}
	c.replace(text)
}

func (c *cell) replace(text []byte) {
	c.t.Helper()
	if err := os.WriteFile(c.exe+".new", text, 0o755); err != nil {
		c.t.Fatal(err)
	}
	if err := os.Rename(c.exe+".new", c.exe); err != nil {
		c.t.Fatal(err)
	}
}

// toldToStop is a daemon that dies at each start. The third one has the supervisor told
// to stop in the pause that follows; should that take long, those after it live long
// enough to be met alive. (What it leaves behind must not keep its readiness pipe open.)
func toldToStop() string {
	return `#!/bin/sh
echo >>"$` + rootEnv + `/lives"
lives=$(wc -l <"$` + rootEnv + `/lives")
[ "$lives" -gt 3 ] && sleep 10
[ "$lives" -eq 3 ] && ` + program + ` -k 3>&- >/dev/null 2>&1 &
exit 1
`
}

// TestCrashLoop: daemons that die at each start are given up with a sentence,
// and what the last good one owned is released: nobody else here would.
func TestCrashLoop(t *testing.T) {
	t.Parallel()
	for _, way := range []struct {
		name, script, config string
		says                 []string // one of them
		released             bool
	}{
		{"dies at each start", "#!/bin/sh\nkill -SEGV $$\n", "", []string{"was killed by signal 11 (SIGSEGV): it is not started again, since the last 6 died before they were up"}, true},
		{"refuses its configuration", "", "garbage\n", []string{"heartbeat is not started again: it cannot use its configuration. What it owned is left as it is"}, false},
		{"told to stop meanwhile", toldToStop(), "", []string{"asked to stop while the daemon was down. Its resources are released",
			"while it was to stop. Its resources are released"}, true},
	} {
		t.Run(way.name, func(t *testing.T) {
			c := cells(t, 1)[0]
			c.exe = filepath.Join(c.root, "heartbeat")
			c.install(program)
			c.owner()
			pid := c.pid()
			if way.script != "" {
				c.replace([]byte(way.script))
			}
			if way.config != "" {
				c.write("ha.cf", c.file("etc/ha.d/ha.cf")+way.config, 0o644)
			}
			c.signal(pid, syscall.SIGKILL)
			until(t, fmt.Sprintf("the log says %q", way.says), func() bool {
				log := c.file("ha-log")
				return slices.ContainsFunc(way.says, func(text string) bool { return strings.Contains(log, text) })
			})
			until(t, "the supervisor has ended", func() bool { return c.supervisor() == 0 })
			if c.hasAddress() == way.released {
				t.Errorf("has the address: %v", c.hasAddress())
			}
			c.exe = program
			c.expect(1, "heartbeat is stopped. No process", "-s")
		})
	}
}

// TestCoreDumps: what ha.cf says of cores holds for the daemon and for what it
// starts, also after a restart in place.
func TestCoreDumps(t *testing.T) {
	t.Parallel()
	c := cells(t, 1)[0]
	c.write("ha.cf", c.file("etc/ha.d/ha.cf")+"respawn root /bin/sleep 4714\n", 0o644)
	c.owner()
	limit := func(soft string) {
		t.Helper()
		until(t, "cores of "+soft, func() bool {
			child, _ := exec.Command("ip", "netns", "exec", c.ns, "pgrep", "-P", fmt.Sprint(c.pid()), "-x", "sleep").Output() // none: fails
			pids := append(strings.Fields(string(child)), fmt.Sprint(c.pid()))
			for _, pid := range pids {
				limits, _ := os.ReadFile("/proc/" + pid + "/limits")
				_, line, _ := strings.Cut(string(limits), "Max core file size")
				if f := strings.Fields(line); len(f) < 2 || f[0] != soft || f[1] != "unlimited" {
					return false
				}
			}
			return len(pids) == 2
		})
	}
	limit("unlimited")
	c.write("ha.cf", strings.Replace(c.file("etc/ha.d/ha.cf"), "sleep 4714", "sleep 4715", 1)+"coredumps false\n", 0o644)
	c.expect(0, "", "-r")
	limit("0")
	c.expect(0, "", "-k")
}

// TestReleaseLeft does what systemd does at its limit of restarts: what the last
// daemon left running is released, once, and never beside a daemon.
func TestReleaseLeft(t *testing.T) {
	c := cells(t, 1)[0]
	release := func(code int, text string) {
		t.Helper()
		t.Setenv(releaseEnv, "1")
		c.expect(code, text)
		if err := os.Unsetenv(releaseEnv); err != nil {
			t.Fatal(err)
		}
	}
	release(0, "INFO: nothing is released: ")
	c.write("heartbeat.toml", "supervise = false\n[guard]\naddress_lifetime = \"off\"\n", 0o644)
	c.owner()
	release(0, "run/heartbeat/lock")
	if !c.hasAddress() {
		t.Fatal("released beside a daemon")
	}
	c.crash()
	until(t, "the daemon is dead", func() bool { return !c.alive(c.pid()) })
	good := c.file("etc/ha.d/ha.cf")
	c.write("ha.cf", good+"garbage\n", 0o644)
	release(1, "")
	c.says("Its resources are left as they are: the configuration cannot be used")
	if !c.hasAddress() {
		t.Fatal("released without knowing what")
	}
	c.write("ha.cf", good, 0o644)
	// A start that fails in between does not hide what was left; nor does systemd,
	// which removes the pid file.
	if err := os.Remove(filepath.Join(c.root, "run/heartbeat.pid")); err != nil {
		t.Fatal(err)
	}
	release(0, "")
	c.says("CRIT: heartbeat has died and is not started again (systemctl status heartbeat tells why). Its resources are released")
	if c.hasAddress() {
		t.Error("the address is left")
	}
	release(0, "INFO: nothing to release")
	c.expect(0, "Starting heartbeat")
	until(t, "it has taken the address", func() bool { return c.status().CommUp && c.hasAddress() })
	c.expect(0, "", "-k")
	release(0, "INFO: nothing to release")

	// A daemon that owns nothing leaves nothing, whoever started what runs here.
	c.expect(0, "Starting heartbeat", "-M")
	c.crash()
	until(t, "the daemon is dead", func() bool { return !c.alive(c.pid()) })
	release(0, "INFO: nothing to release")
}
