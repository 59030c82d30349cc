// Package ping has heartbeat's pseudo nodes: hosts that run no heartbeat but
// answer an ICMP echo. What Send gets becomes the echo's payload, and the
// payload of an answer is what Receive returns; that it is the message which the
// "node" would send, and that its signature is ours, is the caller's business.
//
// Other programs of the host ping too: an answer counts only with the medium's
// own identifier, and the kernel drops the others before they cost anything.
package ping

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"heartbeat/transport"
	"heartbeat/transport/datagram"
)

// Spec is one ping node as ha.cf names it.
type Spec struct {
	// Kind is "ping", "ping6" or "ping_group". Groups are of IPv4 hosts.
	Kind string
	// Name is the node's name, and that of its link.
	Name string
	// Hosts are addresses or names: one, or the members of a group.
	Hosts []string
}

const (
	// headersBytesMax is what stands before the payload in what a raw socket
	// returns: the IPv4 header with options, and the echo's own header.
	headersBytesMax = 60 + echoHeaderBytes
	echoHeaderBytes = 8

	// resolveWait is how long Open waits for the hosts' names.
	resolveWait = 2 * time.Second
)

// medium is one ping node.
type medium struct {
	spec     Spec
	protocol int // 1 (ICMP) or 58 (ICMPv6)
	request  icmp.Type
	reply    icmp.Type
	socket   *datagram.Socket
	id       uint16
	seq      atomic.Uint32
	hosts    []*host
	closed   atomic.Bool
	closing  sync.Once

	// in has room for headers that the reader's buffer has not.
	receiveMu sync.Mutex
	in        []byte

	sent, sendErrors, received, tooLong atomic.Uint64
}

// host is one host to ping. The socket address is remembered with the address
// it was made from.
type host struct {
	peer *datagram.Peer
	mu   sync.Mutex
	addr netip.Addr
	to   unix.Sockaddr
}

// Inherited is the socket of an earlier run of the program, and the identifier
// of its echoes. The file is the caller's to close.
type Inherited struct {
	File *os.File
	ID   uint16
}

// HandOver returns a copy of a medium's socket for a successor of this program
// that passes it to Continue; false when the medium is not of this package. The
// file is close-on-exec and the caller's to close.
func HandOver(from transport.Medium) (in Inherited, ok bool, err error) {
	m, ok := from.(*medium)
	if !ok {
		return in, false, nil
	}
	file, err := m.socket.File()
	return Inherited{file, m.id}, err == nil, err
}

// Open opens a ping node's medium. A name that does not resolve is no error
// here: Send says so until it does. Errors are wrong specs, and a system that
// refuses raw sockets.
func Open(spec Spec) (transport.Medium, error) { return Continue(spec, Inherited{}) }

// Continue is Open with the socket of an earlier run, and the answers that wait
// in it. What is no such socket is not used.
func Continue(spec Spec, in Inherited) (transport.Medium, error) {
	m := &medium{spec: spec, protocol: unix.IPPROTO_ICMP, request: ipv4.ICMPTypeEcho, reply: ipv4.ICMPTypeEchoReply}
	family, network := unix.AF_INET, "ip4"
	switch spec.Kind {
	case "ping", "ping_group":
	case "ping6":
		m.protocol, m.request, m.reply = unix.IPPROTO_ICMPV6, ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply
		family, network = unix.AF_INET6, "ip6"
	default:
		return nil, fmt.Errorf("no such ping medium: %q", spec.Kind)
	}
	if spec.Name == "" {
		return nil, fmt.Errorf("%s: no name given", spec.Kind)
	}
	if len(spec.Hosts) == 0 || len(spec.Hosts) > 1 && spec.Kind != "ping_group" {
		return nil, fmt.Errorf("%s: %d hosts given", m.Name(), len(spec.Hosts))
	}
	for _, host := range spec.Hosts {
		if addr, err := netip.ParseAddr(host); err == nil && addr.Is4() != (family == unix.AF_INET) {
			return nil, fmt.Errorf("%s: address %s is of the wrong family", m.Name(), host)
		}
	}
	if err := m.open(family, in); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), resolveWait)
	defer cancel()
	for _, name := range spec.Hosts {
		m.hosts = append(m.hosts, &host{peer: datagram.NewPeer(name, network, func() {})})
	}
	for _, h := range m.hosts {
		h.peer.Wait(ctx)
	}
	return m, nil
}

// open opens the socket, or continues the inherited one.
func (m *medium) open(family int, in Inherited) (err error) {
	if in.File != nil {
		if m.socket, err = datagram.Adopt(m.Name(), in.File); err == nil {
			if m.socket.Control(m.isOurs) == nil {
				m.id = in.ID
				idOnce.Do(func() { nextID.Store(uint32(in.ID)) })
				return nil
			}
			m.socket.Close()
		}
	}
	m.id = newID()
	if m.socket, err = datagram.New(m.Name(), family, unix.SOCK_RAW, m.protocol); err != nil {
		return err
	}
	if err := m.socket.Control(m.setFilter); err != nil {
		m.socket.Close()
		return fmt.Errorf("set up %s: %w", m.Name(), err)
	}
	return nil
}

// isOurs checks that a socket is one of this kind of medium.
func (m *medium) isOurs(fd int) error {
	protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err == nil && protocol != m.protocol {
		err = errors.New("of another protocol")
	}
	return err
}

var (
	idOnce sync.Once
	nextID atomic.Uint32
)

// newID is an identifier that differs from those of this program's other media
// and likely from those of other programs.
func newID() uint16 {
	idOnce.Do(func() {
		var b [2]byte
		_, _ = rand.Read(b[:])
		nextID.Store(uint32(binary.BigEndian.Uint16(b[:])))
	})
	return uint16(nextID.Add(1))
}

// setFilter lets only echo replies with the own identifier through. A raw IPv4
// socket sees the IP header, an IPv6 one does not.
func (m *medium) setFilter(fd int) error {
	program := []bpf.Instruction{bpf.LoadConstant{Dst: bpf.RegX, Val: 0}}
	replyType := uint32(129)
	if m.protocol == unix.IPPROTO_ICMP {
		program[0] = bpf.LoadMemShift{Off: 0}
		replyType = 0
	}
	program = append(program,
		bpf.LoadIndirect{Off: 0, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: replyType, SkipTrue: 3},
		bpf.LoadIndirect{Off: 4, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(m.id), SkipTrue: 1},
		bpf.RetConstant{Val: 1 << 18}, // longer than any packet: all of it
		bpf.RetConstant{Val: 0},
	)
	raw, err := bpf.Assemble(program)
	if err != nil {
		return fmt.Errorf("assemble filter: %w", err)
	}
	filter := make([]unix.SockFilter, len(raw))
	for k, ins := range raw {
		filter[k] = unix.SockFilter{Code: ins.Op, Jt: ins.Jt, Jf: ins.Jf, K: ins.K}
	}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{
		Len: uint16(len(filter)), Filter: &filter[0],
	}); err != nil {
		return fmt.Errorf("attach filter: %w", err)
	}
	return nil
}

func (m *medium) Kind() string             { return m.spec.Kind }
func (m *medium) Link() string             { return m.spec.Name }
func (m *medium) Name() string             { return m.spec.Kind + " " + m.spec.Name }
func (m *medium) Format() transport.Format { return transport.FormatNetstring }

// Send implements transport.Medium: one echo to each host. It fails only when
// no host could be sent to.
func (m *medium) Send(packet []byte) error {
	if m.closed.Load() {
		return net.ErrClosed
	}
	// The kernel fills in the checksum of ICMPv6.
	echo, err := (&icmp.Message{Type: m.request, Body: &icmp.Echo{
		ID: int(m.id), Seq: int(uint16(m.seq.Add(1))), Data: packet,
	}}).Marshal(nil)
	if err != nil {
		return fmt.Errorf("%s: %w", m.Name(), err)
	}
	var failed error
	sent := false
	for _, h := range m.hosts {
		switch err := h.send(m.socket, echo); {
		case err == nil:
			sent = true
		case errors.Is(err, net.ErrClosed):
			return net.ErrClosed
		default:
			failed = errors.Join(failed, fmt.Errorf("%s: %w", m.Name(), err))
		}
	}
	if sent {
		m.sent.Add(1)
		return nil
	}
	m.sendErrors.Add(1)
	return failed
}

func (h *host) send(socket *datagram.Socket, echo []byte) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	addr, ok := h.peer.Addr()
	if !ok {
		return fmt.Errorf("name %s is not resolved yet", h.peer.Host())
	}
	if h.to == nil || h.addr != addr {
		to, err := sockaddr(addr)
		if err != nil {
			return err
		}
		h.addr, h.to = addr, to
	}
	if err := socket.Send(echo, h.to); err != nil {
		h.peer.Retry()
		h.to = nil // an interface can come back with another index
		return fmt.Errorf("send %d bytes to %s: %w", len(echo), addr, err)
	}
	return nil
}

func sockaddr(addr netip.Addr) (unix.Sockaddr, error) {
	if addr.Is4() {
		return &unix.SockaddrInet4{Addr: addr.As4()}, nil
	}
	to := &unix.SockaddrInet6{Addr: addr.As16()}
	if zone := addr.Zone(); zone != "" {
		i, err := net.InterfaceByName(zone)
		if err != nil {
			return nil, fmt.Errorf("interface of %s: %w", addr, err)
		}
		to.ZoneId = uint32(i.Index)
	}
	return to, nil
}

// Receive implements transport.Medium.
func (m *medium) Receive(buf []byte) (int, time.Time, error) {
	m.receiveMu.Lock()
	defer m.receiveMu.Unlock()
	if room := len(buf) + headersBytesMax; len(m.in) < room {
		m.in = make([]byte, room)
	}
	for {
		n, at, err := m.socket.Receive(m.in)
		switch {
		case errors.Is(err, net.ErrClosed):
			return 0, time.Time{}, net.ErrClosed
		case errors.Is(err, datagram.ErrTooLong):
			m.tooLong.Add(1)
			continue
		case err != nil:
			return 0, time.Time{}, fmt.Errorf("%s: %w", m.Name(), err)
		}
		data, ok := m.payload(m.in[:n])
		switch {
		case !ok:
		case len(data) > len(buf):
			m.tooLong.Add(1)
		default:
			m.received.Add(1)
			return copy(buf, data), at, nil
		}
	}
}

// payload is what an echo reply with the own identifier gives back. It judges
// again what the filter judged: a packet can arrive before the filter is there.
func (m *medium) payload(packet []byte) ([]byte, bool) {
	if m.protocol == unix.IPPROTO_ICMP {
		if len(packet) == 0 {
			return nil, false
		}
		header := int(packet[0]&0x0f) * 4
		if len(packet) < header {
			return nil, false
		}
		packet = packet[header:]
	}
	message, err := icmp.ParseMessage(m.protocol, packet)
	if err != nil || message.Type != m.reply {
		return nil, false
	}
	echo, ok := message.Body.(*icmp.Echo)
	if !ok || echo.ID != int(m.id) {
		return nil, false
	}
	return echo.Data, true
}

// Stats implements transport.Counted.
func (m *medium) Stats() transport.Stats {
	return transport.Stats{
		Sent:       m.sent.Load(),
		SendErrors: m.sendErrors.Load(),
		Received:   m.received.Load(),
		TooLong:    m.tooLong.Load(),
	}
}

// Banner implements transport.Announced.
func (m *medium) Banner() []string {
	return []string{"glib: " + strings.ReplaceAll(strings.TrimSuffix(m.spec.Kind, "6"), "_", " ") + " heartbeat started."}
}

// Close implements transport.Medium.
func (m *medium) Close() error {
	var err error
	m.closing.Do(func() {
		m.closed.Store(true)
		err = m.socket.Close()
		for _, h := range m.hosts {
			h.peer.Close()
		}
	})
	return err
}
