// Package bench is the command `akidbd bench`: it loads one server or several with embedding requests and
// reports throughput, latency and failures.
package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"github.com/spf13/cobra"

	"github.com/akidb/akidbd/cmd/akidbd/client"
	"github.com/akidb/akidbd/internal/loadgen"
)

// Defaults of flags that depend on each other.
const (
	defaultDuration = 10 * time.Second
	defaultClients  = 16   // closed loop
	defaultInFlight = 1024 // open loop
)

// options are the flags.
type options struct {
	urls          []string
	api           string
	model         string
	clients       int
	rate          float64
	duration      time.Duration
	requests      int
	warmup        time.Duration
	textsPer      int
	lengths       string
	unique        bool
	repeat        float64
	seed          uint64
	timeout       time.Duration
	failover      bool
	verify        bool
	allowFailures bool
	json          bool
}

// Command is `akidbd bench`.
func Command() *cobra.Command {
	var opt options
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Load a server with embedding requests and report what it did",
		Long: `Load one server or several with embedding requests and report throughput,
latency and failures.

Closed loop (default): --clients clients, each sending its next request when
the last one is answered. It shows what the server can do at most.
Open loop (--rate): requests come at random times whether or not earlier ones
are answered, as from many users. Latency counts from when a request was due,
so a slow server cannot hide its queue.

An API key is taken from the environment variable ` + client.KeyVariable + `.
The exit code is 1 when a request failed, unless --allow-failures is given.`,
		Example: `  akidbd bench
  akidbd bench --lengths short --clients 32 --duration 30s --warmup 5s
  akidbd bench --rate 20 --duration 1m
  akidbd bench --url http://us:8080 --url http://eu:8080 --failover
  akidbd bench --api openai --model all-MiniLM-L6-v2 --requests 1000 --json`,
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("unique") && opt.unique && opt.repeat > 0 {
				return errors.New("--unique and --repeat exclude each other: all texts differ, or a share of them does not")
			}
			if cmd.Flags().Changed("clients") && opt.clients < 1 {
				return fmt.Errorf("--clients must be at least 1, not %d", opt.clients)
			}
			// The first Ctrl-C ends the load and prints what it measured, the second one ends the program.
			ctx, restore := signal.NotifyContext(cmd.Context(), os.Interrupt)
			defer restore()
			defer context.AfterFunc(ctx, restore)()
			return run(ctx, opt, os.Getenv(client.KeyVariable), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringArrayVar(&opt.urls, "url", []string{"http://localhost:8080"}, "base URL of a server; several take turns")
	f.StringVar(&opt.api, "api", "native", "API to speak: native or openai")
	f.StringVar(&opt.model, "model", "", "model, alias or name@digest (default the server's)")
	f.IntVar(&opt.clients, "clients", 0, "clients of the closed loop (default 16), or most\nrequests in flight of the open loop (default 1024)")
	f.Float64Var(&opt.rate, "rate", 0, "requests per second: makes the loop an open one")
	f.DurationVar(&opt.duration, "duration", 0, "how long to measure (default 10s)")
	f.IntVar(&opt.requests, "requests", 0, "how many requests to measure")
	f.DurationVar(&opt.warmup, "warmup", 0, "how long to send before measuring")
	f.IntVar(&opt.textsPer, "texts-per-request", 1, "texts in one request")
	f.StringVar(&opt.lengths, "lengths", "mixed", "length of texts in tokens: short (mean 23), mixed\n(mean 80, 3 to 256), fixed:N or file:PATH")
	f.BoolVar(&opt.unique, "unique", true, "make all texts differ, so that each is computed;\n=false repeats the lines of a file unchanged")
	f.Float64Var(&opt.repeat, "repeat", 0, "share of texts that equal a recent one, 0 to 1")
	f.Uint64Var(&opt.seed, "seed", 1, "seed of texts and arrival times")
	f.DurationVar(&opt.timeout, "timeout", 30*time.Second, "longest wait for one answer")
	f.BoolVar(&opt.failover, "failover", false, "send a failed request to the next URL")
	f.BoolVar(&opt.verify, "verify", false, "decode and check every vector (costs CPU here)")
	f.BoolVar(&opt.allowFailures, "allow-failures", false, "exit with 0 even when requests fail")
	f.BoolVar(&opt.json, "json", false, "print the result as JSON")
	return cmd
}

func run(ctx context.Context, opt options, key string, stdout, stderr io.Writer) error {
	if opt.clients == 0 {
		opt.clients = defaultClients
		if opt.rate > 0 {
			opt.clients = defaultInFlight
		}
	}
	if opt.duration == 0 && opt.requests == 0 {
		opt.duration = defaultDuration
	}
	texts, err := loadgen.NewTexts(loadgen.TextsConfig{
		Lengths: opt.lengths, Seed: opt.seed, Repeat: opt.repeat, SameLines: !opt.unique || opt.repeat > 0,
	})
	if err != nil {
		return err
	}
	sender, err := loadgen.NewHTTP(loadgen.HTTPConfig{
		URLs: opt.urls, API: loadgen.API(opt.api), Model: opt.model, Key: key, Timeout: opt.timeout,
		Failover: opt.failover, Verify: opt.verify, Connections: opt.clients,
	})
	if err != nil {
		return err
	}
	defer sender.Close()
	load, err := loadgen.New(loadgen.Plan{
		Clients: opt.clients, Rate: opt.rate, Duration: opt.duration, Requests: opt.requests, Warmup: opt.warmup,
		TextsPerRequest: opt.textsPer, Seed: opt.seed,
	}, texts, sender, opt.urls)
	if err != nil {
		return err
	}
	if !opt.allowFailures {
		if err := probe(ctx, sender, texts, opt.urls); err != nil {
			return err
		}
	}

	screen := newScreen(stderr)
	stop := screen.follow(load, opt)
	sum := load.Do(ctx)
	stop()

	r := newResult(opt, texts.String(), sum)
	if opt.json {
		err = r.writeJSON(stdout)
	} else {
		err = r.writeText(stdout, unicodeOutput(os.Getenv))
	}
	if err != nil {
		return err
	}
	return verdict(sum, opt.allowFailures)
}

// probe asks every server once, so that a wrong URL, model or key is told at once and not after a run full of
// failures. One server that answers is enough.
func probe(ctx context.Context, sender *loadgen.HTTP, texts *loadgen.Texts, urls []string) error {
	const probeText = 1 << 39 // no run gets there
	var first loadgen.Outcome
	for i := range urls {
		out := sender.Send(ctx, uint64(i), texts.Batch(probeText+uint64(i), 1))
		if out.Code == "" {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if i == 0 {
			first = out
		}
	}
	where := urls[first.URL]
	if len(urls) > 1 {
		where = fmt.Sprintf("none of %d URLs; %s", len(urls), where)
	}
	if loadgen.Unreachable(first.Code) {
		return fmt.Errorf("nothing answers at %s: %s; is akidbd running there? (make run, or systemctl start akidbd)",
			where, first.Message)
	}
	return fmt.Errorf("a first request to %s got no embedding: %s: %s (--allow-failures goes on regardless)",
		where, first.Code, first.Message)
}

// verdict is the error that makes the exit code 1.
func verdict(sum loadgen.Summary, allowFailures bool) error {
	switch {
	case sum.Total.Failed > 0 && !allowFailures:
		return fmt.Errorf("%s of %s requests failed", count(sum.Total.Failed), count(sum.Total.Requests))
	case sum.Total.Requests == 0 && !sum.Interrupted && !allowFailures:
		return errors.New("no request was measured: the run was shorter than the first answer")
	}
	return nil
}

// mode says what kind of load it was, for people.
func (o options) mode() string {
	if o.rate > 0 {
		return fmt.Sprintf("open loop, %g requests/s", o.rate)
	}
	return fmt.Sprintf("closed loop, %s", plural(int64(o.clients), "client"))
}

func (o options) modelName() string { return cmp.Or(o.model, "default model") }
