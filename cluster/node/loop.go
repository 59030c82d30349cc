package node

import (
	"errors"
	"fmt"
	"runtime"
	"time"

	"heartbeat/cluster"
	"heartbeat/cluster/control"
	"heartbeat/cluster/engine"
	"heartbeat/cluster/node/logging"
)

const (
	// settleAfter is the lateness of a wake-up from which on the readers may
	// be as late as the loop: they get a chance before the wake-up is stepped.
	settleAfter = 3 * time.Millisecond
	// settleQuiet is how long no packet must come for the sockets to count as
	// empty; settleMax bounds the wait.
	settleQuiet = time.Millisecond
	settleMax   = 20 * time.Millisecond
)

// Start starts the readers of the media and of the FIFO, if there is one, and
// the writer of the history.
func (n *Node) Start(fifo *FIFO, disk *HistoryFile) {
	for _, m := range n.media {
		n.workers.Go(func() { n.receive(m) }) // ends when the medium is closed
	}
	if fifo != nil {
		n.fifo = fifo
		n.workers.Go(func() { n.readFIFO(fifo) }) // ends when the FIFO is closed
	}
	if disk != nil {
		n.history = history{append([]control.Event(nil), disk.kept.events...)}
		go n.writeHistory(disk) // ends with the node
	}
}

// Run is the loop. It returns when the engine ends the node or when the
// process shall replace itself; in the latter case it may be called again.
func (n *Node) Run() Outcome {
	n.outcome = nil
	for n.outcome == nil {
		n.arm()
		select {
		case p := <-n.packets:
			n.arrived(p)
		case in := <-n.results:
			n.arrived()
			if n.outcome != nil {
				break
			}
			if done, ok := in.(engine.JobDone); ok {
				delete(n.jobs, done.ID)
			}
			n.step(in)
		case f := <-n.calls:
			n.arrived()
			f()
		case err := <-n.durable:
			n.persisted(err)
		case <-n.timer.C():
			n.armedOK = false
			n.tick()
		}
		n.letWait()
		n.maybeReexec()
	}
	return *n.outcome
}

// End ends the programs, closes the media and the FIFO and ends what Start
// started. Nothing can be asked of the node any more.
func (n *Node) End() {
	n.o.Programs.Stop()
	close(n.gone)
	if n.fifo != nil {
		_ = n.fifo.Close() // a reader that fails because of it ends too
	}
	for _, m := range n.media {
		_ = m.Close() // nothing can be lost by it
	}
	n.workers.Wait()
}

// arm sets the timer for what is due first.
func (n *Node) arm() {
	at, ok := n.o.Engine.Deadline()
	if feed, due := n.o.Notifier.next(); due && (!ok || cluster.Instant(feed) < at) {
		at, ok = cluster.Instant(feed), true
	}
	if len(n.floods.kinds) > 0 {
		if due := n.floods.next(); !ok || due < at {
			at, ok = due, true
		}
	}
	if !ok {
		n.timer.Stop()
		n.armedOK = false
		return
	}
	if n.armedOK && at == n.armed {
		return
	}
	n.armed, n.armedOK = at, true
	n.timer.Reset(at.Sub(n.clock.now()))
}

// tick is a wake-up by the timer.
func (n *Node) tick() {
	now := n.clock.now()
	due, ok := n.o.Engine.Deadline()
	if ok && due <= now {
		late := time.Duration(0)
		if due > 0 { // the first wake-up has no time at which it is due
			late = now.Sub(due)
		}
		n.noteLateness(now, late)
		if !n.mayLeave(now, late) {
			n.drain(late)
		}
		// A packet may have moved the deadline; the wake-up comes in any case
		// if what is due still is.
		if due, ok := n.o.Engine.Deadline(); ok && due <= n.clock.now() {
			n.step(engine.Wake{})
		}
	}
	now = n.clock.now()
	n.o.Notifier.feed(time.Duration(now))
	n.o.Realtime.Sweep(time.Duration(now))
	for _, line := range n.floods.due(now) {
		n.log.Write(line)
	}
}

// drain steps every packet that has been received. After a late wake-up the
// readers were late too: they are given time until their sockets are empty.
func (n *Node) drain(late time.Duration) {
	runtime.Gosched()
	n.arrived()
	if late < settleAfter {
		return
	}
	limit := time.NewTimer(settleMax)
	defer limit.Stop()
	quiet := time.NewTimer(settleQuiet)
	defer quiet.Stop()
	for range packetsMax { // a flood must not keep the wake-up from its turn
		select {
		case p := <-n.packets:
			n.arrived(p)
			quiet.Reset(settleQuiet)
		case <-quiet.C:
			if !n.arrived() {
				return
			}
			quiet.Reset(settleQuiet)
		case <-limit.C:
			n.arrived()
			return
		}
	}
}

func (n *Node) noteLateness(now cluster.Instant, late time.Duration) {
	if late > time.Duration(n.lateness.Worst) {
		n.lateness.Worst = control.Seconds(late)
		n.lateness.WorstAt = n.clock.wall(now)
	}
	if k := n.o.Facts.Keepalive; k > 0 && late > k/2 {
		n.lateness.Count++
	}
}

func (n *Node) packet(p packet) {
	now := n.clock.now()
	n.stepAt(now, engine.Packet{Link: p.link, Data: p.data, At: n.clock.instant(p.at, now)})
	if p.buf != nil {
		n.buffers.Put(p.buf)
	}
}

func (n *Node) step(in engine.Input) { n.stepAt(n.clock.now(), in) }

// stepAt steps the engine and carries out what it orders. What that causes at
// once (a medium that cannot send) is stepped before anything else.
func (n *Node) stepAt(now cluster.Instant, in engine.Input) {
	r := engine.Readings{Unix: time.Now().Unix(), Asleep: asleep(), Load: n.load.read(now)}
	n.carry(now, n.o.Engine.Step(now, r, in))
	for len(n.follow) > 0 {
		in := n.follow[0]
		n.follow = append(n.follow[:0], n.follow[1:]...)
		now = n.clock.now()
		n.carry(now, n.o.Engine.Step(now, r, in))
	}
	n.o.Programs.stepped(n.o.Engine)
}

// carry carries outputs out in their order. What stands behind a Persist waits
// until that is durable; keepalives wait for nothing.
func (n *Node) carry(now cluster.Instant, outs []engine.Output) {
	for _, out := range outs {
		if t, ok := out.(engine.Transmit); ok && t.Keepalive {
			n.transmit(t)
			for _, alive := range n.o.Alive {
				alive(n.clock.zero.Add(time.Duration(now)))
			}
			continue
		}
		if n.waiting != nil {
			n.hold(out)
			continue
		}
		n.do(now, out)
	}
}

// hold keeps an output for later.
func (n *Node) hold(out engine.Output) {
	if len(n.held) >= heldMax {
		switch out.(type) {
		case engine.Transmit, engine.Log:
			n.heldLost++
			if n.heldLost == 1 {
				n.log.Write(logging.Record{
					Level: cluster.Error, Msg: "state directory does not take what must be durable: messages are dropped",
					Text: fmt.Sprintf("%s cannot be stored: %d orders wait for it, further messages are dropped", n.waiting.Name, len(n.held)),
				})
			}
			return
		}
	}
	n.held = append(n.held, out)
}

func (n *Node) do(now cluster.Instant, out engine.Output) {
	switch out := out.(type) {
	case engine.Transmit:
		n.transmit(out)
	case engine.Persist:
		n.waiting = &out
		n.persist(out, 0)
	case engine.Run:
		n.startJob(out.Job)
	case engine.Kill:
		if cancel := n.jobs[out.ID]; cancel != nil {
			cancel(errKilled)
		}
	case engine.Log:
		if n.floods.pass(now, out) {
			n.log.Write(logging.Record{Level: out.Level, Entity: out.Entity, Text: out.Classic, Msg: out.Msg, Attrs: attrs(out.Attrs)})
		}
	case engine.History:
		n.record(control.Event{At: time.Now().Round(0), Kind: out.Kind, Text: out.Text, Reason: out.Reason})
	case engine.Reply:
		n.reply(out)
	case engine.Reboot:
		go n.reboot() // ends with the machine, or at once
	case engine.Exit:
		n.outcome = &Outcome{Exit: &out}
	default:
		panic(fmt.Sprintf("node: engine ordered %T", out))
	}
}

// reboot restarts the machine. Where that fails the node goes on as if it were
// not to be restarted.
func (n *Node) reboot() {
	err := errors.New("this node cannot restart its machine")
	if n.o.Reboot != nil {
		err = n.o.Reboot()
	}
	if err != nil {
		n.log.Printf(cluster.Crit, "The machine cannot be restarted: %v", err)
	}
}

// Note adds an event that the engine does not know of to the history. It does not
// wait: when the loop has much to do the event is lost.
func (n *Node) Note(kind, text, reason string) {
	e := control.Event{At: time.Now().Round(0), Kind: kind, Text: text, Reason: reason}
	select {
	case n.calls <- func() { n.record(e) }:
	default:
	}
}

// record adds an event of the daemon itself to the history.
func (n *Node) record(e control.Event) {
	n.history.add(e)
	select {
	case n.disk <- e:
	default: // the disk hangs; the event is still in memory
	}
}
