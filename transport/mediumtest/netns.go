package mediumtest

import (
	"fmt"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// Namespace is a network namespace without a name: the kernel removes it with
// the last descriptor, however the test ends.
type Namespace struct {
	handle netns.NsHandle
	links  *netlink.Handle
}

// NewNamespace makes a namespace whose loopback interface is up and which
// needs no duplicate address detection.
func NewNamespace(t testing.TB) *Namespace {
	t.Helper()
	n := &Namespace{}
	err := onThread(func() (err error) {
		if n.handle, err = netns.New(); err != nil {
			return err
		}
		for _, file := range []string{"default", "all"} {
			path := "/proc/sys/net/ipv6/conf/" + file + "/accept_dad"
			if err := os.WriteFile(path, []byte("0"), 0); err != nil {
				return err
			}
		}
		n.links, err = netlink.NewHandle(netlink.FAMILY_ALL)
		return err
	})
	if err != nil {
		t.Fatalf("new namespace: %v", err)
	}
	t.Cleanup(func() {
		n.links.Close()
		n.handle.Close()
	})
	n.Up(t, "lo")
	return n
}

// Do runs f on a thread in the namespace.
func (n *Namespace) Do(f func() error) error {
	return onThread(func() error {
		if err := netns.Set(n.handle); err != nil {
			return err
		}
		return f()
	})
}

// onThread runs f on a thread that nothing else uses and that ends with f.
func onThread(f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		result <- f()
	}()
	return <-result
}

// Veth connects n's interface name to peer's interface peerName.
func (n *Namespace) Veth(t testing.TB, name string, peer *Namespace, peerName string) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	err := n.links.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: peerName, PeerNamespace: netlink.NsFd(int(peer.handle))})
	if err != nil {
		t.Fatalf("connect %s and %s: %v", name, peerName, err)
	}
}

// Delete deletes an interface.
func (n *Namespace) Delete(t testing.TB, name string) {
	t.Helper()
	if err := n.links.LinkDel(n.link(t, name)); err != nil {
		t.Fatalf("delete %s: %v", name, err)
	}
}

// Up sets an interface up; its end of a cable carries when the other is up too.
func (n *Namespace) Up(t testing.TB, name string) {
	t.Helper()
	if err := n.links.LinkSetUp(n.link(t, name)); err != nil {
		t.Fatalf("set %s up: %v", name, err)
	}
}

// Down sets an interface down.
func (n *Namespace) Down(t testing.TB, name string) {
	t.Helper()
	if err := n.links.LinkSetDown(n.link(t, name)); err != nil {
		t.Fatalf("set %s down: %v", name, err)
	}
}

// AddAddress adds "192.0.2.1/24" or an IPv6 address to an interface.
func (n *Namespace) AddAddress(t testing.TB, name, address string) {
	t.Helper()
	if err := n.links.AddrAdd(n.link(t, name), parseAddress(t, address)); err != nil {
		t.Fatalf("add %s to %s: %v", address, name, err)
	}
}

// DeleteAddress takes an address away.
func (n *Namespace) DeleteAddress(t testing.TB, name, address string) {
	t.Helper()
	if err := n.links.AddrDel(n.link(t, name), parseAddress(t, address)); err != nil {
		t.Fatalf("delete %s from %s: %v", address, name, err)
	}
}

func parseAddress(t testing.TB, address string) *netlink.Addr {
	t.Helper()
	addr, err := netlink.ParseAddr(address)
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

func (n *Namespace) link(t testing.TB, name string) netlink.Link {
	t.Helper()
	link, err := n.links.LinkByName(name)
	if err != nil {
		t.Fatal(fmt.Errorf("interface %s: %w", name, err))
	}
	return link
}
