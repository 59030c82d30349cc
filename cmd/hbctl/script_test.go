package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"heartbeat/cluster/control"
)

func TestMain(m *testing.M) {
	commands := map[string]func(){"hbctl": main}
	for name := range programs {
		commands[name] = main
	}
	testscript.Main(m, commands)
}

// patience is how long a script waits for what another process does.
const patience = 30 * time.Second

// stage is what one script has beside its directory: a daemon and a FIFO.
type stage struct {
	socket string
	node   *testNode
	fifo   *os.File

	mu   sync.Mutex
	stop func() // of the daemon that runs; nil when none does
}

// run ends the daemon that runs, and takes note of how to end the next one.
func (s *stage) run(stop func()) {
	s.mu.Lock()
	old := s.stop
	s.stop = stop
	s.mu.Unlock()
	if old != nil {
		old()
	}
}

type stageKey struct{}

// TestScripts runs testdata/script: the real programs, a real control server,
// a real FIFO.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			s := &stage{socket: filepath.Join(env.WorkDir, "control.sock")}
			env.Values[stageKey{}] = s
			env.Setenv("HEARTBEAT_SOCKET", s.socket)
			env.Setenv("TZ", "UTC")
			env.Defer(func() {
				s.run(nil)
				if s.fifo != nil {
					s.fifo.Close()
				}
			})
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code": code, "node": startNode, "ordered": ordered, "fifo": fifo, "record": record, "node-name": nodeName,
		},
	})
}

func of(ts *testscript.TestScript) *stage { return ts.Value(stageKey{}).(*stage) }

// code N PROGRAM ARG... runs a program that must end with N.
func code(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("%q ended with %d, want %d", args[1:], got, want)
	}
}

// node MODE [STEP...] starts a daemon, or a different one.
func startNode(ts *testscript.TestScript, _ bool, args []string) {
	s := of(ts)
	s.run(nil)
	n := &testNode{status: exampleStatus(), events: exampleEvents(), steps: args[1:]}
	switch args[0] {
	case "example", "accept":
	case "starting":
		at := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
		n.status = control.Status{At: at, Started: at, Self: "node1", PID: 4711, AutoFailback: "legacy", Phase: "INIT", Hold: "transition",
			Nodes: []control.Node{{Name: "node1", Self: true, Type: "normal", State: "up"}, {Name: "node2", Type: "normal", State: "init"}}}
		n.events = nil
	case "forever":
		n.block = true
	case "refuse", "fail":
		n.err = errFlux
	case "vanish":
		n.then = func() { s.run(nil) }
	case "linger":
		// Its last word comes a while before its end.
		n.then = func() { time.AfterFunc(300*time.Millisecond, func() { s.run(nil) }) }
	case "restart":
		n.then = func() {
			s.run(nil)
			stop, err := serveNode(s.socket, n)
			ts.Check(err)
			s.run(stop)
		}
	case "left":
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.socket, Net: "unix"})
		ts.Check(err)
		l.SetUnlinkOnClose(false)
		l.Close()
		return
	default:
		ts.Fatalf("node %s: no such mode", args[0])
	}
	stop, err := serveNode(s.socket, n)
	ts.Check(err)
	s.node = n
	s.run(stop)
}

// ordered VERB SET FROM waits until the daemon's last order is that one; FROM
// is a regular expression.
func ordered(ts *testscript.TestScript, _ bool, args []string) {
	n := of(ts).node
	from := regexp.MustCompile(args[2])
	var last control.Order
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		n.mu.Lock()
		if len(n.orders) > 0 {
			last = n.orders[len(n.orders)-1]
		}
		n.mu.Unlock()
		if last.Verb == args[0] && last.Set == args[1] && from.MatchString(last.From) {
			return
		}
	}
	ts.Fatalf("the daemon's last order is %+v", last)
}

// fifo [closed] makes the daemon's FIFO and reads it, or stops reading.
func fifo(ts *testscript.TestScript, _ bool, args []string) {
	s := of(ts)
	if len(args) > 0 {
		ts.Check(s.fifo.Close())
		s.fifo = nil
		return
	}
	path := ts.MkAbs("fifo")
	ts.Check(syscall.Mkfifo(path, 0o600))
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NONBLOCK, 0)
	ts.Check(err)
	s.fifo = f
}

// record LINE... reads what was written to the FIFO, which must be one record.
func record(ts *testscript.TestScript, _ bool, args []string) {
	f := of(ts).fifo
	ts.Check(f.SetReadDeadline(time.Now().Add(patience)))
	buf := make([]byte, 2*fifoRecordMax)
	n, err := f.Read(buf)
	ts.Check(err)
	want := ">>>\n" + strings.Join(args, "\n") + "\n<<<\n"
	if got := string(buf[:n]); got != want {
		ts.Fatalf("the FIFO has %q, want %q", got, want)
	}
}

// node-name FILE adds this machine's name to an ha.cf.
func nodeName(ts *testscript.TestScript, _ bool, args []string) {
	host, err := os.Hostname()
	ts.Check(err)
	f, err := os.OpenFile(ts.MkAbs(args[0]), os.O_WRONLY|os.O_APPEND, 0)
	ts.Check(err)
	defer f.Close()
	_, err = fmt.Fprintf(f, "node %s\n", host)
	ts.Check(err)
}
