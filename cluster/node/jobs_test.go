package node

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"heartbeat/cluster"
	"heartbeat/cluster/engine"
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
