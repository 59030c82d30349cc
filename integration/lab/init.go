package lab

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// initSpec is what process 1 of a node must set up.
type initSpec struct {
	Hostname string
	// Scratch is an empty directory; the overlays' upper layers live on a
	// tmpfs that process 1 mounts there.
	Scratch  string
	Overlays []string
	// Binds are pairs of a directory of the lab and the place where the node
	// sees it.
	Binds [][2]string
}

// run is process 1 of a node: it sets the node up, says "ready", reaps what
// becomes its child, and ends, and the node with it, when its standard input
// does, that is when the lab is closed or killed.
func (s *initSpec) run() error {
	// A stray "kill 1" of a script under test must not end the node.
	signal.Ignore(unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE)
	if err := s.mounts(); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(s.Hostname)); err != nil {
		return fmt.Errorf("set host name %s: %w", s.Hostname, err)
	}
	if err := installUsers(); err != nil {
		return err
	}
	child := make(chan os.Signal, 1)
	signal.Notify(child, unix.SIGCHLD)
	go func() {
		for range child {
			for {
				var st unix.WaitStatus
				if pid, err := unix.Wait4(-1, &st, unix.WNOHANG, nil); pid <= 0 && !errors.Is(err, unix.EINTR) {
					break
				}
			}
		}
	}()
	sayReady()
	_, _ = io.Copy(io.Discard, os.Stdin)
	return nil
}

func (s *initSpec) mounts() error {
	mount := func(src, dst, kind string, flags uintptr, data string) error {
		if err := unix.Mount(src, dst, kind, flags, data); err != nil {
			return fmt.Errorf("mount %s (%s) on %s: %w", src, kind, dst, err)
		}
		return nil
	}
	// First of all, and alone: before it, mounts would show outside.
	if err := mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	err := errors.Join(mount("tmpfs", s.Scratch, "tmpfs", 0, "mode=755"),
		mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""),
		// The one outside shows the machine's network interfaces.
		mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""))
	if err != nil {
		return err
	}
	for i, dir := range s.Overlays {
		upper := filepath.Join(s.Scratch, fmt.Sprintf("upper%d", i))
		work := filepath.Join(s.Scratch, fmt.Sprintf("work%d", i))
		if err := errors.Join(os.Mkdir(upper, 0o755), os.Mkdir(work, 0o755)); err != nil {
			return err
		}
		if err := mount("overlay", dir, "overlay", 0, "lowerdir="+dir+",upperdir="+upper+",workdir="+work); err != nil {
			return err
		}
	}
	if err := mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	for _, b := range s.Binds {
		if err := os.MkdirAll(b[1], 0o755); err != nil {
			return err
		}
		if err := mount(b[0], b[1], "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	return nil
}

// installUsers does what the packages' install scripts do: user and group of
// the programs, and their directories below /run.
func installUsers() error {
	if _, err := user.LookupGroup("haclient"); err != nil {
		if err := appendLine("/etc/group", "haclient:x:899:"); err != nil {
			return err
		}
	}
	if _, err := user.Lookup("hacluster"); err != nil {
		if err := appendLine("/etc/passwd", "hacluster:x:899:899:heartbeat:/var/lib/heartbeat:/usr/sbin/nologin"); err != nil {
			return err
		}
	}
	uid, gid, err := lookUpIDs()
	if err != nil {
		return err
	}
	for _, d := range []string{"/run/lock", "/run/resource-agents"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	for _, d := range []string{"", "/ccm", "/crm", "/dopd"} {
		if err := errors.Join(os.MkdirAll("/run/heartbeat"+d, 0o750), os.Chown("/run/heartbeat"+d, uid, gid)); err != nil {
			return err
		}
	}
	return errors.Join(os.MkdirAll("/run/heartbeat/rsctmp", 0o755), os.Chown("/var/lib/heartbeat", uid, gid))
}

// lookUpIDs reads the files themselves: os/user may have cached their absence.
func lookUpIDs() (uid, gid int, err error) {
	find := func(file, name string) (int, error) {
		f, err := os.Open(file)
		if err != nil {
			return 0, err
		}
		defer f.Close()
		for sc := bufio.NewScanner(f); sc.Scan(); {
			if c := strings.Split(sc.Text(), ":"); len(c) > 2 && c[0] == name {
				return strconv.Atoi(c[2])
			}
		}
		return 0, fmt.Errorf("%s has no %s", file, name)
	}
	if uid, err = find("/etc/passwd", "hacluster"); err != nil {
		return 0, 0, err
	}
	gid, err = find("/etc/group", "haclient")
	return uid, gid, err
}

func appendLine(file, line string) error {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line + "\n")
	return errors.Join(err, f.Close())
}
