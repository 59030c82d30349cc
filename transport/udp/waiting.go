package udp

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"heartbeat/transport/datagram"
)

// A receiver lets packets wait in a second socket beside its own, which nobody
// watches. The kernel sorts them: what was sent to a group or to everybody goes to
// both sockets, and the filter of each lets its share pass; of what was sent to this
// host alone the port's program picks the socket. Filters let every packet of the
// latter kind pass, so that none is lost when a program of another moment picked.
//
// The second socket is there only while something may wait. It is opened and closed
// by the set's goroutine: both may have to wait for a lock of the kernel's that
// whoever changes an interface holds, and the node's loop must not.

// waiting is the second socket of a receiver.
type waiting struct {
	// wanted are the beginnings of packets that may wait; nil for none.
	wanted [][]byte
	// socket is nil while nothing waits.
	socket *datagram.Socket
	// sorted are the beginnings by which what is in the socket was picked; sorting is
	// whether more is coming.
	sorted  [][]byte
	sorting bool
	// retired is a socket in which nothing waits any more, to be closed.
	retired *datagram.Socket
}

// Defer implements transport.Deferring. That packets wait begins a moment later, that
// they do not wait any more at once.
func (m *medium) Defer(beginnings [][]byte) {
	r := m.in
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.isReader(m) || equal(beginnings, r.waiting.wanted) {
		return
	}
	r.waiting.wanted = beginnings
	r.stopSorting()
	if beginnings != nil {
		m.set.wake()
	}
}

func equal(a, b [][]byte) bool { return slices.EqualFunc(a, b, bytes.Equal) }

// isReader reports whether the receiver's packets are that medium's; r.mu is held.
func (r *receiver) isReader(m *medium) bool { return len(r.media) > 0 && r.media[0] == m }

// Deferred implements transport.Deferring.
func (m *medium) Deferred() (packet []byte, at time.Time, ok bool) {
	r := m.in
	r.mu.Lock()
	defer r.mu.Unlock()
	w := &r.waiting
	if w.socket == nil || !r.isReader(m) {
		return nil, time.Time{}, false
	}
	packet, at, ok = w.socket.Take()
	if !ok && !w.sorting {
		// Take may mean what it saw when it last looked.
		packet, at, ok = w.socket.Take()
	}
	if !ok {
		if !w.sorting {
			w.socket, w.retired = nil, w.socket
			m.set.wake()
		}
		return nil, time.Time{}, false
	}
	m.received.Add(1)
	if !slices.ContainsFunc(w.sorted, func(b []byte) bool { return bytes.HasPrefix(packet, b) }) {
		// A program that shared the port has gone, and the kernel has put its
		// sockets into another order.
		r.stopSorting()
	}
	return packet, at, true
}

// stopSorting sends all that comes to the first socket; r.mu is held. The second one
// is retired when nothing waits in it any more.
func (r *receiver) stopSorting() {
	w := &r.waiting
	if !w.sorting {
		return
	}
	w.sorting = false
	// In this order a packet may come twice, but none is lost.
	_ = r.socket.Control(func(fd int) error {
		err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
		if !r.spec.multicast() {
			err = errors.Join(err, pickFirst(fd))
		}
		return err
	})
	_ = w.socket.Control(func(fd int) error { return attachFilter(fd, unix.SO_ATTACH_FILTER, filterProgram(nil, true)) })
}

// pickFirst makes the port's program pick the first socket always. It stays until
// the second one is closed: without a program the kernel would pick either.
func pickFirst(fd int) error {
	return attachFilter(fd, unix.SO_ATTACH_REUSEPORT_CBPF, pickProgram(nil))
}

// sort has the kernel sort as it is wanted. It runs on the set's goroutine, after
// follow, and does nothing while something of an earlier order may still wait. Where
// the kernel refuses, or the port is shared, everything comes to the first socket;
// the set's next look tries again.
func (r *receiver) sort(ours func(number uint64) bool) {
	r.mu.Lock()
	w := &r.waiting
	retired, wanted, busy := w.retired, w.wanted, w.socket != nil
	w.retired = nil
	r.mu.Unlock()
	if retired != nil {
		r.discard(retired)
	}
	if wanted == nil || busy || !r.bound {
		return
	}
	socket, err := r.openWaiting(wanted, ours)
	if err != nil {
		r.discard(socket)
		return
	}
	r.mu.Lock()
	changed := len(r.media) == 0 || !equal(wanted, w.wanted)
	if !changed {
		w.socket, w.sorted, w.sorting = socket, wanted, true
		if err := r.socket.Control(func(fd int) error { return r.divert(fd, wanted) }); err != nil {
			r.stopSorting()
		}
	}
	r.mu.Unlock()
	if changed {
		r.discard(socket) // who changed it has asked for another look
	}
}

// divert has packets that may wait pass by the first socket.
func (r *receiver) divert(fd int, beginnings [][]byte) error {
	if !r.spec.multicast() {
		if err := attachFilter(fd, unix.SO_ATTACH_REUSEPORT_CBPF, pickProgram(beginnings)); err != nil {
			return err
		}
	}
	return attachFilter(fd, unix.SO_ATTACH_FILTER, filterProgram(beginnings, false))
}

// discard closes a second socket, to which nothing comes any more; nil for none.
func (r *receiver) discard(socket *datagram.Socket) {
	if socket != nil {
		socket.Close()
	}
	if !r.spec.multicast() {
		// Others who share the port get their part again.
		_ = r.socket.Control(func(fd int) error {
			return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_REUSEPORT_BPF, 0)
		})
	}
}

// openWaiting opens the second socket, bound as the first one is. To it comes a copy
// of what was sent to many and may wait, and nothing else yet.
func (r *receiver) openWaiting(beginnings [][]byte, ours func(number uint64) bool) (*datagram.Socket, error) {
	if !r.spec.multicast() {
		if r.shared(ours) {
			return nil, errors.New("another program uses the port")
		}
		if err := r.socket.Control(pickFirst); err != nil {
			return nil, err
		}
	}
	socket, err := datagram.NewUnwatched(r.name+" waiting", r.spec.family(), unix.SOCK_DGRAM, 0)
	if err != nil {
		return nil, err
	}
	return socket, socket.Control(func(fd int) error {
		if err := r.setOptions(fd, false); err != nil {
			return err
		}
		if err := attachFilter(fd, unix.SO_ATTACH_FILTER, filterProgram(beginnings, true)); err != nil {
			return err
		}
		if err := unix.BindToDevice(fd, r.spec.Interface); err != nil {
			return err
		}
		if err := unix.Bind(fd, r.address(r.index)); err != nil {
			return err
		}
		if r.spec.multicast() {
			return r.joinGroup(fd, 0, r.index)
		}
		return nil
	})
}

// shared reports whether other programs have sockets on the port: the program that
// picks goes by the order in which sockets have come, so ours must be the first.
func (r *receiver) shared(ours func(number uint64) bool) bool {
	name := "/proc/thread-self/net/udp"
	if r.spec.family() == unix.AF_INET6 {
		name += "6"
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return true
	}
	port := fmt.Sprintf(":%04X", r.spec.Port)
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 10 || !strings.HasSuffix(f[1], port) {
			continue
		}
		if number, err := strconv.ParseUint(f[9], 10, 64); err != nil || !ours(number) {
			return true
		}
	}
	return false
}

// number is that of a socket in the kernel's lists, 0 for none.
func number(s *datagram.Socket) uint64 {
	var stat unix.Stat_t
	if s.Control(func(fd int) error { return unix.Fstat(fd, &stat) }) != nil {
		return 0
	}
	return stat.Ino
}
