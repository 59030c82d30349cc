package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"heartbeat/cluster/control"
)

func (s *session) statusCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show nodes, links, resource groups, what happens next, and warnings",
		Long: `Shows the cluster as this node sees it: every node with its links and how long ago
it was heard, every resource group with its owner, since when and why, what
happens next if nothing more is heard, and what should be mended.

The keys of --json are a stable interface; spans are in seconds.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			st, err := s.client().Status(cmd.Context())
			if err != nil {
				return failed(err)
			}
			if asJSON {
				return s.printJSON(st)
			}
			colour := isTerminal(s.stdout) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
			printStatus(s.stdout, st, colour)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// printStatus prints the status for people.
func printStatus(w io.Writer, st control.Status, colour bool) {
	fmt.Fprintf(w, "%s: %s, pid %d, up %s, generation %d, auto_failback %s\n",
		st.Self, daemonState(st), st.PID, span(st.At.Sub(st.Started)), st.Generation, st.AutoFailback)
	fmt.Fprintf(w, "this node holds %s; the other says it holds %s\n", word(st.Hold), word(st.PeerHold))
	if st.Standby != "" {
		fmt.Fprintf(w, "standby: %s\n", st.Standby)
	}

	nodes := table{{{text: "NODE"}, {text: "STATE"}, {text: "HEARD"}, {text: "REMARK"}}}
	for _, n := range st.Nodes {
		nodes = append(nodes, nodeRow(n))
		for _, l := range n.Links {
			if n.Type == "ping" && l.Name == n.Name && l.Up == (n.State != "dead") {
				continue // the node's own line says it
			}
			nodes = append(nodes, linkRow(l))
		}
	}
	fmt.Fprintln(w)
	nodes.print(w, colour)

	groups := table{{{text: "GROUP"}, {text: "PREFERRED"}, {text: "OWNER"}, {text: "STATE"}, {text: "SINCE"}, {text: "WHY"}}}
	for _, g := range st.Groups {
		groups = append(groups, groupRow(g, st.At))
	}
	fmt.Fprintln(w)
	if len(st.Groups) == 0 {
		fmt.Fprintln(w, "no resource groups")
	} else {
		groups.print(w, colour)
	}
	for _, g := range st.Groups {
		if g.Err != "" {
			fmt.Fprintf(w, "%s: %s\n", g.Key, paint("error: "+g.Err, true, colour))
		}
	}

	fmt.Fprintln(w)
	if st.Next != nil {
		fmt.Fprintf(w, "next: %s, %s\n", in(time.Duration(st.Next.In)), st.Next.What)
	}
	if st.Last != nil {
		fmt.Fprintf(w, "last: %s (%s ago): %s\n", clock(st.Last.At), span(st.At.Sub(st.Last.At)), because(*st.Last))
	}
	if late := st.Lateness; late.Count > 0 {
		fmt.Fprintf(w, "this machine held the daemon up %d times, worst %s at %s\n",
			late.Count, span(time.Duration(late.Worst)), clock(late.WorstAt))
	}
	for _, text := range st.Warnings {
		fmt.Fprintln(w, paint("warning: "+text, true, colour))
	}
}

// daemonState sums the daemon up in two words.
func daemonState(st control.Status) string {
	switch {
	case st.Phase == "SHUTDOWN":
		return "stopping"
	case !st.CommUp:
		return "starting, waits for its media and the other node"
	case !st.Stable:
		return "running, resources are moving"
	}
	return "running, stable"
}

// word makes sure that an unknown word leaves no hole in a sentence.
func word(s string) string {
	if s == "" {
		return "?"
	}
	return s
}

func nodeRow(n control.Node) []cell {
	name := cell{text: n.Name}
	var remarks []string
	if n.Self {
		remarks = append(remarks, "this node")
	}
	if n.Type == "ping" {
		remarks = append(remarks, "ping node")
	}
	if n.Old {
		remarks = append(remarks, "speaks heartbeat 3.0.6's protocol only")
	}
	return []cell{name, {n.State, n.State == "dead"}, heard(n.Heard, n.Age, n.Self), {text: strings.Join(remarks, ", ")}}
}

func linkRow(l control.Link) []cell {
	row := []cell{{text: "  " + l.Name}, {l.State(), !l.Up}, heard(l.Heard, l.Age, false), {}}
	if l.OneWay {
		row[3] = cell{"one way only", true}
	}
	return row
}

// heard is how long ago; a node does not listen to itself.
func heard(ever bool, age control.Seconds, self bool) cell {
	switch {
	case self:
		return cell{text: "-"}
	case !ever:
		return cell{text: "never"}
	}
	return cell{text: span(time.Duration(age)) + " ago"}
}

func groupRow(g control.Group, at time.Time) []cell {
	owner, since := g.Owner, "-"
	if owner == "" {
		owner = "nobody"
	}
	if !g.Since.IsZero() {
		since = clock(g.Since) + " (" + span(at.Sub(g.Since)) + ")"
	}
	return []cell{{text: g.Key}, {text: g.Preferred}, {owner, g.Owner == ""}, {g.State, g.State == "failed"}, {text: since}, {text: g.Reason}}
}

// because is an event with its reason.
func because(e control.Event) string {
	if e.Reason == "" {
		return e.Text
	}
	return e.Text + " (" + e.Reason + ")"
}

// clock is a moment in wall time: the day only when it is not today.
func clock(t time.Time) string {
	t = t.Local()
	if now := time.Now(); t.Year() == now.Year() && t.YearDay() == now.YearDay() {
		return t.Format("15:04:05")
	}
	return t.Format("2006-01-02 15:04:05")
}

// span is a length of time in at most two units.
func span(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%dh", int(d.Hours())/24, int(d.Hours())%24)
}

// in is a time to come, or one that is overdue.
func in(d time.Duration) string {
	if d < 0 {
		return span(-d) + " overdue"
	}
	return "in " + span(d)
}

// cell is one place of a table; bad ones stand out on a terminal.
type cell struct {
	text string
	bad  bool
}

// table is rows of cells, the first one its head.
type table [][]cell

// print aligns columns two blanks apart; colours take no width.
func (t table) print(w io.Writer, colour bool) {
	widths := make([]int, len(t[0]))
	for _, row := range t {
		for i, c := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(c.text))
		}
	}
	for _, row := range t {
		var line strings.Builder
		pad := 0
		for i, c := range row {
			if c.text != "" {
				line.WriteString(strings.Repeat(" ", pad) + paint(c.text, c.bad, colour))
				pad = 0
			}
			pad += widths[i] - utf8.RuneCountInString(c.text) + 2
		}
		fmt.Fprintln(w, line.String())
	}
}

// paint makes bad text red on a terminal.
func paint(text string, bad, colour bool) string {
	if !bad || !colour {
		return text
	}
	return "\x1b[31m" + text + "\x1b[0m"
}
