package daemon

import (
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The rules by which a dead daemon is started again. What it owned stays up
// meanwhile, so the other node's deadtime is what all of them race against.
const (
	// firstPause precedes a restart: none would be needed, but kill -9 of
	// everything that is called heartbeat shall not leave a daemon that was
	// started between two of its signals.
	firstPause = 100 * time.Millisecond
	// stillbornMax is how many daemons in a row may die before they are up; the
	// pause before each is twice that before the last: 0.1, 0.2, 0.4, 0.8 and
	// 1.6 s. What fails for three seconds will fail for longer, and the other
	// node may be about to take over.
	stillbornMax = 6
	// deathsMax within deathsWindow are too many even of daemons that were up:
	// what kills them will kill the next one.
	deathsMax    = 30
	deathsWindow = 10 * time.Minute
)

// lives counts the deaths of daemons.
type lives struct {
	stillborn int
	deaths    []time.Time
}

// died notes a death at now of a daemon that was up or not. It returns the
// pause before the next start, or the sentence why there is none.
func (l *lives) died(now time.Time, up bool) (pause time.Duration, giveUp string) {
	l.stillborn++
	if up {
		l.stillborn = 0
	}
	l.deaths = append(l.deaths, now)
	for now.Sub(l.deaths[0]) > deathsWindow {
		l.deaths = l.deaths[1:]
	}
	switch {
	case l.stillborn >= stillbornMax:
		return 0, fmt.Sprintf("the last %d died before they were up", l.stillborn)
	case len(l.deaths) >= deathsMax:
		return 0, fmt.Sprintf("%d died within %v", len(l.deaths), now.Sub(l.deaths[0]).Round(time.Second))
	}
	return firstPause << max(l.stillborn-1, 0), ""
}

// fate is what the end of a daemon means.
type fate uint8

const (
	fateEnded   fate = iota // as it was told to
	fateRefused             // its configuration is unusable
	fateDied                // by a signal, a crash, or because it could not start
	fateLeft                // it lives, and has another supervisor
)

// fateOf reads the end of a daemon, and says it in words.
func fateOf(status syscall.WaitStatus) (fate, string) {
	switch {
	case status.Signaled():
		text := fmt.Sprintf("was killed by signal %d", status.Signal())
		if name := unix.SignalName(status.Signal()); name != "" {
			text += " (" + name + ")"
		}
		if status.Signal() == unix.SIGABRT {
			text = "crashed" // a panic, or the runtime's own refusal to go on
		}
		return fateDied, text
	case status.ExitStatus() == 0:
		return fateEnded, "ended"
	case status.ExitStatus() == exitConfig:
		return fateRefused, "cannot use its configuration"
	}
	return fateDied, fmt.Sprintf("ended with exit code %d", status.ExitStatus())
}
