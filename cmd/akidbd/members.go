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
	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/akidb/akidbd/internal/gen/akidb/admin/v1"
	"github.com/akidb/akidbd/internal/gen/akidb/admin/v1/adminv1connect"
)

func membersCommand() *cobra.Command {
	return adminCommand(&cobra.Command{Use: "members", Short: "List the nodes of the fleet as the running node sees them", Args: cobra.NoArgs},
		func(ctx context.Context, c adminv1connect.AdminServiceClient, _ []string) (*connect.Response[adminv1.ListMembersResponse], error) {
			return c.ListMembers(ctx, connect.NewRequest(&adminv1.ListMembersRequest{}))
		},
		func(w io.Writer, res *adminv1.ListMembersResponse) error {
			if len(res.Members) == 0 {
				_, err := fmt.Fprintln(w, "a lone node: set pki.dir and gossip.seeds to join a fleet")
				return err
			}
			return printMembers(w, res.Members)
		})
}

// printMembers names each region once, for the members of one come together, and keeps within 80 columns.
func printMembers(w io.Writer, members []*adminv1.Member) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "REGION\tNODE\tSTATE\tLINK\tRTT\tLOAD\tWAIT\tMODELS")
	for i, m := range members {
		region := clip(m.Region, 14)
		if i > 0 && members[i-1].Region == m.Region {
			region = ""
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%.0f%%\t%s\t%s\n", region, clip(m.Node, 20), orDash(m.State), link(m),
			millis(m.Rtt), 100*m.Load, millis(m.QueueDelay), modelNames(m.Models))
	}
	return t.Flush()
}

func link(m *adminv1.Member) string {
	switch {
	case m.Self:
		return "(self)"
	case m.LinkCause != "":
		return m.LinkCause
	}
	return m.Link
}

// modelNames is short: the first model and how many more.
func modelNames(models []*adminv1.ServedModel) string {
	var names []string
	for _, m := range models {
		if m.Active {
			names = append(names, m.Name)
		}
	}
	switch len(names) {
	case 0:
		return "-"
	case 1:
		return clip(names[0], 20)
	}
	return fmt.Sprintf("%s +%d", clip(names[0], 16), len(names)-1)
}

func clip(s string, most int) string {
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}

func millis(d *durationpb.Duration) string {
	if d == nil {
		return "-"
	}
	switch v := d.AsDuration(); {
	case v == 0:
		return "0"
	case v < 10*time.Millisecond:
		return strings.TrimSuffix(fmt.Sprintf("%.1f", v.Seconds()*1000), ".0") + "ms"
	case v < time.Second:
		return fmt.Sprintf("%.0fms", v.Seconds()*1000)
	default:
		return fmt.Sprintf("%.1fs", v.Seconds())
	}
}
