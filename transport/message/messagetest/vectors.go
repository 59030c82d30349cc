// Package messagetest gives tests the recorded packets of heartbeat 3.0.6 that
// are kept in transport/message/testdata/vectors: 21 scenarios captured between
// two real nodes, and packets made by hand with the verdict of a real node.
package messagetest

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"heartbeat/transport/message"
)

// Scenario is one capture.
type Scenario struct {
	Name        string
	Description string
	Config      Config
	// Unix is the wall clock at the first packet, in seconds.
	Unix    float64
	Events  []Event
	Packets []Packet
}

// Config is what both nodes of a capture were configured with; values are as
// ha.cf has them.
type Config struct {
	Keepalive, Warntime, Deadtime, Initdead string

	UDPPort      int `json:"udpport"`
	Nodes        []string
	Haresources  []string
	Auth         string // the key line of authkeys, "1 sha1 SecretKey"
	Msgfmt       string
	Media        string
	AutoFailback string `json:"auto_failback"`
}

// Event is what was done to the pair, T seconds after the first packet.
type Event struct {
	T    float64
	Text string
}

// Packet is one packet as it was on the wire.
type Packet struct {
	N         int
	T         float64 // seconds after the first packet
	Src       string  // the sending node
	Transport string  // bcast, ucast, mcast or serial
	Dst       string
	Format    message.Format
	// Message holds the decoded fields, the inner auth included.
	Message   *message.Message
	OuterAuth string // "" in the classic format
	Data      []byte
}

// Dir is the folder of the vectors, found from the module's root upwards of
// the test's working directory.
func Dir(t testing.TB) string {
	t.Helper()
	at, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(at, "go.mod")); err == nil {
			return filepath.Join(at, "transport", "message", "testdata", "vectors")
		}
		up := filepath.Dir(at)
		if up == at {
			t.Fatal("no go.mod above the working directory")
		}
		at = up
	}
}

// Scenarios are the names of all captures, in alphabetical order.
func Scenarios(t testing.TB) []string {
	t.Helper()
	entries, err := os.ReadDir(Dir(t))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		if entry.IsDir() && entry.Name() != "inject" {
			names = append(names, entry.Name())
		}
	}
	return names
}

// Load reads one capture.
func Load(t testing.TB, name string) *Scenario {
	t.Helper()
	var manifest struct {
		Description string
		Config      Config
		Unix        float64 `json:"t0_unix"`
		Events      [][2]any
		Packets     []struct {
			N         int
			T         float64
			Src       string
			Transport string
			Dst       string
			Len       int
			Fmt       string
			Fields    [][3]any
			OuterAuth string `json:"outer_auth"`
			Hex       string
		}
	}
	readManifest(t, name, &manifest)
	s := &Scenario{
		Name:        name,
		Description: manifest.Description,
		Config:      manifest.Config,
		Unix:        manifest.Unix,
	}
	for _, event := range manifest.Events {
		s.Events = append(s.Events, Event{T: event[0].(float64), Text: event[1].(string)})
	}
	for _, p := range manifest.Packets {
		packet := Packet{
			N:         p.N,
			T:         p.T,
			Src:       p.Src,
			Transport: p.Transport,
			Dst:       p.Dst,
			Message:   new(message.Message),
			OuterAuth: p.OuterAuth,
			Data:      unhex(t, p.Hex),
		}
		if p.Fmt == "classic" {
			packet.Format = message.FormatClassic
		}
		if len(packet.Data) != p.Len {
			t.Fatalf("%s packet %d: %d bytes, recorded as %d", name, p.N, len(packet.Data), p.Len)
		}
		for _, f := range p.Fields {
			field := message.Field{
				Type:  message.FieldType(f[0].(float64)),
				Name:  f[1].(string),
				Value: f[2].(string),
			}
			if text, ok := strings.CutPrefix(field.Value, "base64:"); ok && field.Type == message.FieldBinary {
				raw, err := base64.StdEncoding.DecodeString(text)
				if err != nil {
					t.Fatalf("%s packet %d: field %s: %v", name, p.N, field.Name, err)
				}
				field.Value = string(raw)
			}
			packet.Message.Fields = append(packet.Message.Fields, field)
		}
		s.Packets = append(s.Packets, packet)
	}
	return s
}

// Ring is the keyring that both nodes had.
func (s *Scenario) Ring(t testing.TB) *message.Keyring {
	t.Helper()
	words := strings.Fields(s.Config.Auth)
	key := message.Key{Index: int(words[0][0] - '0'), Method: words[1]}
	if len(words) > 2 {
		key.Secret = words[2]
	}
	ring, err := message.NewKeyring(key.Index, []message.Key{key})
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

// Inner reports whether the nodes put the inner auth into netstring packets.
func (s *Scenario) Inner() bool { return s.Config.Msgfmt != "netstring" }

// Injection is one packet made by hand that was sent to a real node.
type Injection struct {
	ID string
	// Verdict is what heartbeat 3.0.6 did: accept, reject, duplicate (ignored),
	// nak, rexmit, ignored, drop.
	Verdict string
	Why     string
	Packet  []byte

	// Refused is the reason for which package message refuses the packet, 0
	// when it decodes.
	Refused message.Reason
	// Session is what becomes of a packet that decodes: SessionAccept, or one
	// of the other words below.
	Session Session
	// Difference says why our verdict is meant to differ from the recorded
	// one; "" when it must not.
	Difference string
}

// Session is a verdict that a decoded packet gets from sequence, generation
// and addressing.
type Session string

const (
	SessionNone      Session = ""              // refused before
	SessionAccept    Session = "accept"        // delivered
	SessionBadNode   Session = "bad node"      // the sender is not configured
	SessionReplay    Session = "replay"        // generation lower than known
	SessionNoSeq     Session = "missing seqno" // needs one by its type
	SessionNoTime    Session = "missing ts"    // from, ts or type missing
	SessionDuplicate Session = "duplicate"     // sequence number seen before
	SessionNak       Session = "nak"           // the sender gave a packet up
	SessionRexmit    Session = "rexmit"        // a valid request to resend
	SessionIgnored   Session = "ignored"       // asks for what was never sent
	SessionElsewhere Session = "other dest"    // counted, but addressed to another
)

// The packets that are not simply accepted.
var injected = map[string]Injection{
	"t05": {Refused: message.ReasonBadDigest},
	"t06": {Refused: message.ReasonBadDigest},
	"t07": {Session: SessionAccept, Difference: "signed with method and secret of the key it names; 3.0.6 takes the secret of its own outbound key"},
	"t08": {Refused: message.ReasonBadDigest, Difference: "names key 2 but is signed with the secret of key 1; 3.0.6 takes the secret of its own outbound key"},
	"t20": {Session: SessionBadNode},
	"t21": {Session: SessionBadNode},
	"t22": {Session: SessionReplay},
	"t23": {Session: SessionNoSeq},
	"t25": {Session: SessionDuplicate},
	"t26": {Session: SessionNoTime},
	"t30": {Session: SessionReplay},
	"t33": {Session: SessionNak},
	"t34": {Session: SessionRexmit},
	"t35": {Session: SessionIgnored},
	"t40": {Session: SessionElsewhere},
	"t42": {Refused: message.ReasonUnknownFormat},
	"t43": {Refused: message.ReasonNoAuth},
	"t44": {Refused: message.ReasonUnknownFormat},
}

// Injected are the packets made by hand, in the order in which they were sent,
// 1.2 s apart; sequence numbers and generations depend on it.
func Injected(t testing.TB) []Injection {
	t.Helper()
	var manifest struct {
		Packets []struct{ ID, Verdict, Why, Hex string }
	}
	readManifest(t, "inject", &manifest)
	var all []Injection
	for _, p := range manifest.Packets {
		in, special := injected[p.ID]
		if !special {
			in.Session = SessionAccept
		}
		in.ID, in.Verdict, in.Why, in.Packet = p.ID, p.Verdict, p.Why, unhex(t, p.Hex)
		all = append(all, in)
	}
	return all
}

// InjectedRing is the keyring of the node to which they were sent.
func InjectedRing(t testing.TB) *message.Keyring {
	t.Helper()
	ring, err := message.NewKeyring(1, []message.Key{
		{Index: 1, Method: "sha1", Secret: "SecretKey"},
		{Index: 2, Method: "md5", Secret: "Other"},
		{Index: 3, Method: "crc"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

func readManifest(t testing.TB, name string, into any) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(Dir(t), name, "manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	raw, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
