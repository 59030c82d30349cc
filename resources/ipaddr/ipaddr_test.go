package ipaddr

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"
	"github.com/mdlayher/ndp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"heartbeat/resources"
	"heartbeat/resources/resourcetest"
)

func TestParseSpec(t *testing.T) {
	ip := netip.MustParseAddr
	for _, c := range []struct {
		arg  string
		want spec
	}{
		{"192.0.2.10", spec{addr: ip("192.0.2.10"), bits: -1}},
		{"192.0.2.10/24", spec{addr: ip("192.0.2.10"), bits: 24}},
		{"192.0.2.10/255.255.255.128", spec{addr: ip("192.0.2.10"), bits: 25}},
		{"192.0.2.10/24/eth0", spec{addr: ip("192.0.2.10"), bits: 24, nic: "eth0"}},
		{"192.0.2.10/24/eth0:0", spec{addr: ip("192.0.2.10"), bits: 24, nic: "eth0", label: "eth0:0"}},
		{"192.0.2.10/24/eth0.100:web", spec{addr: ip("192.0.2.10"), bits: 24, nic: "eth0.100", label: "eth0.100:web"}},
		{"192.0.2.10/24/eth0:", spec{addr: ip("192.0.2.10"), bits: 24, nic: "eth0"}},
		{"192.0.2.10/24/192.0.2.255", spec{addr: ip("192.0.2.10"), bits: 24, broadcast: ip("192.0.2.255")}},
		{"192.0.2.10/24/192.0.2.10", spec{addr: ip("192.0.2.10"), bits: 24, broadcast: ip("192.0.2.10")}},
		{"192.0.2.10/24/eth0/192.0.2.255", spec{addr: ip("192.0.2.10"), bits: 24, nic: "eth0", broadcast: ip("192.0.2.255")}},
		{"192.0.2.10/32/eth0:1/192.0.2.10", spec{addr: ip("192.0.2.10"), bits: 32, nic: "eth0", label: "eth0:1", broadcast: ip("192.0.2.10")}},
		{"192.0.2.10//eth0", spec{addr: ip("192.0.2.10"), bits: -1, nic: "eth0"}},
		{"2001:db8::1/64/eth0", spec{addr: ip("2001:db8::1"), bits: 64, nic: "eth0"}},
		{"::ffff:192.0.2.1/24", spec{addr: ip("192.0.2.1"), bits: 24}},
	} {
		got, err := parseSpec(c.arg)
		if err != nil || got != c.want {
			t.Errorf("%s: %+v (%v), want %+v", c.arg, got, err, c.want)
		}
	}
	for arg, want := range map[string]string{
		"":                                    "not an IP address",
		"192.0.2":                             "not an IP address",
		"192.0.2.10%eth0":                     "not an IP address",
		"fe80::1%eth0/64":                     "not an IP address",
		"0.0.0.0/24":                          "cannot be a service address",
		"224.0.0.1/24":                        "cannot be a service address",
		"ff02::1/64":                          "cannot be a service address",
		"192.0.2.10/0":                        "between 1 and 32",
		"192.0.2.10/33":                       "between 1 and 32",
		"192.0.2.10/-1":                       "between 1 and 32",
		"192.0.2.10/x":                        "between 1 and 32",
		"2001:db8::1/129":                     "between 1 and 128",
		"192.0.2.10/255.0.255.0":              "not a run of ones",
		"192.0.2.10/255.255.255.256":          "not a netmask",
		"2001:db8::1/255.255.0.0":             "not a netmask",
		"192.0.2.10/24/eth0/x":                "not a broadcast address",
		"192.0.2.10/24/1.2.3":                 "not a broadcast address",
		"2001:db8::1/64/eth0/192.0.2.1":       "not a broadcast address",
		"192.0.2.10/24/eth0:a-long-label-it":  "takes 15",
		"192.0.2.10/24/a-long-interface-name": "takes 15",
		"192.0.2.10/24/eth0/192.0.2.255/x":    "more than",
	} {
		if _, err := parseSpec(arg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want one with %q", arg, err, want)
		}
	}
}

func FuzzParseSpec(f *testing.F) {
	f.Add("192.0.2.10/255.255.255.0/eth0:1/192.0.2.255")
	f.Add("2001:db8::1/64/eth0")
	f.Add("///")
	f.Fuzz(func(t *testing.T, arg string) {
		s, err := parseSpec(arg)
		if err != nil {
			return
		}
		if !s.addr.IsValid() || s.bits > s.addr.BitLen() || len(s.label) > labelBytesMax {
			t.Errorf("%q gives %+v", arg, s)
		}
	})
}

func TestFactoryFamilies(t *testing.T) {
	factories := New(Options{}).Factories()
	for _, c := range []struct {
		typ  string
		args []string
		name string // "" for an error
	}{
		{"IPaddr", []string{"192.0.2.1"}, "IPaddr::192.0.2.1"},
		{"IPaddr", []string{"2001:db8:0:0:0:0:0:1"}, ""},
		{"IPaddr", nil, ""},
		{"IPaddr", []string{"192.0.2.1", "192.0.2.2"}, ""},
		{"IPaddr2", []string{"192.0.2.1"}, "IPaddr2::192.0.2.1"},
		{"IPaddr2", []string{"2001:db8", "1/64"}, "IPaddr2::2001:db8::1/64"},
		{"IPv6addr", []string{"2001:db8", "1/64/eth0"}, "IPv6addr::2001:db8::1/64/eth0"},
		{"IPv6addr", []string{"2001:db8:0:0:0:0:0:1"}, "IPv6addr::2001:db8:0:0:0:0:0:1"},
		{"IPv6addr", []string{"192.0.2.1"}, ""},
	} {
		r, err := factories[c.typ](c.args)
		if (err == nil) != (c.name != "") {
			t.Errorf("%s %q: error %v", c.typ, c.args, err)
		}
		if err == nil && r.Name() != c.name {
			t.Errorf("%s %q: name %s", c.typ, c.args, r.Name())
		}
	}
}

// TestForms adds each form of the argument to a real interface.
func TestForms(t *testing.T) {
	for _, c := range []struct {
		name, entry, want string
	}{
		{"bare address", "10.1.0.10", "10.1.0.10/24 secondary"},
		{"most specific route", "10.1.0.20", "10.1.0.20/28 secondary"},
		{"prefix length", "10.1.0.10/26", "10.1.0.10/26"},
		{"netmask", "10.1.0.10/255.255.255.0", "10.1.0.10/24 secondary"},
		{"host address", "IPaddr::10.1.0.10/32", "10.1.0.10/32"},
		{"interface", "IPaddr::10.9.0.10/24/NIC", "10.9.0.10/24"},
		{"interface, prefix from its route", "IPaddr::10.1.0.10//NIC", "10.1.0.10/24 secondary"},
		{"label", "IPaddr::10.1.0.10/24/NIC:0", "10.1.0.10/24 secondary label=NIC:0"},
		{"broadcast in third place", "10.1.0.10/24/10.1.0.10", "10.1.0.10/24 secondary"},
		{"broadcast in fourth place", "IPaddr2::10.1.0.10/24/NIC/10.1.0.255", "10.1.0.10/24 secondary"},
		{"IPv6", "IPv6addr::fd01::10/64/NIC", "fd01::10/64"},
		{"IPv6 by route", "IPv6addr::fd01::10", "fd01::10/64"},
		{"IPv6 host address", "IPaddr2::fd09::10/128/NIC", "fd09::10/128"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t, "10.1.0.1/24", "10.1.0.17/28", "fd01::1/64")
			own := l.addrs(t)
			entry, want := strings.ReplaceAll(c.entry, "NIC", l.nic), strings.ReplaceAll(c.want, "NIC", l.nic)
			r := factoriesWith(Options{})(t, entry)
			start(t, r)
			l.want(t, append(slices.Clone(own), want)...)
			wantState(t, r, resources.Running)
			stop(t, r)
			l.want(t, own...)
			wantState(t, r, resources.Stopped)
		})
	}
}

func TestBroadcastReachesTheKernel(t *testing.T) {
	l := newLab(t)
	r := factoriesWith(Options{})(t, "IPaddr::10.1.0.10/24/"+l.nic+"/10.1.0.63")
	start(t, r)
	defer stop(t, r)
	list, err := netlink.AddrList(l.link(t), netlink.FAMILY_V4)
	must(t, err)
	if len(list) != 1 || list[0].Broadcast.String() != "10.1.0.63" {
		t.Errorf("addresses are %v", list)
	}
}

func TestConformance(t *testing.T) {
	for _, pattern := range []string{"IPaddr::10.1.0.10/24/%s", "IPaddr2::10.1.0.10/32/%s:1", "IPv6addr::fd01::10/64/%s"} {
		t.Run(pattern, func(t *testing.T) {
			l := newLab(t, "10.1.0.1/24")
			build := factoriesWith(Options{})
			resourcetest.Run(t, func(t *testing.T) resources.Resource {
				return build(t, fmt.Sprintf(pattern, l.nic))
			})
		})
	}
}

// TestPrimaryAndSecondary: whoever is the primary address of the subnet, removing
// one leaves the others.
func TestPrimaryAndSecondary(t *testing.T) {
	l := newLab(t)
	build := factoriesWith(Options{})
	first, second := build(t, "IPaddr::10.1.0.10/24/"+l.nic), build(t, "IPaddr::10.1.0.11/24/"+l.nic)
	start(t, first)
	l.add(t, "10.1.0.1/24") // the host's own comes later and so is a secondary
	start(t, second)
	l.want(t, "10.1.0.10/24", "10.1.0.1/24 secondary", "10.1.0.11/24 secondary")
	stop(t, first)
	l.want(t, "10.1.0.1/24", "10.1.0.11/24 secondary")
	wantState(t, second, resources.Running)
	stop(t, second)
	l.want(t, "10.1.0.1/24")
}

// TestSecondariesSurviveWithoutTheSwitch is the same when promote_secondaries
// cannot be set.
func TestSecondariesSurviveWithoutTheSwitch(t *testing.T) {
	l := newLab(t)
	n := New(Options{Announce: DefaultAnnounce, Log: func(resources.Event) {}})
	n.promote[l.link(t).Attrs().Index] = false
	must(t, os.WriteFile(filepath.Join("/proc/sys/net/ipv4/conf", l.nic, "promote_secondaries"), []byte("0"), 0))
	r, err := n.factory("IPaddr", kind{v4: true})([]string{"10.1.0.10/24/" + l.nic})
	must(t, err)
	start(t, r)
	l.add(t, "10.1.0.1/24")
	l.add(t, "10.1.0.2/24")
	l.add(t, "10.1.0.3/25")
	l.want(t, "10.1.0.10/24", "10.1.0.1/24 secondary", "10.1.0.2/24 secondary", "10.1.0.3/25")
	stop(t, r)
	l.want(t, "10.1.0.1/24", "10.1.0.2/24 secondary", "10.1.0.3/25")
}

// TestForeignAddressIsSafe: the same address that somebody configured in another
// way is neither removed nor called stopped.
func TestForeignAddressIsSafe(t *testing.T) {
	for _, c := range []struct{ name, entry, foreign string }{
		{"IPv4, other prefix", "IPaddr::10.1.0.10/24/", "10.1.0.10/32"},
		{"IPv6 on another interface", "IPv6addr::fd01::10/64/", "fd01::10/128"},
		{"IPv4 on another interface", "IPaddr::10.1.0.10/24/", "10.1.0.10/24"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			other := l
			if strings.Contains(c.name, "another interface") {
				other = newLab(t)
			}
			other.add(t, c.foreign)
			r := factoriesWith(Options{})(t, c.entry+l.nic)
			start(t, r)
			err := r.Stop(context.Background())
			if err == nil || !strings.Contains(err.Error(), "still up as "+c.foreign+" on "+other.nic) {
				t.Errorf("stop: %v", err)
			}
			other.want(t, c.foreign)
			other.del(t, c.foreign)
			stop(t, r)
			l.want(t)
		})
	}
}

// TestFoundAtStart: a restarted daemon finds its address, keeps it, and can stop it,
// even without having started it.
func TestFoundAtStart(t *testing.T) {
	for _, addr := range []string{"10.1.0.10/24", "fd01::10/64"} {
		t.Run(addr, func(t *testing.T) {
			l := newLab(t)
			entry := "IPaddr2::" + addr + "/" + l.nic
			l.add(t, addr)
			r := factoriesWith(Options{})(t, entry)
			wantState(t, r, resources.Running)
			start(t, r)
			l.want(t, addr)
			stop(t, r)
			l.want(t)

			l.add(t, addr)
			stop(t, factoriesWith(Options{})(t, entry))
			l.want(t)
		})
	}
}

// TestStopOnDownInterface: an address that nobody can see now would answer as soon
// as the interface is up.
func TestStopOnDownInterface(t *testing.T) {
	l := newLab(t, "10.1.0.10/24")
	must(t, netlink.LinkSetDown(l.link(t)))
	err := factoriesWith(Options{})(t, "IPaddr::10.1.0.10").Stop(context.Background())
	if err == nil || !strings.Contains(err.Error(), "still up") {
		t.Errorf("stop without interface: %v", err)
	}
	stop(t, factoriesWith(Options{})(t, "IPaddr::10.1.0.10/24/"+l.nic))
	l.want(t)
}

func TestStartSetsLinkUp(t *testing.T) {
	l := newLab(t)
	must(t, netlink.LinkSetDown(l.link(t)))
	r := factoriesWith(Options{})(t, "IPaddr::10.1.0.10/24/"+l.nic)
	start(t, r)
	defer stop(t, r)
	l.waitCarrier(t)
	wantState(t, r, resources.Running)
}

func TestErrors(t *testing.T) {
	l := newLab(t)
	must(t, os.WriteFile(filepath.Join("/proc/sys/net/ipv6/conf", l.nic, "disable_ipv6"), []byte("1"), 0))
	for _, c := range []struct {
		entry, want string
		errno       error
	}{
		{"IPaddr::10.1.0.10/24/eth-none", "interface eth-none: no such device", unix.ENODEV},
		{"IPaddr::10.250.0.10", "no route leads to 10.250.0.10", nil},
		{"IPaddr::10.250.0.10/24", "no route leads to 10.250.0.10", nil},
		{"IPaddr::10.250.0.10//" + l.nic, "no route on that interface leads to 10.250.0.10", nil},
		{"IPv6addr::fe80::77/64", "no route leads to fe80::77", nil},
		{"IPv6addr::fd01::10/64/" + l.nic, "disable_ipv6", unix.EACCES},
	} {
		r := factoriesWith(Options{})(t, c.entry)
		err := r.Start(context.Background())
		if err == nil || !strings.Contains(err.Error(), c.want) || c.errno != nil && !errors.Is(err, c.errno) {
			t.Errorf("start %s: %v", c.entry, err)
		}
		stop(t, r) // nothing there: success
	}
	l.want(t)
}

// TestLabelOfAnotherDevice: the kernel would take it.
func TestLabelOfAnotherDevice(t *testing.T) {
	l := newLab(t)
	must(t, netlink.LinkAddAltName(l.link(t), "other"+l.nic))
	r := factoriesWith(Options{})(t, "IPaddr::10.1.0.10/24/other"+l.nic+":1")
	if err := r.Start(context.Background()); err == nil || !strings.Contains(err.Error(), "does not belong") {
		t.Errorf("start: %v", err)
	}
}

// TestAnnouncementIPv4 looks at the wire: both forms, at once, from the first byte.
func TestAnnouncementIPv4(t *testing.T) {
	l := newLab(t)
	wire := l.capture(t, ethernet.EtherTypeARP)
	// A repetition would come after an hour: what is seen is the first.
	r := factoriesWith(Options{Announce: Announce{Burst: 2, Interval: time.Hour}})(t, "IPaddr::10.1.0.10/24/"+l.nic)
	start(t, r)
	defer stop(t, r)
	mac := l.link(t).Attrs().HardwareAddr
	for _, op := range []arp.Operation{arp.OperationRequest, arp.OperationReply} {
		f, p := wire.arpFor(t, "10.1.0.10", op)
		if !bytes.Equal(f.Destination, ethernet.Broadcast) || !bytes.Equal(f.Source, mac) {
			t.Errorf("%v: ethernet %v -> %v", op, f.Source, f.Destination)
		}
		if p.TargetIP != netip.MustParseAddr("10.1.0.10") || !bytes.Equal(p.SenderHardwareAddr, mac) {
			t.Errorf("%v: %+v", op, p)
		}
	}
}

func TestAnnouncementIPv6(t *testing.T) {
	l := newLab(t)
	wire := l.capture(t, ethernet.EtherTypeIPv6)
	r := factoriesWith(Options{Announce: Announce{Burst: 2, Interval: time.Hour}})(t, "IPv6addr::fd01::10/64/"+l.nic)
	start(t, r)
	defer stop(t, r)
	mac := l.link(t).Attrs().HardwareAddr
	f, na := wire.naFor(t, "fd01::10")
	if !bytes.Equal(f.Destination, allNodesMAC) || f.Payload[7] != 255 {
		t.Errorf("to %v, hop limit %d", f.Destination, f.Payload[7])
	}
	option, _ := na.Options[0].(*ndp.LinkLayerAddress)
	if !na.Override || na.Solicited || option == nil || option.Direction != ndp.Target || !bytes.Equal(option.Addr, mac) {
		t.Errorf("advertisement %+v", na)
	}
	// The checksum over pseudo header and message is right if their sum is zero.
	icmp := f.Payload[40:]
	sum := uint32(len(icmp) + unix.IPPROTO_ICMPV6)
	for _, part := range [][]byte{f.Payload[8:40], icmp} {
		for i := 0; i+1 < len(part); i += 2 {
			sum += uint32(part[i])<<8 | uint32(part[i+1])
		}
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	if sum != 0xffff {
		t.Errorf("checksum is wrong: %04x", sum)
	}
}

// TestSchedule counts announcements: the burst, then the refresh, and none after
// the stop.
func TestSchedule(t *testing.T) {
	l := newLab(t)
	wire := l.capture(t, ethernet.EtherTypeARP)
	r := factoriesWith(Options{Announce: Announce{Burst: 3, Interval: 30 * time.Millisecond, Refresh: 60 * time.Millisecond}})(t, "IPaddr::10.1.0.10/24/"+l.nic)
	start(t, r)
	for range 6 { // a burst of three and three refreshes
		wire.arpFor(t, "10.1.0.10", arp.OperationRequest)
		wire.arpFor(t, "10.1.0.10", arp.OperationReply)
	}
	stop(t, r)
	// A marker behind the last frame: whatever comes before it was sent before the
	// stop, and a frame after it would be one too many.
	marker := factoriesWith(Options{Announce: Announce{Burst: 10, Interval: 50 * time.Millisecond}})(t, "IPaddr::10.1.0.99/24/"+l.nic)
	start(t, marker)
	defer stop(t, marker)
	wire.arpFor(t, "10.1.0.99", arp.OperationReply)
	for seen := 0; seen < 5; {
		f := wire.frame(t, func(f *ethernet.Frame) bool { return true })
		var p arp.Packet
		must(t, p.UnmarshalBinary(f.Payload))
		if p.SenderIP == netip.MustParseAddr("10.1.0.10") {
			t.Fatal("announced after the stop")
		}
		if p.SenderIP == netip.MustParseAddr("10.1.0.99") && p.Operation == arp.OperationReply {
			seen++
		}
	}
}

// TestNextPause walks the schedule without a clock.
func TestNextPause(t *testing.T) {
	for _, c := range []struct {
		announce Announce
		want     []time.Duration // pauses after the first, second, … announcement
	}{
		{DefaultAnnounce, []time.Duration{1100 * time.Millisecond, 1100 * time.Millisecond, 1100 * time.Millisecond, 1100 * time.Millisecond, time.Minute, time.Minute}},
		{Announce{Burst: 1, Interval: time.Second, Refresh: time.Hour}, []time.Duration{time.Hour, time.Hour}},
		{Announce{Burst: 2, Interval: time.Second}, []time.Duration{time.Second, 0}},
	} {
		n := New(Options{Announce: c.announce})
		a := &address{net: n, burst: c.announce.Burst}
		for i, want := range c.want {
			before := time.Now()
			n.announced(a)
			after := time.Now()
			if want == 0 {
				if !a.next.IsZero() {
					t.Errorf("%+v: announcement %d is not the last", c.announce, i+1)
				}
				break
			}
			if a.next.Before(before.Add(want)) || a.next.After(after.Add(want)) {
				t.Errorf("%+v: after announcement %d comes a pause of %v, want %v", c.announce, i+1, a.next.Sub(before), want)
			}
		}
	}
}

// TestComesBack: what something else removes is put back and announced again.
func TestComesBack(t *testing.T) {
	for _, addr := range []string{"10.1.0.10/24", "fd01::10/64"} {
		t.Run(addr, func(t *testing.T) {
			l := newLab(t)
			var events log
			r := factoriesWith(Options{Announce: Announce{Burst: 1}, Log: events.add})(t, "IPaddr2::"+addr+"/"+l.nic)
			start(t, r)
			l.del(t, addr)
			eventually(t, "address is back", func() bool { return slices.Contains(l.addrs(t), addr) })
			eventually(t, "line in the log", func() bool { return events.has("added again") })
			stop(t, r)
			l.want(t)
		})
	}
}

// TestComesBackWithTheInterface: pulled out and put in again, with another index.
func TestComesBackWithTheInterface(t *testing.T) {
	l := newLab(t)
	var events log
	r := factoriesWith(Options{Announce: Announce{Burst: 1}, Log: events.add})(t, "IPaddr::10.1.0.10/24/"+l.nic)
	start(t, r)
	must(t, netlink.LinkDel(l.link(t)))
	eventually(t, "line in the log", func() bool { return events.has("cannot be put back: ") })
	wantState(t, r, resources.Stopped)
	l.plugIn(t)
	eventually(t, "address is back", func() bool { return len(l.addrs(t)) == 1 })
	l.want(t, "10.1.0.10/24")
	stop(t, r)
	l.want(t)
}

// TestAnnouncedAgain: a new hardware address, or a cable plugged in again, starts
// the announcements anew.
func TestAnnouncedAgain(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*testing.T, *lab)
	}{
		{"other hardware address", func(t *testing.T, l *lab) {
			must(t, netlink.LinkSetHardwareAddr(l.link(t), net.HardwareAddr{2, 0, 0, 0, 0, 9}))
		}},
		{"cable out and in", func(t *testing.T, l *lab) {
			h, err := netlink.NewHandleAt(l.peer)
			must(t, err)
			defer h.Close()
			must(t, h.LinkSetDown(l.far))
			eventually(t, "no carrier", func() bool { return l.link(t).Attrs().RawFlags&unix.IFF_RUNNING == 0 })
			must(t, h.LinkSetUp(l.far))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			wire := l.capture(t, ethernet.EtherTypeARP)
			r := factoriesWith(Options{Announce: Announce{Burst: 1}})(t, "IPaddr::10.1.0.10/24/"+l.nic)
			start(t, r)
			defer stop(t, r)
			wire.arpFor(t, "10.1.0.10", arp.OperationReply)
			c.change(t, l)
			_, p := wire.arpFor(t, "10.1.0.10", arp.OperationReply)
			if mac := l.link(t).Attrs().HardwareAddr; !bytes.Equal(p.SenderHardwareAddr, mac) {
				t.Errorf("announced at %v, the interface is %v", p.SenderHardwareAddr, mac)
			}
		})
	}
}

// TestStaysAway: after a stop nothing puts the address back, however close the stop
// comes to a repair.
func TestStaysAway(t *testing.T) {
	l := newLab(t)
	build := factoriesWith(Options{Announce: Announce{Burst: 1}})
	r := build(t, "IPaddr::10.1.0.10/24/"+l.nic).(*address)
	theirs := l.link(t)
	addr, err := netlink.ParseAddr("10.1.0.10/24")
	must(t, err)
	for range 200 {
		start(t, r)
		// Something else is quicker than our stop, or not.
		addr := *addr // the library writes to it
		go func() { _ = netlink.AddrDel(theirs, &addr) }()
		stop(t, r)
		if got := l.addrs(t); len(got) != 0 {
			t.Fatalf("after the stop: %q", got)
		}
	}
}

// TestTendAfterStop: the announcer may have chosen the address just before it was
// stopped.
func TestTendAfterStop(t *testing.T) {
	l := newLab(t)
	var events log
	r := factoriesWith(Options{Log: events.add})(t, "IPaddr::10.1.0.10/24/"+l.nic).(*address)
	start(t, r)
	stop(t, r)
	wire := l.capture(t, ethernet.EtherTypeARP)
	r.tend()
	l.want(t)
	if events.has("") {
		t.Errorf("it is missed: %q", events.list)
	}
	r.net.mu.Lock()
	if len(r.net.owned) != 0 || !r.next.IsZero() {
		t.Error("a stopped address is still to be looked after")
	}
	r.net.mu.Unlock()
	marker := factoriesWith(Options{})(t, "IPaddr::10.1.0.99/24/"+l.nic)
	start(t, marker)
	defer stop(t, marker)
	wire.frame(t, func(f *ethernet.Frame) bool {
		var p arp.Packet
		if p.UnmarshalBinary(f.Payload) == nil && p.SenderIP == netip.MustParseAddr("10.1.0.10") {
			t.Error("announced after the stop")
		}
		return p.SenderIP == netip.MustParseAddr("10.1.0.99")
	})
}

// quietNetwork is one that nobody watches, so that what it remembers may be old.
func quietNetwork(t *testing.T) *Network {
	t.Helper()
	n := New(Options{Announce: DefaultAnnounce, Log: func(resources.Event) {}})
	var err error
	n.h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
	must(t, err)
	t.Cleanup(n.h.Close)
	n.k, err = openKernel()
	must(t, err)
	t.Cleanup(n.k.close)
	return n
}

// TestInterfaceMadeAnew: the interface of that name is another one than a moment ago.
func TestInterfaceMadeAnew(t *testing.T) {
	l := newLab(t)
	r, err := quietNetwork(t).factory("IPaddr", kind{v4: true})([]string{"10.1.0.10/24/" + l.nic})
	must(t, err)
	anew := func() {
		t.Helper()
		must(t, netlink.LinkDel(l.link(t)))
		l.plugIn(t)
	}
	start(t, r)
	anew()
	start(t, r)
	l.want(t, "10.1.0.10/24")
	anew()
	l.add(t, "10.1.0.10/24")
	stop(t, r)
	l.want(t)
}

// TestOwnRouteCounts: an address brings a route that is the most specific for the
// next one.
func TestOwnRouteCounts(t *testing.T) {
	l := newLab(t, "10.1.0.1/16")
	build := factoriesWith(Options{})
	for _, entry := range []string{"10.1.9.9", "10.1.5.10/24/" + l.nic, "10.1.5.20"} {
		r := build(t, entry)
		start(t, r)
		defer stop(t, r)
	}
	l.want(t, "10.1.0.1/16", "10.1.9.9/16 secondary", "10.1.5.10/24", "10.1.5.20/24 secondary")
}

// TestNoDAD: an IPv6 address is not on probation.
func TestNoDAD(t *testing.T) {
	l := newLab(t)
	r := factoriesWith(Options{})(t, "IPv6addr::fd01::10/64/"+l.nic).(*address)
	start(t, r)
	defer stop(t, r)
	found, err := r.net.look(r.spec.addr, 0)
	if err != nil || found.index != l.link(t).Attrs().Index || found.flags&unix.IFA_F_NODAD == 0 {
		t.Errorf("found %+v (%v)", found, err)
	}
}

// TestLostSubscription: the watcher's channel ends; removals are still repaired.
func TestLostSubscription(t *testing.T) {
	l := newLab(t)
	n := quietNetwork(t)
	ended := subscription[removedAddr]{make(chan removedAddr), make(chan struct{})}
	go follow(n, n.addrFeed(), ended)
	go n.tendAll()
	r, err := n.factory("IPaddr", kind{v4: true})([]string{"10.1.0.10/24/" + l.nic})
	must(t, err)
	start(t, r)
	l.del(t, "10.1.0.10/24") // unseen
	close(ended.updates)
	eventually(t, "repaired after the list", func() bool { return len(l.addrs(t)) == 1 })
	stop(t, r)
}

// TestToldBeforeDone: the kernel's news of a removal came before the address was
// gone, so it is looked for once more.
func TestToldBeforeDone(t *testing.T) {
	l := newLab(t)
	n := quietNetwork(t)
	n.o.Announce = Announce{Burst: 1, Refresh: time.Hour}
	ended := subscription[removedAddr]{make(chan removedAddr), make(chan struct{})}
	go n.tendAll()
	go follow(n, n.addrFeed(), ended)
	r, err := n.factory("IPaddr", kind{v4: true})([]string{"10.1.0.10/24/" + l.nic})
	must(t, err)
	start(t, r)
	a := r.(*address)
	ended.updates <- removedAddr{a.spec.addr, a.index}
	eventually(t, "it has been looked for", func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return !a.removed
	})
	must(t, a.lock(t.Context())) // the look has ended
	a.unlock()
	l.del(t, "10.1.0.10/24") // and that is the end of the removal
	eventually(t, "the address is back", func() bool { return len(l.addrs(t)) == 1 })
	stop(t, r)
}

// TestLoCopy: a real server's copy on lo gives way to IPaddr2 and comes back.
func TestLoCopy(t *testing.T) {
	l := newLab(t)
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	copied, err := netlink.ParseAddr("10.1.0.10/32")
	must(t, err)
	must(t, netlink.AddrAdd(lo, copied))
	defer func() { _ = netlink.AddrDel(lo, copied) }()
	onLo := func() bool {
		list, err := netlink.AddrList(lo, netlink.FAMILY_V4)
		must(t, err)
		return slices.ContainsFunc(list, func(a netlink.Addr) bool { return a.IP.String() == "10.1.0.10" })
	}
	r := factoriesWith(Options{})(t, "IPaddr2::10.1.0.10/24/"+l.nic)
	wantState(t, r, resources.Stopped)
	stop(t, r)
	if !onLo() {
		t.Fatal("a stop without a start removes the copy")
	}
	start(t, r)
	if onLo() {
		t.Error("the copy is still on lo")
	}
	stop(t, r)
	if !onLo() {
		t.Error("the copy is not back on lo")
	}
}

// TestDAD: another machine has the address. With detection the start fails and
// leaves nothing; without it the address is ours.
func TestDAD(t *testing.T) {
	l := newLab(t)
	h, err := netlink.NewHandleAt(l.peer)
	must(t, err)
	defer h.Close()
	theirs, err := netlink.ParseAddr("fd01::10/64")
	must(t, err)
	theirs.Flags = unix.IFA_F_NODAD
	must(t, h.AddrAdd(l.far, theirs))

	r := factoriesWith(Options{DAD: true})(t, "IPv6addr::fd01::10/64/"+l.nic)
	if err := r.Start(context.Background()); err == nil || !strings.Contains(err.Error(), "another machine has this address") {
		t.Errorf("start: %v", err)
	}
	l.want(t)
	stop(t, r)

	free := factoriesWith(Options{DAD: true})(t, "IPv6addr::fd01::11/64/"+l.nic)
	start(t, free)
	l.want(t, "fd01::11/64")
	stop(t, free)

	sure := factoriesWith(Options{})(t, "IPv6addr::fd01::10/64/"+l.nic)
	start(t, sure)
	l.want(t, "fd01::10/64")
	stop(t, sure)
}

// TestDADCancelled: a start that is called off during detection leaves what Stop
// removes.
func TestDADCancelled(t *testing.T) {
	l := newLab(t)
	r := factoriesWith(Options{DAD: true})(t, "IPv6addr::fd01::10/64/"+l.nic)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Start(ctx) }()
	eventually(t, "address is tentative", func() bool { return len(l.addrs(t)) == 1 })
	cancel()
	if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("start: %v", err)
	}
	stop(t, r)
	l.want(t)
}

// TestManyAddresses takes a long group while something else removes addresses of
// it, and gives it: each is there, and then none.
func TestManyAddresses(t *testing.T) {
	const count = 500
	l := newLab(t, "10.77.255.1/16")
	var entries []string
	for i := range count {
		entries = append(entries, fmt.Sprintf("10.77.%d.%d/16/%s", 1+i/250, 1+i%250, l.nic))
	}
	lib := resources.NewLibrary(resources.Options{ResourceDir: t.TempDir(), InitDir: t.TempDir(), Builtin: New(Options{}).Factories()})
	g := lib.Group("node1", entries)
	must(t, g.Take(context.Background()))
	if got := len(l.addrs(t)); got != count+1 {
		t.Errorf("%d addresses, want %d", got, count+1)
	}
	running, total, err := g.Status(context.Background())
	if running != count || total != count || err != nil {
		t.Errorf("status %d of %d (%v)", running, total, err)
	}
	for i := range count {
		if i%2 == 0 {
			l.del(t, fmt.Sprintf("10.77.%d.%d/16", 1+i/250, 1+i%250))
		}
	}
	eventually(t, "all are back", func() bool { return len(l.addrs(t)) == count+1 })
	must(t, g.Give(context.Background()))
	l.want(t, "10.77.255.1/16")
}

// batchOf builds resources that start and stop together.
func batchOf(t *testing.T, build func(testing.TB, string) resources.Resource, entries ...string) ([]resources.Resource, resources.Batch) {
	t.Helper()
	var list []resources.Resource
	for _, e := range entries {
		list = append(list, build(t, e))
	}
	return list, list[0].(resources.Batched).Batch()
}

// TestBatchKeepsErrorsApart: of several together each has its own outcome, at start
// and at stop.
func TestBatchKeepsErrorsApart(t *testing.T) {
	l, other := newLab(t), newLab(t)
	l.add(t, "10.1.0.11/24") // there already
	build := factoriesWith(Options{})
	list, batch := batchOf(t, build,
		"IPaddr2::10.1.0.10/24/"+l.nic,
		"IPaddr::10.1.0.11/24/"+l.nic,
		"IPaddr::10.1.0.12/24/eth-none",
		"IPv6addr::fd01::10/64/"+l.nic,
		"IPaddr::10.1.0.10/24/"+l.nic, // the first once more
		"IPaddr::10.1.0.14/24/"+other.nic,
	)
	list = append(list, list[0])
	check := func(action string, errs []error, want ...string) {
		t.Helper()
		for i, err := range errs {
			if (err == nil) != (want[i] == "") || err != nil && !strings.Contains(err.Error(), want[i]) {
				t.Errorf("%s of %s: %v, want %q", action, list[i].Name(), err, want[i])
			}
		}
	}
	check("start", batch.StartAll(context.Background(), list), "", "", "interface eth-none: no such device", "", "", "", "")
	l.want(t, "10.1.0.11/24", "10.1.0.10/24 secondary", "fd01::10/64")
	other.want(t, "10.1.0.14/24")
	other.add(t, "10.1.0.11/32")
	check("stop", batch.StopAll(context.Background(), list), "", "10.1.0.11 is still up as 10.1.0.11/32 on "+other.nic, "", "", "", "", "")
	l.want(t)
	other.want(t, "10.1.0.11/32")
}

// TestBatchFollowsRoutes is TestOwnRouteCounts within one batch.
func TestBatchFollowsRoutes(t *testing.T) {
	l := newLab(t, "10.1.0.1/16")
	list, batch := batchOf(t, factoriesWith(Options{}), "IPaddr::10.1.9.9", "IPaddr::10.1.5.10/24/"+l.nic, "IPaddr::10.1.5.20")
	must(t, errors.Join(batch.StartAll(context.Background(), list)...))
	l.want(t, "10.1.0.1/16", "10.1.9.9/16 secondary", "10.1.5.10/24", "10.1.5.20/24 secondary")
	must(t, errors.Join(batch.StopAll(context.Background(), list)...))
	l.want(t, "10.1.0.1/16")
}

// TestBatchWithInterfaceMadeAnew is TestInterfaceMadeAnew for many.
func TestBatchWithInterfaceMadeAnew(t *testing.T) {
	l := newLab(t)
	n := quietNetwork(t)
	var list []resources.Resource
	for i := range 3 {
		r, err := n.factory("IPaddr2", kind{v4: true, v6: true, loCopy: true})([]string{fmt.Sprintf("10.1.0.%d/24/%s", 10+i, l.nic)})
		must(t, err)
		list = append(list, r)
	}
	must(t, errors.Join(n.StartAll(context.Background(), list)...))
	must(t, netlink.LinkDel(l.link(t)))
	l.plugIn(t)
	must(t, errors.Join(n.StartAll(context.Background(), list)...))
	l.want(t, "10.1.0.10/24", "10.1.0.11/24 secondary", "10.1.0.12/24 secondary")
	must(t, netlink.LinkDel(l.link(t)))
	l.plugIn(t)
	for i := range 3 {
		l.add(t, fmt.Sprintf("10.1.0.%d/24", 10+i))
	}
	must(t, errors.Join(n.StopAll(context.Background(), list)...))
	l.want(t)
}

// TestBatchesCross: two groups have the same addresses in opposite order.
func TestBatchesCross(t *testing.T) {
	l := newLab(t)
	var entries []string
	for i := range 20 {
		entries = append(entries, fmt.Sprintf("IPaddr::10.1.0.%d/24/%s", 10+i, l.nic))
	}
	list, batch := batchOf(t, factoriesWith(Options{}), entries...)
	reverse := slices.Clone(list)
	slices.Reverse(reverse)
	var wg sync.WaitGroup
	for _, list := range [][]resources.Resource{list, reverse} {
		wg.Go(func() {
			for range 50 {
				_ = errors.Join(batch.StartAll(context.Background(), list)...)
				_ = errors.Join(batch.StopAll(context.Background(), list)...)
			}
		})
	}
	wg.Wait()
	must(t, errors.Join(batch.StopAll(context.Background(), list)...))
	l.want(t)
}

// TestBatchCancelled: nothing begins after the context has ended, and one that is
// busy is not waited for.
func TestBatchCancelled(t *testing.T) {
	l := newLab(t)
	list, batch := batchOf(t, factoriesWith(Options{}), "IPaddr::10.1.0.10/24/"+l.nic, "IPaddr::10.1.0.11/24/"+l.nic)
	ended := errors.New("ended")
	ctx, cancel := context.WithCancelCause(context.Background())
	busy := list[1].(*address)
	must(t, busy.lock(ctx))
	done := make(chan []error)
	go func() { done <- batch.StartAll(ctx, list) }()
	eventually(t, "the free one is started", func() bool { return len(l.addrs(t)) == 1 })
	cancel(ended)
	if errs := <-done; errs[0] != nil || errs[1] != ended {
		t.Errorf("start: %v", errs)
	}
	busy.unlock()
	for _, err := range batch.StopAll(ctx, list) {
		if err != ended {
			t.Errorf("stop: %v", err)
		}
	}
	l.want(t, "10.1.0.10/24")
	must(t, errors.Join(batch.StopAll(context.Background(), list)...))
	l.want(t)
}

// TestNoAnswer: silence of the kernel is an error, never success.
func TestNoAnswer(t *testing.T) {
	l := newLab(t)
	n := quietNetwork(t)
	r, err := n.factory("IPaddr", kind{v4: true})([]string{"10.1.0.10/24/" + l.nic})
	must(t, err)
	start(t, r)
	working := n.k
	n.k, err = openKernel()
	must(t, err)
	n.k.close()
	if err := r.Stop(context.Background()); !errors.Is(err, unix.EBADF) {
		t.Errorf("stop: %v", err)
	}
	if err := r.Start(context.Background()); !errors.Is(err, unix.EBADF) {
		t.Errorf("start: %v", err)
	}
	n.k = working
	l.want(t, "10.1.0.10/24")
	stop(t, r)
	l.want(t)
}

// TestLateAnswers: what the kernel says to a batch that was given up is not taken
// for the answer to the next.
func TestLateAnswers(t *testing.T) {
	l := newLab(t, "10.1.0.1/24")
	k, err := openKernel()
	must(t, err)
	defer k.close()
	given := []request{lookRequest(netip.MustParseAddr("10.1.0.1"), 0)}
	k.seq++
	must(t, unix.Sendto(k.fd, given[0].append(nil, k.seq), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
	reqs := []request{
		lookRequest(netip.MustParseAddr("10.1.0.2"), 0),
		lookRequest(netip.MustParseAddr("10.1.0.1"), 0),
		lookRequest(netip.MustParseAddr("fd01::1"), 0),
	}
	k.ask(reqs)
	for i, want := range []bool{false, true, false} {
		addr := netip.MustParseAddr([]string{"10.1.0.2", "10.1.0.1", "fd01::1"}[i])
		f, err := reqs[i].found(addr)
		if err != nil || want != (f.index != 0) || want && f.index != l.link(t).Attrs().Index {
			t.Errorf("%v: %+v (%v)", addr, f, err)
		}
	}
}

// TestManyAnnounced: when a Take returns, both forms have left for every address.
func TestManyAnnounced(t *testing.T) {
	const count = 70 // more than one batch
	l := newLab(t)
	wire := l.capture(t, ethernet.EtherTypeARP)
	var entries []string
	for i := range count {
		entries = append(entries, fmt.Sprintf("10.1.0.%d/24/%s", 1+i, l.nic))
	}
	lib := resources.NewLibrary(resources.Options{ResourceDir: t.TempDir(), InitDir: t.TempDir(), Builtin: New(Options{Announce: Announce{Burst: 1}}).Factories()})
	g := lib.Group("node1", entries)
	must(t, g.Take(context.Background()))
	for i := range count {
		wire.arpFor(t, fmt.Sprintf("10.1.0.%d", 1+i), arp.OperationReply)
	}
	must(t, g.Give(context.Background()))
	l.want(t)
}
