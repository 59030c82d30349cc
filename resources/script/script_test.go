package script

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is for things that happen within milliseconds on a machine that is not
// paused.
const patience = 20 * time.Second

// write makes an executable script of the shell text.
func write(t testing.TB, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func run(t *testing.T, text, action string, args ...string) (Result, error) {
	t.Helper()
	path := write(t, t.TempDir(), "res", "#!/bin/sh\n"+text)
	return Command{Path: path, Args: args}.Run(context.Background(), action)
}

func TestRunning(t *testing.T) {
	for _, c := range []struct {
		text string
		want bool
	}{
		{"running", true},
		{"Running", true},
		{"OK", true},
		{"INFO:  Running OK\n", true},
		{"httpd (pid 123) is running...", true},
		{"   Active: active (running) since Mon", true},
		{"/data is mounted (running)\n", true},
		// traps
		{"dead but was running", true},
		{"is running, backup not configured", true},
		{"BROKEN", true}, // contains OK
		{"", false},
		{"stopped", false},
		{"INFO:  Resource is stopped\n", false},
		{"not running", false},
		{"NOT Running", false},
		{"nOt running", false},
		{"is not yet running", false},
		{"OK, but not really running", false},
		{"running\nmirror is not running\n", false},
		{"not here\nbut running\n", false},     // the pattern spans lines
		{"cannot tell, may be running", false}, // "cannot " ends in "not "
		{"notrunning", true},                   // no blank behind "not"
		{"not RUNNING", false},                 // neither pattern: only the first letter's case is free
		{"RUNNING", false},
		{"ok", false},
		{"Active: active (exited)", false},
		{"running is what it is not", true},
	} {
		if got := Running(c.text); got != c.want {
			t.Errorf("%q: %v", c.text, got)
		}
	}
}

// TestRunningAsTheShell compares with the patterns of the original in a real shell.
func TestRunningAsTheShell(t *testing.T) {
	words := []string{"not", "Not", "NOT", "running", "Running", "RUNNING", "OK", "ok", "is", ""}
	var texts []string
	for _, a := range words {
		for _, b := range words {
			for _, c := range words {
				texts = append(texts, a+" "+b+" "+c, a+b+" "+c, a+" "+b+c)
			}
		}
	}
	path := write(t, t.TempDir(), "judge", `#!/bin/sh
while IFS= read -r text; do
  case "$text" in
    *[Nn][Oo][Tt]\ *[Rr]unning*) echo false;;
    *[Rr]unning*|*OK*) echo true;;
    *) echo false;;
  esac
done < "$1"
`)
	input := write(t, t.TempDir(), "texts", strings.Join(texts, "\n")+"\n")
	res, err := Command{Path: path, Args: []string{input}}.Run(context.Background(), "status")
	if err != nil {
		t.Fatal(err)
	}
	verdicts := strings.Fields(res.Stdout.Text())
	if len(verdicts) != len(texts) {
		t.Fatalf("%d verdicts for %d texts", len(verdicts), len(texts))
	}
	for i, text := range texts {
		if got := fmt.Sprint(Running(text)); got != verdicts[i] {
			t.Errorf("%q: %s, the shell says %s", text, got, verdicts[i])
		}
	}
}

func TestDisagreement(t *testing.T) {
	for _, c := range []struct {
		text string
		code int
		odd  bool
	}{
		{"running", 0, false},
		{"stopped", 3, false},
		{"running", 3, true},
		{"Active: active (exited)", 0, true},
	} {
		if got := Disagreement(c.text, c.code); (got != "") != c.odd {
			t.Errorf("%q with code %d: %q", c.text, c.code, got)
		}
	}
}

func TestFind(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	write(t, first, "both", "")
	write(t, second, "both", "")
	write(t, second, "init", "")
	write(t, second, "shadowed", "")
	write(t, second, "IPaddr", "")
	for path, mode := range map[string]os.FileMode{"shadowed": 0o644, "plain": 0o644} {
		if err := os.WriteFile(filepath.Join(first, path), nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(first, "dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"both":     filepath.Join(first, "both"),
		"init":     filepath.Join(second, "init"),
		"shadowed": filepath.Join(second, "shadowed"), // the first one cannot be executed
	} {
		if got, err := Find(name, first, second); got != want || err != nil {
			t.Errorf("%s: %s (%v)", name, got, err)
		}
	}
	for name, want := range map[string]string{
		"none":      "cannot locate resource script none in " + first + " or " + second,
		"plain":     "is not executable",
		"dir":       "is not a regular file",
		"IPAddr":    "did you mean IPaddr?",
		"../x/both": "without its directory",
		"":          "without its directory",
	} {
		_, err := Find(name, first, second)
		var notFound *NotFoundError
		if !errors.As(err, &notFound) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestCall(t *testing.T) {
	dir := t.TempDir()
	path := write(t, dir, "res", `#!/bin/sh
echo "args=$*"
echo "count=$#"
echo "dir=$(pwd)"
echo "var=$HA_CURHOST"
echo "group=$(ps -o pgid= -p $$ | tr -d ' ') pid=$$"
read line && echo "stdin has data" || echo "stdin is empty"
`)
	res, err := Command{Path: path, Args: []string{"a b", "c"}, Env: []string{"HA_CURHOST=node1"}, Dir: dir}.Run(context.Background(), "start")
	if err != nil {
		t.Fatal(err)
	}
	out := res.Stdout.Text()
	for _, want := range []string{"args=a b c start", "count=3", "dir=" + dir, "var=node1", "stdin is empty"} {
		if !strings.Contains(out, want+"\n") {
			t.Errorf("no %q in %q", want, out)
		}
	}
	var group, pid int
	for line := range strings.Lines(out) {
		if _, err := fmt.Sscanf(line, "group=%d pid=%d", &group, &pid); err == nil {
			break
		}
	}
	if pid == 0 || group != pid {
		t.Errorf("process group %d of script %d", group, pid)
	}
	// A directory that is not there is no reason to fail.
	if _, err := (Command{Path: path, Dir: filepath.Join(dir, "none")}).Run(context.Background(), "start"); err != nil {
		t.Error(err)
	}
}

// TestNoInterpreter: a shell would run a script without a first "#!" line itself.
func TestNoInterpreter(t *testing.T) {
	path := write(t, t.TempDir(), "res", "echo running $1 $2\n")
	res, err := Command{Path: path, Args: []string{"x"}}.Run(context.Background(), "status")
	if err != nil || res.Stdout.Text() != "running x status\n" {
		t.Errorf("%q (%v)", res.Stdout.Text(), err)
	}
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		text, want string
		code       int
	}{
		{"echo one >&2; echo two >&2; echo three >&2; echo four >&2; echo noise; exit 7", "script ended with code 7: two; three; four", 7},
		{"echo only stdout; exit 1", "script ended with code 1: only stdout", 1},
		{"exit 150", "signal 22", 150},
		{"kill -9 $$", "script was killed by signal 9 (killed)", 137},
	} {
		res, err := run(t, c.text, "start")
		var exit *ExitError
		if !errors.As(err, &exit) || exit.Code != c.code || res.Code != c.code || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: code %d, %v", c.text, res.Code, err)
		}
	}
	res, err := Command{Path: filepath.Join(t.TempDir(), "none")}.Run(context.Background(), "start")
	if !errors.Is(err, os.ErrNotExist) || res.Code != 127 {
		t.Errorf("no such script: code %d, %v", res.Code, err)
	}
	broken := write(t, t.TempDir(), "res", "#!/no/such/interpreter\n")
	if res, err = (Command{Path: broken}).Run(context.Background(), "start"); err == nil || res.Code == 0 {
		t.Errorf("no interpreter: code %d, %v", res.Code, err)
	}
}

// TestFlood: 10 MB on both streams neither block the script nor stay in memory.
func TestFlood(t *testing.T) {
	res, err := run(t, `echo the beginning
head -c 10485760 /dev/zero | tr '\0' x
echo; echo the end
head -c 10485760 /dev/zero | tr '\0' y >&2
echo >&2; echo last words >&2
exit 3`, "start")
	var exit *ExitError
	if !errors.As(err, &exit) || exit.Tail != strings.Repeat("y", lineBytesMax)+"…; last words" {
		t.Errorf("error %.300v", err)
	}
	out := res.Stdout
	if out.Total < 10<<20 || len(out.Head) != outputHeadBytes || len(out.Tail) != outputTailBytes {
		t.Errorf("of %d bytes %d and %d are kept", out.Total, len(out.Head), len(out.Tail))
	}
	if text := out.Text(); !strings.HasPrefix(text, "the beginning\n") || !strings.HasSuffix(text, "\nthe end\n") || !strings.Contains(text, "bytes left out]") {
		t.Error("beginning, end or the mark between them is missing")
	}
	if lines := out.Lines(4); lines[0] != "the beginning" || lines[len(lines)-1] != "the end" {
		t.Errorf("lines %.200q", lines)
	}
}

// TestTrim: a long-running script's output is given back while it grows.
func TestTrim(t *testing.T) {
	c, err := newCapture("test")
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	chunk := []byte(strings.Repeat("0123456789abcdef", 64<<10/16))
	var st unix.Stat_t
	for i := range 200 {
		if _, err := c.file.Write(chunk); err != nil {
			t.Fatal(err)
		}
		c.trim()
		if err := unix.Fstat(c.fd(), &st); err != nil {
			t.Fatal(err)
		}
		if kept := st.Blocks * 512; kept > outputHeadBytes+outputTailBytes+2*punchBytes {
			t.Fatalf("%d bytes in memory after %d", kept, (i+1)*len(chunk))
		}
	}
	out := c.finish()
	if out.Head != string(chunk) || out.Tail != string(chunk) {
		t.Error("head or tail was lost")
	}
	if _, err := c.file.Write(chunk); !errors.Is(err, unix.EPERM) {
		t.Errorf("after the end it still takes more: %v", err)
	}
	if err := unix.Fstat(c.fd(), &st); err != nil || st.Blocks != 0 {
		t.Errorf("after the end it holds %d blocks (%v)", st.Blocks, err)
	}
}

// TestDaemonLeftBehind: it neither holds the script's end up nor is it harmed when
// it prints later.
func TestDaemonLeftBehind(t *testing.T) {
	dir := t.TempDir()
	gate, pidFile, result := filepath.Join(dir, "gate"), filepath.Join(dir, "pid"), filepath.Join(dir, "result")
	if err := unix.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	before := time.Now()
	// The daemon waits for the gate, prints, and says how that went.
	res, err := run(t, fmt.Sprintf(`(trap '' TERM; read line < %[1]s; echo late 2>/dev/null; echo "survived" > %[3]s) &
echo $! > %[2]s
echo started`, gate, pidFile, result), "start")
	if err != nil || res.Stdout.Text() != "started\n" {
		t.Fatalf("%q (%v)", res.Stdout.Text(), err)
	}
	if took := time.Since(before); took > patience {
		t.Errorf("took %v", took)
	}
	text, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Kill(pid, unix.SIGKILL)
	if err := unix.Kill(pid, 0); err != nil {
		t.Fatalf("the daemon was not left alone: %v", err)
	}
	if err := os.WriteFile(gate, []byte("go\n"), 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "daemon survives its late output", func() bool {
		text, _ := os.ReadFile(result)
		return string(text) == "survived\n"
	})
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("did not happen: %s", what)
		}
	}
}

// TestHang: TERM first; KILL for whoever ignores it; the children too.
func TestHang(t *testing.T) {
	for _, c := range []struct {
		name, text, wantFile string
	}{
		{"ends at TERM", `trap 'echo ended > $1/term; exit 1' TERM; echo ready > $1/ready; while :; do sleep 0.05; done`, "term"},
		{"ignores TERM", `trap '' TERM; echo ready > $1/ready; while :; do sleep 0.05; done`, ""},
		{"waits for a child that ignores TERM", `sh -c 'trap "" TERM; echo $$ > '$1'/child; echo ready > '$1'/ready; while :; do sleep 0.05; done'`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			path := write(t, t.TempDir(), "res", "#!/bin/sh\necho working >&2\n"+c.text)
			ctx, cancel := context.WithCancelCause(context.Background())
			cause := errors.New("enough")
			var ended time.Time
			go func() {
				defer cancel(cause)
				for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
					if _, err := os.Stat(filepath.Join(dir, "ready")); err == nil {
						break
					}
				}
				ended = time.Now()
			}()
			_, err := Command{Path: path, Args: []string{dir}}.Run(ctx, "stop")
			if !errors.Is(err, cause) || !strings.Contains(err.Error(), "was killed after") || !strings.Contains(err.Error(), "working") {
				t.Errorf("error %v", err)
			}
			if took := time.Since(ended); took > time.Second+patience {
				t.Errorf("took %v after the context ended", took)
			}
			if c.wantFile != "" {
				if _, err := os.Stat(filepath.Join(dir, c.wantFile)); err != nil {
					t.Error("it had no chance to clean up")
				}
			}
			if text, err := os.ReadFile(filepath.Join(dir, "child")); err == nil {
				pid, _ := strconv.Atoi(strings.TrimSpace(string(text)))
				eventually(t, "child is dead", func() bool { return dead(pid) })
			}
		})
	}
}

// dead reports whether the process is gone or only waits to be buried by init.
func dead(pid int) bool {
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return true
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(stat), ") Z ")
}

func TestEndedContextRunsNothing(t *testing.T) {
	dir := t.TempDir()
	path := write(t, dir, "res", "#!/bin/sh\ntouch "+dir+"/ran\n")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := (Command{Path: path}).Run(ctx, "start"); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "ran")); err == nil {
		t.Error("it ran")
	}
}

// TestOOMProtection: a script does not inherit the daemon's score (here a worse
// one: a better one can be had only with a privilege).
func TestOOMProtection(t *testing.T) {
	const own = "/proc/self/oom_score_adj"
	before, err := os.ReadFile(own)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(own, []byte("100"), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.WriteFile(own, before, 0) })
	path := filepath.Join(t.TempDir(), "shows")
	// The reset follows the start: wait for it.
	text := "#!/bin/sh\nfor i in $(seq 500); do read a </proc/self/oom_score_adj; [ \"$a\" = 0 ] && break; sleep 0.02; done\necho $a\n"
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	res, err := Command{Path: path}.Run(t.Context(), "status")
	if err != nil || strings.TrimSpace(res.Stdout.Text()) != "0" {
		t.Errorf("oom_score_adj of the script: %q, %v, want 0", res.Stdout.Text(), err)
	}
}
