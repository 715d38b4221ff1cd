package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/akidb/akidbd/internal/api/admin"
	"github.com/akidb/akidbd/internal/config"
	adminv1 "github.com/akidb/akidbd/internal/gen/akidb/admin/v1"
	"github.com/akidb/akidbd/internal/gen/akidb/admin/v1/adminv1connect"
)

// adminFlags find the running daemon.
type adminFlags struct {
	socket string
	json   bool
}

func (f *adminFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.socket, "socket", os.Getenv("AKIDB_ADMIN_SOCKET"), "admin socket of the daemon (default the running user's, then "+config.SystemAdminSocket+"; or $AKIDB_ADMIN_SOCKET)")
	cmd.Flags().BoolVar(&f.json, "json", false, "print JSON")
}

func (f *adminFlags) dial(cmd *cobra.Command) (adminv1connect.AdminServiceClient, error) {
	if f.socket != "" {
		return admin.Dial(cmd.Context(), f.socket)
	}
	own := config.DefaultAdminSocket(os.Getenv, os.Getuid())
	c, err := admin.Dial(cmd.Context(), own)
	if err != nil && own != config.SystemAdminSocket {
		if c, err2 := admin.Dial(cmd.Context(), config.SystemAdminSocket); err2 == nil {
			return c, nil
		}
	}
	return c, err
}

func statusCommand() *cobra.Command {
	var flags adminFlags
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how the running node is",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.dial(cmd)
			if err != nil {
				return err
			}
			res, err := c.Status(cmd.Context(), connect.NewRequest(&adminv1.StatusRequest{}))
			if err != nil {
				return err
			}
			if flags.json {
				return printJSON(cmd.OutOrStdout(), res.Msg)
			}
			return printStatus(cmd.OutOrStdout(), res.Msg)
		},
	}
	flags.add(cmd)
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

func printStatus(w io.Writer, s *adminv1.StatusResponse) error {
	where := s.Region
	if s.Cluster != "" {
		where += ", cluster " + s.Cluster
	}
	fmt.Fprintf(w, "%s  %s, %s  (%s)\n", s.Node, s.State, s.Health, where)
	if s.Reason != "" {
		fmt.Fprintf(w, "  %s\n", s.Reason)
	}
	fmt.Fprintf(w, "akidbd %s, pid %d, up %s, %s of memory\n", s.Version, s.Pid, s.Uptime.AsDuration().Round(time.Second), mib(s.RssBytes))
	for _, l := range s.Listeners {
		fmt.Fprintf(w, "  %-7s %s\n", l.Role, l.Address)
	}
	fmt.Fprintln(w)
	if err := printModels(w, s.Models); err != nil {
		return err
	}
	if len(s.Members) > 0 {
		fmt.Fprintln(w)
		if err := printMembers(w, s.Members); err != nil {
			return err
		}
	}
	for _, c := range s.Checks {
		if c.State == "failing" {
			fmt.Fprintf(w, "\n%s fails: %s\n", c.Name, c.Reason)
		}
	}
	return nil
}

// printModels keeps within 80 columns.
func printModels(w io.Writer, models []*adminv1.Model) error {
	if len(models) == 0 {
		fmt.Fprintln(w, "no models: set models in the configuration")
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "MODEL\tVERSION\tSTATE\tON\tDIM\tMAX\tQUEUE\tALIASES")
	for _, m := range models {
		digest := strings.TrimPrefix(m.Digest, "sha256-")
		fmt.Fprintf(t, "%s\t%.12s\t%s\t%s\t%d\t%d\t%d\t%s\n", m.Name, orDash(digest), m.State, orDash(m.Provider), m.Dimensions, m.MaxTokens,
			m.QueueRequests, strings.Join(m.Aliases, ","))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, m := range models {
		if m.WorkerPid != 0 || m.WorkerRestarts > 0 {
			fmt.Fprintf(w, "  %s: worker %d, %s of memory, %d restarts\n", m.Name, m.WorkerPid, mib(m.WorkerRssBytes), m.WorkerRestarts)
		}
		if m.Reason != "" {
			fmt.Fprintf(w, "  %s: %s\n", m.Name, m.Reason)
		}
	}
	return nil
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func mib(bytes uint64) string { return fmt.Sprintf("%.0f MiB", float64(bytes)/(1<<20)) }
