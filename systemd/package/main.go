// Command package builds the Debian packages: the program cross-built by zig against an old glibc, man pages and
// completions out of its own commands, ONNX Runtime with its notices, put together by nfpm. It runs in the root of the
// repository; tools that it needs are pinned, fetched by their own clients and lie in the cache.
//
//	go run ./systemd/package --version 1.2.3 --arch amd64,arm64
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// glibc is the oldest that the program must run with: JetPack 5 is Ubuntu 20.04.
const glibc = "2.31"

const nfpm = "github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.43.1"

const maintainer = "The akidbd authors <maintainers@akidb.invalid>"

// targets are zig's names of what is built for, by Go's.
var targets = map[string]string{"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "package:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("package", flag.ContinueOnError)
	version := flags.String("version", "", "version of the program, as git describe gives it")
	arches := flags.String("arch", "amd64,arm64", "architectures to build for")
	out := flags.String("out", "dist", "where the packages go")
	zig := flags.String("zig", "zig", "the zig compiler")
	compression := flags.String("compression", "xz", "of the packages: xz, gzip, zstd or none")
	ort := flags.String("ort", "", "how to fetch ONNX Runtime for an architecture: a command that takes --arch ARCH")
	if err := flags.Parse(args); err != nil {
		return err
	}
	b := builder{out: *out, version: *version, deb: debVersion(*version), zig: *zig, compression: *compression, fetch: strings.Fields(*ort)}
	var err error
	if b.epoch, err = output(ctx, nil, "git", "log", "-1", "--format=%ct"); err != nil {
		return err
	}
	if err := b.documents(ctx); err != nil {
		return err
	}
	for arch := range strings.SplitSeq(*arches, ",") {
		if err := b.build(ctx, arch); err != nil {
			return fmt.Errorf("%s: %w", arch, err)
		}
	}
	return nil
}

type builder struct {
	out, version, deb, epoch, zig, compression string   // epoch: of the commit, for all times in the packages
	fetch                                      []string // the command that fetches ONNX Runtime
}

// debVersion turns what git describe says into what dpkg sorts well: v1.2.3 is 1.2.3, v1.2.3-4-gabc is 1.2.3+4.gabc,
// and a mere commit is before every release.
func debVersion(v string) string {
	v = strings.TrimPrefix(v, "v")
	dirty := ""
	if base, ok := strings.CutSuffix(v, "-dirty"); ok {
		v, dirty = base, ".dirty"
	}
	m := regexp.MustCompile(`^([0-9]+\.[0-9.]+)(?:-([0-9A-Za-z.]+?))?(?:-([0-9]+)-(g[0-9a-f]+))?$`).FindStringSubmatch(v)
	if m == nil {
		return "0.0~" + strings.Map(plain, v) + dirty
	}
	v = m[1]
	if m[2] != "" {
		v += "~" + m[2]
	}
	if m[3] != "" {
		v += "+" + m[3] + "." + m[4]
	}
	return v + dirty
}

// plain keeps what dpkg takes in a version.
func plain(r rune) rune {
	if r < 128 && (r == '.' || r == '+' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z') {
		return r
	}
	return '.'
}

// stage is where the files of an architecture are put together.
func (b *builder) stage(arch string) string { return filepath.Join(b.out, "stage", arch) }

func (b *builder) build(ctx context.Context, arch string) error {
	target, ok := targets[arch]
	if !ok {
		return fmt.Errorf("known architectures are amd64 and arm64")
	}
	stage := b.stage(arch)
	if err := errors.Join(os.RemoveAll(stage), os.MkdirAll(filepath.Join(stage, "lib"), 0o755)); err != nil {
		return err
	}
	for _, shared := range []string{"man", "completions", "doc"} {
		if err := os.CopyFS(filepath.Join(stage, shared), os.DirFS(filepath.Join(b.stage("all"), shared))); err != nil {
			return err
		}
	}
	program := filepath.Join(stage, "akidbd")
	fmt.Printf("building akidbd %s for %s, glibc %s\n", b.version, arch, glibc)
	cc := fmt.Sprintf("%s cc -target %s.%s", b.zig, target, glibc)
	if _, err := output(ctx, []string{"GOOS=linux", "GOARCH=" + arch, "CGO_ENABLED=1", "CC=" + cc}, "go", "build", "-trimpath", "-buildmode", "pie",
		"-ldflags", "-s -w -extldflags=-s -X main.version="+b.version, "-o", program, "./cmd/akidbd"); err != nil {
		return err
	}
	library, err := b.library(ctx, arch)
	if err != nil {
		return err
	}
	lib := filepath.Join(stage, "lib", filepath.Base(library))
	if err := copyFile(lib, library); err != nil {
		return err
	}
	for _, file := range []string{program, lib} {
		if err := checkSymbols(file, arch, oldestSystem()); err != nil {
			return err
		}
	}
	if err := compress(filepath.Join(filepath.Dir(library), "ThirdPartyNotices.txt"), filepath.Join(stage, "doc", "onnxruntime-notices.txt.gz")); err != nil {
		return err
	}
	return b.pack(ctx, arch)
}

// library fetches ONNX Runtime and says where it lies.
func (b *builder) library(ctx context.Context, arch string) (string, error) {
	if len(b.fetch) == 0 {
		return "", errors.New("--ort is needed")
	}
	command := append(slices.Clone(b.fetch[1:]), "--arch", arch)
	if _, err := output(ctx, nil, b.fetch[0], append(slices.Clone(command), "ort")...); err != nil {
		return "", err
	}
	return output(ctx, nil, b.fetch[0], append(command, "--print", "ort")...)
}

func (b *builder) pack(ctx context.Context, arch string) error {
	template, err := os.ReadFile("systemd/package/nfpm.yaml")
	if err != nil {
		return err
	}
	config := filepath.Join(b.stage(arch), "nfpm.yaml") // nfpm takes no variable there
	if err := os.WriteFile(config, bytes.Replace(template, []byte("compression: xz"), []byte("compression: "+b.compression), 1), 0o644); err != nil {
		return err
	}
	out, err := output(ctx, []string{"STAGE=" + b.stage(arch), "ARCH=" + arch, "VERSION=" + b.deb, "MAINTAINER=" + maintainer, "SOURCE_DATE_EPOCH=" + b.epoch},
		"go", "run", nfpm, "package", "--config", config, "--packager", "deb", "--target", b.out)
	if err != nil {
		return err
	}
	fmt.Println(out[strings.LastIndexByte(out, '\n')+1:])
	return nil
}

// output runs a program and gives what it prints; its error has what it complained about.
func output(ctx context.Context, env []string, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, errs.Bytes())
	}
	return strings.TrimSpace(out.String()), nil
}
