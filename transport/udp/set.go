package udp

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// refreshPause is the least time between two looks at the interfaces: a
	// takeover of hundreds of addresses reports hundreds of changes.
	refreshPause = 100 * time.Millisecond
	// retryPause is the time to the next look while something could not be set
	// up.
	retryPause = time.Second
	// refreshInterval is the time between looks when nothing was reported:
	// reports can get lost.
	refreshInterval = time.Minute
	// resolveWait is how long Open waits for the peers' names.
	resolveWait = 2 * time.Second
)

// set is what one Open opened: it keeps all media in step with their
// interfaces.
type set struct {
	in func(func() error) error
	// asks is a socket for questions about interfaces, changes one on which
	// the kernel reports that something about them changed.
	asks, changes *os.File
	media         []*medium
	receivers     []*receiver
	// watched are the interfaces whose addresses the kernel reports; of refresh
	// alone.
	watched []int

	kick chan struct{} // of capacity 1: a look is due
	ctx  context.Context
	stop context.CancelFunc
	work sync.WaitGroup

	mu   sync.Mutex
	open int // media not yet closed
}

// newSet opens the set's own two sockets.
func newSet(in func(func() error) error) (*set, error) {
	s := &set{in: in, kick: make(chan struct{}, 1)}
	s.ctx, s.stop = context.WithCancel(context.Background())
	err := in(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open socket for interface questions: %w", err)
		}
		s.asks = os.NewFile(uintptr(fd), "interface questions")
		fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open netlink socket: %w", err)
		}
		s.changes = os.NewFile(uintptr(fd), "interface changes")
		if err := unix.Bind(fd, &unix.SockaddrNetlink{
			Family: unix.AF_NETLINK,
			Groups: unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR,
		}); err != nil {
			return fmt.Errorf("subscribe to interface changes: %w", err)
		}
		return nil
	})
	if err != nil {
		s.closeAll()
		return nil, err
	}
	return s, nil
}

// start sets the media up for the first time and begins to follow the
// interfaces. The goroutines end with the last medium's Close.
func (s *set) start() {
	s.open = len(s.media)
	ctx, cancel := context.WithTimeout(s.ctx, resolveWait)
	defer cancel()
	for _, m := range s.media {
		if m.peer != nil {
			m.peer.Wait(ctx)
		}
	}
	complete := s.refresh()
	s.work.Go(s.watch)
	s.work.Go(func() { s.follow(complete) })
}

// wake asks for a look at the interfaces soon.
func (s *set) wake() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// watch turns reports of the kernel into wake-ups. What they say is not believed:
// the look tells, and it also follows when reports were lost (ENOBUFS).
func (s *set) watch() {
	buf := make([]byte, 16384) // the kernel's datagrams are smaller
	var seen changes
	for {
		n, err := s.changes.Read(buf)
		if s.ctx.Err() != nil {
			return
		}
		if err != nil {
			seen.forget()
		}
		if err != nil || seen.news(buf[:n]) {
			s.wake()
		}
		if err != nil {
			select {
			case <-s.ctx.Done():
				return
			case <-time.After(refreshPause):
			}
		}
	}
}

// follow looks at the interfaces whenever there is a reason.
func (s *set) follow(complete bool) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if complete {
			timer.Reset(refreshInterval)
		} else {
			timer.Reset(retryPause)
		}
		select {
		case <-s.ctx.Done():
			return
		case <-s.kick:
		case <-timer.C:
		}
		complete = s.refresh()
		timer.Reset(refreshPause)
		select {
		case <-s.ctx.Done():
			return
		case <-timer.C:
		}
	}
}

// refresh makes everything fit the interfaces as they are; false when something
// must be tried again.
func (s *set) refresh() bool {
	complete := true
	looked := make(map[string]netif)
	look := func(name string) netif {
		i, ok := looked[name]
		if !ok {
			i = s.look(name)
			looked[name] = i
		}
		return i
	}
	_ = s.in(func() error {
		for _, r := range s.receivers {
			if r.isClosed() {
				continue
			}
			complete = r.follow(look(r.spec.Interface)) == nil && complete
			r.sort(s.ours)
		}
		for _, m := range s.media {
			if m.isClosed() {
				continue
			}
			complete = m.follow(look(m.spec.Interface)) == nil && complete
		}
		return nil
	})
	return s.attend(looked) && complete
}

// ours reports whether that is the number of one of the receivers' sockets.
func (s *set) ours(socket uint64) bool {
	return slices.ContainsFunc(s.receivers, func(r *receiver) bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return number(r.socket) == socket || r.waiting.socket != nil && number(r.waiting.socket) == socket || r.waiting.retired != nil && number(r.waiting.retired) == socket
	})
}

// attend has the kernel report changes of these interfaces' addresses and of no
// others'. What changed before it did so may have been missed: false asks for
// another look.
func (s *set) attend(looked map[string]netif) bool {
	var indexes []int
	for _, i := range looked {
		if i.index != 0 {
			indexes = append(indexes, i.index)
		}
	}
	slices.Sort(indexes)
	if s.watched != nil && slices.Equal(indexes, s.watched) {
		return true
	}
	s.watched = append([]int{}, indexes...)
	raw, err := s.changes.SyscallConn()
	if err == nil {
		// Where it fails more is heard than need be.
		_ = raw.Control(func(fd uintptr) { _ = attention(int(fd), indexes) })
	}
	return false
}

// release ends the set with its last medium.
func (s *set) release() {
	s.mu.Lock()
	s.open--
	last := s.open == 0
	s.mu.Unlock()
	if last {
		s.stop()
		s.changes.Close()
		s.work.Wait()
		s.asks.Close()
	}
}

// closeAll undoes an Open that failed half way.
func (s *set) closeAll() {
	s.stop()
	for _, m := range s.media {
		if m.out != nil {
			m.out.Close()
		}
		if m.peer != nil {
			m.peer.Close()
		}
	}
	for _, r := range s.receivers {
		r.socket.Close()
	}
	for _, file := range []*os.File{s.asks, s.changes} {
		if file != nil {
			file.Close()
		}
	}
}

// netif is an interface as it is now; index 0 when it does not exist.
type netif struct {
	index     int
	broadcast netip.Addr
	// own are its addresses, without zones, while it is up: the kernel delivers
	// to itself what is sent to them. They are looked up for unicast media only.
	own []netip.Addr
}

func (i netif) has(addr netip.Addr) bool { return slices.Contains(i.own, addr.WithZone("")) }

// look asks the kernel about an interface.
func (s *set) look(name string) netif {
	var i netif
	raw, err := s.asks.SyscallConn()
	if err != nil {
		return i
	}
	_ = raw.Control(func(fd uintptr) {
		request, err := unix.NewIfreq(name)
		if err != nil {
			return
		}
		if unix.IoctlIfreq(int(fd), unix.SIOCGIFINDEX, request) != nil {
			return
		}
		i.index = int(request.Uint32())
		i.broadcast = broadcastAddress(int(fd), name)
		toNodes := func(m *medium) bool { return m.peer != nil }
		if slices.ContainsFunc(s.media, toNodes) && unix.IoctlIfreq(int(fd), unix.SIOCGIFFLAGS, request) == nil && request.Uint16()&unix.IFF_UP != 0 {
			i.own = ownAddresses(i.index)
		}
	})
	return i
}

// ownAddresses are the addresses of an interface; none when they cannot be had:
// then everything is sent.
func ownAddresses(index int) (own []netip.Addr) {
	list, err := (&net.Interface{Index: index}).Addrs()
	if err != nil {
		return nil
	}
	for _, each := range list {
		if prefix, err := netip.ParsePrefix(each.String()); err == nil {
			own = append(own, prefix.Addr())
		}
	}
	return own
}

// broadcastAddress is the broadcast address of an interface. When none was set
// (iproute2 sets none unless told to) it follows from address and mask; where
// there is none, or no address at all, the limited broadcast address still
// reaches everybody on the wire.
func broadcastAddress(fd int, name string) netip.Addr {
	limited := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	ask := func(what uint) (addr [4]byte, ok bool) {
		request, err := unix.NewIfreq(name)
		if err != nil || unix.IoctlIfreq(fd, what, request) != nil {
			return addr, false
		}
		in, err := request.Inet4Addr()
		if err != nil {
			return addr, false
		}
		copy(addr[:], in)
		return addr, true
	}
	if broadcast, ok := ask(unix.SIOCGIFBRDADDR); ok && broadcast != [4]byte{} {
		return netip.AddrFrom4(broadcast)
	}
	addr, haveAddr := ask(unix.SIOCGIFADDR)
	mask, haveMask := ask(unix.SIOCGIFNETMASK)
	if !haveAddr || !haveMask || mask[3] >= 0xfe {
		return limited // no address, or a network of one or two (RFC 3021)
	}
	for k := range addr {
		addr[k] |= ^mask[k]
	}
	return netip.AddrFrom4(addr)
}
