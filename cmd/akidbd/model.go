package main

import (
	"context"
	"io"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	adminv1 "github.com/akidb/akidbd/internal/gen/akidb/admin/v1"
	"github.com/akidb/akidbd/internal/gen/akidb/admin/v1/adminv1connect"
)

func modelCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "model", Short: "Look at the models of the running node"}
	cmd.AddCommand(modelListCommand())
	return cmd
}

func modelListCommand() *cobra.Command {
	return adminCommand(&cobra.Command{Use: "list", Short: "List the models of the running node", Args: cobra.NoArgs},
		func(ctx context.Context, c adminv1connect.AdminServiceClient, _ []string) (*connect.Response[adminv1.ListModelsResponse], error) {
			return c.ListModels(ctx, connect.NewRequest(&adminv1.ListModelsRequest{}))
		},
		func(w io.Writer, res *adminv1.ListModelsResponse) error { return printModels(w, res.Models) })
}
