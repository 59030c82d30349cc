package lab

import (
	"sync"
	"time"
)

const (
	// pauseTick is how often the watch for pauses looks at the clock.
	pauseTick = 20 * time.Millisecond
	// pauseMin is the lateness from which on it is noted.
	pauseMin = 200 * time.Millisecond
	// pausesMax bounds what is noted: the oldest goes.
	pausesMax = 1000
)

// pauses are the times in which this process was not run, and so most likely
// nothing on this machine was.
var pauses struct {
	begin sync.Once
	mu    sync.Mutex
	list  []pause
}

type pause struct {
	end    time.Time
	length time.Duration
}

// watchPauses notes pauses from now on.
func watchPauses() {
	pauses.begin.Do(func() {
		go func() { // ends with the process
			for last := time.Now(); ; {
				time.Sleep(pauseTick)
				now := time.Now()
				if late := now.Sub(last) - pauseTick; late >= pauseMin {
					pauses.mu.Lock()
					if len(pauses.list) == pausesMax {
						pauses.list = pauses.list[1:]
					}
					pauses.list = append(pauses.list, pause{now, late})
					pauses.mu.Unlock()
				}
				last = now
			}
		}()
	})
}

// Paused is the longest time since a moment, which may not be before the first lab was
// built, in which this process was not run: what happened meanwhile in the nodes is
// then no fault of the programs under test.
func Paused(since time.Time) time.Duration {
	pauses.mu.Lock()
	defer pauses.mu.Unlock()
	var worst time.Duration
	for _, p := range pauses.list {
		if p.end.After(since) {
			worst = max(worst, p.length)
		}
	}
	return worst
}
