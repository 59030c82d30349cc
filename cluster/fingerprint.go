package cluster

import (
	"encoding/binary"
	"fmt"
	"reflect"
	"slices"
	"time"
)

// Fingerprint describes the state as of the time now so that two machines of
// one configuration with equal fingerprints decide alike from then on:
// instants are relative to now, what is only told (reasons, numbers of jobs) is
// left out, and so are times too long ago to matter. A field of the state that
// is not treated here counts as it is: that makes two states differ, never
// agree.
func (m *Machine) Fingerprint(now Instant) []byte {
	f := fingerprint{now, 2*m.cfg.Deadtime + restartExtra}
	st := m.st
	st.LastStep, st.Lateness = 0, 0
	st.LastChange, st.LastChangeAt = Record{}, 0
	st.BeatAt = f.instant(st.BeatAt, f.long)
	for _, t := range []*timer{&st.Beat, &st.Ask, &st.Settle, &st.FailbackTry, &st.StandbyEnd, &st.ShutdownStep, &st.RestartAt, &st.Fencing.Try, &st.Retry, &st.Pending.Timeout, &st.IPFail.GiveUp, &st.Overlap, &st.Repeat.Timer, &st.AskBack} {
		f.timer(t)
	}
	if m.peerNew() || !m.peerAlive() { // with 3.0.6 only, and what was said to it
		st.Repeat.Claimed, st.Repeat.Loss = timer{}, timer{}
	} else {
		f.since(&st.Repeat.Claimed, doubtTime)
		f.since(&st.Repeat.Loss, doubtTime)
	}
	if len(m.cfg.Nodes) <= 2 {
		st.AskNext = 0 // there is one to ask
	}
	st.Acquired = false // so far as it is said
	st.FailbackAsked = st.FailbackAsked && st.Standby == StandbyMe
	st.Repeat.Told = false
	st.IPFail.Reason = ""
	st.Exchange, st.LastExchange = st.LastExchange-st.Exchange, 0
	if st.Fencing.Reason, st.Fencing.Begun = "", 0; st.Fencing.Err != "" {
		st.Fencing.Err = "failed"
	}
	if st.Doubt.On {
		st.Doubt.From, st.Doubt.Woke = f.instant(st.Doubt.From, f.long), f.instant(st.Doubt.Woke, f.long)
	} else {
		st.Doubt = doubt{}
	}
	known := 2 * youngTime // how long our start matters
	for i := range st.Nodes {
		if n := &st.Nodes[i]; !n.Heard && n.State != "dead" && n.Name != m.cfg.Self {
			known += m.patience(n)
		}
	}
	st.StartAt = f.instant(st.StartAt, known)
	stalled := false
	for i := range st.Nodes {
		n := &st.Nodes[i]
		stalled = stalled || n.Name != m.cfg.Self && n.State != "dead" && m.stalledSince(n.HeardAt) > 0
		for j := range n.Links {
			stalled = stalled || n.Name != m.cfg.Self && n.Links[j].Up && m.stalledSince(n.Links[j].HeardAt) > 0
		}
	}
	if stalled {
		st.StallFrom, st.StallTo = f.instant(st.StallFrom, f.long), f.instant(st.StallTo, f.long)
	} else {
		st.StallFrom, st.StallTo = 0, 0
	}
	st.Nodes = slices.Clone(st.Nodes)
	for i := range st.Nodes {
		f.node(m, &st.Nodes[i])
	}
	st.Groups = slices.Clone(st.Groups)
	retries := false
	for i := range st.Groups {
		g := &st.Groups[i]
		if m.busy(m.cfg.Groups[i].Key) {
			g.Job = st.NextJob - g.Job
		} else {
			g.Job = 0
		}
		g.Since, g.Reason = 0, ""
		switch {
		case g.RetryAt == 0:
		case g.State != "failed" && !g.Wanted:
			g.RetryAt = 0 // nothing is done then
		default:
			g.RetryAt = f.instant(g.RetryAt, f.long)
			retries = true
		}
		if g.State == "" {
			g.State = "stopped"
		}
		if g.Err != "" {
			g.Err = "failed"
		}
	}
	if !retries {
		st.Retry = timer{}
	}
	st.Jobs = append([]job(nil), st.Jobs...)
	for i := range st.Jobs {
		j := &st.Jobs[i]
		j.ID, j.Reason = st.NextJob-j.ID, ""
		if n := m.node(j.Node); n != nil && j.Why == whyFence {
			j.Generation = n.Generation - j.Generation
		}
	}
	if st.Standby == StandbyNot && m.peerNew() {
		st.StandbyFrom = "" // whose the last one was
	}
	st.Queue = append([]queued(nil), st.Queue...)
	for i := range st.Queue {
		st.Queue[i].Reason = ""
	}
	st.NextJob = 0
	st.Pending.ID = 0
	st.ShutdownID = make([]uint64, len(st.ShutdownID))
	return appendState(nil, reflect.ValueOf(st))
}

// appendState writes a value, field after field, and of a struct only what is not
// zero. JSON, which would do, takes several times as long.
func appendState(b []byte, v reflect.Value) []byte {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Field(i); !f.IsZero() && (f.Kind() != reflect.Slice || f.Len() > 0) {
				b = appendState(append(b, byte(i)), f)
			}
		}
		return append(b, structEnd)
	case reflect.Slice, reflect.Array:
		b = binary.AppendUvarint(b, uint64(v.Len()))
		for i := range v.Len() {
			b = appendState(b, v.Index(i))
		}
		return b
	case reflect.Pointer:
		return appendState(b, v.Elem())
	case reflect.String:
		return append(binary.AppendUvarint(b, uint64(v.Len())), v.String()...)
	case reflect.Bool:
		if v.Bool() {
			return append(b, 1)
		}
		return append(b, 0)
	case reflect.Int, reflect.Int64:
		return binary.AppendVarint(b, v.Int())
	case reflect.Uint8, reflect.Uint64:
		return binary.AppendUvarint(b, v.Uint())
	}
	panic(fmt.Sprintf("cluster: a field of type %v is not known to the fingerprint", v.Type()))
}

// structEnd is no number of a field.
const structEnd = 0xff

type fingerprint struct {
	now  Instant
	long time.Duration // a stall longer than this is as good as one that long
}

// far is how far ahead instants are told apart: no pause but the limit of a
// standby is longer.
const far = Instant(retryMax)

// instant is t relative to now; all that is longer ago than most counts alike.
func (f fingerprint) instant(t Instant, most time.Duration) Instant {
	return min(max(t-f.now, -Instant(most)), far)
}

func (f fingerprint) timer(t *timer) {
	if !t.On {
		*t = timer{}
		return
	}
	*t = timer{On: true, At: f.instant(t.At, f.long)}
}

// since is timer for one that tells since when something is so.
func (f fingerprint) since(t *timer, most time.Duration) {
	if !t.On {
		*t = timer{}
		return
	}
	*t = timer{On: true, At: f.instant(t.At, most)}
}

func (f fingerprint) node(m *Machine, n *node) {
	patience := m.patience(n)
	n.Generation, n.StatusSeq, n.AskSeq, n.TopSeq, n.Lateness = 0, 0, 0, 0, 0
	// What they are compared with comes later than both.
	n.ClaimSeq, n.HoldSeq = min(n.ClaimSeq, 1), min(n.HoldSeq, 1)
	if n.Outdated.On {
		n.OutdatedSince = f.instant(n.OutdatedSince, f.long)
	} else {
		n.OutdatedSince = 0
	}
	f.since(&n.Reset, 2*m.cfg.Initdead)
	n.HeardAt = f.instant(n.HeardAt, patience+n.Credit)
	if n.Name == m.cfg.Self {
		n.HeardAt, n.Credit = 0, 0
	}
	n.Probe.Job, n.Probe.Reason = 0, ""
	if n.Probe.Asked != 0 {
		n.Probe.Asked = f.instant(n.Probe.Asked, patience)
	}
	f.timer(&n.Probe.Again)
	for _, t := range []*timer{&n.Deaf, &n.Outdated, &n.Refuses} {
		f.since(t, 4*m.cfg.Keepalive)
	}
	n.Links = slices.Clone(n.Links)
	for i := range n.Links {
		l := &n.Links[i]
		if l.Up {
			l.HeardAt = f.instant(l.HeardAt, patience+max(n.Credit, m.stalledSince(l.HeardAt)))
		} else {
			l.HeardAt = 0
		}
		f.since(&l.Unlike, 2*m.cfg.Warntime)
	}
}
