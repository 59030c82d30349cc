package message

import (
	"encoding/base64"
	"slices"
	"strconv"
	"strings"
)

const (
	netstringStart = "###\n"
	netstringEnd   = "%%%\n"
	classicStart   = ">>>\n"
	classicEnd     = "<<<\n"

	// newlineSymbol stands for a newline inside a classic value.
	newlineSymbol = 0x13

	// packetUsual is the room that a packet begins with: a keepalive with inner
	// auth and the longest usual digest.
	packetUsual = 512
)

// AppendNetstring appends m as a netstring packet signed with the ring's
// outbound key. With inner set a field auth comes last, as "msgfmt classic"
// wants it. Fields of m that are named auth are left out: they belong to a
// packet, not to the message.
func AppendNetstring(dst []byte, m *Message, ring *Keyring, inner bool) []byte {
	start := len(dst)
	dst = append(slices.Grow(dst, packetUsual), netstringStart...)
	for i := range m.Fields {
		if f := &m.Fields[i]; f.Name != fieldAuth {
			dst = appendNetstringField(dst, f.Type, f.Name, f.Value)
		}
	}
	var room [authBytesMax]byte
	if inner {
		// The digest is over the classic lines, which are written behind the
		// fields for the moment and then overwritten.
		end := len(dst)
		dst = appendClassicFields(dst, m)
		auth := ring.outbound.appendAuth(room[:0], dst[end:])
		dst = appendNetstringField(dst[:end], FieldString, fieldAuth, auth)
	}
	dst = append(dst, netstringEnd...)
	auth := ring.outbound.appendAuth(room[:0], dst[start:])
	dst = strconv.AppendInt(dst, int64(len(auth)), 10)
	dst = append(dst, ':')
	dst = append(dst, auth...)
	return append(dst, ',')
}

func appendNetstringField[T string | []byte](dst []byte, typ FieldType, name string, value T) []byte {
	dst = strconv.AppendInt(dst, int64(len("(0)=")+len(name)+len(value)), 10)
	dst = append(dst, ':', '(', '0'+byte(typ), ')')
	dst = append(dst, name...)
	dst = append(dst, '=')
	dst = append(dst, value...)
	return append(dst, ',')
}

// AppendClassic appends m as a classic message signed with the ring's outbound
// key; the field auth comes last, in place of any that m has. A byte 0x13 in a
// string value reaches the reader as a newline: the format has no other way.
func AppendClassic(dst []byte, m *Message, ring *Keyring) []byte {
	dst = append(slices.Grow(dst, packetUsual), classicStart...)
	start := len(dst)
	dst = appendClassicFields(dst, m)
	var room [authBytesMax]byte
	auth := ring.outbound.appendAuth(room[:0], dst[start:])
	dst = append(dst, fieldAuth...)
	dst = append(dst, '=')
	dst = append(dst, auth...)
	dst = append(dst, '\n')
	return append(dst, classicEnd...)
}

// appendClassicFields appends the field lines, without any named auth: what
// the digest of a classic message and the inner auth cover.
func appendClassicFields(dst []byte, m *Message) []byte {
	for i := range m.Fields {
		f := &m.Fields[i]
		if f.Name == fieldAuth {
			continue
		}
		if f.Type != FieldString {
			dst = append(dst, '(', '0'+byte(f.Type), ')')
		}
		dst = append(dst, f.Name...)
		dst = append(dst, '=')
		switch {
		case f.Type == FieldBinary:
			dst = appendBase64(dst, f.Value)
		case strings.IndexByte(f.Value, '\n') < 0:
			dst = append(dst, f.Value...)
		default:
			for j := range len(f.Value) {
				c := f.Value[j]
				if c == '\n' {
					c = newlineSymbol
				}
				dst = append(dst, c)
			}
		}
		dst = append(dst, '\n')
	}
	return dst
}

// appendBase64 encodes in pieces through a small array, for AppendEncode wants
// bytes and would need a copy of the string on the heap.
func appendBase64(dst []byte, value string) []byte {
	var piece [48]byte // a multiple of 3: only the last piece is padded
	for len(value) > 0 {
		n := copy(piece[:], value)
		dst = base64.StdEncoding.AppendEncode(dst, piece[:n])
		value = value[n:]
	}
	return dst
}
