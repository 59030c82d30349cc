package vm

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// qmp is a connection to the monitor of one qemu.
type qmp struct {
	turn    sync.Mutex
	conn    net.Conn
	answers chan json.RawMessage
	resets  func(at time.Time)
}

// monitor begins a conversation; resets is called whenever the machine is
// reset, by whatever.
func monitor(conn net.Conn, resets func(at time.Time)) (*qmp, error) {
	q := &qmp{conn: conn, answers: make(chan json.RawMessage, 16), resets: resets}
	go q.read() // ends with the connection
	_, err := q.do("qmp_capabilities", nil)
	return q, err
}

// read hands on answers and resets; the greeting and other events are dropped.
func (q *qmp) read() {
	defer close(q.answers)
	in := bufio.NewReader(q.conn)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return
		}
		var m struct {
			Return, Error json.RawMessage
			Event         string
		}
		switch err := json.Unmarshal(line, &m); {
		case err != nil:
		case m.Event == "RESET":
			q.resets(time.Now())
		case m.Return != nil || m.Error != nil:
			q.answers <- line
		}
	}
}

func (q *qmp) do(command string, args any) (json.RawMessage, error) {
	q.turn.Lock()
	defer q.turn.Unlock()
	m := map[string]any{"execute": command}
	if args != nil {
		m["arguments"] = args
	}
	b, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	if _, err := q.conn.Write(append(b, '\n')); err != nil {
		return nil, fmt.Errorf("%s: %w", command, err)
	}
	select {
	case line, ok := <-q.answers:
		if !ok {
			return nil, fmt.Errorf("%s: %w", command, io.ErrUnexpectedEOF)
		}
		var r struct {
			Return json.RawMessage
			Error  *struct{ Desc string }
		}
		if err := json.Unmarshal(line, &r); err != nil {
			return nil, fmt.Errorf("%s: %w", command, err)
		}
		if r.Error != nil {
			return nil, fmt.Errorf("%s: %s", command, r.Error.Desc)
		}
		return r.Return, nil
	case <-time.After(time.Minute):
		return nil, fmt.Errorf("%s: no answer", command)
	}
}
