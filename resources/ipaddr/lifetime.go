package ipaddr

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// An address with a lifetime is the dead man of this package: the kernel removes it
// when nobody prolongs it, and it is prolonged only on the word of the decision loop
// that a keepalive has just been handed to the media. A daemon that is killed, or
// stands still, so loses its addresses before the other node, which counts from the
// same keepalive, takes them.

const (
	// kernelLate is how late the kernel removes an address at the worst: it looks
	// at most once a second, and any change of addresses makes it look. Usually it
	// is 10 to 260 ms late. The rest is for the way from the loop to the kernel.
	kernelLate = time.Second + 250*time.Millisecond
	// kernelUsual is what is allowed for where kernelLate would leave too little.
	kernelUsual = 500 * time.Millisecond
	// lifetimeAmple is a lifetime that outlasts a pause of a busy machine.
	lifetimeAmple = 4 * time.Second
	// lifetimeStep is in what the kernel counts lifetimes.
	lifetimeStep = time.Second
	// stalePause separates two looks whether the loop has spoken again.
	stalePause = 20 * time.Millisecond
)

// errStalled: the loop has been silent for so long that the other node may own
// everything.
var errStalled = errors.New("this node was stalled: no address is added before the cluster has decided")

// LifetimeFor is how long after a keepalive an address may live on a node whose
// silence the other one bears for deadtime. The error says why there is none: the
// address would run out between two keepalives of a node that is well.
func LifetimeFor(deadtime, keepalive time.Duration) (time.Duration, error) {
	limit := deadtime - kernelLate
	if limit < lifetimeAmple {
		limit = deadtime - kernelUsual
	}
	if whole := limit.Truncate(lifetimeStep); whole < max(keepalive, lifetimeStep)+lifetimeStep {
		return 0, fmt.Errorf("deadtime %v with keepalive %v leaves no room for it", deadtime, keepalive)
	}
	return limit, nil
}

// Alive says that a keepalive was handed to the media, and when: it prolongs the
// addresses. It never waits.
func (n *Network) Alive(at time.Time) {
	n.alive.Store(int64(at.Sub(n.epoch)))
	if n.o.Lifetime == 0 || at.Sub(n.epoch)-time.Duration(n.renewed.Load()) < n.renewEvery() {
		return
	}
	// One is enough, the newest: an older one would promise less.
	select {
	case <-n.keepalives:
	default:
	}
	select {
	case n.keepalives <- at:
	default: // another caller's, as new as this one
	}
}

// renewEvery is the pause between two renewals: a quarter of the lifetime, so that
// what is left outlasts a pause of a busy machine, and yet it is rare: each renewal
// is news that the kernel tells everybody who listens.
func (n *Network) renewEvery() time.Duration {
	every := n.o.Lifetime / 4
	return every - every/10 // a keepalive that is a little early need not wait for the next one
}

// left is the time until the other node may take this one's addresses, as far as
// this package is to know; negative: it may have done so.
func (n *Network) left() time.Duration {
	bound := n.o.Lifetime
	if bound == 0 {
		bound = n.o.Deadtime
	}
	if bound == 0 {
		return math.MaxInt64 // nobody else is there
	}
	at := n.alive.Load()
	if at == 0 {
		return -1 // not a word yet
	}
	return bound - (time.Since(n.epoch) - time.Duration(at))
}

// stale reports whether the loop has been silent for too long. Until it speaks again
// nothing is added, put back or announced: it may be about to find out that the other
// node has taken over.
func (n *Network) stale() bool {
	left := n.left()
	return left <= 0 || n.o.Lifetime > 0 && left < time.Second
}

// untilAlive waits while the loop is silent.
func (n *Network) untilAlive(done <-chan struct{}) bool {
	for n.stale() {
		select {
		case <-done:
			return false
		case <-time.After(stalePause):
		}
	}
	return true
}

// renewAll prolongs the addresses with the keepalives. Runs as long as the process.
func (n *Network) renewAll() {
	for at := range n.keepalives {
		n.renewed.Store(int64(at.Sub(n.epoch)))
		n.renew()
	}
}

// renew prolongs what is owned or kept. An address whose turn is taken is left to
// the next time: who has it adds, removes or repairs it.
func (n *Network) renew() {
	n.mu.Lock()
	all := make([]*address, 0, len(n.owned))
	for _, list := range n.owned {
		all = append(all, list...)
	}
	n.mu.Unlock()
	for len(all) > 0 {
		chunk := all[:min(atOnce, len(all))]
		all = all[len(chunk):]
		mine := make([]*address, 0, len(chunk))
		for _, a := range chunk {
			if a.tryLock() {
				mine = append(mine, a)
			}
		}
		n.prolong(mine)
		for _, a := range mine {
			a.unlock()
		}
	}
}

// prolong gives addresses that are there their lifetime from now on, or makes them
// permanent where there is none; the caller has their turns. It adds nothing: an
// address that is gone has run out, or somebody removed it, and its repair decides.
func (n *Network) prolong(list []*address) {
	looks := make([]request, 0, len(list))
	for _, a := range list {
		if a.spec.addr.Is6() {
			looks = append(looks, lookRequest(a.spec.addr, a.place.link.index))
		}
	}
	n.k.ask(looks)
	reqs, whose := make([]request, 0, len(list)), make([]*address, 0, len(list))
	for _, a := range list {
		flags := uint32(unix.IFA_F_MCAUTOJOIN)
		if a.spec.addr.Is6() {
			f, err := looks[0].found(a.spec.addr)
			looks = looks[1:]
			if err != nil {
				a.sayUnrenewed(err)
			}
			if err != nil || f.index != a.place.link.index {
				continue
			}
			if f.flags&unix.IFA_F_PERMANENT != 0 && a.mortal(a.place.link) {
				// Changed in place it would hand its lifetime on to the route of its
				// subnet, which the node's own addresses need.
				reqs, whose = append(reqs, removeRequest(a.place)), append(whose, a)
			}
			flags = 0
		}
		r, ok := a.placeRequest(a.place, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
		if !ok {
			continue
		}
		if flags != 0 {
			// The kernel has no order for an IPv4 address that must be there already.
			// But it refuses to add one with this flag, which is for multicast
			// addresses, and does not look at it where the address is there.
			r.attr(unix.IFA_FLAGS, binary.NativeEndian.AppendUint32(nil, flags))
		}
		reqs, whose = append(reqs, r), append(whose, a)
	}
	if n.o.Lifetime > 0 {
		n.add(reqs, whose)
	} else {
		n.k.ask(reqs)
	}
	for i, r := range reqs {
		gone := errors.Is(r.err, unix.EINVAL) || errors.Is(r.err, unix.ENODEV)
		if r.err != nil && (!gone || whose[i].spec.addr.Is6()) {
			whose[i].sayUnrenewed(r.err)
		}
	}
}

func (a *address) sayUnrenewed(err error) {
	if time.Since(a.unrenewedAt) < quietFor {
		return
	}
	a.unrenewedAt = time.Now()
	a.net.log("WARN", a.instance(), fmt.Sprintf("the lifetime of %v on %s cannot be renewed: %v", a.place.prefix, a.place.link.name, err),
		"cannot renew the lifetime of an address", "address", a.spec.addr, "interface", a.place.link.name, "err", err)
}

// add carries out orders that bring addresses or prolong them. If this process stood
// still between computing a lifetime and handing it to the kernel, it promised what
// it must not: then the addresses are removed again.
func (n *Network) add(reqs []request, whose []*address) {
	n.k.ask(reqs)
	if n.left() > 0 {
		return
	}
	undo := make([]request, 0, len(reqs))
	for i := range reqs {
		if reqs[i].err == nil {
			undo = append(undo, removeRequest(whose[i].place))
			reqs[i].err = errStalled
		}
	}
	n.k.ask(undo)
}

// mortal reports whether the address gets a lifetime on that link: not where the
// kernel would remove other addresses together with it.
func (a *address) mortal(l iface) bool {
	return a.net.o.Lifetime > 0 && (a.spec.addr.Is6() || a.net.keepsSecondaries(l))
}

// placeRequest adds the address to its link with the lifetime that it may have now;
// not ok: it may have none.
func (a *address) placeRequest(p place, flags uint16) (r request, ok bool) {
	r = a.addRequest(p, flags)
	seconds := uint32(math.MaxUint32) // for ever
	if a.mortal(p.link) {
		left := a.net.left()
		if left < time.Second {
			return r, false
		}
		seconds = uint32(left / time.Second)
	}
	e := binary.NativeEndian
	// struct ifa_cacheinfo: preferred, valid, and two that the kernel fills in.
	info := e.AppendUint32(e.AppendUint32(nil, seconds), seconds)
	r.attr(unix.IFA_CACHEINFO, append(info, make([]byte, 8)...))
	return r, true
}

// Trouble says on which interfaces addresses have no lifetime although they should;
// empty for none.
func (n *Network) Trouble() string {
	if n.o.Lifetime == 0 {
		return ""
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	var names []string
	for name, l := range n.links {
		if keeps, tried := n.promote[l.value.index]; tried && !keeps {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	slices.Sort(names)
	return fmt.Sprintf("service addresses on %s have no lifetime: promote_secondaries cannot be set there", strings.Join(names, ", "))
}
