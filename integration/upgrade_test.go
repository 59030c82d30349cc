package integration

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"heartbeat/integration/lab"
)

const haLog = "/var/log/ha-log"

// mark is how long a node's log is now; since is what was written after it.
func mark(n *lab.Node) int { return len(n.Read(haLog)) }

func since(n *lab.Node, at int) string { return n.Read(haLog)[at:] }

// alarms are the lines above info of a part of a log, but those whose text also
// stands in the part before it: a daemon that starts in place says again what
// this machine does not let it do.
func alarms(n *lab.Node, at int) []string {
	text := func(line string) string {
		_, t, _ := strings.Cut(line, "]: ")
		return t
	}
	known := make(map[string]bool)
	for line := range strings.Lines(n.Read(haLog)[:at]) {
		known[text(line)] = true
	}
	var out []string
	for line := range strings.Lines(since(n, at)) {
		for _, level := range []string{" WARN: ", " ERROR: ", " CRIT: "} {
			if strings.Contains(line, level) && !known[text(line)] {
				out = append(out, strings.TrimSpace(line))
			}
		}
	}
	return out
}

// late reports whether a line of the log says that somebody was late, as all are
// after a pause of the machine.
func late(line string) bool {
	for _, text := range []string{"Late heartbeat: ", "This node did not run for ", "The wall clock went ahead by ", " late by "} {
		if strings.Contains(line, text) {
			return true
		}
	}
	return false
}

// replaced runs order, which makes the daemon of a node replace itself, and
// waits until its successor is at work.
func (c *cluster) replaced(n *lab.Node, order func()) {
	c.t.Helper()
	const hello = "heartbeat: version "
	before := strings.Count(n.Read(haLog), hello)
	order()
	c.must(lab.Wait(c.t.Context(), limit, n.Name+" has replaced itself", func() (bool, string) {
		return strings.Count(n.Read(haLog), hello) > before, n.Tail(haLog, 10)
	}))
	c.settled()
}

// touch makes a file look changed.
func (c *cluster) touch(n *lab.Node, path string) {
	c.t.Helper()
	now := time.Now()
	c.must(os.Chtimes(n.Path(path), now, now))
}

// TestRestartInPlace: the owner's daemon is replaced by a new process image,
// again and again, by each order that does it. The address answers throughout,
// keepalives go on, and the peer does not notice. Every kind of medium is taken
// over.
func TestRestartInPlace(t *testing.T) {
	t.Parallel()
	cfg := calm()
	cfg.Media = []string{"ucast eth1 10.78.0.1", "ucast eth1 10.78.0.2", "bcast eth0", "mcast eth1 225.0.0.1 694 1 0"}
	serialLine(&cfg)
	cfg.Extra = []string{"ping " + lab.ClientAddr.String()}
	c := newCluster(t, both(), cfg)
	_, err := c.SerialLine()
	c.must(err)
	c.startBoth(cfg)
	allUp := func() {
		t.Helper()
		for _, n := range c.Nodes() {
			for _, link := range []string{"eth0", "eth1", lab.SerialDevice} {
				c.link(n, link, "up")
			}
			c.becomes(n, 0, "ping\n", c.on(n).Status, "nodestatus", lab.ClientAddr.String())
		}
	}
	allUp() // or it would be news later
	p, err := c.Probe(t.Context(), lab.ProbeOptions{Addrs: cfg.Addrs, Interval: 2 * time.Millisecond, Nodes: true})
	c.must(err)
	capt, err := c.Capture(c.N1, lab.HeartbeatLink, c.on(c.N1).Keepalive)
	c.must(err)
	defer capt.Close()
	kept := c.kept(c.N1, cfg)
	begun, pid, generation := time.Now(), c.pid(c.N1), c.N1.Read("/var/lib/heartbeat/hb_generation")
	at := [2]int{mark(c.N1), mark(c.N2)}
	daemon, hbctl := c.on(c.N1).Daemon, c.on(c.N1).Hbctl()

	c.replaced(c.N1, func() {
		c.touch(c.N1, "/etc/ha.d/ha.cf")
		if o := c.run(c.N1, daemon, "-r"); o.Code != 0 {
			t.Errorf("heartbeat -r: %+v", o)
		}
	})
	c.replaced(c.N1, func() {
		if o := c.run(c.N1, hbctl, "reexec"); o.Code != 0 {
			t.Errorf("hbctl reexec: %+v", o)
		} else if !strings.Contains(o.Stdout, "heartbeat is running again") {
			t.Errorf("hbctl reexec did not wait for the successor: %+v", o)
		}
	})
	c.replaced(c.N1, func() {
		c.touch(c.N1, "/etc/ha.d/haresources")
		c.signal(c.N1, unix.SIGHUP)
	})
	c.must(c.keepalives(c.N1, 8))

	res, err := p.Stop()
	c.must(err)
	out, stall := res.Outage(begun), res.Stall()
	var longest time.Duration
	times := capt.Times()
	for i := 1; i < len(times); i++ {
		longest = max(longest, times[i].Sub(times[i-1]))
	}
	t.Logf("the client's worst silence %v, the longest time between two keepalives %v, prober's worst stall %v", out.Worst, longest, stall)
	kept()
	if out.Worst > silenceMax {
		t.Errorf("the client saw an outage of %v", out.Worst)
	}
	if res.Owned("n2") != 0 {
		t.Errorf("n2 owned the address %d times", res.Owned("n2"))
	}
	paused := lab.Paused(begun)
	if longest > cfg.Deadtime/2+paused {
		t.Errorf("no keepalive for %v", longest)
	}
	if now := c.pid(c.N1); now != pid {
		t.Errorf("the process was %s and is %s", pid, now)
	}
	if now := c.N1.Read("/var/lib/heartbeat/hb_generation"); now != generation {
		t.Errorf("the generation was %q and is %q", generation, now)
	}
	c.owns(c.N1, cfg.Addrs...)
	c.expect(c.N1, 0, "local\n", c.on(c.N1).Status, "rscstatus")
	allUp()
	for i, n := range c.Nodes() {
		for _, line := range alarms(n, at[i]) {
			if paused == 0 || !late(line) {
				t.Errorf("%s says: %s", n.Name, line)
			}
		}
	}
	for line := range strings.Lines(since(c.N2, at[1])) {
		if paused == 0 || !late(line) {
			t.Errorf("the peer noticed: %s", line)
		}
	}
	// What the successor took over is still good for its real purpose.
	c.must(c.N1.Crash())
	c.owns(c.N2, cfg.Addrs...)
}

// TestNewTimings: after a restart in place the new ha.cf is in force; a broken
// one leaves the old in force, and says so to whoever asked.
func TestNewTimings(t *testing.T) {
	t.Parallel()
	cfg := calm()
	c := startCluster(t, both(), cfg)
	pid := c.pid(c.N1)
	parameter := func(want string) {
		t.Helper()
		c.expect(c.N1, 0, want+"\n", c.on(c.N1).Status, "hbparameter", "-p", "keepalive")
	}
	parameter("250ms")

	faster := cfg
	faster.Keepalive = 50 * time.Millisecond
	c.replaced(c.N1, func() {
		c.must(c.N1.Write("/etc/ha.d/ha.cf", faster.HaCf(), 0o600))
		c.signal(c.N1, unix.SIGHUP)
	})
	parameter("50ms")
	usual := func() time.Duration { // the median of forty, which a pause does not move
		t.Helper()
		capt, err := c.Capture(c.N1, lab.HeartbeatLink, c.on(c.N1).Keepalive)
		c.must(err)
		defer capt.Close()
		var times []time.Time
		c.must(lab.Wait(t.Context(), limit, "forty keepalives of n1", func() (bool, string) {
			times = append(times, capt.Times()...)
			return len(times) > 40, fmt.Sprint(len(times), " seen")
		}))
		var gaps []time.Duration
		for i := 1; i < len(times); i++ {
			gaps = append(gaps, times[i].Sub(times[i-1]))
		}
		slices.Sort(gaps)
		return gaps[len(gaps)/2]
	}
	// Each keepalive goes out once for each of the two ucast lines, but what is
	// for the node itself never gets to the switch.
	if d := usual(); d > 150*time.Millisecond {
		t.Errorf("a keepalive every %v; ha.cf says 50 ms", d)
	}

	at := mark(c.N1)
	c.must(c.N1.Write("/etc/ha.d/ha.cf", cfg.HaCf()+"deadtme 10\n", 0o600))
	if o := c.run(c.N1, c.on(c.N1).Daemon, "-r"); o.Code != 1 || !strings.Contains(o.Stderr, "Config errors: Heartbeat pid "+pid+" NOT restarted") || !strings.Contains(o.Stderr, "deadtme") {
		t.Errorf("heartbeat -r with a broken ha.cf: exit code %d, %s", o.Code, o.Stderr)
	}
	if o := c.run(c.N1, c.on(c.N1).Hbctl(), "reload"); o.Code == 0 || !strings.Contains(o.Stderr, "the running configuration stays in force") || !strings.Contains(o.Stderr, "deadtme") {
		t.Errorf("hbctl reload with a broken ha.cf: exit code %d, %s%s", o.Code, o.Stdout, o.Stderr)
	}
	c.signal(c.N1, unix.SIGHUP)
	c.must(lab.Wait(t.Context(), limit, "the daemon refused the file twice", func() (bool, string) {
		s := since(c.N1, at)
		return strings.Count(s, "Configuration not reloaded, the running one stays in force") == 2 && strings.Contains(s, "deadtme"), s
	}))
	parameter("50ms")

	// Once mended it is taken up.
	c.replaced(c.N1, func() {
		c.must(c.N1.Write("/etc/ha.d/ha.cf", cfg.HaCf(), 0o600))
		if o := c.run(c.N1, c.on(c.N1).Hbctl(), "reload"); o.Code != 0 {
			t.Errorf("hbctl reload: %+v", o)
		}
	})
	parameter("250ms")
	if now := c.pid(c.N1); now != pid {
		t.Errorf("the process was %s and is %s", pid, now)
	}
	c.owns(c.N1, cfg.Addrs...)
	if c.deaths() != 0 {
		t.Error("a node was declared dead")
	}
}

// TestRestartWaits: a restart in place waits for a script that runs. When
// ha.cf is broken meanwhile it does not happen, for the successor could not
// start; and a disk that is full when it does happen matters not.
func TestRestartWaits(t *testing.T) {
	t.Parallel()
	cfg := calm()
	cfg.Services = []string{"slow"}
	c := newCluster(t, both(), cfg)
	c.script("slow", marker+"[ \"$1\" = start ] && until [ -e /var/log/go ]; do sleep 0.05; done\n[ \"$1\" = status ] && [ ! -e /var/log/go ] && exit 3\necho running OK\n")
	c.start(c.N1)
	c.start(c.N2)
	c.must(c.N1.WaitLog(t.Context(), limit, "/var/log/calls", "slow start"))
	pid := c.pid(c.N1)
	c.touch(c.N1, "/etc/ha.d/ha.cf")
	c.signal(c.N1, unix.SIGHUP)
	c.says(c.N1, "The restart waits for the end of 1 jobs")
	c.must(c.N1.Write("/etc/ha.d/ha.cf", cfg.HaCf()+"deadtme 10\n", 0o600))
	c.must(c.N1.Write("/var/log/go", "", 0o644))
	c.says(c.N1, "restart in place: the configuration has become unusable: ")
	c.settled()
	c.owns(c.N1, cfg.Addrs...)

	c.must(c.N1.Write("/etc/ha.d/ha.cf", cfg.HaCf(), 0o600))
	if o := c.run(c.N1, "sh", "-c", "mount -t tmpfs -o size=64k tmpfs /mnt && cp -a /var/lib/heartbeat/. /mnt/ && mount --move /mnt /var/lib/heartbeat && head -c 100000 /dev/zero >/var/lib/heartbeat/filler; df /var/lib/heartbeat"); !strings.Contains(o.Stdout, "100%") {
		t.Fatalf("the disk is not full: %+v", o)
	}
	c.replaced(c.N1, func() { c.signal(c.N1, unix.SIGHUP) })
	c.owns(c.N1, cfg.Addrs...)
	c.expect(c.N1, 0, "local\n", c.on(c.N1).Status, "rscstatus")
	if now := c.pid(c.N1); now != pid {
		t.Errorf("the process was %s and is %s", pid, now)
	}
	if k := strings.Count(c.N1.Read("/var/log/calls"), "slow start"); k != 1 {
		t.Errorf("the script was started %d times", k)
	}
	if c.deaths() != 0 {
		t.Error("a node was declared dead")
	}
}

// TestSuccessorFails: a process that has replaced itself and cannot go on lets
// go of what it took over before it ends: the other node takes it soon.
func TestSuccessorFails(t *testing.T) {
	t.Parallel()
	cfg := calm()
	c := startCluster(t, both(), cfg)
	p, err := c.Probe(t.Context(), lab.ProbeOptions{Addrs: cfg.Addrs, Interval: 5 * time.Millisecond, Nodes: true})
	c.must(err)
	c.must(c.N1.Write("/var/lib/heartbeat/hb_uuid", "short", 0o644))
	c.touch(c.N1, "/etc/ha.d/ha.cf")
	c.signal(c.N1, unix.SIGHUP)
	c.says(c.N1, "ERROR: heartbeat not started: read uuid: ")
	c.says(c.N1, "it is not started again, since the last 6 died before they were up") // by the supervisor
	c.says(c.N1, "All HA resources relinquished.")
	c.ended(c.N1)
	c.nothingLeft(c.N1, cfg)
	c.owns(c.N2, cfg.Addrs...)
	c.must(c.WaitAnswerer(t.Context(), c.N2, limit, cfg.Addrs[0]))
	res, err := p.Stop()
	c.must(err)
	if res.Dual() != 0 {
		t.Errorf("both nodes answered for %v", res.Dual())
	}
}

// TestNewKeys: the keys are changed on both nodes within deadtime. What is
// rejected meanwhile does no harm, and afterwards everything is signed with the
// new key.
func TestNewKeys(t *testing.T) {
	t.Parallel()
	cfg := calm()
	cfg.Deadtime, cfg.Initdead = 20*time.Second, 20*time.Second
	c := startCluster(t, both(), cfg)
	pids := [2]string{c.pid(c.N1), c.pid(c.N2)}
	signed := func(n *lab.Node, by string) error {
		capt, err := c.Capture(n, lab.HeartbeatLink, func(f []byte) bool {
			return c.on(n).Keepalive(f) && bytes.Contains(f, []byte("auth="+by+" "))
		})
		if err != nil {
			return err
		}
		defer capt.Close()
		return lab.Wait(t.Context(), limit, n.Name+" signs with key "+by, func() (bool, string) {
			return len(capt.Times()) > 0, "it does not"
		})
	}
	for _, n := range c.Nodes() {
		c.must(signed(n, "1"))
	}
	for _, n := range c.Nodes() {
		c.must(n.Write("/etc/ha.d/authkeys", "auth 7\n7 sha1 entirely new\n", 0o600))
		c.signal(n, unix.SIGHUP)
	}
	for _, n := range c.Nodes() {
		c.must(signed(n, "7"))
	}
	// What the other one had signed with the old key before that has been judged.
	c.must(c.keepalives(c.N1, 2))
	c.must(c.keepalives(c.N2, 2))
	at := [2]int{mark(c.N1), mark(c.N2)}
	c.must(c.keepalives(c.N1, 8))
	c.must(c.keepalives(c.N2, 8))
	for i, n := range c.Nodes() {
		for _, line := range alarms(n, at[i]) {
			// After a minute the log tells how many there were.
			if !strings.Contains(line, "more like it in") && !late(line) {
				t.Errorf("%s still complains: %s", n.Name, line)
			}
		}
		c.expect(n, 0, "active\n", c.on(n).Status, "nodestatus", n.Peer().Name)
	}
	// Messages that must arrive do so under the new key.
	if o := c.run(c.N1, c.on(c.N1).Standby, "all"); o.Code != 0 {
		t.Errorf("hb_standby: %+v", o)
	}
	c.owns(c.N2, cfg.Addrs...)
	c.settled()
	if now := [2]string{c.pid(c.N1), c.pid(c.N2)}; now != pids {
		t.Errorf("processes were %v and are %v", pids, now)
	}
	if c.deaths() != 0 {
		t.Error("a node was declared dead")
	}
}
