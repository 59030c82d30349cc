package interop

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"

	"heartbeat/integration/lab"
)

var progs Programs

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
				o := Play(t.Context(), s, p, progs)
				for _, a := range o.Acts {
					t.Logf("%-45s outage %v, dual %v", a.Name, a.Outage.Round(0), a.Dual.Round(0))
				}
				for _, problem := range baseline.Judge(o, p) {
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
