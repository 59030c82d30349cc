package node

import (
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Timer wakes the loop.
type Timer interface {
	// C gets a value when the time is over.
	C() <-chan time.Time
	// Reset sets the timer to d from now; a former setting is void, but a
	// value of it may still come.
	Reset(d time.Duration)
	Stop()
}

// runtimeTimer is Go's own. It is not good for more than a millisecond, and it
// wakes the process twice, for the runtime waits in whole milliseconds and does
// the rest in a second wait.
type runtimeTimer struct{ t *time.Timer }

func newRuntimeTimer() runtimeTimer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return runtimeTimer{t}
}

func (t runtimeTimer) C() <-chan time.Time   { return t.t.C }
func (t runtimeTimer) Reset(d time.Duration) { t.t.Reset(d) }
func (t runtimeTimer) Stop()                 { t.t.Stop() }

// kernelTimer is a timerfd: it expires to the microsecond and costs one wake-up.
type kernelTimer struct {
	fd int
	f  *os.File
	c  chan time.Time
	// sets counts how often it was set.
	sets atomic.Uint64
}

// NewKernelTimer returns a timer of the kernel. Its goroutine lives as long as
// the process.
func NewKernelTimer() (Timer, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make timer: %w", err)
	}
	t := &kernelTimer{fd: fd, f: os.NewFile(uintptr(fd), "timer"), c: make(chan time.Time, 1)}
	raw, err := t.f.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("make timer: %w", err)
	}
	go t.wait(raw) // for as long as the process lives
	return t, nil
}

// wait puts a value into c at each expiry.
//
// An expiry wakes the reader by itself; reading the count of expiries would be a
// call that tells nothing. But raw.Read begins by forgetting that the file is
// ready: an expiry between its last return, or the birth of the timer, and that
// moment wakes nobody. Who was set meanwhile is therefore asked.
func (t *kernelTimer) wait(raw syscall.RawConn) {
	var seen uint64
	var count [8]byte
	begun := false
	expired := func(uintptr) bool {
		if begun {
			return true // woken
		}
		begun = true
		if t.sets.Load() == seen {
			return false
		}
		_, err := unix.Read(t.fd, count[:])
		return err == nil
	}
	for {
		begun = false
		if raw.Read(expired) != nil {
			return // the file is never closed; nothing else can fail
		}
		// What is set before the loop has taken the value is set again by the
		// loop when it has.
		seen = t.sets.Load()
		select {
		case t.c <- time.Time{}:
		default: // the loop has not taken the last one yet
		}
	}
}

func (t *kernelTimer) C() <-chan time.Time { return t.c }

func (t *kernelTimer) Reset(d time.Duration) { t.set(max(d, 1)) }
func (t *kernelTimer) Stop()                 { t.set(0) }

// set is a raw system call: it never blocks, and a call that tells the runtime
// wakes its monitor thread, which costs more than the call.
func (t *kernelTimer) set(d time.Duration) {
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(d))}
	// It fails for impossible values only, and d is not one.
	t.sets.Add(1)
	_, _, _ = unix.RawSyscall6(unix.SYS_TIMERFD_SETTIME, uintptr(t.fd), 0, uintptr(unsafe.Pointer(&spec)), 0, 0, 0)
}
