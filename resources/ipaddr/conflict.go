package ipaddr

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"
	"github.com/mdlayher/ndp"
	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"heartbeat/resources"
)

const (
	// probeRounds questions are asked about an address that nobody has answered
	// for, probeEvery apart; after the last one as much time passes. A machine of
	// the same link answers within a millisecond.
	probeRounds = 3
	probeEvery  = 80 * time.Millisecond
	// defendEvery is the least pause between two answers to claims of an address
	// (RFC 5227, DEFEND_INTERVAL).
	defendEvery = 10 * time.Second
	// claimPause bounds what a flood of claims costs; the kernel drops the rest.
	claimPause = 10 * time.Millisecond
	// filterAddressesMax are compared by a socket's filter one by one, which the
	// kernel bounds to 4096 instructions; with more, each claim of any address
	// wakes us.
	filterAddressesMax = 1500
	// claimBytesMax is more than an ARP packet or the part of a neighbour
	// advertisement that is read.
	claimBytesMax = 256
)

// Claimed is another machine that says it has an address.
type Claimed struct {
	Addr netip.Addr
	MAC  net.HardwareAddr
	Link string
}

func (c *Claimed) Error() string {
	return fmt.Sprintf("%v is answered for by %v on %s", c.Addr, c.MAC, c.Link)
}

// Probe asks the network who answers for addresses that are not up here, as a host
// does before it takes one (RFC 5227, RFC 4862). It takes a quarter of a second.
// Each resource has its result at its index: a *Claimed, another error when it
// cannot be asked for, nil when nobody answers, or when it is no address of ours.
// asked counts those that could be asked for.
func (n *Network) Probe(ctx context.Context, list []resources.Resource) (errs []error, asked int) {
	errs = make([]error, len(list))
	if err := n.ready(ctx); err != nil {
		for i := range errs {
			errs[i] = err
		}
		return errs, 0
	}
	type where struct {
		index int
		v6    bool
	}
	ask := make(map[where][]question)
	for i, r := range list {
		a, ok := r.(*address)
		if !ok || a.net != n || !a.tryLock() {
			continue // one that is being started or stopped needs no question
		}
		p, err := a.where()
		a.unlock()
		if err != nil {
			errs[i] = fmt.Errorf("%s: %w", a.Name(), err)
			continue
		}
		switch here, err := n.present(a.spec.addr, p.link.index); {
		case err != nil:
			errs[i] = err
		case here, p.link.mac == nil:
		case !p.link.up:
			errs[i] = fmt.Errorf("%s: interface %s is down", a.Name(), p.link.name)
		case !p.link.carrier:
			errs[i] = fmt.Errorf("%s: interface %s has no carrier", a.Name(), p.link.name)
		default:
			w := where{p.link.index, a.spec.addr.Is6()}
			ask[w] = append(ask[w], question{a.spec.addr, p.link, i})
		}
	}
	type result struct {
		answers []answer
		asked   []question
		err     error
	}
	results := make(chan result, len(ask))
	for _, questions := range ask {
		go func() { // ends when it has listened long enough
			answers, err := n.probeLink(ctx, questions)
			results <- result{answers, questions, err}
		}()
	}
	for range ask {
		r := <-results
		if r.err != nil {
			for _, q := range r.asked {
				errs[q.at] = r.err
			}
		} else {
			asked += len(r.asked)
		}
		for _, a := range r.answers {
			errs[a.at] = a.claim
		}
	}
	return errs, asked
}

// question is about one address on a link; at is its place in the caller's list.
type question struct {
	addr netip.Addr
	link iface
	at   int
}

type answer struct {
	question
	claim *Claimed
}

// probeLink asks questions of one link and one family.
func (n *Network) probeLink(ctx context.Context, questions []question) (answers []answer, err error) {
	link := questions[0].link
	open := make(map[netip.Addr]question)
	for _, q := range questions {
		open[q.addr] = q
	}
	addrs := make([]netip.Addr, len(questions))
	for i, q := range questions {
		addrs[i] = q.addr
	}
	l, err := listen(link, questions[0].addr.Is6(), addrs)
	if err != nil {
		return nil, err
	}
	defer l.close()
	for range probeRounds {
		for i, q := range questions {
			if _, unanswered := open[q.addr]; !unanswered {
				continue
			}
			frame, err := probeFrame(q.addr, link.mac)
			if err == nil {
				err = n.transmit(link, frame)
			}
			if err != nil {
				return answers, fmt.Errorf("ask for %v on %s: %w", q.addr, link.name, err)
			}
			if i%paceAddresses == paceAddresses-1 {
				time.Sleep(pacePause)
			}
		}
		end := time.Now().Add(probeEvery)
		for len(open) > 0 && ctx.Err() == nil {
			c, err := l.next(end)
			if errors.Is(err, errNothing) {
				break
			}
			if err != nil {
				return answers, err
			}
			q, asked := open[c.Addr]
			if asked && !n.ownMAC(c.MAC) {
				delete(open, c.Addr)
				answers = append(answers, answer{q, c})
			}
		}
	}
	return answers, nil
}

// probeFrame asks who has addr without saying that we do: an ARP request without a
// sender's address, or a neighbour solicitation without one. (Package arp has no use
// for an interface without an address; its packets do.)
func probeFrame(addr netip.Addr, mac net.HardwareAddr) ([]byte, error) {
	if addr.Is6() {
		return solicitFrame(addr, mac)
	}
	none := netip.IPv4Unspecified()
	p, err := arp.NewPacket(arp.OperationRequest, mac, none, make(net.HardwareAddr, 6), addr)
	if err != nil {
		return nil, err
	}
	payload, err := p.MarshalBinary()
	if err != nil {
		return nil, err
	}
	return (&ethernet.Frame{Destination: ethernet.Broadcast, Source: mac, EtherType: ethernet.EtherTypeARP, Payload: payload}).MarshalBinary()
}

// solicitFrame is the neighbour solicitation of duplicate address detection.
func solicitFrame(addr netip.Addr, mac net.HardwareAddr) ([]byte, error) {
	group, err := ndp.SolicitedNodeMulticast(addr)
	if err != nil {
		return nil, err
	}
	to := group.As16()
	return icmpFrame(&ndp.NeighborSolicitation{TargetAddress: addr}, mac, netip.IPv6Unspecified(), group,
		net.HardwareAddr{0x33, 0x33, to[12], to[13], to[14], to[15]})
}

// errNothing: the time is over and nobody has claimed an address.
var errNothing = errors.New("nothing heard")

// listener hears claims of addresses of one family on one link: ARP packets, or
// neighbour advertisements. A filter in the kernel keeps everything else away.
type listener struct {
	link iface
	conn *packet.Conn
	buf  []byte
}

// listen opens a listener for claims of addrs.
func listen(link iface, v6 bool, addrs []netip.Addr) (*listener, error) {
	filter, err := claimFilter(link.mac, v6, addrs)
	if err != nil {
		return nil, err
	}
	protocol := unix.ETH_P_ARP
	if v6 {
		protocol = unix.ETH_P_IPV6
	}
	// The filter is in force before the first packet.
	conn, err := packet.Listen(&net.Interface{Index: link.index, Name: link.name}, packet.Raw, protocol, &packet.Config{Filter: filter})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", link.name, err)
	}
	return &listener{link, conn, make([]byte, claimBytesMax)}, nil
}

func (l *listener) close() { _ = l.conn.Close() } // nothing can be lost by it

// next waits for a claim; errNothing when there is none until end, which may be zero.
func (l *listener) next(end time.Time) (*Claimed, error) {
	if err := l.conn.SetReadDeadline(end); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", l.link.name, err)
	}
	for {
		k, _, err := l.conn.ReadFrom(l.buf)
		switch {
		case isTimeout(err):
			return nil, errNothing
		case errors.Is(err, unix.ENETDOWN):
			continue // said once, when the interface goes down
		case err != nil:
			return nil, fmt.Errorf("listen on %s: %w", l.link.name, err)
		}
		if c := parseClaim(l.buf[:k]); c != nil && !bytes.Equal(c.MAC, l.link.mac) {
			c.Link = l.link.name
			return c, nil
		}
	}
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

// Places in frames.
const (
	arpSenderAt = ethernetBytes + 8  // hardware address
	arpClaimAt  = ethernetBytes + 14 // its IPv4 address
	arpBytes    = 28
	ipNextAt    = ethernetBytes + 6
	icmpAt      = ethernetBytes + ipv6.HeaderLen
	naTargetAt  = icmpAt + 8

	ethernetBytes = 14
	icmpNA        = 136 // neighbour advertisement
)

// parseClaim reads who says that he has which address; nil when nobody does.
func parseClaim(frame []byte) *Claimed {
	if len(frame) < ethernetBytes+arpBytes {
		return nil
	}
	switch binary.BigEndian.Uint16(frame[12:]) { // its type
	case unix.ETH_P_ARP:
		if !bytes.Equal(frame[ethernetBytes:ethernetBytes+6], []byte{0, 1, 8, 0, 6, 4}) {
			return nil // not of IPv4 over Ethernet
		}
		addr := netip.AddrFrom4([4]byte(frame[arpClaimAt:]))
		return &Claimed{Addr: addr, MAC: slices.Clone(frame[arpSenderAt : arpSenderAt+6])}
	case unix.ETH_P_IPV6:
		if len(frame) < naTargetAt+16 || frame[ipNextAt] != unix.IPPROTO_ICMPV6 || frame[icmpAt] != icmpNA {
			return nil
		}
		addr := netip.AddrFrom16([16]byte(frame[naTargetAt:]))
		// The sender's own frame says best where it comes from.
		return &Claimed{Addr: addr, MAC: slices.Clone(frame[6:12])}
	}
	return nil
}

// claimFilter lets claims of addrs by others than mac through to a packet socket.
func claimFilter(mac net.HardwareAddr, v6 bool, addrs []netip.Addr) ([]bpf.RawInstruction, error) {
	const pass, drop = claimBytesMax, 0
	if len(mac) != 6 {
		return nil, errNoAnnounce
	}
	var code []bpf.Instruction
	unless := func(at uint32, size int, value uint32) { // drops what has another value there
		code = append(code, bpf.LoadAbsolute{Off: at, Size: size},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: value, SkipTrue: 1}, bpf.RetConstant{Val: drop})
	}
	claimAt := uint32(arpClaimAt)
	if v6 {
		unless(ipNextAt, 1, unix.IPPROTO_ICMPV6)
		unless(icmpAt, 1, icmpNA)
		claimAt = naTargetAt + 12 // who reads it compares the rest
	} else {
		code = append(code,
			bpf.LoadAbsolute{Off: arpSenderAt, Size: 4},
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: binary.BigEndian.Uint32(mac), SkipTrue: 3},
			bpf.LoadAbsolute{Off: arpSenderAt + 4, Size: 2},
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(binary.BigEndian.Uint16(mac[4:])), SkipTrue: 1},
			bpf.RetConstant{Val: drop})
	}
	if len(addrs) > filterAddressesMax {
		return bpf.Assemble(append(code, bpf.RetConstant{Val: pass}))
	}
	code = append(code, bpf.LoadAbsolute{Off: claimAt, Size: 4})
	for _, a := range addrs {
		b := a.AsSlice()
		code = append(code, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: binary.BigEndian.Uint32(b[len(b)-4:]), SkipTrue: 1}, bpf.RetConstant{Val: pass})
	}
	return bpf.Assemble(append(code, bpf.RetConstant{Val: drop}))
}

// watcher hears who else claims the addresses that we own on one link.
type watcher struct {
	*listener
	addrs []netip.Addr // that its filter lets through
}

type watchKey struct {
	index int
	v6    bool
}

// watchClaims keeps a watcher on every link that has owned addresses, with a filter
// for just these. Runs as long as the process.
func (n *Network) watchClaims() {
	watchers := make(map[watchKey]*watcher)
	for range n.ownedNews {
		owned := make(map[watchKey][]netip.Addr)
		n.mu.Lock()
		for addr, list := range n.owned {
			for _, a := range list {
				k := watchKey{a.index, addr.Is6()}
				owned[k] = append(owned[k], addr)
			}
		}
		n.mu.Unlock()
		for k, w := range watchers {
			if owned[k] == nil {
				w.close()
				delete(watchers, k)
			}
		}
		for k, addrs := range owned {
			slices.SortFunc(addrs, netip.Addr.Compare)
			if err := n.watchLink(watchers, k, addrs); err != nil {
				n.log("WARN", "IPaddr", fmt.Sprintf("cannot see who else claims our addresses: %v", err), "cannot watch for claims", "err", err)
			}
		}
	}
}

// watchLink makes the watcher of a link hear claims of addrs.
func (n *Network) watchLink(watchers map[watchKey]*watcher, k watchKey, addrs []netip.Addr) error {
	link, err := n.linkAt(k.index)
	if err != nil || link.mac == nil {
		return nil // gone, which is another's business, or without neighbours
	}
	w := watchers[k]
	if w != nil && slices.Equal(w.addrs, addrs) && bytes.Equal(w.link.mac, link.mac) {
		return nil
	}
	if w != nil && bytes.Equal(w.link.mac, link.mac) {
		filter, err := claimFilter(link.mac, k.v6, addrs)
		if err == nil {
			err = w.conn.SetBPF(filter)
		}
		w.addrs = addrs
		return err
	}
	if w != nil {
		w.close()
		delete(watchers, k)
	}
	l, err := listen(link, k.v6, addrs)
	if err != nil {
		return err
	}
	watchers[k] = &watcher{l, addrs}
	go func() { // ends when the listener is closed, or its interface gone
		for {
			c, err := l.next(time.Time{})
			if err != nil {
				return
			}
			n.claimed(c, k.index)
			time.Sleep(claimPause)
		}
	}()
	return nil
}

// ownedChanged has the watchers' filters renewed.
func (n *Network) ownedChanged() {
	if !n.o.Watch {
		return
	}
	select {
	case n.ownedNews <- struct{}{}:
	default: // they will be anyway
	}
}

// claimed is another machine's claim of an address. If it is ours, as far as the
// cluster has decided, our own claim is repeated, as RFC 5227 (2.4 b and c) has it:
// at most every ten seconds. Who owns it is not for ARP to decide: when the other
// node says that it is the owner, the cluster has this one let go.
func (n *Network) claimed(c *Claimed, index int) {
	if n.ownMAC(c.MAC) {
		return
	}
	n.mu.Lock()
	list := slices.Clone(n.owned[c.Addr])
	n.mu.Unlock()
	for _, a := range list {
		if !a.tryLock() {
			continue // being started, stopped or tended: it speaks for itself
		}
		if a.held && a.place.link.index == index && !n.stale() {
			a.defend(c)
		}
		a.unlock()
	}
}

// defend answers a claim; the caller has the turn.
func (a *address) defend(c *Claimed) {
	a.claims++
	now := time.Now()
	if now.Sub(a.claimSaidAt) >= quietFor {
		text := fmt.Sprintf("%v is ours on %s, and %v claims it too: announced again", c.Addr, c.Link, c.MAC)
		if a.claims > 1 {
			text += fmt.Sprintf(" (%d claims since the last such line)", a.claims)
		}
		a.net.log("WARN", a.instance(), text, "address is claimed by another machine", "address", c.Addr, "interface", c.Link, "mac", c.MAC, "claims", a.claims)
		if a.net.o.Claim != nil {
			a.net.o.Claim(c)
		}
		a.claimSaidAt, a.claims = now, 0
	}
	if now.Sub(a.defendedAt) >= defendEvery {
		a.defendedAt = now
		a.tellAll(a.place.link)
	}
}

// ownMAC reports whether a frame came from this machine: another interface on the
// same segment.
func (n *Network) ownMAC(mac net.HardwareAddr) bool {
	links, err := dump(n.h.LinkList)
	return err == nil && slices.ContainsFunc(links, func(l netlink.Link) bool { return bytes.Equal(l.Attrs().HardwareAddr, mac) })
}
