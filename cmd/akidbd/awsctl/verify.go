package awsctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/akidb/akidbd/internal/sync/bucket"
	"github.com/akidb/akidbd/internal/sync/replication"
)

type verifyFlags struct {
	buckets, endpoints []string
	pathStyle, json    bool
	timeout, interval  time.Duration
}

func verifyCommand() *cobra.Command {
	var f verifyFlags
	cmd := &cobra.Command{
		Use:   "verify --bucket REGION=BUCKET --bucket REGION=BUCKET",
		Short: "Measure how long an object takes to the other region, both ways",
		Long: "Writes a small object under " + replication.ProbePrefix + " on each side, waits for it on the other, and removes both. Nodes do not\n" +
			"copy these objects, so that S3's replication alone is measured. Exits with 1 if one does not arrive.\n" +
			"Needs to get, put, list and delete objects there, with the credentials of the SDK's chain.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM) // the probes are removed all the same
			defer stop()
			return f.run(ctx, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringArrayVar(&f.buckets, "bucket", nil, "REGION=BUCKET, REGION=s3://BUCKET/PREFIX, or s3://BUCKET in the region that the SDK's chain says; once for each side (required)")
	cmd.Flags().StringArrayVar(&f.endpoints, "endpoint", nil, "URL of an S3 service that is not Amazon's: once for both sides, or once for each in the order of --bucket")
	cmd.Flags().BoolVar(&f.pathStyle, "path-style", false, "https://endpoint/bucket instead of https://bucket.endpoint")
	cmd.Flags().DurationVar(&f.timeout, "timeout", 15*time.Minute, "how long to wait for an object, at most "+replication.MaxTimeout.String())
	cmd.Flags().DurationVar(&f.interval, "interval", time.Second, "time between two looks, at least 50ms")
	cmd.Flags().BoolVar(&f.json, "json", false, "print JSON")
	_ = cmd.MarkFlagRequired("bucket")
	return cmd
}

// where finds the two sides.
func (f *verifyFlags) where() ([]bucket.S3Config, error) {
	switch {
	case len(f.buckets) != 2:
		return nil, fmt.Errorf("--bucket is given %d times, must be given for each of the two sides", len(f.buckets))
	case len(f.endpoints) > 2:
		return nil, fmt.Errorf("--endpoint is given %d times, at most once for each side", len(f.endpoints))
	case f.timeout <= 0 || f.timeout > replication.MaxTimeout:
		return nil, fmt.Errorf("--timeout %s, must be more than 0 and at most %s", f.timeout, replication.MaxTimeout)
	case f.interval < 50*time.Millisecond || f.interval > f.timeout:
		return nil, fmt.Errorf("--interval %s, must be 50ms to --timeout (%s)", f.interval, f.timeout)
	}
	for _, text := range f.endpoints {
		if u, err := url.Parse(text); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" {
			return nil, errors.New("--endpoint is no endpoint, write for example https://s3.example.org:9000, without a user or password")
		}
	}
	var sides []bucket.S3Config
	for i, text := range f.buckets {
		c := bucket.S3Config{URL: text, PathStyle: f.pathStyle}
		if region, name, ok := strings.Cut(text, "="); ok {
			c.Region, c.URL = region, name
			if !strings.Contains(name, "://") {
				c.URL = "s3://" + name
			}
		}
		if _, _, err := bucket.ParseS3URL(c.URL); err != nil {
			return nil, fmt.Errorf("--bucket: %w", err)
		}
		if n := len(f.endpoints); n > 0 {
			c.Endpoint = f.endpoints[min(i, n-1)]
		}
		sides = append(sides, c)
	}
	a, _, errA := bucket.ParseS3URL(sides[0].URL)
	b, _, errB := bucket.ParseS3URL(sides[1].URL)
	if a == b && sides[0].Endpoint == sides[1].Endpoint {
		return nil, errors.Join(errA, errB, fmt.Errorf("--bucket: %s is both sides, must be two buckets: what is written is there at once", a))
	}
	return sides, errors.Join(errA, errB)
}

func (f *verifyFlags) run(ctx context.Context, w io.Writer) (err error) {
	sides, err := f.where()
	if err != nil {
		return err
	}
	var ends []replication.End
	for _, c := range sides {
		b, openErr := bucket.OpenS3(ctx, c)
		if openErr != nil {
			return openErr
		}
		defer func() { err = errors.Join(err, b.Close()) }()
		ends = append(ends, replication.End{Name: sideName(c), Bucket: b})
	}
	r, err := replication.Verify(ctx, ends[0], ends[1], replication.VerifyOptions{Timeout: f.timeout, Interval: f.interval})
	if err != nil {
		return err
	}
	return f.report(w, r)
}

// sideName is what people read.
func sideName(c bucket.S3Config) string {
	if c.Region == "" && c.Endpoint == "" {
		return c.URL
	}
	return c.URL + " (" + strings.TrimSpace(c.Region+" "+c.Endpoint) + ")"
}

func (f *verifyFlags) report(w io.Writer, r replication.Report) error {
	show := printReport
	if f.json {
		show = func(w io.Writer, r replication.Report) error { return printJSON(w, r) }
	}
	if err := show(w, r); err != nil {
		return err
	}
	late, left := 0, 0
	for _, p := range r.Probes {
		if !p.Arrived {
			late++
		}
		if !p.Removed {
			left++
		}
	}
	switch {
	case late > 0:
		return fmt.Errorf("%d of %d probes did not arrive", late, len(r.Probes))
	case left > 0:
		return fmt.Errorf("%d of %d probes were not removed", left, len(r.Probes))
	}
	return nil
}

func printReport(w io.Writer, r replication.Report) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "FROM\tTO\tARRIVED\tAFTER\tREMOVED")
	for _, p := range r.Probes {
		fmt.Fprintf(t, "%s\t%s\t%s\t%.1f s\t%s\n", p.From, p.To, yes(p.Arrived), p.Seconds, yes(p.Removed))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, p := range r.Probes {
		if p.Error != "" {
			fmt.Fprintf(w, "\n%s to %s: %s\n", p.From, p.To, p.Error)
		}
	}
	if r.Leftovers > 0 {
		fmt.Fprintf(w, "\n%d probes of earlier runs were removed\n", r.Leftovers)
	}
	return nil
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
