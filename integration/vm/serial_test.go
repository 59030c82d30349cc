package vm

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

const line = "/dev/ttyS1"

// link waits until a machine says that of a link to the other one.
func (p *pair) link(n *Node, link, state string) {
	p.t.Helper()
	p.until(n, "cl_status hblinkstatus "+p.other(n).Name+" "+link, state)
}

// lines are the settings of the serial line while a daemon has it.
func (p *pair) settings(n *Node) string {
	p.t.Helper()
	return p.run(n, "stty -F "+line+" -a")
}

// wires asserts the kernel's own word for the wires of the line: it sends only
// with CTS there.
func (p *pair) wires(n *Node) {
	p.t.Helper()
	if wires := p.run(n, "grep '^1:' /proc/tty/driver/serial"); !strings.Contains(wires, " RTS|CTS|DTR|DSR|CD") {
		p.t.Errorf("%s: the wires of the line are %s", n.Name, wires)
	}
}

// TestSerial: real ports with flow control join two nodes of ours and nothing
// else does, at one speed after the other, which both take up in place. Then, of
// the line and a network either may fail, and comes back.
func TestSerial(t *testing.T) {
	p := machines(t)
	speeds := []int{9600, 115200, 19200}
	p.Baud(speeds[0])
	p.install(p.Nodes...)
	for _, n := range p.Nodes {
		p.configure(n, cluster{media: []string{fmt.Sprint("baud ", speeds[0]), "serial " + line}, group: addressOnly, failback: "on"})
		p.start(n)
	}
	for i, baud := range speeds {
		if i > 0 {
			p.Baud(baud)
			for _, n := range p.Nodes {
				p.change(n, fmt.Sprint("baud ", speeds[i-1]), fmt.Sprint("baud ", baud))
			}
		}
		for _, n := range p.Nodes {
			p.until(n, "stty -F "+line+" -a", fmt.Sprintf("speed %d baud", baud))
			p.link(n, line, "up")
			p.sees(n)
			if got := p.settings(n); !has(got, "crtscts") {
				t.Errorf("%s: no flow control at %d baud:\n%s", n.Name, baud, got)
			}
			p.wires(n)
		}
		p.owns(p.n1)
	}

	for _, n := range p.Nodes {
		p.change(n, "serial "+line, "serial "+line+"\\nbcast eth1")
	}
	for _, n := range p.Nodes {
		p.link(n, "eth1", "up")
		p.link(n, line, "up")
	}
	for _, f := range []struct {
		link      string
		cut, mend func()
	}{
		{"eth1", func() { p.Cut(1, true) }, func() { p.Cut(1, false) }},
		{line, func() { p.Cable(false) }, func() { p.Cable(true) }},
	} {
		f.cut()
		for _, n := range p.Nodes {
			p.link(n, f.link, "dead")
			p.sees(n)
		}
		f.mend()
		for _, n := range p.Nodes {
			p.link(n, f.link, "up")
		}
	}
	p.owns(p.n1)
	for _, n := range p.Nodes {
		if deaths := p.run(n, "grep 'node .*: is dead' /var/log/ha-log || true"); deaths != "" {
			t.Errorf("%s, with a link in order: %s", n.Name, deaths)
		}
	}
}

// TestSerialMixed: the same line with heartbeat 3.0.6 at its other end, set up
// as that sets it up. n1 runs ours.
func TestSerialMixed(t *testing.T) {
	p := machines(t)
	p.Baud(19200)
	p.install(p.n1)
	for _, n := range p.Nodes {
		p.configure(n, cluster{media: []string{"serial " + line, "bcast eth1"}, group: addressOnly, failback: "on"})
	}
	p.start(p.n1)
	p.run(p.n2, daemon+" >>/var/log/ha.out 2>&1")
	for _, n := range p.Nodes {
		p.link(n, line, "up")
	}
	for _, n := range p.Nodes {
		p.wires(n)
	}
	p.owns(p.n1)
	ours, theirs := p.settings(p.n1), p.settings(p.n2)
	if ours != theirs {
		t.Logf("ours:\n%s\n3.0.6's:\n%s", ours, theirs)
	}
	// All but noflsh: ours keeps what it sends when the other end sends a break.
	for _, flag := range []string{"crtscts", "istrip", "igncr", "inpck", "icanon", "echo", "opost", "cs8", "cstopb", "parenb", "clocal", "cread", "hupcl", "ixon", "ixoff", "brkint"} {
		if a, b := has(ours, flag), has(theirs, flag); a != b {
			t.Errorf("%s is %v here and %v with 3.0.6", flag, a, b)
		}
	}
	p.Cut(1, true)
	for _, n := range p.Nodes {
		p.link(n, "eth1", "dead")
		p.sees(n)
	}
	p.Cable(false)
	p.owns(p.n2) // neither link is left
	p.Cable(true)
	for _, n := range p.Nodes {
		p.link(n, line, "up")
	}
	p.owns(p.n1)
	p.until(p.n2, "ip -4 -br addr show dev eth0; echo end", "10.77.0.2/24 \nend")
	p.Cut(1, false)
}

// TestSerialNotReady: with flow control nothing is sent to an end that does not
// raise CTS. The daemon says so, and its other medium does not suffer.
func TestSerialNotReady(t *testing.T) {
	const line = "/dev/ttyS2"
	t.Parallel() // with TestSystemd: both mostly wait
	p := machines(t)
	n := p.n1
	wires := func() string { return p.run(n, "grep '^2:' /proc/tty/driver/serial") }
	p.run(n, "stty -F "+line+" raw -echo -crtscts clocal 19200; echo ready >"+line)
	var sent []byte
	p.untilTrue(n, "without flow control the port sends", func() (bool, string) {
		out, err := n.Deaf()
		p.must(err)
		sent = append(sent, out...)
		return string(sent) == "ready\n", fmt.Sprintf("%q; it is %s", sent, wires())
	})
	p.install(n)
	p.configure(n, cluster{media: []string{"serial " + line, "bcast eth1"}, group: addressOnly, failback: "on"})
	p.start(n)
	p.until(n, "hbctl status", line+" cannot send: serial "+line+": the line takes no data: no connection or bad cable?")
	p.owns(n)
	p.until(n, "cl_status hblinkstatus n1 eth1", "up")
	if out, err := n.Deaf(); len(out) > 0 || err != nil {
		t.Errorf("sent without CTS: %q (%v)", out, err)
	}
	if got := wires(); !strings.Contains(got, " RTS|DTR") {
		t.Errorf("the daemon does not ask with RTS, or CTS is up: %s", got)
	}
	// The kernel would wait half a minute for such an end at each close.
	begun := time.Now()
	p.change(n, "warntime 5", "warntime 6")
	p.until(n, "cl_status hbparameter -p warntime", "6")
	p.change(n, "warntime 6", "warntime 7")
	p.until(n, "cl_status hbparameter -p warntime", "7")
	p.run(n, daemon+" -k")
	if took := time.Since(begun); took > time.Minute {
		t.Errorf("two restarts in place and a stop took %v", took)
	}
}

// has reports whether stty shows a flag as set.
func has(settings, flag string) bool {
	for _, f := range strings.Fields(settings) {
		if f == flag {
			return true
		}
	}
	return false
}
