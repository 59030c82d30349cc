package message

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strings"
)

// fieldsUsual is the room for fields that is allocated together with the
// message. A status of ours has 16, the longest other message 14.
const fieldsUsual = 18

// Info is how a packet was spelled and signed.
type Info struct {
	Format Format
	// Key is the index that the packet names, -1 when it was not read.
	Key int
	// Method is that key's method; "" when we have no such key.
	Method string
}

// Plausible reports, without allocating, whether packet is worth decoding: it
// is of a possible length and begins like one of the two formats.
func Plausible(packet []byte) bool {
	_, reason := formatOf(packet)
	return reason == 0
}

func formatOf(packet []byte) (Format, Reason) {
	switch {
	case len(packet) > PacketBytesMax:
		return 0, ReasonTooLong
	case bytes.HasPrefix(packet, []byte(netstringStart)):
		return FormatNetstring, 0
	case bytes.HasPrefix(packet, []byte(classicStart)):
		return FormatClassic, 0
	}
	return 0, ReasonUnknownFormat
}

// Decode reads one packet of either format and verifies its digest, in
// constant time, with method and key of the index that the packet names. Of a
// netstring packet only the outer auth counts. Bytes behind the message are
// ignored.
//
// The message does not share memory with packet. The error is an *[Error],
// which does until it is dropped. Nothing is allocated for the content before
// the digest is verified.
func Decode(packet []byte, ring *Keyring) (*Message, Info, error) {
	return decode(packet, ring, nil)
}

// Decode is the function of that name for who uses one message again and again:
// what m held is gone, also after an error.
func (m *Message) Decode(packet []byte, ring *Keyring) (Info, error) {
	m.Fields = m.Fields[:0]
	_, info, err := decode(packet, ring, m)
	return info, err
}

// decode reads a packet into m, or into a new message where m is nil.
func decode(packet []byte, ring *Keyring, m *Message) (*Message, Info, error) {
	info := Info{Key: -1}
	fail := func(reason Reason) (*Message, Info, error) {
		return nil, info, &Error{Reason: reason, Info: info, packet: packet, ring: ring}
	}
	format, reason := formatOf(packet)
	if reason != 0 {
		return fail(reason)
	}
	info.Format = format
	f, reason := frameOf(packet, format)
	if reason != 0 {
		return fail(reason)
	}
	if f.auth == nil {
		return fail(ReasonNoAuth)
	}
	if info.Key = authIndex(f.auth); info.Key < 0 {
		return fail(ReasonNoAuth)
	}
	s := ring.signer(info.Key)
	if s == nil {
		return fail(ReasonUnknownKey)
	}
	info.Method = s.key.Method
	var room [authBytesMax]byte
	if !verify(f.auth, f.appendAuth(room[:0], s)) {
		return fail(ReasonBadDigest)
	}
	if m == nil {
		m = newMessage(f.fields)
	}
	if reason := f.fill(m); reason != 0 {
		return fail(reason)
	}
	return m, info, nil
}

// ParseClassic reads a classic message without verifying anything: the FIFO's
// records, which only root can write. The error is an *[Error].
func ParseClassic(text []byte) (*Message, error) {
	fail := func(reason Reason) (*Message, error) {
		return nil, &Error{Reason: reason, Info: Info{Format: FormatClassic, Key: -1}, packet: text}
	}
	format, reason := formatOf(text)
	switch {
	case reason != 0:
		return fail(reason)
	case format != FormatClassic:
		return fail(ReasonUnknownFormat)
	}
	f, reason := frameOf(text, FormatClassic)
	if reason != 0 {
		return fail(reason)
	}
	m := newMessage(f.fields)
	if reason := f.fill(m); reason != 0 {
		return fail(reason)
	}
	return m, nil
}

// frame is the outline of a packet, found without allocating: slices of it.
type frame struct {
	format Format
	// signed is what the digest covers; of a classic message without the
	// auth lines.
	signed []byte
	// body are the fields, without what is before and behind them.
	body []byte
	// auth is the auth value "INDEX DIGEST", nil when there is none.
	auth   []byte
	fields int
}

func frameOf(packet []byte, format Format) (frame, Reason) {
	if format == FormatClassic {
		return frameClassic(packet)
	}
	return frameNetstring(packet)
}

func frameNetstring(packet []byte) (frame, Reason) {
	f := frame{format: FormatNetstring}
	at := len(netstringStart)
	for !bytes.HasPrefix(packet[at:], []byte(netstringEnd)) {
		_, n := cutNetstring(packet[at:])
		if n == 0 {
			return f, ReasonMalformed
		}
		at += n
		if f.fields++; f.fields > FieldsMax {
			return f, ReasonTooManyFields
		}
	}
	f.body = packet[len(netstringStart):at]
	at += len(netstringEnd)
	f.signed = packet[:at]
	if auth, n := cutNetstring(packet[at:]); n > 0 {
		f.auth = auth
	}
	if f.fields == 0 && f.auth != nil {
		return f, ReasonMalformed
	}
	return f, 0
}

// cutNetstring reads one "LEN:payload,". n is its whole length, 0 when it is
// none. LEN has no leading zeros.
func cutNetstring[T string | []byte](text T) (payload T, n int) {
	length, i := 0, 0
	for ; i < len(text) && '0' <= text[i] && text[i] <= '9'; i++ {
		length = 10*length + int(text[i]-'0')
		if length == 0 || length > PacketBytesMax {
			return payload, 0
		}
	}
	if end := i + 1 + length; length == 0 || end >= len(text) || text[i] != ':' || text[end] != ',' {
		return payload, 0
	} else {
		return text[i+1 : end], end + 1
	}
}

func frameClassic(packet []byte) (frame, Reason) {
	f := frame{format: FormatClassic}
	at := len(classicStart)
	for {
		if at >= len(packet) {
			return f, ReasonMalformed // the end is missing
		}
		end := lineEnd(packet, at)
		line := packet[at:end]
		if bytes.HasPrefix(line, []byte("<<<")) {
			break
		}
		name, value, _, ok := cutClassic(line)
		if !ok {
			return f, ReasonMalformed
		}
		if f.fields++; f.fields > FieldsMax {
			return f, ReasonTooManyFields
		}
		if f.auth == nil && string(name) == fieldAuth {
			f.auth = value
		}
		at = end
	}
	if f.fields == 0 {
		return f, ReasonMalformed
	}
	f.body = packet[len(classicStart):at]
	f.signed = f.body
	return f, 0
}

// lineEnd is the index behind the line that begins at index at.
func lineEnd(text []byte, at int) int {
	if i := bytes.IndexByte(text[at:], '\n'); i >= 0 {
		return at + i + 1
	}
	return len(text)
}

// cutClassic reads one field line with its newline.
func cutClassic[T string | []byte](line T) (name, value T, typ FieldType, ok bool) {
	end := len(line) - 1
	if end < 0 || line[end] != '\n' {
		return name, value, 0, false
	}
	start := 0
	if line[0] == '(' {
		if end < 3 || line[1] <= '0' || line[1] > '0'+byte(fieldTypeMax) || line[2] != ')' {
			return name, value, 0, false
		}
		typ = FieldType(line[1] - '0')
		start = 3
	}
	for i := start; i < end; i++ {
		if line[i] == '=' {
			return line[start:i], line[i+1 : end], typ, true
		}
	}
	return name, value, 0, false
}

// authIndex is the key index in an auth value, -1 when it has none: one or two
// digits, then a blank.
func authIndex(auth []byte) int {
	index := 0
	for i, c := range auth {
		switch {
		case c == ' ' && i > 0:
			return index
		case c < '0' || c > '9' || i >= 2:
			return -1
		}
		index = 10*index + int(c-'0')
	}
	return -1
}

// appendAuth appends the auth value that the packet should have.
func (f *frame) appendAuth(dst []byte, s *signer) []byte {
	if f.format == FormatClassic {
		return s.appendAuthOfLines(dst, f.signed)
	}
	return s.appendAuth(dst, f.signed)
}

// fill builds the message: one string for the whole body, of which names and
// values are parts.
func (f *frame) fill(m *Message) Reason {
	for body := string(f.body); body != ""; {
		var field Field
		var ok bool
		if f.format == FormatClassic {
			end := strings.IndexByte(body, '\n') + 1
			field, ok = classicField(body[:end])
			body = body[end:]
		} else {
			payload, n := cutNetstring(body)
			field, ok = netstringField(payload)
			body = body[n:]
		}
		if !ok {
			return ReasonMalformed
		}
		m.Fields = append(m.Fields, field)
	}
	return 0
}

// newMessage has room for n fields, in one allocation for the usual number.
func newMessage(n int) *Message {
	if n > fieldsUsual {
		return &Message{Fields: make([]Field, 0, n)}
	}
	usual := new(struct {
		Message
		fields [fieldsUsual]Field
	})
	usual.Fields = usual.fields[:0]
	return &usual.Message
}

func netstringField(payload string) (Field, bool) {
	if len(payload) < len("(0)x=") || payload[0] != '(' || payload[2] != ')' ||
		payload[1] < '0' || payload[1] > '0'+byte(fieldTypeMax) {
		return Field{}, false
	}
	name, value, ok := strings.Cut(payload[3:], "=")
	typ := FieldType(payload[1] - '0')
	if !ok || !validName(name) || !validValue(typ, value) {
		return Field{}, false
	}
	return Field{Name: name, Type: typ, Value: value}, true
}

func classicField(line string) (Field, bool) {
	name, value, typ, ok := cutClassic(line)
	if !ok || !validName(name) || !validValue(typ, value) {
		return Field{}, false
	}
	if typ == FieldBinary {
		raw, err := decodeBase64(value)
		if err != nil {
			return Field{}, false
		}
		value = raw
	} else if strings.IndexByte(value, newlineSymbol) >= 0 {
		value = strings.ReplaceAll(value, "\x13", "\n")
	}
	return Field{Name: name, Type: typ, Value: value}, true
}

// strictBase64 takes one spelling of each value only.
var strictBase64 = base64.StdEncoding.Strict()

func decodeBase64(text string) (string, error) {
	// The library skips carriage returns, the original would not.
	if strings.IndexByte(text, '\r') >= 0 {
		return "", errors.New("carriage return in base64")
	}
	raw, err := strictBase64.DecodeString(text)
	return string(raw), err
}
