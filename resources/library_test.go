package resources

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestStock: a wrapper as installed does not count as the administrator's, one
// byte more and it does.
func TestStock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "Type")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	const text = "#!/bin/sh\nexit 0\n"
	sum := sha256.Sum256([]byte(text))
	stockDigests["Type"] = []string{hex.EncodeToString(sum[:])}
	defer delete(stockDigests, "Type")
	for _, c := range []struct {
		text  string
		stock bool
	}{
		{text, true},
		{text + "\n", false},
		{"#!/bin/sh\n" + OwnMark + "\n", true},
		{"#!/bin/sh\necho '" + OwnMark + "'\n", false},
		{strings.Repeat("\n", 30) + OwnMark + "\n", false},
		{OwnMark + "\n" + strings.Repeat("x", stockBytesMax), false},
		{"", false},
	} {
		write(c.text)
		if got := isStock("Type", path); got != c.stock {
			t.Errorf("%.40q: %v", c.text, got)
		}
	}
	if isStock("Type", filepath.Join(t.TempDir(), "none")) {
		t.Error("a file that cannot be read is stock")
	}
	for name, digests := range stockDigests {
		for _, digest := range digests {
			if raw, err := hex.DecodeString(digest); err != nil || len(raw) != sha256.Size {
				t.Errorf("%s: %q is no digest", name, digest)
			}
		}
	}
}
