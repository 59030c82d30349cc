package config

import (
	"encoding/json"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestRecorded compares with what heartbeat 3.0.6 printed for one line each of
// every directive, and for small authkeys and haresources files
// (testdata/recorded.json; time, host and core-dump hints left out).
func TestRecorded(t *testing.T) {
	data, err := os.ReadFile("testdata/recorded.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		HACF, AuthKeys, HAResources string
		Exit                        int
		Stderr                      []string
	}
	if err := json.Unmarshal(data, &cases); err != nil {
		t.Fatal(err)
	}
	missing := File{Err: fs.ErrNotExist}
	for _, want := range cases {
		c, probs := Parse(Files{
			HACF: File{Data: []byte(want.HACF)}, AuthKeys: File{Data: []byte(want.AuthKeys), Mode: 0o600},
			HAResources: File{Data: []byte(want.HAResources)}, TOML: missing, NodeInfo: missing,
		})
		probs = append(probs, Check(c, lab{service: map[string]int{"domain": 53, "ntp": 123}})...)
		// The original prints some lines of authkeys with their line end.
		got := strings.Split(strings.Join(probs.Classic(), "\n"), "\n")
		if diff := cmp.Diff(want.Stderr, got); diff != "" || probs.ExitCode() != want.Exit {
			t.Errorf("exit %d, want %d, stderr (-recorded +ours):\n%sha.cf:\n%q\nauthkeys: %q\nharesources: %q", probs.ExitCode(), want.Exit,
				diff, want.HACF, want.AuthKeys, want.HAResources)
		}
		if want.Exit != 0 && !slices.ContainsFunc(probs.Report(), func(p Problem) bool { return p.Severity == Error }) {
			t.Errorf("nothing to tell a person: %q", want.HACF)
		}
	}
}
