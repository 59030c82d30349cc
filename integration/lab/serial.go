package lab

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// SerialDevice is a node's end of the lab's serial line. Like the device of a
// real port it has the same name on both nodes, and stays over a crash.
const SerialDevice = "/etc/ha.d/ttyS0"

// SerialLine is a null modem cable between the nodes: a pty on each, and a pump
// between their masters.
type SerialLine struct {
	masters, slaves []*os.File
	cut             atomic.Bool
	pumps           sync.WaitGroup
}

// SerialLine lays a line between the nodes' SerialDevice. It ends with the lab.
func (l *Lab) SerialLine() (*SerialLine, error) {
	s := &SerialLine{}
	for _, n := range l.Nodes() {
		if err := s.plug(n); err != nil {
			s.close()
			return nil, fmt.Errorf("lay a serial line to %s: %w", n.Name, err)
		}
	}
	s.pumps.Go(func() { s.pump(s.masters[0], s.masters[1]) }) // both end with close
	s.pumps.Go(func() { s.pump(s.masters[1], s.masters[0]) })
	l.mu.Lock()
	l.closers = append(l.closers, s.close)
	l.mu.Unlock()
	return s, nil
}

func (s *SerialLine) plug(n *Node) error {
	blocking, slave, err := pty.Open()
	if err != nil {
		return err
	}
	defer blocking.Close()
	// Held open, or the master would fail whenever the node closes it.
	s.slaves = append(s.slaves, slave)
	// A copy in non-blocking mode: closing it frees a waiting read.
	fd, err := unix.FcntlInt(blocking.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return err
	}
	s.masters = append(s.masters, os.NewFile(uintptr(fd), blocking.Name()))
	return os.Symlink(slave.Name(), n.Path(SerialDevice))
}

// pump carries bytes until an end is closed; on a cut line they are lost.
func (s *SerialLine) pump(from, to *os.File) {
	buf := make([]byte, 512)
	for {
		k, err := from.Read(buf)
		if err != nil {
			return
		}
		if s.cut.Load() {
			continue
		}
		if _, err := to.Write(buf[:k]); err != nil {
			return
		}
	}
}

// Cut interrupts the line: what either node sends is lost, and neither is told.
func (s *SerialLine) Cut() { s.cut.Store(true) }

// Heal mends what Cut interrupted.
func (s *SerialLine) Heal() { s.cut.Store(false) }

func (s *SerialLine) close() {
	for _, f := range append(s.masters, s.slaves...) {
		_ = f.Close() // nothing is lost by it
	}
	s.pumps.Wait()
}
