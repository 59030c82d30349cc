package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"heartbeat/cluster/control"
)

// recordedRun is one call of heartbeat 3.0.6's cl_status: a block of a file in
// testdata/cl_status. Its lines are "out|" for stdout, "err|" for stderr and
// "log|" for stderr without the date, host and pid in front.
type recordedRun struct {
	args     []string
	out, err string
	code     int
}

func recordedRuns(t *testing.T, path string) []recordedRun {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var runs []recordedRun
	for block := range strings.SplitSeq(strings.TrimSpace(string(text)), "\n\n$ ") {
		var r recordedRun
		for i, line := range strings.Split(strings.TrimPrefix(block, "$ "), "\n") {
			switch kind, rest, _ := strings.Cut(line, "|"); {
			case i == 0:
				for _, arg := range strings.Fields(line)[1:] {
					r.args = append(r.args, strings.Trim(arg, "'"))
				}
			case kind == "out":
				r.out += rest + "\n"
			case kind == "err":
				r.err += rest + "\n"
			case kind == "log":
				r.err += "cl_status: [PID]: " + rest + "\n"
			default:
				if r.code, err = strconv.Atoi(strings.TrimPrefix(line, "exit ")); err != nil {
					t.Fatalf("%s: %q: %v", path, line, err)
				}
			}
		}
		runs = append(runs, r)
	}
	return runs
}

// logPrefix is what the original puts before a line of its log.
var logPrefix = regexp.MustCompile(`(?m)^[A-Z][a-z]{2} [0-9]{2} [0-9:]{8} \S+ cl_status: \[[0-9]+\]: `)

// recordedNode is the node that the runs were recorded on.
func recordedNode(ping string, peer string, hold string, added ...string) *testNode {
	up := peer == "active"
	links := func(up bool) []control.Link {
		return []control.Link{{Name: "eth0", Up: up}, {Name: "eth1", Up: up}}
	}
	n := &testNode{params: map[string]string{
		"deadtime": "4", "keepalive": "500ms", "warntime": "2", "initdead": "8", "deadping": "4000ms", "udpport": "694",
		"auto_failback": "off", "logfile": "/var/log/ha-log", "hbversion": "3.0.6 (node: 958e11be8686759f1b99204c17812f2c2633b169)",
	}}
	n.status = exampleStatus()
	n.status.Version = n.params["hbversion"]
	n.status.Hold = hold
	n.status.Nodes = []control.Node{
		{Name: "node1", Self: true, Type: "normal", State: "active", Links: links(true)},
		{Name: "node2", Type: "normal", State: peer, Links: links(up)},
		{Name: ping, Type: "ping", State: "ping", Links: []control.Link{{Name: ping, Up: true}}},
	}
	for _, name := range added {
		n.status.Nodes = append(n.status.Nodes, control.Node{Name: name, Type: "normal", State: "dead", Links: links(false)})
	}
	return n
}

// TestClStatusAsRecorded runs every recorded call against a node in the same
// state and wants the same bytes and exit code.
func TestClStatusAsRecorded(t *testing.T) {
	for _, tc := range []struct {
		file string
		node *testNode
	}{
		{"peer-dead.txt", recordedNode("192.168.77.1", "dead", "transition")},
		{"peer-alive.txt", recordedNode("127.0.0.1", "active", "local")},
		{"nodes-added.txt", recordedNode("127.0.0.1", "active", "all", "n3", "n4")},
		{"stopped.txt", nil},
		// A daemon that waits for its peer at start counts as stopped.
		{"stopped.txt", &testNode{status: control.Status{CommUp: false}}},
	} {
		t.Run(tc.file, func(t *testing.T) {
			useNode(t, tc.node)
			for _, want := range recordedRuns(t, filepath.Join("testdata/cl_status", tc.file)) {
				var out, stderr bytes.Buffer
				code := Run(t.Context(), "/usr/bin/cl_status", want.args, nil, &out, &stderr)
				gotErr := logPrefix.ReplaceAllString(stderr.String(), "cl_status: [PID]: ")
				if out.String() != want.out || gotErr != want.err || code != want.code {
					t.Errorf("cl_status %q\n got %d\n%s%s\nwant %d\n%s%s", want.args, code, out.String(), gotErr, want.code, want.out, want.err)
				}
			}
		})
	}
}

// TestClStatusHolds covers the words that were not on the recorded nodes.
func TestClStatusHolds(t *testing.T) {
	for _, hold := range []string{"none", "local", "foreign", "all"} {
		n := recordedNode("127.0.0.1", "active", hold)
		useNode(t, n)
		var out bytes.Buffer
		if code := Run(t.Context(), "cl_status", []string{"rscstatus", "-m"}, nil, &out, &out); code != 0 || out.String() != "This node is holding "+hold+" resources.\n" {
			t.Errorf("%s: %d %q", hold, code, out.String())
		}
	}
	legacy := recordedNode("127.0.0.1", "active", "all")
	legacy.status.AutoFailback = "legacy"
	useNode(t, legacy)
	var word bytes.Buffer
	if code := Run(t.Context(), "cl_status", []string{"rscstatus"}, nil, &word, &word); code != 0 || word.String() != "none\n" {
		t.Errorf("with auto_failback legacy: %d %q", code, word.String())
	}
	for state, code := range map[string]int{"active": 0, "up": 0, "ping": 0, "dead": 1, "init": 1} {
		useNode(t, recordedNode("127.0.0.1", state, "all"))
		var out bytes.Buffer
		if got := Run(t.Context(), "cl_status", []string{"nodestatus", "node2"}, nil, &out, &out); got != code || out.String() != state+"\n" {
			t.Errorf("%s: %d %q", state, got, out.String())
		}
	}
}

// TestClStatusFrozenDaemon: the whole run is bounded.
func TestClStatusFrozenDaemon(t *testing.T) {
	useFrozenDaemon(t)
	var out bytes.Buffer
	if code := Run(t.Context(), "cl_status", []string{"hbstatus"}, nil, &out, &out); code != 12 {
		t.Errorf("exit %d, want 12\n%s", code, out.String())
	}
}
