package logging

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"heartbeat/cluster"
)

// TestFormats compares with lines that heartbeat 3.0.6 wrote.
func TestFormats(t *testing.T) {
	at := time.Date(2026, 11, 3, 3, 57, 12, 999, time.Local)
	for _, c := range []struct {
		name     string
		r        Record
		logfile  string
		debug    string
		legacy   string
		inSyslog string
	}{
		{
			name:     "daemon",
			r:        Record{Level: cluster.Warn, Text: "node node2: is dead", PID: 55},
			logfile:  "Nov 03 03:57:12 node1 heartbeat: [55]: WARN: node node2: is dead\n",
			debug:    "Nov 03 03:57:12 node1 heartbeat: [55]: WARN: node node2: is dead\n",
			legacy:   "heartbeat[55]: 2026/11/03_03:57:12 WARN: node node2: is dead\n",
			inSyslog: "<156>Nov  3 03:57:12 heartbeat: [55]: WARN: node node2: is dead",
		},
		{
			name:     "other program",
			r:        Record{Level: cluster.Info, Entity: "ipfail", PID: 95, Text: "Ping node count is balanced."},
			logfile:  "Nov 03 03:57:12 node1 ipfail: [95]: info: Ping node count is balanced.\n",
			debug:    "Nov 03 03:57:12 node1 ipfail: [95]: info: Ping node count is balanced.\n",
			legacy:   "ipfail[95]: 2026/11/03_03:57:12 info: Ping node count is balanced.\n",
			inSyslog: "<158>Nov  3 03:57:12 ipfail: [95]: info: Ping node count is balanced.",
		},
		{
			name:     "script",
			r:        Record{Level: cluster.Info, Script: "ResourceManager(default)", PID: 548, Word: "info:", Text: "Acquiring resource group: node2 192.168.77.51/24/eth0"},
			logfile:  "2026/11/03_03:57:12  ResourceManager(default)[548]:    info: Acquiring resource group: node2 192.168.77.51/24/eth0\n",
			debug:    "ResourceManager(default)[548]:\t2026/11/03_03:57:12 info: Acquiring resource group: node2 192.168.77.51/24/eth0\n",
			legacy:   "2026/11/03_03:57:12  ResourceManager(default)[548]:    info: Acquiring resource group: node2 192.168.77.51/24/eth0\n",
			inSyslog: "<158>Nov  3 03:57:12 ResourceManager(default): [548]: info: Acquiring resource group: node2 192.168.77.51/24/eth0",
		},
		{
			name:     "script without a level",
			r:        Record{Level: cluster.Info, Script: "ip-request-resp(default)", PID: 177, Text: "received ip-request-resp 192.168.77.50/24/eth0 OK yes"},
			logfile:  "2026/11/03_03:57:12  ip-request-resp(default)[177]:    received ip-request-resp 192.168.77.50/24/eth0 OK yes\n",
			debug:    "ip-request-resp(default)[177]:\t2026/11/03_03:57:12 received ip-request-resp 192.168.77.50/24/eth0 OK yes\n",
			legacy:   "2026/11/03_03:57:12  ip-request-resp(default)[177]:    received ip-request-resp 192.168.77.50/24/eth0 OK yes\n",
			inSyslog: "<158>Nov  3 03:57:12 ip-request-resp(default): [177]: received ip-request-resp 192.168.77.50/24/eth0 OK yes",
		},
		{
			name:     "agent with two blanks",
			r:        Record{Level: cluster.Info, Script: "/usr/lib/ocf/resource.d//heartbeat/IPaddr(IPaddr_192.168.77.50)", PID: 103, Word: "INFO:", Text: " Success"},
			logfile:  "2026/11/03_03:57:12  /usr/lib/ocf/resource.d//heartbeat/IPaddr(IPaddr_192.168.77.50)[103]:    INFO:  Success\n",
			debug:    "/usr/lib/ocf/resource.d//heartbeat/IPaddr(IPaddr_192.168.77.50)[103]:\t2026/11/03_03:57:12 INFO:  Success\n",
			legacy:   "2026/11/03_03:57:12  /usr/lib/ocf/resource.d//heartbeat/IPaddr(IPaddr_192.168.77.50)[103]:    INFO:  Success\n",
			inSyslog: "<158>Nov  3 03:57:12 /usr/lib/ocf/resource.d//heartbeat/IPaddr(IPaddr_192.168.77.50): [103]: INFO:  Success",
		},
		{
			name:     "a forged line stays in its own",
			r:        Record{Level: cluster.Error, PID: 1, Text: "bad node [x\nNov 03 node1 heartbeat: [1]: info: y\x1b[2J] in message"},
			logfile:  `Nov 03 03:57:12 node1 heartbeat: [1]: ERROR: bad node [x\nNov 03 node1 heartbeat: [1]: info: y\x1b[2J] in message` + "\n",
			debug:    `Nov 03 03:57:12 node1 heartbeat: [1]: ERROR: bad node [x\nNov 03 node1 heartbeat: [1]: info: y\x1b[2J] in message` + "\n",
			legacy:   `heartbeat[1]: 2026/11/03_03:57:12 ERROR: bad node [x\nNov 03 node1 heartbeat: [1]: info: y\x1b[2J] in message` + "\n",
			inSyslog: `<155>Nov  3 03:57:12 heartbeat: [1]: ERROR: bad node [x\nNov 03 node1 heartbeat: [1]: info: y\x1b[2J] in message`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.r.At = at
			if c.r.Entity == "" {
				c.r.Entity = "heartbeat"
			}
			check := func(what, got, want string) {
				t.Helper()
				if got != want {
					t.Errorf("%s:\n got %q\nwant %q", what, got, want)
				}
			}
			check("logfile", string(appendFile(nil, &c.r, "node1", false, false)), c.logfile)
			check("debugfile", string(appendFile(nil, &c.r, "node1", false, true)), c.debug)
			check("syslogmsgfmt false", string(appendFile(nil, &c.r, "node1", true, false)), c.legacy)
			s := &syslog{facility: facilities["local3"], retry: at.Add(time.Hour)}
			check("syslog", string(s.write(at, &c.r, nil)), c.inSyslog)
		})
	}
}

// open makes a log in a new directory.
func open(t *testing.T, o Options) (*Log, string) {
	t.Helper()
	dir := t.TempDir()
	if o.Host == "" {
		o.Host = "node1"
	}
	o.UID, o.GID = -1, -1
	if o.Logfile == "" {
		o.Logfile, o.Debugfile = filepath.Join(dir, "ha-log"), filepath.Join(dir, "ha-debug")
	}
	l, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l, dir
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestDebugGoesToDebugfileOnly: the log file has everything but debug lines, the
// debug file has everything, and debug lines exist only while debugging.
func TestDebugGoesToDebugfileOnly(t *testing.T) {
	l, dir := open(t, Options{})
	l.Printf(cluster.Debug, "one")
	l.Printf(cluster.Info, "two")
	l.SetDebug(1)
	l.Printf(cluster.Debug, "three")
	l.Flush(context.Background())
	for file, want := range map[string]string{"ha-log": "two", "ha-debug": "two three"} {
		var got []string
		for line := range strings.Lines(read(t, filepath.Join(dir, file))) {
			f := strings.Fields(line)
			got = append(got, f[len(f)-1])
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("%s has %q, want %q", file, s, want)
		}
	}
}

// TestRotation: a file that was renamed away is left, by itself after a while
// and at once on Reopen.
func TestRotation(t *testing.T) {
	l, dir := open(t, Options{})
	path := filepath.Join(dir, "ha-log")
	l.Printf(cluster.Info, "before")
	l.Flush(context.Background())
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	l.Reopen()
	l.Printf(cluster.Info, "after")
	l.Flush(context.Background())
	if now := read(t, path); !strings.Contains(now, "after") {
		t.Errorf("the new file has %q", now)
	}
	if old := read(t, path+".1"); !strings.Contains(old, "before") {
		t.Errorf("rotated file has %q", old)
	}
	if err := os.Rename(path, path+".2"); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		l.Printf(cluster.Info, "noticed")
		l.Flush(context.Background())
		if _, err := os.Stat(path); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("a changed inode was not noticed")
		}
	}
}

// inTinyDisk runs f with a directory that holds 64 KiB, mounted for this thread
// alone.
func inTinyDisk(t *testing.T, f func(dir string)) {
	t.Helper()
	dir := t.TempDir()
	var wg sync.WaitGroup
	wg.Go(func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		for _, err := range []error{
			unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS),
			unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"),
		} {
			if err != nil {
				t.Errorf("tiny disk: %v", err)
				return
			}
		}
		defer func() {
			if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
				t.Errorf("tiny disk: %v", err)
			}
		}()
		f(fmt.Sprintf("/proc/self/task/%d/root%s", syscall.Gettid(), dir))
	})
	wg.Wait()
}

// TestFullDisk: with no space under the log nobody waits, and when there is room
// again the log says how many lines are missing, each line whole.
func TestFullDisk(t *testing.T) {
	inTinyDisk(t, func(dir string) {
		path := filepath.Join(dir, "ha-log")
		ballast := filepath.Join(dir, "ballast")
		l, err := New(Options{Host: "node1", Logfile: path, UID: -1, GID: -1})
		if err != nil {
			t.Error(err)
			return
		}
		defer l.Close()
		l.Printf(cluster.Info, "first")
		l.Flush(context.Background())
		if f, err := os.Create(ballast); err != nil {
			t.Error(err)
		} else {
			for err == nil {
				_, err = f.Write(make([]byte, 4096))
			}
			f.Close()
		}
		for range 300 {
			l.Printf(cluster.Info, "%s", strings.Repeat("x", 100))
		}
		l.Flush(context.Background())
		if err := os.Remove(ballast); err != nil {
			t.Error(err)
		}
		l.Printf(cluster.Info, "last")
		l.Flush(context.Background())
		text, err := os.ReadFile(path)
		if err != nil {
			t.Error(err)
			return
		}
		if !bytes.Contains(text, []byte("log lines lost: write ")) || !bytes.Contains(text, []byte("no space left")) {
			t.Errorf("the loss is not told:\n%s", text[max(0, len(text)-300):])
		}
		for line := range bytes.Lines(text) {
			// It may have been cut off anywhere, in its time already.
			if bytes.Count(line, text[:len("Jan _2 ")]) > 1 {
				t.Errorf("a line that the full disk cut off goes on with the next one: %s", line)
			}
		}
		if !bytes.HasSuffix(text, []byte("info: last\n")) {
			t.Errorf("the log does not end with the last line:\n%s", text[max(0, len(text)-300):])
		}
	})
}

// blocked is a stderr that nobody reads.
type blocked struct{ release chan struct{} }

func (b blocked) Write(p []byte) (int, error) { <-b.release; return len(p), nil }

// TestHungSink: a writer that hangs makes nobody wait; what was lost is counted.
func TestHungSink(t *testing.T) {
	b := blocked{make(chan struct{})}
	l, dir := open(t, Options{Stderr: b, Format: "classic"})
	for i := range 5 * queueRecords {
		l.Printf(cluster.Info, "line %d", i)
	}
	close(b.release)
	l.Flush(context.Background())
	text := read(t, filepath.Join(dir, "ha-log"))
	if !strings.Contains(text, "log lines lost: they came faster than the log could be written") {
		t.Errorf("nothing says that lines were lost; %d lines are there", strings.Count(text, "\n"))
	}
}

// TestSyslog sends to a socket as a syslog daemon has it, and to it again after
// a restart of that daemon.
func TestSyslog(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "log")
	listen := func() *net.UnixConn {
		c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	receive := func(c *net.UnixConn) string {
		buf := make([]byte, 4096)
		if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := c.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	c := listen()
	l, _ := open(t, Options{Facility: "local7", Socket: socket, PID: 7})
	l.Printf(cluster.Crit, "Killing heartbeat ungracefully!")
	if got := receive(c); !strings.HasPrefix(got, "<186>") || !strings.HasSuffix(got, "heartbeat: [7]: CRIT: Killing heartbeat ungracefully!") {
		t.Errorf("syslog got %q", got)
	}
	c.Close()
	if err := os.Remove(socket); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	c = listen()
	defer c.Close()
	l.Printf(cluster.Info, "again")
	if got := receive(c); !strings.HasSuffix(got, "info: again") {
		t.Errorf("after a restart syslog got %q", got)
	}
	if _, err := New(Options{Facility: "local8"}); err == nil {
		t.Error("facility local8 is accepted")
	}
}

// TestStructured: the JSON form has the constant message, the level's name and
// the fields.
func TestStructured(t *testing.T) {
	var out bytes.Buffer
	l, _ := open(t, Options{Stderr: &out, Format: "json"})
	l.Write(Record{Level: cluster.Notice, Text: "classic", Msg: "peer dead", Attrs: []Attr{{"peer", "node2"}, {"silent", 4 * time.Second}}})
	l.Flush(context.Background())
	var got map[string]any
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	delete(got, "time")
	if want := "map[level:NOTICE msg:peer dead peer:node2 silent:4e+09]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

// TestHandler: what other packages log through slog becomes a classic line.
func TestHandler(t *testing.T) {
	l, dir := open(t, Options{})
	log := slog.New(l.Handler()).With("uid", 7)
	log.Warn("order refused", "err", "not root")
	log.Debug("not now")
	l.Flush(context.Background())
	if got := read(t, filepath.Join(dir, "ha-log")); !strings.HasSuffix(got, "WARN: order refused: uid=7, err=not root\n") || strings.Count(got, "\n") != 1 {
		t.Errorf("log has %q", got)
	}
}

// TestPriorities: under systemd each classic line on stderr begins with <N>.
func TestPriorities(t *testing.T) {
	var out bytes.Buffer
	l, _ := open(t, Options{Stderr: &out, Format: "classic", Priorities: true})
	l.Printf(cluster.Error, "x")
	l.Flush(context.Background())
	if !strings.HasPrefix(out.String(), "<3>") {
		t.Errorf("stderr has %q", out.String())
	}
}
