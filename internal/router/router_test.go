package router

import (
	"context"
	"errors"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/node"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type engineFunc func(context.Context, embedding.Request) (embedding.Result, error)

func (f engineFunc) Embed(ctx context.Context, req embedding.Request) (embedding.Result, error) {
	return f(ctx, req)
}

func TestEmbedSaysWhoAnswered(t *testing.T) {
	r := New(Config{Self: node.Info{ID: "n1", Region: "eu"}, Registerer: prometheus.NewRegistry()},
		engineFunc(func(_ context.Context, req embedding.Request) (embedding.Result, error) {
			return embedding.Result{Model: embedding.Model{Name: req.Model}}, nil
		}), nil, nil)
	res, err := r.Embed(t.Context(), embedding.Request{Model: "m"})
	if err != nil || res.Model.Name != "m" || res.Origin != (embedding.Origin{Node: "n1", Region: "eu"}) {
		t.Fatalf("got %+v, %v", res, err)
	}
	if n := testutil.ToFloat64(r.metrics.decisions[routeLocal]); n != 1 {
		t.Errorf("counted %v decisions, want 1", n)
	}
}

func TestEmbedPassesTheErrorOn(t *testing.T) {
	want := embedding.Errorf(embedding.CodeOverloaded, "full")
	r := New(Config{Registerer: prometheus.NewRegistry()},
		engineFunc(func(context.Context, embedding.Request) (embedding.Result, error) {
			return embedding.Result{}, want
		}), nil, nil)
	if _, err := r.Embed(t.Context(), embedding.Request{}); !errors.Is(err, want) {
		t.Fatalf("got %v, want %v", err, want)
	}
}
