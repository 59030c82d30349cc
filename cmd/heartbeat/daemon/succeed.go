package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"heartbeat/cluster/node"
	"heartbeat/transport"
	"heartbeat/transport/ping"
	"heartbeat/transport/serial"
	"heartbeat/transport/udp"
)

// againEnv marks a daemon that was executed anew by itself (the original's full
// restart): it is in its own session already.
const againEnv = "HEARTBEAT_AGAIN"

// carried is what a daemon hands to its successor in the same process.
type carried struct {
	Snapshot []byte
	// Origin is the reading of CLOCK_MONOTONIC at the node's Instant 0.
	Origin  time.Duration
	Started time.Time
	Debug   int
	// Sockets are descriptors by the names that the UDP media gave them, Lines
	// and Pings those of serial lines and ping nodes by the media's names.
	Sockets map[string]int
	Lines   map[string]carriedLine
	Pings   map[string]carriedPing
	// Control is the listening control socket; -1 for none.
	Control int
	// Programs are those of ha.cf that run.
	Programs []node.RunningProgram
	// Watchdog is armed, and stays so.
	Watchdog *node.InheritedWatchdog
}

type carriedLine struct{ FD, Baud int }

type carriedPing struct {
	FD int
	ID uint16
}

// handed are the files of a predecessor's media.
type handed struct {
	udp   udp.Inherited
	lines map[string]serial.Inherited
	pings map[string]ping.Inherited
}

// close closes what the media have taken copies of.
func (h handed) close() {
	for _, l := range h.lines {
		_ = l.File.Close()
	}
	for _, p := range h.pings {
		_ = p.File.Close()
	}
}

func (c *carried) programs() []node.RunningProgram {
	if c == nil {
		return nil
	}
	return c.Programs
}

// takeOver reads the predecessor's state, if there was one.
func takeOver() (*carried, error) {
	fd, err := strconv.Atoi(os.Getenv(stateEnv))
	_ = os.Unsetenv(stateEnv) // fails for impossible names only
	if err != nil {
		return nil, nil
	}
	unix.CloseOnExec(fd)
	f := os.NewFile(uintptr(fd), "state")
	defer f.Close()
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("take over state: %w", err)
	}
	c := &carried{Control: -1}
	if err := json.NewDecoder(f).Decode(c); err != nil {
		return nil, fmt.Errorf("take over state: %w", err)
	}
	return c, nil
}

func (c *carried) watchdog() *node.InheritedWatchdog {
	if c == nil || c.Watchdog == nil {
		return nil
	}
	unix.CloseOnExec(c.Watchdog.FD)
	return c.Watchdog
}

// inherited are the files of the predecessor's media, for openMedia.
func (c *carried) inherited() (h handed) {
	if c == nil {
		return h
	}
	open := func(fd int, name string) *os.File {
		unix.CloseOnExec(fd)
		return os.NewFile(uintptr(fd), name)
	}
	h = handed{make(udp.Inherited), make(map[string]serial.Inherited), make(map[string]ping.Inherited)}
	for name, fd := range c.Sockets {
		h.udp[name] = open(fd, name)
	}
	for name, l := range c.Lines {
		h.lines[name] = serial.Inherited{File: open(l.FD, name), Baud: l.Baud}
	}
	for name, p := range c.Pings {
		h.pings[name] = ping.Inherited{File: open(p.FD, name), ID: p.ID}
	}
	return h
}

// handMedia enters the media's files into c and returns them.
func (c *carried) handMedia(media []transport.Medium) (keep []*os.File, err error) {
	names, keep, err := udp.Files(media)
	if err != nil {
		return nil, err
	}
	c.Sockets, c.Lines, c.Pings = make(map[string]int), make(map[string]carriedLine), make(map[string]carriedPing)
	for i, name := range names {
		c.Sockets[name] = descriptor(keep[i])
	}
	for _, m := range media {
		l, isLine, err1 := serial.HandOver(m)
		if isLine {
			keep = append(keep, l.File)
			c.Lines[m.Name()] = carriedLine{descriptor(l.File), l.Baud}
		}
		p, isPing, err2 := ping.HandOver(m)
		if isPing {
			keep = append(keep, p.File)
			c.Pings[m.Name()] = carriedPing{descriptor(p.File), p.ID}
		}
		if err := errors.Join(err1, err2); err != nil {
			return keep, err
		}
	}
	return keep, nil
}

// listener is the predecessor's control socket, nil if it cannot be used.
func (c *carried) listener() net.Listener {
	if c == nil || c.Control < 0 {
		return nil
	}
	unix.CloseOnExec(c.Control)
	f := os.NewFile(uintptr(c.Control), "control")
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil
	}
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(true)
	}
	return l
}

// handOver replaces the process by the program that now is on disk, with the
// node's state, its sockets, its control socket and the armed watchdog (nil for
// none). It returns only if that failed; then everything is as before.
func handOver(s *setup, c carried, media []transport.Medium, control net.Listener, watchdog *os.File, env []string) error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("restart in place: %w", err)
	}
	keep, err := c.handMedia(media)
	defer func() {
		for _, f := range keep {
			_ = f.Close()
		}
	}()
	if err != nil {
		return fmt.Errorf("restart in place: media: %w", err)
	}
	c.Control = -1
	if u, ok := control.(*net.UnixListener); ok {
		f, err := u.File()
		if err != nil {
			return fmt.Errorf("restart in place: control socket: %w", err)
		}
		keep = append(keep, f)
		c.Control = descriptor(f)
	}
	if watchdog != nil {
		keep = append(keep, watchdog)
		c.Watchdog = &node.InheritedWatchdog{Device: watchdog.Name(), FD: descriptor(watchdog)}
	}
	fd, err := unix.MemfdCreate("heartbeat state", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("restart in place: state: %w", err)
	}
	state := os.NewFile(uintptr(fd), "state")
	keep = append(keep, state)
	if err := json.NewEncoder(state).Encode(c); err != nil {
		return fmt.Errorf("restart in place: state: %w", err)
	}
	for _, f := range keep {
		if _, err := unix.FcntlInt(uintptr(descriptor(f)), unix.F_SETFD, 0); err != nil {
			return fmt.Errorf("restart in place: keep descriptor: %w", err)
		}
	}
	env = append(append(os.Environ(), env...), stateEnv+"="+strconv.Itoa(fd))
	err = syscall.Exec(exe, succeedArgs(s.args), env)
	return fmt.Errorf("restart in place: exec %s: %w", exe, err)
}

// descriptor is f's number. Fd would do more: it makes the socket blocking,
// and with it the one it is a copy of.
func descriptor(f *os.File) int {
	fd := -1
	if c, err := f.SyscallConn(); err == nil {
		_ = c.Control(func(n uintptr) { fd = int(n) }) // fails for a closed file, and then fd is -1
	}
	return fd
}

// succeedArgs are the arguments of the successor: those of the start, and -R.
func succeedArgs(args []string) []string {
	out := []string{args[0]}
	for i, a := range args[1:] {
		if a == "-R" || a == "-r" || strings.HasPrefix(a, "-C") || i > 0 && args[i] == "-C" {
			continue
		}
		out = append(out, a)
	}
	return append(out, "-R")
}

// again executes the program anew from the beginning.
func again(s *setup, env []string) error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("restart: %w", err)
	}
	env = append(append(os.Environ(), env...), againEnv+"=1")
	return fmt.Errorf("restart: exec %s: %w", exe, syscall.Exec(exe, freshArgs(s.args), env))
}

// freshArgs are the arguments of the start.
func freshArgs(args []string) []string {
	out := succeedArgs(args)
	return out[:len(out)-1] // without -R
}
