package resources

import (
	"errors"
	"fmt"
	"time"
)

// StartFailed says which resource of a group could not be started. Everything
// of the group that may have been running was stopped again, unless the error
// also holds a StopFailed (errors.As finds it).
type StartFailed struct {
	// Group is the group's key, Resource the entry as haresources writes it.
	Group, Resource string
	Err             error
	// Rollback is nil when the rest of the group is stopped.
	Rollback error
}

func (e *StartFailed) Error() string {
	text := fmt.Sprintf("start %s: %v", e.Resource, e.Err)
	if e.Rollback != nil {
		text += fmt.Sprintf(" (and then %v)", e.Rollback)
	}
	return text
}

func (e *StartFailed) Unwrap() []error {
	if e.Rollback == nil {
		return []error{e.Err}
	}
	return []error{e.Err, e.Rollback}
}

// StopFailed says that a resource may still be active, so its group must not be
// handed over. The resources to its left were not touched: they carry it. (Those of
// its own Batch do not, and may be stopped.)
type StopFailed struct {
	Group, Resource string
	Err             error
}

func (e *StopFailed) Error() string {
	return fmt.Sprintf("stop %s: %v", e.Resource, e.Err)
}

func (e *StopFailed) Unwrap() error { return e.Err }

// Interrupted says that Take was ended by its context, or by a Give, before the
// group was complete. Nothing was stopped: whoever interrupted it gives the group.
type Interrupted struct {
	Group, Resource string
	Err             error
}

func (e *Interrupted) Error() string {
	return fmt.Sprintf("start %s: interrupted: %v", e.Resource, e.Err)
}

func (e *Interrupted) Unwrap() error { return e.Err }

// ErrGive is the cause with which Give ends a Take that is under way.
var ErrGive = errors.New("the group is being released")

// overBudget is the cause of an action that took longer than its budget.
type overBudget struct {
	limit time.Duration
}

func (e *overBudget) Error() string {
	return fmt.Sprintf("time limit of %v reached", e.limit)
}
