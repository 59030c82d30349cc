package memory

import (
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"heartbeat/transport"
	"heartbeat/transport/mediumtest"
)

// TestMedium: what every medium must do, by the real clock.
func TestMedium(t *testing.T) {
	for _, kind := range []string{"bcast", "serial"} {
		t.Run(kind, func(t *testing.T) {
			mediumtest.Run(t, transport.PacketBytesMax, func(t *testing.T) mediumtest.Ends {
				n := pair(1)
				n.SetFaults("", "", "", Faults{Delay: ms})
				bus := NewBus(n)
				t.Cleanup(bus.Close)
				return mediumtest.Ends{A: bus.Medium("a", kind, "eth1"), B: bus.Medium("b", kind, "eth1")}
			})
		})
	}
}

// TestBus: two nodes exchange packets in the virtual time of a bubble.
func TestBus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := pair(1)
		n.SetFaults("", "", "eth0", Faults{Delay: 30 * ms})
		bus := NewBus(n)
		defer bus.Close()
		a, b := bus.Medium("a", "bcast", "eth0"), bus.Medium("b", "bcast", "eth0")
		begun := time.Now()
		if err := a.Send([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		expect(t, a, "hello", begun)
		expect(t, b, "hello", begun.Add(30*ms))
		if now := time.Now(); !now.Equal(begun.Add(30 * ms)) {
			t.Errorf("received after %v", now.Sub(begun))
		}

		// A reader that comes late still learns the true time, and a packet
		// that is longer than its buffer is dropped.
		late := time.Now()
		for _, text := range []string{"much too long a packet", "short"} {
			if err := a.Send([]byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		expect(t, b, "short", late.Add(30*ms))

		// A cut is heard by nobody; after it the path is as before.
		bus.Change(func(n *Network) { n.Cut("a", "b", "") })
		if err := a.Send([]byte("cut")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		bus.Change(func(n *Network) { n.Heal("a", "b", "") })
		healed := time.Now()
		if err := a.Send([]byte("healed")); err != nil {
			t.Fatal(err)
		}
		expect(t, b, "healed", healed.Add(30*ms))

		if err := b.Close(); err != nil {
			t.Error(err)
		}
		if err := a.Send([]byte("to nobody")); err != nil {
			t.Error(err)
		}
		if err := b.Send(nil); !errors.Is(err, net.ErrClosed) {
			t.Errorf("send after close: %v", err)
		}
	})
}

func expect(t *testing.T, m transport.Medium, want string, at time.Time) {
	t.Helper()
	buf := make([]byte, 10)
	n, got, err := m.Receive(buf)
	if err != nil || string(buf[:n]) != want || !got.Equal(at) {
		t.Errorf("%s: %q at %v, %v; want %q at %v", m.Name(), buf[:n], got, err, want, at)
	}
}

// TestBusCloseFrees: a blocked Receive returns at once, and nothing of the bus
// is left running, which the bubble would report.
func TestBusCloseFrees(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := NewBus(pair(1))
		m := bus.Medium("a", "serial", "eth1")
		if m.Format() != transport.FormatClassic || m.Kind() != "serial" || m.Link() != "eth1" || m.Name() != "serial eth1" {
			t.Errorf("%s: %s, %s, %v", m.Name(), m.Kind(), m.Link(), m.Format())
		}
		freed := make(chan error)
		go func() {
			_, _, err := m.Receive(nil)
			freed <- err
		}()
		synctest.Wait()
		begun := time.Now()
		m.Close()
		m.Close()
		if err := <-freed; !errors.Is(err, net.ErrClosed) || time.Since(begun) != 0 {
			t.Errorf("%v after %v", err, time.Since(begun))
		}
		bus.Close()
		bus.Change(func(n *Network) { n.Cut("", "", "") })
	})
}

// TestBusBound: nobody reads, and the buffer stays bounded.
func TestBusBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := NewBus(pair(1))
		defer bus.Close()
		a, b := bus.Medium("a", "ucast", "eth1"), bus.Medium("b", "ucast", "eth1")
		for range receiveMax + 10 {
			if err := a.Send([]byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		if got := len(b.(*medium).arrived); got != receiveMax {
			t.Errorf("%d packets wait, want %d", got, receiveMax)
		}
		if err := a.Send(make([]byte, transport.PacketBytesMax+1)); err == nil {
			t.Error("a packet that is too long was sent")
		}
	})
}
