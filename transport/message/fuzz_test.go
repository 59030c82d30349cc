package message

import (
	"bytes"
	"slices"
	"testing"
)

// FuzzDecode gives the decoder a packet, and again as the body of packets that
// are signed rightly, so that the fuzzer gets past the digest.
func FuzzDecode(f *testing.F) {
	r := crcRing(f)
	f.Add(AppendNetstring(nil, status(), r, true))
	f.Add(AppendNetstring(nil, status(), r, false))
	f.Add(AppendClassic(nil, status(), r))
	f.Add([]byte("6:(0)a=b,"))
	f.Add([]byte("a=b\n(1)c=YQ==\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _, err := Decode(data, r)
		if err != nil && Plausible(data) != (reasonOf(err) != ReasonTooLong && reasonOf(err) != ReasonUnknownFormat) {
			t.Fatalf("plausible %v, but %v", Plausible(data), err)
		}
		if e, ok := err.(*Error); ok {
			if e.Error() == "" || len(e.Text()) > len(data) {
				t.Fatalf("texts of %q: %q, %q", data, e.Error(), e.Text())
			}
			if e.Reason == ReasonBadDigest && e.Computed() == e.Received() {
				t.Fatalf("%q refused, but %q is right", data, e.Received())
			}
			e.Claimed()
		}
		if packet := sealNetstring(r, string(data)); len(packet) <= PacketBytesMax {
			if m, _, err := Decode(packet, r); err == nil {
				// There is one spelling of each message, so what was decoded
				// is encoded to the same bytes; but encoders leave auth out.
				if _, ok := m.Lookup(fieldAuth); !ok {
					if again := AppendNetstring(nil, m, r, false); !bytes.HasPrefix(packet, again) {
						t.Fatalf("decoded %q, encoded %q", packet, again)
					}
				}
			}
		}
		if packet := sealClassic(r, string(data)); len(packet) <= PacketBytesMax {
			if m, _, err := Decode(packet, r); err == nil && m.Fields[len(m.Fields)-1].Name == fieldAuth {
				auth := m.Fields[len(m.Fields)-1]
				if m.Del(fieldAuth); len(m.Fields) == 0 {
					return
				}
				again, _, err := Decode(AppendClassic(nil, m, r), r)
				if err != nil {
					t.Fatalf("decoded %q, encoded and refused: %v", packet, err)
				}
				if m.Fields = append(m.Fields, auth); !slices.Equal(again.Fields, m.Fields) {
					t.Fatalf("decoded %q, then %q", m.Fields, again.Fields)
				}
			}
		}
	})
}

// FuzzParseClassic: what the FIFO's parser takes and Validate lets pass can be
// sent in both formats and arrives as it was.
func FuzzParseClassic(f *testing.F) {
	r := crcRing(f)
	f.Add([]byte(">>>\nt=ask_resources\nrsc_hold=all\ninfo=me\n<<<\n"))
	f.Add([]byte(">>>\nt=x\n(1)b=YQ==\nc=d\x13e\n<<<\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := ParseClassic(data)
		if err != nil {
			if reasonOf(err) == 0 {
				t.Fatalf("error without a reason: %v", err)
			}
			return
		}
		m.Del(fieldAuth)
		if m.Validate() != nil || len(m.Fields) == 0 {
			return
		}
		for _, packet := range [][]byte{AppendNetstring(nil, m, r, true), AppendClassic(nil, m, r)} {
			got, _, err := Decode(packet, r)
			if err != nil {
				t.Fatalf("%q: %v", packet, err)
			}
			if got.Del(fieldAuth); !slices.Equal(got.Fields, m.Fields) {
				t.Fatalf("sent %q, arrived %q", m.Fields, got.Fields)
			}
		}
	})
}

// FuzzLines: however the stream is cut, the same messages come out, bounded
// and framed, and a whole message after any garbage is found at the latest
// after the next one.
func FuzzLines(f *testing.F) {
	f.Add([]byte(">>>\nt=a\n<<<\nx>>>\nt=b\n<<<\n"), uint8(3), true)
	f.Add([]byte(">>>\r\nt=a\n>>>\nt=b\n<<<"), uint8(1), false)
	f.Fuzz(func(t *testing.T, data []byte, piece uint8, strip bool) {
		whole := Lines{Strip: strip, BytesMax: 256}
		cut := whole
		want := feed(&whole, data)
		var got []string
		for chunk := range slices.Chunk(data, int(piece)+1) {
			got = append(got, feed(&cut, chunk)...)
		}
		if !slices.Equal(got, want) || whole.Discarded != cut.Discarded {
			t.Fatalf("whole %q, %d discarded; in pieces %q, %d", want, whole.Discarded, got, cut.Discarded)
		}
		for _, text := range got {
			if len(text) > 256 || !bytes.HasPrefix([]byte(text), []byte(classicStart)) || !bytes.HasSuffix([]byte(text), []byte("\n"+classicEnd)) {
				t.Fatalf("message %q", text)
			}
		}
		const good = ">>>\nt=good\n<<<\n"
		if got := feed(&whole, []byte("\n"+good)); len(got) == 0 || got[len(got)-1] != good {
			t.Fatalf("after %q: %q", data, got)
		}
	})
}
