package ipaddr

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"heartbeat/resources"
)

// farAdd puts an address on the peer's end.
func (l *lab) farAdd(t testing.TB, addr string) {
	t.Helper()
	h, err := netlink.NewHandleAt(l.peer)
	must(t, err)
	defer h.Close()
	a, err := netlink.ParseAddr(addr)
	must(t, err)
	if a.IP.To4() == nil {
		a.Flags = unix.IFA_F_NODAD
	}
	must(t, h.AddrAdd(l.far, a))
}

// farSend sends a frame from the peer's end.
func (l *lab) farSend(t testing.TB, frame []byte) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here, err := netns.Get()
	must(t, err)
	defer here.Close()
	must(t, netns.Set(l.peer))
	s, err := openSender(ifaceOf(l.far))
	must(t, netns.Set(here))
	must(t, err)
	defer s.close()
	must(t, s.send(frame))
}

// TestProbe asks real kernels who has an address. Our end has none of its own.
func TestProbe(t *testing.T) {
	for _, c := range []struct{ entry, there, elsewhere string }{
		{"IPaddr::10.1.0.10/24/%s", "10.1.0.10/24", "10.1.0.11/24"},
		{"IPaddr::10.1.0.10/24/%s", "10.1.0.10/32", "10.1.0.11/24"},
		{"IPv6addr::fd01::10/64/%s", "fd01::10/64", "fd01::1:10/64"},
	} {
		t.Run(c.there, func(t *testing.T) {
			l := newLab(t)
			n := New(Options{})
			r := n.resource(t, fmt.Sprintf(c.entry, l.nic))
			ours := false
			ask := func() error {
				t.Helper()
				errs, asked := n.Probe(context.Background(), []resources.Resource{r})
				var claimed *Claimed
				if answered := errs[0] == nil && !ours || errors.As(errs[0], &claimed); answered != (asked == 1) {
					t.Errorf("%d asked, %v", asked, errs[0])
				}
				return errs[0]
			}
			// Another address, of which the end of an IPv6 one looks alike.
			l.farAdd(t, c.elsewhere)
			if err := ask(); err != nil {
				t.Errorf("nobody has it: %v", err)
			}
			l.farAdd(t, c.there)
			var claimed *Claimed
			if err := ask(); !errors.As(err, &claimed) {
				t.Fatalf("somebody has it: %v", err)
			}
			want := fmt.Sprintf("%v is answered for by %v on %s", netip.MustParsePrefix(c.there).Addr(), l.far.Attrs().HardwareAddr, l.nic)
			if claimed.Error() != want {
				t.Errorf("%q, want %q", claimed.Error(), want)
			}
			l.want(t)
			// The answer must be another machine's.
			start(t, r)
			ours = true
			if err := ask(); err != nil {
				t.Errorf("it is ours: %v", err)
			}
			ours = false
			stop(t, r)
			h, err := netlink.NewHandleAt(l.peer)
			must(t, err)
			defer h.Close()
			must(t, h.LinkSetDown(l.far))
			eventually(t, "no carrier", func() bool { return l.link(t).Attrs().RawFlags&unix.IFF_RUNNING == 0 })
			n.forget()
			if err := ask(); err == nil || !strings.Contains(err.Error(), "has no carrier") {
				t.Errorf("nobody hears the question: %v", err)
			}
			must(t, netlink.LinkSetDown(l.link(t)))
			n.forget()
			if err := ask(); err == nil || errors.As(err, &claimed) || !strings.Contains(err.Error(), "is down") {
				t.Errorf("nobody can be asked: %v", err)
			}
		})
	}
}

// TestProbeMany asks for many at once on two links, some of which somebody has.
func TestProbeMany(t *testing.T) {
	one, two := newLab(t), newLab(t)
	n := New(Options{})
	var list []resources.Resource
	var want []bool
	for i := range 300 {
		l := []*lab{one, two}[i%2]
		addr := fmt.Sprintf("10.%d.%d.%d/16", 2+i%2, i/200, 1+i%200)
		list = append(list, n.resource(t, "IPaddr::"+addr+"/"+l.nic))
		if want = append(want, i%7 == 0); want[i] {
			l.farAdd(t, addr)
		}
	}
	before := time.Now()
	errs, _ := n.Probe(context.Background(), list)
	for i, err := range errs {
		var claimed *Claimed
		if errors.As(err, &claimed) != want[i] || err != nil && !want[i] {
			t.Errorf("%s: %v", list[i].Name(), err)
		}
	}
	t.Logf("%d addresses in %v", len(list), time.Since(before))
}

// TestClaim: another machine's claim of an owned address is answered and told, but
// not again and again.
func TestClaim(t *testing.T) {
	for _, f := range families {
		t.Run(f.typ, func(t *testing.T) {
			l := newLab(t, f.own)
			var said log
			var told atomic.Int32
			n := New(Options{Announce: Announce{Burst: 1}, Watch: true, Log: said.add, Claim: func(*Claimed) { told.Add(1) }})
			r := n.resource(t, f.typ+"::"+f.addr+"/"+l.nic)
			addr := netip.MustParsePrefix(f.addr).Addr()
			mac := l.far.Attrs().HardwareAddr
			frame, etherType := arpFrame(arpReply, addr, mac), ethernet.EtherTypeARP
			heard := func(c *capture) { c.arpFor(t, addr.String(), arp.OperationRequest) }
			if addr.Is6() {
				var err error
				frame, err = naFrame(addr, mac)
				must(t, err)
				etherType = ethernet.EtherTypeIPv6
				heard = func(c *capture) { c.naFor(t, addr.String()) }
			}
			c := l.capture(t, etherType)
			start(t, r)
			heard(c) // the announcement of the start
			eventually(t, "the claim is seen", func() bool {
				l.farSend(t, frame)
				return said.has(fmt.Sprintf("%v is ours on %s, and %v claims it too: announced again", addr, l.nic, mac))
			})
			heard(c)
			a := r.(*address)
			claims := func() int {
				must(t, a.lock(context.Background()))
				defer a.unlock()
				return a.claims
			}
			before := claims()
			eventually(t, "more claims are seen", func() bool {
				l.farSend(t, frame)
				return claims() > before+2
			})
			said.mu.Lock()
			lines := len(slices.DeleteFunc(slices.Clone(said.list), func(s string) bool { return !strings.Contains(s, "claims it too") }))
			said.mu.Unlock()
			if lines != 1 || told.Load() != 1 {
				t.Errorf("%d lines in the log, %d events told of", lines, told.Load())
			}
			// One answer in ten seconds.
			must(t, c.conn.SetReadDeadline(time.Now().Add(300*time.Millisecond)))
			buf := make([]byte, 2048)
			for {
				k, _, err := c.conn.ReadFrom(buf)
				if err != nil {
					break
				}
				got := parseClaim(buf[:k])
				if got != nil && got.Addr == addr && bytes.Equal(got.MAC, l.link(t).Attrs().HardwareAddr) && (addr.Is6() || buf[21] == arpRequest) {
					t.Error("announced again within ten seconds")
				}
			}
			// What is not ours is nobody's business here.
			stop(t, r)
			l.farSend(t, frame)
			l.want(t, f.own)
		})
	}
}

// TestClaimFilter runs the kernel's filter on frames: only another machine's claim
// of one of the addresses passes.
func TestClaimFilter(t *testing.T) {
	ours := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	theirs := net.HardwareAddr{2, 0, 0, 0, 0, 2}
	v4, v6 := netip.MustParseAddr("10.1.0.10"), netip.MustParseAddr("fd01::10")
	na := func(addr netip.Addr, mac net.HardwareAddr) []byte {
		frame, err := naFrame(addr, mac)
		must(t, err)
		return frame
	}
	ask := func(addr netip.Addr) []byte {
		frame, err := probeFrame(addr, theirs)
		must(t, err)
		return frame
	}
	many := func(addr netip.Addr, count int) (list []netip.Addr) {
		for a := netip.MustParseAddr("10.9.0.1"); len(list) < count-1; a = a.Next() {
			list = append(list, a)
		}
		return append(list, addr)
	}
	for _, c := range []struct {
		name  string
		v6    bool
		addrs []netip.Addr
		frame []byte
		pass  bool
	}{
		{"their claim", false, []netip.Addr{v4}, arpFrame(arpReply, v4, theirs), true},
		{"their request in its name", false, []netip.Addr{v4}, arpFrame(arpRequest, v4, theirs), true},
		{"the last of many", false, many(v4, filterAddressesMax), arpFrame(arpReply, v4, theirs), true},
		{"one of too many", false, many(v4, filterAddressesMax+1), arpFrame(arpReply, v4, theirs), true},
		{"our claim", false, []netip.Addr{v4}, arpFrame(arpReply, v4, ours), false},
		{"our claim, with too many", false, many(v4, filterAddressesMax+1), arpFrame(arpReply, v4, ours), false},
		{"another address", false, many(v4, filterAddressesMax), arpFrame(arpReply, v4.Next(), theirs), false},
		{"a question about it", false, []netip.Addr{v4}, ask(v4), false},
		{"no address", false, nil, arpFrame(arpReply, v4, theirs), false},
		{"their advertisement", true, []netip.Addr{v6}, na(v6, theirs), true},
		{"of another address", true, []netip.Addr{v6}, na(v6.Next(), theirs), false},
		{"a solicitation for it", true, []netip.Addr{v6}, ask(v6), false},
	} {
		raw, err := claimFilter(ours, c.v6, c.addrs)
		must(t, err)
		code, ok := bpf.Disassemble(raw)
		if !ok {
			t.Fatal("filter is not understood")
		}
		vm, err := bpf.NewVM(code)
		must(t, err)
		k, err := vm.Run(c.frame)
		must(t, err)
		if (k > 0) != c.pass {
			t.Errorf("%s: %d bytes pass", c.name, k)
		}
		if got := parseClaim(c.frame[:min(len(c.frame), claimBytesMax)]); c.pass && got == nil {
			t.Errorf("%s: passes and is not understood", c.name)
		}
	}
}

// FuzzParseClaim: what anybody on the link can send is read within its bounds.
func FuzzParseClaim(f *testing.F) {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 2}
	f.Add(arpFrame(arpReply, netip.MustParseAddr("10.1.0.10"), mac))
	if frame, err := naFrame(netip.MustParseAddr("fd01::10"), mac); err == nil {
		f.Add(frame)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		if c := parseClaim(frame); c != nil && (!c.Addr.IsValid() || len(c.MAC) != 6) {
			t.Errorf("%x gives %+v", frame, c)
		}
	})
}
