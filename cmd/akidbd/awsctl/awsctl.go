// Package awsctl is `akidbd aws`: what the daemon needs of Amazon's services, as plans for people to read and apply.
package awsctl

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// Command is `akidbd aws`.
func Command() *cobra.Command {
	cmd := &cobra.Command{Use: "aws", Short: "Set up what the fleet uses of Amazon Web Services", Args: cobra.NoArgs}
	replication := &cobra.Command{
		Use: "s3-replication", Short: "Replicate the buckets of two regions, both ways", Args: cobra.NoArgs,
		Long: "The nodes copy models between the buckets of their regions by themselves; S3 can do it too, for regions whose nodes may\n" +
			"only read. plan writes what S3 and IAM need and the commands that apply it; verify measures whether it works.\n\n" +
			"  akidbd aws s3-replication plan --account 123456789012 --regions us-west-2=models-us,eu-central-1=models-eu --out plan\n" +
			"  sh plan/apply.sh\n" +
			"  akidbd aws s3-replication verify --bucket us-west-2=models-us --bucket eu-central-1=models-eu",
	}
	replication.AddCommand(planCommand(), verifyCommand())
	cmd.AddCommand(replication)
	return cmd
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("print JSON: %w", err)
	}
	return nil
}
