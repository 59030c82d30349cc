package etc

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"heartbeat/integration/lab"
)

// limit is how long anything may take that is not itself being timed: the
// machine is shared.
const limit = 2 * time.Minute

const (
	initScript = "/etc/init.d/heartbeat"
	haLog      = "/var/log/ha-log"
)

// kinds are what is installed on the machine under test. What is asked of ours
// is asked of the original first, so that no expectation is a memory of it.
var kinds = []string{"original", "ours"}

// machine is node n1 of a lab with one kind installed; n2 is never started.
type machine struct {
	*lab.Node
	lab *lab.Lab
	t   *testing.T
}

// settings are short enough to wait for, long enough for a busy machine.
func settings() lab.Cluster {
	return lab.Cluster{Keepalive: 250 * time.Millisecond, Deadtime: 3 * time.Second, Initdead: 5 * time.Second,
		Media: []string{"bcast eth1"}, Addrs: lab.ServiceAddrs(1)}
}

func newMachine(t *testing.T, kind string) *machine {
	t.Helper()
	l, err := lab.New(t.Context(), strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(t.Name(), "Test"), "/", "-")))
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{l.N1, l, t}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the log of %s:\n%s", kind, m.Tail(haLog, 80))
		}
		if err := l.Close(); err != nil {
			t.Errorf("close the lab: %v", err)
		}
	})
	if kind == "original" {
		if err := lab.Original().Configure(l.N1, settings()); err != nil {
			t.Fatal(err)
		}
		return m
	}
	// Over the original, as on a machine that is upgraded: resource.d and rc.d
	// of the old package stay, the programs are replaced.
	m.must("cp", "-a", stage+"/etc/.", "/etc/")
	m.must("cp", "-a", stage+"/var/lib/heartbeat/.", "/var/lib/heartbeat/")
	m.must("mount", "-t", "overlay", "overlay", "-o", "lowerdir="+stage+"/usr:/usr", "/usr")
	m.configure(settings())
	return m
}

func (m *machine) configure(c lab.Cluster) {
	m.t.Helper()
	for name, text := range map[string]string{"ha.cf": c.HaCf(), "haresources": c.HaResources(), "authkeys": c.AuthKeys()} {
		m.write(name, text)
	}
}

func (m *machine) write(name, text string) {
	m.t.Helper()
	if err := m.Write("/etc/ha.d/"+name, text, 0o600); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) run(argv ...string) lab.Output {
	m.t.Helper()
	o, err := m.Run(m.t.Context(), argv...)
	if err != nil {
		m.t.Fatal(err)
	}
	return o
}

// must runs a command that has to succeed, and returns its output.
func (m *machine) must(argv ...string) string {
	m.t.Helper()
	o := m.run(argv...)
	if o.Code != 0 {
		m.t.Fatalf("%v: exit code %d: %s%s", argv, o.Code, o.Stdout, o.Stderr)
	}
	return o.Stdout
}

// says waits until the log has text at least n times.
func (m *machine) says(n int, text string) {
	m.t.Helper()
	m.wait(fmt.Sprintf("%d times %q in the log", n, text), func() (bool, string) {
		k := strings.Count(m.Read(haLog), text)
		return k >= n, fmt.Sprintf("it is there %d times", k)
	})
}

func (m *machine) wait(what string, cond func() (bool, string)) {
	m.t.Helper()
	if err := lab.Wait(m.t.Context(), limit, what, cond); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) holds(addr netip.Addr, want bool) {
	m.t.Helper()
	m.wait(fmt.Sprintf("address %v held: %v", addr, want), func() (bool, string) {
		return m.Holds(addr) == want, "it is not so"
	})
}

// pid is the daemon's, from its pid file as everybody reads it.
func (m *machine) pid() int {
	m.t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(m.must("cat", "/run/heartbeat.pid")))
	if err != nil {
		m.t.Fatalf("pid file: %v", err)
	}
	return n
}

// announced begins to watch for gratuitous ARP of an address and returns the
// question whether there was any.
func (m *machine) announced(addr netip.Addr) func() (bool, string) {
	m.t.Helper()
	c, err := m.lab.Capture(m.Node, lab.ServiceLink, func(f []byte) bool {
		// Ethernet type ARP, sender's and target's address the same.
		ip := addr.As4()
		return len(f) >= 42 && f[12] == 8 && f[13] == 6 && bytes.Equal(f[28:32], ip[:]) && bytes.Equal(f[38:42], ip[:])
	})
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(c.Close)
	return func() (bool, string) { return len(c.Times()) > 0, "no gratuitous ARP seen" }
}

// settle waits until no resource is about to move.
func (m *machine) settle(want string) {
	m.t.Helper()
	m.wait("cl_status rscstatus says "+want, func() (bool, string) {
		o := m.run("/usr/bin/cl_status", "rscstatus")
		return o.Code == 0 && strings.TrimSpace(o.Stdout) == want, fmt.Sprintf("%+v", o)
	})
}

// TestInitScript goes through all actions of /etc/init.d/heartbeat: the words on
// standard output and the exit codes.
func TestInitScript(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, kind)
			// expect runs an action; want is a regular expression for the whole
			// standard output.
			expect := func(why string, code int, want string, argv ...string) {
				t.Helper()
				o := m.run(append([]string{initScript}, argv...)...)
				if o.Code != code || !regexp.MustCompile(`\A(?s:`+want+`)\z`).MatchString(o.Stdout) {
					t.Errorf("%s: %s %v: exit code %d, output %q; want %d, %s (stderr %q)", why, initScript, argv, o.Code, o.Stdout, code, want, o.Stderr)
				}
			}
			const (
				starting  = `Starting High-Availability services: `
				stopping  = `Stopping High-Availability services: Done\.\n\n`
				reloading = `Reloading High-Availability services: `
				running   = `heartbeat OK \[pid \d+ et al\] is running on n1 \[n1\]\.\.\.\n`
				stopped   = `heartbeat is stopped\. No process\n`
			)
			good := settings()

			m.must("mv", "/etc/ha.d/ha.cf", "/etc/ha.d/aside")
			for _, action := range []string{"start", "stop", "status", "reload", "standby", ""} {
				expect("no ha.cf", 0, `Heartbeat not configured: /etc/ha\.d/ha\.cf not found\. Heartbeat failure \[rc=1\]\. Failed\.\n`, action)
			}
			m.must("mv", "/etc/ha.d/aside", "/etc/ha.d/ha.cf")

			expect("no such action", 1, `Usage: /etc/init\.d/heartbeat \{start\|stop\|status\|restart\|reload\|force-reload\}\n`, "bogus")
			expect("never started", 3, stopped, "status")
			expect("never started", 0, stopping, "stop")
			expect("never started", 1, `auto_failback: on\nHeartbeat is not currently running\.\n`, "standby")

			m.must("chmod", "644", "/etc/ha.d/authkeys")
			expect("readable keys", 6, starting+` Heartbeat failure \[rc=6\]\. Failed\.\n\n.*Bad permissions on keyfile \[/etc/ha\.d//authkeys\], 600 recommended\..*\n\n`, "start")
			m.must("chmod", "600", "/etc/ha.d/authkeys")

			expect("good files", 0, starting+`Done\.\n\n`, "start")
			m.must("test", "-f", "/var/lock/subsys/heartbeat")
			expect("running", 0, running, "status")
			expect("running already", 0, starting+`Done\.\n\n`, "start")
			m.holds(good.Addrs[0], true)
			m.settle("all")

			expect("nothing changed", 0, reloading+`Done\.\n\n`, "reload")
			m.says(1, "info: Configuration unchanged.")
			// Named difference: the original says Done although nobody is there to
			// take anything; ours refuses, and says so.
			code, outcome := 0, `Done\.\n`
			if kind == "ours" {
				code, outcome = 1, ` Heartbeat failure \[rc=1\]\. Failed\.\n`
			}
			expect("nobody to take over", code, `auto_failback: on\nAttempting to enter standby mode`+outcome, "standby")

			pid := m.pid()
			m.write("ha.cf", good.HaCf()+"keepalive 30s\n")
			expect("a wrong time in ha.cf", 0, reloading+` Heartbeat failure \[rc=1\]\. Failed\.\n\n`, "reload")
			expect("not restarted", 0, running, "status")
			if now := m.pid(); now != pid {
				t.Errorf("a wrong ha.cf and reload: pid %d became %d", pid, now)
			}
			m.configure(good)

			expect("running", 0, stopping+`Waiting to allow resource takeover to complete:Done\.\n\n`+starting+`Done\.\n\n`, "restart")
			expect("restarted", 0, running, "status")
			if now := m.pid(); now == pid {
				t.Errorf("after restart the pid is still %d", pid)
			}
			expect("running", 0, stopping, "stop")
			m.holds(good.Addrs[0], false)
			if o := m.run("test", "-f", "/var/lock/subsys/heartbeat"); o.Code == 0 {
				t.Error("the lock file stayed after stop")
			}
			if o := m.run(initScript, "status"); o.Code != 1 && o.Code != 3 || o.Stdout != "heartbeat is stopped. No process\n" {
				t.Errorf("status after stop: %+v", o)
			}

			m.write("ha.cf", strings.ReplaceAll(good.HaCf(), "auto_failback on\n", ""))
			expect("no auto_failback", 1, `auto_failback defaulted to legacy\.  Cannot enter standby\.\n`, "standby")
			m.write("ha.cf", strings.ReplaceAll(good.HaCf(), "auto_failback on\n", "auto_failback legacy\n"))
			expect("auto_failback legacy", 1, `auto_failback is set to legacy\.  Cannot enter standby\.\n`, "standby")
		})
	}
}

// TestSanity asks what the original's own sanity check asks of an installation:
// start, status, a dead node noticed, an address taken and announced, reload
// with and without a restart in place, a clean stop.
func TestSanity(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, kind)
			cfg := settings()
			addr := cfg.Addrs[0]
			announced := m.announced(addr)

			m.must(initScript, "start")
			m.says(1, "WARN: node n2: is dead")
			m.says(1, "No STONITH device configured.")
			m.holds(addr, true)
			m.wait("an announcement of the address", announced)
			m.settle("all")
			for _, q := range []struct{ argv, want string }{
				{"hbstatus", "Heartbeat is running on this machine.\n"},
				{"listnodes -n", "n2\nn1\n"},
				{"nodestatus n1", "active\n"},
				{"nodetype n2", "normal\n"},
				{"hbparameter -p deadtime", "3\n"},
			} {
				if got := m.must(append([]string{"/usr/bin/cl_status"}, strings.Fields(q.argv)...)...); got != q.want {
					t.Errorf("cl_status %s: %q, want %q", q.argv, got, q.want)
				}
			}
			if o := m.run("/usr/bin/cl_status", "nodestatus", "n2"); o.Code != 1 || o.Stdout != "dead\n" {
				t.Errorf("cl_status nodestatus n2: %+v", o)
			}

			pid, execs := m.pid(), strings.Count(m.Read(haLog), "Performing heartbeat restart exec.")
			m.must("touch", "-d", "+1 hour", "/etc/ha.d/ha.cf")
			m.must(initScript, "reload")
			m.says(execs+1, "Performing heartbeat restart exec.")
			m.settle("all")
			if now := m.pid(); now != pid {
				t.Errorf("reload after a change of ha.cf: pid %d became %d", pid, now)
			}
			m.holds(addr, true)
			if log := m.Read(haLog); strings.Contains(log, "Releasing resource group") {
				t.Error("the restart in place released resources")
			}

			// One second is what the files' times differ by at least.
			m.write("authkeys", "auth 1\n1 sha1 another\n")
			m.must("touch", "-d", "+2 hours", "/etc/ha.d/authkeys")
			m.must(initScript, "reload")
			m.says(1, "info: Rereading authentication file.")
			if n := strings.Count(m.Read(haLog), "Performing heartbeat restart exec."); n != execs+1 {
				t.Errorf("new keys: %d restarts in place, want %d", n, execs+1)
			}

			m.must(initScript, "stop")
			m.says(1, "Heartbeat shutdown complete.")
			if m.Holds(addr) {
				t.Error("the address is still there after stop")
			}
			if o := m.run("/usr/bin/cl_status", "hbstatus"); o.Code != 1 || o.Stdout != "Heartbeat is stopped on this machine.\n" {
				t.Errorf("cl_status hbstatus after stop: %+v", o)
			}
		})
	}
}

// TestUnit does with heartbeat.service what systemd does: start it, hear that it
// is ready and that its loop goes round, reload it, end it; and when it has failed
// for good, start the unit that releases what was left.
func TestUnit(t *testing.T) {
	t.Parallel()
	of := func(unit, key string) string {
		text, err := os.ReadFile(filepath.Join(stage, "usr/lib/systemd/system", unit))
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(text), "\n"+key+"=")
		value, _, _ := strings.Cut(rest, "\n")
		return value
	}
	setting := func(key string) string { return of("heartbeat.service", key) }
	if setting("Type") != "notify" || setting("KillMode") != "process" || setting("WatchdogSec") == "" {
		t.Errorf("Type=%s KillMode=%s WatchdogSec=%s", setting("Type"), setting("KillMode"), setting("WatchdogSec"))
	}
	m := newMachine(t, "ours")
	// The node's /var/log is a directory of the lab: a socket there is seen by both.
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.Path("/var/log/notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	hears := func(want string) {
		t.Helper()
		buf := make([]byte, 4096)
		if err := socket.SetReadDeadline(time.Now().Add(limit)); err != nil {
			t.Fatal(err)
		}
		for {
			n, err := socket.Read(buf)
			if err != nil {
				t.Fatalf("systemd waits for %s: %v", want, err)
			}
			if slices.Contains(strings.Split(string(buf[:n]), "\n"), want) {
				return
			}
		}
	}
	argv := append([]string{"env", "NOTIFY_SOCKET=/var/log/notify", "WATCHDOG_USEC=1000000"}, strings.Fields(setting("ExecStart"))...)
	if err := m.Start("/var/log/journal", argv...); err != nil {
		t.Fatal(err)
	}
	hears("READY=1")
	hears("WATCHDOG=1")
	m.holds(settings().Addrs[0], true)
	m.must(strings.Fields(setting("ExecReload"))...)
	hears("READY=1")
	pid := m.pid()
	m.must("kill", "-TERM", strconv.Itoa(pid))
	hears("STOPPING=1")
	m.holds(settings().Addrs[0], false)
	m.wait("the daemon has ended", func() (bool, string) {
		return m.run("test", "-d", fmt.Sprintf("/proc/%d", pid)).Code != 0, "it runs"
	})

	if err := m.Start("/var/log/journal", argv...); err != nil {
		t.Fatal(err)
	}
	hears("READY=1")
	m.holds(settings().Addrs[0], true)
	m.must("kill", "-KILL", strconv.Itoa(m.pid()))
	after := setting("OnFailure")
	m.must(append([]string{"env", of(after, "Environment")}, strings.Fields(of(after, "ExecStart"))...)...)
	m.holds(settings().Addrs[0], false)
	m.wait("the log tells of the release", func() (bool, string) {
		log := m.Read("/var/log/ha-log")
		return strings.Contains(log, "is not started again (systemctl status heartbeat tells why). Its resources are released"), log
	})
}

// TestAccounts: the group and the user are made where they are missing, and what
// must be theirs is.
func TestAccounts(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "ours")
	for _, file := range []string{"passwd", "shadow", "group", "gshadow"} {
		m.must("sed", "-i", "/^ha\\(cluster\\|client\\):/d", "/etc/"+file)
	}
	script, err := filepath.Abs("bin/accounts")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		m.must("sh", script)
		if got := strings.Fields(m.must("id", "-Gn", "hacluster")); len(got) != 1 || got[0] != "haclient" {
			t.Errorf("groups of hacluster: %v", got)
		}
		if got := m.must("stat", "-c", "%a %U:%G", "/run/heartbeat", "/var/lib/heartbeat/cores/hacluster"); got != "755 hacluster:haclient\n700 hacluster:root\n" {
			t.Errorf("directories: %q", got)
		}
	}
}

// TestWrapper reaches real OCF agents by positional arguments: what is printed
// tells the state, as haresources needs it, and so does the code.
func TestWrapper(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "ours")
	m.must("mkdir", "-p", "/etc/ha.d/conf/OCF/Dummy", "/run/resource-agents")
	m.write("conf/OCF/Dummy/one", "OCF_RESKEY_state=/run/one.state\n")
	// The agent waits half a minute in each monitor when nobody says otherwise.
	const quick = "OCF_RESKEY_mondelay=0"
	for _, r := range []struct{ name, argv string }{
		{"Delay", "Delay 0 0"},
		{"an agent of any name", "OCF Dummy one"},
	} {
		t.Run(r.name, func(t *testing.T) {
			words := strings.Fields(r.argv)
			for _, step := range []struct {
				action string
				code   int
				want   string
			}{
				{"status", 7, "INFO:  Resource is stopped\n"},
				{"start", 0, "INFO:  Success\n"},
				{"status", 0, "INFO:  Running OK\n"},
				{"stop", 0, "INFO:  Success\n"},
				{"stop", 0, "INFO:  Success\n"},
				{"status", 7, "INFO:  Resource is stopped\n"},
			} {
				argv := slices.Concat([]string{"env", quick, wrapper(words[0])}, words[1:], []string{step.action})
				if o := m.run(argv...); o.Code != step.code || !strings.HasSuffix(o.Stdout, step.want) {
					t.Errorf("%v: exit code %d, output %q; want %d, %q (stderr %q)", argv, o.Code, o.Stdout, step.code, step.want, o.Stderr)
				}
			}
		})
	}
	for _, argv := range []string{"Filesystem status", "Raid1 only-one status", "MailTo a b c status", "Delay 0 0 bogus"} {
		words := strings.Fields(argv)
		if o := m.run(append([]string{wrapper(words[0])}, words[1:]...)...); o.Code != 2 || !strings.HasPrefix(o.Stderr, "usage: ") {
			t.Errorf("%s: %+v; want usage and 2", argv, o)
		}
	}
}

func wrapper(name string) string { return "/etc/ha.d/resource.d/" + name }
