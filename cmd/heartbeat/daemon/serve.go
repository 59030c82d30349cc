package daemon

import (
	"context"
	crand "crypto/rand"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"heartbeat/cluster"
	"heartbeat/cluster/boot"
	"heartbeat/cluster/config"
	"heartbeat/cluster/control"
	"heartbeat/cluster/engine"
	"heartbeat/cluster/node"
	"heartbeat/cluster/node/logging"
	"heartbeat/resources/ipaddr"
	"heartbeat/transport"
)

// heapLimit keeps the collector from letting the heap of a daemon that needs
// two megabytes grow.
const heapLimit = 24 << 20

// daemonProcess is the running daemon with everything it has opened.
type daemonProcess struct {
	*setup
	config   *config.Config
	log      *logging.Log
	notifier *node.Notifier
	env      []string // variables to give back to a successor
	taken    *carried // from a predecessor, or nil
	// inherited is the predecessor's watchdog, still armed and not fed.
	inherited *node.InheritedWatchdog
	lock      *os.File
	media     []transport.Medium
	node      *node.Node
	fifo      *node.FIFO
	listener  net.Listener
	files     *watched
	// addresses are the service addresses; nil when nothing is managed.
	addresses *ipaddr.Network
	// guardMissing says why they have no lifetime although they should.
	guardMissing string
	// respawned are the programs of ha.cf.
	respawned *node.Programs
	// watchdog is the machine's, nil for none.
	watchdog *node.Watchdog
	signals  chan os.Signal
	fencing  fenceCheck
	// supervisor is its pid, 0 for none; unsupervised: it has ended; renewing: it
	// was asked to.
	supervisor             atomic.Int64
	unsupervised, renewing atomic.Bool
}

// serve is the daemon until its end. ready may be nil.
func (s *setup) serve(c *config.Config, ready *readiness) int {
	restarted := os.Getenv(againEnv) != ""
	_ = os.Unsetenv(againEnv)
	d := &daemonProcess{setup: s, config: c}
	successor := succeeding()
	fail := func(err error) int {
		if d.log != nil {
			d.log.Printf(cluster.Error, "heartbeat not started: %v", err)
			if successor {
				d.abandon()
			}
			d.log.Close()
		}
		if d.lock != nil { // else these are another daemon's
			_ = os.Remove(d.paths.PIDFile)
			_ = os.Remove(d.socket())
		}
		if s.flags.foreground && d.log == nil {
			fmt.Fprintf(s.stderr, "ERROR: heartbeat not started: %v\n", err)
		}
		ready.report(1, fmt.Sprintf("ERROR: heartbeat not started: %v\n", err))
		return 1
	}
	d.notifier, d.env = node.StartNotifier()
	var err error
	if d.log, err = logging.New(logOptions(s, c)); err != nil {
		return fail(err)
	}
	if d.taken, err = takeOver(); err != nil {
		return fail(err)
	}
	d.inherited = d.taken.watchdog()
	if err := d.open(restarted); err != nil {
		return fail(err)
	}
	return d.run(ready)
}

// abandon releases what the predecessor held when its successor cannot run:
// nobody else here ever would, and the other node takes it over soon.
// The watchdog that it left armed stays so unless all of it is released in time.
func (d *daemonProcess) abandon() (clean bool) {
	clean = true
	for _, g := range slices.Backward(d.groups()) {
		if err := g.Give(context.Background()); err != nil {
			clean = false
			d.log.Printf(cluster.Error, "%v", err)
		}
	}
	if clean {
		node.DisarmWatchdog(node.WatchdogOptions{Device: d.config.Watchdog, Inherited: d.inherited, Log: d.log})
	}
	return clean
}

// open makes everything ready for the loop.
func (d *daemonProcess) open(restarted bool) error {
	debug.SetMemoryLimit(heapLimit)
	if os.Getenv("GOMAXPROCS") == "" {
		// Nothing here computes for long. With a second processor each wake-up
		// would also wake a thread that looks for work and finds none: twice the
		// CPU for every keepalive.
		runtime.GOMAXPROCS(1)
	}
	unix.Umask(0o022)
	cores := filepath.Join(d.paths.State, "cores", "root")
	for _, dir := range []string{d.paths.State, d.paths.Run, cores} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
	}
	if err := os.Chdir(cores); err != nil {
		return fmt.Errorf("enter working directory: %w", err)
	}
	if crash, err := os.OpenFile(d.crashFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err == nil {
		_ = debug.SetCrashOutput(crash, debug.CrashOptions{}) // best effort: a crash is seen without it too
		_ = crash.Close()
	}
	if err := coreLimit(d.config.CoreDumps); err != nil {
		d.log.Printf(cluster.Warn, "coredumps: %v", err)
	}
	var err error
	if d.lock, err = lock(filepath.Join(d.paths.Run, "lock")); err != nil {
		return err
	}
	crashed := marked(d.lock)
	// From here on others know the pid: a signal of theirs waits until the node
	// runs. Some are caught and not looked at: what is ignored, children would
	// ignore too.
	d.signals = make(chan os.Signal, 16)
	signal.Notify(make(chan os.Signal, 1), syscall.SIGINT, syscall.SIGPIPE, syscall.SIGTTOU, syscall.SIGTTIN)
	signal.Notify(d.signals, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM)
	if err := writePIDFile(d.paths.PIDFile, os.Getpid()); err != nil {
		return err
	}
	d.watchSupervisor()
	d.files = watch(d.paths.Config)
	d.log.Printf(cluster.Info, "heartbeat: version %s", compatible)
	boot, err := d.boot()
	if err != nil {
		return err
	}
	var created bool
	if d.fifo, created, err = node.OpenFIFO(d.paths.FIFO()); err != nil {
		return err
	}
	if created {
		d.log.Printf(cluster.Info, "Creating FIFO %s.", d.paths.FIFO())
	}
	if d.taken == nil {
		if err := d.freshRsctmp(); err != nil {
			return err
		}
	}
	if d.media, err = openMedia(d.config, d.taken.inherited()); err != nil {
		return fmt.Errorf("open media: %w", err)
	}
	if d.taken == nil {
		for _, m := range d.media {
			if a, ok := m.(transport.Announced); ok {
				for _, line := range a.Banner() {
					d.log.Printf(cluster.Info, "%s", line)
				}
			}
		}
	}
	var rt *node.Realtime
	if d.config.Realtime && !d.flags.noRealtime {
		var warnings []string
		rt, warnings = node.StartRealtime(d.config.RTPrio)
		for _, w := range warnings {
			d.log.Printf(cluster.Warn, "%s", w)
		}
	}
	groups := d.groups()
	programs := d.programs(d.taken.programs())
	var eng *engine.Engine
	var origin time.Duration
	started := time.Now()
	if d.taken != nil {
		origin, started = d.taken.Origin, d.taken.Started
		d.log.SetDebug(max(d.log.Debug(), d.taken.Debug))
		if eng, err = engine.Restore(boot, d.taken.Snapshot); err != nil {
			d.log.Printf(cluster.Error, "the state of the former process cannot be used, starting anew: %v", err)
			d.taken, origin, started = nil, 0, time.Now()
			if boot, err = d.boot(); err != nil {
				return err
			}
		}
	}
	if eng == nil {
		boot.Held = d.findHeld(groups, crashed)
		if eng, err = engine.New(boot); err != nil {
			return err
		}
	} else {
		d.keepRunning(groups, eng.View())
	}
	byKey := make(map[string]node.Group)
	for _, g := range groups {
		byKey[g.Key()] = g
	}
	c := d.config
	params := make(map[string]string)
	for _, p := range c.Params {
		params[p.Name] = p.Value
	}
	params["hbversion"] = Version()
	timer, err := node.NewKernelTimer()
	if err != nil {
		d.log.Printf(cluster.Warn, "%v; keepalives may be a millisecond late", err)
	}
	d.respawned = programs
	if d.listener = d.taken.listener(); d.listener == nil {
		if d.listener, err = control.Listen(d.socket()); err != nil {
			return err
		}
	}
	// Last of all: from now on the machine is reset when the loop does not run.
	d.watchdog = node.OpenWatchdog(node.WatchdogOptions{
		Device: c.Watchdog, Keepalive: c.Keepalive, Deadtime: c.Deadtime, Inherited: d.inherited, Log: d.log,
	})
	var probe func(context.Context, []string) ([]cluster.GroupResult, error)
	alive, guards := []func(time.Time){d.watchdog.Alive}, []func() string{d.watchdog.Trouble, d.fencing.Trouble, d.supervisionTrouble}
	if d.addresses != nil {
		alive, guards = append(alive, d.addresses.Alive), append(guards, d.addressTrouble)
		probe = d.probe(groups)
	}
	d.node = node.New(node.Options{
		Timer:  timer,
		Engine: eng, Paths: d.paths, Media: d.media, Groups: byKey, ScriptEnv: d.messageEnv, Log: d.log, Origin: origin,
		Realtime: rt, Notifier: d.notifier, Reload: d.reload, Fence: d.fence, Reboot: d.reboot, Programs: programs,
		Alive: alive, Guards: guards, Probe: probe,
		Facts: node.Facts{
			Version: Version(), PID: os.Getpid(), Started: started, Keepalive: c.Keepalive, Warntime: c.Warntime,
			Deadtime: c.Deadtime, Initdead: c.Initdead, Groups: c.Groups, Params: params,
		},
	})
	return nil
}

func (d *daemonProcess) socket() string {
	return filepath.Join(d.root, d.config.TOML.ControlSocket)
}

// boot is what the engine begins with. Taking the generation counts it up,
// except for a successor in place, which continues its predecessor's.
func (d *daemonProcess) boot() (engine.Boot, error) {
	c := d.config
	b := engine.Boot{Config: boot.Config(c), Digest: c.Digest(), PID: os.Getpid()}
	scripts, err := node.MessageScripts(d.paths.Config)
	if err != nil {
		return b, err
	}
	b.Config.Scripts = scripts
	var seed [8]byte
	_, _ = crand.Read(seed[:]) // never fails
	b.Seed = binary.LittleEndian.Uint64(seed[:])
	if d.flags.unmanaged {
		b.Config.Groups = nil
	}
	var created bool
	if c.UUIDFromName {
		b.UUID = node.UUIDFromName(c.Self)
	} else if b.UUID, created, err = node.LoadUUID(d.paths.UUID()); err != nil {
		return b, err
	}
	if d.taken != nil {
		return b, nil
	}
	now := time.Now().Unix()
	g := node.Generation{Value: uint64(now)}
	if !c.GenerationFromTime {
		if g, err = node.NextGeneration(d.paths.Generation(), now); err != nil {
			return b, err
		}
	}
	if g.Warning != "" {
		d.log.Printf(cluster.Warn, "%s", g.Warning)
	}
	d.log.Printf(cluster.Info, "Heartbeat generation: %d", g.Value)
	b.Generation = g.Value
	if created {
		d.log.Printf(cluster.Info, "No uuid found for current node - generating a new uuid.")
	}
	return b, nil
}

// freshRsctmp gives the resource scripts an empty directory for their notes, as
// each start of the original does.
func (d *daemonProcess) freshRsctmp() error {
	dir := filepath.Join(d.paths.Run, "rsctmp")
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("empty %s: %w", dir, err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	if err := os.Chmod(dir, 0o755|os.ModeSticky); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	return nil
}

// run drives the node to its end.
func (d *daemonProcess) run(ready *readiness) int {
	disk, err := node.OpenHistory(d.paths.History())
	if err != nil {
		d.log.Printf(cluster.Warn, "%v", err)
	}
	d.mark(true)
	d.node.Start(d.fifo, disk)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	served := make(chan error, 1)
	go func() { // ends with ctx
		served <- control.Serve(ctx, d.listener, d.node, control.Options{Log: slog.New(d.log.Handler())})
	}()
	go d.obey(ctx, d.signals)
	go d.fencing.run(ctx, d) // ends with ctx
	ready.report(0, "")
	d.notifier.Ready()
	d.renewSupervisor()

	for {
		out := d.node.Run()
		if out.Exit != nil {
			return d.finish(*out.Exit, cancel, served, d.signals)
		}
		// The control server must not answer while the process is replaced, but
		// its socket stays: it is closed by the exec or not at all.
		d.node.Stay(d.handOver(out.Snapshot))
	}
}

func (d *daemonProcess) handOver(snapshot []byte) error {
	origin, err := d.node.Origin()
	if err != nil {
		return err
	}
	// The order may have waited long for running jobs.
	if _, problems := d.load(); problems.Failed() {
		return fmt.Errorf("restart in place: the configuration has become unusable: %w", refusal(problems))
	}
	d.log.Printf(cluster.Info, "Performing heartbeat restart exec.")
	flush, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	d.log.Flush(flush)
	watchdog, resumeFeeding, err := d.watchdog.HandOver()
	if err != nil {
		return fmt.Errorf("restart in place: %w", err)
	}
	defer resumeFeeding()
	running, resume := d.respawned.HandOver()
	defer resume()
	return handOver(d.setup, carried{
		Snapshot: snapshot, Origin: origin, Started: d.node.Started(), Debug: d.log.Debug(), Programs: running,
	}, d.media, d.listener, watchdog, d.successorEnv())
}

// finish ends a node that has released everything.
func (d *daemonProcess) finish(e engine.Exit, cancel func(), served <-chan error, signals chan os.Signal) int {
	// Everything is released: from here on a reset would help nobody, and the
	// programs of ha.cf may take their time to end.
	d.watchdog.Disarm()
	if !e.Restart {
		d.notifier.Stopping()
	}
	d.node.End()
	// The order's last answer is on its way to the operator who gave it.
	time.Sleep(lastAnswer)
	cancel()
	select {
	case <-served:
	case <-time.After(2 * time.Second):
	}
	if e.Restart {
		if d.restartAfter(e.Pause, signals) {
			d.log.Printf(cluster.Info, "Performing heartbeat restart exec.")
			d.log.Close()
			_ = d.lock.Close()
			err := again(d.setup, d.successorEnv())
			fmt.Fprintf(d.stderr, "ERROR: %v\n", err)
			_ = os.Remove(d.paths.PIDFile)
			return 1
		}
	}
	_ = os.Remove(d.paths.PIDFile)
	_ = os.Remove(d.socket())
	d.mark(false)
	d.log.Close()
	return 0
}

// successorEnv are the variables that this process took out of its environment.
func (d *daemonProcess) successorEnv() []string {
	if pid := d.supervisor.Load(); pid != 0 {
		return append(slices.Clone(d.env), supervisorEnv+"="+strconv.FormatInt(pid, 10))
	}
	return d.env
}

// lastAnswer is what a reply may take from the loop to the socket.
const lastAnswer = 50 * time.Millisecond

// restartAfter waits out the silence that makes the peer forget this node. A
// TERM meanwhile ends the daemon instead.
func (d *daemonProcess) restartAfter(pause time.Duration, signals <-chan os.Signal) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return true
		case s := <-signals:
			if s == syscall.SIGTERM {
				return false
			}
		}
	}
}

// obey carries out signals until ctx ends; after that they are restartAfter's.
func (d *daemonProcess) obey(ctx context.Context, signals <-chan os.Signal) {
	for {
		select {
		case s := <-signals:
			switch s {
			case syscall.SIGTERM:
				d.node.Shutdown("signal TERM")
			case syscall.SIGHUP:
				// It may wait for a script, and a TERM must not wait for that. It
				// logs its outcome; the signal has nobody to tell it to.
				go func() { _ = d.node.Reload(ctx, false, "signal HUP", func(string) {}) }() // ends with ctx
			case syscall.SIGUSR1:
				d.setDebug(d.log.Debug() + 1)
			case syscall.SIGUSR2:
				d.setDebug(max(0, d.log.Debug()-1))
			case syscall.SIGALRM:
				d.log.Printf(cluster.Error, "Unexpected alarm in process %d", os.Getpid())
			}
		case <-ctx.Done():
			return
		}
	}
}

func (d *daemonProcess) setDebug(level int) {
	if level > 0 && d.log.Debug() == 0 {
		d.log.SetDebug(level)
		d.log.Printf(cluster.Info, "heartbeat: version %s", Version())
	}
	d.log.SetDebug(max(1, level)) // this line is written whatever the level
	d.log.Printf(cluster.Debug, "debug now set to %d [pid %s]", level, strconv.Itoa(os.Getpid()))
	d.log.SetDebug(level)
}
