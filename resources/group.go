package resources

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"time"

	"heartbeat/resources/script"
)

// managerTag is the tag under which the original's ResourceManager logs.
const managerTag = "ResourceManager(default)"

// Group is one line of haresources: resources that start left to right and stop
// right to left. Its methods run one at a time; Give ends a Take that is under
// way.
type Group struct {
	lib     *Library
	node    string
	entries []string

	// turn holds one token: whoever has it may act on the group.
	turn chan struct{}
	// taken is what Take used, so that Give stops the same things even if files
	// changed in between; nil when not taken. Guarded by turn.
	taken []*member

	mu         sync.Mutex
	cancelTake context.CancelCauseFunc // of the Take under way, or nil
	giving     int                     // Gives that wait for their turn
}

// Group makes the group of one line: the node's name and the entries as written.
func (l *Library) Group(node string, entries []string) *Group {
	return &Group{lib: l, node: node, entries: entries, turn: make(chan struct{}, 1)}
}

// Key is the group's first entry, by which the cluster names it.
func (g *Group) Key() string {
	if len(g.entries) == 0 {
		return ""
	}
	return g.entries[0]
}

func (g *Group) lock(ctx context.Context) error {
	select {
	case g.turn <- struct{}{}:
		return nil
	default:
	}
	select {
	case g.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("group %s is busy: %w", g.Key(), context.Cause(ctx))
	}
}

func (g *Group) unlock() { <-g.turn }

// Take starts the group's resources left to right. One that runs already is left
// alone. The first that cannot be started makes everything of the group stop
// again, right to left, and a *StartFailed is returned. A Take whose context ends,
// or that a Give ends, returns *Interrupted and stops nothing.
func (g *Group) Take(ctx context.Context) error {
	if err := g.lock(ctx); err != nil {
		return err
	}
	defer g.unlock()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	g.mu.Lock()
	if g.giving > 0 {
		cancel(ErrGive)
	}
	g.cancelTake = cancel
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		g.cancelTake = nil
		g.mu.Unlock()
	}()

	g.manager("info", fmt.Sprintf("Acquiring resource group: %s %s", g.node, strings.Join(g.entries, " ")), "acquiring resource group")
	// Taken from here on: whatever happens now, something may run.
	members, resolveErr := g.resolve()
	g.taken = members
	for rest := members; len(rest) > 0; {
		if ctx.Err() != nil {
			return &Interrupted{g.Key(), rest[0].entry, context.Cause(ctx)}
		}
		run := firstRun(rest)
		rest = rest[len(run):]
		for i, err := range g.start(ctx, run) {
			if err != nil {
				return g.notTaken(ctx, run[i].entry, err)
			}
		}
	}
	switch {
	case resolveErr == nil:
		return nil
	case ctx.Err() != nil:
		return &Interrupted{g.Key(), g.entries[len(members)], context.Cause(ctx)}
	}
	return g.notTaken(ctx, g.entries[len(members)], resolveErr)
}

// notTaken is the end of a Take of which an entry could not be started: released
// again, unless it was interrupted.
func (g *Group) notTaken(ctx context.Context, entry string, err error) error {
	if ctx.Err() != nil {
		return &Interrupted{g.Key(), entry, err}
	}
	g.manager("CRIT", "Giving up resources due to failure of "+entry, "giving up resources: a start failed", "resource", entry, "err", err)
	// The rollback is a release: it does not stop for the caller's haste.
	return &StartFailed{g.Key(), entry, err, g.giveAll(context.WithoutCancel(ctx))}
}

const (
	// batchMax is how many resources a Batch gets at a time: each time has the limit
	// of a single action.
	batchMax = 512
	// linesAtOnce are logged without letting others run: the log's queue is bounded
	// too, and on one processor its writer would not be heard.
	linesAtOnce = 256
)

// firstRun is the first member, with those right of it that can go together with it.
func firstRun(members []*member) []*member {
	n := 1
	for n < min(len(members), batchMax) && together(members[0], members[n]) {
		n++
	}
	return members[:n]
}

// lastRun is the last member, with those left of it that can go together with it,
// in reverse.
func lastRun(members []*member) []*member {
	last := len(members) - 1
	run := []*member{members[last]}
	for i := last - 1; i >= 0 && len(run) < batchMax && together(members[last], members[i]); i-- {
		run = append(run, members[i])
	}
	return run
}

func together(a, b *member) bool {
	return a != nil && b != nil && a.batch != nil && a.batch == b.batch
}

// resolve looks all entries up, in order, until the first that cannot be.
func (g *Group) resolve() ([]*member, error) {
	members := make([]*member, 0, len(g.entries))
	look := g.lib.newLook()
	for i, entry := range g.entries {
		m, err := g.memberAt(look, i)
		if err != nil {
			g.cannotUse(entry, err)
			return members, err
		}
		members = append(members, m)
	}
	return members, nil
}

func (g *Group) cannotUse(entry string, err error) {
	var notFound *script.NotFoundError
	text := err.Error()
	if errors.As(err, &notFound) {
		text = "Cannot locate resource script " + notFound.Script
	}
	g.manager("ERROR", text, "cannot use resource", "resource", entry, "err", err)
}

// start starts a run of resources. One whose status says that it runs is left
// alone. Built-in types are not asked first: their Start finds that out cheaper.
func (g *Group) start(ctx context.Context, run []*member) []error {
	if m := run[0]; !m.builtin() {
		state, err := g.status(ctx, m)
		if err != nil {
			if ctx.Err() != nil {
				return []error{err}
			}
			// The original takes an unusable status for "not running".
			g.manager("WARN", fmt.Sprintf("status of %s: %v", m.entry, err), "status failed before start", "resource", m.entry, "err", err)
		}
		if state == Running {
			return nil
		}
	}
	return g.act(ctx, run, "start", g.budget(run[0], g.lib.o.Budgets.Start))
}

// act starts or stops a run of resources, with its lines in the log, its time limit
// and the warning before that. The lines about many come when it is done: the log's
// writer would take the processor while addresses wait.
func (g *Group) act(ctx context.Context, run []*member, action string, limit time.Duration) []error {
	alone := len(run) == 1
	if alone {
		g.logCall(run[0], action)
	}
	var errs []error
	_ = g.bounded(ctx, run[0], action, limit, func(ctx context.Context) error {
		errs = perform(ctx, run, action)
		return nil
	})
	for i, m := range run {
		if !alone {
			g.logCall(m, action)
		}
		g.logResult(m, action, errs[i])
		if i%linesAtOnce == linesAtOnce-1 {
			runtime.Gosched()
		}
	}
	return errs
}

func (g *Group) logCall(m *member, action string) {
	g.manager("info", "Running "+call(m.path, m.args, action), "running resource action", "resource", m.entry, "action", action)
}

func perform(ctx context.Context, run []*member, action string) []error {
	if len(run) == 1 {
		if action == "start" {
			return []error{run[0].Start(ctx)}
		}
		return []error{run[0].Stop(ctx)}
	}
	list := make([]Resource, len(run))
	for i, m := range run {
		list[i] = m.Resource
	}
	if action == "start" {
		return run[0].batch.StartAll(ctx, list)
	}
	return run[0].batch.StopAll(ctx, list)
}

func (g *Group) logResult(m *member, action string, err error) {
	if err == nil {
		if m.builtin() {
			g.lib.o.Log(Event{Level: "INFO", Tag: m.agent, Classic: " Success", Msg: "resource action done", Attrs: []any{"resource", m.entry, "action", action}})
		}
		return
	}
	code := 1
	var exit *script.ExitError
	if errors.As(err, &exit) {
		code = exit.Code
	}
	if m.builtin() {
		g.lib.o.Log(Event{Level: "ERROR", Tag: m.agent, Classic: " " + err.Error(), Msg: "resource action failed", Attrs: []any{"resource", m.entry, "action", action, "err", err}})
	}
	g.manager("ERROR", fmt.Sprintf("Return code %d from %s", code, m.path), "resource action failed", "resource", m.entry, "action", action, "code", code, "err", err)
}

func call(path, args, action string) string {
	if args == "" {
		return path + " " + action
	}
	return path + " " + args + " " + action
}

func (g *Group) budget(m *member, forScript time.Duration) time.Duration {
	if m.builtin() {
		return g.lib.o.Budgets.BuiltIn
	}
	return forScript
}

func (g *Group) bounded(ctx context.Context, m *member, action string, limit time.Duration, do func(context.Context) error) error {
	if limit <= 0 {
		return do(ctx)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, &overBudget{limit})
	defer cancel()
	slow := time.AfterFunc(limit/warnShare, func() {
		g.manager("WARN", fmt.Sprintf("%s has been running for %v, its limit is %v", call(m.path, m.args, action), limit/warnShare, limit),
			"resource action is slow", "resource", m.entry, "action", action, "limit", limit)
	})
	defer slow.Stop()
	return do(ctx)
}

func (g *Group) status(ctx context.Context, m *member) (State, error) {
	var state State
	err := g.bounded(ctx, m, "status", g.budget(m, g.lib.o.Budgets.Status), func(ctx context.Context) (err error) {
		state, err = m.Status(ctx)
		return err
	})
	if err == nil && m.builtin() {
		text := " Resource is stopped"
		if state == Running {
			text = " Running OK"
		}
		g.lib.o.Log(Event{Level: "INFO", Tag: m.agent, Classic: text, Msg: "resource status", Attrs: []any{"resource", m.entry, "state", state}})
	}
	return state, err
}

// Give stops the group's resources right to left, each of them, running or not. A
// failed stop is repeated. When one may still run after that, Give returns
// *StopFailed and leaves those to its left as they are (but for those of the same
// Batch, which were stopped together with it). The original reboots the
// node here; that decision is the caller's. nil means that nothing of the group
// runs here.
func (g *Group) Give(ctx context.Context) error {
	g.mu.Lock()
	g.giving++
	if g.cancelTake != nil {
		g.cancelTake(ErrGive)
	}
	g.mu.Unlock()
	err := g.lock(ctx)
	// With the turn in hand no Take is under way, and the next one may run again.
	g.mu.Lock()
	g.giving--
	g.mu.Unlock()
	if err != nil {
		return &StopFailed{g.Key(), g.Key(), err}
	}
	defer g.unlock()
	return g.giveAll(ctx)
}

// giveAll is Give for whoever has the turn.
func (g *Group) giveAll(ctx context.Context) error {
	g.manager("info", fmt.Sprintf("Releasing resource group: %s %s", g.node, strings.Join(g.entries, " ")), "releasing resource group")
	for members := g.present(); len(members) > 0; {
		run := lastRun(members)
		members = members[:len(members)-len(run)]
		if run[0] == nil {
			continue
		}
		if m, err := g.stop(ctx, run); err != nil {
			return &StopFailed{g.Key(), m.entry, err}
		}
	}
	g.taken = nil
	return nil
}

// present is what Take used, or else what is there now; nil where an entry was not
// started by us, and is not to be found or understood: the original logs that and
// goes on.
func (g *Group) present() []*member {
	members := make([]*member, len(g.entries))
	look := g.lib.newLook()
	for i := len(g.entries) - 1; i >= 0; i-- {
		m, err := g.memberAt(look, i)
		if err != nil {
			g.cannotUse(g.entries[i], err)
			continue
		}
		members[i] = m
	}
	return members
}

// memberAt is the resource that Take used, or else the one that is there now.
func (g *Group) memberAt(look look, i int) (*member, error) {
	if i < len(g.taken) {
		return g.taken[i], nil
	}
	return look.lookup(g.entries[i])
}

// stop stops a run of resources, with retries, until they are known not to run;
// else it says which one may.
func (g *Group) stop(ctx context.Context, run []*member) (*member, error) {
	limit := g.budget(run[0], g.lib.o.Budgets.Stop)
	stopCtx := ctx
	if limit > 0 {
		var cancel context.CancelFunc
		stopCtx, cancel = context.WithTimeoutCause(ctx, limit, &overBudget{limit})
		defer cancel()
	}
	for i, err := range g.act(stopCtx, run, "stop", limit) {
		if err == nil {
			continue
		}
		m := run[i]
		if err = g.stopAgain(stopCtx, m, limit, err); err == nil {
			continue
		}
		// A built-in's failed stop has looked at the kernel already.
		if ctx.Err() == nil && !m.builtin() {
			err = g.stoppedAfterAll(ctx, m, err)
		}
		if err != nil {
			return m, err
		}
	}
	return nil, nil
}

// stopAgain repeats a stop that ended with err.
func (g *Group) stopAgain(ctx context.Context, m *member, limit time.Duration, err error) error {
	for retries := 0; err != nil && retries != g.lib.o.StopRetries && pause(ctx, stopRetryPause); retries++ {
		g.manager("info", "Retrying failed stop operation ["+m.entry+"]", "retrying failed stop", "resource", m.entry, "retry", retries+1)
		err = g.act(ctx, []*member{m}, "stop", limit)[0]
	}
	return err
}

// stoppedAfterAll asks a script whose stop ended with err what it is now.
func (g *Group) stoppedAfterAll(ctx context.Context, m *member, err error) error {
	state, statusErr := g.status(ctx, m)
	switch {
	case statusErr != nil:
		return fmt.Errorf("%w (and its state is unknown: %w)", err, statusErr)
	case state != Stopped:
		return fmt.Errorf("%w (and it is still %v)", err, state)
	}
	g.manager("ERROR", "Resource script for "+m.entry+" probably not LSB-compliant.", "stop failed, but the resource is stopped", "resource", m.entry, "err", err)
	g.manager("WARN", "it ("+m.entry+") MUST succeed on a stop when already stopped", "stop of a stopped resource must succeed", "resource", m.entry)
	return nil
}

// pause reports whether it lasted d.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// FirstRunning answers the original's req_resource: does the group's first
// resource run here?
func (g *Group) FirstRunning(ctx context.Context) (bool, error) {
	if len(g.entries) == 0 {
		return false, nil
	}
	if err := g.lock(ctx); err != nil {
		return false, err
	}
	defer g.unlock()
	return g.runs(ctx, g.lib.newLook(), 0)
}

func (g *Group) runs(ctx context.Context, look look, i int) (bool, error) {
	m, err := g.memberAt(look, i)
	if err != nil {
		return false, err
	}
	state, err := g.status(ctx, m)
	return state == Running, err
}

// Keep tells the group's resources that they run here, started by an earlier process;
// see [Keeper].
func (g *Group) Keep(ctx context.Context, watched bool) error {
	if err := g.lock(ctx); err != nil {
		return err
	}
	defer g.unlock()
	var errs []error
	look := g.lib.newLook()
	for i, entry := range g.entries {
		m, err := g.memberAt(look, i)
		if err == nil {
			if k, ok := m.Resource.(Keeper); ok {
				err = k.Keep(ctx, watched)
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("keep %s: %w", entry, err))
		}
	}
	return errors.Join(errs...)
}

// Resources are the group's resources, left to right, without those that cannot be
// found or understood.
func (g *Group) Resources(ctx context.Context) ([]Resource, error) {
	if err := g.lock(ctx); err != nil {
		return nil, err
	}
	defer g.unlock()
	var list []Resource
	look := g.lib.newLook()
	for i := range g.entries {
		if m, err := g.memberAt(look, i); err == nil {
			list = append(list, m.Resource)
		}
	}
	return list, nil
}

// Status counts the group's running resources. It changes nothing. A resource
// whose state cannot be told is not counted, and the error says which.
func (g *Group) Status(ctx context.Context) (running, total int, err error) {
	if err := g.lock(ctx); err != nil {
		return 0, len(g.entries), err
	}
	defer g.unlock()
	var errs []error
	look := g.lib.newLook()
	for i, entry := range g.entries {
		runs, err := g.runs(ctx, look, i)
		if err != nil {
			errs = append(errs, fmt.Errorf("status of %s: %w", entry, err))
		}
		if runs {
			running++
		}
	}
	return running, len(g.entries), errors.Join(errs...)
}

func (g *Group) manager(level, classic, msg string, attrs ...any) {
	g.lib.o.Log(Event{
		Level: level, Tag: managerTag, Classic: classic, Msg: msg,
		Attrs: append([]any{"node", g.node, "group", g.Key()}, attrs...),
	})
}
