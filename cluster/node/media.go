package node

import (
	"errors"
	"net"
	"sync/atomic"

	"heartbeat/cluster/engine"
	"heartbeat/transport"
	"heartbeat/transport/message"
)

// medium is a medium with what the node counts of it.
type medium struct {
	transport.Medium
	// implausible packets are no heartbeat messages at first sight; overrun
	// ones found the loop's channel full.
	implausible, overrun atomic.Uint64
	// trouble is what the last Send said; of the loop alone.
	trouble string
}

func (m *medium) ping() bool {
	switch m.Kind() {
	case "ping", "ping6", "ping_group":
		return true
	}
	return false
}

// receive feeds the loop from one medium until the medium is closed.
func (n *Node) receive(m *medium) {
	for {
		buf := n.buffers.Get().(*[]byte)
		for {
			size, at, err := m.Receive(*buf)
			if errors.Is(err, net.ErrClosed) {
				n.buffers.Put(buf)
				return
			}
			if err != nil {
				continue // temporary; the medium keeps the rate
			}
			if !message.Plausible((*buf)[:size]) {
				m.implausible.Add(1)
				continue
			}
			select {
			case n.packets <- packet{link: m.Link(), at: at, data: (*buf)[:size], buf: buf}:
			default:
				m.overrun.Add(1)
				continue
			}
			break
		}
	}
}

// transmit sends one message on the media it is for. A medium that fails, and
// one that works again, is reported to the engine once.
func (n *Node) transmit(t engine.Transmit) {
	for _, m := range n.media {
		if t.Link == "" && m.ping() || t.Link != "" && (!m.ping() || m.Link() != t.Link) {
			continue
		}
		data := t.Netstring
		if m.Format() == transport.FormatClassic {
			data = t.Classic
		}
		if len(data) == 0 {
			continue
		}
		trouble := ""
		if l, ok := m.Medium.(transport.Looping); ok && l.Loops() {
			n.follow = append(n.follow, engine.Looped{Link: m.Link()})
		} else if err := m.Send(data); err != nil {
			trouble = err.Error()
		}
		if (trouble == "") != (m.trouble == "") {
			n.follow = append(n.follow, engine.LinkTrouble{Link: m.Link(), Err: trouble})
		}
		m.trouble = trouble
	}
}
