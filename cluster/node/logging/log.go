package logging

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"heartbeat/cluster"
)

// Options say where lines go.
type Options struct {
	// Host is uname -n as it stands in the lines.
	Host string
	// Entity and PID name the process in its lines; by default "heartbeat" and
	// the process's own id.
	Entity string
	PID    int
	// Logfile gets everything but debug lines, Debugfile everything; empty for
	// none.
	Logfile, Debugfile string
	// UID and GID own log files that are created here; negative: nobody is
	// given them.
	UID, GID int
	// Facility is the syslog facility; "" for no syslog. Socket is syslog's
	// socket, "/dev/log" by default.
	Facility, Socket string
	// Legacy is syslogmsgfmt false.
	Legacy bool
	// Debug is the debug level at start: debug lines are dropped at 0.
	Debug int
	// Stderr gets every line too, as Format ("classic", "text", "json") says;
	// nil for none. Priorities puts systemd's <N> before classic lines.
	Stderr     io.Writer
	Format     string
	Priorities bool
}

// queueRecords bounds the records that wait for the writer.
const queueRecords = 1024

// Log is the way to the log. Its methods may be called from every goroutine.
type Log struct {
	o       Options
	queue   chan Record
	control chan func()
	stop    chan struct{}
	done    chan struct{}
	once    sync.Once
	debug   atomic.Int32
	dropped atomic.Uint64

	// Of the writer's goroutine alone.
	logfile, debugfile *file
	sys                *syslog
	std                slog.Handler
	bufLog, bufDebug   []byte
	linesLog, linesDbg int
	bufErr, bufSys     []byte
}

// New opens the log. Files are opened when the first line is written, so that
// a problem with them stops nobody; only an unknown facility is an error. The
// writer's goroutine ends with Close.
func New(o Options) (*Log, error) {
	if o.Entity == "" {
		o.Entity = "heartbeat"
	}
	if o.PID == 0 {
		o.PID = os.Getpid()
	}
	if o.Socket == "" {
		o.Socket = "/dev/log"
	}
	l := &Log{
		o:       o,
		queue:   make(chan Record, queueRecords),
		control: make(chan func()),
		stop:    make(chan struct{}),
		done:    make(chan struct{}),
	}
	l.debug.Store(int32(o.Debug))
	if o.Logfile != "" {
		l.logfile = &file{path: o.Logfile, uid: o.UID, gid: o.GID}
	}
	if o.Debugfile != "" {
		l.debugfile = &file{path: o.Debugfile, uid: o.UID, gid: o.GID}
	}
	if o.Facility != "" {
		sys, err := newSyslog(o.Socket, o.Facility)
		if err != nil {
			return nil, err
		}
		l.sys = sys
	}
	if o.Stderr != nil {
		level := &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: levelNames}
		switch o.Format {
		case "text":
			l.std = slog.NewTextHandler(o.Stderr, level)
		case "json":
			l.std = slog.NewJSONHandler(o.Stderr, level)
		}
	}
	go l.run()
	return l, nil
}

// Write hands a record to the writer and never waits. Debug records are
// dropped while the debug level is 0.
func (l *Log) Write(r Record) {
	if r.Level == cluster.Debug && l.debug.Load() == 0 {
		return
	}
	if r.At.IsZero() {
		r.At = time.Now()
	}
	if r.Entity == "" {
		r.Entity = l.o.Entity
	}
	if r.PID == 0 {
		r.PID = l.o.PID
	}
	select {
	case l.queue <- r:
	default:
		l.dropped.Add(1)
	}
}

// Printf writes a line of the daemon's own whose structured message is its
// classic text.
func (l *Log) Printf(level cluster.Level, format string, args ...any) {
	l.Write(Record{Level: level, Text: fmt.Sprintf(format, args...)})
}

// SetDebug changes the debug level; debug lines are written from 1 on.
func (l *Log) SetDebug(level int) { l.debug.Store(int32(level)) }

// Debug is the debug level.
func (l *Log) Debug() int { return int(l.debug.Load()) }

// Reopen makes the next line open the files anew (logrotate, SIGHUP): what is
// written from now on goes to what then bears the name. It does not wait.
func (l *Log) Reopen() {
	select {
	case l.queue <- Record{reopen: true}:
	default: // a full queue: a renamed file is noticed within a second anyway
	}
}

// Flush waits until what was written before is out, at most until ctx ends.
func (l *Log) Flush(ctx context.Context) {
	out := make(chan struct{})
	select {
	case l.control <- func() { close(out) }:
	case <-l.done:
		return
	case <-ctx.Done():
		return
	}
	select {
	case <-out:
	case <-ctx.Done():
	}
}

// Close writes what waits and ends the writer; a disk that hangs is given two
// seconds.
func (l *Log) Close() {
	l.once.Do(func() { close(l.stop) })
	select {
	case <-l.done:
	case <-time.After(2 * time.Second):
	}
}

// batchRecords bounds what one write to a file carries.
const batchRecords = 128

func (l *Log) run() {
	defer close(l.done)
	for {
		select {
		case r := <-l.queue:
			l.batch(r)
		case f := <-l.control:
			l.drain()
			f()
		case <-l.stop:
			l.drain()
			for _, f := range []*file{l.logfile, l.debugfile} {
				if f != nil {
					f.close()
				}
			}
			if l.sys != nil {
				l.sys.close()
			}
			return
		}
	}
}

func (l *Log) drain() {
	for {
		select {
		case r := <-l.queue:
			l.batch(r)
		default:
			l.tellDropped()
			l.flush()
			return
		}
	}
}

// batch writes r and what waits behind it with one write per file.
func (l *Log) batch(r Record) {
	l.add(&r)
	for range batchRecords {
		select {
		case r := <-l.queue:
			l.add(&r)
			continue
		default:
		}
		break
	}
	l.tellDropped()
	l.flush()
}

func (l *Log) tellDropped() {
	if n := l.dropped.Swap(0); n > 0 {
		l.add(&Record{
			At: time.Now(), Level: cluster.Warn, Entity: l.o.Entity, PID: l.o.PID,
			Text: fmt.Sprintf("%d log lines lost: they came faster than the log could be written", n),
			Msg:  "log lines lost", Attrs: []Attr{{"lines", n}},
		})
	}
}

func (l *Log) add(r *Record) {
	if r.reopen {
		l.flush()
		for _, f := range []*file{l.logfile, l.debugfile} {
			if f != nil {
				f.close()
			}
		}
		return
	}
	if l.logfile != nil && r.Level != cluster.Debug {
		l.bufLog = appendFile(l.bufLog, r, l.o.Host, l.o.Legacy, false)
		l.linesLog++
	}
	if l.debugfile != nil {
		l.bufDebug = appendFile(l.bufDebug, r, l.o.Host, l.o.Legacy, true)
		l.linesDbg++
	}
	if l.sys != nil {
		l.bufSys = l.sys.write(time.Now(), r, l.bufSys)
	}
	if l.o.Stderr == nil {
		return
	}
	if l.std != nil {
		_ = l.std.Handle(context.Background(), structured(r))
		return
	}
	if l.o.Priorities {
		l.bufErr = append(l.bufErr, '<')
		l.bufErr = strconv.AppendInt(l.bufErr, int64(severity(r.Level)), 10)
		l.bufErr = append(l.bufErr, '>')
	}
	l.bufErr = appendFile(l.bufErr, r, l.o.Host, l.o.Legacy, false)
}

func (l *Log) flush() {
	now := time.Now()
	note := func(lost uint64, why error) []byte {
		return appendDaemon(nil, &Record{
			At: now, Level: cluster.Warn, Entity: l.o.Entity, PID: l.o.PID,
			Text: fmt.Sprintf("%d log lines lost: %v", lost, why),
		}, l.o.Host, l.o.Legacy)
	}
	if l.linesLog > 0 {
		l.logfile.write(now, l.bufLog, l.linesLog, note)
	}
	if l.linesDbg > 0 {
		l.debugfile.write(now, l.bufDebug, l.linesDbg, note)
	}
	if len(l.bufErr) > 0 {
		_, _ = l.o.Stderr.Write(l.bufErr) // nobody is left to be told
	}
	l.bufLog, l.bufDebug, l.bufErr = l.bufLog[:0], l.bufDebug[:0], l.bufErr[:0]
	l.linesLog, l.linesDbg = 0, 0
}
