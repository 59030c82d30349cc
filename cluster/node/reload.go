package node

import (
	"context"
	"fmt"
	"time"

	"heartbeat/cluster"
	"heartbeat/cluster/control"
	"heartbeat/cluster/engine"
)

// reexecWish is a replacement of the process that waits for quiet.
type reexecWish struct {
	wanted bool
	told   bool
	// asked are those who wait for it. They hear of a failure only: with a
	// success their connections end, and the successor answers.
	asked []chan error
}

// Reload does what SIGHUP means: a changed ha.cf makes the process replace
// itself in place, changed keys are taken up at once, otherwise nothing has
// changed. With force it replaces itself in any case. An unusable new
// configuration leaves the running one in force. say gets each step. It does not
// return when the process was replaced; until then it waits for what runs.
func (n *Node) Reload(ctx context.Context, force bool, from string, say func(string)) error {
	n.log.Reopen()
	if n.o.Reload == nil {
		return fmt.Errorf("this node cannot reload its configuration")
	}
	n.o.Notifier.Reloading(time.Duration(n.clock.now()) + n.o.Origin)
	defer n.o.Notifier.Ready()
	change := n.o.Reload(force)
	if change.Err != nil {
		n.log.Printf(cluster.Error, "Configuration not reloaded, the running one stays in force: %v", change.Err)
		return fmt.Errorf("the running configuration stays in force: %w", change.Err)
	}
	switch {
	case change.Reexec:
		n.log.Printf(cluster.Info, "Restarting heartbeat.")
		say("the configuration is valid; heartbeat replaces itself and keeps what it holds")
		failed := make(chan error, 1)
		err := n.call(ctx, func() {
			n.record(control.Event{At: time.Now().Round(0), Kind: "daemon", Text: "replaces itself in place", Reason: "asked by " + from})
			n.reexec = reexecWish{wanted: true, asked: append(n.reexec.asked, failed)}
		})
		if err != nil {
			return err
		}
		select {
		case err := <-failed:
			return err
		case <-ctx.Done():
			return ctx.Err()
		case <-n.gone:
			return ErrGone
		}
	case change.Keys != nil:
		say("the keys are re-read")
		return n.call(ctx, func() {
			n.record(control.Event{At: time.Now().Round(0), Kind: "daemon", Text: "takes up new keys", Reason: "asked by " + from})
			n.step(engine.NewKeys{Keys: *change.Keys})
		})
	}
	n.log.Printf(cluster.Info, "Configuration unchanged.")
	say("the configuration is unchanged")
	return nil
}

// maybeReexec ends the loop for a replacement of the process once no job runs,
// nothing waits for the disk and every received packet has been stepped.
func (n *Node) maybeReexec() {
	if !n.reexec.wanted || n.outcome != nil {
		return
	}
	if len(n.jobs) > 0 || n.waiting != nil {
		if !n.reexec.told {
			n.reexec.told = true
			n.log.Printf(cluster.Info, "The restart waits for the end of %d jobs", len(n.jobs))
		}
		return
	}
	n.drain(0)
	if len(n.jobs) > 0 || n.waiting != nil || n.outcome != nil {
		return
	}
	n.reexec.wanted = false
	snapshot, err := n.o.Engine.Snapshot()
	if err != nil {
		n.Stay(fmt.Errorf("restart in place: %w", err))
		return
	}
	n.outcome = &Outcome{Snapshot: snapshot}
}

// Stay tells the log, and those who asked for it, why the process was not
// replaced. Between two calls of Run, with the same node.
func (n *Node) Stay(err error) {
	n.log.Printf(cluster.Error, "%v; going on as before", err)
	for _, failed := range n.reexec.asked {
		failed <- fmt.Errorf("heartbeat goes on as before: %w", err)
	}
	n.reexec.asked = nil
}
