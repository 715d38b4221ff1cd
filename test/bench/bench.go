package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/akidb/akidbd/internal/config"
	"github.com/akidb/akidbd/internal/daemon"
	"github.com/akidb/akidbd/internal/infer"
	"github.com/akidb/akidbd/internal/infer/graph"
	"github.com/akidb/akidbd/internal/infer/modeldir"
	"github.com/akidb/akidbd/internal/infer/ort"
	"github.com/akidb/akidbd/internal/loadgen"
	"github.com/akidb/akidbd/internal/telemetry"
	"github.com/akidb/akidbd/internal/tokenizer"
)

const maxTokens = 256

// bench holds the backend that gives the ceiling and can start whole servers.
type bench struct {
	options
	runtime *ort.Runtime
	dir     string // of what the servers keep
	raw     infer.Backend
	tok     *tokenizer.Tokenizer
	cores   int
}

func newBench(ctx context.Context, o options, r *ort.Runtime) (*bench, error) {
	b := &bench{options: o, runtime: r, cores: runtime.GOMAXPROCS(0)}
	var err error
	if b.dir, err = os.MkdirTemp("", "akidb-bench-"); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(filepath.Join(o.model, "tokenizer.json"))
	if err != nil {
		return nil, err
	}
	if b.tok, err = tokenizer.Load(data); err != nil {
		return nil, err
	}
	dir := filepath.Join(b.dir, "raw")
	if err := os.CopyFS(dir, os.DirFS(o.model)); err != nil {
		return nil, err
	}
	spec, err := modeldir.Read(dir)
	if err != nil {
		return nil, err
	}
	g := filepath.Join(dir, "graph.onnx")
	if err := graph.Build(dir, g); err != nil {
		return nil, err
	}
	b.raw, err = r.Open(ctx, infer.Artifact{Dir: dir, Graph: g, Spec: spec}, infer.Options{})
	return b, err
}

func (b *bench) close() {
	_ = b.raw.Close()
	_ = os.RemoveAll(b.dir)
}

// server is a whole node in this process.
type server struct {
	url  string
	stop func() error
}

func (b *bench) serve(ctx context.Context, wide infer.WideMode) (*server, error) {
	return b.serveOver(ctx, string(wide), wide, b.runtime.Open)
}

// serveOver starts a server over a backend; its name keeps it apart from the others.
func (b *bench) serveOver(ctx context.Context, name string, wide infer.WideMode, open infer.Open) (*server, error) {
	cfg := config.Default()
	cfg.Node.Name = "bench"
	cfg.Listen[0].Address = "127.0.0.1:0"
	cfg.Admin.Socket = filepath.Join(b.dir, "admin-"+name+".sock")
	cfg.StateDir = filepath.Join(b.dir, "state-"+name)
	cfg.DrainDelay = 0
	cfg.Engine.Wide = string(wide)
	cfg.Models = []config.Model{{Name: "all-MiniLM-L6-v2", Path: b.model, Precision: "fp32"}}
	d, err := daemon.New(daemon.Options{
		Config: cfg, Open: open, Telemetry: telemetry.New(telemetry.Config{}, io.Discard), Version: "bench",
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	<-d.Loaded()
	if h := d.Health(); !h.Ready {
		cancel()
		return nil, fmt.Errorf("the server is not ready: %s", h.Reason)
	}
	return &server{
		url:  "http://" + d.Addrs()[0].String(),
		stop: func() error { cancel(); return <-done },
	}, nil
}

// load drives the server and sums up.
func (b *bench) load(ctx context.Context, s *server, lengths string, seed uint64, p loadgen.Plan) (loadgen.Summary, error) {
	texts, err := loadgen.NewTexts(loadgen.TextsConfig{Lengths: lengths, Seed: seed})
	if err != nil {
		return loadgen.Summary{}, err
	}
	h, err := loadgen.NewHTTP(loadgen.HTTPConfig{URLs: []string{s.url}, Timeout: 30 * time.Second})
	if err != nil {
		return loadgen.Summary{}, err
	}
	defer h.Close()
	p.TextsPerRequest, p.Seed = 1, seed
	l, err := loadgen.New(p, texts, h, []string{s.url})
	if err != nil {
		return loadgen.Summary{}, err
	}
	sum := l.Do(ctx)
	if sum.Total.Failed > 0 {
		return sum, fmt.Errorf("%d requests failed: %v", sum.Total.Failed, sum.Errors)
	}
	return sum, nil
}

// rows tokenizes n texts of the length distribution.
func (b *bench) rows(lengths string, seed uint64, n int) ([][]int32, error) {
	texts, err := loadgen.NewTexts(loadgen.TextsConfig{Lengths: lengths, Seed: seed})
	if err != nil {
		return nil, err
	}
	rows := make([][]int32, n)
	for i := range rows {
		rows[i] = b.tok.Encode(texts.Text(uint64(i)), maxTokens).IDs
	}
	return rows, nil
}

// ceiling is what the machine can do: all rows known beforehand, batches of rows of one and the same length, one
// run per core at a time. Tokens per second.
func (b *bench) ceiling(ctx context.Context, rows [][]int32, d time.Duration) (float64, error) {
	rows = slices.Clone(rows)
	slices.SortStableFunc(rows, func(x, y []int32) int { return len(x) - len(y) })
	var batches []infer.Batch
	for i := 0; i < len(rows); {
		j := i + 1
		for j < len(rows) && len(rows[j]) == len(rows[i]) && (j+1-i)*len(rows[i]) <= 256 {
			j++
		}
		batches = append(batches, infer.Batch{Rows: rows[i:j]})
		i = j
	}
	shuffle(batches)
	return b.throughput(ctx, batches, b.cores, d)
}

// throughput runs batches, lanes at a time, for d and gives tokens per second.
func (b *bench) throughput(ctx context.Context, batches []infer.Batch, lanes int, d time.Duration) (float64, error) {
	var next, tokens atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, lanes)
	began := time.Now()
	for c := range lanes {
		wg.Go(func() {
			for time.Since(began) < d {
				batch := batches[int(next.Add(1))%len(batches)]
				if _, err := b.raw.Run(ctx, batch); err != nil {
					errs[c] = err
					return
				}
				for _, r := range batch.Rows {
					tokens.Add(int64(len(r)))
				}
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return 0, err
		}
	}
	return float64(tokens.Load()) / time.Since(began).Seconds(), nil
}
