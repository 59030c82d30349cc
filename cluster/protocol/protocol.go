// Package protocol gives the messages of package cluster their fields on the
// wire, and reads them back. It is pure.
//
// Fields whose names begin with x are extensions: 3.0.6 accepts and ignores
// unknown fields. A status that carries x=1 comes from a node that knows them.
package protocol

import (
	"strconv"
	"strings"
	"time"

	"heartbeat/cluster"
	"heartbeat/transport/message"
)

// capabilities are the names of what this version knows beyond 3.0.6.
const capabilities = "sha2,heal,lateness,links,digest"

// Encode writes a message's own fields, in the original's order, into m, which
// loses what it had but keeps its room; the session adds the rest. flow says
// whether flow control is on (field protocol). It returns m.
func Encode(m *message.Message, msg cluster.Message, flow bool) *message.Message {
	m.Fields = m.Fields[:0]
	switch msg := msg.(type) {
	case cluster.Status:
		return encodeStatus(m, msg, flow)
	case cluster.ReqNodes:
		return m.Add("t", "reqnodes").Add("dest", msg.Dest)
	case cluster.RepNodes:
		return m.Add("dest", msg.Dest).Add("t", "repnodes").Add("nodelist", nameList(msg.Nodes)).Add("delnodelist", nameList(msg.Removed))
	case cluster.Starting:
		return m.Add("t", "starting")
	case cluster.Resource:
		m.Add("t", "resource").Add("rsc_hold", msg.Hold.String())
		if msg.Full {
			m.Add("rtype", "full")
		}
		switch msg.Stable {
		case cluster.Yes:
			m.Add("isstable", "1")
		case cluster.No:
			m.Add("isstable", "0")
		}
		if msg.Info != "" {
			m.Add("info", msg.Info)
		}
		extraSets(m, msg.Took, msg.Releasing)
		if msg.Pings > 0 {
			m.Add("xpings", strconv.Itoa(msg.Pings-1))
		}
		return m
	case cluster.AskResources:
		m.Add("t", "ask_resources").Add("rsc_hold", msg.Set.String()).Add("info", msg.Info)
		return exchange(m, msg.Exchange)
	case cluster.ClientAsk:
		m.Add("t", "ask_resources").Add("rsc_hold", msg.Set.String()).Add("src", msg.Src).Add("info", msg.Info)
		return exchange(client(m), msg.Exchange)
	case cluster.ClientState:
		st := "leave"
		if msg.Joined {
			st = "join"
		}
		return m.Add("t", "hbapi-clstat").Add("st", st).Add("from_id", msg.Client).Add("to_id", msg.Client).
			Add("src", msg.Src).Add("info", msg.Info).Add("client_gen", clientGeneration)
	case cluster.PingCount:
		return client(m.Add("t", "num_ping_nodes").Add("src", msg.Src).Add("num_ping", strconv.Itoa(msg.Count)).Add("dest", msg.Dest))
	case cluster.YouAreDead:
		return client(m.Add("t", "you_are_dead").Add("dest", msg.Dest))
	case cluster.AbortGiveUp:
		return client(m.Add("t", "abort_giveup").Add("src", msg.Src).Add("dest", msg.Dest))
	case cluster.ClientQuery:
		return m.Add("t", "query-cstatus").Add("dest", msg.Dest).Add("cn", msg.Client).Add("from_id", msg.Asker)
	case cluster.ClientAnswer:
		cs := "offline"
		if msg.Online {
			cs = "online"
		}
		return m.Add("t", "respond-cstatus").Add("dest", msg.Dest).Add("result", "OK").Add("cn", msg.Client).Add("to_id", msg.Asker).Add("cs", cs)
	case cluster.HBTakeover:
		return m.Add("t", "hb_takeover").Add("rsc_hold", msg.Set.String())
	case cluster.IPRequest:
		return m.Add("t", "ip-request").Add("ipaddr", msg.Key)
	case cluster.IPRequestResp:
		m.Add("t", "ip-request-resp").Add("dest", msg.Dest).Add("ipaddr", msg.Key).Add("weown", yesNo(msg.WeOwn))
		if msg.OK {
			m.Add("ok", "OK")
		} else {
			m.Add("ok", "failed")
		}
		return m
	case cluster.Shutdone:
		return m.Add("t", "shutdone").Add("st", "dead")
	case cluster.Stonith:
		return m.Add("t", "stonith").Add("node", msg.Node).Add("result", msg.Result)
	case cluster.Other:
		for _, f := range msg.Fields {
			m.Add(f[0], f[1])
		}
		return m
	}
	return m.Add("t", "unknown")
}

// clientGeneration counts, in the original, the clients that a daemon has had;
// ours is built in and the first.
const clientGeneration = "0"

// exchange adds the number of a standby exchange, where both nodes know it.
func exchange(m *message.Message, id uint64) *message.Message {
	if id != 0 {
		m.Add("xid", strconv.FormatUint(id, 16))
	}
	return m
}

// extraSets adds what new nodes say of what they hold beside its name.
func extraSets(m *message.Message, took, releasing cluster.Set) {
	if took != cluster.None {
		m.Add("xtook", took.String())
	}
	if releasing != cluster.None {
		m.Add("xreleasing", releasing.String())
	}
}

// client adds what the original's daemon adds to a message of its client ipfail
// to the one on the other node.
func client(m *message.Message) *message.Message {
	return m.Add("from_id", "ipfail").Add("to_id", "ipfail").Add("client_gen", clientGeneration)
}

func encodeStatus(m *message.Message, msg cluster.Status, flow bool) *message.Message {
	m.Add("t", "status").Add("st", msg.State).Add("dt", strconv.FormatInt(msg.Dt.Milliseconds(), 16))
	if flow {
		m.Add("protocol", "1")
	}
	if !msg.New {
		return m
	}
	m.Add("x", "1").Add("xcap", capabilities)
	if msg.Digest != "" {
		m.Add("xcfg", msg.Digest)
	}
	if len(msg.Hears) > 0 {
		m.Add("xlinks", strings.Join(msg.Hears, " "))
	}
	if ms := msg.Lateness.Milliseconds(); ms > 0 {
		m.Add("xlate", strconv.FormatInt(ms, 10))
	}
	if len(msg.Dead) > 0 {
		m.Add("xdead", strings.Join(msg.Dead, " "))
	}
	if msg.Holds {
		m.Add("xhold", msg.Hold.String())
		extraSets(m, msg.Took, msg.Releasing)
	}
	if len(msg.Outdated) > 0 {
		var lives []string
		for _, l := range msg.Outdated {
			lives = append(lives, l.Node+":"+strconv.FormatUint(l.Generation, 16))
		}
		m.Add("xgen", strings.Join(lives, " "))
	}
	return m
}

// Decode reads a verified message. It returns false for one whose type is
// known but whose fields make no sense.
func Decode(m *message.Message) (cluster.Message, bool) {
	switch typ := m.Type(); typ {
	case "status":
		return decodeStatus(m)
	case "reqnodes":
		return cluster.ReqNodes{Dest: m.Get("dest")}, true
	case "repnodes":
		return cluster.RepNodes{Dest: m.Get("dest"), Nodes: strings.Fields(m.Get("nodelist")), Removed: strings.Fields(m.Get("delnodelist"))}, true
	case "starting":
		return cluster.Starting{}, true
	case "resource":
		return decodeResource(m)
	case "ask_resources":
		set, ok := cluster.ParseSet(m.Get("rsc_hold"))
		id, err := strconv.ParseUint(m.Get("xid"), 16, 63)
		if err != nil {
			id = 0
		}
		return cluster.AskResources{Set: set, Info: m.Get("info"), Exchange: id}, ok
	case "hbapi-clstat":
		return cluster.ClientState{Src: m.Get("src"), Client: m.Get("from_id"), Joined: m.Get("st") == "join", Info: m.Get("info")}, m.Get("from_id") != ""
	case "num_ping_nodes":
		count, err := strconv.ParseUint(m.Get("num_ping"), 10, 16)
		return cluster.PingCount{Src: m.Get("src"), Dest: m.Get("dest"), Count: int(count)}, err == nil
	case "you_are_dead":
		return cluster.YouAreDead{Dest: m.Get("dest")}, true
	case "query-cstatus":
		return cluster.ClientQuery{Dest: m.Get("dest"), Client: m.Get("cn"), Asker: m.Get("from_id")}, true
	case "respond-cstatus":
		return cluster.ClientAnswer{Dest: m.Get("dest"), Client: m.Get("cn"), Asker: m.Get("to_id"), Online: m.Get("cs") == "online"}, true
	case "abort_giveup":
		return cluster.AbortGiveUp{Src: m.Get("src"), Dest: m.Get("dest")}, true
	case "hb_takeover":
		word := m.Get("rsc_hold")
		if word == "" || word == "failback" {
			word = "all" // so the original's script
		}
		set, ok := cluster.ParseSet(word)
		return cluster.HBTakeover{Set: set}, ok
	case "ip-request":
		return cluster.IPRequest{Key: m.Get("ipaddr")}, m.Get("ipaddr") != ""
	case "ip-request-resp":
		return cluster.IPRequestResp{Dest: m.Get("dest"), Key: m.Get("ipaddr"), WeOwn: m.Get("weown") == "yes", OK: m.Get("ok") == "OK"}, m.Get("ipaddr") != ""
	case "shutdone":
		return cluster.Shutdone{}, true
	case "stonith":
		return cluster.Stonith{Node: m.Get("node"), Result: m.Get("result")}, true
	default:
		other := cluster.Other{Type: typ}
		for _, f := range m.Fields {
			if f.Type == message.FieldString {
				other.Fields = append(other.Fields, [2]string{f.Name, f.Value})
			}
		}
		return other, typ != ""
	}
}

func decodeStatus(m *message.Message) (cluster.Message, bool) {
	s := cluster.Status{State: m.Get("st"), New: m.Get("x") == "1"}
	if s.State == "" {
		return nil, false
	}
	if dt, err := strconv.ParseUint(m.Get("dt"), 16, 40); err == nil {
		s.Dt = time.Duration(dt) * time.Millisecond
	}
	if s.New {
		s.Digest = m.Get("xcfg")
		s.Hears = strings.Fields(m.Get("xlinks"))
		if text := m.Get("xlate"); text != "" {
			if late, err := strconv.ParseUint(text, 10, 40); err == nil {
				s.Lateness = time.Duration(late) * time.Millisecond
			}
		}
		if dead := m.Get("xdead"); dead != "" {
			s.Dead = strings.Fields(dead)
		}
		if s.Hold, s.Holds = cluster.ParseSet(m.Get("xhold")); s.Holds {
			s.Took, _ = cluster.ParseSet(m.Get("xtook"))
			s.Releasing, _ = cluster.ParseSet(m.Get("xreleasing"))
		}
		for _, life := range strings.Fields(m.Get("xgen")) {
			name, text, _ := strings.Cut(life, ":")
			if gen, err := strconv.ParseUint(text, 16, 63); err == nil {
				s.Outdated = append(s.Outdated, cluster.Life{Node: name, Generation: gen})
			}
		}
	}
	return s, true
}

func decodeResource(m *message.Message) (cluster.Message, bool) {
	hold, ok := cluster.ParseSet(m.Get("rsc_hold"))
	if !ok {
		return nil, false
	}
	r := cluster.Resource{Hold: hold, Full: m.Get("rtype") == "full", Info: m.Get("info")}
	switch m.Get("isstable") {
	case "1":
		r.Stable = cluster.Yes
	case "0":
		r.Stable = cluster.No
	}
	r.Took, _ = cluster.ParseSet(m.Get("xtook"))
	r.Releasing, _ = cluster.ParseSet(m.Get("xreleasing"))
	if n, err := strconv.ParseUint(m.Get("xpings"), 10, 16); err == nil {
		r.Pings = int(n) + 1
	}
	return r, true
}

// nameList writes names as the original does: each followed by a blank, and a
// single blank when there is none.
func nameList(names []string) string {
	if len(names) == 0 {
		return " "
	}
	return strings.Join(names, " ") + " "
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
