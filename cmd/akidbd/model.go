package main

import (
	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	adminv1 "github.com/akidb/akidbd/internal/gen/akidb/admin/v1"
)

func modelCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "model", Short: "Look at the models of the running node"}
	cmd.AddCommand(modelListCommand())
	return cmd
}

func modelListCommand() *cobra.Command {
	var flags adminFlags
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the models of the running node",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.dial(cmd)
			if err != nil {
				return err
			}
			res, err := c.ListModels(cmd.Context(), connect.NewRequest(&adminv1.ListModelsRequest{}))
			if err != nil {
				return err
			}
			if flags.json {
				return printJSON(cmd.OutOrStdout(), res.Msg)
			}
			return printModels(cmd.OutOrStdout(), res.Msg.Models)
		},
	}
	flags.add(cmd)
	return cmd
}
