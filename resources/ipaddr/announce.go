package ipaddr

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/mdlayher/ethernet"
	"github.com/mdlayher/ndp"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// Announce says how often a service address is announced: gratuitous ARP for IPv4,
// an unsolicited neighbour advertisement for IPv6.
type Announce struct {
	// Burst announcements are sent, the first in the step that adds the address,
	// Interval apart.
	Burst    int
	Interval time.Duration
	// Refresh is the pause between later ones while the address is owned; 0
	// switches them off.
	Refresh time.Duration
}

// DefaultAnnounce repeats past one second because Linux before 4.11 ignores an
// update within a second of the last one; and once a minute after that because
// switches forget sooner than gateways do.
var DefaultAnnounce = Announce{Burst: 5, Interval: 1100 * time.Millisecond, Refresh: time.Minute}

// errNoAnnounce is an interface without Ethernet addresses: loopback, tunnels.
// There is nobody to tell.
var errNoAnnounce = errors.New("interface has no ethernet address")

// allNodes is every IPv6 node of the link, and its Ethernet group.
var (
	allNodes    = netip.MustParseAddr("ff02::1")
	allNodesMAC = net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}
)

// sendBufferBytes hold the first announcements of some thousand addresses, should
// the interface be slower than we are. A frame that finds no room is lost and, like
// any other lost frame, made good by the next one of the burst.
const sendBufferBytes = 4 << 20

// sender is the packet socket of one interface. It is opened at the first
// announcement and stays open. Writing never waits, so it needs no poller.
type sender struct {
	mu sync.Mutex
	fd int // -1: closed
}

// openSender opens a socket that only sends: with protocol 0 the kernel delivers
// nothing to it.
func openSender(link iface) (*sender, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err == nil {
		if err = unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: link.index}); err != nil {
			unix.Close(fd)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("packet socket on %s: %w", link.name, err)
	}
	// Without the right to more, what every socket has must do.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBufferBytes)
	return &sender{fd: fd}, nil
}

// rounds of an announcement: for IPv4 a request and a reply, since some equipment
// learns only from requests and some only from replies (RFC 5227 section 3, RFC 5944
// section 4.6). Of many addresses all have their first round before any has its
// second.
const rounds = 2

// announcement is the frame of one round that tells the link that addr is at mac;
// nil if that round has none.
func announcement(addr netip.Addr, mac net.HardwareAddr, round int) ([]byte, error) {
	switch {
	case addr.Is4() && round == 0:
		return arpFrame(arpRequest, addr, mac), nil
	case addr.Is4():
		return arpFrame(arpReply, addr, mac), nil
	case round == 0:
		return naFrame(addr, mac)
	}
	return nil, nil // IPv6 has one form
}

func (s *sender) send(frame []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return net.ErrClosed
	}
	_, err := unix.Write(s.fd, frame)
	return err
}

func (s *sender) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd >= 0 {
		unix.Close(s.fd)
	}
	s.fd = -1
}

// arpRequest and arpReply are the operations of ARP (RFC 826).
const (
	arpRequest = 1
	arpReply   = 2
)

// arpFrame is an ARP packet with sender and target both addr. A request asks for the
// target's hardware address, so it names none.
func arpFrame(operation byte, addr netip.Addr, mac net.HardwareAddr) []byte {
	frame := make([]byte, 0, 42)
	frame = append(frame, ethernet.Broadcast...)
	frame = append(frame, mac...)
	frame = append(frame, 0x08, 0x06) // ARP
	frame = append(frame, 0, 1)       // Ethernet
	frame = append(frame, 0x08, 0x00) // IPv4
	frame = append(frame, 6, 4)       // bytes of their addresses
	frame = append(frame, 0, operation)
	frame = append(frame, mac...)
	frame = append(frame, addr.AsSlice()...)
	if operation == arpReply {
		frame = append(frame, mac...)
	} else {
		frame = append(frame, make([]byte, 6)...)
	}
	return append(frame, addr.AsSlice()...)
}

// naFrame is a neighbour advertisement to all nodes with the override flag.
func naFrame(addr netip.Addr, mac net.HardwareAddr) ([]byte, error) {
	return icmpFrame(&ndp.NeighborAdvertisement{
		Override:      true,
		TargetAddress: addr,
		Options:       []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: mac}},
	}, mac, addr, allNodes, allNodesMAC)
}

// icmpFrame is a message of neighbour discovery. It is built down to the Ethernet
// header so that it can leave before the interface has a usable link-local address
// to bind to.
func icmpFrame(m ndp.Message, mac net.HardwareAddr, from, to netip.Addr, toMAC net.HardwareAddr) ([]byte, error) {
	icmp, err := ndp.MarshalMessageChecksum(m, from, to)
	if err != nil {
		return nil, err
	}
	packet := make([]byte, ipv6.HeaderLen, ipv6.HeaderLen+len(icmp))
	packet[0] = 6 << 4
	packet[4], packet[5] = byte(len(icmp)>>8), byte(len(icmp))
	packet[6] = unix.IPPROTO_ICMPV6
	packet[7] = 255 // receivers discard anything less: it came through a router
	copy(packet[8:], from.AsSlice())
	copy(packet[24:], to.AsSlice())
	return (&ethernet.Frame{Destination: toMAC, Source: mac, EtherType: ethernet.EtherTypeIPv6, Payload: append(packet, icmp...)}).MarshalBinary()
}
