package modelctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	modelsync "github.com/akidb/akidbd/internal/sync"
)

// move is a command that says something new about versions that are there.
func move(m Machine, cmd *cobra.Command, make func(ctx context.Context, f *flags, t *target, arg string) (*modelsync.Manifest, error)) (*cobra.Command, *flags) {
	f := &flags{machine: m}
	cmd.Args = cobra.ExactArgs(1)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		started := time.Now()
		t, err := f.open(cmd.Context())
		if err != nil {
			return err
		}
		m, err := make(cmd.Context(), f, t, args[0])
		if err == nil {
			err = t.publish(cmd.Context(), f, m)
		}
		if err == nil {
			err = t.complete(cmd.Context(), m)
		}
		if err := errors.Join(err, t.close()); err != nil {
			return err
		}
		p := answer(t, m)
		p.Files, p.Bytes, p.Seconds = 0, 0, time.Since(started).Seconds()
		return f.show(cmd.OutOrStdout(), p, p.print)
	}
	f.addPublish(cmd)
	return cmd, f
}

func activateCommand(m Machine) *cobra.Command {
	cmd, f := move(m, &cobra.Command{
		Use:   "activate NAME@DIGEST",
		Short: "Move a model's name to a version",
		Long: "Moves the name to a version that was published: everywhere, or with --region or --node there only, as a canary.\n" +
			"A canary ends with the next push or activate for everywhere.",
	}, func(ctx context.Context, f *flags, t *target, arg string) (*modelsync.Manifest, error) {
		name, digest, err := splitVersion(arg)
		if err != nil {
			return nil, err
		}
		all, err := t.manifests(ctx, name)
		if err != nil {
			return nil, err
		}
		version, err := find(all, name, digest)
		if err != nil {
			return nil, err
		}
		return again(t, f, version), nil
	})
	f.addScope(cmd)
	return cmd
}

// again publishes a version that is there once more.
func again(t *target, f *flags, version *modelsync.Manifest) *modelsync.Manifest {
	m := t.newManifest(modelsync.KindPublish, version.Name, f)
	m.Digest, m.Files = version.Digest, version.Files
	return m
}

// complete is an error when the files of a version that was just published are not in the bucket: gc may have met it.
func (t *target) complete(ctx context.Context, m *modelsync.Manifest) error {
	if t.bucket == nil || m.Kind == modelsync.KindDelete {
		return nil
	}
	missing, err := modelsync.Missing(ctx, t.bucket, m)
	if err == nil && len(missing) > 0 {
		err = fmt.Errorf("%s moved to %s, but %d of its files are not in the bucket any more: push it again", m.Name, show(m), len(missing))
	}
	return err
}

func rollbackCommand(m Machine) *cobra.Command {
	cmd, _ := move(m, &cobra.Command{
		Use:   "rollback NAME",
		Short: "Move a model's name back to the version before",
		Long:  "Moves the name back, everywhere, to the version that was served everywhere before the one of now.",
	}, func(ctx context.Context, f *flags, t *target, name string) (*modelsync.Manifest, error) {
		all, err := t.manifests(ctx, name)
		if err != nil {
			return nil, err
		}
		if err := t.believed(name); err != nil {
			return nil, err
		}
		before := modelsync.Previous(all)
		if before == nil {
			return nil, fmt.Errorf("%s has no version before the one of now: akidbd model versions %s", name, name)
		}
		return again(t, f, before), nil
	})
	return cmd
}

func removeCommand(m Machine) *cobra.Command {
	var yes bool
	cmd, _ := move(m, &cobra.Command{
		Use:   "rm NAME@DIGEST | rm NAME --yes",
		Short: "Delete a version, or a model, from the fleet",
		Long: "Deletes a version: nodes that serve it go back to the one before. Without a digest it deletes all versions, and\n" +
			"nodes stop serving the name. The files stay in the bucket until akidbd model gc.",
	}, func(ctx context.Context, f *flags, t *target, arg string) (*modelsync.Manifest, error) {
		name, digest, err := splitVersion(arg)
		if err != nil {
			name, digest = arg, ""
		}
		all, err := t.manifests(ctx, name)
		switch {
		case err != nil:
			return nil, err
		case len(modelsync.Live(all)) == 0:
			return nil, fmt.Errorf("there is no version of %s", name)
		case digest == "" && !yes:
			return nil, fmt.Errorf("every node would stop serving %s: say --yes, or name one version", name)
		}
		gone := t.newManifest(modelsync.KindDelete, name, f)
		if digest != "" {
			version, err := find(all, name, digest)
			if err != nil {
				return nil, err
			}
			gone.Digest = version.Digest
		}
		return gone, nil
	})
	cmd.Flags().BoolVar(&yes, "yes", false, "delete all versions")
	return cmd
}

// collected is what gc did, or would do.
type collected struct {
	Model    string   `json:"model"`
	Versions []string `json:"versions"` // digests that were given up
	Blobs    int      `json:"blobs"`
	Bytes    int64    `json:"bytes"`
	DryRun   bool     `json:"dry_run,omitempty"`
}

func gcCommand(m Machine) *cobra.Command {
	f := &flags{machine: m}
	var keep int
	var grace time.Duration
	var dry bool
	cmd := &cobra.Command{
		Use:   "gc NAME",
		Short: "Remove old versions of a model from a bucket",
		Long: "Gives up all versions but the last --keep and those that are served somewhere, and removes their files from the\n" +
			"bucket. With a bucket in each region, run it for each: akidbd model gc NAME --bucket s3://...",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := f.open(cmd.Context())
			if err != nil {
				return err
			}
			if t.bucket == nil {
				return errors.New("no bucket is configured: set sync.bucket or --bucket")
			}
			c, err := collect(cmd.Context(), f, t, args[0], keep, grace, dry)
			if err := errors.Join(err, t.close()); err != nil {
				return err
			}
			return f.show(cmd.OutOrStdout(), c, c.print)
		},
	}
	f.addPublish(cmd)
	cmd.Flags().IntVar(&keep, "keep", 3, "versions that stay")
	cmd.Flags().DurationVar(&grace, "grace", 24*time.Hour, "what is younger stays: it may belong to a push that is under way")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only say what would go")
	return cmd
}

func collect(ctx context.Context, f *flags, t *target, name string, keep int, grace time.Duration, dry bool) (collected, error) {
	c := collected{Model: name, Versions: []string{}, DryRun: dry}
	if keep < 1 {
		return c, fmt.Errorf("--keep is %d, must be at least 1", keep)
	}
	plan, err := modelsync.PlanGC(ctx, t.bucket, name, keep, grace, t.trust)
	if err != nil {
		return c, err
	}
	for _, gone := range plan.Tombstones {
		c.Versions = append(c.Versions, gone.Digest)
		if dry {
			continue
		}
		m := t.newManifest(modelsync.KindDelete, name, f)
		m.Digest, m.Clock = gone.Digest, gone.Clock
		if err := t.publish(ctx, f, m); err != nil {
			return c, err
		}
	}
	if dry {
		c.Blobs, c.Bytes = len(plan.Blobs), plan.Bytes
		return c, nil
	}
	// A push or an activate may have named some of it meanwhile.
	now, err := modelsync.PlanGC(ctx, t.bucket, name, keep, grace, t.trust)
	if err != nil {
		return c, err
	}
	planned := map[string]bool{}
	for _, o := range plan.Blobs {
		planned[o.Key] = true
	}
	for _, o := range now.Blobs {
		if !planned[o.Key] {
			continue
		}
		if err := t.bucket.Delete(ctx, o.Key); err != nil {
			return c, err
		}
		c.Blobs++
		c.Bytes += o.Size
	}
	return c, nil
}

func (c collected) print(w io.Writer) error {
	verb := "removed"
	if c.DryRun {
		verb = "would remove"
	}
	_, err := fmt.Fprintf(w, "%s %d versions of %s, %d files, %.1f MB\n", verb, len(c.Versions), c.Model, c.Blobs, float64(c.Bytes)/1e6)
	return err
}
