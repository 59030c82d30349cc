package sim

import (
	"encoding/binary"
	"errors"
	"slices"
	"strings"

	"heartbeat/transport/message"
)

// bypass is the engines' codec in runs without wire format and digests. A packet
// is the number of a message that is kept here; the last ones are, which is more
// than may be sent again.
type bypass struct {
	kept []message.Message
	next uint64
}

const (
	bypassKept = 1 << 16
	// The run recognises the packet of a keepalive, and the word that something is
	// not kept any more.
	statusPrefix, nakPrefix, otherPrefix = "t=status ", "t=NS_nak_", "t=other  "
)

var errUnknown = errors.New("no such message")

func (b *bypass) Encode(m *message.Message) []byte {
	id := b.next
	b.next++
	if id < bypassKept {
		b.kept = append(b.kept, message.Message{})
	}
	k := &b.kept[id%bypassKept]
	k.Fields = append(k.Fields[:0], m.Fields...)
	packet := append(make([]byte, 0, len(statusPrefix)+16), prefixOf(m)...)
	packet = binary.BigEndian.AppendUint64(packet, id)
	return binary.BigEndian.AppendUint64(packet, ^id) // a flipped bit is noticed
}

func (b *bypass) Decode(packet []byte, m *message.Message) error {
	if len(packet) != len(statusPrefix)+16 {
		return errUnknown
	}
	id := binary.BigEndian.Uint64(packet[len(statusPrefix):])
	if id != ^binary.BigEndian.Uint64(packet[len(statusPrefix)+8:]) || id >= b.next || b.next-id > bypassKept {
		return errUnknown
	}
	k := &b.kept[id%bypassKept]
	if string(packet[:len(statusPrefix)]) != prefixOf(k) {
		return errUnknown
	}
	m.Fields = append(m.Fields[:0], k.Fields...)
	return nil
}

func prefixOf(m *message.Message) string {
	switch m.Type() {
	case "status":
		return statusPrefix
	case "NS_nak_rexmit":
		return nakPrefix
	}
	return otherPrefix
}

// decode reads a packet of the run.
func (w *world) decode(data []byte) (*message.Message, error) {
	if w.bypass != nil {
		m := new(message.Message)
		return m, w.bypass.Decode(data, m)
	}
	m, _, err := message.Decode(data, w.ring)
	return m, err
}

// strip takes away the fields whose names begin with prefix: x is what heartbeat
// 3.0.6 does not say.
func (w *world) strip(data []byte, prefix string) []byte {
	m, err := w.decode(data)
	if err != nil {
		if w.bypass != nil {
			return data // sent again after too long; nobody understands it
		}
		panic("sim: own packet: " + err.Error())
	}
	m.Fields = slices.DeleteFunc(m.Fields, func(f message.Field) bool { return strings.HasPrefix(f.Name, prefix) })
	if w.bypass != nil {
		return w.bypass.Encode(m)
	}
	return message.AppendNetstring(nil, m, w.ring, w.config.InnerAuth)
}
