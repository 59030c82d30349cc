package resources_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"heartbeat/resources"
	"heartbeat/resources/resourcetest"
	"heartbeat/resources/script"
)

// machine is a pair of script directories and a log.
type machine struct {
	t         *testing.T
	dir, init string
	state     string // where the scripts keep what they do
	mu        sync.Mutex
	lines     []string
}

func newMachine(t *testing.T) *machine {
	return &machine{t: t, dir: t.TempDir(), init: t.TempDir(), state: t.TempDir()}
}

func (m *machine) log(e resources.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lines = append(m.lines, strings.NewReplacer(m.dir, "DIR", m.init, "INIT").Replace(e.Tag+": "+e.Level+": "+e.Classic))
}

// manager returns what ResourceManager logged, without its tag, and forgets it.
func (m *machine) manager() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var lines []string
	for _, line := range m.lines {
		if text, ok := strings.CutPrefix(line, "ResourceManager(default): "); ok && !strings.HasPrefix(text, "debug:") {
			lines = append(lines, text)
		}
	}
	m.lines = nil
	return lines
}

func (m *machine) library(o resources.Options) *resources.Library {
	o.ResourceDir, o.InitDir, o.Log = m.dir, m.init, m.log
	return resources.NewLibrary(o)
}

func (m *machine) write(dir, name, text string) {
	m.t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
		m.t.Fatal(err)
	}
}

// service writes a script that is running while its file is there. It records its
// calls; extra runs before an action's ordinary part and may end it.
func (m *machine) service(dir, name, extra string) {
	m.write(dir, name, fmt.Sprintf(`#!/bin/sh
state=%s/%s
for action; do :; done
echo "%s $*" >> %s/calls
case $action in %s *) ;; esac
case $action in
start) touch $state;;
stop) rm -f $state;;
status) if [ -f $state ]; then echo running; else echo stopped; exit 3; fi;;
esac
`, m.state, name, name, m.state, extra))
}

// calls returns what the scripts recorded, without status, and forgets it.
func (m *machine) calls() []string {
	m.t.Helper()
	text, err := os.ReadFile(filepath.Join(m.state, "calls"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		m.t.Fatal(err)
	}
	_ = os.Remove(filepath.Join(m.state, "calls"))
	return slices.DeleteFunc(strings.Split(strings.TrimSpace(string(text)), "\n"), func(call string) bool {
		return call == "" || strings.HasSuffix(call, "status")
	})
}

func equal(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n  %s\nwant:\n  %s", what, strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func take(t *testing.T, g *resources.Group) {
	t.Helper()
	if err := g.Take(context.Background()); err != nil {
		t.Fatalf("take: %v", err)
	}
}

func give(t *testing.T, g *resources.Group) {
	t.Helper()
	if err := g.Give(context.Background()); err != nil {
		t.Fatalf("give: %v", err)
	}
}

func TestSplit(t *testing.T) {
	for entry, want := range map[string][]string{
		"192.0.2.10":                   {"IPaddr", "192.0.2.10"},
		"192.0.2.10/24/eth0":           {"IPaddr", "192.0.2.10/24/eth0"},
		"IPaddr::192.0.2.10/24/eth0":   {"IPaddr", "192.0.2.10/24/eth0"},
		"Filesystem::/dev/x::/data::x": {"Filesystem", "/dev/x", "/data", "x"},
		"Delay::1::0":                  {"Delay", "1", "0"},
		"httpd":                        {"httpd"},
		"a:b":                          {"a:b"},
		"MailTo::":                     {"MailTo"},
		"1.2.3":                        {"1.2.3"},
	} {
		name, args := resources.Split(entry)
		equal(t, entry, append([]string{name}, args...), want)
	}
}

// TestTakeAndGive follows the original's log word for word.
func TestTakeAndGive(t *testing.T) {
	m := newMachine(t)
	m.service(m.dir, "drbddisk", "")
	m.service(m.dir, "fs", "")
	m.service(m.init, "httpd", "")
	g := m.library(resources.Options{}).Group("node1", []string{"drbddisk::data", "fs::/dev/drbd0::/data", "httpd"})
	if g.Key() != "drbddisk::data" {
		t.Errorf("key %s", g.Key())
	}
	running := func(want int) {
		t.Helper()
		first, err := g.FirstRunning(context.Background())
		n, total, statusErr := g.Status(context.Background())
		if n != want || total != 3 || first != (want > 0) || err != nil || statusErr != nil {
			t.Errorf("%d of %d run, first %v (%v, %v), want %d", n, total, first, err, statusErr, want)
		}
	}
	running(0)
	take(t, g)
	running(3)
	equal(t, "calls", m.calls(), []string{"drbddisk data start", "fs /dev/drbd0 /data start", "httpd start"})
	equal(t, "log", m.manager(), []string{
		"info: Acquiring resource group: node1 drbddisk::data fs::/dev/drbd0::/data httpd",
		"info: Running DIR/drbddisk data start",
		"info: Running DIR/fs /dev/drbd0 /data start",
		"info: Running INIT/httpd start",
	})
	take(t, g)
	equal(t, "calls of a second take", m.calls(), nil)
	if err := os.Remove(filepath.Join(m.state, "fs")); err != nil {
		t.Fatal(err)
	}
	running(2)
	take(t, g)
	equal(t, "calls when one was missing", m.calls(), []string{"fs /dev/drbd0 /data start"})
	m.manager()
	for range 2 { // each is stopped, running or not
		give(t, g)
		equal(t, "calls", m.calls(), []string{"httpd stop", "fs /dev/drbd0 /data stop", "drbddisk data stop"})
		equal(t, "log", m.manager(), []string{
			"info: Releasing resource group: node1 drbddisk::data fs::/dev/drbd0::/data httpd",
			"info: Running INIT/httpd stop",
			"info: Running DIR/fs /dev/drbd0 /data stop",
			"info: Running DIR/drbddisk data stop",
		})
		running(0)
	}
}

func TestStartFails(t *testing.T) {
	m := newMachine(t)
	m.service(m.dir, "a", "")
	m.service(m.dir, "b", "start) echo no disk >&2; exit 7;;")
	m.service(m.dir, "c", "")
	g := m.library(resources.Options{}).Group("node1", []string{"a", "b::1", "c"})
	err := g.Take(context.Background())
	var failed *resources.StartFailed
	if !errors.As(err, &failed) || failed.Group != "a" || failed.Resource != "b::1" || failed.Rollback != nil {
		t.Fatalf("error %+v", err)
	}
	var exit *script.ExitError
	if !errors.As(err, &exit) || exit.Code != 7 || err.Error() != "start b::1: script ended with code 7: no disk" {
		t.Errorf("error %v", err)
	}
	equal(t, "calls", m.calls(), []string{"a start", "b 1 start", "c stop", "b 1 stop", "a stop"})
	equal(t, "log", m.manager(), []string{
		"info: Acquiring resource group: node1 a b::1 c",
		"info: Running DIR/a start",
		"info: Running DIR/b 1 start",
		"ERROR: Return code 7 from DIR/b",
		"CRIT: Giving up resources due to failure of b::1",
		"info: Releasing resource group: node1 a b::1 c",
		"info: Running DIR/c stop",
		"info: Running DIR/b 1 stop",
		"info: Running DIR/a stop",
	})
}

func TestScriptMissing(t *testing.T) {
	m := newMachine(t)
	m.service(m.dir, "a", "")
	lib := m.library(resources.Options{Builtin: map[string]resources.Factory{"IPaddr": (&fake{}).factory}})
	g := lib.Group("node1", []string{"a", "IPAddr::192.0.2.1"})
	err := g.Take(context.Background())
	var notFound *script.NotFoundError
	if !errors.As(err, &notFound) || !strings.Contains(err.Error(), "did you mean IPaddr?") {
		t.Errorf("error %v", err)
	}
	equal(t, "calls", m.calls(), []string{"a start", "a stop"})
	if lines := m.manager(); !slices.Contains(lines, "ERROR: Cannot locate resource script IPAddr") {
		t.Errorf("log %q", lines)
	}
	give(t, g)
	equal(t, "calls", m.calls(), []string{"a stop"})
	if _, _, err := g.Status(context.Background()); !errors.As(err, &notFound) {
		t.Errorf("status: %v", err)
	}
}

// TestStopFailsForGood: with the text saying running, nil is never returned, and
// what carries the failed one stays.
func TestStopFailsForGood(t *testing.T) {
	m := newMachine(t)
	m.service(m.dir, "a", "")
	m.service(m.dir, "b", "stop) echo busy >&2; exit 9;;")
	m.service(m.dir, "c", "")
	g := m.library(resources.Options{StopRetries: 1}).Group("node1", []string{"a", "b", "c"})
	take(t, g)
	m.calls()
	m.manager()
	err := g.Give(context.Background())
	var failed *resources.StopFailed
	if !errors.As(err, &failed) || failed.Resource != "b" || !strings.Contains(err.Error(), "stop b: script ended with code 9: busy (and it is still running)") {
		t.Fatalf("error %v", err)
	}
	equal(t, "calls", m.calls(), []string{"c stop", "b stop", "b stop"})
	equal(t, "log", m.manager(), []string{
		"info: Releasing resource group: node1 a b c",
		"info: Running DIR/c stop",
		"info: Running DIR/b stop",
		"ERROR: Return code 9 from DIR/b",
		"info: Retrying failed stop operation [b]",
		"info: Running DIR/b stop",
		"ERROR: Return code 9 from DIR/b",
	})
	m.service(m.dir, "b", "")
	give(t, g)
	equal(t, "calls", m.calls(), []string{"c stop", "b stop", "a stop"})
}

// TestStopFailsButStopped is the kludge for init scripts that call a stop of a
// stopped service an error.
func TestStopFailsButStopped(t *testing.T) {
	m := newMachine(t)
	m.service(m.dir, "a", "")
	m.service(m.init, "b", "stop) rm -f $state; exit 1;;")
	g := m.library(resources.Options{StopRetries: 1}).Group("node1", []string{"a", "b"})
	take(t, g)
	m.manager()
	give(t, g)
	equal(t, "log", m.manager(), []string{
		"info: Releasing resource group: node1 a b",
		"info: Running INIT/b stop",
		"ERROR: Return code 1 from INIT/b",
		"info: Retrying failed stop operation [b]",
		"info: Running INIT/b stop",
		"ERROR: Return code 1 from INIT/b",
		"ERROR: Resource script for b probably not LSB-compliant.",
		"WARN: it (b) MUST succeed on a stop when already stopped",
		"info: Running DIR/a stop",
	})
}

// TestStatusUnknownIsNotStopped: a stop that failed and a status that cannot be
// had leave the group here.
func TestStatusUnknownIsNotStopped(t *testing.T) {
	m := newMachine(t)
	m.service(m.dir, "a", `stop) exit 1;; status) if [ -f $state ]; then trap '' TERM; while :; do sleep 0.05; done; fi;;`)
	g := m.library(resources.Options{StopRetries: 1, Budgets: resources.Budgets{Status: 300 * time.Millisecond}}).Group("node1", []string{"a"})
	if err := os.WriteFile(filepath.Join(m.state, "a"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := g.Give(context.Background())
	var failed *resources.StopFailed
	if !errors.As(err, &failed) || !strings.Contains(err.Error(), "state is unknown") || !strings.Contains(err.Error(), "time limit of 300ms reached") {
		t.Errorf("error %v", err)
	}
}

func TestScriptOutputAndEnvironment(t *testing.T) {
	m := newMachine(t)
	m.write(m.dir, "a", "#!/bin/sh\necho \"$HA_RUN $3 $(pwd)\"\necho oops >&2\n")
	runs := 0
	lib := m.library(resources.Options{Dir: m.state, Env: func() []string {
		runs++
		return []string{fmt.Sprintf("HA_RUN=%d", runs)}
	}})
	r, err := lib.Lookup("a::x::y")
	if err != nil || r.Name() != "a::x::y" {
		t.Fatal(r, err)
	}
	for range 2 {
		if err := r.Start(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	equal(t, "log", m.lines, []string{"a: debug: 1 start " + m.state, "a: debug: oops", "a: debug: 2 start " + m.state, "a: debug: oops"})
	m.lines = nil
	if state, err := r.Status(context.Background()); state != resources.Stopped || err != nil {
		t.Errorf("status %v (%v)", state, err)
	}
	if !slices.ContainsFunc(m.lines, func(line string) bool { return strings.Contains(line, "exit code 0 says it is") }) {
		t.Errorf("the contradiction is not in the log: %q", m.lines)
	}
}

func TestScriptConformance(t *testing.T) {
	m := newMachine(t)
	m.service(m.dir, "svc", "")
	lib := m.library(resources.Options{})
	resourcetest.Run(t, func(t *testing.T) resources.Resource {
		r, err := lib.Lookup("svc::1")
		if err != nil {
			t.Fatal(err)
		}
		return r
	})
}

// TestWhoseScript: an administrator's own file wins over the built-in type, the
// mark of our own does not; the choice is logged once.
func TestWhoseScript(t *testing.T) {
	m := newMachine(t)
	f := &fake{}
	lib := m.library(resources.Options{Builtin: map[string]resources.Factory{"IPaddr": f.factory}})
	kind := func() string {
		t.Helper()
		r, err := lib.Lookup("192.0.2.1")
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%T", r)
	}
	const builtin = "*resources_test.fakeResource"
	if got := kind(); got != builtin {
		t.Errorf("without a file: %s", got)
	}
	m.write(m.dir, "IPaddr", "#!/bin/sh\n"+resources.OwnMark+"\nexit 1\n")
	if got := kind(); got != builtin {
		t.Errorf("with our own file: %s", got)
	}
	if lines := m.manager(); len(lines) != 0 {
		t.Errorf("log %q", lines)
	}
	m.write(m.dir, "IPaddr", "#!/bin/sh\n# mine\necho running\n")
	for range 3 {
		if got := kind(); got == builtin {
			t.Errorf("with an administrator's file: %s", got)
		}
	}
	equal(t, "log", m.manager(), []string{"info: DIR/IPaddr is not the stock script: it is used instead of the built-in IPaddr"})
	if err := os.Chmod(filepath.Join(m.dir, "IPaddr"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := kind(); got != builtin {
		t.Errorf("with a file that cannot be executed: %s", got)
	}
}

// TestChoiceLastsWhileTaken: what was started by the built-in is stopped by it.
func TestChoiceLastsWhileTaken(t *testing.T) {
	m := newMachine(t)
	f := &fake{}
	g := m.library(resources.Options{Builtin: map[string]resources.Factory{"IPaddr": f.factory}}).Group("node1", []string{"192.0.2.1"})
	take(t, g)
	m.service(m.dir, "IPaddr", "")
	take(t, g)
	give(t, g)
	equal(t, "built-in", f.calls, []string{"192.0.2.1 start", "192.0.2.1 start", "192.0.2.1 stop"})
	equal(t, "script", m.calls(), nil)
	take(t, g)
	give(t, g)
	equal(t, "script", m.calls(), []string{"IPaddr 192.0.2.1 start", "IPaddr 192.0.2.1 stop"})
}

// fake is a built-in type whose failures are chosen. It only makes conditions that
// no machine produces on demand.
type fake struct {
	mu    sync.Mutex
	calls []string
	act   func(ctx context.Context, call string) error
}

type fakeResource struct {
	f   *fake
	arg string
}

func (f *fake) factory(args []string) (resources.Resource, error) {
	if len(args) != 1 {
		return nil, errors.New("one argument expected")
	}
	return &fakeResource{f, args[0]}, nil
}

func (r *fakeResource) Name() string { return "IPaddr::" + r.arg }

func (r *fakeResource) do(ctx context.Context, action string) error {
	r.f.mu.Lock()
	r.f.calls = append(r.f.calls, r.arg+" "+action)
	r.f.mu.Unlock()
	if r.f.act == nil {
		return nil
	}
	return r.f.act(ctx, r.arg+" "+action)
}

func (r *fakeResource) Start(ctx context.Context) error { return r.do(ctx, "start") }
func (r *fakeResource) Stop(ctx context.Context) error  { return r.do(ctx, "stop") }
func (r *fakeResource) Status(ctx context.Context) (resources.State, error) {
	return resources.Stopped, nil
}

func hang(ctx context.Context) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

func (m *machine) fakeGroup(f *fake, o resources.Options, entries ...string) *resources.Group {
	o.Builtin = map[string]resources.Factory{"IPaddr": f.factory}
	return m.library(o).Group("node1", entries)
}

// TestRetries counts the stops and their pauses in virtual time.
func TestRetries(t *testing.T) {
	for _, c := range []struct {
		name            string
		retries, failed int // failed: how many stops fail
		took            time.Duration
		ok              bool
	}{
		{"third time lucky", 0, 2, 2 * time.Second, true},
		{"last retry", 0, 10, 10 * time.Second, true},
		{"one too few", 0, 11, 10 * time.Second, false},
		{"own number", 3, 4, 3 * time.Second, false},
		{"until the budget is used up", -1, 1000, time.Minute, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMachine(t)
				stops := 0
				f := &fake{act: func(ctx context.Context, call string) error {
					if stops++; stops <= c.failed {
						return errors.New("busy")
					}
					return nil
				}}
				g := m.fakeGroup(f, resources.Options{StopRetries: c.retries}, "192.0.2.1")
				before := time.Now()
				err := g.Give(context.Background())
				var failed *resources.StopFailed
				if (err == nil) != c.ok || err != nil && !errors.As(err, &failed) {
					t.Errorf("error %v", err)
				}
				if took := time.Since(before); took != c.took {
					t.Errorf("took %v, want %v", took, c.took)
				}
			})
		})
	}
}

func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		f := &fake{act: func(ctx context.Context, call string) error {
			if call == "192.0.2.2 start" {
				return hang(ctx)
			}
			return nil
		}}
		g := m.fakeGroup(f, resources.Options{}, "192.0.2.1", "192.0.2.2/24")
		g2 := m.fakeGroup(f, resources.Options{}, "192.0.2.1", "192.0.2.2")
		take(t, g)
		m.manager()
		before := time.Now()
		err := g2.Take(context.Background())
		var failed *resources.StartFailed
		if !errors.As(err, &failed) || err.Error() != "start 192.0.2.2: time limit of 1m0s reached" {
			t.Errorf("error %v", err)
		}
		if took := time.Since(before); took != time.Minute {
			t.Errorf("took %v", took)
		}
		equal(t, "log", m.manager(), []string{
			"info: Acquiring resource group: node1 192.0.2.1 192.0.2.2",
			"info: Running DIR/IPaddr 192.0.2.1 start",
			"info: Running DIR/IPaddr 192.0.2.2 start",
			"WARN: DIR/IPaddr 192.0.2.2 start has been running for 6s, its limit is 1m0s",
			"ERROR: Return code 1 from DIR/IPaddr",
			"CRIT: Giving up resources due to failure of 192.0.2.2",
			"info: Releasing resource group: node1 192.0.2.1 192.0.2.2",
			"info: Running DIR/IPaddr 192.0.2.2 stop",
			"info: Running DIR/IPaddr 192.0.2.1 stop",
		})
	})
}

// TestRollbackFails: both errors are found in the one.
func TestRollbackFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		f := &fake{act: func(ctx context.Context, call string) error {
			if call == "192.0.2.2 start" || call == "192.0.2.1 stop" {
				return errors.New(call + " is broken")
			}
			return nil
		}}
		err := m.fakeGroup(f, resources.Options{}, "192.0.2.1", "192.0.2.2").Take(context.Background())
		var start *resources.StartFailed
		var stop *resources.StopFailed
		if !errors.As(err, &start) || start.Resource != "192.0.2.2" || !errors.As(err, &stop) || stop.Resource != "192.0.2.1" {
			t.Errorf("error %v", err)
		}
	})
}

// TestGiveEndsTake: a release does not wait for a start that hangs, and stops
// everything after it.
func TestGiveEndsTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		f := &fake{act: func(ctx context.Context, call string) error {
			if call == "192.0.2.2 start" {
				return hang(ctx)
			}
			return nil
		}}
		g := m.fakeGroup(f, resources.Options{}, "192.0.2.1", "192.0.2.2", "192.0.2.3")
		taken := make(chan error, 1)
		before := time.Now()
		go func() { taken <- g.Take(context.Background()) }()
		synctest.Wait()
		give(t, g)
		err := <-taken
		var interrupted *resources.Interrupted
		if !errors.As(err, &interrupted) || interrupted.Resource != "192.0.2.2" || !errors.Is(err, resources.ErrGive) {
			t.Errorf("take: %v", err)
		}
		if took := time.Since(before); took != 0 {
			t.Errorf("took %v", took)
		}
		equal(t, "calls", f.calls, []string{"192.0.2.1 start", "192.0.2.2 start", "192.0.2.3 stop", "192.0.2.2 stop", "192.0.2.1 stop"})
		// The next take is not touched by the release that is over.
		f.act = nil
		take(t, g)
	})
}

// TestGiveOutrunsWaitingTake: a Take that was waiting before the Give came does not
// start anything first.
func TestGiveOutrunsWaitingTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		f := &fake{act: func(ctx context.Context, call string) error {
			time.Sleep(time.Second) // deaf to its context
			return nil
		}}
		g := m.fakeGroup(f, resources.Options{}, "192.0.2.1", "192.0.2.2")
		taken := make(chan error, 2)
		for range 2 {
			go func() { taken <- g.Take(context.Background()) }()
			synctest.Wait()
		}
		give(t, g)
		for range 2 {
			var interrupted *resources.Interrupted
			if err := <-taken; !errors.As(err, &interrupted) {
				t.Errorf("take: %v", err)
			}
		}
		equal(t, "calls", f.calls, []string{"192.0.2.1 start", "192.0.2.2 stop", "192.0.2.1 stop"})
	})
}

// TestCancelledTake stops nothing: whoever cancelled it gives the group.
func TestCancelledTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		f := &fake{act: func(ctx context.Context, call string) error { return hang(ctx) }}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		err := m.fakeGroup(f, resources.Options{}, "192.0.2.1", "192.0.2.2").Take(ctx)
		var interrupted *resources.Interrupted
		if !errors.As(err, &interrupted) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("take: %v", err)
		}
		equal(t, "calls", f.calls, []string{"192.0.2.1 start"})
	})
}

// TestOneAtATime: no two actions of a group overlap, whoever calls.
func TestOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		var busy, most int
		var mu sync.Mutex
		f := &fake{act: func(ctx context.Context, call string) error {
			mu.Lock()
			busy++
			most = max(most, busy)
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			busy--
			mu.Unlock()
			return nil
		}}
		g := m.fakeGroup(f, resources.Options{}, "192.0.2.1", "192.0.2.2")
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() { _ = g.Take(context.Background()) })
			wg.Go(func() { _ = g.Give(context.Background()) })
			wg.Go(func() { _, _, _ = g.Status(context.Background()) })
		}
		wg.Wait()
		if most != 1 {
			t.Errorf("%d actions at a time", most)
		}
		// One that waits for its turn goes away with its context.
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		wg.Go(func() { _ = g.Take(context.Background()) })
		synctest.Wait()
		if _, err := g.FirstRunning(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("status while busy: %v", err)
		}
		wg.Wait()
	})
}

// TestBuiltInTags: a built-in logs what the OCF agent's wrapper did.
func TestBuiltInTags(t *testing.T) {
	m := newMachine(t)
	g := m.fakeGroup(&fake{}, resources.Options{}, "192.0.2.1/24/eth0")
	take(t, g)
	if _, err := g.FirstRunning(context.Background()); err != nil {
		t.Fatal(err)
	}
	const tag = "/usr/lib/ocf/resource.d//heartbeat/IPaddr(IPaddr_192.0.2.1): "
	equal(t, "log", m.lines, []string{
		"ResourceManager(default): info: Acquiring resource group: node1 192.0.2.1/24/eth0",
		"ResourceManager(default): info: Running DIR/IPaddr 192.0.2.1/24/eth0 start",
		tag + "INFO:  Success",
		tag + "INFO:  Resource is stopped",
	})
}

// pack is a Batch of fakes: it records which of them it was given together.
type pack struct {
	f    *fake
	runs [][]string
}

type packed struct {
	*fakeResource
	pack *pack
}

func (p packed) Batch() resources.Batch { return p.pack }

func (p *pack) StartAll(ctx context.Context, list []resources.Resource) []error {
	return p.all(list, "start", func(r resources.Resource) error { return r.Start(ctx) })
}

func (p *pack) StopAll(ctx context.Context, list []resources.Resource) []error {
	return p.all(list, "stop", func(r resources.Resource) error { return r.Stop(ctx) })
}

func (p *pack) all(list []resources.Resource, action string, do func(resources.Resource) error) []error {
	run := []string{action}
	var errs []error
	for _, r := range list {
		run = append(run, r.Name())
		errs = append(errs, do(r))
	}
	p.runs = append(p.runs, run)
	return errs
}

// packGroup is a group whose types P and Q each have their Batch, and whose S is
// always alone.
func (m *machine) packGroup(f *fake, entries ...string) (g *resources.Group, p, q *pack) {
	p, q = &pack{f: f}, &pack{f: f}
	of := func(pk *pack) resources.Factory {
		return func(args []string) (resources.Resource, error) {
			return packed{&fakeResource{f, args[0]}, pk}, nil
		}
	}
	lib := m.library(resources.Options{
		Builtin:     map[string]resources.Factory{"P": of(p), "Q": of(q), "S": f.factory},
		StopRetries: 1,
	})
	return lib.Group("node1", entries), p, q
}

func (p *pack) took() []string {
	var lines []string
	for _, run := range p.runs {
		lines = append(lines, strings.ReplaceAll(strings.Join(run, " "), "IPaddr::", ""))
	}
	p.runs = nil
	return lines
}

// TestBatches: neighbours with the same Batch go together; the order among the
// others stays.
func TestBatches(t *testing.T) {
	m := newMachine(t)
	f := &fake{}
	g, p, q := m.packGroup(f, "P::1", "P::2", "S::3", "P::4", "Q::5", "Q::6", "P::7", "P::7")
	take(t, g)
	equal(t, "calls at start", f.calls, []string{"1 start", "2 start", "3 start", "4 start", "5 start", "6 start", "7 start", "7 start"})
	equal(t, "batches of P at start", p.took(), []string{"start 1 2", "start 7 7"})
	equal(t, "batches of Q at start", q.took(), []string{"start 5 6"})
	f.calls = nil
	give(t, g)
	equal(t, "calls at stop", f.calls, []string{"7 stop", "7 stop", "6 stop", "5 stop", "4 stop", "3 stop", "2 stop", "1 stop"})
	equal(t, "batches of P at stop", p.took(), []string{"stop 7 7", "stop 2 1"})
	equal(t, "batches of Q at stop", q.took(), []string{"stop 6 5"})
}

// TestLongBatch: a batch has a limit, and after it a Take can be ended.
func TestLongBatch(t *testing.T) {
	m := newMachine(t)
	ctx, cancel := context.WithCancel(context.Background())
	f := &fake{act: func(_ context.Context, call string) error {
		if call == "10 start" {
			cancel()
		}
		return nil
	}}
	var entries []string
	for i := range 1100 {
		entries = append(entries, fmt.Sprintf("P::%d", i))
	}
	g, p, _ := m.packGroup(f, entries...)
	var interrupted *resources.Interrupted
	if err := g.Take(ctx); !errors.As(err, &interrupted) || interrupted.Resource != "P::512" {
		t.Errorf("take: %v", err)
	}
	p.runs = nil
	give(t, g)
	if sizes := []int{len(p.runs[0]) - 1, len(p.runs[1]) - 1, len(p.runs[2]) - 1}; !slices.Equal(sizes, []int{512, 512, 76}) {
		t.Errorf("stopped in batches of %d", sizes)
	}
}

// TestBatchFails: the first that cannot be started is the reason, those right of the
// batch are not started, and everything is stopped.
func TestBatchFails(t *testing.T) {
	m := newMachine(t)
	f := &fake{act: func(_ context.Context, call string) error {
		if call == "2 start" || call == "3 start" {
			return errors.New(call + " is broken")
		}
		return nil
	}}
	g, _, _ := m.packGroup(f, "P::1", "P::2", "P::3", "P::4", "S::5")
	err := g.Take(context.Background())
	var failed *resources.StartFailed
	if !errors.As(err, &failed) || failed.Resource != "P::2" || err.Error() != "start P::2: 2 start is broken" {
		t.Errorf("take: %v", err)
	}
	equal(t, "calls", f.calls, []string{
		"1 start", "2 start", "3 start", "4 start",
		"5 stop", "4 stop", "3 stop", "2 stop", "1 stop",
	})
	equal(t, "log", m.manager(), []string{
		"info: Acquiring resource group: node1 P::1 P::2 P::3 P::4 S::5",
		"info: Running DIR/P 1 start",
		"info: Running DIR/P 2 start",
		"ERROR: Return code 1 from DIR/P",
		"info: Running DIR/P 3 start",
		"ERROR: Return code 1 from DIR/P",
		"info: Running DIR/P 4 start",
		"CRIT: Giving up resources due to failure of P::2",
		"info: Releasing resource group: node1 P::1 P::2 P::3 P::4 S::5",
		"info: Running DIR/S 5 stop",
		"info: Running DIR/P 4 stop",
		"info: Running DIR/P 3 stop",
		"info: Running DIR/P 2 stop",
		"info: Running DIR/P 1 stop",
	})
}

// TestBatchStopFails: one of a batch is stopped at the second try, one never; what is
// left of the batch stays.
func TestBatchStopFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		tries := 0
		f := &fake{act: func(_ context.Context, call string) error {
			if call == "4 stop" {
				tries++
			}
			if call == "4 stop" && tries == 1 || call == "3 stop" {
				return errors.New(call + " is broken")
			}
			return nil
		}}
		g, _, _ := m.packGroup(f, "S::1", "P::2", "P::3", "P::4")
		take(t, g)
		f.calls = nil
		err := g.Give(context.Background())
		var failed *resources.StopFailed
		if !errors.As(err, &failed) || failed.Resource != "P::3" {
			t.Errorf("give: %v", err)
		}
		equal(t, "calls", f.calls, []string{"4 stop", "3 stop", "2 stop", "4 stop", "3 stop"})
	})
}

// keeper is a resource that an earlier process may have started.
type keeper struct {
	*fakeResource
	kept *[]string
}

func (k keeper) Keep(_ context.Context, watched bool) error {
	*k.kept = append(*k.kept, fmt.Sprint(k.arg, " ", watched))
	if k.arg == "bad" {
		return errors.New("no such device")
	}
	return nil
}

// TestKeep: every resource that must know is told, whatever becomes of the others,
// and the administrator's scripts are none of them.
func TestKeep(t *testing.T) {
	m := newMachine(t)
	m.service(m.dir, "web", "")
	var kept []string
	var f fake
	lib := m.library(resources.Options{Builtin: map[string]resources.Factory{"IPaddr": func(args []string) (resources.Resource, error) {
		r, err := f.factory(args)
		if err != nil {
			return nil, err
		}
		return keeper{r.(*fakeResource), &kept}, nil
	}}})
	g := lib.Group("node1", []string{"IPaddr::one", "IPaddr::bad", "web", "missing", "IPaddr::two"})
	err := g.Keep(context.Background(), true)
	equal(t, "kept", kept, []string{"one true", "bad true", "two true"})
	if err == nil || !strings.Contains(err.Error(), "keep IPaddr::bad: no such device") || !strings.Contains(err.Error(), "keep missing: ") {
		t.Errorf("error %v", err)
	}
	list, err := g.Resources(context.Background())
	var names []string
	for _, r := range list {
		names = append(names, r.Name())
	}
	equal(t, "resources", names, []string{"IPaddr::one", "IPaddr::bad", "web", "IPaddr::two"})
	if err != nil {
		t.Error(err)
	}
	equal(t, "calls of scripts", m.calls(), nil)
}
