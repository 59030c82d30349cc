package datagram

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// lookupTimeout bounds one look-up of a name.
	lookupTimeout = 10 * time.Second
	// lookupPauseMin and lookupPauseMax are the pauses between two look-ups;
	// they double while the name does not resolve. A name that did is looked
	// up again after the longest.
	lookupPauseMin = time.Second
	lookupPauseMax = time.Minute
)

// Peer is a host that the configuration gives by address or by name. Names are
// resolved in the background, again and again: nothing that sends ever waits
// for a name service.
type Peer struct {
	host    string
	network string
	changed func()
	addr    atomic.Pointer[netip.Addr]

	retry chan struct{} // of capacity 1; nil for an address
	first chan struct{} // closed after the first look-up
	stop  context.CancelFunc
	work  sync.WaitGroup
}

// NewPeer begins to resolve host for network "ip4" or "ip6". changed is called
// in another goroutine when the address of a name becomes known or changes.
func NewPeer(host, network string, changed func()) *Peer {
	p := &Peer{host: host, network: network, changed: changed, first: make(chan struct{})}
	ctx, stop := context.WithCancel(context.Background())
	p.stop = stop
	if addr, err := netip.ParseAddr(host); err == nil {
		p.addr.Store(&addr)
		close(p.first)
	} else {
		p.retry = make(chan struct{}, 1)
		p.work.Go(func() { p.resolve(ctx) })
	}
	return p
}

// Host is what the configuration gave.
func (p *Peer) Host() string { return p.host }

// Addr is the address; false while it is not known.
func (p *Peer) Addr() (netip.Addr, bool) {
	if addr := p.addr.Load(); addr != nil {
		return *addr, true
	}
	return netip.Addr{}, false
}

// String is the address, or the name while that has none.
func (p *Peer) String() string {
	if addr, ok := p.Addr(); ok {
		return addr.String()
	}
	return p.host
}

// Wait waits for the end of the first look-up, or of ctx.
func (p *Peer) Wait(ctx context.Context) {
	select {
	case <-p.first:
	case <-ctx.Done():
	}
}

// Retry asks for a look-up soon since the address does not seem to work.
func (p *Peer) Retry() {
	select {
	case p.retry <- struct{}{}:
	default:
	}
}

// Close ends the look-ups.
func (p *Peer) Close() {
	p.stop()
	p.work.Wait()
}

func (p *Peer) resolve(ctx context.Context) {
	pause := lookupPauseMin
	for first := true; ; first = false {
		lookup, cancel := context.WithTimeout(ctx, lookupTimeout)
		addrs, err := net.DefaultResolver.LookupNetIP(lookup, p.network, p.host)
		cancel()
		if err == nil && len(addrs) > 0 {
			addr := addrs[0].Unmap()
			if old := p.addr.Swap(&addr); old == nil || *old != addr {
				p.changed()
			}
			pause = lookupPauseMax
		} else {
			// An address once known stays: it is likelier right than none.
			pause = min(2*pause, lookupPauseMax)
		}
		if first {
			close(p.first)
		}
		// Retry shortens the pause, but not to nothing.
		if !sleep(ctx, lookupPauseMin, nil) || !sleep(ctx, pause-lookupPauseMin, p.retry) {
			return
		}
	}
}

// sleep returns early on wake; false when ctx is done.
func sleep(ctx context.Context, pause time.Duration, wake <-chan struct{}) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-wake:
	case <-timer.C:
	}
	return true
}
