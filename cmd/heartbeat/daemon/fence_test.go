package daemon

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"heartbeat/cluster/config"
	"heartbeat/cluster/node/logging"
)

// fencer is a daemon of which nothing but its fencing works.
func fencer(t *testing.T, logfile string) *daemonProcess {
	log, err := logging.New(logging.Options{Host: "n1", Logfile: logfile, UID: -1, GID: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(log.Close)
	return &daemonProcess{log: log, config: &config.Config{Self: "n1", Nodes: []string{"n1", "n2"}}}
}

// TestFence runs cluster-glue's program with its device that does nothing and
// with one that needs more than is there.
func TestFence(t *testing.T) {
	d := fencer(t, filepath.Join(t.TempDir(), "log"))
	d.config.Stonith = []config.Stonith{{Host: "*", Type: "null", Params: "n1 n2"}}
	if err := d.fence(t.Context(), "n2"); err != nil {
		t.Errorf("null device: %v", err)
	}
	if err := d.devices("n2")[0].check(t.Context()); err != nil {
		t.Errorf("check of the null device: %v", err)
	}
	parameters := filepath.Join(t.TempDir(), "null.conf")
	if err := os.WriteFile(parameters, []byte("n1 n2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d.config.Stonith = []config.Stonith{{Type: "null", Params: parameters}}
	if err := d.fence(t.Context(), "n2"); err != nil {
		t.Errorf("null device with a file: %v", err)
	}
	d.config.Stonith = []config.Stonith{{Host: "n1", Type: "nosuchdevice", Params: "x"}}
	if err := d.fence(t.Context(), "n2"); err == nil || !strings.Contains(err.Error(), "nosuchdevice") {
		t.Errorf("unknown device: %v", err)
	}
	d.config.Stonith = nil
	if err := d.fence(t.Context(), "n2"); err == nil {
		t.Error("no device, and no error")
	}
}

// loud is a fence agent of ours: it notes what it reads and does what it is told.
func loud(t *testing.T, body string) (path, notes string) {
	dir := t.TempDir()
	path, notes = filepath.Join(dir, "fence_loud"), filepath.Join(dir, "notes")
	if err := os.WriteFile(path, []byte("#!/bin/sh\ncat >>"+notes+"\n"+body), 0o755); err != nil {
		t.Fatal(err)
	}
	return path, notes
}

// TestFenceAgents runs programs of the package fence-agents and some of ours:
// several devices in their order, the check of what was switched off, the limit of
// time, and that no password gets out.
func TestFenceAgents(t *testing.T) {
	logfile := filepath.Join(t.TempDir(), "log")
	d := fencer(t, logfile)
	read := func(path string) string {
		text, _ := os.ReadFile(path)
		return string(text)
	}
	minute := config.Duration(time.Minute)
	status := filepath.Join(t.TempDir(), "status")
	if err := os.WriteFile(status, []byte("on"), 0o600); err != nil {
		t.Fatal(err)
	}
	reboot := config.Fence{Node: "n2", Agent: "fence_dummy", Action: "reboot", Timeout: minute, Options: map[string]any{"type": "file", "status_file": status}}
	off := reboot
	off.Action = "off"
	// The first device fails with its password on its lips, the second does it.
	talker, _ := loud(t, "echo connection refused for admin:swordfish@192.0.2.1; echo swordfish >&2; exit 1\n")
	first := config.Fence{Node: "n2", Agent: talker, Action: "reboot", Timeout: minute, Options: map[string]any{"password": "swordfish"}}
	d.config.TOML.Fences = []config.Fence{first, {Node: "n1", Agent: "/nonexistent"}, off}
	if err := d.fence(t.Context(), "n2"); err != nil || read(status) != "off" {
		t.Errorf("%v, status %q", err, read(status))
	}
	d.config.TOML.Fences = []config.Fence{reboot}
	if err := d.fence(t.Context(), "n2"); err != nil || read(status) != "on" {
		t.Errorf("reboot: %v, status %q", err, read(status))
	}
	d.config.TOML.Fences = []config.Fence{first}
	err := d.fence(t.Context(), "n2")
	if err == nil || !strings.Contains(err.Error(), "action reboot: exit status 1: connection refused for admin:***@192.0.2.1 ***") {
		t.Errorf("a device that fails: %v", err)
	}

	// One that says that it has done it, and has not.
	liar, notes := loud(t, "exit 0\n")
	d.config.TOML.Fences = []config.Fence{{Node: "n2", Agent: liar, Action: "off", Timeout: minute, Options: map[string]any{"plug": int64(4), "lanplus": true}}}
	if err := d.fence(t.Context(), "n2"); err == nil || !strings.Contains(err.Error(), "action off succeeded, and action status says that n2 is still on") {
		t.Errorf("a liar: %v", err)
	}
	if got := read(notes); got != "action=off\nlanplus=true\nplug=4\naction=status\nlanplus=true\nplug=4\n" {
		t.Errorf("the agent read %q", got)
	}
	sleeper, _ := loud(t, "sleep 1000\n")
	d.config.TOML.Fences = []config.Fence{{Node: "n2", Agent: sleeper, Action: "reboot", Timeout: config.Duration(200 * time.Millisecond)}}
	if err := d.fence(t.Context(), "n2"); err == nil || !strings.Contains(err.Error(), "action reboot: not within 200ms") {
		t.Errorf("one that hangs: %v", err)
	}
	if err := d.fence(t.Context(), "n3"); err == nil || err.Error() != "no fencing device is configured for n3" {
		t.Errorf("another node: %v", err)
	}

	d.config.TOML.Fences = []config.Fence{reboot, first}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { d.fencing.run(ctx, d); close(ended) }()
	until(t, "the bad device is found", func() bool {
		return strings.Contains(d.fencing.Trouble(), "for n2 does not work: action monitor: exit status 1")
	})
	cancel()
	<-ended
	flush, done := context.WithTimeout(t.Context(), 10*time.Second)
	defer done()
	d.log.Flush(flush)
	for _, want := range []string{
		"info: Resetting node n2 with [fence_dummy]", fmt.Sprintf("ERROR: Host n2 not reset! reset n2 with device %s: ", talker),
		"info: Checking status of STONITH device [fence_dummy]", "info: Managed STONITH n2 process ", " exited with return code 0.\n",
		"WARN: Managed STONITH n2 process ", " exited with return code 1.\n", " killed by signal 9 [SIGKILL", "info: Managed STONITH-stat process ",
	} {
		if !strings.Contains(read(logfile), want) {
			t.Errorf("the log does not say %q", want)
		}
	}
	if strings.Contains(read(logfile)+d.fencing.Trouble(), "swordfish") {
		t.Errorf("the password is in the log:\n%s", read(logfile))
	}
}

// TestStonithParameters: what stands in ha.cf reaches cluster-glue's program and
// is in nobody's view of the processes.
func TestStonithParameters(t *testing.T) {
	dir := t.TempDir()
	fake := "#!/bin/sh\necho \"$@\" >" + dir + "/args\ncat \"$4\" >" + dir + "/file\n"
	if err := os.WriteFile(filepath.Join(dir, "stonith"), []byte(fake), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	d := fencer(t, filepath.Join(dir, "log"))
	d.config.Stonith = []config.Stonith{{Host: "n1", Type: "ipmilan", Params: "n2 192.0.2.1 admin swordfish"}}
	if err := d.fence(t.Context(), "n2"); err != nil {
		t.Fatal(err)
	}
	args, _ := os.ReadFile(dir + "/args")
	file, _ := os.ReadFile(dir + "/file")
	if string(args) != "-t ipmilan -F /proc/self/fd/3 -T reset n2\n" || string(file) != "n2 192.0.2.1 admin swordfish\n" {
		t.Errorf("arguments %q, file %q", args, file)
	}
}
