package cluster

import (
	"fmt"
	"time"
)

// Conflict says what is done about addresses that are answered for on the service
// network although their node is silent on all media.
type Conflict uint8

const (
	// ConflictOff: nobody asks.
	ConflictOff Conflict = iota
	// ConflictWarn: it is said, and the node's groups are taken all the same.
	ConflictWarn
	// ConflictRefuse: nothing is taken from the node until somebody can be asked and
	// nobody answers any more.
	ConflictRefuse
)

func (c Conflict) String() string {
	return [...]string{"off", "warn", "refuse"}[c]
}

// ParseConflict reads the words of heartbeat.toml.
func ParseConflict(word string) (Conflict, bool) {
	switch word {
	case "off":
		return ConflictOff, true
	case "warn":
		return ConflictWarn, true
	case "refuse":
		return ConflictRefuse, true
	}
	return ConflictOff, false
}

const (
	// probePause separates two questions while a node is late, and probeRefused
	// those while its takeover is refused.
	probePause   = time.Second
	probeRefused = 5 * time.Second
	// probeLead is how long before a node's death the last question begins: its
	// answer is there in time, and as new as it can be. Of a short patience it is
	// half at most, which keepalives never let pass.
	probeLead = 400 * time.Millisecond
)

// probing is what the service network is asked while a node is silent: whether
// somebody answers for the addresses that would be taken from it. One that does is
// the node itself, as a rule: it lives, and only the heartbeat media are down.
type probing struct {
	// Asked is when the last question began, zero for never; Job is set while it
	// is under way.
	Asked Instant
	Job   uint64
	// Known: it was answered. Answer says who answers for what; empty for nobody.
	// With refuse it is also why nobody could be asked at all.
	Known  bool
	Answer string
	// Again is when to ask next, once the node is dead.
	Again timer
	// Refused: the node is dead, and its groups are not taken. HeardSince and
	// Reason are what to take them with when that is over.
	Refused    bool
	HeardSince bool
	Reason     string
}

// probeTimer is when the next question about a node is due.
func (m *Machine) probeTimer(n *node) timer {
	p := &n.Probe
	switch {
	case n.Ping || p.Job != 0 || n.Parted:
		return timer{}
	case n.State == "dead":
		return p.Again // set while its takeover is refused, whatever the configuration says by now
	case m.cfg.Conflict == ConflictOff:
		return timer{}
	}
	last := m.deathAt(n).Add(-min(probeLead, m.patience(n)/2))
	switch {
	case p.Asked >= last && p.Asked != 0:
		return timer{}
	case p.Asked != 0:
		return timer{On: true, At: min(p.Asked.Add(probePause), last)}
	case !n.Heard:
		return timer{On: true, At: last}
	}
	return timer{On: true, At: max(min(n.HeardAt.Add(m.cfg.Warntime+n.Credit), last), n.HeardAt)}
}

// probe asks the service network about the groups that do not run here.
func (m *Machine) probe(n *node) {
	p := &n.Probe
	p.Again.stop()
	if p.Refused && m.cfg.Conflict != ConflictRefuse && m.st.Shutdown == shutdownNo {
		m.takeRefused(n, p.Reason+`, and address_conflict is not "refuse" any more`)
		return
	}
	p.Asked = m.now
	var keys []string
	for i, g := range m.cfg.Groups {
		if s := m.st.Groups[i].State; s == "" || s == "stopped" {
			keys = append(keys, g.Key)
		}
	}
	if len(keys) == 0 {
		p.Known, p.Answer = true, ""
		return
	}
	m.run(job{Why: whyProbe, Kind: JobProbe, Node: n.Name, Keys: keys}, n.Name+" is silent")
	p.Job = m.st.NextJob
}

// probed is the service network's answer.
func (m *Machine) probed(j job, ev JobDone) {
	n := m.node(j.Node)
	if n == nil || n.Probe.Job != j.ID {
		return // it was heard meanwhile
	}
	p := &n.Probe
	before := *p
	p.Job, p.Known, p.Answer = 0, true, ""
	trouble := ev.Err
	for _, r := range ev.Groups {
		switch {
		case r.Running && p.Answer == "":
			p.Answer = r.Err
		case !r.Running && r.Err != "" && trouble == "":
			trouble = r.Err
		}
	}
	if ev.Err != "" && p.Answer == "" && m.cfg.Conflict == ConflictRefuse {
		// This node may be the one that is cut off: it cannot be sure.
		p.Answer = "the service network cannot be asked: " + ev.Err
	}
	if trouble != "" && !before.Known {
		m.warn("The service network cannot be asked whether somebody has the addresses: "+trouble, "cannot ask the service network", "node", n.Name, "err", trouble)
	}
	if n.State != "dead" || !p.Refused || m.st.Shutdown != shutdownNo {
		return
	}
	if p.Answer == "" {
		m.info(fmt.Sprintf("Nobody answers for the addresses of node %s any more", n.Name), "nobody answers any more", "node", n.Name)
		m.takeRefused(n, p.Reason+", and nobody answers for its addresses")
		return
	}
	p.Again.set(m.now.Add(probeRefused), "asking again who answers for the addresses of "+n.Name)
	if p.Answer != before.Answer {
		m.sayRefused(n)
	}
}

// mayTake decides whether the groups of a node that has just died may be taken. If
// not, it sees to it that they are when that becomes right.
func (m *Machine) mayTake(n *node, heardSince bool, reason string) bool {
	p := &n.Probe
	switch {
	case m.cfg.Conflict == ConflictOff || p.Known && p.Answer == "":
		return true
	case m.cfg.Conflict == ConflictWarn:
		if p.Answer != "" {
			m.warn(fmt.Sprintf("Node %s is silent on all media, but %s: are only the media down? Its resources are taken all the same", n.Name, p.Answer), "a dead node's address is answered for", "node", n.Name, "answer", p.Answer)
			m.record("node", "takes over from "+n.Name+" although it may be alive", p.Answer)
		}
		return true
	}
	p.Refused, p.HeardSince, p.Reason = true, heardSince, reason
	if p.Answer != "" {
		m.sayRefused(n)
	}
	if p.Job == 0 {
		m.probe(n) // what was true a moment ago may not be any more
	}
	if p.Job == 0 && p.Known { // there was nothing to ask
		p.Refused = false
		return true
	}
	return false
}

// takeRefused takes the groups of a dead node that were not taken at its death.
func (m *Machine) takeRefused(n *node, reason string) {
	p := &n.Probe
	p.Refused = false
	p.Again.stop()
	m.takeDead(n, p.HeardSince, reason)
}

func (m *Machine) sayRefused(n *node) {
	m.warn(fmt.Sprintf("Node %s is silent on all media, but %s: nothing is taken from it", n.Name, n.Probe.Answer), "takeover refused: a dead node's address is answered for", "node", n.Name, "answer", n.Probe.Answer)
	m.record("owner", "takes nothing from "+n.Name, n.Probe.Answer)
}

// unprobe forgets the answers about a node that is heard again.
func (m *Machine) unprobe(n *node) {
	if n.Probe == (probing{}) {
		return
	}
	if n.Probe.Refused {
		m.info(fmt.Sprintf("Node %s is heard again: nothing was taken from it", n.Name), "refused takeover is over", "node", n.Name)
		m.record("node", "nothing was taken from "+n.Name, "it is heard again")
	}
	n.Probe = probing{}
}

// refusing is the dead node from which nothing is taken, or nil.
func (m *Machine) refusing() (found *node) {
	m.peers(func(n *node) {
		if n.Probe.Refused && n.State == "dead" {
			found = n
		}
	})
	return found
}

// conflictWarning is the standing condition for the status; empty for none.
func (n *node) conflictWarning() string {
	switch {
	case n.State != "dead" || n.Probe.Answer == "" && !n.Probe.Refused:
		return ""
	case n.Probe.Refused && n.Probe.Answer == "":
		return fmt.Sprintf("nothing is taken from %s before it is known whether somebody answers for its addresses", n.Name)
	case n.Probe.Refused:
		return fmt.Sprintf("nothing is taken from %s: it is silent on all media, but %s; asked again every %v. Once you have seen to it that %[1]s is down, type hbctl fence-ack %[1]s", n.Name, n.Probe.Answer, probeRefused)
	}
	return fmt.Sprintf("taken from %s although it may be alive: when it fell silent on all media, %s", n.Name, n.Probe.Answer)
}
