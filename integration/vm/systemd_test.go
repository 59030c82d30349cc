package vm

import (
	"testing"
)

// TestSystemd: heartbeat.service on a machine that systemd runs, as installed:
// ready when the daemon says so; started again after a kill, and when its loop
// hangs, before the machine's watchdog expires and with the address in place;
// reloaded in place; stopped with everything released; and a bad configuration is
// not tried again.
func TestSystemd(t *testing.T) {
	t.Parallel() // with TestSerialNotReady, when the others have ended
	l, err := Start(t.Context(), Options{Machines: 1, Share: share, Systemd: true})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	n := l.Nodes[0]
	p := &pair{Lab: l, n1: n, t: t}
	defer func() {
		if t.Failed() {
			p.show(n)
			t.Log(p.run(n, "systemctl status heartbeat; journalctl -b --no-pager -n 60 || true"))
		}
	}()
	property := func(name string) string { return p.run(n, "systemctl show -P "+name+" heartbeat") }
	pid := func() string { return p.run(n, "xargs </run/heartbeat.pid") }

	p.run(n, "systemctl is-system-running --wait || true") // its boot has ended, whatever it lacks
	p.install(n)
	p.configure(n, cluster{media: []string{"bcast eth1"}, group: addressOnly, failback: "on", deadtime: "20", initdead: "21", extra: []string{"watchdog /dev/watchdog"}})
	// Sooner than the unit says, to hang for less time.
	p.run(n, "d=/etc/systemd/system/heartbeat.service.d; mkdir -p $d; printf '[Service]\\nWatchdogSec=5s\\n' >$d/watchdog.conf")
	p.run(n, "modprobe softdog; systemctl daemon-reload; systemctl start heartbeat")
	// The start has returned, so the daemon has said that it is ready.
	if state, main := property("SubState"), property("MainPID"); state != "running" || main != pid() {
		t.Errorf("started: %s with main pid %s, the pid file has %s", state, main, pid())
	}
	p.owns(n)
	if group := p.run(n, "cat /proc/"+pid()+"/cgroup"); group != "0::/system.slice/heartbeat.service" {
		t.Errorf("the daemon is in %s", group)
	}

	// From its second life on the daemon can be made to hang.
	p.run(n, "cp "+p.hangingDaemon()+" /hanging && mv /hanging "+daemon)
	first := pid()
	p.run(n, "setsid -f ip -4 -o monitor address >/run/addresses 2>&1 </dev/null")
	p.signal(n, "KILL")
	p.until(n, "systemctl show -P NRestarts heartbeat", "1")
	p.until(n, "systemctl is-active heartbeat; cat /var/log/ha-log", "resources were found running at start: they are kept")
	p.until(n, "systemctl show -P SubState heartbeat", "running")
	second := pid()
	if second == first {
		t.Error("the killed daemon's pid is in the pid file")
	}
	p.until(n, "hbctl status", "running")

	p.run(n, "touch "+hang)
	p.until(n, "systemctl show -P NRestarts heartbeat", "2")
	p.until(n, "systemctl show -P SubState heartbeat", "running")
	p.until(n, "grep -c 'resources were found running at start: they are kept' /var/log/ha-log", "2")
	p.until(n, "journalctl -b --no-pager -u heartbeat", "Watchdog timeout")
	p.until(n, "journalctl -b --no-pager -u heartbeat", "[select (no cases)]:") // where it hung
	third := pid()
	p.until(n, "hbctl status", "running")
	idle(p.expires(n))
	if len(n.Resets()) > 0 {
		t.Fatal("the watchdog reset the machine though systemd started the daemon again")
	}
	if got := p.run(n, "grep Deleted /run/addresses || true"); got != "" {
		t.Errorf("the address was away after a crash: %s", got)
	}

	p.run(n, "sed -i 's/warntime 5/warntime 6/' /etc/ha.d/ha.cf && systemctl reload heartbeat")
	p.until(n, "cat /var/log/ha-log", "Performing heartbeat restart exec.")
	p.until(n, "cl_status hbparameter -p warntime", "6")
	if pid() != third || property("MainPID") != third || property("NRestarts") != "2" {
		t.Errorf("reloaded: pid %s, main pid %s, restarted %s times; it was %s", pid(), property("MainPID"), property("NRestarts"), third)
	}
	p.owns(n)

	p.run(n, "systemctl stop heartbeat")
	if state := property("ActiveState"); state != "inactive" {
		t.Errorf("stopped: %s", state)
	}
	p.until(n, "cat /run/addresses", "Deleted")
	if got := p.run(n, "ip -4 -br addr show dev eth0; cat /sys/class/watchdog/watchdog0/state"); got != "eth0             UP             10.77.0.1/24 \ninactive" {
		t.Errorf("stopped, and left behind: %q", got)
	}

	p.run(n, "chmod 644 /etc/ha.d/authkeys; ! systemctl start heartbeat")
	if state, code, again := property("ActiveState"), property("ExecMainStatus"), property("NRestarts"); state != "failed" || code != "6" || again != "0" {
		t.Errorf("with a bad configuration: %s, code %s, restarted %s times", state, code, again)
	}
	p.until(n, "journalctl -b --no-pager -u heartbeat", "Bad permissions on keyfile")

	// One that dies again and again is given up, and what it has left is released.
	p.run(n, "chmod 600 /etc/ha.d/authkeys; printf '[guard]\\naddress_lifetime = \"off\"\\n' >/etc/ha.d/heartbeat.toml")
	p.run(n, "d=/etc/systemd/system/heartbeat.service.d; mkdir -p $d; printf '[Unit]\\nStartLimitBurst=2\\n' >$d/limit.conf")
	p.run(n, "systemctl daemon-reload; systemctl reset-failed heartbeat; systemctl start heartbeat")
	p.owns(n)
	p.signal(n, "KILL")
	p.until(n, "systemctl show -P NRestarts heartbeat", "1")
	p.until(n, "systemctl show -P SubState heartbeat", "running")
	p.owns(n)
	p.signal(n, "KILL")
	p.until(n, "cat /var/log/ha-log", "is not started again (systemctl status heartbeat tells why). Its resources are released")
	p.until(n, "ip -4 -br addr show dev eth0; cat /sys/class/watchdog/watchdog0/state", "10.77.0.1/24 \ninactive")
}
