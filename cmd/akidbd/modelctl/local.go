package modelctl

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
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
)

func pullCommand(m Machine) *cobra.Command {
	f := &flags{machine: m}
	var to string
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "pull [NAME[@DIGEST]]",
		Short: "Bring what was published, now: to the running node, or with --to into a directory",
		Long: "Without --to, the running node looks for new versions and tries again what failed, without waiting for its next\n" +
			"look. With --to, the files of a version (without a digest: the one of now) are fetched from the bucket into a\n" +
			"directory and compared with their hashes; what is there already is not fetched again.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, digest := embedding.SplitModel(strings.Join(args, ""))
			t, err := f.open(cmd.Context())
			if err != nil {
				return err
			}
			if to != "" {
				err = pullTo(cmd, f, t, name, digest, to)
			} else {
				err = pullToNode(cmd, f, t, name, wait)
			}
			return errors.Join(err, t.close())
		},
	}
	f.addBucket(cmd)
	cmd.Flags().StringVar(&to, "to", "", "directory to put the files into")
	cmd.Flags().DurationVar(&wait, "wait", time.Minute, "how long to wait until the running node serves what is wanted")
	return cmd
}

func pullToNode(cmd *cobra.Command, f *flags, t *target, name string, wait time.Duration) error {
	if t.node == nil {
		return errors.New("no node runs here: use --to to fetch into a directory")
	}
	if _, err := t.node.SyncNow(cmd.Context(), connect.NewRequest(&adminv1.SyncNowRequest{})); err != nil {
		return err
	}
	res, err := t.node.SyncStatus(cmd.Context(), connect.NewRequest(&adminv1.SyncStatusRequest{}))
	if err != nil {
		return err
	}
	found := false
	for _, model := range res.Msg.Models {
		if name != "" && model.Name != name {
			continue
		}
		found = true
		if model.Wanted == "" {
			continue
		}
		if _, err := t.wait(cmd.Context(), model.Name, model.Wanted, wait, cmd.ErrOrStderr()); err != nil {
			return err
		}
	}
	if name != "" && !found {
		return fmt.Errorf("the running node does not serve %s by itself: add it to models, without a path", name)
	}
	if res, err = t.node.SyncStatus(cmd.Context(), connect.NewRequest(&adminv1.SyncStatusRequest{})); err != nil {
		return err
	}
	return f.show(cmd.OutOrStdout(), res.Msg, func(w io.Writer) error { return printStatus(w, res.Msg, time.Now()) })
}

func pullTo(cmd *cobra.Command, f *flags, t *target, name, digest, to string) error {
	if name == "" || t.bucket == nil {
		return errors.New("--to needs the name of a model and a bucket (sync.bucket or --bucket)")
	}
	all, err := t.manifests(cmd.Context(), name)
	if err != nil {
		return err
	}
	m := modelsync.Resolve(all, "", "")
	if digest != "" {
		m, err = find(all, name, digest)
	} else if m == nil {
		err = fmt.Errorf("nothing was published of %s", name)
	}
	if err != nil {
		return err
	}
	b := newBar(cmd.ErrOrStderr(), "pull", m.Bytes())
	for _, file := range m.Files {
		if err = pullFile(cmd.Context(), t, m.Name, file, to, b.add); err != nil {
			err = fmt.Errorf("%s: %w", file.Path, err)
			break
		}
	}
	b.end()
	if err != nil {
		return err
	}
	p := answer(t, m)
	p.Where = to
	return f.show(cmd.OutOrStdout(), p, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s is in %s, %d files, %.1f MB\n", show(m), to, len(m.Files), float64(m.Bytes())/1e6)
		return err
	})
}

// pullFile fetches one file of a manifest, whose paths stay inside the directory, unless it is there.
func pullFile(ctx context.Context, t *target, name string, f store.File, to string, progress func(int64)) error {
	place := filepath.Join(to, filepath.FromSlash(f.Path))
	if sha, _, err := store.HashFile(ctx, place); err == nil && sha == f.SHA256 {
		progress(f.Size)
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(place), 0o755); err != nil {
		return err
	}
	out, err := os.CreateTemp(filepath.Dir(place), ".pull-*")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name()) // gone when it was renamed
	err = t.readBlob(ctx, name, f, io.MultiWriter(out, counter(progress)))
	if err := errors.Join(err, out.Chmod(0o644), out.Close()); err != nil {
		return err
	}
	return os.Rename(out.Name(), place)
}

// readBlob copies a file of a version from the bucket and compares it with its hash.
func (t *target) readBlob(ctx context.Context, name string, f store.File, to io.Writer) error {
	in, err := t.bucket.Get(ctx, modelsync.BlobKey(name, f.SHA256), 0, f.Size, "")
	if err != nil {
		return err
	}
	h := sha256.New()
	_, err = io.Copy(io.MultiWriter(h, to), in)
	if err := errors.Join(err, in.Close()); err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != f.SHA256 {
		return fmt.Errorf("the bucket has other bytes: SHA-256 %s, must be %s", got, f.SHA256)
	}
	return nil
}

type counter func(n int64)

func (c counter) Write(p []byte) (int, error) {
	c(int64(len(p)))
	return len(p), nil
}

func pinCommand(m Machine) *cobra.Command {
	f := &flags{machine: m}
	var off bool
	cmd := &cobra.Command{
		Use:   "pin NAME@DIGEST",
		Short: "Keep a version on the running node, whatever comes after it",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, digest, err := splitVersion(args[0])
			if err != nil {
				return err
			}
			c, err := m.Dial(cmd.Context(), f.socket)
			if err != nil {
				return err
			}
			t := &target{node: c}
			all, err := t.manifests(cmd.Context(), name)
			if err != nil {
				return err
			}
			v, err := find(all, name, digest)
			if err != nil {
				return err
			}
			if _, err := c.PinModel(cmd.Context(), connect.NewRequest(&adminv1.PinModelRequest{Name: name, Digest: v.Digest, Pin: !off})); err != nil {
				return err
			}
			word := map[bool]string{false: "pinned", true: "not pinned"}[off]
			return f.show(cmd.OutOrStdout(), map[string]any{"model": name, "digest": v.Digest, "pinned": !off}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s is %s on this node\n", show(v), word)
				return err
			})
		},
	}
	f.addNode(cmd)
	cmd.Flags().BoolVar(&off, "off", false, "let it go again")
	return cmd
}

// checked is a copy that verify read.
type checked struct {
	Model  string `json:"model"`
	Digest string `json:"digest"`
	Bytes  int64  `json:"bytes"`
	Error  string `json:"error,omitempty"`
}

func verifyCommand(m Machine) *cobra.Command {
	f := &flags{machine: m}
	cmd := &cobra.Command{
		Use:   "verify [NAME]",
		Short: "Read the copies of the running node, or with --bucket of a bucket, and compare them with their hashes",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := strings.Join(args, "")
			list, err := f.verify(cmd.Context(), name)
			if err != nil {
				return err
			}
			bad := 0
			err = f.show(cmd.OutOrStdout(), list, func(w io.Writer) error {
				for _, c := range list {
					state := "ok"
					if c.Error != "" {
						state = c.Error
					}
					if _, err := fmt.Fprintf(w, "%s@%s  %.1f MB  %s\n", c.Model, short(c.Digest), float64(c.Bytes)/1e6, state); err != nil {
						return err
					}
				}
				return nil
			})
			for _, c := range list {
				if c.Error != "" {
					bad++
				}
			}
			if err == nil && bad > 0 {
				err = fmt.Errorf("%d of %d copies are damaged", bad, len(list))
			}
			return err
		},
	}
	f.addBucket(cmd)
	return cmd
}

func (f *flags) verify(ctx context.Context, name string) ([]checked, error) {
	list := []checked{}
	if f.bucket != "" {
		t := &target{}
		if _, err := f.openBucket(ctx, t); err != nil {
			return nil, err
		}
		all, err := t.manifests(ctx, name)
		if err == nil {
			for _, m := range modelsync.Live(all) {
				list = append(list, t.verifyBlobs(ctx, m))
			}
		}
		return list, errors.Join(err, context.Cause(ctx), t.close())
	}
	c, err := f.machine.Dial(ctx, f.socket)
	if err != nil {
		return nil, err
	}
	res, err := c.VerifyModels(ctx, connect.NewRequest(&adminv1.VerifyModelsRequest{Name: name}))
	if err != nil {
		return nil, err
	}
	for _, v := range res.Msg.Models {
		list = append(list, checked{Model: v.Name, Digest: v.Digest, Bytes: int64(v.Bytes), Error: v.Error})
	}
	return list, nil
}

// verifyBlobs reads all files of a version in the bucket.
func (t *target) verifyBlobs(ctx context.Context, m *modelsync.Manifest) checked {
	c := checked{Model: m.Name, Digest: m.Digest, Bytes: m.Bytes()}
	for _, f := range m.Files {
		if err := t.readBlob(ctx, m.Name, f, io.Discard); err != nil {
			c.Error = fmt.Sprintf("%s: %v", f.Path, err)
			return c
		}
	}
	return c
}
