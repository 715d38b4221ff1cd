package router

import (
	"context"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/node"
)

type fixed []node.Info

func (f fixed) Nodes() []node.Info { return f }

// BenchmarkEmbed is the router's own time over an engine that answers at once.
func BenchmarkEmbed(b *testing.B) {
	word := node.Word{State: node.Ready, Models: served(digest("a"), 1)}
	var peers fixed
	for _, id := range []node.ID{"p1", "p2", "p3", "p4"} {
		peers = append(peers, node.Info{ID: id, Region: "eu", Word: word, Link: node.Link{Up: true, Known: true}})
	}
	res := embedding.Result{Model: word.Models[0].Model, Vectors: [][]float32{{1}}, Tokens: []int{1}}
	engine := engineFunc(func(context.Context, embedding.Request) (embedding.Result, error) { return res, nil })
	there := forwarderFunc(func(context.Context, node.Info, embedding.Request) (embedding.Result, error) { return res, nil })
	req := embedding.Request{Model: "m", Inputs: []embedding.Input{{Text: "some text"}}}
	ctx, cancel := context.WithTimeout(b.Context(), 1<<40)
	defer cancel()
	for _, c := range []struct {
		name string
		word node.Word
		dir  Directory
	}{{"lone", word, nil}, {"local", word, peers}, {"forwarded", node.Word{State: node.Ready}, peers}} {
		b.Run(c.name, func(b *testing.B) {
			r := New(Config{Self: node.Info{ID: "self", Region: "eu"}, Word: func() node.Word { return c.word }, Registerer: prometheus.NewRegistry()}, engine, there, c.dir)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := r.Embed(ctx, req); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
