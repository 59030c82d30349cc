package config

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"heartbeat/cluster"
)

// defaultTOML is what holds without heartbeat.toml.
func defaultTOML() TOML {
	return TOML{
		ControlSocket: "/run/heartbeat/control.sock",
		LogFormat:     "text",
		Supervise:     true,
		Announce: Announce{Burst: 5, Interval: Duration(1100 * time.Millisecond),
			Refresh: Duration(time.Minute)},
		Scripts: Scripts{Start: Duration(10 * time.Minute), Stop: Duration(10 * time.Minute),
			Status: Duration(time.Minute)},
		Fencing: Fencing{Delay: Duration(10 * time.Second), AtStart: "reset"},
		Failure: Failure{Stop: "block"},
		Guard:   Guard{AddressLifetime: "auto", AddressConflict: "warn"},
	}
}

// UnmarshalText reads "2s", "200ms" or a bare number of seconds. Negative
// spans and those beyond ten years are refused.
func (d *Duration) UnmarshalText(text []byte) error {
	s := string(text)
	if seconds, err := strconv.ParseFloat(s, 64); err == nil {
		if math.IsNaN(seconds) || seconds < 0 || seconds > timeMax.Seconds() {
			return fmt.Errorf("%s is no span of time", s)
		}
		*d = Duration(seconds * float64(time.Second))
		return nil
	}
	v, err := time.ParseDuration(s)
	if err != nil || v < 0 || v > timeMax {
		return fmt.Errorf("%q is no span of time: write seconds (2) or a number with a unit (\"200ms\", \"2s\", \"10m\")", s)
	}
	*d = Duration(v)
	return nil
}

// MarshalText is UnmarshalText's inverse.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// String is the span as time.Duration writes it.
func (d Duration) String() string { return time.Duration(d).String() }

// FormatTOML writes t as a heartbeat.toml that reads back as t.
func FormatTOML(t TOML) (string, error) {
	var b strings.Builder
	err := toml.NewEncoder(&b).Encode(t)
	return b.String(), err
}

var tomlLine = regexp.MustCompile(`line (\d+)`)

// parseTOML reads heartbeat.toml over the defaults. Unknown keys are errors.
func parseTOML(cfg *Config, f File) Problems {
	cfg.TOML = defaultTOML()
	path := cfg.path("heartbeat.toml")
	if absent(f) {
		return nil
	}
	var probs Problems
	add := func(line, col int, what, why, fix string) {
		probs = append(probs, spoken(Problem{Pos: Pos{path, line, col}, Severity: Error, What: what, Why: why, Fix: fix,
			Err: f.Err, at: order{phaseChecks, checkTOML, line}}))
	}
	if f.Err != nil {
		add(0, 0, "cannot be read", f.Err.Error(), "give it back to root, or remove it")
		return probs
	}
	text := string(f.Data)
	lines := strings.Split(text, "\n")
	md, err := toml.Decode(text, &cfg.TOML)
	var syntax toml.ParseError
	if errors.As(err, &syntax) {
		cfg.TOML = defaultTOML()
		line := min(max(syntax.Position.Line, 1), len(lines))
		col := min(max(syntax.Position.Col, 1), len(lines[line-1])+1)
		what := "cannot be understood"
		if syntax.LastKey != "" {
			what = syntax.LastKey
		}
		add(line, col, what, strings.ReplaceAll(syntax.Message, "\n", " "), "see the sample file")
		return probs
	}
	if err != nil {
		cfg.TOML = defaultTOML()
		line := 0
		if m := tomlLine.FindStringSubmatch(err.Error()); m != nil {
			n, _ := strconv.Atoi(m[1])
			line = min(n, len(lines))
		}
		add(line, 0, "a value has the wrong type", strings.TrimPrefix(err.Error(), "toml: "), "see the sample file")
		return probs
	}
	known := []string{
		"control_socket", "log_format", "supervise",
		"announce", "burst", "interval", "refresh",
		"scripts", "start", "stop", "status",
		"guard", "address_lifetime",
		"fencing", "delay", "at_start", "failure",
		"fence", "node", "agent", "action", "timeout", "options",
	}
	for _, key := range md.Undecoded() {
		line, col := findKey(lines, key)
		fix := "remove it"
		if near := nearest(key[len(key)-1], known); near != "" {
			fix = "write " + near
		}
		add(line, col, fmt.Sprintf("unknown key %q", key.String()), "it would have no effect", fix)
	}
	for _, key := range md.Keys() {
		line, col := findKey(lines, key)
		cfg.tomlPos[key.String()] = Pos{path, line, col}
	}
	check := func(ok bool, key, why, fix string) {
		if pos := cfg.tomlPos[key]; !ok {
			add(pos.Line, pos.Col, key, why, fix)
		}
	}
	t := cfg.TOML
	check(strings.HasPrefix(t.ControlSocket, "/"), "control_socket", "it is a socket's full path", "begin it with /")
	check(len(t.ControlSocket) < socketPathMax, "control_socket", fmt.Sprintf("a socket's path has at most %d bytes", socketPathMax-1), "shorten it")
	check(t.LogFormat == "classic" || t.LogFormat == "text" || t.LogFormat == "json", "log_format", "there is no such format", `write "classic", "text" or "json"`)
	check(t.Announce.Burst >= 1 && t.Announce.Burst <= burstMax, "announce.burst", fmt.Sprintf("it is a number from 1 to %d", burstMax), "write 5")
	check(t.Announce.Interval >= Duration(time.Millisecond), "announce.interval", "it is at least a millisecond", `write "1100ms"`)
	check(t.Announce.Refresh == 0 || t.Announce.Refresh >= Duration(time.Second), "announce.refresh", "it is at least a second, or 0 for never", `write "60s"`)
	check(t.Guard.AddressLifetime == "auto" || t.Guard.AddressLifetime == "off", "guard.address_lifetime", "there is no such choice", `write "auto" or "off"`)
	_, ok := cluster.ParseConflict(t.Guard.AddressConflict)
	check(ok, "guard.address_conflict", "there is no such choice", `write "warn", "refuse" or "off"`)
	check(t.Fencing.AtStart == "reset" || t.Fencing.AtStart == "wait", "fencing.at_start", "there is no such choice", `write "reset" or "wait"`)
	check(t.Failure.Stop == "block" || t.Failure.Stop == "reboot", "failure.stop", "there is no such choice", `write "block" or "reboot"`)
	probs = append(probs, parseFences(cfg, f, lines, add)...)
	for _, s := range []struct {
		key string
		d   Duration
	}{{"scripts.start", t.Scripts.Start}, {"scripts.stop", t.Scripts.Stop}, {"scripts.status", t.Scripts.Status}} {
		check(s.d >= Duration(time.Second), s.key, "it is at least a second", `write "10m"`)
	}
	return probs
}

const (
	socketPathMax = 108 // sun_path
	burstMax      = 100
)

var (
	tomlTable = regexp.MustCompile(`^\s*\[+\s*([^\]]+?)\s*\]+`)
	tomlKey   = regexp.MustCompile(`^\s*([A-Za-z0-9_."'-][A-Za-z0-9_."' \t-]*?)\s*=`)
)

// findKey is the line and column of a key; the decoder does not tell. Keys of
// inline tables are found at the line of their table; 0 when not found.
func findKey(lines []string, key toml.Key) (line, col int) {
	want := strings.Join(key, ".")
	plain := strings.NewReplacer(`"`, "", "'", "", " ", "", "\t", "")
	table := ""
	for i, l := range lines {
		if m := tomlTable.FindStringSubmatchIndex(l); m != nil {
			table = plain.Replace(l[m[2]:m[3]])
			if table == want {
				return i + 1, m[2] + 1
			}
			table += "."
			continue
		}
		if m := tomlKey.FindStringSubmatchIndex(l); m != nil {
			name := table + plain.Replace(l[m[2]:m[3]])
			if name == want {
				return i + 1, m[2] + 1
			}
			if strings.HasPrefix(want, name+".") {
				line, col = i+1, m[2]+1
				if at := strings.Index(l, key[len(key)-1]); at >= 0 {
					col = at + 1
				}
			}
		}
	}
	return line, col
}
