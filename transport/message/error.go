package message

import (
	"bytes"
	"fmt"
)

// Reason says why a packet was refused. Its String is a metric's label.
type Reason uint8

const (
	// ReasonTooLong: more than PacketBytesMax.
	ReasonTooLong Reason = iota + 1
	// ReasonUnknownFormat: begins like neither format; also the empty packet.
	ReasonUnknownFormat
	// ReasonMalformed: cut short, or its fields do not parse.
	ReasonMalformed
	// ReasonTooManyFields: more than FieldsMax.
	ReasonTooManyFields
	// ReasonNoAuth: no auth where one must be, or one without a key's number.
	ReasonNoAuth
	// ReasonUnknownKey: signed with a key that we do not have.
	ReasonUnknownKey
	// ReasonBadDigest: damaged, forged, or signed with another secret.
	ReasonBadDigest
)

var reasonLabels = [...]string{
	ReasonTooLong:       "too_long",
	ReasonUnknownFormat: "unknown_format",
	ReasonMalformed:     "malformed",
	ReasonTooManyFields: "too_many_fields",
	ReasonNoAuth:        "no_auth",
	ReasonUnknownKey:    "unknown_key",
	ReasonBadDigest:     "bad_digest",
}

// String is a word of a closed set, fit for a metric's label.
func (r Reason) String() string {
	if int(r) < len(reasonLabels) && r != 0 {
		return reasonLabels[r]
	}
	return "unknown"
}

// Error is a refused packet. It refers to the packet's bytes, so that its
// texts cost nothing unless they are asked for: ask before the buffer is used
// again. Whoever logs them must limit the rate; anybody can send garbage.
type Error struct {
	Reason Reason
	Info   Info // as far as it was read

	packet []byte
	ring   *Keyring
}

// Error says what was refused and why, without any of the packet's content.
func (e *Error) Error() string {
	size := len(e.packet)
	switch e.Reason {
	case ReasonTooLong:
		return fmt.Sprintf("packet of %d bytes: longer than %d", size, PacketBytesMax)
	case ReasonUnknownFormat:
		return fmt.Sprintf("packet of %d bytes: neither netstring nor classic format", size)
	case ReasonTooManyFields:
		return fmt.Sprintf("%v packet of %d bytes: more than %d fields", e.Info.Format, size, FieldsMax)
	case ReasonNoAuth:
		return fmt.Sprintf("%v packet of %d bytes: no authentication", e.Info.Format, size)
	case ReasonUnknownKey:
		return fmt.Sprintf("%v packet of %d bytes: signed with key %d, which is not in authkeys", e.Info.Format, size, e.Info.Key)
	case ReasonBadDigest:
		return fmt.Sprintf("%v packet of %d bytes: wrong digest for key %d (%s)", e.Info.Format, size, e.Info.Key, e.Info.Method)
	}
	return fmt.Sprintf("%v packet of %d bytes: malformed", e.Info.Format, size)
}

// Received is the auth value that the packet carries, "INDEX DIGEST"; "" when
// it has none.
func (e *Error) Received() string {
	f, _ := e.frame()
	return string(f.auth)
}

// Computed is the auth value that the packet should have carried, "" when we
// have no such key. It is a valid signature of whatever the packet says:
// showing it to anybody who may not read authkeys lets him forge.
func (e *Error) Computed() string {
	f, reason := e.frame()
	if reason != 0 || e.ring == nil {
		return ""
	}
	s := e.ring.signer(e.Info.Key)
	if s == nil {
		return ""
	}
	return string(f.appendAuth(nil, s))
}

// Text is the packet up to the first NUL, as the original logs it.
func (e *Error) Text() string {
	text, _, _ := bytes.Cut(e.packet, []byte{0})
	return string(text)
}

// Claimed is what the packet says, nil when it cannot be read. Nothing of it
// is verified: it is for the log, never for a decision.
func (e *Error) Claimed() *Message {
	f, reason := e.frame()
	if reason != 0 {
		return nil
	}
	m := newMessage(f.fields)
	if f.fill(m) != 0 {
		return nil
	}
	return m
}

func (e *Error) frame() (frame, Reason) {
	format, reason := formatOf(e.packet)
	if reason != 0 {
		return frame{}, reason
	}
	return frameOf(e.packet, format)
}
