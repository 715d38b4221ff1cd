package main

import (
	"context"
	"io"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/akidb/akidbd/cmd/akidbd/modelctl"
	"github.com/akidb/akidbd/internal/config"
	adminv1 "github.com/akidb/akidbd/internal/gen/akidb/admin/v1"
	"github.com/akidb/akidbd/internal/gen/akidb/admin/v1/adminv1connect"
)

func modelCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "model", Short: "Publish models, and look at those of the running node",
		Long: "Versions of a model are published into a bucket or through a node, and arrive by themselves where the configuration\n" +
			"names the model without a path.\n\n" +
			"  akidbd model push ./all-MiniLM-L6-v2 --name minilm\n" +
			"  akidbd model status\n" +
			"  akidbd model rollback minilm",
	}
	cmd.AddCommand(modelListCommand())
	cmd.AddCommand(modelctl.Commands(modelctl.Machine{
		Config: func(file string) (*config.Config, error) { return (&configFlags{file: file}).load() },
		Dial: func(ctx context.Context, socket string) (adminv1connect.AdminServiceClient, error) {
			return (&adminFlags{socket: socket}).connect(ctx)
		},
	})...)
	return cmd
}

func modelListCommand() *cobra.Command {
	return adminCommand(&cobra.Command{Use: "list", Short: "List the models of the running node", Args: cobra.NoArgs},
		func(ctx context.Context, c adminv1connect.AdminServiceClient, _ []string) (*connect.Response[adminv1.ListModelsResponse], error) {
			return c.ListModels(ctx, connect.NewRequest(&adminv1.ListModelsRequest{}))
		},
		func(w io.Writer, res *adminv1.ListModelsResponse) error { return printModels(w, res.Models) })
}
