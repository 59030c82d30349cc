package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"heartbeat/cluster"
	"heartbeat/cluster/engine"
	"heartbeat/cluster/node/logging"
)

// programLab runs programs and reads what they and the log say.
type programLab struct {
	t   *testing.T
	dir string
	log *logging.Log
}

func newProgramLab(t *testing.T) *programLab {
	if os.Geteuid() != 0 {
		t.Fatal("programs run as other users: run this as root")
	}
	// Not below the test's own directory, which only root may enter.
	dir, err := os.MkdirTemp("/tmp", "heartbeat-programs-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	log, err := logging.New(logging.Options{Host: "node1", Logfile: filepath.Join(dir, "log"), UID: -1, GID: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(log.Close)
	return &programLab{t: t, dir: dir, log: log}
}

func (l *programLab) programs(lines ...Program) *Programs {
	p := NewPrograms(ProgramOptions{
		List: lines, Cores: l.dir, Notes: filepath.Join(l.dir, "notes"), Log: l.log,
		Env:    func() []string { return []string{"HA_CURHOST=node1", "LAB=" + l.dir} },
		Reboot: func() error { return os.WriteFile(filepath.Join(l.dir, "rebooted"), nil, 0o600) },
	})
	p.times.pause = time.Millisecond
	l.t.Cleanup(p.Stop)
	return p
}

func (l *programLab) read(name string) string {
	text, _ := os.ReadFile(filepath.Join(l.dir, name))
	return string(text)
}

// wait waits until a file holds a text.
func (l *programLab) wait(name, text string) {
	l.t.Helper()
	for limit := time.Now().Add(20 * time.Second); !strings.Contains(l.read(name), text); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(limit) {
			l.t.Fatalf("%s never says %q:\n%s", name, text, l.read(name))
		}
	}
}

// flushed is the log once everything is written.
func (l *programLab) flushed() string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	l.log.Flush(ctx)
	return l.read("log")
}

// lines are the texts of the log's lines with these words, with process numbers
// replaced.
func (l *programLab) lines(words ...string) (found []string) {
	for line := range strings.Lines(l.flushed()) {
		if slices.ContainsFunc(words, func(w string) bool { return strings.Contains(line, w) }) {
			_, text, _ := strings.Cut(strings.TrimSpace(line), "]: ")
			found = append(found, text)
		}
	}
	return found
}

// withoutRealtimeSignals takes the signals from 32 up out of a line SigIgn: the
// tests may have been started with some of them ignored.
func withoutRealtimeSignals(t *testing.T, text string) string {
	head, word, ok := strings.Cut(text, "SigIgn:\t")
	ignored, err := strconv.ParseUint(strings.TrimSpace(word), 16, 64)
	if !ok || err != nil {
		t.Fatalf("no ignored signals in %q", text)
	}
	return fmt.Sprintf("%sSigIgn:\t%016x\n", head, ignored&(1<<31-1))
}

// TestProgramsLife: programs start when communication is up, in file order, as
// their users, on their own; and stop in reverse.
func TestProgramsLife(t *testing.T) {
	l := newProgramLab(t)
	if err := os.Mkdir(filepath.Join(l.dir, "nobody"), 0o755); err != nil {
		t.Fatal(err)
	}
	// A score that differs from what the programs shall have, as a protected
	// daemon's does.
	own, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("50"), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.WriteFile("/proc/self/oom_score_adj", own, 0) })
	for _, name := range []string{"starts", "stops"} { // both users write to them
		if err := os.WriteFile(filepath.Join(l.dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(l.dir, name), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	describe := `sh -c 'exec 3>&1; trap "echo $0 >> $LAB/stops; exit 0" TERM; ` +
		`{ id -un; id -gn; pwd; echo $HA_CURHOST; readlink /proc/$$/fd/0 /proc/$$/fd/3 /proc/$$/fd/2; cat /proc/$$/oom_score_adj; ` +
		`test $(cut -d" " -f5 /proc/$$/stat) = $$ && echo leads; cut -d" " -f41 /proc/$$/stat; grep SigIgn /proc/$$/status; } > $LAB/$0; ` +
		`echo $0 >> $LAB/starts; while :; do sleep 0.05; done' `
	p := l.programs(Program{User: "nobody", Command: describe + "first"}, Program{User: "root", Command: describe + "second"})
	eng := &scripted{none: true, on: func(cluster.Instant, engine.Input) []engine.Output { return nil }}
	dir := t.TempDir()
	n := New(Options{Engine: eng, Log: l.log, Programs: p, Paths: Paths{Config: dir, State: dir, Run: dir}})
	out := make(chan Outcome, 1)
	n.Start(nil, nil)
	go func() { out <- n.Run() }()
	step := func(up bool) {
		if err := n.call(context.Background(), func() { eng.view.CommUp = up; n.step(engine.Wake{}) }); err != nil {
			t.Error(err)
		}
	}
	step(false)
	step(false)
	if text := l.flushed(); strings.Contains(text, "Starting") {
		t.Errorf("started before communication is up:\n%s", text)
	}
	step(true)
	step(true)
	l.wait("starts", "first")
	l.wait("starts", "second")
	if got, want := withoutRealtimeSignals(t, l.read("first")), "nobody\nnogroup\n"+l.dir+"/nobody\nnode1\n/dev/null\n/dev/null\n/dev/null\n0\nleads\n0\nSigIgn:\t0000000000000000\n"; got != want {
		t.Errorf("the first program sees\n%s\nwant\n%s", got, want)
	}
	if got := l.read("second"); !strings.HasPrefix(got, "root\nroot\n/\nnode1\n") {
		t.Errorf("the second program sees\n%s", got)
	}
	starts := l.lines("Starting")
	if len(starts) != 4 || !strings.Contains(starts[0], "info: Starting child client \"sh -c") || !strings.HasSuffix(starts[0], "first\" (65534,65534)") ||
		!strings.Contains(starts[1], "first\" as uid 65534  gid 65534 (pid ") || !strings.HasSuffix(starts[2], "second\" (0,0)") {
		t.Errorf("log of the start:\n%s", strings.Join(starts, "\n"))
	}
	go func() { _ = n.call(context.Background(), func() { n.do(0, engine.Exit{}) }) }()
	<-out
	n.End()
	if got := l.read("stops"); got != "second\nfirst\n" {
		t.Errorf("stopped in the order %q", got)
	}
	killing := l.lines("killing")
	if len(killing) != 2 || !strings.Contains(killing[0], "second process group ") || !strings.HasSuffix(killing[0], " with signal 15") {
		t.Errorf("log of the stop:\n%s", strings.Join(killing, "\n"))
	}
	if strings.Contains(l.flushed(), "Respawning") {
		t.Error("a program was started again during the stop")
	}
}

// TestProgramsRespawn: the rules of restarting.
func TestProgramsRespawn(t *testing.T) {
	for _, c := range []struct {
		name, script string
		failfast     bool
		starts       int
		says         []string
		rebooted     bool
	}{
		{name: "asks not to come again", script: "exit 100", starts: 1, says: []string{"WARN: Managed SCRIPT process P exited with return code 100."}},
		{name: "fails too fast", script: "exit 3", starts: 11, says: []string{
			"WARN: Managed SCRIPT process P exited with return code 3.", `ERROR: Respawning client "SCRIPT":`, `ERROR: Client SCRIPT "respawning too fast"`}},
		{name: "ends well too fast", script: "exit 0", starts: 11, says: []string{
			"info: Managed SCRIPT process P exited with return code 0.", `ERROR: Client SCRIPT "respawning too fast"`}},
		{name: "is killed twice", script: `[ $n -gt 2 ] && exit 100; kill -9 $$`, starts: 3, says: []string{
			"WARN: Managed SCRIPT process P killed by signal 9 [SIGKILL - Kill, unblockable].", `ERROR: Respawning client "SCRIPT":`}},
		{name: "fails fast", script: `[ $n -gt 1 ] && exit 100; exit 1`, failfast: true, starts: 2, says: []string{"CRIT: Rebooting system.  Reason: SCRIPT"}, rebooted: true},
		{name: "ends well, failfast", script: `[ $n -gt 1 ] && exit 100; exit 0`, failfast: true, starts: 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newProgramLab(t)
			path := filepath.Join(l.dir, "program")
			text := "#!/bin/sh\necho start >> $LAB/starts\nn=$(grep -c start $LAB/starts)\n" + c.script + "\n"
			if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
				t.Fatal(err)
			}
			p := l.programs(Program{User: "nobody", Command: path, Failfast: c.failfast})
			p.stepped(&scripted{view: engine.View{CommUp: true}})
			p.workers.Wait() // each of them gives up in the end
			if got := strings.Count(l.read("starts"), "start"); got != c.starts {
				t.Errorf("%d starts, want %d\n%s", got, c.starts, l.flushed())
			}
			_, err := os.Stat(filepath.Join(l.dir, "rebooted"))
			if (err == nil) != c.rebooted {
				t.Errorf("machine restarted: %v", err == nil)
			}
			var said []string
			for _, line := range l.lines("Managed", "espawning", "Rebooting") {
				line = strings.ReplaceAll(line, path, "SCRIPT")
				if i := strings.Index(line, "process "); i >= 0 {
					_, rest, _ := strings.Cut(line[i+len("process "):], " ")
					line = line[:i] + "process P " + rest
				}
				said = append(said, line)
			}
			for _, want := range c.says {
				if !slices.Contains(said, want) {
					t.Errorf("the log does not say %q:\n%s", want, strings.Join(said, "\n"))
				}
			}
		})
	}
}

// TestProgramsLongLife: a long life makes the short ones before it forgotten,
// and a restart after it does not wait.
func TestProgramsLongLife(t *testing.T) {
	l := newProgramLab(t)
	p := l.programs(Program{User: "root", Command: `sh -c 'echo start >> $LAB/starts; [ $(grep -c start $LAB/starts) -gt 40 ] && exit 100; exit 1'`})
	p.times.short, p.times.pause = 0, time.Hour
	p.stepped(&scripted{view: engine.View{CommUp: true}})
	p.workers.Wait()
	if got := strings.Count(l.read("starts"), "start"); got != 41 {
		t.Errorf("%d starts, want 41", got)
	}
}

// TestProgramsStopBounded: a program that ignores TERM is killed, with what it
// started in its group; one that waits for its next start is not started.
func TestProgramsStopBounded(t *testing.T) {
	l := newProgramLab(t)
	p := l.programs(Program{User: "root", Command: `sh -c 'trap "" TERM; sleep 1000 & echo $! > $LAB/child; wait'`},
		Program{User: "root", Command: `sh -c 'echo start >> $LAB/starts; exit 1'`})
	p.times.grace, p.times.pause = 50*time.Millisecond, time.Hour
	p.stepped(&scripted{view: engine.View{CommUp: true}})
	l.wait("child", "\n")
	l.wait("log", "Respawning")
	p.Stop()
	child, err := strconv.Atoi(strings.TrimSpace(l.read("child")))
	if err != nil {
		t.Fatal(err)
	}
	for limit := time.Now().Add(10 * time.Second); unix.Kill(child, 0) == nil && !zombieProcess(child); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("process %d of the group still runs", child)
		}
	}
	if got := l.read("starts"); got != "start\n" {
		t.Errorf("started again: %q", got)
	}
	if text := l.flushed(); !strings.Contains(text, "with signal 9") {
		t.Errorf("the log does not tell of the kill:\n%s", text)
	}
}

// zombieProcess: killed, and its parent, which is not the test, has not buried
// it yet.
func zombieProcess(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.Contains(string(stat), ") Z ")
}

// TestProgramsHandOver: a successor in place goes on with what runs, ends what
// ha.cf has no longer and starts what is new.
func TestProgramsHandOver(t *testing.T) {
	l := newProgramLab(t)
	line := func(name string) Program {
		return Program{User: "root", Command: "sh -c 'echo $0 >> $LAB/starts; while :; do sleep 0.05; done' " + name}
	}
	old := l.programs(line("stays"), line("goes"))
	old.stepped(&scripted{view: engine.View{CommUp: true}})
	l.wait("starts", "stays")
	l.wait("starts", "goes")
	running, resume := old.HandOver()
	defer resume()
	if len(running) != 2 {
		t.Fatalf("handed over: %+v", running)
	}
	// The successor is the same process here, so the predecessor must not wait
	// for the children any more: its own wait gets them first or not at all.
	next := l.programs(line("new"), line("stays"))
	next.o.Taken = running
	next.stepped(&scripted{view: engine.View{CommUp: true}})
	l.wait("starts", "new")
	l.wait("log", fmt.Sprintf("process group %d with signal 15", running[1].PID))
	if err := unix.Kill(running[0].PID, 0); err != nil {
		t.Errorf("what stays does not run any more: %v", err)
	}
	if got := strings.Count(l.read("starts"), "stays"); got != 1 {
		t.Errorf("what stays was started %d times", got)
	}
	next.Stop()
	l.wait("log", fmt.Sprintf("process group %d with signal 15", running[0].PID))
	old.Close()
}

// TestProgramsUnknownUser: a user that is gone since the check is an error in
// the log, tried again like a failure, and no more.
func TestProgramsUnknownUser(t *testing.T) {
	l := newProgramLab(t)
	p := l.programs(Program{User: "no-such-user", Command: "/bin/true"})
	p.stepped(&scripted{view: engine.View{CommUp: true}})
	p.workers.Wait()
	if got := strings.Count(l.flushed(), "ERROR: look up user no-such-user"); got != 11 {
		t.Errorf("tried %d times:\n%s", got, l.read("log"))
	}
}

// TestProgramsGate: a process that its daemon has not noted yet ends with the
// daemon, and has not become the program.
func TestProgramsGate(t *testing.T) {
	l := newProgramLab(t)
	p := l.programs(Program{User: "root", Command: "sh -c 'echo $$ >>" + l.dir + "/pids'"})
	pr := p.list[0]
	gate, err := pr.fork()
	if err != nil {
		t.Fatal(err)
	}
	if err := gate.Close(); err != nil { // as the kernel does for a dead daemon
		t.Fatal(err)
	}
	p.Close()
	pr.supervise(nil) // waits for its end
	if got := l.lines("exited with return code 0"); len(got) != 1 {
		t.Errorf("the log says %q", got)
	}
	if _, err := os.Stat(filepath.Join(l.dir, "pids")); err == nil {
		t.Error("the program ran")
	}
}

// TestProgramsOfDeadDaemon: what a killed daemon has left running is ended
// before anything is started, and nothing else is: a process that has got the
// number of one that has ended stays.
func TestProgramsOfDeadDaemon(t *testing.T) {
	l := newProgramLab(t)
	line := Program{User: "root", Command: "sh -c 'echo $$ >>" + l.dir + "/pids; sleep 1000'"}
	dead := l.programs(line)
	dead.start()
	l.wait("pids", "\n")
	l.wait("notes", "sleep")
	first, err := strconv.Atoi(strings.TrimSpace(l.read("pids")))
	if err != nil {
		t.Fatal(err)
	}
	dead.Close() // so that it does not start the program again, as the dead do not

	ticks, ok := processTicks(os.Getpid())
	if !ok {
		t.Fatal("this process has no start")
	}
	notes := strings.TrimSuffix(l.read("notes"), "]") + fmt.Sprintf(`,{"PID":%d,"Ticks":%d,"Command":"another"}]`, os.Getpid(), ticks-1)
	if err := os.WriteFile(filepath.Join(l.dir, "notes"), []byte(notes), 0o600); err != nil {
		t.Fatal(err)
	}
	next := l.programs(line)
	if !next.left {
		t.Error("the notes are not seen")
	}
	next.start()
	for limit := time.Now().Add(20 * time.Second); strings.Count(l.read("pids"), "\n") < 2; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("not started again:\n%s", l.flushed())
		}
	}
	if _, runs := processTicks(first); runs {
		t.Error("the program runs twice")
	}
	if got := l.lines("left by a former daemon"); len(got) != 1 {
		t.Errorf("the log says %q", got)
	}
	next.Stop()
	if _, err := os.Stat(filepath.Join(l.dir, "notes")); err == nil {
		t.Error("notes are left after a clean end")
	}
}
