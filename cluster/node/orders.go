package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"heartbeat/cluster"
	"heartbeat/cluster/control"
	"heartbeat/cluster/engine"
)

var _ control.Backend = (*Node)(nil)

// Status is the picture of now, for the control API.
func (n *Node) Status(ctx context.Context) (control.Status, error) {
	var s control.Status
	err := n.call(ctx, func() {
		now := n.clock.now()
		s = n.status(n.o.Engine.View(), now)
	})
	return s, err
}

func (n *Node) status(v engine.View, now cluster.Instant) control.Status {
	f := n.o.Facts
	age := func(at cluster.Instant) control.Seconds {
		if at == 0 {
			return 0
		}
		return control.Seconds(now.Sub(at))
	}
	s := control.Status{
		At: time.Now().Round(0), Version: f.Version, ManagedBy: "haresources", Self: v.Self, PID: f.PID,
		Generation: v.Generation, Started: f.Started, AutoFailback: v.Managed, CommUp: v.CommUp, Phase: v.Phase,
		Stable: v.Stable, Hold: v.Mine.String(), PeerHold: v.Theirs.String(), Standby: v.StandbyNow,
		Keepalive: control.Seconds(f.Keepalive), Warntime: control.Seconds(f.Warntime),
		Deadtime: control.Seconds(f.Deadtime), Initdead: control.Seconds(f.Initdead),
		Warnings: append([]string{}, v.Warnings...), Lateness: n.lateness,
		Nodes: []control.Node{}, Groups: []control.Group{},
	}
	if !v.Stable {
		s.Hold = "transition"
	}
	for _, node := range v.Nodes {
		typ := "normal"
		if node.Ping {
			typ = "ping"
		}
		out := control.Node{
			Name: node.Name, Self: node.Name == v.Self, Type: typ, State: node.State, Old: node.Old, Generation: node.Generation,
			Heard: node.HeardAt != 0, Age: age(node.HeardAt), Deadtime: control.Seconds(node.Deadtime), Links: []control.Link{},
		}
		for _, l := range node.Links {
			out.Links = append(out.Links, control.Link{Name: l.Name, Up: l.Up, Heard: l.HeardAt != 0, Age: age(l.HeardAt), OneWay: l.OneWay})
		}
		s.Nodes = append(s.Nodes, out)
	}
	for _, g := range v.Groups {
		out := control.Group{Key: g.Key, Preferred: g.Preferred, Owner: g.Owner, State: g.State, Reason: g.Reason, Err: g.Err}
		if g.Since != 0 {
			out.Since = n.clock.wall(g.Since)
		}
		if i := slices.IndexFunc(f.Groups, func(c cluster.Group) bool { return c.Key == g.Key }); i >= 0 {
			out.Resources = f.Groups[i].Resources
		}
		s.Groups = append(s.Groups, out)
	}
	if v.Next.What != "" {
		s.Next = &control.Timer{In: control.Seconds(v.Next.At.Sub(now)), What: v.Next.What}
	}
	for _, e := range n.history.last(HistoryMax) {
		if e.Kind == "owner" {
			s.Last = &e
			break
		}
	}
	s.Warnings = append(s.Warnings, n.unguarded()...)
	for _, m := range n.media {
		if m.trouble != "" {
			s.Warnings = append(s.Warnings, fmt.Sprintf("%s cannot send: %s", m.Name(), m.trouble))
		}
		if k := m.overrun.Load(); k > 0 {
			s.Warnings = append(s.Warnings, fmt.Sprintf("%s: %d packets were dropped because they came faster than they could be judged", m.Name(), k))
		}
	}
	return s
}

// unguarded are the troubles of all guards.
func (n *Node) unguarded() []string {
	var out []string
	for _, guard := range n.o.Guards {
		if trouble := guard(); trouble != "" {
			out = append(out, trouble)
		}
	}
	return out
}

// Why returns the last events, newest first.
func (n *Node) Why(ctx context.Context, count int) ([]control.Event, error) {
	var out []control.Event
	err := n.call(ctx, func() { out = n.history.last(max(0, count)) })
	return out, err
}

// Parameter is a recorded directive of ha.cf.
func (n *Node) Parameter(_ context.Context, name string) (string, bool) {
	v, ok := n.o.Facts.Params[name]
	return v, ok
}

// Order carries out an operator's order and tells its steps.
func (n *Node) Order(ctx context.Context, o control.Order, step func(control.Step)) error {
	say := func(text string) { step(control.Step{At: time.Now().Round(0), Text: text}) }
	c := engine.Command{From: o.From}
	switch o.Verb {
	case control.VerbReload, control.VerbReexec:
		return n.Reload(ctx, o.Verb == control.VerbReexec, o.From, say)
	case control.VerbStop:
		n.o.Programs.Close()
		c.Verb = engine.Shutdown
	case control.VerbFenceAck:
		c.Verb, c.Node = engine.ConfirmDown, o.Node
	case control.VerbStandby, control.VerbTakeover:
		c.Verb = engine.Standby
		if o.Verb == control.VerbTakeover {
			c.Verb = engine.Takeover
		}
		var ok bool
		if c.Set, ok = cluster.ParseSet(o.Set); !ok || c.Set == cluster.None {
			return fmt.Errorf("%s of %q: the set must be all, local or foreign", o.Verb, o.Set)
		}
	default:
		return fmt.Errorf("order %q is not known", o.Verb)
	}
	replies := make(chan engine.Reply, repliesMax)
	err := n.call(ctx, func() {
		n.orderID++
		c.ID = n.orderID
		n.replies[c.ID] = replies
		n.step(c)
	})
	if err != nil {
		return err
	}
	accepted := false
	for {
		select {
		case r := <-replies:
			switch {
			case r.Final && r.Err != "":
				return errors.New(r.Err)
			case r.Final:
				if r.Text != "" {
					say(r.Text)
				} else if !accepted {
					say(o.Verb + " done")
				}
				return nil
			}
			say(r.Text)
			accepted = true
		case <-n.gone:
			if o.Verb == control.VerbStop {
				return nil
			}
			return ErrGone
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// reply hands the engine's answer to the order it belongs to. An order whose
// caller has gone is kept until its last answer, and nothing waits for it.
func (n *Node) reply(r engine.Reply) {
	c := n.replies[r.ID]
	if c == nil {
		return
	}
	if r.Final {
		delete(n.replies, r.ID)
		// The outcome must arrive: it takes the place of the oldest step of a
		// caller that does not read.
		for {
			select {
			case c <- r:
				return
			default:
			}
			select {
			case <-c:
			default:
			}
		}
	}
	select {
	case c <- r:
	default: // nobody reads
	}
}
