package cluster

import "time"

// What is said more than once.
//
// The session sees to it that a lost packet is sent again, and the machine to it
// that a late one undoes nothing. 3.0.6 has holes in both, and stays in
// transition for good where it falls into one: it forgets at a node's first
// status what it missed of that node before, the answer to its "starting" among
// it; and a claim that comes after a newer one counts. So the answer is repeated
// until the other node goes on, and what we hold is said once more after losses.

// repeat is the state of that.
type repeat struct {
	Timer timer
	// Unanswered: one of the nodes has said "starting", and the other node has
	// not said since what it holds. Told: the log says so.
	Unanswered, Told bool
	// Doubt: a claim of ours may have arrived behind a newer one.
	Doubt bool
	// Claimed is when we last said what we hold, repetitions left out; Loss is
	// when a packet last had to be sent again.
	Claimed, Loss timer
}

const (
	// doubtTime is how far apart a claim and a loss may be for the loss to
	// concern the claim. It also bounds the repetitions.
	doubtTime = 30 * time.Second
	// repeatMin is the shortest pause before something is said again. 3.0.6
	// answers at its next keepalive only.
	repeatMin = 2 * time.Second
)

func (m *Machine) repeatLater() {
	if r := &m.st.Repeat; !r.Timer.On {
		r.Timer.set(m.now.Add(max(repeatMin, 3*m.cfg.Keepalive)), "saying again what was perhaps not heard")
	}
}

// unanswered notes that a "starting" wants an answer.
func (m *Machine) unanswered() {
	r := &m.st.Repeat
	r.Told = r.Told && r.Unanswered
	r.Unanswered = true
	r.Timer.stop()
	m.repeatLater()
}

// answered notes that the other node has said what it holds.
func (m *Machine) answered() {
	r := &m.st.Repeat
	if r.Unanswered = false; !r.Doubt {
		r.Timer.stop()
	}
}

// claimed notes that we have just said what we hold.
func (m *Machine) claimed() {
	m.st.Repeat.Claimed.set(m.now, "")
	m.doubt()
}

// packetsLost notes that a packet had to be sent again, by us or by the other
// node.
func (m *Machine) packetsLost() {
	m.st.Repeat.Loss.set(m.now, "")
	m.doubt()
}

// doubt looks whether a claim and a loss came close to each other.
func (m *Machine) doubt() {
	r := &m.st.Repeat
	if !r.Claimed.On || !r.Loss.On || r.Claimed.At.Sub(r.Loss.At).Abs() >= doubtTime || m.peerNew() {
		return
	}
	r.Doubt = true
	m.repeatLater()
}

// sayAgain is the end of the pause.
func (m *Machine) sayAgain() {
	r := &m.st.Repeat
	r.Timer.stop()
	switch {
	case m.cfg.Failback == FailbackLegacy || m.st.Shutdown != shutdownNo || !m.peerAlive():
		r.Unanswered, r.Doubt = false, false
	case m.st.Phase == PhaseStarting && r.Unanswered && m.peerActive():
		m.tellUnanswered("This node's start got no answer: it is announced again")
		m.send(Starting{})
		r.Loss.set(m.now, "") // 3.0.6 thinks us unstable when the first comes late
		m.repeatLater()
	case m.st.Phase == PhaseStable && m.st.Standby == StandbyNot && !m.giving() && (r.Unanswered || r.Doubt):
		if r.Unanswered {
			m.tellUnanswered("The other node starts, and seems not to have heard what this one holds: it is said again")
		}
		r.Doubt = false
		m.sayHold(true, "", m.peerNew()) // no new claim: else one would follow the other for ever
		if r.Unanswered {
			m.repeatLater()
		}
	case r.Unanswered || r.Doubt:
		m.repeatLater()
	}
}

func (m *Machine) tellUnanswered(text string) {
	if r := &m.st.Repeat; !r.Told {
		r.Told = true
		m.warn(text, "said again: no answer", "phase", m.st.Phase.String())
	}
}
