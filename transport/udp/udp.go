package udp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"heartbeat/transport"
	"heartbeat/transport/datagram"
)

// Spec is one UDP medium as ha.cf names it.
type Spec struct {
	// Kind is "bcast", "mcast", "mcast6", "ucast" or "ucast6".
	Kind string
	// Interface must be a name of at most 15 bytes. It need not exist yet.
	Interface string
	// Port is 1..65535.
	Port int
	// Addr is the group of a multicast medium (an address), the peer of a
	// unicast one (an address, with zone or without, or a name).
	Addr string
	// TTL (hops) and Loop are for multicast: 0..255; whether this host hears
	// its own packets.
	TTL  int
	Loop bool
}

// family is AF_INET or AF_INET6.
func (s Spec) family() int {
	if strings.HasSuffix(s.Kind, "6") {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

func (s Spec) multicast() bool { return strings.HasPrefix(s.Kind, "mcast") }

func (s Spec) name() string {
	return strings.TrimSuffix(s.Kind+" "+s.Interface+" "+s.Addr, " ")
}

func (s Spec) check() error {
	switch s.Kind {
	case "bcast":
	case "ucast", "ucast6":
		if s.Addr == "" {
			return fmt.Errorf("%s %s: no peer given", s.Kind, s.Interface)
		}
		if addr, err := netip.ParseAddr(s.Addr); err == nil && addr.Is4() != (s.family() == unix.AF_INET) {
			return fmt.Errorf("%s: the peer's address is of the wrong family", s.name())
		}
	case "mcast", "mcast6":
		group, err := netip.ParseAddr(s.Addr)
		if err != nil {
			return fmt.Errorf("%s: group: %w", s.name(), err)
		}
		if !group.IsMulticast() || group.Is4() != (s.family() == unix.AF_INET) {
			return fmt.Errorf("%s: the group is no multicast address of this family", s.name())
		}
		if s.TTL < 0 || s.TTL > 255 {
			return fmt.Errorf("%s: ttl %d is not in 0..255", s.name(), s.TTL)
		}
	default:
		return fmt.Errorf("no such UDP medium: %q", s.Kind)
	}
	if s.Interface == "" || len(s.Interface) >= unix.IFNAMSIZ {
		return fmt.Errorf("%s: interface name %q is not 1..%d bytes long", s.Kind, s.Interface, unix.IFNAMSIZ-1)
	}
	if s.Port < 1 || s.Port > 65535 {
		return fmt.Errorf("%s: port %d is not in 1..65535", s.name(), s.Port)
	}
	return nil
}

// banner are the lines that the original logs when it opens the medium.
func (s Spec) banner(peer string) []string {
	switch s.Kind {
	case "bcast":
		return []string{
			fmt.Sprintf("glib: UDP Broadcast heartbeat started on port %d (%d) interface %s", s.Port, s.Port, s.Interface),
			fmt.Sprintf("glib: UDP Broadcast heartbeat closed on port %d interface %s - Status: 1", s.Port, s.Interface),
		}
	case "ucast":
		return []string{
			"glib: ucast: write socket priority set to IPTOS_LOWDELAY on " + s.Interface,
			"glib: ucast: bound send socket to device: " + s.Interface,
			"glib: ucast: set SO_REUSEPORT(w)",
			"glib: ucast: set SO_REUSEADDR",
			"glib: ucast: bound receive socket to device: " + s.Interface,
			"glib: ucast: set SO_REUSEPORT",
			fmt.Sprintf("glib: ucast: started on port %d interface %s to %s", s.Port, s.Interface, peer),
		}
	case "ucast6":
		return []string{
			"glib: ucast6: bound send socket to device: " + s.Interface,
			"glib: ucast6: bound receive socket to device: " + s.Interface,
			fmt.Sprintf("glib: ucast6: heartbeat started for [%s]:%d on interface %s", peer, s.Port, s.Interface),
		}
	case "mcast":
		return []string{fmt.Sprintf("glib: UDP multicast heartbeat started for group %s port %d interface %s (ttl=%d loop=%d)",
			s.Addr, s.Port, s.Interface, s.TTL, flag(s.Loop))}
	default:
		return []string{fmt.Sprintf("glib: UDP multicast heartbeat started for [%s]:%d on interface %s (hops=%d loop=%d)",
			s.Addr, s.Port, s.Interface, s.TTL, flag(s.Loop))}
	}
}

func flag(on bool) int {
	if on {
		return 1
	}
	return 0
}

// medium is one UDP medium.
type medium struct {
	spec Spec
	name string
	set  *set
	out  *datagram.Socket
	in   *receiver
	// peer is that of a unicast medium, else nil.
	peer *datagram.Peer
	// target is where Send sends; never nil.
	target atomic.Pointer[target]
	// loops: the target is an address of the medium's own interface.
	loops atomic.Bool
	// index is the interface that the sending socket is bound to. Owned by the
	// set's refresh.
	index int

	// turn is closed when it falls to this medium to read the shared socket.
	turn    chan struct{}
	closed  chan struct{}
	closing sync.Once

	sent, sendErrors, received, tooLong, reopened atomic.Uint64
}

// target is a destination, or the reason why there is none.
type target struct {
	addr netip.Addr
	to   unix.Sockaddr
	err  error
}

// Open opens all UDP media of a node; those on the same interface and port
// share a socket, so there must be one call for all. Sockets found in inherited
// (see Files) are continued with what waits in them; Open closes all of its
// files. An interface that does not exist or a name that does not resolve is no
// error here: Send says so until it does. Errors are wrong specs and sockets
// that the kernel refuses altogether.
func Open(specs []Spec, inherited Inherited) ([]transport.Medium, error) {
	return openIn(specs, inherited, func(f func() error) error { return f() })
}

// openIn is Open with everything that depends on the calling thread's network
// namespace run by in.
func openIn(specs []Spec, inherited Inherited, in func(func() error) error) (media []transport.Medium, err error) {
	defer inherited.close()
	for _, spec := range specs {
		if err := spec.check(); err != nil {
			return nil, err
		}
	}
	if len(specs) == 0 {
		return nil, nil
	}
	s, err := newSet(in)
	if err != nil {
		return nil, err
	}
	taken := make(map[string]int)
	receivers := make(map[string]*receiver)
	for _, spec := range specs {
		m := &medium{spec: spec, set: s, turn: make(chan struct{}), closed: make(chan struct{})}
		m.name = spec.name()
		if taken[m.name]++; taken[m.name] > 1 {
			m.name += " #" + strconv.Itoa(taken[m.name])
		}
		m.target.Store(&target{err: fmt.Errorf("%s: not yet set up", m.name)})
		s.media = append(s.media, m)
		if err := in(func() error { return m.open(receivers, inherited) }); err != nil {
			s.closeAll()
			return nil, err
		}
		media = append(media, m)
	}
	s.start()
	return media, nil
}

// open opens the medium's sockets and enters it into its receiver.
func (m *medium) open(receivers map[string]*receiver, inherited Inherited) error {
	out, err := datagram.NewUnwatched(m.name, m.spec.family(), unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	m.out = out
	if err := out.Control(m.setSendOptions); err != nil {
		return fmt.Errorf("set up %s for sending: %w", m.name, err)
	}
	bind := bindAddress(m.spec)
	key := receiverName(m.spec, bind)
	m.in = receivers[key]
	if m.in == nil {
		m.in, err = newReceiver(key, m.spec, bind, inherited[key])
		if err != nil {
			return err
		}
		receivers[key] = m.in
		m.set.receivers = append(m.set.receivers, m.in)
	}
	m.in.join(m)

	switch m.spec.Kind {
	case "ucast":
		m.peer = datagram.NewPeer(m.spec.Addr, "ip4", m.set.wake)
	case "ucast6":
		m.peer = datagram.NewPeer(m.spec.Addr, "ip6", m.set.wake)
	}
	return nil
}

func (m *medium) setSendOptions(fd int) error {
	switch m.spec.Kind {
	case "bcast":
		return errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DONTROUTE, 1))
	case "ucast":
		return errors.Join(
			unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TOS, iptosLowDelay),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
	case "mcast":
		return errors.Join(
			unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, m.spec.TTL),
			unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_LOOP, flag(m.spec.Loop)))
	case "mcast6":
		return errors.Join(
			unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, m.spec.TTL),
			unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_LOOP, flag(m.spec.Loop)))
	}
	return nil
}

// iptosLowDelay is the type of service of unicast heartbeats (RFC 1349), as the
// original sets it.
const iptosLowDelay = 0x10

// follow makes the sending side fit the interface as it is now. It runs on the
// set's goroutine only.
func (m *medium) follow(i netif) error {
	addr, to, err := m.destination(i)
	if err == nil && m.index != i.index {
		if err = m.out.Control(func(fd int) error { return m.bindDevice(fd, i.index) }); err == nil {
			if m.index != 0 {
				m.reopened.Add(1)
			}
			m.index = i.index
		}
	}
	m.loops.Store(err == nil && m.peer != nil && i.has(addr))
	if err != nil {
		m.target.Store(&target{err: fmt.Errorf("%s: %w", m.name, err)})
		return err
	}
	if old := m.target.Load(); old.err != nil || old.addr != addr {
		m.target.Store(&target{addr: addr, to: to})
	}
	return nil
}

func (m *medium) bindDevice(fd, index int) error {
	if err := unix.BindToDevice(fd, m.spec.Interface); err != nil {
		return fmt.Errorf("bind to device: %w", err)
	}
	switch m.spec.Kind {
	case "mcast":
		return unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Ifindex: int32(index)})
	case "mcast6":
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, index)
	}
	return nil
}

// destination is where packets go on the interface as it is now.
func (m *medium) destination(i netif) (netip.Addr, unix.Sockaddr, error) {
	if i.index == 0 {
		return netip.Addr{}, nil, fmt.Errorf("interface %s does not exist", m.spec.Interface)
	}
	var addr netip.Addr
	switch {
	case m.spec.Kind == "bcast":
		addr = i.broadcast
	case m.spec.multicast():
		addr = netip.MustParseAddr(m.spec.Addr)
	default:
		var ok bool
		if addr, ok = m.peer.Addr(); !ok {
			return addr, nil, fmt.Errorf("name %s is not resolved yet", m.spec.Addr)
		}
	}
	if addr.Is4() {
		return addr, &unix.SockaddrInet4{Port: m.spec.Port, Addr: addr.As4()}, nil
	}
	to := &unix.SockaddrInet6{Port: m.spec.Port, Addr: addr.As16()}
	if addr.IsLinkLocalUnicast() || addr.IsLinkLocalMulticast() {
		to.ZoneId = uint32(i.index)
		// A new index is a new destination though the address is the same.
		addr = addr.WithZone(strconv.Itoa(i.index))
	}
	return addr, to, nil
}

func (m *medium) Kind() string             { return m.spec.Kind }
func (m *medium) Link() string             { return m.spec.Interface }
func (m *medium) Name() string             { return m.name }
func (m *medium) Format() transport.Format { return transport.FormatNetstring }

// Send implements transport.Medium: one system call, no allocation.
func (m *medium) Send(packet []byte) error {
	select {
	case <-m.closed:
		return net.ErrClosed
	default:
	}
	t := m.target.Load()
	err := t.err
	if err == nil {
		if err = m.out.Send(packet, t.to); err == nil {
			m.sent.Add(1)
			return nil
		}
		if err == net.ErrClosed {
			return err
		}
		err = fmt.Errorf("%s: send %d bytes to %s: %w", m.name, len(packet), t.addr, err)
	}
	m.sendErrors.Add(1)
	m.set.wake()
	if m.peer != nil {
		m.peer.Retry()
	}
	return err
}

// Loops implements transport.Looping.
func (m *medium) Loops() bool { return m.loops.Load() && !m.isClosed() }

// Receive implements transport.Medium. Of the media that share a socket only
// the first returns packets; the others wait for their turn, which comes when
// it is closed.
func (m *medium) Receive(buf []byte) (int, time.Time, error) {
	select {
	case <-m.turn:
	case <-m.closed:
		return 0, time.Time{}, net.ErrClosed
	}
	for {
		if !m.in.enter(m) {
			return 0, time.Time{}, net.ErrClosed
		}
		n, at, err := m.in.socket.Receive(buf)
		open := m.in.exit(m)
		switch {
		case err == nil:
			m.received.Add(1)
			return n, at, nil
		case !open:
			return 0, time.Time{}, net.ErrClosed
		case errors.Is(err, datagram.ErrTooLong):
			m.tooLong.Add(1)
		case errors.Is(err, os.ErrDeadlineExceeded):
		default:
			return 0, time.Time{}, fmt.Errorf("%s: %w", m.name, err)
		}
	}
}

// Stats implements transport.Counted.
func (m *medium) Stats() transport.Stats {
	return transport.Stats{
		Sent:       m.sent.Load(),
		SendErrors: m.sendErrors.Load(),
		Received:   m.received.Load(),
		TooLong:    m.tooLong.Load(),
		Reopened:   m.reopened.Load(),
	}
}

// Banner implements transport.Announced.
func (m *medium) Banner() []string {
	peer := m.spec.Addr
	if m.peer != nil {
		peer = m.peer.String()
	}
	return m.spec.banner(peer)
}

// Close implements transport.Medium.
func (m *medium) Close() error {
	var err error
	m.closing.Do(func() {
		close(m.closed)
		m.in.leave(m)
		err = m.out.Close()
		if m.peer != nil {
			m.peer.Close()
		}
		m.set.release()
	})
	return err
}

func (m *medium) isClosed() bool {
	select {
	case <-m.closed:
		return true
	default:
		return false
	}
}
