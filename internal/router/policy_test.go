package router

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/node"
)

func failing(code embedding.Code) func() error {
	return func() error { return embedding.Errorf(code, "told to") }
}

func wantCode(t *testing.T, err error, code embedding.Code) {
	t.Helper()
	if e := embedding.AsError(err); e == nil || e.Code != code {
		t.Errorf("got %v, want code %s", err, code)
	}
}

// gives changes what a node serves and says.
func (g *rig) gives(id node.ID, models []node.Served) {
	g.nodes[id].set(func(n *fakeNode) { n.serves = models })
	g.say(id, func(n *node.Info) { n.Word.Models = models })
}

func TestPinnedDigestIsNeverAnsweredByAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, nil, "eu/p1", "eu/p2")
		g.gives("p1", served(digest("b"), 5))
		for range 50 {
			for pin, by := range map[string]string{"m@bbbbbbbbbbbb": "p1", "m@" + digest("b"): "p1", "m@aaaaaaaaaaaa": "self"} {
				res, err := g.one(pin)
				if err != nil || res.Origin.Node != by || !strings.HasPrefix(res.Model.Digest, digest(pin[len(pin)-1:])) {
					t.Fatalf("%s: %v of %v, %v", pin, res.Model, res.Origin, err)
				}
			}
		}
		_, err := g.one("m@cccccccccccc")
		wantCode(t, err, embedding.CodeModelNotFound)
		g.nodes["p1"].set(func(n *fakeNode) { n.fail = failing(embedding.CodeModelNotFound) })
		_, err = g.one("m@bbbbbbbbbbbb")
		wantCode(t, err, embedding.CodeModelNotFound)

		g.nodes["p2"].cheats = true
		g.self.set(func(n *fakeNode) { n.fail = failing(embedding.CodeUnavailable) })
		if res, err := g.one("m"); err == nil {
			t.Errorf("an answer of another model was taken: %v", res.Model)
		}
	})
}

func TestResolve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, nil, "eu/p1", "eu/p2", "us/p3")
		g.gives("p1", served(digest("b"), 5))
		g.gives("p2", served(digest("c"), 7))
		g.gives("p3", served(digest("d"), 9))
		want := func(by, d string) {
			t.Helper()
			if res, err := g.one("default"); err != nil || res.Origin.Node != by || res.Model.Digest != digest(d) {
				t.Errorf("got %v of %v, %v; want %s of %s", res.Model, res.Origin, err, d, by)
			}
		}
		want("self", "a")
		g.without()
		want("p3", "d")
		g.link("p3", false)
		want("p2", "c")
		// A digest that is gone although its node still says it: the name is resolved once more.
		g.nodes["p2"].set(func(n *fakeNode) { n.serves = nil })
		want("p1", "b")
		g.nodes["p1"].set(func(n *fakeNode) { n.serves = nil })
		_, err := g.one("m")
		wantCode(t, err, embedding.CodeModelNotFound)
		// Nobody serves it: the local engine says why.
		g.self.set(func(n *fakeNode) {
			n.fail = func() error { return embedding.Errorf(embedding.CodeModelNotFound, "the reason") }
		})
		if _, err := g.one("x"); embedding.AsError(err).Message != "the reason" {
			t.Errorf("got %v", err)
		}
	})
}

// TestOptionsTravel: only the model is rewritten.
func TestOptionsTravel(t *testing.T) {
	g := newRig(t, nil, "eu/p1")
	g.without()
	var got embedding.Request
	g.there = forwarderFunc(func(_ context.Context, _ node.Info, req embedding.Request) (embedding.Result, error) {
		got = req
		return embedding.Result{}, embedding.Errorf(embedding.CodeInvalid, "seen")
	})
	yes := true
	sent := embedding.Request{Model: "default", Inputs: []embedding.Input{{Text: "t"}}, Dimensions: 3, Normalize: &yes, Truncate: &yes, PromptName: "query"}
	_, err := g.Embed(t.Context(), sent)
	wantCode(t, err, embedding.CodeInvalid)
	sent.Model = "m@" + strings.Repeat("a", 64)
	if fmt.Sprint(got) != fmt.Sprint(sent) {
		t.Errorf("got %+v, want %+v", got, sent)
	}
}

type forwarderFunc func(context.Context, node.Info, embedding.Request) (embedding.Result, error)

func (f forwarderFunc) Embed(ctx context.Context, to node.Info, req embedding.Request) (embedding.Result, error) {
	return f(ctx, to, req)
}

func TestCodesDecide(t *testing.T) {
	for _, c := range []struct {
		code  embedding.Code
		calls int64 // of all nodes, two failing
		fails bool
	}{
		{embedding.CodeInvalid, 1, true}, {embedding.CodeUnprocessable, 1, true}, {embedding.CodeTooLarge, 1, true},
		{embedding.CodeInternal, 2, true}, {embedding.CodeOverloaded, 3, false}, {embedding.CodeUnavailable, 3, false},
		{embedding.CodeModelNotFound, 3, false}, {embedding.CodeDeadline, 3, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			g := newRig(t, nil, "eu/p1", "us/p2")
			g.self.fail, g.nodes["p1"].fail = failing(c.code), failing(c.code)
			_, err := g.one("m")
			if c.fails {
				wantCode(t, err, c.code)
			} else if err != nil {
				t.Errorf("%s: %v", c.code, err)
			}
			if n := g.calls(); n != c.calls {
				t.Errorf("%s: %d nodes were asked, want %d", c.code, n, c.calls)
			}
			if n := g.here.health.streak + g.fleet.Load().peers[0].health.streak; c.fails && n > 0 {
				t.Errorf("%s of the request's own making counts against a node", c.code)
			}
		})
	}
}

// TestAllRefuse: a full fleet says overloaded at once, and is not asked by everybody again.
func TestAllRefuse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, nil, "eu/p1", "eu/p2", "eu/p3")
		g.self.fail = failing(embedding.CodeOverloaded)
		for _, n := range g.nodes {
			n.fail = failing(embedding.CodeOverloaded)
		}
		began := time.Now()
		_, err := g.one("m")
		wantCode(t, err, embedding.CodeOverloaded)
		first := g.calls()
		_, err = g.one("m")
		wantCode(t, err, embedding.CodeOverloaded)
		if n := g.calls() - first; n != 1 {
			t.Errorf("the second request asked %d nodes, want this one only", n)
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("took %v", took)
		}
	})
}
