package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"heartbeat/cluster"
	"heartbeat/cluster/config"
	"heartbeat/resources"
	"heartbeat/resources/ipaddr"
	"heartbeat/resources/script"
)

const (
	// notRunning is LSB's code for the status of a stopped resource.
	notRunning = 3
	// standbyDelay passes between a failed takegroup and the standby that moves
	// the group elsewhere.
	standbyDelay = 30 * time.Second
	// announceInterval is the pause between the announcements of an address
	// that takegroup took: short, because this program waits for them.
	announceInterval = 100 * time.Millisecond
)

// manager is one run of ResourceManager, req_resource or mach_down: what people
// and their rc.d scripts call. The daemon does the same by itself.
type manager struct {
	*invocation
	self   string
	groups []cluster.Group
	lib    *resources.Library
	toml   config.TOML
}

// newManager reads the files. Problems in them are the business of "hbctl
// check": what could be read is what there is.
func newManager(v *invocation) *manager {
	dir := configDir()
	cfg, _ := config.Parse(config.ReadFiles(dir))
	m := &manager{invocation: v, groups: cfg.Groups, toml: cfg.TOML}
	m.self = strings.ToLower(os.Getenv("HA_CURHOST"))
	if m.self == "" {
		m.self = strings.ToLower(config.OSHost{}.NodeName())
	}
	scripts := os.Getenv("HA_RESOURCEDIR")
	if scripts == "" {
		scripts = filepath.Join(dir, "resource.d")
	}
	m.lib = resources.NewLibrary(resources.Options{
		ResourceDir: scripts,
		InitDir:     "/etc/init.d",
		Builtin: ipaddr.New(ipaddr.Options{
			Announce: ipaddr.Announce{Burst: m.toml.Announce.Burst, Interval: announceInterval},
			Log:      m.event,
		}).Factories(),
		Env: func() []string {
			return []string{"HA_DIR=" + dir, "HA_FUNCS=" + filepath.Join(dir, "shellfuncs"), "HA_RESOURCEDIR=" + scripts, "HA_CURHOST=" + m.self}
		},
		Budgets: resources.Budgets{
			Start: time.Duration(m.toml.Scripts.Start), Stop: time.Duration(m.toml.Scripts.Stop), Status: time.Duration(m.toml.Scripts.Status),
		},
		StopRetries: stopRetries(),
		Log:         m.event,
	})
	return m
}

// stopRetries is HA_STOPRETRYMAX in the library's terms: unset is its default,
// and 0 or less is without end for the original, until the time limit for us.
func stopRetries() int {
	n, err := strconv.Atoi(os.Getenv("HA_STOPRETRYMAX"))
	switch {
	case err != nil:
		return 0
	case n <= 0:
		return -1
	}
	return n
}

// event writes a line of the resource library.
func (m *manager) event(e resources.Event) {
	if e.Level != "debug" {
		m.log(e.Level + ": " + e.Classic)
	}
}

// log writes a line to the log files that the daemon's environment names, else
// to stderr.
func (m *manager) log(text string) {
	line := fmt.Sprintf("%s(default)[%d]:\t%s %s\n", m.name(), os.Getpid(), time.Now().Format("2006/01/02_15:04:05"), text)
	written := false
	for _, path := range []string{os.Getenv("HA_LOGFILE"), os.Getenv("HA_DEBUGLOG")} {
		if path == "" {
			continue
		}
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
		if err != nil {
			continue
		}
		_, err = f.WriteString(line)
		f.Close()
		written = written || err == nil
	}
	if !written {
		fmt.Fprintln(m.stderr, text)
	}
}

// holding are the groups one of whose resources is key.
func (m *manager) holding(key string) []cluster.Group {
	var found []cluster.Group
	for _, g := range m.groups {
		if slices.Contains(g.Resources, key) {
			found = append(found, g)
		}
	}
	return found
}

// resourceManager is ResourceManager.
func resourceManager(ctx context.Context, v *invocation) int {
	sub, arg := "", ""
	if len(v.args) > 0 {
		sub = v.args[0]
	}
	if len(v.args) > 1 {
		// The daemon of old gave whole lines; only the first word counted.
		arg, _, _ = strings.Cut(v.args[1], " ")
	}
	m := newManager(v)
	switch sub {
	case "listkeys":
		return m.listKeys(arg)
	case "allkeys":
		return m.listKeys(".*")
	case "ourkeys":
		return m.lines(func(g cluster.Group) bool { return g.Node == m.self })
	case "otherkeys":
		return m.lines(func(g cluster.Group) bool { return g.Node != m.self })
	case "status":
		return m.status(ctx, arg)
	case "takegroup":
		return m.takeGroup(ctx, arg)
	case "givegroup":
		return m.giveGroup(ctx, arg)
	case "statgroup":
		return m.statGroup(ctx, arg)
	case "verifyallidle":
		return m.verifyAllIdle(ctx)
	}
	fmt.Fprintf(v.stderr, "usage: %s listkeys machine | takegroup key | givegroup key|status resource\n\n", v.argv0)
	return 1
}

// keysOf are the keys of the groups whose node matches an expression.
func (m *manager) keysOf(node string) ([]string, error) {
	re, err := regexp.Compile("(?i)^(?:" + node + ") ")
	if err != nil {
		return nil, err
	}
	var keys []string
	for _, g := range m.groups {
		if re.MatchString(g.Node + " " + strings.Join(g.Resources, " ") + " ") {
			keys = append(keys, g.Key)
		}
	}
	return keys, nil
}

func (m *manager) listKeys(node string) int {
	keys, err := m.keysOf(node)
	if err != nil {
		fmt.Fprintf(m.stderr, "%s: %v\n", m.argv0, err)
		return 1
	}
	for _, key := range keys {
		fmt.Fprintln(m.stdout, key)
	}
	return 0
}

// lines prints all resources of the wanted groups, a blank behind each.
func (m *manager) lines(wanted func(cluster.Group) bool) int {
	for _, g := range m.groups {
		if wanted(g) {
			fmt.Fprintln(m.stdout, strings.Join(g.Resources, " ")+" ")
		}
	}
	return 0
}

// runs reports whether a resource runs; one that cannot be asked does not.
func (m *manager) runs(ctx context.Context, entry string) bool {
	running, err := m.lib.Group(m.self, []string{entry}).FirstRunning(ctx)
	if notFound, ok := errors.AsType[*script.NotFoundError](err); ok {
		m.log("ERROR: Cannot locate resource script " + notFound.Script)
	} else if err != nil {
		m.log("ERROR: status of " + entry + ": " + err.Error())
	}
	return running
}

func (m *manager) status(ctx context.Context, entry string) int {
	if m.runs(ctx, entry) {
		return 0
	}
	return notRunning
}

func (m *manager) takeGroup(ctx context.Context, key string) int {
	code := 0
	for _, g := range m.holding(key) {
		err := m.lib.Group(g.Node, g.Resources).Take(ctx)
		if err == nil {
			continue
		}
		m.log("ERROR: " + err.Error())
		code = scriptCode(err)
		if _, ok := errors.AsType[*resources.StartFailed](err); ok {
			m.standbyLater(g)
		}
	}
	if code == 0 && m.toml.Announce.Burst > 1 {
		// Announcements end with this process.
		wait := time.NewTimer(time.Duration(m.toml.Announce.Burst-1) * announceInterval)
		defer wait.Stop()
		select {
		case <-wait.C:
		case <-ctx.Done():
		}
	}
	return code
}

// scriptCode is the exit code of the script behind err, 1 when there was none.
func scriptCode(err error) int {
	if exit, ok := errors.AsType[*script.ExitError](err); ok && exit.Code > 0 && exit.Code < 256 {
		return exit.Code
	}
	return 1
}

// standbyLater leaves a process behind that gives the group's side away after
// standbyDelay: what failed here may start on the other node.
func (m *manager) standbyLater(g cluster.Group) {
	set := "foreign"
	if g.Node == m.self {
		set = "local"
	}
	program := "hb_standby" // beside this one, or found as this one was
	if strings.Contains(m.argv0, "/") {
		program = filepath.Join(filepath.Dir(m.argv0), program)
	}
	cmd := exec.Command("/bin/sh", "-c", `sleep "$1"; exec "$2" "$3"`, "sh", fmt.Sprint(standbyDelay.Seconds()), program, set)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		m.log("ERROR: cannot order standby: " + err.Error())
	}
}

// giveGroup does not reboot the node when a stop fails, as the original does:
// that is the daemon's decision.
func (m *manager) giveGroup(ctx context.Context, key string) int {
	code := 0
	for _, g := range m.holding(key) {
		if err := m.lib.Group(g.Node, g.Resources).Give(ctx); err != nil {
			m.log("CRIT: Resource STOP failure. Reboot required!")
			m.log("ERROR: " + err.Error())
			code = scriptCode(err)
		}
	}
	return code
}

// statGroup says NONE, SOME or ALL where the original does: into the debug log,
// and to stdout only without one.
func (m *manager) statGroup(ctx context.Context, key string) int {
	running, total := 0, 0
	for _, g := range m.holding(key) {
		r, n, err := m.lib.Group(g.Node, g.Resources).Status(ctx)
		if err != nil {
			m.log("ERROR: " + err.Error())
		}
		running += r
		total += n
	}
	word := "SOME"
	switch running {
	case 0:
		word = "NONE"
	case total:
		word = "ALL"
	}
	if path := os.Getenv("HA_DEBUGLOG"); path != "" {
		if f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644); err == nil {
			defer f.Close()
			fmt.Fprintln(f, word)
			return 0
		}
	}
	fmt.Fprintln(m.stdout, word)
	return 0
}

// verifyAllIdle complains about groups that run before the daemon does.
func (m *manager) verifyAllIdle(ctx context.Context) int {
	active := 0
	for _, g := range m.groups {
		if !m.runs(ctx, g.Key) {
			continue
		}
		active++
		fmt.Fprintf(m.stderr, "CRITICAL: Resource %s is active, and should not be!\n"+
			"CRITICAL: Non-idle resources can affect data integrity!\n"+
			"info: If you don't know what this means, then get help!\n"+
			"info: Read the docs and/or the source to %s for more details.\n", g.Key, m.argv0)
	}
	return min(active, 255)
}

// requestResource is req_resource: unless the resource runs here, it asks the
// other node for it, or with HA_NICEFAILBACK pretends that the answer was yes.
func requestResource(ctx context.Context, v *invocation) int {
	if len(v.args) == 0 {
		fmt.Fprintf(v.stderr, "usage: %s resource\n", v.argv0)
		return 1
	}
	m := newManager(v)
	entry := v.args[0]
	if m.runs(ctx, entry) {
		return 0
	}
	if os.Getenv("HA_NICEFAILBACK") == "yes" || os.Getenv("HA_DONTASK") == "yes" {
		return m.message("t=ip-request-resp", "dest="+m.self, "ipaddr="+entry, "weown=yes", "ok=OK")
	}
	return m.message("t=ip-request", "ipaddr="+entry)
}

// machDown is mach_down: it takes the groups of a node that is dead.
func machDown(ctx context.Context, v *invocation) int {
	if len(v.args) == 0 {
		fmt.Fprintf(v.stderr, "usage: %s node\n", v.argv0)
		return 1
	}
	m := newManager(v)
	node := strings.ToLower(v.args[0])
	if node == m.self || strings.Contains(os.Getenv("HA_info"), "ping") {
		return 0
	}
	keys, err := m.keysOf(regexp.QuoteMeta(node))
	if err != nil {
		fmt.Fprintf(v.stderr, "%s: %v\n", v.argv0, err)
		return 1
	}
	for _, key := range keys {
		m.log("info: Taking over resource group " + key)
		m.takeGroup(ctx, key)
	}
	code := 0
	if strings.EqualFold(os.Getenv("HA_NICEFAILBACK"), "yes") {
		m.log("info: " + v.argv0 + ": nice_failback: foreign resources acquired")
		code = m.message("t=resource", "rsc_hold=foreign", "info=mach_down")
	}
	m.log("info: mach_down takeover complete for node " + node + ".")
	return code
}
