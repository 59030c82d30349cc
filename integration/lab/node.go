package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Node is one of the two machines of a lab.
type Node struct {
	Name string

	index  int
	lab    *Lab
	net    *netspace
	cgroup *cgroup
	init   *exec.Cmd      // process 1; nil while the node is down
	power  io.WriteCloser // its standard input: closing it ends the node
	gone   chan struct{}  // closed when process 1 has been buried
}

// Directories of a node that outlive a crash, as a disk does: where the node
// sees them and their name in the lab's directory.
var disks = [][2]string{{"/etc/ha.d", "ha.d"}, {"/var/lib/heartbeat", "state"}, {"/var/log", "log"}}

const bootLimit = 30 * time.Second

// Peer is the other node.
func (n *Node) Peer() *Node {
	if n == n.lab.N1 {
		return n.lab.N2
	}
	return n.lab.N1
}

// Addr is the node's own address on a link.
func (n *Node) Addr(link string) netip.Addr {
	if link == HeartbeatLink {
		return netip.AddrFrom4([4]byte{10, 78, 0, byte(n.index)})
	}
	return netip.AddrFrom4([4]byte{10, 77, 0, byte(n.index)})
}

// Addr6 is the node's own IPv6 address on a link, once the lab has IPv6.
func (n *Node) Addr6(link string) netip.Addr {
	a := netip.MustParseAddr("fd77::").As16()
	if link == HeartbeatLink {
		a[1] = 0x78
	}
	a[15] = byte(n.index)
	return netip.AddrFrom16(a)
}

func (n *Node) enableIPv6() error {
	if err := n.net.enableIPv6(); err != nil {
		return err
	}
	return errors.Join(n.net.addr(ServiceLink, n.Addr6(ServiceLink).String()+"/64"),
		n.net.addr(HeartbeatLink, n.Addr6(HeartbeatLink).String()+"/64"))
}

// ttl is the time to live of what the node sends.
func ttl(n *Node) int { return 100 + n.index }

func (n *Node) mac(link string) net.HardwareAddr {
	if link == HeartbeatLink {
		return net.HardwareAddr{2, 0x0a, 0x4e, 0, 0, byte(n.index)}
	}
	return net.HardwareAddr{2, 0x0a, 0x4d, 0, 0, byte(n.index)}
}

// Path is where the lab's files show what the node sees as path, which must be
// below /etc/ha.d, /var/lib/heartbeat or /var/log.
func (n *Node) Path(path string) string {
	for _, d := range disks {
		if rest, ok := strings.CutPrefix(path, d[0]); ok {
			return filepath.Join(n.lab.Dir, n.Name, d[1], rest)
		}
	}
	panic("lab: " + path + " is not on a disk of the node")
}

// Boot starts a node that is down, with its disks as they were and everything
// else fresh.
func (n *Node) Boot(ctx context.Context) error {
	if n.init != nil {
		return fmt.Errorf("boot %s: it runs", n.Name)
	}
	if err := n.plugIn(); err != nil {
		return fmt.Errorf("boot %s: %w", n.Name, err)
	}
	spec := initSpec{Hostname: n.Name, Scratch: filepath.Join(n.lab.Dir, n.Name, "scratch"), Overlays: []string{"/etc", "/var"}}
	for _, d := range disks {
		src := filepath.Join(n.lab.Dir, n.Name, d[1])
		if err := os.MkdirAll(src, 0o755); err != nil {
			return err
		}
		spec.Binds = append(spec.Binds, [2]string{src, d[0]})
	}
	if err := os.MkdirAll(spec.Scratch, 0o755); err != nil {
		return err
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	cmd := exec.Command("/proc/self/exe", roleInit, string(text))
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true, // a Ctrl-C is the lab's business
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWUTS,
	}
	cmd.Env = nodeEnv
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	power, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := n.net.do(cmd.Start); err != nil {
		return fmt.Errorf("start process 1 of %s: %w", n.Name, err)
	}
	n.init, n.power, n.gone = cmd, power, make(chan struct{})
	ready := make(chan string, 1)
	go func(gone chan struct{}) { // ends with process 1
		b := make([]byte, 16)
		k, _ := out.Read(b)
		ready <- string(b[:k])
		_, _ = io.Copy(io.Discard, out)
		_ = cmd.Wait()
		close(gone)
	}(n.gone)
	select {
	case s := <-ready:
		if s == "ready\n" {
			return nil
		}
		<-n.gone
		n.init = nil
		return fmt.Errorf("process 1 of %s ended: %s", n.Name, strings.TrimSpace(stderr.String()))
	case <-ctx.Done():
		n.powerOff()
		return ctx.Err()
	case <-time.After(bootLimit):
		n.powerOff()
		return fmt.Errorf("process 1 of %s was not ready within %v", n.Name, bootLimit)
	}
}

// plugIn gives the node a fresh network, as a boot does.
func (n *Node) plugIn() error {
	if n.net != nil {
		for link := range bridges {
			if p, err := n.lab.sw.nl.LinkByName(port(n.Name, link)); err == nil {
				if err := n.lab.sw.nl.LinkDel(p); err != nil {
					return err
				}
			}
		}
		n.net.close()
		n.net = nil
	}
	ns, err := newNetspace()
	if err != nil {
		return err
	}
	n.net = ns
	for _, link := range []string{ServiceLink, HeartbeatLink} {
		if err := n.lab.plug(n.Name, link, ns, n.mac(link)); err != nil {
			return err
		}
	}
	if n.lab.ipv6 {
		if err := n.enableIPv6(); err != nil {
			return err
		}
	}
	return errors.Join(
		// The time to live of a reply tells who sent it.
		ns.sysctl("ipv4/ip_default_ttl", strconv.Itoa(ttl(n))),
		ns.addr(ServiceLink, n.Addr(ServiceLink).String()+"/16"),
		ns.addr(HeartbeatLink, n.Addr(HeartbeatLink).String()+"/24"),
		// The node knows the client without asking: else the node's own ARP
		// request, sent from the service address, would mend the client's entry
		// and hide an announcement that was forgotten.
		ns.neighbour(ServiceLink, ClientAddr.String(), clientMAC))
}

// Crash cuts the node's power: its links at the switch first, so that nothing
// of the dying gets out, then all its processes at once.
func (n *Node) Crash() error {
	if n.init == nil {
		return fmt.Errorf("crash %s: it is down", n.Name)
	}
	for _, link := range []string{ServiceLink, HeartbeatLink} {
		p, err := n.lab.sw.nl.LinkByName(port(n.Name, link))
		if err == nil {
			err = n.lab.sw.nl.LinkSetDown(p)
		}
		if err != nil {
			return fmt.Errorf("crash %s: %w", n.Name, err)
		}
	}
	n.powerOff()
	return nil
}

func (n *Node) powerOff() {
	if n.init == nil {
		return
	}
	_ = n.init.Process.Kill()
	<-n.gone
	_ = n.power.Close()
	n.init = nil
}

// Running reports whether the node is up.
func (n *Node) Running() bool { return n.init != nil }

var nodeEnv = []string{"PATH=/usr/sbin:/sbin:/usr/bin:/bin", "HOME=/root", "LC_ALL=C"}

// Command is a command inside the node. Its whole process group is killed when
// ctx ends.
func (n *Node) Command(ctx context.Context, argv ...string) *exec.Cmd {
	pid := "0"
	if n.init != nil {
		pid = strconv.Itoa(n.init.Process.Pid)
	}
	args := append([]string{"-t", pid, "-m", "-u", "-n", "-p", "--"}, argv...)
	cmd := exec.CommandContext(ctx, "nsenter", args...)
	cmd.Env = nodeEnv
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return killGroup(cmd) }
	// A daemon may keep the output open for ever.
	cmd.WaitDelay = time.Second
	return cmd
}

// Output is what a finished command left.
type Output struct {
	Stdout, Stderr string
	Code           int
}

// Run runs a command inside the node and waits for it. A non-zero exit code is
// no error.
func (n *Node) Run(ctx context.Context, argv ...string) (Output, error) {
	if n.init == nil {
		return Output{}, fmt.Errorf("run %s on %s: the node is down", argv[0], n.Name)
	}
	// Files and not pipes: a daemon inherits them, and nobody waits for it.
	dir, err := os.MkdirTemp(n.lab.Dir, "run-")
	if err != nil {
		return Output{}, err
	}
	defer os.RemoveAll(dir)
	stdout, err1 := os.Create(filepath.Join(dir, "out"))
	stderr, err2 := os.Create(filepath.Join(dir, "err"))
	if err := errors.Join(err1, err2); err != nil {
		return Output{}, err
	}
	defer stdout.Close()
	defer stderr.Close()
	cmd := n.Command(ctx, argv...)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if err := n.start(cmd); err != nil {
		return Output{}, fmt.Errorf("run %s on %s: %w", argv[0], n.Name, err)
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return Output{}, fmt.Errorf("run %s on %s: %w", argv[0], n.Name, err)
	}
	if ctx.Err() != nil {
		return Output{}, fmt.Errorf("run %s on %s: %w", argv[0], n.Name, ctx.Err())
	}
	var o Output
	b1, err1 := os.ReadFile(stdout.Name())
	b2, err2 := os.ReadFile(stderr.Name())
	o.Stdout, o.Stderr, o.Code = string(b1), string(b2), cmd.ProcessState.ExitCode()
	return o, errors.Join(err1, err2)
}

// start starts a command in the node's cgroup.
func (n *Node) start(cmd *exec.Cmd) error {
	if n.cgroup == nil {
		return cmd.Start()
	}
	dir, err := os.Open(n.cgroup.dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
	return cmd.Start()
}

// Start starts a long-running command inside the node, its output appended to
// the file that the node sees as logfile. It ends with the node.
func (n *Node) Start(logfile string, argv ...string) error {
	if n.init == nil {
		return fmt.Errorf("start %s on %s: the node is down", argv[0], n.Name)
	}
	f, err := os.OpenFile(n.Path(logfile), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	cmd := n.Command(context.Background(), argv...)
	cmd.Stdout, cmd.Stderr = f, f
	if err := n.start(cmd); err != nil {
		return fmt.Errorf("start %s on %s: %w", argv[0], n.Name, err)
	}
	go func() { _ = cmd.Wait() }() // ends with the command, at the latest with the node
	return nil
}

// Addresses are the addresses in the node's kernel.
func (n *Node) Addresses() ([]netip.Prefix, error) { return n.net.addrs("") }

// Holds reports whether the node is up and its kernel has an address.
func (n *Node) Holds(addr netip.Addr) bool { return n.count([]netip.Addr{addr}) == 1 }

func (n *Node) count(addrs []netip.Addr) int {
	if n.init == nil {
		return 0
	}
	have, err := n.net.addrs("")
	if err != nil {
		return 0
	}
	set := make(map[netip.Addr]bool, len(have))
	for _, p := range have {
		set[p.Addr()] = true
	}
	k := 0
	for _, a := range addrs {
		if set[a] {
			k++
		}
	}
	return k
}

// Process is one process of a node.
type Process struct {
	PID int // as the lab sees it
	// Command is the command line, blank separated.
	Command string
}

// Processes are all processes of the node but process 1.
func (n *Node) Processes() ([]Process, error) {
	if n.init == nil {
		return nil, nil
	}
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", n.init.Process.Pid))
	if err != nil {
		return nil, err
	}
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var out []Process
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil || pid == n.init.Process.Pid {
			continue
		}
		// What fails here has just ended.
		if l, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid)); err != nil || l != ns {
			continue
		}
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil || len(b) == 0 { // a zombie has no command line
			continue
		}
		out = append(out, Process{pid, strings.ReplaceAll(strings.TrimRight(string(b), "\x00"), "\x00", " ")})
	}
	return out, nil
}

// Signal sends a signal to every process of the node whose command line
// contains text ("": to all), and says to how many.
func (n *Node) Signal(sig unix.Signal, text string) (int, error) {
	list, err := n.Processes()
	if err != nil {
		return 0, err
	}
	list = slices.DeleteFunc(list, func(p Process) bool { return !strings.Contains(p.Command, text) })
	if sig == unix.SIGKILL {
		// As at one moment: none of them shall start another one anew.
		for _, p := range list {
			_ = unix.Kill(p.PID, unix.SIGSTOP) // it may be gone
		}
	}
	k := 0
	for _, p := range list {
		if unix.Kill(p.PID, sig) == nil {
			k++
		}
	}
	return k, nil
}

// CPU is the processor time of the node's processes, finished ones included,
// since the lab was built.
func (n *Node) CPU() (time.Duration, error) { return n.cgroup.cpu() }

// Memory of a node's processes together.
type Memory struct {
	Processes int
	// RSS counts shared pages in each process, PSS counts them once; bytes.
	RSS, PSS int64
}

// Memory sums over all processes of the node.
func (n *Node) Memory() (Memory, error) {
	list, err := n.Processes()
	if err != nil {
		return Memory{}, err
	}
	var m Memory
	for _, p := range list {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p.PID))
		if err != nil {
			continue // it has just ended
		}
		m.Processes++
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) < 2 {
				continue
			}
			kb, _ := strconv.ParseInt(f[1], 10, 64)
			switch f[0] {
			case "Rss:":
				m.RSS += kb << 10
			case "Pss:":
				m.PSS += kb << 10
			}
		}
	}
	return m, nil
}

// Read is the content of a file on one of the node's disks, "" when there is
// none.
func (n *Node) Read(path string) string {
	b, err := os.ReadFile(n.Path(path))
	if err != nil {
		return ""
	}
	return string(b)
}

// Write puts a file on one of the node's disks.
func (n *Node) Write(path, content string, mode os.FileMode) error {
	p := n.Path(path)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(p, []byte(content), mode); err != nil {
		return err
	}
	return os.Chmod(p, mode) // whatever the umask
}

// Tail are the last lines of a file of the node.
func (n *Node) Tail(path string, lines int) string {
	all := strings.Split(strings.TrimRight(n.Read(path), "\n"), "\n")
	return strings.Join(slices.Concat(all[max(0, len(all)-lines):]), "\n")
}

// WaitLog waits until a file on the node's disk contains text.
func (n *Node) WaitLog(ctx context.Context, limit time.Duration, path, text string) error {
	return Wait(ctx, limit, fmt.Sprintf("%s of %s says %q", path, n.Name, text), func() (bool, string) {
		return strings.Contains(n.Read(path), text), "the end of it:\n" + n.Tail(path, 15)
	})
}
