package daemon

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// How a process tells the next one what it is: the descriptor on which a
// detached daemon reports that it is up, and the one from which the successor
// of a running daemon reads its state. Neither is inherited by scripts.
const (
	readyEnv = "HEARTBEAT_READY_FD"
	stateEnv = "HEARTBEAT_STATE_FD"
)

func detached() bool   { return os.Getenv(readyEnv) != "" || succeeding() || os.Getenv(againEnv) != "" }
func succeeding() bool { return os.Getenv(stateEnv) != "" }

// detach starts the daemon as a process of its own, in its own session, and
// waits until it is really up: locked, pid file written, generation taken,
// media open. With a supervisor it is that one's child.
func (s *setup) detach(supervised bool) int {
	exe, err := os.Executable()
	if err != nil {
		fmt.Fprintf(s.stderr, "ERROR: heartbeat not started: %v\n", err)
		return 1
	}
	r, w, err := os.Pipe()
	if err != nil {
		fmt.Fprintf(s.stderr, "ERROR: heartbeat not started: %v\n", err)
		return 1
	}
	defer r.Close()
	cmd := exec.Command(exe)
	cmd.Args = s.args
	cmd.Env = append(os.Environ(), readyEnv+"=3")
	if supervised {
		cmd.Args = append([]string{s.args[0] + supervisorTitle}, s.args[1:]...)
		cmd.Env = append(cmd.Env, superviseEnv+"=1")
	}
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		_ = w.Close()
		fmt.Fprintf(s.stderr, "ERROR: heartbeat not started: %v\n", err)
		return 1
	}
	_ = w.Close()
	_ = r.SetReadDeadline(time.Now().Add(startLimit))
	answer, err := io.ReadAll(io.LimitReader(r, 64<<10))
	code, text, _ := strings.Cut(string(answer), "\n")
	n, convErr := strconv.Atoi(code)
	switch {
	case err != nil:
		fmt.Fprintf(s.stderr, "ERROR: heartbeat (pid %d) has not come up within %v, see its log: %v\n", cmd.Process.Pid, startLimit, err)
		return 1
	case convErr != nil:
		state := "ended"
		if err := cmd.Wait(); err != nil {
			state = err.Error()
		}
		fmt.Fprintf(s.stderr, "ERROR: heartbeat not started: the daemon %s before it was up, see its log\n", state)
		return 1
	case n != 0:
		_ = cmd.Wait() // it ends with its report; then nothing of it is left
		fmt.Fprint(s.stderr, text)
	}
	return n
}

// readiness tells the starting command how the start went. Only the first
// report counts.
type readiness struct{ f *os.File }

func openReadiness() *readiness {
	defer os.Unsetenv(readyEnv)
	fd, err := strconv.Atoi(os.Getenv(readyEnv))
	if err != nil {
		return &readiness{}
	}
	unix.CloseOnExec(fd)
	return &readiness{os.NewFile(uintptr(fd), "readiness")}
}

func (r *readiness) report(code int, text string) {
	if r == nil || r.f == nil {
		return
	}
	// A starting command that has gone needs no answer.
	_, _ = fmt.Fprintf(r.f, "%d\n%s", code, text)
	_ = r.f.Close()
	r.f = nil
}

// serveDetached is the daemon's own process.
func (s *setup) serveDetached() int {
	ready := openReadiness()
	c, problems := s.load()
	if problems.Failed() {
		var text strings.Builder
		for _, p := range problems.Report() {
			fmt.Fprintf(&text, "%v\n", p)
		}
		ready.report(problems.ExitCode(), text.String())
		return problems.ExitCode()
	}
	return s.serve(c, ready)
}
