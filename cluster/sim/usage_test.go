package sim

import (
	"syscall"
	"time"
)

// syscallUsage is the processor time of this process.
type syscallUsage struct{ syscall.Rusage }

func (u *syscallUsage) read() time.Duration {
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u.Rusage); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
