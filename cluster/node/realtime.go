package node

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Realtime makes the process run before others and stay in memory, so that
// keepalives leave on time when every core is busy.
//
// All threads get SCHED_RR, for Go moves goroutines between them as it likes,
// with SCHED_RESET_ON_FORK, so that scripts run at normal priority. New threads
// of our own fall under that flag too; hence Sweep.
type Realtime struct {
	priority int
	// known are the threads seen to be real-time in the last sweep.
	known   map[int]bool
	swept   time.Duration
	dir     int // fd of /proc/self/task
	buf     []byte
	refused bool
}

// sweepEvery is how long a new thread may run at normal priority. The runtime
// starts one when all others are stuck in system calls; it has a handful of
// them, and they stay.
const sweepEvery = 5 * time.Second

// StartRealtime gives all threads the priority and locks memory. What the
// machine refuses is told in warnings, one sentence each; the process goes on
// without it.
func StartRealtime(priority int) (rt *Realtime, warnings []string) {
	rt = &Realtime{priority: priority, known: make(map[int]bool), dir: -1, buf: make([]byte, 4096)}
	// MCL_ONFAULT locks what is touched; without it Go's reserved address space
	// would be filled with some 80 MB of pages.
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		warnings = append(warnings, fmt.Sprintf("Cannot lock ourselves into memory: %v (raise LimitMEMLOCK or ulimit -l)", err))
	}
	// A machine out of memory must not begin with the program that decides who
	// serves. Scripts are exposed again when they are started.
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0); err != nil {
		warnings = append(warnings, fmt.Sprintf("Cannot protect ourselves from the out-of-memory killer: %v", err))
	}
	dir, err := unix.Open("/proc/self/task", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return rt, append(warnings, fmt.Sprintf("Cannot set realtime priority: open /proc/self/task: %v", err))
	}
	rt.dir = dir
	if err := rt.sweep(); err != nil {
		rt.refused = true
		warnings = append(warnings, fmt.Sprintf("Cannot set realtime priority %d: %v (a cpu control group without real-time time refuses it)", priority, err))
	}
	return rt, warnings
}

// Sweep gives threads that have been born since the priority too, at most every
// few seconds. It costs a readdir and blocks on nothing.
func (rt *Realtime) Sweep(now time.Duration) {
	if rt == nil || rt.refused || rt.dir < 0 || now-rt.swept < sweepEvery {
		return
	}
	rt.swept = now
	// A refusal at this point was told at the start, or has no remedy here.
	_ = rt.sweep()
}

func (rt *Realtime) sweep() error {
	// A thread can start another one while the directory is read; a round that
	// found nothing new ends it.
	for range 5 {
		fresh, err := rt.round()
		if err != nil {
			return err
		}
		if !fresh {
			return nil
		}
	}
	return nil
}

func (rt *Realtime) round() (fresh bool, err error) {
	// Raw system calls: procfs answers from memory, and a call that tells the
	// runtime wakes its monitor thread, which naps some fifty times before it
	// sleeps again.
	if _, _, errno := unix.RawSyscall(unix.SYS_LSEEK, uintptr(rt.dir), 0, 0); errno != 0 {
		return false, os.NewSyscallError("seek /proc/self/task", errno)
	}
	now := make(map[int]bool, len(rt.known)+1)
	for {
		size, _, errno := unix.RawSyscall(unix.SYS_GETDENTS64, uintptr(rt.dir), uintptr(unsafe.Pointer(unsafe.SliceData(rt.buf))), uintptr(len(rt.buf)))
		if errno != 0 {
			return false, os.NewSyscallError("read /proc/self/task", errno)
		}
		if size == 0 {
			break
		}
		n := int(size)
		_, _, names := unix.ParseDirent(rt.buf[:n], -1, nil)
		for _, name := range names {
			tid, err := strconv.Atoi(name)
			if err != nil {
				continue
			}
			now[tid] = true
			if rt.known[tid] {
				continue
			}
			fresh = true
			err = unix.SchedSetAttr(tid, &unix.SchedAttr{
				Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: uint32(rt.priority), Flags: unix.SCHED_FLAG_RESET_ON_FORK,
			}, 0)
			if err != nil && !errors.Is(err, unix.ESRCH) { // ESRCH: it has ended meanwhile
				return false, os.NewSyscallError("sched_setattr", err)
			}
		}
	}
	rt.known = now
	return fresh, nil
}
