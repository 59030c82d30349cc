package daemon

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"heartbeat/cluster"
	"heartbeat/cluster/node/logging"
)

// How the processes of a supervised daemon know each other.
const (
	// superviseEnv makes a process the supervisor.
	superviseEnv = "HEARTBEAT_SUPERVISE"
	// supervisorEnv tells the daemon the supervisor's pid.
	supervisorEnv = "HEARTBEAT_SUPERVISOR"
	// adoptEnv tells a supervisor the pid of a daemon that runs already.
	adoptEnv = "HEARTBEAT_ADOPT"
	// supervisorTitle follows the program's name in ps.
	supervisorTitle = ": supervisor"
	// renewSignal asks the supervisor to make place for one of the installed
	// program. One that does not know it ignores it.
	renewSignal = syscall.SIGWINCH
)

// A daemon whose supervisor has ended starts another one after
// supervisorPauseMin: kill -9 of everything that is called heartbeat shall not
// leave one that was started between two of its signals. The pause doubles for
// those that end soon.
const (
	supervisorPauseMin = time.Second
	supervisorPauseMax = time.Minute
)

// supervisorFile holds the supervisor's pid and its lock.
func (s *setup) supervisorFile() string { return filepath.Join(s.paths.Run, "supervisor") }

// supervisorPID is the living supervisor, 0 when there is none. Its lock goes
// with the process, so a stale file says nothing.
func (s *setup) supervisorPID() int {
	f, err := os.OpenFile(s.supervisorFile(), os.O_RDWR, 0)
	if err != nil {
		return 0
	}
	defer f.Close()
	// Shared: two that ask at the same time must not take each other for it.
	if unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) == nil {
		return 0
	}
	var text [32]byte
	n, _ := f.Read(text[:])
	pid, _ := strconv.Atoi(strings.TrimSpace(string(text[:n])))
	return pid
}

// supervisor is the parent of a daemon that runs in the background: it starts
// it again when it dies. It keeps nothing of the cluster's in memory and takes
// part in no decision. The pid file names the daemon; signals that reach the
// supervisor are passed on.
type supervisor struct {
	*setup
	signals chan os.Signal
	lives   lives
	// asked: somebody wants the daemon to end, and so no new one.
	asked bool
	// crashBytes is the size of the crash file before the life.
	crashBytes int64
}

// supervise is the supervisor's process, until the daemon has ended for good.
func (s *setup) supervise() int {
	ready := openReadiness()
	adopted, _ := strconv.Atoi(os.Getenv(adoptEnv)) // 0: none
	_, _ = os.Unsetenv(superviseEnv), os.Unsetenv(adoptEnv)
	claim, err := s.claim()
	if err != nil {
		ready.report(1, fmt.Sprintf("ERROR: heartbeat not started: %v\n", err))
		return 1
	}
	defer claim.Close()
	_ = os.Chdir("/") // no file system is held
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(20)
	v := &supervisor{setup: s, signals: make(chan os.Signal, 16)}
	signal.Notify(make(chan os.Signal, 1), syscall.SIGINT, syscall.SIGPIPE, syscall.SIGTTOU, syscall.SIGTTIN)
	signal.Notify(v.signals, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2, renewSignal)

	var code int
	var up bool
	var end ending
	if adopted != 0 {
		up, end = true, v.adopt(adopted)
	} else if code, up, end = v.life(ready); !up {
		return code // the starting command has been told
	}
	for {
		switch {
		case end.fate == fateEnded || end.fate == fateLeft:
			return 0
		case v.asked:
			v.release(cluster.Warn, fmt.Sprintf("heartbeat (pid %d) %s while it was to stop", end.pid, end.text))
			return 0
		case end.fate == fateRefused:
			// Its groups cannot be known, so they cannot be released either.
			v.say(cluster.Crit, fmt.Sprintf("heartbeat is not started again: it %s. What it owned is left as it is: mend the files (hbctl check) and start heartbeat, or stop the resources", end.text))
			return exitConfig
		}
		pause, giveUp := v.lives.died(time.Now(), up)
		if giveUp != "" {
			v.release(cluster.Crit, fmt.Sprintf("heartbeat (pid %d) %s: it is not started again, since %s. Look for the reason above and in %s, then start heartbeat", end.pid, end.text, giveUp, v.crashFile()))
			return 1
		}
		v.say(cluster.Crit, fmt.Sprintf("heartbeat (pid %d) %s: starting it again", end.pid, end.text))
		if v.wait(pause); v.asked {
			v.release(cluster.Warn, "asked to stop while the daemon was down")
			return 0
		}
		_, up, end = v.life(nil)
	}
}

// claim makes sure that there is one supervisor.
func (s *setup) claim() (*os.File, error) {
	if err := os.MkdirAll(s.paths.Run, 0o755); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	f, err := lock(s.supervisorFile())
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Truncate(0), write(f, fmt.Sprintf("%10d\n", os.Getpid()))); err != nil {
		return nil, fmt.Errorf("write %s: %w", s.supervisorFile(), err)
	}
	return f, nil
}

func write(f *os.File, text string) error {
	_, err := f.WriteAt([]byte(text), 0)
	return err
}

// ending is the end of one daemon.
type ending struct {
	pid  int
	fate fate
	text string
}

// life runs one daemon to its end. first is the starting command's, which is
// told how that went; up says whether the daemon came up, code how it ended.
func (v *supervisor) life(first *readiness) (code int, up bool, end ending) {
	fail := func(err error) (int, bool, ending) {
		first.report(1, fmt.Sprintf("ERROR: heartbeat not started: %v\n", err))
		return 1, false, ending{fate: fateDied, text: fmt.Sprintf("could not be started: %v", err)}
	}
	if st, err := os.Stat(v.crashFile()); err == nil {
		v.crashBytes = st.Size()
	}
	exe, err := os.Executable()
	if err != nil {
		return fail(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return fail(err)
	}
	cmd := exec.Command(exe, v.args[1:]...)
	cmd.Args[0] = strings.TrimSuffix(v.args[0], supervisorTitle)
	cmd.Env = append(os.Environ(), readyEnv+"=3", supervisorEnv+"="+strconv.Itoa(os.Getpid()))
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	_ = w.Close()
	if err != nil {
		_ = r.Close()
		return fail(err)
	}
	reported := make(chan int, 1)
	go func() { // ends with the daemon's report or with the daemon
		defer r.Close()
		answer, _ := io.ReadAll(io.LimitReader(r, 64<<10))
		word, text, _ := strings.Cut(string(answer), "\n")
		if code, err := strconv.Atoi(word); err == nil {
			first.report(code, text)
			reported <- code
		}
		close(reported)
	}()
	dead := make(chan *os.ProcessState, 1)
	go func() { // ends with the daemon
		_ = cmd.Wait() // its error is in the state
		dead <- cmd.ProcessState
	}()
	for reports := reported; ; {
		select {
		case code, ok := <-reports:
			reports = nil
			if up = ok && code == 0; up {
				shrink()
			}
		case s := <-v.signals:
			if v.pass(s, cmd.Process) {
				return 0, true, ending{fate: fateLeft}
			}
		case state := <-dead:
			if code, ok := <-reported; reports != nil && ok {
				up = code == 0
			}
			status, _ := state.Sys().(syscall.WaitStatus)
			end.pid = state.Pid()
			end.fate, end.text = fateOf(status)
			if said := v.crashText(); said != "" && end.fate == fateDied {
				end.text += ", saying " + strconv.Quote(said) + " (all of it is in " + v.crashFile() + ")"
			}
			first.report(1, fmt.Sprintf("ERROR: heartbeat not started: the daemon %s before it was up, see its log\n", end.text))
			return max(state.ExitCode(), 1), up, end
		}
	}
}

// pass hands a signal on to the daemon. It reports whether that is to be left to
// another supervisor, which it starts itself.
func (v *supervisor) pass(s os.Signal, daemon *os.Process) (leave bool) {
	if s == renewSignal {
		return !v.asked
	}
	v.asked = v.asked || s == syscall.SIGTERM
	_ = daemon.Signal(s) // it may have ended in this moment
	return false
}

// adopt watches a daemon that is up, and nobody's child here, to its end.
func (v *supervisor) adopt(pid int) (end ending) {
	end = ending{pid: pid, fate: fateDied, text: "has died, it is not known how"}
	daemon, err := os.FindProcess(pid)
	if err != nil {
		end.text = fmt.Sprintf("cannot be watched: %v", err)
		return end
	}
	if st, err := os.Stat(v.crashFile()); err == nil {
		v.crashBytes = st.Size()
	}
	dead := make(chan struct{})
	go func() { // ends with the daemon
		defer close(dead)
		ended(pid)
	}()
	shrink()
	for {
		select {
		case s := <-v.signals:
			if v.pass(s, daemon) {
				return ending{fate: fateLeft}
			}
		case <-dead:
			if st, err := os.Stat(filepath.Join(v.paths.Run, "lock")); err == nil && st.Size() == 0 {
				end.fate = fateEnded // it has released everything
			}
			if said := v.crashText(); said != "" {
				end.text += ", saying " + strconv.Quote(said) + " (all of it is in " + v.crashFile() + ")"
			}
			return end
		}
	}
}

// ended waits until a process has. false: it cannot be waited for.
func ended(pid int) bool {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return errors.Is(err, unix.ESRCH)
	}
	f := os.NewFile(uintptr(fd), "process")
	defer f.Close()
	c, err := f.SyscallConn()
	if err != nil {
		return false
	}
	return c.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n == 1 && err == nil
	}) == nil
}

// wait is the pause before a restart; an order to stop ends it.
func (v *supervisor) wait(pause time.Duration) {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return
		case s := <-v.signals:
			if s == syscall.SIGTERM {
				v.asked = true
				return
			}
		}
	}
}

func (s *setup) crashFile() string {
	return filepath.Join(s.paths.State, "cores", "root", "heartbeat.crash")
}

// crashText is the first line that the daemon's crash has added to the file.
func (v *supervisor) crashText() string {
	f, err := os.Open(v.crashFile())
	if err != nil {
		return ""
	}
	defer f.Close()
	if _, err := f.Seek(v.crashBytes, io.SeekStart); err != nil {
		return ""
	}
	const lineMax = 300
	line, _ := bufio.NewReaderSize(io.LimitReader(f, lineMax), lineMax).ReadString('\n')
	return strings.TrimSpace(line)
}

// say writes a line to the daemon's log, even if ha.cf has errors
// by now. The configuration is read for it and not kept: there is nothing to say
// in most lives.
func (v *supervisor) say(level cluster.Level, text string) {
	c, _ := v.load()
	sp := newSpeaker(v.setup, c, false)
	sp.printf(level, "%s", text)
	sp.close()
}

// releaseEnv makes a process release what a daemon that systemd does not start
// again has left running.
const releaseEnv = "HEARTBEAT_RELEASE"

// releaseLeft is heartbeat-release.service.
func (s *setup) releaseLeft() int {
	_ = os.Unsetenv(releaseEnv)
	f, err := lock(filepath.Join(s.paths.Run, "lock"))
	if err != nil {
		// Where nothing has ever run, or a daemon runs, there is nothing to do.
		fmt.Fprintf(s.stdout, "INFO: nothing is released: %v\n", err)
		return 0
	}
	text, err := io.ReadAll(io.LimitReader(f, 64))
	_ = f.Close()
	if err == nil && (len(text) == 0 || strings.Contains(string(text), markUnmanaged)) {
		fmt.Fprintln(s.stdout, "INFO: nothing to release: the last daemon had released everything, or none has come up.")
		return 0
	}
	v := &supervisor{setup: s}
	if !v.release(cluster.Crit, "heartbeat has died and is not started again (systemctl status heartbeat tells why)") {
		return 1
	}
	return 0
}

// release lets go of what a daemon that does not come back has left running:
// nobody else here ever would, and the other node takes it over. It reports
// whether all of it is released.
func (v *supervisor) release(level cluster.Level, why string) bool {
	c, problems := v.load()
	if problems.Failed() {
		v.say(level, why+". Its resources are left as they are: the configuration cannot be used")
		return false
	}
	v.say(level, why+". Its resources are released")
	var err error
	d := &daemonProcess{setup: v.setup, config: c}
	if d.lock, err = lock(filepath.Join(v.paths.Run, "lock")); err != nil {
		v.say(cluster.Error, fmt.Sprintf("nothing is released: %v", err)) // another daemon decides
		return false
	}
	if d.log, err = logging.New(logOptions(v.setup, c)); err != nil {
		d.log = newSpeaker(v.setup, c, true).log
	}
	clean := d.abandon()
	if clean {
		d.mark(false)
		d.log.Printf(cluster.Info, "All HA resources relinquished.")
	}
	d.log.Close()
	_ = os.Remove(d.socket()) // the dead one's
	return clean
}

// watchSupervisor sees to it that the daemon has a supervisor, if it began with
// one.
func (d *daemonProcess) watchSupervisor() {
	pid, err := strconv.Atoi(os.Getenv(supervisorEnv))
	if err != nil {
		return
	}
	_ = os.Unsetenv(supervisorEnv) // scripts are not supervised
	d.supervisor.Store(int64(pid))
	go d.keepSupervised(pid) // ends with the process
}

// keepSupervised starts another supervisor whenever the last one has ended. That
// is a child of the daemon, not its parent, and outlives it.
func (d *daemonProcess) keepSupervised(pid int) {
	pause := supervisorPauseMin
	for {
		begun := time.Now()
		// The number may be another process's by now.
		if (os.Getppid() == pid || parentOf(pid) == os.Getpid()) && !ended(pid) {
			return
		}
		_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil) // it is ours to bury, or init's
		if time.Since(begun) > supervisorPauseMax {
			pause = supervisorPauseMin
		}
		d.unsupervised.Store(true)
		time.Sleep(pause)
		pause = min(2*pause, supervisorPauseMax)
		next, err := d.supervisorPID(), error(nil)
		if next == 0 { // else the predecessor of this process has started it
			next, err = d.newSupervisor()
		}
		switch {
		case err != nil:
			d.log.Printf(cluster.Warn, "the supervisor (pid %d) has ended, and no other one can be started: %v; this daemon goes on, but nobody starts it again when it dies", pid, err)
			continue
		case d.renewing.Swap(false):
			d.log.Printf(cluster.Info, "the supervisor (pid %d) makes place for one of the installed program (pid %d)", pid, next)
		default:
			d.log.Printf(cluster.Warn, "the supervisor (pid %d) has ended: another one (pid %d) watches this daemon", pid, next)
		}
		pid = next
		d.supervisor.Store(int64(pid))
		d.unsupervised.Store(false)
	}
}

// newSupervisor starts a supervisor for this process.
func (d *daemonProcess) newSupervisor() (pid int, err error) {
	exe, err := os.Executable()
	if err != nil {
		return 0, err
	}
	cmd := exec.Command(exe, freshArgs(d.args)[1:]...)
	cmd.Args[0] = d.args[0] + supervisorTitle
	cmd.Env = append(os.Environ(), superviseEnv+"=1", adoptEnv+"="+strconv.Itoa(os.Getpid()))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	pid = cmd.Process.Pid
	return pid, cmd.Process.Release()
}

// renewSupervisor has the supervisor of a daemon that was replaced in place by
// another program make place for one of that, too.
func (d *daemonProcess) renewSupervisor() {
	pid := int(d.supervisor.Load())
	if d.taken == nil || pid == 0 {
		return
	}
	theirs, err1 := os.Stat(fmt.Sprintf("/proc/%d/exe", pid))
	ours, err2 := os.Stat("/proc/self/exe")
	if err1 != nil || err2 != nil || os.SameFile(theirs, ours) {
		return
	}
	d.renewing.Store(true)
	_ = unix.Kill(pid, renewSignal) // if it has ended, another one is started anyway
}

// supervisionTrouble says that nobody starts this daemon again when it dies, though
// somebody should; empty for none.
func (d *daemonProcess) supervisionTrouble() string {
	if !d.unsupervised.Load() {
		return ""
	}
	return "the supervisor has ended: nobody starts this daemon again when it dies, until there is another one"
}

// parentOf is the parent of a process, 0 if that cannot be seen.
func parentOf(pid int) int {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	i := strings.LastIndexByte(string(stat), ')') // the name before it may hold anything
	var state string
	var parent int
	_, _ = fmt.Sscan(string(stat[i+1:]), &state, &parent) // 0 if it has another form
	return parent
}

// shrink gives back what only the start needed. The pages of the program come
// back by themselves when they are used again, mostly from the daemon's. Those
// that a dynamic linker wrote before it protected them would not.
func shrink() {
	debug.FreeOSMemory()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return
	}
	linked := strings.Contains(string(maps), ".so")
	for line := range strings.Lines(string(maps)) {
		var from, to uintptr
		var mode string
		if n, _ := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); n != 3 || !strings.Contains(line, "/") {
			continue
		}
		if mode == "r-xp" || mode == "r--p" && !linked {
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED) // best effort
		}
	}
}
