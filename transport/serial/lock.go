package serial

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// lockSettle is the age below which a lock file without a process id may be
// one that its owner has not yet written.
const lockSettle = 10 * time.Second

// lock is a UUCP-style lock file, which keeps terminal programs and a second
// heartbeat off the line: LCK..ttyS0, with the owner's process id in ten
// columns.
type lock struct{ path string }

// takeLock takes the lock of a device. A lock of a process that is gone, or of
// this process before it replaced its program, is taken over. Where the
// directory does not exist nobody locks, and there is no lock to take.
func takeLock(dir, device string) (*lock, error) {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	l := &lock{path: filepath.Join(dir, "LCK.."+lockID(device))}
	// The file appears with its content, or not at all.
	draft, err := os.CreateTemp(dir, "LTMP.")
	if err != nil {
		return nil, fmt.Errorf("lock the line: %w", err)
	}
	defer os.Remove(draft.Name())
	_, err = fmt.Fprintf(draft, "%10d\n", os.Getpid())
	if err == nil {
		err = draft.Chmod(0o644)
	}
	if err = errors.Join(err, draft.Close()); err != nil {
		return nil, fmt.Errorf("lock the line: %w", err)
	}
	for range 2 {
		if err = os.Link(draft.Name(), l.path); err == nil {
			return l, nil
		}
		if !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("lock the line: %w", err)
		}
		if err := l.stale(); err != nil {
			return nil, err
		}
		if err := os.Remove(l.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("remove stale lock: %w", err)
		}
	}
	return nil, fmt.Errorf("lock the line: %w", err)
}

// lockID is a device's name in lock files: the path below /dev.
func lockID(device string) string {
	return strings.ReplaceAll(strings.TrimPrefix(strings.TrimPrefix(device, "/dev/"), "/"), "/", "_")
}

// stale returns nil when the lock binds nobody, else who holds it.
func (l *lock) stale() error {
	owner, err := l.owner()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		if info, statErr := os.Stat(l.path); statErr == nil && time.Since(info.ModTime()) < lockSettle {
			return fmt.Errorf("the line is locked: %w", err)
		}
		return nil
	case owner == os.Getpid():
		return nil
	case errors.Is(unix.Kill(owner, 0), unix.ESRCH):
		return nil
	}
	return fmt.Errorf("the line is locked by process %d (%s)", owner, l.path)
}

func (l *lock) owner() (int, error) {
	text, err := os.ReadFile(l.path)
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err == nil && pid <= 0 {
		err = strconv.ErrRange
	}
	if err != nil {
		return 0, fmt.Errorf("no process id in %s: %w", l.path, err)
	}
	return pid, nil
}

// release gives the lock back unless somebody has taken it over.
func (l *lock) release() {
	if owner, err := l.owner(); err == nil && owner == os.Getpid() {
		os.Remove(l.path)
	}
}
