package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/akidb/akidbd/internal/node"
	"github.com/akidb/akidbd/internal/pki"
)

const day = 24 * time.Hour

func pkiCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pki",
		Short: "Give the nodes of a fleet their certificates",
		Long: "Nodes know each other by certificates of one authority, with the name and region of the node in them.\n\n" +
			"By hand, for some nodes:\n" +
			"  akidbd pki init --dir ca\n" +
			"  akidbd pki issue --ca ca --node eu-1 --region eu --out eu-1    # copy eu-1 to the node's pki.dir\n\n" +
			"By themselves, for many:\n" +
			"  akidbd pki serve --ca ca --listen :7947                        # on the authority's host\n" +
			"  akidbd pki token --ca ca --node eu-1 --region eu --url https://ca-host:7947\n" +
			"  akidbd pki join --token-file token --dir /etc/akidbd/pki       # on the node",
		Args: cobra.NoArgs,
	}
	cmd.AddCommand(pkiInitCommand(), pkiIssueCommand(), pkiShowCommand(), pkiServeCommand(), pkiTokenCommand(), pkiJoinCommand())
	return cmd
}

func pkiInitCommand() *cobra.Command {
	var dir, domain string
	var days int
	cmd := &cobra.Command{
		Use:   "init --dir DIR",
		Short: "Make a certificate authority",
		Long:  "Makes a key and a certificate of an authority in DIR. Who holds ca-key.pem can be any node: keep it on one host.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			life, err := lifeOfDays(days)
			if err != nil {
				return err
			}
			ca, err := pki.Init(dir, domain, life)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "authority of %s in %s, until %s\nSHA-256 %x\n", ca.TrustDomain(), dir,
				ca.Certificate().NotAfter.Format(time.DateOnly), ca.Fingerprint())
			return err
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "where to make it")
	cmd.Flags().StringVar(&domain, "trust-domain", "akidb.local", "first part of every name that it issues")
	cmd.Flags().IntVar(&days, "days", int(pki.CALife/day), "how long it is valid")
	_ = cmd.MarkFlagRequired("dir")
	return cmd
}

// caFlags name an authority and a node.
type caFlags struct{ ca, node, region string }

func (f *caFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.ca, "ca", "", "directory of the authority, from pki init")
	cmd.Flags().StringVar(&f.node, "node", "", "name of the node, unique in the fleet")
	cmd.Flags().StringVar(&f.region, "region", "", "region of the node")
	for _, name := range []string{"ca", "node", "region"} {
		_ = cmd.MarkFlagRequired(name)
	}
}

func pkiIssueCommand() *cobra.Command {
	var flags caFlags
	var out string
	var days int
	cmd := &cobra.Command{
		Use:   "issue --ca DIR --node NAME --region NAME --out DIR",
		Short: "Make a node's key and certificate",
		Long: "Writes node.pem, node-key.pem and ca.pem, all that a node needs, into a directory. Files of an earlier\n" +
			"certificate are replaced; a node that runs takes the new ones over.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			life, err := lifeOfDays(days)
			if err != nil {
				return err
			}
			ca, err := pki.LoadCA(flags.ca)
			if err != nil {
				return err
			}
			leaf, err := ca.Issue(node.ID(flags.node), flags.region, out, life)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s in %s, until %s\n", leaf.URIs[0], out, leaf.NotAfter.Format(time.DateOnly))
			return err
		},
	}
	flags.add(cmd)
	cmd.Flags().StringVar(&out, "out", "", "directory for the node's files")
	cmd.Flags().IntVar(&days, "days", int(pki.LeafLife/day), "how long it is valid, at most as long as the authority")
	_ = cmd.MarkFlagRequired("out")
	return cmd
}

// lifeOfDays keeps a large number from becoming a negative duration.
func lifeOfDays(days int) (time.Duration, error) {
	if days < 1 || days > 36500 {
		return 0, fmt.Errorf("--days %d, must be 1 to 36500", days)
	}
	return time.Duration(days) * day, nil
}

func pkiShowCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show [DIR|FILE]",
		Short: "Show certificates and how long they are valid",
		Long: "Shows the certificates of a PEM file, or of the directory of a node or an authority (default: this one).\n" +
			"Exit code 1 when a node could not start with them.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := "."
			if len(args) == 1 {
				path = args[0]
			}
			certs, err := pki.Inspect(path)
			if err != nil {
				return err
			}
			problem := checkNode(path)
			if asJSON {
				err = printCertificatesJSON(cmd.OutOrStdout(), certs, problem)
			} else {
				err = printCertificates(cmd.OutOrStdout(), certs)
			}
			return errors.Join(err, problem)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// checkNode checks the directory of a node, and nothing else.
func checkNode(path string) error {
	if _, err := os.Stat(filepath.Join(path, pki.CertFile)); errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	return pki.Check(path)
}

func printCertificates(w io.Writer, certs []pki.Certificate) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for i, c := range certs {
		if i > 0 {
			fmt.Fprintln(t)
		}
		kind := "node"
		if c.Authority {
			kind = "authority"
		}
		fmt.Fprintf(t, "%s\t%s\n", kind, c.File)
		fmt.Fprintf(t, "  subject\t%s\n", c.Subject)
		fmt.Fprintf(t, "  spiffe id\t%s\n", orDash(c.ID))
		fmt.Fprintf(t, "  not after\t%s, %s\n", c.NotAfter.UTC().Format(time.RFC3339), daysLeft(c.NotAfter, time.Now()))
		fmt.Fprintf(t, "  serial\t%s\n", c.Serial)
		fmt.Fprintf(t, "  sha-256\t%s\n", c.SHA256)
	}
	return t.Flush()
}

func daysLeft(end, now time.Time) string {
	n := int(end.Sub(now) / day)
	switch {
	case end.Before(now):
		return fmt.Sprintf("ended %d days ago", int(now.Sub(end)/day))
	case n == 1:
		return "1 day left"
	}
	return fmt.Sprintf("%d days left", n)
}
