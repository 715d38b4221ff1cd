package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"
)

// Limits of what is read from standard input: the server refuses more than 2,048 texts in a request anyway.
const (
	maxLines     = 2048
	maxLineBytes = 4 << 20
)

// options are the flags of `akidbd embed`.
type options struct {
	url     string
	timeout time.Duration
	json    bool
	request Request
}

// Command is `akidbd embed`.
func Command() *cobra.Command {
	var opt options
	cmd := &cobra.Command{
		Use:   "embed TEXT... | embed -",
		Short: "Ask a node for embeddings of texts",
		Long: `Ask a node for embeddings of texts: the arguments, or the lines of standard
input when the only argument is "-". For two texts or more, their cosine
similarity is shown too.

An API key is taken from the environment variable ` + KeyVariable + `.`,
		Example: `  akidbd embed "a cat on a mat" "a dog in the fog" "stock prices fell"
  akidbd embed - < texts.txt
  akidbd embed --json --dimensions 128 "a cat on a mat"`,
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			texts, err := readTexts(args, cmd.InOrStdin())
			if err != nil {
				return err
			}
			opt.request.Texts = texts
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
			defer stop()
			return embed(ctx, opt, os.Getenv(KeyVariable), cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&opt.url, "url", "http://localhost:8080", "base URL of a node")
	f.StringVar(&opt.request.Model, "model", "", "model, alias or name@digest (default the node's)")
	f.IntVar(&opt.request.Dimensions, "dimensions", 0, "leading dimensions to keep (default all)")
	f.StringVar(&opt.request.PromptName, "prompt", "", "name of a prompt of the model, set before each text")
	f.DurationVar(&opt.timeout, "timeout", 30*time.Second, "longest wait for the answer")
	f.BoolVar(&opt.json, "json", false, "print the answer as one line of JSON, vectors in full")
	return cmd
}

// readTexts gives the arguments, or the lines of in when the only argument is "-". Empty lines are left out.
func readTexts(args []string, in io.Reader) ([]string, error) {
	if len(args) == 0 {
		return nil, errors.New(`no text: give texts as arguments, or "-" to read lines from standard input`)
	}
	if len(args) > 1 || args[0] != "-" {
		return args, nil
	}
	var texts []string
	sc := bufio.NewScanner(in)
	sc.Buffer(nil, maxLineBytes)
	for sc.Scan() {
		if line := strings.TrimSpace(sc.Text()); line != "" {
			texts = append(texts, line)
		}
		if len(texts) > maxLines {
			return nil, fmt.Errorf("standard input has more than %d texts, the most that fit into a request", maxLines)
		}
	}
	switch err := sc.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return nil, fmt.Errorf("text %d of standard input is longer than %d bytes", len(texts)+1, maxLineBytes)
	case err != nil:
		return nil, fmt.Errorf("standard input: %w", err)
	case len(texts) == 0:
		return nil, errors.New("standard input has no line with text")
	}
	return texts, nil
}

func embed(ctx context.Context, opt options, key string, out io.Writer) error {
	if opt.request.Dimensions < 0 {
		return fmt.Errorf("--dimensions must be 1 or more, not %d", opt.request.Dimensions)
	}
	bounded, cancel := context.WithTimeout(ctx, opt.timeout)
	defer cancel()
	start := time.Now()
	resp, err := Embed(bounded, opt.url, key, opt.request)
	if err != nil {
		return explain(err, opt.url, key)
	}
	if opt.json {
		return json.NewEncoder(out).Encode(resp)
	}
	_, err = io.WriteString(out, describe(opt.request.Texts, resp, time.Since(start)))
	return err
}

// Sizes of what people are shown.
const (
	textColumns = 72
	firstValues = 6
	matrixTexts = 10 // more do not fit 80 columns; then each text is shown with its nearest one
)

// describe writes an answer for people.
func describe(texts []string, r Response, took time.Duration) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %d dimensions\n%d tokens, %.0f ms", printable(r.Model), len(r.Embeddings[0]), r.Usage.Tokens,
		float64(took)/float64(time.Millisecond))
	if by := r.ServedBy; by.Node != "" {
		fmt.Fprintf(&b, ", by %s", printable(by.Node))
		if by.Region != "" || by.Route != "" {
			fmt.Fprintf(&b, " (%s)", printable(strings.Trim(by.Region+", "+by.Route, ", ")))
		}
	}
	b.WriteString("\n")
	if r.Truncated > 0 {
		fmt.Fprintf(&b, "%d of the texts too long for the model: only the beginning counts\n", r.Truncated)
	}
	for i, v := range r.Embeddings {
		fmt.Fprintf(&b, "\n%3d  %s\n     [", i+1, shorten(printable(texts[i]), textColumns))
		for k, x := range v[:min(firstValues, len(v))] {
			if k > 0 {
				b.WriteByte(' ')
			}
			fmt.Fprintf(&b, "%+.4f", x)
		}
		if len(v) > firstValues {
			b.WriteString(" ...")
		}
		b.WriteString("]\n")
	}
	switch n := len(r.Embeddings); {
	case n > matrixTexts:
		b.WriteString("\nnearest other text, by cosine similarity\n")
		writeNearest(&b, r.Embeddings)
	case n > 1:
		b.WriteString("\ncosine similarity\n")
		writeMatrix(&b, r.Embeddings)
	}
	return b.String()
}

func writeMatrix(b *strings.Builder, vectors [][]float32) {
	b.WriteString("   ")
	for i := range vectors {
		fmt.Fprintf(b, " %6d", i+1)
	}
	b.WriteByte('\n')
	for i, v := range vectors {
		fmt.Fprintf(b, "%3d", i+1)
		for _, w := range vectors {
			fmt.Fprintf(b, " %6.3f", Cosine(v, w))
		}
		b.WriteByte('\n')
	}
}

func writeNearest(b *strings.Builder, vectors [][]float32) {
	best := make([]float64, len(vectors))
	at := make([]int, len(vectors))
	for i := range best {
		best[i] = math.Inf(-1)
	}
	for i, v := range vectors {
		for k := i + 1; k < len(vectors); k++ {
			c := Cosine(v, vectors[k])
			if c > best[i] {
				best[i], at[i] = c, k
			}
			if c > best[k] {
				best[k], at[k] = c, i
			}
		}
	}
	for i := range vectors {
		fmt.Fprintf(b, "%5d  %5d  %6.3f\n", i+1, at[i]+1, best[i])
	}
}

// Cosine is the cosine of the angle between two vectors of equal length; 0 when one of them is all zeros.
func Cosine(a, b []float32) float64 {
	var dot, aa, bb float64
	for i := range a {
		x, y := float64(a[i]), float64(b[i])
		dot += x * y
		aa += x * x
		bb += y * y
	}
	if aa == 0 || bb == 0 {
		return 0
	}
	return dot / math.Sqrt(aa*bb)
}

// printable keeps texts and answers from moving the cursor of a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return '?'
		}
		return r
	}, s)
}

func shorten(s string, columns int) string {
	runes := []rune(s)
	if len(runes) <= columns {
		return s
	}
	return string(runes[:columns-3]) + "..."
}
