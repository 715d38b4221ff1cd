package main

import (
	"context"
	"fmt"
	"io"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	adminv1 "github.com/akidb/akidbd/internal/gen/akidb/admin/v1"
	"github.com/akidb/akidbd/internal/gen/akidb/admin/v1/adminv1connect"
)

func drainCommand() *cobra.Command {
	return setDrain("drain", "Take the running node out of service; it goes on running", true)
}

func undrainCommand() *cobra.Command {
	return setDrain("undrain", "Take a drained node back into service", false)
}

func setDrain(use, short string, drain bool) *cobra.Command {
	return adminCommand(&cobra.Command{Use: use, Short: short, Args: cobra.NoArgs},
		func(ctx context.Context, c adminv1connect.AdminServiceClient, _ []string) (*connect.Response[adminv1.SetDrainResponse], error) {
			return c.SetDrain(ctx, connect.NewRequest(&adminv1.SetDrainRequest{Drain: drain}))
		},
		func(w io.Writer, res *adminv1.SetDrainResponse) error {
			_, err := fmt.Fprintf(w, "the node is %s\n", res.State)
			return err
		})
}
