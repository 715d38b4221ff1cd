package admin

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	adminv1 "github.com/akidb/akidbd/internal/gen/akidb/admin/v1"
)

type fakeSync struct{ looked, pinned bool }

func (*fakeSync) SyncStatus() SyncStatus {
	return SyncStatus{
		Models: []SyncedModel{{Name: "m", Serving: "sha256-1", Wanted: "sha256-2", Step: "fetch", Done: -1, Total: 10, Trouble: []Trouble{{Digest: "sha256-2", Reason: "load",
			Text: "golden", Quarantined: true, Tries: 2, Since: time.Unix(1, 0), Next: time.Unix(2, 0)}}}},
		Buckets: []Bucket{{Name: "s3://eu", Own: true, Looked: true, Err: "503"}}, Refused: []Refused{{Name: "m", ID: "1-n", Reason: "clock"}},
		Backlog: 3, Copies: true, ClockSet: true, UnsignedAccepted: true,
	}
}
func (f *fakeSync) SyncNow(context.Context) error { f.looked = true; return nil }
func (*fakeSync) Versions(name string) []Version {
	return []Version{{Manifest: []byte(name), Current: true, Deleted: true}}
}
func (*fakeSync) Clock() string { return "000000000000000a" }
func (*fakeSync) Publish(raw []byte) error {
	if string(raw) != "good" {
		return errors.New("no manifest")
	}
	return nil
}
func (*fakeSync) Import(_ context.Context, name, path string) ([]File, error) {
	return []File{{Path: name + path, Size: 5, SHA256: "00"}}, nil
}
func (f *fakeSync) Pin(_, _ string, pin bool) error { f.pinned = pin; return nil }
func (*fakeSync) Verify(context.Context, string) ([]Verified, error) {
	return []Verified{{Name: "m", Digest: "sha256-1", Bytes: 7, Err: errors.New("damaged")}}, nil
}

func TestSync(t *testing.T) {
	path, fake := socketPath(t), &fakeSync{}
	defer run(t, Config{Path: path, Sync: fake}, &fakeNode{})()
	c, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	st, err := c.SyncStatus(t.Context(), connect.NewRequest(&adminv1.SyncStatusRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	m := st.Msg.Models[0]
	if m.Name != "m" || m.BytesDone != 0 || m.BytesTotal != 10 || !m.Trouble[0].Quarantined || m.Trouble[0].Next.AsTime().Unix() != 2 ||
		st.Msg.Buckets[0].Error != "503" || st.Msg.Refused[0].Reason != "clock" || st.Msg.Backlog != 3 || !st.Msg.UnsignedAccepted {
		t.Errorf("status: %+v", st.Msg)
	}
	if _, err := c.SyncNow(t.Context(), connect.NewRequest(&adminv1.SyncNowRequest{})); err != nil || !fake.looked {
		t.Errorf("look: %v", err)
	}
	v, err := c.ListVersions(t.Context(), connect.NewRequest(&adminv1.ListVersionsRequest{Name: "m"}))
	if err != nil || string(v.Msg.Versions[0].Manifest) != "m" || !v.Msg.Versions[0].Deleted || v.Msg.Clock != "000000000000000a" || v.Msg.Node != "n1" {
		t.Errorf("versions: %+v, %v", v, err)
	}
	if _, err := c.PublishManifest(t.Context(), connect.NewRequest(&adminv1.PublishManifestRequest{Manifest: []byte("good")})); err != nil {
		t.Error(err)
	}
	_, err = c.PublishManifest(t.Context(), connect.NewRequest(&adminv1.PublishManifestRequest{Manifest: []byte("bad")}))
	if connect.CodeOf(err) != connect.CodeInvalidArgument || !strings.Contains(err.Error(), "no manifest") {
		t.Errorf("a bad manifest: %v", err)
	}
	i, err := c.ImportModel(t.Context(), connect.NewRequest(&adminv1.ImportModelRequest{Name: "m", Path: "/x"}))
	if err != nil || i.Msg.Files[0].Path != "m/x" || i.Msg.Files[0].Size != 5 {
		t.Errorf("import: %+v, %v", i, err)
	}
	if _, err := c.PinModel(t.Context(), connect.NewRequest(&adminv1.PinModelRequest{Name: "m", Digest: "d", Pin: true})); err != nil || !fake.pinned {
		t.Errorf("pin: %v", err)
	}
	r, err := c.VerifyModels(t.Context(), connect.NewRequest(&adminv1.VerifyModelsRequest{}))
	if err != nil || r.Msg.Models[0].Error != "damaged" || r.Msg.Models[0].Bytes != 7 {
		t.Errorf("verify: %+v, %v", r, err)
	}
}

func TestNoSync(t *testing.T) {
	path := socketPath(t)
	defer run(t, Config{Path: path}, &fakeNode{})()
	c, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	for what, call := range map[string]func() error{
		"status": func() error {
			_, err := c.SyncStatus(t.Context(), connect.NewRequest(&adminv1.SyncStatusRequest{}))
			return err
		},
		"look": func() error {
			_, err := c.SyncNow(t.Context(), connect.NewRequest(&adminv1.SyncNowRequest{}))
			return err
		},
		"versions": func() error {
			_, err := c.ListVersions(t.Context(), connect.NewRequest(&adminv1.ListVersionsRequest{}))
			return err
		},
		"pin": func() error {
			_, err := c.PinModel(t.Context(), connect.NewRequest(&adminv1.PinModelRequest{}))
			return err
		},
	} {
		if err := call(); connect.CodeOf(err) != connect.CodeFailedPrecondition {
			t.Errorf("%s: %v", what, err)
		}
	}
}
