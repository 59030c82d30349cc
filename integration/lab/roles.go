package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"heartbeat/integration/probe"
)

// Roles a program plays when the lab starts it again.
const (
	roleInit  = "lab:init"
	roleProbe = "lab:probe"
	roleHTTP  = "lab:http-probe"
	roleServe = "lab:serve"
	roleSpin  = "lab:spin"
)

// Main plays the role that the lab started this program for and does not
// return then; in the program itself it returns at once. Call it before
// anything else in main or TestMain.
func Main() {
	if len(os.Args) < 2 || !strings.HasPrefix(os.Args[1], "lab:") {
		return
	}
	if err := play(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
	os.Exit(0)
}

func play(role string, args []string) error {
	switch role {
	case roleInit:
		var spec initSpec
		if err := json.Unmarshal([]byte(args[0]), &spec); err != nil {
			return err
		}
		return spec.run()
	case roleProbe:
		var cfg probe.Config
		if err := json.Unmarshal([]byte(args[0]), &cfg); err != nil {
			return err
		}
		res, err := probe.Run(untilStdinEnds(), cfg, sayReady)
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(res)
	case roleHTTP:
		interval, err := time.ParseDuration(args[1])
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(probe.RunHTTP(untilStdinEnds(), args[0], interval, sayReady))
	case roleServe:
		return serve(args[0], args[1])
	case roleSpin:
		ctx := untilStdinEnds()
		for ctx.Err() == nil {
		}
		return nil
	}
	return fmt.Errorf("no such role")
}

func sayReady() { fmt.Println("ready") }

// untilStdinEnds is a context that ends with the standard input: the way to
// tell a role to finish, which works also when the starter was killed.
func untilStdinEnds() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	return ctx
}

// serve answers every HTTP request with the host name, in the background: it
// returns when the server listens, and the server goes on until SIGTERM.
func serve(listen, pidfile string) error {
	if os.Getenv("LAB_SERVE_CHILD") == "" {
		exe, err := os.Executable()
		if err != nil {
			return err
		}
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		cmd := exec.Command(exe, roleServe, listen, pidfile)
		cmd.Env = append(os.Environ(), "LAB_SERVE_CHILD=1")
		cmd.ExtraFiles = []*os.File{w}
		cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			return err
		}
		_ = w.Close()
		if b, _ := io.ReadAll(r); string(b) != "ready" {
			return fmt.Errorf("the server did not start: %s", b)
		}
		return nil
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	up := os.NewFile(3, "ready")
	say := func(s string) { _, _ = up.WriteString(s); _ = up.Close() }
	l, err := net.Listen("tcp", listen)
	if err == nil {
		err = os.WriteFile(pidfile, fmt.Appendf(nil, "%d\n", os.Getpid()), 0o644)
	}
	if err != nil {
		say(err.Error())
		return err
	}
	host, _ := os.Hostname()
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, host) })}
	go func() { <-ctx.Done(); _ = srv.Close() }()
	say("ready")
	_ = srv.Serve(l)
	_ = os.Remove(pidfile)
	return nil
}

// WebScript is an init-style script (start, stop, status) whose service is a
// tiny HTTP server on port 80 that answers with the node's name.
func WebScript() string {
	exe, err := os.Executable()
	if err != nil {
		panic(err) // Linux: /proc is not mounted, and nothing here could work
	}
	return `#!/bin/sh
# A service as an administrator would put it under heartbeat: start, stop, status.
PIDFILE=/run/web.pid
alive() { [ -s "$PIDFILE" ] && kill -0 "$(cat "$PIDFILE")" 2>/dev/null; }
case "$1" in
start)
	alive && exit 0
	exec ` + exe + ` ` + roleServe + ` :80 "$PIDFILE" </dev/null >/dev/null 2>&1 ;;
stop)
	alive || exit 0
	p=$(cat "$PIDFILE")
	kill "$p"
	while kill -0 "$p" 2>/dev/null; do sleep 0.02; done
	rm -f "$PIDFILE" ;;
status)
	if alive; then echo "web is running"; else echo "web is stopped"; exit 3; fi ;;
*)
	echo "usage: $0 start|stop|status" >&2; exit 2 ;;
esac
`
}
