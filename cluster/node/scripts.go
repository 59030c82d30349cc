package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// MessageScripts are the message types for which the administrator has a script
// in rc.d below the configuration directory: regular files, by their names in
// lower case, which is how they are called. The original reads the directory
// once, too.
func MessageScripts(config string) ([]string, error) {
	dir := filepath.Join(config, "rc.d")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list message scripts: %w", err)
	}
	var types []string
	for _, entry := range entries {
		name := entry.Name()
		path := filepath.Join(dir, name)
		info, err := os.Stat(path) // a link may lead to the script
		if err != nil || !info.Mode().IsRegular() || strings.HasPrefix(name, ".") || name != strings.ToLower(name) {
			continue
		}
		if !slices.Contains(stockScripts, name) || !isStockScript(path) {
			types = append(types, name)
		}
	}
	return types, nil
}
