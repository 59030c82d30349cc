package ipaddr

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// labelBytesMax is the kernel's limit for an address label (IFNAMSIZ less the
// closing zero); beyond it the kernel answers ERANGE.
const labelBytesMax = 15

// spec is what haresources says of an address; zero fields are to be found out
// from the routes when it is used.
type spec struct {
	addr      netip.Addr
	bits      int    // prefix length, -1 when not given
	nic       string // without label, "" when not given
	label     string // "eth0:1", IPv4 only
	broadcast netip.Addr
}

// complete reports whether nothing is left for the routes to tell.
func (s spec) complete() bool { return s.nic != "" && s.bits >= 0 }

// parseSpec reads IP[/MASK[/NIC[:LABEL][/BROADCAST]]] or IP/MASK/BROADCAST. A third
// part that begins with a digit is the broadcast address; a fourth part counts
// only behind an interface. It touches nothing on the machine.
func parseSpec(arg string) (spec, error) {
	s := spec{bits: -1}
	parts := strings.Split(arg, "/")
	if len(parts) > 4 {
		return s, fmt.Errorf("address %q: more than IP/MASK/NIC/BROADCAST", arg)
	}
	parts = append(parts, make([]string, 4-len(parts))...)
	var err error
	if s.addr, err = netip.ParseAddr(parts[0]); err != nil || s.addr.Zone() != "" {
		return s, fmt.Errorf("address %q: %q is not an IP address", arg, parts[0])
	}
	s.addr = s.addr.Unmap()
	if s.addr.IsUnspecified() || s.addr.IsMulticast() || s.addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return s, fmt.Errorf("address %q: %v cannot be a service address", arg, s.addr)
	}
	if parts[1] != "" {
		if s.bits, err = parseMask(parts[1], s.addr); err != nil {
			return s, fmt.Errorf("address %q: %w", arg, err)
		}
	}
	nic, broadcast := parts[2], parts[3]
	if nic != "" && nic[0] >= '0' && nic[0] <= '9' {
		nic, broadcast = "", nic
	}
	if s.nic, _, _ = strings.Cut(nic, ":"); s.nic != nic && s.nic+":" != nic {
		s.label = nic
	}
	if len(s.nic) > labelBytesMax {
		return s, fmt.Errorf("address %q: interface name %s has %d characters, the kernel takes %d", arg, s.nic, len(s.nic), labelBytesMax)
	}
	if len(s.label) > labelBytesMax {
		return s, fmt.Errorf("address %q: label %s has %d characters, the kernel takes %d", arg, s.label, len(s.label), labelBytesMax)
	}
	if broadcast != "" {
		if s.broadcast, err = netip.ParseAddr(broadcast); err != nil || !s.broadcast.Is4() || !s.addr.Is4() {
			return s, fmt.Errorf("address %q: %q is not a broadcast address for it", arg, broadcast)
		}
	}
	return s, nil
}

// parseMask reads a prefix length or, for IPv4, a dotted mask.
func parseMask(text string, addr netip.Addr) (bits int, err error) {
	if strings.Contains(text, ".") {
		mask, err := netip.ParseAddr(text)
		if err != nil || !mask.Is4() || !addr.Is4() {
			return 0, fmt.Errorf("%q is not a netmask for %v", text, addr)
		}
		bits, size := net.IPMask(mask.AsSlice()).Size()
		if size == 0 || bits == 0 {
			return 0, fmt.Errorf("netmask %s is not a run of ones", text)
		}
		return bits, nil
	}
	bits, err = strconv.Atoi(text)
	if err != nil || bits < 1 || bits > addr.BitLen() {
		return 0, fmt.Errorf("prefix length %q is not between 1 and %d", text, addr.BitLen())
	}
	return bits, nil
}
