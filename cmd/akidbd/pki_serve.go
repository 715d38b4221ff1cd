package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/akidb/akidbd/internal/node"
	"github.com/akidb/akidbd/internal/pki"
)

func pkiServeCommand() *cobra.Command {
	var dir, listen string
	var days int
	cmd := &cobra.Command{
		Use:   "serve --ca DIR",
		Short: "Let nodes join with tokens and renew their certificates",
		Long: "Serves HTTPS on the authority's host until SIGTERM. A node joins with a token from pki token, once; it renews\n" +
			"with the certificate that it holds. deny.txt beside the authority, with node names or serial numbers, keeps\n" +
			"nodes from both.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			life, err := lifeOfDays(days)
			if err != nil {
				return err
			}
			log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
			server, err := pki.NewServer(pki.ServerConfig{Dir: dir, Address: listen, Life: life, Logger: log})
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			log.Info("the authority serves", "addr", server.Addr().String(), "ca", dir)
			return server.Run(ctx)
		},
	}
	cmd.Flags().StringVar(&dir, "ca", "", "directory of the authority, from pki init")
	cmd.Flags().StringVar(&listen, "listen", ":7947", "host:port (TCP)")
	cmd.Flags().IntVar(&days, "days", int(pki.LeafLife/day), "how long a certificate is valid; nodes renew at half of it")
	_ = cmd.MarkFlagRequired("ca")
	return cmd
}

func pkiTokenCommand() *cobra.Command {
	var flags caFlags
	var address string
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:   "token --ca DIR --node NAME --region NAME",
		Short: "Make a token that lets one node join once",
		Long: "Prints the token, a secret. It holds the authority's fingerprint, so that the node cannot be led to another\n" +
			"one; beside the authority only a hash of it is kept.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ca, err := pki.LoadCA(flags.ca)
			if err != nil {
				return err
			}
			t, err := ca.NewToken(node.ID(flags.node), flags.region, address, ttl)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), t.Encode())
			return err
		},
	}
	flags.add(cmd)
	cmd.Flags().StringVar(&address, "url", "", "where the node finds pki serve, https://host:port; without it join needs --url")
	cmd.Flags().DurationVar(&ttl, "ttl", pki.TokenLife, "how long the token may be used")
	return cmd
}

func pkiJoinCommand() *cobra.Command {
	var token, file, address, dir string
	cmd := &cobra.Command{
		Use:   "join --token TOKEN --dir DIR",
		Short: "Get this node's certificate with a token",
		Long: "Makes a key, which stays here, and has the authority sign it. Nothing is sent before the server has shown a\n" +
			"certificate of the authority whose fingerprint is in the token. Set pki.renew_url for the node to renew.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file != "" {
				text, err := readToken(file, cmd.InOrStdin())
				if err != nil {
					return err
				}
				token = text
			}
			t, err := pki.ParseToken(token)
			if err != nil {
				return err
			}
			id, region, err := pki.Join(cmd.Context(), t, address, dir)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "this is node %s in region %s: its certificate is in %s\n", id, region, dir)
			return err
		},
	}
	cmd.Flags().StringVar(&token, "token", "", "from pki token; other users of this machine may see it while the command runs")
	cmd.Flags().StringVar(&file, "token-file", "", "file with the token, - for standard input")
	cmd.Flags().StringVar(&address, "url", "", "https://host:port of pki serve, instead of the token's")
	cmd.Flags().StringVar(&dir, "dir", "", "directory for the node's files, its pki.dir")
	_ = cmd.MarkFlagRequired("dir")
	cmd.MarkFlagsOneRequired("token", "token-file")
	cmd.MarkFlagsMutuallyExclusive("token", "token-file")
	return cmd
}

// readToken reads a little more than a token has, for ParseToken to complain.
func readToken(file string, in io.Reader) (string, error) {
	const most = 4096
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return "", err
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, most))
	if err == nil && len(text) == 0 {
		err = errors.New("no token in it")
	}
	return string(text), err
}

func printCertificatesJSON(w io.Writer, certs []pki.Certificate, problem error) error {
	type shown struct {
		pki.Certificate
		Days int `json:"days_left"`
	}
	out := struct {
		Certificates []shown `json:"certificates"`
		Problem      string  `json:"problem,omitempty"`
	}{}
	for _, c := range certs {
		out.Certificates = append(out.Certificates, shown{c, int(time.Until(c.NotAfter) / day)})
	}
	if problem != nil {
		out.Problem = problem.Error()
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(out)
}
