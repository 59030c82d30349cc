package node

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"heartbeat/cluster"
	"heartbeat/cluster/control"
	"heartbeat/cluster/engine"
)

// TestNextGeneration has the file's format, its growth and its first value.
func TestNextGeneration(t *testing.T) {
	for _, c := range []struct {
		name, before, after, warning string
		missing                      bool
		value                        uint64
	}{
		{name: "counts up", before: "     1795233207\n", after: "     1795233208\n", value: 1795233208},
		{name: "without blanks", before: "7", after: "              8\n", value: 8},
		{name: "missing", missing: true, after: "     1795233207\n", value: 1795233207, warning: "No Previous generation - starting at 1795233207"},
		{name: "empty", before: "", after: "     1795233207\n", value: 1795233207, warning: "No Previous generation - starting at 1795233207"},
		{name: "broken", before: "x\n", after: "     1795233207\n", value: 1795233207, warning: "BROKEN previous generation - starting at 1795233207"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "hb_generation")
			if !c.missing {
				if err := os.WriteFile(path, []byte(c.before), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			g, err := NextGeneration(path, 1795233206)
			if err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if g.Value != c.value || g.Warning != c.warning || string(text) != c.after {
				t.Errorf("got %+v and file %q, want %d, %q, %q", g, text, c.value, c.warning, c.after)
			}
			if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".*")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
	if _, err := NextGeneration(filepath.Join(t.TempDir(), "no", "hb_generation"), 1); err == nil {
		t.Error("a generation that cannot be stored is used")
	}
}

// TestLoadUUID: created once as 16 raw bytes (version 4), then kept.
func TestLoadUUID(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hb_uuid")
	first, created, err := LoadUUID(path)
	if err != nil || !created {
		t.Fatalf("created %v, %v", created, err)
	}
	if first[6]>>4 != 4 || first[8]>>6 != 2 {
		t.Errorf("%x is no version 4 uuid", first)
	}
	raw, err := os.ReadFile(path)
	if err != nil || string(raw) != string(first[:]) {
		t.Errorf("file has %x (%v)", raw, err)
	}
	second, created, err := LoadUUID(path)
	if err != nil || created || second != first {
		t.Errorf("second start: %x, created %v, %v", second, created, err)
	}
	if err := os.WriteFile(path, []byte("short"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := LoadUUID(path); err == nil {
		t.Error("a damaged uuid was replaced without a word: the peer would take this node for another one")
	}
}

// TestUUIDFromName: the same at every start, another one for another node.
func TestUUIDFromName(t *testing.T) {
	a := UUIDFromName("node1")
	if a != UUIDFromName("node1") || a == UUIDFromName("node2") || a[6]>>4 != 8 || a[8]>>6 != 2 {
		t.Errorf("node1 %x, node2 %x", a, UUIDFromName("node2"))
	}
}

// TestHistory: the last events survive a restart, the file stays bounded, and a
// line cut off by a crash costs itself only.
func TestHistory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.jsonl")
	f, err := OpenHistory(path)
	if err != nil {
		t.Fatal(err)
	}
	const events = 5*HistoryMax + 7
	for i := range events {
		if err := f.append(control.Event{At: time.Unix(int64(i), 0).UTC(), Kind: "owner", Text: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), "\n"); n > historyFileMax {
		t.Errorf("file has %d lines", n)
	}
	if err := os.WriteFile(path, append(text, `{"at":"2026-`...), 0o644); err != nil {
		t.Fatal(err)
	}
	if f, err = OpenHistory(path); err != nil {
		t.Fatal(err)
	}
	if err := f.append(control.Event{Kind: "node", Text: "after the crash"}); err != nil {
		t.Fatal(err)
	}
	if f, err = OpenHistory(path); err != nil {
		t.Fatal(err)
	}
	last := f.kept.last(3)
	var got []string
	for _, e := range last {
		got = append(got, e.Text)
	}
	if want := []string{"after the crash", fmt.Sprint(events - 1), fmt.Sprint(events - 2)}; !slices.Equal(got, want) {
		t.Errorf("last events are %q, want %q", got, want)
	}
	if len(f.kept.events) != HistoryMax {
		t.Errorf("%d events were kept", len(f.kept.events))
	}
}

// TestFIFO feeds the pipe as scripts do: whole records, records in pieces,
// nonsense between them.
func TestFIFO(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fifo")
	if err := os.WriteFile(path, []byte(">>>\nt=ask_resources\n<<<\n"), 0o644); err != nil {
		t.Fatal(err) // a command that ran while no daemon did leaves a file
	}
	f, created, err := OpenFIFO(path)
	if err != nil || !created {
		t.Fatalf("created %v, %v", created, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != os.ModeNamedPipe|0o600 {
		t.Errorf("fifo has mode %v (%v)", info.Mode(), err)
	}
	if again, created, err := OpenFIFO(path); err != nil || created {
		t.Errorf("second open: created %v, %v", created, err)
	} else if err := again.Close(); err != nil {
		t.Error(err)
	}
	got := make(chan string, 10)
	eng := &scripted{none: true}
	eng.on = func(_ cluster.Instant, in engine.Input) []engine.Output {
		if m, ok := in.(engine.FIFOMessage); ok {
			got <- fmt.Sprint(m.Fields)
		}
		return nil
	}
	n := New(Options{Engine: eng, Log: quietLog(t)})
	n.Start(f, nil)
	out := make(chan Outcome, 1)
	go func() { out <- n.Run() }()
	w, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, piece := range []string{
		"noise\n>>>\nt=ask_resources\nrsc_hold=all\ninfo=me\n<<<\n",
		">>>\nthis line has no equals sign\n<<<\n",
		">>>\nno_type=1\n<<<\n",
		">>>\nt=hb_take", "over\nrsc_hold=local\n<", "<<\n",
	} {
		if _, err := w.WriteString(piece); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"[[t ask_resources] [rsc_hold all] [info me]]", "[[t hb_takeover] [rsc_hold local]]"} {
		select {
		case m := <-got:
			if m != want {
				t.Errorf("got %s, want %s", m, want)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("%s did not arrive", want)
		}
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if err := n.call(t.Context(), func() { n.do(0, engine.Exit{}) }); err != nil {
		t.Error(err)
	}
	<-out
	n.End() // would hang if the reader did not end
}

// TestScripts runs rc.d scripts: the administrator's with the message in its
// environment, the original's stock ones not at all.
func TestScripts(t *testing.T) {
	dir := t.TempDir()
	rcd := filepath.Join(dir, "rc.d")
	if err := os.Mkdir(rcd, 0o755); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out")
	write := func(name, text string, mode os.FileMode) {
		if err := os.WriteFile(filepath.Join(rcd, name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	record := "#!/bin/sh\necho \"$0 $* st=$HA_st src=$HA_src own=$HA_OSTATUS extra=$EXTRA\" >> " + out + "\n"
	write("myevent", record, 0o755)
	write("status", record, 0o755)
	write("hb_takeover", "#!/bin/sh\n"+ownMark+"\necho stock >> "+out+"\n", 0o755)
	write("noexec", record, 0o644)
	write("failing", "#!/bin/sh\necho why >&2\nexit 3\n", 0o755)
	n := New(Options{
		Engine: &scripted{}, Log: quietLog(t), Paths: Paths{Config: dir, State: dir},
		ScriptEnv: func() []string { return []string{"EXTRA=yes"} },
	})
	for _, c := range []struct{ typ, err string }{
		{"MyEvent", ""}, {"status", ""}, {"hb_takeover", ""}, {"absent", ""}, {"../out", ""}, {".", ""},
		{"noexec", "not executable"}, {"failing", "script ended with code 3: why"},
	} {
		err := n.runScript(t.Context(), cluster.Job{
			Kind: cluster.JobScript, Title: c.typ,
			Message: [][2]string{{"st", "dead"}, {"src", "node2"}, {"od d", "x"}},
		}, "active")
		if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s: %v, want %q", c.typ, err, c.err)
		}
	}
	text, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	want := ""
	for _, typ := range []string{"myevent", "status"} {
		want += fmt.Sprintf("%s/%s %s st=dead src=node2 own=active extra=yes\n", rcd, typ, typ)
	}
	if string(text) != want {
		t.Errorf("scripts wrote\n%swant\n%s", text, want)
	}
	if _, err := os.Stat("/etc/ha.d/rc.d/status"); err == nil {
		for _, typ := range stockScripts {
			if path := "/etc/ha.d/rc.d/" + typ; !isStockScript(path) {
				t.Errorf("%s as installed is taken for the administrator's", path)
			}
		}
	}
}
