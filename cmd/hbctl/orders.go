package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"heartbeat/cluster/control"
)

// sets are the words that standby and takeover understand.
var sets = []string{"all", "local", "foreign", "failback"}

const setsHelp = `
all       everything (the default)
local     the groups whose line in haresources names this node
foreign   the other node's groups
failback  the same as foreign

Each step is printed as it happens, and the command ends with the outcome; with
--wait=false it ends as soon as the daemon has accepted.`

func (s *session) standbyCommand() *cobra.Command {
	return s.moveCommand(control.VerbStandby, "Give resources to the other node",
		"This node releases the named groups, then the other one starts them.\n"+setsHelp)
}

func (s *session) takeoverCommand() *cobra.Command {
	return s.moveCommand(control.VerbTakeover, "Take resources from the other node",
		"The other node is asked to release the named groups, so that they run here.\n"+setsHelp)
}

func (s *session) moveCommand(verb, short, long string) *cobra.Command {
	var wait bool
	cmd := &cobra.Command{
		Use:       verb + " [all|local|foreign|failback]",
		Short:     short,
		Long:      long,
		Args:      cobra.MatchAll(cobra.MaximumNArgs(1), cobra.OnlyValidArgs),
		ValidArgs: sets,
		RunE: func(cmd *cobra.Command, args []string) error {
			set := "all"
			if len(args) > 0 {
				set = args[0]
			}
			if set == "failback" {
				set = "foreign"
			}
			return s.order(cmd.Context(), control.Order{Verb: verb, Set: set}, wait)
		},
	}
	cmd.Flags().BoolVar(&wait, "wait", true, "wait for the outcome and print each step")
	return cmd
}

// order gives an order and prints its progress.
func (s *session) order(ctx context.Context, o control.Order, wait bool) error {
	o.From = "hbctl"
	err := s.client().Order(ctx, o, func(st control.Step) bool {
		s.printStep(st)
		return wait
	})
	if err != nil {
		return failed(err)
	}
	return nil
}

// The time that a daemon has to be gone, or back, after its last word.
const (
	settleLimit = 30 * time.Second
	settlePause = 50 * time.Millisecond
)

func (s *session) stopCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "stop",
		Short: "Release all resources and end the daemon",
		Long: `Releases everything this node holds, so that the other node takes it over, and
ends the daemon. Waits until it is gone.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			err := s.order(cmd.Context(), control.Order{Verb: control.VerbStop}, true)
			if err != nil && !hungUp(err) {
				return err
			}
			if !s.settled(cmd.Context(), func(err error) bool { return errors.Is(err, control.ErrNoDaemon) }) {
				return &exitError{code: exitFailed, text: "the daemon still runs: see its log"}
			}
			fmt.Fprintln(s.stdout, "heartbeat is stopped")
			return nil
		},
	}
}

func (s *session) reloadCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "reload",
		Short: "Make the daemon read its files again",
		Long: `What SIGHUP does: changed keys are taken over; a changed ha.cf or haresources
makes the daemon start again in place and keep what it holds. A mistake in the
files is refused and changes nothing.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.inPlace(cmd.Context(), control.VerbReload)
		},
	}
}

func (s *session) reexecCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "reexec",
		Short: "Start the daemon's program again in place",
		Long: `Starts the installed program in the place of the running daemon, which keeps its
resources, its sequence numbers and its sockets: after an upgrade nothing moves.
Waits until the new program answers, and fails when it does not or when the old
one has to go on.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.inPlace(cmd.Context(), control.VerbReexec)
		},
	}
}

// inPlace gives an order that may replace the daemon's program, which then
// hangs up: the order has succeeded when the new one answers.
func (s *session) inPlace(ctx context.Context, verb string) error {
	err := s.order(ctx, control.Order{Verb: verb}, true)
	if !hungUp(err) {
		return err
	}
	if !s.settled(ctx, func(err error) bool { return err == nil }) {
		return &exitError{code: exitFailed, text: "the new program does not answer: see heartbeat's log"}
	}
	fmt.Fprintln(s.stdout, "heartbeat is running again")
	return nil
}

// hungUp reports whether the daemon closed the connection before it told the
// outcome of an order.
func hungUp(err error) bool {
	exit, ok := errors.AsType[*exitError](err)
	return ok && exit.hungUp
}

// settled asks a daemon that ends or begins for its status until the error of
// that is as wanted. It reports false when that takes too long.
func (s *session) settled(ctx context.Context, wanted func(error) bool) bool {
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	tick := time.NewTicker(settlePause)
	defer tick.Stop()
	for {
		if _, err := s.client().Status(ctx); wanted(err) {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
}

const fenceAckWarning = `Only go on when you have seen to it that %[1]s is down: switched off, or cut off from
its disks and its network. This node then takes over what %[1]s had, without
resetting it. If %[1]s still runs, both use the same addresses and disks, and
data is lost.
`

func (s *session) fenceAckCommand() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "fence-ack NODE",
		Short: "Confirm that a dead node is down from which nothing is taken",
		Long: `A dead node is reset by its fencing device before anything of it is taken. When the
device is gone too, the takeover waits until somebody says that the node is down;
so it does, with address_conflict = "refuse", while its addresses are answered for.
The word is taken only for a node that is dead and for which a takeover waits, and
stands in the log and in hbctl why.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			node := strings.ToLower(args[0])
			if !yes {
				fmt.Fprintf(s.stderr, fenceAckWarning+"Is %[1]s down? Type yes: ", node)
				answer, _ := bufio.NewReader(s.stdin).ReadString('\n') // what was read before an error is no yes
				if strings.TrimSpace(answer) != "yes" {
					return &exitError{code: exitFailed, text: "nothing is done"}
				}
			}
			return s.order(cmd.Context(), control.Order{Verb: control.VerbFenceAck, Node: node}, true)
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}
