package ping

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"heartbeat/transport"
	"heartbeat/transport/mediumtest"
)

// cable is a namespace with media and one that answers.
func cable(t testing.TB) (near, far *mediumtest.Namespace) {
	near, far = mediumtest.NewNamespace(t), mediumtest.NewNamespace(t)
	connect(t, near, far)
	return near, far
}

func connect(t testing.TB, near, far *mediumtest.Namespace) {
	near.Veth(t, "eth0", far, "eth0")
	near.AddAddress(t, "eth0", "10.0.0.1/24")
	far.AddAddress(t, "eth0", "10.0.0.2/24")
	far.AddAddress(t, "eth0", "10.0.0.3/24")
	near.Up(t, "eth0")
	far.Up(t, "eth0")
	near.AddAddress(t, "eth0", "fd00::1/64")
	far.AddAddress(t, "eth0", "fd00::2/64")
}

func open(t testing.TB, n *mediumtest.Namespace, spec Spec) (m transport.Medium) {
	t.Helper()
	if err := n.Do(func() (err error) {
		m, err = Open(spec)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func TestMedium(t *testing.T) {
	for _, spec := range []Spec{
		{"ping", "10.0.0.2", []string{"10.0.0.2"}},
		{"ping6", "fd00::2", []string{"fd00::2"}},
		{"ping_group", "routers", []string{"10.0.0.2", "10.0.0.77"}},
	} {
		t.Run(spec.Kind, func(t *testing.T) {
			near, _ := cable(t)
			mediumtest.Run(t, 9000, func(t *testing.T) mediumtest.Ends {
				m := open(t, near, spec)
				return mediumtest.Ends{A: m, B: m}
			})
		})
	}
}

// TestContinue passes the socket to a successor: an answer that nobody has read
// yet is not lost, and answers to the predecessor's echoes still count.
func TestContinue(t *testing.T) {
	for _, spec := range []Spec{{"ping", "10.0.0.2", []string{"10.0.0.2"}}, {"ping6", "fd00::2", []string{"fd00::2"}}} {
		t.Run(spec.Kind, func(t *testing.T) {
			near, _ := cable(t)
			first := open(t, near, spec)
			mediumtest.Exchange(t, first, mediumtest.Listen(first))
			first.Close()

			old := open(t, near, spec)
			waits := mediumtest.Packet(old.Format(), "waits", 300)
			if err := old.Send(waits); err != nil {
				t.Fatal(err)
			}
			in, ok, err := HandOver(old)
			if !ok || err != nil {
				t.Fatal(ok, err)
			}
			old.Close()
			next, err := Continue(spec, in)
			in.File.Close()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { next.Close() })
			hear := mediumtest.Listen(next)
			mediumtest.Expect(t, hear, waits)
			if err := near.Do(func() error { mediumtest.Exchange(t, next, hear); return nil }); err != nil {
				t.Fatal(err)
			}
		})
	}
	if _, ok, _ := HandOver(nil); ok {
		t.Error("a medium of another package was handed over")
	}
}

func TestSilentHost(t *testing.T) {
	near, _ := cable(t)
	dead := open(t, near, Spec{"ping", "10.0.0.77", []string{"10.0.0.77"}})
	live := open(t, near, Spec{"ping", "10.0.0.2", []string{"10.0.0.2"}})
	mediumtest.Silent(t, dead, mediumtest.Listen(dead), func() { mediumtest.Exchange(t, live, mediumtest.Listen(live)) })
}

// TestEveryMemberAnswers: one echo to each host.
func TestEveryMemberAnswers(t *testing.T) {
	near, _ := cable(t)
	m := open(t, near, Spec{"ping_group", "g", []string{"10.0.0.2", "10.0.0.3"}})
	hear := mediumtest.Listen(m)
	packet := mediumtest.Packet(m.Format(), "to both", 300)
	if err := m.Send(packet); err != nil {
		t.Fatal(err)
	}
	mediumtest.Expect(t, hear, packet)
	mediumtest.Expect(t, hear, packet)
}

// TestOwnIdentifier: answers to other media, and echoes that others send here,
// are nobody's answer.
func TestOwnIdentifier(t *testing.T) {
	near, far := cable(t)
	one := open(t, near, Spec{"ping", "10.0.0.2", []string{"10.0.0.2"}})
	other := open(t, near, Spec{"ping", "10.0.0.3", []string{"10.0.0.3"}})
	back := open(t, far, Spec{"ping", "10.0.0.1", []string{"10.0.0.1"}})
	hearOne, hearOther := mediumtest.Listen(one), mediumtest.Listen(other)
	mediumtest.Silent(t, other, hearOne, func() {
		mediumtest.Exchange(t, other, hearOther)
		mediumtest.Exchange(t, back, mediumtest.Listen(back))
		mediumtest.Exchange(t, one, hearOne)
	})
}

// TestFilter: what is not for a medium does not even reach its queue.
func TestFilter(t *testing.T) {
	near, far := cable(t)
	for _, specs := range [][3]Spec{
		{
			{"ping", "10.0.0.2", []string{"10.0.0.2"}},
			{"ping", "10.0.0.3", []string{"10.0.0.3"}},
			{"ping", "10.0.0.1", []string{"10.0.0.1"}},
		},
		{
			{"ping6", "fd00::2", []string{"fd00::2"}},
			{"ping6", "fd00::2", []string{"fd00::2"}},
			{"ping6", "fd00::1", []string{"fd00::1"}},
		},
	} {
		one, other, back := open(t, near, specs[0]), open(t, near, specs[1]), open(t, far, specs[2])
		mediumtest.Exchange(t, other, mediumtest.Listen(other))
		mediumtest.Exchange(t, back, mediumtest.Listen(back))
		queued := func() error {
			return one.(*medium).socket.Control(func(fd int) error {
				_, _, err := unix.Recvfrom(fd, make([]byte, 1), unix.MSG_DONTWAIT|unix.MSG_PEEK)
				return err
			})
		}
		if err := queued(); !errors.Is(err, unix.EAGAIN) {
			t.Errorf("%s: a packet for others waits (%v)", one.Kind(), err)
		}
	}
}

// TestPayload judges what the kernel's filter may have let through before it
// was there.
func TestPayload(t *testing.T) {
	m := &medium{protocol: unix.IPPROTO_ICMP, reply: ipv4.ICMPTypeEchoReply, id: 7}
	header := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	packet := func(typ icmp.Type, id int) []byte {
		echo, err := (&icmp.Message{Type: typ, Body: &icmp.Echo{ID: id, Data: []byte("x")}}).Marshal(nil)
		if err != nil {
			t.Fatal(err)
		}
		return append(append([]byte(nil), header...), echo...)
	}
	for _, test := range []struct {
		name   string
		packet []byte
		ok     bool
	}{
		{"answer", packet(ipv4.ICMPTypeEchoReply, 7), true},
		{"answer to another", packet(ipv4.ICMPTypeEchoReply, 8), false},
		{"question", packet(ipv4.ICMPTypeEcho, 7), false},
		{"no message", header, false},
		{"half a header", header[:5], false},
		{"nothing", nil, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if data, ok := m.payload(test.packet); ok != test.ok || ok && string(data) != "x" {
				t.Errorf("%q, %t; want %t", data, ok, test.ok)
			}
		})
	}
}

func TestNetworkReturns(t *testing.T) {
	for _, spec := range []Spec{
		{"ping", "10.0.0.2", []string{"10.0.0.2"}},
		{"ping6", "fd00::2", []string{"fd00::2"}},
		{"ping_group", "g", []string{"10.0.0.2", "10.0.0.3"}},
	} {
		t.Run(spec.Kind, func(t *testing.T) {
			t.Parallel()
			near, far := cable(t)
			m := open(t, near, spec)
			hear := mediumtest.Listen(m)
			mediumtest.Exchange(t, m, hear)
			near.Delete(t, "eth0")
			err := m.Send([]byte("x"))
			if !errors.Is(err, unix.ENETUNREACH) || !strings.Contains(err.Error(), m.Name()) {
				t.Errorf("Send without network: %v, want ENETUNREACH and the name", err)
			}
			connect(t, near, far)
			mediumtest.Exchange(t, m, hear)
		})
	}
}

// inNamespace sends from a namespace: an interface's name is looked up in that of
// the caller.
type inNamespace struct {
	transport.Medium
	n *mediumtest.Namespace
}

func (m inNamespace) Send(packet []byte) error {
	return m.n.Do(func() error { return m.Medium.Send(packet) })
}

// TestLinkLocal: an address with a zone follows the interface to its new index.
func TestLinkLocal(t *testing.T) {
	near, far := cable(t)
	far.AddAddress(t, "eth0", "fe80::2/64")
	m := inNamespace{open(t, near, Spec{"ping6", "router", []string{"fe80::2%eth0"}}), near}
	hear := mediumtest.Listen(m)
	mediumtest.Exchange(t, m, hear)
	near.Delete(t, "eth0")
	if err := m.Send([]byte("x")); err == nil {
		t.Error("Send without interface reports no error")
	}
	connect(t, near, far)
	far.AddAddress(t, "eth0", "fe80::2/64")
	mediumtest.Exchange(t, m, hear)
}

func TestByName(t *testing.T) {
	n := mediumtest.NewNamespace(t)
	m := open(t, n, Spec{"ping", "localhost", []string{"localhost"}})
	mediumtest.Exchange(t, m, mediumtest.Listen(m))
	m = open(t, n, Spec{"ping", "g", []string{"not a name"}})
	if err := m.Send([]byte("x")); err == nil || !strings.Contains(err.Error(), "not resolved") {
		t.Errorf("Send to an unknown name: %v", err)
	}
}

func TestOpenErrors(t *testing.T) {
	for _, test := range []struct {
		name, want string
		spec       Spec
	}{
		{"kind", "no such ping medium", Spec{"pong", "a", []string{"10.0.0.1"}}},
		{"no name", "no name", Spec{"ping", "", []string{"10.0.0.1"}}},
		{"no host", "0 hosts", Spec{"ping_group", "g", nil}},
		{"two hosts", "2 hosts", Spec{"ping", "a", []string{"10.0.0.1", "10.0.0.2"}}},
		{"wrong family", "wrong family", Spec{"ping6", "a", []string{"10.0.0.1"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := Open(test.spec); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

func TestBanner(t *testing.T) {
	for kind, want := range map[string]string{
		"ping":       "glib: ping heartbeat started.",
		"ping_group": "glib: ping group heartbeat started.",
	} {
		if got := (&medium{spec: Spec{Kind: kind}}).Banner(); len(got) != 1 || got[0] != want {
			t.Errorf("%s: %q, want %q", kind, got, want)
		}
	}
}

func BenchmarkSendReceive(b *testing.B) {
	near, _ := cable(b)
	m := open(b, near, Spec{"ping", "10.0.0.2", []string{"10.0.0.2"}})
	packet := mediumtest.Packet(transport.FormatNetstring, "bench", 306)
	buf := make([]byte, transport.PacketBytesMax)
	b.ReportAllocs()
	for b.Loop() {
		if err := m.Send(packet); err != nil {
			b.Fatal(err)
		}
		if _, _, err := m.Receive(buf); err != nil {
			b.Fatal(err)
		}
	}
}
