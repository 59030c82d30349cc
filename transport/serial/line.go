package serial

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"github.com/tarm/serial"
	"golang.org/x/sys/unix"
)

// breakTime is how long the break lasts that is sent on opening: it makes the
// other end drop what it had of a message.
const breakTime = 250 * time.Millisecond

// line is an open serial line.
//
// tarm/serial sets the line up and is never read or written: its Close hangs
// behind a blocked Read or Write. The settings belong to the device, so they
// hold for the second file, which is non-blocking and has deadlines.
type line struct {
	port *serial.Port
	file *os.File
	raw  syscall.RawConn
	lock *lock
	// continued: it was open before, in an earlier run of the program.
	continued bool

	gone chan struct{} // closed when the line failed
	once sync.Once
	err  error // why; valid after gone
}

func openLine(spec Spec) (_ *line, err error) {
	l := &line{gone: make(chan struct{})}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if l.lock, err = takeLock(spec.LockDir, spec.Device); err != nil {
		return nil, err
	}
	if l.port, err = serial.OpenPort(&serial.Config{Name: spec.Device, Baud: spec.Baud}); err != nil {
		return nil, fmt.Errorf("set up the line: %w", err)
	}
	if l.file, err = os.OpenFile(spec.Device, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0); err != nil {
		return nil, fmt.Errorf("open the line: %w", err)
	}
	if l.raw, err = l.file.SyscallConn(); err != nil {
		return nil, fmt.Errorf("open the line: %w", err)
	}
	if err = l.control(func(fd int) error { return setUp(fd, !spec.NoFlowControl) }); err != nil {
		return nil, fmt.Errorf("set up the line: %w", err)
	}
	l.flush(bothQueues) // what waits there was said to, or by, whoever had the line before
	return l, nil
}

// continueLine continues the line of an earlier run; nil when there is none, it
// is another device or has another rate, or the lock was lost.
func continueLine(spec Spec, in Inherited) *line {
	if in.File == nil || in.Baud != spec.Baud || !isDevice(in.File, spec.Device) {
		return nil
	}
	raw, err := in.File.SyscallConn()
	if err != nil {
		return nil
	}
	fd := -1
	if raw.Control(func(old uintptr) { fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }) != nil || err != nil {
		return nil
	}
	if unix.SetNonblock(fd, true) != nil {
		unix.Close(fd)
		return nil
	}
	l := &line{gone: make(chan struct{}), file: os.NewFile(uintptr(fd), spec.Device), continued: true}
	if l.lock, err = takeLock(spec.LockDir, spec.Device); err == nil {
		if l.raw, err = l.file.SyscallConn(); err == nil {
			err = l.control(func(fd int) error { return setUp(fd, !spec.NoFlowControl) })
		}
	}
	if err != nil {
		l.close()
		return nil
	}
	return l
}

// isDevice reports whether the open file is the device of that path: it may have
// been unplugged and come back as another one.
func isDevice(file *os.File, path string) bool {
	open, err1 := file.Stat()
	now, err2 := os.Stat(path)
	return err1 == nil && err2 == nil && os.SameFile(open, now)
}

// setUp adds what heartbeat sets and tarm/serial does not.
func setUp(fd int, flowControl bool) error {
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return err
	}
	t.Iflag = unix.INPCK | unix.ISTRIP | unix.IGNCR | unix.BRKINT
	// A break from the other end must not throw away what we are sending.
	t.Lflag |= unix.NOFLSH
	// The other end shall see when nobody is here any more.
	t.Cflag |= unix.HUPCL
	if flowControl {
		t.Cflag |= unix.CRTSCTS
	}
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, t); err != nil {
		return err
	}
	closeAtOnce(fd)
	return nil
}

// serialStruct is the kernel's serial_struct.
type serialStruct struct {
	typ, line               int32
	port                    uint32
	irq, flags              int32
	xmitFIFOSize            int32
	customDivisor, baudBase int32
	closeDelay              uint16
	ioType, reservedChar    byte
	hub6                    int32
	closingWait             uint16
	closingWait2            uint16
	iomemBase               uintptr
	iomemRegShift           uint16
	portHigh                uint32
	iomapBase               uintptr
}

// closingWaitNone is ASYNC_CLOSING_WAIT_NONE.
const closingWaitNone = 65535

// closeAtOnce keeps the kernel from waiting at the close, 30 s by default, for
// an end that takes nothing. The close is also part of the daemon's end, and of
// its replacement in place, when it sends no keepalives. A device that is no
// serial port, or does not let that be set, stays as it is.
func closeAtOnce(fd int) {
	var s serialStruct
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGSERIAL, uintptr(unsafe.Pointer(&s))); errno != 0 {
		return
	}
	s.closingWait = closingWaitNone
	_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCSSERIAL, uintptr(unsafe.Pointer(&s)))
}

func (l *line) control(f func(fd int) error) error {
	var err error
	if ctlErr := l.raw.Control(func(fd uintptr) { err = f(int(fd)) }); ctlErr != nil {
		return ctlErr
	}
	return err
}

// sendBreak sends a break; a line that has none (a pty) is no error.
func (l *line) sendBreak(m *medium) error {
	begun := l.control(func(fd int) error { return unix.IoctlSetInt(fd, unix.TIOCSBRK, 0) }) == nil
	if !begun {
		return nil
	}
	open := m.sleep(breakTime, l.gone)
	_ = l.control(func(fd int) error { return unix.IoctlSetInt(fd, unix.TIOCCBRK, 0) })
	if !open {
		return os.ErrClosed
	}
	return nil
}

// write writes all of the packet, or fails with os.ErrDeadlineExceeded.
func (l *line) write(packet []byte, deadline time.Time) error {
	if err := l.file.SetWriteDeadline(deadline); err != nil {
		return l.failed("write", err)
	}
	_, err := l.file.Write(packet)
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return l.failed("write", err)
}

// read reads what there is; an error means that the line is of no more use.
func (l *line) read(buf []byte) (int, error) {
	n, err := l.file.Read(buf)
	if errors.Is(err, io.EOF) {
		return n, errors.New("the line hung up")
	}
	if err != nil {
		return n, fmt.Errorf("read: %w", err)
	}
	return n, nil
}

// unsent is how many bytes wait in the kernel.
func (l *line) unsent() (n int) {
	_ = l.control(func(fd int) (err error) {
		n, err = unix.IoctlGetInt(fd, unix.TIOCOUTQ)
		return err
	})
	return n
}

// The kernel's queues of a line.
const (
	outputQueue = unix.TCOFLUSH
	bothQueues  = unix.TCIOFLUSH
)

// flush throws away what waits in the kernel: it is old.
func (l *line) flush(queues int) {
	_ = l.control(func(fd int) error { return unix.IoctlSetInt(fd, unix.TCFLSH, queues) })
}

// fail marks the line as lost and frees who waits for it. The first reason
// counts.
func (l *line) fail(reason error) {
	l.once.Do(func() {
		l.err = reason
		close(l.gone)
		l.file.Close()
	})
}

func (l *line) isGone() bool {
	select {
	case <-l.gone:
		return true
	default:
		return false
	}
}

// reason is why the line failed; only after gone.
func (l *line) reason() error { return l.err }

// failed marks the line as lost through err and returns the reason why it is.
func (l *line) failed(what string, err error) error {
	l.fail(fmt.Errorf("%s: %w", what, err))
	return l.err
}

// close closes everything, whatever is open.
func (l *line) close() {
	if l.file != nil {
		l.fail(os.ErrClosed)
	}
	if l.port != nil {
		l.port.Close()
	}
	if l.lock != nil {
		l.lock.release()
	}
}
