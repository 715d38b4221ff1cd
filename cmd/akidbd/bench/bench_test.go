package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"go.uber.org/goleak"

	"github.com/akidb/akidbd/internal/loadgen"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node is a server that answers in its region; every failEvery-th request is refused.
type node struct {
	region    string
	failEvery int64
	asked     atomic.Int64
	on50th    func() // called with the 50th request, when not nil
	keys      sync.Map
}

func (n *node) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n.keys.Store(r.Header.Get("Authorization"), true)
	var q struct{ Texts, Input []string }
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	k := n.asked.Add(1)
	if k == 50 && n.on50th != nil {
		n.on50th()
	}
	if n.failEvery > 0 && k%n.failEvery == 0 {
		w.WriteHeader(http.StatusTooManyRequests)
		_, _ = io.WriteString(w, `{"error":{"code":"overloaded","message":"the queue is full\u001b[2J: 8192 of 8192 tokens"}}`)
		return
	}
	vectors := strings.Repeat(",[0.5,0.25]", len(q.Texts))
	fmt.Fprintf(w, `{"embeddings":[%s],"usage":{"tokens":%d},"served_by":{"node":"n","region":%q,"route":"local"}}`,
		strings.TrimPrefix(vectors, ","), 10*len(q.Texts), n.region)
}

func start(t *testing.T, n *node) string {
	t.Helper()
	s := httptest.NewServer(n)
	t.Cleanup(s.Close)
	return s.URL
}

// bench runs the command and gives what it printed.
func bench(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	cmd := Command()
	var out, errs bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&errs)
	cmd.SetArgs(args)
	err = cmd.ExecuteContext(t.Context())
	return out.String(), errs.String(), err
}

// narrow turns every run of spaces into one.
func narrow(s string) string { return regexp.MustCompile(" +").ReplaceAllString(s, " ") }

func TestReport(t *testing.T) {
	t.Setenv("AKIDB_API_KEY", "secret")
	us, eu := &node{region: "us-west-1"}, &node{region: "eu-central-1", failEvery: 4}
	out, stderr, err := bench(t, "--url", start(t, us), "--url", start(t, eu), "--requests", "80", "--clients", "3",
		"--texts-per-request", "2", "--lengths", "short", "--allow-failures")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"2 servers, native API, default model\n", "closed loop, 3 clients, 2 texts per request\nshort texts (5 to 64 tokens, mean 23)\nmeasured ", "requests 80 ", " failed 10\n",
		" texts 140 ", " tokens 1,400 ", "10.0 per text", "10 overloaded\n", "the queue is full?[2J: 8192 of 8192 tokens",
		"p99.9", "eu-central-1 local", "us-west-1 local", "latency, texts and tokens are of the requests that succeeded",
	} {
		if !strings.Contains(narrow(out), want) {
			t.Errorf("the report has no %q", want)
		}
	}
	for line := range strings.Lines(out) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > width {
			t.Errorf("a line has %d columns: %q", n, line)
		}
	}
	if t.Failed() {
		t.Logf("\n%s", out)
	}
	if stderr != "" {
		t.Errorf("progress without a terminal: %q", stderr)
	}
	if _, ok := us.keys.Load("Bearer secret"); !ok || strings.Contains(out, "secret") {
		t.Error("the key did not reach the server, or it is in the report")
	}
}

func TestJSON(t *testing.T) {
	n := &node{region: "us-west-1", failEvery: 5}
	url := start(t, n)
	out, _, err := bench(t, "--url", url, "--requests", "20", "--rate", "500", "--json", "--allow-failures", "--model", "m")
	if err != nil {
		t.Fatal(err)
	}
	var d document
	dec := json.NewDecoder(strings.NewReader(out))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if d.Total.Requests != 20 || d.Total.Failed != 4 || d.Failures["overloaded"] != 4 || d.Total.Tokens != 160 {
		t.Errorf("total %+v, failures %v", d.Total, d.Failures)
	}
	if d.Load.Loop != "open" || d.Load.Rate != 500 || d.Load.Model != "m" || d.Load.Clients != defaultInFlight || !d.Complete {
		t.Errorf("load %+v", d.Load)
	}
	if len(d.URLs) != 1 || d.URLs[0].URL != url || len(d.Places) != 1 || d.Places[0].Region != "us-west-1" || d.Places[0].Route != "local" {
		t.Errorf("groups %+v and %+v", d.URLs, d.Places)
	}
	if l := d.Total.Latency; l == nil || l.P50 <= 0 || l.P50 > l.P90 || l.P99 > l.P999 || l.P999 > l.Max || l.Max > 10 {
		t.Errorf("latency %+v", l)
	}
	var binned int64
	for _, b := range d.Histogram {
		binned += b.Count
	}
	if binned != 16 {
		t.Errorf("%d requests in the histogram, want 16", binned)
	}
}

func TestExitByFailures(t *testing.T) {
	good, bad := &node{}, &node{failEvery: 2}
	if _, _, err := bench(t, "--url", start(t, good), "--requests", "10"); err != nil {
		t.Errorf("no failure, but %v", err)
	}
	out, _, err := bench(t, "--url", start(t, bad), "--requests", "10")
	if err == nil || err.Error() != "5 of 10 requests failed" || !strings.Contains(out, "5 overloaded") {
		t.Errorf("got %v and\n%s", err, out)
	}
}

func TestFailoverIsCounted(t *testing.T) {
	good, bad := &node{}, &node{failEvery: 1}
	out, _, err := bench(t, "--url", start(t, good), "--url", start(t, bad), "--requests", "40", "--failover")
	if err != nil || !strings.Contains(narrow(out), " failed over 20\n") {
		t.Errorf("got %v and\n%s", err, out)
	}
}

func TestProbe(t *testing.T) {
	closed := httptest.NewServer(nil)
	closed.Close()
	_, _, err := bench(t, "--url", closed.URL)
	if err == nil || !strings.Contains(err.Error(), "is akidbd running there?") {
		t.Errorf("got %v", err)
	}
	always := start(t, &node{failEvery: 1})
	_, _, err = bench(t, "--url", always, "--url", closed.URL)
	if err == nil || !strings.Contains(err.Error(), "none of 2 URLs") || !strings.Contains(err.Error(), "overloaded: 429") {
		t.Errorf("got %v", err)
	}
	// One that answers is enough.
	good := &node{}
	out, _, err := bench(t, "--url", closed.URL, "--url", start(t, good), "--requests", "4", "--clients", "1")
	if err == nil || !strings.Contains(out, "2 connection_refused") || good.asked.Load() != 3 {
		t.Errorf("%v, %d asked\n%s", err, good.asked.Load(), out)
	}
}

func TestFlagErrors(t *testing.T) {
	for args, want := range map[string]string{
		"--unique --repeat 0.5": "--unique and --repeat exclude each other",
		"--clients 0":           "--clients must be at least 1, not 0",
		"--lengths long":        `not "long"`,
		"--api tei":             `not "tei"`,
		"--url localhost:8080":  "a URL looks like http://localhost:8080",
		"--repeat 2":            "between 0 and 1, not 2",
		"--duration -1s":        "a duration or a number of requests",
		"word":                  "unknown command",
	} {
		if _, _, err := bench(t, strings.Fields(args)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("bench %s: %v, want an error with %q", args, err, want)
		}
	}
}

func TestInterruptedRunReports(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cmd := Command()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(io.Discard)
	cmd.SetArgs([]string{"--url", start(t, &node{on50th: cancel}), "--duration", "1h", "--clients", "2"})
	if err := cmd.ExecuteContext(ctx); err != nil || !strings.Contains(out.String(), ", interrupted\n") {
		t.Errorf("got %v and\n%s", err, &out)
	}
}

// sender answers after 100 ms.
type sender struct{}

func (sender) Send(context.Context, uint64, []string) loadgen.Outcome {
	time.Sleep(100 * time.Millisecond)
	return loadgen.Outcome{}
}

func TestScreen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		texts, err := loadgen.NewTexts(loadgen.TextsConfig{})
		if err != nil {
			t.Fatal(err)
		}
		opt := options{duration: 3 * time.Second}
		load, err := loadgen.New(loadgen.Plan{Clients: 2, Duration: opt.duration, Warmup: time.Second, TextsPerRequest: 1},
			texts, sender{}, []string{"http://a"})
		if err != nil {
			t.Fatal(err)
		}
		var drawn bytes.Buffer
		columns := 60
		stop := screen{out: &drawn, columns: func() int { return columns }}.follow(load, opt)
		load.Do(t.Context())
		stop()
		frames := strings.Split(drawn.String(), "\r\x1b[K")
		if frames[len(frames)-1] != "" || strings.Contains(drawn.String(), "\n") {
			t.Errorf("the line is not wiped, or there is more than one: %q", drawn.String())
		}
		if len(frames) < 16 || !strings.HasPrefix(frames[1], "warming up, ") {
			t.Errorf("%d frames, the first is %q", len(frames), frames[1])
		}
		if last := frames[len(frames)-2]; !strings.HasPrefix(last, "3 of 3 s  ") || !strings.Contains(last, " done  ") {
			t.Errorf("the last frame is %q", last)
		}
		for _, f := range frames {
			if utf8.RuneCountInString(f) >= columns {
				t.Errorf("%q does not fit %d columns", f, columns)
			}
		}
	})
}

func TestProgressLine(t *testing.T) {
	p := loadgen.Progress{
		Elapsed: 4 * time.Second, Requests: 1234, Failed: 2, InFlight: 5, TextRate: 75.13,
		P50: 412 * time.Millisecond, P99: 1200 * time.Millisecond,
	}
	got := progressLine(p, options{requests: 5000})
	want := "4 s  1,234 of 5,000 done  2 FAILED  75.1 texts/s  p50 412 ms  p99 1.20 s  5 in flight"
	if got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}
