package ipaddr

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"heartbeat/resources"
)

const (
	// cacheFor is how long the look of a link and the list of routes are believed:
	// long enough that a group of hundreds of addresses asks once, short enough
	// that nobody waits for it.
	cacheFor = 200 * time.Millisecond
	// kernelPatience bounds one netlink request.
	kernelPatience = 5 * time.Second
	// dumpTries is how often a dump that the kernel calls inconsistent is repeated
	// before its result is used as it is.
	dumpTries = 5
	// watchBufferBytes holds the notices of some ten thousand changes.
	watchBufferBytes = 4 << 20
	// retryAfter is the pause before a failed attempt on an address is repeated,
	// and between two repairs of the same one.
	retryAfter = time.Second
	// lookAgain is the pause before an address that is said to be gone, and is
	// there all the same, is looked for once more: the kernel tells of a removal a
	// moment before it is done.
	lookAgain = 200 * time.Millisecond
	// quietFor is the pause between log lines on an address that is fought over.
	quietFor = time.Minute
	// paceAddresses are announced at a time, pacePause apart, when many are due at
	// once: switches drop broadcast storms.
	paceAddresses = 64
	pacePause     = 5 * time.Millisecond
	// together is the slack within which announcements are sent in one go.
	together = 20 * time.Millisecond
)

// iface is what an address must know of its link.
type iface struct {
	index int
	name  string
	mac   net.HardwareAddr // nil where announcements make no sense
	up    bool
	// carrier: something is at the other end of the cable.
	carrier bool
}

// Network is the machine's addresses and links as this process uses them: two
// netlink sockets, one packet socket per interface, goroutines that watch addresses
// and links, one that announces and one that prolongs lifetimes. Everything is
// opened at the first use; it lasts as long as the process.
type Network struct {
	o Options

	openMu sync.Mutex
	h      *netlink.Handle // for lists and links; nil until opened
	k      *kernel         // for addresses

	mu      sync.Mutex
	links   map[string]cached[iface]
	routes  map[int]cached[[]netlink.Route] // by family
	promote map[int]bool                    // by index: deleting a primary keeps its secondaries
	senders map[int]*sender
	owned   map[netip.Addr][]*address
	wakeAt  time.Time     // when tendAll looks next without being asked
	wake    chan struct{} // capacity 1: something is due earlier than that

	epoch time.Time
	// alive and renewed are when the loop's last keepalive went out, and which one
	// was the last to prolong the addresses: nanoseconds since epoch, 0 for none.
	alive, renewed atomic.Int64
	// ownedNews has room for one word that owned has changed.
	ownedNews chan struct{}
	// keepalives has room for one that is to prolong the addresses, the newest.
	keepalives chan time.Time
}

type cached[T any] struct {
	value T
	at    time.Time
}

// New touches nothing on the machine.
func New(o Options) *Network {
	if o.Announce == (Announce{}) {
		o.Announce = DefaultAnnounce
	}
	o.Announce.Burst = max(o.Announce.Burst, 1)
	if o.Log == nil {
		o.Log = func(resources.Event) {}
	}
	return &Network{
		o:       o,
		links:   make(map[string]cached[iface]),
		routes:  make(map[int]cached[[]netlink.Route]),
		promote: make(map[int]bool),
		senders: make(map[int]*sender),
		owned:   make(map[netip.Addr][]*address),
		wake:    make(chan struct{}, 1),
		// Long before any keepalive: the first one renews.
		epoch:      time.Now().Add(-time.Hour),
		ownedNews:  make(chan struct{}, 1),
		keepalives: make(chan time.Time, 1),
	}
}

// open connects to the kernel in the network namespace of the calling thread.
func (n *Network) open() error {
	n.openMu.Lock()
	defer n.openMu.Unlock()
	if n.h != nil {
		return nil
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	if err := h.SetSocketTimeout(kernelPatience); err != nil {
		h.Close()
		return fmt.Errorf("netlink time limit: %w", err)
	}
	k, err := openKernel()
	if err != nil {
		h.Close()
		return err
	}
	// Before the first address is added, so that no removal can be missed.
	addrs, links := n.addrFeed(), n.linkFeed()
	addrNews, err := addrs.open()
	if err != nil {
		h.Close()
		k.close()
		return err
	}
	linkNews, err := links.open()
	if err != nil {
		close(addrNews.done)
		h.Close()
		k.close()
		return err
	}
	n.h, n.k = h, k
	go follow(n, addrs, addrNews)
	go follow(n, links, linkNews)
	go n.tendAll()
	go n.renewAll()
	go n.watchClaims()
	return nil
}

// link looks an interface up, through the cache.
func (n *Network) link(name string) (iface, error) {
	n.mu.Lock()
	known, ok := n.links[name]
	n.mu.Unlock()
	if ok && time.Since(known.at) < cacheFor {
		return known.value, nil
	}
	return n.linkNow(name)
}

func (n *Network) linkNow(name string) (iface, error) {
	l, err := n.h.LinkByName(name)
	if err != nil {
		if _, gone := errors.AsType[netlink.LinkNotFoundError](err); gone {
			err = unix.ENODEV
		}
		n.mu.Lock()
		delete(n.links, name)
		n.mu.Unlock()
		return iface{}, fmt.Errorf("interface %s: %w", name, err)
	}
	found := ifaceOf(l)
	n.mu.Lock()
	n.links[name] = cached[iface]{found, time.Now()}
	n.mu.Unlock()
	return found, nil
}

// linkAt looks an interface up by its index, through the cache.
func (n *Network) linkAt(index int) (iface, error) {
	n.mu.Lock()
	for _, known := range n.links {
		if known.value.index == index && time.Since(known.at) < cacheFor {
			n.mu.Unlock()
			return known.value, nil
		}
	}
	n.mu.Unlock()
	l, err := n.h.LinkByIndex(index)
	if err != nil {
		return iface{}, err
	}
	found := ifaceOf(l)
	n.mu.Lock()
	n.links[found.name] = cached[iface]{found, time.Now()}
	n.mu.Unlock()
	return found, nil
}

func ifaceOf(l netlink.Link) iface {
	attrs := l.Attrs()
	found := iface{index: attrs.Index, name: attrs.Name, up: attrs.Flags&net.FlagUp != 0, carrier: attrs.RawFlags&unix.IFF_RUNNING != 0}
	silent := attrs.Flags&net.FlagLoopback != 0 || attrs.RawFlags&unix.IFF_NOARP != 0
	if !silent && len(attrs.HardwareAddr) == 6 {
		found.mac = attrs.HardwareAddr
	}
	return found
}

// place is where an address goes: the blanks of its spec filled in.
type place struct {
	link   iface
	prefix netip.Prefix
}

// find fills the blanks of a spec in: interface and prefix length come from the
// most specific route that reaches the address without a gateway.
func (n *Network) find(s spec) (place, error) {
	var p place
	var err error
	if s.nic != "" {
		if p.link, err = n.link(s.nic); err != nil {
			return p, err
		}
		if s.label != "" && !strings.HasPrefix(s.label, p.link.name+":") {
			return p, fmt.Errorf("label %s does not belong to interface %s", s.label, p.link.name)
		}
		if s.bits >= 0 {
			p.prefix = netip.PrefixFrom(s.addr, s.bits)
			return p, nil
		}
	}
	route, err := n.connected(s.addr, p.link.index)
	if err != nil {
		return p, err
	}
	if s.nic == "" {
		if p.link, err = n.linkAt(route.LinkIndex); err != nil {
			return p, fmt.Errorf("interface %d of the route to %v: %w", route.LinkIndex, s.addr, err)
		}
	}
	bits := s.bits
	if bits < 0 {
		bits, _ = route.Dst.Mask.Size()
	}
	p.prefix = netip.PrefixFrom(s.addr, bits)
	return p, nil
}

// connected is the longest route to addr that needs no gateway, on the interface
// with that index if it is not 0. A list older than the question is not trusted to
// say "none".
func (n *Network) connected(addr netip.Addr, index int) (netlink.Route, error) {
	family := family(addr)
	n.mu.Lock()
	known, ok := n.routes[family]
	n.mu.Unlock()
	if ok && time.Since(known.at) < cacheFor {
		if best := longest(known.value, addr, index); best != nil {
			return *best, nil
		}
	}
	at := time.Now()
	routes, err := dump(func() ([]netlink.Route, error) {
		return n.h.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return netlink.Route{}, fmt.Errorf("list routes: %w", err)
	}
	n.mu.Lock()
	n.routes[family] = cached[[]netlink.Route]{routes, at}
	n.mu.Unlock()
	best := longest(routes, addr, index)
	if best == nil {
		where := ""
		if index != 0 {
			where = " on that interface"
		}
		return netlink.Route{}, fmt.Errorf("no route%s leads to %v without a gateway: write %v/PREFIX/INTERFACE", where, addr, addr)
	}
	return *best, nil
}

func longest(routes []netlink.Route, addr netip.Addr, index int) *netlink.Route {
	var best *netlink.Route
	bestBits := 0
	for i := range routes {
		r := &routes[i]
		if r.Dst == nil || r.Gw != nil || len(r.MultiPath) > 0 || r.LinkIndex == 0 || r.Type != unix.RTN_UNICAST {
			continue
		}
		if index != 0 && r.LinkIndex != index {
			continue
		}
		if index == 0 && addr.IsLinkLocalUnicast() && addr.Is6() {
			continue // fe80::/64 is on every interface
		}
		bits, _ := r.Dst.Mask.Size()
		if bits == 0 || !r.Dst.Contains(addr.AsSlice()) {
			continue
		}
		if best == nil || bits > bestBits || bits == bestBits && r.Priority < best.Priority {
			best, bestBits = r, bits
		}
	}
	return best
}

// forget makes the next questions ask the kernel.
func (n *Network) forget() {
	n.mu.Lock()
	clear(n.links)
	clear(n.routes)
	n.mu.Unlock()
}

// newRoute drops the list of routes if the address brought one that is not in it.
func (n *Network) newRoute(p place) {
	if n.routeKnown(p) {
		return
	}
	n.mu.Lock()
	delete(n.routes, family(p.prefix.Addr()))
	n.mu.Unlock()
}

// routeKnown reports whether the route that the address brings tells nobody
// anything new: none but the address itself, or one that is in the list.
func (n *Network) routeKnown(p place) bool {
	if p.prefix.IsSingleIP() {
		return true
	}
	subnet := p.prefix.Masked()
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, r := range n.routes[family(subnet.Addr())].value {
		if r.Dst == nil || r.LinkIndex != p.link.index {
			continue
		}
		if dst, ok := prefixOf(r.Dst); ok && dst == subnet {
			return true
		}
	}
	return false
}

func prefixOf(ipNet *net.IPNet) (netip.Prefix, bool) {
	ip, ok := netip.AddrFromSlice(ipNet.IP)
	bits, size := ipNet.Mask.Size()
	return netip.PrefixFrom(ip.Unmap(), bits), ok && size > 0
}

// prepare makes a link ready for addresses: up, as the original does, and such
// that removing a primary address keeps the others of its subnet.
func (n *Network) prepare(link iface, addr netip.Addr) error {
	if !link.up {
		if err := n.h.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: link.index}}); err != nil {
			return fmt.Errorf("set interface %s up: %w", link.name, err)
		}
		n.forget() // up brings routes
	}
	if addr.Is4() {
		n.keepsSecondaries(link)
	}
	return nil
}

// keepsSecondaries sets promote_secondaries on the interface, once, and reports
// whether it is set. Without it the kernel removes all secondary addresses of a
// subnet together with the primary one.
func (n *Network) keepsSecondaries(link iface) bool {
	n.mu.Lock()
	set, done := n.promote[link.index]
	n.mu.Unlock()
	if done {
		return set
	}
	path := filepath.Join("/proc/sys/net/ipv4/conf", link.name, "promote_secondaries")
	err := os.WriteFile(path, []byte("1\n"), 0)
	if err != nil {
		// A read-only /proc may have it set already.
		text, readErr := os.ReadFile(path)
		if readErr == nil && strings.TrimSpace(string(text)) == "1" {
			err = nil
		}
	}
	n.mu.Lock()
	n.promote[link.index] = err == nil
	n.mu.Unlock()
	if err != nil {
		n.log("WARN", "IPaddr", fmt.Sprintf("cannot set promote_secondaries on %s: %v", link.name, err),
			"cannot set promote_secondaries", "interface", link.name, "err", err)
	}
	return err == nil
}

// dump repeats a list that changed while it was being read.
func dump[T any](list func() ([]T, error)) (result []T, err error) {
	for range dumpTries {
		if result, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return result, err
		}
	}
	return result, nil
}

// holders lists where addr is configured.
func (n *Network) holders(addr netip.Addr) ([]netlink.Addr, error) {
	all, err := dump(func() ([]netlink.Addr, error) { return n.h.AddrList(nil, family(addr)) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var found []netlink.Addr
	for _, a := range all {
		if ip, ok := netip.AddrFromSlice(a.IP); ok && ip.Unmap() == addr {
			found = append(found, a)
		}
	}
	return found, nil
}

// look asks where the kernel has an address, on one interface or (index 0, and
// IPv4) on any.
func (n *Network) look(addr netip.Addr, index int) (found, error) {
	reqs := []request{lookRequest(addr, index)}
	n.k.ask(reqs)
	return reqs[0].found(addr)
}

// present reports whether addr is on the interface.
func (n *Network) present(addr netip.Addr, index int) (bool, error) {
	f, err := n.look(addr, index)
	switch {
	case err != nil || f.index == 0:
		return false, err
	case f.index == index:
		return true, nil
	}
	// Of two interfaces with the same address the route shows one.
	holders, err := n.holders(addr)
	for _, h := range holders {
		if h.LinkIndex == index {
			return true, err
		}
	}
	return false, err
}

// announce sends one round of an announcement through the interface's socket.
func (n *Network) announce(addr netip.Addr, link iface, round int) error {
	if link.mac == nil {
		return errNoAnnounce
	}
	frame, err := announcement(addr, link.mac, round)
	if frame == nil || err != nil {
		return err
	}
	return n.transmit(link, frame)
}

// transmit sends a frame through the interface's socket.
func (n *Network) transmit(link iface, frame []byte) error {
	n.mu.Lock()
	s := n.senders[link.index]
	n.mu.Unlock()
	if s == nil {
		var err error
		if s, err = openSender(link); err != nil {
			return err
		}
		n.mu.Lock()
		if other := n.senders[link.index]; other != nil {
			s.close()
			s = other
		}
		n.senders[link.index] = s
		n.mu.Unlock()
	}
	err := s.send(frame)
	if errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV) || errors.Is(err, net.ErrClosed) {
		// The interface is gone, and with it the socket's use; one of the same
		// name gets another index.
		n.mu.Lock()
		if n.senders[link.index] == s {
			delete(n.senders, link.index)
		}
		n.mu.Unlock()
		s.close()
	}
	return err
}

// subscription is a stream of notices from the kernel; it ends when too much
// happens at once, which closes the channel.
type subscription[T any] struct {
	updates chan T
	done    chan struct{}
}

// feed says how to subscribe to notices, what to do with each, and what after some
// may have been lost.
type feed[T any] struct {
	what      string
	subscribe func(chan<- T, <-chan struct{}) error
	each      func(T)
	lost      func()
}

func (f feed[T]) open() (subscription[T], error) {
	s := subscription[T]{make(chan T, 1024), make(chan struct{})}
	if err := f.subscribe(s.updates, s.done); err != nil {
		close(s.done)
		return s, fmt.Errorf("watch %s: %w", f.what, err)
	}
	return s, nil
}

// follow handles notices and subscribes again when the stream ends. Runs as long as
// the process.
func follow[T any](n *Network, f feed[T], s subscription[T]) {
	for {
		for u := range s.updates {
			f.each(u)
		}
		close(s.done)
		for {
			var err error
			if s, err = f.open(); err == nil {
				break
			}
			n.log("WARN", "IPaddr", err.Error(), "cannot watch the kernel", "err", err)
			time.Sleep(retryAfter)
		}
		f.lost()
	}
}

// removedAddr is the news that an address is gone from an interface.
type removedAddr struct {
	addr  netip.Addr
	index int
}

// addrFeed makes every removal of an owned address due for repair.
func (n *Network) addrFeed() feed[removedAddr] {
	return feed[removedAddr]{
		what:      "addresses",
		subscribe: subscribeRemovals,
		each:      func(r removedAddr) { n.due(r.addr, r.index, true) },
		lost:      func() { n.due(netip.Addr{}, 0, true) },
	}
}

// subscribeRemovals opens a stream of removed addresses. The kernel is asked to keep
// the news of added ones, which are mostly our own: a group of hundreds would wake us
// for each, just when there is no time. Our own removals are heard, since the kernel
// may have removed more than was asked.
func subscribeRemovals(updates chan<- removedAddr, done <-chan struct{}) error {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR)
	if err != nil {
		return err
	}
	err = errors.Join(s.SetReceiveBufferSize(watchBufferBytes, true), noticesOf(s.GetFd(), unix.RTM_DELADDR))
	if err != nil {
		s.Close()
		return err
	}
	go func() {
		<-done
		s.Close()
	}()
	go func() { // ends with the socket, or with an error: that is the news
		defer close(updates)
		for {
			msgs, from, err := s.Receive()
			if err != nil {
				return
			}
			for _, m := range msgs {
				if from.Pid != nl.PidKernel || m.Header.Type != unix.RTM_DELADDR {
					continue
				}
				if r, ok := parseRemoved(m.Data); ok {
					updates <- r
				}
			}
		}
	}()
	return nil
}

// noticesOf lets only messages of one type through to a netlink socket.
func noticesOf(fd int, typ uint16) error {
	// The type is in the order of this machine's bytes; the filter reads it as the
	// network's.
	read := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, typ))
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 4},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(read), Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 16},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
}

// parseRemoved reads the address of a notice: its local end where it has two.
func parseRemoved(body []byte) (removedAddr, bool) {
	if len(body) < unix.SizeofIfAddrmsg {
		return removedAddr{}, false
	}
	r := removedAddr{index: int(binary.NativeEndian.Uint32(body[4:]))}
	attrs, err := nl.ParseRouteAttr(body[unix.SizeofIfAddrmsg:])
	if err != nil {
		return r, false
	}
	for _, attr := range attrs {
		local := attr.Attr.Type == unix.IFA_LOCAL
		if local || attr.Attr.Type == unix.IFA_ADDRESS && !r.addr.IsValid() {
			r.addr, _ = netip.AddrFromSlice(attr.Value)
		}
	}
	return r, r.addr.IsValid()
}

// linkFeed begins the announcements anew on an interface that has come up (the
// first ones may have gone nowhere: a switch can keep a port shut for half a
// minute) or has another hardware address.
func (n *Network) linkFeed() feed[netlink.LinkUpdate] {
	type look struct {
		running bool
		mac     string
	}
	seen := make(map[int]look)
	return feed[netlink.LinkUpdate]{
		what: "interfaces",
		subscribe: func(updates chan<- netlink.LinkUpdate, done <-chan struct{}) error {
			return netlink.LinkSubscribeWithOptions(updates, done, netlink.LinkSubscribeOptions{
				ErrorCallback:          func(error) {},
				ListExisting:           true,
				ReceiveBufferSize:      watchBufferBytes,
				ReceiveBufferForceSize: true,
			})
		},
		each: func(u netlink.LinkUpdate) {
			attrs := u.Attrs()
			if u.Header.Type == unix.RTM_DELLINK {
				delete(seen, attrs.Index)
				n.dropLink(attrs.Name, attrs.Index)
				return
			}
			now := look{attrs.RawFlags&unix.IFF_RUNNING != 0, attrs.HardwareAddr.String()}
			before, known := seen[attrs.Index]
			seen[attrs.Index] = now
			if known && now.running && now != before {
				n.again(attrs.Name, attrs.Index)
			}
		},
		// Subscribing lists what exists.
		lost: func() {},
	}
}

// dropLink forgets an interface that is gone, and closes its socket.
func (n *Network) dropLink(name string, index int) {
	n.mu.Lock()
	s := n.senders[index]
	delete(n.senders, index)
	delete(n.promote, index)
	delete(n.links, name)
	n.mu.Unlock()
	if s != nil {
		s.close()
	}
}

// again starts the burst anew for all owned addresses of the interface.
func (n *Network) again(name string, index int) {
	n.mu.Lock()
	delete(n.links, name)
	for _, list := range n.owned {
		for _, a := range list {
			if a.index == index {
				a.burst = n.o.Announce.Burst
			}
		}
	}
	n.mu.Unlock()
	n.due(netip.Addr{}, index, false)
	n.ownedChanged() // the hardware address may have
}

// due makes the owned addresses equal to ip (any, if it is the zero value) on that
// interface (any, if it is 0) due now. removed: it is said to be gone.
func (n *Network) due(ip netip.Addr, index int, removed bool) {
	now := time.Now()
	found := false
	n.mu.Lock()
	mark := func(list []*address) {
		for _, a := range list {
			if index == 0 || a.index == index {
				a.next, found = now, true
				a.removed = a.removed || removed
			}
		}
	}
	if ip.IsValid() {
		mark(n.owned[ip])
	} else {
		for _, list := range n.owned {
			mark(list)
		}
	}
	n.mu.Unlock()
	if found {
		n.poke()
	}
}

func (n *Network) poke() {
	select {
	case n.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// tendAll announces and repairs the owned addresses as they fall due. One
// goroutine for all of them, paced. Runs as long as the process.
func (n *Network) tendAll() {
	timer := time.NewTimer(time.Hour)
	for {
		batch, wait := n.nextBatch(time.Now())
		for _, a := range batch {
			a.tend()
		}
		if len(batch) == paceAddresses {
			wait = pacePause
		} else if len(batch) > 0 {
			continue // their next times are known only now
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-n.wake:
		}
	}
}

// nextBatch returns addresses that are due and, when there are none, how long
// there will be none.
func (n *Network) nextBatch(now time.Time) (batch []*address, wait time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	wait = time.Hour
	for _, list := range n.owned {
		for _, a := range list {
			if a.next.IsZero() {
				continue
			}
			if left := a.next.Sub(now); left > 0 {
				wait = min(wait, left+together)
				continue
			}
			if len(batch) < paceAddresses {
				// So that nobody takes it twice; tend sets the real time.
				a.next = now.Add(retryAfter)
				batch = append(batch, a)
			}
		}
	}
	n.wakeAt = now.Add(wait)
	return batch, wait
}
