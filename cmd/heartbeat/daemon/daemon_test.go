package daemon

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"heartbeat/cluster/control"
)

// program is the built daemon.
var program string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "heartbeat-daemon-test")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	program = filepath.Join(dir, "heartbeat")
	if out, err := exec.Command("go", "build", "-o", program, "heartbeat/cmd/heartbeat").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// TestCommandLine has texts and exit codes of the original that need no daemon.
func TestCommandLine(t *testing.T) {
	t.Setenv(rootEnv, t.TempDir())
	for _, c := range []struct {
		args           string
		code           int
		stdout, stderr string
	}{
		{"-s", 3, "heartbeat is stopped. No process\n", ""},
		{"-k", 0, "", "INFO: Heartbeat already stopped.\n"},
		{"-X", 2, "", "heartbeat: invalid option -- 'X'\n" + usage},
		{"-dX", 2, "", "heartbeat: invalid option -- 'X'\n" + usage},
		{"-C", 2, "", "heartbeat: option requires an argument -- 'C'\n" + usage},
		{"-C local", 2, "", usage},
		{"-R", 6, "", "ERROR: heartbeat is not running.\n"},
		{"-R -C local", 6, "", "ERROR: heartbeat is not running.\n"},
		{"-r -R", 6, "", "ERROR: heartbeat is not running.\n"},
		{"word -s", 3, "heartbeat is stopped. No process\n", ""},
		{"-V", 0, Version() + "\n", ""},
	} {
		var stdout, stderr bytes.Buffer
		code := Run(append([]string{"heartbeat"}, strings.Fields(c.args)...), &stdout, &stderr)
		if code != c.code || stdout.String() != c.stdout || stderr.String() != c.stderr {
			t.Errorf("heartbeat %s: code %d, stdout %q, stderr %q; want %d, %q, %q", c.args, code, &stdout, &stderr, c.code, c.stdout, c.stderr)
		}
	}
	var table bytes.Buffer
	printDefaults(&table, false)
	if lines := strings.Split(table.String(), "\n"); len(lines) != 27 || lines[2] != "cluster                  linux-ha  the name of cluster" ||
		lines[25] != "memreserve               6500      number of kbytes to preallocate in heartbeat" {
		t.Errorf("-D printed\n%s", &table)
	}
	table.Reset()
	printDefaults(&table, true)
	if !strings.Contains(table.String(), "||[wiki:ha.cf/MaxRexmitDelayDirective max_rexmit_delay]||250||set the maximum rexmit delay time||\n") {
		t.Errorf("-DW printed\n%s", &table)
	}
}

// cell is one node: a network namespace and a directory in place of /.
type cell struct {
	t    *testing.T
	ns   string
	root string
	name string
	exe  string // the daemon, program unless a test needs its own copy
}

func sh(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return string(out)
}

// segments counts them: tests run side by side, for each is mostly waiting.
var segments atomic.Int32

// cells makes n nodes on one segment: node1 is 192.0.2.1 on eth0.
func cells(t *testing.T, n int) []*cell {
	t.Helper()
	label := fmt.Sprintf("hbd%d-%d", os.Getpid(), segments.Add(1))
	hub := label + "-hub"
	remove := func() {
		for i := range n {
			_ = exec.Command("ip", "netns", "del", fmt.Sprintf("%s-%d", label, i+1)).Run() // may not exist
		}
		_ = exec.Command("ip", "netns", "del", hub).Run()
	}
	remove()
	t.Cleanup(remove)
	sh(t, "ip", "netns", "add", hub)
	sh(t, "ip", "-n", hub, "link", "add", "br0", "type", "bridge")
	sh(t, "ip", "-n", hub, "link", "set", "br0", "up")
	var out []*cell
	for i := range n {
		c := &cell{t: t, ns: fmt.Sprintf("%s-%d", label, i+1), root: t.TempDir(), name: fmt.Sprintf("node%d", i+1), exe: program}
		port := fmt.Sprintf("p%d", i+1)
		sh(t, "ip", "netns", "add", c.ns)
		sh(t, "ip", "-n", c.ns, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", hub)
		sh(t, "ip", "-n", hub, "link", "set", port, "master", "br0", "up")
		sh(t, "ip", "-n", c.ns, "link", "set", "lo", "up")
		sh(t, "ip", "-n", c.ns, "addr", "add", fmt.Sprintf("192.0.2.%d/24", i+1), "brd", "+", "dev", "eth0")
		sh(t, "ip", "-n", c.ns, "link", "set", "eth0", "up")
		if err := os.MkdirAll(filepath.Join(c.root, "etc/ha.d"), 0o755); err != nil {
			t.Fatal(err)
		}
		c.write("nodeinfo", c.name+"\n", 0o644)
		c.write("authkeys", "auth 1\n1 sha1 secret\n", 0o600)
		c.write("haresources", "node1 192.0.2.50/24/eth0\n", 0o644)
		c.write("ha.cf", "keepalive 200ms\nwarntime 1\ndeadtime 2\ninitdead 4\nbcast eth0\nauto_failback off\nnode node1 node2\n"+
			"logfile "+c.root+"/ha-log\ndebugfile "+c.root+"/ha-debug\n", 0o644)
		t.Cleanup(func() {
			c.crash()
			if t.Failed() {
				text, _ := os.ReadFile(filepath.Join(c.root, "ha-log"))
				t.Logf("log of %s:\n%s", c.name, text)
			}
		})
		out = append(out, c)
	}
	return out
}

func (c *cell) write(name, text string, mode os.FileMode) {
	c.t.Helper()
	path := filepath.Join(c.root, "etc/ha.d", name)
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		c.t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cell) command(args ...string) *exec.Cmd {
	cmd := exec.Command("ip", append([]string{"netns", "exec", c.ns, c.exe}, args...)...)
	cmd.Env = append(os.Environ(), rootEnv+"="+c.root)
	return cmd
}

// run calls the program and returns its exit code and output.
func (c *cell) run(args ...string) (code int, stdout, stderr string) {
	c.t.Helper()
	cmd := c.command(args...)
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		c.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), o.String(), e.String()
}

func (c *cell) expect(code int, text string, args ...string) {
	c.t.Helper()
	got, stdout, stderr := c.run(args...)
	if got != code || !strings.Contains(stdout+stderr, text) {
		c.t.Fatalf("%s: heartbeat %v ended with %d:\n%s%s\nwant %d and %q", c.name, args, got, stdout, stderr, code, text)
	}
}

func (c *cell) pid() int {
	text, err := os.ReadFile(filepath.Join(c.root, "run/heartbeat.pid"))
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return pid
}

// alive guards against a pid that is somebody else's by now.
func (c *cell) alive(pid int) bool {
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return err == nil && strings.TrimSuffix(exe, " (deleted)") == c.exe
}

// supervisor is the daemon's parent, 0 when there is none.
func (c *cell) supervisor() int {
	s := &setup{}
	s.paths.Run = filepath.Join(c.root, "run/heartbeat")
	return s.supervisorPID()
}

// crash kills the supervisor and the daemon, if they run, as at one moment: neither
// shall start the other one anew. It waits until both are gone, for they must not write
// into a directory that is being removed.
func (c *cell) crash() {
	c.t.Helper()
	pids := slices.DeleteFunc([]int{c.supervisor(), c.pid()}, func(pid int) bool { return pid == 0 || !c.alive(pid) })
	for _, s := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGKILL} {
		for _, pid := range pids {
			_ = syscall.Kill(pid, s) // it may end in this moment
		}
	}
	until(c.t, "the crash of "+c.name, func() bool { return !slices.ContainsFunc(pids, c.alive) })
}

func (c *cell) file(path string) string {
	c.t.Helper()
	text, err := os.ReadFile(filepath.Join(c.root, path))
	if err != nil {
		c.t.Fatal(err)
	}
	return string(text)
}

func (c *cell) hasAddress() bool {
	return strings.Contains(sh(c.t, "ip", "-n", c.ns, "-o", "addr", "show"), "192.0.2.50/24")
}

func (c *cell) client() *control.Client {
	return control.Dial(filepath.Join(c.root, control.DefaultSocket))
}

// until waits for a condition; the limit is generous because the machine is
// shared.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(90 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

func (c *cell) status() control.Status {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	s, err := c.client().Status(ctx)
	if err != nil {
		return control.Status{}
	}
	return s
}

// TestConfigErrors: the daemon does not start on a bad configuration, says so as
// the original does and adds the place.
func TestConfigErrors(t *testing.T) {
	t.Parallel()
	c := cells(t, 1)[0]
	good := c.file("etc/ha.d/ha.cf")
	c.write("ha.cf", good+"garbage\n", 0o644)
	c.expect(6, "ERROR: Configuration error, heartbeat not started.\n"+c.root+"/etc/ha.d/ha.cf:10:1: unknown directive")
	c.write("ha.cf", good, 0o644)
	c.write("authkeys", "auth 1\n1 sha1 secret\n", 0o644)
	c.expect(6, "ERROR: Authentication configuration error.")
	c.expect(6, "ERROR: Configuration error, heartbeat not started.", "-f")
	c.expect(3, "heartbeat is stopped. No process", "-s")
	if _, err := os.Stat(filepath.Join(c.root, "var/lib/heartbeat/hb_generation")); err == nil {
		t.Error("a start that failed took a generation")
	}
}

// TestLife: start, second start, status, reload, stop, crash, with the files
// each leaves.
func TestLife(t *testing.T) {
	t.Parallel()
	c := cells(t, 1)[0]
	c.expect(0, "info: Configuration validated. Starting heartbeat 3.0.6")
	pid := c.pid()
	if text := c.file("run/heartbeat.pid"); text != fmt.Sprintf("%10d\n", pid) || !c.alive(pid) {
		t.Fatalf("pid file has %q", text)
	}
	if sid, err := syscall.Getpgid(pid); err != nil || sid != pid {
		t.Errorf("the daemon is in process group %d (%v)", sid, err)
	}
	generation := c.file("var/lib/heartbeat/hb_generation")
	if len(generation) != 16 || len(c.file("var/lib/heartbeat/hb_uuid")) != 16 {
		t.Errorf("generation %q", generation)
	}
	c.expect(0, fmt.Sprintf("info: heartbeat: already running [pid %d].\n", pid))
	c.expect(0, fmt.Sprintf("heartbeat OK [pid %d et al] is running on ", pid), "-s")
	c.expect(0, "[node1]...\n", "-s")
	c.expect(0, fmt.Sprintf("info: Signalling heartbeat pid %d to reread config files\n", pid), "-r")
	until(t, "unchanged configuration noted", func() bool { return strings.Contains(c.file("ha-log"), "info: Configuration unchanged.\n") })
	c.write("authkeys", "auth 1\n1 sha1 secret\n2 sha1 other\n", 0o600)
	c.expect(0, "Signalling", "-r")
	until(t, "keys read again", func() bool { return strings.Contains(c.file("ha-log"), "info: Rereading authentication file.\n") })
	good := c.file("etc/ha.d/ha.cf")
	c.write("ha.cf", good+"garbage\n", 0o644)
	c.expect(1, fmt.Sprintf("info: Config errors: Heartbeat pid %d NOT restarted\n", pid), "-r")
	if err := syscall.Kill(pid, syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	until(t, "bad configuration refused", func() bool { return strings.Contains(c.file("ha-log"), "the running one stays in force") })
	c.write("ha.cf", good, 0o644)
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGPIPE, syscall.SIGUSR1} {
		if err := syscall.Kill(pid, s); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "debug level raised", func() bool { return strings.Contains(c.file("ha-debug"), "debug: debug now set to 1 ") })
	c.expect(0, "", "-k")
	for _, name := range []string{"run/heartbeat.pid", "run/heartbeat/control.sock"} {
		if _, err := os.Stat(filepath.Join(c.root, name)); err == nil {
			t.Errorf("%s is left after a clean end", name)
		}
	}
	if !strings.HasSuffix(c.file("ha-log"), "info: node1 Heartbeat shutdown complete.\n") {
		t.Error("the log does not end with the shutdown")
	}
	c.expect(3, "heartbeat is stopped. No process", "-s")

	// In the foreground, as a child of ours that is not buried: a zombie.
	fg := c.command("-f")
	if err := fg.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, "foreground daemon up", func() bool { code, _, _ := c.run("-s"); return code == 0 })
	if pid := c.pid(); pid != fg.Process.Pid {
		t.Errorf("the daemon in the foreground has pid %d, started was %d", pid, fg.Process.Pid)
	}
	until(t, "a higher generation", func() bool { return c.file("var/lib/heartbeat/hb_generation") > generation })
	if err := fg.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	until(t, "killed daemon noticed", func() bool { code, _, _ := c.run("-s"); return code == 1 })
	c.expect(0, "INFO: Heartbeat already stopped.", "-k")
	_ = fg.Wait() // it was killed
}

// TestReplaceInPlace: with a changed ha.cf the process executes itself anew and
// nothing moves: same pid, same generation, rising sequence, address in place.
func TestReplaceInPlace(t *testing.T) {
	t.Parallel()
	c := cells(t, 1)[0]
	c.expect(0, "Starting heartbeat")
	until(t, "node1 has taken the address", func() bool { return c.status().Stable && c.hasAddress() })
	before := c.status()
	c.write("ha.cf", strings.Replace(c.file("etc/ha.d/ha.cf"), "warntime 1", "warntime 1500ms", 1), 0o644)
	c.expect(0, "Signalling", "-r")
	until(t, "new warntime in force", func() bool {
		if !c.hasAddress() {
			t.Fatal("the address was away")
		}
		return time.Duration(c.status().Warntime) == 1500*time.Millisecond
	})
	after := c.status()
	if after.PID != before.PID || after.Generation != before.Generation || !after.Started.Equal(before.Started) || !after.Stable || after.Hold != before.Hold {
		t.Errorf("before %+v\nafter %+v", before, after)
	}
	log := c.file("ha-log")
	if strings.Count(log, "Heartbeat generation:") != 1 || strings.Count(log, "Performing heartbeat restart exec.") != 1 || strings.Count(log, "Releasing resource group") != 0 {
		t.Error("the log shows a start or a release")
	}
	c.expect(0, "", "-k")
	if c.hasAddress() {
		t.Error("the successor did not release the address at its end")
	}
}

// TestUnmanaged: with -M the daemon settles without touching a resource. With
// uuidfrom nodename nothing is stored; a watchdog that cannot be opened is named.
func TestUnmanaged(t *testing.T) {
	t.Parallel()
	c := cells(t, 1)[0]
	c.write("ha.cf", c.file("etc/ha.d/ha.cf")+"uuidfrom nodename\nwatchdog /dev/nowatchdog\n", 0o644)
	c.write("haresources", c.file("etc/ha.d/haresources")+"node1 IPAddr::10.9.9.9\n", 0o644)
	c.expect(0, "Starting heartbeat", "-M")
	until(t, "node1 stable", func() bool { return c.status().Stable })
	if s := c.status(); len(s.Groups) != 0 || c.hasAddress() {
		t.Errorf("-M manages %+v", s.Groups)
	}
	until(t, "the status warns of the watchdog", func() bool {
		return strings.Contains(strings.Join(c.status().Warnings, "\n"), "Cannot open watchdog device: /dev/nowatchdog: no such file")
	})
	c.expect(0, "", "-k")
	// A machine that stands still for longer than deadtime is late for itself.
	if log := strings.ReplaceAll(c.file("ha-log"), "CRIT: Late heartbeat: ", ""); strings.Contains(log, "CRIT:") || !strings.Contains(log, "ERROR: Cannot open watchdog device: /dev/nowatchdog: no such file") {
		t.Errorf("the log says\n%s", log)
	}
	if log := c.file("ha-log"); !strings.Contains(log, "resource type IPAddr, no script has that name") {
		t.Errorf("no warning of the misspelt resource type:\n%s", log)
	}
	if _, err := os.Stat(filepath.Join(c.root, "var/lib/heartbeat/hb_uuid")); err == nil {
		t.Error("a uuid from the name was stored")
	}
}

// TestPair: two daemons; the owner is killed, the other takes over; the killed
// one returns and does not keep what it finds; standby moves the group back.
func TestPair(t *testing.T) {
	t.Parallel()
	pair := cells(t, 2)
	one, two := pair[0], pair[1]
	for _, c := range pair {
		// Long enough for a machine that is paused for some seconds.
		c.write("ha.cf", strings.Replace(c.file("etc/ha.d/ha.cf"), "deadtime 2\ninitdead 4", "deadtime 6\ninitdead 15", 1), 0o644)
		c.expect(0, "Starting heartbeat")
	}
	until(t, "both stable, node1 owns the address", func() bool {
		return one.status().Stable && two.status().Stable && one.hasAddress() && !two.hasAddress()
	})
	one.crash()
	killed := time.Now()
	until(t, "node2 has taken over", two.hasAddress)
	t.Logf("takeover %v after kill -9 (deadtime 6s)", time.Since(killed).Round(time.Millisecond))
	one.expect(1, "heartbeat is stopped. No process", "-s")
	one.expect(0, "Starting heartbeat")
	until(t, "node1 back, address on node2 only", func() bool {
		return one.status().Stable && two.status().Stable && !one.hasAddress() && two.hasAddress()
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := two.client().Order(ctx, control.Order{Verb: control.VerbStandby, Set: "all", From: "test"}, func(control.Step) bool { return true })
	if err != nil {
		t.Errorf("standby: %v", err)
	}
	until(t, "address on node1 only", func() bool { return one.hasAddress() && !two.hasAddress() })
	for _, c := range []*cell{two, one} {
		c.expect(0, "", "-k")
	}
	if one.hasAddress() || two.hasAddress() {
		t.Error("the address is left after both ended")
	}
}
