package config

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"heartbeat/cluster"
)

const (
	mediaMax = 64  // the original's bound; ping nodes count
	nodesMax = 100 // far above the two that haresources mode can use
)

// word is a piece of a line with its column.
type word struct {
	text string
	col  int
}

// line is a directive with its values.
type line struct {
	number int
	name   word
	values []word // split at blanks, tabs and commas
	rest   word   // everything after the name, for whole-line directives
}

// directive is one word of ha.cf.
type directive struct {
	// value is called for every value of the line; each sets it anew.
	value func(p *parser, ln line, v word)
	// whole is called once with the rest of the line as one argument.
	whole func(p *parser, ln line)
	// all is called once with all values.
	all func(p *parser, ln line)
	// unrecorded keeps a value directive out of Params.
	unrecorded bool
}

// parser reads ha.cf from top to bottom: udpport and baud act on later lines.
type parser struct {
	cfg   *Config
	probs Problems

	failed    bool // the value at hand is wrong
	baudSet   bool
	wholeLine bool // a whole-line directive was read: the original nags about baud
	crmSet    bool
	logdSet   bool
	// kept are the kinds of media of which Check has accepted one.
	kept map[string]bool
}

// recorded lists the directives of Params in the original's order, with the
// default text; "" for those without one (or with a derived one).
var recorded = []Param{
	{"cluster", "linux-ha"}, {"hopfudge", "1"}, {"keepalive", "1000ms"}, {"deadtime", "30000ms"},
	{"deadping", ""}, {"initdead", ""}, {"warntime", ""}, {"watchdog", ""}, {"baud", "19200"},
	{"udpport", "694"}, {"logfacility", ""}, {"logfile", ""}, {"debugfile", ""},
	{"auto_failback", "legacy"}, {"rtprio", ""}, {"hbgenmethod", "file"}, {"realtime", "true"},
	{"debug", "0"}, {"msgfmt", "classic"}, {"use_logd", ""}, {"conn_logd_time", "60"},
	{"log_badpack", "true"}, {"syslogmsgfmt", "true"}, {"coredumps", "true"}, {"coreroot", ""},
	{"crmd_spawns_pengine", ""}, {"pacemaker", "false"}, {"autojoin", "none"}, {"uuidfrom", "file"},
	{"compression", "zlib"}, {"compression_threshold", "2"}, {"traditional_compression", "no"},
	{"max_rexmit_delay", "250"}, {"record_config_changes", "on"}, {"record_pengine_inputs", "on"},
	{"enable_config_writes", "on"}, {"memreserve", "6500"}, {"quorum_server", ""},
}

// directives is filled by init because its functions refer to it for hints.
var directives map[string]directive

func init() {
	d := map[string]directive{
		"node": {all: (*parser).node},
		"keepalive": duration(func(c *Config, d time.Duration) bool {
			c.Keepalive = d
			return d > 0
		}),
		"deadtime": duration(func(c *Config, d time.Duration) bool { c.Deadtime = d; return true }),
		"initdead": duration(func(c *Config, d time.Duration) bool { c.Initdead = d; return true }),
		"deadping": duration(func(c *Config, d time.Duration) bool { c.Deadping = d; return true }),
		"warntime": {value: (*parser).warntime},
		"conn_logd_time": duration(func(_ *Config, d time.Duration) bool {
			return d > 0
		}),
		"udpport":       {value: (*parser).udpport},
		"baud":          {value: (*parser).baud},
		"serial":        {all: (*parser).serial},
		"bcast":         {all: (*parser).bcast},
		"udp":           {all: (*parser).bcast},
		"mcast":         {whole: (*parser).mcast},
		"mcast6":        {whole: (*parser).mcast6},
		"ucast":         {whole: (*parser).ucast},
		"ucast6":        {whole: (*parser).ucast6},
		"ping":          {all: (*parser).ping},
		"ping6":         {all: (*parser).ping},
		"ping_group":    {whole: (*parser).pingGroup},
		"auto_failback": {value: (*parser).autoFailback},
		"nice_failback": {value: (*parser).niceFailback, unrecorded: true},
		"logfile":       {value: func(p *parser, _ line, v word) { p.cfg.Logfile = v.text }},
		"debugfile":     {value: func(p *parser, _ line, v word) { p.cfg.Debugfile = v.text }},
		"logfacility":   {value: (*parser).logfacility},
		"use_logd":      {value: (*parser).useLogd},
		"syslogmsgfmt":  boolean(func(c *Config, on bool) { c.LegacyLogFormat = !on }),
		"debug":         {value: byteRange(func(c *Config, n int) { c.Debug = n })},
		"log_badpack":   boolean(func(c *Config, on bool) { c.LogBadPacket = on }),
		"msgfmt": choice("", map[string]func(*Config){
			"classic":   func(c *Config) { c.NetstringOnly = false },
			"netstring": func(c *Config) { c.NetstringOnly = true },
		}),
		"hopfudge": {value: byteRange(func(c *Config, n int) { c.HopFudge = n })},
		"hbgenmethod": choice("ERROR: Illegal hb generation method [%s]", map[string]func(*Config){
			"file": func(c *Config) { c.GenerationFromTime = false },
			"time": func(c *Config) { c.GenerationFromTime = true },
		}),
		"uuidfrom": choice("ERROR: Invalid uuidfrom directive [%s]", map[string]func(*Config){
			"file":     func(c *Config) { c.UUIDFromName = false },
			"nodename": func(c *Config) { c.UUIDFromName = true },
		}),
		"autojoin":         {value: (*parser).setAutojoin},
		"max_rexmit_delay": {value: (*parser).maxRexmitDelay},
		"watchdog":         {value: (*parser).watchdog},
		"respawn":          {whole: (*parser).client},
		"failfast":         {whole: (*parser).client},
		"apiauth":          {whole: (*parser).apiauth},
		"stonith":          {whole: (*parser).stonith},
		"stonith_host":     {whole: (*parser).stonithHost},
		"crm":              {value: (*parser).pacemaker, unrecorded: true},
		"pacemaker":        {value: (*parser).pacemaker},
		"realtime":         boolean(func(c *Config, on bool) { c.Realtime = on }),
		"rtprio":           {value: (*parser).rtprio},
		"memreserve": {value: positive("", "kilobytes to set aside", func(c *Config, n int) {
			c.MemReserveKB = n
		})},
		"coredumps": boolean(func(c *Config, on bool) { c.CoreDumps = on }),
		"coreroot":  {value: (*parser).coreroot},
		"cluster":   {value: func(p *parser, _ line, v word) { p.cfg.Cluster = v.text }},
		"compression": choice("ERROR: Compression module(%s) not found", map[string]func(*Config){
			"zlib": func(*Config) {}, "bz2": func(*Config) {},
		}),
		"compression_threshold": {value: positive(
			"ERROR: set_compression_threshold: compress_threshhold(%s) invalid",
			"kilobytes from which messages are compressed", func(*Config, int) {})},
		"traditional_compression": {value: (*parser).traditionalCompression},
		"env":                     {value: (*parser).env, unrecorded: true},
		"use_apphbd": func() directive {
			d := boolean(func(*Config, bool) {})
			d.unrecorded = true
			return d
		}(),
		"quorum_server":         {value: func(*parser, line, word) {}},
		"record_config_changes": {value: (*parser).pacemakerBoolean},
		"record_pengine_inputs": {value: (*parser).pacemakerBoolean},
		"enable_config_writes":  {value: (*parser).pacemakerBoolean},
		"crmd_spawns_pengine":   {value: (*parser).pacemakerBoolean},
		"crm_daemon_dir":        {value: (*parser).crmDaemonDir, unrecorded: true},
	}
	directives = d
}

// parseHACF fills cfg from the text of ha.cf, then applies the defaults.
func parseHACF(cfg *Config, f File) Problems {
	p := &parser{cfg: cfg, kept: map[string]bool{}}
	if f.Err != nil {
		p.probs = append(p.probs, cannotOpen(f, "Cannot open config file [%s]", classicPath(cfg.Dir, "ha.cf"),
			Pos{File: cfg.path("ha.cf")}, order{phaseHACF, 0, 0}))
		p.finish()
		return p.probs
	}
	for i, raw := range strings.Split(string(f.Data), "\n") {
		ln, ok := splitLine(i+1, raw)
		if !ok {
			continue
		}
		p.directive(ln)
	}
	p.finish()
	return p.probs
}

// cannotOpen is the problem of a file that must be there and is not.
func cannotOpen(f File, text, classic string, pos Pos, at order) Problem {
	return Problem{
		Pos: pos, Severity: Error, Err: f.Err, at: at,
		What: "cannot be read", Why: f.Err.Error(),
		Fix: "write it, or give it back to root; the sample file explains each line",
		Classic: []string{
			"ERROR: " + fmt.Sprintf(text, classic),
			"info: An annotated sample " + classic + " file is provided in the documentation.",
			"info: Please copy it to " + classic + ", read it, customize it, and try again.",
		},
	}
}

// classicPath is a file's name as the original prints it.
func classicPath(dir, name string) string { return dir + "//" + name }

func (c *Config) path(name string) string { return filepath.Join(c.Dir, name) }

// splitLine takes a line of ha.cf apart. ok is false when nothing is on it.
// Comments begin anywhere; a NUL ends the line, as for any C program.
func splitLine(number int, raw string) (line, bool) {
	if end := strings.IndexAny(raw, "#\x00"); end >= 0 {
		raw = raw[:end]
	}
	raw = strings.TrimRight(raw, " \t\r")
	words := fields(raw, " \t\r")
	if len(words) == 0 {
		return line{}, false
	}
	ln := line{number: number, name: words[0]}
	start := words[0].col - 1 + len(words[0].text)
	rest := raw[start:]
	ln.values = fields(rest, " \t\r,")
	for i := range ln.values {
		ln.values[i].col += start
	}
	trimmed := strings.TrimLeft(rest, " \t\r")
	ln.rest = word{trimmed, start + len(rest) - len(trimmed) + 1}
	return ln, true
}

// fields splits s at any of the separators; columns count bytes from 1.
func fields(s, separators string) []word {
	var words []word
	start := -1
	for i := 0; i <= len(s); i++ {
		if i < len(s) && strings.IndexByte(separators, s[i]) < 0 {
			if start < 0 {
				start = i
			}
			continue
		}
		if start >= 0 {
			words = append(words, word{s[start:i], start + 1})
			start = -1
		}
	}
	return words
}

func (p *parser) directive(ln line) {
	d, known := directives[ln.name.text]
	if !known {
		fix := "remove the line"
		if near := nearest(ln.name.text, directiveNames()); near != "" {
			fix = fmt.Sprintf("write %q", near)
		} else if end := strings.IndexAny(ln.name.text, "=,"); end > 0 && slices.Contains(directiveNames(), ln.name.text[:end]) {
			fix = "put a blank between name and value"
		}
		p.fail(ln, ln.name, []string{fmt.Sprintf("ERROR: Illegal directive [%s] in %s",
			ln.name.text, classicPath(p.cfg.Dir, "ha.cf"))},
			fmt.Sprintf("unknown directive %q", ln.name.text), "names are case-sensitive and stand alone before a blank", fix)
		return
	}
	switch {
	case d.whole != nil:
		d.whole(p, ln)
	case d.all != nil:
		d.all(p, ln)
	default:
		for i, v := range ln.values {
			p.failed = false
			d.value(p, ln, v)
			if !p.failed && !d.unrecorded {
				p.record(ln, v)
			}
			if i == 1 && ln.name.text != "env" { // each env adds
				p.warn(ln, v, nil, fmt.Sprintf("%s has several values", ln.name.text),
					"each sets it anew and the last wins", "keep one")
			}
		}
	}
}

func directiveNames() []string {
	names := make([]string, 0, len(directives))
	for name := range directives {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (p *parser) record(ln line, v word) {
	p.cfg.written[ln.name.text] = written{v.text, p.pos(ln, v)}
}

func (p *parser) pos(ln line, v word) Pos {
	return Pos{File: p.cfg.path("ha.cf"), Line: ln.number, Col: v.col}
}

// fail reports an error at a word. Without classic lines the original says
// only at the end that there was one.
func (p *parser) fail(ln line, v word, classic []string, what, why, fix string) {
	p.failed = true
	p.probs = append(p.probs, p.problem(ln, v, Error, classic, what, why, fix))
}

func (p *parser) warn(ln line, v word, classic []string, what, why, fix string) {
	p.probs = append(p.probs, p.problem(ln, v, Warn, classic, what, why, fix))
}

func (p *parser) problem(ln line, v word, s Severity, classic []string, what, why, fix string) Problem {
	return Problem{Pos: p.pos(ln, v), Severity: s, What: what, Why: why, Fix: fix, Classic: classic,
		at: order{phaseHACF, ln.number, v.col}}
}

// say adds lines that the original prints and that mean nothing.
func (p *parser) say(ln line, v word, classic ...string) {
	p.probs = append(p.probs, Problem{Severity: Info, Classic: classic, at: order{phaseHACF, ln.number, v.col}})
}

// onHost leaves a question for Check.
func (p *parser) onHost(f func(h Host) Problems) {
	p.cfg.questions = append(p.cfg.questions, f)
}

const timeHint = "write seconds (2 or 0.5) or milliseconds (500ms)"

func duration(set func(*Config, time.Duration) bool) directive {
	return directive{value: func(p *parser, ln line, v word) {
		d, err := parseTime(v.text)
		if err != nil {
			p.fail(ln, v, nil, fmt.Sprintf("%s %s", ln.name.text, v.text), err.Error(), timeHint)
			return
		}
		if !set(p.cfg, d) {
			p.fail(ln, v, nil, fmt.Sprintf("%s %s", ln.name.text, v.text), "it must be more than 0", timeHint)
		}
	}}
}

func (p *parser) warntime(ln line, v word) {
	d, err := parseTime(v.text)
	why := "it must be more than 0"
	if err != nil {
		why = err.Error()
	}
	if err != nil || d == 0 {
		p.fail(ln, v, []string{fmt.Sprintf("Warn time [%s] is invalid.", v.text)}, "warntime "+v.text, why, timeHint)
		return
	}
	p.cfg.Warntime = d
}

const booleanHint = "write on or off"

func boolean(set func(*Config, bool)) directive {
	return directive{value: func(p *parser, ln line, v word) {
		if on, ok := parseBool(v.text); ok {
			set(p.cfg, on)
			return
		}
		p.notBoolean(ln, v, nil)
	}}
}

func (p *parser) notBoolean(ln line, v word, classic []string) {
	p.fail(ln, v, classic, fmt.Sprintf("%s %s", ln.name.text, v.text), "it is a switch", booleanHint)
}

// choice is a directive with a fixed set of words, in lower case only.
func choice(classic string, words map[string]func(*Config)) directive {
	return directive{value: func(p *parser, ln line, v word) {
		if set, ok := words[v.text]; ok {
			set(p.cfg)
			return
		}
		var names []string
		for name := range words {
			names = append(names, name)
		}
		slices.Sort(names)
		p.fail(ln, v, format(classic, v.text), fmt.Sprintf("%s %s", ln.name.text, v.text), "there is no such choice",
			"write "+strings.Join(names, " or "))
	}}
}

func format(classic, value string) []string {
	if classic == "" {
		return nil
	}
	return []string{fmt.Sprintf(classic, value)}
}

// byteRange is a number from 0 to 255, read as C's atoi reads it.
func byteRange(set func(*Config, int)) func(*parser, line, word) {
	return func(p *parser, ln line, v word) {
		n, exact := leadingInt(v.text)
		if n < 0 || n > 255 {
			p.fail(ln, v, nil, fmt.Sprintf("%s %s", ln.name.text, v.text), "it is a number from 0 to 255", "write one")
			return
		}
		p.inexact(ln, v, n, exact)
		set(p.cfg, n)
	}
}

// positive is a number above 0, read as C's atoi reads it.
func positive(classic, of string, set func(*Config, int)) func(*parser, line, word) {
	return func(p *parser, ln line, v word) {
		n, exact := leadingInt(v.text)
		if n <= 0 {
			p.fail(ln, v, format(classic, v.text), fmt.Sprintf("%s %s", ln.name.text, v.text),
				"it is a number of "+of, "write a number above 0")
			return
		}
		p.inexact(ln, v, n, exact)
		set(p.cfg, n)
	}
}

func (p *parser) inexact(ln line, v word, n int, exact bool) {
	if !exact {
		p.warn(ln, v, nil, fmt.Sprintf("%s %s", ln.name.text, v.text),
			fmt.Sprintf("it is read as %d", n), fmt.Sprintf("write %d", n))
	}
}

func (p *parser) node(ln line) {
	for _, v := range ln.values {
		name := strings.ToLower(v.text)
		if slices.Contains(p.cfg.Nodes, name) {
			p.warn(ln, v, nil, fmt.Sprintf("node %s is named twice", name), "the second mention is ignored", "remove it")
			continue
		}
		if len(p.cfg.Nodes) == nodesMax {
			p.probs = append(p.probs, spoken(p.problem(ln, v, Error, nil, "too many nodes", fmt.Sprintf("the bound is %d", nodesMax), "keep two")))
			return
		}
		p.cfg.Nodes = append(p.cfg.Nodes, name)
		p.cfg.nodePos = append(p.cfg.nodePos, p.pos(ln, v))
		if len(p.cfg.Nodes) == 3 {
			p.warn(ln, v, nil, "more than two nodes", "haresources mode moves groups between two nodes only", "keep two")
		}
	}
}

func (p *parser) udpport(ln line, v word) {
	n, exact := leadingInt(v.text)
	if n <= 0 {
		p.fail(ln, v, []string{fmt.Sprintf("heartbeat: invalid port [%s] specified.", v.text)},
			"udpport "+v.text, "it is a UDP port number", "write 694, or a number from 1 to 65535")
		return
	}
	p.inexact(ln, v, n, exact)
	if n > 65535 {
		p.warn(ln, v, nil, "udpport "+v.text, fmt.Sprintf("ports end at 65535 and this is taken as %d", n&0xffff),
			"write a number from 1 to 65535")
		n &= 0xffff
	}
	if len(p.cfg.Media) > 0 {
		p.warn(ln, v, nil, "udpport stands after a media line", "it acts only on the media lines below it",
			"move it above the first media line")
	}
	p.cfg.UDPPort, p.cfg.portSet = n, true
	p.onHost(func(h Host) Problems {
		name := h.ServiceName(n)
		if name == "" || name == "ha-cluster" {
			return nil
		}
		return Problems{p.problem(ln, word{v.text, v.col - 1}, Warn,
			[]string{fmt.Sprintf("WARN: heartbeat: udp port %s reserved for service %q.", v.text, name)},
			fmt.Sprintf("udpport %d belongs to service %s", n, name), "both cannot listen on it", "take 694, or a free port")}
	})
	p.say(ln, v, "heartbeat: udpport setting must precede media statements")
}

func (p *parser) baud(ln line, v word) {
	if p.baudSet {
		p.fail(ln, v, []string{"heartbeat: Baudrate multiply specified."}, "baud is given twice",
			"all serial lines have one speed", "keep one")
		return
	}
	p.baudSet = true
	n, exact := leadingInt(v.text)
	if !slices.Contains([]int{9600, 19200, 38400, 57600, 115200, 230400, 460800}, n) {
		p.fail(ln, v, []string{fmt.Sprintf("heartbeat: invalid baudrate [%s] specified.", v.text)}, "baud "+v.text,
			"a serial line has no such speed", "write 9600, 19200, 38400, 57600, 115200, 230400 or 460800")
		return
	}
	p.inexact(ln, v, n, exact)
	for _, m := range p.cfg.Media {
		if m.Kind == "serial" {
			p.warn(ln, v, nil, "baud stands after a serial line", "it acts only on the serial lines below it",
				"move it above the first serial line")
			break
		}
	}
	p.cfg.Baud = n
	if p.wholeLine {
		p.say(ln, v, "heartbeat: baudrate setting must precede media statements")
	}
}

// mediumFits says so when there are too many media and ping nodes.
func (p *parser) mediumFits(ln line, v word) bool {
	if len(p.cfg.Media)+len(p.cfg.PingNodes) < mediaMax {
		return true
	}
	p.fail(ln, v, []string{fmt.Sprintf("ERROR: Too many media specified (> %d)", mediaMax),
		fmt.Sprintf("info: Offending command: %s %s", ln.name.text, v.text)},
		"too many media", fmt.Sprintf("the bound is %d", mediaMax), "remove some")
	return false
}

// addMedium adds a medium, or says that there are too many.
func (p *parser) addMedium(ln line, v word, m Medium) {
	if !p.mediumFits(ln, v) {
		return
	}
	m.Pos = p.pos(ln, v)
	for _, other := range p.cfg.Media {
		same := other
		same.Pos = m.Pos
		if same == m {
			p.warn(ln, v, nil, fmt.Sprintf("%s %s is given twice", m.Kind, m.Interface),
				"the second carries nothing that the first does not", "remove it")
			break
		}
	}
	if !p.cfg.portSet && m.Port != 0 {
		p.cfg.defaultPort = append(p.cfg.defaultPort, len(p.cfg.Media))
	}
	p.cfg.Media = append(p.cfg.Media, m)
}

// eachMedium asks the machine about each value of a line. When the first medium
// of a kind is refused the original forgets the kind: it says no more about
// the other values than that the directive is illegal.
func (p *parser) eachMedium(ln line, ask func(Host, word) (Problem, bool)) {
	kind := ln.name.text
	if kind == "udp" {
		kind = "bcast"
	}
	p.onHost(func(h Host) Problems {
		var probs Problems
		forgotten := false
		for _, v := range ln.values {
			prob, ok := ask(h, v)
			switch {
			case forgotten:
				illegal := []string{fmt.Sprintf("ERROR: Illegal configuration directive [%s]", kind)}
				if ok {
					prob = p.problem(ln, v, Info, nil, "", "", "")
				}
				prob.Classic = illegal
				probs = append(probs, prob)
			case ok:
				p.kept[kind] = true
			default:
				probs = append(probs, prob)
				forgotten = !p.kept[kind]
			}
		}
		return probs
	})
}

func (p *parser) serial(ln line) {
	for _, v := range ln.values {
		p.addMedium(ln, v, Medium{Kind: "serial", Interface: v.text, Baud: p.cfg.Baud})
	}
	p.eachMedium(ln, func(h Host, v word) (Problem, bool) {
		var glib, why string
		var err error
		if !strings.HasPrefix(v.text, "/") {
			glib, why = "Serial port not full pathname [%s] in config file", "a device is named by its full path"
		} else if err = h.CharDevice(v.text); err == ErrNotCharDevice {
			glib, why = "Serial port [%s] not a char device in config file", "it is not a character device"
		} else if err != nil {
			glib, why = "Nonexistent serial port [%s] in config file", err.Error()
		} else {
			return Problem{}, true
		}
		prob := p.problem(ln, v, Error, []string{"ERROR: glib: " + fmt.Sprintf(glib, v.text),
			fmt.Sprintf("ERROR: Illegal serial [serial ring] in config file [%s]", v.text)},
			"serial "+v.text, why, "name a serial device such as /dev/ttyS0")
		prob.Err = err
		return prob, false
	})
}

func (p *parser) bcast(ln line) {
	if ln.name.text == "udp" {
		p.warn(ln, ln.name, []string{"WARN: WARNING: directive 'udp' replaced by 'bcast'"},
			"udp is the old name of bcast", "it works still", "write bcast")
	}
	for _, v := range ln.values {
		p.addMedium(ln, v, Medium{Kind: "bcast", Interface: v.text, Port: p.cfg.UDPPort})
	}
	p.eachMedium(ln, func(h Host, v word) (Problem, bool) {
		err := h.Broadcast(v.text)
		if err == nil {
			return Problem{}, true
		}
		prob := p.problem(ln, v, Error, []string{
			fmt.Sprintf("ERROR: glib: Get broadcast for interface %s failed: %s", v.text, strerror(err)),
			fmt.Sprintf("ERROR: glib: IP interface [%s] does not exist", v.text),
			fmt.Sprintf("ERROR: Illegal bcast [UDP/IP broadcast] in config file [%s]", v.text)},
			"bcast "+v.text, interfaceWhy(err), "name an interface that is up when heartbeat starts (ip -4 addr)")
		prob.Err = err
		return prob, false
	})
}

// mcastLine reports a wrong multicast line. The original looks at the
// interface first and says what is wrong with the rest only if that exists.
func (p *parser) mcastLine(ln line, args []word, kind string, check func() (at word, glib, why, fix string)) {
	iface := args[0]
	at, glib, why, fix := check()
	if glib != "" {
		p.probs = append(p.probs, p.problem(ln, word{at.text, at.col}, Error, nil, kind+" "+iface.text+" "+at.text, why, fix))
		p.failed = true
	}
	p.onHost(func(h Host) Problems {
		var err error
		var classic []string
		if kind == "mcast" {
			if err = h.Address(iface.text); err != nil {
				classic = append(classic, fmt.Sprintf("ERROR: glib: Unable to retrieve local interface address for interface [%s] using ioctl(SIOCGIFADDR): %s",
					iface.text, strerror(err)))
			}
		} else {
			_, err = h.InterfaceIndex(iface.text)
		}
		if err == nil {
			if glib == "" {
				return nil
			}
			return Problems{p.problem(ln, at, Info, strings.Split("ERROR: glib: "+glib, "\n"), "", "", "")}
		}
		classic = append(classic, fmt.Sprintf("ERROR: glib: %s device [%s] is invalid or not set up properly", kind, iface.text))
		prob := p.problem(ln, iface, Error, classic, kind+" "+iface.text, interfaceWhy(err),
			"name an interface that is up when heartbeat starts (ip addr)")
		prob.Err = err
		return Problems{prob}
	})
}

// wholeMedium splits a whole-line medium and refuses an empty one. Commas
// separate nothing here.
func (p *parser) wholeMedium(ln line, usage, classic string) []word {
	args := fields(ln.rest.text, " \t\r")
	for i := range args {
		args[i].col += ln.rest.col - 1
	}
	if len(args) > 0 {
		return args
	}
	prob := p.problem(ln, ln.name, Error, nil, ln.name.text+" without interface", "it takes "+usage, "add what is missing")
	if classic == "" {
		prob = spoken(prob) // 3.0.6 crashes here without a word
	} else {
		prob.Classic = []string{classic}
	}
	p.probs = append(p.probs, prob)
	return nil
}

func (p *parser) extra(ln line, args []word, n int) {
	if len(args) > n {
		p.warn(ln, args[n], nil, fmt.Sprintf("%s: %q is ignored", ln.name.text, args[n].text),
			fmt.Sprintf("the directive takes %d words", n), "remove it")
	}
}

func (p *parser) mcast(ln line) {
	const usage = "INTERFACE GROUP PORT TTL LOOP, as in: mcast eth0 225.0.0.1 694 1 0"
	args := p.wholeMedium(ln, usage, "")
	if args == nil {
		return
	}
	m := Medium{Kind: "mcast", Interface: args[0].text}
	p.failed = false
	p.mcastLine(ln, args, "mcast", func() (word, string, string, string) {
		name := args[0].text
		lacks := missing(args, "mcast ["+name+"] missing ", usage)
		if len(args) < 2 {
			return lacks("mcast address")
		}
		addr, err := netip.ParseAddr(args[1].text)
		if err != nil || !addr.Is4() || !addr.IsMulticast() {
			return args[1], fmt.Sprintf("mcast [%s] bad addr [%s]", name, args[1].text),
				"it is no IPv4 multicast group", "take one from 224.0.0.0 to 239.255.255.255, usually 225.0.0.1"
		}
		m.Addr = args[1].text
		if len(args) < 3 {
			return lacks("port")
		}
		port, exact := leadingInt(args[2].text)
		if port <= 0 {
			return args[2], fmt.Sprintf(" mcast [%s] bad port [%d]", name, port&0xffff), "it is no port", "write 694"
		}
		p.inexact(ln, args[2], port, exact)
		m.Port = port & 0xffff
		if port > 65535 {
			p.warn(ln, args[2], nil, "port "+args[2].text, fmt.Sprintf("ports end at 65535 and this is taken as %d", m.Port), "write 694")
		}
		return p.ttlLoop(ln, args, &m, "mcast", "ttl", lacks)
	})
	p.addWhole(ln, args[0], m, args, 5)
}

// addWhole adds the medium of a whole-line directive unless it is wrong.
func (p *parser) addWhole(ln line, at word, m Medium, args []word, n int) {
	if p.failed {
		return
	}
	p.extra(ln, args, n)
	p.wholeLine = true
	p.addMedium(ln, at, m)
}

// missing says which word a media line lacks.
func missing(args []word, prefix, usage string) func(name string) (word, string, string, string) {
	return func(name string) (word, string, string, string) {
		return args[len(args)-1], prefix + name, "it takes " + usage, "add what is missing"
	}
}

// ttlLoop reads the last two words of a multicast line. Both are bytes in the
// original: -1 is 255.
func (p *parser) ttlLoop(ln line, args []word, m *Medium, kind, ttlName string,
	lacks func(string) (word, string, string, string)) (word, string, string, string) {
	name := args[0].text
	if len(args) < 4 {
		return lacks(ttlName)
	}
	ttl, exact := leadingInt(args[3].text)
	if ttl &= 0xff; ttl > 4 {
		return args[3], fmt.Sprintf(" %s [%s] bad %s [%d]", kind, name, ttlName, ttl), "it is a number from 0 to 4",
			"write 1: the peer is on the same network"
	}
	p.inexact(ln, args[3], ttl, exact)
	if len(args) < 5 {
		return lacks("loop")
	}
	loop, exact := leadingInt(args[4].text)
	if loop &= 0xff; loop > 1 {
		return args[4], fmt.Sprintf(" %s [%s] bad loop [%d]", kind, name, loop), "it is 0 or 1", "write 0"
	}
	p.inexact(ln, args[4], loop, exact)
	m.TTL, m.Loop = ttl, loop == 1
	return word{}, "", "", ""
}

func (p *parser) mcast6(ln line) {
	const usage = "INTERFACE GROUP PORT HOPS LOOP, as in: mcast6 eth0 ff02::694 694 1 0"
	args := p.wholeMedium(ln, usage, "ERROR: glib: mcast6 statement without device")
	if args == nil {
		return
	}
	m := Medium{Kind: "mcast6", Interface: args[0].text}
	p.failed = false
	p.mcastLine(ln, args, "mcast6", func() (word, string, string, string) {
		name := args[0].text
		lacks := missing(args, "mcast6 ["+name+"] missing ", usage)
		if len(args) < 2 {
			return lacks("mcast6 address")
		}
		addr, err := netip.ParseAddr(args[1].text)
		if err != nil || !addr.Is6() || !addr.IsMulticast() {
			return args[1], fmt.Sprintf(" mcast6 [%s] bad addr [%s]", name, args[1].text),
				"it is no IPv6 multicast group", "take one that begins with ff02"
		}
		m.Addr = args[1].text
		if len(args) < 3 {
			return lacks("port")
		}
		if at, glib, why, fix := p.ttlLoop(ln, args, &m, "mcast6", "hops", lacks); glib != "" {
			return at, glib, why, fix
		}
		port, exact := leadingInt(args[2].text)
		if !exact || port < 0 {
			return args[2], fmt.Sprintf("getaddrinfo([%s]:%s): Servname not supported for ai_socktype\nWARN: glib: Error creating mcast6_private(%s, %s, %s, %d, %d)",
					args[1].text, args[2].text, name, args[1].text, args[2].text, m.TTL, loopNumber(m.Loop)),
				"it is no port", "write 694"
		}
		m.Port = port & 0xffff
		if port != m.Port || port == 0 {
			p.warn(ln, args[2], nil, "port "+args[2].text, fmt.Sprintf("it is taken as %d", m.Port), "write 694")
		}
		return word{}, "", "", ""
	})
	p.addWhole(ln, args[0], m, args, 5)
}

func (p *parser) ucast(ln line) {
	args := p.wholeMedium(ln, "INTERFACE PEER, as in: ucast eth0 192.168.1.2", "")
	if args == nil {
		return
	}
	p.failed = false
	iface := args[0]
	if len(args) < 2 {
		p.fail(ln, iface, []string{fmt.Sprintf("ERROR: glib: ucast: [%s] missing target IP address/hostname", iface.text)},
			"ucast "+iface.text+" without peer", "unicast needs the peer's address", "add it: ucast "+iface.text+" 192.168.1.2")
		return
	}
	peer := args[1]
	p.addWhole(ln, iface, Medium{Kind: "ucast", Interface: iface.text, Addr: peer.text, Port: p.cfg.UDPPort}, args, 2)
	p.onHost(func(h Host) Problems {
		var probs Problems
		if err := h.Resolve(peer.text, false); err != nil {
			prob := p.problem(ln, peer, Error, []string{"ERROR: glib: ucast: cannot resolve hostname",
				fmt.Sprintf("ERROR: glib: ucast: interface [%s] does not exist", iface.text)},
				"ucast peer "+peer.text, "it has no IPv4 address: "+err.Error(), "write the peer's address, or put its name into /etc/hosts")
			prob.Err = err
			probs = append(probs, prob)
		}
		if _, err := h.InterfaceIndex(iface.text); err != nil {
			probs = append(probs, p.problem(ln, iface, Warn, nil, "ucast "+iface.text, interfaceWhy(err),
				"nothing is sent on it until the interface is there"))
		}
		return probs
	})
}

func (p *parser) ucast6(ln line) {
	args := p.wholeMedium(ln, "INTERFACE PEER, as in: ucast6 eth0 fe80::2", "ERROR: glib: ucast6 statement without device")
	if args == nil {
		return
	}
	p.failed = false
	iface, what := args[0], "ucast6 "+args[0].text
	var glib, why string
	at, zone := iface, ""
	if len(args) < 2 {
		glib, why = fmt.Sprintf("ucast6 [%s] missing ucast6 address", iface.text), "unicast needs the peer's address"
	} else {
		at = args[1]
		addr, err := netip.ParseAddr(at.text)
		if err != nil || !addr.Is6() || addr.Is4In6() || addr.IsMulticast() {
			glib, why = fmt.Sprintf("ucast6 [%s] bad addr [%s]", iface.text, at.text), "it is no IPv6 address of a machine"
		}
		zone = addr.Zone()
	}
	if glib != "" {
		p.fail(ln, at, nil, what, why, "write the peer's IPv6 address")
	} else {
		p.addWhole(ln, iface, Medium{Kind: "ucast6", Interface: iface.text, Addr: at.text, Port: p.cfg.UDPPort}, args, 2)
	}
	p.onHost(func(h Host) Problems {
		index, err := h.InterfaceIndex(iface.text)
		switch {
		case err != nil:
			prob := p.problem(ln, iface, Error, []string{fmt.Sprintf("ERROR: glib: ucast6 device [%s] is invalid or not set up properly", iface.text)},
				what, interfaceWhy(err), "name an interface that is up when heartbeat starts (ip addr)")
			prob.Err = err
			return Problems{prob}
		case glib != "":
			return Problems{p.problem(ln, at, Info, []string{"ERROR: glib: " + glib}, "", "", "")}
		case zone != "":
			scope, err := h.InterfaceIndex(zone)
			if err == nil && scope == index {
				return nil
			}
			return Problems{p.problem(ln, at, Error, []string{
				fmt.Sprintf("ERROR: glib: ucast6: index %d does not match scope id %d for device %s", index, scope, iface.text),
				fmt.Sprintf("WARN: glib: Error creating ucast6_private(%s, %s)", iface.text, at.text)},
				what+" "+at.text, "the address lives on interface "+zone, "name the same interface in both places")}
		}
		return nil
	})
}

func (p *parser) ping(ln line) {
	v6 := ln.name.text == "ping6"
	for _, v := range ln.values {
		p.addPingNode(ln, v, PingNode{Name: v.text, Hosts: []string{v.text}, V6: v6})
	}
	p.eachMedium(ln, func(h Host, v word) (Problem, bool) {
		err := h.Resolve(v.text, v6)
		if err == nil {
			return Problem{}, true
		}
		var classic []string
		if !v6 {
			classic = append(classic, unknownHost(v.text))
		}
		classic = append(classic, fmt.Sprintf("ERROR: Illegal %s [%s membership] in config file [%s]", ln.name.text, ln.name.text, v.text))
		prob := p.problem(ln, v, Error, classic, ln.name.text+" "+v.text, "it has no such address: "+err.Error(),
			"write an address, or put the name into /etc/hosts")
		prob.Err = err
		return prob, false
	})
}

func unknownHost(name string) string {
	return fmt.Sprintf("ERROR: glib: unknown host: %s: Resource temporarily unavailable", name)
}

func (p *parser) addPingNode(ln line, v word, n PingNode) {
	if slices.ContainsFunc(p.cfg.PingNodes, func(o PingNode) bool { return o.Name == n.Name }) {
		p.warn(ln, v, nil, fmt.Sprintf("ping node %s is named twice", n.Name), "the second mention is ignored", "remove it")
		return
	}
	if p.mediumFits(ln, v) {
		p.cfg.PingNodes = append(p.cfg.PingNodes, n)
	}
}

func (p *parser) pingGroup(ln line) {
	args := fields(ln.rest.text, " \t\r")
	for i := range args {
		args[i].col += ln.rest.col - 1
	}
	if len(args) < 2 {
		p.fail(ln, ln.name, nil, "ping_group without hosts", "it takes NAME HOST HOST...", "add what is missing")
		return
	}
	p.wholeLine = true
	n := PingNode{Name: args[0].text, Group: true}
	for _, v := range args[1:] {
		n.Hosts = append(n.Hosts, v.text)
	}
	p.addPingNode(ln, args[0], n)
	p.onHost(func(h Host) Problems {
		var probs Problems
		for _, v := range args[1:] {
			if err := h.Resolve(v.text, false); err != nil {
				prob := p.problem(ln, v, Warn, []string{unknownHost(v.text)}, "ping_group host "+v.text,
					"it has no IPv4 address and never answers: "+err.Error(), "write an address, or put the name into /etc/hosts")
				prob.Err = err
				probs = append(probs, prob)
			}
		}
		return probs
	})
}

func (p *parser) autoFailback(ln line, v word) {
	if on, ok := parseBool(v.text); ok {
		p.cfg.Failback = cluster.FailbackOff
		if on {
			p.cfg.Failback = cluster.FailbackOn
		}
	} else if strings.EqualFold(v.text, "legacy") {
		p.cfg.Failback = cluster.FailbackLegacy
	} else {
		p.fail(ln, v, nil, "auto_failback "+v.text, "there is no such choice", "write on, off or legacy")
		return
	}
}

func (p *parser) niceFailback(ln line, v word) {
	const obsolete = "ERROR: nice_failback flag is obsolete.. Use auto_failback {on, off, legacy} instead."
	const see = "ERROR: See documentation for details."
	if _, ok := parseBool(v.text); !ok {
		p.notBoolean(ln, v, []string{obsolete, see})
		return
	}
	classic := []string{obsolete}
	taken := "legacy"
	if p.cfg.Failback == cluster.FailbackLegacy {
		classic = append(classic,
			fmt.Sprintf("ERROR: nice_failback %s has been strictly interpreted as 'auto_failback legacy'", v.text),
			"ERROR: Consider converting to 'auto_failback on'.",
			"ERROR: When you do, then you can use ipfail, and hb_standby")
	} else {
		p.cfg.Failback, taken = cluster.FailbackOff, "off"
		classic = append(classic, fmt.Sprintf("ERROR: 'nice_failback %s' has been changed to 'auto_failback off'", v.text))
	}
	p.warn(ln, v, append(classic, see), "nice_failback is obsolete", "it is taken as auto_failback "+taken,
		"write auto_failback on (the master takes back) or off (who has it keeps it)")
}

// facilities are the names of syslog(3).
var facilities = []string{"auth", "authpriv", "cron", "daemon", "ftp", "kern", "lpr", "mail", "mark", "news",
	"security", "syslog", "user", "uucp", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7"}

func (p *parser) logfacility(ln line, v word) {
	switch {
	case v.text == "none":
		p.cfg.LogFacility = ""
	case slices.Contains(facilities, v.text):
		p.cfg.LogFacility = v.text
	default:
		p.fail(ln, v, []string{fmt.Sprintf("ERROR: Log facility(%s) not valid", v.text)}, "logfacility "+v.text,
			"syslog has no such facility", "write local0, daemon or another name of syslog(3), or none")
	}
}

const loggingDisabled = "WARN: Logging daemon is disabled --enabling logging daemon is recommended"

// logdLines is what the original prints when it turns to the logging daemon.
func logdLines(h Host, early bool) []string {
	const enabling = "info: Enabling logging daemon "
	var lines []string
	if early {
		lines = append(lines, enabling)
	}
	if !h.LogdRunning() {
		lines = append(lines, "WARN: Initializing connection to logging daemon failed. Logging daemon may not be running")
	}
	if !early {
		lines = append(lines, enabling)
	}
	return append(lines, "info: logfile and debug file are those specified in logd config file (default /etc/logd.cf)")
}

func (p *parser) useLogd(ln line, v word) {
	on, ok := parseBool(v.text)
	if !ok {
		p.notBoolean(ln, v, []string{loggingDisabled})
		return
	}
	p.cfg.UseLogd, p.logdSet = on, true
	if !on {
		p.say(ln, v, loggingDisabled)
		return
	}
	p.onHost(func(h Host) Problems {
		return Problems{p.problem(ln, v, Info, logdLines(h, true), "", "", "")}
	})
}

func (p *parser) setAutojoin(ln line, v word) {
	switch v.text {
	case "none":
	case "other", "any":
		p.probs = append(p.probs, Problem{Pos: p.pos(ln, v), Severity: Error, at: order{phaseChecks, checkAutojoin, 0},
			What: "autojoin " + v.text, Why: "haresources mode has a fixed set of nodes", Fix: "write autojoin none",
			Classic: []string{"ERROR: R1 style resource management conflicts with  autojoin set",
				"ERROR: You need either unset autojoin or enable crm"}})
	default:
		p.fail(ln, v, []string{fmt.Sprintf("ERROR: Invalid autojoin directive [%s]", v.text)}, "autojoin "+v.text,
			"there is no such choice", "write none")
	}
}

func (p *parser) maxRexmitDelay(ln line, v word) {
	n, exact := leadingInt(v.text)
	if n <= 0 {
		p.fail(ln, v, []string{fmt.Sprintf("ERROR: Invalid max_rexmit_delay time(%s)", v.text)}, "max_rexmit_delay "+v.text,
			"it is a number of milliseconds", "write a number above 0")
		return
	}
	p.inexact(ln, v, n, exact)
	p.cfg.MaxRexmitDelay = time.Duration(n) * time.Millisecond
}

func (p *parser) watchdog(ln line, v word) {
	if p.cfg.Watchdog != "" {
		p.fail(ln, v, []string{"heartbeat: Watchdog device multiply specified."}, "watchdog is given twice",
			"a node has one watchdog", "keep one")
		return
	}
	p.cfg.Watchdog = v.text
	p.onHost(func(h Host) Problems {
		err := h.CharDevice(v.text)
		if err == nil {
			return nil
		}
		prob := p.problem(ln, v, Warn, nil, "watchdog "+v.text, err.Error()+": nothing resets this machine when heartbeat hangs",
			"load the device's driver (modprobe softdog) or name another one")
		prob.Err = err
		return Problems{prob}
	})
}

func (p *parser) client(ln line) {
	p.wholeLine = true
	user, command := ln.rest.text, ""
	if i := strings.IndexAny(user, " \t"); i >= 0 {
		user, command = user[:i], strings.TrimLeft(user[i:], " \t")
	}
	program := command
	if i := strings.IndexAny(program, " \t"); i >= 0 {
		program = program[:i]
	}
	at := word{ln.rest.text, ln.rest.col}
	if !strings.HasPrefix(program, "/") {
		p.failed = true
		p.probs = append(p.probs, p.problem(ln, at, Error, nil, ln.name.text+" "+ln.rest.text, "the program is named by its full path",
			"write "+ln.name.text+" USER /PATH ARGUMENTS"))
	}
	c := Client{User: user, Command: command, Failfast: ln.name.text == "failfast"}
	p.cfg.Respawn = append(p.cfg.Respawn, c)
	p.onHost(func(h Host) Problems {
		switch {
		case !h.UserExists(user):
			return Problems{p.problem(ln, at, Error, []string{fmt.Sprintf("ERROR: Invalid uid [%s] specified for client child", user)},
				ln.name.text+" user "+user, "this machine has no user of that name", "write a user's name, usually hacluster or root")}
		case !strings.HasPrefix(program, "/"):
			return Problems{p.problem(ln, at, Info, []string{fmt.Sprintf("ERROR: Client child command [%s] is not full pathname", program)}, "", "", "")}
		case c.Builtin() == "" && !h.Executable(program):
			return Problems{p.problem(ln, at, Error, []string{fmt.Sprintf("ERROR: Client child command [%s] is not executable", program)},
				ln.name.text+" "+program, "it is missing or may not be executed", "install it, or correct its path or mode")}
		}
		return nil
	})
}

// apiauthSyntax follows every wrong apiauth line.
var apiauthSyntax = []string{"info: Syntax: apiauth client [uid=uidlist] [gid=gidlist]",
	"info: Where uidlist is a comma-separated list of uids,", "info: and gidlist is a comma-separated list of gids",
	"info: One or the other must be specified."}

// apiauthNameMax bounds a client's name.
const apiauthNameMax = 31

func (p *parser) apiauth(ln line) {
	p.wholeLine = true
	rest := ln.rest
	wrong := func(s Severity, classic, why string) Problem {
		var lines []string
		if classic != "" {
			lines = strings.Split(classic, "\n")
		}
		lines = append(lines, fmt.Sprintf("ERROR: Invalid apiauth directive [%s]", rest.text))
		return p.problem(ln, rest, s, append(lines, apiauthSyntax...), "apiauth "+rest.text, why,
			"write apiauth NAME uid=USER,USER gid=GROUP,GROUP")
	}
	fail := func(classic, why string) { p.probs = append(p.probs, wrong(Error, classic, why)) }
	words := fields(rest.text, " \t\r")
	if len(words) == 0 {
		fail("", "it names no client")
		return
	}
	entry := APIAuth{Name: words[0].text}
	if len(entry.Name) > apiauthNameMax {
		fail(fmt.Sprintf("ERROR: client name [%s] too long", rest.text), fmt.Sprintf("a name has at most %d characters", apiauthNameMax))
		return
	}
	var uids, gids *string
	for _, w := range words[1:] {
		name, list, _ := strings.Cut(w.text, "=")
		switch {
		case strings.HasPrefix(w.text, "uid="):
			if uids != nil {
				fail("ERROR: Duplicate uid list in apiauth", "it has two uid lists")
				return
			}
			uids = &list
		case strings.HasPrefix(w.text, "gid="):
			if gids != nil {
				fail("ERROR: Duplicate gid list in apiauth", "it has two gid lists")
				return
			}
			gids = &list
		default:
			fail("ERROR: Missing uid or gid in apiauth", fmt.Sprintf("%q is neither uid= nor gid=", name))
			return
		}
	}
	if uids == nil && gids == nil {
		fail("", "it allows nobody")
		return
	}
	if slices.ContainsFunc(p.cfg.APIAuth, func(a APIAuth) bool { return a.Name == entry.Name }) {
		fail(fmt.Sprintf("ERROR: Duplicate apiauth directive for API client %s: [%s]", entry.Name, rest.text),
			"the client has a line already")
		return
	}
	split := func(list *string) []string {
		if list == nil {
			return nil
		}
		return strings.FieldsFunc(*list, func(r rune) bool { return r == ',' })
	}
	entry.UIDs, entry.GIDs = split(uids), split(gids)
	p.cfg.APIAuth = append(p.cfg.APIAuth, entry)
	p.onHost(func(h Host) Problems {
		for _, u := range entry.UIDs {
			if !number(u) && !h.UserExists(u) {
				return Problems{wrong(Error, fmt.Sprintf("ERROR: Invalid user id name [%s]\nERROR: Bad uid list [%s]", u, *uids),
					"this machine has no user "+u)}
			}
		}
		for _, g := range entry.GIDs {
			if !number(g) && !h.GroupExists(g) {
				return Problems{wrong(Error, fmt.Sprintf("ERROR: Invalid group name [%s]\nERROR: Bad gid list [%s]", g, *gids),
					"this machine has no group "+g)}
			}
		}
		return nil
	})
}

func number(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// nextWord cuts the first word off a whole-line argument.
func nextWord(w word) (first, rest word) {
	i := strings.IndexAny(w.text, " \t")
	if i < 0 {
		return w, word{"", w.col + len(w.text)}
	}
	trimmed := strings.TrimLeft(w.text[i:], " \t")
	return word{w.text[:i], w.col}, word{trimmed, w.col + len(w.text) - len(trimmed)}
}

func (p *parser) stonith(ln line) {
	p.wholeLine = true
	kind, file := nextWord(ln.rest)
	if kind.text == "" {
		p.fail(ln, ln.name, []string{"ERROR: No Stonith type given"}, "stonith without type", "it takes TYPE CONFIGFILE", "add them (stonith -L lists the types)")
		return
	}
	p.cfg.Stonith = append(p.cfg.Stonith, Stonith{Type: kind.text, Params: file.text})
	p.onHost(func(h Host) Problems {
		if !h.StonithType(kind.text) {
			return Problems{p.unknownStonith(ln, kind)}
		}
		if err := h.Readable(file.text); err != nil {
			prob := p.problem(ln, file, Error, []string{"ERROR: glib: Cannot open " + file.text,
				fmt.Sprintf("ERROR: Invalid Stonith config file [%s]", file.text)},
				"stonith configuration file "+file.text, err.Error(), "write it, or use stonith_host")
			prob.Err = err
			return Problems{prob}
		}
		return nil
	})
}

func (p *parser) unknownStonith(ln line, kind word) Problem {
	return p.problem(ln, kind, Error, []string{fmt.Sprintf("ERROR: Invalid Stonith type [%s]", kind.text)},
		"stonith type "+kind.text, "this machine has no such plugin", "install it, or take one that stonith -L lists")
}

func (p *parser) stonithHost(ln line) {
	p.wholeLine = true
	host, rest := nextWord(ln.rest)
	kind, params := nextWord(rest)
	if host.text == "" {
		p.fail(ln, ln.name, []string{"ERROR: No Stonith hostname argument given"}, "stonith_host without host",
			"it takes HOST TYPE PARAMETERS", "add them; * stands for every node")
		return
	}
	p.cfg.Stonith = append(p.cfg.Stonith, Stonith{Host: strings.ToLower(host.text), Type: kind.text, Params: params.text})
	p.onHost(func(h Host) Problems {
		if host.text != "*" && !strings.EqualFold(host.text, p.cfg.Self) {
			return nil // the other node's line
		}
		switch {
		case kind.text == "":
			return Problems{p.problem(ln, host, Error, []string{"ERROR: No Stonith type given"}, "stonith_host without type",
				"it takes HOST TYPE PARAMETERS", "add them (stonith -L lists the types)")}
		case !h.StonithType(kind.text):
			return Problems{p.unknownStonith(ln, kind)}
		case params.text == "":
			return Problems{p.problem(ln, kind, Error, []string{"ERROR: Invalid Stonith configuration parameter []"},
				"stonith_host "+kind.text+" without parameters", "the plugin must know what to switch", "add them (stonith -h -t "+kind.text+")")}
		}
		return nil
	})
}

func (p *parser) pacemaker(ln line, v word) {
	if p.crmSet {
		p.fail(ln, v, []string{"ERROR: pacemaker/crm directive used multiple times!"}, "crm or pacemaker is given twice",
			"one may be there, once", "keep one")
		return
	}
	p.crmSet = true
	said := "info: Pacemaker support: " + v.text
	on, ok := parseBool(v.text)
	word := strings.ToLower(v.text)
	switch {
	case word == "respawn" || word == "manual" || ok && on:
		p.failed = true
		prob := p.problem(ln, v, Error, []string{said}, ln.name.text+" "+v.text,
			"this program manages resources from haresources only", "remove the line, or run Pacemaker on its own cluster layer")
		p.probs = append(p.probs, spoken(prob))
	case ok:
		p.say(ln, v, said)
		p.cfg.written["pacemaker"] = written{v.text, p.pos(ln, v)}
	default:
		p.fail(ln, v, []string{said}, ln.name.text+" "+v.text, "it is a switch", "write off, or remove the line")
	}
}

func (p *parser) rtprio(ln line, v word) {
	n, exact := leadingInt(v.text)
	if n < 1 || n > 99 {
		p.fail(ln, v, []string{fmt.Sprintf("ERROR: Illegal realtime priority [%s]", v.text)}, "rtprio "+v.text,
			"it is a number from 1 to 99", "write 1")
		return
	}
	p.inexact(ln, v, n, exact)
	p.cfg.RTPrio = n
}

func (p *parser) coreroot(ln line, v word) {
	if !strings.HasPrefix(v.text, "/") {
		p.fail(ln, v, []string{fmt.Sprintf("ERROR: Invalid dir in cl_set_corerootdir() [%s]: No such file or directory", v.text),
			fmt.Sprintf("ERROR: Invalid core directory [%s]: Invalid argument", v.text)},
			"coreroot "+v.text, "it is a directory's full path", "begin it with /")
		return
	}
	p.cfg.CoreRoot = v.text
}

func (p *parser) traditionalCompression(ln line, v word) {
	on, ok := parseBool(v.text)
	if !ok {
		p.notBoolean(ln, v, []string{"ERROR: set_traditional_compression:Invalid directive value " + v.text})
		return
	}
	if _, chosen := p.cfg.written["compression"]; on && chosen {
		p.say(ln, v, "WARN: Traditional compression selected. Realtime behavior will likely be impacted(!)",
			"info: See http://linux-ha.org/wiki/Ha.cf#traditional_compression_-_controls_compression_mode for more information.")
	}
}

func (p *parser) env(ln line, v word) {
	name, value, ok := strings.Cut(v.text, "=")
	if !ok || name == "" {
		p.warn(ln, v, nil, "env "+v.text, "it is ignored: it has no name and value", "write env NAME=VALUE")
		return
	}
	p.cfg.Env = append(p.cfg.Env, [2]string{name, value})
}

func (p *parser) pacemakerBoolean(ln line, v word) {
	_, ok := parseBool(v.text)
	switch {
	case !ok:
		p.notBoolean(ln, v, []string{"ERROR: ha_config_check_boolean:Invalid directive value " + v.text})
	case ln.name.text == "crmd_spawns_pengine" && p.crmSet:
		p.fail(ln, v, []string{fmt.Sprintf("ERROR: If you specify %s, it must come before the pacemaker directive", v.text)},
			ln.name.text+" after crm or pacemaker", "it acts only before it", "remove it: there is no Pacemaker here")
	}
}

func (p *parser) crmDaemonDir(ln line, v word) {
	p.fail(ln, v, nil, "crm_daemon_dir "+v.text, "it belongs to Pacemaker", "remove the line")
}

// finish applies the defaults and the derived values, and makes the checks
// that need no machine, in the original's order.
func (p *parser) finish() {
	c := p.cfg
	at := func(phase, n int) order { return order{phase, n, 0} }
	if !p.baudSet && p.wholeLine {
		p.probs = append(p.probs, Problem{Severity: Info, at: at(phaseDefaults, 0),
			Classic: []string{"heartbeat: baudrate setting must precede media statements"}})
	}
	if !p.crmSet {
		p.probs = append(p.probs, Problem{Severity: Info, at: at(phaseDefaults, 1),
			Classic: []string{"info: Pacemaker support: false"}})
	}
	derive := func(name string, field *time.Duration, value time.Duration) {
		if _, ok := c.written[name]; !ok {
			*field = value
			c.derived[name] = milliseconds(value)
		}
	}
	derive("deadping", &c.Deadping, c.Deadtime)
	derive("warntime", &c.Warntime, c.Deadtime/2)
	initdead := 2 * c.Deadtime
	switch {
	case c.Deadtime > 10*time.Second:
		initdead = c.Deadtime
	case c.Deadtime < 6*time.Second:
		initdead = 12 * time.Second
	}
	derive("initdead", &c.Initdead, initdead)

	file := Pos{File: c.path("ha.cf")}
	check := func(n int, name string, s Severity, what, why, fix string, classic ...string) {
		pos := file
		if w, ok := c.written[name]; ok {
			pos = w.pos
		}
		p.probs = append(p.probs, Problem{Pos: pos, Severity: s, What: what, Why: why, Fix: fix, Classic: classic, at: at(phaseChecks, n)})
	}
	if len(c.Media) == 0 && len(c.PingNodes) == 0 {
		check(checkMedia, "", Error, "no media", "the nodes cannot hear each other", "add a bcast, ucast, mcast or serial line",
			"ERROR: No heartbeat media defined")
	} else if len(c.Media) == 0 {
		check(checkMedia, "", Warn, "only ping nodes", "the nodes cannot hear each other", "add a bcast, ucast, mcast or serial line")
	}
	if len(c.Nodes) == 0 {
		check(checkNodes, "", Error, "no nodes", "the cluster has no members", "add: node NAME NAME",
			"ERROR: no nodes defined")
	}
	ms := func(d time.Duration) int64 { return d.Milliseconds() }
	if c.Deadtime <= 2*c.Keepalive {
		check(checkDeadtime, "deadtime", Error, fmt.Sprintf("deadtime %v", c.Deadtime),
			fmt.Sprintf("it must be more than twice keepalive (%v), or one lost packet is a failover", c.Keepalive),
			fmt.Sprintf("write deadtime above %v, or a shorter keepalive", 2*c.Keepalive),
			fmt.Sprintf("ERROR: Dead time [%d] is too small compared to keeplive [%d]", ms(c.Deadtime), ms(c.Keepalive)))
	}
	switch {
	case c.Initdead < c.Deadtime:
		check(checkInitdead, "initdead", Error, fmt.Sprintf("initdead %v", c.Initdead),
			fmt.Sprintf("it must not be shorter than deadtime (%v)", c.Deadtime), "write twice deadtime",
			fmt.Sprintf("ERROR: Initial dead time [%d] is smaller than deadtime [%d]", ms(c.Initdead), ms(c.Deadtime)))
	case c.Initdead < 10*time.Second:
		check(checkInitdead, "initdead", Warn, fmt.Sprintf("initdead %v", c.Initdead),
			"a network may take longer to come up after boot", "write 10 seconds or more",
			fmt.Sprintf("WARN: Initial dead time [%d ms] may be too small!", ms(c.Initdead)),
			"info: Initial dead time accounts for slow network startup time",
			"info: It should be >= deadtime and >= 10 seconds")
	}
	if _, set := c.written["deadping"]; set && c.Deadping <= 2*c.Keepalive {
		check(checkDeadping, "deadping", Error, fmt.Sprintf("deadping %v", c.Deadping),
			fmt.Sprintf("it must be more than twice keepalive (%v)", c.Keepalive), fmt.Sprintf("write deadping above %v", 2*c.Keepalive),
			fmt.Sprintf("ERROR: Ping dead time [%d] is too small compared to keeplive [%d]", ms(c.Deadping), ms(c.Keepalive)))
	}
	if c.Warntime >= c.Deadtime && len(c.written) > 0 && c.Deadtime > 0 {
		check(checkDeadtime, "warntime", Warn, fmt.Sprintf("warntime %v", c.Warntime),
			fmt.Sprintf("it never warns before deadtime (%v)", c.Deadtime), "write half of deadtime")
	}
	if c.Failback == cluster.FailbackLegacy {
		check(checkFailback, "auto_failback", Warn, "auto_failback is legacy",
			"hb_standby and ipfail do not work with it", "write auto_failback on or off, the same on both nodes",
			"WARN: Deprecated 'legacy' auto_failback option selected.",
			"WARN: Please convert to 'auto_failback on'.",
			"WARN: See documentation for conversion details.")
	}
	p.logging(check)
	c.buildParams()
}

// logging is the original's check of the log directives.
func (p *parser) logging(check func(int, string, Severity, string, string, string, ...string)) {
	c := p.cfg
	own := c.Logfile != "" || c.Debugfile != ""
	any := own || c.LogFacility != ""
	switch {
	case !any && !p.logdSet:
		c.UseLogd = true
		c.derived["use_logd"] = "yes"
		p.onHost(func(h Host) Problems {
			return Problems{{Severity: Info, at: order{phaseChecks, checkLogging, 0},
				Classic: append([]string{"info: No log entry found in ha.cf -- use logd"}, logdLines(h, false)...)}}
		})
	case !any && !c.UseLogd:
		check(checkLogging, "use_logd", Error, "nothing is logged", "use_logd is off and there is no logfile, debugfile or logfacility",
			"add: logfacility daemon", "ERROR: No log entry found in ha.cf and use_logd is set to off")
		p.onHost(func(h Host) Problems {
			if h.LogdRunning() {
				return nil
			}
			return Problems{{Severity: Info, at: order{phaseChecks, checkLogging, 1},
				Classic: []string{"WARN: Initializing connection to logging daemon failed. Logging daemon may not be running"}}}
		})
	case any && !c.UseLogd:
		check(checkLogging, "", Info, "", "", "", loggingDisabled)
	case any:
		var names []string
		if own {
			names = append(names, "logfile/debugfile")
		}
		if c.LogFacility != "" {
			names = append(names, "logfacility")
		}
		list := strings.Join(names, "/")
		check(checkLogging, "use_logd", Warn, "use_logd with "+list, "the logging daemon has its own", "keep one of the two",
			"WARN: logd is enabled but "+list+" is still configured in ha.cf")
	}
}
