package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	adminv1 "github.com/akidb/akidbd/internal/gen/akidb/admin/v1"
	"github.com/akidb/akidbd/internal/gen/akidb/admin/v1/adminv1connect"
)

func statusCommand() *cobra.Command {
	return adminCommand(&cobra.Command{Use: "status", Short: "Show how the running node is", Args: cobra.NoArgs},
		func(ctx context.Context, c adminv1connect.AdminServiceClient, _ []string) (*connect.Response[adminv1.StatusResponse], error) {
			return c.Status(ctx, connect.NewRequest(&adminv1.StatusRequest{}))
		}, printStatus)
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
