package daemon

import (
	"context"
	"slices"

	"github.com/akidb/akidbd/internal/api/admin"
)

// syncAdmin speaks the words of the control service.
type syncAdmin struct{ *syncer }

func (s syncAdmin) SyncNow(ctx context.Context) error { return s.LookNow(ctx) }

func (s syncAdmin) Clock() string { return s.Syncer.Clock().String() }

func (s syncAdmin) SyncStatus() admin.SyncStatus {
	st := s.Status()
	out := admin.SyncStatus{Backlog: st.Backlog, Copies: st.Copies, ClockSet: st.ClockSet, UnsignedAccepted: !s.signed}
	for _, m := range st.Models {
		model := admin.SyncedModel{
			Name: m.Name, Serving: m.Serving, Wanted: m.Wanted, Manifest: m.Manifest,
			Step: m.Progress.Step, Done: m.Progress.Done, Total: m.Progress.Total, Pins: m.Pins,
		}
		for digest, t := range m.Trouble {
			model.Trouble = append(model.Trouble, admin.Trouble{
				Digest: digest, Reason: string(t.Reason), Text: t.Text, Quarantined: t.Quarantined(), Tries: t.Tries, Since: t.Since, Next: t.Next,
			})
		}
		slices.SortFunc(model.Trouble, func(a, b admin.Trouble) int { return b.Since.Compare(a.Since) })
		out.Models = append(out.Models, model)
	}
	for _, b := range st.Buckets {
		out.Buckets = append(out.Buckets, admin.Bucket{Name: b.Name, Region: b.Region, Own: b.Own, Looked: b.Looked, Err: b.Err})
	}
	for _, r := range st.Refused {
		out.Refused = append(out.Refused, admin.Refused{Name: r.Name, ID: r.ID, Reason: string(r.Reason), Text: r.Text})
	}
	return out
}

func (s syncAdmin) Versions(name string) []admin.Version {
	names := []string{name}
	if name == "" {
		names = s.Names()
	}
	var out []admin.Version
	for _, n := range names {
		for _, v := range s.Syncer.Versions(n) {
			raw, err := v.Encode()
			if err != nil {
				continue // it was read, so it can be written
			}
			out = append(out, admin.Version{Manifest: raw, Current: v.Current, Serving: v.Serving, Deleted: v.Void, Here: v.Here, Pinned: v.Pinned})
		}
	}
	return out
}

func (s syncAdmin) Publish(manifest []byte) error {
	_, err := s.Syncer.Publish(manifest)
	return err
}

func (s syncAdmin) Import(ctx context.Context, name, path string) ([]admin.File, error) {
	files, err := s.Syncer.Import(ctx, name, path)
	if err != nil {
		return nil, err
	}
	out := make([]admin.File, len(files))
	for i, f := range files {
		out[i] = admin.File{Path: f.Path, Size: f.Size, SHA256: f.SHA256}
	}
	return out, nil
}

func (s syncAdmin) Verify(ctx context.Context, name string) ([]admin.Verified, error) {
	found, err := s.Syncer.Verify(ctx, name)
	out := make([]admin.Verified, len(found))
	for i, v := range found {
		out[i] = admin.Verified{Name: v.Model.Name, Digest: v.Model.Digest, Bytes: v.Bytes, Err: v.Err}
	}
	return out, err
}

var _ admin.Sync = syncAdmin{}
