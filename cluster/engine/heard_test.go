package engine

import (
	"bytes"
	"testing"

	"heartbeat/transport/message"
)

// TestSecondCopy: the bytes of the packet before are not verified again, and
// nothing else profits from that.
func TestSecondCopy(t *testing.T) {
	ring := func(secret string) *message.Keyring {
		r, err := message.NewKeyring(1, []message.Key{{Index: 1, Method: "sha1", Secret: secret}})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	mine, other := ring("mine"), ring("other")
	packet := message.AppendNetstring(nil, message.New("status").Add("st", "up").Add("src", "node2"), mine, false)
	forged := bytes.Replace(packet, []byte("st=up"), []byte("st=on"), 1)
	var h heard
	for _, tt := range []struct {
		name   string
		packet []byte
		ring   *message.Keyring
		ok     bool
	}{
		{"first", packet, mine, true},
		{"its copy", packet, mine, true},
		{"its copy, changed", forged, mine, false},
		{"the first after a refused one", packet, mine, true},
		{"its copy under other keys", packet, other, false},
	} {
		m, info, err := h.decode(tt.packet, tt.ring)
		if (err == nil) != tt.ok {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if tt.ok && (m.Get("st") != "up" || info.Key != 1) {
			t.Errorf("%s: read as %v with key %d", tt.name, m, info.Key)
		}
		if tt.name != "its copy" {
			continue
		}
		if got := testing.AllocsPerRun(10, func() { h.decode(packet, mine) }); got != 0 {
			t.Errorf("%s: %v allocations", tt.name, got)
		}
	}
}
