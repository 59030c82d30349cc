// Package resources starts, stops and asks the resources of a group: the
// Resource interface that every type implements, the lookup of a type by the
// name written in haresources, and the ordered start and stop of a whole group
// with its budgets and retries. It knows nothing of the cluster.
package resources

import "context"

// State is what a resource is found to be. The zero value is "unknown", which
// is never treated as stopped.
type State uint8

const (
	Unknown State = iota
	Stopped
	Running
)

func (s State) String() string {
	switch s {
	case Stopped:
		return "stopped"
	case Running:
		return "running"
	}
	return "unknown"
}

// Resource is one entry of a group: an address, a mount, an init script.
//
// All methods are idempotent: Start of a running resource and Stop of a stopped
// one succeed. They return within a second of ctx ending. A nil error from Stop
// means that the other node may start: if in doubt, an error is returned.
type Resource interface {
	// Name is the haresources spelling, e.g. "IPaddr::192.0.2.10/24/eth0".
	Name() string
	Start(ctx context.Context) error
	Stop(ctx context.Context) error
	Status(ctx context.Context) (State, error)
}

// Batched is a Resource that is quicker to start and stop together with others
// of its kind, and depends on none of them. Neighbours in a group that return the
// same Batch are handled by it, left to right at start and right to left at stop.
type Batched interface {
	Resource
	Batch() Batch
}

// Batch starts and stops many resources as their own Start and Stop would. Each
// is attempted, whatever becomes of the others, and has its error at its index:
// context.Cause(ctx) if ctx ended before. A resource may occur twice.
type Batch interface {
	StartAll(ctx context.Context, list []Resource) []error
	StopAll(ctx context.Context, list []Resource) []error
}

// Keeper is a Resource of which a process must know that it has it, although an
// earlier process started it. Watched says that this one goes on where that one was;
// else it is to be left as it is until a Start or Stop.
type Keeper interface {
	Resource
	Keep(ctx context.Context, watched bool) error
}
