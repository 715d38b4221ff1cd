package router

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/node"
)

func manyTexts(n int) embedding.Request {
	req := embedding.Request{Model: "m"}
	for i := range n {
		req.Inputs = append(req.Inputs, embedding.Input{Text: fmt.Sprintf("text %d %s", i, strings.Repeat("x", i%60))})
	}
	return req
}

// big sends a large request and checks that every vector is its input's, of one model.
func (g *rig) big(t *testing.T, req embedding.Request) (embedding.Result, time.Duration) {
	t.Helper()
	began := time.Now()
	res, err := g.Embed(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Vectors) != len(req.Inputs) || len(res.Tokens) != len(req.Inputs) {
		t.Fatalf("%d vectors and %d token counts for %d inputs", len(res.Vectors), len(res.Tokens), len(req.Inputs))
	}
	for i, in := range req.Inputs {
		if !slices.Equal(res.Vectors[i], vectorOf(res.Model, in)) || res.Tokens[i] != tokensOf(in) {
			t.Fatalf("vector %d is of another text or model", i)
		}
	}
	return res, time.Since(began)
}

func slowRig(t *testing.T, peers ...string) *rig {
	g := newRig(t, nil, peers...)
	g.self.serial = make(chan struct{}, 1)
	for _, n := range g.nodes {
		n.serial = make(chan struct{}, 1)
	}
	return g
}

func TestShardingIsFaster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		req := manyTexts(900)
		lone := slowRig(t)
		_, alone := lone.big(t, req)
		g := slowRig(t, "eu/p1", "eu/p2", "us/p3")
		res, four := g.big(t, req)
		t.Logf("%d tokens: %v alone, %v with four nodes", estimate(req.Inputs), alone, four)
		if alone < four*5/2 {
			t.Errorf("%v alone, %v with four nodes: less than 2.5 times as fast", alone, four)
		}
		if res.Origin != (embedding.Origin{Node: "self", Region: "eu", Forwarded: true}) || testutil.ToFloat64(g.metrics.decisions[routeSharded]) != 1 {
			t.Errorf("origin %+v", res.Origin)
		}
		for id, n := range g.nodes {
			if n.calls.Load() == 0 {
				t.Errorf("%s did nothing", id)
			}
		}
	})
}

func TestShardingSurvives(t *testing.T) {
	for name, fault := range map[string]func(g *rig){
		"blackholed": func(g *rig) { g.blackhole("p1") },
		"fails":      func(g *rig) { g.nodes["p1"].set(func(n *fakeNode) { n.fail = failing(embedding.CodeUnavailable) }) },
		"link down":  func(g *rig) { g.link("p1", false) },
		"full":       func(g *rig) { g.nodes["p1"].set(func(n *fakeNode) { n.fail = failing(embedding.CodeOverloaded) }) },
		"no model":   func(g *rig) { g.nodes["p1"].set(func(n *fakeNode) { n.serves = nil }) },
		"here fails": func(g *rig) { g.self.set(func(n *fakeNode) { n.fail = failing(embedding.CodeUnavailable) }) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				req := manyTexts(900)
				_, healthy := slowRig(t, "eu/p1", "eu/p2", "eu/p3").big(t, req)
				g := slowRig(t, "eu/p1", "eu/p2", "eu/p3")
				time.AfterFunc(time.Second, func() { fault(g) })
				_, took := g.big(t, req)
				if took > 2*healthy {
					t.Errorf("took %v, %v when healthy", took, healthy)
				}
			})
		})
	}
}

// TestShardsAreOfOneModel: nodes of another digest or precision take no part, and a name whose digest is swapped
// midway is answered by one of the two.
func TestShardsAreOfOneModel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := slowRig(t, "eu/p1", "eu/p2", "eu/p3")
		half := served(digest("a"), 1)
		half[0].Precision = "fp16"
		g.gives("p1", half)
		g.gives("p2", served(digest("b"), 9))
		res, _ := g.big(t, manyTexts(900))
		if res.Model != served(digest("a"), 1)[0].Model || g.nodes["p1"].calls.Load()+g.nodes["p2"].calls.Load() > 0 || g.nodes["p3"].calls.Load() == 0 {
			t.Errorf("answered by %v", res.Model)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		g := slowRig(t, "eu/p1", "eu/p2", "eu/p3")
		time.AfterFunc(time.Second, func() {
			next := served(digest("b"), 9)
			for id := range g.nodes {
				g.gives(id, next)
			}
			g.self.set(func(n *fakeNode) { n.serves = next })
			g.tell(func(w *node.Word) { w.Models = next })
		})
		if res, _ := g.big(t, manyTexts(900)); res.Model.Digest != digest("b") {
			t.Errorf("answered by %v", res.Model)
		}
	})
}

func TestShardErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, nil, "eu/p1", "eu/p2")
		bad := func() error {
			return &embedding.Error{Code: embedding.CodeUnprocessable, Param: "input", Message: "input 3 is too long"}
		}
		g.nodes["p1"].fail = bad
		_, err := g.Embed(t.Context(), manyTexts(900))
		if err == nil {
			t.Fatal("no error")
		}
		wantCode(t, err, embedding.CodeUnprocessable)
		m := embedding.AsError(err).Message
		var from, to int
		if _, err := fmt.Sscanf(m, "in inputs %d to %d of 0 to 899, counted", &from, &to); err != nil || from > to || to > 899 || !strings.HasSuffix(m, "counted from the first of these: input 3 is too long") {
			t.Errorf("got %q", m)
		}
	})
}

func TestSplit(t *testing.T) {
	req := manyTexts(500)
	list := split(req.Inputs, 100)
	at, tokens := 0, 0
	for _, s := range list {
		if s.from != at || s.to <= s.from || s.tokens > 100 && s.to-s.from > 1 || s.tokens != estimate(req.Inputs[s.from:s.to]) {
			t.Fatalf("part %+v after %d", s, at)
		}
		at, tokens = s.to, tokens+s.tokens
	}
	if at != 500 || tokens != estimate(req.Inputs) || len(list) > 2*tokens/100 {
		t.Errorf("%d parts to %d with %d tokens", len(list), at, tokens)
	}
	if one := split([]embedding.Input{{Text: strings.Repeat("x", 9999)}}, 100); len(one) != 1 {
		t.Errorf("one input became %d parts", len(one))
	}
}
