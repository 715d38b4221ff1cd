package modelctl

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/akidb/akidbd/internal/embedding"
	adminv1 "github.com/akidb/akidbd/internal/gen/akidb/admin/v1"
	modelsync "github.com/akidb/akidbd/internal/sync"
)

// version is a line of `model versions`.
type version struct {
	Model     string    `json:"model"`
	Digest    string    `json:"digest,omitempty"`
	Manifest  string    `json:"manifest"`
	Kind      string    `json:"kind"`
	Scope     string    `json:"scope"`
	Published time.Time `json:"published"`
	By        string    `json:"by"`
	Region    string    `json:"region"`
	Bytes     int64     `json:"bytes"`
	Note      string    `json:"note,omitempty"`
	Signed    bool      `json:"signed"`
	State     []string  `json:"state"` // current, serving, here, pinned: as the node sees it; deleted
}

func versionsCommand(m Machine) *cobra.Command {
	f := &flags{machine: m}
	cmd := &cobra.Command{
		Use:   "versions [NAME]",
		Short: "List what was published of a model",
		Long:  "Lists what was published, the last first, as the running node knows it, or with --bucket as a bucket has it.",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := strings.Join(args, "")
			t, err := f.open(cmd.Context())
			if err != nil {
				return err
			}
			var list []modelsync.Version
			asked := f.bucket == "" && t.node != nil
			if asked {
				list, err = t.versions(cmd.Context(), name)
			}
			if !asked || code(err) == connect.CodeFailedPrecondition && t.bucket != nil {
				list, err = bucketVersions(cmd, t, name)
			}
			if err := errors.Join(err, t.close()); err != nil {
				return err
			}
			lines := make([]version, 0, len(list))
			for _, v := range list {
				lines = append(lines, line(v))
			}
			return f.show(cmd.OutOrStdout(), lines, func(w io.Writer) error { return printVersions(w, lines) })
		},
	}
	f.addBucket(cmd)
	return cmd
}

func bucketVersions(cmd *cobra.Command, t *target, name string) ([]modelsync.Version, error) {
	all, err := t.manifests(cmd.Context(), name)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b *modelsync.Manifest) int {
		if a.Name != b.Name {
			return cmp.Compare(a.Name, b.Name)
		}
		if a.Before(b) {
			return 1
		}
		return -1
	})
	live := modelsync.Live(all)
	var out []modelsync.Version
	for _, m := range all {
		void := m.Kind != modelsync.KindDelete && !slices.ContainsFunc(live, func(l *modelsync.Manifest) bool { return l.Name == m.Name && l.Digest == m.Digest })
		out = append(out, modelsync.Version{Manifest: m, Void: void, Current: modelsync.Resolve(ofName(all, m.Name), "", "") == m})
	}
	return out, nil
}

func ofName(all []*modelsync.Manifest, name string) []*modelsync.Manifest {
	return slices.DeleteFunc(slices.Clone(all), func(m *modelsync.Manifest) bool { return m.Name != name })
}

func line(v modelsync.Version) version {
	l := version{
		Model: v.Name, Digest: v.Digest, Manifest: v.ID(), Kind: string(v.Kind), Scope: v.Scope.String(), Published: v.Clock.Time(),
		By: string(v.Node), Region: v.Region, Bytes: v.Bytes(), Note: v.Note, Signed: v.Signed != "", State: []string{},
	}
	for _, s := range []struct {
		on   bool
		word string
	}{{v.Current, "current"}, {v.Serving, "serving"}, {v.Here, "here"}, {v.Pinned, "pinned"}, {v.Void, "deleted"}} {
		if s.on {
			l.State = append(l.State, s.word)
		}
	}
	return l
}

// printVersions keeps within 80 columns, but for notes.
func printVersions(w io.Writer, lines []version) error {
	if len(lines) == 0 {
		_, err := fmt.Fprintln(w, "nothing was published: akidbd model push DIR --name NAME")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "VERSION\tPUBLISHED\tBY\tWHAT\tSTATE\tNOTE")
	for _, l := range lines {
		what := l.Kind
		if l.Scope != "everywhere" {
			what += ", " + l.Scope
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", embedding.Model{Name: l.Model, Digest: l.Digest}, l.Published.Local().Format("2006-01-02 15:04:05"),
			l.By, what, strings.Join(l.State, " "), l.Note)
	}
	return t.Flush()
}

func statusCommand(m Machine) *cobra.Command {
	f := &flags{machine: m}
	cmd := &cobra.Command{
		Use: "status", Short: "Show how the models of the running node arrive", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := m.Dial(cmd.Context(), f.socket)
			if err != nil {
				return err
			}
			res, err := c.SyncStatus(cmd.Context(), connect.NewRequest(&adminv1.SyncStatusRequest{}))
			if err != nil {
				return err
			}
			return f.show(cmd.OutOrStdout(), res.Msg, func(w io.Writer) error { return printStatus(w, res.Msg, time.Now()) })
		},
	}
	f.addNode(cmd)
	return cmd
}

func printStatus(w io.Writer, s *adminv1.SyncStatusResponse, now time.Time) error {
	if len(s.Models) == 0 {
		fmt.Fprintln(w, "no model arrives by itself: the configuration gives all of them a path")
	} else {
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "MODEL\tSERVING\tWANTED\tSTATE")
		for _, m := range s.Models {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", m.Name, short(m.Serving), short(m.Wanted), modelState(m))
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	for _, m := range s.Models {
		for _, tr := range m.Trouble {
			what := "fails"
			if tr.Quarantined {
				what = "is quarantined"
			}
			fmt.Fprintf(w, "\n%s@%s %s (%s, %d tries, next in %s):\n  %s\n", m.Name, short(tr.Digest), what, tr.Reason, tr.Tries,
				max(0, tr.Next.AsTime().Sub(now)).Round(time.Second), strings.ReplaceAll(tr.Text, "\n", "\n  "))
		}
	}
	for _, b := range s.Buckets {
		state := "ok"
		switch {
		case b.Error != "":
			state = b.Error
		case !b.Looked:
			state = "not looked at by this node"
		}
		fmt.Fprintf(w, "\n%s (%s): %s", b.Name, b.Region, state)
	}
	if len(s.Buckets) > 0 {
		fmt.Fprintln(w)
	}
	if s.Backlog > 0 {
		fmt.Fprintf(w, "%d objects wait to be copied into the bucket of this region\n", s.Backlog)
	}
	for _, r := range s.Refused {
		fmt.Fprintf(w, "refused %s of %s (%s): %s\n", r.Id, r.Name, r.Reason, r.Text)
	}
	if !s.ClockSet {
		fmt.Fprintln(w, "the clock of this machine is not set: versions from the future are not refused")
	}
	if s.UnsignedAccepted {
		fmt.Fprintln(w, "versions without a signature are taken: akidbd model keygen, sync.trusted_keys")
	}
	return nil
}

func modelState(m *adminv1.SyncedModel) string {
	switch {
	case m.Step == "fetch" && m.BytesTotal > 0:
		return fmt.Sprintf("fetching, %d %% of %.1f MB", 100*min(m.BytesDone, m.BytesTotal)/m.BytesTotal, float64(m.BytesTotal)/1e6)
	case m.Step != "":
		return m.Step
	case m.Wanted == "":
		return "nothing is published"
	case m.Serving == m.Wanted:
		return "up to date"
	case len(m.Trouble) > 0:
		return "waiting to try again"
	}
	return "behind"
}

func short(digest string) string {
	return cmp.Or(embedding.Model{Digest: digest}.ShortDigest(), "-")
}
