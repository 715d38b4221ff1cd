package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/akidb/akidbd/conf"
)

func exampleConfigCommand() *cobra.Command {
	var minimal bool
	cmd := &cobra.Command{
		Use:   "example-config",
		Short: "Print a configuration file with every key, its default and what it means",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			file := conf.Example
			if minimal {
				file = conf.Minimal
			}
			_, err := cmd.OutOrStdout().Write(file)
			return err
		},
	}
	cmd.Flags().BoolVar(&minimal, "minimal", false, "print the least that serves a model")
	return cmd
}

func checkConfigCommand() *cobra.Command {
	var flags configFlags
	cmd := &cobra.Command{
		Use:   "check-config [FILE]",
		Short: "Check a configuration file without starting anything",
		Long:  "Reads the configuration with the environment's overrides and reports everything that is wrong, with key and\nline. Exit code 78 when something is.",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				flags.file = args[0]
			}
			cfg, err := flags.load()
			if err != nil {
				return err
			}
			name := flags.path()
			if name == "" {
				name = "the default configuration"
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is valid: %d models, %d listeners\n", name, len(cfg.Models), len(cfg.Listen))
			return nil
		},
	}
	flags.add(cmd)
	return cmd
}
