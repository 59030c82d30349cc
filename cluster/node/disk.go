package node

import (
	"fmt"
	"path/filepath"
	"time"

	"heartbeat/cluster"
	"heartbeat/cluster/engine"
	"heartbeat/cluster/node/logging"
)

// historyQueue bounds the events that wait for the disk.
const historyQueue = 64

// persistRetry is the pause after a write that failed; the engine's rule is
// that nothing behind it happens before it is durable, so it is tried until it
// works, and the log says so at first and every minute.
const persistRetry = time.Second

// persist makes p durable in a goroutine of its own; at most one runs.
func (n *Node) persist(p engine.Persist, after time.Duration) {
	path := filepath.Join(n.o.Paths.State, filepath.Base(p.Name))
	go func() { // ends when the disk answers
		if after > 0 {
			select {
			case <-time.After(after):
			case <-n.gone:
				return
			}
		}
		err := writeDurable(path, p.Data, 0o600)
		select {
		case n.durable <- err:
		case <-n.gone:
		}
	}()
}

// persisted carries out what waited, up to the next Persist among it.
func (n *Node) persisted(err error) {
	p := n.waiting
	if err != nil {
		n.persistFailures++
		if n.persistFailures%60 == 1 {
			n.log.Write(logging.Record{
				Level: cluster.Error, Msg: "cannot store state", Attrs: []logging.Attr{{Key: "name", Value: p.Name}, {Key: "err", Value: err}},
				Text: fmt.Sprintf("cannot store %s: %v; everything but keepalives waits for it", p.Name, err),
			})
		}
		n.persist(*p, persistRetry)
		return
	}
	n.persistFailures = 0
	n.waiting = nil
	held := n.held
	n.held = nil
	if n.heldLost > 0 {
		n.log.Printf(cluster.Warn, "%d messages were dropped while %s could not be stored", n.heldLost, p.Name)
		n.heldLost = 0
	}
	n.carry(n.clock.now(), held)
}

// writeHistory writes events to the history file until the node ends.
func (n *Node) writeHistory(f *HistoryFile) {
	failed := false
	for {
		select {
		case e := <-n.disk:
			err := f.append(e)
			if err != nil && !failed {
				n.log.Printf(cluster.Warn, "history is kept in memory only: %v", err)
			}
			failed = err != nil
		case <-n.gone:
			return
		}
	}
}
