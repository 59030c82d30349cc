package node

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"heartbeat/cluster"
	"heartbeat/cluster/node/logging"
)

// Program is a respawn or failfast line: a program that runs as long as the
// node takes part in the cluster.
type Program struct {
	// User is the name of the user as whom it runs.
	User string
	// Command is what a shell executes.
	Command string
	// Failfast: its failure restarts the machine instead of the program.
	Failfast bool
}

// RunningProgram is a program on its way to a successor in place.
type RunningProgram struct {
	Program Program
	PID     int
	Started time.Time
	Short   int
}

// The original's rules of restarting.
const (
	// shortLivesMax is how many short lives in a row a program may have.
	shortLivesMax = 10
	// exitForGood is the exit code by which a program asks not to be started
	// again.
	exitForGood = 100
)

// programTimes are the rules' times.
type programTimes struct {
	// short is a life after which a restart counts as fast: it waits for pause.
	short, pause time.Duration
	// grace is how long a program may take to end after TERM; then it is killed.
	// The original waits up to an hour.
	grace time.Duration
}

var originalTimes = programTimes{short: 30 * time.Second, pause: time.Second, grace: 10 * time.Second}

// ProgramOptions are what programs run with.
type ProgramOptions struct {
	// List are the lines in file order.
	List []Program
	// Taken are the programs of a predecessor in place: lines that are still
	// there go on with them, the others are ended.
	Taken []RunningProgram
	// Env is added to the daemon's own environment.
	Env func() []string
	// Cores holds, by the user's name, the working directories.
	Cores string
	// Notes is the file that names what runs, for a daemon after this one; ""
	// for none.
	Notes string
	Log   *logging.Log
	// Reboot restarts the machine.
	Reboot func() error
}

// Programs are the respawn and failfast lines of ha.cf. A nil one has none.
type Programs struct {
	o        ProgramOptions
	times    programTimes
	list     []*program
	begun    bool          // of the loop
	left     bool          // a former daemon has left notes
	closing  chan struct{} // closed when nothing is started any more
	closeOne sync.Once
	// frozen holds up starts while the process replaces itself.
	frozen  sync.RWMutex
	noting  sync.Mutex // of the file of notes
	workers sync.WaitGroup
}

// NewPrograms makes them ready to start.
func NewPrograms(o ProgramOptions) *Programs {
	p := &Programs{o: o, times: originalTimes, closing: make(chan struct{})}
	for _, line := range o.List {
		p.list = append(p.list, &program{Program: line, of: p})
	}
	if _, err := os.Stat(o.Notes); err == nil && len(o.Taken) == 0 { // a predecessor in place hands over instead
		p.left = true
	}
	return p
}

// program is one line with its process.
type program struct {
	Program
	of *Programs

	mu      sync.Mutex
	process *os.Process // nil when none runs
	started time.Time
	short   int           // short lives in a row
	ended   chan struct{} // closed when the process has been buried
}

// start starts all programs, in order, outside the loop. It is called once,
// when communication is up.
func (p *Programs) start() {
	taken := p.o.Taken
	left := p.left && len(taken) == 0
	p.left = false
	for _, pr := range p.list {
		for i, t := range taken {
			if t.Program == pr.Program {
				pr.adopt(t)
				taken = append(taken[:i:i], taken[i+1:]...)
				break
			}
		}
	}
	p.workers.Go(func() { // ends when the last process has been started
		if left {
			p.endLeft()
		}
		for _, t := range taken {
			old := &program{Program: t.Program, of: p}
			old.adopt(t)
			p.workers.Go(func() { _, _ = old.process.Wait(); close(old.ended) }) // ends with the process
			old.stop()
		}
		for _, pr := range p.list {
			err := pr.launch()
			p.workers.Go(func() { pr.supervise(err) }) // ends when the program is given up or nothing is started any more
		}
	})
}

// adopt goes on with a process of the predecessor.
func (pr *program) adopt(t RunningProgram) {
	process, err := os.FindProcess(t.PID)
	if err != nil {
		return // it cannot be found any more, so it is started
	}
	pr.mu.Lock()
	defer pr.mu.Unlock()
	pr.process, pr.started, pr.short, pr.ended = process, t.Started, t.Short, make(chan struct{})
}

// launch starts the process, if none was adopted, and notes it. The process
// becomes the program only then: a daemon that is killed in between leaves nothing
// running that its successor could not know of.
func (pr *program) launch() error {
	pr.of.frozen.RLock()
	defer pr.of.frozen.RUnlock()
	gate, err := pr.fork()
	pr.of.writeNotes()
	if gate != nil {
		_, _ = gate.WriteString("go\n") // it may have been killed already
		_ = gate.Close()
	}
	return err
}

// gated is a shell's way to wait for a line from descriptor 3; without one it ends.
const gated = "read -r heartbeat_gate <&3 || exit 0; unset heartbeat_gate; exec 3<&-; exec "

// fork starts a process that becomes the program when a line is written to gate;
// nil when none was started.
func (pr *program) fork() (gate *os.File, err error) {
	pr.mu.Lock()
	defer pr.mu.Unlock()
	select {
	case <-pr.of.closing:
		return nil, nil
	default:
	}
	if pr.process != nil {
		return nil, nil
	}
	pr.started = time.Now()
	uid, gid, credential, err := credentialOf(pr.User)
	if err != nil {
		return nil, err
	}
	r, gate, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", pr.Command, err)
	}
	defer r.Close()
	log := pr.of.o.Log
	log.Printf(cluster.Info, "Starting child client \"%s\" (%d,%d)", pr.Command, uid, gid)
	build := func(dir string) *exec.Cmd {
		cmd := exec.Command("/bin/sh", "-c", gated+pr.Command)
		cmd.Dir = dir
		cmd.ExtraFiles = []*os.File{r}
		cmd.Env = os.Environ()
		if pr.of.o.Env != nil {
			cmd.Env = append(cmd.Env, pr.of.o.Env()...)
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: credential}
		return cmd
	}
	cmd := build(filepath.Join(pr.of.o.Cores, pr.User))
	if err := cmd.Start(); err != nil {
		// The user may have no directory there.
		cmd = build("/")
		if err := cmd.Start(); err != nil {
			_ = gate.Close()
			return nil, fmt.Errorf("start %s: %w", pr.Command, err)
		}
	}
	pr.process, pr.ended = cmd.Process, make(chan struct{})
	// The daemon's protection from the kernel's out-of-memory killer is not for
	// what it starts. It may have ended already.
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", cmd.Process.Pid), []byte("0"), 0)
	log.Write(logging.Record{
		Level: cluster.Info, PID: cmd.Process.Pid, Text: fmt.Sprintf("Starting \"%s\" as uid %d  gid %d (pid %d)", pr.Command, uid, gid, cmd.Process.Pid),
		Msg: "program started", Attrs: []logging.Attr{{Key: "command", Value: pr.Command}, {Key: "uid", Value: uid}, {Key: "gid", Value: gid}},
	})
	return gate, nil
}

// credentialOf is a user with his groups.
func credentialOf(name string) (uid, gid int, c *syscall.Credential, err error) {
	u, err := user.Lookup(name)
	if err != nil {
		return 0, 0, nil, fmt.Errorf("look up user %s: %w", name, err)
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err := errors.Join(err1, err2); err != nil {
		return 0, 0, nil, fmt.Errorf("look up user %s: %w", name, err)
	}
	c = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	groups, err := u.GroupIds()
	if err != nil {
		groups = nil // the main group has to do
	}
	for _, g := range groups {
		if id, err := strconv.Atoi(g); err == nil {
			c.Groups = append(c.Groups, uint32(id))
		}
	}
	return uid, gid, c, nil
}

// supervise waits for the process to end and starts it again, by the original's
// rules. err is why there is no process in the first place.
func (pr *program) supervise(err error) {
	log := pr.of.o.Log
	for {
		pr.mu.Lock()
		process := pr.process
		pr.mu.Unlock()
		var state *os.ProcessState
		switch {
		case process != nil:
			state, err = process.Wait()
			pr.mu.Lock()
			pr.process = nil
			close(pr.ended)
			pr.mu.Unlock()
		case err == nil:
			return // nothing is started any more
		}
		code := pr.report(state, err)
		select {
		case <-pr.of.closing:
			return
		default:
		}
		if code == exitForGood {
			return
		}
		if pr.Failfast && code != 0 {
			log.Printf(cluster.Crit, "Rebooting system.  Reason: %s", pr.Command)
			if err := pr.of.o.Reboot(); err != nil {
				log.Printf(cluster.Crit, "The machine cannot be restarted: %v", err)
			}
		}
		pause, short := time.Duration(0), 0
		pr.mu.Lock()
		if time.Since(pr.started) < pr.of.times.short {
			pause, short = pr.of.times.pause, pr.short+1
		}
		pr.short = short
		pr.mu.Unlock()
		if short > shortLivesMax {
			log.Printf(cluster.Error, "Client %s \"respawning too fast\"", pr.Command)
			return
		}
		log.Printf(cluster.Error, "Respawning client \"%s\":", pr.Command)
		select {
		case <-time.After(pause):
		case <-pr.of.closing:
			return
		}
		err = pr.launch()
	}
}

// report logs the end of a process and returns its exit code, -1 when it has
// none.
func (pr *program) report(state *os.ProcessState, err error) int {
	if err != nil {
		pr.of.o.Log.Printf(cluster.Error, "%v", err)
		return -1
	}
	LogEnd(pr.of.o.Log, pr.Command, state)
	return state.ExitCode()
}

// LogEnd logs how a process of the daemon has ended, in the original's words.
func LogEnd(log *logging.Log, title string, state *os.ProcessState) {
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		log.Printf(cluster.Warn, "Managed %s process %d killed by signal %d%s.", title, state.Pid(), status.Signal(), signalText(status.Signal()))
		return
	}
	level := cluster.Warn
	if state.ExitCode() == 0 {
		level = cluster.Info
	}
	log.Printf(level, "Managed %s process %d exited with return code %d.", title, state.Pid(), state.ExitCode())
}

// signalText is what the original puts behind a signal's number.
func signalText(s syscall.Signal) string {
	about := map[syscall.Signal]string{
		unix.SIGHUP: "Hangup", unix.SIGINT: "Interrupt", unix.SIGQUIT: "Quit", unix.SIGILL: "Illegal instruction", unix.SIGABRT: "Abort",
		unix.SIGBUS: "BUS error", unix.SIGFPE: "Floating-point exception", unix.SIGKILL: "Kill, unblockable",
		unix.SIGSEGV: "Segmentation violation", unix.SIGPIPE: "Broken pipe", unix.SIGALRM: "Alarm clock", unix.SIGTERM: "Termination",
		unix.SIGUSR1: "User-defined signal 1", unix.SIGUSR2: "User-defined signal 2",
	}[s]
	if about == "" {
		return ""
	}
	return fmt.Sprintf(" [%s - %s]", unix.SignalName(s), about)
}

// stepped is called by the loop after every step: the programs are started once
// communication is up.
func (p *Programs) stepped(engine stepper) {
	if p == nil || p.begun || len(p.list)+len(p.o.Taken) == 0 && !p.left || !engine.View().CommUp {
		return
	}
	p.begun = true
	p.start()
}

// Close makes that no program is started any more.
func (p *Programs) Close() {
	if p != nil {
		p.closeOne.Do(func() { close(p.closing) })
	}
}

// Stop ends all programs, the last one first, each with its process group: TERM,
// and KILL if that does not help in ten seconds.
func (p *Programs) Stop() {
	if p == nil {
		return
	}
	p.Close()
	for i := len(p.list) - 1; i >= 0; i-- {
		p.list[i].stop()
	}
	// What KILL does not end (a wait for a device) is not waited for either.
	ended := make(chan struct{})
	go func() { p.workers.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(time.Second):
	}
	if p.left {
		p.endLeft() // nothing was started before the end
	}
	if p.o.Notes != "" {
		_ = os.Remove(p.o.Notes) // what a note still names has ended
	}
}

// stop ends a running process.
func (pr *program) stop() {
	pr.mu.Lock()
	process, ended := pr.process, pr.ended
	pr.mu.Unlock()
	if process == nil {
		return
	}
	for _, signal := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		pr.of.o.Log.Printf(cluster.Info, "killing %s process group %d with signal %d", pr.Command, process.Pid, signal)
		_ = unix.Kill(-process.Pid, signal) // ESRCH: it has just ended
		select {
		case <-ended:
			return
		case <-time.After(pr.of.times.grace):
		}
	}
	pr.of.o.Log.Printf(cluster.Error, "%s process %d does not end after KILL", pr.Command, process.Pid)
}

// HandOver returns the programs that run now, for a successor in place, and
// holds up starts until resume is called, should there be none.
func (p *Programs) HandOver() (running []RunningProgram, resume func()) {
	if p == nil {
		return nil, func() {}
	}
	if !p.begun {
		return p.o.Taken, func() {}
	}
	p.frozen.Lock()
	for _, pr := range p.list {
		pr.mu.Lock()
		if pr.process != nil {
			running = append(running, RunningProgram{pr.Program, pr.process.Pid, pr.started, pr.short})
		}
		pr.mu.Unlock()
	}
	return running, p.frozen.Unlock
}
