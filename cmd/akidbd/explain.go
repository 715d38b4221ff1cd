package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	adminv1 "github.com/akidb/akidbd/internal/gen/akidb/admin/v1"
)

func explainCommand() *cobra.Command {
	var flags adminFlags
	cmd := &cobra.Command{
		Use:   "explain [MODEL]",
		Short: "Show which nodes would be asked for a model now, and why not the others",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := flags.dial(cmd)
			if err != nil {
				return err
			}
			req := &adminv1.ExplainRequest{}
			if len(args) > 0 {
				req.Model = args[0]
			}
			res, err := c.Explain(cmd.Context(), connect.NewRequest(req))
			if err != nil {
				return err
			}
			if flags.json {
				return printJSON(cmd.OutOrStdout(), res.Msg)
			}
			return printExplanation(cmd.OutOrStdout(), res.Msg)
		},
	}
	flags.add(cmd)
	return cmd
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
