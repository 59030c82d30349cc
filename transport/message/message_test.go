package message

import (
	"bytes"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func ring(t testing.TB, outbound int, keys ...Key) *Keyring {
	t.Helper()
	r, err := NewKeyring(outbound, keys)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func crcRing(t testing.TB) *Keyring { return ring(t, 1, Key{Index: 1, Method: "crc"}) }

func reasonOf(err error) Reason {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Reason
	}
	return 0
}

// TestPure guards the promise that this package is bytes only.
func TestPure(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) == 0 {
		t.Fatal("no files:", err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range parsed.Imports {
			path, _ := strconv.Unquote(spec.Path.Value)
			if slices.Contains([]string{"net", "os", "os/exec", "math/rand", "math/rand/v2", "time", "log"}, path) {
				t.Errorf("%s imports %s", file, path)
			}
		}
	}
}

func TestMessage(t *testing.T) {
	m := New("status").Add("st", "up").AddBinary("srcuuid", "\x00\xff").Add("st", "second")
	if m.Type() != "status" || m.Get("st") != "up" || m.Get("dt") != "" {
		t.Errorf("fields %q", m.Fields)
	}
	if _, ok := m.Lookup("dt"); ok {
		t.Error("dt found")
	}
	if value, ok := m.Add("ld", "").Lookup("ld"); value != "" || !ok {
		t.Error("empty value taken for absent")
	}
	c := m.Clone()
	c.Set("st", "dead")
	c.Set("new", "1")
	if c.Get("st") != "dead" || c.Get("new") != "1" || c.Fields[1].Name != "st" {
		t.Errorf("set: %q", c.Fields)
	}
	c.Set("srcuuid", "text")
	if c.Fields[2].Type != FieldString {
		t.Error("set keeps the type binary")
	}
	if m.Get("st") != "up" || len(m.Fields) != 5 {
		t.Errorf("clone shares fields: %q", m.Fields)
	}
	m.Del("st")
	if _, ok := m.Lookup("st"); ok || len(m.Fields) != 3 {
		t.Errorf("del left %q", m.Fields)
	}
}

func TestKeyring(t *testing.T) {
	sha1 := Key{Index: 1, Method: "sha1", Secret: "SecretKey"}
	for _, c := range []struct {
		name     string
		outbound int
		keys     []Key
		err      string
	}{
		{"index above the highest", 1, []Key{sha1, {Index: 16, Method: "crc"}}, "key 16 crc: index out of range 0 to 15"},
		{"negative index", 1, []Key{sha1, {Index: -1, Method: "crc"}}, "key -1 crc: index out of range 0 to 15"},
		{"index twice", 1, []Key{sha1, sha1}, "key 1 sha1: index given twice"},
		{"method unknown", 1, []Key{sha1, {Index: 2, Method: "rot13"}}, "key 2 rot13: unknown method"},
		{"no secret", 1, []Key{sha1, {Index: 2, Method: "md5"}}, "key 2 md5: the method needs a secret"},
		{"outbound key missing", 2, []Key{sha1}, "key 2: not among the keys, but asked to sign"},
	} {
		if _, err := NewKeyring(c.outbound, c.keys); err == nil || err.Error() != c.err {
			t.Errorf("%s: %v, want %s", c.name, err, c.err)
		}
	}
	r := ring(t, 1, sha1, Key{Index: 0, Method: "crc"}, Key{Index: 15, Method: "crc"})
	if r.Outbound() != sha1 {
		t.Errorf("outbound %v", r.Outbound())
	}
	if other, ok := r.WithOutbound(15); !ok || other.Outbound().Index != 15 || r.Outbound() != sha1 {
		t.Error("WithOutbound")
	}
	if _, ok := r.WithOutbound(2); ok {
		t.Error("signs with a key that is not there")
	}
	if key, ok := r.Lookup(0); !ok || key.Method != "crc" {
		t.Error("Lookup(0)")
	}
	for _, index := range []int{-1, 2, 16} {
		if _, ok := r.Lookup(index); ok {
			t.Errorf("Lookup(%d) found a key", index)
		}
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if text := fmt.Sprintf(verb, sha1); strings.Contains(text, "SecretKey") {
			t.Errorf("%s shows the secret: %s", verb, text)
		}
	}
}

// TestDigests compares with RFC 2202, RFC 4231 and the catalogued check value
// of this CRC.
func TestDigests(t *testing.T) {
	const jefe = "what do ya want for nothing?"
	const larger = "Test Using Larger Than Block-Size Key - Hash Key First"
	for _, c := range []struct{ method, secret, data, want string }{
		{"crc", "", "123456789", "765e7680"},
		{"crc", "", "", "ffffffff"},
		{"md5", "Jefe", jefe, "750c783e6ab0b503eaa86e310a5db738"},
		{"sha1", "Jefe", jefe, "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"},
		{"sha256", "Jefe", jefe, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"},
		{"sha512", "Jefe", jefe, "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554" +
			"9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737"},
		{"md5", strings.Repeat("\xaa", 80), larger, "6b1ab7fe4bd7bf8f0b62e6ce61b9d0cd"},
		{"sha1", strings.Repeat("\xaa", 80), larger, "aa4ae5e15272d00e95705637ce8a3b55ed402112"},
	} {
		r := ring(t, 7, Key{Index: 7, Method: c.method, Secret: c.secret})
		for range 2 { // the second time from the kept state
			if got := string(r.outbound.appendAuth(nil, []byte(c.data))); got != "7 "+c.want {
				t.Errorf("%s of %q: %s, want %s", c.method, c.data, got, c.want)
			}
		}
	}
}

// TestVerifyByIndex: method and secret are those of the key that the packet
// names, whatever the receiver signs with.
func TestVerifyByIndex(t *testing.T) {
	keys := []Key{
		{Index: 0, Method: "crc"},
		{Index: 1, Method: "sha1", Secret: "one"},
		{Index: 2, Method: "md5", Secret: "two"},
		{Index: 3, Method: "sha256", Secret: "three"},
		{Index: 15, Method: "sha512", Secret: strings.Repeat("x", 200)},
	}
	receiver := ring(t, 1, keys...)
	stranger := ring(t, 4, Key{Index: 4, Method: "crc"})
	m := New("status").Add("src", "node1").AddBinary("srcuuid", "0123456789abcdef")
	for _, key := range keys {
		sender := ring(t, key.Index, keys...)
		for name, packet := range map[string][]byte{
			"netstring": AppendNetstring(nil, m, sender, false),
			"inner":     AppendNetstring(nil, m, sender, true),
			"classic":   AppendClassic(nil, m, sender),
		} {
			got, info, err := Decode(packet, receiver)
			if err != nil {
				t.Errorf("%v %s: %v", key, name, err)
				continue
			}
			got.Del("auth")
			if !slices.Equal(got.Fields, m.Fields) || info.Key != key.Index || info.Method != key.Method {
				t.Errorf("%v %s: %q, %+v", key, name, got.Fields, info)
			}
			if _, _, err := Decode(packet, stranger); reasonOf(err) != ReasonUnknownKey {
				t.Errorf("%v %s: unknown key: %v", key, name, err)
			}
		}
	}
}

// TestError: what a refused packet tells for the log.
func TestError(t *testing.T) {
	sender := ring(t, 1, Key{Index: 1, Method: "sha1", Secret: "theirs"})
	receiver := ring(t, 1, Key{Index: 1, Method: "sha1", Secret: "ours"})
	m := New("status").Add("src", "node1").AddBinary("srcuuid", "\x00")
	for name, encode := range map[string]func(*Keyring) []byte{
		"netstring": func(r *Keyring) []byte { return AppendNetstring(nil, m, r, false) },
		"classic":   func(r *Keyring) []byte { return AppendClassic(nil, m, r) },
	} {
		packet := encode(sender)
		_, info, err := Decode(packet, receiver)
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Reason != ReasonBadDigest || info.Key != 1 || info.Method != "sha1" || e.Info != info {
			t.Fatalf("%s: %v, %+v", name, err, info)
		}
		if want := fmt.Sprintf("%s packet of %d bytes: wrong digest for key 1 (sha1)", name, len(packet)); e.Error() != want {
			t.Errorf("%q, want %q", e.Error(), want)
		}
		if auth := e.Received(); len(auth) != 42 || !bytes.Contains(packet, []byte(auth)) {
			t.Errorf("%s: received %q", name, auth)
		}
		if auth := e.Computed(); len(auth) != 42 || !bytes.Contains(encode(receiver), []byte(auth)) {
			t.Errorf("%s: computed %q is not in our own packet", name, auth)
		}
		if claimed := e.Claimed(); claimed == nil || claimed.Get("src") != "node1" {
			t.Errorf("%s: claimed %v", name, claimed)
		}
		if text, _, _ := strings.Cut(string(packet), "\x00"); e.Text() != text {
			t.Errorf("%s: text %q, want %q", name, e.Text(), text)
		}
	}
	_, _, err := Decode([]byte("garbage"), receiver)
	e, _ := errors.AsType[*Error](err)
	if e.Received() != "" || e.Computed() != "" || e.Claimed() != nil {
		t.Errorf("garbage: %q, %q, %v", e.Received(), e.Computed(), e.Claimed())
	}
}

func TestReasonLabels(t *testing.T) {
	seen := map[string]bool{}
	for r := ReasonTooLong; r <= ReasonBadDigest; r++ {
		if label := r.String(); seen[label] || label == "unknown" || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz_") != "" {
			t.Errorf("reason %d: label %q", r, label)
		} else {
			seen[label] = true
		}
	}
	if Reason(0).String() != "unknown" || Reason(200).String() != "unknown" {
		t.Error("label of no reason")
	}
}

// sealNetstring signs a body that no encoder would write.
func sealNetstring(r *Keyring, body string) []byte {
	packet := []byte(netstringStart + body + netstringEnd)
	auth := r.outbound.appendAuth(nil, packet)
	return fmt.Appendf(packet, "%d:%s,", len(auth), auth)
}

func sealClassic(r *Keyring, lines string) []byte {
	return fmt.Appendf(nil, "%s%sauth=%s\n%s", classicStart, lines, r.outbound.appendAuth(nil, []byte(lines)), classicEnd)
}

// TestRefused: packets that are signed rightly and wrong all the same, and
// some that never get so far.
func TestRefused(t *testing.T) {
	r := crcRing(t)
	manyNetstrings := strings.Repeat("6:(0)a=b,", FieldsMax)
	manyLines := strings.Repeat("a=b\n", FieldsMax-1) // and the auth field
	for _, c := range []struct {
		name   string
		packet []byte
		want   Reason
	}{
		{"one field", sealNetstring(r, "6:(0)a=b,"), 0},
		{"empty value", sealNetstring(r, "5:(0)a=,"), 0},
		{"value with everything", sealNetstring(r, "14:(0)a=b,\n%%%\n=(,"), 0},
		{"opaque types", sealNetstring(r, "6:(5)a=b,6:(2)c=d,"), 0},
		{"most fields", sealNetstring(r, manyNetstrings), 0},
		{"one field too many", sealNetstring(r, manyNetstrings+"6:(0)a=b,"), ReasonTooManyFields},
		{"no fields", sealNetstring(r, ""), ReasonMalformed},
		{"no equals sign", sealNetstring(r, "6:(0)abc,"), ReasonMalformed},
		{"no name", sealNetstring(r, "6:(0)=ab,"), ReasonMalformed},
		{"newline in name", sealNetstring(r, "8:(0)a\nb=c,"), ReasonMalformed},
		{"name like a type", sealNetstring(r, "9:(0)(1)a=b,"), ReasonMalformed},
		{"NUL in string", sealNetstring(r, "7:(0)a=\x00b,"), ReasonMalformed},
		{"NUL in binary", sealNetstring(r, "7:(1)a=\x00b,"), 0},
		{"no type", sealNetstring(r, "5:abc=d,"), ReasonMalformed},
		{"type 6", sealNetstring(r, "6:(6)a=b,"), ReasonMalformed},
		{"leading zero", sealNetstring(r, "06:(0)a=b,"), ReasonMalformed},
		{"length short by one", sealNetstring(r, "5:(0)a=b,"), ReasonMalformed},
		{"length long by one", sealNetstring(r, "7:(0)a=b,"), ReasonMalformed},
		{"length beyond the packet", sealNetstring(r, "600:(0)a=b,"), ReasonMalformed},
		{"length beyond all bounds", sealNetstring(r, "99999999999999999999:(0)a=b,"), ReasonMalformed},
		{"no length", sealNetstring(r, ":(0)a=b,"), ReasonMalformed},
		{"blank before length", sealNetstring(r, " 6:(0)a=b,"), ReasonMalformed},
		{"no end", []byte("###\n6:(0)a=b,"), ReasonMalformed},
		{"no outer auth", []byte("###\n6:(0)a=b,%%%\n"), ReasonNoAuth},
		{"outer auth cut short", []byte("###\n6:(0)a=b,%%%\n10:1 0000000"), ReasonNoAuth},
		{"auth without index", []byte("###\n6:(0)a=b,%%%\n8:00000000,"), ReasonNoAuth},
		{"auth of a blank", []byte("###\n6:(0)a=b,%%%\n1: ,"), ReasonNoAuth},
		{"negative index", []byte("###\n6:(0)a=b,%%%\n4:-1 0,"), ReasonNoAuth},
		{"index of three digits", []byte("###\n6:(0)a=b,%%%\n5:100 0,"), ReasonNoAuth},
		{"index without a key", []byte("###\n6:(0)a=b,%%%\n3:2 0,"), ReasonUnknownKey},
		{"index 99", []byte("###\n6:(0)a=b,%%%\n4:99 0,"), ReasonUnknownKey},
		{"no digest", []byte("###\n6:(0)a=b,%%%\n2:1 ,"), ReasonBadDigest},
		{"first four bytes only", []byte("###\n"), ReasonMalformed},
		{"start without newline", []byte("###"), ReasonUnknownFormat},
		{"too long", append(sealNetstring(r, "6:(0)a=b,"), make([]byte, PacketBytesMax)...), ReasonTooLong},
		{"longest", append(sealNetstring(r, "6:(0)a=b,"), make([]byte, PacketBytesMax-32)...), 0},

		{"classic", sealClassic(r, "a=b\n"), 0},
		{"classic without the last newline", bytes.TrimSuffix(sealClassic(r, "a=b\n"), []byte("\n")), 0},
		{"classic, auth in front", []byte(">>>\nauth=" + string(r.outbound.appendAuth(nil, []byte("a=b\nc=d\n"))) + "\na=b\nc=d\n<<<\n"), 0},
		{"classic, auth between", []byte(">>>\na=b\nauth=" + string(r.outbound.appendAuth(nil, []byte("a=b\nc=d\n"))) + "\nc=d\n<<<\n"), 0},
		{"classic, the first auth counts", []byte(">>>\nauth=" + string(r.outbound.appendAuth(nil, []byte("a=b\n"))) + "\na=b\nauth=1 0\n<<<\n"), 0},
		{"classic, most fields", sealClassic(r, manyLines), 0},
		{"classic, one field too many", sealClassic(r, manyLines+"a=b\n"), ReasonTooManyFields},
		{"classic, empty", []byte(">>>\n<<<\n"), ReasonMalformed},
		{"classic, no auth", []byte(">>>\na=b\n<<<\n"), ReasonNoAuth},
		{"classic, no end", []byte(">>>\na=b\nauth=1 0\n"), ReasonMalformed},
		{"classic, no equals sign", sealClassic(r, "ab\n"), ReasonMalformed},
		{"classic, empty line", sealClassic(r, "a=b\n\n"), ReasonMalformed},
		{"classic, no name", sealClassic(r, "=b\n"), ReasonMalformed},
		{"classic, type 0 written", sealClassic(r, "(0)a=b\n"), ReasonMalformed},
		{"classic, type 6", sealClassic(r, "(6)a=b\n"), ReasonMalformed},
		{"classic, bad base64", sealClassic(r, "(1)a=b\n"), ReasonMalformed},
		{"classic, unpadded base64", sealClassic(r, "(1)a=YQ\n"), ReasonMalformed},
		{"classic, second spelling of base64", sealClassic(r, "(1)a=YR==\n"), ReasonMalformed},
		{"classic, carriage return in base64", sealClassic(r, "(1)a=YQ==\r\n"), ReasonMalformed},
		{"classic, base64", sealClassic(r, "(1)a=YQ==\n"), 0},
		{"classic, NUL", sealClassic(r, "a=\x00\n"), ReasonMalformed},
	} {
		m, info, err := Decode(c.packet, r)
		if got := reasonOf(err); got != c.want || (err == nil) != (c.want == 0) || (m == nil) != (err != nil) {
			t.Errorf("%s: %v, want reason %v", c.name, err, c.want)
		}
		if err != nil && err.Error() == "" {
			t.Errorf("%s: no text", c.name)
		}
		if c.want == ReasonUnknownFormat != !Plausible(c.packet) && c.want != ReasonTooLong {
			t.Errorf("%s: plausible %v", c.name, Plausible(c.packet))
		}
		if c.want == 0 && info.Key != 1 {
			t.Errorf("%s: info %+v", c.name, info)
		}
	}
}

func TestParseClassic(t *testing.T) {
	m, err := ParseClassic([]byte(">>>\nt=ask_resources\nrsc_hold=all\ninfo=me\n<<<\nbehind"))
	want := []Field{{Name: "t", Value: "ask_resources"}, {Name: "rsc_hold", Value: "all"}, {Name: "info", Value: "me"}}
	if err != nil || !slices.Equal(m.Fields, want) {
		t.Errorf("%v, %v", m, err)
	}
	if m, err := ParseClassic([]byte(">>>\nt=a\x13b=c\n<<<\n")); err != nil || m.Type() != "a\nb=c" {
		t.Errorf("newline: %v, %v", m, err)
	}
	for text, want := range map[string]Reason{
		"":                       ReasonUnknownFormat,
		"t=status\n":             ReasonUnknownFormat,
		"###\n6:(0)a=b,%%%\n":    ReasonUnknownFormat,
		">>>\nt=status\n":        ReasonMalformed,
		">>>\nt\n<<<\n":          ReasonMalformed,
		">>>\n<<<\n":             ReasonMalformed,
		">>>\nt=status\n\n<<<\n": ReasonMalformed,
	} {
		if _, err := ParseClassic([]byte(text)); reasonOf(err) != want {
			t.Errorf("%q: %v, want reason %v", text, err, want)
		}
	}
}

func TestValidate(t *testing.T) {
	many := New("x")
	for range FieldsMax - fieldsReserved - 1 {
		many.Add("a", "b")
	}
	if err := many.Validate(); err != nil {
		t.Error(err)
	}
	if err := many.Add("a", "b").Validate(); err == nil {
		t.Error("one field too many passes")
	}
	for _, c := range []struct{ name, value, err string }{
		{"a", "b", ""},
		{"a", "line\nline = (x)", ""},
		{"", "b", "must not be empty"},
		{"(1)a", "b", "begin with '('"},
		{"a=b", "c", "hold '='"},
		{"a\n", "c", "control characters"},
		{"a", "b\x00", "NUL"},
		{"a", strings.Repeat("x", datagramBytesMax-bytesReserved), "at most"},
	} {
		err := New("x").Add(c.name, c.value).Validate()
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%.20q=%.20q: %v, want %q", c.name, c.value, err, c.err)
		}
	}
	if err := (&Message{Fields: []Field{{Name: "a", Type: 6}}}).Validate(); err == nil {
		t.Error("field type 6 passes")
	}
}

// TestNewlineInValue: a newline in a value survives both formats, as byte 0x13 in
// the classic one, which is also what the digest covers.
func TestNewlineInValue(t *testing.T) {
	r := crcRing(t)
	m := New("status").Add("multi", "a\nb")
	classic := AppendClassic(nil, m, r)
	if !bytes.Contains(classic, []byte("multi=a\x13b\n")) {
		t.Errorf("%q", classic)
	}
	for _, packet := range [][]byte{classic, AppendNetstring(nil, m, r, true)} {
		if got, _, err := Decode(packet, r); err != nil || got.Get("multi") != "a\nb" {
			t.Errorf("%q: %v", packet, err)
		}
	}
}

func TestLines(t *testing.T) {
	const a, b = ">>>\nt=a\n<<<\n", ">>>\nt=b\n<<<\n"
	for _, c := range []struct {
		name, stream string
		want         []string
		discarded    uint64
	}{
		{"two messages", a + b, []string{a, b}, 0},
		{"noise before, between, behind", "x\n>>\n" + a + "t=c\n<<<\n" + b + "x", []string{a, b}, 0},
		{"noise on the line of the start", "x" + a + b, []string{b}, 0},
		{"carriage returns and breaks", "\x00\x00>>>\r\nt=a\r\n<<<\r\n\x00" + b, []string{a, b}, 0},
		{"more on the lines of start and end", ">>> x\nt=a\n<<<x\n" + b, []string{a, b}, 0},
		{"newline behind the end lost", ">>>\nt=a\n<<<x\n" + b, []string{a, b}, 0},
		{"end lost", ">>>\nt=c\n" + a + b, []string{a, b}, 1},
		{"start in a value", ">>>\nt=>>>\n<<<\n", []string{">>>\nt=>>>\n<<<\n"}, 0},
		{"end in a value", ">>>\nt=<<<\n<<<\n", []string{">>>\nt=<<<\n<<<\n"}, 0},
		{"too long", ">>>\n" + strings.Repeat("x", 30) + "\n<<<\n" + b, []string{b}, 1},
		{"too long by lines", ">>>\n" + strings.Repeat("x=y\n", 10) + "<<<\n" + b, []string{b}, 1},
		{"just short enough", ">>>\n" + strings.Repeat("x", 23) + "\n<<<\n", []string{">>>\n" + strings.Repeat("x", 23) + "\n<<<\n"}, 0},
		{"just too long", ">>>\n" + strings.Repeat("x", 24) + "\n<<<\n" + b, []string{b}, 1},
		{"empty lines", "\n\n" + a + "\n\n" + b, []string{a, b}, 0},
	} {
		for piece := 1; piece <= len(c.stream); piece++ {
			l := Lines{BytesMax: 32}
			var got []string
			for chunk := range slices.Chunk([]byte(c.stream), piece) {
				got = append(got, feed(&l, chunk)...)
			}
			if !slices.Equal(got, c.want) || l.Discarded != c.discarded {
				t.Errorf("%s, pieces of %d: %q, %d discarded; want %q, %d", c.name, piece, got, l.Discarded, c.want, c.discarded)
			}
		}
	}
	parity := []byte(a)
	for i := range parity {
		parity[i] |= 0x80
	}
	if got := feed(&Lines{Strip: true}, parity); !slices.Equal(got, []string{a}) {
		t.Errorf("eighth bit: %q", got)
	}
	if got := feed(new(Lines), parity); got != nil {
		t.Errorf("eighth bit kept: %q", got)
	}
}

func feed(l *Lines, data []byte) (messages []string) {
	for {
		text, n := l.Next(data)
		data = data[n:]
		if text == nil {
			return messages
		}
		messages = append(messages, string(text))
	}
}

// TestRoundTrip: decode(encode(m)) = m in both formats and with every method,
// for any message that Validate lets pass.
func TestRoundTrip(t *testing.T) {
	var keys []Key
	for i, method := range []string{"crc", "md5", "sha1", "sha256", "sha512"} {
		key := Key{Index: 3 * i, Method: method}
		if method != "crc" {
			key.Secret = strings.Repeat(method, 10*i+1)
		}
		keys = append(keys, key)
	}
	all := ring(t, 0, keys...)
	rapid.Check(t, func(t *rapid.T) {
		m := New(rapid.SampledFrom([]string{"status", "resource", "NS_ackmsg", ""}).Draw(t, "type"))
		names := rapid.StringMatching(`[^\x00-\x20(=\x7f][^\x00-\x1f=\x7f]{0,8}`)
		values := rapid.OneOf(rapid.StringOf(rapid.RuneFrom([]rune("a1=,:()%#<>\n "))), rapid.StringMatching(`[^\x00\x13]*`))
		for range rapid.IntRange(0, 40).Draw(t, "fields") {
			name := names.Filter(func(name string) bool { return name != fieldAuth }).Draw(t, "name")
			switch typ := rapid.SampledFrom([]FieldType{0, 0, 0, 1, 1, 4}).Draw(t, "field type"); typ {
			case FieldBinary:
				m.AddBinary(name, string(rapid.SliceOf(rapid.Byte()).Draw(t, "value")))
			default:
				m.Fields = append(m.Fields, Field{Name: name, Type: typ, Value: values.Draw(t, "value")})
			}
		}
		if err := m.Validate(); err != nil {
			t.Fatalf("drawn message is invalid: %v", err)
		}
		r, _ := all.WithOutbound(rapid.SampledFrom(keys).Draw(t, "key").Index)
		inner := rapid.Bool().Draw(t, "inner")
		netstring := AppendNetstring([]byte("kept"), m, r, inner)
		classic := AppendClassic([]byte("kept"), m, r)
		for _, packet := range [][]byte{netstring, classic} {
			rest, ok := bytes.CutPrefix(packet, []byte("kept"))
			if !ok {
				t.Fatalf("%q: what was there is lost", packet)
			}
			got, _, err := Decode(append(rest, "behind"...), all)
			if err != nil {
				t.Fatalf("%q: %v", rest, err)
			}
			got.Del(fieldAuth)
			if !slices.Equal(got.Fields, m.Fields) {
				t.Fatalf("%q:\n got %q\nwant %q", rest, got.Fields, m.Fields)
			}
		}
		// What the stream scanner finds is what was written.
		if got := feed(&Lines{}, classic[len("kept"):]); len(got) != 1 && !strings.ContainsAny(fmt.Sprint(m.Fields), "\r\x00") && !bytes.Contains(classic, []byte("\n>>>")) && !bytes.Contains(classic, []byte("\n<<<")) {
			t.Fatalf("%q: %d messages", classic, len(got))
		}
	})
}

// TestAllocations: garbage costs the error and nothing else, a message one
// string and one block; encoding into a buffer nothing.
func TestAllocations(t *testing.T) {
	r := ring(t, 1, Key{Index: 1, Method: "sha1", Secret: "SecretKey"})
	packet := AppendNetstring(nil, status(), r, true)
	forged := bytes.Clone(packet)
	forged[len(forged)-3] ^= 1
	garbage := []byte("garbage")
	buffer := make([]byte, 0, 1024)
	m := status()
	for _, c := range []struct {
		name string
		max  float64
		run  func()
	}{
		{"plausible", 0, func() { Plausible(packet) }},
		{"decode", 2, func() { Decode(packet, r) }},
		{"refuse", 1, func() { Decode(forged, r) }},
		{"refuse garbage", 1, func() { Decode(garbage, r) }},
		{"encode", 0, func() { AppendNetstring(buffer, m, r, true) }},
		{"encode classic", 0, func() { AppendClassic(buffer, m, r) }},
	} {
		if got := testing.AllocsPerRun(100, c.run); got > c.max {
			t.Errorf("%s: %v allocations, at most %v wanted", c.name, got, c.max)
		}
	}
}

func status() *Message {
	return New("status").Add("st", "active").Add("dt", "fa0").Add("protocol", "1").Add("src", "node2").
		AddBinary("srcuuid", "\xd2\x87\xbf\xbf\x13\xffG\xe3\x9d\xac\xb5\xe9)0\xca%").Add("seq", "2b").Add("hg", "6b0115b7").
		Add("ts", "6b0115c5").Add("ld", "0.67 0.27 0.10 2/133 455").Add("ttl", "3")
}

func BenchmarkDecode(b *testing.B) {
	for _, method := range []string{"crc", "md5", "sha1", "sha256", "sha512"} {
		r := benchRing(b, method)
		for name, packet := range map[string][]byte{
			"netstring": AppendNetstring(nil, status(), r, true),
			"classic":   AppendClassic(nil, status(), r),
		} {
			b.Run(name+"/"+method, func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(int64(len(packet)))
				for b.Loop() {
					if _, _, err := Decode(packet, r); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	m := status()
	buffer := make([]byte, 0, 1024)
	for _, method := range []string{"crc", "sha1", "sha256"} {
		r := benchRing(b, method)
		b.Run("netstring/"+method, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				AppendNetstring(buffer, m, r, true)
			}
		})
		b.Run("classic/"+method, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				AppendClassic(buffer, m, r)
			}
		})
	}
}

// BenchmarkRefuse is what a flood costs.
func BenchmarkRefuse(b *testing.B) {
	r := benchRing(b, "sha1")
	packet := AppendNetstring(nil, status(), r, true)
	packet[len(packet)-3] ^= 1
	b.ReportAllocs()
	for b.Loop() {
		Decode(packet, r)
	}
}

func benchRing(b *testing.B, method string) *Keyring {
	key := Key{Index: 1, Method: method}
	if method != "crc" {
		key.Secret = "SecretKey"
	}
	return ring(b, 1, key)
}
