package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"heartbeat/cluster"
	"heartbeat/cluster/engine"
	"heartbeat/resources"
)

// recorder notes in which order it is worked on.
type recorder struct {
	mu    sync.Mutex
	calls []string
	hang  bool // Take hangs until it is ended
}

func (r *recorder) note(call string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, call)
}

func (r *recorder) Take(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	r.note("take")
	if r.hang {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	time.Sleep(time.Millisecond)
	return nil
}

func (r *recorder) Give(context.Context) error {
	time.Sleep(time.Millisecond)
	r.note("give")
	return nil
}

func (r *recorder) FirstRunning(context.Context) (bool, error) { return false, nil }

// TestJobOrder: jobs on one group run in the order in which they were ordered,
// however the scheduler runs their goroutines, and a release ends the starts
// before it, begun or not.
func TestJobOrder(t *testing.T) {
	for round := range 200 {
		r := &recorder{hang: round%2 == 0}
		kinds := []cluster.JobKind{cluster.JobTake, cluster.JobGive}
		if round%4 >= 2 {
			r.hang = false
			kinds = []cluster.JobKind{cluster.JobTake, cluster.JobGive, cluster.JobTake}
		}
		ended := make(chan engine.JobDone, len(kinds))
		eng := &scripted{}
		eng.on = func(_ cluster.Instant, in engine.Input) (outs []engine.Output) {
			switch in := in.(type) {
			case engine.Wake:
				eng.none = true
				for i, kind := range kinds {
					outs = append(outs, engine.Run{Job: cluster.Job{ID: uint64(i + 1), Kind: kind, Keys: []string{"web"}}})
				}
			case engine.JobDone:
				ended <- in
			}
			return outs
		}
		var failed []string
		run(t, Options{Engine: eng, Groups: map[string]Group{"web": r}}, func(*Node) {
			for range kinds {
				done := <-ended
				if kind := kinds[done.ID-1]; kind == cluster.JobGive && done.Groups[0].Err != "" {
					failed = append(failed, fmt.Sprint(done))
				}
			}
		})
		// The first start may have been ended before it began.
		calls := r.calls
		if len(calls) == len(kinds) && calls[0] == "take" {
			calls = calls[1:]
		}
		want := []string{"give", "take"}[:len(kinds)-1]
		if !slices.Equal(calls, want) || len(failed) > 0 {
			t.Fatalf("round %d: worked on in the order %v, failed %v", round, r.calls, failed)
		}
	}
}

// TestReleaseOfWhatIsStillAhead: a release does not wait for what the job that was
// to start its group starts before it.
func TestReleaseOfWhatIsStillAhead(t *testing.T) {
	first, second := &recorder{hang: true}, &recorder{}
	ended := make(chan engine.JobDone, 2)
	eng := &scripted{}
	eng.on = func(_ cluster.Instant, in engine.Input) []engine.Output {
		switch in := in.(type) {
		case engine.Wake:
			eng.none = true
			return []engine.Output{
				engine.Run{Job: cluster.Job{ID: 1, Kind: cluster.JobTake, Keys: []string{"first", "second"}}},
				engine.Run{Job: cluster.Job{ID: 2, Kind: cluster.JobGive, Keys: []string{"second"}}},
			}
		case engine.JobDone:
			ended <- in
			if in.ID == 2 {
				return []engine.Output{engine.Kill{ID: 1}} // the first group's start hangs
			}
		}
		return nil
	}
	run(t, Options{Engine: eng, Groups: map[string]Group{"first": first, "second": second}}, func(*Node) {
		if done := <-ended; done.ID != 2 || done.Groups[0].Err != "" {
			t.Errorf("the first job to end is %+v, want the release", done)
		}
		if done := <-ended; len(done.Groups) != 2 || done.Groups[1].Err == "" {
			t.Errorf("the start says %+v, want its second group interrupted", done)
		}
	})
	if !slices.Equal(second.calls, []string{"give"}) {
		t.Errorf("the second group was worked on in the order %v, want its release only", second.calls)
	}
}

// halfStarted is a group whose start fails.
type halfStarted struct {
	recorder
	rollback error
}

func (h *halfStarted) Take(context.Context) error {
	return &resources.StartFailed{Group: "g", Resource: "r", Err: errors.New("no"), Rollback: h.rollback}
}

// TestHalfStarted: of a start that failed, and could not be undone, something may run.
func TestHalfStarted(t *testing.T) {
	for _, rollback := range []error{nil, errors.New("device is busy")} {
		n := &Node{o: Options{Groups: map[string]Group{"g": &halfStarted{rollback: rollback}}}}
		if r := n.actOn(t.Context(), cluster.JobTake, "g"); r.Err == "" || r.Running != (rollback != nil) {
			t.Errorf("rollback %v: result %+v", rollback, r)
		}
	}
}
