package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Config says what to probe.
type Config struct {
	// Interface is the client's, and Source its address there.
	Interface string
	Source    netip.Addr
	// Addrs are the addresses to probe, IPv4, at most 1024.
	Addrs []netip.Addr
	// Interval is the time between two requests to one address; 1 ms or more.
	Interval time.Duration
	// Limit ends the run when nobody else did.
	Limit time.Duration
	// NodeMACs are the MACs of n1 and n2 for their streams; none: only "cl".
	NodeMACs []string
}

const (
	addrsMax = 1024
	// stallMin is from where on the prober's own lateness is recorded.
	stallMin = 2 * time.Millisecond
	// drainTime is how long replies are awaited after the last request.
	drainTime = 300 * time.Millisecond
)

var streams = []string{Client, Node1, Node2}

// payload is what a request carries: magic, stream, address, sequence.
const payloadBytes = 12

type prober struct {
	cfg    Config
	raw    int // ICMP: stream cl out, all replies in
	packet int // AF_PACKET: streams n1 and n2 out
	arp    int // AF_PACKET: announcements in
	index  int
	mac    net.HardwareAddr
	nodes  []net.HardwareAddr
	magic  uint32
	byAddr map[netip.Addr]int
	tracks []Track // stream-major
	res    Result
	buf    []byte
	oob    []byte
}

// Run probes until ctx ends or the limit is reached. It must be called in the
// client's network namespace by a thread it may keep; ready is called once,
// as soon as every address was answered on the client's stream.
func Run(ctx context.Context, cfg Config, ready func()) (*Result, error) {
	if len(cfg.Addrs) == 0 || len(cfg.Addrs) > addrsMax {
		return nil, fmt.Errorf("probe %d addresses: between 1 and %d are possible", len(cfg.Addrs), addrsMax)
	}
	if cfg.Interval < time.Millisecond {
		return nil, fmt.Errorf("probe every %v: 1 ms is the least", cfg.Interval)
	}
	runtime.LockOSThread()
	// A collection would be a stall of our own making; a run is short.
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(1 << 30)
	p := &prober{cfg: cfg, magic: uint32(os.Getpid())*2654435761 ^ uint32(time.Now().UnixNano())}
	if err := p.open(); err != nil {
		return nil, err
	}
	defer p.close()
	attr := unix.SchedAttr{Policy: unix.SCHED_FIFO, Priority: 90, Flags: unix.SCHED_FLAG_RESET_ON_FORK}
	p.res.Realtime = unix.SchedSetAttr(0, &attr, 0) == nil
	// Refusal costs precision only, which the recorded stalls show.
	_ = unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT)
	return p.run(ctx, ready)
}

func (p *prober) open() error {
	ifi, err := net.InterfaceByName(p.cfg.Interface)
	if err != nil {
		return fmt.Errorf("probe on %s: %w", p.cfg.Interface, err)
	}
	p.index, p.mac = ifi.Index, ifi.HardwareAddr
	for _, s := range p.cfg.NodeMACs {
		m, err := net.ParseMAC(s)
		if err != nil {
			return err
		}
		p.nodes = append(p.nodes, m)
	}
	p.byAddr = make(map[netip.Addr]int)
	for i, a := range p.cfg.Addrs {
		p.byAddr[a] = i
	}
	for s := range 1 + len(p.nodes) {
		for a := range p.cfg.Addrs {
			p.tracks = append(p.tracks, Track{Stream: streams[s], Addr: a})
		}
	}
	p.buf, p.oob = make([]byte, 2048), make([]byte, 256)
	p.raw, p.packet, p.arp = -1, -1, -1
	if p.raw, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP); err != nil {
		return fmt.Errorf("open ICMP socket: %w", err)
	}
	// Protocol 0: it only sends and shall receive nothing.
	if p.packet, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		p.close()
		return fmt.Errorf("open packet socket: %w", err)
	}
	if p.arp, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_ARP))); err != nil {
		p.close()
		return fmt.Errorf("open ARP socket: %w", err)
	}
	if err := unix.Bind(p.arp, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ARP), Ifindex: p.index}); err != nil {
		p.close()
		return fmt.Errorf("bind ARP socket to %s: %w", p.cfg.Interface, err)
	}
	for _, fd := range []int{p.raw, p.arp} {
		err := errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1))
		if err != nil {
			p.close()
			return fmt.Errorf("set up sockets: %w", err)
		}
	}
	return nil
}

func (p *prober) close() {
	for _, fd := range []int{p.raw, p.packet, p.arp} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

func (p *prober) run(ctx context.Context, ready func()) (*Result, error) {
	interval := p.cfg.Interval.Nanoseconds()
	// Many addresses are spread over the interval, in slots of 1 ms or more.
	slots := max(1, min(len(p.cfg.Addrs), int(p.cfg.Interval/time.Millisecond)))
	step := interval / int64(slots)
	p.res.Start, p.res.IntervalNS = time.Now().UnixNano(), interval
	next := monotonic()
	end := next + p.cfg.Limit.Nanoseconds()
	waiting := ready != nil
	var seq uint32
	for slot := 0; ctx.Err() == nil && next < end; {
		for a := slot; a < len(p.cfg.Addrs); a += slots {
			p.send(a, seq)
		}
		if slot++; slot == slots {
			slot = 0
			seq++
		}
		p.drain()
		if waiting && slot == 0 && p.allAnswered() {
			waiting = false
			ready()
		}
		next += step
		ts := unix.NsecToTimespec(next)
		for errors.Is(unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &ts, nil), unix.EINTR) {
		}
		if late := monotonic() - next; late > stallMin.Nanoseconds() {
			now := time.Now().UnixNano()
			p.res.Stalls = append(p.res.Stalls, Span{now - late, now})
			next += late
		}
	}
	p.res.End = time.Now().UnixNano()
	for deadline := monotonic() + drainTime.Nanoseconds(); monotonic() < deadline; {
		p.drain()
		ts := unix.NsecToTimespec((10 * time.Millisecond).Nanoseconds())
		_ = unix.ClockNanosleep(unix.CLOCK_MONOTONIC, 0, &ts, nil)
	}
	p.res.Tracks = p.tracks
	return &p.res, nil
}

func (p *prober) allAnswered() bool {
	for i := range p.cfg.Addrs {
		if p.tracks[i].Received == 0 {
			return false
		}
	}
	return true
}

// send puts one request for an address on every stream. A send that fails
// (no neighbour, full queue) is a request that got no answer.
func (p *prober) send(a int, seq uint32) {
	for s := range 1 + len(p.nodes) {
		var f [14 + 20 + 8 + payloadBytes]byte
		icmp := f[34:]
		icmp[0] = 8 // echo request
		binary.BigEndian.PutUint16(icmp[4:], 0x4200+uint16(s))
		binary.BigEndian.PutUint16(icmp[6:], uint16(seq))
		binary.BigEndian.PutUint32(icmp[8:], p.magic)
		binary.BigEndian.PutUint16(icmp[12:], uint16(s))
		binary.BigEndian.PutUint16(icmp[14:], uint16(a))
		binary.BigEndian.PutUint32(icmp[16:], seq)
		binary.BigEndian.PutUint16(icmp[2:], checksum(icmp))
		dst := p.cfg.Addrs[a].As4()
		if s == 0 {
			_ = unix.Sendto(p.raw, icmp, unix.MSG_DONTWAIT, &unix.SockaddrInet4{Addr: dst})
		} else {
			copy(f[0:], p.nodes[s-1])
			copy(f[6:], p.mac)
			f[12] = 8 // IPv4
			ip := f[14:34]
			ip[0] = 0x45
			binary.BigEndian.PutUint16(ip[2:], uint16(len(f)-14))
			ip[8], ip[9] = 64, unix.IPPROTO_ICMP
			src := p.cfg.Source.As4()
			copy(ip[12:], src[:])
			copy(ip[16:], dst[:])
			binary.BigEndian.PutUint16(ip[10:], checksum(ip))
			to := unix.SockaddrLinklayer{Ifindex: p.index, Halen: 6, Protocol: htons(unix.ETH_P_IP)}
			copy(to.Addr[:], p.nodes[s-1])
			_ = unix.Sendto(p.packet, f[:], unix.MSG_DONTWAIT, &to)
		}
		p.tracks[s*len(p.cfg.Addrs)+a].Sent++
	}
}

// drain takes all waiting replies and announcements.
func (p *prober) drain() {
	for {
		n, oobn, _, _, err := unix.Recvmsg(p.raw, p.buf, p.oob, unix.MSG_DONTWAIT)
		if err != nil {
			break
		}
		b := p.buf[:n]
		if n < 20 {
			continue
		}
		hl := int(b[0]&0xf) * 4
		if n < hl+8+payloadBytes || b[hl] != 0 || binary.BigEndian.Uint32(b[hl+8:]) != p.magic {
			continue
		}
		s, a := int(binary.BigEndian.Uint16(b[hl+12:])), int(binary.BigEndian.Uint16(b[hl+14:]))
		if s > len(p.nodes) || a >= len(p.cfg.Addrs) {
			continue
		}
		p.replied(&p.tracks[s*len(p.cfg.Addrs)+a], Stamp(p.oob[:oobn]))
	}
	for {
		n, oobn, _, _, err := unix.Recvmsg(p.arp, p.buf, p.oob, unix.MSG_DONTWAIT)
		if err != nil {
			break
		}
		if n < 42 {
			continue
		}
		b := p.buf[14:n]
		sender, target := netip.AddrFrom4([4]byte(b[14:18])), netip.AddrFrom4([4]byte(b[24:28]))
		if i, ours := p.byAddr[sender]; ours && sender == target {
			p.res.Announcements = append(p.res.Announcements,
				Announcement{At: Stamp(p.oob[:oobn]), Addr: i, MAC: net.HardwareAddr(b[8:14]).String()})
		}
	}
}

func (p *prober) replied(t *Track, at int64) {
	t.Received++
	n := len(t.Up)
	if n == 0 || at-t.Up[n-1].To > 3*p.res.IntervalNS {
		t.Up = append(t.Up, Span{at, at})
		return
	}
	t.Up[n-1].To = max(t.Up[n-1].To, at)
}

// Stamp is the kernel's receive time (SO_TIMESTAMPNS) in a control message, or
// now when there is none.
func Stamp(oob []byte) int64 {
	msgs, err := syscall.ParseSocketControlMessage(oob)
	if err == nil {
		for _, m := range msgs {
			if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= 16 {
				return int64(binary.NativeEndian.Uint64(m.Data))*1e9 + int64(binary.NativeEndian.Uint64(m.Data[8:]))
			}
		}
	}
	return time.Now().UnixNano()
}

func monotonic() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano()
}

func htons(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return binary.NativeEndian.Uint16(b[:])
}

func checksum(b []byte) uint16 {
	var s uint32
	for ; len(b) > 1; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return ^uint16(s)
}
