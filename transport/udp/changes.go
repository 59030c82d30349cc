package udp

import (
	"encoding/binary"
	"slices"
	"syscall"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// addressesMax bounds the addresses that are told apart; beyond it all are
// forgotten, and each counts as new once more.
const addressesMax = 4096

// changes tells reports of the kernel that say something new from those that do
// not: an address whose lifetime is prolonged again and again is reported each
// time.
type changes struct{ known map[string]bool }

// news reports whether a datagram of the kernel may say something that was not so
// before.
func (c *changes) news(datagram []byte) bool {
	messages, err := syscall.ParseNetlinkMessage(datagram)
	if err != nil || len(messages) == 0 {
		c.forget()
		return true
	}
	found := false
	for i := range messages {
		found = c.look(&messages[i]) || found
	}
	return found
}

func (c *changes) look(m *syscall.NetlinkMessage) bool {
	key := ""
	if m.Header.Type == unix.RTM_NEWADDR {
		key = addressKey(m)
	}
	if key == "" {
		c.forget() // with an interface or an address what was known of others may go
		return true
	}
	if c.known[key] {
		return false
	}
	if c.known == nil || len(c.known) >= addressesMax {
		c.known = make(map[string]bool)
	}
	c.known[key] = true
	return true
}

// forget makes that every address counts as new.
func (c *changes) forget() { c.known = nil }

// addressKey is all that a message says of an address but for its lifetime; ""
// when it cannot be read.
func addressKey(m *syscall.NetlinkMessage) string {
	attributes, err := syscall.ParseNetlinkRouteAttr(m)
	if err != nil || len(m.Data) < unix.SizeofIfAddrmsg {
		return ""
	}
	key := slices.Clone(m.Data[:unix.SizeofIfAddrmsg])
	for _, a := range attributes {
		if a.Attr.Type != unix.IFA_CACHEINFO {
			key = append(append(key, byte(a.Attr.Type), byte(len(a.Value))), a.Value...)
		}
	}
	return string(key)
}

// interfacesMax bounds the interfaces that the kernel is asked to tell apart; with
// more it reports everything.
const interfacesMax = 64

// attention makes the kernel keep to itself what it has to say of the addresses of
// other interfaces than these: service addresses, whose lifetimes are prolonged all
// the time, are mostly elsewhere. All else passes, and so does everything where the
// kernel refuses.
func attention(fd int, indexes []int) error {
	return attachFilter(fd, unix.SO_ATTACH_FILTER, attentionProgram(indexes))
}

func attentionProgram(indexes []int) []bpf.Instruction {
	if len(indexes) > interfacesMax {
		return []bpf.Instruction{bpf.RetConstant{Val: everything}}
	}
	const typeAt, indexAt = 4, unix.SizeofNlMsghdr + 4 // ifa_index
	// The filter reads in the network's order what is in the machine's.
	e := binary.NativeEndian
	typ := uint32(binary.BigEndian.Uint16(e.AppendUint16(nil, unix.RTM_NEWADDR)))
	program := []bpf.Instruction{
		bpf.LoadAbsolute{Off: typeAt, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: typ, SkipTrue: 1},
		bpf.RetConstant{Val: everything},
		bpf.LoadAbsolute{Off: indexAt, Size: 4},
	}
	for _, index := range indexes {
		val := binary.BigEndian.Uint32(e.AppendUint32(nil, uint32(index)))
		program = append(program, bpf.JumpIf{Cond: bpf.JumpEqual, Val: val, SkipFalse: 1}, bpf.RetConstant{Val: everything})
	}
	return append(program, bpf.RetConstant{Val: 0})
}
