package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// documents makes what is the same for all architectures: man pages and completions out of the commands themselves,
// changelog, licences, examples.
func (b *builder) documents(ctx context.Context) error {
	all := b.stage("all")
	man, completions, doc := filepath.Join(all, "man"), filepath.Join(all, "completions"), filepath.Join(all, "doc")
	if err := errors.Join(os.RemoveAll(all), os.MkdirAll(man, 0o755), os.MkdirAll(completions, 0o755), os.MkdirAll(filepath.Join(doc, "examples"), 0o755)); err != nil {
		return err
	}
	program := filepath.Join(all, "akidbd")
	if _, err := output(ctx, nil, "go", "build", "-tags", "manpages", "-o", program, "./cmd/akidbd"); err != nil {
		return err
	}
	raw := filepath.Join(all, "raw")
	if _, err := output(ctx, []string{"SOURCE_DATE_EPOCH=" + b.epoch}, program, "man-pages", "--dir", raw); err != nil {
		return err
	}
	pages, err := os.ReadDir(raw)
	if err != nil {
		return err
	}
	for _, p := range pages {
		if err := compress(filepath.Join(raw, p.Name()), filepath.Join(man, p.Name()+".gz")); err != nil {
			return err
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		text, err := output(ctx, nil, program, "completion", shell)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(completions, "akidbd."+shell), []byte(text+"\n"), 0o644); err != nil {
			return err
		}
	}
	for to, from := range map[string]string{
		"copyright":                 "systemd/package/copyright",
		"examples/akidbd.min.yaml":  "conf/akidbd.minimal.yaml",
		"examples/gpu.conf":         "systemd/gpu.conf",
		"examples/credentials.conf": "systemd/credentials.conf",
	} {
		if err := copyFile(filepath.Join(doc, to), from); err != nil {
			return err
		}
	}
	if err := compress("docs/jetson.md", filepath.Join(doc, "jetson.md.gz")); err != nil {
		return err
	}
	if err := compress("CHANGELOG.md", filepath.Join(doc, "changelog.gz")); err != nil {
		return err
	}
	entry, err := b.changelog()
	if err != nil {
		return err
	}
	if err := compressBytes([]byte(entry), filepath.Join(doc, "changelog.Debian.gz")); err != nil {
		return err
	}
	notices, err := moduleNotices(ctx)
	if err != nil {
		return err
	}
	return compressBytes(notices, filepath.Join(doc, "go-modules.txt.gz"))
}

// changelog is the one of the packaging, in the form that Debian prescribes.
func (b *builder) changelog() (string, error) {
	epoch, err := strconv.ParseInt(b.epoch, 10, 64)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("akidbd (%s-1) unstable; urgency=medium\n\n  * akidbd %s: see changelog.gz.\n\n -- %s  %s\n", b.deb, b.version, maintainer,
		time.Unix(epoch, 0).UTC().Format(time.RFC1123Z)), nil
}

// moduleNotices are the licences of all modules that are linked into the program.
func moduleNotices(ctx context.Context) ([]byte, error) {
	out, err := output(ctx, []string{"CGO_ENABLED=1"}, "go", "list", "-deps", "-json=Module", "./cmd/akidbd")
	if err != nil {
		return nil, err
	}
	dirs := map[string]string{} // by module and version
	for d := json.NewDecoder(strings.NewReader(out)); ; {
		var pkg struct {
			Module *struct {
				Path, Version, Dir string
				Main               bool
			}
		}
		err := d.Decode(&pkg)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if m := pkg.Module; m != nil && !m.Main {
			dirs[m.Path+" "+m.Version] = m.Dir
		}
	}
	var b bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(dirs)) {
		texts, err := licences(dirs[name])
		if err != nil {
			return nil, err
		}
		if len(texts) == 0 {
			return nil, fmt.Errorf("module %s has no file with its licence", name)
		}
		fmt.Fprintf(&b, "==== %s\n\n%s\n\n", name, bytes.Join(texts, []byte("\n\n")))
	}
	return b.Bytes(), nil
}

func licences(dir string) ([][]byte, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var texts [][]byte
	for _, f := range files {
		name := strings.ToUpper(f.Name())
		if f.IsDir() || !slices.ContainsFunc([]string{"LICEN", "UNLICEN", "COPYING", "NOTICE"}, func(p string) bool { return strings.HasPrefix(name, p) }) {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			return nil, err
		}
		texts = append(texts, bytes.TrimSpace(data))
	}
	return texts, nil
}

func copyFile(to, from string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o644)
}

func compress(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return compressBytes(data, to)
}

// compressBytes leaves name and time out, so that the same text gives the same file.
func compressBytes(data []byte, to string) error {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return err
	}
	if _, err := z.Write(data); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	return os.WriteFile(to, b.Bytes(), 0o644)
}
