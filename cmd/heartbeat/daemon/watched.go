package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"heartbeat/cluster/boot"
	"heartbeat/cluster/config"
	"heartbeat/cluster/node"
)

// watched remembers how the files were when they were read.
type watched struct {
	dir    string
	config map[string]stamp // what only a restart in place takes up
	keys   stamp
	exe    stamp
}

// stamp is what changes when a file does.
type stamp struct {
	modified time.Time
	size     int64
	inode    string
}

func stampOf(path string) stamp {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{}
	}
	return stamp{info.ModTime(), info.Size(), inode(info)}
}

// configFiles are read at start only. The original looks at ha.cf alone: its
// scripts read haresources again each time.
var configFiles = []string{"ha.cf", "haresources", "heartbeat.toml"}

func watch(dir string) *watched {
	w := &watched{dir: dir, config: make(map[string]stamp), keys: stampOf(filepath.Join(dir, "authkeys"))}
	for _, name := range configFiles {
		w.config[name] = stampOf(filepath.Join(dir, name))
	}
	if exe, err := os.Executable(); err == nil {
		w.exe = stampOf(exe)
	}
	return w
}

// reload decides what a reload means: the process replaces itself when a file
// it reads at start has changed, or the program itself; changed keys alone are
// taken up by the running one.
func (d *daemonProcess) reload(force bool) node.Change {
	now := watch(d.paths.Config)
	changed := force || now.exe != d.files.exe && now.exe != stamp{}
	for name, st := range now.config {
		changed = changed || st != d.files.config[name]
	}
	if !changed && now.keys == d.files.keys {
		return node.Change{}
	}
	c, problems := d.load()
	if problems.Failed() {
		return node.Change{Err: refusal(problems)}
	}
	if changed {
		if c.Self != d.config.Self {
			return node.Change{Err: fmt.Errorf("the node's name has changed from %s to %s: that takes a stop and a start", d.config.Self, c.Self)}
		}
		return node.Change{Reexec: true}
	}
	d.files.keys = now.keys
	keys := boot.Keys(c.Auth)
	return node.Change{Keys: &keys}
}

// refusal are the errors of a configuration in one line.
func refusal(problems config.Problems) error {
	var lines []string
	for _, p := range problems.Report() {
		if p.Severity == config.Error {
			lines = append(lines, p.String())
		}
	}
	return errors.New(strings.Join(lines, "; "))
}
