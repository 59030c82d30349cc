// Command matrix plays every scenario of package interop with all four pairs
// and prints the table of what was measured. It needs root, heartbeat 3.0.6
// and resource-agents, and leaves nothing behind.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"heartbeat/integration/interop"
	"heartbeat/integration/lab"
)

type options struct {
	labs               int
	times              int
	only               string
	pairs              string
	baseline, document string
	logs               string
	record             bool
}

func main() {
	lab.Main()
	var o options
	flag.IntVar(&o.labs, "labs", 8, "labs that run side by side")
	flag.IntVar(&o.times, "times", 20, "rolling upgrades, there and back")
	flag.StringVar(&o.only, "run", "", "play only scenarios whose name matches this regular expression")
	flag.StringVar(&o.pairs, "pairs", "", "play only pairs whose name matches this regular expression")
	flag.StringVar(&o.baseline, "baseline", "integration/interop/testdata/original.json", "what two nodes of 3.0.6 did in earlier runs")
	flag.StringVar(&o.logs, "logs", "", "write the nodes' logs of every scenario into this directory")
	flag.BoolVar(&o.record, "record", false, "add this run's 3.0.6 pair to the baseline file")
	flag.StringVar(&o.document, "document", "", "rewrite the table in this file")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	bad, err := run(ctx, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "interop:", err)
		os.Exit(1)
	}
	if bad > 0 {
		fmt.Fprintf(os.Stderr, "interop: %d failed\n", bad)
		os.Exit(1)
	}
}

// job is one scenario with one pair.
type job struct {
	scenario interop.Scenario
	pair     interop.Pair
	// tries are all outcomes, outcome the last: in those before it 3.0.6 lost a
	// message of its own.
	tries    []interop.Outcome
	outcome  interop.Outcome
	problems []string
}

// excused reports whether a failure is 3.0.6's own.
func (j *job) excused() bool {
	return j.pair == interop.Old && (j.scenario.Fragile || len(j.outcome.Lost) > 0)
}

func run(ctx context.Context, o options) (bad int, err error) {
	only, err := regexp.Compile(o.only)
	if err != nil {
		return 0, err
	}
	pairs, err := regexp.Compile(o.pairs)
	if err != nil {
		return 0, err
	}
	baseline, err := interop.LoadBaseline(o.baseline)
	if err != nil {
		return 0, err
	}
	dir, err := os.MkdirTemp("", "heartbeat-build-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	progs, err := interop.Build(ctx, dir)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	var jobs []*job
	for _, s := range append(interop.Scenarios(), interop.Upgrades(o.times)...) {
		if !only.MatchString(s.Name) {
			continue
		}
		for _, p := range s.RunsWith() {
			if pairs.MatchString(p.Name) {
				jobs = append(jobs, &job{scenario: s, pair: p})
			}
		}
	}
	play(ctx, o.labs, jobs, progs)
	for _, j := range jobs {
		// A run that broke off may have owned an address twice until its end.
		if j.pair == interop.Old && len(j.outcome.Problems) == 0 {
			baseline.Add(j.outcome)
		}
	}
	for _, j := range jobs {
		j.problems = append(baseline.Judge(j.outcome, j.pair), baseline.Slower(j.outcome)...)
		if len(j.problems) > 0 {
			if !j.excused() {
				bad++
			}
			fmt.Printf("\n%s, %s:\n", j.scenario.Name, j.pair.Name)
			for _, p := range j.problems {
				fmt.Println("  ", strings.ReplaceAll(p, "\n", "\n      "))
			}
		}
	}
	if o.logs != "" {
		if err := writeLogs(o.logs, jobs); err != nil {
			return bad, err
		}
	}
	text := table(jobs)
	fmt.Printf("\n%s\n%d scenarios played in %v, %d failed\n", text, len(jobs), time.Since(began).Round(time.Second), bad)
	if o.record {
		if err := baseline.Save(o.baseline); err != nil {
			return bad, err
		}
	}
	if o.document != "" {
		return bad, rewrite(o.document, text)
	}
	return bad, nil
}

// play works through the jobs, some side by side, and fills in the outcomes.
func play(ctx context.Context, labs int, jobs []*job, progs interop.Programs) {
	queue := make(chan *job)
	var workers sync.WaitGroup
	for range labs {
		workers.Go(func() { // ends with the queue
			for j := range queue {
				j.tries = interop.PlayUnlost(ctx, j.scenario, j.pair, progs)
				j.outcome = j.tries[len(j.tries)-1]
				for _, t := range j.tries[:len(j.tries)-1] {
					fmt.Printf("%-8s %-34s %-14s %4.0f s   3.0.6 lost a message of its own: %s\n", "again", t.Scenario, t.Pair, t.Took.Seconds(), strings.Join(t.Lost, "; "))
				}
				word := "done"
				if len(j.outcome.Problems) > 0 {
					word = "FAILED"
				}
				fmt.Printf("%-8s %-34s %-14s %4.0f s\n", word, j.scenario.Name, j.pair.Name, j.outcome.Took.Seconds())
			}
		})
	}
	for _, j := range jobs {
		queue <- j
	}
	close(queue)
	workers.Wait()
}

// writeLogs writes a file for each job and node.
func writeLogs(dir string, jobs []*job) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for i, j := range jobs {
		for k, text := range j.outcome.Logs {
			name := fmt.Sprintf("%s-%s-%d-n%d", j.scenario.Name, strings.ReplaceAll(j.pair.Name, " ", "-"), i, k+1)
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

const (
	tableBegin = "<!-- interop table -->"
	tableEnd   = "<!-- end of interop table -->"
)

// rewrite puts the table between the marks of a document.
func rewrite(path, text string) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	head, rest, ok1 := strings.Cut(string(old), tableBegin)
	_, tail, ok2 := strings.Cut(rest, tableEnd)
	if !ok1 || !ok2 {
		return fmt.Errorf("%s has no place for the table: %s … %s", path, tableBegin, tableEnd)
	}
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	if err := os.WriteFile(tmp, []byte(head+tableBegin+"\n"+text+tableEnd+tail), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
