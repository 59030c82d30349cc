package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"heartbeat/cluster"
	"heartbeat/cluster/node/logging"
)

const (
	// feedLate is how old a keepalive may be that still feeds the device. An
	// older one tells of a daemon that was held up since.
	feedLate = 200 * time.Millisecond
	// watchdogMargin is feedLate and what the reset itself takes.
	watchdogMargin = 300 * time.Millisecond
	// watchdogDrift is the part of its time by which a device may be late: an
	// i6300esb takes 1.7 % longer than it was told.
	watchdogDrift = 0.02
	// watchdogPatience is how long the end of the daemon, or its replacement,
	// waits for a device that hangs.
	watchdogPatience = 2 * time.Second
)

// WatchdogTimeout is the timeout of the machine's watchdog, in whole seconds.
//
// The other node takes over deadtime after the last keepalive that it heard;
// before that the watchdog must have reset this machine. It is fed with
// keepalives only, so a hang lets it expire no later than the timeout and
// feedLate after the last one. A killed daemon is worse: the kernel feeds once
// more as it closes the device, up to a keepalive's interval after the last
// keepalive. Hence deadtime less keepalive less margin and drift, rounded down.
// But never less than two keepalives, or a single late one would reset the
// machine.
func WatchdogTimeout(keepalive, deadtime time.Duration) time.Duration {
	least := (2*keepalive + time.Second - 1).Truncate(time.Second)
	return max(time.Second, least, (time.Duration(float64(deadtime-keepalive-watchdogMargin) / (1 + watchdogDrift))).Truncate(time.Second))
}

// safeDeadtime is the deadtime from which on a timeout resets in time.
func safeDeadtime(timeout, keepalive time.Duration) time.Duration {
	return timeout + time.Duration(float64(timeout)*watchdogDrift) + keepalive + watchdogMargin
}

// WatchdogOptions are what a watchdog is made of.
type WatchdogOptions struct {
	// Device is ha.cf's; empty for none.
	Device              string
	Keepalive, Deadtime time.Duration
	// Inherited is the predecessor's device, which it left armed; nil for none.
	Inherited *InheritedWatchdog
	Log       *logging.Log
	// open and inherit stand for the kernel's devices; nil for those.
	open    func(path string) (watchdogDevice, error)
	inherit func(fd int) (watchdogDevice, error)
}

// InheritedWatchdog is an armed watchdog on its way to a successor in place.
type InheritedWatchdog struct {
	Device string
	FD     int
}

// Watchdog keeps the machine's watchdog timer from expiring as long as the loop
// sends keepalives, and lets it expire when it does not: the machine is reset
// before the other node takes over what this one holds.
//
// The loop never waits for the device: a goroutine of its own feeds it. A
// device that cannot be used is tried again with the keepalives that come.
// All methods may be called on nil.
type Watchdog struct {
	o     WatchdogOptions
	every atomic.Int64 // how often it is fed: a quarter of the timeout
	// fed holds the moment of the newest keepalive that shall feed. Only the
	// loop puts one in; one that is still there when the next comes is old
	// and makes place for it.
	fed chan time.Time
	// quit asks the goroutine to end, disarming the device first.
	quit, done chan struct{}
	// turn is held by whoever deals with the device.
	turn   chan struct{}
	passed time.Time // the last keepalive that went into fed; of the loop alone

	// What follows belongs to the holder of turn.
	device  watchdogDevice
	timeout time.Duration // the device's own

	mu      sync.Mutex
	trouble string
}

func newWatchdog(o WatchdogOptions) *Watchdog {
	if o.open == nil {
		o.open, o.inherit = openWatchdogFD, watchdogOfFD
	}
	w := &Watchdog{
		o: o, fed: make(chan time.Time, 1), turn: make(chan struct{}, 1),
		quit: make(chan struct{}), done: make(chan struct{}),
	}
	w.every.Store(int64(WatchdogTimeout(o.Keepalive, o.Deadtime) / 4))
	return w
}

// DisarmWatchdog stops the device that a dead daemon, or one that could not go
// on, left armed. It is for who has released everything in its place.
func DisarmWatchdog(o WatchdogOptions) {
	w := newWatchdog(o)
	switch {
	case o.Inherited != nil:
		w.device, w.o.Device = w.inherited(), o.Inherited.Device
	case o.Device != "":
		var err error
		if w.device, err = w.o.open(o.Device); err != nil {
			o.Log.Printf(cluster.Warn, "Cannot open watchdog device: %s: %v; if it is armed it resets this machine", o.Device, err)
			return
		}
	}
	w.disarm()
}

// OpenWatchdog opens the device and starts its timer. The first keepalive must
// come within the timeout. Without a device it disarms the inherited one and
// returns nil.
func OpenWatchdog(o WatchdogOptions) *Watchdog {
	w := newWatchdog(o)
	inherited := w.inherited()
	if o.Device == "" {
		return nil
	}
	w.turn <- struct{}{}
	go w.run(inherited)
	return w
}

// inherited is the predecessor's device if it is still the one that is
// configured. Another one is disarmed: nobody feeds it any more.
func (w *Watchdog) inherited() watchdogDevice {
	was := w.o.Inherited
	if was == nil {
		return nil
	}
	d, err := w.o.inherit(was.FD)
	if err == nil && was.Device == w.o.Device {
		return d
	}
	if err == nil {
		err = d.Disarm()
	}
	if err != nil {
		w.o.Log.Printf(cluster.Error, "watchdog %s of the former process: %v", was.Device, err)
	}
	return nil
}

// Alive feeds the device, if it is time to, for a keepalive of the moment at.
// It is called by the loop and never waits.
func (w *Watchdog) Alive(at time.Time) {
	if w == nil || at.Sub(w.passed) < time.Duration(w.every.Load()) {
		return
	}
	w.passed = at
	select {
	case <-w.fed:
		w.report("watchdog " + w.o.Device + " does not answer")
	default:
	}
	w.fed <- at
}

// run feeds. It ends when it is told to disarm the device.
func (w *Watchdog) run(inherited watchdogDevice) {
	defer close(w.done)
	w.report(w.arm(inherited))
	<-w.turn
	for {
		select {
		case at := <-w.fed:
			w.turn <- struct{}{}
			if time.Since(at) <= feedLate {
				w.report(w.feed())
			}
			<-w.turn
		case <-w.quit:
			w.turn <- struct{}{}
			w.disarm()
			return
		}
	}
}

// feed feeds the device, and opens it first if that did not work before. It
// returns what is wrong, in words; empty for nothing.
func (w *Watchdog) feed() (trouble string) {
	if w.device == nil {
		return w.arm(nil)
	}
	if err := w.device.Feed(); err != nil {
		return fmt.Sprintf("cannot feed watchdog %s: %v", w.o.Device, err)
	}
	return ""
}

// arm takes the device d, or opens it, and gives it its timeout.
func (w *Watchdog) arm(d watchdogDevice) (trouble string) {
	again := d != nil
	if !again {
		var err error
		if d, err = w.o.open(w.o.Device); err != nil {
			return fmt.Sprintf("Cannot open watchdog device: %s: %v%s", w.o.Device, err, openAdvice(err))
		}
	}
	wanted := WatchdogTimeout(w.o.Keepalive, w.o.Deadtime)
	setErr := d.SetTimeout(int(wanted / time.Second))
	seconds, err := d.Timeout()
	if err != nil && setErr == nil {
		seconds, err = int(wanted/time.Second), nil // it does not tell; it said yes
	}
	if err != nil {
		return fmt.Sprintf("the timeout of watchdog %s cannot be set (%v) nor read: %v", w.o.Device, setErr, errors.Join(err, d.Disarm()))
	}
	timeout := time.Duration(seconds) * time.Second
	if timeout < w.o.Keepalive+time.Second/2 {
		trouble = fmt.Sprintf("watchdog %s takes no timeout longer than %v, too short for keepalive %v", w.o.Device, timeout, w.o.Keepalive)
		if err := d.Disarm(); err != nil {
			trouble += ", and cannot be stopped: " + err.Error()
		}
		return trouble
	}
	w.device, w.timeout = d, timeout
	w.every.Store(int64(timeout / 4))
	if !again {
		w.o.Log.Printf(cluster.Notice, "Using watchdog device: %s", w.o.Device)
		w.o.Log.Printf(cluster.Info, "watchdog %s (%s) resets this machine when it was not fed with a keepalive for %v", w.o.Device, d.Facts().Identity, timeout)
	}
	w.warn(timeout)
	return ""
}

func openAdvice(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return " (load its driver, for example modprobe softdog)"
	case errors.Is(err, unix.EBUSY):
		return " (another program feeds it: systemd's RuntimeWatchdogSec, or a watchdog daemon)"
	}
	return ""
}

// warn says what the device cannot guard against.
func (w *Watchdog) warn(timeout time.Duration) {
	if safe := safeDeadtime(timeout, w.o.Keepalive); safe > w.o.Deadtime {
		w.o.Log.Printf(cluster.Warn, "watchdog %s resets this machine %v after it was last fed: with keepalive %v and deadtime %v the other node may take over before that; a deadtime from %v on is safe",
			w.o.Device, timeout, w.o.Keepalive, w.o.Deadtime, safe)
	}
	facts := w.device.Facts()
	if !facts.MagicClose {
		w.o.Log.Printf(cluster.Warn, "watchdog %s has no magic close: when this daemon is killed it stops, and resets nothing", w.o.Device)
	}
	if facts.NoWayOut {
		w.o.Log.Printf(cluster.Warn, "watchdog %s cannot be stopped (nowayout): this machine is reset %v after heartbeat was stopped, unless it is started again", w.o.Device, timeout)
	}
}

// disarm stops the device for good.
func (w *Watchdog) disarm() {
	if w.device == nil {
		return
	}
	facts := w.device.Facts()
	err := w.device.Disarm()
	w.device = nil
	switch {
	case err != nil:
		w.o.Log.Printf(cluster.Error, "watchdog %s cannot be stopped: %v; this machine is reset in %v", w.o.Device, err, w.timeout)
	case facts.NoWayOut:
		w.o.Log.Printf(cluster.Warn, "watchdog %s goes on (nowayout): this machine is reset in %v, unless heartbeat is started again", w.o.Device, w.timeout)
	default:
		w.o.Log.Printf(cluster.Info, "watchdog %s is stopped", w.o.Device)
	}
}

// report notes what is wrong with the device, in words; empty for nothing. A
// change is logged.
func (w *Watchdog) report(trouble string) {
	w.mu.Lock()
	was := w.trouble
	w.trouble = trouble
	w.mu.Unlock()
	switch {
	case trouble == was:
	case trouble != "":
		w.o.Log.Printf(cluster.Error, "%s", w.Trouble())
	default:
		w.o.Log.Printf(cluster.Info, "watchdog %s works", w.o.Device)
	}
}

// Trouble says that nothing guards the machine, and why; empty if the watchdog
// does.
func (w *Watchdog) Trouble() string {
	if w == nil {
		return ""
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.trouble == "" {
		return ""
	}
	return w.trouble + ": nothing resets this machine when heartbeat hangs"
}

// Disarm stops the timer, for a daemon that ends and has left nothing running.
// A daemon that ends otherwise leaves it armed. Nothing can be done with the
// watchdog afterwards.
func (w *Watchdog) Disarm() {
	if w == nil {
		return
	}
	close(w.quit)
	select {
	case <-w.done:
	case <-time.After(watchdogPatience):
		w.o.Log.Printf(cluster.Error, "watchdog %s does not answer and stays armed: this machine may be reset", w.o.Device)
	}
}

// HandOver is a copy of the open device for a successor in this process, named
// as the device is; nil if there is none. Until resume nobody deals with the
// device.
func (w *Watchdog) HandOver() (device *os.File, resume func(), err error) {
	if w == nil {
		return nil, func() {}, nil
	}
	select {
	case w.turn <- struct{}{}:
	case <-time.After(watchdogPatience):
		return nil, nil, fmt.Errorf("watchdog %s does not answer", w.o.Device)
	}
	resume = func() { <-w.turn }
	if w.device == nil {
		return nil, resume, nil
	}
	fd, err := w.device.Copy()
	if err != nil {
		resume()
		return nil, nil, fmt.Errorf("watchdog %s: %w", w.o.Device, err)
	}
	return os.NewFile(uintptr(fd), w.o.Device), resume, nil
}
