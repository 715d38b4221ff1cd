package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/akidb/akidbd/internal/api/admin"
	"github.com/akidb/akidbd/internal/config"
	"github.com/akidb/akidbd/internal/gen/akidb/admin/v1/adminv1connect"
)

// adminFlags find the running daemon.
type adminFlags struct {
	socket string
	json   bool
}

func (f *adminFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.socket, "socket", os.Getenv("AKIDB_ADMIN_SOCKET"), "admin socket of the daemon (default the running user's, "+config.SystemAdminSocket+", that of "+defaultConfig+"; or $AKIDB_ADMIN_SOCKET)")
	cmd.Flags().BoolVar(&f.json, "json", false, "print JSON")
}

func (f *adminFlags) dial(cmd *cobra.Command) (adminv1connect.AdminServiceClient, error) {
	return f.connect(cmd.Context())
}

func (f *adminFlags) connect(ctx context.Context) (adminv1connect.AdminServiceClient, error) {
	if f.socket != "" {
		return admin.Dial(ctx, f.socket)
	}
	own := config.DefaultAdminSocket(os.Getenv, os.Getuid())
	c, err := admin.Dial(ctx, own)
	if err == nil {
		return c, nil
	}
	others := []string{config.SystemAdminSocket}
	if cfg, err := config.Load((&configFlags{}).path(), os.Environ()); err == nil { // as `systemctl reload` needs it
		others = append(others, cfg.Admin.Socket)
	}
	for _, path := range others {
		if path == "" || path == own {
			continue
		}
		if c, err := admin.Dial(ctx, path); err == nil {
			return c, nil
		}
	}
	return nil, err
}

// adminCommand finishes a command that asks the running daemon and shows the answer, as JSON with --json.
func adminCommand[M any, P interface {
	*M
	proto.Message
}](cmd *cobra.Command, ask func(context.Context, adminv1connect.AdminServiceClient, []string) (*connect.Response[M], error), show func(io.Writer, *M) error) *cobra.Command {
	var flags adminFlags
	flags.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := flags.dial(cmd)
		if err != nil {
			return err
		}
		res, err := ask(cmd.Context(), c, args)
		if err != nil {
			return err
		}
		if flags.json {
			return printJSON(cmd.OutOrStdout(), P(res.Msg))
		}
		return show(cmd.OutOrStdout(), res.Msg)
	}
	return cmd
}

func printJSON(w io.Writer, msg proto.Message) error {
	out, err := protojson.MarshalOptions{Multiline: true, Indent: "  ", EmitUnpopulated: true}.Marshal(msg)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s\n", out)
	return err
}
