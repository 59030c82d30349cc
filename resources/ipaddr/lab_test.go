package ipaddr

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"
	"github.com/mdlayher/ndp"
	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"heartbeat/resources"
)

// patience is for things that happen within milliseconds on a machine that is not
// paused.
const patience = 20 * time.Second

// TestMain runs the tests in a network namespace of their own: it is made for this
// process and vanishes with it, whatever a test leaves behind.
func TestMain(m *testing.M) {
	const inside = "HEARTBEAT_IPADDR_TEST_NETNS"
	if os.Getenv(inside) != "" {
		if lo, err := netlink.LinkByName("lo"); err != nil || netlink.LinkSetUp(lo) != nil {
			fmt.Fprintln(os.Stderr, "cannot set lo up:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	runtime.LockOSThread() // Pdeathsig is the thread's, not the process's
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "tests in a network namespace:", err)
		os.Exit(1)
	}
}

// lab is a link between this namespace and another one.
type lab struct {
	nic  string // our end
	peer netns.NsHandle
	// far is the peer's end, of the same name.
	far netlink.Link
}

var labs atomic.Int32

// newLab makes a veth pair with addrs on our end, both ends up.
func newLab(t testing.TB, addrs ...string) *lab {
	t.Helper()
	l := &lab{nic: fmt.Sprintf("eth%d", labs.Add(1))}
	l.peer = newNamespace(t)
	l.plugIn(t)
	t.Cleanup(func() {
		if link, err := netlink.LinkByName(l.nic); err == nil {
			_ = netlink.LinkDel(link)
		}
		l.peer.Close()
	})
	// No router advertisements or solicitations of the kernel's own.
	must(t, os.WriteFile(filepath.Join("/proc/sys/net/ipv6/conf", l.nic, "accept_ra"), []byte("0"), 0))
	h, err := netlink.NewHandleAt(l.peer)
	must(t, err)
	t.Cleanup(h.Close)
	l.far, err = h.LinkByName(l.nic)
	must(t, err)
	must(t, h.LinkSetUp(l.far))
	for _, a := range addrs {
		l.add(t, a)
	}
	l.waitCarrier(t)
	return l
}

// plugIn makes the pair; our end is up.
func (l *lab) plugIn(t testing.TB) {
	t.Helper()
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: l.nic}, PeerName: l.nic, PeerNamespace: netlink.NsFd(l.peer)}))
	must(t, netlink.LinkSetUp(l.link(t)))
}

func newNamespace(t testing.TB) netns.NsHandle {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here, err := netns.Get()
	must(t, err)
	defer here.Close()
	ns, err := netns.New()
	must(t, err)
	must(t, netns.Set(here))
	return ns
}

func (l *lab) link(t testing.TB) netlink.Link {
	t.Helper()
	link, err := netlink.LinkByName(l.nic)
	must(t, err)
	return link
}

func (l *lab) waitCarrier(t testing.TB) {
	t.Helper()
	eventually(t, "carrier", func() bool { return l.link(t).Attrs().OperState == netlink.OperUp })
}

func (l *lab) add(t testing.TB, addr string) {
	t.Helper()
	a, err := netlink.ParseAddr(addr)
	must(t, err)
	if a.IP.To4() == nil {
		a.Flags = unix.IFA_F_NODAD
	}
	must(t, netlink.AddrAdd(l.link(t), a))
}

func (l *lab) del(t testing.TB, addr string) {
	t.Helper()
	a, err := netlink.ParseAddr(addr)
	must(t, err)
	must(t, netlink.AddrDel(l.link(t), a))
}

// addrs are the addresses of our end as "10.0.0.1/24" with " secondary" and
// " label=" where they apply; no link-local ones.
func (l *lab) addrs(t testing.TB) []string {
	t.Helper()
	link := l.link(t)
	list, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_ALL) })
	must(t, err)
	found := []string{}
	for _, a := range list {
		if a.IP.IsLinkLocalUnicast() {
			continue
		}
		text := a.IPNet.String()
		if a.IP.To4() != nil && a.Flags&unix.IFA_F_SECONDARY != 0 {
			text += " secondary"
		}
		if a.Label != "" && a.Label != l.nic {
			text += " label=" + a.Label
		}
		found = append(found, text)
	}
	slices.Sort(found)
	return found
}

func (l *lab) want(t testing.TB, want ...string) {
	t.Helper()
	if want == nil {
		want = []string{}
	}
	slices.Sort(want)
	if got := l.addrs(t); !slices.Equal(got, want) {
		t.Errorf("addresses on %s are %q, want %q", l.nic, got, want)
	}
}

// log collects events.
type log struct {
	mu   sync.Mutex
	list []string
}

func (l *log) add(e resources.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, e.Level+": "+e.Classic)
}

func (l *log) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.list, func(line string) bool { return strings.Contains(line, text) })
}

// make builds resources that share a network, as in the daemon.
func factoriesWith(o Options) func(t testing.TB, entry string) resources.Resource {
	factories := New(o).Factories()
	return func(t testing.TB, entry string) resources.Resource {
		t.Helper()
		name, args := resources.Split(entry)
		res, err := factories[name](args)
		must(t, err)
		return res
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func start(t testing.TB, r resources.Resource) {
	t.Helper()
	if err := r.Start(context.Background()); err != nil {
		t.Fatalf("start %s: %v", r.Name(), err)
	}
}

func stop(t testing.TB, r resources.Resource) {
	t.Helper()
	if err := r.Stop(context.Background()); err != nil {
		t.Fatalf("stop %s: %v", r.Name(), err)
	}
}

func wantState(t testing.TB, r resources.Resource, want resources.State) {
	t.Helper()
	got, err := r.Status(context.Background())
	if err != nil || got != want {
		t.Errorf("status of %s is %v (%v), want %v", r.Name(), got, err, want)
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("did not happen: %s", what)
		}
	}
}

// capture reads frames at the peer's end.
type capture struct {
	conn *packet.Conn
}

func (l *lab) capture(t testing.TB, etherType ethernet.EtherType) *capture {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here, err := netns.Get()
	must(t, err)
	defer here.Close()
	must(t, netns.Set(l.peer))
	conn, err := packet.Listen(&net.Interface{Index: l.far.Attrs().Index, Name: l.nic}, packet.Raw, int(etherType), nil)
	backErr := netns.Set(here)
	must(t, err)
	must(t, backErr)
	t.Cleanup(func() { conn.Close() })
	return &capture{conn}
}

// frame returns the next frame for which keep says so.
func (c *capture) frame(t testing.TB, keep func(*ethernet.Frame) bool) *ethernet.Frame {
	t.Helper()
	must(t, c.conn.SetReadDeadline(time.Now().Add(patience)))
	buf := make([]byte, 2048)
	for {
		n, _, err := c.conn.ReadFrom(buf)
		if errors.Is(err, unix.ENETDOWN) {
			continue // said once, when our end goes down
		}
		if err != nil {
			t.Fatalf("no such frame on the wire: %v", err)
		}
		var f ethernet.Frame
		if f.UnmarshalBinary(slices.Clone(buf[:n])) == nil && keep(&f) {
			return &f
		}
	}
}

// arpFor returns the next ARP packet about addr with the operation.
func (c *capture) arpFor(t testing.TB, addr string, op arp.Operation) (*ethernet.Frame, *arp.Packet) {
	t.Helper()
	var p *arp.Packet
	f := c.frame(t, func(f *ethernet.Frame) bool {
		p = new(arp.Packet)
		return p.UnmarshalBinary(f.Payload) == nil && p.Operation == op && p.SenderIP == netip.MustParseAddr(addr)
	})
	return f, p
}

// naFor returns the next neighbour advertisement for addr.
func (c *capture) naFor(t testing.TB, addr string) (*ethernet.Frame, *ndp.NeighborAdvertisement) {
	t.Helper()
	var na *ndp.NeighborAdvertisement
	f := c.frame(t, func(f *ethernet.Frame) bool {
		if len(f.Payload) < 40 || f.Payload[6] != unix.IPPROTO_ICMPV6 {
			return false
		}
		m, err := ndp.ParseMessage(f.Payload[40:])
		if err != nil {
			return false
		}
		var ok bool
		na, ok = m.(*ndp.NeighborAdvertisement)
		return ok && na.TargetAddress == netip.MustParseAddr(addr)
	})
	return f, na
}
