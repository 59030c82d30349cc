package vm

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"heartbeat/integration/vm/agent"
)

// lans is how many networks join the machines.
const lans = 2

// bootLimit is how long a machine may take to come up. It takes 4 s, and 20 s
// with systemd, when nothing else runs.
const bootLimit = 3 * time.Minute

// Options say what to start.
type Options struct {
	// Machines is their number.
	Machines int
	// Share is a folder of the host, at /share in every machine.
	Share string
	// Systemd makes systemd process 1.
	Systemd bool
}

// Lab is a set of machines, n1, n2, ...
type Lab struct {
	Nodes []*Node
	o     Options
	image string
	dir   string // sockets and consoles; short, for a socket's path has 107 bytes
	hubs  []*hub
	cable *cable
}

// Start boots all machines at once and waits until each takes orders.
func Start(ctx context.Context, o Options) (_ *Lab, err error) {
	l := &Lab{o: o}
	defer func() {
		if err != nil {
			l.Close()
			err = fmt.Errorf("machines: %w", err)
		}
	}()
	if l.image, err = Image(ctx); err != nil {
		return nil, err
	}
	if l.dir, err = TempDir(); err != nil {
		return nil, err
	}
	for i := range lans {
		h, err := newHub(l.dir, i, o.Machines)
		if err != nil {
			return nil, err
		}
		l.hubs = append(l.hubs, h)
	}
	for i := range o.Machines {
		l.Nodes = append(l.Nodes, &Node{Name: fmt.Sprintf("n%d", i+1), id: i + 1, lab: l, changed: make(chan struct{})})
	}
	if o.Machines > 1 {
		l.cable = newCable(l.Nodes[0].path("serial"), l.Nodes[1].path("serial"))
	}
	errs := make([]error, len(l.Nodes))
	var all sync.WaitGroup
	for i, n := range l.Nodes {
		all.Go(func() { errs[i] = n.PowerOn(ctx) })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return l, nil
}

// TempDir makes a folder for this process. What processes have left that were
// killed is removed first.
func TempDir() (string, error) {
	const prefix = "heartbeat-vm-"
	left, _ := filepath.Glob(filepath.Join(os.TempDir(), prefix+"*-*"))
	for _, dir := range left {
		owner, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), prefix), "-")
		if pid, err := strconv.Atoi(owner); err == nil && pid > 0 && errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			_ = os.RemoveAll(dir) // what cannot be removed harms nobody
		}
	}
	return os.MkdirTemp("", fmt.Sprint(prefix, os.Getpid(), "-"))
}

// Close pulls every plug and leaves nothing behind.
func (l *Lab) Close() {
	for _, n := range l.Nodes {
		n.PowerOff()
	}
	if l.cable != nil {
		l.cable.close()
	}
	for _, h := range l.hubs {
		h.close()
	}
	if l.dir != "" {
		_ = os.RemoveAll(l.dir) // in the temporary directory
	}
}

// Cut makes a LAN lose every frame between two machines, in both directions and
// silently: both keep their carrier.
func (l *Lab) Cut(lan int, cut bool) {
	for i := range l.hubs[lan].lost {
		l.hubs[lan].lost[i].Store(cut)
	}
}

// Frame is something that a machine has sent onto a LAN.
type Frame struct {
	Node *Node
	At   time.Time
	Data []byte
}

// ethernet is the length of a frame's own header.
const ethernet = 14

// Watch notes the frames on a LAN that are wanted, in their order, until stop.
// One LAN has one watcher at a time; want must not keep the frame.
func (l *Lab) Watch(lan int, want func(frame []byte) bool) (stop func() []Frame) {
	var mu sync.Mutex
	var frames []Frame
	seen := func(from int, frame []byte) {
		if want(frame) {
			mu.Lock()
			frames = append(frames, Frame{l.Nodes[from], time.Now(), bytes.Clone(frame)})
			mu.Unlock()
		}
	}
	h := l.hubs[lan]
	h.seen.Store(&seen)
	return func() []Frame {
		h.seen.Store(nil)
		mu.Lock()
		defer mu.Unlock()
		return frames
	}
}

// Heartbeats notes what the machines send to port 694 on a LAN, until stop.
func (l *Lab) Heartbeats(lan int) (stop func() []Frame) {
	return l.Watch(lan, func(f []byte) bool {
		const udp = 17
		if len(f) < ethernet+28 || f[12] != 0x08 || f[13] != 0 || f[ethernet+9] != udp {
			return false
		}
		header := ethernet + int(f[ethernet]&0xf)*4
		return len(f) >= header+4 && int(f[header+2])<<8|int(f[header+3]) == 694
	})
}

// Ask asks LAN 0 who has an address, every 50 ms, as another station on it
// does, until stop. The answers are in the order in which the LAN saw them,
// what a machine announces unasked among them.
func (l *Lab) Ask(addr netip.Addr) (stop func() []Frame) {
	const (
		request, reply = 1, 2
		sender         = ethernet + 14 // its address
	)
	question := make([]byte, 60)
	station := []byte{0x52, 0x54, 0, 0x77, 0, 0xfe}
	copy(question, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	copy(question[6:], station)
	copy(question[12:], []byte{0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, request})
	copy(question[ethernet+8:], station)
	copy(question[sender:], []byte{10, 77, 0, 254})
	copy(question[ethernet+24:], addr.AsSlice())

	answers := l.Watch(0, func(f []byte) bool {
		return len(f) >= ethernet+28 && f[12] == 0x08 && f[13] == 0x06 && f[ethernet+7] == reply &&
			bytes.Equal(f[sender:sender+4], addr.AsSlice())
	})
	done, ended := make(chan struct{}), make(chan struct{})
	go func() { // ends with stop
		defer close(ended)
		for {
			for to := range l.Nodes {
				// By the other one's port: the hub does not carry it further.
				l.hubs[0].send((to+1)%len(l.Nodes), to, question)
			}
			select {
			case <-done:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
	return func() []Frame {
		close(done)
		<-ended
		return answers()
	}
}

// Cable plugs or pulls the serial cable between n1 and n2.
func (l *Lab) Cable(plugged bool) { l.cable.cut.Store(!plugged) }

// Baud is the pace at which the serial cable carries bytes; qemu's ports know
// none.
func (l *Lab) Baud(baud int) { l.cable.baud.Store(int64(baud)) }

// Node is one machine.
type Node struct {
	Name string
	id   int
	lab  *Lab

	mu      sync.Mutex
	qemu    *exec.Cmd     // nil when it is off
	gone    chan struct{} // closed when qemu is
	deaf    *os.File      // the other end of ttyS2
	orders  net.Conn
	monitor *qmp
	pending map[int64]chan agent.Reply
	last    int64
	boots   int
	resets  []time.Time
	changed chan struct{} // closed and replaced at each boot and reset
}

func (n *Node) path(what string) string { return filepath.Join(n.lab.dir, n.Name+"-"+what) }

// arguments are qemu's; deaf is the host's end of ttyS2.
func (n *Node) arguments(deaf string) []string {
	var peers []string
	for _, p := range n.lab.Nodes {
		peers = append(peers, fmt.Sprintf("%s:%d", p.Name, p.id))
	}
	image := func(name string) string { return filepath.Join(n.lab.image, name) }
	socket := func(id string) string {
		return "socket,id=" + id + ",server=on,wait=off,path=" + n.path(id)
	}
	kernel := []string{
		// Asking ACPI for each interrupt costs 0.2 s a device; checks and
		// mitigations cost seconds.
		"console=ttyS0", "quiet", "panic=1", "net.ifnames=0", "acpi=noirq", "mitigations=off", "no_timer_check",
		"lpj=1000000", "cryptomgr.notests", "lsm=",
		// Clocks that need no calibration: on a busy host it goes wrong, and then
		// the machine's time runs several times too fast until the next boot.
		"tsc=unstable", "clocksource=hpet", "nolapic_timer",
		"vm.name=" + n.Name, fmt.Sprint("vm.id=", n.id), "vm.peers=" + strings.Join(peers, ","),
	}
	if n.lab.o.Systemd {
		kernel = append(kernel, "vm.systemd")
	}
	args := []string{
		"-name", "vm-" + n.Name, "-M", "pc", "-nodefaults", "-no-user-config", "-display", "none",
		"-accel", "tcg,thread=multi,tb-size=256", "-cpu", "max", "-smp", "1", "-m", "256",
		"-kernel", image("vmlinux"), "-initrd", image("initrd.cpio"), "-append", strings.Join(kernel, " "),
		"-chardev", "file,id=console,append=on,path=" + n.path("console"), "-serial", "chardev:console",
		"-chardev", socket("serial"), "-serial", "chardev:serial",
		// Of a pty qemu learns that none of the other end's wires is up.
		"-chardev", "serial,id=deaf,path=" + deaf, "-device", "pci-serial,chardev=deaf",
		"-chardev", socket("monitor"), "-mon", "chardev=monitor,mode=control",
		"-device", "virtio-serial-pci",
		"-chardev", socket("orders"), "-device", "virtserialport,chardev=orders,name=" + agent.Port,
		"-drive", "if=none,id=root,format=raw,readonly=on,file.locking=off,file=" + image("root.img"), "-device", "virtio-blk-pci,drive=root",
		"-device", "virtio-rng-pci",
		"-device", "i6300esb", "-action", "watchdog=reset",
		"-virtfs", "local,id=share,mount_tag=share,security_model=none,multidevs=remap,path=" + n.lab.o.Share,
	}
	for i := range lans {
		qemu, hub := wirePaths(n.lab.dir, i, n.id)
		args = append(args,
			"-netdev", fmt.Sprintf("dgram,id=eth%d,local.type=unix,local.path=%s,remote.type=unix,remote.path=%s", i, qemu, hub),
			"-device", fmt.Sprintf("virtio-net-pci,netdev=eth%d,id=nic%d,romfile=,mac=52:54:00:77:%02x:%02x", i, i, i, n.id))
	}
	return args
}

// PowerOn starts a machine that is off and waits until it takes orders.
func (n *Node) PowerOn(ctx context.Context) error {
	log, err := os.OpenFile(n.path("qemu.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	deaf, line, err := pty.Open()
	if err != nil {
		return err
	}
	defer line.Close()
	cmd := exec.Command("qemu-system-x86_64", n.arguments(line.Name())...)
	cmd.Stdout, cmd.Stderr = log, log
	// The signal comes when the thread that started it ends; so that thread
	// must not end before qemu does, and a machine never outlives its test.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	gone := make(chan struct{})
	started := make(chan error)
	go func() { // ends with qemu
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // it is killed
		}
		n.mu.Lock()
		n.qemu = nil
		n.mu.Unlock()
		_ = deaf.Close()
		close(gone)
	}()
	if err := <-started; err != nil {
		return err
	}
	n.mu.Lock()
	n.qemu, n.gone, n.deaf, n.pending = cmd, gone, deaf, make(map[int64]chan agent.Reply)
	boots := n.boots
	n.mu.Unlock()
	monitorConn, err := dial(n.path("monitor"), gone)
	if err != nil {
		return n.trouble(err)
	}
	q, err := monitor(monitorConn, n.wasReset)
	if err != nil {
		return n.trouble(err)
	}
	orders, err := dial(n.path("orders"), gone)
	if err != nil {
		return n.trouble(err)
	}
	n.mu.Lock()
	n.monitor, n.orders = q, orders
	n.mu.Unlock()
	go n.replies(orders) // ends with qemu
	return n.WaitBoot(ctx, boots+1)
}

// trouble adds what qemu and the machine said last.
func (n *Node) trouble(err error) error {
	said, _ := os.ReadFile(n.path("qemu.log"))
	return fmt.Errorf("%s: %w\nqemu said: %s\nthe end of the machine's console:\n%s", n.Name, err, said, n.Console())
}

// dial waits for qemu to open its socket.
func dial(path string, gone <-chan struct{}) (net.Conn, error) {
	for {
		c, err := net.Dial("unix", path)
		if err == nil {
			return c, nil
		}
		select {
		case <-gone:
			return nil, errors.New("qemu ended")
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (n *Node) notify() {
	close(n.changed)
	n.changed = make(chan struct{})
}

func (n *Node) wasReset(at time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.resets = append(n.resets, at)
	n.notify()
}

// replies hands the replies to who waits for them.
func (n *Node) replies(c net.Conn) {
	in := bufio.NewReader(c)
	for {
		line, err := in.ReadBytes('\n')
		var r agent.Reply
		if err == nil && json.Unmarshal(line, &r) != nil {
			continue // cut off by a reset
		}
		n.mu.Lock()
		if err != nil || r.ID == 0 {
			// Down, or up anew: nobody will answer what is still open.
			for _, ch := range n.pending {
				ch <- agent.Reply{Err: "the machine went down"}
			}
			clear(n.pending)
			if err == nil {
				n.boots++
				n.notify()
			}
		} else if ch := n.pending[r.ID]; ch != nil {
			delete(n.pending, r.ID)
			ch <- r
		}
		n.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// Boots is how often the machine has come up so far.
func (n *Node) Boots() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.boots
}

// Resets are the moments at which the machine was reset, by whatever.
func (n *Node) Resets() []time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.resets)
}

// wait waits until f holds; it is asked, locked, at each boot and each reset.
func (n *Node) wait(ctx context.Context, what string, f func() bool) error {
	limit := time.NewTimer(bootLimit)
	defer limit.Stop()
	for {
		n.mu.Lock()
		ok, changed, gone := f(), n.changed, n.gone
		n.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-gone:
			return n.trouble(errors.New("qemu ended"))
		case <-ctx.Done():
			return ctx.Err()
		case <-limit.C:
			return n.trouble(fmt.Errorf("%s: not within %v", what, bootLimit))
		}
	}
}

// WaitBoot waits until the machine has come up for the count-th time.
func (n *Node) WaitBoot(ctx context.Context, count int) error {
	return n.wait(ctx, fmt.Sprintf("boot %d", count), func() bool { return n.boots >= count })
}

// WaitReset waits for the count-th reset.
func (n *Node) WaitReset(ctx context.Context, count int) error {
	return n.wait(ctx, fmt.Sprintf("reset %d", count), func() bool { return len(n.resets) >= count })
}

// Output is what a command printed, stdout and stderr together, and its code.
type Output struct {
	Text string
	Code int
}

// Run runs a shell command in the machine. A non-zero exit code is no error.
func (n *Node) Run(ctx context.Context, limit time.Duration, command string) (Output, error) {
	reply := make(chan agent.Reply, 1)
	n.mu.Lock()
	if n.qemu == nil {
		n.mu.Unlock()
		return Output{}, fmt.Errorf("%s is off", n.Name)
	}
	n.last++
	q := agent.Request{ID: n.last, Command: command, Seconds: limit.Seconds()}
	n.pending[q.ID] = reply
	orders := n.orders
	n.mu.Unlock()
	line, err := json.Marshal(q)
	if err != nil {
		return Output{}, err
	}
	if _, err := orders.Write(append(line, '\n')); err != nil {
		return Output{}, fmt.Errorf("%s: %w", n.Name, err)
	}
	select {
	case r := <-reply:
		if r.Err != "" {
			return Output{}, fmt.Errorf("%s: %q: %s\n%s", n.Name, command, r.Err, r.Output)
		}
		return Output{string(r.Output), r.Code}, nil
	case <-ctx.Done():
		return Output{}, ctx.Err()
	case <-time.After(limit + time.Minute): // the machine may be frozen
		return Output{}, fmt.Errorf("%s: %q: no answer", n.Name, command)
	}
}

// Deaf is what has come out of the machine's ttyS2, a port at whose other end
// nobody raises CTS: with flow control nothing must.
func (n *Node) Deaf() ([]byte, error) {
	n.mu.Lock()
	f := n.deaf
	n.mu.Unlock()
	waiting, err := unix.IoctlGetInt(int(f.Fd()), unix.TIOCINQ)
	if err != nil || waiting == 0 {
		return nil, err
	}
	out := make([]byte, waiting)
	k, err := f.Read(out)
	return out[:k], err
}

// Reset presses the reset button.
func (n *Node) Reset() error { return n.button("system_reset") }

// Freeze stops the machine as a whole, its clocks included: it does not notice
// that it was away when Thaw lets it go on.
func (n *Node) Freeze() error { return n.button("stop") }

// Thaw ends Freeze.
func (n *Node) Thaw() error { return n.button("cont") }

func (n *Node) button(command string) error {
	n.mu.Lock()
	q := n.monitor
	n.mu.Unlock()
	if _, err := q.do(command, nil); err != nil {
		return fmt.Errorf("%s: %w", n.Name, err)
	}
	return nil
}

// PowerOff pulls the plug.
func (n *Node) PowerOff() {
	n.mu.Lock()
	qemu, gone := n.qemu, n.gone
	n.mu.Unlock()
	if qemu != nil {
		_ = qemu.Process.Kill()
		<-gone
	}
}

// Console is the end of what the machine has printed on its console.
func (n *Node) Console() string {
	const most = 4000
	b, err := os.ReadFile(n.path("console"))
	if err != nil || len(b) == 0 {
		return "(nothing on the console)\n"
	}
	return string(b[max(0, len(b)-most):])
}
