package ipaddr

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"heartbeat/resources"
)

func TestLifetimeFor(t *testing.T) {
	for _, c := range []struct {
		name                string
		deadtime, keepalive time.Duration
		want                time.Duration // 0: none
	}{
		{"default", 30 * time.Second, 2 * time.Second, 28750 * time.Millisecond},
		{"usual", 10 * time.Second, time.Second, 8750 * time.Millisecond},
		{"room for the kernel's worst lateness", 5250 * time.Millisecond, time.Second, 4 * time.Second},
		{"one millisecond too little for it", 5249 * time.Millisecond, time.Second, 4749 * time.Millisecond},
		{"shortest with quick keepalives", 2500 * time.Millisecond, 250 * time.Millisecond, 2 * time.Second},
		{"one millisecond shorter", 2499 * time.Millisecond, 250 * time.Millisecond, 0},
		{"shortest with keepalive 2s", 3500 * time.Millisecond, 2 * time.Second, 3 * time.Second},
		{"it would run out between two keepalives", 3499 * time.Millisecond, 2 * time.Second, 0},
	} {
		got, err := LifetimeFor(c.deadtime, c.keepalive)
		if got != c.want || (err == nil) != (c.want > 0) {
			t.Errorf("%s: deadtime %v, keepalive %v: %v, %v; want %v", c.name, c.deadtime, c.keepalive, got, err, c.want)
		}
	}
}

// TestRenewals: what a node that is well has left, at the worst, when it renews next.
func TestRenewals(t *testing.T) {
	for _, c := range []struct {
		deadtime, keepalive time.Duration
		left                time.Duration
	}{
		{30 * time.Second, 2 * time.Second, 20 * time.Second}, // of 28
		{10 * time.Second, time.Second, 6 * time.Second},      // of 8
		{5 * time.Second, time.Second, 2 * time.Second},       // of 4
		{4 * time.Second, time.Second, 2 * time.Second},       // of 3
		{3500 * time.Millisecond, 2 * time.Second, time.Second},
		{2500 * time.Millisecond, 250 * time.Millisecond, 1500 * time.Millisecond}, // of 2
	} {
		lifetime, err := LifetimeFor(c.deadtime, c.keepalive)
		must(t, err)
		n := New(Options{Deadtime: c.deadtime, Lifetime: lifetime})
		begin := time.Now()
		renewed, worst := begin, lifetime
		for at := begin; at.Before(begin.Add(time.Minute)); at = at.Add(c.keepalive) {
			n.Alive(at)
			select {
			case took := <-n.keepalives:
				worst = min(worst, lifetime.Truncate(lifetimeStep)-took.Sub(renewed))
				renewed = took
				n.renewed.Store(int64(took.Sub(n.epoch)))
			default:
			}
		}
		if worst != c.left {
			t.Errorf("deadtime %v, keepalive %v: %v left, want %v", c.deadtime, c.keepalive, worst, c.left)
		}
	}
}

// valid are the seconds that an address of our end has left, as the kernel counts;
// -1 when it has not got it.
func (l *lab) valid(t testing.TB, addr string) int64 {
	t.Helper()
	link := l.link(t)
	list, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_ALL) })
	must(t, err)
	for _, a := range list {
		if a.IPNet.String() != addr {
			continue
		}
		if a.PreferedLft != a.ValidLft {
			t.Errorf("%s is preferred for %d s and valid for %d s", addr, a.PreferedLft, a.ValidLft)
		}
		return int64(uint32(a.ValidLft))
	}
	return -1
}

// living is a network whose addresses live for lifetime after a keepalive.
func living(lifetime time.Duration, log func(resources.Event)) *Network {
	n := New(Options{Deadtime: lifetime + kernelUsual, Lifetime: lifetime, Announce: Announce{Burst: 1}, Log: log})
	n.Alive(time.Now())
	return n
}

func (n *Network) resource(t testing.TB, entry string) resources.Resource {
	t.Helper()
	name, args := resources.Split(entry)
	res, err := n.Factories()[name](args)
	must(t, err)
	return res
}

var families = []struct{ typ, addr, own string }{
	{"IPaddr", "10.1.0.10/24", "10.1.0.1/24"},
	{"IPv6addr", "fd01::10/64", "fd01::1/64"},
}

// TestLifetimeIsRenewed: an address lives as long as the loop does, and no longer;
// and when the loop is back, so is the address.
func TestLifetimeIsRenewed(t *testing.T) {
	for _, f := range families {
		t.Run(f.typ, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, f.own)
			var said log
			n := living(60*time.Second, said.add)
			r := n.resource(t, f.typ+"::"+f.addr+"/"+l.nic)
			start(t, r)
			if v := l.valid(t, f.addr); v < 50 || v > 60 {
				t.Errorf("the address has %d s, and may live for 60", v)
			}
			// A keepalive is worth less the older it is, and an older one worth nothing.
			n.renewed.Store(0)
			n.Alive(time.Now().Add(-30 * time.Second))
			eventually(t, "a late renewal counts from the keepalive", func() bool { v := l.valid(t, f.addr); return v <= 30 && v > 15 })
			n.renewed.Store(0)
			n.Alive(time.Now())
			eventually(t, "it is renewed", func() bool { return l.valid(t, f.addr) > 50 })
			n.renewed.Store(0)
			n.Alive(time.Now().Add(-57 * time.Second))
			eventually(t, "it runs out", func() bool { return l.valid(t, f.addr) < 0 })
			l.want(t, f.own)
			if !n.stale() {
				t.Error("an address has run out and the loop does not count as stalled")
			}
			n.Alive(time.Now())
			eventually(t, "it is back when the loop is", func() bool { return l.valid(t, f.addr) > 50 })
			stop(t, r)
			l.want(t, f.own)
			if said.has("cannot be") {
				t.Errorf("log: %q", said.list)
			}
		})
	}
}

// TestNoRepairOfAStalledNode: what has run out while the process stood still is the
// other node's, whatever the kernel's news say, until the loop has spoken again.
// Without lifetimes the same holds of what somebody has removed.
func TestNoRepairOfAStalledNode(t *testing.T) {
	for _, f := range families {
		for _, lifetime := range []time.Duration{20 * time.Second, 0} {
			t.Run(fmt.Sprintf("%s lifetime %v", f.typ, lifetime), func(t *testing.T) {
				noRepair(t, f.typ, f.addr, f.own, lifetime)
			})
		}
	}
}

func noRepair(t *testing.T, typ, addr, own string, lifetime time.Duration) {
	l := newLab(t, own)
	var said log
	n := New(Options{Deadtime: 20*time.Second + kernelUsual, Lifetime: lifetime, Announce: Announce{Burst: 1}, Log: said.add})
	n.Alive(time.Now())
	r := n.resource(t, typ+"::"+addr+"/"+l.nic)
	start(t, r)
	a := r.(*address)
	// As after a thaw: the last keepalive is old when the news arrive.
	stalled := 19500 * time.Millisecond
	if lifetime == 0 {
		stalled = 21 * time.Second
	}
	n.Alive(time.Now().Add(-stalled))
	l.del(t, addr)
	eventually(t, "the news were seen", func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return !a.next.IsZero() && a.next.After(time.Now())
	})
	for range 20 {
		a.tend()
	}
	l.want(t, own)
	// Nothing is added either, until somebody who waits for it gives up.
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	other := n.resource(t, typ+"::"+strings.Replace(addr, "10/", "11/", 1)+"/"+l.nic)
	if err := other.Start(ctx); !errors.Is(err, errStalled) {
		t.Errorf("start on a stalled node: %v", err)
	}
	l.want(t, own)
	n.Alive(time.Now())
	eventually(t, "the loop has decided, and it is put back", func() bool { return l.valid(t, addr) > 0 })
	eventually(t, "the repair is logged", func() bool { return said.has("removed from " + l.nic) })
	stop(t, r)
}

// TestPromisedTooMuch: a process that stood still while it handed a lifetime to the
// kernel takes it back.
func TestPromisedTooMuch(t *testing.T) {
	for _, f := range families {
		t.Run(f.typ, func(t *testing.T) {
			l := newLab(t, f.own)
			n := living(20*time.Second, nil)
			r := n.resource(t, f.typ+"::"+f.addr+"/"+l.nic)
			start(t, r)
			a := r.(*address)
			must(t, a.lock(context.Background()))
			defer a.unlock()
			req, ok := a.placeRequest(a.place, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
			n.Alive(time.Now().Add(-21 * time.Second))
			n.add([]request{req}, []*address{a})
			l.want(t, f.own)
			if !ok {
				t.Error("a live node gets no lifetime")
			}
			if _, ok := a.placeRequest(a.place, 0); ok {
				t.Error("a stalled node gets a lifetime")
			}
		})
	}
}

// TestProlongAddsNothing: an address that is gone is not brought back by its renewal,
// and one that is there is as it was but for its lifetime.
func TestProlongAddsNothing(t *testing.T) {
	for _, f := range families {
		t.Run(f.typ, func(t *testing.T) {
			l := newLab(t, f.own)
			var said log
			n := living(60*time.Second, said.add)
			r := n.resource(t, f.typ+"::"+f.addr+"/"+l.nic)
			start(t, r)
			a := r.(*address)
			must(t, a.lock(context.Background()))
			defer a.unlock()
			look := func() (found netlink.Addr) {
				t.Helper()
				list, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(l.link(t), netlink.FAMILY_ALL) })
				must(t, err)
				for _, each := range list {
					if each.IPNet.String() == f.addr {
						found = each
					}
				}
				return found
			}
			before := look()
			n.Alive(time.Now().Add(-30 * time.Second))
			n.prolong([]*address{a})
			after := look()
			if after.ValidLft > 30 || after.ValidLft < 15 {
				t.Errorf("it has %d s left", after.ValidLft)
			}
			if before.Flags != after.Flags || before.Scope != after.Scope || before.Label != after.Label {
				t.Errorf("changed from %+v to %+v", before, after)
			}
			n.Alive(time.Now())
			l.del(t, f.addr)
			n.prolong([]*address{a})
			if v := l.valid(t, f.addr); v >= 0 {
				t.Errorf("it was added, with %d s", v)
			}
			if said.has("cannot be renewed") {
				t.Errorf("log: %q", said.list)
			}
		})
	}
}

// TestOthersSurviveExpiry: when a service address runs out that was its subnet's
// primary one, the node's own addresses and routes stay.
func TestOthersSurviveExpiry(t *testing.T) {
	for _, f := range families {
		t.Run(f.typ, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			n := living(20*time.Second, nil)
			r := n.resource(t, f.typ+"::"+f.addr+"/"+l.nic)
			start(t, r)
			l.add(t, f.own) // secondary where there is such a thing
			n.renewed.Store(0)
			n.Alive(time.Now())
			eventually(t, "renewed", func() bool { return n.renewed.Load() != 0 })
			n.renewed.Store(0)
			n.Alive(time.Now().Add(-18 * time.Second))
			eventually(t, "it runs out", func() bool { return l.valid(t, f.addr) < 0 })
			l.want(t, f.own)
			if v := l.valid(t, f.own); v != math.MaxUint32 {
				t.Errorf("the node's own address has %d s left", v)
			}
			if r := l.routes(t, f.own); len(r) != 1 || strings.Contains(r[0], "expires") {
				t.Errorf("routes to the subnet: %q", r)
			}
		})
	}
}

// routes are the routes of our end to the subnet of addr, as ip prints them: the
// library does not tell that one runs out.
func (l *lab) routes(t testing.TB, addr string) (list []string) {
	t.Helper()
	subnet := netip.MustParsePrefix(addr).Masked().String()
	for _, family := range []string{"-4", "-6"} {
		out, err := exec.Command("ip", family, "route", "show", "dev", l.nic).Output()
		must(t, err)
		for _, line := range strings.Split(string(out), "\n") {
			if strings.HasPrefix(line, subnet+" ") {
				list = append(list, line)
			}
		}
	}
	return list
}

// TestKeep: what an earlier process started is renewed from the first keepalive on,
// but not put back before it is started here, or the process goes on where that one
// was. Without lifetimes it becomes permanent.
func TestKeep(t *testing.T) {
	for _, f := range families {
		for _, how := range []string{"found", "watched", "without lifetimes", "was permanent"} {
			t.Run(f.typ+", "+how, func(t *testing.T) {
				l := newLab(t, f.own)
				entry := f.typ + "::" + f.addr + "/" + l.nic
				before := living(30*time.Second, nil)
				if how == "was permanent" {
					before = New(Options{})
				}
				start(t, before.resource(t, entry))
				// The earlier process is gone: it says nothing any more, and what it
				// knows must not be put back.
				before.disown(slices.Concat(values(before)...))

				o := Options{Deadtime: 60 * time.Second, Lifetime: 60 * time.Second}
				if how == "without lifetimes" {
					o.Lifetime = 0
				}
				n := New(o)
				r := n.resource(t, entry).(*address)
				must(t, r.Keep(context.Background(), how == "watched"))
				if how == "without lifetimes" {
					if v := l.valid(t, f.addr); v != math.MaxUint32 {
						t.Errorf("it has %d s left", v)
					}
					return
				}
				n.Alive(time.Now())
				eventually(t, "it is renewed", func() bool { v := l.valid(t, f.addr); return v > 50 && v <= 60 })
				if r := l.routes(t, f.own); len(r) != 1 || strings.Contains(r[0], "expires") {
					t.Errorf("routes to the subnet: %q", r)
				}
				l.del(t, f.addr)
				if how == "watched" {
					eventually(t, "it is put back", func() bool { return l.valid(t, f.addr) > 50 })
				} else {
					n.renew()
					r.tend()
					l.want(t, f.own)
				}
				start(t, r)
				l.want(t, f.own, strings.TrimSpace(f.addr+secondary(f.typ)))
				stop(t, r)
				l.want(t, f.own)
			})
		}
	}
}

func secondary(typ string) string {
	if typ == "IPv6addr" {
		return ""
	}
	return " secondary"
}

func values(n *Network) (list [][]*address) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range n.owned {
		list = append(list, l)
	}
	return list
}

// TestStopBeatsRenewal: renewals under way never bring an address back that is being
// stopped.
func TestStopBeatsRenewal(t *testing.T) {
	l := newLab(t, "10.1.0.1/24")
	n := living(60*time.Second, nil)
	var list []resources.Resource
	for i := range 100 {
		list = append(list, n.resource(t, fmt.Sprintf("IPaddr::10.1.0.%d/24/%s", 10+i, l.nic)))
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 60 {
			n.renew()
		}
	}()
	for range 5 {
		for _, err := range n.StartAll(context.Background(), list) {
			must(t, err)
		}
		for _, err := range n.StopAll(context.Background(), list) {
			must(t, err)
		}
		l.want(t, "10.1.0.1/24")
	}
	<-done
	l.want(t, "10.1.0.1/24")
}

// BenchmarkRenew prolongs the addresses of a large group, as happens every quarter of
// their lifetime while they are owned.
func BenchmarkRenew(b *testing.B) {
	for _, form := range []struct{ typ, pattern string }{
		{"IPaddr", "10.77.%d.%d/16/%s"},
		{"IPv6addr", "fd00:77::%x:%x/64/%s"},
	} {
		b.Run(form.typ+"/500", func(b *testing.B) {
			l := newLab(b, "10.77.255.1/16", "fd00:77::ffff/64")
			n := living(time.Minute, nil)
			var list []resources.Resource
			for i := range 500 {
				list = append(list, n.resource(b, form.typ+"::"+fmt.Sprintf(form.pattern, 1+i/250, 1+i%250, l.nic)))
			}
			for _, err := range n.StartAll(context.Background(), list) {
				must(b, err)
			}
			var before, after unix.Rusage
			must(b, unix.Getrusage(unix.RUSAGE_SELF, &before))
			for b.Loop() {
				n.Alive(time.Now())
				n.renew()
			}
			must(b, unix.Getrusage(unix.RUSAGE_SELF, &after))
			cpu := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
			b.ReportMetric(float64(cpu)/float64(b.N)/1e6, "cpu-ms/op")
			for _, err := range n.StopAll(context.Background(), list) {
				must(b, err)
			}
		})
	}
}
