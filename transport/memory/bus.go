package memory

import (
	"fmt"
	"net"
	"sync"
	"time"

	"heartbeat/transport"
)

// receiveMax is how many packets wait for a reader, as in a socket's buffer.
// What comes on top is dropped.
const receiveMax = 256

// Bus drives a Network by the clock: the real one, or that of a
// testing/synctest bubble. It starts no goroutine but the timer's.
type Bus struct {
	mu      sync.Mutex
	network *Network
	begun   time.Time
	timer   *time.Timer // nil after Close
	media   []*medium
}

// NewBus begins at the network's time 0. The network belongs to the bus from
// now on.
func NewBus(network *Network) *Bus {
	b := &Bus{network: network, begun: time.Now()}
	b.timer = time.AfterFunc(time.Hour, b.deliver)
	b.rearm()
	return b
}

// Change runs f on the network, which is not in use meanwhile: to set faults,
// to cut and to heal.
func (b *Bus) Change(f func(*Network)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f(b.network)
	b.rearm()
}

// Close ends all deliveries. The media stay blocked until they are closed.
func (b *Bus) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.timer != nil {
		b.timer.Stop()
		b.timer = nil
	}
}

// Medium is one node's end of a link, of a kind named as in ha.cf: "bcast",
// "serial". Serial lines want the classic format, the others netstrings.
func (b *Bus) Medium(node, kind, link string) transport.Medium {
	b.mu.Lock()
	defer b.mu.Unlock()
	m := &medium{
		bus: b, node: node, kind: kind, link: link,
		arrived: make(chan arrival, receiveMax),
		closed:  make(chan struct{}),
	}
	b.media = append(b.media, m)
	return m
}

// rearm sets the timer to the next delivery. The caller holds the lock.
func (b *Bus) rearm() {
	if b.timer == nil {
		return
	}
	if at, ok := b.network.Deadline(); ok {
		b.timer.Reset(time.Until(b.begun.Add(at)))
	} else {
		b.timer.Stop()
	}
}

// deliver hands out what is due.
func (b *Bus) deliver() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.timer == nil {
		return
	}
	for now := time.Since(b.begun); ; {
		if at, ok := b.network.Deadline(); !ok || at > now {
			break
		}
		d, _ := b.network.Next()
		for _, m := range b.media {
			if m.node == d.To && m.link == d.Link {
				select {
				case m.arrived <- arrival{d.Packet, b.begun.Add(d.At)}:
				default:
				}
			}
		}
	}
	b.rearm()
}

type medium struct {
	bus              *Bus
	node, kind, link string
	arrived          chan arrival
	closing          sync.Once
	closed           chan struct{}
}

type arrival struct {
	packet []byte
	at     time.Time
}

func (m *medium) Kind() string { return m.kind }
func (m *medium) Link() string { return m.link }
func (m *medium) Name() string { return m.kind + " " + m.link }

func (m *medium) Format() transport.Format {
	if m.kind == "serial" {
		return transport.FormatClassic
	}
	return transport.FormatNetstring
}

func (m *medium) Send(packet []byte) error {
	select {
	case <-m.closed:
		return fmt.Errorf("send on %s: %w", m.Name(), net.ErrClosed)
	default:
	}
	if len(packet) > transport.PacketBytesMax {
		return fmt.Errorf("send on %s: packet of %d bytes: longer than %d", m.Name(), len(packet), transport.PacketBytesMax)
	}
	b := m.bus
	b.mu.Lock()
	defer b.mu.Unlock()
	b.network.Send(time.Since(b.begun), m.node, m.link, packet)
	b.rearm()
	return nil
}

func (m *medium) Receive(buf []byte) (int, time.Time, error) {
	for {
		select {
		case <-m.closed:
			return 0, time.Time{}, net.ErrClosed
		default:
		}
		select {
		case <-m.closed:
		case a := <-m.arrived:
			if len(a.packet) <= len(buf) {
				return copy(buf, a.packet), a.at, nil
			}
		}
	}
}

// Close also takes the medium off the bus.
func (m *medium) Close() error {
	m.closing.Do(func() {
		close(m.closed)
		b := m.bus
		b.mu.Lock()
		defer b.mu.Unlock()
		for i, other := range b.media {
			if other == m {
				b.media = append(b.media[:i], b.media[i+1:]...)
				break
			}
		}
	})
	return nil
}
