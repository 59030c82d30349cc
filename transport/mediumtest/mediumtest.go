// Package mediumtest is what every transport.Medium must do, as tests, and the
// network namespaces in which they run.
package mediumtest

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"heartbeat/transport"
)

// patience bounds every wait: the machine may pause for seconds.
const patience = 30 * time.Second

// Ends are the two ends of one path. A medium that answers itself (ping) is
// both.
type Ends struct{ A, B transport.Medium }

// Run tests a medium. open makes a fresh path for each test and leaves closing
// to it. packetBytesMax is the longest packet that the path must carry.
func Run(t *testing.T, packetBytesMax int, open func(t *testing.T) Ends) {
	start := func(t *testing.T) Ends {
		ends := open(t)
		t.Cleanup(func() {
			ends.A.Close()
			ends.B.Close()
		})
		return ends
	}
	t.Run("names", func(t *testing.T) {
		ends := start(t)
		for _, m := range []transport.Medium{ends.A, ends.B} {
			if m.Kind() == "" || m.Link() == "" || m.Name() == "" {
				t.Errorf("kind %q, link %q, name %q: none may be empty", m.Kind(), m.Link(), m.Name())
			}
			if !strings.HasPrefix(m.Name(), m.Kind()+" ") {
				t.Errorf("name %q does not begin with kind %q", m.Name(), m.Kind())
			}
		}
	})
	t.Run("both ways", func(t *testing.T) {
		ends := start(t)
		a, b := Listen(ends.A), Listen(ends.B)
		Exchange(t, ends.A, b)
		Exchange(t, ends.B, a)
	})
	t.Run("every size", func(t *testing.T) {
		ends := start(t)
		b := Listen(ends.B)
		Exchange(t, ends.A, b)
		for _, size := range []int{64, 306, 1400, 1501, 9000, packetBytesMax} {
			if size > packetBytesMax {
				continue
			}
			packet := Packet(ends.A.Format(), fmt.Sprintf("size %d", size), size)
			b.sendUntilHeard(t, ends.A, packet)
		}
	})
	t.Run("the packet is the caller's again", func(t *testing.T) {
		ends := start(t)
		b := Listen(ends.B)
		Exchange(t, ends.A, b)
		want := Packet(ends.A.Format(), "mine", 400)
		packet := bytes.Clone(want)
		if err := ends.A.Send(packet); err != nil {
			t.Fatal(err)
		}
		clear(packet)
		b.expect(t, want)
	})
	t.Run("too long is dropped, not cut", func(t *testing.T) {
		ends := start(t)
		long := Packet(ends.A.Format(), "long", 900)
		short := Packet(ends.A.Format(), "short", 300)
		b := listen(ends.B, 600)
		deadline := time.Now().Add(patience)
		for {
			if time.Now().After(deadline) {
				t.Fatal("nothing received")
			}
			if err := ends.A.Send(long); err != nil {
				t.Logf("send: %v", err)
			}
			if err := ends.A.Send(short); err != nil {
				t.Logf("send: %v", err)
			}
			select {
			case p := <-b.packets:
				if !bytes.Equal(p.bytes, short) {
					t.Fatalf("received %d bytes %.40q, want only the short packet", len(p.bytes), p.bytes)
				}
				return
			case <-time.After(time.Second):
			}
		}
	})
	t.Run("arrival", func(t *testing.T) {
		ends := start(t)
		b := Listen(ends.B)
		Exchange(t, ends.A, b)
		packet := Packet(ends.A.Format(), "stamp", 300)
		before := time.Now()
		if err := ends.A.Send(packet); err != nil {
			t.Fatal(err)
		}
		p := b.expect(t, packet)
		// Kernel and runtime read the clocks a little apart.
		if p.at.Before(before.Add(-time.Millisecond)) || p.at.After(p.received) {
			t.Errorf("arrived at %v, but was sent at %v and received at %v", p.at, before, p.received)
		}
		if !strings.Contains(p.at.String(), " m=") {
			t.Errorf("arrival %v has no monotonic reading", p.at)
		}
	})
	t.Run("many senders", func(t *testing.T) {
		ends := start(t)
		b := Listen(ends.B)
		Exchange(t, ends.A, b)
		var work sync.WaitGroup
		for k := range 4 {
			work.Go(func() {
				packet := Packet(ends.A.Format(), fmt.Sprintf("sender %d", k), 300)
				for range 3 {
					if err := ends.A.Send(packet); err != nil {
						t.Error(err)
					}
				}
			})
		}
		work.Wait()
		for heard := 0; heard < 12; {
			if bytes.Contains(b.next(t).bytes, []byte("=sender ")) {
				heard++
			}
		}
	})
	t.Run("close frees receive", func(t *testing.T) {
		ends := start(t)
		result := make(chan error, 1)
		entered := make(chan struct{})
		go func() {
			close(entered)
			buf := make([]byte, transport.PacketBytesMax)
			for {
				// A temporary error is no end.
				if _, _, err := ends.A.Receive(buf); errors.Is(err, net.ErrClosed) {
					result <- err
					return
				}
			}
		}()
		<-entered
		if err := ends.A.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		select {
		case <-result:
		case <-time.After(patience):
			t.Fatal("Receive still waits after Close")
		}
	})
	t.Run("after close", func(t *testing.T) {
		ends := start(t)
		for range 2 {
			if err := ends.A.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		}
		if err := ends.A.Send(Packet(ends.A.Format(), "late", 100)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Send after Close: %v, want net.ErrClosed", err)
		}
		if _, _, err := ends.A.Receive(make([]byte, 100)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Receive after Close: %v, want net.ErrClosed", err)
		}
	})
}

// Packet is a packet of about size bytes for a medium of that format: a serial
// line carries nothing but whole classic messages.
func Packet(format transport.Format, text string, size int) []byte {
	head, tail := "###\n=", "%%%\n"
	if format == transport.FormatClassic {
		head, tail = ">>>\nt=", "\n<<<\n"
	}
	packet := []byte(head + text + " ")
	for n := 0; len(packet)+len(tail) < size; n++ {
		c := byte('a' + n%26)
		if n%60 == 59 && format == transport.FormatClassic {
			packet = append(packet, "\nx="...)
		}
		packet = append(packet, c)
	}
	return append(packet, tail...)
}

// Listener receives from a medium all the time, as a node does.
type Listener struct {
	packets chan packet

	mu    sync.Mutex
	heard map[string]int
}

type packet struct {
	bytes        []byte
	at, received time.Time
}

// Listen begins to receive; it ends when the medium is closed.
func Listen(m transport.Medium) *Listener {
	return listen(m, transport.PacketBytesMax)
}

func listen(m transport.Medium, bufBytes int) *Listener {
	l := newListener()
	l.receive(m, bufBytes)
	return l
}

func newListener() *Listener {
	return &Listener{packets: make(chan packet, 4096), heard: make(map[string]int)}
}

// Heard is how often a packet was received so far.
func (l *Listener) Heard(packet []byte) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.heard[string(packet)]
}

func (l *Listener) receive(m transport.Medium, bufBytes int) {
	go func() {
		buf := make([]byte, bufBytes)
		for {
			n, at, err := m.Receive(buf)
			switch {
			case errors.Is(err, net.ErrClosed):
				return
			case err == nil:
				l.mu.Lock()
				l.heard[string(buf[:n])]++
				l.mu.Unlock()
				select {
				case l.packets <- packet{bytes.Clone(buf[:n]), at, time.Now()}:
				default: // nobody looks any more
				}
			}
		}
	}()
}

func (l *Listener) next(t testing.TB) packet {
	t.Helper()
	select {
	case p := <-l.packets:
		return p
	case <-time.After(patience):
		t.Fatal("nothing received")
		return packet{}
	}
}

// expect waits for a packet and ignores others.
func (l *Listener) expect(t testing.TB, want []byte) packet {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case p := <-l.packets:
			if bytes.Equal(p.bytes, want) {
				return p
			}
		case <-deadline:
			t.Fatalf("packet %.60q not received", want)
		}
	}
}

// Exchange sends until something arrives: a path needs a moment to come up or
// back.
func Exchange(t testing.TB, from transport.Medium, to *Listener) {
	t.Helper()
	packet := Packet(from.Format(), "exchange "+from.Name()+time.Now().String(), 250)
	to.sendUntilHeard(t, from, packet)
}

// sendUntilHeard sends a packet again and again until the listener has it.
func (l *Listener) sendUntilHeard(t testing.TB, from transport.Medium, packet []byte) {
	t.Helper()
	deadline := time.After(patience)
	var last error
	for {
		if err := from.Send(packet); err != nil {
			last = err
		}
		again := time.After(50 * time.Millisecond)
	wait:
		for {
			select {
			case p := <-l.packets:
				if bytes.Equal(p.bytes, packet) {
					return
				}
			case <-again:
				break wait
			case <-deadline:
				t.Fatalf("%s: packet %.60q not received; last error of Send: %v", from.Name(), packet, last)
			}
		}
	}
}

// Silent sends a few packets and fails if the listener hears one of them. The
// proof waits for something that was sent later by the same way, or by one that
// is no faster.
func Silent(t testing.TB, from transport.Medium, to *Listener, proof func()) {
	t.Helper()
	packet := Packet(from.Format(), "unwanted", 200)
	for range 3 {
		_ = from.Send(packet)
	}
	proof()
	if to.Heard(packet) != 0 {
		t.Errorf("%s: heard where it must not be", from.Name())
	}
}

// ListenAll is one Listener for several media.
func ListenAll(media []transport.Medium) *Listener {
	l := newListener()
	for _, m := range media {
		l.receive(m, transport.PacketBytesMax)
	}
	return l
}

// Expect waits for a packet and ignores others.
func Expect(t testing.TB, l *Listener, want []byte) {
	t.Helper()
	l.expect(t, want)
}
