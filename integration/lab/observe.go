package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"heartbeat/integration/probe"
)

// helper is a role of this program at work for the lab.
type helper struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	out    *bufio.Reader
	stderr strings.Builder
	stop   sync.Once
}

// startHelper starts a role in the client and waits until it is ready.
func (l *Lab) startHelper(ctx context.Context, limit time.Duration, args ...string) (*helper, error) {
	h := &helper{cmd: exec.Command("/proc/self/exe", args...)}
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	h.cmd.Stderr = &h.stderr
	var err error
	if h.stdin, err = h.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	h.out = bufio.NewReader(out)
	if err := l.client.do(h.cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s: %w", args[0], err)
	}
	l.mu.Lock()
	l.closers = append(l.closers, h.kill)
	l.mu.Unlock()
	ready := make(chan error, 1)
	go func() { // ends with the helper, which stop or kill ends
		line, err := h.out.ReadString('\n')
		if err == nil && line != "ready\n" {
			err = fmt.Errorf("said %q", line)
		}
		ready <- err
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case err = <-ready:
	case <-timer.C:
		err = fmt.Errorf("not ready within %v: no answer from the service", limit)
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		h.kill()
		return nil, fmt.Errorf("%s: %w %s", args[0], err, h.stderr.String())
	}
	return h, nil
}

// finish tells the helper to end and decodes its result.
func (h *helper) finish(into any) error {
	err := fmt.Errorf("it ended already")
	h.stop.Do(func() {
		_ = h.stdin.Close()
		err = json.NewDecoder(h.out).Decode(into)
		_, _ = io.Copy(io.Discard, h.out)
		if werr := h.cmd.Wait(); werr != nil {
			err = fmt.Errorf("%w: %s", werr, h.stderr.String())
		}
	})
	return err
}

func (h *helper) kill() {
	h.stop.Do(func() {
		_ = h.cmd.Process.Kill()
		_ = h.cmd.Wait()
	})
}

// Prober probes service addresses from the client.
type Prober struct{ h *helper }

// ProbeOptions say how to probe.
type ProbeOptions struct {
	Addrs []netip.Addr
	// Interval between two requests to one address.
	Interval time.Duration
	// Nodes also asks each node by its MAC: who owns the address, and do both.
	Nodes bool
}

// probeLimit bounds a run that nobody stops.
const probeLimit = 30 * time.Minute

// Probe starts probing, with an empty ARP cache, and returns when every
// address has answered.
func (l *Lab) Probe(ctx context.Context, o ProbeOptions) (*Prober, error) {
	if err := l.client.forgetNeighbours(ServiceLink); err != nil {
		return nil, err
	}
	cfg := probe.Config{Interface: ServiceLink, Source: ClientAddr, Addrs: o.Addrs, Interval: o.Interval, Limit: probeLimit}
	if o.Nodes {
		cfg.NodeMACs = []string{l.N1.mac(ServiceLink).String(), l.N2.mac(ServiceLink).String()}
	}
	text, err := json.Marshal(cfg)
	if err != nil {
		return nil, err
	}
	h, err := l.startHelper(ctx, 30*time.Second, roleProbe, string(text))
	if err != nil {
		return nil, err
	}
	return &Prober{h}, nil
}

// Stop ends the run and returns what it saw.
func (p *Prober) Stop() (*probe.Result, error) {
	var r probe.Result
	if err := p.h.finish(&r); err != nil {
		return nil, fmt.Errorf("probe: %w", err)
	}
	return &r, nil
}

// HTTPProber requests a page from the client.
type HTTPProber struct{ h *helper }

// ProbeHTTP requests url from the client every interval, on fresh connections,
// and returns when the first answer came.
func (l *Lab) ProbeHTTP(ctx context.Context, url string, interval time.Duration) (*HTTPProber, error) {
	h, err := l.startHelper(ctx, 30*time.Second, roleHTTP, url, interval.String())
	if err != nil {
		return nil, err
	}
	return &HTTPProber{h}, nil
}

// Stop ends the run and returns what it saw.
func (p *HTTPProber) Stop() (*probe.HTTPResult, error) {
	var r probe.HTTPResult
	if err := p.h.finish(&r); err != nil {
		return nil, fmt.Errorf("HTTP probe: %w", err)
	}
	return &r, nil
}

// Capture records when frames of a node came through the switch.
type Capture struct {
	fd   int
	keep func(frame []byte) bool
}

// Capture begins to watch what a node sends on a link. keep chooses the frames
// that count.
func (l *Lab) Capture(n *Node, link string, keep func(frame []byte) bool) (*Capture, error) {
	c := &Capture{fd: -1, keep: keep}
	err := l.sw.do(func() error {
		p, err := l.sw.nl.LinkByName(port(n.Name, link))
		if err != nil {
			return err
		}
		const all = 0x0300 // ETH_P_ALL, in network order
		if c.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, all); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20); err != nil {
			return err
		}
		return unix.Bind(c.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: p.Attrs().Index})
	})
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("capture at %s: %w", port(n.Name, link), err)
	}
	return c, nil
}

// Times returns when the frames came that were captured since the last call.
func (c *Capture) Times() []time.Time {
	var out []time.Time
	buf, oob := make([]byte, 2048), make([]byte, 256)
	for {
		k, oobn, _, from, err := unix.Recvmsg(c.fd, buf, oob, 0)
		if errors.Is(err, unix.ENETDOWN) || errors.Is(err, unix.EINTR) {
			continue // said once when the port goes down; the frames are still there
		}
		if err != nil {
			return out // EAGAIN: no more
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_OUTGOING {
			continue // towards the node
		}
		if c.keep(buf[:k]) {
			out = append(out, time.Unix(0, probe.Stamp(oob[:oobn])))
		}
	}
}

// Close ends the capture.
func (c *Capture) Close() {
	if c.fd >= 0 {
		_ = unix.Close(c.fd)
		c.fd = -1
	}
}

// Removals notes which addresses a node's kernel has removed.
type Removals struct{ fd int }

// Removals begins to watch the addresses of a node until it is switched off. Unlike a
// probe it misses nothing, and a machine that pauses looks no different to it.
func (n *Node) Removals() (*Removals, error) {
	r := &Removals{fd: -1}
	err := n.net.do(func() (err error) {
		if r.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20); err != nil {
			return err
		}
		return unix.Bind(r.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR})
	})
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("watch the addresses of %s: %w", n.Name, err)
	}
	return r, nil
}

// List are the addresses that were removed since the last call, as often as they
// were.
func (r *Removals) List() (out []netip.Addr, err error) {
	buf := make([]byte, 64<<10)
	for {
		k, _, err := unix.Recvfrom(r.fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if errors.Is(err, unix.EAGAIN) {
			return out, nil // no more
		}
		if err != nil {
			return nil, fmt.Errorf("read the kernel's news of addresses: %w", err)
		}
		msgs, err := syscall.ParseNetlinkMessage(buf[:k])
		if err != nil {
			return nil, err
		}
		for _, m := range msgs {
			if m.Header.Type != unix.RTM_DELADDR {
				continue
			}
			attrs, err := syscall.ParseNetlinkRouteAttr(&m)
			if err != nil {
				return nil, err
			}
			for _, a := range attrs {
				if a.Attr.Type == unix.IFA_ADDRESS {
					addr, _ := netip.AddrFromSlice(a.Value)
					out = append(out, addr)
				}
			}
		}
	}
}

// Close ends the watch.
func (r *Removals) Close() {
	if r.fd >= 0 {
		_ = unix.Close(r.fd)
		r.fd = -1
	}
}

// Load keeps every core busy, with four processes per core at normal
// priority, until stop is called.
func Load(cores int) (stop func(), err error) {
	var running []func()
	stop = func() {
		for _, f := range running {
			f()
		}
	}
	for range 4 * cores {
		cmd := exec.Command("/proc/self/exe", roleSpin)
		cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		in, err := cmd.StdinPipe() // when we die, it ends
		if err != nil {
			return stop, err
		}
		if err := cmd.Start(); err != nil {
			return stop, fmt.Errorf("start load: %w", err)
		}
		running = append(running, func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			_ = in.Close()
		})
	}
	return stop, nil
}

// Flood sends so many UDP packets of garbage, of all sizes, from the client to
// a port, at about so many a second, and returns when they are out.
func (l *Lab) Flood(ctx context.Context, to netip.Addr, port uint16, packets, perSecond int) error {
	var conn net.Conn
	err := l.client.do(func() (err error) {
		conn, err = net.Dial("udp", netip.AddrPortFrom(to, port).String())
		return err
	})
	if err != nil {
		return fmt.Errorf("flood %s: %w", to, err)
	}
	defer conn.Close()
	random := rand.New(rand.NewPCG(1, 2))
	buf := make([]byte, 1400)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for sent := 0; sent < packets; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		for range perSecond / 100 {
			b := buf[:random.IntN(len(buf))]
			for i := range b {
				b[i] = byte(random.Uint32())
			}
			if random.IntN(2) == 0 {
				// Half of them begin as a message does, and go wrong later.
				copy(b, "###\nt=status\nst=active\nsrc=n2\nseq=1\nauth=1 ")
			}
			// A refused packet (nobody listens) is flood enough.
			_, _ = conn.Write(b)
			sent++
		}
	}
	return nil
}

// Answerer is the node that answers an echo request of the client, by the
// client's own ARP entry; nil when none does within a second.
func (l *Lab) Answerer(addr netip.Addr) (*Node, error) {
	var conn *net.IPConn
	err := l.client.do(func() (err error) {
		conn, err = net.DialIP("ip4:icmp", nil, &net.IPAddr{IP: addr.AsSlice()})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("ask who answers for %s: %w", addr, err)
	}
	defer conn.Close()
	// Echo request, identifier "lb", and the checksum of just that.
	if _, err := conn.Write([]byte{8, 0, 0x8b, 0x9d, 'l', 'b', 0, 0}); err != nil {
		return nil, fmt.Errorf("ask who answers for %s: %w", addr, err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		return nil, err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	buf := make([]byte, 512)
	var answerer *Node
	err = raw.Read(func(fd uintptr) bool {
		for {
			k, _, err := unix.Recvfrom(int(fd), buf, unix.MSG_DONTWAIT)
			if err != nil {
				return !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
			}
			// The whole packet: its time to live tells the node, see Boot.
			if hl := int(buf[0]&0xf) * 4; k >= hl+8 && buf[hl] == 0 && string(buf[hl+4:hl+6]) == "lb" {
				for _, n := range l.Nodes() {
					if int(buf[8]) == ttl(n) {
						answerer = n
					}
				}
				return true
			}
		}
	})
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, err
	}
	return answerer, nil
}

// WaitAnswerer waits until a node answers the client.
func (l *Lab) WaitAnswerer(ctx context.Context, n *Node, limit time.Duration, addr netip.Addr) error {
	return Wait(ctx, limit, fmt.Sprintf("%s answers the client for %s", n.Name, addr), func() (bool, string) {
		got, err := l.Answerer(addr)
		switch {
		case err != nil:
			return false, err.Error()
		case got == nil:
			return false, "no answer"
		}
		return got == n, got.Name + " answers"
	})
}
