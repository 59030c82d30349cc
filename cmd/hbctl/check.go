package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"heartbeat/cluster/config"
)

// dirArgument is the directory that a command was given, or the usual one.
func dirArgument(args []string) string {
	if len(args) > 0 {
		return args[0]
	}
	return configDir()
}

func (s *session) checkCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check [directory]",
		Short: "Tell what is wrong with the configuration files",
		Long: `Reads ha.cf, haresources, authkeys and heartbeat.toml of the directory (/etc/ha.d)
and tells every problem with its place, what is wrong, why, and how to mend it.
It asks the machine (interfaces, users, file modes) and changes nothing.

Ends with 1 when the daemon would not start, with 0 otherwise.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			dir := dirArgument(args)
			_, found := config.Load(dir, config.OSHost{})
			report := found.Report()
			for _, p := range report {
				fmt.Fprintf(s.stdout, "%s: %s\n", p.Severity, p)
			}
			if found.Failed() {
				return &exitError{code: exitFailed, text: "heartbeat would not start with the files of " + dir}
			}
			if len(report) == 0 {
				fmt.Fprintf(s.stdout, "%s: nothing is wrong\n", dir)
			}
			return nil
		},
	}
}

func (s *session) showCommand() *cobra.Command {
	var origin bool
	cmd := &cobra.Command{
		Use:   "show [directory]",
		Short: "Print every effective value of the configuration",
		Long: `Prints every value that the files of the directory (/etc/ha.d) result in, defaults
included; with --origin also where each comes from. Keys are shown by
fingerprint.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			dir := dirArgument(args)
			cfg, found := config.Load(dir, config.OSHost{})
			var rows table
			for _, o := range cfg.Origins() {
				row := []cell{{text: o.Name}, {text: o.Value}}
				if origin {
					row = append(row, cell{text: o.From})
				}
				rows = append(rows, row)
			}
			rows.print(s.stdout, false)
			if found.Failed() {
				return &exitError{code: exitFailed, text: "the files of " + dir + " have errors: see 'hbctl check'"}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&origin, "origin", false, "print where each value comes from")
	return cmd
}
