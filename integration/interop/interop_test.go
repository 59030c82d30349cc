package interop

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"heartbeat/integration/lab"
)

var progs Programs

// pauseMax is how long the machine may stand still without changing what happens:
// 3.0.6 takes its own lateness for the silence of its peer, and what it does in words
// and deeds when it has stood still is not what was recorded.
const pauseMax = keepalive

func TestMain(m *testing.M) {
	lab.Main()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	flag.Parse()
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "interop: the labs make network namespaces: run the tests as root")
		return 1
	}
	// More labs than processors: they wait, they do not compute.
	if err := flag.Set("test.parallel", "5"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	dir, err := os.MkdirTemp("", "heartbeat-build-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if progs, err = Build(context.Background(), dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// TestCore plays the core scenarios with ours on n1 and on n2, against what
// two nodes of 3.0.6 did.
func TestCore(t *testing.T) {
	baseline, err := LoadBaseline("testdata/original.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range Scenarios() {
		if !s.Core {
			continue
		}
		if baseline[s.Name] == nil {
			t.Errorf("testdata/original.json has no scenario %s: run the matrix", s.Name)
			continue
		}
		for _, p := range BothMixed {
			t.Run(s.Name+"/"+p.shortLabel, func(t *testing.T) {
				t.Parallel()
				var o Outcome
				var problems []string
				for played := 1; ; played++ {
					tries := PlayUnlost(t.Context(), s, p, progs)
					o = tries[len(tries)-1]
					for _, lost := range tries[:len(tries)-1] {
						t.Logf("played again, for 3.0.6 lost a message of its own: %q", lost.Lost)
					}
					problems = baseline.Judge(o, p)
					if len(problems) == 0 || o.Paused < pauseMax || played == triesMax {
						break
					}
					t.Logf("played again, for this machine stood still for %v: %q", o.Paused, problems)
				}
				for _, a := range o.Acts {
					t.Logf("%-45s outage %v, dual %v", a.Name, a.Outage.Round(0), a.Dual.Round(0))
				}
				for _, problem := range problems {
					t.Error(problem)
				}
				if t.Failed() {
					for i, text := range o.Logs {
						t.Logf("n%d holds %s\n%s", i+1, o.Holds[i], text)
					}
				}
			})
		}
	}
}

// TestLosses: the losses of 3.0.6 are told from its log. In the recorded runs
// there are some where the format is netstring, and none anywhere else; with
// auto_failback legacy it has nothing to say of a takeover.
func TestLosses(t *testing.T) {
	logs, err := filepath.Glob("../../transport/message/testdata/vectors/*/node*-ha-log.txt")
	if err != nil || len(logs) < 40 {
		t.Fatalf("%d logs of recorded runs, %v", len(logs), err)
	}
	for _, path := range logs {
		if strings.Contains(path, "/legacy/") {
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		lost := lossesIn(string(text))
		if netstring := strings.Contains(path, "/netstring-md5/node1"); netstring != (len(lost) > 0) {
			t.Errorf("%s: %q", path, lost)
		}
	}
}
