package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"heartbeat/cluster/control"
)

// acceptLimit is how long hb_standby and hb_takeover wait for the daemon's yes
// or no.
const acceptLimit = 10 * time.Second

// oldStandby is hb_standby: it returns as soon as the daemon has accepted or
// refused, or with --wait when it is done.
func oldStandby(ctx context.Context, v *invocation) int { return v.oldOrder(ctx, control.VerbStandby) }

// oldTakeover is hb_takeover.
func oldTakeover(ctx context.Context, v *invocation) int {
	return v.oldOrder(ctx, control.VerbTakeover)
}

func (v *invocation) oldOrder(ctx context.Context, verb string) int {
	args := slices.DeleteFunc(slices.Clone(v.args), func(a string) bool { return a == "--wait" })
	wait := len(args) < len(v.args)
	set := "all"
	switch {
	case len(args) > 1:
		fmt.Fprintf(v.stdout, "%s: too many arguments\n", v.argv0)
		return v.oldUsage()
	case len(args) == 1:
		set = args[0]
	}
	switch set {
	case "all", "local", "foreign":
	case "failback":
		// What we run for the other node goes back to it. As a takeover it says
		// nothing to the other node's script, which then gives everything.
		if set = "foreign"; verb == control.VerbTakeover {
			set = "all"
		}
	case "--help":
		return v.oldUsage()
	default:
		fmt.Fprintf(v.stdout, "%s: wrong resources(%s).\n", v.argv0, set)
		return v.oldUsage()
	}
	if verb == control.VerbStandby {
		line := "Going standby [" + set + "]."
		if !isTerminal(v.stdin) {
			line = stamp() + " " + line
		}
		fmt.Fprintln(v.stderr, line)
	}

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if !wait {
		ctx, cancel = context.WithTimeout(ctx, acceptLimit)
		defer cancel()
	}
	order := control.Order{Verb: verb, Set: set, From: v.name()}
	err := control.Dial(socketPath()).Order(ctx, order, func(st control.Step) bool {
		if wait {
			v.printStep(st)
		}
		return wait
	})
	if err != nil {
		fmt.Fprintf(v.stderr, "%s: %s\n", v.argv0, sentence(err))
		return 1
	}
	return 0
}

// oldUsage is spread over both outputs, as in the original.
func (v *invocation) oldUsage() int {
	fmt.Fprintln(v.stdout, "usage:")
	fmt.Fprintf(v.stderr, "%s [all|foreign|local|failback]\n", v.argv0)
	return 1
}

// printStep prints one sentence of progress.
func (v *invocation) printStep(st control.Step) {
	fmt.Fprintf(v.stdout, "%s %s\n", st.At.Local().Format("15:04:05.000"), st.Text)
}

// Bounds of a record in the daemon's FIFO.
const (
	defaultFIFO    = "/var/lib/heartbeat/fifo"
	fifoLineMax    = 511
	fifoRecordMax  = 4096 // PIPE_BUF: a longer write may be torn apart
	fifoWriteLimit = 5 * time.Second
)

func addNode(_ context.Context, v *invocation) int { return v.nodeList("addnode") }
func delNode(_ context.Context, v *invocation) int { return v.nodeList("delnode") }

func (v *invocation) nodeList(kind string) int {
	if len(v.args) == 0 || len(v.args) == 1 && v.args[0] == "--help" {
		fmt.Fprintf(v.stdout, "usage: hb_%s <node> <node> ...\n", kind)
		return 1
	}
	return v.message("t="+kind, "nodelist="+strings.Join(v.args, " "))
}

func setWeight(_ context.Context, v *invocation) int { return v.setNode("weight") }
func setSite(_ context.Context, v *invocation) int   { return v.setNode("site") }

func (v *invocation) setNode(what string) int {
	if len(v.args) == 0 || v.args[0] == "--help" {
		fmt.Fprintf(v.stdout, "usage: hb_set%s <node> <%s>\n", what, what)
		return 1
	}
	var value string
	if len(v.args) > 1 {
		value = v.args[1]
	}
	return v.message("t=set"+what, "node="+v.args[0], what+"="+value)
}

// message writes a record to the FIFO, or says why it cannot.
func (v *invocation) message(lines ...string) int {
	path := os.Getenv("HA_FIFO")
	if path == "" {
		path = defaultFIFO
	}
	if err := writeRecord(path, lines); err != nil {
		fmt.Fprintf(v.stderr, "%s: %v\n", v.argv0, err)
		return 1
	}
	return 0
}

// writeRecord writes a record in one piece. Where nobody reads it fails at
// once; the original would wait for ever.
func writeRecord(path string, lines []string) error {
	for _, line := range lines {
		switch {
		case strings.ContainsAny(line, "\n\r\x00"):
			return fmt.Errorf("%q: control characters cannot be sent", line)
		case len(line) > fifoLineMax:
			return fmt.Errorf("%.40q…: longer than %d characters", line, fifoLineMax)
		}
	}
	record := ">>>\n" + strings.Join(lines, "\n") + "\n<<<\n"
	if len(record) > fifoRecordMax {
		return fmt.Errorf("message longer than %d bytes", fifoRecordMax)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|syscall.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, syscall.ENXIO), errors.Is(err, syscall.ENOENT):
		return fmt.Errorf("%w: nobody reads %s", control.ErrNoDaemon, path)
	case err != nil:
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Mode().Type() != os.ModeNamedPipe {
		return fmt.Errorf("%w: %s is not a FIFO", control.ErrNoDaemon, path)
	}
	if err := f.SetWriteDeadline(time.Now().Add(fifoWriteLimit)); err != nil {
		return err
	}
	if _, err := f.WriteString(record); err != nil {
		return err
	}
	return nil
}
