package engine

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"heartbeat/cluster"
	"heartbeat/transport/message"
	"heartbeat/transport/message/messagetest"
)

// overtaken are packets that fill a gap, so that they are accepted, with an older
// status than the one known: a difference from 3.0.6, which believes them until
// the next keepalive.
var overtaken = map[string]struct{}{"t28": {}, "t28b": {}}

// injectedLogs are the lines that a packet causes besides its status update.
// They are 3.0.6's, with two differences. For t05 and t08 ours is one line of its
// two and without the digest that it computed, which is a valid signature of
// whatever was sent. And t33, unnumbered, changes no uuid back; t36 does.
var injectedLogs = map[string][]string{
	"t00": {"info: Link node2:eth0 up."},
	"t05": {"ERROR: netstring authentication failed: authtoken does not match, authtoken=1 " + strings.Repeat("0", 40)},
	"t06": {"ERROR: string2msg_ll: node [node2] failed authentication"},
	"t08": {"ERROR: netstring authentication failed: authtoken does not match, authtoken=2 741d73bb8c8cf39dfa9e4ab5caa936e1"},
	"t20": {"ERROR: process_status_message: bad node [NODE2] in message"},
	"t21": {"ERROR: process_status_message: bad node [node9] in message"},
	"t22": {"ERROR: should_drop_message: attempted replay attack [node2]? [gen = 255, curgen = 256]"},
	"t23": {"ERROR: process_clustermsg: missing seqno: iface eth0, from node2"},
	"t24": {"WARN: 1 lost packet(s) for [node2] [17:19]"},
	"t26": {"ERROR: process_clustermsg: missing from/ts/type: iface eth0, from node2"},
	"t27": {"WARN: 3 lost packet(s) for [node2] [19:23]"},
	"t29": {"WARN: 449 lost packet(s) for [node2] [23:473]", "ERROR: lost a lot of packets!"},
	"t30": {"ERROR: should_drop_message: attempted replay attack [node2]? [gen = 0, curgen = 256]"},
	"t31": {"info: Heartbeat restart on node node2"},
	"t32": {"info: node node2 changed its uuid to aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa"},
	"t33": {"ERROR: Irretrievably lost packet: node node2 seq 5"},
	"t35": {"WARN: Rexmit of seq 9999 requested. MAX is max."},
	"t36": {"info: node node2 changed its uuid to 01020304-0506-0708-090a-0b0c0d0e0f10"},
	"t41": {"info: flow control disabled due to different version heartbeat"},
	"t43": {"ERROR: peel_netstring() error in getting auth string"},
}

// TestInjected feeds the packets made by hand, in the order and at the pace in
// which a real 3.0.6 got them, and compares what becomes of each.
func TestInjected(t *testing.T) {
	r := newInjection(t)
	for i, in := range messagetest.Injected(t) {
		at := cluster.Instant(2*time.Second + time.Duration(i)*1200*time.Millisecond)
		r.wakeUntil(at)
		max := r.newest
		before := r.tracking()
		r.logs, r.resent = nil, nil
		r.step(at, Packet{Link: "eth0", Data: in.Packet, At: at})

		verdict := r.verdict(at, before)
		if same := verdict == in.Verdict; same != (in.Difference == "") {
			t.Errorf("%s (%s): %s, 3.0.6: %s, meant to differ: %q", in.ID, in.Why, verdict, in.Verdict, in.Difference)
		}
		want := slices.Clone(injectedLogs[in.ID])
		for i := range want {
			want[i] = strings.Replace(want[i], "MAX", fmt.Sprint(max), 1)
		}
		m, _, err := message.Decode(in.Packet, messagetest.InjectedRing(t))
		if _, late := overtaken[in.ID]; verdict == "accept" && err == nil && m.Type() == "status" && !late {
			want = append(want, "info: Status update for node node2: status "+m.Get("st"))
			if got := r.peer().State; got != m.Get("st") {
				t.Errorf("%s: node2 is %q, want %q", in.ID, got, m.Get("st"))
			}
		}
		if !slices.Equal(r.logs, want) {
			t.Errorf("%s (%s): log\n got %q\nwant %q", in.ID, in.Why, r.logs, want)
		}
		if in.ID == "t34" && (len(r.resent) != 2 || r.resent[0] != r.sent[20] || r.resent[1] != r.sent[21]) {
			t.Errorf("t34: %d packets sent again, want numbers 20 and 21 as they were", len(r.resent))
		}
	}
	if v := r.e.View(); v.CommUp || r.peer().Generation != 0x101 {
		t.Errorf("in the end communication is up: %v, node2's generation is %x", v.CommUp, r.peer().Generation)
	}
}

// injection is node1, which got the packets, in virtual time.
type injection struct {
	t      *testing.T
	e      *Engine
	now    cluster.Instant
	newest uint64            // number of our newest message
	sent   map[uint64]string // our messages by number
	logs   []string
	resent []string
}

func newInjection(t *testing.T) *injection {
	e, err := New(Boot{
		Config: Config{
			Self: "node1", Nodes: []string{"node1", "node2"}, Links: []Link{{Name: "eth0"}},
			Keepalive: time.Second, Deadtime: 30 * time.Second, Warntime: 10 * time.Second, Initdead: time.Minute, Deadping: 30 * time.Second,
			MaxRexmitDelay: 250 * time.Millisecond, HopFudge: 1, InnerAuth: true, LogBadPacket: true,
			Keys: Keys{Outbound: 1, Keys: []Key{{1, "sha1", "SecretKey"}, {2, "md5", "Other"}, {3, "crc", ""}}},
		},
		Generation: 7, UUID: [16]byte{9}, Seed: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	return &injection{t: t, e: e, sent: map[uint64]string{}}
}

func (r *injection) wakeUntil(end cluster.Instant) {
	for {
		at, ok := r.e.Deadline()
		if !ok || at >= end {
			return
		}
		r.step(max(at, r.now), Wake{})
	}
}

// step steps the engine and ends the jobs that it runs at once.
func (r *injection) step(at cluster.Instant, in Input) {
	r.now = at
	for _, out := range r.e.Step(at, Readings{Unix: 0x6b0117dd, Load: "0.00 0.00 0.00 1/100 1"}, in) {
		switch out := out.(type) {
		case Log:
			r.logs = append(r.logs, out.Level.String()+": "+out.Classic)
		case Transmit:
			r.transmit(string(out.Netstring))
		case Run:
			if out.Job.Title != "status" {
				r.t.Errorf("a script for %s before communication is up", out.Job.Title)
			}
			r.step(at, JobDone{ID: out.Job.ID})
		}
	}
}

func (r *injection) transmit(packet string) {
	m, _, err := message.Decode([]byte(packet), messagetest.InjectedRing(r.t))
	if err != nil {
		r.t.Fatal(err)
	}
	var seq uint64
	if fmt.Sscanf(m.Get("seq"), "%x", &seq); seq == 0 {
		return
	}
	if _, again := r.sent[seq]; again {
		r.resent = append(r.resent, packet)
		return
	}
	r.sent[seq], r.newest = packet, seq
}

func (r *injection) peer() cluster.NodeView {
	nodes := r.e.View().Nodes
	return nodes[slices.IndexFunc(nodes, func(n cluster.NodeView) bool { return n.Name == "node2" })]
}

// tracking is what the session knows of node2's numbers.
func (r *injection) tracking() string {
	data, err := r.e.session.Snapshot()
	if err != nil {
		r.t.Fatal(err)
	}
	var s struct {
		Peers []struct {
			Name             string
			Generation, Last uint64
			Missing          []struct{ Seq uint64 }
		}
	}
	if err := json.Unmarshal(data, &s); err != nil {
		r.t.Fatal(err)
	}
	for _, p := range s.Peers {
		if p.Name == "node2" {
			return fmt.Sprint(p)
		}
	}
	r.t.Fatal("the session does not know node2")
	return ""
}

// verdict is the recorded word for what the engine did with the packet.
func (r *injection) verdict(at cluster.Instant, before string) string {
	refreshed := slices.ContainsFunc(r.peer().Links, func(l cluster.LinkView) bool { return l.HeardAt == at })
	counted := r.tracking() != before
	said := func(text string) bool {
		return slices.ContainsFunc(r.logs, func(l string) bool { return strings.Contains(l, text) })
	}
	switch {
	case len(r.resent) > 0:
		return "rexmit"
	case said("Irretrievably lost packet"):
		return "nak"
	case said("Rexmit of seq"):
		return "ignored"
	case counted && refreshed:
		return "accept"
	case counted:
		return "drop"
	case refreshed:
		return "duplicate"
	}
	return "reject"
}
