// Command bench measures failover as a client sees it: this project's program,
// heartbeat 3.0.6 and keepalived side by side, in the same labs, with the same
// faults and the same prober, interleaved in one run.
//
// It prints a table in Markdown with a verdict per row and writes it, with
// every single sample, to build/bench. It needs root and the three programs;
// the exit code is 1 when a measurement failed or a target was missed.
//
//	go run ./integration/bench                      everything, about half an hour
//	go run ./integration/bench -quick               one repetition, short windows
//	go run ./integration/bench -cells single,cost -reps 9
//	go run ./integration/bench -drivers heartbeat,keepalived
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"heartbeat/integration/lab"
)

func main() {
	lab.Main()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	ok, err := run(ctx)
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

func run(ctx context.Context) (ok bool, err error) {
	b := &bench{began: time.Now(), windows: 60 * time.Second}
	names := flag.String("drivers", "ours,heartbeat,keepalived", "programs to measure")
	cells := flag.String("cells", strings.Join(cellNames(), ","), "what to measure")
	flag.IntVar(&b.reps, "reps", 5, "repetitions; the table has medians")
	flag.IntVar(&b.slowReps, "slow-reps", 1, "repetitions of what takes heartbeat 3.0.6 minutes")
	flag.DurationVar(&b.windows, "window", b.windows, "length of the windows without and with load, and for processor time")
	flag.IntVar(&b.many, "many", 500, "addresses in the crash of many")
	quick := flag.Bool("quick", false, "one repetition, windows of 10 s, 100 addresses instead of 500")
	out := flag.String("out", filepath.Join("build", "bench"), "directory for the results")
	bin := flag.String("bin", "", "directory with this project's programs; empty: build them")
	flag.Parse()
	if *quick {
		given := map[string]bool{}
		flag.Visit(func(f *flag.Flag) { given[f.Name] = true })
		for name, value := range map[string]string{"reps": "1", "window": "10s", "many": "100"} {
			if !given[name] {
				if err := flag.Set(name, value); err != nil {
					return false, err
				}
			}
		}
	}
	for _, name := range strings.Split(*names, ",") {
		d, cleanup, err := driver(ctx, name, *bin)
		if err != nil {
			return false, err
		}
		defer cleanup()
		if err := d.Check(); err != nil {
			return false, err
		}
		b.drivers = append(b.drivers, d)
	}
	for _, name := range strings.Split(*cells, ",") {
		i := slices.IndexFunc(allCells, func(c cell) bool { return c.name == name })
		if i < 0 {
			return false, fmt.Errorf("no cell %q; there are %s", name, strings.Join(cellNames(), ", "))
		}
		c := allCells[i]
		b.say("%s: %s", c.name, c.what)
		cctx, cancel := context.WithTimeout(ctx, c.limit)
		err := c.run(cctx, b)
		cancel()
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		if err != nil {
			b.failed(c.name, "all", err)
		}
	}
	r := b.report(time.Now())
	fmt.Print("\n", r.Markdown())
	return r.OK(), r.write(*out)
}

func driver(ctx context.Context, name, bin string) (d lab.Driver, cleanup func(), err error) {
	switch name {
	case "heartbeat":
		return lab.Original(), func() {}, nil
	case "keepalived":
		return &lab.Keepalived{}, func() {}, nil
	case "ours":
		if bin != "" {
			bin, err = filepath.Abs(bin)
			return lab.Ours(bin), func() {}, err
		}
		dir, err := os.MkdirTemp("", "heartbeat-bench-")
		if err != nil {
			return nil, nil, err
		}
		if err := lab.Build(ctx, dir); err != nil {
			return nil, nil, errors.Join(err, os.RemoveAll(dir))
		}
		return lab.Ours(dir), func() { _ = os.RemoveAll(dir) }, nil
	}
	return nil, nil, fmt.Errorf("no program %q: ours, heartbeat or keepalived", name)
}

// bench is one run.
type bench struct {
	began          time.Time
	drivers        []lab.Driver
	reps, slowReps int
	windows        time.Duration
	many           int
	samples        []Sample
	problems       []Problem
}

// Sample is one measurement.
type Sample struct {
	Cell, Driver string
	Rep          int `json:",omitempty"`
	// Value in the cell's unit: milliseconds, seconds per hour or bytes.
	Value float64
	// More is what else was seen.
	More map[string]float64 `json:",omitempty"`
}

// Problem is a measurement that failed.
type Problem struct{ Cell, Driver, Error string }

func (b *bench) say(format string, args ...any) {
	fmt.Printf("[%6.1f s] %s\n", time.Since(b.began).Seconds(), fmt.Sprintf(format, args...))
}

func (b *bench) sample(s Sample) {
	b.samples = append(b.samples, s)
	var more strings.Builder
	for _, k := range slices.Sorted(keys(s.More)) {
		fmt.Fprintf(&more, "  %s %.5g", k, s.More[k])
	}
	b.say("  %-12s %-10s #%d  %10.2f%s", s.Cell, s.Driver, s.Rep, s.Value, more.String())
}

func (b *bench) failed(cell, driver string, err error) {
	b.problems = append(b.problems, Problem{cell, driver, err.Error()})
	b.say("  %s %s FAILED: %v", cell, driver, err)
}

func keys(m map[string]float64) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}
