package config

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"
)

// File is one file as it was read: its bytes and mode, or why not.
type File struct {
	Data []byte
	Mode fs.FileMode
	Err  error
}

// Files are the files of a configuration directory. A missing file has an Err
// that is fs.ErrNotExist.
type Files struct {
	Dir         string // "/etc/ha.d" when empty
	HACF        File
	AuthKeys    File
	HAResources File
	TOML        File // heartbeat.toml; may be missing
	NodeInfo    File // nodeinfo: the node's name in its first line; may be missing
}

// written is the text of a directive and where it stands.
type written struct {
	text string
	pos  Pos
}

// Parse reads all files and applies the defaults. It touches nothing on the
// machine; what it found is to be completed by Check. The Config is complete
// even when there are errors, for show and check.
func Parse(files Files) (*Config, Problems) {
	dir := strings.TrimRight(files.Dir, "/")
	if dir == "" {
		dir = "/etc/ha.d"
	}
	c := &Config{
		Dir: dir, Cluster: "linux-ha",
		Keepalive: time.Second, Deadtime: 30 * time.Second, MaxRexmitDelay: 250 * time.Millisecond,
		HopFudge: 1, UDPPort: 694, Baud: 19200, LogBadPacket: true, Realtime: true, RTPrio: 1,
		MemReserveKB: 6500, CoreDumps: true,
		written: map[string]written{}, derived: map[string]string{}, tomlPos: map[string]Pos{},
	}
	if files.NodeInfo.Err == nil && files.NodeInfo.Data != nil {
		name, _, _ := strings.Cut(string(files.NodeInfo.Data), "\n")
		c.Self, c.selfFromFile = strings.ToLower(strings.TrimRight(name, "\r")), true
	}
	probs := parseHACF(c, files.HACF)
	probs = append(probs, parseAuthKeys(c, files.AuthKeys)...)
	probs = append(probs, parseHAResources(c, files.HAResources)...)
	probs = append(probs, parseTOML(c, files.TOML)...)
	return c, probs
}

// Check asks the machine about everything that Parse could not know, sets
// c.Self, and applies the port of service ha-cluster. Its problems complete
// those of Parse.
func Check(c *Config, h Host) Problems {
	var probs Problems
	if !c.selfFromFile {
		c.Self = strings.ToLower(h.NodeName())
	}
	if port := h.ServicePort("ha-cluster"); port > 0 {
		for _, i := range c.defaultPort {
			if c.Media[i].Port != 0 {
				c.Media[i].Port = port
			}
		}
		if !c.portSet {
			c.UDPPort = port
			c.derived["udpport"] = fmt.Sprint(port)
			c.buildParams()
		}
	}
	for _, ask := range c.questions {
		probs = append(probs, ask(h)...)
	}
	if !slices.Contains(c.Nodes, c.Self) {
		pos := Pos{File: c.path("ha.cf")}
		fix := "add: node " + c.Self
		if len(c.nodePos) > 0 {
			pos = c.nodePos[len(c.nodePos)-1]
		}
		if c.selfFromFile {
			fix += ", or correct " + c.path("nodeinfo")
		} else if short, _, found := strings.Cut(c.Self, "."); found && slices.Contains(c.Nodes, short) {
			fix = "write " + c.Self + " for " + short + ": the name must be that of uname -n"
		}
		probs = append(probs, Problem{Pos: pos, Severity: Error, at: order{phaseChecks, checkSelf, 0},
			What: fmt.Sprintf("this node, %q, is not a node of the cluster", c.Self), Why: "no node line names it", Fix: fix,
			Classic: []string{fmt.Sprintf("ERROR: Current node [%s] not in configuration!", c.Self),
				"info: By default, cluster nodes are named by `uname -n` and must be declared with a 'node' directive in the ha.cf file.",
				"info: See also: http://linux-ha.org/wiki/Ha.cf#node_directive"}})
	}
	return append(probs, misspelt(c, h)...)
}

// Load reads the files of dir and does all of Parse and Check.
func Load(dir string, h Host) (*Config, Problems) {
	c, probs := Parse(ReadFiles(dir))
	return c, append(probs, Check(c, h)...)
}
