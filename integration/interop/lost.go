package interop

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// The FIFO of 3.0.6 loses messages, in two ways.
//
// What a script writes comes in pieces, and when the reader finds the first line
// alone it takes that for the whole: it logs "Message with zero fields".
//
// With msgfmt netstring the children of 3.0.6 end what they write with "%%%" and
// no newline. The reader has that as the beginning of the next line, until its
// alarm of once a second makes it begin anew. So what is written within the second
// after a child's message, by another child or a script, is no message to it.
// Who waits for it waits for ever, and the node stays in transition. The log shows
// that, too: the child says what it has done, and the daemon does not say that it
// heard so.
var heardOf = []struct{ child, daemon string }{
	{"HA resource release completed (standby).", "Local standby process completed ["},
	{"HA resource acquisition completed (standby).", "Standby resource acquisition done ["},
	{"mach_down takeover complete for node", ": mach_down takeover complete."},
}

// zeroFields is what the reader says of a first line that came alone.
const zeroFields = "msg2string: Message with zero fields"

const (
	// lossPatience is how long the daemon is given to hear what a child wrote.
	lossPatience = 5 * time.Second
	// readerAlarm is more than the pause after which the reader forgets half a
	// line.
	readerAlarm = 1500 * time.Millisecond
	// triesMax is how often a scenario is played until 3.0.6 loses nothing.
	triesMax = 4
)

var errLost = errors.New("3.0.6 has lost a message of its own")

// unhurried lets the reader's second pass, so that what is done next is not lost
// because of what went before.
func (r *Run) unhurried() {
	if r.setup.netstring() {
		r.do(func() error {
			select {
			case <-time.After(readerAlarm):
				return nil
			case <-r.ctx.Done():
				return r.ctx.Err()
			}
		})
	}
}

// lossesIn says what the last life of a 3.0.6 daemon lost, from its log.
func lossesIn(text string) (lost []string) {
	if i := strings.LastIndex(text, "Starting heartbeat 3.0.6"); i >= 0 {
		text = text[i:]
	}
	for _, h := range heardOf {
		if said, heard := strings.Count(text, h.child), strings.Count(text, h.daemon); said > heard {
			lost = append(lost, fmt.Sprintf("%q is in its log %d times, %q %d times", h.child, said, strings.TrimPrefix(h.daemon, ": "), heard))
		}
	}
	return lost
}

func (s Setup) netstring() bool { return slices.Contains(s.Extra, "msgfmt netstring") }

// losses says what either node lost of what its children wrote; ours loses none.
func (r *Run) losses() (lost []string) {
	if !r.setup.netstring() {
		return nil
	}
	for i, n := range r.Nodes() {
		if r.on[i] == r.progs.Ours {
			continue
		}
		for _, l := range lossesIn(n.Read(log)) {
			lost = append(lost, n.Name+": "+l)
		}
	}
	return lost
}

// allLosses are those of scripts, too.
func (r *Run) allLosses() []string {
	lost := r.losses()
	for i, n := range r.Nodes() {
		if r.on[i] != r.progs.Ours && strings.Contains(n.Read(log), zeroFields) {
			lost = append(lost, n.Name+": "+zeroFields)
		}
	}
	return lost
}

// PlayUnlost plays a scenario until 3.0.6 does not lose a message of its own in
// it, triesMax times at most. All outcomes but the last are such failures.
func PlayUnlost(ctx context.Context, s Scenario, p Pair, progs Programs) (tries []Outcome) {
	for len(tries) < triesMax {
		o := Play(ctx, s, p, progs)
		tries = append(tries, o)
		if len(o.Problems) == 0 || len(o.Lost) == 0 {
			break
		}
	}
	return tries
}
