package main

import (
	"bytes"
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"

	"heartbeat/cluster/control"
)

// Every kind of error of the control API has its exit code and its sentence.
func TestErrorsHaveCodes(t *testing.T) {
	for _, tc := range []struct {
		err  error
		code int
		text string
	}{
		{fmt.Errorf("%w (x)", control.ErrNoDaemon), 3, "heartbeat is not running (x)"},
		{fmt.Errorf("%w: y", control.ErrPermission), 4, "permission denied: y"},
		{fmt.Errorf("%w (x)", control.ErrTimeout), 1, "the daemon does not answer (x)"},
		{&control.Refused{Reason: "in flux"}, 1, "in flux"},
		{fmt.Errorf("read: %w", context.DeadlineExceeded), 1, "the daemon does not answer"},
		{context.Canceled, 1, "interrupted; what the daemon has begun goes on"},
	} {
		got := failed(tc.err).(*exitError)
		if got.code != tc.code || got.text != tc.text {
			t.Errorf("%v: %d %q, want %d %q", tc.err, got.code, got.text, tc.code, tc.text)
		}
	}
}

// On a terminal what is bad is red, and nothing else changes.
func TestColours(t *testing.T) {
	var plain, red bytes.Buffer
	printStatus(&plain, exampleStatus(), false)
	printStatus(&red, exampleStatus(), true)
	escape := regexp.MustCompile("\x1b\\[[0-9]*m")
	if got := escape.ReplaceAllString(red.String(), ""); got != plain.String() {
		t.Errorf("colours move text:\n%s\n%s", got, plain.String())
	}
	for _, bad := range []string{"dead", "one way only", "failed", "nobody", "warning: haresources differs between node1 and node2"} {
		if !strings.Contains(red.String(), "\x1b[31m"+bad+"\x1b[0m") {
			t.Errorf("%q is not red in\n%q", bad, red.String())
		}
	}
	if strings.Contains(plain.String(), "\x1b") {
		t.Error("plain text has escapes")
	}
}

// hb_standby's line has a date only where there is no terminal, as the original's.
func TestStandbyOnTerminal(t *testing.T) {
	ptmx, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer ptmx.Close()
	defer tty.Close()
	useNode(t, &testNode{})
	var out, stderr bytes.Buffer
	if code := Run(t.Context(), "hb_standby", []string{"local"}, tty, &out, &stderr); code != 0 || stderr.String() != "Going standby [local].\n" || out.Len() > 0 {
		t.Errorf("%d %q %q", code, out.String(), stderr.String())
	}
}

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 0: "0.0s", 9940 * time.Millisecond: "9.9s", 10 * time.Second: "10s", 59 * time.Second: "59s",
		time.Minute: "1m0s", time.Hour - time.Second: "59m59s", 25 * time.Hour: "1d1h",
	} {
		if got := span(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}
