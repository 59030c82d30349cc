package vm

import (
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// hub is one LAN: a frame of one machine goes to all others. Each machine sends
// to a socket of its own, so the sender is known.
type hub struct {
	ports []*net.UnixConn // by machine
	ends  []*net.UnixAddr // qemu's
	lost  []atomic.Bool   // [from*machines+to]
	// seen is called with each frame, nil for nobody; it must not keep it.
	seen atomic.Pointer[func(from int, frame []byte)]
	work sync.WaitGroup
}

// wirePaths are the two ends of a machine's wire to a LAN.
func wirePaths(dir string, lan, machine int) (qemu, hub string) {
	p := filepath.Join(dir, fmt.Sprintf("lan%d-n%d", lan, machine))
	return p + ".vm", p + ".hub"
}

func newHub(dir string, lan, machines int) (*hub, error) {
	h := &hub{lost: make([]atomic.Bool, machines*machines)}
	for i := range machines {
		qemu, own := wirePaths(dir, lan, i+1)
		c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: own, Net: "unixgram"})
		if err != nil {
			h.close()
			return nil, err
		}
		_ = c.SetReadBuffer(1 << 20) // a small one loses frames, as networks do
		h.ports = append(h.ports, c)
		h.ends = append(h.ends, &net.UnixAddr{Name: qemu, Net: "unixgram"})
	}
	for i := range machines {
		h.work.Go(func() { h.carry(i) }) // ends when the port is closed
	}
	return h, nil
}

func (h *hub) carry(from int) {
	buf := make([]byte, 1<<16)
	for {
		n, err := h.ports[from].Read(buf)
		if err != nil {
			return
		}
		if seen := h.seen.Load(); seen != nil {
			(*seen)(from, buf[:n])
		}
		for to := range h.ports {
			if to != from && !h.lost[from*len(h.ports)+to].Load() {
				h.send(from, to, buf[:n])
			}
		}
	}
}

// send sends a frame by one machine's port to another machine. One that is
// frozen or off takes nothing: the frame is lost.
func (h *hub) send(port, to int, frame []byte) {
	_ = h.ports[port].SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
	_, _ = h.ports[port].WriteToUnix(frame, h.ends[to])
}

func (h *hub) close() {
	for _, c := range h.ports {
		_ = c.Close()
	}
	h.work.Wait()
}

// cable is a null modem cable between the ttyS1 of two machines.
type cable struct {
	ends [2]string // qemu's sockets
	conn [2]atomic.Pointer[net.UnixConn]
	baud atomic.Int64
	cut  atomic.Bool
	done chan struct{}
	work sync.WaitGroup
}

func newCable(a, b string) *cable {
	c := &cable{ends: [2]string{a, b}, done: make(chan struct{})}
	c.baud.Store(19200)
	for i := range c.ends {
		c.work.Go(func() { c.carry(i) }) // ends with close
	}
	return c
}

// carry brings the bytes of one end to the other, at the pace of the line: qemu
// itself sends at any speed, and no receiver could follow.
func (c *cable) carry(from int) {
	buf := make([]byte, 64)
	for {
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: c.ends[from], Net: "unix"})
		if err != nil {
			select {
			case <-c.done:
				return
			case <-time.After(20 * time.Millisecond): // the machine is off
			}
			continue
		}
		c.conn[from].Store(conn)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				break
			}
			time.Sleep(time.Duration(n) * 10 * time.Second / time.Duration(c.baud.Load()))
			if to := c.conn[1-from].Load(); to != nil && !c.cut.Load() {
				// What a frozen machine cannot take is lost.
				_ = to.SetWriteDeadline(time.Now().Add(time.Second))
				_, _ = to.Write(buf[:n])
			}
		}
		c.conn[from].Store(nil)
		_ = conn.Close()
		select {
		case <-c.done:
			return
		default:
		}
	}
}

func (c *cable) close() {
	close(c.done)
	for i := range c.conn {
		if conn := c.conn[i].Load(); conn != nil {
			_ = conn.Close()
		}
	}
	c.work.Wait()
}
