package interop

import (
	"context"
	"fmt"

	"heartbeat/integration/lab"
)

// Pair says which nodes run this project's program; the others run heartbeat
// 3.0.6.
type Pair struct {
	Name       string
	Ours1      bool // on n1
	Ours2      bool // on n2
	shortLabel string
}

// The four pairs, in the order of the table's columns.
var (
	Old       = Pair{Name: "3.0.6 on both", shortLabel: "old"}
	MixedN1   = Pair{Name: "ours on n1", Ours1: true, shortLabel: "ours-n1"}
	MixedN2   = Pair{Name: "ours on n2", Ours2: true, shortLabel: "ours-n2"}
	New       = Pair{Name: "ours on both", Ours1: true, Ours2: true, shortLabel: "new"}
	AllPairs  = []Pair{Old, MixedN1, MixedN2, New}
	BothMixed = []Pair{MixedN1, MixedN2}
)

func (p Pair) mixed() bool { return p.Ours1 != p.Ours2 }

// Programs are the two programs.
type Programs struct{ Original, Ours *lab.Heartbeat }

// Build compiles ours into dir and finds the original on this machine.
func Build(ctx context.Context, dir string) (Programs, error) {
	p := Programs{Original: lab.Original(), Ours: lab.Ours(dir)}
	if err := lab.Build(ctx, dir); err != nil {
		return p, err
	}
	for _, d := range []lab.Driver{p.Original, p.Ours} {
		if err := d.Check(); err != nil {
			return p, fmt.Errorf("interop: %w", err)
		}
	}
	return p, nil
}
