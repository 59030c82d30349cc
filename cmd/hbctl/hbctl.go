package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"heartbeat/cluster/control"
)

// The exit codes of hbctl. 3 and 4 are what LSB's init scripts mean by them.
const (
	exitOK         = 0
	exitFailed     = 1 // refused, failed, or something is wrong with the files
	exitUsage      = 2
	exitNoDaemon   = 3
	exitPermission = 4
)

const hbctlHelp = `hbctl shows and moves what two heartbeat nodes do: it asks the daemon on this
machine. Everybody may ask; orders (standby, takeover, stop, reload, reexec, fence-ack) are
for root and members of group haclient.

Exit codes: 0 done, 1 refused or failed (the reason is on standard error),
2 wrong arguments, 3 the daemon does not run, 4 no permission.

The daemon is found at --socket, else $HEARTBEAT_SOCKET, else control_socket of
heartbeat.toml in /etc/ha.d ($HA_DIR), else /run/heartbeat/control.sock.

Under the names cl_status, hb_standby, hb_takeover, hb_addnode, hb_delnode,
hb_setweight, hb_setsite, ResourceManager, req_resource and mach_down this
program behaves as heartbeat 3.0.6's program of that name. hb_standby and
hb_takeover return at once, but for a refusal; --wait makes them wait.`

// exitError is an error of a command that was understood, with its exit code.
// Every other error is a usage error.
type exitError struct {
	code int
	text string // empty: everything has been said
	// hungUp: the daemon closed the connection before it told the outcome.
	hungUp bool
}

func (e *exitError) Error() string { return e.text }

// failed gives an error its exit code.
func failed(err error) error {
	code := exitFailed
	switch {
	case errors.Is(err, control.ErrNoDaemon):
		code = exitNoDaemon
	case errors.Is(err, control.ErrPermission):
		code = exitPermission
	}
	return &exitError{code: code, text: sentence(err), hungUp: errors.Is(err, control.ErrHungUp)}
}

// session is what hbctl's commands share: the call and where the daemon is.
type session struct {
	*invocation
	socket string
}

func (s *session) client() *control.Client {
	if s.socket == "" {
		s.socket = socketPath()
	}
	return control.Dial(s.socket)
}

// hbctl is hbctl.
func hbctl(ctx context.Context, v *invocation) int {
	s := &session{invocation: v}
	root := &cobra.Command{
		Use:           "hbctl",
		Short:         "Show and control the heartbeat cluster",
		Long:          hbctlHelp,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		// Without it cobra answers a misspelt command with help and success.
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.PersistentFlags().StringVar(&s.socket, "socket", "", "the daemon's control socket")
	root.AddCommand(s.statusCommand(), s.whyCommand(),
		s.standbyCommand(), s.takeoverCommand(), s.stopCommand(), s.reloadCommand(), s.reexecCommand(), s.fenceAckCommand(),
		s.checkCommand(), s.showCommand(), s.planCommand(), s.versionCommand())
	root.SetIn(v.stdin)
	root.SetOut(v.stdout)
	root.SetErr(v.stderr)
	root.SetArgs(append([]string{}, v.args...))
	command, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	exit, ok := errors.AsType[*exitError](err)
	switch {
	case !ok:
		fmt.Fprintf(v.stderr, "hbctl: %v\nSee '%s --help'.\n", err, command.CommandPath())
		return exitUsage
	case exit.text != "":
		fmt.Fprintf(v.stderr, "hbctl: %s\n", exit.text)
	}
	return exit.code
}

// printJSON prints value as indented JSON.
func (s *session) printJSON(value any) error {
	text, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return failed(err)
	}
	fmt.Fprintf(s.stdout, "%s\n", text)
	return nil
}

func (s *session) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the versions of this program and of the running daemon",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			fmt.Fprintf(s.stdout, "hbctl: %s\n", version)
			st, err := s.client().Status(cmd.Context())
			switch {
			case errors.Is(err, control.ErrNoDaemon):
				fmt.Fprintln(s.stdout, "daemon: not running")
			case err != nil:
				return failed(err)
			default:
				fmt.Fprintf(s.stdout, "daemon: %s\n", st.Version)
			}
			return nil
		},
	}
}
