// Package config reads heartbeat's files (ha.cf, haresources, authkeys) and
// heartbeat.toml into one Config. Parsing touches nothing on the machine; what
// needs the machine (interfaces, users, file modes, names) is asked through
// Host in Check. All problems of all files are reported at once, each with its
// place, what is wrong, why, and how to mend it.
package config

import (
	"path"
	"strings"
	"time"

	"heartbeat/cluster"
)

// Config is the whole configuration of a node, with all defaults applied.
type Config struct {
	// Dir is the directory of the files, "/etc/ha.d" unless told otherwise.
	Dir string

	// Cluster is the name of the cluster, "linux-ha" by default.
	Cluster string

	// Self is this node's name, lower case (uname -n, or Dir/nodeinfo).
	// Set by Check.
	Self string
	// Nodes are the normal nodes, lower case, in file order.
	Nodes     []string
	PingNodes []PingNode
	Media     []Medium

	Keepalive      time.Duration
	Deadtime       time.Duration
	Warntime       time.Duration
	Initdead       time.Duration
	Deadping       time.Duration
	MaxRexmitDelay time.Duration

	Failback cluster.Failback
	HopFudge int
	UDPPort  int
	Baud     int
	// NetstringOnly is msgfmt netstring: no inner auth field.
	NetstringOnly bool
	LogBadPacket  bool
	// GenerationFromTime is hbgenmethod time.
	GenerationFromTime bool
	// UUIDFromName is uuidfrom nodename.
	UUIDFromName bool
	Realtime     bool
	RTPrio       int
	MemReserveKB int
	CoreDumps    bool
	CoreRoot     string
	Debug        int

	Logfile     string
	Debugfile   string
	LogFacility string // syslog facility name, "" for none
	UseLogd     bool
	// LegacyLogFormat is syslogmsgfmt false.
	LegacyLogFormat bool

	Watchdog string
	Respawn  []Client // respawn and failfast, file order
	APIAuth  []APIAuth
	Stonith  []Stonith
	Env      [][2]string // env NAME=VALUE, exported as HA_NAME

	// Params are the recorded directives with their text as written and the
	// derived defaults as "<n>ms", in the order in which the original exports
	// them: what `cl_status hbparameter` prints and scripts see as
	// HA_<directive>.
	Params []Param

	// Groups are the lines of haresources.
	Groups []cluster.Group

	Auth Auth

	// TOML is heartbeat.toml, or its defaults when there is no such file.
	TOML TOML

	written map[string]written // recorded directives that ha.cf has
	derived map[string]string  // values worked out for those it lacks
	tomlPos map[string]Pos     // keys of heartbeat.toml, by dotted name

	nodePos  []Pos      // beside Nodes
	groupPos []entryPos // beside Groups
	fencePos []Pos      // beside TOML.Fences

	portSet      bool  // udpport was given
	defaultPort  []int // media above the first udpport: they have the default
	selfFromFile bool  // Self is from nodeinfo
	// questions are what the directives want to know of the machine, in file
	// order.
	questions []func(Host) Problems
}

// PingNode is a ping, ping6 or ping_group directive.
type PingNode struct {
	Name  string
	Hosts []string
	Group bool
	V6    bool
}

// Medium is one path that a media directive names.
type Medium struct {
	// Kind is "bcast", "mcast", "mcast6", "ucast", "ucast6" or "serial".
	Kind string
	// Interface of a UDP medium; device path of a serial one.
	Interface string
	// Port of a UDP medium: the udpport in force at that line.
	Port int
	// Addr is the group of a multicast medium, the peer (name or address) of a
	// unicast one.
	Addr string
	TTL  int
	Loop bool
	// Baud of a serial medium: the baud in force at that line.
	Baud int
	Pos  Pos
}

// Link is the medium's link name: the interface or the device path.
func (m Medium) Link() string { return m.Interface }

// Client is a respawn or failfast line.
type Client struct {
	User     string
	Command  string // rest of the line
	Failfast bool
}

// Clients of the original that are programs of its package and have no program
// here.
const (
	ClientIPFail = "ipfail"
	ClientDopd   = "dopd"
)

// Builtin is the name of the client for which the line stands, if its program
// need not be there: ipfail is built in, dopd is done without. Otherwise empty.
func (c Client) Builtin() string {
	program, _, _ := strings.Cut(strings.ReplaceAll(c.Command, "\t", " "), " ")
	if name := path.Base(program); name == ClientIPFail || name == ClientDopd {
		return name
	}
	return ""
}

// APIAuth is one apiauth line.
type APIAuth struct {
	Name string
	UIDs []string
	GIDs []string
}

// Stonith is a stonith or stonith_host line.
type Stonith struct {
	Host   string // stonith_host: the node that may use it, or "*"; "" for stonith
	Type   string
	Params string // parameters, or the name of the configuration file
}

// Param is one recorded directive.
type Param struct{ Name, Value string }

// Auth is the content of authkeys.
type Auth struct {
	Outbound int
	Keys     []Key // file order
}

// Key is one key line: method crc, md5, sha1, sha256 or sha512.
type Key struct {
	Index  int
	Method string
	Secret string
}

// TOML is what ha.cf cannot say (heartbeat.toml).
type TOML struct {
	// ControlSocket is where hbctl reaches the daemon.
	ControlSocket string `toml:"control_socket"`
	// LogFormat is the format on stderr in the foreground: "classic", "text",
	// "json".
	LogFormat string `toml:"log_format"`
	// Supervise: a daemon in the background has a parent process that starts it
	// again when it dies.
	Supervise bool `toml:"supervise"`
	// Announce is the schedule of gratuitous ARP and neighbour advertisements.
	Announce Announce `toml:"announce"`
	// Fencing, Fences and Failure: how nodes are reset, by what, and when this
	// one restarts itself.
	Fencing Fencing `toml:"fencing"`
	Fences  []Fence `toml:"fence,omitempty"`
	Failure Failure `toml:"failure"`
	// Scripts bounds the time that scripts may take.
	Scripts Scripts `toml:"scripts"`
	// Guard keeps a service address from being up twice.
	Guard Guard `toml:"guard"`
}

// Announce says how often a service address is announced after it was taken.
type Announce struct {
	// Burst packets are sent, the first at once, Interval apart.
	Burst    int      `toml:"burst"`
	Interval Duration `toml:"interval"`
	// Refresh is the pause between later announcements while the address is
	// owned; 0 switches them off.
	Refresh Duration `toml:"refresh"`
}

// Scripts are budgets; the original has none and waits for ever.
type Scripts struct {
	Start  Duration `toml:"start"`
	Stop   Duration `toml:"stop"`
	Status Duration `toml:"status"`
}

// Guard says what watches over the service addresses beside the keepalives.
type Guard struct {
	// AddressLifetime is "auto" or "off": the kernel removes the addresses of a
	// daemon that was killed or hangs before deadtime is over.
	AddressLifetime string `toml:"address_lifetime"`
	// AddressConflict is "warn", "refuse" or "off": what is done about addresses that
	// somebody answers for although their node is silent on all media.
	AddressConflict string `toml:"address_conflict"`
}

// Duration is a span as heartbeat.toml writes it: "2s", "200ms"; a bare number
// means seconds, as it always has in ha.cf.
type Duration time.Duration

// Pos is a place in a file. Line and column count from 1; 0 means the whole
// file.
type Pos struct {
	File      string
	Line, Col int
}
