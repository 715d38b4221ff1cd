package admin

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/akidb/akidbd/internal/gen/akidb/admin/v1"
)

// Sync is how models arrive by themselves. Its methods are safe for concurrent use.
type Sync interface {
	// SyncStatus answers from memory.
	SyncStatus() SyncStatus
	// SyncNow looks for new versions everywhere and returns when it has looked.
	SyncNow(ctx context.Context) error
	// Versions lists what was published of a model, or of all with "", the last first.
	Versions(name string) []Version
	// Clock is a moment after all of them, 16 hex digits.
	Clock() string
	// Publish takes a manifest and tells the fleet.
	Publish(manifest []byte) error
	// Import copies a directory into the node's store.
	Import(ctx context.Context, name, path string) ([]File, error)
	// Pin keeps a version in the node's store, or lets it go.
	Pin(name, digest string, pin bool) error
	// Verify reads what the store has of a model, or of all with "".
	Verify(ctx context.Context, name string) ([]Verified, error)
}

// SyncStatus is what a node knows about the ways its models come.
type SyncStatus struct {
	Models           []SyncedModel
	Buckets          []Bucket
	Refused          []Refused
	Backlog          int  // objects that this node is to copy into the bucket of its region
	Copies           bool // this node looks at the buckets of other regions for its own
	ClockSet         bool // the wall clock can be right
	UnsignedAccepted bool // no trusted keys are configured
}

// SyncedModel is one model that arrives by itself.
type SyncedModel struct {
	Name                      string
	Serving, Wanted, Manifest string
	Step                      string // "", "fetch" or "load"
	Done, Total               int64  // bytes
	Pins                      []string
	Trouble                   []Trouble
}

// Trouble is a version that the node tried to serve and does not.
type Trouble struct {
	Digest, Reason, Text string
	Quarantined          bool
	Tries                int
	Since, Next          time.Time
}

// Bucket is how the last look at a bucket ended.
type Bucket struct {
	Name, Region string
	Own, Looked  bool
	Err          string
}

// Refused is a manifest that is not taken.
type Refused struct{ Name, ID, Reason, Text string }

// Version is one manifest as the node sees it.
type Version struct {
	Manifest                                []byte
	Current, Serving, Deleted, Here, Pinned bool
}

// File is one file of a model.
type File struct {
	Path   string
	Size   int64
	SHA256 string
}

// Verified is a copy that was read and compared.
type Verified struct {
	Name, Digest string
	Bytes        int64
	Err          error
}

// errNoSync is the answer of a node whose models all have a path.
var errNoSync = errors.New("no model of this node arrives by itself: set sync.bucket or peers, and a model without a path")

// syncer gives what the calls below ask.
func (s *service) syncer() (Sync, error) {
	if s.sync == nil {
		return nil, connect.NewError(connect.CodeFailedPrecondition, errNoSync)
	}
	return s.sync, nil
}

func (s *service) SyncStatus(context.Context, *connect.Request[adminv1.SyncStatusRequest]) (*connect.Response[adminv1.SyncStatusResponse], error) {
	sync, err := s.syncer()
	if err != nil {
		return nil, err
	}
	st := sync.SyncStatus()
	out := &adminv1.SyncStatusResponse{Backlog: uint32(st.Backlog), Copies: st.Copies, ClockSet: st.ClockSet, UnsignedAccepted: st.UnsignedAccepted}
	for _, m := range st.Models {
		model := &adminv1.SyncedModel{
			Name: m.Name, Serving: m.Serving, Wanted: m.Wanted, Manifest: m.Manifest, Step: m.Step,
			BytesDone: uint64(max(0, m.Done)), BytesTotal: uint64(max(0, m.Total)), Pins: m.Pins,
		}
		for _, t := range m.Trouble {
			model.Trouble = append(model.Trouble, &adminv1.VersionTrouble{
				Digest: t.Digest, Reason: t.Reason, Text: t.Text, Quarantined: t.Quarantined, Tries: uint32(t.Tries),
				Since: timestamppb.New(t.Since), Next: timestamppb.New(t.Next),
			})
		}
		out.Models = append(out.Models, model)
	}
	for _, b := range st.Buckets {
		out.Buckets = append(out.Buckets, &adminv1.Bucket{Name: b.Name, Region: b.Region, Own: b.Own, Looked: b.Looked, Error: b.Err})
	}
	for _, r := range st.Refused {
		out.Refused = append(out.Refused, &adminv1.RefusedManifest{Name: r.Name, Id: r.ID, Reason: r.Reason, Text: r.Text})
	}
	return connect.NewResponse(out), nil
}

func (s *service) SyncNow(ctx context.Context, _ *connect.Request[adminv1.SyncNowRequest]) (*connect.Response[adminv1.SyncNowResponse], error) {
	sync, err := s.syncer()
	if err == nil {
		err = sync.SyncNow(ctx)
	}
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.SyncNowResponse{}), nil
}

func (s *service) ListVersions(_ context.Context, req *connect.Request[adminv1.ListVersionsRequest]) (*connect.Response[adminv1.ListVersionsResponse], error) {
	sync, err := s.syncer()
	if err != nil {
		return nil, err
	}
	st := s.node.Status()
	out := &adminv1.ListVersionsResponse{Node: st.Node, Region: st.Region}
	for _, v := range sync.Versions(req.Msg.GetName()) {
		out.Versions = append(out.Versions, &adminv1.ModelVersion{
			Manifest: v.Manifest, Current: v.Current, Serving: v.Serving, Deleted: v.Deleted, Here: v.Here, Pinned: v.Pinned,
		})
	}
	out.Clock = sync.Clock()
	return connect.NewResponse(out), nil
}

func (s *service) PublishManifest(_ context.Context, req *connect.Request[adminv1.PublishManifestRequest]) (*connect.Response[adminv1.PublishManifestResponse], error) {
	sync, err := s.syncer()
	if err != nil {
		return nil, err
	}
	if err := sync.Publish(req.Msg.GetManifest()); err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	return connect.NewResponse(&adminv1.PublishManifestResponse{}), nil
}

func (s *service) ImportModel(ctx context.Context, req *connect.Request[adminv1.ImportModelRequest]) (*connect.Response[adminv1.ImportModelResponse], error) {
	sync, err := s.syncer()
	if err != nil {
		return nil, err
	}
	files, err := sync.Import(ctx, req.Msg.GetName(), req.Msg.GetPath())
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	out := &adminv1.ImportModelResponse{}
	for _, f := range files {
		out.Files = append(out.Files, &adminv1.ModelFile{Path: f.Path, Size: f.Size, Sha256: f.SHA256})
	}
	return connect.NewResponse(out), nil
}

func (s *service) PinModel(_ context.Context, req *connect.Request[adminv1.PinModelRequest]) (*connect.Response[adminv1.PinModelResponse], error) {
	sync, err := s.syncer()
	if err != nil {
		return nil, err
	}
	if err := sync.Pin(req.Msg.GetName(), req.Msg.GetDigest(), req.Msg.GetPin()); err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	return connect.NewResponse(&adminv1.PinModelResponse{}), nil
}

func (s *service) VerifyModels(ctx context.Context, req *connect.Request[adminv1.VerifyModelsRequest]) (*connect.Response[adminv1.VerifyModelsResponse], error) {
	sync, err := s.syncer()
	if err != nil {
		return nil, err
	}
	found, err := sync.Verify(ctx, req.Msg.GetName())
	if err != nil {
		return nil, err
	}
	out := &adminv1.VerifyModelsResponse{}
	for _, v := range found {
		m := &adminv1.VerifiedModel{Name: v.Name, Digest: v.Digest, Bytes: uint64(max(0, v.Bytes))}
		if v.Err != nil {
			m.Error = v.Err.Error()
		}
		out.Models = append(out.Models, m)
	}
	return connect.NewResponse(out), nil
}
