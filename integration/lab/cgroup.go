package lab

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// prefix begins the names of a lab's directory and cgroups; the process id
// follows, so that a later run can tell which are orphaned.
const prefix = "heartbeat-lab-"

// cgroupRoot is where cgroup version 2 is mounted, "" when it is not.
var cgroupRoot = sync.OnceValue(func() string {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return ""
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if l := strings.Fields(sc.Text()); len(l) > 6 && strings.Contains(sc.Text(), " - cgroup2 ") {
			return l[4]
		}
	}
	return ""
})

// cgroup counts the processor time of a node's processes, finished ones
// included.
type cgroup struct{ dir string }

// newCgroup makes a cgroup, or returns nil where the machine does not let us:
// then processor time cannot be measured, and all else works.
func newCgroup(name string) *cgroup {
	root := cgroupRoot()
	if root == "" {
		return nil
	}
	dir := filepath.Join(root, name)
	if os.Mkdir(dir, 0o755) != nil {
		return nil
	}
	return &cgroup{dir}
}

// cpu is the processor time used so far.
func (c *cgroup) cpu() (time.Duration, error) {
	if c == nil {
		return 0, errors.New("processor time needs a writable cgroup version 2 hierarchy, which this machine does not have")
	}
	b, err := os.ReadFile(filepath.Join(c.dir, "cpu.stat"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "usage_usec "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			return time.Duration(n) * time.Microsecond, err
		}
	}
	return 0, fmt.Errorf("%s/cpu.stat has no usage_usec", c.dir)
}

func (c *cgroup) remove() error {
	if c == nil {
		return nil
	}
	// Kernels before 5.14 have no cgroup.kill; process 1 is dead anyway.
	_ = os.WriteFile(filepath.Join(c.dir, "cgroup.kill"), []byte("1"), 0)
	var err error
	for range 200 {
		if err = os.Remove(c.dir); err == nil || errors.Is(err, os.ErrNotExist) {
			return nil
		}
		time.Sleep(10 * time.Millisecond) // until the kernel has buried the last process
	}
	return err
}

// sweep removes what killed runs left: their processes and namespaces are gone
// already.
func sweep() {
	dirs, _ := filepath.Glob(filepath.Join(tempRoot, prefix+"*"))
	for _, d := range dirs {
		if orphaned(d) {
			_ = os.RemoveAll(d)
		}
	}
	if root := cgroupRoot(); root != "" {
		dirs, _ = filepath.Glob(filepath.Join(root, prefix+"*"))
		for _, d := range dirs {
			if orphaned(d) {
				_ = (&cgroup{d}).remove()
			}
		}
	}
}

func orphaned(path string) bool {
	id, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(path), prefix), "-")
	pid, err := strconv.Atoi(id)
	return err == nil && errors.Is(unix.Kill(pid, 0), unix.ESRCH)
}
