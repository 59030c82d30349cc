package node

import (
	"runtime"
	"testing"
	"time"
)

// TestKernelTimerKeepsExpiries: an expiry that comes while nobody waits for it
// yet, because the machine is busy, is not lost. Nothing else would wake the
// loop of a node that hears nobody.
func TestKernelTimerKeepsExpiries(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for i := range 50 {
		timer, err := NewKernelTimer()
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			timer.Reset(0)
			// The runtime's monitor thread looks for what has come when nobody has
			// for 10 ms, and may find it before who waits for it runs.
			for begun := time.Now(); time.Since(begun) < 15*time.Millisecond; {
			}
			select {
			case <-timer.C():
			case <-time.After(5 * time.Second):
				t.Fatalf("timer %d: an expiry was lost", i)
			}
		}
	}
}
