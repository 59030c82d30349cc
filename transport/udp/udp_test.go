package udp

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"heartbeat/transport"
	"heartbeat/transport/mediumtest"
)

// cable is two namespaces whose interfaces eth0 are connected.
type cable struct {
	a, b *mediumtest.Namespace
}

const port = 694

// kinds is every kind of medium between the two ends of a cable.
var kinds = map[string][2]Spec{
	"bcast": {
		{Kind: "bcast", Interface: "eth0", Port: port},
		{Kind: "bcast", Interface: "eth0", Port: port}},
	"mcast": {
		{Kind: "mcast", Interface: "eth0", Port: port, Addr: "239.0.0.1", TTL: 1},
		{Kind: "mcast", Interface: "eth0", Port: port, Addr: "239.0.0.1", TTL: 1}},
	"mcast6": {
		{Kind: "mcast6", Interface: "eth0", Port: port, Addr: "ff02::694", TTL: 1},
		{Kind: "mcast6", Interface: "eth0", Port: port, Addr: "ff02::694", TTL: 1}},
	"mcast6 of wider scope": {
		{Kind: "mcast6", Interface: "eth0", Port: port, Addr: "ff05::694", TTL: 4},
		{Kind: "mcast6", Interface: "eth0", Port: port, Addr: "ff05::694", TTL: 4}},
	"ucast": {
		{Kind: "ucast", Interface: "eth0", Port: port, Addr: "10.0.0.2"},
		{Kind: "ucast", Interface: "eth0", Port: port, Addr: "10.0.0.1"}},
	"ucast6": {
		{Kind: "ucast6", Interface: "eth0", Port: port, Addr: "fd00::2"},
		{Kind: "ucast6", Interface: "eth0", Port: port, Addr: "fd00::1"}},
}

func newCable(t testing.TB) *cable {
	c := &cable{mediumtest.NewNamespace(t), mediumtest.NewNamespace(t)}
	c.connect(t)
	return c
}

// connect lays the cable, as a plugged adapter does: anew each time, with new
// indexes.
func (c *cable) connect(t testing.TB) {
	c.a.Veth(t, "eth0", c.b, "eth0")
	c.a.AddAddress(t, "eth0", "10.0.0.1/24")
	c.b.AddAddress(t, "eth0", "10.0.0.2/24")
	c.a.Up(t, "eth0")
	c.b.Up(t, "eth0")
	c.a.AddAddress(t, "eth0", "fd00::1/64")
	c.b.AddAddress(t, "eth0", "fd00::2/64")
}

// open opens media in a namespace and closes them with the test.
func open(t testing.TB, n *mediumtest.Namespace, inherited Inherited, specs ...Spec) []transport.Medium {
	t.Helper()
	media, err := openIn(specs, inherited, n.Do)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, m := range media {
			m.Close()
		}
	})
	return media
}

func (c *cable) openKind(t testing.TB, kind string) (a, b transport.Medium) {
	t.Helper()
	return open(t, c.a, nil, kinds[kind][0])[0], open(t, c.b, nil, kinds[kind][1])[0]
}

func TestMedium(t *testing.T) {
	for kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			c := newCable(t)
			mediumtest.Run(t, 60000, func(t *testing.T) mediumtest.Ends {
				a, b := c.openKind(t, kind)
				return mediumtest.Ends{A: a, B: b}
			})
		})
	}
}

func TestOwnPackets(t *testing.T) {
	c := newCable(t)
	for _, test := range []struct {
		name string
		spec Spec
		own  bool
	}{
		{"broadcast is heard", kinds["bcast"][0], true},
		{"multicast with loop is heard", Spec{Kind: "mcast", Interface: "eth0", Port: port, Addr: "239.0.0.1", TTL: 1, Loop: true}, true},
		{"multicast without loop is not", kinds["mcast"][0], false},
		{"IPv6 multicast with loop is heard", Spec{Kind: "mcast6", Interface: "eth0", Port: port, Addr: "ff02::694", TTL: 1, Loop: true}, true},
		{"IPv6 multicast without loop is not", kinds["mcast6"][0], false},
		{"unicast to the own address is heard", Spec{Kind: "ucast", Interface: "eth0", Port: port, Addr: "10.0.0.1"}, true},
		{"unicast to the peer is not", kinds["ucast"][0], false},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := open(t, c.a, nil, test.spec)[0]
			own := mediumtest.Listen(m)
			if test.own {
				mediumtest.Exchange(t, m, own)
				return
			}
			peer := open(t, c.b, nil, peerOf(test.spec))[0]
			mediumtest.Silent(t, m, own, func() { mediumtest.Exchange(t, peer, own) })
		})
	}
}

func peerOf(spec Spec) Spec {
	if spec.Kind == "ucast" {
		spec.Addr = "10.0.0.1"
	}
	return spec
}

// TestSharedPort: with a socket each, a unicast packet would reach only one of
// the media on the port.
func TestSharedPort(t *testing.T) {
	c := newCable(t)
	specsA := []Spec{kinds["bcast"][0], kinds["ucast"][0], kinds["mcast"][0], kinds["ucast6"][0], kinds["mcast6"][0]}
	specsB := []Spec{kinds["bcast"][1], kinds["ucast"][1], kinds["mcast"][1], kinds["ucast6"][1], kinds["mcast6"][1]}
	for k := range specsA {
		specsA[k].Loop, specsB[k].Loop = false, false
	}
	a, b := open(t, c.a, nil, specsA...), open(t, c.b, nil, specsB...)
	if len(a) != len(specsA) {
		t.Fatalf("%d media for %d lines", len(a), len(specsA))
	}
	hearA, hearB := mediumtest.ListenAll(a), mediumtest.ListenAll(b)
	for k := range a {
		t.Run(a[k].Name(), func(t *testing.T) {
			mediumtest.Exchange(t, a[k], hearB)
			mediumtest.Exchange(t, b[k], hearA)
		})
	}
	t.Run("each packet is heard once", func(t *testing.T) {
		for k := range a {
			packet := mediumtest.Packet(transport.FormatNetstring, "once "+a[k].Name(), 300)
			if err := a[k].Send(packet); err != nil {
				t.Fatal(err)
			}
			mediumtest.Expect(t, hearB, packet)
			for _, later := range a { // arrives behind a second copy
				mediumtest.Exchange(t, later, hearB)
			}
			if n := hearB.Heard(packet); n != 1 {
				t.Errorf("%s: heard %d times", a[k].Name(), n)
			}
		}
	})
	t.Run("closing the reader passes its socket on", func(t *testing.T) {
		if err := b[0].Close(); err != nil {
			t.Fatal(err)
		}
		mediumtest.Exchange(t, a[1], hearB)
		mediumtest.Exchange(t, b[1], hearA)
	})
}

// TestHandOver closes a reader that is not in Receive just then.
func TestHandOver(t *testing.T) {
	c := newCable(t)
	a := open(t, c.a, nil, kinds["ucast"][0])[0]
	b := open(t, c.b, nil, kinds["bcast"][1], kinds["ucast"][1])
	b[0].Close()
	mediumtest.Exchange(t, a, mediumtest.Listen(b[1]))
}

// TestCloseSharedReader: the reader waits in the shared socket, which stays open
// for the others. Close frees it all the same.
func TestCloseSharedReader(t *testing.T) {
	c := newCable(t)
	a := open(t, c.a, nil, kinds["ucast"][0])[0]
	b := open(t, c.b, nil, kinds["bcast"][1], kinds["ucast"][1])
	result := make(chan error, 1)
	go func() {
		_, _, err := b[0].Receive(make([]byte, transport.PacketBytesMax))
		result <- err
	}()
	in := b[0].(*medium).in
	for reading := 0; reading == 0; time.Sleep(time.Millisecond) {
		in.mu.Lock()
		reading = in.reading
		in.mu.Unlock()
	}
	b[0].Close()
	select {
	case err := <-result:
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("Receive: %v, want net.ErrClosed", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("Receive still waits after Close")
	}
	mediumtest.Exchange(t, a, mediumtest.Listen(b[1]))
}

// TestDeviceBinding: two networks with the same addresses stay apart.
func TestDeviceBinding(t *testing.T) {
	c := newCable(t)
	c.a.Veth(t, "eth1", c.b, "eth1")
	c.a.AddAddress(t, "eth1", "10.0.0.1/24")
	c.b.AddAddress(t, "eth1", "10.0.0.2/24")
	c.a.Up(t, "eth1")
	c.b.Up(t, "eth1")
	for kind := range kinds {
		if strings.HasSuffix(kind, "ucast6") || strings.Contains(kind, "scope") {
			continue
		}
		t.Run(kind, func(t *testing.T) {
			specs := kinds[kind]
			other := [2]Spec{specs[0], specs[1]}
			other[0].Interface, other[1].Interface = "eth1", "eth1"
			a := open(t, c.a, nil, specs[0], other[0])
			b := open(t, c.b, nil, specs[1], other[1])
			if a[0].Link() != "eth0" || a[1].Link() != "eth1" {
				t.Fatalf("links %s, %s", a[0].Link(), a[1].Link())
			}
			eth0, eth1 := mediumtest.Listen(b[0]), mediumtest.Listen(b[1])
			mediumtest.Silent(t, a[0], eth1, func() {
				mediumtest.Exchange(t, a[0], eth0)
				mediumtest.Exchange(t, a[1], eth1)
			})
		})
	}
}

func TestInterfaceReturns(t *testing.T) {
	for kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			c := newCable(t)
			a, b := c.openKind(t, kind)
			hearA, hearB := mediumtest.Listen(a), mediumtest.Listen(b)
			mediumtest.Exchange(t, a, hearB)
			for range 3 {
				c.a.Delete(t, "eth0")
				sendFails(t, a)
				c.connect(t)
				mediumtest.Exchange(t, a, hearB)
				mediumtest.Exchange(t, b, hearA)
			}
			if a.(transport.Counted).Stats().Reopened != 3 {
				t.Errorf("stats %+v, want 3 times reopened", a.(transport.Counted).Stats())
			}
		})
	}
}

// sendFails waits until Send reports that the interface is gone: at once, as
// the socket's device does not exist any more.
func sendFails(t *testing.T, m transport.Medium) {
	t.Helper()
	if err := m.Send(mediumtest.Packet(m.Format(), "into the void", 300)); err == nil {
		t.Errorf("%s: Send without interface reports no error", m.Name())
	} else if !strings.Contains(err.Error(), m.Name()) {
		t.Errorf("error %q does not name the medium", err)
	}
}

func TestInterfaceMissingAtOpen(t *testing.T) {
	for kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			c := &cable{mediumtest.NewNamespace(t), mediumtest.NewNamespace(t)}
			a, b := c.openKind(t, kind)
			sendFails(t, a)
			hearA, hearB := mediumtest.Listen(a), mediumtest.Listen(b)
			c.connect(t)
			mediumtest.Exchange(t, a, hearB)
			mediumtest.Exchange(t, b, hearA)
		})
	}
}

func TestCableOut(t *testing.T) {
	for kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			c := newCable(t)
			a, b := c.openKind(t, kind)
			hearA, hearB := mediumtest.Listen(a), mediumtest.Listen(b)
			mediumtest.Exchange(t, a, hearB)
			c.b.Down(t, "eth0") // a loses the carrier, b its interface
			_ = a.Send(mediumtest.Packet(a.Format(), "lost", 300))
			sendFails(t, b)
			c.b.Up(t, "eth0")
			if strings.HasSuffix(b.Kind(), "6") {
				c.b.AddAddress(t, "eth0", "fd00::2/64") // gone with the interface
			}
			mediumtest.Exchange(t, a, hearB)
			mediumtest.Exchange(t, b, hearA)
		})
	}
}

// TestBroadcastAddress: the address is not read once and for all.
func TestBroadcastAddress(t *testing.T) {
	c := newCable(t)
	a, b := c.openKind(t, "bcast")
	hearB := mediumtest.Listen(b)
	mediumtest.Exchange(t, a, hearB)
	target := func() netip.Addr { return a.(*medium).target.Load().addr }
	for _, step := range []struct{ add, want string }{
		{"10.9.0.1/16", "10.9.255.255"},
		{"10.9.0.1/32", "255.255.255.255"},
		{"", "255.255.255.255"},
		{"10.0.0.1/24", "10.0.0.255"},
	} {
		if old := currentAddress(t, c.a); old != "" {
			c.a.DeleteAddress(t, "eth0", old)
		}
		if step.add != "" {
			c.a.AddAddress(t, "eth0", step.add)
		}
		want := netip.MustParseAddr(step.want)
		for deadline := time.Now().Add(30 * time.Second); target() != want; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("with address %q: sends to %v, want %v", step.add, target(), want)
			}
		}
		// The peer hears it with whatever address it has itself.
		if step.add != "10.9.0.1/16" {
			mediumtest.Exchange(t, a, hearB)
		}
	}
}

// TestLoops: a unicast line with the interface's own address leads back to this
// node, but only while the address is there and the interface is up.
func TestLoops(t *testing.T) {
	c := newCable(t)
	media := open(t, c.a, nil,
		Spec{Kind: "ucast", Interface: "eth0", Port: port, Addr: "10.0.0.1"}, Spec{Kind: "ucast", Interface: "eth0", Port: port, Addr: "10.0.0.2"},
		Spec{Kind: "ucast6", Interface: "eth0", Port: port, Addr: "fd00::1"}, Spec{Kind: "ucast6", Interface: "eth0", Port: port, Addr: "fd00::2"},
		Spec{Kind: "bcast", Interface: "eth0", Port: port})
	expect := func(when string, want ...bool) {
		t.Helper()
		var got []bool
		for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			got = got[:0]
			for _, m := range media {
				got = append(got, m.(transport.Looping).Loops())
			}
			if slices.Equal(got, want) {
				return
			}
		}
		t.Fatalf("%s: loops %v, want %v", when, got, want)
	}
	expect("at first", true, false, true, false, false)
	c.a.DeleteAddress(t, "eth0", "10.0.0.1/24")
	expect("without the address", false, false, true, false, false)
	c.a.AddAddress(t, "eth0", "10.0.0.2/24")
	expect("with the peer's address", false, true, true, false, false)
	c.a.Down(t, "eth0")
	expect("down", false, false, false, false, false)
	c.a.Up(t, "eth0")
	expect("up again", false, true, false, false, false) // IPv6 addresses went with the interface
}

// TestRenewedAddress: an address whose lifetime is prolonged is no reason to look
// at the interfaces; one that comes, goes or changes is.
func TestRenewedAddress(t *testing.T) {
	n := mediumtest.NewNamespace(t)
	n.Veth(t, "eth0", mediumtest.NewNamespace(t), "eth0")
	n.Up(t, "eth0")
	fd := -1
	if err := n.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE); err == nil {
			err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_IPV4_IFADDR})
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	replace := func(address string, lifetime int) func() {
		return func() {
			if err := n.Do(func() error {
				link, err := netlink.LinkByName("eth0")
				if err != nil {
					return err
				}
				addr, err := netlink.ParseAddr(address)
				if err != nil {
					return err
				}
				addr.ValidLft, addr.PreferedLft = lifetime, lifetime
				return netlink.AddrReplace(link, addr)
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	var seen changes
	buf := make([]byte, 16384)
	for _, step := range []struct {
		what string
		do   func()
		news bool
	}{
		{"comes", replace("10.0.0.9/24", 100), true},
		{"prolonged", replace("10.0.0.9/24", 200), false},
		{"another comes", replace("10.0.0.10/24", 100), true},
		{"prolonged", replace("10.0.0.9/24", 300), false},
		{"goes", func() { n.DeleteAddress(t, "eth0", "10.0.0.10/24") }, true},
		{"comes back", replace("10.0.0.10/24", 100), true},
		{"prolonged", replace("10.0.0.10/24", 200), false},
	} {
		step.do()
		size, err := unix.Read(fd, buf)
		if err != nil {
			t.Fatal(err)
		}
		if got := seen.news(buf[:size]); got != step.news {
			t.Errorf("%s: news %t, want %t", step.what, got, step.news)
		}
	}
	if !seen.news([]byte("garbage")) {
		t.Error("what cannot be read is no news")
	}
}

// TestAttention: of the addresses of interfaces that no medium uses nothing is
// reported; of a medium's own interface everything is, also after it was made anew.
func TestAttention(t *testing.T) {
	c := newCable(t)
	c.a.Veth(t, "service", c.b, "service")
	media := open(t, c.a, nil, kinds["bcast"][0])
	s := media[0].(*medium).set
	// Counted on another socket with the same filter: the set reads its own.
	fd := -1
	if err := c.a.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE); err == nil {
			err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR})
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	index := s.look("eth0").index
	if index == 0 {
		t.Fatal("eth0 has no index")
	}
	if err := attention(fd, []int{index}); err != nil {
		t.Fatal(err)
	}
	reports := func() (n int) {
		buf := make([]byte, 16384)
		for {
			if _, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT); err != nil {
				return n
			}
			n++
		}
	}
	for _, step := range []struct {
		what string
		do   func()
		news bool
	}{
		{"an address of another interface comes", func() { c.a.AddAddress(t, "service", "10.9.0.1/24") }, false},
		{"an address of ours comes", func() { c.a.AddAddress(t, "eth0", "10.0.0.9/24") }, true},
		{"an address of another interface goes", func() { c.a.DeleteAddress(t, "service", "10.9.0.1/24") }, true},
		{"an address of ours goes", func() { c.a.DeleteAddress(t, "eth0", "10.0.0.9/24") }, true},
		{"another interface comes up", func() { c.a.Up(t, "service") }, true},
		{"our interface goes down", func() { c.a.Down(t, "eth0") }, true},
	} {
		reports()
		step.do()
		if n := reports(); (n > 0) != step.news {
			t.Errorf("%s: %d reports", step.what, n)
		}
	}
	// The set follows: with a new interface of the name, its addresses count.
	c.a.Delete(t, "eth0")
	c.connect(t)
	for deadline := time.Now().Add(30 * time.Second); media[0].(*medium).target.Load().addr.String() != "10.0.0.255"; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the new interface was not seen")
		}
	}
	c.a.DeleteAddress(t, "eth0", "10.0.0.1/24")
	c.a.AddAddress(t, "eth0", "10.5.0.1/16")
	for deadline := time.Now().Add(30 * time.Second); media[0].(*medium).target.Load().addr.String() != "10.5.255.255"; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the new address was not seen")
		}
	}
}

func currentAddress(t *testing.T, n *mediumtest.Namespace) (address string) {
	t.Helper()
	if err := n.Do(func() error {
		i, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		addrs, err := i.Addrs()
		for _, addr := range addrs {
			if prefix := netip.MustParsePrefix(addr.String()); prefix.Addr().Is4() {
				address = prefix.String()
			}
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return address
}

// TestGarbageFlood: packets that no node sent come as fast as one thread can
// send them, and the real ones still arrive.
func TestGarbageFlood(t *testing.T) {
	c := newCable(t)
	a, b := c.openKind(t, "bcast")
	hearB := mediumtest.Listen(b)
	mediumtest.Exchange(t, a, hearB)

	stop, stopped := make(chan struct{}), make(chan struct{})
	flooder := open(t, c.a, nil, Spec{Kind: "ucast", Interface: "eth0", Port: port, Addr: "10.0.0.2"})[0]
	go func() {
		defer close(stopped)
		garbage := make([]byte, 1400)
		for {
			select {
			case <-stop:
				return
			default:
				_ = flooder.Send(garbage)
			}
		}
	}()
	for range 20 {
		mediumtest.Exchange(t, a, hearB)
	}
	close(stop)
	<-stopped
	mediumtest.Exchange(t, a, hearB)
}

// TestLateReader: a packet that waits has the stamp of its arrival.
func TestLateReader(t *testing.T) {
	c := newCable(t)
	a, b := c.openKind(t, "ucast")
	mediumtest.Exchange(t, b, mediumtest.Listen(a))
	packet := mediumtest.Packet(transport.FormatNetstring, "waits", 300)
	before := time.Now()
	if err := a.Send(packet); err != nil {
		t.Fatal(err)
	}
	queued := func() bool {
		return b.(*medium).in.socket.Control(func(fd int) error {
			_, _, err := unix.Recvfrom(fd, make([]byte, 1), unix.MSG_DONTWAIT|unix.MSG_PEEK)
			return err
		}) == nil
	}
	for deadline := time.Now().Add(30 * time.Second); !queued(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the packet never arrived")
		}
	}
	there := time.Now()
	time.Sleep(200 * time.Millisecond) // the packet's age is what is tested
	buf := make([]byte, transport.PacketBytesMax)
	_, at, err := b.Receive(buf)
	if err != nil {
		t.Fatal(err)
	}
	// Wall clock and ours are read one after the other, on a busy machine apart.
	const apart = 50 * time.Millisecond
	if at.Before(before.Add(-apart)) || at.After(there.Add(apart)) {
		t.Errorf("arrival %v after sending; %v after it the packet was there", at.Sub(before), there.Sub(before))
	}
}

// TestInherit passes the sockets to a successor; what waited in them is not
// lost, and the names are those under which it asks for them.
func TestInherit(t *testing.T) {
	c := newCable(t)
	var specsA, specsB []Spec
	for _, kind := range []string{"bcast", "ucast", "mcast", "mcast6", "ucast6"} {
		specsA, specsB = append(specsA, kinds[kind][0]), append(specsB, kinds[kind][1])
	}
	a, b := open(t, c.a, nil, specsA...), open(t, c.b, nil, specsB...)

	hearB := mediumtest.ListenAll(b)
	for _, m := range a { // each path is up
		mediumtest.Exchange(t, m, hearB)
	}

	names, files, err := Files(b)
	if err != nil {
		t.Fatal(err)
	}
	if len(names) != 4 {
		t.Errorf("names %q, want one for each of the four sockets", names)
	}
	inherited := make(Inherited)
	for k, name := range names {
		if strings.Contains(name, ":") {
			t.Errorf("name %q has a colon", name)
		}
		inherited[name] = files[k]
	}
	other, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	inherited["udp eth9 0.0.0.0 694"] = other
	for _, m := range b {
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
	packet := mediumtest.Packet(transport.FormatNetstring, "between two runs", 300)
	for _, m := range a {
		if err := m.Send(packet); err != nil {
			t.Fatal(err)
		}
	}
	b = open(t, c.b, inherited, specsB...)
	for k, m := range b {
		if k == 1 {
			continue // shares the first one's socket
		}
		hear := mediumtest.Listen(m)
		mediumtest.Expect(t, hear, packet)
		mediumtest.Exchange(t, a[k], hear)
	}
	if _, err := other.Stat(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a file of no use was not closed: %v", err)
	}
	// Still bound to the interface: it comes back like a fresh one.
	c.a.Delete(t, "eth0")
	c.connect(t)
	mediumtest.Exchange(t, a[2], mediumtest.Listen(b[2]))
}

// TestInheritRefuses: a file that is not what its name says is not used.
func TestInheritRefuses(t *testing.T) {
	c := newCable(t)
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	wrong := open(t, c.b, nil, Spec{Kind: "bcast", Interface: "eth0", Port: 1234})
	_, files, err := Files(wrong)
	if err != nil {
		t.Fatal(err)
	}
	b := open(t, c.b, Inherited{"udp eth0 0.0.0.0 694": files[0], "udp eth0 239.0.0.1 694": file}, kinds["ucast"][1], kinds["mcast"][1])
	a := open(t, c.a, nil, kinds["ucast"][0], kinds["mcast"][0])
	mediumtest.Exchange(t, a[0], mediumtest.Listen(b[0]))
	mediumtest.Exchange(t, a[1], mediumtest.Listen(b[1]))
}

func TestPeerByName(t *testing.T) {
	n := mediumtest.NewNamespace(t)
	m := open(t, n, nil, Spec{Kind: "ucast", Interface: "lo", Port: port, Addr: "localhost"})[0]
	mediumtest.Exchange(t, m, mediumtest.Listen(m))
	if got := m.(transport.Announced).Banner(); !strings.HasSuffix(got[6], "to 127.0.0.1") {
		t.Errorf("banner %q", got[6])
	}
	m = open(t, n, nil, Spec{Kind: "ucast", Interface: "lo", Port: port + 1, Addr: "no such name"})[0]
	if err := m.Send([]byte("x")); err == nil || !strings.Contains(err.Error(), "not resolved") {
		t.Errorf("Send to an unknown name: %v", err)
	}
}

func TestOpenErrors(t *testing.T) {
	for _, test := range []struct {
		name, want string
		spec       Spec
	}{
		{"kind", "no such UDP medium", Spec{Kind: "anycast", Interface: "eth0", Port: port}},
		{"interface too long", "interface name", Spec{Kind: "bcast", Interface: "eth0123456789abc", Port: port}},
		{"no interface", "interface name", Spec{Kind: "bcast", Port: port}},
		{"no port", "port 0", Spec{Kind: "bcast", Interface: "eth0"}},
		{"port too large", "port 65536", Spec{Kind: "bcast", Interface: "eth0", Port: 65536}},
		{"group is no group", "no multicast address", Spec{Kind: "mcast", Interface: "eth0", Port: port, Addr: "10.0.0.1"}},
		{"group of the other family", "no multicast address", Spec{Kind: "mcast", Interface: "eth0", Port: port, Addr: "ff02::1"}},
		{"group is a name", "group", Spec{Kind: "mcast6", Interface: "eth0", Port: port, Addr: "all"}},
		{"ttl", "ttl 256", Spec{Kind: "mcast", Interface: "eth0", Port: port, Addr: "239.0.0.1", TTL: 256}},
		{"no peer", "no peer", Spec{Kind: "ucast", Interface: "eth0", Port: port}},
		{"peer of the other family", "wrong family", Spec{Kind: "ucast6", Interface: "eth0", Port: port, Addr: "10.0.0.1"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			file, err := os.Open(os.DevNull)
			if err != nil {
				t.Fatal(err)
			}
			_, err = Open([]Spec{test.spec}, Inherited{"x": file})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
			if _, err := file.Stat(); !errors.Is(err, os.ErrClosed) {
				t.Error("inherited file left open")
			}
		})
	}
}

func TestNames(t *testing.T) {
	n := mediumtest.NewNamespace(t)
	media := open(t, n, nil,
		Spec{Kind: "bcast", Interface: "eth1", Port: port},
		Spec{Kind: "bcast", Interface: "eth1", Port: port + 1},
		Spec{Kind: "ucast", Interface: "eth1", Port: port, Addr: "192.0.2.2"},
		Spec{Kind: "mcast", Interface: "eth1", Port: port, Addr: "239.0.0.1"})
	for k, want := range []string{"bcast eth1", "bcast eth1 #2", "ucast eth1 192.0.2.2", "mcast eth1 239.0.0.1"} {
		if got := media[k].Name(); got != want {
			t.Errorf("name %q, want %q", got, want)
		}
	}
}

// TestBanner holds the lines against those that heartbeat 3.0.6 logged.
func TestBanner(t *testing.T) {
	n := mediumtest.NewNamespace(t)
	media := open(t, n, nil,
		Spec{Kind: "bcast", Interface: "eth0", Port: 694},
		Spec{Kind: "ucast", Interface: "eth1", Port: 694, Addr: "192.168.78.2"},
		Spec{Kind: "mcast", Interface: "eth0", Port: 694, Addr: "239.0.0.1", TTL: 1},
		Spec{Kind: "mcast6", Interface: "eth0", Port: 694, Addr: "ff02::1:2", TTL: 1, Loop: true},
		Spec{Kind: "ucast6", Interface: "eth1", Port: 694, Addr: "fd00::2"})
	var got []string
	for _, m := range media {
		got = append(got, m.(transport.Announced).Banner()...)
	}
	want := `glib: UDP Broadcast heartbeat started on port 694 (694) interface eth0
glib: UDP Broadcast heartbeat closed on port 694 interface eth0 - Status: 1
glib: ucast: write socket priority set to IPTOS_LOWDELAY on eth1
glib: ucast: bound send socket to device: eth1
glib: ucast: set SO_REUSEPORT(w)
glib: ucast: set SO_REUSEADDR
glib: ucast: bound receive socket to device: eth1
glib: ucast: set SO_REUSEPORT
glib: ucast: started on port 694 interface eth1 to 192.168.78.2
glib: UDP multicast heartbeat started for group 239.0.0.1 port 694 interface eth0 (ttl=1 loop=0)
glib: UDP multicast heartbeat started for [ff02::1:2]:694 on interface eth0 (hops=1 loop=1)
glib: ucast6: bound send socket to device: eth1
glib: ucast6: bound receive socket to device: eth1
glib: ucast6: heartbeat started for [fd00::2]:694 on interface eth1`
	if strings.Join(got, "\n") != want {
		t.Errorf("banner:\n%s\nwant:\n%s", strings.Join(got, "\n"), want)
	}
}

// TestSocketOptions: what cannot be seen in the packets' content.
func TestSocketOptions(t *testing.T) {
	c := newCable(t)
	media := open(t, c.a, nil, kinds["bcast"][0], kinds["ucast"][0], kinds["mcast"][0])
	for _, test := range []struct {
		name          string
		medium        int
		level, option int
		want          int
	}{
		{"bcast may broadcast", 0, unix.SOL_SOCKET, unix.SO_BROADCAST, 1},
		{"bcast asks no router", 0, unix.SOL_SOCKET, unix.SO_DONTROUTE, 1},
		{"ucast has low delay", 1, unix.IPPROTO_IP, unix.IP_TOS, 0x10},
		{"ucast may be routed", 1, unix.SOL_SOCKET, unix.SO_DONTROUTE, 0},
		{"mcast has its ttl", 2, unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got int
			if err := media[test.medium].(*medium).out.Control(func(fd int) (err error) {
				got, err = unix.GetsockoptInt(fd, test.level, test.option)
				return err
			}); err != nil || got != test.want {
				t.Errorf("%d (%v), want %d", got, err, test.want)
			}
		})
	}
}

func BenchmarkSendReceive(b *testing.B) {
	for _, kind := range []string{"bcast", "mcast", "ucast", "ucast6"} {
		b.Run(kind, func(b *testing.B) {
			from, to := newCable(b).openKind(b, kind)
			packet := mediumtest.Packet(transport.FormatNetstring, "bench", 306)
			buf := make([]byte, transport.PacketBytesMax)
			b.ReportAllocs()
			for b.Loop() {
				if err := from.Send(packet); err != nil {
					b.Fatal(err)
				}
				if _, _, err := to.Receive(buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkSend(b *testing.B) {
	from, _ := newCable(b).openKind(b, "bcast")
	packet := mediumtest.Packet(transport.FormatNetstring, "bench", 306)
	b.ReportAllocs()
	for b.Loop() {
		if err := from.Send(packet); err != nil {
			b.Fatal(err)
		}
	}
}

// TestNoAllocation: ten millisecond keepalives on several media must not feed
// the collector.
func TestNoAllocation(t *testing.T) {
	c := newCable(t)
	from, to := c.openKind(t, "ucast")
	packet := mediumtest.Packet(transport.FormatNetstring, "small", 306)
	buf := make([]byte, transport.PacketBytesMax)
	exchange := func() {
		if err := from.Send(packet); err != nil {
			t.Fatal(err)
		}
		if _, _, err := to.Receive(buf); err != nil {
			t.Fatal(err)
		}
	}
	exchange()
	if n := testing.AllocsPerRun(100, exchange); n != 0 {
		t.Errorf("%v allocations per packet sent and received", n)
	}
}
