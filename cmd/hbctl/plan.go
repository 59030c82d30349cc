package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"heartbeat/cluster/boot"
	"heartbeat/cluster/config"
	"heartbeat/cluster/engine"
	"heartbeat/cluster/sim"
	"heartbeat/resources/ipaddr"
)

// planColumns is how wide sentences are set.
const planColumns = 100

func (s *session) planCommand() *cobra.Command {
	var asJSON, explore, steps bool
	var start, stop, limit time.Duration
	var faults int
	cmd := &cobra.Command{
		Use:   "plan [directory]",
		Short: "Tell what this pair would do when something dies, or look for what it should not do",
		Long: `Reads the files of the directory (/etc/ha.d), lets both nodes run in virtual time
with them, and tells what the pair does when a node dies, is stopped, freezes or
comes back, when links or ping nodes are lost, and on hb_standby: who owns what
then, and after how long. What decides is the daemon's own engine; nothing on
this machine is asked or touched, no daemon is needed, and neither is root.

With --explore every sequence of up to --faults faults is tried (a link is cut,
the last one also in one direction only, a machine loses its power, freezes, a
daemon is killed, stands still or is stopped, hb_standby, a start or stop or reset fails, a ping node is lost), each at
every moment at which something has just been decided, is about to be, or nothing
moves, with and without their repairs. Told are the states in which a group has
two owners or none, with the shortest way to each.

How long a group takes to start and stop is not in the files: --start, --stop.
The service network is taken to work all the time. Of the guards beside the engine
the lifetime of addresses is simulated for a daemon that is gone and groups that are
nothing but addresses; watchdog devices are not.

Ends with 1 when the files have errors, and with --explore when a state was found
that does not follow from the configuration; with 0 otherwise.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case faults < 1 || faults > 5:
				return fmt.Errorf("--faults %d: must be from 1 to 5", faults)
			case start <= 0 || stop <= 0 || start > time.Hour || stop > time.Hour:
				return errors.New("--start and --stop: must be above 0 and at most 1h")
			case limit <= 0:
				return errors.New("--limit: must be above 0")
			case explore && steps:
				return errors.New("--steps does not go with --explore, which always tells the ways")
			}
			pair, cfg, err := s.pair(dirArgument(args))
			if err != nil {
				return err
			}
			pair.Start, pair.Stop = start, stop
			if explore {
				return s.explore(cmd.Context(), pair, cfg, faults, limit, asJSON)
			}
			plan := sim.Plan(pair)
			if asJSON {
				return s.printJSON(plan)
			}
			s.printSetting(pair, cfg)
			for _, scene := range plan.Scenes {
				fmt.Fprintf(s.stdout, "\n%s:\n", scene.Title)
				for _, text := range scene.Text {
					printWrapped(s.stdout, "    ", text)
				}
				if steps {
					printEvents(s.stdout, scene.Steps)
				}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.BoolVar(&asJSON, "json", false, "print JSON")
	f.BoolVar(&steps, "steps", false, "print each step with its time")
	f.BoolVar(&explore, "explore", false, "try every sequence of faults")
	f.IntVar(&faults, "faults", 2, "with --explore: the most faults in one sequence")
	f.DurationVar(&limit, "limit", 10*time.Minute, "with --explore: end after this time")
	f.DurationVar(&start, "start", time.Second, "how long a group takes to start")
	f.DurationVar(&stop, "stop", time.Second, "how long a group takes to stop")
	return cmd
}

// pair is what the files of a directory say, as each node reads them. Their
// errors are printed as check does.
func (s *session) pair(dir string) (sim.Pair, *config.Config, error) {
	files := config.ReadFiles(dir)
	if errors.Is(files.AuthKeys.Err, fs.ErrPermission) {
		// The keys decide nothing here, and are for root's eyes.
		files.AuthKeys = config.File{Data: []byte("auth 1\n1 sha1 unread\n"), Mode: 0o600}
		fmt.Fprintf(s.stderr, "hbctl: authkeys may be read by root only; it is taken to be in order\n")
	}
	cfg, found := config.Parse(files)
	if found.Failed() {
		for _, p := range found.Report() {
			fmt.Fprintf(s.stdout, "%s: %s\n", p.Severity, p)
		}
		return sim.Pair{}, nil, &exitError{code: exitFailed, text: "heartbeat would not start with the files of " + dir}
	}
	if len(cfg.Nodes) != 2 {
		return sim.Pair{}, nil, &exitError{code: exitFailed, text: fmt.Sprintf("%s/ha.cf names %d nodes: a plan is made for a pair", dir, len(cfg.Nodes))}
	}
	if len(cfg.Groups) == 0 {
		return sim.Pair{}, nil, &exitError{code: exitFailed, text: dir + "/haresources names no group: there is nothing to plan"}
	}
	var pair sim.Pair
	for _, node := range cfg.Nodes {
		c := *cfg
		c.Self = node
		pair.Nodes = append(pair.Nodes, boot.Config(&c))
	}
	if cfg.TOML.Guard.AddressLifetime != "off" {
		if lifetime, err := ipaddr.LifetimeFor(cfg.Deadtime, cfg.Keepalive); err == nil {
			pair.Gone = lifetime + time.Second // the kernel looks at least once a second
		}
	}
	for _, g := range cfg.Groups {
		if !slices.ContainsFunc(g.Resources, func(r string) bool { return !isAddress(r) }) {
			pair.Addresses = append(pair.Addresses, g.Key)
		}
	}
	return pair, cfg, nil
}

// isAddress reports whether an entry of haresources is an address of a built-in type.
func isAddress(resource string) bool {
	name, _, ok := strings.Cut(resource, "::")
	if !ok {
		addr, _, _ := strings.Cut(name, "/")
		_, err := netip.ParseAddr(addr)
		return err == nil
	}
	return name == "IPaddr" || name == "IPaddr2" || name == "IPv6addr"
}

// printSetting tells what everything else follows from.
func (s *session) printSetting(p sim.Pair, cfg *config.Config) {
	c := p.Nodes[0]
	row := func(name, value string) { fmt.Fprintf(s.stdout, "%-14s %s\n", name, value) }
	row("nodes", strings.Join(c.Nodes, ", "))
	for _, g := range c.Groups {
		row("group", g.Key+", preferred on "+g.Node)
	}
	var links []string
	for _, m := range cfg.Media {
		links = append(links, m.Kind+" "+m.Link())
	}
	row("media", strings.Join(links, ", "))
	var pings []string
	for _, n := range c.PingNodes {
		pings = append(pings, n.Name)
	}
	switch {
	case len(pings) == 0:
		row("ping nodes", "none")
	case c.IPFail:
		row("ping nodes", strings.Join(pings, ", ")+"; ipfail compares them")
	default:
		row("ping nodes", strings.Join(pings, ", ")+"; without a respawn line for ipfail nothing follows from them")
	}
	row("times", fmt.Sprintf("keepalive %v, warntime %v, deadtime %v, initdead %v", c.Keepalive, c.Warntime, c.Deadtime, c.Initdead))
	row("auto_failback", c.Failback.String())
	row("fencing", fencing(p.Nodes))
	lifetime := "none"
	if p.Gone > 0 {
		lifetime = fmt.Sprintf("gone %v after the last keepalive at the latest", p.Gone)
	}
	row("guard", "address_conflict "+c.Conflict.String()+"; address lifetimes: "+lifetime)
	row("assumed", fmt.Sprintf("a group takes %v to start (--start) and %v to stop (--stop)", p.Start, p.Stop))
}

func fencing(nodes []engine.Config) string {
	var by []string
	for _, n := range nodes {
		if n.Stonith {
			by = append(by, n.Self)
		}
	}
	if len(by) == 0 {
		return "none"
	}
	text := "by " + by[0] + " only"
	if len(by) == len(nodes) {
		text = "both nodes"
	}
	if delay := nodes[0].FenceDelay; delay > 0 {
		text += fmt.Sprintf(", a delay of %v between their resets", delay)
	}
	return text + "; a reset is assumed to take 5s, a restart of the machine 20s"
}

// explore explores and tells the findings.
func (s *session) explore(ctx context.Context, p sim.Pair, cfg *config.Config, faults int, limit time.Duration, asJSON bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	// Little lives long here, and there is memory enough: the collector may wait.
	defer debug.SetGCPercent(debug.SetGCPercent(800))
	begun := time.Now()
	opts := sim.Options{Faults: faults}
	terminal := isTerminal(s.stderr)
	if terminal {
		opts.Progress = func(p sim.Progress) {
			fmt.Fprintf(s.stderr, "\r%d faults: %d states, %d runs, %d states to go on from, %v   ", p.Faults, p.States, p.Runs, p.Waiting, time.Since(begun).Round(time.Second))
		}
	}
	x := sim.Explore(ctx, p, opts)
	if terminal {
		fmt.Fprint(s.stderr, "\r\033[K")
	}
	var unknown int
	for _, f := range x.Findings {
		if !f.Known {
			unknown++
		}
	}
	if asJSON {
		if err := s.printJSON(x); err != nil {
			return err
		}
	} else {
		s.printSetting(p, cfg)
		s.printExploration(x, unknown)
		fmt.Fprintf(s.stderr, "hbctl: %v\n", time.Since(begun).Round(100*time.Millisecond))
	}
	if unknown > 0 {
		return &exitError{code: exitFailed, text: fmt.Sprintf("%d findings do not follow from the configuration", unknown)}
	}
	return nil
}

func (s *session) printExploration(x *sim.Exploration, unknown int) {
	var tried []string
	for _, k := range x.Tried {
		tried = append(tried, string(k))
	}
	fmt.Fprintln(s.stdout)
	printWrapped(s.stdout, "", fmt.Sprintf("Up to %d faults in a row (%s): %d different states in %d runs, %.0f hours of virtual time.",
		x.Faults, strings.Join(tried, ", "), x.States, x.Runs, time.Duration(x.Virtual).Hours()))
	if x.Left > 0 {
		printWrapped(s.stdout, "", fmt.Sprintf("NOT COMPLETE: ended before everything was tried. From %d states with %d or more faults nothing was tried any more; all ways with fewer faults are covered.", x.Left, x.LeftFaults))
	}
	printWrapped(s.stdout, "", fmt.Sprintf("Findings: %d that follow from the configuration, %d that do not.", len(x.Findings)-unknown, unknown))
	for i, f := range x.Findings {
		fmt.Fprintf(s.stdout, "\n%d. %s\n", i+1, f.Title())
		for _, text := range f.Sentences() {
			printWrapped(s.stdout, "    ", text)
		}
		fmt.Fprintf(s.stdout, "    The shortest way:\n")
		printEvents(s.stdout, f.Way)
	}
	if x.Gap > 0 {
		fmt.Fprintln(s.stdout)
		printWrapped(s.stdout, "", fmt.Sprintf("The longest interruption of a service that ended by itself or with a repair: %.1fs.", time.Duration(x.Gap).Seconds()))
		printEvents(s.stdout, x.GapWay)
	}
}

// printEvents prints a numbered list; what is done to the pair is marked.
func printEvents(w io.Writer, events []sim.Event) {
	for i, e := range events {
		mark := " "
		if e.Fault {
			mark = ">"
		}
		fmt.Fprintf(w, "    %3d. %10.3f %s %s\n", i+1, e.At.Seconds(), mark, e.Text)
	}
}

// printWrapped prints a text in lines of at most planColumns.
func printWrapped(w io.Writer, indent, text string) {
	line := indent
	for word := range strings.FieldsSeq(text) {
		if len(line)+1+len(word) > planColumns && line != indent {
			fmt.Fprintln(w, line)
			line = indent
		}
		if line != indent {
			line += " "
		}
		line += word
	}
	fmt.Fprintln(w, line)
}
