package main

import (
	"fmt"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	adminv1 "github.com/akidb/akidbd/internal/gen/akidb/admin/v1"
)

func drainCommand() *cobra.Command {
	return setDrain("drain", "Take the running node out of service; it goes on running", true)
}

func undrainCommand() *cobra.Command {
	return setDrain("undrain", "Take a drained node back into service", false)
}

func setDrain(use, short string, drain bool) *cobra.Command {
	var flags adminFlags
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.dial(cmd)
			if err != nil {
				return err
			}
			res, err := c.SetDrain(cmd.Context(), connect.NewRequest(&adminv1.SetDrainRequest{Drain: drain}))
			if err != nil {
				return err
			}
			if flags.json {
				return printJSON(cmd.OutOrStdout(), res.Msg)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "the node is %s\n", res.Msg.State)
			return err
		},
	}
	flags.add(cmd)
	return cmd
}
