package vm

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// limit is how long anything may take that is not itself being timed: machines
// are slow, and the one that runs them is shared.
const limit = 2 * time.Minute

// share is the folder that the machines see as /share: this project as it is
// installed, in the folder root.
var share string

// shared is the pair of machines that the tests use one after the other.
var shared *Lab

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil || os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "vm: the tests need root and qemu-system-x86: run make deps as root")
		return 1
	}
	var err error
	if share, err = TempDir(); err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		return 1
	}
	defer os.RemoveAll(share)
	make := exec.Command("make", "install-programs", "install-config", "BUILD="+filepath.Join(share, "build"), "DESTDIR="+filepath.Join(share, "root"))
	make.Dir = "../.."
	if out, err := make.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "vm: install this project: %v\n%s", err, out)
		return 1
	}
	defer func() {
		if shared != nil {
			shared.Close()
		}
	}()
	return m.Run()
}

// pair is two machines as a test uses them.
type pair struct {
	*Lab
	n1, n2 *Node
	t      *testing.T
}

// machines are the two machines, as new.
func machines(t *testing.T) *pair {
	t.Helper()
	p := &pair{t: t}
	onGuard = nil
	if shared == nil {
		l, err := Start(t.Context(), Options{Machines: 2, Share: share})
		p.must(err)
		shared = l
	} else {
		p.renew(shared.Nodes...)
	}
	p.Lab, p.n1, p.n2 = shared, shared.Nodes[0], shared.Nodes[1]
	p.showWhenFailed()
	return p
}

// as is the same pair for another test, which takes it as it is.
func (p *pair) as(t *testing.T) *pair {
	p = &pair{Lab: p.Lab, n1: p.n1, n2: p.n2, t: t}
	p.showWhenFailed()
	return p
}

func (p *pair) showWhenFailed() {
	p.t.Cleanup(func() {
		if p.t.Failed() {
			for _, n := range p.Nodes {
				p.show(n)
			}
		}
	})
}

// show writes down what is known of a machine.
func (p *pair) show(n *Node) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	o, err := n.Run(ctx, 10*time.Second, "tail -n 60 /var/log/ha-log; tail -n 5 /var/log/ha.out; hbctl status; ip -4 -br addr; ls /dev/watchdog*")
	p.t.Logf("%s: %v, reset %d times\n%s\n%s", n.Name, err, len(n.Resets()), o.Text, n.Console())
}

func (p *pair) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// renew resets machines, which makes them as new.
func (p *pair) renew(nodes ...*Node) {
	p.t.Helper()
	boots := make([]int, len(nodes))
	for i, n := range nodes {
		boots[i] = n.Boots()
		p.must(n.Reset())
	}
	for i, n := range nodes {
		p.must(n.WaitBoot(p.t.Context(), boots[i]+1))
	}
}

// run runs a command that must succeed, and returns what it printed.
func (p *pair) run(n *Node, command string) string {
	p.t.Helper()
	begun := time.Now()
	o, err := n.Run(p.t.Context(), limit, command)
	p.must(err)
	p.took(n, command, begun)
	if o.Code != 0 {
		p.t.Fatalf("%s: %q: code %d\n%s", n.Name, command, o.Code, o.Text)
	}
	return strings.TrimSpace(o.Text)
}

// until repeats a command until it prints what is wanted.
func (p *pair) until(n *Node, command, want string) {
	p.t.Helper()
	p.untilTrue(n, command+" prints "+want, func() (bool, string) {
		o, err := n.Run(p.t.Context(), limit, command)
		p.must(err)
		return strings.Contains(o.Text, want), o.Text
	})
}

// took notes what has taken long: it is what the whole run's time consists of.
func (p *pair) took(n *Node, what string, begun time.Time) {
	p.t.Helper()
	if took := time.Since(begun); took > 3*time.Second {
		p.t.Logf("%s: %v for: %s", n.Name, took.Round(100*time.Millisecond), what)
	}
}

// untilTrue repeats f until it is true; f also says what it saw.
func (p *pair) untilTrue(n *Node, what string, f func() (bool, string)) {
	p.t.Helper()
	for begun := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		ok, got := f()
		if ok {
			p.took(n, what, begun)
			return
		}
		if time.Since(begun) > limit {
			p.t.Fatalf("%s: not within %v: %s; the last was\n%s", n.Name, limit, what, got)
		}
	}
}

// address is the service address.
const address = "10.77.0.100"

var service = netip.MustParseAddr(address)

// cluster is what goes into the files.
type cluster struct {
	media    []string
	group    string   // of n1
	failback string   // auto_failback
	deadtime string   // 10 when empty
	initdead string   // 12 when empty
	extra    []string // lines of ha.cf
}

const daemon = "/usr/libexec/heartbeat/heartbeat"

// configure writes the three files.
func (p *pair) configure(n *Node, c cluster) {
	p.t.Helper()
	lines := []string{"logfile /var/log/ha-log", "logfacility none", "keepalive 1", "warntime 5", "deadtime " + cmp.Or(c.deadtime, "10"), "initdead " + cmp.Or(c.initdead, "12")}
	lines = append(lines, c.media...)
	lines = append(lines, "auto_failback "+c.failback, "node n1 n2")
	lines = append(lines, c.extra...)
	p.run(n, fmt.Sprintf("mkdir -p /etc/ha.d /run/heartbeat && cd /etc/ha.d && cat >ha.cf <<X\n%s\nX\necho 'n1 %s' >haresources\n"+
		"printf 'auth 1\\n1 sha1 machines\\n' >authkeys && chmod 600 authkeys", strings.Join(lines, "\n"), c.group))
}

// install puts this project onto machines, over heartbeat 3.0.6. It is much to
// copy, so all copy at once.
func (p *pair) install(nodes ...*Node) {
	p.t.Helper()
	errs := make([]error, len(nodes))
	var all sync.WaitGroup
	for i, n := range nodes {
		all.Go(func() {
			o, err := n.Run(p.t.Context(), limit, "cp -a /share/root/. /")
			if err == nil && o.Code != 0 {
				err = fmt.Errorf("%s: install: code %d\n%s", n.Name, o.Code, o.Text)
			}
			errs[i] = err
		})
	}
	all.Wait()
	p.must(errors.Join(errs...))
}

// build builds the daemon with another text in the place of one of its source
// files, into the folder that the machines share.
func (p *pair) build(name, source, text string) {
	p.t.Helper()
	dir := p.t.TempDir()
	changed, overlay := filepath.Join(dir, "changed.go"), filepath.Join(dir, "overlay.json")
	source, err := filepath.Abs(source)
	p.must(err)
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {source: changed}})
	p.must(err)
	p.must(os.WriteFile(changed, []byte(text), 0o600))
	p.must(os.WriteFile(overlay, replace, 0o600))
	cmd := exec.CommandContext(p.t.Context(), "go", "build", "-trimpath", "-overlay", overlay, "-o", filepath.Join(share, name), "heartbeat/cmd/heartbeat")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		p.t.Fatalf("build %s: %v\n%s", name, err, out)
	}
}

// start starts our daemon, with nobody to start it again.
func (p *pair) start(n *Node) {
	p.t.Helper()
	p.run(n, "setsid -f "+daemon+" -f >>/var/log/ha.out 2>&1 </dev/null")
}

// change changes a line of ha.cf and lets the daemon restart in place.
func (p *pair) change(n *Node, from, to string) {
	p.t.Helper()
	p.run(n, fmt.Sprintf("cd /etc/ha.d && sed -i.was 's|^%s$|%s|' ha.cf && ! cmp ha.cf ha.cf.was && %s -r", from, to, daemon))
}

// owns waits until a machine has the service address.
func (p *pair) owns(n *Node) {
	p.t.Helper()
	p.until(n, "ip -4 -br addr show dev eth0", address+"/")
}

// sees waits until a machine holds the other one for a member.
func (p *pair) sees(n *Node) {
	p.t.Helper()
	p.until(n, "cl_status nodestatus "+p.other(n).Name, "active")
}

func (p *pair) other(n *Node) *Node {
	if n == p.n1 {
		return p.n2
	}
	return p.n1
}

// signal sends a signal to the daemon.
func (p *pair) signal(n *Node, signal string) {
	p.t.Helper()
	p.run(n, "kill -"+signal+" $(cat /run/heartbeat.pid)")
}

// after are the answers of a machine after the first one of the other.
func after(answers []Frame, n, other *Node) (out []Frame) {
	first := slices.IndexFunc(answers, func(a Frame) bool { return a.Node == other })
	for _, a := range answers[max(0, first):] {
		if a.Node == n && first >= 0 {
			out = append(out, a)
		}
	}
	return out
}
