package config

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Fencing is how dead nodes are reset.
type Fencing struct {
	// Delay keeps the resets of two nodes apart that live and have lost each
	// other; 0 for none.
	Delay Duration `toml:"delay"`
	// AtStart is "reset", or "wait" for an operator: what is done about a node of
	// which nothing was heard since this one started.
	AtStart string `toml:"at_start"`
}

// Failure says what is done when something fails that should not.
type Failure struct {
	// Stop is "block" or "reboot": what becomes of a group that cannot be stopped.
	Stop string `toml:"stop"`
}

// Fence is one device that resets a node: a program of the package fence-agents.
// The devices of a node are tried in file order until one has reset it.
type Fence struct {
	// Node is the one to reset.
	Node string `toml:"node"`
	// Agent is the program: a name in /usr/sbin, or a path.
	Agent string `toml:"agent"`
	// Action is "reboot" or "off".
	Action string `toml:"action,omitempty"`
	// Timeout bounds each call of the agent.
	Timeout Duration `toml:"timeout,omitempty"`
	// Options go to the agent's standard input, one name=value a line.
	Options map[string]any `toml:"options,omitempty"`
}

// Input is what the agent reads for an action.
func (f Fence) Input(action string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "action=%s\n", action)
	for _, name := range f.names() {
		fmt.Fprintf(&b, "%s=%v\n", name, f.Options[name])
	}
	return b.String()
}

// Path is the agent's file.
func (f Fence) Path() string {
	if strings.Contains(f.Agent, "/") {
		return f.Agent
	}
	return "/usr/sbin/" + f.Agent
}

func (f Fence) names() []string {
	var names []string
	for name := range f.Options {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

var secretOption = regexp.MustCompile(`(?i)(passw|passphrase|secret|token|community|snmp_priv|api_?key)`)

// Secrets are the values of options that nobody may see.
func (f Fence) Secrets() (values []string) {
	for _, name := range f.names() {
		// With _script in its name it is the program that tells the secret.
		if v := fmt.Sprint(f.Options[name]); secretOption.MatchString(name) && !strings.HasSuffix(name, "_script") && v != "" {
			values = append(values, v)
		}
	}
	return values
}

// describe is the device without its secrets.
func (f Fence) describe() string {
	return fmt.Sprintf("%s %s, timeout %v, options %s", f.Agent, f.Action, f.Timeout, strings.Join(f.names(), " "))
}

const (
	fencesMax       = 16
	fenceTimeout    = Duration(60 * time.Second)
	fenceTimeoutMin = Duration(time.Second)
	optionBytesMax  = 1000
)

var (
	agentName  = regexp.MustCompile(`^(/[^\s]*/)?[A-Za-z0-9_.-]+$`)
	optionName = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
)

// parseFences completes and checks the [[fence]] tables. add reports an error.
func parseFences(c *Config, f File, lines []string, add func(line, col int, what, why, fix string)) (warnings Problems) {
	var places []Pos
	for i, l := range lines {
		if m := tomlTable.FindStringSubmatchIndex(l); m != nil && l[m[2]:m[3]] == "fence" && strings.Contains(l, "[[") {
			places = append(places, Pos{c.path("heartbeat.toml"), i + 1, m[2] + 1})
		}
	}
	fences := c.TOML.Fences
	for i := range fences {
		pos := c.tomlPos["fence"]
		if i < len(places) {
			pos = places[i]
		}
		c.fencePos = append(c.fencePos, pos)
		fence := &fences[i]
		fence.Node = strings.ToLower(fence.Node)
		if fence.Action == "" {
			fence.Action = "reboot"
		}
		if fence.Timeout == 0 {
			fence.Timeout = fenceTimeout
		}
		check := func(ok bool, what, why, fix string) {
			if !ok {
				add(pos.Line, pos.Col, what, why, fix)
			}
		}
		check(i < fencesMax, "too many fence tables", fmt.Sprintf("the bound is %d", fencesMax), "keep the devices that work")
		check(slices.Contains(c.Nodes, fence.Node), fmt.Sprintf("fence.node %q", fence.Node), "no node line of ha.cf names it", "name the node that the device resets")
		check(agentName.MatchString(fence.Agent), fmt.Sprintf("fence.agent %q", fence.Agent), "it is the name of a program in /usr/sbin, or a path", `write for example "fence_ipmilan"`)
		check(fence.Action == "reboot" || fence.Action == "off", fmt.Sprintf("fence.action %q", fence.Action), "a device switches off, or off and on", `write "reboot" or "off"`)
		check(fence.Timeout >= fenceTimeoutMin, "fence.timeout", "it is at least a second", `write "60s"`)
		for _, name := range fence.names() {
			value := fence.Options[name]
			switch value.(type) {
			case string, int64, bool:
			default:
				add(pos.Line, pos.Col, "option "+name, "an agent reads a text, a whole number, true or false", "write it so")
				continue
			}
			text := fmt.Sprint(value)
			check(optionName.MatchString(name), fmt.Sprintf("option %q", name), "an option's name has letters, digits, - and _", "see the agent's manual page")
			check(name != "action" && name != "option", "option "+name, "the action is given by the table", "write action beside agent")
			check(len(text) <= optionBytesMax && !strings.ContainsAny(text, "\r\n\x00"), "option "+name, fmt.Sprintf("a value is one line of at most %d bytes", optionBytesMax), "shorten it")
		}
		if len(fence.Secrets()) > 0 && f.Mode.Perm()&0o077 != 0 {
			warnings = append(warnings, Problem{Pos: pos, Severity: Warn, at: order{phaseChecks, checkTOML, pos.Line},
				What: "a fencing device's password", Why: fmt.Sprintf("the file has mode %04o: others than root can read it", f.Mode.Perm()), Fix: "chmod 600 " + c.path("heartbeat.toml")})
		}
		at := order{phaseChecks, checkTOML, pos.Line}
		c.questions = append(c.questions, func(h Host) Problems {
			if fence.Node == c.Self || !agentName.MatchString(fence.Agent) || h.Program(fence.Path()) {
				return nil // this node does not reset itself
			}
			return Problems{spoken(Problem{Pos: pos, Severity: Error, at: at,
				What: "fence.agent " + fence.Agent, Why: "there is no program " + fence.Path(), Fix: "install the package fence-agents, or correct the name"})}
		})
	}
	for _, node := range c.Nodes {
		if len(fences) > 0 && len(c.Stonith) == 0 && len(c.Fences(node)) == 0 {
			pos := c.fencePos[0]
			warnings = append(warnings, Problem{Pos: pos, Severity: Warn, at: order{phaseChecks, checkTOML, pos.Line},
				What: "no fence table for node " + node, Why: "when it dies its resources are taken without a reset", Fix: "add one for each node"})
		}
	}
	return warnings
}

// Fences are the devices of a node, in the order in which they are tried.
func (c *Config) Fences(node string) (list []Fence) {
	for _, f := range c.TOML.Fences {
		if f.Node == node {
			list = append(list, f)
		}
	}
	return list
}
