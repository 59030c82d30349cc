// Package ipaddr is the service address: IPaddr, IPaddr2 and IPv6addr of
// haresources without a script. Addresses are added and removed through netlink,
// announced through packet sockets, watched while they are owned, and looked for
// in the kernel before they are called gone.
package ipaddr

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"heartbeat/resources"
)

// Options are the same for all addresses of the process.
type Options struct {
	// Announce is the schedule of announcements; the zero value means
	// DefaultAnnounce.
	Announce Announce
	// DAD lets the kernel ask whether somebody else has an IPv6 address before it
	// is used; that takes a second or more. Off by default: the cluster decides
	// who owns an address.
	DAD bool
	// Log takes each line and must not block.
	Log func(resources.Event)
}

const (
	// dadPatience is how long duplicate address detection may take, and dadPoll
	// how often its outcome is asked for.
	dadPatience = 10 * time.Second
	dadPoll     = 20 * time.Millisecond
)

// Factories returns the types of this package by the name written in haresources.
// They share one network, which is opened when the first of their resources is used.
func Factories(o Options) map[string]resources.Factory {
	if o.Announce == (Announce{}) {
		o.Announce = DefaultAnnounce
	}
	o.Announce.Burst = max(o.Announce.Burst, 1)
	if o.Log == nil {
		o.Log = func(resources.Event) {}
	}
	n := newNetwork(o)
	return map[string]resources.Factory{
		"IPaddr":   n.factory("IPaddr", kind{v4: true}),
		"IPaddr2":  n.factory("IPaddr2", kind{v4: true, v6: true, loCopy: true}),
		"IPv6addr": n.factory("IPv6addr", kind{v6: true}),
	}
}

// kind is what the types differ in.
type kind struct {
	v4, v6 bool
	// loCopy: a /32 copy of the address on lo, as a real server of a
	// direct-routing balancer has it, gives way while the address is owned.
	loCopy bool
}

func (n *network) factory(typ string, k kind) resources.Factory {
	return func(args []string) (resources.Resource, error) {
		if len(args) == 0 {
			return nil, fmt.Errorf("%s: no address given", typ)
		}
		arg := args[0]
		if len(args) > 1 {
			// "::" of an IPv6 address was taken for a separator.
			if !k.v6 {
				return nil, fmt.Errorf("%s: one argument expected, not %q", typ, args)
			}
			arg = strings.Join(args, "::")
		}
		s, err := parseSpec(arg)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%s: %w", typ, err)
		case s.addr.Is4() && !k.v4:
			return nil, fmt.Errorf("%s: %v is an IPv4 address: use IPaddr", typ, s.addr)
		case s.addr.Is6() && !k.v6:
			return nil, fmt.Errorf("%s: %v is an IPv6 address: use IPv6addr", typ, s.addr)
		}
		return &address{net: n, typ: typ, arg: arg, kind: k, spec: s, turn: make(chan struct{}, 1)}, nil
	}
}

// address is one service address as a resource.
type address struct {
	net  *network
	typ  string
	arg  string
	kind kind
	spec spec

	// turn holds one token: whoever has it may act on the address. That no two do
	// is what keeps a repair or an announcement from crossing a Stop.
	turn chan struct{}

	// Guarded by turn.
	held     bool  // started and not stopped: ours to announce and repair
	place    place // where Start put it; valid if the prefix is
	loCopy   bool  // the copy on lo was removed by us
	fixedAt  time.Time
	saidAt   time.Time
	repairs  int  // since saidAt
	announce bool // announcements work; a failure is logged when this changes

	// Guarded by net.mu.
	next  time.Time // when it falls due; zero: never
	burst int       // announcements left of the burst
	index int       // of the interface that holds it
}

func (a *address) Name() string { return a.typ + "::" + a.arg }

func (a *address) lock(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	select {
	case a.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (a *address) unlock() { <-a.turn }

// Start adds the address and announces it. An address that is there already, with
// the same prefix on the same interface, is kept as ours: a restarted daemon finds
// its own again.
func (a *address) Start(ctx context.Context) error {
	if err := a.lock(ctx); err != nil {
		return err
	}
	defer a.unlock()
	n := a.net
	if err := n.open(); err != nil {
		return err
	}
	p, err := a.where()
	found := false
	if err == nil {
		found, err = a.add(p)
	}
	if errors.Is(err, unix.ENODEV) {
		// The interface may have been made anew since it was looked up.
		n.forget()
		if p, err = a.where(); err == nil {
			found, err = a.add(p)
		}
	}
	if err != nil {
		return err
	}
	a.place = p
	if a.spec.addr.Is6() && (found || n.o.DAD) {
		if err := a.settle(ctx, p); err != nil {
			return err
		}
	}
	if a.kind.loCopy && a.spec.addr.Is4() {
		a.takeFromLo(p)
	}
	a.held, a.announce = true, true
	n.own(a, p.link.index)
	a.tell(p.link)
	return nil
}

// where is the place that Start chose before, if it did, with the interface as it
// is now; else what the spec and the routes say.
func (a *address) where() (p place, err error) {
	if !a.place.prefix.IsValid() {
		return a.net.find(a.spec)
	}
	p = a.place
	p.link, err = a.net.link(p.link.name)
	return p, err
}

// add puts the address on the link. One that is there already is success, and
// found.
func (a *address) add(p place) (found bool, err error) {
	if err := a.net.prepare(p.link, a.spec.addr); err != nil {
		return false, err
	}
	err = a.net.h.AddrAdd(link(p.link), a.netlinkAddr(p, true))
	switch {
	case err == nil:
		a.net.newRoute(p)
		return false, nil
	case errors.Is(err, unix.EEXIST):
		return true, nil
	}
	return false, fmt.Errorf("add %v to %s: %w", p.prefix, p.link.name, explained(err, p))
}

// explained adds what the bare error number does not tell.
func explained(err error, p place) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w (the daemon needs CAP_NET_ADMIN)", err)
	case errors.Is(err, unix.EACCES) && p.prefix.Addr().Is6():
		return fmt.Errorf("%w (is net.ipv6.conf.%s.disable_ipv6 set?)", err, p.link.name)
	}
	return err
}

func link(l iface) netlink.Link {
	return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: l.index}}
}

// netlinkAddr is the address in the form of the library; to remove one, label and
// broadcast are left out: they would have to match.
func (a *address) netlinkAddr(p place, whole bool) *netlink.Addr {
	na := &netlink.Addr{IPNet: &net.IPNet{
		IP:   p.prefix.Addr().AsSlice(),
		Mask: net.CIDRMask(p.prefix.Bits(), p.prefix.Addr().BitLen()),
	}}
	if !whole {
		return na
	}
	if a.spec.addr.Is4() {
		na.Label = a.spec.label
		if a.spec.broadcast.IsValid() {
			na.Broadcast = a.spec.broadcast.AsSlice()
		}
	} else if !a.net.o.DAD {
		na.Flags = unix.IFA_F_NODAD
	}
	return na
}

// settle waits until an IPv6 address is usable. One that duplicate address
// detection refused is removed again; if it was refused to somebody who added it
// before us, and we do not ask, it is added without the question.
func (a *address) settle(ctx context.Context, p place) error {
	ctx, cancel := context.WithTimeoutCause(ctx, dadPatience, fmt.Errorf("duplicate address detection of %v on %s does not end", a.spec.addr, p.link.name))
	defer cancel()
	for {
		found, err := a.net.lookup6(a.spec.addr, p.link.index)
		if err != nil {
			return err
		}
		switch {
		case found.flags&unix.IFA_F_DADFAILED != 0:
			if err := a.remove(p); err != nil {
				return err
			}
			if a.net.o.DAD {
				return fmt.Errorf("%v on %s: another machine has this address (duplicate address detection)", a.spec.addr, p.link.name)
			}
			if _, err := a.add(p); err != nil {
				return err
			}
		case found.flags&unix.IFA_F_TENTATIVE == 0:
			return nil
		}
		select {
		case <-time.After(dadPoll):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// own makes the address due for announcements and repair.
func (n *network) own(a *address, index int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if a.index == 0 {
		n.owned[a.spec.addr] = append(n.owned[a.spec.addr], a)
	}
	a.index = index
	a.burst = n.o.Announce.Burst
	n.announced(a)
}

// announced counts an announcement and sets the time of the next one. The caller
// holds n.mu.
func (n *network) announced(a *address) {
	pause := n.o.Announce.Refresh
	if a.burst > 1 {
		a.burst--
		pause = n.o.Announce.Interval
	}
	a.next = time.Time{}
	if pause > 0 {
		n.planAt(a, time.Now().Add(pause))
	}
}

// planAt makes the address due at a time. The caller holds n.mu.
func (n *network) planAt(a *address, at time.Time) {
	a.next = at
	if at.Add(together).Before(n.wakeAt) {
		n.poke()
	}
}

// disown is the reverse: from here on the address is neither announced nor put back.
func (n *network) disown(a *address) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var rest []*address
	for _, other := range n.owned[a.spec.addr] {
		if other != a {
			rest = append(rest, other)
		}
	}
	if len(rest) == 0 {
		delete(n.owned, a.spec.addr)
	} else {
		n.owned[a.spec.addr] = rest
	}
	a.next, a.index = time.Time{}, 0
}

// tell sends one announcement. A failure is not one of the resource: the address
// works for whoever asks. It is logged when it begins.
func (a *address) tell(l iface) {
	err := a.net.announce(a.spec.addr, l)
	ok := err == nil || errors.Is(err, errNoAnnounce)
	if !ok && a.announce {
		a.net.log("WARN", a.instance(), fmt.Sprintf("cannot announce %v on %s: %v", a.spec.addr, l.name, err),
			"cannot announce address", "address", a.spec.addr, "interface", l.name, "err", err)
	}
	a.announce = ok
}

// tend is called when the address is due: it puts it back if something else took
// it away, and announces it.
func (a *address) tend() {
	select {
	case a.turn <- struct{}{}:
	default:
		return // a Start or Stop is at it; nextBatch has set another time
	}
	defer a.unlock()
	if !a.held {
		return
	}
	n := a.net
	l, err := n.link(a.place.link.name)
	present := false
	if err == nil {
		a.place.link = l
		present, err = n.present(a.spec.addr, l.index)
	}
	if err == nil && !present {
		if left := retryAfter - time.Since(a.fixedAt); left > 0 {
			n.plan(a, left)
			return
		}
		a.fixedAt = time.Now()
		err = n.h.AddrAdd(link(l), a.netlinkAddr(a.place, true))
		if errors.Is(err, unix.EEXIST) {
			err, present = nil, true
		}
	}
	if err != nil {
		a.sayRepair("WARN", fmt.Sprintf("%v is gone from %s and cannot be put back: %v", a.place.prefix, a.place.link.name, err), err)
		n.plan(a, retryAfter)
		return
	}
	if !present {
		a.sayRepair("WARN", fmt.Sprintf("%v was removed from %s by something else: added again", a.place.prefix, l.name), nil)
		n.own(a, l.index)
		a.tell(l)
		return
	}
	a.tell(l)
	n.planNext(a, l.index)
}

// plan makes the address due after d.
func (n *network) plan(a *address, d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if a.index != 0 {
		n.planAt(a, time.Now().Add(d))
	}
}

// planNext goes one step on in the schedule of announcements.
func (n *network) planNext(a *address, index int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if a.index != 0 {
		a.index = index
		n.announced(a)
	}
}

// sayRepair logs the first repair at once and then, while they go on, one line a
// minute with their number.
func (a *address) sayRepair(level, text string, err error) {
	a.repairs++
	if time.Since(a.saidAt) < quietFor {
		return
	}
	if a.repairs > 1 {
		text += fmt.Sprintf(" (%d times since the last such line)", a.repairs)
	}
	a.net.log(level, a.instance(), text, "address was removed by something else",
		"address", a.spec.addr, "interface", a.place.link.name, "times", a.repairs, "err", err)
	a.saidAt, a.repairs = time.Now(), 0
}

func (a *address) instance() string { return a.typ + "_" + a.spec.addr.String() }

// log writes a line under the tag of the OCF agent that is replaced.
func (n *network) log(level, instance, classic, msg string, attrs ...any) {
	typ, _, _ := strings.Cut(instance, "_")
	n.o.Log(resources.Event{
		Level: level, Tag: fmt.Sprintf("/usr/lib/ocf/resource.d//heartbeat/%s(%s)", typ, instance),
		Classic: classic, Msg: msg, Attrs: attrs,
	})
}

// Stop removes the address, exactly this one with this prefix, and looks in the
// kernel whether the machine still answers for it.
func (a *address) Stop(ctx context.Context) error {
	if err := a.lock(ctx); err != nil {
		return err
	}
	defer a.unlock()
	n := a.net
	if err := n.open(); err != nil {
		return err
	}
	a.held = false
	n.disown(a)
	p, err := a.where()
	if err == nil {
		err = a.remove(p)
	}
	if errors.Is(err, unix.ENODEV) {
		n.forget()
		if p, err = a.where(); err == nil {
			err = a.remove(p)
		}
	}
	// Without the interface, or a way to it, there may be no such address: the
	// look into the kernel decides that, not the error.
	if goneErr := a.gone(); goneErr != nil {
		if err != nil {
			return fmt.Errorf("%w (%w)", err, goneErr)
		}
		return goneErr
	}
	a.place = place{}
	if a.loCopy {
		a.backToLo()
	}
	return nil
}

// remove deletes the address from the link; one that is not there is success.
func (a *address) remove(p place) error {
	var lost []netlink.Addr
	if a.spec.addr.Is4() && !a.net.keepsSecondaries(p.link) {
		var err error
		if lost, err = a.net.secondariesOf(p); err != nil {
			return err
		}
	}
	err := a.net.h.AddrDel(link(p.link), a.netlinkAddr(p, false))
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("remove %v from %s: %w", p.prefix, p.link.name, explained(err, p))
	}
	for _, other := range lost {
		if err := a.net.h.AddrAdd(link(p.link), &other); err != nil && !errors.Is(err, unix.EEXIST) {
			a.net.log("ERROR", a.instance(), fmt.Sprintf("%v went away with %v and cannot be put back: %v", other.IPNet, p.prefix, err),
				"address lost with its primary", "address", other.IPNet, "err", err)
		}
	}
	return nil
}

// secondariesOf lists what the kernel removes together with the address: all
// secondaries of its subnet if it is the primary one.
func (n *network) secondariesOf(p place) ([]netlink.Addr, error) {
	all, err := dump(func() ([]netlink.Addr, error) { return n.h.AddrList(link(p.link), netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("list addresses of %s: %w", p.link.name, err)
	}
	var others []netlink.Addr
	for _, other := range all {
		ip, _ := netip.AddrFromSlice(other.IP)
		bits, _ := other.Mask.Size()
		if bits != p.prefix.Bits() || !p.prefix.Contains(ip.Unmap()) {
			continue
		}
		secondary := other.Flags&unix.IFA_F_SECONDARY != 0
		if ip.Unmap() == p.prefix.Addr() && secondary {
			return nil, nil
		}
		if secondary {
			other.Flags = 0
			others = append(others, other)
		}
	}
	return others, nil
}

// gone returns nil when no interface but lo has the address. (One on an interface
// that is down counts: the machine answers for it on the others.)
func (a *address) gone() error {
	local, _, err := a.net.localOn(a.spec.addr)
	if err != nil || !local {
		return err
	}
	holders, err := a.net.holders(a.spec.addr)
	if err != nil {
		return err
	}
	for _, h := range holders {
		l, err := a.net.h.LinkByIndex(h.LinkIndex)
		if err != nil {
			return fmt.Errorf("%v is still up: interface %d: %w", a.spec.addr, h.LinkIndex, err)
		}
		if l.Attrs().Flags&net.FlagLoopback == 0 {
			return fmt.Errorf("%v is still up as %v on %s, which is not ours to remove", a.spec.addr, h.IPNet, l.Attrs().Name)
		}
	}
	return nil
}

// takeFromLo removes the /32 copy on lo, if there is one.
func (a *address) takeFromLo(p place) {
	if p.link.name == "lo" {
		return
	}
	lo, err := a.net.link("lo")
	if err == nil && a.net.h.AddrDel(link(lo), a.loAddr()) == nil {
		a.loCopy = true
	}
}

// backToLo gives lo its copy again.
func (a *address) backToLo() {
	lo, err := a.net.link("lo")
	if err == nil {
		err = a.net.h.AddrAdd(link(lo), a.loAddr())
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		a.net.log("ERROR", a.instance(), fmt.Sprintf("cannot put %v back on lo: %v", a.spec.addr, err),
			"cannot restore address on lo", "address", a.spec.addr, "err", err)
	}
	a.loCopy = false
}

func (a *address) loAddr() *netlink.Addr {
	return &netlink.Addr{
		IPNet: &net.IPNet{IP: a.spec.addr.AsSlice(), Mask: net.CIDRMask(32, 32)},
		Scope: unix.RT_SCOPE_HOST,
	}
}

// Status reports whether the address is on its interface.
func (a *address) Status(ctx context.Context) (resources.State, error) {
	if err := a.lock(ctx); err != nil {
		return resources.Unknown, err
	}
	defer a.unlock()
	n := a.net
	if err := n.open(); err != nil {
		return resources.Unknown, err
	}
	p, err := a.where()
	if err != nil {
		// Without the interface, or a way to it, it cannot be there; if the machine
		// has it all the same, what is running cannot be told.
		holders, listErr := n.holders(a.spec.addr)
		if listErr == nil && len(holders) == 0 {
			return resources.Stopped, nil
		}
		return resources.Unknown, errors.Join(err, listErr)
	}
	present, err := n.present(a.spec.addr, p.link.index)
	switch {
	case err != nil:
		return resources.Unknown, err
	case present:
		return resources.Running, nil
	}
	return resources.Stopped, nil
}
