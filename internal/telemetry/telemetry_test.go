package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/slogtest"

	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	traceID = "0af7651916cd43dd8448eb211c80319c"
	spanID  = "b7ad6b7169203331"
)

func inSpan(t *testing.T) context.Context {
	t.Helper()
	tid, err := trace.TraceIDFromHex(traceID)
	if err != nil {
		t.Fatal(err)
	}
	sid, err := trace.SpanIDFromHex(spanID)
	if err != nil {
		t.Fatal(err)
	}
	return trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{TraceID: tid, SpanID: sid}))
}

func decode(t *testing.T, line []byte) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(line, &m); err != nil {
		t.Fatalf("%v in %s", err, line)
	}
	return m
}

func TestHandlerIsAHandler(t *testing.T) {
	var buf bytes.Buffer
	slogtest.Run(t, func(*testing.T) slog.Handler {
		buf.Reset()
		return New(Config{}, &buf).Logger.Handler()
	}, func(t *testing.T) map[string]any { return decode(t, buf.Bytes()) })
}

// The ids must not disturb what a handler without them does, however groups and attributes are nested.
func TestHandlerInASpanIsAHandler(t *testing.T) {
	var buf bytes.Buffer
	slogtest.Run(t, func(*testing.T) slog.Handler {
		buf.Reset()
		return alwaysIn{New(Config{}, &buf).Logger.Handler(), inSpan(t)}
	}, func(t *testing.T) map[string]any {
		m := decode(t, buf.Bytes())
		if m["trace_id"] != traceID || m["span_id"] != spanID {
			t.Errorf("the ids are not at the top of %s", buf.Bytes())
		}
		delete(m, "trace_id")
		delete(m, "span_id")
		return m
	})
}

// alwaysIn handles every record in one context.
type alwaysIn struct {
	slog.Handler
	ctx context.Context
}

func (a alwaysIn) Handle(_ context.Context, r slog.Record) error { return a.Handler.Handle(a.ctx, r) }
func (a alwaysIn) WithGroup(name string) slog.Handler {
	return alwaysIn{a.Handler.WithGroup(name), a.ctx}
}
func (a alwaysIn) WithAttrs(attrs []slog.Attr) slog.Handler {
	return alwaysIn{a.Handler.WithAttrs(attrs), a.ctx}
}

func TestDerivedLoggersDoNotShareGroups(t *testing.T) {
	var buf bytes.Buffer
	base := New(Config{}, &buf).Logger.WithGroup("g").With("a", 1)
	left, right := base.With("side", "left"), base.With("side", "right")
	left.InfoContext(inSpan(t), "x", "n", 1)
	right.InfoContext(inSpan(t), "x", "n", 2)
	lines := bytes.Split(bytes.TrimSpace(buf.Bytes()), []byte("\n"))
	for i, side := range []string{"left", "right"} {
		m := decode(t, lines[i])
		g, _ := m["g"].(map[string]any)
		if g["side"] != side || g["a"] != 1.0 || m["trace_id"] != traceID || g["trace_id"] != nil {
			t.Errorf("%s", lines[i])
		}
	}
}

func TestLevelChangesWhileRunning(t *testing.T) {
	var buf bytes.Buffer
	tel := New(Config{Level: slog.LevelWarn}, &buf)
	log := tel.Logger.With("part", "x")
	log.Info("no")
	tel.Level.Set(slog.LevelDebug)
	log.Debug("yes")
	if m := decode(t, buf.Bytes()); m["msg"] != "yes" || m["trace_id"] != nil {
		t.Errorf("%s", buf.Bytes())
	}
}

func TestTextFormat(t *testing.T) {
	var buf bytes.Buffer
	New(Config{Format: "text"}, &buf).Logger.InfoContext(inSpan(t), "hello", "n", 1)
	if want := "level=INFO msg=hello n=1 trace_id=" + traceID + " span_id=" + spanID + "\n"; !strings.HasSuffix(buf.String(), want) {
		t.Errorf("got %q, want it to end in %q", buf.String(), want)
	}
}

func TestOneRecordIsOneWrite(t *testing.T) {
	w := &countingWriter{}
	log := New(Config{}, w).Logger
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				log.InfoContext(inSpan(t), "x", "long", strings.Repeat("y", 5000))
			}
		})
	}
	wg.Wait()
	if w.whole != 400 || w.other != 0 {
		t.Errorf("%d writes of whole lines, %d others", w.whole, w.other)
	}
}

// countingWriter needs no lock: the logger may not write twice at once, and -race would tell.
type countingWriter struct{ whole, other int }

func (w *countingWriter) Write(p []byte) (int, error) {
	if bytes.HasPrefix(p, []byte("{")) && bytes.HasSuffix(p, []byte("}\n")) && bytes.Count(p, []byte("\n")) == 1 {
		w.whole++
	} else {
		w.other++
	}
	return len(p), nil
}

func TestRegistry(t *testing.T) {
	tel := New(Config{Build: Build{Version: "v1.2.3", Revision: "abc", GoVersion: "go1"}}, &bytes.Buffer{})
	families, err := tel.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range families {
		names = append(names, f.GetName())
		if f.GetName() != "akidb_build_info" {
			continue
		}
		m := f.GetMetric()[0]
		var labels []string
		for _, l := range m.GetLabel() {
			labels = append(labels, l.GetName()+"="+l.GetValue())
		}
		if m.GetGauge().GetValue() != 1 || !slices.Equal(labels, []string{"goversion=go1", "revision=abc", "version=v1.2.3"}) {
			t.Errorf("akidb_build_info is %v %v", m.GetGauge().GetValue(), labels)
		}
	}
	for _, want := range []string{"akidb_build_info", "go_goroutines", "process_resident_memory_bytes"} {
		if !slices.Contains(names, want) {
			t.Errorf("no %s in %q", want, names)
		}
	}
	other := New(Config{}, &bytes.Buffer{})
	if other.Registry == tel.Registry {
		t.Error("two share a registry")
	}
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestTracerPassesSpanContextsOn(t *testing.T) {
	ctx, span := New(Config{}, &bytes.Buffer{}).TracerProvider.Tracer("x").Start(inSpan(t), "embed_request")
	defer span.End()
	if got := trace.SpanContextFromContext(ctx).TraceID().String(); got != traceID {
		t.Errorf("trace id %s, want %s", got, traceID)
	}
}

func TestBuild(t *testing.T) {
	setting := func(kv ...string) (out []debug.BuildSetting) {
		for i := 0; i < len(kv); i += 2 {
			out = append(out, debug.BuildSetting{Key: kv[i], Value: kv[i+1]})
		}
		return out
	}
	for _, tt := range []struct {
		info     debug.BuildInfo
		override string
		want     Build
	}{
		{debug.BuildInfo{}, "", Build{"devel", "unknown", runtime.Version()}},
		{debug.BuildInfo{Main: debug.Module{Version: "(devel)"}}, "", Build{"devel", "unknown", runtime.Version()}},
		{debug.BuildInfo{Main: debug.Module{Version: "v1.0.0"}, Settings: setting("vcs.revision", "abc", "vcs.modified", "false")}, "", Build{"v1.0.0", "abc", runtime.Version()}},
		{debug.BuildInfo{Main: debug.Module{Version: "v1.0.0"}, Settings: setting("vcs.modified", "true", "vcs.revision", "abc")}, "v2", Build{"v2", "abc-dirty", runtime.Version()}},
	} {
		if got := buildFrom(&tt.info, tt.override); got != tt.want {
			t.Errorf("%+v, want %+v", got, tt.want)
		}
	}
	if got := ReadBuild("v9"); got.Version != "v9" || got.GoVersion != runtime.Version() {
		t.Errorf("%+v", got)
	}
}

func BenchmarkLogInSpan(b *testing.B) {
	log := New(Config{}, discard{}).Logger
	tid, _ := trace.TraceIDFromHex(traceID)
	sid, _ := trace.SpanIDFromHex(spanID)
	ctx := trace.ContextWithSpanContext(b.Context(), trace.NewSpanContext(trace.SpanContextConfig{TraceID: tid, SpanID: sid}))
	b.ReportAllocs()
	for b.Loop() {
		log.InfoContext(ctx, "request", "route", "/v1/embeddings", "code", 200)
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
