package admin

import (
	"context"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/akidb/akidbd/internal/gen/akidb/admin/v1"
	"github.com/akidb/akidbd/internal/node"
)

// Explanation is a routing decision at one moment.
type Explanation struct {
	Model      string // name@digest that the request would be fixed to; "" when nobody serves it
	Candidates []Candidate
	Excluded   []Candidate
}

// Candidate is one node in a routing decision.
type Candidate struct {
	Node, Region string
	Self         bool
	Reason       string        // for people
	Latency      time.Duration // expected; 0 when unknown
	Health       string
}

func (s *service) ListMembers(context.Context, *connect.Request[adminv1.ListMembersRequest]) (*connect.Response[adminv1.ListMembersResponse], error) {
	return connect.NewResponse(&adminv1.ListMembersResponse{Members: newMembers(s.node.Members())}), nil
}

func (s *service) Explain(_ context.Context, req *connect.Request[adminv1.ExplainRequest]) (*connect.Response[adminv1.ExplainResponse], error) {
	e := s.node.Explain(req.Msg.GetModel())
	return connect.NewResponse(&adminv1.ExplainResponse{
		Model: e.Model, Candidates: newCandidates(e.Candidates), Excluded: newCandidates(e.Excluded),
	}), nil
}

func (s *service) SetDrain(_ context.Context, req *connect.Request[adminv1.SetDrainRequest]) (*connect.Response[adminv1.SetDrainResponse], error) {
	state, err := s.node.SetDrain(req.Msg.GetDrain())
	if err != nil {
		return nil, connect.NewError(connect.CodeFailedPrecondition, err)
	}
	return connect.NewResponse(&adminv1.SetDrainResponse{State: string(state)}), nil
}

// newMembers takes the first of the nodes for the one that was asked.
func newMembers(nodes []node.Info) []*adminv1.Member {
	out := make([]*adminv1.Member, 0, len(nodes))
	for i, n := range nodes {
		m := &adminv1.Member{
			Node: string(n.ID), Region: n.Region, Zone: n.Zone, Address: n.Addr, Version: n.Version, Labels: n.Labels, Self: i == 0,
			State: string(n.Word.State), Load: n.Word.Load, QueueDelay: durationpb.New(n.Word.QueueDelay),
		}
		for _, s := range n.Word.Models {
			m.Models = append(m.Models, &adminv1.ServedModel{Name: s.Name, Digest: s.Digest, Aliases: s.Aliases, Active: s.Active})
		}
		switch {
		case i == 0:
		case n.Link.Up:
			m.Link = "up"
		case n.Link.Known:
			m.Link, m.LinkCause = "down", n.Link.Cause
		default:
			m.Link = "none"
		}
		if n.Link.RTT > 0 {
			m.Rtt = durationpb.New(n.Link.RTT)
		}
		out = append(out, m)
	}
	return out
}

func newCandidates(in []Candidate) []*adminv1.Candidate {
	out := make([]*adminv1.Candidate, 0, len(in))
	for _, c := range in {
		m := &adminv1.Candidate{Node: c.Node, Region: c.Region, Self: c.Self, Reason: c.Reason, Health: c.Health}
		if c.Latency > 0 {
			m.Latency = durationpb.New(c.Latency)
		}
		out = append(out, m)
	}
	return out
}
