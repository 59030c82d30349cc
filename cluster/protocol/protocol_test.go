package protocol

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"heartbeat/cluster"
	"heartbeat/transport/message"
	"heartbeat/transport/message/messagetest"
)

// addedFields are those that session and signature add to a message, and
// those of the original's API for messages of its clients (ipfail).
var addedFields = []string{"destuuid", "src", "srcuuid", "seq", "hg", "ts", "ld", "ttl", "auth", "from_id", "to_id", "client_gen"}

// ownFields spells the fields of the message itself, in order.
func ownFields(m *message.Message) (own []string) {
	for _, f := range m.Fields {
		if !slices.Contains(addedFields, f.Name) {
			own = append(own, f.Name+"="+f.Value)
		}
	}
	return own
}

// allFields spells every field, in order.
func allFields(m *message.Message) (all []string) {
	for _, f := range m.Fields {
		all = append(all, f.Name+"="+f.Value)
	}
	return all
}

// TestEncode holds every message's fields and their order.
func TestEncode(t *testing.T) {
	for _, c := range []struct {
		name string
		msg  cluster.Message
		flow bool
		want string
	}{
		{"status", cluster.Status{State: "init", Dt: 6 * time.Second}, true, "t=status|st=init|dt=1770|protocol=1"},
		{"status without flow control", cluster.Status{State: "active", Dt: 4 * time.Second}, false, "t=status|st=active|dt=fa0"},
		{"status of ours", cluster.Status{State: "active", Dt: 4 * time.Second, New: true, Digest: "abc", Hears: []string{"eth0", "/dev/ttyS0"}, Lateness: 12 * time.Millisecond}, true,
			"t=status|st=active|dt=fa0|protocol=1|x=1|xcap=" + capabilities + "|xcfg=abc|xlinks=eth0 /dev/ttyS0|xlate=12"},
		{"status of who holds nodes for dead", cluster.Status{State: "active", New: true, Dead: []string{"node1", "node3"}, Holds: true, Hold: cluster.All, Outdated: []cluster.Life{{Node: "node1", Generation: 0x6b0115b7}}}, false,
			"t=status|st=active|dt=0|x=1|xcap=" + capabilities + "|xdead=node1 node3|xhold=all|xgen=node1:6b0115b7"},
		{"status of ours with nothing to say", cluster.Status{State: "up", New: true, Lateness: time.Millisecond - 1}, false, "t=status|st=up|dt=0|x=1|xcap=" + capabilities},
		{"reqnodes", cluster.ReqNodes{Dest: "node2"}, true, "t=reqnodes|dest=node2"},
		{"repnodes", cluster.RepNodes{Dest: "node1", Nodes: []string{"node1", "node2"}}, true, "dest=node1|t=repnodes|nodelist=node1 node2 |delnodelist= "},
		{"starting", cluster.Starting{}, true, "t=starting"},
		{"resource", cluster.Resource{Hold: cluster.All, Full: true, Stable: cluster.Yes}, true, "t=resource|rsc_hold=all|rtype=full|isstable=1"},
		{"resource with reason", cluster.Resource{Hold: cluster.None, Full: true, Stable: cluster.No, Info: "shutdown"}, true, "t=resource|rsc_hold=none|rtype=full|isstable=0|info=shutdown"},
		{"resource that adds", cluster.Resource{Hold: cluster.Foreign, Info: "mach_down"}, true, "t=resource|rsc_hold=foreign|info=mach_down"},
		{"answer of ours", cluster.AskResources{Set: cluster.Local, Info: "other", Exchange: 0x1a}, true, "t=ask_resources|rsc_hold=local|info=other|xid=1a"},
		{"resource of who lets go", cluster.Resource{Hold: cluster.Local, Full: true, Stable: cluster.Yes, Releasing: cluster.Foreign, Pings: 1}, true, "t=resource|rsc_hold=local|rtype=full|isstable=1|xreleasing=foreign|xpings=0"},
		{"resource of ours", cluster.Resource{Hold: cluster.All, Full: true, Stable: cluster.Yes, Took: cluster.Foreign}, true, "t=resource|rsc_hold=all|rtype=full|isstable=1|xtook=foreign"},
		{"ask_resources", cluster.AskResources{Set: cluster.Local, Info: "me"}, true, "t=ask_resources|rsc_hold=local|info=me"},
		{"hb_takeover", cluster.HBTakeover{Set: cluster.All}, true, "t=hb_takeover|rsc_hold=all"},
		{"ip-request", cluster.IPRequest{Key: "IPaddr::192.0.2.10/24"}, true, "t=ip-request|ipaddr=IPaddr::192.0.2.10/24"},
		{"ip-request-resp", cluster.IPRequestResp{Dest: "node2", Key: "web", WeOwn: true, OK: true}, true, "t=ip-request-resp|dest=node2|ipaddr=web|weown=yes|ok=OK"},
		{"ip-request-resp, refused", cluster.IPRequestResp{Dest: "node2", Key: "web"}, true, "t=ip-request-resp|dest=node2|ipaddr=web|weown=no|ok=failed"},
		{"shutdone", cluster.Shutdone{}, true, "t=shutdone|st=dead"},
		{"stonith", cluster.Stonith{Node: "node2", Result: "n_stnth"}, true, "t=stonith|node=node2|result=n_stnth"},
		{"ipfail joins", cluster.ClientState{Src: "node1", Client: "ipfail", Joined: true, Info: "signon"}, true, "t=hbapi-clstat|st=join|from_id=ipfail|to_id=ipfail|src=node1|info=signon|client_gen=0"},
		{"ipfail leaves", cluster.ClientState{Src: "node1", Client: "ipfail", Info: "signoff"}, true, "t=hbapi-clstat|st=leave|from_id=ipfail|to_id=ipfail|src=node1|info=signoff|client_gen=0"},
		{"num_ping_nodes", cluster.PingCount{Src: "node1", Dest: "node2", Count: 2}, true, "t=num_ping_nodes|src=node1|num_ping=2|dest=node2|from_id=ipfail|to_id=ipfail|client_gen=0"},
		{"you_are_dead", cluster.YouAreDead{Dest: "node2"}, true, "t=you_are_dead|dest=node2|from_id=ipfail|to_id=ipfail|client_gen=0"},
		{"abort_giveup", cluster.AbortGiveUp{Src: "node1", Dest: "node2"}, true, "t=abort_giveup|src=node1|dest=node2|from_id=ipfail|to_id=ipfail|client_gen=0"},
		{"ask_resources of ipfail", cluster.ClientAsk{Src: "node1", AskResources: cluster.AskResources{Set: cluster.All, Info: "me"}}, true, "t=ask_resources|rsc_hold=all|src=node1|info=me|from_id=ipfail|to_id=ipfail|client_gen=0"},
		{"query-cstatus", cluster.ClientQuery{Dest: "node2", Client: "ipfail", Asker: "475"}, true, "t=query-cstatus|dest=node2|cn=ipfail|from_id=475"},
		{"respond-cstatus", cluster.ClientAnswer{Dest: "node1", Client: "ipfail", Asker: "475", Online: true}, true, "t=respond-cstatus|dest=node1|result=OK|cn=ipfail|to_id=475|cs=online"},
		{"any other", cluster.Other{Type: "mine", Fields: [][2]string{{"a", "1"}, {"t", "mine"}, {"b", ""}}}, true, "a=1|t=mine|b="},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := strings.Join(allFields(Encode(&message.Message{}, c.msg, c.flow)), "|"); got != c.want {
				t.Errorf(" got %s\nwant %s", got, c.want)
			}
		})
	}
}

// TestDecode holds the readings that no message of ours shows.
func TestDecode(t *testing.T) {
	fields := func(text string) *message.Message {
		m := &message.Message{}
		for _, f := range strings.Split(text, "|") {
			name, value, _ := strings.Cut(f, "=")
			m.Add(name, value)
		}
		return m
	}
	for _, c := range []struct {
		text string
		want cluster.Message
	}{
		{"t=status", nil},
		{"t=status|st=up", cluster.Status{State: "up"}},
		{"t=status|st=up|dt=FA0", cluster.Status{State: "up", Dt: 4 * time.Second}},
		{"t=status|st=up|dt=-1", cluster.Status{State: "up"}},
		{"t=status|st=up|dt=ffffffffff", cluster.Status{State: "up", Dt: (1<<40 - 1) * time.Millisecond}},
		{"t=status|st=up|dt=10000000000", cluster.Status{State: "up"}},
		{"t=status|st=up|x=2|xcfg=abc|xlate=7|xlinks=eth0", cluster.Status{State: "up"}},
		{"t=status|st=up|x=1|xcfg=abc|xlate=late|xlinks= eth0  eth1", cluster.Status{State: "up", New: true, Digest: "abc", Hears: []string{"eth0", "eth1"}}},
		{"t=resource", nil},
		{"t=resource|rsc_hold=ALL", nil},
		{"t=resource|rsc_hold=all|rtype=part|isstable=2|xtook=most", cluster.Resource{Hold: cluster.All}},
		{"t=ask_resources|info=me", nil},
		{"t=ask_resources|rsc_hold=foreign", cluster.AskResources{Set: cluster.Foreign}},
		{"t=hb_takeover", cluster.HBTakeover{Set: cluster.All}},
		{"t=hb_takeover|rsc_hold=failback", cluster.HBTakeover{Set: cluster.All}},
		{"t=hb_takeover|rsc_hold=some", nil},
		{"t=ip-request", nil},
		{"t=ip-request-resp|dest=node1|weown=yes|ok=OK", nil},
		{"t=ip-request-resp|ipaddr=web|weown=YES|ok=ok", cluster.IPRequestResp{Key: "web"}},
		{"t=hbapi-clstat|st=join", nil},
		{"t=num_ping_nodes|dest=node1", nil},
		{"t=num_ping_nodes|dest=node1|num_ping=-1", nil},
		{"t=num_ping_nodes|dest=node1|num_ping=70000", nil},
		{"t=shutdone", cluster.Shutdone{}},
		{"st=up|dt=7d0", nil},
		{"t=", nil},
		{"a=1|t=mine|a=2", cluster.Other{Type: "mine", Fields: [][2]string{{"a", "1"}, {"t", "mine"}, {"a", "2"}}}},
	} {
		got, ok := Decode(fields(c.text))
		if ok != (c.want != nil) {
			t.Errorf("%s: accepted: %v", c.text, ok)
			continue
		}
		if diff := cmp.Diff(c.want, got, cmpopts.EquateEmpty()); ok && diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.text, diff)
		}
	}
	m := fields("t=mine|a=1")
	m.AddBinary("raw", "\x00\x01")
	if got, _ := Decode(m); len(got.(cluster.Other).Fields) != 2 {
		t.Errorf("a binary field is handed on as text: %q", got)
	}
}

// TestCaptured: every numbered message of two real 3.0.6 nodes is understood,
// and spelt again as it was.
func TestCaptured(t *testing.T) {
	seen := map[string]int{}
	for _, name := range messagetest.Scenarios(t) {
		for _, p := range messagetest.Load(t, name).Packets {
			if p.Message.Get("seq") == "" {
				continue
			}
			msg, ok := Decode(p.Message)
			if !ok {
				t.Errorf("%s packet %d: not understood: %q", name, p.N, ownFields(p.Message))
				continue
			}
			_, flow := p.Message.Lookup("protocol")
			if diff := cmp.Diff(ownFields(p.Message), ownFields(Encode(&message.Message{}, msg, flow))); diff != "" {
				t.Errorf("%s packet %d (-3.0.6 +ours):\n%s", name, p.N, diff)
			}
			if _, other := msg.(cluster.Other); !other {
				seen[p.Message.Type()]++
			}
		}
	}
	for _, typ := range []string{"status", "reqnodes", "repnodes", "starting", "resource", "ask_resources", "hb_takeover", "ip-request", "ip-request-resp", "shutdone", "stonith",
		"hbapi-clstat", "num_ping_nodes", "you_are_dead", "abort_giveup", "query-cstatus", "respond-cstatus"} {
		if seen[typ] == 0 {
			t.Errorf("no capture holds a %s", typ)
		}
	}
}

// TestRoundTrip: what one node means is what the other one understands.
func TestRoundTrip(t *testing.T) {
	word := rapid.StringMatching(`[a-z0-9:/._-]{1,20}`)
	words := rapid.SliceOfN(word, 0, 4)
	set := rapid.SampledFrom([]cluster.Set{cluster.None, cluster.Local, cluster.Foreign, cluster.All})
	text := rapid.OneOf(rapid.Just(""), word)
	millis := func(t *rapid.T, name string) time.Duration {
		return time.Duration(rapid.Int64Range(0, 1<<40-1).Draw(t, name)) * time.Millisecond
	}
	messages := []func(*rapid.T) cluster.Message{
		func(t *rapid.T) cluster.Message {
			s := cluster.Status{State: word.Draw(t, "state"), Dt: millis(t, "dt"), New: rapid.Bool().Draw(t, "new")}
			if s.New {
				s.Digest, s.Hears, s.Lateness = text.Draw(t, "digest"), words.Draw(t, "hears"), millis(t, "lateness")
			}
			return s
		},
		func(t *rapid.T) cluster.Message { return cluster.ReqNodes{Dest: word.Draw(t, "dest")} },
		func(t *rapid.T) cluster.Message {
			return cluster.RepNodes{Dest: word.Draw(t, "dest"), Nodes: words.Draw(t, "nodes"), Removed: words.Draw(t, "removed")}
		},
		func(*rapid.T) cluster.Message { return cluster.Starting{} },
		func(t *rapid.T) cluster.Message {
			return cluster.Resource{
				Hold: set.Draw(t, "hold"), Full: rapid.Bool().Draw(t, "full"), Info: text.Draw(t, "info"), Took: set.Draw(t, "took"),
				Stable: rapid.SampledFrom([]cluster.Tri{cluster.Absent, cluster.No, cluster.Yes}).Draw(t, "stable"),
			}
		},
		func(t *rapid.T) cluster.Message {
			return cluster.AskResources{Set: set.Draw(t, "set"), Info: text.Draw(t, "info")}
		},
		func(t *rapid.T) cluster.Message { return cluster.HBTakeover{Set: set.Draw(t, "set")} },
		func(t *rapid.T) cluster.Message { return cluster.IPRequest{Key: word.Draw(t, "key")} },
		func(t *rapid.T) cluster.Message {
			return cluster.IPRequestResp{Dest: word.Draw(t, "dest"), Key: word.Draw(t, "key"), WeOwn: rapid.Bool().Draw(t, "we own"), OK: rapid.Bool().Draw(t, "ok")}
		},
		func(*rapid.T) cluster.Message { return cluster.Shutdone{} },
		func(t *rapid.T) cluster.Message {
			return cluster.ClientState{Src: word.Draw(t, "src"), Client: word.Draw(t, "client"), Joined: rapid.Bool().Draw(t, "joined"), Info: text.Draw(t, "info")}
		},
		func(t *rapid.T) cluster.Message {
			return cluster.PingCount{Src: word.Draw(t, "src"), Dest: word.Draw(t, "dest"), Count: rapid.IntRange(0, 65535).Draw(t, "count")}
		},
		func(t *rapid.T) cluster.Message { return cluster.YouAreDead{Dest: word.Draw(t, "dest")} },
		func(t *rapid.T) cluster.Message {
			return cluster.AbortGiveUp{Src: word.Draw(t, "src"), Dest: word.Draw(t, "dest")}
		},
		func(t *rapid.T) cluster.Message {
			return cluster.ClientQuery{Dest: word.Draw(t, "dest"), Client: word.Draw(t, "client"), Asker: word.Draw(t, "asker")}
		},
		func(t *rapid.T) cluster.Message {
			return cluster.ClientAnswer{Dest: word.Draw(t, "dest"), Client: word.Draw(t, "client"), Asker: word.Draw(t, "asker"), Online: rapid.Bool().Draw(t, "online")}
		},
		func(t *rapid.T) cluster.Message {
			return cluster.Stonith{Node: word.Draw(t, "node"), Result: word.Draw(t, "result")}
		},
		func(t *rapid.T) cluster.Message {
			o := cluster.Other{Type: "x" + word.Draw(t, "type")}
			o.Fields = [][2]string{{"t", o.Type}}
			for _, w := range words.Draw(t, "fields") {
				o.Fields = append(o.Fields, [2]string{w, text.Draw(t, "value")})
			}
			return o
		},
	}
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.SampledFrom(messages).Draw(t, "kind")(t)
		m := Encode(&message.Message{}, want, rapid.Bool().Draw(t, "flow"))
		if err := m.Validate(); err != nil {
			t.Fatal(err)
		}
		got, ok := Decode(m)
		if !ok {
			t.Fatalf("not understood: %q", ownFields(m))
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("(-meant +understood):\n%s", diff)
		}
	})
}

// FuzzDecode reads anything; what is understood means the same once it was
// spelt again.
func FuzzDecode(f *testing.F) {
	for _, name := range []string{"cold-start", "clean-shutdown", "legacy", "takeover-cmd"} {
		for _, p := range messagetest.Load(f, name).Packets {
			f.Add(strings.Join(ownFields(p.Message), "\n"))
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		m := &message.Message{}
		for line := range strings.SplitSeq(text, "\n") {
			name, value, _ := strings.Cut(line, "=")
			m.Add(name, value)
		}
		msg, ok := Decode(m)
		if !ok {
			return
		}
		again, ok := Decode(Encode(&message.Message{}, msg, true))
		if !ok {
			t.Fatalf("%+v is not understood once it was spelt", msg)
		}
		if diff := cmp.Diff(msg, again, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("(-understood +spelt and understood again):\n%s", diff)
		}
	})
}
