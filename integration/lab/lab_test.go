package lab

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	Main()
	os.Exit(m.Run())
}

// limit is generous: the machine may be busy with other labs.
const limit = 2 * time.Minute

func newLab(t *testing.T) *Lab {
	t.Helper()
	l, err := New(t.Context(), "self")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return l
}

// TestNetwork checks the lab's own parts: an address is answered by the node
// that has it, a cut stops the nodes' traffic and nothing else, a crash
// silences at once, and a boot comes back fresh with its disk.
func TestNetwork(t *testing.T) {
	l := newLab(t)
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	run := func(n *Node, argv ...string) Output {
		t.Helper()
		o, err := n.Run(ctx, argv...)
		must(err)
		return o
	}
	if o := run(l.N1, "hostname"); o.Stdout != "n1\n" {
		t.Errorf("host name %q", o.Stdout)
	}
	// A port where nobody listens refuses at once when the host is reached.
	reached := func(addr string) bool {
		err := l.N1.net.do(func() error {
			_, err := net.DialTimeout("tcp", addr+":9", 2*time.Second)
			return err
		})
		return errors.Is(err, unix.ECONNREFUSED)
	}
	reaches := func(addr string) { // in the end: a dial may time out on a paused machine
		t.Helper()
		must(Wait(ctx, limit, "n1 reaches "+addr, func() (bool, string) { return reached(addr), "no answer" }))
	}
	reaches("10.78.0.2")
	must(l.Cut(HeartbeatLink))
	if reached("10.78.0.2") {
		t.Error("a cut link carries traffic")
	}
	if o := run(l.N1, "cat", "/sys/class/net/eth1/carrier"); o.Stdout != "1\n" {
		t.Errorf("a cut changed the carrier: %q", o.Stdout)
	}
	reaches("10.77.0.2")
	must(l.Heal(HeartbeatLink))
	reaches("10.78.0.2")

	vip := ServiceAddr(0)
	removals, err := l.N1.Removals()
	must(err)
	defer removals.Close()
	for _, order := range []string{"add", "del", "add"} {
		run(l.N1, "ip", "addr", order, vip.String()+"/16", "dev", "eth0")
	}
	if list, err := removals.List(); err != nil || len(list) != 1 || list[0] != vip {
		t.Errorf("removed were %v (%v), want %v", list, err, vip)
	}
	if !l.N1.Holds(vip) || l.N2.Holds(vip) {
		t.Fatal("the address is not where it was put")
	}
	must(l.WaitAnswerer(ctx, l.N1, limit, vip))
	p, err := l.Probe(ctx, ProbeOptions{Addrs: ServiceAddrs(1), Interval: time.Millisecond, Nodes: true})
	must(err)
	must(l.N1.Write("/var/log/keep", "kept", 0o644))
	run(l.N1, "touch", "/etc/forgotten")
	t0 := time.Now()
	must(l.N1.Crash())
	if l.N1.Holds(vip) {
		t.Error("a dead node holds an address")
	}
	run(l.N2, "ip", "addr", "add", vip.String()+"/16", "dev", "eth0")
	// Nobody announced it; what would age out in a minute goes now.
	must(l.client.forgetNeighbours(ServiceLink))
	must(l.WaitAnswerer(ctx, l.N2, limit, vip))
	must(l.N1.Boot(ctx))
	if l.N1.Holds(vip) {
		t.Error("the address survived a boot")
	}
	if o := run(l.N1, "sh", "-c", "cat /var/log/keep; ls /etc/forgotten"); o.Stdout != "kept" {
		t.Errorf("after the boot: %+v", o)
	}
	res, err := p.Stop()
	must(err)
	if d, ok := res.Takeover("n2", t0); !ok {
		t.Error("the prober did not see n2 answer")
	} else if d <= 0 {
		t.Errorf("takeover after %v", d)
	}
	if d := res.Dual(); d != 0 {
		t.Errorf("dual ownership of %v, and the first owner was dead", d)
	}
	// A silence in which the prober stood still is none that it counts.
	if o := res.Outage(t0); o.Worst <= 0 && Paused(t0) == 0 {
		t.Errorf("no outage seen: %+v", o)
	}
}

// TestNothingRemains checks what Close promises, and that a killed run's
// remains are swept.
func TestNothingRemains(t *testing.T) {
	stale := filepath.Join(tempRoot, prefix+strconv.Itoa(1<<22+1)+"-stale-x") // beyond the largest process id
	if err := os.MkdirAll(stale, 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := New(context.Background(), "gone")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.N1.Start("/var/log/sleep", "sleep", "1000000"); err != nil {
		t.Fatal(err)
	}
	err = Wait(t.Context(), limit, "process runs", func() (bool, string) {
		list, err := l.N1.Processes()
		return err == nil && len(list) == 1, ""
	})
	if err != nil {
		t.Fatal(err)
	}
	list, _ := l.N1.Processes()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{stale, l.Dir, "/proc/" + strconv.Itoa(list[0].PID)} {
		if _, err := os.Stat(d); err == nil {
			t.Errorf("%s remains", d)
		}
	}
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(b), l.Dir) {
		t.Errorf("mounts remain (or cannot be read: %v)", err)
	}
}
