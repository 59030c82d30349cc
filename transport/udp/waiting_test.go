package udp

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"heartbeat/transport"
	"heartbeat/transport/datagram"
	"heartbeat/transport/mediumtest"
	"heartbeat/transport/message/messagetest"
)

// routineOf is how the packets begin that say what this one says: up to the number.
func routineOf(packet []byte) []byte {
	at := bytes.Index(packet, []byte(":(0)seq="))
	return packet[:max(at-1, 0)]
}

// TestPickCaptured: of every packet that two real nodes sent, the kernel's program
// picks exactly those that begin as was said, whatever was said.
func TestPickCaptured(t *testing.T) {
	statuses, picked := 0, 0
	for _, name := range messagetest.Scenarios(t) {
		s := messagetest.Load(t, name)
		for from := range s.Packets {
			p := &s.Packets[from]
			if p.Format != transport.FormatNetstring || p.Message.Type() != "status" || p.Message.Get("st") != "active" {
				continue
			}
			statuses++
			beginnings := [][]byte{routineOf(p.Data), []byte("###\n14:(0)t=NS_ackmsg,")}
			vm, err := bpf.NewVM(pickProgram(beginnings))
			if err != nil {
				t.Fatal(err)
			}
			for i := range s.Packets {
				q := &s.Packets[i]
				waits := bytes.HasPrefix(q.Data, beginnings[0]) || bytes.HasPrefix(q.Data, beginnings[1])
				got, err := vm.Run(q.Data)
				if err != nil || (got == 1) != waits || got > 1 {
					t.Fatalf("%s: packet %d, by packet %d: %d, %v; want it to wait: %t\n%q", s.Name, q.N, p.N, got, err, waits, q.Data)
				}
				if !waits {
					continue
				}
				picked++
				if typ := q.Message.Type(); typ != "NS_ackmsg" && (typ != "status" || q.Message.Get("st") != "active" || q.Src != p.Src) {
					t.Errorf("%s: packet %d of type %s waits", s.Name, q.N, typ)
				}
			}
			break // one of each capture
		}
	}
	if statuses < 10 || picked < 500 {
		t.Errorf("%d captures with keepalives, %d packets picked", statuses, picked)
	}
}

// TestPickEdges: packets that end early, are too long, or differ in their last byte.
func TestPickEdges(t *testing.T) {
	words := []byte("###\n11:(0)t=status,12:(0)st=active,")
	for cut := range len(words) {
		vm, err := bpf.NewVM(pickProgram([][]byte{words[:len(words)-cut%5], []byte("###\n14:(0)t=NS_ackmsg,")}))
		if err != nil {
			t.Fatal(err)
		}
		said := words[:len(words)-cut%5]
		other := slices.Clone(said)
		other[len(other)-1-cut%len(other)] ^= 1
		long := append(slices.Clone(said), make([]byte, datagram.TakeBytesMax)...)
		for _, c := range []struct {
			packet []byte
			want   int
		}{
			{said, 1},
			{append(slices.Clone(said), "8:(0)seq=1,"...), 1},
			{long[:datagram.TakeBytesMax], 1},
			{long[:datagram.TakeBytesMax+1], 0},
			{said[:len(said)-1], 0},
			{nil, 0},
			{[]byte{'#'}, 0},
			{append(other, "8:(0)seq=1,"...), 0},
			{[]byte("###\n14:(0)t=NS_ackmsg,"), 1},
			{[]byte("###\n14:(0)t=NS_ackmsg"), 0},
		} {
			if got, err := vm.Run(c.packet); err != nil || got != c.want {
				t.Fatalf("%q, by %q: %d, %v; want %d", c.packet, said, got, err, c.want)
			}
		}
	}
	vm, err := bpf.NewVM(pickProgram(nil))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := vm.Run(words); err != nil || got != 0 {
		t.Errorf("with nothing said: %d, %v", got, err)
	}
}

// patience bounds every wait: the machine may pause for seconds.
const patience = 30 * time.Second

// eventually waits for a condition.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

func (r *receiver) state() (sorting, open bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.waiting.sorting, r.waiting.socket != nil
}

// deferring is a medium on which the kernel sorts by words.
func deferring(t *testing.T, m transport.Medium, words ...string) *medium {
	t.Helper()
	d := m.(*medium)
	// As the node's, the set's first look is over.
	eventually(t, "bound", func() bool { return d.target.Load().err == nil })
	var beginnings [][]byte
	for _, w := range words {
		beginnings = append(beginnings, []byte(w))
	}
	d.Defer(beginnings)
	eventually(t, "the kernel sorts", func() bool { sorting, _ := d.in.state(); return sorting })
	return d
}

// take waits until the next packet that was put aside is there.
func (m *medium) take(t *testing.T) (packet string, at time.Time) {
	t.Helper()
	eventually(t, "a packet waits", func() bool {
		data, arrival, ok := m.Deferred()
		packet, at = string(data), arrival
		return ok
	})
	return packet, at
}

// queued waits until a packet is in the second socket: the kernel may deliver later
// than Send returns.
func (m *medium) queued(t *testing.T) {
	t.Helper()
	eventually(t, "a packet is delivered", func() bool {
		m.in.mu.Lock()
		defer m.in.mu.Unlock()
		size := 0
		if err := m.in.waiting.socket.Control(func(fd int) (err error) {
			size, err = unix.IoctlGetInt(fd, unix.SIOCINQ)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return size > 0
	})
}

const (
	same  = "###\n11:(0)t=status,12:(0)st=active,"
	other = "###\n13:(0)t=resource,"
)

// TestDefer: on every kind of medium, what says nothing new ends no Receive, keeps
// its place and its time, and is there to be taken; everything else is received as
// ever; and when nothing may wait any more nothing does.
func TestDefer(t *testing.T) {
	for kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			from, m := newCable(t).openKind(t, kind)
			to := deferring(t, m, same, "###\n14:(0)t=NS_ackmsg,")
			heard := mediumtest.Listen(to)
			send := func(packet string) {
				t.Helper()
				eventually(t, "sent", func() bool { return from.Send([]byte(packet)) == nil })
			}
			mediumtest.Exchange(t, from, heard) // what is sent before the other end has its address is lost

			before := time.Now()
			send(same + "first")
			send("###\n14:(0)t=NS_ackmsg,ack")
			send(same + "third")
			between := time.Now()
			send(other + "urgent")
			mediumtest.Expect(t, heard, []byte(other+"urgent"))
			after := time.Now()
			for _, want := range []string{same + "first", "###\n14:(0)t=NS_ackmsg,ack", same + "third"} {
				if heard.Heard([]byte(want)) > 0 {
					t.Errorf("%q ended a Receive", want)
				}
				got, at := to.take(t)
				if got != want {
					t.Errorf("taken: %q, want %q", got, want)
				}
				// The kernel's stamp is of the wall clock, which is read beside ours.
				if at.Before(before.Add(-time.Second)) || at.After(after.Add(time.Second)) {
					t.Errorf("arrived at %v, sent between %v and %v", at, before, between)
				}
			}
			if packet, _, ok := to.Deferred(); ok {
				t.Errorf("%q waits", packet)
			}

			// Other words: what waits is still there, and the new words count.
			send(same + "last")
			to.queued(t)
			words := [][]byte{[]byte("###\n11:(0)t=status,12:(0)st=other,")}
			to.Defer(words)
			if got, _ := to.take(t); got != same+"last" {
				t.Errorf("taken: %q", got)
			}
			eventually(t, "sorting anew", func() bool { to.Deferred(); sorting, _ := to.in.state(); return sorting })
			send(string(words[0]) + "new")
			if got, _ := to.take(t); got != string(words[0])+"new" {
				t.Errorf("taken: %q", got)
			}
			send(same + "not any more")
			mediumtest.Expect(t, heard, []byte(same+"not any more"))

			send(string(words[0]) + "left")
			to.queued(t)
			to.Defer(nil)
			if got, _ := to.take(t); got != string(words[0])+"left" {
				t.Errorf("taken: %q", got)
			}
			if _, _, ok := to.Deferred(); ok {
				t.Error("there is more")
			}
			eventually(t, "the second socket is closed", func() bool {
				to.in.mu.Lock()
				defer to.in.mu.Unlock()
				return to.in.waiting.socket == nil && to.in.waiting.retired == nil
			})
			send(string(words[0]) + "received")
			mediumtest.Expect(t, heard, []byte(string(words[0])+"received"))
		})
	}
}

// TestDeferOwn: copies of our own broadcasts wait as well.
func TestDeferOwn(t *testing.T) {
	c := newCable(t)
	m := deferring(t, open(t, c.a, nil, kinds["bcast"][0])[0], same)
	heard := mediumtest.Listen(m)
	for _, packet := range []string{same + "ours", other + "ours"} {
		if err := m.Send([]byte(packet)); err != nil {
			t.Fatal(err)
		}
	}
	mediumtest.Expect(t, heard, []byte(other+"ours"))
	if got, _ := m.take(t); got != same+"ours" {
		t.Errorf("taken: %q", got)
	}
}

// TestDeferShared: media that share a socket share what waits: the first one hands
// it over, and after its Close the next one.
func TestDeferShared(t *testing.T) {
	c := newCable(t)
	from := open(t, c.b, nil, kinds["ucast"][1])[0]
	media := open(t, c.a, nil, kinds["bcast"][0], kinds["ucast"][0])
	words := [][]byte{[]byte(same)}
	first, second := deferring(t, media[0], same), media[1].(*medium)
	second.Defer(words)
	send := func(text string) {
		t.Helper()
		if err := from.Send([]byte(same + text)); err != nil {
			t.Fatal(err)
		}
	}
	send("1")
	if got, _ := first.take(t); got != same+"1" {
		t.Errorf("taken: %q", got)
	}
	send("2")
	if data, _, ok := second.Deferred(); ok {
		t.Errorf("the second medium has %q", data)
	}
	first.Close()
	if got, _ := second.take(t); got != same+"2" {
		t.Errorf("taken: %q", got)
	}
	second.Defer(nil)
	heard := mediumtest.Listen(second)
	send("3")
	mediumtest.Expect(t, heard, []byte(same+"3"))
}

// TestDeferNewInterface: after its interface was made anew a medium hears everything;
// where packets are sent to many they can wait again.
func TestDeferNewInterface(t *testing.T) {
	for _, kind := range []string{"bcast", "mcast", "mcast6", "ucast", "ucast6"} {
		t.Run(kind, func(t *testing.T) {
			c := newCable(t)
			from, m := c.openKind(t, kind)
			to := deferring(t, m, same)
			heard := mediumtest.Listen(to)
			c.b.Delete(t, "eth0")
			c.connect(t)
			// Whether it waits or is received: nothing is lost for good.
			waited := false
			eventually(t, "both are heard", func() bool {
				for _, text := range []string{same, other} {
					_ = from.Send([]byte(text + "again"))
				}
				data, _, ok := to.Deferred()
				if ok && string(data) != same+"again" {
					t.Errorf("%q waits", data)
				}
				waited = waited || ok
				return heard.Heard([]byte(other+"again")) > 0 && (waited || heard.Heard([]byte(same+"again")) > 0)
			})
		})
	}
}

// TestDeferHandedOver: a successor of the program hears everything on the sockets
// that it inherits, and packets can wait again.
func TestDeferHandedOver(t *testing.T) {
	for _, kind := range []string{"bcast", "ucast", "mcast6"} {
		t.Run(kind, func(t *testing.T) {
			c := newCable(t)
			from := open(t, c.b, nil, kinds[kind][1])[0]
			old := open(t, c.a, nil, kinds[kind][0])
			deferring(t, old[0], same)
			names, files, err := Files(old)
			if err != nil {
				t.Fatal(err)
			}
			inherited := Inherited{}
			for i, name := range names {
				inherited[name] = files[i]
			}
			old[0].Close()
			next := open(t, c.a, inherited, kinds[kind][0])
			heard := mediumtest.Listen(next[0])
			eventually(t, "sent", func() bool { return from.Send([]byte(same+"1")) == nil })
			mediumtest.Expect(t, heard, []byte(same+"1"))
			to := deferring(t, next[0], same)
			if err := from.Send([]byte(same + "2")); err != nil {
				t.Fatal(err)
			}
			if got, _ := to.take(t); got != same+"2" {
				t.Errorf("taken: %q", got)
			}
		})
	}
}

// TestDeferForeign: while another program has a socket on the port nothing waits, for
// the kernel could put the sockets into another order.
func TestDeferForeign(t *testing.T) {
	c := newCable(t)
	m := open(t, c.a, nil, kinds["ucast"][0])[0].(*medium)
	eventually(t, "bound", func() bool { return m.target.Load().err == nil })
	fd := -1
	if err := c.a.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1),
			unix.BindToDevice(fd, "eth0"),
			unix.Bind(fd, &unix.SockaddrInet4{Port: port}))
	}); err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "foreign")
	defer file.Close()
	r := m.in
	shared := func() (yes bool) {
		if err := c.a.Do(func() error { yes = r.shared(m.set.ours); return nil }); err != nil {
			t.Fatal(err)
		}
		return yes
	}
	if !shared() {
		t.Error("another program's socket on the port is not seen")
	}
	m.Defer([][]byte{[]byte(same)})
	file.Close()
	eventually(t, "packets wait when it is gone", func() bool { m.set.wake(); sorting, _ := r.state(); return sorting })
	if shared() {
		t.Error("our own sockets count as another program's")
	}
	// What is there and should not be ends it.
	r.mu.Lock()
	r.waiting.sorted = [][]byte{[]byte(other)}
	r.mu.Unlock()
	from := open(t, c.b, nil, kinds["ucast"][1])[0]
	if err := from.Send([]byte(same + "strange")); err != nil {
		t.Fatal(err)
	}
	if got, _ := m.take(t); got != same+"strange" {
		t.Errorf("taken: %q", got)
	}
	if sorting, _ := r.state(); sorting {
		t.Error("the kernel goes on sorting")
	}
}
