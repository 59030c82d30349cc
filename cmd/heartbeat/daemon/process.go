package daemon

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"heartbeat/cluster"
)

// running reports the process that the pid file names. stale is set when the
// file is there and the process is not: gone, a zombie, or another program
// that got the number.
func running(pidFile string) (pid int, alive, stale bool) {
	text, err := os.ReadFile(pidFile)
	if err != nil {
		return 0, false, false
	}
	pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 0 {
		return 0, false, true
	}
	if unix.Kill(pid, 0) == unix.ESRCH || zombie(pid) || !heartbeatProgram(pid) {
		return pid, false, true
	}
	return pid, true, false
}

func zombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	i := strings.LastIndexByte(string(stat), ')') // the name before it may hold anything
	return i >= 0 && strings.HasPrefix(string(stat[i+1:]), " Z")
}

// heartbeatProgram guards against a pid that was given to another program. A
// process whose program cannot be seen counts.
func heartbeatProgram(pid int) bool {
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return true
	}
	name := filepath.Base(strings.TrimSuffix(exe, " (deleted)"))
	if name == "heartbeat" {
		return true
	}
	own, err := os.Executable()
	return err == nil && filepath.Base(own) == name
}

// printStatus is heartbeat -s.
func printStatus(s *setup, stdout io.Writer) int {
	pid, alive, stale := running(s.paths.PIDFile)
	switch {
	case alive:
		host, node := s.names()
		fmt.Fprintf(stdout, "heartbeat OK [pid %d et al] is running on %s [%s]...\n", pid, host, node)
		return 0
	case stale:
		fmt.Fprintln(stdout, "heartbeat is stopped. No process")
		return 1
	}
	fmt.Fprintln(stdout, "heartbeat is stopped. No process")
	return 3
}

// stop is heartbeat -k: ask the daemon to end and wait until it is gone. A
// process that has ended and that nobody buries counts as gone.
func stop(s *setup, stderr io.Writer) int {
	// A supervisor may end in this moment, and leave its daemon to another one.
	for round := range 3 {
		pid, alive, _ := running(s.paths.PIDFile)
		if above := s.supervisorPID(); above != 0 {
			// It ends after the daemon. A daemon that it is about to start again
			// has no pid that could be told anything.
			pid, alive = above, true
		}
		if !alive {
			if round == 0 {
				fmt.Fprintln(stderr, "INFO: Heartbeat already stopped.")
			}
			return 0
		}
		if code := end(pid, stderr); code != 0 {
			return code
		}
	}
	return 0
}

// end sends a process TERM and waits until it has ended.
func end(pid int, stderr io.Writer) int {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil && !errors.Is(err, unix.ESRCH) {
		fmt.Fprintf(stderr, "ERROR: Could not kill pid %d: %v\n", pid, err)
		return 4
	}
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	switch err := unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0); {
	case errors.Is(err, unix.ESRCH):
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "ERROR: Could not kill pid %d\n", pid)
		return 4
	}
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
		if n == 1 {
			return 0
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			fmt.Fprintf(stderr, "ERROR: Could not wait for pid %d: %v\n", pid, err)
			return 1
		}
	}
}

// writePIDFile writes the pid as the original does: 10 columns and a newline.
func writePIDFile(path string, pid int) error {
	if err := os.WriteFile(path, fmt.Appendf(nil, "%10d\n", pid), 0o644); err != nil {
		return fmt.Errorf("write pid file: %w", err)
	}
	return nil
}

// lockPatience is how long a new daemon waits for the lock: a killed one still
// holds its files until the last of its threads is gone.
const lockPatience = 5 * time.Second

// lock makes sure that one daemon runs. The lock goes with the process.
func lock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	for begun := time.Now(); errors.Is(err, unix.EWOULDBLOCK) && time.Since(begun) < lockPatience; {
		time.Sleep(20 * time.Millisecond)
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("another heartbeat holds %s", path)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// A lock file with content says that a daemon came up which has not ended by
// releasing everything: the pid file does not say that, for systemd removes it
// after a crash, and so does a daemon that cannot start.

// mark enters into the lock file that this daemon may own resources, or that it
// has released them.
func (d *daemonProcess) mark(owns bool) {
	text, err := fmt.Sprintf("%10d\n", os.Getpid()), d.lock.Truncate(0)
	if d.flags.unmanaged {
		text = fmt.Sprintf("%10d%s\n", os.Getpid(), markUnmanaged)
	}
	if owns {
		err = write(d.lock, text)
	}
	if err != nil { // a tmpfs that is full
		d.log.Printf(cluster.Warn, "write %s: %v: after a crash it will not be known that there was one", d.lock.Name(), err)
	}
}

// markUnmanaged is added by a daemon that owns nothing, since it was started with -M.
const markUnmanaged = " unmanaged"

// marked reports whether the last daemon may have left something running.
func marked(lock *os.File) bool {
	info, err := lock.Stat()
	return err != nil || info.Size() > 0
}

// inode names the file behind a path, so that a replaced one is noticed even
// with the same time and size.
func inode(info os.FileInfo) string {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	return fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}

// coreLimit lets a crash leave a core, or keeps it from that: this process's and,
// as in the original, those of all that it starts.
func coreLimit(on bool) error {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &l); err != nil {
		return fmt.Errorf("read the limit of core files: %w", err)
	}
	if l.Cur = 0; on {
		l = unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &l); err != nil {
		return fmt.Errorf("set the limit of core files: %w", err)
	}
	return nil
}
