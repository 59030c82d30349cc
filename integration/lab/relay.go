package lab

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Faults are what a bad link does to UDP packets between the nodes; each is a
// probability from 0 to 1.
type Faults struct {
	Loss, Duplication float64
	// Reordering holds a packet back for up to Delay, so that later ones
	// overtake it.
	Reordering float64
	Delay      time.Duration
	Seed       uint64
}

// Degrade takes both nodes' ends of a link out of the switch and carries the
// frames between them itself, with faults; nobody else is reached there. mend
// puts the switch back.
func (l *Lab) Degrade(link string, f Faults) (mend func() error, err error) {
	var fds [2]int
	for i := range fds {
		fds[i] = -1
	}
	closeAll := func() {
		for _, fd := range fds {
			if fd >= 0 {
				_ = unix.Close(fd)
			}
		}
	}
	err = l.sw.do(func() error {
		for i, n := range l.Nodes() {
			p, err := l.sw.nl.LinkByName(port(n.Name, link))
			if err != nil {
				return err
			}
			if err := l.Unplug(n, link); err != nil {
				return err
			}
			const all = 0x0300 // ETH_P_ALL, in network order
			if fds[i], err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all); err != nil {
				return err
			}
			// A reader looks up now and then whether it shall end.
			tv := unix.NsecToTimeval(int64(100 * time.Millisecond))
			err = errors.Join(unix.SetsockoptTimeval(fds[i], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv),
				unix.Bind(fds[i], &unix.SockaddrLinklayer{Protocol: all, Ifindex: p.Attrs().Index}))
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		closeAll()
		return nil, fmt.Errorf("degrade %s: %w", link, err)
	}
	done := make(chan struct{})
	var relays sync.WaitGroup
	for i := range fds {
		relays.Go(func() { // ends when done is closed
			relay(fds[i], fds[1-i], f, rand.New(rand.NewPCG(f.Seed, uint64(i))), done)
		})
	}
	return func() error {
		close(done)
		relays.Wait()
		closeAll()
		var errs []error
		for _, n := range l.Nodes() {
			errs = append(errs, l.Plug(n, link))
		}
		return errors.Join(errs...)
	}, nil
}

// relay carries frames one way.
func relay(from, to int, f Faults, random *rand.Rand, done <-chan struct{}) {
	type held struct {
		frame []byte
		until time.Time
	}
	var late []held
	buf := make([]byte, 2048)
	for {
		select {
		case <-done:
			return
		default:
		}
		k, src, err := unix.Recvfrom(from, buf, 0)
		now := time.Now()
		rest := late[:0]
		for _, h := range late {
			if now.After(h.until) {
				_, _ = unix.Write(to, h.frame)
			} else {
				rest = append(rest, h)
			}
		}
		late = rest
		if ll, ok := src.(*unix.SockaddrLinklayer); err != nil || !ok || ll.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		frame := buf[:k]
		udp := ipv4(frame, 17)
		if len(udp) < 8 {
			_, _ = unix.Write(to, frame)
			continue
		}
		// The sender left the checksum to hardware that is not there: none (0)
		// is allowed, an unfinished one is not.
		udp[6], udp[7] = 0, 0
		if random.Float64() < f.Loss {
			continue
		}
		copies := 1
		if random.Float64() < f.Duplication {
			copies = 2
		}
		for range copies {
			if random.Float64() < f.Reordering {
				late = append(late, held{append([]byte(nil), frame...), now.Add(time.Duration(random.Float64() * float64(f.Delay)))})
				continue
			}
			// What the other end cannot take now is lost, as on any link.
			_, _ = unix.Write(to, frame)
		}
	}
}
