package datagram

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// TakeBytesMax is the longest packet that Take returns.
	TakeBytesMax = 2048
	// takeAtOnce packets are received with one system call.
	takeAtOnce = 4
)

// batch is the room for the packets of one system call.
type batch struct {
	headers  [takeAtOnce]mmsghdr
	iovecs   [takeAtOnce]unix.Iovec
	control  [takeAtOnce][8]uint64
	packets  [takeAtOnce][TakeBytesMax]byte
	at       [takeAtOnce]time.Time
	have     int
	next     int
	received int
	errno    unix.Errno
	// drained: the last call found less than it had room for.
	drained bool
}

// mmsghdr is the kernel's struct.
type mmsghdr struct {
	header unix.Msghdr
	size   uint32
}

// Take returns the next packet of an unwatched socket with the time of its arrival,
// as Receive does, but never waits: false means that there was none when it last
// looked, which two calls in a row that return false did in the second one at the
// latest. Packets that are too long are dropped. What it returns is good until the
// next call.
func (s *Socket) Take() (packet []byte, at time.Time, ok bool) {
	s.receiveMu.Lock()
	defer s.receiveMu.Unlock()
	if s.taken == nil {
		s.taken = new(batch)
		s.takeOnce = s.recvmmsg
	}
	b := s.taken
	for {
		for b.next < b.have {
			i := b.next
			b.next++
			if b.headers[i].header.Flags&unix.MSG_TRUNC == 0 {
				return b.packets[i][:b.headers[i].size], b.at[i], true
			}
		}
		if b.drained {
			b.drained = false
			return nil, time.Time{}, false
		}
		if !s.fill(b) {
			return nil, time.Time{}, false
		}
	}
}

// fill receives what waits, as far as there is room; false when there is nothing.
func (s *Socket) fill(b *batch) bool {
	before := time.Now()
	b.have, b.next, b.drained = 0, 0, false
	for i := range b.headers {
		b.iovecs[i].Base = &b.packets[i][0]
		b.iovecs[i].SetLen(TakeBytesMax)
		h := &b.headers[i].header
		h.Iov = &b.iovecs[i]
		h.SetIovlen(1)
		h.Control = (*byte)(unsafe.Pointer(&b.control[i]))
		h.SetControllen(int(unsafe.Sizeof(b.control[i])))
	}
	if s.raw.Read(s.takeOnce) != nil || b.errno != 0 {
		// Nothing is there; any other error would come again and tell nothing that
		// the socket beside this one does not.
		if b.errno == unix.EAGAIN {
			s.emptyAt = before
		}
		return false
	}
	for i := range b.received {
		b.at[i] = s.arrival(&b.headers[i].header, &b.control[i])
	}
	b.have = b.received
	if b.drained = b.have < takeAtOnce; b.drained {
		s.emptyAt = before
	}
	return true
}

// recvmmsg is a raw system call, as recvmsg is: it never blocks.
func (s *Socket) recvmmsg(fd uintptr) bool {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&s.taken.headers)), takeAtOnce, unix.MSG_DONTWAIT, 0, 0)
		if errno == unix.EINTR {
			continue
		}
		s.taken.received, s.taken.errno = int(n), errno
		return true
	}
}
