package transport

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"heartbeat/transport/message"
)

const ms = time.Millisecond

var (
	uuid1 = [16]byte{1, 1, 1}
	uuid2 = [16]byte{2, 2, 2}
	uuid3 = [16]byte{3, 3, 3}
)

// newTestSession is node1's, of generation 7, which acknowledges node2's
// numbers that end with the given digit.
func newTestSession(trigger uint64, nodes ...string) *Session {
	if len(nodes) == 0 {
		nodes = []string{"node1", "node2"}
	}
	s := NewSession(SessionConfig{
		Self: "node1", UUID: uuid1, Generation: 7, Nodes: nodes,
		TTL: 3, MaxRexmitDelay: 250 * ms, Seed: 1,
	})
	for i := range s.st.Peers {
		s.st.Peers[i].Trigger = trigger
	}
	return s
}

// from builds a message as node2 sends it; number 0 leaves seq out. Later
// fields are pairs of name and value; an empty value removes the field.
func from(typ string, gen, seq uint64, fields ...string) *message.Message {
	m := message.New(typ)
	if typ == "status" {
		m.Add("st", "active").Add("protocol", "1")
	}
	m.Add("src", "node2")
	m.AddBinary("srcuuid", string(uuid2[:]))
	if seq > 0 {
		m.Add("seq", hex(seq))
	}
	m.Add("hg", hex(gen)).Add("ts", "6b0117dd")
	for i := 0; i < len(fields); i += 2 {
		if fields[i+1] == "" {
			m.Del(fields[i])
			continue
		}
		m.Set(fields[i], fields[i+1])
	}
	return m
}

func status(gen, seq uint64, fields ...string) *message.Message {
	return from("status", gen, seq, fields...)
}

// withUUID gives a message a raw uuid field.
func withUUID(m *message.Message, name string, id [16]byte) *message.Message {
	m.Del(name)
	return m.AddBinary(name, string(id[:]))
}

// describe spells a verdict: what becomes of the packet, then the log, then
// what is sent.
func describe(v Verdict) []string {
	what := "accept"
	if v.Drop != DropNone {
		what = "drop: " + string(v.Drop)
	}
	for _, flag := range []struct {
		set  bool
		word string
	}{{v.First, "first"}, {v.Restarted, "restarted"}, {v.Returned, "returned"}, {v.Refresh, "refresh"}} {
		if flag.set {
			what += ", " + flag.word
		}
	}
	lines := []string{what}
	for _, n := range v.Notices {
		lines = append(lines, n.Level+": "+n.Classic)
	}
	for _, m := range v.Reply {
		lines = append(lines, "> "+spell(m))
	}
	for _, r := range v.Resend {
		lines = append(lines, "resend "+string(r.Netstring))
	}
	return lines
}

func spell(m *message.Message) string {
	var words []string
	for _, f := range m.Fields {
		words = append(words, f.Name+"="+f.Value)
	}
	return strings.Join(words, " ")
}

// say numbers and keeps a message of ours; its bytes are its number.
func say(s *Session) (seq uint64, ackDue bool, notices []Notice) {
	seq = s.Stamp(message.New("status"), 0, "")
	text := []byte(strconv.FormatUint(seq, 10))
	ackDue, notices = s.Sent(seq, text, nil)
	return seq, ackDue, notices
}

func sayN(s *Session, n int) {
	for range n {
		say(s)
	}
}

// did is one step of a table: a packet, or something else that happens.
type did struct {
	in   *message.Message
	do   func(*Session)
	want []string
}

func TestReceive(t *testing.T) {
	dead := did{do: func(s *Session) { s.SetState("node2", "dead") }}
	active := did{do: func(s *Session) { s.SetState("node2", "active") }}
	say30 := did{do: func(s *Session) { sayN(s, 30) }}
	heard := func(m *message.Message, want ...string) did { return did{in: m, want: want} }
	ok := func(m *message.Message) did { return heard(m, "accept, refresh") }
	first := heard(status(5, 1), "accept, first, refresh")

	const (
		accept    = "accept, refresh"
		old       = "drop: old"
		stale     = "drop: stale"
		replay    = "drop: replay"
		control   = "drop: session layer, refresh"
		elsewhere = "drop: elsewhere"
		closed    = "info: No pkts missing from node2!"
	)
	replayed := func(gen, known int) []string {
		return []string{replay, fmt.Sprintf("ERROR: should_drop_message: attempted replay attack [node2]? [gen = %d, curgen = %d]", gen, known)}
	}
	lost := func(n, last, seq int) string {
		return fmt.Sprintf("WARN: %d lost packet(s) for [node2] [%d:%d]", n, last, seq)
	}
	restart := "info: Heartbeat restart on node node2"

	for _, c := range []struct {
		name    string
		trigger uint64
		steps   []did
	}{
		// Generations.
		{name: "the first status ever", steps: []did{first, ok(status(5, 2))}},
		{name: "a lower generation", steps: []did{first, heard(status(4, 2), replayed(4, 5)...), ok(status(5, 2))}},
		{name: "a lower generation of another type", steps: []did{first, heard(from("resource", 4, 2), replayed(4, 5)...)}},
		{name: "no generation counts as 0", steps: []did{first, heard(status(5, 2, "hg", ""), replayed(0, 5)...)}},
		{name: "a generation that is no number counts as 0", steps: []did{first, heard(status(5, 2, "hg", "5 "), replayed(0, 5)...)}},
		{name: "a generation above 64 bits counts as 0", steps: []did{first, heard(status(5, 2, "hg", "10000000000000005"), replayed(0, 5)...)}},
		{name: "a restart begins anew at any number", steps: []did{
			first, ok(status(5, 2)),
			heard(status(6, 1), "accept, restarted, refresh", restart), ok(status(6, 2)), heard(status(5, 3), replayed(5, 6)...),
		}},
		{name: "a restart forgets what was missing", steps: []did{
			first, heard(status(5, 4), accept, lost(2, 1, 4)),
			heard(status(6, 8), "accept, restarted, refresh", restart), heard(status(6, 3), old), ok(status(6, 9)),
		}},
		{name: "a higher generation of another type: the old tracking", steps: []did{
			first, ok(from("resource", 6, 2)), heard(from("resource", 6, 1), old), ok(status(5, 3)),
			heard(status(6, 1), "accept, restarted, refresh", restart),
		}},
		{name: "before any status everything is taken", steps: []did{
			ok(from("starting", 5, 7)), heard(from("starting", 5, 7), "drop: duplicate, refresh"),
			heard(status(5, 8), "accept, first, refresh"),
		}},
		{name: "what was missing before the first status is asked for all the same", steps: []did{
			ok(from("repnodes", 5, 7)), heard(status(5, 9), "accept, first, refresh", lost(1, 7, 9)), heard(from("resource", 5, 8), accept, closed),
		}},
		{name: "a life that ended before its first status was heard", steps: []did{
			ok(from("repnodes", 4, 501)), heard(status(5, 3), "accept, first, refresh"), ok(status(5, 4)),
		}},
		{name: "two lives before the first status", steps: []did{
			ok(from("repnodes", 4, 501)), ok(from("repnodes", 5, 7)), heard(status(5, 9), "accept, first, refresh", lost(1, 7, 9)), heard(from("resource", 5, 8), accept, closed),
		}},

		// Return after a partition.
		{name: "a status of a dead node", steps: []did{first, ok(status(5, 2)), dead, heard(status(5, 41), "accept, returned, refresh"), active, ok(status(5, 42))}},
		{name: "an old status of a dead node", steps: []did{first, ok(status(5, 2)), dead, heard(status(5, 2), stale), heard(status(5, 1), stale), heard(status(5, 3), "accept, returned, refresh")}},
		{name: "an old order of a dead node", steps: []did{
			first, ok(from("hb_takeover", 5, 2)), ok(status(5, 3)), dead,
			heard(from("hb_takeover", 5, 2), stale), heard(from("ask_resources", 5, 3), stale), ok(from("hb_takeover", 5, 4)),
			heard(status(5, 5), "accept, returned, refresh"),
		}},
		{name: "what was missing is forgotten with a death", steps: []did{
			first, heard(status(5, 4), accept, lost(2, 1, 4)), dead, heard(status(5, 3), stale), heard(status(5, 5), "accept, returned, refresh"),
		}},
		{name: "a dead node that was restarted", steps: []did{first, dead, heard(status(6, 1), "accept, restarted, refresh", restart)}},
		{name: "a node held for dead before it was ever heard", steps: []did{dead, first}},

		// Numbers.
		{name: "in order", steps: []did{first, ok(status(5, 2)), ok(from("resource", 5, 3)), ok(status(5, 4))}},
		{name: "the other medium's copy", steps: []did{first, heard(status(5, 1), "drop: duplicate, refresh"), ok(status(5, 2)), heard(status(5, 2), "drop: duplicate, refresh")}},
		{name: "an older one that is not missing", steps: []did{first, ok(status(5, 2)), heard(status(5, 1), old)}},
		{name: "a gap is not waited for", steps: []did{first, heard(status(5, 3), accept, lost(1, 1, 3)), ok(status(5, 4))}},
		{name: "a late packet closes the gap, once", steps: []did{
			first, heard(status(5, 4), accept, lost(2, 1, 4)), ok(status(5, 3)),
			heard(status(5, 2), accept, closed), heard(status(5, 2), old), heard(status(5, 3), old),
		}},
		{name: "two gaps", steps: []did{
			first, heard(status(5, 3), accept, lost(1, 1, 3)), heard(status(5, 6), accept, lost(2, 3, 6)),
			ok(status(5, 5)), ok(status(5, 2)), heard(status(5, 4), accept, closed),
		}},
		{name: "the widest gap", steps: []did{first, heard(status(5, 252), accept, lost(250, 1, 252)), ok(status(5, 251)), ok(status(5, 2))}},
		{name: "one more begins anew", steps: []did{
			first, heard(status(5, 253), accept, lost(251, 1, 253), "ERROR: lost a lot of packets!"),
			heard(status(5, 252), old), heard(status(5, 2), old), ok(status(5, 254)),
		}},
		{name: "the highest number there is", steps: []did{
			first, heard(status(5, 1<<64-1), accept, "WARN: 18446744073709551613 lost packet(s) for [node2] [1:18446744073709551615]", "ERROR: lost a lot of packets!"),
			heard(status(5, 1), old), heard(status(6, 1), "accept, restarted, refresh", restart),
		}},
		{name: "numbers in capitals", steps: []did{heard(status(5, 0, "seq", "1A"), "accept, first, refresh"), ok(status(5, 0x1b))}},

		// Incomplete packets.
		{name: "no number", steps: []did{first, heard(status(5, 0), "drop: incomplete", "ERROR: process_clustermsg: missing seqno: iface eth0, from node2")}},
		{name: "number 0", steps: []did{first, heard(status(5, 0, "seq", "0"), "drop: incomplete", "ERROR: process_clustermsg: missing seqno: iface eth0, from node2")}},
		{name: "no time", steps: []did{first, heard(status(5, 2, "ts", ""), "drop: incomplete", "ERROR: process_clustermsg: missing from/ts/type: iface eth0, from node2"), ok(status(5, 2))}},
		{name: "no sender", steps: []did{heard(status(5, 2, "src", ""), "drop: incomplete", "ERROR: process_clustermsg: missing from/ts/type: iface eth0, from (none)")}},
		{name: "no type", steps: []did{heard(status(5, 2, "t", ""), "drop: incomplete", "ERROR: process_clustermsg: missing from/ts/type: iface eth0, from node2")}},

		// Names and uuids.
		{name: "an unknown node", steps: []did{heard(status(5, 1, "src", "node9", "srcuuid", ""), "drop: unknown node", "ERROR: process_status_message: bad node [node9] in message")}},
		{name: "a known name in capitals, without uuid", steps: []did{first, heard(status(5, 2, "src", "NODE2", "srcuuid", ""), "drop: unknown node", "ERROR: process_status_message: bad node [NODE2] in message")}},
		{name: "a known uuid under another name", steps: []did{first, ok(status(5, 2, "src", "NODE2"))}},
		{name: "no uuid", steps: []did{first, ok(status(5, 2, "srcuuid", "")), ok(status(5, 3))}},
		{name: "a uuid of a wrong length is none", steps: []did{first, ok(status(5, 2, "srcuuid", "short")), ok(status(5, 3))}},
		{name: "another uuid", steps: []did{
			first, heard(withUUID(status(5, 2), "srcuuid", uuid3), accept, "info: node node2 changed its uuid to 03030300-0000-0000-0000-000000000000"),
			ok(withUUID(status(5, 3), "srcuuid", uuid3)),
		}},
		{name: "a replay changes no uuid", steps: []did{
			first, heard(withUUID(status(5, 2), "srcuuid", uuid3), accept, "info: node node2 changed its uuid to 03030300-0000-0000-0000-000000000000"),
			heard(status(5, 1), old), heard(status(4, 9), replayed(4, 5)...), heard(from("NS_ackmsg", 4, 0, "dest", "node1", "ackseq", "1"), replay),
			ok(withUUID(status(5, 3), "srcuuid", uuid3)),
		}},
		{name: "our own packet from a broadcast", steps: []did{heard(withUUID(status(7, 1, "src", "node1"), "srcuuid", uuid1), "drop: own, refresh")}},
		{name: "our own packet of a former life", steps: []did{heard(withUUID(status(6, 1, "src", "node1"), "srcuuid", uuid1), "drop: own")}},
		{name: "our name from somebody else", steps: []did{heard(status(5, 1, "src", "node1"), "drop: foreign name",
			"ERROR: node node1 uses our name with another uuid: two nodes must not have the same name")}},
		{name: "our uuid on the other node", steps: []did{
			heard(withUUID(status(5, 1), "srcuuid", uuid1), "accept, first, refresh",
				"ERROR: node node2 has the same uuid as this node: remove hb_uuid on one of them and restart it"),
			heard(withUUID(withUUID(from("NS_ackmsg", 5, 0, "dest", "node2", "ackseq", "1"), "srcuuid", uuid1), "destuuid", uuid1), elsewhere),
			ok(withUUID(withUUID(from("reqnodes", 5, 2, "dest", "node1"), "srcuuid", uuid1), "destuuid", uuid1)),
		}},

		// Addressees.
		{name: "for us by name", steps: []did{first, ok(from("reqnodes", 5, 2, "dest", "node1")), ok(from("reqnodes", 5, 3, "dest", "NODE1"))}},
		{name: "for another is counted", steps: []did{first, heard(from("reqnodes", 5, 2, "dest", "node7"), elsewhere), heard(from("reqnodes", 5, 2, "dest", "node7"), "drop: duplicate"), ok(status(5, 3))}},
		{name: "the uuid decides, not the name", steps: []did{
			first, ok(withUUID(from("reqnodes", 5, 2, "dest", "formername"), "destuuid", uuid1)),
			heard(withUUID(from("reqnodes", 5, 3, "dest", "node1"), "destuuid", uuid3), elsewhere),
			ok(withUUID(from("reqnodes", 5, 4, "dest", "node1"), "destuuid", [16]byte{})),
		}},

		// Acknowledgements.
		{name: "numbers with the trigger digit are acknowledged", trigger: 2, steps: []did{
			first, heard(status(5, 2), accept, "> t=NS_ackmsg dest=node2 ackseq=2"), ok(status(5, 3)),
		}},
		{name: "the first number of a life, too", trigger: 1, steps: []did{heard(status(5, 1), "accept, first, refresh", "> t=NS_ackmsg dest=node2 ackseq=1")}},
		{name: "a duplicate is not", trigger: 1, steps: []did{
			heard(status(5, 1), "accept, first, refresh", "> t=NS_ackmsg dest=node2 ackseq=1"), heard(status(5, 1), "drop: duplicate, refresh"),
		}},
		{name: "not behind a gap, but when it closes", trigger: 4, steps: []did{
			first, heard(status(5, 3), accept, lost(1, 1, 3)), ok(status(5, 4)), ok(status(5, 5)),
			heard(status(5, 2), accept, closed, "> t=NS_ackmsg dest=node2 ackseq=4"),
		}},
		{name: "the newest that the gap held back", trigger: 4, steps: []did{
			first, heard(status(5, 3), accept, lost(1, 1, 3)), heard(status(5, 16), accept, lost(12, 3, 16)),
			ok(status(5, 4)), ok(status(5, 5)), ok(status(5, 6)), ok(status(5, 7)), ok(status(5, 8)), ok(status(5, 9)), ok(status(5, 10)),
			ok(status(5, 11)), ok(status(5, 12)), ok(status(5, 13)), ok(status(5, 14)), ok(status(5, 15)),
			heard(status(5, 2), accept, closed, "> t=NS_ackmsg dest=node2 ackseq=e"),
		}},
		{name: "a gap that held none back", trigger: 1, steps: []did{
			heard(status(5, 1), "accept, first, refresh", "> t=NS_ackmsg dest=node2 ackseq=1"),
			heard(status(5, 3), accept, lost(1, 1, 3)), heard(status(5, 2), accept, closed),
		}},
		{name: "the missing one itself", trigger: 2, steps: []did{
			first, heard(status(5, 3), accept, lost(1, 1, 3)), heard(status(5, 2), accept, closed, "> t=NS_ackmsg dest=node2 ackseq=2"),
		}},
		{name: "packets for others are acknowledged, too", trigger: 2, steps: []did{
			first, heard(from("reqnodes", 5, 2, "dest", "node7"), elsewhere, "> t=NS_ackmsg dest=node2 ackseq=2"),
		}},
		{name: "an acknowledgement of ours", steps: []did{first, say30, heard(from("NS_ackmsg", 5, 0, "dest", "node1", "ackseq", "1e"), control)}},
		{name: "of more than we sent", steps: []did{
			first, say30, heard(from("NS_ackmsg", 5, 0, "dest", "node1", "ackseq", "1e"), control),
			heard(from("NS_ackmsg", 5, 0, "dest", "node1", "ackseq", "1f"), control, "ERROR: ackseq(31) from node2 is larger than our newest (30)"),
			ok(status(5, 2)), heard(status(6, 1), "accept, restarted, refresh", restart),
			heard(from("NS_ackmsg", 6, 0, "dest", "node1", "ackseq", "1f"), control, "ERROR: ackseq(31) from node2 is larger than our newest (30)"),
		}},
		{name: "of more than this life sent, before any of it", steps: []did{
			first, say30, heard(from("NS_ackmsg", 5, 0, "dest", "node1", "ackseq", "1f"), control, "info: ackseq(31) from node2 is larger than our newest (30)"),
		}},
		{name: "of something for another node", steps: []did{first, say30, heard(from("NS_ackmsg", 5, 0, "dest", "node2", "ackseq", "ff"), elsewhere)}},
		{name: "of nobody's", steps: []did{first, heard(from("NS_ackmsg", 5, 0, "ackseq", "1"), elsewhere)}},
		{name: "of a former life", steps: []did{first, say30, heard(from("NS_ackmsg", 4, 0, "dest", "node1", "ackseq", "ff"), replay)}},

		{name: "of a life not heard yet", steps: []did{first, say30, heard(from("NS_ackmsg", 6, 0, "dest", "node1", "ackseq", "1"), replay)}},

		// Flow control.
		{name: "a status without protocol ends flow control", trigger: 2, steps: []did{
			first, heard(from("resource", 5, 2), accept, "> t=NS_ackmsg dest=node2 ackseq=2"),
			heard(status(5, 3, "protocol", ""), accept, "info: flow control disabled due to different version heartbeat"),
			ok(status(5, 4, "protocol", "")), ok(status(5, 5)),
			heard(status(5, 11), accept, lost(5, 5, 11)), ok(status(5, 12)),
			ok(status(5, 6)), ok(status(5, 7)), ok(status(5, 8)), ok(status(5, 9)), heard(status(5, 10), accept, closed),
		}},
		{name: "one without protocol that is dropped does not", steps: []did{first, heard(status(4, 2, "protocol", ""), replayed(4, 5)...), heard(status(5, 1, "protocol", ""), "drop: duplicate, refresh")}},

		// Requests for our packets.
		{name: "a request", steps: []did{first, say30, heard(from("NS_rexmit", 5, 0, "dest", "node1", "firstseq", "20", "lastseq", "21"), control, "resend 20", "resend 21")}},
		{name: "a request for another node", steps: []did{first, say30, heard(from("NS_rexmit", 5, 0, "dest", "node2", "firstseq", "20", "lastseq", "21"), elsewhere)}},
		{name: "a request for the future", steps: []did{first, say30, heard(from("NS_rexmit", 5, 0, "dest", "node1", "firstseq", "30", "lastseq", "40"), control,
			"WARN: Rexmit of seq 31 requested. 30 is max.", "resend 30")}},
		{name: "a request for what was acknowledged", steps: []did{
			first, say30, heard(from("NS_ackmsg", 5, 0, "dest", "node1", "ackseq", "14"), control),
			heard(from("NS_rexmit", 5, 0, "dest", "node1", "firstseq", "19", "lastseq", "21"), control, "resend 21"),
			heard(from("NS_rexmit", 5, 0, "dest", "node1", "firstseq", "2", "lastseq", "20"), control),
		}},
		{name: "a request for what is forgotten", steps: []did{
			first, {do: func(s *Session) { sayN(s, historyMax+2) }},
			heard(from("NS_rexmit", 5, 0, "dest", "node1", "firstseq", "2", "lastseq", "3"), control,
				"ERROR: Cannot rexmit pkt 2 for node2: seqno too low", "> t=NS_nak_rexmit firstseq=2 dest=node2 info=seqno too low", "resend 3"),
		}},
		{name: "a request that makes no sense", steps: []did{
			first, say30, heard(from("NS_rexmit", 5, 0, "dest", "node1", "firstseq", "21", "lastseq", "20"), "drop: incomplete, refresh"),
			heard(from("NS_rexmit", 5, 0, "dest", "node1", "firstseq", "1e", "lastseq", "1f"), "drop: incomplete, refresh"),
			heard(from("NS_rexmit", 5, 0, "dest", "node1"), "drop: incomplete, refresh"),
		}},

		// Packets that are lost for good.
		{name: "a nak gives up on the number", trigger: 2, steps: []did{
			first, heard(status(5, 3), accept, lost(1, 1, 3)),
			heard(from("NS_nak_rexmit", 5, 0, "dest", "node1", "firstseq", "2", "info", "seqno too low"), control,
				"ERROR: Irretrievably lost packet: node node2 seq 2", closed, "> t=NS_ackmsg dest=node2 ackseq=2"),
			heard(status(5, 2), old),
		}},
		{name: "a nak without addressee is for everybody", steps: []did{
			first, heard(status(5, 3), accept, lost(1, 1, 3)),
			heard(from("NS_nak_rexmit", 5, 0, "firstseq", "2"), control, "ERROR: Irretrievably lost packet: node node2 seq 2", closed),
		}},
		{name: "a nak for another node", steps: []did{
			first, heard(status(5, 3), accept, lost(1, 1, 3)), heard(from("NS_nak_rexmit", 5, 0, "dest", "node2", "firstseq", "2"), elsewhere), heard(status(5, 2), accept, closed),
		}},
		{name: "a nak without number", steps: []did{first, heard(from("NS_nak_rexmit", 5, 0, "dest", "node1"), control)}},
		{name: "an unknown type of the session's", steps: []did{first, heard(from("NS_new", 5, 0, "dest", "node1"), control), ok(status(5, 2))}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newTestSession(c.trigger)
			for i, step := range c.steps {
				if step.do != nil {
					step.do(s)
					continue
				}
				before := s.st.Peers[1]
				got := describe(s.Receive(time.Second, "eth0", step.in))
				if !slices.Equal(got, step.want) {
					t.Fatalf("step %d: %s\n got %s\nwant %s", i, spell(step.in), strings.Join(got, "\n     "), strings.Join(step.want, "\n     "))
				}
				if p := s.st.Peers[1]; life(p) == life(before) && p.Last < before.Last {
					t.Fatalf("step %d: the last number went from %d to %d", i, before.Last, p.Last)
				}
			}
		})
	}
}

// life is the generation whose numbers are followed.
func life(p sender) uint64 { return max(p.Generation, p.Early) }

// TestRequests follows one missing number through time.
func TestRequests(t *testing.T) {
	s := newTestSession(0)
	s.SetState("node2", "active")
	s.Receive(0, "eth0", status(5, 1))
	s.Receive(time.Second, "eth0", status(5, 3))
	first, ok := s.Deadline()
	if !ok || first < time.Second+50*ms || first >= time.Second+250*ms {
		t.Fatalf("first request at %v, %v, want 50 to 250 ms after 1 s", first, ok)
	}
	if r := s.Due(first - 1); r != nil {
		t.Errorf("asked too early: %v", r)
	}
	for i := range 3 {
		at := first + time.Duration(i)*250*ms
		r := s.Due(at)
		if len(r) != 1 || spell(r[0]) != "t=NS_rexmit dest=node2 firstseq=2 lastseq=2" {
			t.Fatalf("request %d: %v", i, r)
		}
		if r := s.Due(at); r != nil {
			t.Errorf("asked twice at %v", at)
		}
		if next, ok := s.Deadline(); !ok || next != at+250*ms {
			t.Errorf("next request at %v, want %v", next, at+250*ms)
		}
	}
	s.SetState("node2", "init")
	next, _ := s.Deadline()
	if r := s.Due(next); r != nil {
		t.Errorf("asked a node that is not up: %v", r)
	}
	s.SetState("node2", "up")
	next, _ = s.Deadline()
	if r := s.Due(next); len(r) != 1 {
		t.Errorf("a node that is up was not asked: %v", r)
	}
	s.Receive(5*time.Second, "eth0", status(5, 2))
	if at, ok := s.Deadline(); ok {
		t.Errorf("nothing is missing, but there is work at %v", at)
	}
	s.Receive(6*time.Second, "eth0", status(5, 9))
	s.SetState("node2", "dead")
	if at, ok := s.Deadline(); ok {
		t.Errorf("a dead node is asked at %v", at)
	}
}

// TestFirstDelay holds the spread of the first request for each configured
// pause.
func TestFirstDelay(t *testing.T) {
	for _, c := range []struct{ pause, from, to time.Duration }{
		{250 * ms, 50 * ms, 250 * ms},
		{100 * ms, 50 * ms, 100 * ms},
		{99 * ms, 0, 99 * ms},
		{10 * ms, 0, 10 * ms},
		{ms, 0, ms},
	} {
		s := newTestSession(0)
		s.cfg.MaxRexmitDelay = c.pause
		low, high := time.Hour, time.Duration(0)
		for range 1000 {
			d := s.firstDelay()
			low, high = min(low, d), max(high, d)
		}
		spread := (c.to - c.from) / 10
		if low < c.from || high >= c.to || low > c.from+spread || high < c.to-spread {
			t.Errorf("max_rexmit_delay %v: first requests after %v to %v, want %v to %v", c.pause, low, high, c.from, c.to)
		}
	}
}

// TestResendPause: one packet is not sent again and again to whoever asks fast.
func TestResendPause(t *testing.T) {
	s := newTestSession(0)
	s.Receive(0, "eth0", status(5, 1))
	sayN(s, 9)
	ask := from("NS_rexmit", 5, 0, "dest", "node1", "firstseq", "4", "lastseq", "4")
	for _, c := range []struct {
		name string
		at   time.Duration
		want int
	}{
		{"the first time, even at once", 0, 1},
		{"right after", 1, 0},
		{"just before the pause is over", 240*ms - 1, 0},
		{"when it is over", 240 * ms, 1},
		{"after the second", 479 * ms, 0},
		{"and again", 480 * ms, 1},
	} {
		if got := len(s.Receive(c.at, "eth0", ask).Resend); got != c.want {
			t.Errorf("%s: %d packets sent again, want %d", c.name, got, c.want)
		}
	}
}

// TestResendBurst bounds what one request makes us do.
func TestResendBurst(t *testing.T) {
	s := newTestSession(0)
	s.Receive(0, "eth0", status(5, 1))
	sayN(s, historyMax+200)
	ask := func(first, last uint64) Verdict {
		return s.Receive(0, "eth0", from("NS_rexmit", 5, 0, "dest", "node1", "firstseq", strconv.FormatUint(first, 10), "lastseq", strconv.FormatUint(last, 10)))
	}
	v := ask(300, 700)
	if len(v.Resend) != rexmitBurstMax || string(v.Resend[0].Netstring) != "300" || string(v.Resend[49].Netstring) != "349" {
		t.Errorf("%d packets sent again", len(v.Resend))
	}
	if v := ask(1, 200); len(v.Reply) != rexmitBurstMax || len(v.Resend) != 0 {
		t.Errorf("%d refusals, %d packets", len(v.Reply), len(v.Resend))
	}
	if v := ask(1, 1<<64-1); len(v.Reply)+len(v.Resend)+len(v.Notices) > 2*rexmitBurstMax {
		t.Errorf("the widest range: %d refusals, %d packets, %d lines", len(v.Reply), len(v.Resend), len(v.Notices))
	}
	s.Receive(0, "eth0", from("NS_ackmsg", 5, 0, "dest", "node1", "ackseq", hex(600)))
	if v := ask(2, 1<<64-1); len(v.Resend) != rexmitBurstMax || string(v.Resend[0].Netstring) != "601" {
		t.Errorf("behind what was acknowledged: %d packets", len(v.Resend))
	}
}

// TestHistory holds the bound of 500 and what acknowledgements free.
func TestHistory(t *testing.T) {
	s := newTestSession(0, "node1", "node2", "node3")
	kept := func(want, oldest int) {
		t.Helper()
		if len(s.st.History) != want || want > 0 && s.st.History[0].Seq != uint64(oldest) {
			t.Fatalf("%d messages kept, want %d from %d on", len(s.st.History), want, oldest)
		}
	}
	sayN(s, historyMax)
	kept(historyMax, 1)
	sayN(s, 3) // the oldest are given up: nobody was heard yet
	kept(historyMax, 4)
	s.SetState("node3", "dead")
	s.Receive(0, "eth0", status(5, 1))
	ack := func(seq uint64) {
		s.Receive(0, "eth0", from("NS_ackmsg", 5, 0, "dest", "node1", "ackseq", hex(seq)))
	}
	ack(100)
	kept(historyMax-97, 101)
	ack(90) // an older one takes nothing back
	kept(historyMax-97, 101)
	if n := s.Unheard("node2"); n != 403 {
		t.Errorf("node2 has not acknowledged %d, want 403", n)
	}
	ack(503) // but our own last acknowledgement was of 500
	kept(3, 501)
	s.SetState("node3", "up")
	ack(503)
	sayN(s, 7)
	ack(510)
	kept(10, 501) // node3 lives again and has acknowledged nothing
	s.SetState("node3", "dead")
	sayN(s, 10) // our own acknowledgement frees, too
	kept(10, 511)
	s.Receive(0, "eth0", status(6, 1))
	if n := s.Unheard("node2"); n != 520 {
		t.Errorf("after its restart node2 has not acknowledged %d, want all 520", n)
	}
}

// TestOwnAcknowledgement: numbers of ours with the trigger digit, too.
func TestOwnAcknowledgement(t *testing.T) {
	s := newTestSession(4)
	for n := uint64(1); n <= 40; n++ {
		seq, due, _ := say(s)
		if seq != n || due != (n%10 == 4) {
			t.Fatalf("message %d got number %d, acknowledgement due: %v", n, seq, due)
		}
	}
	if got := spell(s.Ack("node1", 34)); got != "t=NS_ackmsg dest=node1 ackseq=22" {
		t.Error(got)
	}
	s.Receive(0, "eth0", status(5, 1, "protocol", ""))
	if s.FlowControl() {
		t.Error("flow control is on with a node that has none")
	}
	for range 20 {
		if _, due, _ := say(s); due {
			t.Fatal("acknowledged without flow control")
		}
	}
}

// TestFormerLife: acknowledgements that are on their way while we restart mean
// numbers of the life that ended, and do nothing in the new one. What the other
// node says once it has heard of that one never does.
func TestFormerLife(t *testing.T) {
	live := func(generation uint64) *Session {
		return NewSession(SessionConfig{Self: "node1", UUID: uuid1, Generation: generation, Nodes: []string{"node1", "node2"}})
	}
	peer := NewSession(SessionConfig{Self: "node2", UUID: uuid2, Generation: 5, Nodes: []string{"node1", "node2"}})
	said := func(s *Session, m *message.Message) *message.Message {
		s.Sent(s.Stamp(m, 1, "0"), nil, nil)
		return m
	}
	keepalive := func(s *Session) *message.Message {
		return said(s, message.New("status").Add("st", "active").Add("protocol", "1"))
	}
	// hears returns what the peer answers, stamped.
	hears := func(m *message.Message) []*message.Message {
		v := peer.Receive(0, "eth0", m)
		for _, r := range v.Reply {
			peer.Stamp(r, 1, "0")
		}
		return v.Reply
	}

	former := live(7)
	former.Receive(0, "eth0", keepalive(peer))
	var late []*message.Message
	for range 40 {
		late = append(late, hears(keepalive(former))...)
	}
	if len(late) != 4 {
		t.Fatalf("%d acknowledgements of 40 numbers, want 4", len(late))
	}

	s := live(8)
	s.Receive(0, "eth0", keepalive(peer))
	sayN(s, 3)
	for _, m := range late[1:] { // the first is of a number below 10, which proves nothing
		v := s.Receive(0, "eth0", m)
		if got := describe(v); len(got) != 2 || !strings.HasPrefix(got[1], "info: ackseq(") {
			t.Errorf("%s: %q", spell(m), got)
		}
	}
	if n := s.Unheard("node2"); n != 3 {
		t.Errorf("%d of 3 messages are not acknowledged after acknowledgements of a former life", n)
	}

	answers := 0
	for range 40 {
		for _, m := range hears(keepalive(s)) {
			answers++
			if got := describe(s.Receive(0, "eth0", m)); !slices.Equal(got, []string{"drop: session layer, refresh"}) {
				t.Errorf("%s, in answer to the new life: %q", spell(m), got)
			}
		}
	}
	if answers != 4 {
		t.Errorf("%d acknowledgements of the new life's 40 numbers, want 4", answers)
	}
}

// TestQueueWarnings: the log says that the history fills up, once per level.
func TestQueueWarnings(t *testing.T) {
	s := newTestSession(0)
	var got []string
	run := func(n int) {
		for range n {
			seq, _, notices := say(s)
			for _, n := range notices {
				got = append(got, fmt.Sprintf("%d %s: %s", seq, n.Level, n.Classic))
			}
		}
	}
	run(400) // alone nobody has to acknowledge
	if len(got) > 0 {
		t.Fatal(got)
	}
	s.Receive(0, "eth0", status(5, 1))
	s.SetState("node2", "active")
	s.Receive(0, "eth0", from("NS_ackmsg", 5, 0, "dest", "node1", "ackseq", hex(400)))
	run(500)
	want := []string{
		"776 WARN: Message hist queue is filling up (376 messages in queue)",
		"851 ERROR: Message hist queue is filling up (451 messages in queue)",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
	got = nil
	s.Receive(0, "eth0", from("NS_ackmsg", 5, 0, "dest", "node1", "ackseq", hex(900)))
	run(376)
	if len(got) != 1 || !strings.Contains(got[0], "1276 WARN") {
		t.Errorf("after it was empty: %q", got)
	}
}

// TestMissingBound: more than 500 missing numbers are given up with a word.
func TestMissingBound(t *testing.T) {
	s := newTestSession(0)
	s.SetState("node2", "active")
	s.Receive(0, "eth0", status(5, 1))
	s.Receive(0, "eth0", status(5, 242))
	s.Receive(0, "eth0", status(5, 483))
	want := []string{"accept, refresh", "WARN: 240 lost packet(s) for [node2] [483:724]", "ERROR: Irretrievably lost packets: node node2 seq 504 to 723"}
	if got := describe(s.Receive(0, "eth0", status(5, 724))); !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
	if n := len(s.Due(time.Second)); n != missingMax {
		t.Errorf("%d requests, want %d", n, missingMax)
	}
}

// TestStamp holds the fields that the session adds, in order.
func TestStamp(t *testing.T) {
	s := newTestSession(0)
	spellIt := func(m *message.Message) string {
		s.Stamp(m, 0x6b0117dd, "0.87 0.29 0.10 9/128 62")
		return spell(m)
	}
	self, peer := string(uuid1[:]), string(uuid2[:])
	for _, c := range []struct {
		name, want string
		m          *message.Message
	}{
		{"numbered", "t=starting src=node1 srcuuid=" + self + " seq=1 hg=7 ts=6b0117dd ld=0.87 0.29 0.10 9/128 62 ttl=3", message.New("starting")},
		{"addressed to a node whose uuid is unknown", "t=reqnodes dest=node2 src=node1 srcuuid=" + self + " seq=2 hg=7 ts=6b0117dd ld=0.87 0.29 0.10 9/128 62 ttl=3", message.New("reqnodes").Add("dest", "node2")},
		{"the session's own", "t=NS_ackmsg dest=node1 ackseq=1 destuuid=" + self + " src=node1 srcuuid=" + self + " hg=7 ts=6b0117dd ttl=3", s.Ack("node1", 1)},
	} {
		if got := spellIt(c.m); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
	s.Receive(0, "eth0", status(5, 1))
	want := "t=NS_ackmsg dest=node2 ackseq=1 destuuid=" + peer + " src=node1 srcuuid=" + self + " hg=7 ts=6b0117dd ttl=3"
	if got := spellIt(s.Ack("node2", 1)); got != want {
		t.Errorf("addressed to a known uuid:\n got %s\nwant %s", got, want)
	}
}

// TestSnapshot: a restored session goes on as the first one would have.
func TestSnapshot(t *testing.T) {
	s := newTestSession(3)
	s.SetState("node2", "active")
	sayN(s, 20)
	for _, seq := range []uint64{1, 2, 9, 7, 13} {
		s.Receive(time.Second, "eth0", status(5, seq))
	}
	s.Receive(time.Second, "eth0", from("NS_rexmit", 5, 0, "dest", "node1", "firstseq", "7", "lastseq", "7"))
	data, err := s.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	r, err := RestoreSession(s.cfg, data)
	if err != nil {
		t.Fatal(err)
	}
	both := func(do func(*Session) string) {
		t.Helper()
		if want, got := do(s), do(r); got != want {
			t.Errorf("restored: %s\nwant:     %s", got, want)
		}
	}
	both(func(s *Session) string { return fmt.Sprint(s.Deadline()) })
	both(func(s *Session) string { return fmt.Sprint(say(s)) })
	for _, m := range []*message.Message{
		status(5, 7), status(5, 8), status(5, 20), status(4, 9),
		from("NS_rexmit", 5, 0, "dest", "node1", "firstseq", "6", "lastseq", "40"),
		from("NS_ackmsg", 5, 0, "dest", "node1", "ackseq", "10"), status(6, 3),
	} {
		both(func(s *Session) string { return fmt.Sprintf("%q", describe(s.Receive(1100*ms, "eth0", m))) })
	}
	both(func(s *Session) string { return fmt.Sprint(s.Deadline()) })
	both(func(s *Session) string { d, err := s.Snapshot(); return fmt.Sprint(string(d), err) })
}

// TestSnapshotOtherConfig: nodes come and go, and we may be another life.
func TestSnapshotOtherConfig(t *testing.T) {
	s := newTestSession(0, "node1", "node2", "node3")
	s.Receive(0, "eth0", status(5, 4))
	data, err := s.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	cfg := s.cfg
	cfg.Nodes, cfg.Generation, cfg.UUID = []string{"node4", "node2", "node1"}, 8, uuid3
	if s, err = RestoreSession(cfg, data); err != nil {
		t.Fatal(err)
	}
	for node, want := range map[string]uint64{"node1": 8, "node2": 5, "node3": 0, "node4": 0} {
		if got := s.Generation(node); got != want {
			t.Errorf("generation of %s is %d, want %d", node, got, want)
		}
	}
	for m, want := range map[*message.Message]string{
		status(5, 4): "drop: duplicate, refresh",
		withUUID(status(1, 1, "src", "node4"), "srcuuid", [16]byte{4}): "accept, first, refresh",
		status(5, 1, "src", "node3", "srcuuid", ""):                    "drop: unknown node",
		withUUID(status(8, 1, "src", "node1"), "srcuuid", uuid3):       "drop: own, refresh",
	} {
		if got := describe(s.Receive(0, "eth0", m)); got[0] != want {
			t.Errorf("%s: %s, want %s", spell(m), got, want)
		}
	}
	if _, err := RestoreSession(cfg, []byte("{")); err == nil || !strings.HasPrefix(err.Error(), "restore session: ") {
		t.Errorf("a broken snapshot: %v", err)
	}
}

// TestDelivery is the promise of the whole thing: of a numbered stream that the
// media delay, repeat and lose, every message is delivered at most once, none
// that arrives within the limits is lost, everything that is missing is asked
// for, and a packet heard before changes nothing.
func TestDelivery(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newTestSession(rapid.Uint64Range(0, 9).Draw(t, "trigger"))
		s.SetState("node2", "active")
		n := rapid.Uint64Range(1, 200).Draw(t, "messages")
		stream := []uint64{1}
		for seq := uint64(2); seq <= n; seq++ {
			for range rapid.SampledFrom([]int{0, 1, 1, 1, 2, 3}).Draw(t, "copies") {
				at := max(1, len(stream)-rapid.IntRange(0, 20).Draw(t, "delay"))
				stream = slices.Insert(stream, at, seq)
			}
		}
		delivered := map[uint64]bool{}
		acked := uint64(0)
		now := time.Duration(0)
		for _, seq := range stream {
			now += 10 * ms
			last := s.st.Peers[1].Last
			v := s.Receive(now, "eth0", status(5, seq))
			if delivered[seq] == (v.Drop == DropNone) {
				t.Fatalf("number %d, delivered before: %v: %v", seq, delivered[seq], describe(v))
			}
			delivered[seq] = true
			if now := s.st.Peers[1].Last; now < last || now < seq {
				t.Fatalf("after number %d the last one is %d, before it was %d", seq, now, last)
			}
			for _, m := range v.Reply {
				seq, err := parseHex(m.Get("ackseq"))
				if err != nil || seq <= acked || seq > s.st.Peers[1].Last {
					t.Fatalf("acknowledged %s after %d", m.Get("ackseq"), acked)
				}
				for acked < seq {
					if acked++; !delivered[acked] {
						t.Fatalf("acknowledged %d, but %d was never heard", seq, acked)
					}
				}
			}
			before, _ := s.Snapshot()
			again := s.Receive(now+ms, "eth1", status(5, rapid.SampledFrom(stream[:slices.Index(stream, seq)+1]).Draw(t, "replay")))
			if after, _ := s.Snapshot(); string(before) != string(after) || again.Drop == DropNone || len(again.Reply)+len(again.Notices)+len(again.Resend) > 0 {
				t.Fatalf("a packet heard before changed something: %v", describe(again))
			}
		}
		var want, got []uint64
		for seq := uint64(1); seq < s.st.Peers[1].Last; seq++ {
			if !delivered[seq] {
				want = append(want, seq)
			}
		}
		for _, m := range s.Due(now + time.Second) {
			seq, _ := strconv.ParseUint(m.Get("firstseq"), 10, 64)
			got = append(got, seq)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("asked for %v, missing %v", got, want)
		}
	})
}

// TestArbitrary feeds anything and holds what must hold whatever comes: within
// a generation the last number never sinks, generations never sink, what is
// kept is bounded, and no number is delivered twice.
func TestArbitrary(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newTestSession(rapid.Uint64Range(0, 9).Draw(t, "trigger"))
		delivered := map[[2]uint64]bool{}
		now := time.Duration(0)
		for range rapid.IntRange(1, 150).Draw(t, "steps") {
			now += time.Duration(rapid.IntRange(0, 300).Draw(t, "pause")) * ms
			before := s.st.Peers[1]
			switch rapid.SampledFrom([]string{"packet", "packet", "packet", "control", "say", "dead", "active", "due"}).Draw(t, "what") {
			case "packet":
				gen, seq := rapid.Uint64Range(1, 3).Draw(t, "generation"), rapid.Uint64Range(1, 600).Draw(t, "number")
				v := s.Receive(now, "eth0", from(rapid.SampledFrom([]string{"status", "resource"}).Draw(t, "type"), gen, seq))
				if v.Drop == DropNone && gen == s.st.Peers[1].Generation {
					if delivered[[2]uint64{gen, seq}] {
						t.Fatalf("number %d of generation %d delivered twice", seq, gen)
					}
					delivered[[2]uint64{gen, seq}] = true
				}
			case "control":
				n := strconv.FormatUint(rapid.Uint64Range(0, 100).Draw(t, "control number"), 10)
				v := s.Receive(now, "eth0", from(rapid.SampledFrom([]string{"NS_ackmsg", "NS_rexmit", "NS_nak_rexmit"}).Draw(t, "type"), s.st.Peers[1].Generation, 0,
					"dest", "node1", "firstseq", n, "lastseq", "99", "ackseq", n))
				if len(v.Reply)+len(v.Resend) > rexmitBurstMax {
					t.Fatalf("%d answers", len(v.Reply)+len(v.Resend))
				}
			case "say":
				sayN(s, rapid.IntRange(1, 200).Draw(t, "messages"))
			case "dead":
				s.SetState("node2", "dead")
			case "active":
				s.SetState("node2", "active")
			case "due":
				if at, ok := s.Deadline(); ok {
					now = max(now, at)
				}
				s.Due(now)
				if at, ok := s.Deadline(); ok && at <= now {
					t.Fatalf("at %v there is still work for %v", now, at)
				}
			}
			p := s.st.Peers[1]
			if life(p) < life(before) || life(p) == life(before) && p.Last < before.Last {
				t.Fatalf("generation %d number %d after generation %d number %d", p.Generation, p.Last, before.Generation, before.Last)
			}
			if len(p.Missing) > missingMax || len(s.st.History) > historyMax {
				t.Fatalf("%d missing, %d kept", len(p.Missing), len(s.st.History))
			}
		}
	})
}

// TestAllocations: the ordinary packet costs nothing, so that a flood of copies
// does not either.
func TestAllocations(t *testing.T) {
	s := newTestSession(0)
	s.Receive(0, "eth0", status(5, 1))
	copy1, old := status(5, 0x1001), status(5, 1)
	next := status(5, 2)
	at := slices.IndexFunc(next.Fields, func(f message.Field) bool { return f.Name == "seq" })
	numbers := make([]string, 4096)
	for i := range numbers {
		numbers[i] = hex(uint64(i) + 2)
	}
	i := 0
	if n := testing.AllocsPerRun(1000, func() {
		next.Fields[at].Value = numbers[i]
		if i++; s.Receive(0, "eth0", next).Drop != DropNone {
			t.Fatal("not taken")
		}
	}); n > 1 { // each tenth is acknowledged
		t.Errorf("the next packet: %v allocations", n)
	}
	s.Receive(0, "eth0", copy1)
	for name, m := range map[string]*message.Message{"a copy": copy1, "an old one": old} {
		if n := testing.AllocsPerRun(100, func() { s.Receive(0, "eth0", m) }); n > 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkReceive(b *testing.B) {
	for _, c := range []struct {
		name string
		step uint64
	}{{"in order", 1}, {"copies", 0}, {"every second lost", 2}} {
		b.Run(c.name, func(b *testing.B) {
			s := newTestSession(0)
			s.Receive(0, "eth0", status(5, 1))
			m := status(5, 1)
			seq := uint64(1)
			b.ReportAllocs()
			for b.Loop() {
				seq += c.step
				m.Set("seq", hex(seq))
				s.Receive(0, "eth0", m)
			}
		})
	}
}
