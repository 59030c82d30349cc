package transport

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"heartbeat/transport/message"
)

// Bounds of the session. Each is the original's.
const (
	// historyMax is how many sent messages are kept for retransmission.
	historyMax = 500
	// missingMax is how many missing numbers are remembered per sender.
	missingMax = 500
	// lostMax is the gap above which the tracking starts anew instead of
	// asking for everything.
	lostMax = 250
	// rexmitBurstMax is how many packets one NS_rexmit may ask for.
	rexmitBurstMax = 50
	// queueWarn and queueError are the unacknowledged messages at which the
	// log says that the queue fills up.
	queueWarn, queueError = 375, 450
)

// Drop names the reason why a packet is not handed on. The zero value means
// that it is. The words are metric labels and stand in tests.
type Drop string

const (
	DropNone         Drop = ""
	DropOwn          Drop = "own"           // our own packet, come back from a broadcast
	DropUnknownNode  Drop = "unknown node"  // src is not in the configuration
	DropIncomplete   Drop = "incomplete"    // t, src, ts or seq is missing or unreadable
	DropReplay       Drop = "replay"        // generation lower than known
	DropStale        Drop = "stale"         // from a dead node, but not newer than what it said alive
	DropDuplicate    Drop = "duplicate"     // the newest number again: the other medium's copy
	DropOld          Drop = "old"           // an older number that is not missing
	DropElsewhere    Drop = "elsewhere"     // counted, but addressed to another node
	DropForeignName  Drop = "foreign name"  // our own name from somebody else
	DropSessionLayer Drop = "session layer" // acks and retransmission requests end here
)

// Notice is something that people should read. Classic is the original's log
// line, Msg the constant message of the structured log, Attrs its fields
// (alternating names and values). Level is one of the original's words.
type Notice struct {
	Level   string
	Classic string
	Msg     string
	Attrs   []any
}

// SessionConfig is what a session must know from its beginning.
type SessionConfig struct {
	Self       string
	UUID       [16]byte
	Generation uint64
	// Nodes are the normal nodes, ourselves included, in ha.cf order.
	Nodes []string
	// TTL is the value of the field of that name: configured nodes, ping nodes
	// included, plus hopfudge. Nobody acts upon it.
	TTL int
	// MaxRexmitDelay is the pause between two requests for one missing packet.
	MaxRexmitDelay time.Duration
	// Seed feeds the two random choices: which sequence numbers are
	// acknowledged, and the delay before a first request.
	Seed uint64
}

// Session numbers what we send and judges what we hear. It is a pure state
// machine: times are monotonic durations given by the caller.
type Session struct {
	cfg SessionConfig
	st  sessionState
}

// sessionState is everything that a snapshot must carry.
type sessionState struct {
	Seq  uint64
	Rand uint64
	// NoFlow is set for good once a node without flow control was heard.
	NoFlow  bool
	History []sent
	Peers   []sender // in the order of SessionConfig.Nodes, ourselves included
	// Filling is the last queue level that was complained about.
	Filling int
}

// sent is a message kept for retransmission, byte for byte.
type sent struct {
	Seq                uint64
	Resent             bool
	ResentAt           time.Duration
	Netstring, Classic []byte
}

// sender is what is known of one node.
type sender struct {
	Name       string
	UUID       [16]byte
	HasUUID    bool
	State      string
	Generation uint64
	// Early is the generation of what was heard before the first status.
	Early uint64
	// Known is false at start and after the node was declared dead: any
	// number above Last is then accepted, without a gap.
	Known bool
	// Last is the highest number of the generation. It outlives a death:
	// within a generation numbers only grow, so whatever comes back with a
	// lower one is a replay.
	Last    uint64
	Missing []missing
	GapAt   uint64 // the lowest number of the gap that is open
	Trigger uint64 // 0..9: numbers with this last digit are acknowledged
	Acked   uint64 // what the node acknowledged of ours
	// Follows is set once the node has acknowledged a number of this life of
	// ours: from then on it answers no former one.
	Follows bool
}

type missing struct {
	Seq uint64
	Ask time.Duration
}

// NewSession returns a session that has sent and heard nothing.
func NewSession(cfg SessionConfig) *Session {
	s := &Session{cfg: cfg, st: sessionState{Rand: cfg.Seed}}
	for _, n := range cfg.Nodes {
		s.st.Peers = append(s.st.Peers, sender{Name: n, State: "init", Trigger: s.random(10)})
	}
	s.knowSelf()
	return s
}

// knowSelf enters what the configuration says of this node.
func (s *Session) knowSelf() {
	if self := s.sender(s.cfg.Self); self != nil {
		self.UUID, self.HasUUID = s.cfg.UUID, true
		self.Generation = s.cfg.Generation
	}
}

// Snapshot returns the state for RestoreSession.
func (s *Session) Snapshot() (json.RawMessage, error) { return json.Marshal(s.st) }

// RestoreSession continues a session from its snapshot. Nodes that the
// configuration gained are added, those it lost are forgotten.
func RestoreSession(cfg SessionConfig, snapshot json.RawMessage) (*Session, error) {
	s := NewSession(cfg)
	var st sessionState
	if err := json.Unmarshal(snapshot, &st); err != nil {
		return nil, fmt.Errorf("restore session: %w", err)
	}
	fresh := s.st.Peers
	s.st = st
	for i, p := range fresh {
		if j := slices.IndexFunc(st.Peers, func(q sender) bool { return q.Name == p.Name }); j >= 0 {
			fresh[i] = st.Peers[j]
		}
	}
	s.st.Peers = fresh
	s.knowSelf()
	return s, nil
}

// random returns a number below n (splitmix64: small, seedable, and its whole
// state is one word of the snapshot).
func (s *Session) random(n uint64) uint64 {
	s.st.Rand += 0x9e3779b97f4a7c15
	z := s.st.Rand
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return (z ^ z>>31) % n
}

func (s *Session) sender(name string) *sender {
	for i := range s.st.Peers {
		if s.st.Peers[i].Name == name {
			return &s.st.Peers[i]
		}
	}
	return nil
}

// FlowControl reports whether every node heard so far takes part in flow
// control: then our status says protocol=1, and acks are sent and read.
func (s *Session) FlowControl() bool { return !s.st.NoFlow }

// Generation returns the generation known of a node, 0 when it was never heard.
func (s *Session) Generation(node string) uint64 {
	if p := s.sender(node); p != nil {
		return p.Generation
	}
	return 0
}

// Gap reports whether messages of the node are missing that are asked for.
func (s *Session) Gap(node string) bool {
	p := s.sender(node)
	return p != nil && len(p.Missing) > 0
}

// Unheard returns how many of our messages the node has not acknowledged.
func (s *Session) Unheard(node string) uint64 {
	if p := s.sender(node); p != nil && s.st.Seq > p.Acked {
		return s.st.Seq - p.Acked
	}
	return 0
}

// SetState tells the session a node's state word. A node declared dead loses
// its tracking: whatever number above the last it returns with is accepted.
func (s *Session) SetState(node, state string) {
	p := s.sender(node)
	if p == nil {
		return
	}
	p.State = state
	if state == "dead" {
		p.forget()
	}
}

func (p *sender) forget() {
	p.Known, p.GapAt = false, 0
	p.Missing = nil
}

// Sequenced reports whether messages of this type carry a sequence number.
func Sequenced(typ string) bool { return !strings.HasPrefix(typ, "NS_") }

// Stamp adds the daemon's fields to a message that is about to go out, in the
// original's order, and returns its sequence number (0 for types without one).
func (s *Session) Stamp(m *message.Message, unix int64, load string) uint64 {
	if dest, ok := m.Lookup("dest"); ok {
		if p := s.sender(dest); p != nil && p.HasUUID {
			m.AddBinary("destuuid", string(p.UUID[:]))
		}
	}
	m.Set("src", s.cfg.Self) // in its place, for what a client of the original's sends has it
	m.AddBinary("srcuuid", string(s.cfg.UUID[:]))
	var seq uint64
	sequenced := Sequenced(m.Type())
	if sequenced {
		s.st.Seq++
		seq = s.st.Seq
		m.Add("seq", hex(seq))
	}
	m.Add("hg", hex(s.cfg.Generation))
	m.Add("ts", hex(uint64(unix)))
	if sequenced {
		m.Add("ld", load)
	}
	m.Add("ttl", strconv.Itoa(s.cfg.TTL))
	return seq
}

// Sent keeps an encoded message for retransmission. It reports whether our own
// acknowledgement of it is due; that one goes out first.
func (s *Session) Sent(seq uint64, netstring, classic []byte) (ackDue bool, notices []Notice) {
	if len(s.st.History) == historyMax {
		s.st.History = slices.Delete(s.st.History, 0, 1)
	}
	s.st.History = append(s.st.History, sent{Seq: seq, Netstring: netstring, Classic: classic})
	self := s.sender(s.cfg.Self)
	self.Known, self.Last = true, seq
	notices = s.checkQueue()
	if s.st.NoFlow || seq%10 != self.Trigger {
		return false, notices
	}
	self.Acked = seq
	s.freeAcked()
	return true, notices
}

// checkQueue complains, once per level, when the messages that no node has
// acknowledged fill the history.
func (s *Session) checkQueue() []Notice {
	live := 0
	for i := range s.st.Peers {
		if p := &s.st.Peers[i]; p.State != "dead" && p.State != "init" || p.Name == s.cfg.Self {
			live++
		}
	}
	unacked := 0
	if !s.st.NoFlow && live > 1 {
		unacked = len(s.st.History)
	}
	level, word := 0, ""
	switch {
	case unacked > queueError:
		level, word = queueError, "ERROR"
	case unacked > queueWarn:
		level, word = queueWarn, "WARN"
	}
	rising := level > s.st.Filling
	s.st.Filling = level
	if !rising {
		return nil
	}
	return []Notice{{word, fmt.Sprintf("Message hist queue is filling up (%d messages in queue)", unacked),
		"message history is filling up", []any{"messages", unacked}}}
}

// freeAcked forgets what every live node has acknowledged.
func (s *Session) freeAcked() {
	level := s.st.Seq
	for i := range s.st.Peers {
		p := &s.st.Peers[i]
		if p.Name != s.cfg.Self && p.State == "dead" {
			continue
		}
		level = min(level, p.Acked)
	}
	i := 0
	for i < len(s.st.History) && s.st.History[i].Seq <= level {
		i++
	}
	s.st.History = slices.Delete(s.st.History, 0, i)
}

// Ack builds the acknowledgement of a node's message.
func (s *Session) Ack(node string, seq uint64) *message.Message {
	return message.New("NS_ackmsg").Add("dest", node).Add("ackseq", hex(seq))
}

// Verdict is the judgement on one received packet.
type Verdict struct {
	// Drop is empty when the message is to be handed on.
	Drop Drop
	// From is the node as configured, "" when unknown.
	From string
	// Refresh: the packet shows that the link from that node works.
	Refresh bool
	// Restarted: the node's generation grew; it may hold resources.
	Restarted bool
	// First: nothing had ever been heard of the node before.
	First bool
	// Outdated: the packet belongs to an older life of the node than one that has
	// been heard, or to an older part of this life although it is held for dead:
	// a replay, or a node that came back with an old generation.
	Outdated bool
	// Known is the generation that is known of the node then.
	Known uint64
	// Returned: a status of the known generation from a node held for dead.
	Returned bool
	// Reply are messages to send now, before anything the message causes.
	Reply []*message.Message
	// Resend are stored packets to send again as they were.
	Resend []Stored
	// Notices are for the log.
	Notices []Notice
}

// Stored is a sent message in both spellings.
type Stored struct{ Netstring, Classic []byte }

// Receive judges a verified message. now is the time of the step.
func (s *Session) Receive(now time.Duration, link string, m *message.Message) (v Verdict) {
	typ, src := m.Type(), m.Get("src")
	if typ == "" || src == "" || m.Get("ts") == "" {
		v.Drop = DropIncomplete
		v.note("ERROR", fmt.Sprintf("process_clustermsg: missing from/ts/type: iface %s, from %s", link, orNone(src)),
			"packet without src, ts or t", "link", link, "node", src)
		return v
	}
	p := s.identify(m, &v)
	if p == nil {
		return v
	}
	v.From = p.Name
	if p.Name == s.cfg.Self {
		v.Drop = DropOwn
		v.Refresh = m.Get("hg") == hex(s.cfg.Generation)
		return v
	}
	gen, err := parseHex(m.Get("hg"))
	if err != nil {
		gen = 0
	}
	if !Sequenced(typ) {
		s.receiveControl(now, p, typ, gen, m, &v)
		return v
	}
	seq, err := parseHex(m.Get("seq"))
	if err != nil || seq == 0 {
		v.Drop = DropIncomplete
		v.note("ERROR", fmt.Sprintf("process_clustermsg: missing seqno: iface %s, from %s", link, p.Name),
			"packet without sequence number", "link", link, "node", p.Name)
		return v
	}
	if known := max(p.Generation, p.Early); gen < known {
		v.Drop, v.Outdated, v.Known = DropReplay, true, known
		v.note("ERROR", fmt.Sprintf("should_drop_message: attempted replay attack [%s]? [gen = %d, curgen = %d]", p.Name, gen, known),
			"packet of an old generation dropped: replay?", "node", p.Name, "generation", gen, "current", known)
		return v
	}
	status := typ == "status"
	if status && gen > p.Generation {
		v.First = p.Generation == 0
		v.Restarted = !v.First
		if v.Restarted {
			v.note("info", "Heartbeat restart on node "+p.Name, "heartbeat restarted on node", "node", p.Name, "generation", gen)
		}
		// 3.0.6 forgets at a node's first status what it missed before, too: an
		// answer that was lost in between is lost for good.
		if gen != p.Early {
			p.forget()
			p.Last = 0
		}
		p.Generation, p.Acked = gen, 0
	}
	if p.Generation == 0 && gen > p.Early {
		p.forget()
		p.Early, p.Last = gen, 0
	}
	if v.Drop = s.track(now, p, seq, &v); v.Drop != DropNone {
		v.Refresh = v.Drop == DropDuplicate && s.forUs(m)
		v.Outdated, v.Known = v.Drop == DropStale, max(p.Generation, p.Early)
		return v
	}
	s.learnUUID(p, m, &v)
	if status {
		v.Returned = p.State == "dead" && !v.Restarted && !v.First
		if m.Get("protocol") == "" && !s.st.NoFlow {
			s.st.NoFlow = true
			v.note("info", "flow control disabled due to different version heartbeat", "flow control off", "node", p.Name)
		}
	}
	if !s.forUs(m) {
		v.Drop = DropElsewhere
		return v
	}
	v.Refresh = true
	return v
}

// identify finds the sender: by uuid first, then by name.
func (s *Session) identify(m *message.Message, v *Verdict) *sender {
	src := m.Get("src")
	id, hasID := uuidOf(m)
	byName := s.sender(src)
	if hasID && byName == nil {
		for i := range s.st.Peers {
			if q := &s.st.Peers[i]; q.HasUUID && q.UUID == id {
				return q
			}
		}
	}
	if byName == nil {
		v.Drop = DropUnknownNode
		v.note("ERROR", fmt.Sprintf("process_status_message: bad node [%s] in message", src), "packet from a node that is not configured", "node", src)
		return nil
	}
	if hasID && byName.Name == s.cfg.Self && id != s.cfg.UUID {
		v.Drop = DropForeignName
		v.note("ERROR", fmt.Sprintf("node %s uses our name with another uuid: two nodes must not have the same name", src),
			"another node uses our name", "node", src)
		return nil
	}
	return byName
}

// uuidOf is the sender's uuid, if the message has one.
func uuidOf(m *message.Message) (id [16]byte, ok bool) {
	raw := m.Get("srcuuid")
	copy(id[:], raw)
	return id, len(raw) == len(id) && id != [16]byte{}
}

// learnUUID notes the uuid of a node, from numbered packets that are not dropped
// only: a replay of an old one would turn our answers away from it.
func (s *Session) learnUUID(p *sender, m *message.Message, v *Verdict) {
	id, ok := uuidOf(m)
	if !ok || p.HasUUID && p.UUID == id {
		return
	}
	if p.HasUUID {
		v.note("info", fmt.Sprintf("node %s changed its uuid to %s", p.Name, FormatUUID(id)), "node changed its uuid", "node", p.Name, "uuid", FormatUUID(id))
	}
	if id == s.cfg.UUID {
		v.note("ERROR", fmt.Sprintf("node %s has the same uuid as this node: remove hb_uuid on one of them and restart it", p.Name),
			"two nodes have the same uuid", "node", p.Name, "uuid", FormatUUID(id))
	}
	p.UUID, p.HasUUID = id, true
}

// track applies the sequence rules.
func (s *Session) track(now time.Duration, p *sender, seq uint64, v *Verdict) Drop {
	switch {
	case !p.Known && seq <= p.Last:
		return DropStale
	case !p.Known:
		p.Known, p.Last = true, seq
		s.maybeAck(p, seq, v)
	case seq == p.Last+1:
		p.Last = seq
		s.maybeAck(p, seq, v)
	case seq == p.Last:
		return DropDuplicate
	case seq > p.Last:
		lost := seq - p.Last - 1
		v.note("WARN", fmt.Sprintf("%d lost packet(s) for [%s] [%d:%d]", lost, p.Name, p.Last, seq),
			"packets lost", "node", p.Name, "lost", lost, "last", p.Last, "seq", seq)
		if lost > lostMax {
			v.note("ERROR", "lost a lot of packets!", "too many packets lost: tracking starts anew", "node", p.Name, "lost", lost)
			p.forget()
			p.Known, p.Last = true, seq
			return DropNone
		}
		if len(p.Missing) == 0 {
			p.GapAt = p.Last + 1
		}
		for n := p.Last + 1; n < seq; n++ {
			if len(p.Missing) == missingMax {
				v.note("ERROR", fmt.Sprintf("Irretrievably lost packets: node %s seq %d to %d", p.Name, n, seq-1),
					"too many packets missing: the newest are given up", "node", p.Name, "first", n, "last", seq-1)
				break
			}
			p.Missing = append(p.Missing, missing{Seq: n, Ask: now + s.firstDelay()})
		}
		p.Last = seq
	default:
		i := slices.IndexFunc(p.Missing, func(x missing) bool { return x.Seq == seq })
		if i < 0 {
			return DropOld
		}
		p.Missing = slices.Delete(p.Missing, i, i+1)
		s.gapMaybeClosed(p, v)
	}
	return DropNone
}

// firstDelay spreads first requests, so that several nodes do not ask at once.
func (s *Session) firstDelay() time.Duration {
	const lowest = 50 * time.Millisecond
	ceiling := s.cfg.MaxRexmitDelay
	if ceiling < 2*lowest {
		return time.Duration(s.random(uint64(max(ceiling, 1))))
	}
	return lowest + time.Duration(s.random(uint64(ceiling-lowest)))
}

func (s *Session) maybeAck(p *sender, seq uint64, v *Verdict) {
	if !s.st.NoFlow && len(p.Missing) == 0 && seq%10 == p.Trigger {
		v.Reply = append(v.Reply, s.Ack(p.Name, seq))
	}
}

// gapMaybeClosed acknowledges, once nothing is missing any more, the newest
// trigger number that the gap held back.
func (s *Session) gapMaybeClosed(p *sender, v *Verdict) {
	if len(p.Missing) > 0 {
		return
	}
	v.note("info", fmt.Sprintf("No pkts missing from %s!", p.Name), "no packets missing", "node", p.Name)
	if s.st.NoFlow {
		return
	}
	seq := p.Last - (p.Last+10-p.Trigger)%10
	if seq >= p.GapAt && seq > 0 && seq <= p.Last {
		v.Reply = append(v.Reply, s.Ack(p.Name, seq))
	}
}

// receiveControl handles the messages of the session itself.
func (s *Session) receiveControl(now time.Duration, p *sender, typ string, gen uint64, m *message.Message, v *Verdict) {
	v.Drop = DropSessionLayer
	if gen != p.Generation {
		v.Drop = DropReplay
		return
	}
	if dest := m.Get("dest"); dest != "" || typ != "NS_nak_rexmit" {
		if dest == "" || !s.forUs(m) {
			v.Drop = DropElsewhere
			return
		}
	}
	v.Refresh = true
	switch typ {
	case "NS_ackmsg":
		s.receiveAck(p, m, v)
	case "NS_rexmit":
		s.receiveRexmit(now, p, m, v)
	case "NS_nak_rexmit":
		seq, err := parseHex(m.Get("firstseq"))
		if err != nil {
			return
		}
		v.note("ERROR", fmt.Sprintf("Irretrievably lost packet: node %s seq %d", p.Name, seq), "packet lost for good", "node", p.Name, "seq", seq)
		if i := slices.IndexFunc(p.Missing, func(x missing) bool { return x.Seq == seq }); i >= 0 {
			p.Missing = slices.Delete(p.Missing, i, i+1)
			s.gapMaybeClosed(p, v)
		}
	}
}

func (s *Session) receiveAck(p *sender, m *message.Message, v *Verdict) {
	seq, err := parseHex(m.Get("ackseq"))
	if err != nil || s.st.NoFlow || seq <= p.Acked {
		return
	}
	if seq > s.st.Seq {
		// An acknowledgement does not say which of our lives it means. One that
		// was on its way while we restarted means the former; 3.0.6 calls that an
		// ERROR, too.
		level := "ERROR"
		if !p.Follows {
			level = "info"
		}
		v.note(level, fmt.Sprintf("ackseq(%d) from %s is larger than our newest (%d)", seq, p.Name, s.st.Seq),
			"acknowledgement of something never sent", "node", p.Name, "seq", seq, "newest", s.st.Seq)
		return
	}
	p.Acked, p.Follows = seq, true
	s.freeAcked()
}

func (s *Session) receiveRexmit(now time.Duration, p *sender, m *message.Message, v *Verdict) {
	first, err1 := strconv.ParseUint(m.Get("firstseq"), 10, 64)
	last, err2 := strconv.ParseUint(m.Get("lastseq"), 10, 64)
	if err1 != nil || err2 != nil || last < first {
		v.Drop = DropIncomplete
		return
	}
	first = max(first, p.Acked+1)
	for n, i := first, 0; n <= last && i < rexmitBurstMax; n, i = n+1, i+1 {
		if n > s.st.Seq {
			v.note("WARN", fmt.Sprintf("Rexmit of seq %d requested. %d is max.", n, s.st.Seq), "retransmission of a future packet requested", "node", p.Name, "seq", n, "newest", s.st.Seq)
			return
		}
		j, found := slices.BinarySearchFunc(s.st.History, n, func(h sent, n uint64) int { return cmp.Compare(h.Seq, n) })
		if !found {
			reason := "seqno not found"
			if len(s.st.History) == 0 || n < s.st.History[0].Seq {
				reason = "seqno too low"
			}
			v.note("ERROR", fmt.Sprintf("Cannot rexmit pkt %d for %s: %s", n, p.Name, reason), "retransmission not possible", "node", p.Name, "seq", n, "reason", reason)
			v.Reply = append(v.Reply, message.New("NS_nak_rexmit").Add("firstseq", hex(n)).Add("dest", p.Name).Add("info", reason))
			continue
		}
		h := &s.st.History[j]
		if h.Resent && now-h.ResentAt < s.cfg.MaxRexmitDelay-10*time.Millisecond {
			continue
		}
		h.Resent, h.ResentAt = true, now
		v.Resend = append(v.Resend, Stored{h.Netstring, h.Classic})
	}
}

// Due returns the requests for missing packets that are due now.
func (s *Session) Due(now time.Duration) (requests []*message.Message) {
	for i := range s.st.Peers {
		p := &s.st.Peers[i]
		for j := range p.Missing {
			x := &p.Missing[j]
			if x.Ask > now {
				continue
			}
			x.Ask = now + s.cfg.MaxRexmitDelay
			if p.State != "up" && p.State != "active" {
				continue
			}
			n := strconv.FormatUint(x.Seq, 10)
			requests = append(requests, message.New("NS_rexmit").Add("dest", p.Name).Add("firstseq", n).Add("lastseq", n))
		}
	}
	return requests
}

// Deadline returns when Due has work next.
func (s *Session) Deadline() (at time.Duration, ok bool) {
	for i := range s.st.Peers {
		for _, x := range s.st.Peers[i].Missing {
			if !ok || x.Ask < at {
				at, ok = x.Ask, true
			}
		}
	}
	return at, ok
}

// forUs reports whether the message is addressed to us or to everybody. A uuid
// decides if there is one; the name does between nodes that have the same, which
// copied machines do.
func (s *Session) forUs(m *message.Message) bool {
	dest, ok := m.Lookup("dest")
	if !ok {
		return true
	}
	if raw := m.Get("destuuid"); len(raw) == 16 && raw != string(make([]byte, 16)) {
		p := s.sender(dest)
		return raw == string(s.cfg.UUID[:]) && (p == nil || p.Name == s.cfg.Self)
	}
	return strings.EqualFold(dest, s.cfg.Self)
}

func (v *Verdict) note(level, classic, msg string, attrs ...any) {
	v.Notices = append(v.Notices, Notice{level, classic, msg, attrs})
}

func orNone(s string) string {
	if s == "" {
		return "(none)"
	}
	return s
}

func hex(n uint64) string { return strconv.FormatUint(n, 16) }

func parseHex(s string) (uint64, error) { return strconv.ParseUint(s, 16, 64) }

// FormatUUID writes a uuid in the usual form with dashes.
func FormatUUID(id [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}
