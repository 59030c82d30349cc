// Package daemon is the heartbeat program: its flags, the start and the end of
// the daemon, and its replacement in place.
package daemon

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"heartbeat/cluster"
	"heartbeat/cluster/config"
	"heartbeat/cluster/node"
	"heartbeat/cluster/node/logging"

	"golang.org/x/sys/unix"
)

// compatible is the version of heartbeat whose behaviour this program has.
const compatible = "3.0.6"

// Version is what -V prints and clients see: the compatible version and, where
// the original names its revision, ours.
func Version() string {
	revision := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				revision = s.Value
			}
		}
	}
	return compatible + " (node: " + revision + ")"
}

// Exit codes of the original.
const (
	exitUsage  = 2
	exitConfig = 6
)

// rootEnv names a directory that stands in place of / for all of heartbeat's
// own files, so that several nodes can run side by side on one machine.
const rootEnv = "HEARTBEAT_ROOT"

// setup is what every way of calling the program needs.
type setup struct {
	flags          flags
	args           []string
	root           string
	paths          node.Paths
	stdout, stderr io.Writer
}

// Run is the program. args[0] is its name.
func Run(args []string, stdout, stderr io.Writer) int {
	f, ok := parseFlags(args, stderr)
	if !ok {
		return exitUsage
	}
	s := &setup{flags: f, args: args, root: os.Getenv(rootEnv), paths: node.DefaultPaths, stdout: stdout, stderr: stderr}
	for _, p := range []*string{&s.paths.Config, &s.paths.State, &s.paths.Run, &s.paths.PIDFile} {
		*p = filepath.Join(s.root, *p)
	}
	switch {
	case f.version:
		fmt.Fprintln(stdout, Version())
		return 0
	case f.defaults:
		printDefaults(stdout, f.wiki)
		return 0
	case f.status:
		return printStatus(s, stdout)
	case f.kill:
		return stop(s, stderr)
	case f.restart && !succeeding():
		fmt.Fprintln(stderr, "ERROR: heartbeat is not running.")
		return exitConfig
	}
	// A panic would end with exit code 2, as wrong flags do; so it ends with
	// SIGABRT, the stacks of all goroutines and, if ha.cf allows, a core.
	debug.SetTraceback("crash")
	switch {
	case os.Getenv(superviseEnv) != "":
		return s.supervise()
	case os.Getenv(releaseEnv) != "":
		return s.releaseLeft()
	case detached():
		return s.serveDetached()
	}
	return s.start()
}

// names are the machine's and the node's name, lower case, as -s prints them.
func (s *setup) names() (host, self string) {
	host = strings.ToLower(config.OSHost{}.NodeName())
	self = host
	if text, err := os.ReadFile(filepath.Join(s.paths.Config, "nodeinfo")); err == nil {
		if first, _, _ := strings.Cut(string(text), "\n"); strings.TrimSpace(first) != "" {
			self = strings.ToLower(strings.TrimSpace(first))
		}
	}
	return host, self
}

// load reads the configuration.
func (s *setup) load() (*config.Config, config.Problems) {
	return config.Load(s.paths.Config, config.OSHost{})
}

// start is heartbeat without a flag that means something else: check the
// configuration, say what is to be said, and become the daemon or tell the
// running one.
func (s *setup) start() int {
	c, problems := s.load()
	pid, alive, _ := running(s.paths.PIDFile)
	if above := s.supervisorPID(); !alive && above != 0 {
		pid, alive = above, true // it passes on what it is told, and starts the daemon again
	}
	say := newSpeaker(s, c, problems.Failed())
	defer say.close()
	classic := problems.Classic()
	if problems.Failed() {
		if s.flags.reload && alive {
			// The original's last line tells what it means for the running daemon.
			say.lines(classic[:max(0, len(classic)-1)])
			say.printf(cluster.Info, "Config errors: Heartbeat pid %d NOT restarted", pid)
			say.close()
			s.report(problems)
			return 1
		}
		say.lines(classic)
		say.close()
		s.report(problems)
		return problems.ExitCode()
	}
	if s.flags.reload && alive {
		say.lines(withoutStarting(classic))
		say.printf(cluster.Info, "Signalling heartbeat pid %d to reread config files", pid)
		if err := unix.Kill(pid, unix.SIGHUP); err != nil {
			say.printf(cluster.Error, "Unable to send SIGHUP to pid %d: %v", pid, err)
			return 1
		}
		return 0
	}
	if s.flags.verbose {
		printConfig(s.stdout, c)
	}
	// What the original does not warn of comes before its last words.
	for _, p := range problems {
		if p.Severity == config.Warn && len(p.Classic) == 0 {
			say.printf(cluster.Warn, "%v", p)
		}
	}
	say.lines(classic)
	if alive {
		say.printf(cluster.Info, "heartbeat: already running [pid %d].", pid)
		return 0
	}
	say.close()
	if s.flags.foreground {
		return s.serve(c, nil)
	}
	return s.detach(c.TOML.Supervise)
}

// withoutStarting leaves the two lines out that announce a start.
func withoutStarting(lines []string) []string {
	var out []string
	for _, l := range lines {
		if !strings.HasPrefix(l, "info: ****") && !strings.HasPrefix(l, "info: Configuration validated.") {
			out = append(out, l)
		}
	}
	return out
}

// report adds what the original does not say of errors: the place, the reason
// and the remedy.
func (s *setup) report(problems config.Problems) {
	for _, p := range problems.Report() {
		if p.Severity == config.Error {
			fmt.Fprintf(s.stderr, "%v\n", p)
		}
	}
}

// speaker writes the starting command's lines where the original writes them:
// to stderr and, once ha.cf could be read, to the log.
type speaker struct {
	log  *logging.Log
	host string
	err  io.Writer
}

func newSpeaker(s *setup, c *config.Config, failed bool) *speaker {
	sp := &speaker{host: config.OSHost{}.NodeName(), err: s.stderr}
	o := logging.Options{Host: sp.host, Stderr: s.stderr, Format: "classic", Debug: s.flags.debug}
	if !failed && c != nil {
		o = logOptions(s, c)
		o.Stderr, o.Format, o.Priorities = s.stderr, "classic", false
	}
	log, err := logging.New(o)
	if err != nil {
		o.Facility = ""
		log, _ = logging.New(o) // the facility was the only possible error
	}
	sp.log = log
	return sp
}

// lines writes lines that begin with their level ("WARN: text").
func (sp *speaker) lines(lines []string) {
	for _, l := range lines {
		word, text, ok := strings.Cut(l, ": ")
		level, known := levelWords[word]
		if !ok || !known {
			sp.log.Write(logging.Record{Level: cluster.Info, Text: l})
			continue
		}
		sp.log.Write(logging.Record{Level: level, Text: text})
	}
}

func (sp *speaker) printf(level cluster.Level, format string, args ...any) {
	sp.log.Printf(level, format, args...)
}

func (sp *speaker) close() { sp.log.Close() }

var levelWords = map[string]cluster.Level{
	"debug": cluster.Debug, "info": cluster.Info, "INFO": cluster.Info, "notice": cluster.Notice, "WARN": cluster.Warn,
	"ERROR": cluster.Error, "CRIT": cluster.Crit,
}

// logOptions are the log's of the configuration.
func logOptions(s *setup, c *config.Config) logging.Options {
	o := logging.Options{
		Host: config.OSHost{}.NodeName(), Logfile: c.Logfile, Debugfile: c.Debugfile, Facility: c.LogFacility,
		Legacy: c.LegacyLogFormat, Debug: max(c.Debug, s.flags.debug), UID: -1, GID: -1,
	}
	o.UID, o.GID = logOwner()
	if o.Logfile == "" && o.Debugfile == "" && o.Facility == "" {
		// No target named: the original hands its lines to a logging daemon,
		// which writes them to syslog.
		o.Facility = "daemon"
	}
	if s.flags.foreground {
		o.Stderr = os.Stderr
		o.Format = c.TOML.LogFormat
		o.Priorities = os.Getenv("JOURNAL_STREAM") != ""
	}
	return o
}

// startLimit is how long a detached daemon may take to come up before the
// starting command gives up waiting for it.
const startLimit = time.Minute
