package config

import (
	"fmt"
	"io/fs"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"heartbeat/cluster"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

const (
	goodHACF = "logfile /x\nnode node1 node2\nbcast eth0\nauto_failback on\n"
	goodAuth = "auth 1\n1 sha1 secret\n"
)

// load parses texts as /etc/ha.d on the lab's machine; toml "" is no file.
func load(hacf, auth, haresources, toml string) (*Config, Problems) {
	files := Files{
		HACF: File{Data: []byte(hacf)}, AuthKeys: File{Data: []byte(auth), Mode: 0o600},
		HAResources: File{Data: []byte(haresources)}, TOML: File{Data: []byte(toml)},
		NodeInfo: File{Err: fs.ErrNotExist},
	}
	if toml == "" {
		files.TOML.Err = fs.ErrNotExist
	}
	c, probs := Parse(files)
	return c, append(probs, Check(c, lab{})...)
}

// report is what a person is told, one string per problem.
func report(p Problems) []string {
	var out []string
	for _, x := range p.Report() {
		out = append(out, x.Severity.String()+" "+x.String())
	}
	return out
}

func TestMessages(t *testing.T) {
	for _, tt := range []struct {
		name, hacf, auth, haresources, toml string
		want                                []string
	}{
		{name: "clean", haresources: "node1 192.0.2.1\n"},
		{name: "seconds suffix", hacf: goodHACF + "deadtime 30s\n", want: []string{
			`ERROR /etc/ha.d/ha.cf:5:10: deadtime 30s, "30s" has an unknown unit "s", write seconds (2 or 0.5) or milliseconds (500ms)`}},
		{name: "misspelt directive", hacf: goodHACF + "  deadtimes 30 # x\n", want: []string{
			`ERROR /etc/ha.d/ha.cf:5:3: unknown directive "deadtimes", names are case-sensitive and stand alone before a blank, write "deadtime"`}},
		{name: "equals sign", hacf: goodHACF + "deadtime=30\n", want: []string{
			`ERROR /etc/ha.d/ha.cf:5:1: unknown directive "deadtime=30", names are case-sensitive and stand alone before a blank, put a blank between name and value`}},
		{name: "column of the second value", hacf: goodHACF + "bcast eth1, eth7\n", want: []string{
			`ERROR /etc/ha.d/ha.cf:5:13: bcast eth7, there is no such interface, name an interface that is up when heartbeat starts (ip -4 addr)`}},
		{name: "Pacemaker", hacf: goodHACF + "crm on\n", want: []string{
			`ERROR /etc/ha.d/ha.cf:5:5: crm on, this program manages resources from haresources only, remove the line, or run Pacemaker on its own cluster layer`}},
		{name: "watchdog", hacf: goodHACF + "watchdog /dev/null\n"},
		{name: "watchdog that is not there", hacf: goodHACF + "watchdog /dev/nowatchdog\n", want: []string{
			`WARN /etc/ha.d/ha.cf:5:10: watchdog /dev/nowatchdog, file does not exist: nothing resets this machine when heartbeat hangs, load the device's driver (modprobe softdog) or name another one`}},
		{name: "several env values", hacf: goodHACF + "env A=1 B=2\n"},
		{name: "3.0.6 crashes on it", hacf: goodHACF + "ucast\n", want: []string{
			`ERROR /etc/ha.d/ha.cf:5:1: ucast without interface, it takes INTERFACE PEER, as in: ucast eth0 192.168.1.2, add what is missing`}},
		{name: "udpport too late", hacf: goodHACF + "udpport 700\n", want: []string{
			`WARN /etc/ha.d/ha.cf:5:9: udpport stands after a media line, it acts only on the media lines below it, move it above the first media line`}},
		{name: "third node", hacf: goodHACF + "node node3\n", want: []string{
			`WARN /etc/ha.d/ha.cf:5:6: more than two nodes, haresources mode moves groups between two nodes only, keep two`}},
		{name: "weak key beside a strong one", auth: goodAuth + "3 crc\n", want: []string{
			`WARN /etc/ha.d/authkeys:3:1: key 3 is crc, anybody on the network can forge packets with it, remove it`}},
		{name: "crc on a network", auth: "auth 1\n1 crc\n", want: []string{
			`WARN /etc/ha.d/authkeys:2:1: packets are signed with crc, anybody on the network of eth0 can take the cluster over, write sha1 and a key; crc is for serial lines alone`}},
		{name: "crc on a serial line", hacf: "logfile /x\nnode node1 node2\nserial /dev/null\nauto_failback on\n", auth: "auth 1\n1 crc\n"},
		{name: "sha256", auth: "auth 1\n1 sha256 k\n", want: []string{
			`WARN /etc/ha.d/authkeys:2:1: method sha256, heartbeat 3.0.6 cannot read this file, even when the key is unused, keep it only when both nodes run this program`}},
		{name: "key before auth", auth: "1 sha1 k\nauth 1\n", want: []string{
			`ERROR /etc/ha.d/authkeys:2:1: auth 1, its line stands before the auth line, move the auth line to the top`}},
		{name: "misspelt node", haresources: "node1 a\nnoed2 b\n", want: []string{
			`ERROR /etc/ha.d/haresources:2:1: unknown node "noed2", ha.cf has no such node, write node2`}},
		{name: "no node", haresources: "IPaddr::192.0.2.1 b\n", want: []string{
			`ERROR /etc/ha.d/haresources:1:1: unknown node "IPaddr::192.0.2.1", ha.cf has no such node, begin the line with the preferred node, or end the line before with a backslash`}},
		{name: "misspelt type", haresources: "node1 \\\n  a IPAddr::192.0.2.1\n", want: []string{
			`WARN /etc/ha.d/haresources:2:5: resource type IPAddr, no script has that name; names are case-sensitive, write IPaddr`}},
		{name: "the administrator's script of a similar name", haresources: "node1 Ipaddr::192.0.2.1\n"},
		{name: "duplicate key", haresources: "node1 a b\nnode2 a c\n", want: []string{
			`WARN /etc/ha.d/haresources:2:7: group a is there twice, line 1 has the same first resource, and a group is found by it, give each line a first resource of its own`}},
		{name: "key inside another line", haresources: "node1 a b\nnode2 c a\n", want: []string{
			`WARN /etc/ha.d/haresources:2:9: a is the key of a group, too, line 1 begins with it; moving that group selects this line as well, let it stand in one place`}},
		{name: "comment on a continued line", haresources: "node1 a \\\n b # c\n", want: []string{
			`WARN /etc/ha.d/haresources:2:4: comment on a continued line, heartbeat 3.0.6 takes its words for resources, put it on a line of its own, above`}},
		{name: "unknown kind of guard", toml: "[guard]\naddress_lifetime = \"on\"\naddress_conflict = \"\"\n", want: []string{
			`ERROR /etc/ha.d/heartbeat.toml:2:1: guard.address_lifetime, there is no such choice, write "auto" or "off"`,
			`ERROR /etc/ha.d/heartbeat.toml:3:1: guard.address_conflict, there is no such choice, write "warn", "refuse" or "off"`}},
		{name: "fencing", toml: "[fencing]\nat_start = \"no\"\n[failure]\nstop = \"panic\"\n[[fence]]\nnode = \"node2\"\nagent = \"fence_dummy\"\n" +
			"[[fence]]\nnode = \"node7\"\nagent = \"fence_none\"\naction = \"on\"\ntimeout = 0.5\noptions = { action = \"off\", x = 1.5, \"a b\" = 1, y = \"\"\"1\n2\"\"\" }\n", want: []string{
			`ERROR /etc/ha.d/heartbeat.toml:2:1: fencing.at_start, there is no such choice, write "reset" or "wait"`,
			`ERROR /etc/ha.d/heartbeat.toml:4:1: failure.stop, there is no such choice, write "block" or "reboot"`,
			`ERROR /etc/ha.d/heartbeat.toml:8:3: fence.node "node7", no node line of ha.cf names it, name the node that the device resets`,
			`ERROR /etc/ha.d/heartbeat.toml:8:3: fence.action "on", a device switches off, or off and on, write "reboot" or "off"`,
			`ERROR /etc/ha.d/heartbeat.toml:8:3: fence.timeout, it is at least a second, write "60s"`,
			`ERROR /etc/ha.d/heartbeat.toml:8:3: option "a b", an option's name has letters, digits, - and _, see the agent's manual page`,
			`ERROR /etc/ha.d/heartbeat.toml:8:3: option action, the action is given by the table, write action beside agent`,
			`ERROR /etc/ha.d/heartbeat.toml:8:3: option x, an agent reads a text, a whole number, true or false, write it so`,
			`ERROR /etc/ha.d/heartbeat.toml:8:3: option y, a value is one line of at most 1000 bytes, shorten it`,
			`ERROR /etc/ha.d/heartbeat.toml:8:3: fence.agent fence_none, there is no program /usr/sbin/fence_none, install the package fence-agents, or correct the name`,
			`WARN /etc/ha.d/heartbeat.toml:5:3: no fence table for node node1, when it dies its resources are taken without a reset, add one for each node`}},
		{name: "unknown key of a fence", toml: "[[fence]]\nnode = \"node2\"\nagent = \"fence_dummy\"\nlevel = 1\n", want: []string{
			`ERROR /etc/ha.d/heartbeat.toml:4:1: unknown key "fence.level", it would have no effect, remove it`,
			`WARN /etc/ha.d/heartbeat.toml:1:3: no fence table for node node1, when it dies its resources are taken without a reset, add one for each node`}},
		{name: "unknown key", toml: "[announce]\nburts = 3\n", want: []string{
			`ERROR /etc/ha.d/heartbeat.toml:2:1: unknown key "announce.burts", it would have no effect, write burst`}},
		{name: "key after the wrong table", toml: "control_socket = \"/x\"\n[scripts]\nlog_format = \"text\"\n", want: []string{
			`ERROR /etc/ha.d/heartbeat.toml:3:1: unknown key "scripts.log_format", it would have no effect, write log_format`}},
		{name: "bad duration", toml: "[scripts]\n\nstart = \"soon\"\n", want: []string{
			`ERROR /etc/ha.d/heartbeat.toml:3:10: scripts.start, "soon" is no span of time: write seconds (2) or a number with a unit ("200ms", "2s", "10m"), see the sample file`}},
		{name: "bad value", toml: "log_format = \"xml\"\n", want: []string{
			`ERROR /etc/ha.d/heartbeat.toml:1:1: log_format, there is no such format, write "classic", "text" or "json"`}},
		{name: "everything at once", hacf: goodHACF + "frob\n", auth: "1 crc\n", haresources: "x y\n", toml: "z = 1\n", want: []string{
			`ERROR /etc/ha.d/ha.cf:5:1: unknown directive "frob", names are case-sensitive and stand alone before a blank, remove the line`,
			`ERROR /etc/ha.d/authkeys: no auth line, nothing says which key signs, begin the file with: auth 1`,
			`ERROR /etc/ha.d/heartbeat.toml:1:1: unknown key "z", it would have no effect, remove it`,
			`ERROR /etc/ha.d/haresources:1:1: unknown node "x", ha.cf has no such node, write a node of ha.cf`,
			`WARN /etc/ha.d/authkeys:1:1: key 1 is crc, anybody on the network can forge packets with it, remove it`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.hacf == "" {
				tt.hacf = goodHACF
			}
			if tt.auth == "" {
				tt.auth = goodAuth
			}
			_, probs := load(tt.hacf, tt.auth, tt.haresources, tt.toml)
			if diff := cmp.Diff(tt.want, report(probs)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestValues checks what a directive does to the Config.
func TestValues(t *testing.T) {
	for _, tt := range []struct {
		hacf string
		got  func(*Config) any
		want any
	}{
		{"", func(c *Config) any {
			return []time.Duration{c.Keepalive, c.Deadtime, c.Warntime, c.Initdead, c.Deadping}
		},
			[]time.Duration{time.Second, 30 * time.Second, 15 * time.Second, 30 * time.Second, 30 * time.Second}},
		{"deadtime 5", func(c *Config) any { return c.Initdead }, 12 * time.Second},
		{"deadtime 6", func(c *Config) any { return c.Initdead }, 12 * time.Second},
		{"deadtime 8", func(c *Config) any { return c.Initdead }, 16 * time.Second},
		{"deadtime 10", func(c *Config) any { return c.Initdead }, 20 * time.Second},
		{"deadtime 11", func(c *Config) any { return c.Initdead }, 11 * time.Second},
		{"keepalive 1.2.3", func(c *Config) any { return c.Keepalive }, 1200 * time.Millisecond},
		{"keepalive 500MSEC", func(c *Config) any { return c.Keepalive }, 500 * time.Millisecond},
		{"keepalive 1500us", func(c *Config) any { return c.Keepalive }, 2 * time.Millisecond},
		{"keepalive 1 2", func(c *Config) any { return c.Keepalive }, 2 * time.Second},
		{"udpport 700\nucast eth1 192.0.2.2\nudpport 800\nbcast eth1", func(c *Config) any {
			return []int{c.Media[0].Port, c.Media[1].Port, c.Media[2].Port, c.UDPPort}
		}, []int{694, 700, 800, 800}},
		{"serial /dev/null\nbaud 9600\nserial /dev/ttyS0", func(c *Config) any {
			return []int{c.Media[1].Baud, c.Media[2].Baud}
		}, []int{19200, 9600}},
		{"mcast eth1 225.0.0.1 1694 2 1", func(c *Config) any {
			m := c.Media[1]
			m.Pos = Pos{}
			return m
		}, Medium{Kind: "mcast", Interface: "eth1", Addr: "225.0.0.1", Port: 1694, TTL: 2, Loop: true}},
		{"auto_failback no", func(c *Config) any { return c.Failback }, cluster.FailbackOff},
		{"nice_failback on", func(c *Config) any { return c.Failback }, cluster.FailbackOff},
		{"auto_failback legacy\nnice_failback off", func(c *Config) any { return c.Failback }, cluster.FailbackLegacy},
		{"respawn hacluster  /bin/true -a b", func(c *Config) any { return c.Respawn },
			[]Client{{User: "hacluster", Command: "/bin/true -a b"}}},
		{"apiauth foo uid=root,hacluster gid=haclient", func(c *Config) any { return c.APIAuth },
			[]APIAuth{{Name: "foo", UIDs: []string{"root", "hacluster"}, GIDs: []string{"haclient"}}}},
		{"apiauth ipfail uid=root", func(c *Config) any { a, _ := c.ClientAuth("ipfail"); return a.UIDs }, []string{"root"}},
		{"", func(c *Config) any { a, _ := c.ClientAuth("anon"); return a.GIDs }, []string{"haclient"}},
		{"stonith_host * meatware node1 node2", func(c *Config) any { return c.Stonith },
			[]Stonith{{Host: "*", Type: "meatware", Params: "node1 node2"}}},
		{"env A=b C=d=e", func(c *Config) any { return c.Env }, [][2]string{{"A", "b"}, {"C", "d=e"}}},
		{"ping_group g 192.0.2.1 192.0.2.2", func(c *Config) any { return c.PingNodes },
			[]PingNode{{Name: "g", Hosts: []string{"192.0.2.1", "192.0.2.2"}, Group: true}}},
		{"logfacility local0\nsyslogmsgfmt no\ndebug 3\nmsgfmt netstring", func(c *Config) any {
			return []any{c.LogFacility, c.LegacyLogFormat, c.Debug, c.NetstringOnly}
		}, []any{"local0", true, 3, true}},
		{"hbgenmethod time\nuuidfrom nodename\nrealtime off\nrtprio 7\nmemreserve 10\ncoredumps n\ncoreroot /c", func(c *Config) any {
			return []any{c.GenerationFromTime, c.UUIDFromName, c.Realtime, c.RTPrio, c.MemReserveKB, c.CoreDumps, c.CoreRoot}
		}, []any{true, true, false, 7, 10, false, "/c"}},
		{"max_rexmit_delay 10\nlog_badpack off\nhopfudge 2\nwatchdog /dev/watchdog\nconn_logd_time 5\ncluster c", func(c *Config) any {
			return []any{c.MaxRexmitDelay, c.LogBadPacket, c.HopFudge, c.Watchdog, c.Cluster}
		}, []any{10 * time.Millisecond, false, 2, "/dev/watchdog", "c"}},
	} {
		c, probs := load(goodHACF+tt.hacf+"\n", goodAuth, "", "")
		if diff := cmp.Diff(tt.want, tt.got(c)); diff != "" {
			t.Errorf("%q (-want +got):\n%s%v", tt.hacf, diff, report(probs))
		}
	}
}

// TestServicePort: without udpport the port is that of service ha-cluster.
func TestServicePort(t *testing.T) {
	c, _ := load(goodHACF+"udpport 800\nbcast eth1\n", goodAuth, "", "")
	Check(c, lab{service: map[string]int{"ha-cluster": 777}})
	if c.Media[0].Port != 777 || c.Media[1].Port != 800 || c.UDPPort != 800 {
		t.Errorf("ports %d %d %d", c.Media[0].Port, c.Media[1].Port, c.UDPPort)
	}
	c, _ = load(goodHACF, goodAuth, "", "")
	Check(c, lab{service: map[string]int{"ha-cluster": 777}})
	if v, _ := c.Param("udpport"); v != "777" || c.UDPPort != 777 {
		t.Errorf("udpport %q, %d", v, c.UDPPort)
	}
}

func TestNodeInfo(t *testing.T) {
	c, probs := Parse(Files{HACF: File{Data: []byte(goodHACF)}, AuthKeys: File{Data: []byte(goodAuth), Mode: 0o600},
		TOML: File{Err: fs.ErrNotExist}, NodeInfo: File{Data: []byte("NODE2\nx\n")}})
	if probs = append(probs, Check(c, lab{})...); c.Self != "node2" || probs.Failed() {
		t.Errorf("self %q, %v", c.Self, report(probs))
	}
}

func TestExitCodeOfMissingRight(t *testing.T) {
	_, probs := Parse(Files{HACF: File{Err: &fs.PathError{Op: "open", Path: "ha.cf", Err: fs.ErrPermission}}, TOML: File{Err: fs.ErrNotExist}})
	if probs.ExitCode() != 4 {
		t.Errorf("exit code %d", probs.ExitCode())
	}
}

func TestHAResources(t *testing.T) {
	c, probs := load(goodHACF, goodAuth, "# comment\r\n\n NODE1 192.0.2.1/24/eth0:1 drbddisk::data \\\r\n"+
		"\tFilesystem::/dev/drbd0::/data::ext4 web\\\nserver\nnode2\tIPaddr2::192.0.2.2 # tail\n", "")
	want := []cluster.Group{
		{Key: "192.0.2.1/24/eth0:1", Node: "node1", Resources: []string{"192.0.2.1/24/eth0:1", "drbddisk::data",
			"Filesystem::/dev/drbd0::/data::ext4", "webserver"}},
		{Key: "IPaddr2::192.0.2.2", Node: "node2", Resources: []string{"IPaddr2::192.0.2.2"}},
	}
	if diff := cmp.Diff(want, c.Groups); diff != "" {
		t.Errorf("(-want +got):\n%s%v", diff, report(probs))
	}
}

func TestParseResource(t *testing.T) {
	for entry, want := range map[string][]string{
		"192.0.2.1":                     {"IPaddr", "192.0.2.1"},
		"192.0.2.1/24/eth0/192.0.2.255": {"IPaddr", "192.0.2.1/24/eth0/192.0.2.255"},
		"192.0.2.1/24/192.0.2.255":      {"IPaddr", "192.0.2.1/24/192.0.2.255"},
		"IPaddr::192.0.2.1":             {"IPaddr", "192.0.2.1"},
		"Filesystem::/a::/b::ext4":      {"Filesystem", "/a", "/b", "ext4"},
		"MailTo::a@b::hello":            {"MailTo", "a@b", "hello"},
		"nginx":                         {"nginx"},
		"x::":                           {"x", ""},
		"1.2.3":                         {"1.2.3"},
		"1.2.3.x":                       {"1.2.3.x"},
		"10gen.2.3.4":                   {"IPaddr", "10gen.2.3.4"},
	} {
		typ, args := ParseResource(entry)
		if got := append([]string{typ}, args...); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", entry, got, want)
		}
	}
}

func TestOrigins(t *testing.T) {
	c, _ := load(goodHACF+"keepalive 2\n", goodAuth, "node1 a\n", "log_format = \"json\"\n")
	got := map[string]Origin{}
	for _, o := range c.Origins() {
		got[o.Name] = o
		if strings.Contains(o.Value, "secret") {
			t.Errorf("tells the key: %v", o)
		}
	}
	for name, want := range map[string]string{
		"keepalive": "2 /etc/ha.d/ha.cf:5:11", "deadtime": "30000ms default", "warntime": "15000ms derived: half of deadtime",
		"bcast": "eth0 (port 694) /etc/ha.d/ha.cf:3:7", "log_format": "json /etc/ha.d/heartbeat.toml:1:1",
		"scripts.start": "10m0s default", "group a": "node1: a /etc/ha.d/haresources:1:1",
	} {
		if o := got[name]; o.Value+" "+o.From != want {
			t.Errorf("%s: %q, want %q", name, o.Value+" "+o.From, want)
		}
	}
}

func TestDigest(t *testing.T) {
	digest := func(hacf, auth, haresources string) string {
		c, _ := load(hacf, auth, haresources, "")
		return c.Digest()
	}
	base := digest(goodHACF, goodAuth, "node1 192.0.2.1 a\nnode2 b\n")
	for _, same := range []string{
		digest("logfile /y\nnode node2\nnode NODE1\nucast eth1 192.0.2.9\nauto_failback yes\nkeepalive 1000ms\n", goodAuth, "node1 192.0.2.1 a\nnode2 b\n"),
		digest(goodHACF, "# c\nauth 1\n1  sha1\tsecret x\n", "NODE2 b # c\nnode1 IPaddr::192.0.2.1 \\\n a\n"),
	} {
		if same != base {
			t.Error("differs though both mean the same")
		}
	}
	for _, other := range []string{
		digest(goodHACF+"deadtime 20\n", goodAuth, "node1 192.0.2.1 a\nnode2 b\n"),
		digest(goodHACF, "auth 1\n1 sha1 secreu\n", "node1 192.0.2.1 a\nnode2 b\n"),
		digest(goodHACF, goodAuth, "node1 192.0.2.1 a\nnode1 b\n"),
		digest(goodHACF, goodAuth, "node1 a 192.0.2.1\nnode2 b\n"),
	} {
		if other == base {
			t.Error("equal though one differs")
		}
	}
}

func TestTOMLDefaultsAndRoundTrip(t *testing.T) {
	c, _ := load(goodHACF, goodAuth, "", "")
	if !reflect.DeepEqual(c.TOML, defaultTOML()) {
		t.Errorf("without a file: %+v", c.TOML)
	}
	c, probs := load(goodHACF, goodAuth, "", "[announce]\ninterval = 2\nrefresh = 1.5\n[scripts]\nstop = \"90s\"\n")
	if c.TOML.Announce.Interval != Duration(2*time.Second) || c.TOML.Announce.Refresh != Duration(1500*time.Millisecond) ||
		c.TOML.Scripts.Stop != Duration(90*time.Second) || c.TOML.Announce.Burst != 5 {
		t.Errorf("%+v %v", c.TOML, report(probs))
	}
	rapid.Check(t, func(t *rapid.T) {
		span := rapid.Custom(func(t *rapid.T) Duration {
			return Duration(rapid.Int64Range(int64(time.Second), int64(timeMax)).Draw(t, "span"))
		})
		want := TOML{ControlSocket: "/" + rapid.StringMatching(`[ -~]{0,40}`).Draw(t, "path"), LogFormat: "json",
			Announce: Announce{rapid.IntRange(1, burstMax).Draw(t, "burst"), span.Draw(t, "interval"), span.Draw(t, "refresh")},
			Scripts:  Scripts{span.Draw(t, "start"), span.Draw(t, "stop"), span.Draw(t, "status")},
			Guard:    Guard{rapid.SampledFrom([]string{"auto", "off"}).Draw(t, "lifetime"), rapid.SampledFrom([]string{"warn", "refuse", "off"}).Draw(t, "conflict")},
			Fencing:  Fencing{span.Draw(t, "delay"), rapid.SampledFrom([]string{"reset", "wait"}).Draw(t, "at start")},
			Failure:  Failure{rapid.SampledFrom([]string{"block", "reboot"}).Draw(t, "failure")},
			Fences: []Fence{{Node: "node2", Agent: "fence_dummy", Action: "off", Timeout: span.Draw(t, "timeout"),
				Options: map[string]any{"a": int64(1), "b": true, "c": "x y"}}}}
		text, err := FormatTOML(want)
		if err != nil {
			t.Fatal(err)
		}
		c, probs := load(goodHACF, goodAuth, "", text)
		if !reflect.DeepEqual(c.TOML, want) || probs.Failed() {
			t.Fatalf("%+v became %+v\n%s%v", want, c.TOML, text, report(probs))
		}
	})
}

func TestRoundTrip(t *testing.T) {
	token := rapid.StringMatching(`[!"$-\[\]-~]{1,12}`)
	rapid.Check(t, func(t *rapid.T) {
		groups := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) cluster.Group {
			r := rapid.SliceOfN(token, 1, 5).Draw(t, "resources")
			return cluster.Group{Key: r[0], Node: rapid.SampledFrom([]string{"node1", "node2"}).Draw(t, "node"), Resources: r}
		}), 0, 5).Draw(t, "groups")
		auth := Auth{Outbound: 3, Keys: []Key{{3, rapid.SampledFrom([]string{"md5", "sha1", "sha512"}).Draw(t, "method"),
			rapid.StringMatching(`[!-~]{1,20}`).Draw(t, "secret")}, {0, "crc", ""}}}
		c, probs := load(goodHACF, FormatAuthKeys(auth), FormatHAResources(groups), "")
		if !reflect.DeepEqual(auth, c.Auth) || !(len(groups) == 0 && len(c.Groups) == 0 || reflect.DeepEqual(groups, c.Groups)) || probs.Failed() {
			t.Fatalf("%v %v became %v %v: %v", groups, auth, c.Groups, c.Auth, report(probs))
		}
	})
}

// TestFencePassword: a device's password is in no output, and a file that others
// can read is named.
func TestFencePassword(t *testing.T) {
	toml := "[[fence]]\nnode = \"node1\"\nagent = \"fence_dummy\"\n[[fence]]\nnode = \"node2\"\nagent = \"fence_dummy\"\noptions = { ip = \"192.0.2.1\", password = \"swordfish\", passwd_script = \"/root/tell\" }\n"
	files := Files{HACF: File{Data: []byte(goodHACF)}, AuthKeys: File{Data: []byte(goodAuth), Mode: 0o600}, HAResources: File{}, NodeInfo: File{Err: fs.ErrNotExist},
		TOML: File{Data: []byte(toml), Mode: 0o600}}
	c, probs := Parse(files)
	if len(report(probs)) != 0 {
		t.Errorf("mode 0600: %v", report(probs))
	}
	if got := c.Fences("node2")[0]; got.Input("off") != "action=off\nip=192.0.2.1\npasswd_script=/root/tell\npassword=swordfish\n" || fmt.Sprint(got.Secrets()) != "[swordfish]" {
		t.Errorf("%q, secrets %v", got.Input("off"), got.Secrets())
	}
	for _, s := range c.Origins() {
		if strings.Contains(s.Value, "swordfish") {
			t.Errorf("show tells the password: %+v", s)
		}
	}
	files.TOML.Mode = 0o640
	_, probs = Parse(files)
	want := "WARN /etc/ha.d/heartbeat.toml:4:3: a fencing device's password, the file has mode 0640: others than root can read it, chmod 600 /etc/ha.d/heartbeat.toml"
	if got := report(probs); len(got) != 1 || got[0] != want {
		t.Errorf("mode 0640: %q", got)
	}
}
