package admin

import (
	"context"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/akidb/akidbd/internal/embedding"
	adminv1 "github.com/akidb/akidbd/internal/gen/akidb/admin/v1"
)

// service is akidb.admin.v1.AdminService over a Node. Its callers are operators: errors go out whole.
type service struct {
	node    Node
	sync    Sync // nil: no model arrives by itself
	started time.Time
}

func (s *service) Status(context.Context, *connect.Request[adminv1.StatusRequest]) (*connect.Response[adminv1.StatusResponse], error) {
	st := s.node.Status()
	out := &adminv1.StatusResponse{
		Node: st.Node, Region: st.Region, Cluster: st.Cluster, Version: st.Version,
		State: st.State, Reason: st.Reason, Health: st.Health,
		Started:  timestamppb.New(s.started),
		Uptime:   durationpb.New(time.Since(s.started)),
		Pid:      int64(os.Getpid()),
		RssBytes: rssBytes(),
		Models:   newModels(st.Models),
		LogLevel: levelName(st.LogLevel), ConfigFile: st.ConfigFile,
	}
	for _, l := range st.Listeners {
		out.Listeners = append(out.Listeners, &adminv1.Listener{Role: l.Role, Address: l.Address, Tls: l.TLS})
	}
	for _, c := range st.Checks {
		out.Checks = append(out.Checks, &adminv1.Check{Name: c.Name, State: c.State, Reason: c.Reason})
	}
	out.Members = newMembers(s.node.Members())
	return connect.NewResponse(out), nil
}

func (s *service) ListModels(context.Context, *connect.Request[adminv1.ListModelsRequest]) (*connect.Response[adminv1.ListModelsResponse], error) {
	return connect.NewResponse(&adminv1.ListModelsResponse{Models: newModels(s.node.Status().Models)}), nil
}

func (s *service) Reload(ctx context.Context, _ *connect.Request[adminv1.ReloadRequest]) (*connect.Response[adminv1.ReloadResponse], error) {
	done, err := s.node.Reload(ctx)
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	return connect.NewResponse(&adminv1.ReloadResponse{Applied: done.Applied, NeedsRestart: done.NeedsRestart}), nil
}

func (s *service) SetLogLevel(_ context.Context, req *connect.Request[adminv1.SetLogLevelRequest]) (*connect.Response[adminv1.SetLogLevelResponse], error) {
	name := req.Msg.GetLevel()
	for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		if levelName(level) == name {
			previous := s.node.SetLogLevel(level)
			return connect.NewResponse(&adminv1.SetLogLevelResponse{Previous: levelName(previous)}), nil
		}
	}
	return nil, connect.NewError(connect.CodeInvalidArgument,
		embedding.Errorf(embedding.CodeInvalid, "level must be debug, info, warn or error, got %.40q", name))
}

func levelName(l slog.Level) string { return strings.ToLower(l.String()) }

func newModels(in []Model) []*adminv1.Model {
	out := make([]*adminv1.Model, 0, len(in))
	for _, m := range in {
		model := &adminv1.Model{
			Name: m.Model.Name, Digest: m.Model.Digest, Precision: m.Model.Precision, Aliases: m.Aliases,
			State: string(m.State), Reason: m.Reason,
			Dimensions: uint32(m.Dimensions), MaxTokens: uint32(m.MaxTokens),
			Pooling: m.Pooling, Provider: m.Provider, Prompts: m.Prompts,
			QueueRequests: uint32(m.QueueRequests), QueueTokens: uint64(m.QueueTokens),
			QueueDelay: durationpb.New(m.QueueDelay),
			WorkerPid:  int64(m.WorkerPID), WorkerRssBytes: m.WorkerRSS, WorkerRestarts: uint64(m.WorkerRestarts),
		}
		if !m.Loaded.IsZero() {
			model.Loaded = timestamppb.New(m.Loaded)
		}
		out = append(out, model)
	}
	slices.SortFunc(out, func(a, b *adminv1.Model) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// rssBytes is the resident memory of this process; 0 where /proc does not say.
func rssBytes() uint64 {
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(statm))
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseUint(fields[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * uint64(os.Getpagesize())
}
