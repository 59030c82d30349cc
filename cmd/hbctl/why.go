package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"heartbeat/cluster/control"
)

// whyMax is what the daemon keeps, and so what may be asked for.
const whyMax = 1000

func (s *session) whyCommand() *cobra.Command {
	var asJSON bool
	var count int
	cmd := &cobra.Command{
		Use:   "why",
		Short: "Tell the last changes of ownership and membership, and their reasons",
		Long: `Tells the last changes on this node, newest first: which node came or went, which
group moved, who ordered it, and why.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if count < 1 || count > whyMax {
				return fmt.Errorf("-n %d: must be from 1 to %d", count, whyMax)
			}
			events, err := s.client().Why(cmd.Context(), count)
			if err != nil {
				return failed(err)
			}
			if asJSON {
				return s.printJSON(events)
			}
			s.printEvents(events)
			return nil
		},
	}
	cmd.Flags().IntVarP(&count, "number", "n", 10, "how many changes")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (s *session) printEvents(events []control.Event) {
	if len(events) == 0 {
		fmt.Fprintln(s.stdout, "nothing has changed since the daemon started")
	}
	for _, e := range events {
		fmt.Fprintf(s.stdout, "%s  %-8s  %s\n", e.At.Local().Format("2006-01-02 15:04:05"), e.Kind, e.Text)
		if e.Reason != "" {
			fmt.Fprintf(s.stdout, "%31sbecause %s\n", "", e.Reason)
		}
	}
}
