// Package script runs one heartbeat-style or init script and judges it: found by
// name in the resource and init directories, called with its arguments and the
// action last, in a process group of its own, with a bounded record of what it
// printed. It knows nothing of groups; the package above it does.
package script

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// grace is how long a process group has between TERM and KILL, and killed
	// how long the kernel has to bury it after KILL. Their sum stays under the
	// second in which a cancelled action must return.
	grace  = 500 * time.Millisecond
	killed = 300 * time.Millisecond
)

// NotFoundError says that no directory holds an executable script of the name.
type NotFoundError struct {
	Script string
	Dirs   []string
	Hint   string // a similar name that exists, or what is wrong with the file that was found
}

func (e *NotFoundError) Error() string {
	text := fmt.Sprintf("cannot locate resource script %s in %s", e.Script, strings.Join(e.Dirs, " or "))
	if e.Hint != "" {
		text += " (" + e.Hint + ")"
	}
	return text
}

// Find returns the first dir/name that is a regular executable file, as
// heartbeat's ResourceManager looks for it.
func Find(name string, dirs ...string) (string, error) {
	notFound := &NotFoundError{Script: name, Dirs: dirs}
	if name == "" || strings.ContainsRune(name, '/') {
		notFound.Hint = "a script is named without its directory"
		return "", notFound
	}
	for _, dir := range dirs {
		path := filepath.Join(dir, name)
		info, err := os.Stat(path)
		switch {
		case err != nil:
		case !info.Mode().IsRegular():
			notFound.Hint = path + " is not a regular file"
		case unix.Access(path, unix.X_OK) != nil:
			notFound.Hint = path + " is not executable"
		default:
			return path, nil
		}
	}
	if notFound.Hint == "" {
		notFound.Hint = similar(name, dirs)
	}
	return "", notFound
}

// similar finds a script whose name differs only in the case of its letters:
// IPAddr for IPaddr is the commonest slip in haresources.
func similar(name string, dirs []string) string {
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, entry := range entries {
			if strings.EqualFold(entry.Name(), name) {
				return "did you mean " + entry.Name() + "?"
			}
		}
	}
	return ""
}

// Command is one script with its arguments.
type Command struct {
	Path string
	Args []string
	// Env is added to the daemon's own environment; a later entry wins.
	Env []string
	// Dir is the working directory; "/" when it is empty or cannot be entered.
	Dir string
}

// Result is what a script did.
type Result struct {
	// Code is the exit code, 128+n after signal n, and 127 or 126 when it could
	// not be run, as a shell has it. It means nothing when the error is set for
	// another reason than the exit code.
	Code           int
	Stdout, Stderr Output
	Took           time.Duration
}

// ExitError is a script that ran and ended with another code than 0.
type ExitError struct {
	Action string
	Code   int
	// Tail holds the last lines the script printed on stderr, or on stdout if
	// there were none.
	Tail string
}

func (e *ExitError) Error() string {
	text := fmt.Sprintf("script ended with code %d", e.Code)
	if e.Code > 128 {
		text = fmt.Sprintf("script was killed by signal %d (%v)", e.Code-128, syscall.Signal(e.Code-128))
	}
	if e.Tail != "" {
		text += ": " + e.Tail
	}
	return text
}

// Run runs the script with action as its last argument and waits for its end, or
// for that of ctx: then its process group gets TERM, half a second later KILL, and
// the error holds the context's cause. A process that the script leaves behind is
// neither waited for nor killed.
//
// The error is an *ExitError for a code other than 0.
func (c Command) Run(ctx context.Context, action string) (Result, error) {
	if err := ctx.Err(); err != nil {
		return Result{Code: 126}, context.Cause(ctx)
	}
	stdout, err := newCapture("stdout")
	if err != nil {
		return Result{Code: 126}, err
	}
	defer stdout.close()
	stderr, err := newCapture("stderr")
	if err != nil {
		return Result{Code: 126}, err
	}
	defer stderr.close()

	started := time.Now()
	cmd, err := c.start(action, stdout.file, stderr.file)
	if err != nil {
		code := 126
		if errors.Is(err, os.ErrNotExist) {
			code = 127
		}
		return Result{Code: code}, fmt.Errorf("run %s: %w", c.Path, err)
	}
	// Ends when the script is dead; nothing else is needed for that than its pid,
	// so a script that KILL cannot reach (device wait) is buried here later.
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()

	stopped := c.wait(ctx, cmd.Process.Pid, ended, stdout, stderr)
	res := Result{Took: time.Since(started), Stdout: stdout.finish(), Stderr: stderr.finish()}
	if stopped.unkillable {
		return res, fmt.Errorf("script does not end after KILL (waiting for a device?): %w", stopped.cause)
	}
	res.Code = exitCode(stopped.state)
	switch {
	case stopped.cause != nil:
		err := fmt.Errorf("script was killed after %v: %w", res.Took.Round(time.Millisecond), stopped.cause)
		if tail := res.tail(); tail != "" {
			err = fmt.Errorf("%w: %s", err, tail)
		}
		return res, err
	case res.Code != 0:
		return res, &ExitError{Action: action, Code: res.Code, Tail: res.tail()}
	}
	return res, nil
}

// start starts the script; one without a "#!" line is handed to the shell, as a
// calling shell would have done.
func (c Command) start(action string, stdout, stderr *os.File) (*exec.Cmd, error) {
	args := append(append(make([]string, 0, len(c.Args)+2), c.Args...), action)
	build := func(path string, args ...string) *exec.Cmd {
		cmd := exec.Command(path, args...)
		cmd.Dir = c.dir()
		cmd.Env = append(os.Environ(), c.Env...)
		// Files, not pipes: a daemon left behind must neither make the wait for
		// the script hang nor die of SIGPIPE when this process goes away.
		cmd.Stdout, cmd.Stderr = stdout, stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		return cmd
	}
	cmd := build(c.Path, args...)
	err := cmd.Start()
	if errors.Is(err, unix.ENOEXEC) {
		cmd = build("/bin/sh", append([]string{c.Path}, args...)...)
		err = cmd.Start()
	}
	if err == nil {
		exposeToOOM(cmd.Process.Pid)
	}
	return cmd, err
}

// exposeToOOM takes from a script the protection from the kernel's
// out-of-memory killer that it inherits from a protected daemon: a database
// that leaks must not be the last process to go. It may have ended already, or
// we may not be privileged: then nothing is lost.
func exposeToOOM(pid int) {
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte("0"), 0)
}

func (c Command) dir() string {
	if c.Dir != "" && unix.Access(c.Dir, unix.X_OK) == nil {
		return c.Dir
	}
	return "/"
}

// ending says how a wait ended: on its own (cause nil) or because ctx did.
type ending struct {
	state      error
	cause      error
	unkillable bool
}

func (c Command) wait(ctx context.Context, pid int, ended <-chan error, outputs ...*capture) ending {
	tick := time.NewTicker(capturePoll)
	defer tick.Stop()
	for {
		select {
		case state := <-ended:
			return ending{state: state}
		case <-tick.C:
			for _, out := range outputs {
				out.trim()
			}
			continue
		case <-ctx.Done():
		}
		break
	}
	cause := context.Cause(ctx)
	for _, step := range []struct {
		signal unix.Signal
		wait   time.Duration
	}{{unix.SIGTERM, grace}, {unix.SIGKILL, killed}} {
		// ESRCH: the group is gone already, which is what was wanted.
		_ = unix.Kill(-pid, step.signal)
		select {
		case state := <-ended:
			// The script is gone, but a child of its that ignored TERM may not be.
			_ = unix.Kill(-pid, unix.SIGKILL)
			return ending{state: state, cause: cause}
		case <-time.After(step.wait):
		}
	}
	return ending{cause: cause, unkillable: true}
}

func exitCode(state error) int {
	var exit *exec.ExitError
	if !errors.As(state, &exit) {
		if state == nil {
			return 0
		}
		return 126
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return exit.ExitCode()
}

// tail is what a failed script said last, on one line.
func (r Result) tail() string {
	lines := r.Stderr.LastLines(3)
	if len(lines) == 0 {
		lines = r.Stdout.LastLines(3)
	}
	return strings.Join(lines, "; ")
}

// The original compares with shell patterns, in this order; the first letters'
// cases are exactly these.
var (
	notRunning = regexp.MustCompile(`(?s)[Nn][Oo][Tt] .*[Rr]unning`)
	isRunning  = regexp.MustCompile(`[Rr]unning|OK`)
)

// Running judges what a script printed on stdout for "status": the text decides
// and the exit code does not. "not", a blank, anything, "running" is not running,
// wherever it stands; else "running" or "OK" is running; else it is not.
func Running(stdout string) bool {
	return !notRunning.MatchString(stdout) && isRunning.MatchString(stdout)
}

// Disagreement describes how the text and the LSB exit code (0 running, 3
// stopped) of a status call contradict each other; empty when they do not.
func Disagreement(stdout string, code int) string {
	switch running := Running(stdout); {
	case running && code != 0:
		return fmt.Sprintf("the text says running, exit code %d says it is not; the text decides", code)
	case !running && code == 0:
		return "the text does not say running, exit code 0 says it is; the text decides"
	}
	return ""
}
