package ipaddr

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"
	"github.com/mdlayher/ndp"
	"github.com/mdlayher/packet"
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

// sender is the packet socket of one interface. It is opened at the first
// announcement and stays open.
type sender struct {
	conn *packet.Conn
}

// openSender opens a socket that only sends: with protocol 0 the kernel delivers
// nothing to it.
func openSender(link iface) (*sender, error) {
	conn, err := packet.Listen(&net.Interface{Index: link.index, Name: link.name, HardwareAddr: link.mac}, packet.Raw, 0, nil)
	if err != nil {
		return nil, fmt.Errorf("packet socket on %s: %w", link.name, err)
	}
	return &sender{conn}, nil
}

// announce tells the link that addr is at mac. For IPv4 both forms are sent, since
// some equipment learns only from requests and some only from replies (RFC 5227
// section 3, RFC 5944 section 4.6).
func (s *sender) announce(addr netip.Addr, mac net.HardwareAddr) error {
	to := ethernet.Broadcast
	frames := arpFrames
	if addr.Is6() {
		to, frames = allNodesMAC, naFrames
	}
	list, err := frames(addr, mac)
	if err != nil {
		return err
	}
	for _, frame := range list {
		if _, err := s.conn.WriteTo(frame, &packet.Addr{HardwareAddr: to}); err != nil {
			return err
		}
	}
	return nil
}

func (s *sender) close() { s.conn.Close() }

// arpFrames are a request and a reply with sender and target both addr.
func arpFrames(addr netip.Addr, mac net.HardwareAddr) ([][]byte, error) {
	var frames [][]byte
	for _, form := range []struct {
		op     arp.Operation
		target net.HardwareAddr
	}{
		// A request asks for the target's address, so it names none.
		{arp.OperationRequest, make(net.HardwareAddr, len(mac))},
		{arp.OperationReply, mac},
	} {
		p, err := arp.NewPacket(form.op, mac, addr, form.target, addr)
		if err != nil {
			return nil, err
		}
		payload, err := p.MarshalBinary()
		if err != nil {
			return nil, err
		}
		frame, err := (&ethernet.Frame{Destination: ethernet.Broadcast, Source: mac, EtherType: ethernet.EtherTypeARP, Payload: payload}).MarshalBinary()
		if err != nil {
			return nil, err
		}
		frames = append(frames, frame)
	}
	return frames, nil
}

// naFrames is a neighbour advertisement to all nodes with the override flag. It is
// built down to the Ethernet header so that it can leave before the interface has
// a usable link-local address to bind to.
func naFrames(addr netip.Addr, mac net.HardwareAddr) ([][]byte, error) {
	icmp, err := ndp.MarshalMessageChecksum(&ndp.NeighborAdvertisement{
		Override:      true,
		TargetAddress: addr,
		Options:       []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: mac}},
	}, addr, allNodes)
	if err != nil {
		return nil, err
	}
	packet := make([]byte, ipv6.HeaderLen, ipv6.HeaderLen+len(icmp))
	packet[0] = 6 << 4
	packet[4], packet[5] = byte(len(icmp)>>8), byte(len(icmp))
	packet[6] = unix.IPPROTO_ICMPV6
	packet[7] = 255 // receivers discard anything less: it came through a router
	copy(packet[8:], addr.AsSlice())
	copy(packet[24:], allNodes.AsSlice())
	frame, err := (&ethernet.Frame{Destination: allNodesMAC, Source: mac, EtherType: ethernet.EtherTypeIPv6, Payload: append(packet, icmp...)}).MarshalBinary()
	if err != nil {
		return nil, err
	}
	return [][]byte{frame}, nil
}
