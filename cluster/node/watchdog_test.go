package node

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"heartbeat/cluster"
	"heartbeat/cluster/engine"
	"heartbeat/cluster/node/logging"
)

// TestWatchdogTimeout works the arithmetic through: whatever is the last that
// feeds, the reset comes before the other node's takeover.
func TestWatchdogTimeout(t *testing.T) {
	for _, c := range []struct {
		name                string
		keepalive, deadtime time.Duration
		want                time.Duration
		late                bool // it may come after the takeover
	}{
		{name: "the original's defaults", keepalive: time.Second, deadtime: 30 * time.Second, want: 28 * time.Second},
		{name: "the README's", keepalive: time.Second, deadtime: 10 * time.Second, want: 8 * time.Second},
		{name: "long", keepalive: time.Second, deadtime: 5 * time.Minute, want: 292 * time.Second},
		{name: "exactly whole", keepalive: 640 * time.Millisecond, deadtime: 4 * time.Second, want: 3 * time.Second},
		{name: "a millisecond short", keepalive: 640 * time.Millisecond, deadtime: 3999 * time.Millisecond, want: 2 * time.Second},
		{name: "the least that is safe", keepalive: 250 * time.Millisecond, deadtime: 1570 * time.Millisecond, want: time.Second},
		{name: "two keepalives are the least", keepalive: time.Second, deadtime: 2100 * time.Millisecond, want: 2 * time.Second, late: true},
		{name: "a second is the least", keepalive: 10 * time.Millisecond, deadtime: 50 * time.Millisecond, want: time.Second, late: true},
	} {
		got := WatchdogTimeout(c.keepalive, c.deadtime)
		if got != c.want {
			t.Errorf("%s: timeout %v, want %v", c.name, got, c.want)
		}
		if late := safeDeadtime(got, c.keepalive) > c.deadtime; late != c.late {
			t.Errorf("%s: the reset comes after the takeover: %v, want %v", c.name, late, c.late)
		}
		if got <= c.keepalive+feedLate {
			t.Errorf("%s: one late keepalive resets the machine", c.name)
		}
	}
}

// fakeWatchdog answers with the errors that a kernel gives on no demand.
type fakeWatchdog struct {
	facts                   watchdogFacts
	timeout                 int
	longest                 int // 0: any
	openErr, setErr, getErr error
	feedErr, disarmErr      error
	hang                    time.Duration // each call
	opened, copied          int
	feeds                   []time.Time
	disarmed                bool
}

func (f *fakeWatchdog) open(string) (watchdogDevice, error) {
	if f.openErr != nil {
		return nil, f.openErr
	}
	f.opened++
	return f, nil
}
func (f *fakeWatchdog) Facts() watchdogFacts { return f.facts }
func (f *fakeWatchdog) SetTimeout(s int) error {
	if f.setErr != nil {
		return f.setErr
	}
	f.timeout = s
	if f.longest > 0 {
		f.timeout = min(s, f.longest)
	}
	return nil
}
func (f *fakeWatchdog) Timeout() (int, error) { return f.timeout, f.getErr }
func (f *fakeWatchdog) Feed() error {
	time.Sleep(f.hang)
	if f.feedErr == nil {
		f.feeds = append(f.feeds, time.Now())
	}
	return f.feedErr
}
func (f *fakeWatchdog) Disarm() error {
	time.Sleep(f.hang)
	f.disarmed = true
	return f.disarmErr
}
func (f *fakeWatchdog) Copy() (int, error) { f.copied++; return -1, nil }

func goodWatchdog() *fakeWatchdog {
	return &fakeWatchdog{facts: watchdogFacts{Identity: "fake", MagicClose: true}}
}

// guarded runs f with a watchdog on the device in virtual time and returns the
// log. Keepalive is 1 s and deadtime 10 s, so the timeout is 8 s.
func guarded(t *testing.T, device *fakeWatchdog, f func(w *Watchdog)) (log string) {
	t.Helper()
	var out bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		l, err := logging.New(logging.Options{Host: "node1", Stderr: &out, Format: "classic"})
		if err != nil {
			t.Fatal(err)
		}
		w := OpenWatchdog(WatchdogOptions{
			Device: "/dev/watchdog", Keepalive: time.Second, Deadtime: 10 * time.Second, Log: l, open: device.open,
		})
		synctest.Wait()
		f(w)
		w.Disarm()
		time.Sleep(time.Hour) // whatever hangs ends
		l.Close()
	})
	return out.String()
}

// keepalives sends n of them, a second apart.
func keepalives(w *Watchdog, n int) {
	for range n {
		w.Alive(time.Now())
		time.Sleep(time.Second)
	}
	synctest.Wait() // what falls into this very moment has happened
}

// TestWatchdogFed: fed by keepalives only, no oftener than each quarter of the
// timeout, and disarmed at the end.
func TestWatchdogFed(t *testing.T) {
	device := goodWatchdog()
	log := guarded(t, device, func(w *Watchdog) {
		if device.opened != 1 || device.timeout != 8 {
			t.Errorf("before the first keepalive: opened %d times, timeout %d s", device.opened, device.timeout)
		}
		begun := time.Now()
		keepalives(w, 9)
		time.Sleep(time.Minute) // the loop hangs: nothing feeds
		synctest.Wait()
		var at []time.Duration
		for _, f := range device.feeds {
			at = append(at, f.Sub(begun))
		}
		if want := []time.Duration{0, 2 * time.Second, 4 * time.Second, 6 * time.Second, 8 * time.Second}; !slices.Equal(at, want) {
			t.Errorf("fed at %v, want %v", at, want)
		}
		if device.disarmed || w.Trouble() != "" {
			t.Errorf("disarmed %v, trouble %q", device.disarmed, w.Trouble())
		}
	})
	for _, want := range []string{
		"notice: Using watchdog device: /dev/watchdog\n",
		"info: watchdog /dev/watchdog (fake) resets this machine when it was not fed with a keepalive for 8s\n",
		"info: watchdog /dev/watchdog is stopped\n",
	} {
		if !strings.Contains(log, want) {
			t.Errorf("the log lacks %q:\n%s", want, log)
		}
	}
	if !device.disarmed || strings.Contains(log, "WARN") || strings.Contains(log, "ERROR") {
		t.Errorf("disarmed %v, log\n%s", device.disarmed, log)
	}
}

// TestWatchdogHangs: a device that does not return holds nobody up, is
// reported, and is not fed afterwards for a keepalive of long ago.
func TestWatchdogHangs(t *testing.T) {
	device := goodWatchdog()
	log := guarded(t, device, func(w *Watchdog) {
		device.hang = 10 * time.Second
		begun := time.Now()
		keepalives(w, 5)
		if took := time.Since(begun); took != 5*time.Second {
			t.Errorf("the loop was held up: five keepalives took %v", took)
		}
		if !strings.Contains(w.Trouble(), "watchdog /dev/watchdog does not answer: nothing resets this machine") {
			t.Errorf("trouble %q", w.Trouble())
		}
		if _, _, err := w.HandOver(); err == nil {
			t.Error("a hanging device was handed over")
		}
		device.hang = 0
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(device.feeds) != 1 {
			t.Errorf("fed %d times: for the keepalive that hung, and once more for an old one", len(device.feeds))
		}
		keepalives(w, 1)
		if len(device.feeds) != 2 || w.Trouble() != "" {
			t.Errorf("afterwards: fed %d times, trouble %q", len(device.feeds), w.Trouble())
		}
		device.hang = time.Minute
	})
	if !strings.Contains(log, "ERROR: watchdog /dev/watchdog does not answer and stays armed") {
		t.Errorf("a disarming that hangs is not reported:\n%s", log)
	}
}

// TestWatchdogTroubles: one sentence for each thing that can be wrong.
func TestWatchdogTroubles(t *testing.T) {
	for _, c := range []struct {
		name     string
		device   func(*fakeWatchdog)
		log      string // contained in the log
		trouble  string // contained in the status; empty for none
		feeds    int    // of three that are due
		disarmed bool   // before the end
	}{
		{name: "absent", device: func(f *fakeWatchdog) { f.openErr = fs.ErrNotExist },
			log:     "ERROR: Cannot open watchdog device: /dev/watchdog: file does not exist (load its driver",
			trouble: "modprobe softdog): nothing resets this machine when heartbeat hangs"},
		{name: "busy", device: func(f *fakeWatchdog) { f.openErr = unix.EBUSY },
			log: "(another program feeds it: systemd's RuntimeWatchdogSec, or a watchdog daemon)", trouble: "device or resource busy"},
		{name: "no watchdog", device: func(f *fakeWatchdog) { f.openErr = fmt.Errorf("it is no watchdog: %w", unix.ENOTTY) },
			log: "ERROR: Cannot open watchdog device: /dev/watchdog: it is no watchdog", trouble: "inappropriate ioctl"},
		{name: "fixed timeout", device: func(f *fakeWatchdog) { f.setErr, f.timeout = unix.EOPNOTSUPP, 60 }, feeds: 1,
			log: "WARN: watchdog /dev/watchdog resets this machine 1m0s after it was last fed: with keepalive 1s and deadtime 10s the other node may take over before that; a deadtime from 1m2.5s on is safe"},
		{name: "timeout cannot be read", device: func(f *fakeWatchdog) { f.getErr = unix.EOPNOTSUPP }, feeds: 3, log: "8s"},
		{name: "timeout unknown", device: func(f *fakeWatchdog) { f.setErr, f.getErr = unix.EINVAL, unix.EOPNOTSUPP }, disarmed: true,
			log: "ERROR: the timeout of watchdog /dev/watchdog cannot be set (invalid argument) nor read", trouble: "cannot be set"},
		{name: "timeout too short", device: func(f *fakeWatchdog) { f.longest = 1 }, disarmed: true,
			log: "ERROR: watchdog /dev/watchdog takes no timeout longer than 1s, too short for keepalive 1s", trouble: "too short"},
		{name: "cannot be fed", device: func(f *fakeWatchdog) { f.feedErr = unix.EIO },
			log: "ERROR: cannot feed watchdog /dev/watchdog: input/output error: nothing resets", trouble: "cannot feed"},
		{name: "no magic close", device: func(f *fakeWatchdog) { f.facts.MagicClose = false }, feeds: 3,
			log: "WARN: watchdog /dev/watchdog has no magic close"},
		{name: "nowayout", device: func(f *fakeWatchdog) { f.facts.NoWayOut = true }, feeds: 3,
			log: "WARN: watchdog /dev/watchdog goes on (nowayout): this machine is reset in 8s, unless heartbeat is started again"},
		{name: "cannot be disarmed", device: func(f *fakeWatchdog) { f.disarmErr = unix.EIO }, feeds: 3,
			log: "ERROR: watchdog /dev/watchdog cannot be stopped: input/output error; this machine is reset in 8s"},
	} {
		t.Run(c.name, func(t *testing.T) {
			device := goodWatchdog()
			c.device(device)
			log := guarded(t, device, func(w *Watchdog) {
				keepalives(w, 5)
				got := w.Trouble()
				if c.trouble == "" && got != "" || !strings.Contains(got, c.trouble) {
					t.Errorf("trouble %q, want %q", got, c.trouble)
				}
				if device.disarmed != c.disarmed || len(device.feeds) != c.feeds {
					t.Errorf("disarmed %v, fed %d times; want %v and %d", device.disarmed, len(device.feeds), c.disarmed, c.feeds)
				}
			})
			if n := strings.Count(log, c.log); n == 0 || n > 1 && strings.HasPrefix(c.log, "ERROR") {
				t.Errorf("the log has %d times %q:\n%s", n, c.log, log)
			}
		})
	}
}

// TestWatchdogAppears: a device that can be opened later is, with a keepalive.
func TestWatchdogAppears(t *testing.T) {
	device := goodWatchdog()
	device.openErr = unix.EBUSY
	log := guarded(t, device, func(w *Watchdog) {
		keepalives(w, 4)
		device.openErr = nil
		time.Sleep(time.Minute)
		synctest.Wait()
		if device.opened != 0 {
			t.Error("opened without a keepalive")
		}
		keepalives(w, 3)
		if device.opened != 1 || len(device.feeds) != 1 || w.Trouble() != "" {
			t.Errorf("opened %d times, fed %d times, trouble %q", device.opened, len(device.feeds), w.Trouble())
		}
	})
	if strings.Count(log, "Cannot open") != 1 || !strings.Contains(log, "info: watchdog /dev/watchdog works\n") {
		t.Errorf("log:\n%s", log)
	}
}

// TestWatchdogInherited: a successor in place goes on with the armed device, or
// disarms it when its ha.cf names another one or none.
func TestWatchdogInherited(t *testing.T) {
	for _, c := range []struct {
		configured       string
		opened, disarmed bool
	}{
		{"/dev/watchdog", false, false},
		{"/dev/watchdog1", true, true},
		{"", false, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			old, other := goodWatchdog(), goodWatchdog()
			l := quietLog(t)
			w := OpenWatchdog(WatchdogOptions{
				Device: c.configured, Keepalive: time.Second, Deadtime: 10 * time.Second, Log: l, open: other.open,
				Inherited: &InheritedWatchdog{Device: "/dev/watchdog", FD: 7},
				inherit: func(fd int) (watchdogDevice, error) {
					if fd != 7 {
						return nil, errors.New("not the one that was handed over")
					}
					return old, nil
				},
			})
			synctest.Wait()
			keepalives(w, 1)
			if (other.opened == 1) != c.opened || old.disarmed != c.disarmed {
				t.Errorf("%q: another one opened %d times, the inherited one disarmed: %v", c.configured, other.opened, old.disarmed)
			}
			if in := c.configured == "/dev/watchdog"; in != (len(old.feeds) == 1) || in != (old.timeout == 8) {
				t.Errorf("%q: the inherited one was fed %d times with timeout %d", c.configured, len(old.feeds), old.timeout)
			}
			w.Disarm()
			l.Close()
		})
	}
}

// TestDisarmWatchdog: who released everything in a dead daemon's place stops
// its watchdog too; one that cannot be opened is told of.
func TestDisarmWatchdog(t *testing.T) {
	var out bytes.Buffer
	l, err := logging.New(logging.Options{Host: "node1", Stderr: &out, Format: "classic"})
	if err != nil {
		t.Fatal(err)
	}
	free, inherited, busy := goodWatchdog(), goodWatchdog(), goodWatchdog()
	busy.openErr = unix.EBUSY
	DisarmWatchdog(WatchdogOptions{Log: l, open: busy.open})
	DisarmWatchdog(WatchdogOptions{Device: "/dev/watchdog", Log: l, open: free.open})
	DisarmWatchdog(WatchdogOptions{
		Device: "/dev/watchdog", Log: l, open: busy.open, Inherited: &InheritedWatchdog{Device: "/dev/watchdog", FD: 7},
		inherit: func(int) (watchdogDevice, error) { return inherited, nil },
	})
	DisarmWatchdog(WatchdogOptions{Device: "/dev/watchdog2", Log: l, open: busy.open})
	l.Close()
	if !free.disarmed || !inherited.disarmed {
		t.Errorf("disarmed: %v, the inherited one %v", free.disarmed, inherited.disarmed)
	}
	if log := out.String(); strings.Count(log, "watchdog /dev/watchdog is stopped") != 2 ||
		strings.Count(log, "WARN: Cannot open watchdog device: /dev/watchdog2: device or resource busy; if it is armed") != 1 {
		t.Errorf("log:\n%s", log)
	}
}

// TestWatchdogHandOver: while the process is replaced nobody deals with the
// device; when that fails, feeding goes on.
func TestWatchdogHandOver(t *testing.T) {
	device := goodWatchdog()
	guarded(t, device, func(w *Watchdog) {
		_, resume, err := w.HandOver()
		if err != nil || device.copied != 1 {
			t.Fatalf("%d copies, %v", device.copied, err)
		}
		w.Alive(time.Now())
		synctest.Wait()
		if len(device.feeds) != 0 {
			t.Error("fed while the process is replaced")
		}
		resume()
		synctest.Wait()
		if len(device.feeds) != 1 {
			t.Error("not fed after the replacement failed")
		}
	})
}

// TestUnguarded: what guards not is shown in the status, and said in the log
// whenever resources are taken.
func TestUnguarded(t *testing.T) {
	var out bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		l, err := logging.New(logging.Options{Host: "node1", Stderr: &out, Format: "classic"})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		eng := &scripted{none: true, on: func(cluster.Instant, engine.Input) []engine.Output { return nil }}
		o := Options{Engine: eng, Log: l, Guards: []func() string{
			func() string { return "" },
			func() string { return "the dog has run away" },
		}}
		run(t, o, func(n *Node) {
			s, err := n.Status(t.Context())
			if err != nil || !slices.Contains(s.Warnings, "the dog has run away") || slices.Contains(s.Warnings, "") {
				t.Errorf("warnings %q, %v", s.Warnings, err)
			}
			for i, kind := range []cluster.JobKind{cluster.JobAsk, cluster.JobGive, cluster.JobTake} {
				job := engine.Run{Job: cluster.Job{ID: uint64(i + 1), Kind: kind, Keys: []string{"key"}}}
				if err := n.call(t.Context(), func() { n.do(0, job) }); err != nil {
					t.Error(err)
				}
			}
			synctest.Wait()
		})
	})
	if log := out.String(); strings.Count(log, "WARN: resources are taken without a guard: the dog has run away\n") != 1 {
		t.Errorf("log:\n%s", log)
	}
}
