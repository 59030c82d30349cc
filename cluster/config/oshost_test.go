package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// inNamespace runs f on a thread of its own in a new network namespace; the
// kernel removes both afterwards.
func inNamespace(t *testing.T, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread dies with its namespace
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("make a network namespace: %w", err)
			return
		}
		f()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Errorf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

func TestOSHostInterfaces(t *testing.T) {
	inNamespace(t, func() {
		ip(t, "link", "add", "cfg0", "type", "veth", "peer", "name", "cfg1")
		ip(t, "addr", "add", "192.0.2.1/24", "brd", "+", "dev", "cfg0")
		h := OSHost{}
		for _, tt := range []struct {
			iface string
			want  error
		}{
			{"cfg0", nil}, {"cfg1", syscall.EADDRNOTAVAIL}, {"cfg9", syscall.ENODEV},
			{"cfg0:1", syscall.EADDRNOTAVAIL}, {"averylonginterfacename", syscall.ENODEV}, {"", syscall.ENODEV},
		} {
			if err := h.Broadcast(tt.iface); !errors.Is(err, tt.want) {
				t.Errorf("broadcast of %q: %v, want %v", tt.iface, err, tt.want)
			}
		}
		if n, err := h.InterfaceIndex("cfg0"); n < 1 || err != nil {
			t.Errorf("index %d, %v", n, err)
		}
		if _, err := h.InterfaceIndex("cfg9"); !errors.Is(err, syscall.ENODEV) {
			t.Errorf("index of a missing interface: %v", err)
		}
	})
}

func TestOSHostFiles(t *testing.T) {
	h, dir := OSHost{}, t.TempDir()
	path := filepath.Join(dir, "x")
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := h.CharDevice("/dev/null"); err != nil {
		t.Error(err)
	}
	if err := h.CharDevice(path); err != ErrNotCharDevice {
		t.Error(err)
	}
	if err := h.CharDevice(path + "y"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if h.Executable(path) || h.Executable(dir) || !h.Executable("/bin/sh") {
		t.Error("executable")
	}
	if h.Readable(path) != nil || h.Readable(path+"y") == nil {
		t.Error("readable")
	}
	if !h.UserExists("root") || h.UserExists("no-such-user") || !h.GroupExists("root") || h.GroupExists("no-such-group") {
		t.Error("users and groups")
	}
	if h.Resolve("192.0.2.1", false) != nil || h.Resolve("192.0.2.1", true) == nil || h.Resolve("::1", true) != nil || h.Resolve("localhost", false) != nil {
		t.Error("resolve")
	}
	if h.ServiceName(53) != "domain" || h.ServicePort("ntp") != 123 || h.ServiceName(1) == "ntp" {
		t.Error("services")
	}
	if name, err := os.Hostname(); err != nil || h.NodeName() != name {
		t.Errorf("node name %q, want %q", h.NodeName(), name)
	}
	if h.StonithType("no-such-type") || h.StonithType("../../../etc/passwd") || h.StonithType("external") {
		t.Error("stonith type")
	}
}

// TestLoad reads a directory on the real machine, keys open to others.
func TestLoad(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"ha.cf":    "logfile /x\nauto_failback on\nnode here there\nbcast cfg0\n",
		"authkeys": goodAuth, "haresources": "here 192.0.2.1\n", "nodeinfo": "here\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	inNamespace(t, func() {
		_, probs := Load(dir, OSHost{})
		if got := report(probs); len(got) != 2 || !strings.Contains(got[0], "bcast cfg0, there is no such interface") ||
			!strings.Contains(got[1], "mode 0644, others than the owner can read the keys, chmod 600") || probs.ExitCode() != 6 {
			t.Errorf("%q", got)
		}
		ip(t, "link", "add", "cfg0", "type", "veth", "peer", "name", "cfg1")
		ip(t, "addr", "add", "192.0.2.1/24", "dev", "cfg0")
		if err := os.Chmod(filepath.Join(dir, "authkeys"), 0o600); err != nil {
			t.Error(err)
		}
		c, probs := Load(dir, OSHost{})
		if probs.Failed() || c.Self != "here" || len(c.Groups) != 1 {
			t.Errorf("%q %+v", report(probs), c)
		}
	})
}
