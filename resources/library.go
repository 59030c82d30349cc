package resources

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"heartbeat/resources/script"
)

// Factory parses the arguments after the type name. It touches nothing on the
// machine, so configuration can be checked without root.
type Factory func(args []string) (Resource, error)

// Event is one line for the log.
type Event struct {
	// Level is "debug", "info", "WARN", "ERROR" or "CRIT"; "INFO" for the lines
	// that OCF agents wrote in capitals. The classic line is
	// Level + ": " + Classic.
	Level string
	// Tag is the classic tag without the pid: "ResourceManager(default)".
	Tag string
	// Classic is the text as heartbeat 3.0.6 words it.
	Classic string
	// Msg and Attrs are the structured form: a constant text and slog's
	// alternating keys and values.
	Msg   string
	Attrs []any
}

// Budgets bound the actions of one resource. The original has no bound at all.
// Zero takes the default, a negative value switches the bound off.
type Budgets struct {
	// Start and Status bound one call of a script; 10 minutes and 60 seconds.
	Start, Status time.Duration
	// Stop bounds the stop of one resource with all its retries; 10 minutes.
	Stop time.Duration
	// BuiltIn bounds each action of a built-in type; 60 seconds.
	BuiltIn time.Duration
}

const (
	defaultStart   = 10 * time.Minute
	defaultStop    = 10 * time.Minute
	defaultStatus  = 60 * time.Second
	defaultBuiltIn = 60 * time.Second
	// warnShare of a budget is what an action may take without a warning.
	warnShare = 10

	defaultStopRetries = 10
	stopRetryPause     = time.Second
)

// Options say where resources are found and how they are treated.
type Options struct {
	// ResourceDir and InitDir hold the scripts: /etc/ha.d/resource.d and
	// /etc/init.d.
	ResourceDir, InitDir string
	// Builtin holds the types that need no script, by the name written in
	// haresources.
	Builtin map[string]Factory
	// Env returns variables added to the environment of a script (HA_…), and is
	// asked at each run.
	Env func() []string
	// Dir is the scripts' working directory; "/" when empty.
	Dir     string
	Budgets Budgets
	// StopRetries is how often a failed stop is repeated, one second apart
	// (HA_STOPRETRYMAX): 0 means the default 10, a negative value until the
	// stop budget is used up.
	StopRetries int
	// Log takes each line and must not block.
	Log func(Event)
}

// Library finds the resource for an entry of haresources. It is safe for
// concurrent use.
type Library struct {
	o Options

	mu sync.Mutex
	// builtin keeps one Resource per entry: what it remembers (which address it
	// added) must outlive a single use.
	builtin map[string]*member
	chosen  map[string]choice // by path of the script
	said    map[string]bool   // names for which the choice was logged
}

// choice remembers which of script and built-in was taken for an unchanged file.
type choice struct {
	modTime time.Time
	size    int64
	builtin bool
}

// NewLibrary fills the defaults in and touches nothing.
func NewLibrary(o Options) *Library {
	for _, f := range []struct {
		value *time.Duration
		unset time.Duration
	}{
		{&o.Budgets.Start, defaultStart},
		{&o.Budgets.Stop, defaultStop},
		{&o.Budgets.Status, defaultStatus},
		{&o.Budgets.BuiltIn, defaultBuiltIn},
	} {
		if *f.value == 0 {
			*f.value = f.unset
		}
	}
	if o.StopRetries == 0 {
		o.StopRetries = defaultStopRetries
	}
	if o.Log == nil {
		o.Log = func(Event) {}
	}
	if o.Env == nil {
		o.Env = func() []string { return nil }
	}
	return &Library{
		o:       o,
		builtin: make(map[string]*member),
		chosen:  make(map[string]choice),
		said:    make(map[string]bool),
	}
}

// bareAddress is how the original tells an address from a script's name: a shell
// pattern that wants no more than digits at four places.
var bareAddress = regexp.MustCompile(`^[0-9].*\.[0-9].*\.[0-9].*\.[0-9]`)

// Split parts an entry of haresources into type and arguments: "::" separates,
// a bare IPv4 address stands for "IPaddr::" and itself, empty arguments vanish.
func Split(entry string) (name string, args []string) {
	if bareAddress.MatchString(entry) {
		return "IPaddr", []string{entry}
	}
	parts := strings.Split(entry, "::")
	return parts[0], slices.DeleteFunc(parts[1:], func(arg string) bool { return arg == "" })
}

// Lookup finds the resource for an entry: "IPaddr::192.0.2.10/24/eth0", a bare
// address, a script's name. A file of that name in ResourceDir comes first if it
// is the administrator's own; the stock wrapper of a built-in type does not
// count. Then built-ins, then ResourceDir and InitDir.
//
// The error is a *script.NotFoundError, or what the type says of its arguments.
func (l *Library) Lookup(entry string) (Resource, error) {
	m, err := l.newLook().lookup(entry)
	if err != nil {
		return nil, err
	}
	return m.Resource, nil
}

// look is one look at the files: what it finds for a name serves all entries of a
// group that have it.
type look struct {
	*Library
	prefers map[string]bool // by type: the built-in is used
}

func (l *Library) newLook() look { return look{l, make(map[string]bool)} }

// member is a resource of a group with what a group must know of it.
type member struct {
	Resource
	entry string // as haresources writes it
	name  string // of the type
	// path and args make the classic line "Running PATH ARGS ACTION".
	path, args string
	// agent is the tag of the OCF agent that a built-in stands for; empty for a
	// script.
	agent string
	// batch acts on the resource together with its neighbours; nil: it is alone.
	batch Batch
}

func (m *member) builtin() bool { return m.agent != "" }

func (l look) lookup(entry string) (*member, error) {
	l.mu.Lock()
	m := l.builtin[entry]
	l.mu.Unlock()
	if m != nil && l.usesBuiltin(m.name) {
		return m, nil
	}
	name, args := Split(entry)
	factory, known := l.o.Builtin[name]
	if known && l.usesBuiltin(name) {
		return l.builtinFor(name, entry, args, factory)
	}
	path, err := script.Find(name, l.o.ResourceDir, l.o.InitDir)
	if err != nil {
		var notFound *script.NotFoundError
		if errors.As(err, &notFound) && notFound.Hint == "" {
			for builtin := range l.o.Builtin {
				if strings.EqualFold(builtin, name) {
					notFound.Hint = "did you mean " + builtin + "?"
				}
			}
		}
		return nil, err
	}
	return &member{
		Resource: &scriptResource{lib: l.Library, name: entry, command: script.Command{Path: path, Args: args, Dir: l.o.Dir}},
		entry:    entry, name: name, path: path, args: strings.Join(args, " "),
	}, nil
}

func (l *Library) builtinFor(name, entry string, args []string, factory Factory) (*member, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if m := l.builtin[entry]; m != nil {
		return m, nil
	}
	res, err := factory(args)
	if err != nil {
		return nil, err
	}
	written := strings.Join(args, " ")
	instance, _, _ := strings.Cut(written, "/")
	m := &member{
		Resource: res,
		entry:    entry, name: name, path: filepath.Join(l.o.ResourceDir, name), args: written,
		agent: fmt.Sprintf("/usr/lib/ocf/resource.d//heartbeat/%s(%s_%s)", name, name, instance),
	}
	if b, ok := res.(Batched); ok {
		m.batch = b.Batch()
	}
	l.builtin[entry] = m
	return m, nil
}

// usesBuiltin is prefersBuiltin, asked once.
func (l look) usesBuiltin(name string) bool {
	prefers, asked := l.prefers[name]
	if !asked {
		prefers = l.prefersBuiltin(name)
		l.prefers[name] = prefers
	}
	return prefers
}

// prefersBuiltin reports whether the built-in type serves name although a file of
// that name may exist: there is none, or it is one that heartbeat or this program
// installed.
func (l *Library) prefersBuiltin(name string) bool {
	path, err := script.Find(name, l.o.ResourceDir)
	if err != nil {
		return true
	}
	info, err := os.Stat(path)
	if err != nil {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	last, seen := l.chosen[path]
	if seen && last.modTime.Equal(info.ModTime()) && last.size == info.Size() {
		return last.builtin
	}
	builtin := isStock(name, path)
	l.chosen[path] = choice{info.ModTime(), info.Size(), builtin}
	if !builtin && !l.said[name] {
		l.said[name] = true
		l.o.Log(Event{
			Level: "info", Tag: managerTag,
			Classic: fmt.Sprintf("%s is not the stock script: it is used instead of the built-in %s", path, name),
			Msg:     "administrator's script used instead of built-in type",
			Attrs:   []any{"script", path, "type", name},
		})
	}
	return builtin
}

// stockDigests are the SHA-256 digests of the wrappers that heartbeat 3.0.6
// (Debian 1:3.0.6-13) installs in resource.d. A built-in does what they do.
var stockDigests = map[string][]string{
	"IPaddr":   {"c53184acddad1bc7894e0477a1351621c3e46cf1924c8ff410410b51e26f4b5c"},
	"IPaddr2":  {"220eb0a8ba5b8b132a04503d367613210a72edcda030dcc726398c8121f5c017"},
	"IPv6addr": {"af667834ba1c733e596342f11daa8f584b06c2e5bf2a3ccc2a9d2a06e60ea3d3"},
}

// OwnMark on a line of its own near the beginning of a script in ResourceDir says
// that the script belongs to this program and only stands for the built-in type.
const OwnMark = "# heartbeat built-in type"

// stockBytesMax is more than any stock script has; a longer file is the
// administrator's.
const stockBytesMax = 64 << 10

// isStock reports whether the file was installed by heartbeat or by us. One that
// cannot be read is the administrator's.
func isStock(name, path string) bool {
	info, err := os.Stat(path)
	if err != nil || info.Size() > stockBytesMax {
		return false
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	sum := sha256.Sum256(text)
	if slices.Contains(stockDigests[name], hex.EncodeToString(sum[:])) {
		return true
	}
	for i, line := range strings.SplitN(string(text), "\n", 12) {
		if i < 10 && strings.TrimSpace(line) == OwnMark {
			return true
		}
	}
	return false
}

// scriptOutputLinesMax bounds what one run of a script adds to the debug log.
const scriptOutputLinesMax = 40

// scriptResource is a heartbeat-style or init script as a Resource.
type scriptResource struct {
	lib     *Library
	name    string
	command script.Command
}

func (s *scriptResource) Name() string { return s.name }

func (s *scriptResource) Start(ctx context.Context) error {
	_, err := s.run(ctx, "start")
	return err
}

func (s *scriptResource) Stop(ctx context.Context) error {
	_, err := s.run(ctx, "stop")
	return err
}

// Status asks the script and judges its text. A script that could not be run, or
// was killed, leaves the state unknown.
func (s *scriptResource) Status(ctx context.Context) (State, error) {
	res, err := s.run(ctx, "status")
	var exit *script.ExitError
	if err != nil && !errors.As(err, &exit) {
		return Unknown, err
	}
	text := res.Stdout.Text()
	if odd := script.Disagreement(text, res.Code); odd != "" {
		s.lib.o.Log(Event{
			Level: "debug", Tag: managerTag,
			Classic: fmt.Sprintf("%s status: %s", s.command.Path, odd),
			Msg:     "status text and exit code disagree",
			Attrs:   []any{"resource", s.name, "code", res.Code, "running", script.Running(text)},
		})
	}
	if script.Running(text) {
		return Running, nil
	}
	return Stopped, nil
}

func (s *scriptResource) run(ctx context.Context, action string) (script.Result, error) {
	command := s.command
	command.Env = s.lib.o.Env()
	res, err := command.Run(ctx, action)
	tag := filepath.Base(command.Path)
	for _, out := range []script.Output{res.Stdout, res.Stderr} {
		for _, line := range out.Lines(scriptOutputLinesMax) {
			s.lib.o.Log(Event{
				Level: "debug", Tag: tag, Classic: line,
				Msg: "script output", Attrs: []any{"resource", s.name, "action", action, "line", line},
			})
		}
	}
	return res, err
}
