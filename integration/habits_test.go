package integration

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"heartbeat/integration/lab"
)

// What scripts and files written for heartbeat 3.0.6 rely on: ping nodes with
// ipfail, the FIFO, scripts in rc.d, programs that the daemon keeps running.

const fifo = "/var/lib/heartbeat/fifo"

// post writes to a node's FIFO as a shell script does.
func (c *cluster) post(n *lab.Node, text string) {
	c.t.Helper()
	o := c.run(n, "/bin/sh", "-c", fmt.Sprintf("printf '%%s' '%s' >> %s", text, fifo))
	if o.Code != 0 {
		c.t.Fatalf("post to %s: %s", n.Name, o.Stderr)
	}
}

func record(fields ...string) string { return ">>>\n" + strings.Join(fields, "\n") + "\n<<<\n" }

// rc puts a script for a type of message on both nodes.
func (c *cluster) rc(typ, body string) {
	c.t.Helper()
	for _, n := range c.Nodes() {
		c.must(n.Write("/etc/ha.d/rc.d/"+typ, "#!/bin/sh\n"+body, 0o755))
	}
}

// TestIPFail: the owner loses the host that both ping, and the other node takes
// everything; the group goes back when the counts are even again, if
// auto_failback says so.
func TestIPFail(t *testing.T) {
	t.Parallel()
	for _, failback := range []string{"on", "off"} {
		t.Run(failback, func(t *testing.T) {
			t.Parallel()
			cfg := calm()
			cfg.Failback = failback
			cfg.Extra = []string{"ping " + lab.ClientAddr.String(), "respawn hacluster /usr/libexec/heartbeat/ipfail"}
			c := startCluster(t, chosen(t), cfg)
			for _, n := range c.Nodes() {
				c.becomes(n, 0, "ping\n", c.on(n).Status, "nodestatus", lab.ClientAddr.String())
			}
			// Both ipfail have met.
			c.must(lab.Wait(t.Context(), limit, "the counts were compared", func() (bool, string) {
				a, b := c.N1.Read("/var/log/ha-log"), c.N2.Read("/var/log/ha-log")
				return strings.Contains(a+b, "Ping node count is balanced."), c.N1.Tail("/var/log/ha-log", 10) + c.N2.Tail("/var/log/ha-log", 10)
			}))
			begun := time.Now()
			c.must(c.Unplug(c.N1, lab.ServiceLink))
			c.owns(c.N2, cfg.Addrs...)
			t.Logf("moved %v after the host was lost", time.Since(begun).Round(10*time.Millisecond))
			c.settled()
			c.says(c.N1, "Giving up because we")
			c.says(c.N1, "n1 wants to go standby [all]")
			c.must(c.Plug(c.N1, lab.ServiceLink))
			c.must(lab.Wait(t.Context(), limit, "n1 reaches the host again", func() (bool, string) {
				return strings.Contains(c.N1.Read("/var/log/ha-log"), "A ping node just came up."), c.N1.Tail("/var/log/ha-log", 10)
			}))
			if failback == "on" {
				c.owns(c.N1, cfg.Addrs...)
				c.says(c.N2, "Giving up foreign resources (auto_failback).")
			} else {
				c.says(c.N1, "No giveup timer to abort.")
			}
			c.settled()
			if failback == "off" {
				c.owns(c.N2, cfg.Addrs...)
			}
			if c.deaths() != 0 {
				t.Error("a node was declared dead")
			}
		})
	}
}

// TestRCScripts: a message of any type runs the script of that name on both
// nodes, with its fields in the environment; with dest on that node alone. A
// changed status script is told of deaths.
func TestRCScripts(t *testing.T) {
	t.Parallel()
	cfg := calm()
	c := newCluster(t, chosen(t), cfg)
	// In one write each, for the scripts of two messages can overlap the reader.
	c.rc("myevent", `(echo "$# $1"; env | grep ^HA_ | sort; echo .) > /var/log/myevent.$HA_payload.new
mv /var/log/myevent.$HA_payload.new /var/log/myevent.$HA_payload
`)
	c.rc("status", `echo "$HA_src $HA_st" >> /var/log/states
`)
	for _, n := range c.Nodes() {
		c.start(n)
	}
	c.owns(c.N1, cfg.Addrs...)
	c.settled()

	c.post(c.N1, record("t=myevent", "payload=one"))
	want := func(n *lab.Node, file string, lines ...string) {
		t.Helper()
		c.must(n.WaitLog(t.Context(), limit, file, "\n.\n"))
		text := n.Read(file)
		for _, l := range lines {
			if !strings.Contains("\n"+text, "\n"+l+"\n") {
				t.Errorf("%s on %s lacks %q:\n%s", file, n.Name, l, text)
			}
		}
	}
	for _, n := range c.Nodes() {
		want(n, "/var/log/myevent.one", "1 myevent", "HA_t=myevent", "HA_payload=one", "HA_src=n1", "HA_OSTATUS=active",
			"HA_NICEFAILBACK=yes", "HA_CURHOST="+n.Name, "HA_auto_failback=on", "HA_LOGD=no", "HA_FIFO="+fifo)
	}
	c.post(c.N1, record("t=myevent", "dest=n2", "payload=two"))
	c.post(c.N1, record("t=myevent", "payload=three"))
	want(c.N2, "/var/log/myevent.two", "HA_dest=n2", "HA_src=n1")
	want(c.N1, "/var/log/myevent.three", "HA_src=n1")
	if c.N1.Read("/var/log/myevent.two") != "" {
		t.Error("a message for n2 ran its script on n1")
	}
	c.must(c.N1.Crash())
	c.must(c.N2.WaitLog(t.Context(), limit, "/var/log/states", "n1 dead\n"))
	if states := c.N2.Read("/var/log/states"); !strings.Contains(states, "n1 active\n") {
		t.Errorf("the status script was told %q", states)
	}
}

// TestFIFO: what the commands and third parties post moves resources; garbage
// does not stop the reader.
func TestFIFO(t *testing.T) {
	t.Parallel()
	cfg := calm()
	cfg.Failback = "off"
	c := newCluster(t, chosen(t), cfg)
	c.rc("count", `echo "$HA_n ${#HA_long}" >> /var/log/count
`)
	for _, n := range c.Nodes() {
		c.start(n)
	}
	c.owns(c.N1, cfg.Addrs...)
	c.settled()

	c.post(c.N1, record("t=ask_resources", "rsc_hold=all", "info=me"))
	c.owns(c.N2, cfg.Addrs...)
	c.settled()
	c.post(c.N1, record("t=hb_takeover", "rsc_hold=all"))
	c.owns(c.N1, cfg.Addrs...)
	c.settled()
	// Some scripts write the fields in another order.
	c.post(c.N1, record("rsc_hold=local", "info=me", "t=ask_resources"))
	c.owns(c.N2, cfg.Addrs...)
	c.settled()

	counted := func(texts ...string) {
		t.Helper()
		for _, n := range c.Nodes() {
			for _, text := range texts {
				c.must(n.WaitLog(t.Context(), limit, "/var/log/count", text+"\n"))
			}
		}
	}
	c.post(c.N1, "rubbish\nn=1\n<<<\n"+record("t=count", "n=2"))
	c.post(c.N1, ">>>\nno equals sign\nt=count\nn=3\n<<<\n"+record("t=count", "n=4"))
	c.post(c.N1, record("n=5")+record("t=count", "n=6"))
	c.post(c.N1, ">>>\nt=count\n")
	c.post(c.N1, "n=7\n<<<\n")
	if c.on(c.N1) == ours { // the original loses both
		c.post(c.N1, ">>>\nt=count\nn=8\n"+record("t=count", "n=9"))
		counted("9 0")
	}
	c.post(c.N1, record("t=count", "n=10", "long="+strings.Repeat("x", 510-len("long=")))) // 511 with the newline: the longest that the original reads
	counted("2 0", "4 0", "6 0", "7 0", "10 505")
	if text := c.N1.Read("/var/log/count"); strings.Contains(text, "3 0") || strings.Contains(text, "5 0") || strings.Contains(text, "8 0") {
		t.Errorf("a damaged record had an effect:\n%s", text)
	}
	// Two writers, a record a write: none is lost or mixed.
	var writers sync.WaitGroup
	for w := range 2 {
		writers.Go(func() {
			o, err := c.N1.Run(t.Context(), "/bin/sh", "-c",
				fmt.Sprintf("i=0; while [ $i -lt 40 ]; do printf '>>>\\nt=count\\nn=w%d-%%s\\n<<<\\n' $i >> %s; i=$((i+1)); done", w, fifo))
			if err != nil || o.Code != 0 {
				t.Errorf("writer %d: %v %s", w, err, o.Stderr)
			}
		})
	}
	writers.Wait()
	for w := range 2 {
		for i := range 40 {
			counted(fmt.Sprintf("w%d-%d 0", w, i))
		}
	}
	c.owns(c.N2, cfg.Addrs...)
	if c.deaths() != 0 {
		t.Error("a node was declared dead")
	}
}

// TestIPRequest: in legacy mode a node that is asked for a group lets it go, and
// says so; who asked takes it.
func TestIPRequest(t *testing.T) {
	t.Parallel()
	cfg := calm()
	cfg.Failback = "legacy"
	c := startCluster(t, chosen(t), cfg)
	key := fmt.Sprintf("IPaddr2::%s/16/eth0", cfg.Addrs[0])
	c.post(c.N2, record("t=ip-request", "ipaddr="+key))
	c.owns(c.N2, cfg.Addrs...)
	c.settled()
}

// TestRespawn: a program runs from the time at which communication is up, as its
// user; it is started again when it dies and ended with the daemon.
func TestRespawn(t *testing.T) {
	t.Parallel()
	cfg := calm()
	cfg.Extra = []string{"respawn nobody /bin/sleep 4711", "respawn nobody /bin/sh -c 'sleep 0.1; exit 100'"}
	c := startCluster(t, chosen(t), cfg)
	sleeper := func() int {
		list, err := c.N1.Processes()
		c.must(err)
		for _, p := range list {
			if strings.HasPrefix(p.Command, "/bin/sleep 4711") {
				return p.PID
			}
		}
		return 0
	}
	first := 0
	c.must(lab.Wait(t.Context(), limit, "the program runs", func() (bool, string) { first = sleeper(); return first != 0, "it does not" }))
	c.says(c.N1, `Starting child client "/bin/sleep 4711" (65534,65534)`)
	o := c.run(c.N1, "/bin/sh", "-c", "ps -o user=,cls= -p $(pgrep -f '^/bin/sleep 4711')")
	if strings.Join(strings.Fields(o.Stdout), " ") != "nobody TS" {
		t.Errorf("the program runs as %q", o.Stdout)
	}
	c.run(c.N1, "/bin/sh", "-c", "kill -9 $(pgrep -f '^/bin/sleep 4711')")
	c.says(c.N1, `Respawning client "/bin/sleep 4711":`)
	c.must(lab.Wait(t.Context(), limit, "the program runs again", func() (bool, string) { k := sleeper(); return k != 0 && k != first, fmt.Sprint(k) }))
	second := sleeper()
	if c.on(c.N1) == ours {
		c.must(c.N1.Write("/etc/ha.d/ha.cf", cfg.HaCf()+"# touched\n", 0o600))
		c.expect(c.N1, 0, "", ours.Daemon, "-r")
		c.says(c.N1, "Performing heartbeat restart exec.")
		c.must(lab.Wait(t.Context(), limit, "the successor answers", func() (bool, string) {
			o := c.run(c.N1, ours.Status, "rscstatus")
			return o.Code == 0, o.Stderr
		}))
		if now := sleeper(); now != second {
			t.Errorf("the program was process %d before the restart in place and is %d", second, now)
		}
	}
	c.must(c.on(c.N1).Stop(t.Context(), c.N1))
	c.must(lab.Wait(t.Context(), limit, "the program has ended with the daemon", func() (bool, string) {
		k := sleeper()
		return k == 0, fmt.Sprintf("it is process %d", k)
	}))
	c.says(c.N1, "killing /bin/sleep 4711 process group ")
	if log := c.N1.Read("/var/log/ha-log"); strings.Contains(log, "Respawning client \"/bin/sh") {
		t.Error("a program that ended with 100 was started again")
	}
}

// TestFailfast: the failure of a failfast program restarts the machine, and the
// other one takes over.
func TestFailfast(t *testing.T) {
	t.Parallel()
	p := chosen(t)
	if p.n1 == original {
		return // it calls a reboot program, which the lab's machines lack
	}
	cfg := calm()
	cfg.Extra = []string{`failfast root /bin/sh -c 'while ! test -e /var/log/fail; do sleep 0.1; done; rm /var/log/fail; exit 1'`}
	c := startCluster(t, p, cfg)
	c.must(c.N1.Write("/var/log/fail", "", 0o600))
	// Its kernel, which is all of the machine that a lab's node shares with the
	// others, keeps the addresses; but nothing runs there any more.
	c.must(lab.Wait(t.Context(), limit, "the machine has restarted", func() (bool, string) {
		list, err := c.N1.Processes()
		return len(list) == 0, fmt.Sprint(list, err)
	}))
	c.must(lab.Wait(t.Context(), limit, "n2 has taken over", func() (bool, string) {
		return c.N2.Holds(cfg.Addrs[0]), c.N2.Tail("/var/log/ha-log", 10)
	}))
	c.says(c.N1, "Rebooting system.  Reason: /bin/sh -c")
	c.says(c.N2, "node n1: is dead")
}
