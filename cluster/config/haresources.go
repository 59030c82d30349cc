package config

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"heartbeat/cluster"
)

// entryPos are the places of a group's words, beside Config.Groups.
type entryPos struct {
	node      Pos
	resources []Pos
}

// ParseResource takes an entry of a group apart: its type and arguments. A bare
// address stands for IPaddr with that argument.
func ParseResource(entry string) (typ string, args []string) {
	parts := strings.Split(entry, "::")
	if bareAddress(parts[0]) {
		return "IPaddr", parts
	}
	return parts[0], parts[1:]
}

// bareAddress matches the shell pattern [0-9]*.[0-9]*.[0-9]*.[0-9]*: an IPv4
// address with or without mask, interface and broadcast behind it.
func bareAddress(s string) bool {
	digit := func(s string) bool { return s != "" && s[0] >= '0' && s[0] <= '9' }
	if !digit(s) {
		return false
	}
	for range 3 {
		// The star takes anything, so the next dot that a digit follows will do.
		i := 1
		for ; i < len(s); i++ {
			if s[i] == '.' && digit(s[i+1:]) {
				break
			}
		}
		if i >= len(s) {
			return false
		}
		s = s[i+1:]
	}
	return true
}

// FormatHAResources writes groups as a haresources file that reads back as
// the same groups.
func FormatHAResources(groups []cluster.Group) string {
	var b strings.Builder
	for _, g := range groups {
		b.WriteString(g.Node)
		for _, r := range g.Resources {
			b.WriteByte(' ')
			b.WriteString(r)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// logicalLine is a line of haresources after joining continued ones.
type logicalLine struct {
	words     []string
	pos       []Pos
	continued []Pos // comments on lines joined to an earlier one
	broken    []Pos // backslashes that a carriage return hides from 3.0.6
}

// logicalLines strips comments, joins lines that end with a backslash (nothing
// is put between them) and splits at blanks and tabs.
func logicalLines(path, text string) []logicalLine {
	var lines []logicalLine
	var cur logicalLine
	var buf []byte
	var at []Pos
	joined := false
	flush := func() {
		for _, w := range fields(string(buf), " \t\r\x00") {
			cur.words = append(cur.words, w.text)
			cur.pos = append(cur.pos, at[w.col-1])
		}
		if len(cur.words) > 0 {
			lines = append(lines, cur)
		}
		cur, buf, at, joined = logicalLine{}, nil, nil, false
	}
	for i, raw := range strings.Split(text, "\n") {
		trimmed := strings.TrimSuffix(raw, "\r")
		if c := strings.IndexByte(trimmed, '#'); c >= 0 {
			if joined && strings.TrimSpace(trimmed[c:]) != "" {
				cur.continued = append(cur.continued, Pos{path, i + 1, c + 1})
			}
			trimmed = trimmed[:c]
		}
		more := strings.HasSuffix(trimmed, "\\")
		if more {
			trimmed = trimmed[:len(trimmed)-1]
			if strings.HasSuffix(raw, "\r") {
				cur.broken = append(cur.broken, Pos{path, i + 1, len(trimmed) + 1})
			}
		}
		for j := range len(trimmed) {
			buf = append(buf, trimmed[j])
			at = append(at, Pos{path, i + 1, j + 1})
		}
		joined = more
		if !more {
			flush()
		}
	}
	flush()
	return lines
}

func parseHAResources(cfg *Config, f File) Problems {
	path, classic := cfg.path("haresources"), classicPath(cfg.Dir, "haresources")
	if f.Err != nil {
		return Problems{cannotOpen(f, "Cannot open resources file [%s]", classic, Pos{File: path}, order{phaseHAResources, 0, 0})}
	}
	var probs Problems
	add := func(pos Pos, s Severity, lines []string, what, why, fix string) {
		probs = append(probs, Problem{Pos: pos, Severity: s, What: what, Why: why, Fix: fix, Classic: lines,
			at: order{phaseHAResources, pos.Line, pos.Col}})
	}
	badNode := false
	for _, l := range logicalLines(path, string(f.Data)) {
		for _, pos := range l.continued {
			add(pos, Warn, nil, "comment on a continued line", "heartbeat 3.0.6 takes its words for resources", "put it on a line of its own, above")
		}
		for _, pos := range l.broken {
			add(pos, Warn, nil, "carriage return behind the backslash", "heartbeat 3.0.6 does not join this line with the next", "convert the file: sed -i 's/\\r$//' "+path)
		}
		g := cluster.Group{Node: strings.ToLower(l.words[0]), Resources: l.words[1:]}
		if !slices.Contains(cfg.Nodes, g.Node) {
			var lines []string
			if !badNode { // the original stops at the first
				lines = []string{fmt.Sprintf("ERROR: Bad nodename in %s [%s]", classic, l.words[0])}
				badNode = true
			}
			fix := "write a node of ha.cf"
			if near := nearest(g.Node, cfg.Nodes); near != "" {
				fix = "write " + near
			} else if strings.Contains(l.words[0], "::") || bareAddress(l.words[0]) {
				fix = "begin the line with the preferred node, or end the line before with a backslash"
			}
			add(l.pos[0], Error, lines, fmt.Sprintf("unknown node %q", l.words[0]), "ha.cf has no such node", fix)
		}
		if len(g.Resources) == 0 {
			add(l.pos[0], Warn, nil, fmt.Sprintf("node %s without resources", g.Node), "the line does nothing", "remove it, or add resources")
			continue
		}
		g.Key = g.Resources[0]
		cfg.Groups = append(cfg.Groups, g)
		cfg.groupPos = append(cfg.groupPos, entryPos{l.pos[0], l.pos[1:]})
	}
	return append(probs, groupWarnings(cfg)...)
}

// groupWarnings finds entries that stand in two places. The original finds a
// group by searching for its key as a word in all lines.
func groupWarnings(cfg *Config) Problems {
	var probs Problems
	warn := func(pos Pos, s Severity, what, why, fix string) {
		probs = append(probs, Problem{Pos: pos, Severity: s, What: what, Why: why, Fix: fix,
			at: order{phaseHAResources, pos.Line, pos.Col}})
	}
	keyOf := map[string]int{} // first group with that key
	for i, g := range cfg.Groups {
		if first, twice := keyOf[g.Key]; twice {
			warn(cfg.groupPos[i].resources[0], Warn, fmt.Sprintf("group %s is there twice", g.Key),
				fmt.Sprintf("line %d has the same first resource, and a group is found by it", cfg.groupPos[first].node.Line),
				"give each line a first resource of its own")
			continue
		}
		keyOf[g.Key] = i
	}
	seen := map[string]Pos{}
	for i, g := range cfg.Groups {
		for j, r := range g.Resources {
			pos := cfg.groupPos[i].resources[j]
			if k, isKey := keyOf[r]; isKey && j > 0 {
				warn(pos, Warn, r+" is the key of a group, too", fmt.Sprintf("line %d begins with it; moving that group selects this line as well", cfg.groupPos[k].node.Line),
					"let it stand in one place")
			} else if before, twice := seen[r]; twice && j > 0 {
				warn(pos, Warn, r+" is there twice", fmt.Sprintf("line %d has it, too", before.Line), "let it stand in one place")
			}
			if _, twice := seen[r]; !twice {
				seen[r] = pos
			}
		}
	}
	return probs
}

// knownTypes are the scripts that heartbeat, DRBD and ldirectord install.
var knownTypes = []string{"AudibleAlarm", "Delay", "Filesystem", "ICP", "IPaddr", "IPaddr2", "IPsrcaddr", "IPv6addr",
	"LVM", "LinuxSCSI", "MailTo", "OCF", "Raid1", "SendArp", "ServeRAID", "WAS", "WinPopup", "Xinetd", "apache", "db2",
	"ids", "portblock", "drbddisk", "drbdupper", "ldirectord"}

// misspelt hints at a type that no script has and that nearly is a known one.
func misspelt(cfg *Config, h Host) Problems {
	var probs Problems
	for i, g := range cfg.Groups {
		for j, r := range g.Resources {
			typ, _ := ParseResource(r)
			if typ == "" || slices.Contains(knownTypes, typ) || strings.Contains(typ, "/") {
				continue
			}
			near := nearest(typ, knownTypes)
			if near == "" || len(typ) < 5 && !strings.EqualFold(typ, near) ||
				h.Executable(filepath.Join(cfg.Dir, "resource.d", typ)) || h.Executable(filepath.Join("/etc/init.d", typ)) {
				continue
			}
			pos := cfg.groupPos[i].resources[j]
			probs = append(probs, Problem{Pos: pos, Severity: Warn, What: "resource type " + typ,
				Why: "no script has that name; names are case-sensitive", Fix: "write " + near, at: order{phaseHAResources, pos.Line, pos.Col}})
		}
	}
	return probs
}
