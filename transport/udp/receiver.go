package udp

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"heartbeat/transport"
	"heartbeat/transport/datagram"
)

// Inherited are receiving sockets of an earlier run of the program, by the names
// that Files gave them.
type Inherited map[string]*os.File

func (i Inherited) close() {
	for _, file := range i {
		file.Close()
	}
}

// Files returns copies of the receiving sockets of those of the media that are
// Open's, for a successor of this program that passes them to its Open. Names
// hold no colon. The files are close-on-exec and the caller's to close.
func Files(media []transport.Medium) (names []string, files []*os.File, err error) {
	seen := make(map[*receiver]bool)
	for _, each := range media {
		m, ok := each.(*medium)
		if !ok || seen[m.in] {
			continue
		}
		seen[m.in] = true
		file, err := m.in.socket.File()
		if err != nil {
			for _, file := range files {
				file.Close()
			}
			return nil, nil, err
		}
		names = append(names, m.in.name)
		files = append(files, file)
	}
	return names, files, nil
}

// receiver is a receiving socket and the media that share it.
type receiver struct {
	name   string
	spec   Spec // of the first medium: interface, port, family, group
	bind   netip.Addr
	socket *datagram.Socket
	// index is the interface that the socket is bound to; bound is whether it
	// has its address yet. Both belong to the set's refresh.
	index int
	bound bool

	mu    sync.Mutex
	media []*medium // open ones; the first is the reader
	// reading counts the calls of the socket's Receive that are under way.
	reading int
	waiting waiting
}

// bindAddress is what the receiving socket is bound to: the group of a
// multicast medium, or the wildcard address.
func bindAddress(spec Spec) netip.Addr {
	switch {
	case spec.multicast():
		return netip.MustParseAddr(spec.Addr)
	case spec.family() == unix.AF_INET6:
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

// receiverName names a receiving socket across runs of the program.
func receiverName(spec Spec, bind netip.Addr) string {
	return "udp " + spec.Interface + " " + strings.ReplaceAll(bind.String(), ":", "_") + " " + strconv.Itoa(spec.Port)
}

// newReceiver continues the inherited socket, or opens one when there is none
// or it is not what its name says.
func newReceiver(name string, spec Spec, bind netip.Addr, inherited *os.File) (*receiver, error) {
	r := &receiver{name: name, spec: spec, bind: bind}
	if inherited != nil {
		if socket, err := datagram.Adopt(name, inherited); err == nil {
			if socket.Control(r.isOurs) == nil {
				r.socket, r.bound = socket, true
				_ = socket.Control(r.adopt)
			} else {
				socket.Close()
			}
		}
	}
	if r.socket == nil {
		socket, err := datagram.New(name, spec.family(), unix.SOCK_DGRAM, 0)
		if err != nil {
			return nil, err
		}
		r.socket = socket
	}
	if err := r.socket.Control(func(fd int) error { return r.setOptions(fd, r.bound) }); err != nil {
		r.socket.Close()
		return nil, fmt.Errorf("set up %s for receiving: %w", name, err)
	}
	return r, nil
}

// isOurs checks that a socket is bound as the receiver wants it.
func (r *receiver) isOurs(fd int) error {
	typ, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return err
	}
	local, err := unix.Getsockname(fd)
	if err != nil {
		return err
	}
	var at netip.AddrPort
	switch local := local.(type) {
	case *unix.SockaddrInet4:
		at = netip.AddrPortFrom(netip.AddrFrom4(local.Addr), uint16(local.Port))
	case *unix.SockaddrInet6:
		at = netip.AddrPortFrom(netip.AddrFrom16(local.Addr), uint16(local.Port))
	}
	if typ != unix.SOCK_DGRAM || at != netip.AddrPortFrom(r.bind.WithZone(""), uint16(r.spec.Port)) {
		return errors.New("bound otherwise")
	}
	return nil
}

// adopt takes up an inherited socket: it learns the interface that it is bound to
// (binding it again would take it out of the group of those that share its port),
// and takes away by what the former program sorted packets.
func (r *receiver) adopt(fd int) error {
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_REUSEPORT_BPF, 0)
	index, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX)
	if err == nil {
		r.index = index
	}
	return err
}

// setOptions makes the port shareable: by the group of a multicast medium and
// the wildcard address of another on the same interface, and with an original
// heartbeat that is being replaced.
func (r *receiver) setOptions(fd int, bound bool) error {
	err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if !r.spec.multicast() {
		err = errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
	}
	if r.spec.family() == unix.AF_INET6 {
		// Once bound it cannot be changed, and an inherited socket has it.
		if !bound {
			err = errors.Join(err, unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1))
		}
		return errors.Join(err, unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_ALL, 0))
	}
	// Without this the socket would hear groups that other programs joined.
	return errors.Join(err, unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_ALL, 0))
}

// follow binds the socket to the interface as it is now. It runs on the set's
// goroutine only.
func (r *receiver) follow(i netif) error {
	if i.index == 0 {
		return fmt.Errorf("%s: interface %s does not exist", r.name, r.spec.Interface)
	}
	if r.bound && r.index == i.index {
		return nil
	}
	r.mu.Lock()
	r.stopSorting() // until there is a second socket of this interface
	r.mu.Unlock()
	return r.socket.Control(func(fd int) error {
		if err := unix.BindToDevice(fd, r.spec.Interface); err != nil {
			return fmt.Errorf("%s: bind to device: %w", r.name, err)
		}
		if !r.bound {
			if err := unix.Bind(fd, r.address(i.index)); err != nil {
				return fmt.Errorf("%s: bind: %w", r.name, err)
			}
			r.bound = true
		}
		if r.spec.multicast() {
			if err := r.joinGroup(fd, r.index, i.index); err != nil {
				return fmt.Errorf("%s: join group: %w", r.name, err)
			}
		}
		r.index = i.index
		return nil
	})
}

func (r *receiver) address(index int) unix.Sockaddr {
	if r.bind.Is4() {
		return &unix.SockaddrInet4{Port: r.spec.Port, Addr: r.bind.As4()}
	}
	address := &unix.SockaddrInet6{Port: r.spec.Port, Addr: r.bind.As16()}
	if r.bind.IsLinkLocalMulticast() {
		address.ZoneId = uint32(index)
	}
	return address
}

// joinGroup joins the group on the interface, and leaves it on the one that
// had the name before: memberships of a socket are few, and a vanished
// interface does not give them back.
func (r *receiver) joinGroup(fd, old, index int) error {
	var err error
	if r.bind.Is4() {
		request := &unix.IPMreqn{Multiaddr: r.bind.As4()}
		if old != 0 {
			request.Ifindex = int32(old)
			_ = unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_DROP_MEMBERSHIP, request)
		}
		request.Ifindex = int32(index)
		err = unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, request)
	} else {
		request := &unix.IPv6Mreq{Multiaddr: r.bind.As16()}
		if old != 0 {
			request.Interface = uint32(old)
			_ = unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_LEAVE_GROUP, request)
		}
		request.Interface = uint32(index)
		err = unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, request)
	}
	if errors.Is(err, unix.EADDRINUSE) {
		return nil // an inherited socket that is a member already
	}
	return err
}

// join enters a medium; the first one becomes the reader.
func (r *receiver) join(m *medium) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.media = append(r.media, m)
	if len(r.media) == 1 {
		close(m.turn)
	}
}

// enter is called before a read; false means that the medium was closed.
func (r *receiver) enter(m *medium) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m.isClosed() {
		return false
	}
	r.reading++
	return true
}

// exit is called after a read. It hands the socket on when the medium was
// closed meanwhile, and returns false.
func (r *receiver) exit(m *medium) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reading--
	if !m.isClosed() {
		return true
	}
	if r.reading == 0 {
		r.handOver()
	}
	return false
}

// leave removes a closed medium. The last one closes the socket; a reader that
// waits in it is woken, and only then the next one reads.
func (r *receiver) leave(m *medium) {
	r.mu.Lock()
	defer r.mu.Unlock()
	wasReader := r.media[0] == m
	for i := range r.media {
		if r.media[i] == m {
			r.media = append(r.media[:i:i], r.media[i+1:]...)
			break
		}
	}
	switch {
	case len(r.media) == 0:
		if w := &r.waiting; w.socket != nil {
			w.socket.Close()
			w.socket, w.sorting = nil, false
		}
		r.socket.Close()
	case !wasReader:
	case r.reading > 0:
		r.socket.Interrupt()
	default:
		r.handOver()
	}
}

func (r *receiver) handOver() {
	if len(r.media) == 0 {
		return
	}
	r.socket.Resume()
	select {
	case <-r.media[0].turn:
	default:
		close(r.media[0].turn)
	}
}

func (r *receiver) isClosed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.media) == 0
}
