package serial

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"heartbeat/transport"
	"heartbeat/transport/message"
)

// Spec is one serial medium as ha.cf names it.
type Spec struct {
	// Device is the path of the line, "/dev/ttyS0".
	Device string
	// Baud is one of the usual rates, 50..4000000.
	Baud int
	// NoFlowControl is for cables of three wires; without RTS and CTS a line
	// that waits for them never sends.
	NoFlowControl bool
	// LockDir is where UUCP-style lock files are; "" means /var/lock.
	LockDir string
}

const (
	// queuePackets bounds what waits for the line: a burst as a resource
	// exchange makes it, or a few seconds of status messages at 19200 baud.
	queuePackets = 16

	// stallPause is what a packet may take beyond its time on the line before
	// it is given up.
	stallPause = 200 * time.Millisecond

	// reopenPauseMin and reopenPauseMax are the pauses between attempts to open
	// the line; they double.
	reopenPauseMin = 250 * time.Millisecond
	reopenPauseMax = 5 * time.Second

	// bitsPerByte on the line: start, 8 data, stop.
	bitsPerByte = 10

	readBytes = 4096
)

// errStalled is what Send says while the line takes nothing.
var errStalled = errors.New("the line takes no data: no connection or bad cable?")

// medium is one serial line.
type medium struct {
	spec   Spec
	name   string
	closed chan struct{}
	once   sync.Once
	work   sync.WaitGroup

	mu      sync.Mutex
	current *line // nil while the line is down
	err     error // why it is down
	// changed is closed and replaced when current changes.
	changed chan struct{}
	// queue is a ring of packets; its buffers are reused.
	queue        [queuePackets][]byte
	first, count int

	queued  chan struct{} // of capacity 1: the queue is not empty
	stalled atomic.Bool

	// Receive's own.
	receiveMu sync.Mutex
	reading   *line
	lines     message.Lines
	buffer    []byte
	input     []byte // what is left of buffer
	readAt    time.Time

	sent, sendErrors, sendDrops, received, tooLong, reopened atomic.Uint64
	discarded                                                atomic.Uint64
}

// Inherited is the open line of an earlier run of the program, and the rate that
// it is set to. The file is the caller's to close.
type Inherited struct {
	File *os.File
	Baud int
}

// HandOver returns a copy of a medium's line for a successor of this program
// that passes it to Continue; false when the medium is not of this package, or
// its line is down. The file is close-on-exec and the caller's to close.
func HandOver(from transport.Medium) (in Inherited, ok bool, err error) {
	m, ok := from.(*medium)
	if !ok {
		return in, false, nil
	}
	m.mu.Lock()
	l := m.current
	m.mu.Unlock()
	if l == nil || l.isGone() {
		return in, false, nil
	}
	fd := -1
	if err := l.control(func(old int) (err error) {
		fd, err = unix.FcntlInt(uintptr(old), unix.F_DUPFD_CLOEXEC, 0)
		return err
	}); err != nil {
		return in, false, fmt.Errorf("copy line %s: %w", m.spec.Device, err)
	}
	return Inherited{os.NewFile(uintptr(fd), m.spec.Device), m.spec.Baud}, true, nil
}

// Open opens a serial medium. A device that is not there, or that another
// program has locked, is no error here: Send says so until it can be opened.
// Errors are wrong specs.
func Open(spec Spec) (transport.Medium, error) { return Continue(spec, Inherited{}) }

// Continue is Open with the line of an earlier run: it never was closed, so the
// other end sees no hang-up and no break, and what waits in the kernel is kept.
// What is not that line is not used.
func Continue(spec Spec, in Inherited) (transport.Medium, error) {
	if !strings.HasPrefix(spec.Device, "/") {
		return nil, fmt.Errorf("serial %q: not a full path", spec.Device)
	}
	if spec.Baud < 50 || spec.Baud > 4000000 {
		return nil, fmt.Errorf("serial %s: baud rate %d is not in 50..4000000", spec.Device, spec.Baud)
	}
	if spec.LockDir == "" {
		spec.LockDir = "/var/lock"
	}
	m := &medium{
		spec:    spec,
		name:    "serial " + spec.Device,
		closed:  make(chan struct{}),
		changed: make(chan struct{}),
		queued:  make(chan struct{}, 1),
		buffer:  make([]byte, readBytes),
	}
	l := continueLine(spec, in)
	var err error
	if l == nil {
		l, err = openLine(spec)
	}
	m.set(l, err)
	m.work.Go(func() { m.run(l) })
	return m, nil
}

func (m *medium) Kind() string             { return "serial" }
func (m *medium) Link() string             { return m.spec.Device }
func (m *medium) Name() string             { return m.name }
func (m *medium) Format() transport.Format { return transport.FormatClassic }

// Banner implements transport.Announced.
func (m *medium) Banner() []string {
	return []string{fmt.Sprintf("glib: Starting serial heartbeat on tty %s (%d baud)", m.spec.Device, m.spec.Baud)}
}

// run keeps the line open and writes to it, until Close.
func (m *medium) run(l *line) {
	pause := reopenPauseMin
	for {
		if l != nil {
			err := m.write(l)
			m.set(nil, err)
			l.close()
			pause = reopenPauseMin
		}
		if !m.sleep(pause, nil) {
			return
		}
		pause = min(2*pause, reopenPauseMax)
		var err error
		if l, err = openLine(m.spec); err == nil {
			m.reopened.Add(1)
		}
		m.set(l, err)
	}
}

// sleep returns false after Close, and early with gone.
func (m *medium) sleep(pause time.Duration, gone <-chan struct{}) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-m.closed:
		return false
	case <-gone:
	case <-timer.C:
	}
	return true
}

// set makes l the current line, or none for the reason err. What waited for
// another line is old and goes.
func (m *medium) set(l *line, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.current, m.err = l, err
	m.count = 0
	m.stalled.Store(false)
	close(m.changed)
	m.changed = make(chan struct{})
}

// Send implements transport.Medium: it puts the packet into the queue. While
// the line takes no data it says so, and what is fresh goes out when it does
// again.
func (m *medium) Send(packet []byte) error {
	if m.isClosed() {
		return net.ErrClosed
	}
	if len(packet) > transport.PacketBytesMax {
		m.sendErrors.Add(1)
		return fmt.Errorf("%s: packet of %d bytes is too long", m.name, len(packet))
	}
	m.mu.Lock()
	if m.current == nil {
		err := m.err
		m.mu.Unlock()
		m.sendErrors.Add(1)
		return fmt.Errorf("%s: %w", m.name, err)
	}
	if m.count == queuePackets {
		m.first = (m.first + 1) % queuePackets
		m.count--
		m.sendDrops.Add(1)
	}
	slot := &m.queue[(m.first+m.count)%queuePackets]
	*slot = append((*slot)[:0], packet...)
	m.count++
	m.mu.Unlock()
	select {
	case m.queued <- struct{}{}:
	default:
	}
	if m.stalled.Load() {
		m.sendErrors.Add(1)
		return fmt.Errorf("%s: %w", m.name, errStalled)
	}
	return nil
}

// take appends the oldest packet of the queue to buf; nil when it is empty.
func (m *medium) take(buf []byte) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.count == 0 {
		return nil
	}
	buf = append(buf, m.queue[m.first]...)
	m.first = (m.first + 1) % queuePackets
	m.count--
	return buf
}

// write carries packets from the queue to the line at the line's speed. It
// returns when the line fails or the medium is closed.
func (m *medium) write(l *line) error {
	if !l.continued {
		if err := l.sendBreak(m); err != nil {
			return err
		}
	}
	var buf []byte
	// The other end may wait for the rest of what an earlier run, or a packet
	// that was given up, began: a newline ends it.
	newline := true
	for {
		buf = buf[:0]
		if newline {
			buf = append(buf, '\n')
		}
		packet := m.take(buf)
		if packet == nil {
			select {
			case <-m.closed:
				return net.ErrClosed
			case <-l.gone:
				return l.reason()
			case <-m.queued:
			}
			continue
		}
		buf = packet
		done, err := m.writePacket(l, packet)
		if err != nil {
			return err
		}
		newline = !done
		m.stalled.Store(!done)
		if done {
			m.sent.Add(1)
		} else {
			m.sendDrops.Add(1)
		}
	}
}

// writePacket writes one packet and waits while it is on the line, so that no
// more than one packet ages in the kernel. False means that the line did not
// take it in time.
func (m *medium) writePacket(l *line, packet []byte) (done bool, err error) {
	onLine := time.Duration(len(packet)) * bitsPerByte * time.Second / time.Duration(m.spec.Baud)
	deadline := time.Now().Add(2*onLine + stallPause)
	switch err := l.write(packet, deadline); {
	case errors.Is(err, os.ErrDeadlineExceeded):
		l.flush(outputQueue)
		return false, nil
	case err != nil:
		return false, err
	}
	for pause := onLine; ; pause = stallPause / 20 {
		if !m.sleep(pause, l.gone) {
			return false, net.ErrClosed
		}
		select {
		case <-l.gone:
			return false, l.reason()
		default:
		}
		switch {
		case l.unsent() == 0:
			return true, nil
		case time.Now().After(deadline):
			l.flush(outputQueue)
			return false, nil
		}
	}
}

// Receive implements transport.Medium.
func (m *medium) Receive(buf []byte) (int, time.Time, error) {
	m.receiveMu.Lock()
	defer m.receiveMu.Unlock()
	for {
		found, n := m.lines.Next(m.input)
		m.input = m.input[n:]
		m.discarded.Store(m.lines.Discarded)
		switch {
		case found == nil:
			if err := m.read(); err != nil {
				return 0, time.Time{}, err
			}
		case len(found) > len(buf):
			m.tooLong.Add(1)
		default:
			m.received.Add(1)
			return copy(buf, found), m.readAt, nil
		}
	}
}

// read waits for bytes of the line, and for a line if there is none. The only
// error is net.ErrClosed.
func (m *medium) read() error {
	for {
		m.mu.Lock()
		l, changed := m.current, m.changed
		m.mu.Unlock()
		if m.isClosed() {
			return net.ErrClosed
		}
		if l == nil || l.isGone() {
			select {
			case <-m.closed:
				return net.ErrClosed
			case <-changed:
			}
			continue
		}
		if l != m.reading {
			m.reading = l
			m.lines = message.Lines{Strip: true, Discarded: m.lines.Discarded}
		}
		n, err := l.read(m.buffer)
		m.readAt = time.Now()
		if err != nil {
			l.fail(err)
		}
		if n > 0 {
			m.input = m.buffer[:n]
			return nil
		}
	}
}

func (m *medium) isClosed() bool {
	select {
	case <-m.closed:
		return true
	default:
		return false
	}
}

// Stats implements transport.Counted.
func (m *medium) Stats() transport.Stats {
	return transport.Stats{
		Sent:       m.sent.Load(),
		SendErrors: m.sendErrors.Load(),
		SendDrops:  m.sendDrops.Load(),
		Received:   m.received.Load(),
		TooLong:    m.tooLong.Load(),
		Discarded:  m.discarded.Load(),
		Reopened:   m.reopened.Load(),
	}
}

// Close implements transport.Medium. It releases the line's lock.
func (m *medium) Close() error {
	m.once.Do(func() {
		close(m.closed)
		m.mu.Lock()
		l := m.current
		m.mu.Unlock()
		if l != nil {
			l.fail(net.ErrClosed)
		}
		m.work.Wait()
	})
	return nil
}
