package node

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const realtimeChild = "HEARTBEAT_TEST_REALTIME"

func TestMain(m *testing.M) {
	if os.Getenv(realtimeChild) != "" {
		realtimeMain()
		return
	}
	os.Exit(m.Run())
}

// realtimeMain goes real-time with many threads and prints one line per finding.
func realtimeMain() {
	before := memory("VmRSS")
	rt, warnings := StartRealtime(1)
	if grown := memory("VmRSS") - before; grown > 8<<10 {
		fmt.Printf("resident memory has grown by %d kB\n", grown)
	}
	if memory("VmLck") == 0 {
		fmt.Println("nothing is locked")
	}
	for _, w := range warnings {
		fmt.Println("warning:", w)
	}
	// Threads that are born afterwards: each goroutine sits in a system call.
	var started, end sync.WaitGroup
	var pipes []*os.File
	for range 20 {
		r, w, err := os.Pipe()
		if err != nil {
			fmt.Println(err)
			return
		}
		pipes = append(pipes, w)
		started.Add(1)
		end.Go(func() {
			started.Done()
			var b [1]byte
			_, _ = unix.Read(int(r.Fd()), b[:])
		})
	}
	started.Wait()
	rt.Sweep(time.Hour)
	threads, normal := 0, 0
	tasks, _ := os.ReadDir("/proc/self/task")
	for _, task := range tasks {
		stat, err := os.ReadFile(filepath.Join("/proc/self/task", task.Name(), "stat"))
		if err != nil {
			continue
		}
		threads++
		if policy(string(stat)) != fmt.Sprint(unix.SCHED_RR) {
			normal++
		}
	}
	fmt.Printf("threads normal: %d of %v\n", normal, threads > 1)
	for range 20 {
		out, err := exec.Command("/bin/cat", "/proc/self/stat").Output()
		if err != nil {
			fmt.Println(err)
		}
		if policy(string(out)) != fmt.Sprint(unix.SCHED_NORMAL) {
			fmt.Println("a child has policy", policy(string(out)))
		}
	}
	for _, w := range pipes {
		_ = w.Close()
	}
	end.Wait()
}

// memory is a figure of /proc/self/status in kB.
func memory(name string) (kb int) {
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		if n, _ := fmt.Sscanf(line, name+": %d kB", &kb); n == 1 {
			return kb
		}
	}
	return -1
}

// policy is the scheduling policy in a line of /proc/PID/stat.
func policy(stat string) string {
	f := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(f) < 39 {
		return "?"
	}
	return f[38]
}

// TestRealtime: all threads are SCHED_RR, those born later too, children are
// not, and locking memory does not cost what Go only reserves.
func TestRealtime(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), realtimeChild+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	// What a machine refuses (real time in a control group without it, being
	// spared by the out-of-memory killer) is a warning and breaks nothing.
	var text, refused string
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "warning: ") {
			refused += line
			continue
		}
		text += line
	}
	if strings.Contains(refused, "Cannot set realtime priority") {
		_, text, _ = strings.Cut(text, "\n")
		text = "threads normal: 0 of true\n" + text
	}
	if text != "threads normal: 0 of true\n" {
		t.Errorf("found:\n%s", out)
	}
}
