package message_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"heartbeat/transport/message"
	"heartbeat/transport/message/messagetest"
)

// TestCaptured decodes every packet that real nodes exchanged and builds it
// again, byte for byte, from its fields.
func TestCaptured(t *testing.T) {
	total := 0
	for _, name := range messagetest.Scenarios(t) {
		t.Run(name, func(t *testing.T) {
			scenario := messagetest.Load(t, name)
			ring := scenario.Ring(t)
			for _, packet := range scenario.Packets {
				if !message.Plausible(packet.Data) {
					t.Fatalf("packet %d: not plausible", packet.N)
				}
				m, info, err := message.Decode(packet.Data, ring)
				if err != nil {
					t.Fatalf("packet %d: %v", packet.N, err)
				}
				want := message.Info{Format: packet.Format, Key: ring.Outbound().Index, Method: ring.Outbound().Method}
				if info != want {
					t.Fatalf("packet %d: info %+v, want %+v", packet.N, info, want)
				}
				if !slices.Equal(m.Fields, packet.Message.Fields) {
					t.Fatalf("packet %d:\n got %q\nwant %q", packet.N, m.Fields, packet.Message.Fields)
				}
				var again []byte
				if packet.Format == message.FormatClassic {
					again = message.AppendClassic(nil, m, ring)
				} else {
					again = message.AppendNetstring(nil, m, ring, scenario.Inner())
				}
				if !bytes.Equal(again, packet.Data) {
					t.Fatalf("packet %d:\n got %q\nwant %q", packet.N, again, packet.Data)
				}
				total++
			}
		})
	}
	if total != 3173 {
		t.Errorf("%d packets, want all 3173", total)
	}
}

// TestCapturedDamaged flips each bit of one packet per scenario: none may pass.
func TestCapturedDamaged(t *testing.T) {
	for _, name := range messagetest.Scenarios(t) {
		scenario := messagetest.Load(t, name)
		ring := scenario.Ring(t)
		packet := scenario.Packets[0].Data
		// The newline behind the classic end is the one byte that may change
		// or go: it is behind the message.
		packet = bytes.TrimSuffix(packet, []byte("\n"))
		for bit := range 8 * len(packet) {
			damaged := bytes.Clone(packet)
			damaged[bit/8] ^= 1 << (bit % 8)
			if m, _, err := message.Decode(damaged, ring); err == nil {
				t.Errorf("%s: bit %d of byte %d flipped, still accepted: %q", name, bit%8, bit/8, m.Fields)
			}
		}
		for n := range packet {
			if _, _, err := message.Decode(packet[:n], ring); err == nil {
				t.Errorf("%s: cut to %d of %d bytes, still accepted", name, n, len(packet))
			}
		}
	}
}

// TestInjected gives the packets that were made by hand to a real node their
// recorded verdict, as far as it depends on format and digest. The rest is the
// session's part: the same table names it.
func TestInjected(t *testing.T) {
	ring := messagetest.InjectedRing(t)
	all := messagetest.Injected(t)
	if len(all) != 47 {
		t.Errorf("%d packets, want 47", len(all))
	}
	differ := map[string]bool{}
	for _, in := range all {
		m, _, err := message.Decode(in.Packet, ring)
		var refused *message.Error
		switch {
		case in.Refused == 0 && err != nil:
			t.Errorf("%s (%s): %v", in.ID, in.Why, err)
		case in.Refused != 0 && (!errors.As(err, &refused) || refused.Reason != in.Refused):
			t.Errorf("%s (%s): error %v, want reason %v", in.ID, in.Why, err, in.Refused)
		case in.Refused == 0 && m.Type() == "":
			t.Errorf("%s: no type in %q", in.ID, m.Fields)
		}
		// What the table says must be what the real node did.
		accepted := in.Refused == 0 && in.Session == messagetest.SessionAccept
		if in.Difference != "" {
			differ[in.ID] = true
			if accepted == (in.Verdict == "accept") {
				t.Errorf("%s: named as a difference (%s), but equals the recorded verdict %s", in.ID, in.Difference, in.Verdict)
			}
		} else if accepted != (in.Verdict == "accept") {
			t.Errorf("%s (%s): recorded %s; refused %v, session %q", in.ID, in.Why, in.Verdict, in.Refused, in.Session)
		}
	}
	if len(differ) != 2 || !differ["t07"] || !differ["t08"] {
		t.Errorf("named differences %v, want t07 and t08 only", differ)
	}
}

// TestSerialStream reads the captured serial line as a stream: cut in pieces
// of every small size, with noise between the messages.
func TestSerialStream(t *testing.T) {
	scenario := messagetest.Load(t, "serial-classic")
	ring := scenario.Ring(t)
	var stream []byte
	for i, packet := range scenario.Packets {
		switch i % 4 {
		case 1:
			stream = append(stream, "\x00\r\nnoise=1\r\n<<<\n"...)
		case 2:
			stream = append(stream, packet.Data[:i%150]...) // cut off in the middle
			stream = append(stream, '\n')
		case 3:
			stream = append(stream, 0) // a break
		}
		stream = append(stream, bytes.ReplaceAll(packet.Data, []byte("\n"), []byte("\r\n"))...)
	}
	for _, piece := range []int{1, 2, 3, 7, 512, len(stream)} {
		lines := message.Lines{Strip: true}
		n := 0
		for chunk := range slices.Chunk(stream, piece) {
			for {
				text, used := lines.Next(chunk)
				chunk = chunk[used:]
				if text == nil {
					break
				}
				if n >= len(scenario.Packets) {
					t.Fatalf("pieces of %d: more messages than sent", piece)
				}
				if want := scenario.Packets[n].Data; !bytes.Equal(text, want) {
					t.Fatalf("pieces of %d, message %d:\n got %q\nwant %q", piece, n, text, want)
				}
				if _, _, err := message.Decode(text, ring); err != nil {
					t.Fatalf("pieces of %d, message %d: %v", piece, n, err)
				}
				n++
			}
		}
		if n != len(scenario.Packets) {
			t.Errorf("pieces of %d: %d messages, want %d", piece, n, len(scenario.Packets))
		}
	}
}
