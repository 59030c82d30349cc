// Package datagram is the socket below the UDP and ICMP media: one system call
// per packet, no allocation, arrival stamped by the kernel.
//
// A Socket is never blocked in a system call; a goroutine that waits in Receive
// is parked and holds no thread.
package datagram

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// receiveBufferBytes is large enough for a burst of garbage to pass
	// without pushing real packets out, even when the reader pauses.
	receiveBufferBytes = 2 << 20

	// priorityControl makes the queues of an interface (pfifo_fast, prio) send
	// keepalives before bulk traffic. TC_PRIO_INTERACTIVE: the highest that
	// needs no capability.
	priorityControl = 6

	// errorPause keeps a socket that fails at every call from spinning.
	errorPause = 100 * time.Millisecond
)

// ErrTooLong means that a packet was dropped since it did not fit the buffer.
var ErrTooLong = errors.New("packet longer than the buffer")

// Socket is a datagram socket. Send may be called by many goroutines at once;
// Receive too, but then one waits for the other.
type Socket struct {
	file   *os.File
	raw    syscall.RawConn
	closed atomic.Bool
	done   chan struct{}

	sendMu   sync.Mutex
	packet   []byte
	to       unix.Sockaddr
	sendErr  error
	sendOnce func(fd uintptr) bool

	receiveMu   sync.Mutex
	header      unix.Msghdr
	iovec       unix.Iovec
	control     [8]uint64 // aligned; one time stamp needs 32 bytes
	received    int
	receiveErr  syscall.Errno
	receiveOnce func(fd uintptr) bool
	// emptyAt is when the queue was last seen empty: what is received later
	// arrived later.
	emptyAt time.Time
	// taken is what Take has received and not yet returned, nil before its first
	// call.
	taken    *batch
	takeOnce func(fd uintptr) bool
}

// New opens a socket: family, type and protocol as for socket(2). The name is
// for error messages and file lists.
func New(name string, family, typ, protocol int) (*Socket, error) {
	fd, err := unix.Socket(family, typ|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, fmt.Errorf("open socket %s: %w", name, err)
	}
	return newSocket(name, fd)
}

// NewUnwatched opens a socket that stays out of the runtime's poller: neither a
// packet that comes nor one that the interface has taken wakes the process. It is for
// sending and for Take; Receive must not be called.
func NewUnwatched(name string, family, typ, protocol int) (*Socket, error) {
	fd, err := unix.Socket(family, typ|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, fmt.Errorf("open socket %s: %w", name, err)
	}
	return newSocket(name, fd)
}

// Adopt makes a Socket of one that an earlier run of the program opened, with
// all that waits in its queue. It takes a copy; the file stays the caller's.
func Adopt(name string, file *os.File) (*Socket, error) {
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("adopt socket %s: %w", name, err)
	}
	fd := -1
	if err := raw.Control(func(old uintptr) {
		fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
	}); err != nil {
		return nil, fmt.Errorf("adopt socket %s: %w", name, err)
	}
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		return nil, fmt.Errorf("adopt socket %s: %w", name, err)
	}
	return newSocket(name, fd)
}

func newSocket(name string, fd int) (*Socket, error) {
	file := os.NewFile(uintptr(fd), name)
	raw, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("open socket %s: %w", name, err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
		file.Close()
		return nil, fmt.Errorf("open socket %s: arrival stamps: %w", name, err)
	}
	// Both are improvements that a small container can refuse.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBufferBytes) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBufferBytes)
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PRIORITY, priorityControl)

	s := &Socket{file: file, raw: raw, done: make(chan struct{})}
	// The closures are made once: made per call, each would be an allocation.
	s.sendOnce = func(fd uintptr) bool {
		s.sendErr = s.sendto(fd)
		return true
	}
	s.receiveOnce = s.recvmsg
	return s, nil
}

// Control runs f on the descriptor and returns f's error.
func (s *Socket) Control(f func(fd int) error) error {
	var err error
	if ctlErr := s.raw.Control(func(fd uintptr) { err = f(int(fd)) }); ctlErr != nil {
		return net.ErrClosed
	}
	return err
}

// Send sends one packet, or returns the errno with which the kernel refused it.
// It never waits: EAGAIN means that the interface's queue is full.
func (s *Socket) Send(packet []byte, to unix.Sockaddr) error {
	s.sendMu.Lock()
	defer s.sendMu.Unlock()
	s.packet, s.to = packet, to
	err := s.raw.Write(s.sendOnce)
	s.packet, s.to = nil, nil
	if err != nil {
		return net.ErrClosed
	}
	return s.sendErr
}

// Receive waits for a packet and copies it to buf. The time carries a
// monotonic reading and is the kernel's stamp of the arrival, so a reader that
// was held up sees the true age. ErrTooLong: the packet was dropped;
// net.ErrClosed: Close was called; os.ErrDeadlineExceeded: Interrupt was.
func (s *Socket) Receive(buf []byte) (n int, at time.Time, err error) {
	s.receiveMu.Lock()
	defer s.receiveMu.Unlock()
	s.iovec.Base = unsafe.SliceData(buf)
	s.iovec.SetLen(len(buf))
	s.header.Iov = &s.iovec
	s.header.SetIovlen(1)
	err = s.raw.Read(s.receiveOnce)
	s.iovec.Base = nil
	switch {
	case s.closed.Load():
		return 0, time.Time{}, net.ErrClosed
	case err != nil:
		return 0, time.Time{}, err
	case s.receiveErr != 0:
		select {
		case <-s.done:
			return 0, time.Time{}, net.ErrClosed
		case <-time.After(errorPause):
			return 0, time.Time{}, fmt.Errorf("receive on %s: %w", s.file.Name(), s.receiveErr)
		}
	case s.header.Flags&unix.MSG_TRUNC != 0:
		return 0, time.Time{}, ErrTooLong
	}
	return s.received, s.arrival(&s.header, &s.control), nil
}

// recvmsg is one attempt; false means wait for the socket to become readable.
// The sender's address is not asked for: no medium looks at it, and only the
// digest tells who sent a packet.
func (s *Socket) recvmsg(fd uintptr) bool {
	s.header.Control = (*byte)(unsafe.Pointer(&s.control))
	s.header.SetControllen(int(unsafe.Sizeof(s.control)))
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_RECVMSG, fd, uintptr(unsafe.Pointer(&s.header)), unix.MSG_DONTWAIT)
		switch errno {
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			s.emptyAt = time.Now()
			return false
		}
		s.received, s.receiveErr = int(n), errno
		return true
	}
}

// arrival turns the kernel's stamp, which is wall time, into a time with a
// monotonic reading. A wall clock that was stepped between arrival and now
// would falsify it, so the result stays between the moment at which the queue
// was last seen empty and now.
func (s *Socket) arrival(header *unix.Msghdr, control *[8]uint64) time.Time {
	now := time.Now()
	if header.Controllen < unix.SizeofCmsghdr {
		return now
	}
	head := (*unix.Cmsghdr)(unsafe.Pointer(control))
	if head.Level != unix.SOL_SOCKET || head.Type != unix.SCM_TIMESTAMPNS {
		return now
	}
	stamp := (*unix.Timespec)(unsafe.Pointer(uintptr(unsafe.Pointer(control)) + uintptr(unix.CmsgLen(0))))
	return clampArrival(now, time.Duration(now.UnixNano()-stamp.Nano()), s.emptyAt)
}

func clampArrival(now time.Time, age time.Duration, emptyAt time.Time) time.Time {
	at := now.Add(-max(age, 0))
	if at.Before(emptyAt) {
		return emptyAt
	}
	return at
}

// Interrupt makes Receive return os.ErrDeadlineExceeded, now and until Resume.
func (s *Socket) Interrupt() { _ = s.file.SetReadDeadline(time.Unix(1, 0)) }

// Resume ends what Interrupt began. No Receive may be waiting.
func (s *Socket) Resume() { _ = s.file.SetReadDeadline(time.Time{}) }

// File is a copy of the socket for a successor of this program.
func (s *Socket) File() (*os.File, error) {
	var fd int
	if err := s.Control(func(old int) (err error) {
		fd, err = unix.FcntlInt(uintptr(old), unix.F_DUPFD_CLOEXEC, 0)
		return err
	}); err != nil {
		return nil, fmt.Errorf("copy socket %s: %w", s.file.Name(), err)
	}
	return os.NewFile(uintptr(fd), s.file.Name()), nil
}

// Close frees a blocked Receive at once.
func (s *Socket) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	close(s.done)
	return s.file.Close()
}

// sendto is one attempt to send. It and recvmsg are raw system calls: they never
// block, and telling the runtime of each would wake its monitor thread, which
// costs an idle node more than all its packets do.
func (s *Socket) sendto(fd uintptr) error {
	var (
		four   unix.RawSockaddrInet4
		six    unix.RawSockaddrInet6
		name   unsafe.Pointer
		length uintptr
	)
	switch to := s.to.(type) {
	case *unix.SockaddrInet4:
		four = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: bigEndian(to.Port), Addr: to.Addr}
		name, length = unsafe.Pointer(&four), unix.SizeofSockaddrInet4
	case *unix.SockaddrInet6:
		six = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: bigEndian(to.Port), Addr: to.Addr, Scope_id: to.ZoneId}
		name, length = unsafe.Pointer(&six), unix.SizeofSockaddrInet6
	default:
		return unix.EAFNOSUPPORT
	}
	_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(unsafe.SliceData(s.packet))), uintptr(len(s.packet)),
		unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, uintptr(name), length)
	if errno != 0 {
		return errno
	}
	return nil
}

// bigEndian is a port as the kernel wants it.
func bigEndian(port int) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], uint16(port))
	return binary.NativeEndian.Uint16(b[:])
}
