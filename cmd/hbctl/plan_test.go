package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var rewrite = flag.Bool("rewrite", false, "write what hbctl plan says to the files of testdata/plan")

// planDir copies the files of a case to where authkeys has its mode.
func planDir(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "ha.d")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"ha.cf", "haresources", "authkeys"} {
		data, err := os.ReadFile(filepath.Join("testdata/plan", name, file))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, file), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func runPlan(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	code = Run(context.Background(), "hbctl", append([]string{"plan"}, args...), strings.NewReader(""), &out, &errs)
	return out.String(), errs.String(), code
}

// counts are how many states and ways there are: they change with every change of
// the engine, and lines break elsewhere then.
var counts = regexp.MustCompile(`\d+ (different states|runs|hours|way leads|ways lead)`)

func uncounted(text string) string {
	return counts.ReplaceAllString(strings.Join(strings.Fields(text), " "), "N")
}

// TestPlan: what is said about typical pairs, word for word but for counts, and
// the same in JSON.
func TestPlan(t *testing.T) {
	for _, name := range []string{"one-link", "ipfail", "stonith"} {
		for _, tt := range []struct {
			file string
			args []string
		}{{"plan.txt", nil}, {"explore.txt", []string{"--explore", "--faults", "1"}}} {
			t.Run(name+"/"+tt.file, func(t *testing.T) {
				dir := planDir(t, name)
				got, errs, code := runPlan(t, append(tt.args, dir)...)
				if code != 0 {
					t.Fatalf("ends with %d: %s", code, errs)
				}
				path := filepath.Join("testdata/plan", name, tt.file)
				if *rewrite {
					if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(path)
				if err != nil && !os.IsNotExist(err) {
					t.Fatal(err)
				}
				if uncounted(got) != uncounted(string(want)) {
					t.Errorf("differs from %s (-rewrite accepts it):\n%s", path, got)
				}
				text, errs, code := runPlan(t, append(append([]string{"--json"}, tt.args...), dir)...)
				if code != 0 {
					t.Fatalf("--json ends with %d: %s", code, errs)
				}
				sameInJSON(t, text, got)
			})
		}
	}
}

// sameInJSON compares the sentences of the text with those in JSON, whose lines
// are not broken.
func sameInJSON(t *testing.T, text, printed string) {
	t.Helper()
	var out struct {
		Scenes []struct {
			Title string
			Text  []string
		}
		States   int
		Findings []struct {
			Kind, Class string
			Remedies    []string
			Way         []struct{ Text string }
		}
	}
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		t.Fatal(err)
	}
	flat := strings.Join(strings.Fields(printed), " ")
	seen := 0
	has := func(sentence string) {
		seen++
		if !strings.Contains(flat, strings.Join(strings.Fields(sentence), " ")) {
			t.Errorf("only in JSON: %s", sentence)
		}
	}
	for _, s := range out.Scenes {
		has(s.Title + ":")
		for _, x := range s.Text {
			has(x)
		}
	}
	for _, f := range out.Findings {
		has(f.Class)
		for _, x := range f.Remedies {
			has(x)
		}
		for _, x := range f.Way {
			has(x.Text)
		}
	}
	if seen < 5 {
		t.Errorf("only %d sentences in JSON", seen)
	}
}

// TestPlanLimit: a limit that comes too early is said.
func TestPlanLimit(t *testing.T) {
	got, errs, code := runPlan(t, "--explore", "--faults", "3", "--limit", "1ms", planDir(t, "one-link"))
	if code != 0 || !strings.Contains(got, "NOT COMPLETE") {
		t.Errorf("ends with %d, %q:\n%s", code, errs, got)
	}
}

// TestPlanSteps: each step has its time.
func TestPlanSteps(t *testing.T) {
	got, errs, code := runPlan(t, "--steps", planDir(t, "one-link"))
	if code != 0 {
		t.Fatal(errs)
	}
	for _, want := range []string{"      0.000 > alpha loses its power\n", "     28.003   beta: group 192.0.2.10/24/eth0 begins to start\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no step %q in\n%s", want, got)
		}
	}
}

// TestPlanRefuses: errors of the files are told as check tells them, and what
// cannot be planned is said in a sentence.
func TestPlanRefuses(t *testing.T) {
	change := func(file, from, to string) func(string) {
		return func(dir string) {
			path := filepath.Join(dir, file)
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(strings.Replace(string(data), from, to, 1)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tt := range []struct {
		name   string
		change func(dir string)
		args   []string
		code   int
		stdout string
		stderr string
	}{
		{"an unknown directive", change("ha.cf", "keepalive 2", "keepalife 2"), nil, 1, "ha.cf:1:", "heartbeat would not start with the files of"},
		{"three nodes", change("ha.cf", "node alpha beta", "node alpha beta gamma"), nil, 1, "", "names 3 nodes: a plan is made for a pair"},
		{"no group", change("haresources", "alpha 192.0.2.10/24/eth0 apache2", "# none"), nil, 1, "", "names no group"},
		{"no faults", func(string) {}, []string{"--explore", "--faults", "0"}, 2, "", "must be from 1 to 5"},
		{"no time", func(string) {}, []string{"--start", "0s"}, 2, "", "--start and --stop"},
		{"steps of an exploration", func(string) {}, []string{"--explore", "--steps"}, 2, "", "--steps does not go with --explore"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := planDir(t, "one-link")
			tt.change(dir)
			out, errs, code := runPlan(t, append(tt.args, dir)...)
			if code != tt.code || !strings.Contains(out, tt.stdout) || !strings.Contains(errs, tt.stderr) || tt.stdout == "" && out != "" {
				t.Errorf("ends with %d, want %d:\n%s\n%s", code, tt.code, out, errs)
			}
		})
	}
}

// TestPlanTouchesNothing: the files stay as they are, and none is added.
func TestPlanTouchesNothing(t *testing.T) {
	dir := planDir(t, "one-link")
	list := func() (all string) {
		if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			all += path + info.ModTime().String() + "\n"
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return all
	}
	before := list()
	if _, errs, code := runPlan(t, dir); code != 0 {
		t.Fatal(errs)
	}
	if after := list(); after != before {
		t.Errorf("before:\n%safter:\n%s", before, after)
	}
}
