package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// tempRoot is where labs keep their files. Not TMPDIR: that may be below /var,
// which nodes see through an overlay.
const tempRoot = "/tmp"

// ClientAddr is the client's address on the service LAN.
var ClientAddr = netip.MustParseAddr("10.77.0.100")

// Links of a node.
const (
	ServiceLink   = "eth0"
	HeartbeatLink = "eth1"
)

// bridges of the switch, by the link that is plugged into them.
var bridges = map[string]string{ServiceLink: "br0", HeartbeatLink: "br1"}

// Lab is one switch, two nodes and a client.
type Lab struct {
	Name string
	// Dir holds everything the lab writes; Close removes it.
	Dir    string
	N1, N2 *Node

	sw, client *netspace
	ipv6       bool
	mu         sync.Mutex
	closers    []func() // helpers that run in the client, last first
}

// ServiceAddr is the i-th service address (from 0): 10.77.4.1 and on.
func ServiceAddr(i int) netip.Addr {
	n := 10<<24 | 77<<16 | 4<<8 + 1 + i
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

// ServiceAddrs are the first n service addresses.
func ServiceAddrs(n int) []netip.Addr {
	a := make([]netip.Addr, n)
	for i := range a {
		a[i] = ServiceAddr(i)
	}
	return a
}

// New builds a lab and boots both nodes. The name may contain lower case
// letters, digits and dashes. Close must be called also when a test fails;
// when the process dies without it, the nodes die with it.
func New(ctx context.Context, name string) (*Lab, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("the lab makes network namespaces: run this as root")
	}
	sweep()
	watchPauses()
	l := &Lab{Name: name}
	var err error
	if l.Dir, err = os.MkdirTemp(tempRoot, fmt.Sprintf("%s%d-%s-", prefix, os.Getpid(), name)); err != nil {
		return nil, err
	}
	l.N1 = &Node{Name: "n1", index: 1, lab: l}
	l.N2 = &Node{Name: "n2", index: 2, lab: l}
	if err := l.build(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("build lab %s: %w", name, err), l.Close())
	}
	return l, nil
}

func (l *Lab) build(ctx context.Context) error {
	// Readable for scripts that run as another user, as /etc and /var are.
	if err := os.Chmod(l.Dir, 0o755); err != nil {
		return err
	}
	var err error
	if l.sw, err = newNetspace(); err != nil {
		return err
	}
	for _, name := range bridges {
		off := false
		br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}, MulticastSnooping: &off}
		if err := l.sw.nl.LinkAdd(br); err != nil {
			return fmt.Errorf("add bridge %s: %w", name, err)
		}
		if err := l.sw.up(name); err != nil {
			return err
		}
	}
	if l.client, err = newNetspace(); err != nil {
		return err
	}
	if err := l.plug("cl", ServiceLink, l.client, clientMAC); err != nil {
		return err
	}
	if err := l.client.addr(ServiceLink, ClientAddr.String()+"/16"); err != nil {
		return err
	}
	for _, n := range l.Nodes() {
		n.cgroup = newCgroup(fmt.Sprintf("%s%d-%s-%s", prefix, os.Getpid(), l.Name, n.Name))
		if err := n.Boot(ctx); err != nil {
			return err
		}
	}
	return nil
}

// EnableIPv6 gives the client and the nodes IPv6 as well, the nodes also after
// later boots: fd77::/64 on the service LAN and fd78::/64 on the heartbeat link.
func (l *Lab) EnableIPv6() error {
	if err := l.client.enableIPv6(); err != nil {
		return err
	}
	if err := l.client.addr(ServiceLink, "fd77::64/64"); err != nil {
		return err
	}
	for _, n := range l.Nodes() {
		if err := n.enableIPv6(); err != nil {
			return fmt.Errorf("IPv6 of %s: %w", n.Name, err)
		}
	}
	l.ipv6 = true
	return nil
}

// Neighbour is the node to which the client's own neighbour table sends what is
// for an address; nil when the table names none.
func (l *Lab) Neighbour(addr netip.Addr) (*Node, error) {
	link, err := l.client.nl.LinkByName(ServiceLink)
	if err != nil {
		return nil, err
	}
	list, err := l.client.nl.NeighList(link.Attrs().Index, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list the client's neighbours: %w", err)
	}
	for _, e := range list {
		if ip, _ := netip.AddrFromSlice(e.IP); ip.Unmap() != addr {
			continue
		}
		for _, n := range l.Nodes() {
			if bytes.Equal(e.HardwareAddr, n.mac(ServiceLink)) {
				return n, nil
			}
		}
	}
	return nil, nil
}

// Nodes are both nodes.
func (l *Lab) Nodes() []*Node { return []*Node{l.N1, l.N2} }

// Close ends everything that runs in the lab and removes all of it.
func (l *Lab) Close() error {
	l.mu.Lock()
	closers := l.closers
	l.closers = nil
	l.mu.Unlock()
	for i := len(closers) - 1; i >= 0; i-- {
		closers[i]()
	}
	var errs []error
	for _, n := range l.Nodes() {
		n.powerOff()
		errs = append(errs, n.cgroup.remove())
		if n.net != nil {
			n.net.close()
		}
	}
	for _, s := range []*netspace{l.client, l.sw} {
		if s != nil {
			s.close()
		}
	}
	return errors.Join(append(errs, os.RemoveAll(l.Dir))...)
}

// plug wires a link of a host into its bridge.
func (l *Lab) plug(host, link string, to *netspace, mac net.HardwareAddr) error {
	veth := &netlink.Veth{
		LinkAttrs:        netlink.LinkAttrs{Name: port(host, link)},
		PeerName:         link,
		PeerHardwareAddr: mac,
		PeerNamespace:    netlink.NsFd(int(to.ns)),
	}
	if err := l.sw.nl.LinkAdd(veth); err != nil {
		return fmt.Errorf("wire %s of %s: %w", link, host, err)
	}
	if err := l.joinBridge(host, link); err != nil {
		return err
	}
	return errors.Join(l.sw.up(port(host, link)), to.up(link))
}

func (l *Lab) joinBridge(host, link string) error {
	p, err := l.sw.nl.LinkByName(port(host, link))
	if err != nil {
		return err
	}
	br, err := l.sw.nl.LinkByName(bridges[link])
	if err != nil {
		return err
	}
	if err := l.sw.nl.LinkSetMaster(p, br); err != nil {
		return fmt.Errorf("put %s into %s: %w", port(host, link), bridges[link], err)
	}
	return nil
}

// port is the name of a link's other end, at the switch.
func port(host, link string) string { return host + link }

var clientMAC = net.HardwareAddr{2, 0x0a, 0x4d, 0, 0, 100}

// Cut interrupts a link between the two nodes inside the switch: no node sees
// its carrier change, and the client still reaches both.
func (l *Lab) Cut(link string) error { return l.isolate(link, true) }

// Heal mends what Cut interrupted.
func (l *Lab) Heal(link string) error { return l.isolate(link, false) }

func (l *Lab) isolate(link string, on bool) error {
	for _, n := range l.Nodes() {
		p, err := l.sw.nl.LinkByName(port(n.Name, link))
		if err != nil {
			return err
		}
		if err := l.sw.nl.LinkSetIsolated(p, on); err != nil {
			return fmt.Errorf("isolate %s: %w", port(n.Name, link), err)
		}
	}
	return nil
}

// Unplug takes one node's link out of the switch; its carrier stays.
func (l *Lab) Unplug(n *Node, link string) error {
	p, err := l.sw.nl.LinkByName(port(n.Name, link))
	if err != nil {
		return err
	}
	return l.sw.nl.LinkSetNoMaster(p)
}

// Plug puts a link back that Unplug took out.
func (l *Lab) Plug(n *Node, link string) error { return l.joinBridge(n.Name, link) }

// ClientCommand is a command that runs in the client's network namespace; call
// start to start it.
func (l *Lab) ClientCommand(ctx context.Context, argv ...string) (cmd *exec.Cmd, start func() error) {
	cmd = exec.CommandContext(ctx, argv[0], argv[1:]...)
	return cmd, func() error { return l.client.do(cmd.Start) }
}

// Wait polls a condition until it holds. On expiry of the limit the error says
// what was awaited and the last reason why it did not hold.
func Wait(ctx context.Context, limit time.Duration, what string, cond func() (bool, string)) error {
	expired := time.NewTimer(limit)
	defer expired.Stop()
	for {
		ok, why := cond()
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w", what, ctx.Err())
		case <-expired.C:
			return fmt.Errorf("wait until %s: not within %v: %s", what, limit, why)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Owners are the nodes whose kernel holds an address.
func (l *Lab) Owners(addr netip.Addr) []*Node {
	var out []*Node
	for _, n := range l.Nodes() {
		if n.Holds(addr) {
			out = append(out, n)
		}
	}
	return out
}

// WaitOwner waits until a node holds all the addresses and its peer none.
func (l *Lab) WaitOwner(ctx context.Context, n *Node, limit time.Duration, addrs ...netip.Addr) error {
	return Wait(ctx, limit, fmt.Sprintf("%s owns %s alone", n.Name, brief(addrs)), func() (bool, string) {
		mine, theirs := n.count(addrs), n.Peer().count(addrs)
		return mine == len(addrs) && theirs == 0, fmt.Sprintf("%s holds %d and %s %d of %d", n.Name, mine, n.Peer().Name, theirs, len(addrs))
	})
}

func brief(addrs []netip.Addr) string {
	if len(addrs) == 1 {
		return addrs[0].String()
	}
	return fmt.Sprintf("%d addresses", len(addrs))
}

// Partition cuts both links between the nodes; Reunite heals them.
func (l *Lab) Partition() error { return errors.Join(l.Cut(ServiceLink), l.Cut(HeartbeatLink)) }

// Reunite ends a Partition.
func (l *Lab) Reunite() error { return errors.Join(l.Heal(HeartbeatLink), l.Heal(ServiceLink)) }

// killGroup ends a command and what it started in its process group.
func killGroup(cmd *exec.Cmd) error {
	if cmd.Process == nil {
		return nil
	}
	return unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
}
