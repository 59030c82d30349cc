package node

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"heartbeat/cluster"
	"heartbeat/cluster/engine"
	"heartbeat/cluster/node/logging"
	"heartbeat/resources"
	"heartbeat/resources/script"
)

// errKilled is why a job ends early.
var errKilled = errors.New("ended by the cluster")

// turn is one job's place in the order of work on one group.
type turn struct {
	kind   cluster.JobKind
	before chan struct{} // closed when it may begin; nil when nothing was ordered for the group before
	done   chan struct{}
	ctx    context.Context
	cancel context.CancelCauseFunc

	mu             sync.Mutex
	begun, skipped bool
}

// skip takes the turn away, if it has not come yet.
func (t *turn) skip() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.skipped = !t.begun
	return t.skipped
}

// startJob runs a job in its own goroutine, which ends with the job. Its result
// comes back through the results channel, where it waits if the loop is busy.
//
// Jobs on one group run in the order in which they were ordered, whichever
// goroutine is faster; and a release ends the starts before it, so that it is
// not held up by what it is about to undo, nor by what the job that was to start
// its group does before.
func (n *Node) startJob(job cluster.Job) {
	ctx, cancel := context.WithCancelCause(context.Background())
	n.jobs[job.ID] = cancel
	turns := make([]*turn, len(job.Keys))
	if job.Kind == cluster.JobTake || job.Kind == cluster.JobGive {
		for i, key := range job.Keys {
			turns[i] = n.queueTurn(ctx, job.Kind, key)
		}
	}
	if job.Kind == cluster.JobTake && len(job.Keys) > 0 {
		for _, trouble := range n.unguarded() {
			n.log.Printf(cluster.Warn, "resources are taken without a guard: %s", trouble)
		}
	}
	var status string // this node's, which message scripts are told
	if job.Kind == cluster.JobScript {
		status = n.o.Engine.View().Local
	}
	go func() {
		defer cancel(nil)
		n.result(n.runJob(ctx, job, turns, status))
	}()
}

func (n *Node) queueTurn(ctx context.Context, kind cluster.JobKind, key string) *turn {
	t := &turn{kind: kind, done: make(chan struct{})}
	t.ctx, t.cancel = context.WithCancelCause(ctx)
	if before := n.turns[key]; before != nil {
		t.before = before.done
		if kind == cluster.JobGive && before.kind == cluster.JobTake {
			before.cancel(resources.ErrGive)
			if before.skip() {
				t.before = before.before
			}
		}
	}
	if n.turns == nil {
		n.turns = make(map[string]*turn)
	}
	n.turns[key] = t
	return t
}

// work waits for the turn and does the work.
func (t *turn) work(do func(context.Context)) {
	if t.before != nil {
		<-t.before
	}
	t.mu.Lock()
	t.begun = true
	t.mu.Unlock()
	do(t.ctx) // one that was skipped does nothing but say so, for its context has ended
	t.cancel(nil)
	close(t.done)
}

func (n *Node) result(in engine.Input) {
	select {
	case n.results <- in:
	case <-n.gone:
	}
}

func (n *Node) runJob(ctx context.Context, job cluster.Job, turns []*turn, status string) engine.JobDone {
	done := engine.JobDone{ID: job.ID}
	switch job.Kind {
	case cluster.JobAsk:
		for _, key := range job.Keys {
			done.Groups = append(done.Groups, n.actOn(ctx, job.Kind, key))
		}
	case cluster.JobTake, cluster.JobGive:
		for i, key := range job.Keys {
			turns[i].work(func(ctx context.Context) {
				done.Groups = append(done.Groups, n.actOn(ctx, job.Kind, key))
			})
		}
	case cluster.JobScript:
		if err := n.runScript(ctx, job, status); err != nil {
			done.Err = err.Error()
		}
	case cluster.JobFence:
		if err := n.fence(ctx, job.Node); err != nil {
			done.Err = err.Error()
		}
	case cluster.JobProbe:
		if n.o.Probe != nil {
			var err error
			if done.Groups, err = n.o.Probe(ctx, job.Keys); err != nil {
				done.Err = err.Error()
			}
		}
	default:
		done.Err = fmt.Sprintf("job %d is of unknown kind %d", job.ID, job.Kind)
	}
	return done
}

func (n *Node) fence(ctx context.Context, node string) error {
	if n.o.Fence == nil {
		return fmt.Errorf("reset %s: no fencing device configured", node)
	}
	return n.o.Fence(ctx, node)
}

func (n *Node) actOn(ctx context.Context, kind cluster.JobKind, key string) cluster.GroupResult {
	r := cluster.GroupResult{Key: key}
	g := n.o.Groups[key]
	var err error
	switch {
	case g == nil:
		err = fmt.Errorf("group %s is not in haresources", key)
	case kind == cluster.JobAsk:
		r.Running, err = g.FirstRunning(ctx)
	case kind == cluster.JobTake && ctx.Err() != nil:
		err = context.Cause(ctx)
	case kind == cluster.JobTake:
		err = g.Take(ctx)
		var half *resources.StartFailed
		r.Running = err == nil || errors.As(err, &half) && half.Rollback != nil
	case kind == cluster.JobGive:
		// After a failed stop it must be taken for running: the other node may
		// not start it.
		err = g.Give(ctx)
		r.Running = err != nil
	}
	if err != nil {
		r.Err = err.Error()
	}
	return r
}

// stockScripts are the rc.d scripts of heartbeat 3.0.6. What they do is done by
// the cluster and the resource groups here, so a file of these names counts as
// the administrator's only if it is not the original's.
var stockScripts = []string{"ask_resources", "hb_takeover", "ip-request", "ip-request-resp", "status"}

// stockDigests are the SHA-256 digests of those files (Debian 1:3.0.6-13).
var stockDigests = []string{
	"c152bd16f9108c8430f1d0a8f1f4615efb0f12190a56bc1e066668a4f5c19700",
	"2a867e92779ba6f0f9dc444690c9121e366466ca573a2b3d22f462d7c28b76d9",
	"ddcd7bd757af52b8d0d2fb9d5be88d28c4bce4992b61e0ecf43746f2c28f5ee6",
	"fd3a080beef9bce32a206e233813680b258b0d02d5a5cc21ba1fa1d3094e4833",
	"1f1d6edbf0dee327cca9d43a047cd9265ede139654e906531e5563217295b4a5",
}

// ownMark as one of a script's first lines says that it was installed by this
// program to stand for what is built in.
const ownMark = "# heartbeat: built in"

// stockBytesMax is more than any stock script has.
const stockBytesMax = 64 << 10

// isStockScript reports whether the file is the original's or ours. One that
// cannot be read is the administrator's.
func isStockScript(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, stockBytesMax+1))
	if err != nil || len(text) > stockBytesMax {
		return false
	}
	sum := sha256.Sum256(text)
	if slices.Contains(stockDigests, hex.EncodeToString(sum[:])) {
		return true
	}
	for i, line := range strings.SplitN(string(text), "\n", 12) {
		if i < 10 && strings.TrimSpace(line) == ownMark {
			return true
		}
	}
	return false
}

// runScript runs rc.d/TYPE for a message of that type, if there is one: in the
// environment of the original's harc, one variable per field.
func (n *Node) runScript(ctx context.Context, job cluster.Job, status string) error {
	typ := job.Title
	for _, f := range job.Message {
		if f[0] == "t" {
			typ = f[1]
		}
	}
	typ = strings.ToLower(typ)
	if typ == "" || strings.ContainsAny(typ, "/\x00") || strings.HasPrefix(typ, ".") {
		return nil // no name of a file
	}
	path := filepath.Join(n.o.Paths.Config, "rc.d", typ)
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return nil // most types have no script
	}
	if slices.Contains(stockScripts, typ) && isStockScript(path) {
		return nil
	}
	shown := n.o.Paths.Config + "//rc.d/" + typ // as the original prints it
	if info.Mode().Perm()&0o111 == 0 {
		return fmt.Errorf("run %s: not executable", shown)
	}
	n.log.Write(logging.Record{
		Level: cluster.Info, Script: "harc(default)", Word: "info:", Text: fmt.Sprintf("Running %s %s", shown, typ),
		Msg: "running script for a message", Attrs: []logging.Attr{{Key: "path", Value: path}, {Key: "type", Value: typ}},
	})
	var env []string
	if n.o.ScriptEnv != nil {
		env = slices.Clone(n.o.ScriptEnv())
	}
	env = append(env, "HA_OSTATUS="+status)
	for _, f := range job.Message {
		if validName(f[0]) {
			env = append(env, "HA_"+f[0]+"="+strings.ReplaceAll(f[1], "\x00", ""))
		}
	}
	command := script.Command{Path: path, Env: env, Dir: filepath.Join(n.o.Paths.State, "cores", "root")}
	ctx, cancel := context.WithTimeoutCause(ctx, messageScriptLimit, errMessageScript)
	defer cancel()
	res, err := command.Run(ctx, typ)
	for _, out := range []script.Output{res.Stdout, res.Stderr} {
		for _, line := range out.Lines(scriptLinesMax) {
			n.log.Write(logging.Record{Level: cluster.Debug, Script: typ + "(default)", Text: line, Msg: "script output"})
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", shown, err)
	}
	return nil
}

// messageScriptLimit is how long a message's script may run. The original sets
// no limit; the scripts of later messages wait for it.
const messageScriptLimit = 10 * time.Minute

var errMessageScript = fmt.Errorf("it ran longer than %v", messageScriptLimit)

// scriptLinesMax bounds what one script adds to the debug log.
const scriptLinesMax = 40

// validName keeps odd field names of received messages out of environments.
func validName(name string) bool {
	for i, c := range []byte(name) {
		letter := c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return name != ""
}
