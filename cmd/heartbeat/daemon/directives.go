package daemon

import (
	"fmt"
	"io"
	"strings"

	"heartbeat/cluster/config"
)

// directive is one line of the tables that -D and -v print. Default is empty
// for directives without a fixed one.
type directive struct{ name, value, about string }

// directives are in the original's order. Those without a default are printed
// by -v only.
var directives = []directive{
	{"cluster", "linux-ha", "the name of cluster"},
	{"hopfudge", "1", "# of hops above cluster size"},
	{"keepalive", "1000ms", "keepalive time"},
	{"deadtime", "30000ms", "node deadtime"},
	{"deadping", "", "ping deadtime"},
	{"initdead", "", "initial deadtime"},
	{"warntime", "", "warning time"},
	{"baud", "19200", "baud rate"},
	{"udpport", "", "UDP port number"},
	{"logfile", "", "log file"},
	{"debugfile", "", "debug file"},
	{"logfacility", "", "log facility"},
	{"auto_failback", "legacy", "auto failback"},
	{"rtprio", "", "realtime priority"},
	{"hbgenmethod", "file", "protocol generation computation method"},
	{"realtime", "true", "enable realtime behavior?"},
	{"debug", "", "debug level"},
	{"msgfmt", "classic", "message format in the wire"},
	{"use_logd", "", "use logging daemon"},
	{"conn_logd_time", "60", "the interval to reconnect to logd"},
	{"log_badpack", "true", "warn about bad packets"},
	{"syslogmsgfmt", "true", "log to files in syslog format"},
	{"coredumps", "true", "enable Linux-HA core dumps"},
	{"coreroot", "", "set root directory of core dump area"},
	{"pacemaker", "false", "enable Pacemaker resource management"},
	{"autojoin", "none", "set automatic join mode/style"},
	{"uuidfrom", "file", "set the source for uuid"},
	{"compression", "zlib", "set compression module"},
	{"compression_threshold", "2", "set compression threshold"},
	{"traditional_compression", "no", "set traditional_compression"},
	{"max_rexmit_delay", "250", "set the maximum rexmit delay time"},
	{"record_config_changes", "on", "record changes to the cib (valid only with: pacemaker on)"},
	{"record_pengine_inputs", "on", "record the input used by the policy engine (valid only with: pacemaker on)"},
	{"enable_config_writes", "on", "write configuration changes to disk (valid only with: pacemaker on)"},
	{"memreserve", "6500", "number of kbytes to preallocate in heartbeat"},
	{"watchdog", "", "watchdog device"},
	{"quorum_server", "", "the quorum server"},
}

func printDefaults(w io.Writer, wiki bool) {
	if !wiki {
		fmt.Fprintf(w, "%-24s %-9s %s\n%s\n", "Directive", "Default", "Description", strings.Repeat("-", 80))
		for _, d := range directives {
			if d.value != "" {
				fmt.Fprintf(w, "%-24s %-9s %s\n", d.name, d.value, d.about)
			}
		}
		return
	}
	fmt.Fprintf(w, "##Put this output in the ha.cf/DefaultValues page\n"+
		"The [wiki:ha.cf ha.cf] directives with default values are shown below - along with a brief description.\n"+
		"This was produced by {{{heartbeat -DW}}} ''# (version %s)''\n\n||''Directive''||''Default''||''Description''||\n", compatible)
	for _, d := range directives {
		if d.value == "" {
			continue
		}
		var page strings.Builder
		for _, part := range strings.Split(d.name, "_") {
			page.WriteString(strings.ToUpper(part[:1]) + part[1:])
		}
		fmt.Fprintf(w, "||[wiki:ha.cf/%sDirective %s]||%s||%s||\n", page.String(), d.name, d.value, d.about)
	}
}

// printConfig is what -v shows before the start.
func printConfig(w io.Writer, c *config.Config) {
	values := make(map[string]string)
	for _, p := range c.Params {
		values[p.Name] = p.Value
	}
	rule := "#---------------------------------------------------"
	fmt.Fprintf(w, "#\n#\tLinux-HA heartbeat configuration (on %s)\n#\n\n%s\n#\n#\tHA configuration and status\n#\n", c.Self, rule)
	for _, d := range directives {
		if v, ok := values[d.name]; ok {
			fmt.Fprintf(w, "%s\t%s\t#\t%s\n", d.name, v, d.about)
		}
	}
	fmt.Fprint(w, "#\n#\tHA Cluster nodes:\n#\n")
	for _, n := range c.Nodes {
		fmt.Fprintf(w, "node %s\t#\t current status: init\n", n)
	}
	fmt.Fprint(w, "#\n#\tCommunications media:\n#\n")
	for _, m := range c.Media {
		switch m.Kind {
		case "mcast", "mcast6":
			fmt.Fprintf(w, "%s %s %s %d %d %d\n", m.Kind, m.Interface, m.Addr, m.Port, m.TTL, digit(m.Loop))
		case "ucast", "ucast6":
			fmt.Fprintf(w, "%s %s %s\n", m.Kind, m.Interface, m.Addr)
		default:
			fmt.Fprintf(w, "%s %s\n", m.Kind, m.Interface)
		}
	}
	for _, p := range c.PingNodes {
		switch {
		case p.Group:
			fmt.Fprintf(w, "ping_group %s %s\n", p.Name, strings.Join(p.Hosts, " "))
		case p.V6:
			fmt.Fprintf(w, "ping6 %s\n", p.Name)
		default:
			fmt.Fprintf(w, "ping %s\n", p.Name)
		}
	}
	fmt.Fprintln(w, rule)
}

func digit(b bool) int {
	if b {
		return 1
	}
	return 0
}
