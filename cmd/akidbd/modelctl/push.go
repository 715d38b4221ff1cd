package modelctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/akidb/akidbd/internal/embedding"
	adminv1 "github.com/akidb/akidbd/internal/gen/akidb/admin/v1"
	"github.com/akidb/akidbd/internal/store"
	modelsync "github.com/akidb/akidbd/internal/sync"
	"github.com/akidb/akidbd/internal/sync/hub"
)

// published is the answer of a command that published something.
type published struct {
	Model    string  `json:"model"`
	Digest   string  `json:"digest,omitempty"`
	Manifest string  `json:"manifest"`
	Kind     string  `json:"kind"`
	Scope    string  `json:"scope"`
	Where    string  `json:"where"`
	Files    int     `json:"files,omitempty"`
	Bytes    int64   `json:"bytes,omitempty"`
	Signed   bool    `json:"signed"`
	Seconds  float64 `json:"seconds"`
	Serving  bool    `json:"serving,omitempty"` // on this node, with --wait
}

func pushCommand(m Machine) *cobra.Command {
	f := &flags{machine: m}
	var name string
	var stage bool
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "push DIR|hf://ORG/NAME[@REVISION] --name NAME",
		Short: "Publish a model, and serve it everywhere",
		Long: "Publishes a model directory, or a model of the Hugging Face Hub (HF_ENDPOINT, HF_TOKEN), and moves the name to it\n" +
			"on every node that serves the name. A push that was interrupted goes on where it stopped.\n\n" +
			"A new version is a new set of vectors: what an index holds does not match them any more. --stage only publishes;\n" +
			"akidbd model activate moves the name, also for one node or region first. Clients can ask for NAME@DIGEST.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			started := time.Now()
			t, err := f.open(cmd.Context())
			if err != nil {
				return err
			}
			p, err := push(cmd.Context(), f, t, args[0], name, stage, cmd.ErrOrStderr())
			if err == nil && wait > 0 && !stage {
				p.Serving, err = t.wait(cmd.Context(), p.Model, p.Digest, wait, cmd.ErrOrStderr())
			}
			if err := errors.Join(err, t.close()); err != nil {
				return err
			}
			p.Seconds = time.Since(started).Seconds()
			return f.show(cmd.OutOrStdout(), p, p.print)
		},
	}
	f.addPublish(cmd)
	f.addScope(cmd)
	cmd.Flags().StringVar(&name, "name", "", "name of the model (default the last part of DIR or of the Hub's name)")
	cmd.Flags().BoolVar(&stage, "stage", false, "publish, but leave the name where it is")
	cmd.Flags().DurationVar(&wait, "wait", 0, "wait this long until the running node serves it")
	return cmd
}

func (p published) print(w io.Writer) error {
	what := map[string]string{"publish": "published", "stage": "staged", "delete": "deleted"}[p.Kind]
	if _, err := fmt.Fprintf(w, "%s %s in %s, %s\n", what, embedding.Model{Name: p.Model, Digest: p.Digest}, p.Where, p.Scope); err != nil {
		return err
	}
	if p.Files > 0 {
		if _, err := fmt.Fprintf(w, "  %d files, %.1f MB, %.1f s\n", p.Files, float64(p.Bytes)/1e6, p.Seconds); err != nil {
			return err
		}
	}
	switch {
	case p.Serving:
		_, err := fmt.Fprintln(w, "  this node serves it")
		return err
	case !p.Signed:
		_, err := fmt.Fprintln(w, "  not signed: nodes with sync.trusted_keys do not take it (--key)")
		return err
	}
	return nil
}

func answer(t *target, m *modelsync.Manifest) published {
	where := t.where
	if where == "" {
		where = "the fleet of the running node"
	}
	return published{
		Model: m.Name, Digest: m.Digest, Manifest: m.ID(), Kind: string(m.Kind), Scope: m.Scope.String(), Where: where,
		Files: len(m.Files), Bytes: m.Bytes(), Signed: m.Signed != "",
	}
}

func push(ctx context.Context, f *flags, t *target, from, name string, stage bool, console io.Writer) (published, error) {
	dir := from
	if hub.Is(from) {
		var err error
		if dir, err = fromHub(ctx, from, console); err != nil {
			return published{}, err
		}
	}
	if name == "" {
		name = defaultName(from)
	}
	b := &bar{}
	files, err := store.Hash(ctx, dir, func(done, total int64) {
		if b.all == nil && done < total {
			b = newBar(console, "hash", total)
		}
		b.set(done)
	})
	b.end()
	if err != nil {
		return published{}, err
	}
	if _, err := t.manifests(ctx, name); err != nil {
		return published{}, err
	}
	kind := modelsync.KindPublish
	if stage {
		kind = modelsync.KindStage
	}
	m := t.newManifest(kind, name, f)
	m.Files, m.Digest = files, store.Digest(files)
	b = newBar(console, "push", m.Bytes())
	err = t.bring(ctx, m, dir, b.add)
	b.end()
	if err == nil {
		err = t.publish(ctx, f, m)
	}
	if err == nil && t.bucket != nil {
		err = t.bring(ctx, m, dir, func(int64) {}) // what gc removed before it saw the manifest
	}
	return answer(t, m), err
}

func defaultName(from string) string {
	if ref, err := hub.ParseRef(from); err == nil {
		_, name, _ := strings.Cut(ref.Repo, "/")
		return name
	}
	return filepath.Base(filepath.Clean(from))
}

// fromHub fetches a model of the Hub into the user's cache, where the next push finds it.
func fromHub(ctx context.Context, from string, console io.Writer) (string, error) {
	ref, err := hub.ParseRef(from)
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	client := hub.FromEnv(os.Getenv)
	l, err := client.List(ctx, ref)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "akidbd", "hub", strings.ReplaceAll(ref.Repo, "/", "--"))
	b := newBar(console, "fetch", l.Bytes())
	defer b.end()
	return dir, client.Fetch(ctx, l, dir, b.add)
}

// wait waits until the running node serves a version.
func (t *target) wait(ctx context.Context, name, digest string, limit time.Duration, console io.Writer) (bool, error) {
	if t.node == nil {
		return false, errors.New("--wait needs a running node")
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	b := &bar{}
	defer func() { b.end() }()
	for {
		res, err := t.node.SyncStatus(ctx, connect.NewRequest(&adminv1.SyncStatusRequest{}))
		if err != nil {
			return false, err
		}
		var model *adminv1.SyncedModel
		for _, m := range res.Msg.Models {
			if m.Name == name {
				model = m
			}
		}
		switch {
		case model == nil:
			return false, fmt.Errorf("the running node does not serve %s: it is published all the same", name)
		case model.Serving == digest:
			return true, nil
		}
		for _, tr := range model.Trouble {
			if tr.Digest == digest && tr.Quarantined {
				return false, fmt.Errorf("the running node does not take it (%s): %s", tr.Reason, tr.Text)
			}
		}
		if b.all == nil && model.BytesTotal > 0 {
			b = newBar(console, "arrive", int64(model.BytesTotal))
		}
		b.set(int64(model.BytesDone))
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return false, fmt.Errorf("the running node does not serve it after %v: akidbd model status", limit)
		}
	}
}
