package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"heartbeat/cluster/config"
	"heartbeat/cluster/control"
)

// defaultDir holds the configuration unless HA_DIR says otherwise.
const defaultDir = "/etc/ha.d"

// invocation is one call of the program: what it was called and what it may
// read and write.
type invocation struct {
	argv0          string
	args           []string
	stdin          io.Reader
	stdout, stderr io.Writer
}

// name is the program's name without its directory.
func (v *invocation) name() string { return filepath.Base(v.argv0) }

// programs are the names under which this program answers, beside its own.
var programs = map[string]func(context.Context, *invocation) int{
	"cl_status":       clStatus,
	"hb_standby":      oldStandby,
	"hb_takeover":     oldTakeover,
	"hb_addnode":      addNode,
	"hb_delnode":      delNode,
	"hb_setweight":    setWeight,
	"hb_setsite":      setSite,
	"ResourceManager": resourceManager,
	"req_resource":    requestResource,
	"mach_down":       machDown,
}

// Run is the program called argv0 and returns its exit code. Any other name
// than those in programs is hbctl.
func Run(ctx context.Context, argv0 string, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	v := &invocation{argv0: argv0, args: args, stdin: stdin, stdout: stdout, stderr: stderr}
	if program, ok := programs[v.name()]; ok {
		return program(ctx, v)
	}
	return hbctl(ctx, v)
}

// configDir is where the configuration is.
func configDir() string {
	if dir := os.Getenv("HA_DIR"); dir != "" {
		return dir
	}
	return defaultDir
}

// socketPath is where the daemon listens: HEARTBEAT_SOCKET, or control_socket
// of heartbeat.toml. A file that cannot be read leaves the default: `hbctl
// check` tells what is wrong with it, and a question about the cluster need not
// fail for it.
func socketPath() string {
	if path := os.Getenv("HEARTBEAT_SOCKET"); path != "" {
		return path
	}
	cfg, _ := config.Parse(config.ReadFiles(configDir()))
	return cfg.TOML.ControlSocket
}

// sentence is an error of the control API for people.
func sentence(err error) string {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return control.ErrTimeout.Error()
	case errors.Is(err, context.Canceled):
		return "interrupted; what the daemon has begun goes on"
	}
	return err.Error()
}

// isTerminal reports whether f is one.
func isTerminal(f any) bool {
	file, ok := f.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	return err == nil
}

// stamp is the date that the original's programs put before a line.
func stamp() string { return time.Now().Format("Jan 02 15:04:05") }
