package node

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"heartbeat/cluster"
)

// note names a running program for a daemon that is started after this one was
// killed: the program must not run twice. Its pid alone may be another process
// by then.
type note struct {
	PID int
	// Ticks is when the process began, in the kernel's ticks since boot.
	Ticks   uint64
	Command string
}

// processTicks is when a process began; false when there is none, or one that
// has ended and that nobody buries.
func processTicks(pid int) (uint64, bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, false
	}
	// The name in brackets may hold anything; the state follows it, and the
	// time of the start is the 20th word from there.
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(f) < 20 || f[0] == "Z" || f[0] == "X" {
		return 0, false
	}
	ticks, err := strconv.ParseUint(f[19], 10, 64)
	return ticks, err == nil
}

func (n note) runs() bool {
	ticks, ok := processTicks(n.PID)
	return ok && ticks == n.Ticks
}

// writeNotes notes what runs now. Without the file a later daemon may start a
// program twice; that is no reason not to start it.
func (p *Programs) writeNotes() {
	if p.o.Notes == "" {
		return
	}
	p.noting.Lock()
	defer p.noting.Unlock()
	var list []note
	for _, pr := range p.list {
		pr.mu.Lock()
		if pr.process != nil {
			if ticks, ok := processTicks(pr.process.Pid); ok {
				list = append(list, note{pr.process.Pid, ticks, pr.Command})
			}
		}
		pr.mu.Unlock()
	}
	text, err := json.Marshal(list)
	if err == nil {
		// Renamed into place: a daemon killed at it leaves the former notes.
		fresh := p.o.Notes + ".new"
		if err = os.WriteFile(fresh, text, 0o600); err == nil {
			err = os.Rename(fresh, p.o.Notes)
		}
	}
	if err != nil {
		p.o.Log.Printf(cluster.Warn, "cannot note which programs run: %v", err)
	}
}

// endLeft ends what a daemon that was killed has left running. 3.0.6's clients
// see their connection break, and end by themselves.
func (p *Programs) endLeft() {
	text, err := os.ReadFile(p.o.Notes)
	if err != nil {
		return // there was no such daemon
	}
	var list []note
	if err := json.Unmarshal(text, &list); err != nil {
		p.o.Log.Printf(cluster.Warn, "cannot tell which programs a former daemon has left running: %s: %v", p.o.Notes, err)
		return
	}
	for _, n := range list {
		for _, signal := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
			if !n.runs() {
				break
			}
			p.o.Log.Printf(cluster.Info, "killing %s process group %d, left by a former daemon, with signal %d", n.Command, n.PID, signal)
			_ = unix.Kill(-n.PID, signal) // ESRCH: it has just ended
			for begun := time.Now(); n.runs() && time.Since(begun) < p.times.grace; {
				time.Sleep(10 * time.Millisecond)
			}
		}
	}
}
