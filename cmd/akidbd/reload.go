package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	adminv1 "github.com/akidb/akidbd/internal/gen/akidb/admin/v1"
	"github.com/akidb/akidbd/internal/gen/akidb/admin/v1/adminv1connect"
)

func reloadCommand() *cobra.Command {
	return adminCommand(&cobra.Command{
		Use:   "reload",
		Short: "Let the running node read its configuration again",
		Long: "Lets the running node read its configuration, API keys, certificates, seeds and models again, and waits until\n" +
			"they are in force. A configuration that is wrong changes nothing, and this command fails. SIGHUP does the same\n" +
			"without an answer.",
		Args: cobra.NoArgs,
	}, func(ctx context.Context, c adminv1connect.AdminServiceClient, _ []string) (*connect.Response[adminv1.ReloadResponse], error) {
		return c.Reload(ctx, connect.NewRequest(&adminv1.ReloadRequest{}))
	}, printReloaded)
}

func printReloaded(w io.Writer, r *adminv1.ReloadResponse) error {
	switch {
	case len(r.Applied) > 0:
		fmt.Fprintln(w, "in force now:", strings.Join(r.Applied, ", "))
	case len(r.NeedsRestart) == 0:
		fmt.Fprintln(w, "nothing changed")
	}
	if len(r.NeedsRestart) > 0 {
		fmt.Fprintln(w, "needs a restart:", strings.Join(r.NeedsRestart, ", "))
	}
	return nil
}
