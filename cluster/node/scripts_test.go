package node

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestMessageScripts: which files in rc.d cost a job.
func TestMessageScripts(t *testing.T) {
	dir := t.TempDir()
	if got, err := MessageScripts(dir); got != nil || err != nil {
		t.Errorf("without rc.d: %v, %v", got, err)
	}
	rcd := filepath.Join(dir, "rc.d")
	for name, text := range map[string]string{
		"status":      "#!/bin/sh\n" + ownMark + "\n",
		"hb_takeover": "#!/bin/sh\necho mine\n",
		"myevent":     "#!/bin/sh\n" + ownMark + "\n", // nothing is built in for it
		"MyEvent":     "#!/bin/sh\n",                  // never called: types are looked for in lower case
		".hidden":     "#!/bin/sh\n",
	} {
		if err := os.MkdirAll(rcd, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(rcd, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(rcd, "directory"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("myevent", filepath.Join(rcd, "linked")); err != nil {
		t.Fatal(err)
	}
	got, err := MessageScripts(dir)
	slices.Sort(got)
	if want := "[hb_takeover linked myevent]"; err != nil || fmt.Sprint(got) != want {
		t.Errorf("got %v, %v, want %s", got, err, want)
	}
	if err := os.RemoveAll(rcd); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(rcd, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := MessageScripts(dir); err == nil || !strings.HasPrefix(err.Error(), "list message scripts: ") {
		t.Errorf("rc.d is a file: %v", err)
	}
}
