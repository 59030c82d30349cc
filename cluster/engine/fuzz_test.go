package engine

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"heartbeat/cluster"
	"heartbeat/transport/message"
)

// Bounds that one step must keep whatever comes in: outputs (500 requests for
// missing packets and the log are the most), and steps in a row without time
// passing.
const (
	outputsMax = 1200
	wakesMax   = 4
)

// FuzzEngine lives one life of a node whose peer, media, scripts and operators
// do anything: nothing panics, no step's output is without bound, everything
// sent can be read, and no deadline stays in the past, where the driver would
// spin.
func FuzzEngine(f *testing.F) {
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 1))
		life := make([]byte, 400+r.IntN(3000))
		for i := range life {
			life[i] = byte(r.Uint32())
		}
		f.Add(life)
	}
	f.Fuzz(func(t *testing.T, life []byte) { newFuzzed(t, life).live() })
}

// fuzzed turns bytes into what happens to an engine.
type fuzzed struct {
	t    *testing.T
	data []byte
	boot Boot
	e    *Engine
	ring *message.Keyring
	now  cluster.Instant
	jobs []cluster.Job
	over bool
	// silent: it was stalled, and says nothing more before it exits.
	silent bool
	// gen and seq are those of the peer's newest message.
	gen, seq uint64
}

func newFuzzed(t *testing.T, life []byte) *fuzzed {
	z := &fuzzed{t: t, data: life, gen: 5}
	cfg := Config{
		Self: "node1", Nodes: []string{"node1", "node2"},
		Links:     []Link{{Name: "eth0"}, {Name: "/dev/ttyS0", Serial: true}},
		Keepalive: time.Second, Deadtime: 10 * time.Second, Warntime: 5 * time.Second, Initdead: 20 * time.Second, Deadping: 10 * time.Second,
		MaxRexmitDelay: 250 * time.Millisecond, HopFudge: 1, LogBadPacket: true,
		Failback: pick(z, cluster.FailbackLegacy, cluster.FailbackOn, cluster.FailbackOff),
		Stonith:  z.chance(4), InnerAuth: z.chance(2),
		Groups: []cluster.Group{
			{Key: "web", Node: "node1", Resources: []string{"web"}},
			{Key: "db", Node: "node2", Resources: []string{"db"}},
			{Key: "mail", Node: "node1", Resources: []string{"mail"}},
		},
		Keys: Keys{Outbound: 1, Keys: []Key{{1, "crc", ""}, {2, "sha1", "secret"}}},
	}
	if z.chance(2) {
		cfg.PingNodes = []PingNode{{Name: "gateway"}}
	}
	if z.chance(4) {
		cfg.Nodes = append(cfg.Nodes, "node3")
	}
	z.boot = Boot{Config: cfg, Generation: 7, UUID: [16]byte{1}, Seed: uint64(z.byte()), Digest: "abc", Held: pick(z, cluster.None, cluster.Local, cluster.All)}
	e, err := New(z.boot)
	if err != nil {
		t.Fatal(err)
	}
	z.e, z.ring = e, e.ring
	return z
}

func (z *fuzzed) byte() byte {
	if len(z.data) == 0 {
		return 0
	}
	b := z.data[0]
	z.data = z.data[1:]
	return b
}

// chance is true once in n.
func (z *fuzzed) chance(n byte) bool { return z.byte()%n == 1 }

func pick[T any](z *fuzzed, of ...T) T { return of[int(z.byte())%len(of)] }

func (z *fuzzed) live() {
	for steps := 0; len(z.data) > 0 && !z.over && steps < 3000; steps++ {
		switch z.byte() % 16 {
		case 0, 1, 2, 3, 4:
			z.wake()
		case 5, 6, 7, 8, 9:
			z.pass()
			z.packet()
		case 10, 11:
			z.jobDone()
		case 12:
			z.pass()
			z.step(Command{ID: uint64(z.byte()), Verb: pick(z, Standby, Takeover, Shutdown), Set: cluster.Set(z.byte() % 4), From: "fuzz"})
		case 13:
			z.fifo()
		case 14:
			z.rare()
		case 15:
			z.late()
		}
	}
}

// pass lets time go by, but not beyond the deadline.
func (z *fuzzed) pass() {
	next := z.now.Add(time.Duration(z.byte()) * 5 * time.Millisecond)
	if at, ok := z.e.Deadline(); ok {
		next = min(next, at)
	}
	z.now = max(z.now, next)
}

// wake goes to the deadline, and on while it is not in the future.
func (z *fuzzed) wake() {
	at, ok := z.e.Deadline()
	if !ok {
		z.t.Fatal("the engine waits for nothing, not even its own keepalive")
	}
	z.now = max(z.now, at)
	for range wakesMax {
		z.step(Wake{})
		if at, ok := z.e.Deadline(); z.over || ok && at > z.now {
			return
		}
	}
	z.t.Fatalf("the engine spins at %v: %+v", z.now, z.e.View().Next)
}

// late is a node that did not run for a while; packets may have come meanwhile.
func (z *fuzzed) late() {
	z.now = z.now.Add(time.Duration(z.byte()) * 200 * time.Millisecond)
	if z.chance(2) {
		z.packet()
	}
	z.wake()
}

func (z *fuzzed) packet() {
	at := max(0, z.now-cluster.Instant(time.Duration(z.byte())*20*time.Millisecond))
	p := Packet{Link: pick(z, "eth0", "/dev/ttyS0", "gateway", "eth9"), At: at}
	m := &message.Message{}
	switch z.byte() % 12 {
	case 0:
		n := min(int(z.byte()), len(z.data))
		p.Data, z.data = z.data[:n], z.data[n:]
		z.step(p)
		return
	case 1:
		m.Add("t", "NS_st").Add("st", "ping").Add("info", "ping").Add("src", "gateway").Add("ts", "1")
		p.Link = "gateway"
	case 2, 3:
		m = message.New(pick(z, "NS_ackmsg", "NS_rexmit", "NS_nak_rexmit", "NS_else"))
		m.Add("dest", pick(z, "node1", "node1", "node2")).Add("ackseq", z.number()).Add("firstseq", z.number()).Add("lastseq", z.number())
		z.session(m, false)
	default:
		z.fields(m)
		z.session(m, true)
	}
	p.Data = message.AppendNetstring(nil, m, z.ring, true)
	if z.chance(8) {
		p.Data = message.AppendClassic(nil, m, z.ring)
	}
	z.step(p)
	if z.chance(4) {
		z.step(p)
	}
}

func (z *fuzzed) number() string { return strconv.FormatUint(uint64(z.byte())*4, 10) }

// fields makes a message of any type; a third of them are keepalives.
func (z *fuzzed) fields(m *message.Message) {
	typ := pick(z, "status", "status", "status", "status", "reqnodes", "repnodes", "starting", "resource", "resource", "ask_resources", "ask_resources",
		"hb_takeover", "ip-request", "ip-request-resp", "shutdone", "stonith", "mine")
	m.Add("t", typ)
	set := func() string { return pick(z, "none", "local", "foreign", "all", "") }
	switch typ {
	case "status":
		m.Add("st", pick(z, "active", "active", "active", "up", "init", "dead", "ping", "odd")).Add("dt", pick(z, "2710", "2710", "1", "0", "ffffffffff", ""))
		if !z.chance(16) {
			m.Add("protocol", "1")
		}
		if z.chance(2) {
			m.Add("x", "1").Add("xcfg", pick(z, "abc", "def")).Add("xlinks", pick(z, "", "eth0", "eth0 /dev/ttyS0")).Add("xlate", z.number())
		}
	case "resource":
		m.Add("rsc_hold", set()).Add("rtype", pick(z, "full", "")).Add("isstable", pick(z, "0", "1", "")).Add("info", pick(z, "", "shutdown", "mach_down", "standby"))
		m.Add("xtook", set())
	case "ask_resources":
		m.Add("rsc_hold", set()).Add("info", pick(z, "me", "other", "done", ""))
	case "hb_takeover":
		m.Add("rsc_hold", set())
	case "repnodes":
		m.Add("dest", pick(z, "node1", "node2")).Add("nodelist", pick(z, "node1 node2 ", "node9 ", "")).Add("delnodelist", " ")
	case "reqnodes":
		m.Add("dest", pick(z, "node1", "node2"))
	default:
		m.Add("dest", "node1").Add("ipaddr", pick(z, "web", "db", "none")).Add("weown", pick(z, "yes", "no")).Add("ok", pick(z, "OK", "failed"))
		m.Add("node", "node2").Add("result", "OK")
	}
}

// session adds what a session adds; numbers mostly rise by one.
func (z *fuzzed) session(m *message.Message, numbered bool) {
	m.Add("src", pick(z, "node2", "node2", "node2", "node2", "node2", "node2", "node3", "node1", "node9"))
	m.AddBinary("srcuuid", "\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02"+string(rune(pick(z, 2, 2, 2, 2, 2, 2, 2, 3))))
	switch z.byte() % 16 {
	case 0:
		z.gen++
		z.seq = 1
	case 1:
		z.seq += uint64(z.byte())
	case 2:
		z.seq -= min(z.seq, uint64(z.byte()%8))
	case 3:
	default:
		z.seq++
	}
	if numbered {
		m.Add("seq", strconv.FormatUint(z.seq, 16))
	}
	m.Add("hg", strconv.FormatUint(z.gen-uint64(z.byte()/250), 16)).Add("ts", "6b0117dd")
}

func (z *fuzzed) jobDone() {
	z.pass()
	if len(z.jobs) == 0 {
		z.step(JobDone{ID: uint64(z.byte())})
		return
	}
	i := int(z.byte()) % len(z.jobs)
	j := z.jobs[i]
	z.jobs = append(z.jobs[:i:i], z.jobs[i+1:]...)
	done := JobDone{ID: j.ID, Err: pick(z, "", "", "", "timed out")}
	for _, key := range j.Keys {
		if z.chance(16) {
			continue
		}
		done.Groups = append(done.Groups, cluster.GroupResult{Key: key, Running: z.chance(2), Err: pick(z, "", "", "", "exit code 1")})
	}
	z.step(done)
}

func (z *fuzzed) fifo() {
	z.pass()
	m := &message.Message{}
	z.fields(m)
	if z.chance(8) {
		m.Set("t", pick(z, "NS_rexmit", "", "mine"))
	}
	in := FIFOMessage{}
	for _, f := range m.Fields {
		in.Fields = append(in.Fields, [2]string{f.Name, f.Value})
	}
	z.step(in)
}

func (z *fuzzed) rare() {
	z.pass()
	switch z.byte() % 3 {
	case 0:
		z.step(NewKeys{Keys{Outbound: pick(z, 1, 2, 3), Keys: z.boot.Config.Keys.Keys}})
	case 1:
		z.step(LinkTrouble{Link: pick(z, "eth0", "eth9"), Err: pick(z, "", "no such device")})
	case 2:
		data, err := z.e.Snapshot()
		if err != nil {
			z.t.Fatal(err)
		}
		if z.e, err = Restore(z.boot, data); err != nil {
			z.t.Fatal(err)
		}
	}
}

// step steps the engine and looks at what comes out.
func (z *fuzzed) step(in Input) {
	if z.over {
		return
	}
	out := z.e.Step(z.now, Readings{Unix: 0x6b0117dd, Load: "0.00 0.00 0.00 1/100 1"}, in)
	if len(out) > outputsMax {
		z.t.Fatalf("%d outputs of one %T", len(out), in)
	}
	for _, o := range out { // what shows that it was stalled is not answered either
		log, ok := o.(Log)
		z.silent = z.silent || ok && log.Msg == "stalled: releasing everything"
	}
	for _, o := range out {
		switch o := o.(type) {
		case Transmit:
			m, _, err := message.Decode(o.Netstring, z.ring)
			if err != nil {
				z.t.Fatalf("we sent what cannot be read: %v: %q", err, o.Netstring)
			}
			if z.silent {
				z.t.Fatalf("a stalled node that must release first says %s", m.Type())
			}
			if _, _, err := message.Decode(o.Classic, z.ring); o.Classic != nil && err != nil {
				z.t.Fatalf("we sent what cannot be read: %v: %q", err, o.Classic)
			}
		case Run:
			if o.Job.ID == 0 || o.Job.Kind == 0 {
				z.t.Fatalf("impossible job %+v", o.Job)
			}
			z.jobs = append(z.jobs, o.Job)
		case Exit:
			z.over = true
			if z.silent && slices.ContainsFunc(z.jobs, func(j cluster.Job) bool { return j.Kind == cluster.JobTake || j.Kind == cluster.JobGive }) {
				z.t.Fatalf("a stalled node ends while resources move: %+v", z.jobs)
			}
		}
	}
	z.e.View()
}
