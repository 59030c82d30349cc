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
	"slices"
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
	// Deadtime is the silence of this node after which the other one takes its
	// addresses: while the last call of [Network.Alive] is older, nothing is added,
	// put back or announced. Zero, for who is no node of a cluster: there is no such
	// check.
	Deadtime time.Duration
	// Lifetime is how long after a keepalive an address lives, as LifetimeFor
	// computes it; zero makes addresses that stay.
	Lifetime time.Duration
	// Watch makes claims of owned addresses by other machines be seen, and answered
	// by announcing them again. Claim, if not nil, is told of the first one and then
	// at most once a minute; it must not block.
	Watch bool
	Claim func(*Claimed)
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
// They share the network, which is opened when the first of their resources is used.
func (n *Network) Factories() map[string]resources.Factory {
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

func (n *Network) factory(typ string, k kind) resources.Factory {
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
	net  *Network
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

	claims      int       // since claimSaidAt
	claimSaidAt time.Time // when it was last said that another machine claims it
	defendedAt  time.Time
	unrenewedAt time.Time // when it was last said that it cannot be prolonged

	// Guarded by net.mu.
	next  time.Time // when it falls due; zero: never
	burst int       // announcements left of the burst
	index int       // of the interface that holds it
	// removed: the kernel says that it is gone, and it has not been looked for since.
	removed bool
}

func (a *address) Name() string { return a.typ + "::" + a.arg }

// Batch makes addresses of one network start and stop together.
func (a *address) Batch() resources.Batch { return a.net }

// atOnce is how many addresses go through each step together: enough that the
// kernel's work is most of it, few enough that the first are announced early, and
// that the answers fit into any socket buffer.
const atOnce = 64

// inChunks calls do with some addresses at a time, until ctx ends.
func inChunks(ctx context.Context, list []*address, do func(context.Context, []*address) []error) []error {
	errs := make([]error, 0, len(list))
	for chunk := range slices.Chunk(list, atOnce) {
		if ctx.Err() == nil {
			errs = append(errs, do(ctx, chunk)...)
			continue
		}
		for range chunk {
			errs = append(errs, context.Cause(ctx))
		}
	}
	return errs
}

// locked calls do with all addresses whose turn is free, and then with the others
// one by one, so that nobody waits for one while holding another.
func (n *Network) locked(ctx context.Context, list []*address, do func(context.Context, []*address) []error) []error {
	errs := make([]error, len(list))
	if err := n.ready(ctx); err != nil {
		for i := range errs {
			errs[i] = err
		}
		return errs
	}
	free, at := make([]*address, 0, len(list)), make([]int, 0, len(list))
	var busy []int
	for i, a := range list {
		if a.tryLock() {
			free, at = append(free, a), append(at, i)
		} else {
			busy = append(busy, i)
		}
	}
	for i, err := range do(ctx, free) {
		free[i].unlock()
		errs[at[i]] = err
	}
	for _, i := range busy {
		if errs[i] = list[i].lock(ctx); errs[i] == nil {
			errs[i] = do(ctx, list[i:i+1])[0]
			list[i].unlock()
		}
	}
	return errs
}

func (n *Network) ready(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return n.open()
}

func (a *address) tryLock() bool {
	select {
	case a.turn <- struct{}{}:
		return true
	default:
		return false
	}
}

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
	return a.net.locked(ctx, []*address{a}, a.net.start)[0]
}

// StartAll is Start for many.
func (n *Network) StartAll(ctx context.Context, list []resources.Resource) []error {
	return n.locked(ctx, addressesOf(list), n.start)
}

// addressesOf is never called with anything else: Batch brings them here.
func addressesOf(list []resources.Resource) []*address {
	addresses := make([]*address, len(list))
	for i, r := range list {
		addresses[i] = r.(*address)
	}
	return addresses
}

// adding is an address on its way to the kernel.
type adding struct {
	*address
	to    place
	found bool // it was there
	err   error
}

// start is Start for whoever has the turns.
func (n *Network) start(ctx context.Context, list []*address) []error {
	if !n.untilAlive(ctx.Done()) {
		errs := make([]error, len(list))
		for i := range errs {
			errs[i] = fmt.Errorf("%w: %w", errStalled, context.Cause(ctx))
		}
		return errs
	}
	errs := inChunks(ctx, list, n.startChunk)
	for round := 1; round < rounds; round++ {
		for i, a := range list {
			if errs[i] == nil {
				a.tell(a.place.link, round)
			}
		}
	}
	return errs
}

// startChunk is start without the later rounds of the announcements.
func (n *Network) startChunk(ctx context.Context, list []*address) []error {
	todo := make([]adding, len(list))
	for i, a := range list {
		todo[i].address = a
	}
	n.addAll(todo)
	stale := false
	for i := range todo {
		if errors.Is(todo[i].err, unix.ENODEV) {
			// The interface may have been made anew since it was looked up.
			if !stale {
				n.forget()
				stale = true
			}
			n.addAll(todo[i : i+1])
		}
	}
	for i := range todo {
		add := &todo[i]
		if add.err != nil {
			continue
		}
		if add.spec.addr.Is6() && (add.found || n.o.DAD) {
			add.err = add.settle(ctx, add.to)
		}
	}
	n.takeFromLo(todo)
	errs := make([]error, len(list))
	started := make([]*address, 0, len(list))
	for i := range todo {
		a := todo[i].address
		if errs[i] = todo[i].err; errs[i] == nil {
			a.held, a.announce = true, true
			started = append(started, a)
		}
	}
	n.own(started...)
	for _, a := range started {
		a.tell(a.place.link, 0)
	}
	return errs
}

// addAll puts addresses on their links. One that is there already is success, and
// found.
func (n *Network) addAll(todo []adding) {
	sent := 0       // those before are with the kernel
	brings := false // one of those not sent brings a route that may serve the next
	for i := range todo {
		add := &todo[i]
		if brings && add.asksRoutes() {
			n.send(todo[sent:i])
			sent, brings = i, false
		}
		if add.to, add.err = add.where(); add.err == nil {
			add.err = n.prepare(add.to.link, add.spec.addr)
		}
		brings = brings || add.err == nil && !n.routeKnown(add.to)
	}
	n.send(todo[sent:])
}

// send is addAll for addresses that know their places.
func (n *Network) send(todo []adding) {
	reqs, at, whose := make([]request, 0, len(todo)), make([]int, 0, len(todo)), make([]*address, 0, len(todo))
	for i := range todo {
		add := &todo[i]
		if add.err != nil {
			continue
		}
		r, ok := add.placeRequest(add.to, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
		if !ok {
			add.err = errStalled
			continue
		}
		add.place = add.to
		reqs, at, whose = append(reqs, r), append(at, i), append(whose, add.address)
	}
	n.add(reqs, whose)
	var found []*address
	for j, r := range reqs {
		add := &todo[at[j]]
		switch {
		case r.err == nil:
			n.newRoute(add.to)
		case errors.Is(r.err, unix.EEXIST):
			add.found = true
			found = append(found, add.address)
		default:
			if !add.held {
				add.place = place{}
			}
			add.err = fmt.Errorf("add %v to %s: %w", add.to.prefix, add.to.link.name, explained(r.err, add.to))
		}
	}
	// Whoever added them, what is ours lives as long as ours do.
	n.prolong(found)
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

// asksRoutes reports whether where looks at the routes.
func (a *address) asksRoutes() bool {
	return !a.place.prefix.IsValid() && !a.spec.complete()
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

// settle waits until an IPv6 address is usable. One that duplicate address
// detection refused is removed again; if it was refused to somebody who added it
// before us, and we do not ask, it is added without the question.
func (a *address) settle(ctx context.Context, p place) error {
	ctx, cancel := context.WithTimeoutCause(ctx, dadPatience, fmt.Errorf("duplicate address detection of %v on %s does not end", a.spec.addr, p.link.name))
	defer cancel()
	for {
		found, err := a.net.look(a.spec.addr, p.link.index)
		if err != nil {
			return err
		}
		switch {
		case found.flags&unix.IFA_F_DADFAILED != 0:
			remove := []removal{{address: a}}
			if a.net.removeAll(remove); remove[0].err != nil {
				return remove[0].err
			}
			if a.net.o.DAD {
				return fmt.Errorf("%v on %s: another machine has this address (duplicate address detection)", a.spec.addr, p.link.name)
			}
			add := []adding{{address: a, to: p}}
			if a.net.send(add); add[0].err != nil {
				return add[0].err
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

// Keep makes an address that an earlier process started ours: its lifetime is renewed
// from now on. If this process is to go on where that one was (watched), it is repaired
// and announced too; else that waits for a Start.
func (a *address) Keep(ctx context.Context, watched bool) error {
	if err := a.lock(ctx); err != nil {
		return err
	}
	defer a.unlock()
	n := a.net
	if err := n.open(); err != nil {
		return err
	}
	p, err := a.where()
	if err != nil {
		return err
	}
	a.place, a.held, a.announce = p, watched, true
	n.mu.Lock()
	if a.index == 0 {
		n.owned[a.spec.addr] = append(n.owned[a.spec.addr], a)
	}
	a.index = p.link.index
	if watched {
		a.burst = 1
		n.announced(a)
	}
	n.mu.Unlock()
	n.ownedChanged()
	if n.o.Lifetime == 0 {
		n.prolong([]*address{a})
	}
	return nil
}

// own makes addresses due for announcements and repair.
func (n *Network) own(list ...*address) {
	defer n.ownedChanged()
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, a := range list {
		if a.index == 0 {
			n.owned[a.spec.addr] = append(n.owned[a.spec.addr], a)
		}
		a.index = a.place.link.index
		a.burst = n.o.Announce.Burst
		n.announced(a)
	}
}

// announced counts an announcement and sets the time of the next one. The caller
// holds n.mu.
func (n *Network) announced(a *address) {
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
func (n *Network) planAt(a *address, at time.Time) {
	a.next = at
	if at.Add(together).Before(n.wakeAt) {
		n.poke()
	}
}

// disown is the reverse: from here on the addresses are neither announced nor put
// back.
func (n *Network) disown(list []*address) {
	defer n.ownedChanged()
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, a := range list {
		rest := slices.DeleteFunc(n.owned[a.spec.addr], func(other *address) bool { return other == a })
		if len(rest) == 0 {
			delete(n.owned, a.spec.addr)
		} else {
			n.owned[a.spec.addr] = rest
		}
		a.next, a.index = time.Time{}, 0
	}
}

// tellAll sends one announcement.
func (a *address) tellAll(l iface) {
	for round := range rounds {
		a.tell(l, round)
	}
}

// tell sends one round of an announcement. A failure is not one of the resource: the address
// works for whoever asks. It is logged when it begins.
func (a *address) tell(l iface, round int) {
	err := a.net.announce(a.spec.addr, l, round)
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
	removed := n.wasRemoved(a)
	if n.stale() {
		// It may have run out, and be the other node's.
		n.plan(a, 5*stalePause)
		return
	}
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
		r, ok := a.placeRequest(a.place, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
		if !ok {
			n.plan(a, stalePause)
			return
		}
		a.fixedAt = time.Now()
		reqs := []request{r}
		n.add(reqs, []*address{a})
		if err = reqs[0].err; errors.Is(err, unix.EEXIST) {
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
		n.own(a)
		a.tellAll(l)
		return
	}
	if removed {
		n.plan(a, lookAgain)
		return
	}
	a.tellAll(l)
	n.planNext(a, l.index)
}

// wasRemoved reports, once, that the address was said to be gone.
func (n *Network) wasRemoved(a *address) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	removed := a.removed
	a.removed = false
	return removed
}

// plan makes the address due after d.
func (n *Network) plan(a *address, d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if a.index != 0 {
		n.planAt(a, time.Now().Add(d))
	}
}

// planNext goes one step on in the schedule of announcements.
func (n *Network) planNext(a *address, index int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if a.index != 0 {
		if a.index != index {
			n.ownedChanged()
		}
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
func (n *Network) log(level, instance, classic, msg string, attrs ...any) {
	typ, _, _ := strings.Cut(instance, "_")
	n.o.Log(resources.Event{
		Level: level, Tag: fmt.Sprintf("/usr/lib/ocf/resource.d//heartbeat/%s(%s)", typ, instance),
		Classic: classic, Msg: msg, Attrs: attrs,
	})
}

// Stop removes the address, exactly this one with this prefix, and looks in the
// kernel whether the machine still answers for it.
func (a *address) Stop(ctx context.Context) error {
	return a.net.locked(ctx, []*address{a}, a.net.stop)[0]
}

// StopAll is Stop for many.
func (n *Network) StopAll(ctx context.Context, list []resources.Resource) []error {
	return n.locked(ctx, addressesOf(list), n.stop)
}

// removal is an address on its way out of the kernel.
type removal struct {
	*address
	from place
	err  error
}

// stop is Stop for whoever has the turns.
func (n *Network) stop(ctx context.Context, list []*address) []error {
	return inChunks(ctx, list, n.stopChunk)
}

func (n *Network) stopChunk(_ context.Context, list []*address) []error {
	todo := make([]removal, len(list))
	for i, a := range list {
		a.held = false
		todo[i].address = a
	}
	n.disown(list)
	n.removeAll(todo)
	stale := false
	for i := range todo {
		if errors.Is(todo[i].err, unix.ENODEV) {
			if !stale {
				n.forget()
				stale = true
			}
			n.removeAll(todo[i : i+1])
		}
	}
	// Without the interface, or a way to it, there may be no such address: the
	// look into the kernel decides that, not the error.
	errs := n.gone(list)
	for i, a := range list {
		switch {
		case errs[i] == nil:
			a.place = place{}
			if a.loCopy {
				a.backToLo()
			}
		case todo[i].err != nil:
			errs[i] = fmt.Errorf("%w (%w)", todo[i].err, errs[i])
		}
	}
	return errs
}

// removeAll deletes addresses from the links where they are; one that is not there
// is success.
func (n *Network) removeAll(todo []removal) {
	reqs, at := make([]request, 0, len(todo)), make([]int, 0, len(todo))
	for i := range todo {
		rm := &todo[i]
		if rm.from, rm.err = rm.where(); rm.err != nil {
			continue
		}
		if rm.spec.addr.Is4() && !n.keepsSecondaries(rm.from.link) {
			rm.err = rm.removeAlone(rm.from)
			continue
		}
		reqs, at = append(reqs, removeRequest(rm.from)), append(at, i)
	}
	n.k.ask(reqs)
	for j, r := range reqs {
		rm := &todo[at[j]]
		rm.err = removed(r, rm.from)
	}
}

func removed(r request, p place) error {
	if r.err != nil && !errors.Is(r.err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("remove %v from %s: %w", p.prefix, p.link.name, explained(r.err, p))
	}
	return nil
}

// removeAlone removes an address where the kernel takes its secondaries away with
// it, and puts those back.
func (a *address) removeAlone(p place) error {
	lost, err := a.net.secondariesOf(p)
	if err != nil {
		return err
	}
	reqs := []request{removeRequest(p)}
	a.net.k.ask(reqs)
	if err := removed(reqs[0], p); err != nil {
		return err
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
func (n *Network) secondariesOf(p place) ([]netlink.Addr, error) {
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

// gone returns an error for each address that an interface other than lo has. (One
// on an interface that is down counts: the machine answers for it on the others.)
func (n *Network) gone(list []*address) []error {
	reqs := make([]request, len(list))
	for i, a := range list {
		reqs[i] = lookRequest(a.spec.addr, 0)
	}
	n.k.ask(reqs)
	errs := make([]error, len(list))
	for i, a := range list {
		f, err := reqs[i].found(a.spec.addr)
		if err == nil && f.index != 0 {
			err = a.onlyOnLo()
		}
		errs[i] = err
	}
	return errs
}

func (a *address) onlyOnLo() error {
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

// takeFromLo removes the /32 copies on lo of addresses that were added, if there
// are any.
func (n *Network) takeFromLo(todo []adding) {
	var reqs []request
	var from []*address
	for i := range todo {
		add := &todo[i]
		if add.err != nil || !add.kind.loCopy || !add.spec.addr.Is4() || add.to.link.name == "lo" {
			continue
		}
		lo, err := n.link("lo")
		if err != nil {
			return
		}
		reqs, from = append(reqs, loRequest(unix.RTM_DELADDR, 0, add.spec.addr, lo)), append(from, add.address)
	}
	n.k.ask(reqs)
	for i, r := range reqs {
		if r.err == nil {
			from[i].loCopy = true
		}
	}
}

// backToLo gives lo its copy again.
func (a *address) backToLo() {
	lo, err := a.net.link("lo")
	if err == nil {
		reqs := []request{loRequest(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, a.spec.addr, lo)}
		a.net.k.ask(reqs)
		err = reqs[0].err
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		a.net.log("ERROR", a.instance(), fmt.Sprintf("cannot put %v back on lo: %v", a.spec.addr, err),
			"cannot restore address on lo", "address", a.spec.addr, "err", err)
	}
	a.loCopy = false
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
