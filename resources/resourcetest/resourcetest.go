// Package resourcetest is the conformance suite that every resource type must
// pass, built in or script.
package resourcetest

import (
	"context"
	"sync"
	"testing"
	"time"

	"heartbeat/resources"
)

// slack is what a paused machine may add to the second in which a cancelled action
// must return.
const slack = 10 * time.Second

// Run checks idempotence, status and cancellation. make returns a resource that is
// stopped; it is called for each check, may return the same one again, and what it
// returned before is stopped by then.
func Run(t *testing.T, make func(t *testing.T) resources.Resource) {
	checks := []struct {
		name string
		run  func(*testing.T, resources.Resource)
	}{
		{"a stopped resource says so and can be stopped", stopStopped},
		{"start, start again, stop, stop again", twice},
		{"status changes nothing", statusIsHarmless},
		{"an ended context starts nothing", cancelledStart},
		{"an ended context never reports a stop that was none", cancelledStop},
		{"calls from many sides end in what the last one asked for", concurrent},
	}
	for _, check := range checks {
		t.Run(check.name, func(t *testing.T) {
			r := make(t)
			t.Cleanup(func() {
				if err := r.Stop(context.Background()); err != nil {
					t.Errorf("stop at the end: %v", err)
				}
			})
			name := r.Name()
			check.run(t, r)
			if name == "" || r.Name() != name {
				t.Errorf("the name is empty or changes: %q, %q", name, r.Name())
			}
		})
	}
}

func want(t *testing.T, r resources.Resource, state resources.State) {
	t.Helper()
	got, err := r.Status(context.Background())
	if err != nil || got != state {
		t.Fatalf("status is %v (%v), want %v", got, err, state)
	}
}

func do(t *testing.T, what string, f func(context.Context) error) {
	t.Helper()
	if err := f(context.Background()); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func stopStopped(t *testing.T, r resources.Resource) {
	want(t, r, resources.Stopped)
	do(t, "stop of a stopped one", r.Stop)
	want(t, r, resources.Stopped)
}

func twice(t *testing.T, r resources.Resource) {
	for range 2 {
		do(t, "start", r.Start)
		want(t, r, resources.Running)
		do(t, "second start", r.Start)
		want(t, r, resources.Running)
		do(t, "stop", r.Stop)
		want(t, r, resources.Stopped)
		do(t, "second stop", r.Stop)
		want(t, r, resources.Stopped)
	}
}

func statusIsHarmless(t *testing.T, r resources.Resource) {
	for range 3 {
		want(t, r, resources.Stopped)
	}
	do(t, "start", r.Start)
	for range 3 {
		want(t, r, resources.Running)
	}
}

func cancelledStart(t *testing.T, r resources.Resource) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	before := time.Now()
	if err := r.Start(ctx); err == nil {
		t.Error("start succeeds although the context has ended")
	}
	if took := time.Since(before); took > time.Second+slack {
		t.Errorf("start takes %v after its context has ended", took)
	}
	want(t, r, resources.Stopped)
}

func cancelledStop(t *testing.T, r resources.Resource) {
	do(t, "start", r.Start)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	before := time.Now()
	err := r.Stop(ctx)
	if took := time.Since(before); took > time.Second+slack {
		t.Errorf("stop takes %v after its context has ended", took)
	}
	if err == nil {
		want(t, r, resources.Stopped)
	}
	if state, err := r.Status(ctx); err == nil && state == resources.Unknown {
		t.Error("status is unknown without an error")
	}
	do(t, "stop", r.Stop)
	want(t, r, resources.Stopped)
}

func concurrent(t *testing.T, r resources.Resource) {
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { _ = r.Start(context.Background()) })
		wg.Go(func() { _ = r.Stop(context.Background()) })
		wg.Go(func() { _, _ = r.Status(context.Background()) })
	}
	wg.Wait()
	do(t, "start", r.Start)
	want(t, r, resources.Running)
	do(t, "stop", r.Stop)
	want(t, r, resources.Stopped)
}
