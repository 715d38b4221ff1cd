// Package modelctl is `akidbd model`: publish versions of models, move names between them, look at how they arrive.
//
// What is published goes into the bucket of the configuration or of --bucket; without one, to the running node, which
// has the other nodes fetch it. The running node is told in any case, so that nobody waits for the next look.
package modelctl

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"aead.dev/minisign"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/akidb/akidbd/internal/config"
	"github.com/akidb/akidbd/internal/gen/akidb/admin/v1/adminv1connect"
)

// Machine is what the commands take from their surroundings.
type Machine struct {
	// Config reads the configuration file, "" for the usual one.
	Config func(file string) (*config.Config, error)
	// Dial reaches the running node by its socket, "" for the usual one.
	Dial func(ctx context.Context, socket string) (adminv1connect.AdminServiceClient, error)
}

// Commands are the subcommands of `akidbd model`, but for list.
func Commands(m Machine) []*cobra.Command {
	return []*cobra.Command{
		pushCommand(m), pullCommand(m), versionsCommand(m), activateCommand(m), rollbackCommand(m), pinCommand(m),
		removeCommand(m), gcCommand(m), verifyCommand(m), statusCommand(m), keygenCommand(),
	}
}

// flags choose where versions are and how the answer looks.
type flags struct {
	machine Machine

	config, socket              string
	bucket, endpoint, awsRegion string
	pathStyle, json             bool
	as, key, passwordFile, note string
	region, node                string // of a scope

	secret *minisign.PrivateKey // of key, once it was read
}

// addNode adds the flags of commands that ask the running node.
func (f *flags) addNode(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.socket, "socket", os.Getenv("AKIDB_ADMIN_SOCKET"), "admin socket of the daemon (default the usual places; or $AKIDB_ADMIN_SOCKET)")
	cmd.Flags().BoolVar(&f.json, "json", false, "print JSON")
}

// addBucket adds the flags of commands that read a bucket.
func (f *flags) addBucket(cmd *cobra.Command) {
	f.addNode(cmd)
	cmd.Flags().StringVarP(&f.config, "config", "c", os.Getenv("AKIDB_CONFIG"), "configuration file whose sync.bucket is used (default the usual one; or $AKIDB_CONFIG)")
	cmd.Flags().StringVar(&f.bucket, "bucket", "", "s3://name or s3://name/prefix, instead of sync.bucket")
	cmd.Flags().StringVar(&f.endpoint, "endpoint", "", "URL of an S3 service that is not Amazon's")
	cmd.Flags().StringVar(&f.awsRegion, "aws-region", "", "region of the bucket, as the service names it")
	cmd.Flags().BoolVar(&f.pathStyle, "path-style", false, "https://endpoint/bucket instead of https://bucket.endpoint")
}

// addPublish adds the flags of commands that publish something.
func (f *flags) addPublish(cmd *cobra.Command) {
	f.addBucket(cmd)
	cmd.Flags().StringVar(&f.as, "as", "", "name of the publisher, unique among publishers (default the node's, or the host's)")
	cmd.Flags().StringVar(&f.key, "key", "", "file of the secret key that signs, from akidbd model keygen")
	cmd.Flags().StringVar(&f.passwordFile, "password-file", "", "file with the password of the key (default: ask on the terminal)")
	cmd.Flags().StringVar(&f.note, "note", "", "a line for people")
}

// addScope adds the flags that limit where a name moves.
func (f *flags) addScope(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.region, "region", "", "only on the nodes of this region")
	cmd.Flags().StringVar(&f.node, "node", "", "only on this node")
	cmd.MarkFlagsMutuallyExclusive("region", "node")
}

// show prints an answer: as JSON with --json, else as text does. A message of the node is printed as the other commands
// that ask it do.
func (f *flags) show(w io.Writer, answer any, text func(io.Writer) error) error {
	if !f.json {
		return text(w)
	}
	marshal := func() ([]byte, error) { return json.MarshalIndent(answer, "", "  ") }
	if msg, ok := answer.(proto.Message); ok {
		marshal = func() ([]byte, error) {
			return protojson.MarshalOptions{Multiline: true, Indent: "  ", EmitUnpopulated: true}.Marshal(msg)
		}
	}
	data, err := marshal()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s\n", data)
	return err
}
