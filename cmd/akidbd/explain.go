package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	adminv1 "github.com/akidb/akidbd/internal/gen/akidb/admin/v1"
	"github.com/akidb/akidbd/internal/gen/akidb/admin/v1/adminv1connect"
)

func explainCommand() *cobra.Command {
	return adminCommand(&cobra.Command{
		Use:   "explain [MODEL]",
		Short: "Show which nodes would be asked for a model now, and why not the others",
		Args:  cobra.MaximumNArgs(1),
	}, func(ctx context.Context, c adminv1connect.AdminServiceClient, args []string) (*connect.Response[adminv1.ExplainResponse], error) {
		req := &adminv1.ExplainRequest{}
		if len(args) > 0 {
			req.Model = args[0]
		}
		return c.Explain(ctx, connect.NewRequest(req))
	}, printExplanation)
}

func printExplanation(w io.Writer, e *adminv1.ExplainResponse) error {
	if e.Model == "" {
		fmt.Fprintln(w, "no node serves this model")
	} else {
		fmt.Fprintf(w, "model %s\n", e.Model)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(place string, c *adminv1.Candidate) {
		name := c.Node
		if c.Self {
			name += " (self)"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", place, clip(name, 26), clip(c.Region, 14), orDash(c.Health), millis(c.Latency), c.Reason)
	}
	if len(e.Candidates)+len(e.Excluded) > 0 {
		fmt.Fprintln(t, "#\tNODE\tREGION\tHEALTH\tEXPECTED\tWHY")
	}
	for i, c := range e.Candidates {
		row(fmt.Sprint(i+1), c)
	}
	for _, c := range e.Excluded {
		row("-", c)
	}
	return t.Flush()
}
