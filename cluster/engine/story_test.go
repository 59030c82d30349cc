package engine

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"heartbeat/cluster"
	"heartbeat/transport/memory"
	"heartbeat/transport/message"
)

// TestStories runs the transcripts in testdata/stories: two nodes on two
// networks, scripts that take ten milliseconds, and what both sent and did, in
// virtual time. Keepalives and acknowledgements are left out. -rewrite
// regenerates them; read the difference before you keep it.
func TestStories(t *testing.T) {
	files, err := filepath.Glob("testdata/stories/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no stories")
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			s := &story{t: t}
			datadriven.RunTest(t, file, s.command)
		})
	}
}

type story struct {
	t     *testing.T
	now   time.Duration
	net   *memory.Network
	nodes []*actor
	ring  *message.Keyring
	cfg   Config
	out   strings.Builder
	held  []held // packets kept back by "keep", for "replay"
	keep  bool
}

type held struct {
	from, link string
	data       []byte
}

// actor is one node of a story: an engine, and what really runs there.
type actor struct {
	name    string
	engine  *Engine
	born    time.Duration
	gen     uint64
	running map[string]bool
	jobs    []pending
	broken  map[string]bool // groups whose start fails
	stuck   map[string]bool // groups whose stop fails
	unarmed bool            // its fencing device fails
	asleep  bool
	mail    []memory.Delivery
	old     bool
	again   time.Duration   // when to start again, 0: never
	deaf    map[string]bool // ping nodes that do not answer it
	lost    string          // what it says and nobody hears
	files   string          // fingerprint of its files
	pongs   []pong
	// slept is when its machine was suspended, plus one; suspended for how long
	// it was in all.
	slept, suspended time.Duration
	said             string // the last log line
}

// pong is the answer of a ping node on its way.
type pong struct {
	at   time.Duration
	link string
	data []byte
}

type pending struct {
	at  time.Duration
	job cluster.Job
}

const scriptTime = 10 * time.Millisecond

func (s *story) command(t *testing.T, d *datadriven.TestData) string {
	s.t = t
	s.out.Reset()
	arg := func(i int) string {
		if i < len(d.CmdArgs) {
			return d.CmdArgs[i].Key
		}
		return ""
	}
	switch d.Cmd {
	case "pair":
		s.pair(d)
	case "start":
		for _, a := range d.CmdArgs {
			s.boot(s.node(a.Key))
		}
	case "run":
		span, err := time.ParseDuration(arg(0))
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		s.run(s.now + span)
	case "cut", "heal":
		s.cut(d.Cmd == "cut", arg(0), arg(1))
	case "ping-cut", "ping-heal":
		s.node(arg(0)).deaf[arg(1)] = d.Cmd == "ping-cut"
	case "kill":
		s.node(arg(0)).engine = nil
	case "powerloss":
		s.powerLoss(s.node(arg(0)))
	case "freeze":
		s.node(arg(0)).asleep = true
	case "thaw":
		s.thaw(s.node(arg(0)))
	case "suspend": // the machine, with its monotonic clock
		s.node(arg(0)).slept = s.now + 1
		s.node(arg(0)).asleep = true
	case "resume":
		n := s.node(arg(0))
		for slept := s.now + 1 - n.slept; n.slept > 0; n.slept = 0 {
			n.born, n.suspended = n.born+slept, n.suspended+slept
			for i := range n.jobs {
				n.jobs[i].at += slept
			}
		}
		n.asleep, n.mail = false, nil
	case "generation": // what a backup of the state directory brings back
		gen, err := strconv.ParseUint(arg(1), 10, 64)
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		s.node(arg(0)).gen = gen
	case "break-start":
		s.node(arg(0)).broken[arg(1)] = true
	case "break-stop":
		s.node(arg(0)).stuck[arg(1)] = true
	case "break-fence":
		s.node(arg(0)).unarmed = true
	case "mend":
		n := s.node(arg(0))
		n.unarmed = false
		n.broken, n.stuck = map[string]bool{}, map[string]bool{}
	case "standby", "takeover", "stop", "fence-ack":
		s.order(s.node(arg(0)), d.Cmd, arg(1))
	case "reload": // with another [guard] address_conflict
		s.conflict(arg(1))
		s.restart(s.node(arg(0)))
	case "post":
		s.post(s.node(arg(0)), d.Input)
	case "replay":
		s.replayHeld(s.node(arg(0)))
	case "keep":
		s.keep = true
	case "lose": // from here on the packets of a node that say this
		s.node(arg(0)).lost = strings.TrimSpace(d.Input)
	case "state":
		s.state()
	case "warnings":
		for _, n := range s.nodes {
			if n.engine == nil {
				continue
			}
			for _, w := range n.engine.View().Warnings {
				s.say(n, "%s", w)
			}
		}
	default:
		d.Fatalf(t, "unknown command %s", d.Cmd)
	}
	if s.out.Len() == 0 {
		return "(nothing)\n"
	}
	return s.out.String()
}

func (s *story) pair(d *datadriven.TestData) {
	s.cfg = Config{
		Nodes: []string{"node1", "node2"}, HopFudge: 1, MaxRexmitDelay: 250 * time.Millisecond,
		Keepalive: 500 * time.Millisecond, Deadtime: 4 * time.Second, Warntime: 2 * time.Second, Initdead: 8 * time.Second, Deadping: 4 * time.Second,
		Failback: cluster.FailbackOn, InnerAuth: true, LogBadPacket: true,
		Links: []Link{{Name: "eth0"}, {Name: "eth1"}},
		Groups: []cluster.Group{
			{Key: "ip1", Node: "node1", Resources: []string{"ip1"}},
			{Key: "ip2", Node: "node2", Resources: []string{"ip2"}},
		},
		Keys: Keys{Outbound: 1, Keys: []Key{{Index: 1, Method: "sha1", Secret: "secret"}}},
	}
	old, differ := "", false
	for _, a := range d.CmdArgs {
		switch a.Key {
		case "auto_failback":
			s.cfg.Failback = map[string]cluster.Failback{"on": cluster.FailbackOn, "off": cluster.FailbackOff, "legacy": cluster.FailbackLegacy}[a.Vals[0]]
		case "old":
			old = a.Vals[0]
		case "stonith":
			s.cfg.Stonith = true
		case "fence-delay":
			delay, err := time.ParseDuration(a.Vals[0])
			if err != nil {
				d.Fatalf(s.t, "%v", err)
			}
			s.cfg.Stonith, s.cfg.FenceDelay = true, delay
		case "fence-wait":
			s.cfg.FenceWait = true
		case "stop-reboot":
			s.cfg.StopReboot = true
		case "storage":
			s.cfg.Groups[0].Resources = append(s.cfg.Groups[0].Resources, "Filesystem::/dev/drbd0::/data::ext4")
		case "ping":
			for _, name := range a.Vals {
				s.cfg.PingNodes = append(s.cfg.PingNodes, PingNode{Name: name})
			}
		case "scripts":
			s.cfg.Scripts = a.Vals
		case "conflict":
			s.conflict(a.Vals[0])
		case "ipfail":
			s.cfg.IPFail = true
		case "differ": // the two nodes' files
			differ = true
		case "careless": // one medium, and a key that anybody has
			s.cfg.Links = s.cfg.Links[:1]
			s.cfg.Keys.Keys = append(s.cfg.Keys.Keys, Key{Index: 3, Method: "crc"})
		}
	}
	s.net = memory.New(1)
	for _, l := range s.cfg.Links {
		s.net.Attach(l.Name, true, s.cfg.Nodes...)
	}
	s.net.SetFaults("", "", "", memory.Faults{Delay: time.Millisecond})
	for _, name := range s.cfg.Nodes {
		s.nodes = append(s.nodes, &actor{name: name, gen: 100, running: map[string]bool{}, broken: map[string]bool{}, stuck: map[string]bool{}, deaf: map[string]bool{}, old: old == name || old == "both"})
	}
	for i, n := range s.nodes {
		if n.files = "same"; differ {
			n.files = fmt.Sprint("files", i)
		}
	}
	fmt.Fprintln(&s.out, "ok")
}

func (s *story) node(name string) *actor {
	for _, n := range s.nodes {
		if n.name == name {
			return n
		}
	}
	s.t.Fatalf("no node named %q", name)
	return nil
}

func (s *story) boot(n *actor) {
	cfg := s.cfg
	cfg.Self = n.name
	n.gen++
	b := Boot{Config: cfg, Generation: n.gen, Seed: 1, Digest: n.files, PID: 1}
	copy(b.UUID[:], n.name+"............")
	for _, g := range cfg.Groups {
		if n.running[g.Key] && !n.old { // 3.0.6 does not look

			if g.Node == n.name {
				b.Held |= cluster.Local
			} else {
				b.Held |= cluster.Foreign
			}
		}
	}
	e, err := New(b)
	if err != nil {
		s.t.Fatal(err)
	}
	n.engine, n.born, n.jobs, n.mail, n.pongs, n.again = e, s.now, nil, nil, nil, 0
	s.ring = e.ring
	s.say(n, "starts")
}

func (s *story) conflict(word string) {
	var ok bool
	if s.cfg.Conflict, ok = cluster.ParseConflict(word); !ok {
		s.t.Fatalf("address_conflict %q", word)
	}
}

// restart replaces a node's process in place: its configuration is read again.
func (s *story) restart(n *actor) {
	data, err := n.engine.Snapshot()
	if err != nil {
		s.t.Fatal(err)
	}
	b := Boot{Config: s.cfg, Generation: n.gen, Seed: 1, Digest: n.files, PID: 1}
	b.Config.Self = n.name
	copy(b.UUID[:], n.name+"............")
	if n.engine, err = Restore(b, data); err != nil {
		s.t.Fatal(err)
	}
}

// powerLoss ends a machine and everything on it.
func (s *story) powerLoss(n *actor) {
	n.engine, n.running, n.again = nil, map[string]bool{}, 0
}

func (s *story) cut(cut bool, from, link string) {
	if link == "all" || link == "" {
		link = ""
	}
	f := s.net.Heal
	if cut {
		f = s.net.Cut
	}
	switch from {
	case "all":
		f("node1", "node2", link)
		f("node2", "node1", link)
	case "node1":
		f("node1", "node2", link)
	case "node2":
		f("node2", "node1", link)
	}
}

func (s *story) order(n *actor, verb, set string) {
	c := Command{ID: 7, Verb: map[string]Verb{"standby": Standby, "takeover": Takeover, "stop": Shutdown, "fence-ack": ConfirmDown}[verb], From: "operator"}
	c.Set, _ = cluster.ParseSet(set)
	c.Node = set
	s.step(n, c)
}

func (s *story) post(n *actor, text string) {
	var f FIFOMessage
	for _, line := range strings.Split(strings.TrimSpace(text), "\n") {
		name, value, _ := strings.Cut(line, "=")
		f.Fields = append(f.Fields, [2]string{name, value})
	}
	s.step(n, f)
}

func (s *story) replayHeld(n *actor) {
	for _, h := range s.held {
		if h.from != n.name {
			s.step(n, Packet{Link: h.link, Data: h.data, At: s.instant(n)})
		}
	}
}

func (s *story) instant(n *actor) cluster.Instant { return cluster.Instant(s.now - n.born) }

// thaw lets a stopped process run again: what arrived meanwhile waits in its
// sockets, with its time of arrival.
func (s *story) thaw(n *actor) {
	n.asleep = false
	mail := n.mail
	n.mail = nil
	for _, d := range mail {
		s.step(n, Packet{Link: d.Link, Data: d.Packet, At: cluster.Instant(d.At - n.born)})
	}
}

// run lets everything happen that is due until then.
func (s *story) run(until time.Duration) {
	for {
		at, do := until+1, func() {}
		earlier := func(t time.Duration, f func()) {
			if t < at {
				at, do = t, f
			}
		}
		if t, ok := s.net.Deadline(); ok {
			earlier(t, s.deliver)
		}
		for _, n := range s.nodes {
			if n.again > 0 {
				earlier(n.again, func() { s.boot(n) })
			}
			if n.engine == nil || n.asleep {
				continue
			}
			if len(n.pongs) > 0 {
				earlier(n.pongs[0].at, func() { s.answer(n) })
			}
			for i, p := range n.jobs {
				earlier(p.at, func() { s.jobEnds(n, i) })
			}
			if t, ok := n.engine.Deadline(); ok {
				earlier(max(n.born+time.Duration(t), s.now), func() { s.step(n, Wake{}) })
			}
		}
		if at > until {
			s.now = until
			return
		}
		s.now = max(s.now, at)
		do()
	}
}

func (s *story) deliver() {
	d, _ := s.net.Next()
	n := s.node(d.To)
	switch {
	case n.engine == nil:
	case n.asleep:
		n.mail = append(n.mail, d)
	default:
		s.step(n, Packet{Link: d.Link, Data: d.Packet, At: s.instant(n)})
	}
}

func (s *story) answer(n *actor) {
	p := n.pongs[0]
	n.pongs = n.pongs[1:]
	s.step(n, Packet{Link: p.link, Data: p.data, At: s.instant(n)})
}

func (s *story) jobEnds(n *actor, i int) {
	j := n.jobs[i].job
	n.jobs = slices.Delete(n.jobs, i, i+1)
	done := JobDone{ID: j.ID}
	for _, key := range j.Keys {
		r := cluster.GroupResult{Key: key}
		switch j.Kind {
		case cluster.JobTake:
			if n.broken[key] {
				r.Err = "start " + key + ": exit status 1"
			} else {
				n.running[key] = true
			}
		case cluster.JobGive:
			if n.stuck[key] && n.running[key] {
				r.Err = "stop " + key + ": exit status 1"
			} else {
				n.running[key] = false
			}
		}
		r.Running = n.running[key]
		if j.Kind == cluster.JobProbe {
			r.Running, r.Err = s.answered(n, key)
		}
		done.Groups = append(done.Groups, r)
	}
	if j.Kind == cluster.JobFence {
		if n.unarmed {
			done.Err = "reset " + j.Node + ": the device does not answer"
		} else {
			s.say(s.node(j.Node), "is off")
			s.powerLoss(s.node(j.Node))
		}
	}
	if j.Kind == cluster.JobGive || j.Kind == cluster.JobTake {
		s.say(n, "runs %v", s.runs(n))
	}
	s.step(n, done)
}

// answered is the service network's word: no cut reaches it, and a process that is
// gone or asleep leaves its machine's addresses up.
func (s *story) answered(asks *actor, key string) (bool, string) {
	for _, n := range s.nodes {
		if n != asks && n.running[key] {
			return true, key + " is answered for by " + n.name
		}
	}
	return false, ""
}

func (s *story) runs(n *actor) (keys []string) {
	for _, g := range s.cfg.Groups {
		if n.running[g.Key] {
			keys = append(keys, g.Key)
		}
	}
	return keys
}

func (s *story) say(n *actor, format string, args ...any) {
	fmt.Fprintf(&s.out, "%8.3f %s %s\n", s.now.Seconds(), n.name, fmt.Sprintf(format, args...))
}

func (s *story) step(n *actor, in Input) {
	if n.engine == nil {
		s.say(n, "is not running")
		return
	}
	for _, out := range n.engine.Step(s.instant(n), Readings{Unix: int64(s.now / time.Second), Asleep: n.suspended, Load: "0 0 0 1/1 1"}, in) {
		switch out := out.(type) {
		case Transmit:
			s.transmit(n, out)
		case Run:
			switch out.Job.Kind {
			case cluster.JobScript:
				s.say(n, "runs script %s for %v", out.Job.Title, out.Job.Message)
			case cluster.JobFence:
				s.say(n, "resets %s: %s", out.Job.Node, out.Job.Reason)
			default:
				s.say(n, "%v %v: %s", out.Job.Kind, out.Job.Keys, out.Job.Reason)
			}
			n.jobs = append(n.jobs, pending{s.now + scriptTime, out.Job})
		case Log:
			// Of lines that every packet causes the first tells it all.
			if out.Level >= cluster.Warn && out.Classic != n.said {
				n.said = out.Classic
				s.say(n, "%v: %s", out.Level, out.Classic)
			}
		case Persist:
			s.say(n, "stores %s %s", out.Name, strings.TrimSpace(string(out.Data)))
			if _, err := fmt.Sscan(string(out.Data), &n.gen); err != nil {
				s.t.Fatal(err)
			}
		case Reply:
			text := out.Text
			if out.Err != "" {
				text = "refused: " + out.Err
			}
			s.say(n, "to the operator: %s", text)
		case Reboot:
			s.say(n, "restarts its machine: %s", out.Reason)
			s.powerLoss(n)
			return
		case Exit:
			s.say(n, "ends: %s", out.Reason)
			n.engine = nil
			if out.Restart {
				n.again = s.now + out.Pause + 1
			}
			return
		}
	}
}

func (s *story) transmit(n *actor, out Transmit) {
	if out.Link != "" {
		if !n.deaf[out.Link] {
			n.pongs = append(n.pongs, pong{s.now + time.Millisecond, out.Link, out.Netstring})
		}
		return
	}
	m, _, err := message.Decode(out.Netstring, s.ring)
	if err != nil {
		s.t.Fatal(err)
	}
	data := out.Netstring
	if n.old {
		plain := m.Clone()
		plain.Fields = slices.DeleteFunc(plain.Fields, func(f message.Field) bool { return strings.HasPrefix(f.Name, "x") })
		data = message.AppendNetstring(nil, plain, s.ring, true)
	}
	if s.keep {
		s.held = append(s.held, held{n.name, "eth0", data})
	}
	if ours(m) || ofClient(m) || m.Type() == "NS_rexmit" {
		s.say(n, "-> %s", ownText(m))
	}
	if n.lost != "" && strings.Contains(ownText(m), n.lost) {
		return
	}
	for _, l := range s.cfg.Links {
		s.net.Send(s.now, n.name, l.Name, data)
	}
}

func (s *story) state() {
	for _, n := range s.nodes {
		if n.engine == nil {
			s.say(n, "down, runs %v", s.runs(n))
			continue
		}
		v := n.engine.View()
		stable := "in transition"
		if v.Stable {
			stable = "stable"
		}
		s.say(n, "%s, holds %v, %s, runs %v", v.Local, v.Mine, stable, s.runs(n))
	}
}
