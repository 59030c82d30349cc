package engine

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"heartbeat/cluster"
	"heartbeat/transport/message"
	"heartbeat/transport/message/messagetest"
)

// The captures of two real 3.0.6 nodes are replayed: our engine, in the place
// of one node, hears what that node heard, and must send what it sent: the
// same messages with the same fields in the same order, each at its time but
// for one turn of the original's clock, which handles a packet at its own next
// keepalive.

// replayCase is one node of one capture.
type replayCase struct {
	scenario, node string
	// from is the state at the beginning of the capture; nil when the node
	// was born within it.
	from *replayState
	// do is what operators did, and when.
	do []replayOrder
	// cut are the times in which nothing of the other node arrived, though the
	// capture has it; cutOut: and nothing of this node was captured.
	cut    [][2]float64
	cutOut bool
	// link is the only one to listen on, where the capture's copies of the
	// two media disagree by more than a keepalive.
	link string
	// until ends the comparison (seconds; 0: the end of the capture).
	until float64
	// after begins the comparison of the daemon's messages, where the capture
	// lacks the link on which it began.
	after float64
	// ping is a ping node, and noPing when it does not answer.
	ping   string
	noPing [][2]float64
	// both: what the capture has of one link was heard on eth0 too, except in
	// these times; nil: it was not.
	both [][2]float64
}

type replayState struct {
	mine, theirs cluster.Set
	peerDead     bool
	failbackDue  bool
}

type replayOrder struct {
	at    float64
	order string // "standby SET", "takeover SET", "stop"
}

var rexmitCuts = [][2]float64{{0.554, 1.864}, {4.866, 6.176}, {9.18, 10.497}, {13.506, 14.851}}

var bothLocal = &replayState{mine: cluster.Local, theirs: cluster.Local}

var replayCases = []replayCase{
	{scenario: "cold-start", node: "node1"},
	{scenario: "cold-start", node: "node2", link: "eth0"},
	{scenario: "single-start", node: "node1", do: []replayOrder{{17.0149, "standby all"}}},
	{scenario: "single-start", node: "node2"},
	{scenario: "takeover-on-death", node: "node2", from: bothLocal},
	{scenario: "takeover-on-death", node: "node1", from: bothLocal, until: 1.52},
	{scenario: "clean-shutdown", node: "node1", from: bothLocal, do: []replayOrder{{8.5635, "stop"}}},
	{scenario: "clean-shutdown", node: "node2", from: bothLocal, do: []replayOrder{{0.9867, "stop"}}, until: 3},
	{scenario: "standby-all", node: "node1", from: &replayState{mine: cluster.All}, do: []replayOrder{{1.0032, "standby all"}}},
	{scenario: "standby-all", node: "node2", from: &replayState{theirs: cluster.All}},
	{scenario: "standby-local", node: "node1", from: bothLocal},
	{scenario: "standby-local", node: "node2", from: bothLocal, do: []replayOrder{{0.9245, "standby local"}, {10.3832, "takeover foreign"}}},
	{scenario: "standby-foreign", node: "node1", from: &replayState{theirs: cluster.All}},
	{scenario: "standby-foreign", node: "node2", from: &replayState{mine: cluster.All}, do: []replayOrder{{0.9999, "standby foreign"}, {12.0003, "standby foreign"}}},
	{scenario: "takeover-cmd", node: "node1", from: &replayState{theirs: cluster.All}, do: []replayOrder{{0.9989, "takeover all"}}},
	{scenario: "takeover-cmd", node: "node2", from: &replayState{mine: cluster.All}, do: []replayOrder{{11.9014, "takeover local"}}},
	{scenario: "failback-on", node: "node1"},
	{scenario: "failback-on", node: "node2", from: &replayState{mine: cluster.All, peerDead: true, failbackDue: true}},
	{scenario: "failback-off", node: "node2", from: &replayState{mine: cluster.All, peerDead: true, failbackDue: true}},
	{scenario: "restart", node: "node1", from: &replayState{mine: cluster.All}},
	{scenario: "quick-restart", node: "node1", from: &replayState{theirs: cluster.All}},
	{scenario: "rexmit", node: "node1", from: &replayState{theirs: cluster.All}, cut: rexmitCuts},
	{scenario: "rexmit", node: "node2", from: &replayState{mine: cluster.All}, do: []replayOrder{{14.0003, "standby all"}}, cut: rexmitCuts},
	{scenario: "steady", node: "node1", from: bothLocal},
	{scenario: "steady", node: "node2", from: bothLocal},
	{scenario: "split-brain-heal", node: "node1", from: bothLocal, cut: [][2]float64{{0.518, 12.008}}, cutOut: true, until: 17.2},
	{scenario: "split-brain-heal", node: "node2", from: bothLocal, until: 17.2},
	{scenario: "freeze", node: "node2", from: bothLocal, until: 13},
	{scenario: "classic-crc-mcast", node: "node1", do: []replayOrder{{19.5095, "standby all"}, {35.334, "stop"}}},
	{scenario: "classic-crc-mcast", node: "node2", do: []replayOrder{{27.5406, "stop"}}, until: 28},
	{scenario: "netstring-md5", node: "node1", do: []replayOrder{{19.5126, "standby all"}}, until: 36},
	{scenario: "netstring-md5", node: "node2", do: []replayOrder{{28.5557, "stop"}}, until: 29},
	{scenario: "serial-classic", node: "node1", do: []replayOrder{{42.6392, "stop"}}},
	{scenario: "serial-classic", node: "node2", do: []replayOrder{{25.5109, "takeover all"}, {35.5631, "stop"}}, until: 36.2},
	{scenario: "legacy", node: "node1", do: []replayOrder{{18.0184, "standby all"}, {20.9, "stop"}}, until: 22},
	{scenario: "legacy", node: "node2", do: []replayOrder{{46.2, "stop"}}},
	{scenario: "ipfail-ping", node: "node1", do: []replayOrder{{65.413, "stop"}},
		ping: "192.168.77.100", noPing: [][2]float64{{0, 0.7}, {26.9, 42.931}, {55.453, 80}}, both: [][2]float64{{27.12, 42.931}}},
	{scenario: "ipfail-ping", node: "node2", do: []replayOrder{{65.8, "stop"}},
		after: 13.1, ping: "192.168.77.100", noPing: [][2]float64{{55.453, 80}}, both: [][2]float64{{27.12, 42.931}}},
}

func TestReplay(t *testing.T) {
	for _, c := range replayCases {
		t.Run(c.scenario+"/"+c.node, func(t *testing.T) {
			newReplay(t, c, messagetest.Load(t, c.scenario)).run()
		})
	}
}

// replayEpoch is the engine's time at the capture's beginning: a node that was
// there before has lived that long.
const replayEpoch = 100 * time.Second

type replay struct {
	t    *testing.T
	c    replayCase
	s    *messagetest.Scenario
	e    *Engine
	ring *message.Keyring
	peer string
	end  float64
	want []replayed
	got  []replayed
	// birth is when the node was started, in seconds of the capture.
	birth  float64
	inbox  []replayEvent
	states []string
	sent   map[string]bool
	// acks and resent packets are compared where the capture has all of them.
	acks, wantAcks     []string
	resent, wantResent []string
	// clients are the messages of the API's clients: ipfail.
	clients, wantClients []replayed
	ipfailJoined         float64
	turns                []float64 // when the real node sent anything
}

// replayed is one message that was sent.
type replayed struct {
	at   float64
	text string
}

type replayEvent struct {
	at float64
	in Input
}

func instant(at float64) cluster.Instant {
	return cluster.Instant(replayEpoch + time.Duration(math.Ceil(at*1e9)))
}

func seconds(at cluster.Instant) float64 {
	return (time.Duration(at) - replayEpoch).Seconds()
}

// ownText spells a message without what differs by its nature: the session's
// fields and our extensions.
func ownText(m *message.Message) string {
	var b strings.Builder
	for _, f := range m.Fields {
		switch {
		case slices.Contains([]string{"src", "srcuuid", "destuuid", "seq", "hg", "ts", "ld", "ttl", "auth"}, f.Name):
		case strings.HasPrefix(f.Name, "x"):
		default:
			fmt.Fprintf(&b, "%s=%s ", f.Name, f.Value)
		}
	}
	return strings.TrimSpace(b.String())
}

func ours(m *message.Message) bool {
	return m.Type() != "status" && !strings.HasPrefix(m.Type(), "NS_") && !ofClient(m)
}

// ofClient reports whether a client of the original's API is behind a message.
// Clients are processes of their own, seconds late when they begin, and what
// they say is compared apart from what the daemon says.
func ofClient(m *message.Message) bool {
	return slices.Contains([]string{"hbapi-clstat", "num_ping_nodes", "abort_giveup", "you_are_dead", "query-cstatus", "respond-cstatus"}, m.Type())
}

// inWindows reports whether a time is in one of the windows.
func inWindows(at float64, windows [][2]float64) bool {
	return slices.ContainsFunc(windows, func(w [2]float64) bool { return at >= w[0] && at < w[1] })
}

func newReplay(t *testing.T, c replayCase, s *messagetest.Scenario) *replay {
	r := &replay{t: t, c: c, s: s, end: c.until, peer: "node1", sent: map[string]bool{}}
	if c.node == "node1" {
		r.peer = "node2"
	}
	if r.end == 0 {
		r.end = s.Packets[len(s.Packets)-1].T + 0.3
	}
	r.birth = -1
	sent := map[string]bool{}
	var heard []replayEvent
	for _, p := range s.Packets {
		if p.T > r.end {
			break
		}
		link := map[string]string{"bcast": "eth0", "mcast": "eth0", "ucast": "eth1", "serial": "/dev/ttyS0"}[p.Transport]
		if p.Src == r.peer {
			if !r.cut(p.T) && (c.link == "" || c.link == link) {
				heard = append(heard, replayEvent{p.T, Packet{Link: link, Data: p.Data, At: instant(p.T)}})
				if c.both != nil && !inWindows(p.T, c.both) {
					// At its start the original was slower on the captured link.
					at := p.T
					if at < 1 {
						at -= 0.4
					}
					heard = append(heard, replayEvent{at, Packet{Link: "eth0", Data: p.Data, At: instant(at)}})
				}
			}
			continue
		}
		r.turns = append(r.turns, p.T)
		if r.birth < 0 {
			r.birth = p.T
		}
		key := p.Message.Get("seq") + p.Message.Type()
		if p.Message.Type() == "NS_ackmsg" && !slices.Contains(r.wantAcks, p.Message.Get("dest")+" "+p.Message.Get("ackseq")) {
			r.wantAcks = append(r.wantAcks, p.Message.Get("dest")+" "+p.Message.Get("ackseq"))
		}
		if ours(p.Message) && sent[key] || p.Message.Type() == "status" && sent[key] {
			r.wantResent = append(r.wantResent, p.Message.Get("seq"))
		}
		if p.Message.Type() == "status" {
			sent[key] = true
		}
		if ofClient(p.Message) && !sent[key] {
			sent[key] = true
			r.wantClient(p.T, p.Message)
		}
		if ours(p.Message) && !sent[key] {
			sent[key] = true
			r.want = append(r.want, replayed{p.T, ownText(p.Message)})
		}
	}
	// The original handles what it received at its own next turn, which
	// shows in what it sends then.
	for _, ev := range heard {
		ev.at = r.turn(ev.at, 0.6)
		p := ev.in.(Packet)
		p.At = instant(ev.at) // it stamps packets when it handles them
		r.inbox = append(r.inbox, replayEvent{ev.at, p})
	}
	for _, o := range c.do {
		r.inbox = append(r.inbox, replayEvent{o.at - 0.001, r.order(o.order)})
	}
	r.engine()
	return r
}

// turn is the real node's next turn at or after a time, if it came within a
// limit (seconds).
func (r *replay) turn(at, limit float64) float64 {
	if i, _ := slices.BinarySearch(r.turns, at); i < len(r.turns) && r.turns[i] < at+limit {
		return r.turns[i]
	}
	return at
}

func (r *replay) cut(at float64) bool {
	return inWindows(at, r.c.cut)
}

func (r *replay) order(text string) Input {
	verb, set, _ := strings.Cut(text, " ")
	switch verb {
	case "standby":
		return FIFOMessage{[][2]string{{"t", "ask_resources"}, {"rsc_hold", set}, {"info", "me"}}}
	case "takeover":
		return FIFOMessage{[][2]string{{"t", "hb_takeover"}, {"rsc_hold", set}}}
	}
	return Command{ID: 1, Verb: Shutdown}
}

func (r *replay) engine() {
	ms := func(text string) time.Duration {
		d, err := time.ParseDuration(text)
		if err != nil {
			d, err = time.ParseDuration(text + "s")
		}
		if err != nil {
			r.t.Fatal(err)
		}
		return d
	}
	c := r.s.Config
	failback := map[string]cluster.Failback{"on": cluster.FailbackOn, "off": cluster.FailbackOff, "legacy": cluster.FailbackLegacy}[c.AutoFailback]
	cfg := Config{
		Self: r.c.node, Nodes: []string{"node1", "node2"}, Failback: failback,
		Keepalive: ms(c.Keepalive), Deadtime: ms(c.Deadtime), Warntime: ms(c.Warntime), Initdead: ms(c.Initdead),
		MaxRexmitDelay: 250 * time.Millisecond, HopFudge: 1, LogBadPacket: true, InnerAuth: true,
	}
	cfg.Links = []Link{{"eth0", false}, {"eth1", false}, {"/dev/ttyS0", true}}
	if r.c.ping != "" {
		cfg.PingNodes, cfg.IPFail, cfg.Deadping = []PingNode{{Name: r.c.ping}}, true, cfg.Deadtime
	}
	for _, line := range c.Haresources {
		f := strings.Fields(line)
		cfg.Groups = append(cfg.Groups, cluster.Group{Key: f[1], Node: f[0], Resources: f[1:]})
	}
	var key Key
	if _, err := fmt.Sscanf(c.Auth+" -", "%d %s %s", &key.Index, &key.Method, &key.Secret); err != nil {
		r.t.Fatal(err)
	}
	if key.Method == "crc" {
		key.Secret = ""
	}
	cfg.Keys = Keys{Outbound: key.Index, Keys: []Key{key}}
	b := Boot{Config: cfg, Generation: 1, Seed: 1, PID: 55}
	first := r.first()
	copy(b.UUID[:], first.Get("srcuuid"))
	fmt.Sscanf(first.Get("hg"), "%x", &b.Generation)
	e, err := New(b)
	if err != nil {
		r.t.Fatal(err)
	}
	r.e, r.ring = e, e.ring
	if r.c.from != nil {
		r.restore(b, first)
	}
}

// first is the first sequenced message that the node sent.
func (r *replay) first() *message.Message {
	for _, p := range r.s.Packets {
		if p.Src == r.c.node && p.Message.Get("seq") != "" {
			return p.Message
		}
	}
	r.t.Fatal("the node sent nothing")
	return nil
}

// restore puts the engine into the middle of a life.
func (r *replay) restore(b Boot, first *message.Message) {
	data, err := r.e.Snapshot()
	if err != nil {
		r.t.Fatal(err)
	}
	var s struct {
		Machine, Session map[string]any
		Generation       uint64
		PeerKey          int
		PeerOld          bool
	}
	if err := json.Unmarshal(data, &s); err != nil {
		r.t.Fatal(err)
	}
	var seq, peerGen uint64
	fmt.Sscanf(first.Get("seq"), "%x", &seq)
	beat := r.birth
	for _, p := range r.s.Packets {
		if p.Src == r.peer && p.Message.Get("hg") != "" && peerGen == 0 {
			fmt.Sscanf(p.Message.Get("hg"), "%x", &peerGen)
			if p.Message.Get("st") == "init" {
				peerGen--
			}
		}
		if p.Src == r.c.node && p.Message.Type() == "status" {
			beat = p.T
			break
		}
	}
	peerState := "active"
	if r.c.from.peerDead {
		peerState = "dead"
	}
	m := s.Machine
	m["Started"], m["StartAt"], m["LastStep"], m["Local"], m["CommUp"] = true, 0, 0, "active", true
	m["Beat"] = map[string]any{"On": true, "At": int64(instant(beat)), "What": "next keepalive"}
	m["BeatAt"] = int64(instant(beat)) - int64(b.Config.Keepalive)
	m["Phase"], m["OtherStable"], m["Acquired"] = 4, true, true
	m["Mine"], m["Theirs"], m["FailbackDue"] = int(r.c.from.mine), int(r.c.from.theirs), r.c.from.failbackDue
	for _, raw := range m["Nodes"].([]any) {
		n := raw.(map[string]any)
		n["State"] = "active"
		if n["Name"] == r.peer {
			n["State"], n["Heard"], n["HeardSince"], n["Generation"] = peerState, !r.c.from.peerDead, !r.c.from.peerDead, peerGen
			n["HeardAt"], n["Dt"] = int64(instant(-0.4)), int64(b.Config.Deadtime)
		}
	}
	s.Session["Seq"] = seq - 1
	for _, raw := range s.Session["Peers"].([]any) {
		p := raw.(map[string]any)
		p["State"] = "active"
		for _, ack := range r.wantAcks {
			if dest, seq, _ := strings.Cut(ack, " "); dest == p["Name"] {
				var n uint64
				fmt.Sscanf(seq, "%x", &n)
				p["Trigger"] = n % 10
				break
			}
		}
		if p["Name"] == r.peer {
			p["State"], p["Generation"] = peerState, peerGen
		}
	}
	data, err = json.Marshal(s)
	if err != nil {
		r.t.Fatal(err)
	}
	if r.e, err = Restore(b, data); err != nil {
		r.t.Fatal(err)
	}
}

// run steps the engine through the capture and compares.
func (r *replay) run() {
	if r.c.from != nil {
		r.birth = 0
	}
	for steps := 0; ; steps++ {
		next, in := r.next()
		if steps > 20000 {
			r.t.Fatalf("the engine spins at %.6f", next)
		}
		if next > r.end {
			break
		}
		now := instant(max(next, r.birth))
		for _, out := range r.e.Step(now, Readings{Unix: int64(r.s.Unix + next), Load: "0.00 0.00 0.00 1/100 1"}, in) {
			r.output(next, out)
		}
	}
	r.compare()
}

// next returns the earliest event or wake-up; a packet before a wake-up at the
// same time.
func (r *replay) next() (float64, Input) {
	best := -1
	for i, ev := range r.inbox {
		if best < 0 || ev.at < r.inbox[best].at {
			best = i
		}
	}
	wake := math.Inf(1)
	if at, ok := r.e.Deadline(); ok {
		// Its timers, too, it looks at when its turn comes.
		wake = r.turn(max(seconds(at), r.birth), 0.3)
	}
	if best >= 0 && r.inbox[best].at <= wake {
		ev := r.inbox[best]
		r.inbox = slices.Delete(r.inbox, best, best+1)
		if ev.at < r.birth-0.2 {
			return r.next() // before the sockets were open: not heard
		}
		if ev.at < r.birth {
			ev.at = r.birth
			if p, ok := ev.in.(Packet); ok {
				p.At = instant(r.birth)
				ev.in = p
			}
			if at, _ := r.e.Deadline(); at == 0 {
				r.inbox = append(r.inbox, ev)
				return r.birth, Wake{}
			}
		}
		return ev.at, ev.in
	}
	return wake, Wake{}
}

func (r *replay) output(now float64, out Output) {
	switch out := out.(type) {
	case Transmit:
		if out.Link != "" {
			if at := r.turn(now, 0.6); !inWindows(now, r.c.noPing) {
				r.inbox = slices.Insert(r.inbox, 0, replayEvent{at, Packet{Link: out.Link, Data: out.Netstring, At: instant(at)}})
			}
			return
		}
		m, _, err := message.Decode(out.Netstring, r.ring)
		if err != nil {
			r.t.Fatalf("%.3f we sent what cannot be read: %v", now, err)
		}
		seq := m.Get("seq")
		if seq != "" && r.sent[seq] {
			r.resent = append(r.resent, seq)
			return
		}
		r.sent[seq] = true
		if m.Type() == "NS_ackmsg" {
			r.acks = append(r.acks, m.Get("dest")+" "+m.Get("ackseq"))
		}
		if ofClient(m) {
			r.clients = append(r.clients, replayed{now, clientText(m)})
		}
		if ours(m) && !(r.c.cutOut && r.cut(now)) {
			// Asked again because the original had not yet handled the answer.
			if m.Type() != "reqnodes" || !slices.ContainsFunc(r.got, func(g replayed) bool { return g.text == ownText(m) }) {
				r.got = append(r.got, replayed{now, ownText(m)})
			}
		}
		if m.Type() == "status" {
			state := m.Get("st") + " " + m.Get("dt")
			if n := len(r.states); n == 0 || r.states[n-1] != state {
				r.states = append(r.states, state)
			}
		}
	case Run:
		r.job(now, out.Job)
	case Exit:
		r.end = min(r.end, now)
	}
}

// job takes the end of a job from the packet that its end caused.
func (r *replay) job(now float64, j cluster.Job) {
	done := JobDone{ID: j.ID}
	for _, key := range j.Keys {
		done.Groups = append(done.Groups, cluster.GroupResult{Key: key, Running: j.Kind == cluster.JobTake})
	}
	var sign string
	switch {
	case j.Kind == cluster.JobAsk:
		sign = "info=req_our_resources()"
		if r.s.Config.AutoFailback == "legacy" {
			sign = "t=ip-request"
		}
		for i := range done.Groups {
			done.Groups[i].Running = !r.sentSoon(now, "ipaddr="+done.Groups[i].Key)
		}
	case j.Kind == cluster.JobScript:
		r.inbox = append(r.inbox, replayEvent{now + 0.001, done})
		return
	case j.Title != "":
		sign = "info=done"
	case j.Kind == cluster.JobGive && strings.Contains(j.Reason, "asked for its group"):
		sign = "t=ip-request-resp"
	case j.Kind == cluster.JobGive:
		sign = "t=shutdone"
	case strings.Contains(j.Reason, " dead: ") || strings.Contains(j.Reason, "shut down and released"):
		sign = "info=mach_down"
	}
	for _, w := range r.want {
		if sign != "" && w.at >= now-0.002 && strings.Contains(w.text, sign) {
			r.inbox = append(r.inbox, replayEvent{max(w.at, now), done})
			return
		}
	}
	if sign == "" || r.c.cutOut && r.cut(now) || r.s.Config.AutoFailback == "legacy" {
		r.inbox = append(r.inbox, replayEvent{now + 0.3, done})
	}
}

// sentSoon reports whether the real node sent such a message within the time
// that its question took.
func (r *replay) sentSoon(now float64, text string) bool {
	return slices.ContainsFunc(r.want, func(w replayed) bool {
		return w.at >= now-0.002 && w.at < now+2 && strings.Contains(w.text, text)
	})
}

// dropRepeated takes away a named difference: what ours holds is said again
// after losses, lest an old peer believe an older claim that came late.
func (r *replay) dropRepeated() {
	last := r.want[len(r.want)-1].text
	n := len(r.got)
	for n > len(r.want) && r.got[n-1].text == last {
		n--
	}
	if n == len(r.got) {
		r.t.Errorf("%s was not said again after the losses", last)
	}
	r.got = r.got[:n]
}

func (r *replay) compare() {
	tolerance := 0.6 // one keepalive, and the original's slowness within it
	bad := false
	early := func(m replayed) bool { return m.at < r.c.after }
	r.want, r.got = slices.DeleteFunc(r.want, early), slices.DeleteFunc(r.got, early)
	if r.c.scenario == "rexmit" {
		r.dropRepeated()
	}
	for i := 0; i < max(len(r.want), len(r.got)); i++ {
		var want, got replayed
		if i < len(r.want) {
			want = r.want[i]
		}
		if i < len(r.got) {
			got = r.got[i]
		}
		limit := tolerance
		if strings.HasPrefix(want.text, "t=reqnodes") {
			limit = 1.2 // at its start the original is slower still
		}
		if want.text != got.text || math.Abs(want.at-got.at) > limit {
			bad = true
			r.t.Errorf("message %d\n  3.0.6 %8.3f %s\n  ours  %8.3f %s", i, want.at, want.text, got.at, got.text)
			if want.text != got.text {
				break
			}
		}
	}
	if bad {
		for _, w := range r.want {
			r.t.Logf("3.0.6 %8.3f %s", w.at, w.text)
		}
		for _, g := range r.got {
			r.t.Logf("ours  %8.3f %s", g.at, g.text)
		}
	}
	r.compareClients()
	if r.c.scenario == "steady" {
		r.compareAll("acknowledgements", r.wantAcks, r.acks)
	}
	// Of node 1 the capture lacks what was lost on its own cable.
	if r.c.scenario == "rexmit" && r.c.node == "node2" {
		r.compareAll("packets sent again", r.wantResent, r.resent)
	}
	if want := r.wantStates(); r.c.after == 0 && !slices.Equal(want, r.states) {
		r.t.Errorf("status words and deadtimes\n  3.0.6 %v\n  ours  %v", want, r.states)
	}
}

// wantClient notes what a client of the real node said. Left out are its death
// and second coming: ours is part of the daemon; and the questions of cl_status.
func (r *replay) wantClient(at float64, m *message.Message) {
	if m.Get("info") == "died" || m.Type() == "query-cstatus" {
		return
	}
	if m.Get("st") == "join" {
		again := r.ipfailJoined > 0
		r.ipfailJoined = at
		if again {
			return
		}
	}
	r.wantClients = append(r.wantClients, replayed{at, clientText(m)})
}

// clientText is ownText without the number that tells the lives of a client
// apart.
func clientText(m *message.Message) string {
	plain := m.Clone()
	plain.Del("client_gen")
	return ownText(plain)
}

// compareClients demands the same messages in the same order. The real client
// needs up to five seconds from its start to its first word, and a second or
// two for an answer; what it says twice in a row, once for each of two causes
// in one turn, may be said once.
func (r *replay) compareClients() {
	want := slices.CompactFunc(slices.Clone(r.wantClients), sameText)
	got := slices.CompactFunc(slices.Clone(r.clients), sameText)
	for i := 0; i < max(len(want), len(got)); i++ {
		var w, g replayed
		if i < len(want) {
			w = want[i]
		}
		if i < len(got) {
			g = got[i]
		}
		if w.text != g.text || math.Abs(w.at-g.at) > 5 {
			r.t.Errorf("client's message %d\n  3.0.6 %8.3f %s\n  ours  %8.3f %s", i, w.at, w.text, g.at, g.text)
			r.t.Logf("3.0.6 %v", want)
			r.t.Logf("ours  %v", got)
			return
		}
	}
}

func sameText(a, b replayed) bool { return a.text == b.text }

// compareAll demands the same things, in any order (a turn of the original
// handles several packets), and no more than one that came after the end.
func (r *replay) compareAll(what string, want, got []string) {
	extra := 0
	for _, g := range got {
		if !slices.Contains(want, g) {
			extra++
		}
	}
	missing := slices.ContainsFunc(want, func(w string) bool { return !slices.Contains(got, w) })
	if missing || extra > 1 {
		r.t.Errorf("%s\n  3.0.6 %v\n  ours  %v", what, want, got)
	}
}

// wantStates is the sequence of status words and deadtimes that the real node
// sent, by sequence number.
func (r *replay) wantStates() (states []string) {
	seen := map[string]bool{}
	for _, p := range r.s.Packets {
		if p.Src != r.c.node || p.T > r.end || p.Message.Type() != "status" || seen[p.Message.Get("seq")] {
			continue
		}
		seen[p.Message.Get("seq")] = true
		state := p.Message.Get("st") + " " + p.Message.Get("dt")
		if n := len(states); n == 0 || states[n-1] != state {
			states = append(states, state)
		}
	}
	return states
}
