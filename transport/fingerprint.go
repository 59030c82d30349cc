package transport

import (
	"encoding/json"
	"slices"
)

// Position is how far a node's own numbering has come.
type Position struct{ Generation, Seq uint64 }

// behindMax is how many numbers behind are told apart.
const behindMax = 16

// Position of this session.
func (s *Session) Position() Position { return Position{s.cfg.Generation, s.st.Seq} }

// Fingerprint describes the state so that two sessions with equal fingerprints
// treat what comes alike: numbers are relative to where their senders are (the
// zero Position for one that does not run). Left out is what decides only when
// something is acknowledged or asked for again, and what is kept for that.
func (s *Session) Fingerprint(at map[string]Position) (json.RawMessage, error) {
	type of struct {
		State       string
		UUID, Known bool
		Current     bool   // its generation is the sender's
		Behind      uint64 // numbers it has used and we have not seen
		Missing     []uint64
		Ever        bool
	}
	f := struct {
		NoFlow bool
		Peers  []of
	}{NoFlow: s.st.NoFlow}
	for i := range s.st.Peers {
		p := &s.st.Peers[i]
		if p.Name == s.cfg.Self {
			continue
		}
		pos := at[p.Name]
		o := of{State: p.State, UUID: p.HasUUID, Known: p.Known, Current: p.Generation == pos.Generation, Ever: p.Generation > 0}
		if o.Known && o.Current {
			o.Behind = min(pos.Seq-p.Last, behindMax)
		}
		for _, x := range p.Missing {
			o.Missing = append(o.Missing, min(pos.Seq-x.Seq, behindMax))
		}
		slices.Sort(o.Missing)
		o.Missing = slices.Compact(o.Missing) // of those long ago it matters that there are some
		f.Peers = append(f.Peers, o)
	}
	return json.Marshal(f)
}
