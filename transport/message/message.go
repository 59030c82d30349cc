package message

import (
	"fmt"
	"slices"
	"strings"
)

// Bounds of one message. Reaching one is an [Error] with a reason of its own.
const (
	// PacketBytesMax bounds one packet in either format, framing and digest
	// included. A UDP datagram cannot be longer; the original would take
	// 256 KiB on a serial line, where ordinary messages have some 300 bytes.
	PacketBytesMax = 64 << 10
	// FieldsMax bounds the fields of one message. Ordinary ones have 8 to 20.
	FieldsMax = 512

	// What the daemon adds to a message that came from outside: destuuid,
	// src, srcuuid, seq, hg, ts, ld, ttl, auth and the framing around them.
	fieldsReserved = 16
	bytesReserved  = 1024
	// The longest payload of a UDP datagram over IPv4.
	datagramBytesMax = 65507
)

// fieldAuth names the field of the inner auth.
const fieldAuth = "auth"

// FieldType is the type digit of a field on the wire.
type FieldType uint8

// The field types that occur without Pacemaker. The others, up to
// fieldTypeMax, are structures, lists and compressed values; they are carried
// as they are.
const (
	FieldString FieldType = 0
	FieldBinary FieldType = 1

	fieldTypeMax FieldType = 5
)

// Field is one name with its value.
type Field struct {
	Name string
	Type FieldType
	// Value holds the raw bytes, also of a binary field (not its base64).
	Value string
}

// Message is an ordered list of fields. A name may occur more than once, on
// the wire too; the first one counts.
type Message struct {
	Fields []Field
}

// New begins a message of the given type: its first field is t.
func New(typ string) *Message {
	return &Message{Fields: append(make([]Field, 0, fieldsUsual), Field{Name: "t", Value: typ})}
}

// Type is the value of the field t, "" when there is none.
func (m *Message) Type() string { return m.Get("t") }

// Get is the value of the first field of that name, "" when there is none.
func (m *Message) Get(name string) string {
	value, _ := m.Lookup(name)
	return value
}

// Lookup is Get that tells an empty value from an absent field.
func (m *Message) Lookup(name string) (string, bool) {
	for i := range m.Fields {
		if m.Fields[i].Name == name {
			return m.Fields[i].Value, true
		}
	}
	return "", false
}

// Add appends a string field and returns m. Names and values from outside
// must have passed [Message.Validate] before the message is encoded.
func (m *Message) Add(name, value string) *Message {
	m.Fields = append(m.Fields, Field{Name: name, Value: value})
	return m
}

// AddBinary appends a binary field, value being its raw bytes, and returns m.
func (m *Message) AddBinary(name, value string) *Message {
	m.Fields = append(m.Fields, Field{Name: name, Type: FieldBinary, Value: value})
	return m
}

// Set replaces the first field of that name, in its place and with the type
// string, or appends it.
func (m *Message) Set(name, value string) {
	for i := range m.Fields {
		if m.Fields[i].Name == name {
			m.Fields[i] = Field{Name: name, Value: value}
			return
		}
	}
	m.Add(name, value)
}

// Del removes every field of that name.
func (m *Message) Del(name string) {
	m.Fields = slices.DeleteFunc(m.Fields, func(f Field) bool { return f.Name == name })
}

// Clone returns a copy that shares no field with m.
func (m *Message) Clone() *Message {
	return &Message{Fields: slices.Clone(m.Fields)}
}

// Validate reports why a message from outside, such as a FIFO record, could
// not be sent: a name or value that the wire formats cannot carry, or a size
// that leaves no room for the fields that the daemon adds.
func (m *Message) Validate() error {
	if n := len(m.Fields); n > FieldsMax-fieldsReserved {
		return fmt.Errorf("message of type %q: %d fields, at most %d allowed", m.Type(), n, FieldsMax-fieldsReserved)
	}
	size := 0
	for i := range m.Fields {
		f := &m.Fields[i]
		if !validName(f.Name) {
			return fmt.Errorf("message of type %q: field name %q: must not be empty, begin with '(' or hold '=' or control characters", m.Type(), f.Name)
		}
		if f.Type > fieldTypeMax {
			return fmt.Errorf("message of type %q: field %s: unknown field type %d", m.Type(), f.Name, f.Type)
		}
		if !validValue(f.Type, f.Value) {
			return fmt.Errorf("message of type %q: field %s: value holds a NUL byte", m.Type(), f.Name)
		}
		size += len("65535:(0)=,") + len(f.Name) + len(f.Value)
	}
	if limit := datagramBytesMax - bytesReserved; size > limit {
		return fmt.Errorf("message of type %q: %d bytes, at most %d allowed", m.Type(), size, limit)
	}
	return nil
}

// validName reports whether both formats can carry the name: no '=' and no
// newline, which end it, and no '(' in front, which begins a type.
func validName(name string) bool {
	if name == "" || name[0] == '(' {
		return false
	}
	for i := range len(name) {
		if c := name[i]; c < ' ' || c == '=' || c == 0x7f {
			return false
		}
	}
	return true
}

// validValue refuses NUL outside binary fields: a peer in C would read a
// different, shorter value than the one that was signed.
func validValue(typ FieldType, value string) bool {
	return typ == FieldBinary || strings.IndexByte(value, 0) < 0
}

// Format is the spelling of a message on a medium.
type Format uint8

const (
	// FormatNetstring is what UDP and ICMP media carry.
	FormatNetstring Format = iota
	// FormatClassic is the line form that serial lines and the FIFO carry.
	FormatClassic
)

func (f Format) String() string {
	if f == FormatClassic {
		return "classic"
	}
	return "netstring"
}
