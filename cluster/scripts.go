package cluster

import (
	"slices"
	"strings"
)

// Messages have scripts: a file in rc.d of the message's type is run on every
// node that handles the message. What the original's own scripts did is done
// here, so only the administrator's are left; they run beside what is built in,
// never in its place, for a decision that a script takes is one that the
// machine does not know of.

// script queues the script of a message, if it has one.
func (m *Machine) script(from string, msg Message) {
	switch msg := msg.(type) {
	case HBTakeover:
		m.queueScript(from, "hb_takeover", [2]string{"rsc_hold", msg.Set.String()})
	case IPRequest:
		m.queueScript(from, "ip-request", [2]string{"ipaddr", msg.Key})
	case IPRequestResp:
		own, ok := "no", "failed"
		if msg.WeOwn {
			own = "yes"
		}
		if msg.OK {
			ok = "OK"
		}
		m.queueScript(from, "ip-request-resp", [2]string{"dest", msg.Dest}, [2]string{"ipaddr", msg.Key}, [2]string{"weown", own}, [2]string{"ok", ok})
	case Other:
		m.queueScript(from, msg.Type, msg.Fields...)
	}
}

// statusScript queues the script for a node's new state.
func (m *Machine) statusScript(n *node) {
	fields := [][2]string{{"st", n.State}}
	if n.Ping {
		fields = append(fields, [2]string{"info", "ping"})
	}
	m.queueScript(n.Name, "status", fields...)
}

// queueScript queues the script for a type, if there is one, unless the message
// is for another node.
func (m *Machine) queueScript(from, typ string, fields ...[2]string) {
	if !slices.Contains(m.cfg.Scripts, strings.ToLower(typ)) {
		return
	}
	field := func(name string) (string, bool) {
		i := slices.IndexFunc(fields, func(f [2]string) bool { return f[0] == name })
		if i < 0 {
			return "", false
		}
		return fields[i][1], true
	}
	if dest, ok := field("dest"); ok && !strings.EqualFold(dest, m.cfg.Self) {
		return
	}
	msg := [][2]string{{"t", typ}, {"src", from}}
	for _, f := range fields {
		if f[0] != "t" && f[0] != "src" {
			msg = append(msg, f)
		}
	}
	m.enqueue(queued{Why: whyScript, Node: from, Msg: msg, Key: typ})
}
