package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// netspace is a network namespace that lives as long as this process holds it.
type netspace struct {
	ns netns.NsHandle
	nl *netlink.Handle
}

func newNetspace() (*netspace, error) {
	s := &netspace{ns: -1}
	errc := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine and nobody else
		// finds himself in the new namespace.
		runtime.LockOSThread()
		var err error
		s.ns, err = netns.New()
		errc <- err
	}()
	if err := <-errc; err != nil {
		return nil, fmt.Errorf("make a network namespace: %w (this needs root)", err)
	}
	var err error
	if s.nl, err = netlink.NewHandleAt(s.ns); err != nil {
		_ = s.ns.Close()
		return nil, fmt.Errorf("open netlink in a new network namespace: %w", err)
	}
	err = errors.Join(s.sysctl("ipv6/conf/all/disable_ipv6", "1"), s.sysctl("ipv6/conf/default/disable_ipv6", "1"), s.up("lo"))
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *netspace) close() {
	s.nl.Close()
	_ = s.ns.Close()
}

// do runs f on a thread of its own inside the namespace; sockets opened and
// processes started there stay in it.
func (s *netspace) do(f func() error) error {
	errc := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked, as above
		if err := netns.Set(s.ns); err != nil {
			errc <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		errc <- f()
	}()
	return <-errc
}

// enableIPv6 undoes what newNetspace disabled.
func (s *netspace) enableIPv6() error {
	return errors.Join(s.sysctl("ipv6/conf/default/disable_ipv6", "0"), s.sysctl("ipv6/conf/all/disable_ipv6", "0"))
}

// sysctl writes one file below /proc/sys/net.
func (s *netspace) sysctl(name, value string) error {
	return s.do(func() error {
		err := os.WriteFile("/proc/sys/net/"+name, []byte(value), 0)
		if errors.Is(err, os.ErrNotExist) && name[:4] == "ipv6" {
			return nil // a kernel without IPv6
		}
		return err
	})
}

func (s *netspace) up(link string) error {
	l, err := s.nl.LinkByName(link)
	if err == nil {
		err = s.nl.LinkSetUp(l)
	}
	if err != nil {
		return fmt.Errorf("set %s up: %w", link, err)
	}
	return nil
}

func (s *netspace) addr(link, cidr string) error {
	l, err := s.nl.LinkByName(link)
	if err != nil {
		return fmt.Errorf("add %s to %s: %w", cidr, link, err)
	}
	a, err := netlink.ParseAddr(cidr)
	if err != nil {
		return err
	}
	if a.IP.To4() == nil {
		a.Flags = unix.IFA_F_NODAD // usable at once
	}
	if err := s.nl.AddrAdd(l, a); err != nil {
		return fmt.Errorf("add %s to %s: %w", cidr, link, err)
	}
	return nil
}

// addrs are the addresses of a link, or of all links when it is "".
func (s *netspace) addrs(link string) ([]netip.Prefix, error) {
	var l netlink.Link
	if link != "" {
		var err error
		if l, err = s.nl.LinkByName(link); err != nil {
			return nil, fmt.Errorf("list addresses of %s: %w", link, err)
		}
	}
	var list []netlink.Addr
	var err error
	// A dump that a change interrupted is incomplete: ask again.
	for range 20 {
		list, err = s.nl.AddrList(l, netlink.FAMILY_ALL)
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("list addresses of %s: %w", link, err)
	}
	out := make([]netip.Prefix, 0, len(list))
	for _, a := range list {
		ip, _ := netip.AddrFromSlice(a.IP)
		ones, _ := a.Mask.Size()
		out = append(out, netip.PrefixFrom(ip.Unmap(), ones))
	}
	return out, nil
}

// neighbour makes an ARP entry permanent.
func (s *netspace) neighbour(link, ip string, mac net.HardwareAddr) error {
	l, err := s.nl.LinkByName(link)
	if err != nil {
		return err
	}
	return s.nl.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, IP: net.ParseIP(ip), HardwareAddr: mac,
		State: netlink.NUD_PERMANENT})
}

// forgetNeighbours empties a link's ARP cache.
func (s *netspace) forgetNeighbours(link string) error {
	l, err := s.nl.LinkByName(link)
	if err != nil {
		return err
	}
	list, err := s.nl.NeighList(l.Attrs().Index, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list neighbours on %s: %w", link, err)
	}
	for i := range list {
		// An entry may have gone by itself meanwhile.
		_ = s.nl.NeighDel(&list[i])
	}
	return nil
}
