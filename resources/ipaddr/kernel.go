package ipaddr

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"unsafe"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// kernel is a netlink socket for many requests at once. The library sends them one
// by one, and most of the time of adding an address is not the kernel's.
type kernel struct {
	mu  sync.Mutex
	fd  int
	seq uint32
	in  []byte
	out []byte
}

const (
	// replyBytesMax is more than an answer has: the refused request comes back in it.
	replyBytesMax = 8 << 10
	// replyBufferBytes hold the answers to all requests of one batch.
	replyBufferBytes = 1 << 20
)

// request is one question or order and, after ask, what became of it.
type request struct {
	typ, flags uint16
	order      bool // is carried out, not answered with a message
	body       []byte
	answered   bool
	err        error  // the kernel's error number
	reply      []byte // body of the message that it answered with
}

// openKernel connects in the network namespace of the calling thread.
func openKernel() (*kernel, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	patience := unix.NsecToTimeval(kernelPatience.Nanoseconds())
	err = errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &patience),
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
	)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("prepare netlink: %w", err)
	}
	// Without the right to more, what every socket has must do.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, replyBufferBytes)
	return &kernel{fd: fd, in: make([]byte, replyBytesMax)}, nil
}

func (k *kernel) close() { unix.Close(k.fd) }

// ask sends all requests in one message and waits for the answer to the last. The
// kernel handles them in order, each whether or not those before it succeeded. It
// answers every question and every order that failed; of the orders only the last is
// acknowledged, and then silence about another one means that it was carried out.
// (Had there been no room for an answer, reading would have failed with ENOBUFS.)
func (k *kernel) ask(reqs []request) {
	if len(reqs) == 0 {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	first := k.seq + 1
	k.seq += uint32(len(reqs))
	k.out = k.out[:0]
	for i := range reqs {
		r := &reqs[i]
		if r.order && i == len(reqs)-1 {
			r.flags |= unix.NLM_F_ACK
		}
		k.out = r.append(k.out, first+uint32(i))
	}
	err := k.exchange(reqs, first)
	for i := range reqs {
		switch r := &reqs[i]; {
		case r.answered, err == nil && r.order:
		case err == nil:
			r.err = errors.New("no answer from the kernel")
		default:
			r.err = fmt.Errorf("no answer from the kernel: %w", err)
		}
	}
}

// append adds the message, whose length is a multiple of four, as the kernel wants.
func (r *request) append(b []byte, seq uint32) []byte {
	e := binary.NativeEndian
	b = e.AppendUint32(b, uint32(unix.SizeofNlMsghdr+len(r.body)))
	b = e.AppendUint16(b, r.typ)
	b = e.AppendUint16(b, r.flags|unix.NLM_F_REQUEST)
	b = e.AppendUint32(b, seq)
	b = e.AppendUint32(b, 0)
	return append(b, r.body...)
}

func (k *kernel) exchange(reqs []request, first uint32) error {
	for {
		err := unix.Sendto(k.fd, k.out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if err == nil {
			break
		}
		if err != unix.EINTR {
			return err
		}
	}
	for last := &reqs[len(reqs)-1]; !last.answered; {
		n, sender, err := k.receive()
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		if sender != nl.PidKernel {
			continue
		}
		for in := k.in[:n]; len(in) >= unix.SizeofNlMsghdr; {
			e := binary.NativeEndian
			size, seq := int(e.Uint32(in)), e.Uint32(in[8:])
			if size < unix.SizeofNlMsghdr || size > len(in) {
				return fmt.Errorf("message of %d bytes in %d", size, len(in))
			}
			// Anything else is a late answer to a batch that was given up.
			if i := seq - first; i < uint32(len(reqs)) && !reqs[i].answered {
				reqs[i].take(e.Uint16(in[4:]), in[unix.SizeofNlMsghdr:size])
			}
			in = in[min((size+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1), len(in)):]
		}
	}
	return nil
}

// receive reads the next message, and who sent it. The kernel answers before it
// returns from the request, so there is hardly ever anything to wait for; and of a
// call that cannot wait the runtime need not know, which costs an idle process more
// than the call.
func (k *kernel) receive() (n int, sender uint32, err error) {
	from := unix.RawSockaddrNetlink{}
	size := uint32(unix.SizeofSockaddrNetlink)
	got, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(k.fd), uintptr(unsafe.Pointer(unsafe.SliceData(k.in))), uintptr(len(k.in)),
		unix.MSG_DONTWAIT, uintptr(unsafe.Pointer(&from)), uintptr(unsafe.Pointer(&size)))
	switch {
	case errno == 0:
		return int(got), from.Pid, nil
	case errno != unix.EAGAIN:
		return 0, 0, errno
	}
	n, other, err := unix.Recvfrom(k.fd, k.in, 0)
	if a, ok := other.(*unix.SockaddrNetlink); ok {
		sender = a.Pid
	} else if err == nil {
		err = fmt.Errorf("message from %T", other)
	}
	return n, sender, err
}

// take notes an answer: an error number, 0 in an acknowledgement, or a message.
func (r *request) take(typ uint16, body []byte) {
	r.answered = true
	if typ != unix.NLMSG_ERROR {
		r.reply = append([]byte(nil), body...)
		return
	}
	if len(body) < 4 {
		r.err = fmt.Errorf("error message of %d bytes", len(body))
	} else if number := int32(binary.NativeEndian.Uint32(body)); number != 0 {
		r.err = unix.Errno(-number)
	}
}

// attr adds an attribute.
func (r *request) attr(typ uint16, value []byte) {
	e := binary.NativeEndian
	r.body = e.AppendUint16(r.body, uint16(unix.SizeofRtAttr+len(value)))
	r.body = e.AppendUint16(r.body, typ)
	r.body = append(r.body, value...)
	for len(r.body)%unix.RTA_ALIGNTO != 0 {
		r.body = append(r.body, 0)
	}
}

func family(addr netip.Addr) int {
	if addr.Is6() {
		return netlink.FAMILY_V6
	}
	return netlink.FAMILY_V4
}

// addrRequest is about an address with its prefix on an interface.
func addrRequest(typ, flags uint16, p netip.Prefix, scope uint8, index int) request {
	r := request{typ: typ, flags: flags, order: true}
	addr := p.Addr().AsSlice()
	r.body = make([]byte, 0, 96)
	r.body = append(r.body, byte(family(p.Addr())), byte(p.Bits()), 0, scope)
	r.body = binary.NativeEndian.AppendUint32(r.body, uint32(index))
	r.attr(unix.IFA_LOCAL, addr)
	r.attr(unix.IFA_ADDRESS, addr)
	return r
}

// addRequest adds the address to its link; flags say what if it is there.
func (a *address) addRequest(p place, flags uint16) request {
	r := addrRequest(unix.RTM_NEWADDR, flags, p.prefix, unix.RT_SCOPE_UNIVERSE, p.link.index)
	if a.spec.addr.Is6() {
		if !a.net.o.DAD {
			r.attr(unix.IFA_FLAGS, binary.NativeEndian.AppendUint32(nil, unix.IFA_F_NODAD))
		}
		return r
	}
	if broadcast := a.broadcast(p.prefix); broadcast.IsValid() {
		r.attr(unix.IFA_BROADCAST, broadcast.AsSlice())
	}
	if a.spec.label != "" {
		r.attr(unix.IFA_LABEL, append([]byte(a.spec.label), 0))
	}
	return r
}

// broadcast is the one given or, where a subnet is large enough to have one (RFC
// 3021), the last address of it.
func (a *address) broadcast(p netip.Prefix) netip.Addr {
	if a.spec.broadcast.IsValid() || p.Bits() > 30 {
		return a.spec.broadcast
	}
	last := p.Addr().As4()
	binary.BigEndian.PutUint32(last[:], binary.BigEndian.Uint32(last[:])|(1<<(32-p.Bits())-1))
	return netip.AddrFrom4(last)
}

// removeRequest removes exactly this address with this prefix. Label and broadcast
// are left out: they would have to match.
func removeRequest(p place) request {
	return addrRequest(unix.RTM_DELADDR, 0, p.prefix, unix.RT_SCOPE_UNIVERSE, p.link.index)
}

// loRequest adds or removes the copy of an address on lo.
func loRequest(typ, flags uint16, addr netip.Addr, lo iface) request {
	return addrRequest(typ, flags, netip.PrefixFrom(addr, 32), unix.RT_SCOPE_HOST, lo.index)
}

// lookRequest asks whether the machine answers for an address. One of IPv6 is asked
// for itself, on one interface or (index 0) on any: the route would not do, an
// address just added gets its own some microseconds later. One of IPv4 cannot be;
// its route is.
func lookRequest(addr netip.Addr, index int) request {
	if addr.Is6() {
		r := request{typ: unix.RTM_GETADDR, body: []byte{netlink.FAMILY_V6, 128, 0, 0}}
		r.body = binary.NativeEndian.AppendUint32(r.body, uint32(index))
		r.attr(unix.IFA_ADDRESS, addr.AsSlice())
		return r
	}
	r := request{typ: unix.RTM_GETROUTE, body: make([]byte, unix.SizeofRtMsg, 48)}
	r.body[0], r.body[1] = netlink.FAMILY_V4, 32
	binary.NativeEndian.PutUint32(r.body[8:], unix.RTM_F_FIB_MATCH)
	r.attr(unix.RTA_DST, addr.AsSlice())
	return r
}

// found is an address as the kernel has it; index 0: it has not.
type found struct {
	index int
	flags uint32 // of an IPv6 address
}

// found reads the answer to lookRequest.
func (r *request) found(addr netip.Addr) (f found, err error) {
	if addr.Is6() {
		f, err = r.foundAddr()
	} else {
		f, err = r.foundRoute()
	}
	if err != nil {
		return found{}, fmt.Errorf("look for %v: %w", addr, err)
	}
	return f, nil
}

func (r *request) foundAddr() (found, error) {
	switch {
	// ENODEV: the interface went away meanwhile.
	case errors.Is(r.err, unix.EADDRNOTAVAIL), errors.Is(r.err, unix.ENODEV):
		return found{}, nil
	case r.err != nil:
		return found{}, r.err
	case len(r.reply) < unix.SizeofIfAddrmsg:
		return found{}, fmt.Errorf("answer of %d bytes from the kernel", len(r.reply))
	}
	f := found{index: int(binary.NativeEndian.Uint32(r.reply[4:])), flags: uint32(r.reply[2])}
	attrs, err := nl.ParseRouteAttr(r.reply[unix.SizeofIfAddrmsg:])
	for _, attr := range attrs {
		if attr.Attr.Type == unix.IFA_FLAGS && len(attr.Value) >= 4 {
			f.flags = binary.NativeEndian.Uint32(attr.Value)
		}
	}
	return f, err
}

func (r *request) foundRoute() (found, error) {
	switch {
	case errors.Is(r.err, unix.ENETUNREACH), errors.Is(r.err, unix.EHOSTUNREACH),
		// routes of type prohibit and blackhole
		errors.Is(r.err, unix.EACCES), errors.Is(r.err, unix.EINVAL):
		return found{}, nil
	case r.err != nil:
		return found{}, r.err
	case len(r.reply) < unix.SizeofRtMsg:
		return found{}, fmt.Errorf("answer of %d bytes from the kernel", len(r.reply))
	}
	if r.reply[7] != unix.RTN_LOCAL {
		return found{}, nil
	}
	attrs, err := nl.ParseRouteAttr(r.reply[unix.SizeofRtMsg:])
	for _, attr := range attrs {
		if attr.Attr.Type == unix.RTA_OIF && len(attr.Value) >= 4 {
			return found{index: int(binary.NativeEndian.Uint32(attr.Value))}, err
		}
	}
	return found{}, errors.Join(errors.New("local route without an interface"), err)
}
