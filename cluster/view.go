package cluster

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// View is what the machine shows of itself: for the control API, cl_status and
// tests. It shares no memory with the machine.
type View struct {
	Self       string
	Generation uint64
	Local      string // own status word: init, up, active
	CommUp     bool
	Nodes      []NodeView // configuration order, ourselves included, ping nodes last
	Mine       Set
	Theirs     Set
	Phase      string // INIT … SHUTDOWN
	StandbyNow string // "", or what the running standby is doing
	Stable     bool
	Managed    string // auto_failback word
	Groups     []GroupView
	Next       TimerView // what happens next if nothing is heard
	Warnings   []string
	Last       Record // last change of ownership
	LastAt     Instant
}

// NodeView is one node of the cluster.
type NodeView struct {
	Name       string
	Ping       bool
	State      string // init, up, active, dead, ping
	Old        bool   // speaks 3.0.6's protocol only
	Generation uint64
	Deadtime   time.Duration
	HeardAt    Instant // last status; zero when never
	Links      []LinkView
}

// LinkView is one path to a node.
type LinkView struct {
	Name    string
	Up      bool
	HeardAt Instant
	// OneWay: the node says that it does not hear us here, or we do not hear
	// it while it hears us.
	OneWay bool
}

// GroupView is one resource group.
type GroupView struct {
	Key       string
	Preferred string
	// Owner is the node that runs it as far as we know; empty when nobody.
	Owner string
	// State is "running", "starting", "stopping", "stopped", "failed".
	State  string
	Since  Instant
	Reason string
	Err    string
}

// TimerView is a deadline that the machine waits for.
type TimerView struct {
	At   Instant
	What string
}

// Silent reports that this node was stalled for longer than the others'
// patience: it says nothing before everything is released, nor while it still
// looks whether they ran meanwhile.
func (m *Machine) Silent() bool { return m.st.Silent || m.st.Doubt.On }

// View shows the machine's state as of its last step.
func (m *Machine) View() View {
	v := View{
		Self: m.cfg.Self, Local: m.st.Local, CommUp: m.st.CommUp,
		Mine: m.st.Mine, Theirs: m.st.Theirs, Phase: m.st.Phase.String(),
		Stable: m.st.CommUp && m.stable(), Managed: m.cfg.Failback.String(),
		Last: m.st.LastChange, LastAt: m.st.LastChangeAt,
	}
	switch m.st.Standby {
	case StandbyMe:
		v.StandbyNow = fmt.Sprintf("giving up %s resources", m.st.StandbySet)
	case StandbyOther:
		v.StandbyNow = fmt.Sprintf("%s is giving up %s resources", m.st.StandbyFrom, m.st.StandbySet)
	case StandbyDone:
		v.StandbyNow = "the released resources are being taken"
	}
	for i := range m.st.Nodes {
		v.Nodes = append(v.Nodes, m.nodeView(&m.st.Nodes[i]))
	}
	for i, g := range m.cfg.Groups {
		v.Groups = append(v.Groups, m.groupView(g, &m.st.Groups[i]))
	}
	v.Next = m.nextTimer()
	v.Warnings = m.warnings()
	return v
}

// nextTimer is what happens next if nothing is heard. The keepalive is left
// out, and the patience with the others counts only when nothing else is
// waited for: both run all the time.
func (m *Machine) nextTimer() (next TimerView) {
	pick := func(t timer) {
		if t.On && (next.What == "" || t.At < next.At) {
			next = TimerView{t.At, t.What}
		}
	}
	pick(m.st.Settle)
	for _, t := range m.ownTimers() {
		pick(t)
	}
	if next.What != "" {
		return next
	}
	for i := range m.st.Nodes {
		m.nodeTimers(&m.st.Nodes[i], true, pick)
	}
	return next
}

func (m *Machine) nodeView(n *node) NodeView {
	v := NodeView{
		Name: n.Name, Ping: n.Ping, State: n.State, Generation: n.Generation, Deadtime: m.patience(n),
		Old: !n.Ping && n.Heard && !n.New,
	}
	if n.Heard {
		v.HeardAt = n.HeardAt
	}
	for _, l := range n.Links {
		v.Links = append(v.Links, LinkView{l.Name, l.Up, l.HeardAt, l.OneWay})
	}
	return v
}

func (m *Machine) groupView(g Group, s *groupState) GroupView {
	v := GroupView{Key: g.Key, Preferred: g.Node, State: s.State, Since: s.Since, Reason: s.Reason, Err: s.Err}
	set := m.setOf(g)
	switch {
	case s.State == "running" || s.State == "starting" || s.State == "stopping" || s.State == "failed" && (s.Stuck || m.st.Mine.Has(set)):
		v.Owner = m.cfg.Self
	case m.st.Theirs.Has(set.Mirror()):
		m.partners(func(n *node) {
			if n.alive() {
				v.Owner, v.State = n.Name, "running"
			}
		})
	}
	if v.State == "" {
		v.State = "stopped"
	}
	if n := m.refusing(); n != nil && v.Owner == "" {
		v.Reason = "not taken: " + n.Name + " is silent, but may be alive"
		if m.st.Theirs.Has(set.Mirror()) {
			v.Owner, v.State = n.Name, "running"
		}
	}
	return v
}

// unansweredMax is how many requests for the list of nodes may be on their way
// before that is worth a warning.
const unansweredMax = 5

// storageTypes are the resource types that both nodes must never have at once,
// or data is lost.
var storageTypes = []string{"Filesystem", "LVM", "Raid1", "ServeRAID", "drbddisk", "drbdupper"}

// storageGroup is the key of a group that holds storage, "" when none does.
func (m *Machine) storageGroup() string {
	for _, g := range m.cfg.Groups {
		for _, r := range g.Resources {
			if typ, _, _ := strings.Cut(r, "::"); slices.Contains(storageTypes, typ) {
				return g.Key
			}
		}
	}
	return ""
}

// warnings are standing conditions that an administrator should know of.
func (m *Machine) warnings() (w []string) {
	if len(m.cfg.Links) < 2 {
		w = append(w, "only one medium between the nodes: when it fails, each node holds the other for dead; add a second one to ha.cf")
	}
	if key := m.storageGroup(); key != "" && !m.cfg.Stonith {
		w = append(w, fmt.Sprintf("no stonith device: the storage of group %s is not protected against both nodes writing", key))
	}
	w = append(w, m.fenceWarnings()...)
	w = append(w, m.ipfailWarnings()...)
	m.peers(func(n *node) {
		if text := n.conflictWarning(); text != "" {
			w = append(w, text)
		}
		if n.New && n.Digest != m.cfg.Digest && n.Digest != "" {
			w = append(w, fmt.Sprintf("%s has other haresources, timing or keys than this node: compare the files", n.Name))
		}
		if n.State == "dead" && n.OutdatedTold {
			w = append(w, fmt.Sprintf("%s came back with an old generation, or somebody replays its packets: they are refused; a new node mends that itself, on a 3.0.6 node remove hb_generation in its state directory and restart it", n.Name))
		}
		if n.Refuses.On {
			w = append(w, fmt.Sprintf("%s refuses this node's packets as those of an older life", n.Name))
		}
		if n.alive() && m.st.Ask.On && m.st.AskNext > unansweredMax {
			w = append(w, fmt.Sprintf("%s is heard but does not answer: it does not hear us, has other keys, or refuses our packets because hb_generation here is older than before", n.Name))
		}
		if n.Deaf.On {
			w = append(w, fmt.Sprintf("%s holds this node for dead although we hear it: nothing that we send reaches it", n.Name))
		}
		for _, l := range n.Links {
			if l.OneWay {
				w = append(w, fmt.Sprintf("link %s:%s works in one direction only", n.Name, l.Name))
			}
			if n.alive() && !l.Up {
				w = append(w, fmt.Sprintf("link %s:%s is dead", n.Name, l.Name))
			}
		}
	})
	for _, t := range m.st.Troubles {
		w = append(w, fmt.Sprintf("%s cannot send: %s", t.Link, t.Err))
	}
	for i, g := range m.cfg.Groups {
		switch s := &m.st.Groups[i]; {
		case s.State == "failed" && s.Stuck:
			w = append(w, fmt.Sprintf("group %s could not be stopped here: %s", g.Key, s.Err))
		case s.State == "failed":
			w = append(w, fmt.Sprintf("group %s could not be started here: %s", g.Key, s.Err))
		}
	}
	return w
}
