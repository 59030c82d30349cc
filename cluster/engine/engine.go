package engine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"heartbeat/cluster"
	"heartbeat/cluster/protocol"
	"heartbeat/transport"
	"heartbeat/transport/message"
)

// Engine is one node: state machine, protocol and session behind one step. It
// is not safe for use by several goroutines.
type Engine struct {
	cfg     Config
	machine *cluster.Machine
	session *transport.Session
	ring    *message.Keyring
	uuid    [16]byte
	gen     uint64
	serial  bool
	now     cluster.Instant
	read    Readings
	out     []Output
	// peerKey is the key index of the peer's newest in-sequence packet, -1
	// when nothing was heard; peerOld whether that peer is a 3.0.6.
	peerKey int
	peerOld bool
	heard   heard
	clocks  clocks
	// sent is the last packet that went out, nil before the first.
	sent []byte
	// outgoing and wire are room that every packet uses anew: a keepalive that
	// walks through fresh memory costs more than what it says.
	outgoing message.Message
	wire     []byte
	codec    Codec
	// peerSays and weSay are what keepalives say; routine is what Routine returns
	// of them, nil until it is asked for.
	peerSays, weSay wording
	routine         [][]byte
}

// Codec spells packets in the place of heartbeat's formats and digests: long
// simulations, which are not about them, are faster without.
type Codec interface {
	// Encode returns a packet that means m, which the caller uses again.
	Encode(m *message.Message) []byte
	// Decode reads one into m. Packets that Encode has not made are an error.
	Decode(packet []byte, m *message.Message) error
}

// clocks are the other clocks' last readings.
type clocks struct {
	read   bool
	asleep time.Duration
	wall   int64 // unix time of Instant 0
}

// wallJumpMin is the least jump of the wall clock, in seconds, that is looked
// at: it is read in whole seconds.
const wallJumpMin = 2

// jump is by how much the other clocks ran ahead of the monotonic one since the
// last step.
func (c *clocks) jump(now cluster.Instant, r Readings) (j cluster.ClockJump) {
	wall := r.Unix - int64(time.Duration(now)/time.Second)
	if c.read {
		j.Asleep = max(r.Asleep-c.asleep, 0)
		if d := wall - c.wall; d >= wallJumpMin {
			j.Wall = time.Duration(d) * time.Second
		}
	}
	*c = clocks{true, max(r.Asleep, c.asleep), wall}
	return j
}

// heard is the last packet that was verified: the other media bring the same
// bytes again, which need no second reading. Its message is used again by the
// next packet.
type heard struct {
	packet []byte
	ring   *message.Keyring
	msg    message.Message
	info   message.Info
}

// decode reads and verifies a packet. The message is good until the next call.
//
// Comparing bytes takes a time that tells how many are alike; it tells nothing
// but a packet that has been sent already and is worth nothing any more.
func (h *heard) decode(packet []byte, ring *message.Keyring) (*message.Message, message.Info, error) {
	if h.ring == ring && bytes.Equal(packet, h.packet) {
		return &h.msg, h.info, nil
	}
	h.ring = nil
	info, err := h.msg.Decode(packet, ring)
	if err != nil {
		return nil, info, err
	}
	h.packet, h.ring, h.info = append(h.packet[:0], packet...), ring, info
	return &h.msg, info, nil
}

// New returns an engine at the beginning of its life: Deadline is at once, and
// the first Wake sends its first status. It fails only for unusable keys.
func New(b Boot) (*Engine, error) {
	e, err := newEngine(b)
	if err != nil {
		return nil, err
	}
	e.machine = cluster.New(machineConfig(b))
	e.session = transport.NewSession(sessionConfig(b))
	return e, nil
}

func newEngine(b Boot) (*Engine, error) {
	e := &Engine{cfg: b.Config, uuid: b.UUID, gen: b.Generation, peerKey: -1, codec: b.Codec}
	for _, l := range b.Config.Links {
		e.serial = e.serial || l.Serial
	}
	return e, e.setKeys(b.Config.Keys)
}

func machineConfig(b Boot) cluster.Config {
	c := b.Config
	m := cluster.Config{
		Self: c.Self, Nodes: c.Nodes, Groups: c.Groups,
		Keepalive: c.Keepalive, Deadtime: c.Deadtime, Warntime: c.Warntime, Initdead: c.Initdead, Deadping: c.Deadping,
		Failback: c.Failback, Stonith: c.Stonith, FenceDelay: c.FenceDelay, FenceWait: c.FenceWait, StopReboot: c.StopReboot, IPFail: c.IPFail, Conflict: c.Conflict,
		Scripts: c.Scripts, Digest: b.Digest, PID: b.PID, Held: b.Held, Generation: b.Generation,
	}
	for _, p := range c.PingNodes {
		m.PingNodes = append(m.PingNodes, p.Name)
	}
	for _, l := range c.Links {
		if !slices.Contains(m.Links, l.Name) {
			m.Links = append(m.Links, l.Name)
		}
	}
	return m
}

func sessionConfig(b Boot) transport.SessionConfig {
	c := b.Config
	return transport.SessionConfig{
		Self: c.Self, UUID: b.UUID, Generation: b.Generation, Nodes: c.Nodes,
		TTL:            len(c.Nodes) + len(c.PingNodes) + c.HopFudge,
		MaxRexmitDelay: c.MaxRexmitDelay, Seed: b.Seed,
	}
}

func (e *Engine) setKeys(keys Keys) error {
	var list []message.Key
	for _, k := range keys.Keys {
		list = append(list, message.Key{Index: k.Index, Method: k.Method, Secret: k.Secret})
	}
	ring, err := message.NewKeyring(keys.Outbound, list)
	if err != nil {
		return fmt.Errorf("authentication keys: %w", err)
	}
	e.ring = ring
	e.cfg.Keys = keys
	e.chooseKey()
	return nil
}

// chooseKey decides which key signs. A 3.0.6 peer verifies with the secret of
// its own outbound key, whatever index a packet names: towards it we sign with
// the index that it uses, while that is one of ours. Everybody else verifies
// by the index in the packet, so our own auth line decides.
func (e *Engine) chooseKey() {
	index := e.cfg.Keys.Outbound
	if e.peerOld && e.peerKey >= 0 {
		if _, ok := e.ring.Lookup(e.peerKey); ok {
			index = e.peerKey
		}
	}
	if e.ring.Outbound().Index == index {
		return
	}
	if ring, ok := e.ring.WithOutbound(index); ok {
		e.ring = ring
	}
}

type snapshot struct {
	Machine, Session json.RawMessage
	Generation       uint64
	PeerKey          int
	PeerOld          bool
}

// Snapshot returns the whole state. A node that restarts in place hands it to
// its successor.
func (e *Engine) Snapshot() ([]byte, error) {
	m, err1 := e.machine.Snapshot()
	s, err2 := e.session.Snapshot()
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("snapshot: %w", err)
	}
	return json.Marshal(snapshot{m, s, e.gen, e.peerKey, e.peerOld})
}

// Restore continues from a snapshot. The generation is the snapshot's: for the
// peer nothing happened. Boot's configuration may differ from the former one.
func Restore(b Boot, data []byte) (*Engine, error) {
	var s snapshot
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	b.Generation = s.Generation
	e, err := newEngine(b)
	if err != nil {
		return nil, err
	}
	if e.machine, err = cluster.Restore(machineConfig(b), s.Machine); err != nil {
		return nil, err
	}
	if e.session, err = transport.RestoreSession(sessionConfig(b), s.Session); err != nil {
		return nil, err
	}
	e.peerKey, e.peerOld = s.PeerKey, s.PeerOld
	e.chooseKey()
	return e, nil
}

// Deadline returns when the engine must be woken at the latest. Before that
// wake-up every packet that has arrived by then is stepped.
func (e *Engine) Deadline() (cluster.Instant, bool) {
	at, ok := e.machine.Deadline()
	if s, sok := e.session.Deadline(); sok && (!ok || cluster.Instant(s) < at) {
		return cluster.Instant(s), true
	}
	return at, ok
}

// View shows the state as of the last step.
func (e *Engine) View() View {
	v := e.machine.View()
	v.Generation = e.gen
	for i := range v.Nodes {
		if n := &v.Nodes[i]; !n.Ping {
			n.Generation = e.session.Generation(n.Name)
		}
	}
	if e.weakKeys() {
		v.Warnings = append(v.Warnings, "authkeys holds a crc key: whoever can send packets to this node can forge any message; remove that line")
	}
	return v
}

func (e *Engine) weakKeys() bool {
	return slices.ContainsFunc(e.cfg.Keys.Keys, func(k Key) bool { return k.Method == "crc" })
}

// Step advances the node by one input and returns what to do, in order.
func (e *Engine) Step(now cluster.Instant, r Readings, in Input) []Output {
	e.now, e.read, e.out = now, r, nil
	if j := e.clocks.jump(now, r); j != (cluster.ClockJump{}) {
		e.apply(j)
	}
	switch in := in.(type) {
	case Packet:
		e.packet(in)
	case Wake:
		requests := e.session.Due(time.Duration(now))
		if len(requests) > 0 && !e.machine.Silent() {
			for _, m := range requests {
				e.transmitControl(m)
			}
			e.apply(cluster.PacketsLost{})
		}
		e.apply(cluster.Wake{})
	case JobDone:
		e.apply(cluster.JobDone{ID: in.ID, Groups: in.Groups, Err: in.Err})
	case Command:
		e.apply(cluster.Order{ID: in.ID, Verb: cluster.Verb(in.Verb), Set: in.Set, Node: in.Node, From: in.From})
	case FIFOMessage:
		e.fifo(in)
	case NewKeys:
		e.newKeys(in)
	case Looped:
		e.apply(cluster.LinkHeard{From: e.cfg.Self, Link: in.Link, At: now})
	case LinkTrouble:
		e.apply(cluster.Trouble{Link: in.Link, Err: in.Err})
	}
	return e.out
}

func (e *Engine) newKeys(in NewKeys) {
	if err := e.setKeys(in.Keys); err != nil {
		e.log(cluster.Error, "Authentication configuration error.", "new keys refused, the old ones stay", "err", err.Error())
		return
	}
	e.log(cluster.Info, "Rereading authentication file.", "keys read again", "outbound", in.Keys.Outbound)
}

// controlFields are the session's: nobody else says what they hold.
var controlFields = []string{"src", "srcuuid", "destuuid", "seq", "hg", "ts", "ld", "ttl", "auth"}

// fifo sends what somebody wrote to the FIFO.
func (e *Engine) fifo(in FIFOMessage) {
	m := &message.Message{}
	for _, f := range in.Fields {
		if !slices.Contains(controlFields, f[0]) {
			m.Add(f[0], f[1])
		}
	}
	if err := m.Validate(); err != nil {
		e.log(cluster.Error, "FIFO message refused: "+err.Error(), "FIFO message refused", "err", err.Error())
		return
	}
	msg, ok := protocol.Decode(m)
	if !ok {
		e.log(cluster.Error, fmt.Sprintf("FIFO message of type %s refused: a field is missing or has an impossible value", m.Type()), "FIFO message refused", "type", m.Type())
		return
	}
	if !transport.Sequenced(m.Type()) {
		e.log(cluster.Error, fmt.Sprintf("FIFO message of type %s refused: the type is reserved", m.Type()), "FIFO message refused", "type", m.Type())
		return
	}
	e.apply(cluster.Posted{Msg: msg})
}

// packet verifies, judges and handles one packet.
func (e *Engine) packet(in Packet) {
	if e.sent != nil && bytes.Equal(in.Data, e.sent) {
		// A copy of ours, as broadcasts come back: there is nothing to verify.
		e.apply(cluster.LinkHeard{From: e.cfg.Self, Link: in.Link, At: in.At})
		return
	}
	m, info, err := e.decode(in.Data)
	if err != nil {
		e.refused(in.Link, err)
		return
	}
	if m.Type() == "NS_st" {
		e.pingReply(in, m)
		return
	}
	v := e.session.Receive(time.Duration(e.now), in.Link, m)
	e.notices(v.Notices)
	if v.Drop != transport.DropNone {
		switch {
		case v.Refresh:
			e.apply(cluster.LinkHeard{From: v.From, Link: in.Link, At: in.At})
		case v.Outdated:
			e.apply(cluster.OutdatedHeard{From: v.From, Generation: v.Known})
		}
		e.answer(v)
		return
	}
	begin := len(e.out)
	e.answer(v)
	end := len(e.out)
	// The packet may show that this node has stood still. Then it is not answered.
	defer func() {
		if e.machine.Silent() {
			kept := slices.DeleteFunc(e.out[begin:end], func(o Output) bool { _, said := o.(Transmit); return said })
			e.out = slices.Delete(e.out, begin+len(kept), end)
		}
	}()
	e.peerSpeaks(m, info.Key)
	msg, ok := protocol.Decode(m)
	if !ok {
		e.log(cluster.Error, fmt.Sprintf("message of type %s from %s makes no sense", m.Type(), v.From), "message makes no sense", "node", v.From, "type", m.Type())
		e.apply(cluster.LinkHeard{From: v.From, Link: in.Link, At: in.At})
		return
	}
	if _, status := msg.(cluster.Status); status && e.peerSays.note(in.Data) {
		e.routine = nil
	}
	seq, _ := strconv.ParseUint(m.Get("seq"), 16, 64) // the session has read it
	e.apply(cluster.Heard{
		From: v.From, Link: in.Link, At: in.At, Msg: msg, Generation: e.session.Generation(v.From), Seq: seq,
		Restarted: v.Restarted || v.First, Returned: v.Returned, Gap: e.session.Gap(v.From),
	})
}

func (e *Engine) decode(packet []byte) (*message.Message, message.Info, error) {
	if e.codec == nil {
		return e.heard.decode(packet, e.ring)
	}
	err := e.codec.Decode(packet, &e.heard.msg)
	return &e.heard.msg, message.Info{Key: e.cfg.Keys.Outbound}, err
}

// answer sends what the session answers to a packet. A stalled node that must
// release first acknowledges nothing and sends nothing again: an old status of its
// would look like its return.
func (e *Engine) answer(v transport.Verdict) {
	if e.machine.Silent() {
		return
	}
	for _, reply := range v.Reply {
		e.transmitControl(reply)
	}
	for _, stored := range v.Resend {
		e.out = append(e.out, Transmit{Netstring: stored.Netstring, Classic: stored.Classic})
	}
	if len(v.Resend) > 0 {
		e.apply(cluster.PacketsLost{})
	}
}

// peerSpeaks notes which key the peer uses and whether it is a 3.0.6.
func (e *Engine) peerSpeaks(m *message.Message, key int) {
	old := e.peerOld
	if m.Type() == "status" {
		old = m.Get("x") != "1"
	}
	if key == e.peerKey && old == e.peerOld {
		return
	}
	e.peerKey, e.peerOld = key, old
	e.chooseKey()
}

// pingReply is what a ping node sent back of our own message.
func (e *Engine) pingReply(in Packet, m *message.Message) {
	if src := m.Get("src"); src == in.Link && m.Get("st") == "ping" {
		e.apply(cluster.PingReply{From: src, At: in.At})
	}
}

// refused logs why a packet was not accepted. The computed digest is not
// shown: it would be a valid signature of what a stranger wrote.
func (e *Engine) refused(link string, err error) {
	var bad *message.Error
	if !e.cfg.LogBadPacket || !errors.As(err, &bad) || bad.Reason == message.ReasonUnknownFormat {
		return
	}
	classic := err.Error()
	switch {
	case bad.Reason == message.ReasonBadDigest && bad.Info.Format == message.FormatClassic:
		from := "?"
		if m := bad.Claimed(); m != nil {
			from = m.Get("src")
		}
		classic = fmt.Sprintf("string2msg_ll: node [%s] failed authentication", from)
	case bad.Reason == message.ReasonBadDigest:
		classic = fmt.Sprintf("netstring authentication failed: authtoken does not match, authtoken=%s", bad.Received())
	case bad.Reason == message.ReasonNoAuth:
		classic = "peel_netstring() error in getting auth string"
	}
	e.log(cluster.Error, classic, "packet refused", "link", link, "reason", bad.Reason.String(), "err", err.Error())
}

// apply steps the machine and carries its actions out.
func (e *Engine) apply(ev cluster.Event) {
	for _, a := range e.machine.Step(e.now, ev) {
		switch a := a.(type) {
		case cluster.Send:
			e.transmit(a.Msg)
		case cluster.SendPing:
			e.ping()
		case cluster.NodeState:
			e.session.SetState(a.Node, a.State)
		case cluster.KeepGeneration:
			e.out = append(e.out, Persist{Name: GenerationFile, Data: fmt.Appendf(nil, "%15d\n", a.Generation)})
		case cluster.Run:
			e.out = append(e.out, Run(a))
		case cluster.Report:
			e.logAs(a.Entity, a.Level, a.Classic, a.Msg, a.Attrs...)
		case cluster.Record:
			e.out = append(e.out, History(a))
		case cluster.Reply:
			e.out = append(e.out, Reply(a))
		case cluster.Reboot:
			e.out = append(e.out, Reboot(a))
		case cluster.Exit:
			e.out = append(e.out, Exit(a))
		}
	}
}

// transmit numbers, signs and stores a message and orders its transmission. Our
// own acknowledgement of it goes first, as the original's does.
func (e *Engine) transmit(msg cluster.Message) {
	m := protocol.Encode(&e.outgoing, msg, e.session.FlowControl())
	seq := e.session.Stamp(m, e.read.Unix, e.read.Load)
	t := e.encode(m)
	if _, t.Keepalive = msg.(cluster.Status); t.Keepalive && e.weSay.note(t.Netstring) {
		e.routine = nil
	}
	ackDue, notices := e.session.Sent(seq, t.Netstring, t.Classic)
	e.notices(notices)
	if ackDue {
		e.transmitControl(e.session.Ack(e.cfg.Self, seq))
	}
	e.out = append(e.out, t)
}

// transmitControl sends a message of the session itself: not numbered, not kept.
func (e *Engine) transmitControl(m *message.Message) {
	e.session.Stamp(m, e.read.Unix, e.read.Load)
	e.out = append(e.out, e.encode(m))
}

func (e *Engine) encode(m *message.Message) Transmit {
	t := Transmit{Netstring: e.spell(m)}
	e.sent = t.Netstring
	if e.serial {
		e.wire = message.AppendClassic(e.wire[:0], m, e.ring)
		t.Classic = slices.Clone(e.wire)
	}
	return t
}

// spell returns the packet that UDP media carry.
func (e *Engine) spell(m *message.Message) []byte {
	if e.codec != nil {
		return e.codec.Encode(m)
	}
	e.wire = message.AppendNetstring(e.wire[:0], m, e.ring, e.cfg.InnerAuth)
	return slices.Clone(e.wire)
}

// ping sends each ping node the message that it is to send back.
func (e *Engine) ping() {
	for _, p := range e.cfg.PingNodes {
		info := "ping"
		if p.Group {
			info = "ping_group"
		}
		m := message.New("NS_st").Add("st", "ping").Add("info", info).Add("src", p.Name).Add("ts", fmt.Sprintf("%x", e.read.Unix))
		e.out = append(e.out, Transmit{Link: p.Name, Netstring: e.spell(m)})
	}
}

func (e *Engine) notices(list []transport.Notice) {
	for _, n := range list {
		e.log(levels[n.Level], n.Classic, n.Msg, n.Attrs...)
	}
}

var levels = map[string]cluster.Level{"info": cluster.Info, "WARN": cluster.Warn, "ERROR": cluster.Error, "CRIT": cluster.Crit}

func (e *Engine) log(level cluster.Level, classic, msg string, attrs ...any) {
	e.logAs("", level, classic, msg, attrs...)
}

func (e *Engine) logAs(entity string, level cluster.Level, classic, msg string, attrs ...any) {
	l := Log{Level: level, Classic: classic, Msg: msg, Entity: entity}
	for i := 0; i+1 < len(attrs); i += 2 {
		name, _ := attrs[i].(string)
		l.Attrs = append(l.Attrs, Attr{name, attrs[i+1]})
	}
	e.out = append(e.out, l)
}
