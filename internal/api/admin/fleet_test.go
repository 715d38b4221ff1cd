package admin

import (
	"testing"
	"time"

	"connectrpc.com/connect"

	adminv1 "github.com/akidb/akidbd/internal/gen/akidb/admin/v1"
)

func TestFleet(t *testing.T) {
	path := socketPath(t)
	stop := run(t, Config{Path: path}, &fakeNode{})
	defer stop()
	client, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	list, err := client.ListMembers(t.Context(), connect.NewRequest(&adminv1.ListMembersRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	m := list.Msg.Members
	if len(m) != 4 {
		t.Fatalf("got %d members, want 4", len(m))
	}
	if !m[0].Self || m[0].Link != "" || m[0].State != "ready" || m[0].Load != 0.5 || m[0].Models[0].Digest != "sha256-00" || !m[0].Models[0].Active {
		t.Errorf("self: %v", m[0])
	}
	if m[1].Self || m[1].Link != "up" || m[1].Rtt.AsDuration() != 2*time.Millisecond || m[1].State != "draining" {
		t.Errorf("linked: %v", m[1])
	}
	if m[2].Link != "down" || m[2].LinkCause != "timeout" || m[2].Rtt != nil || m[3].Link != "none" {
		t.Errorf("without a link: %v, %v", m[2], m[3])
	}
	status, err := client.Status(t.Context(), connect.NewRequest(&adminv1.StatusRequest{}))
	if err != nil || len(status.Msg.Members) != 4 {
		t.Errorf("status: %v members, %v", len(status.Msg.GetMembers()), err)
	}
	why, err := client.Explain(t.Context(), connect.NewRequest(&adminv1.ExplainRequest{Model: "a"}))
	if err != nil || why.Msg.Model != "a@00" || !why.Msg.Candidates[0].Self || why.Msg.Excluded[0].Reason != "draining" || why.Msg.Excluded[0].Latency != nil {
		t.Errorf("explain: %v, %v", why, err)
	}
	drained, err := client.SetDrain(t.Context(), connect.NewRequest(&adminv1.SetDrainRequest{Drain: true}))
	if err != nil || drained.Msg.State != "draining" {
		t.Errorf("drain: %v, %v", drained, err)
	}
	if _, err = client.SetDrain(t.Context(), connect.NewRequest(&adminv1.SetDrainRequest{})); connect.CodeOf(err) != connect.CodeFailedPrecondition {
		t.Errorf("undrain while it shuts down: %v", err)
	}
}
