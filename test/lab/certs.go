//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// certSettle is how long the nodes have to take over new certificates before the next ones come.
const certSettle = 1500 * time.Millisecond

// issue gives a node a new certificate.
func (f *fleetFiles) issue(ctx context.Context, o options, p place) error {
	return akidbd(ctx, o, "pki", "issue", "--ca", f.ca, "--node", p.name, "--region", p.region, "--out", f.certs(p.name))
}

func akidbd(ctx context.Context, o options, args ...string) error {
	out, err := exec.CommandContext(ctx, o.bin, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("akidbd %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// reissue gives all nodes new certificates.
func reissue(ctx context.Context, f *fleet) error {
	for _, p := range places() {
		if err := f.files.issue(ctx, f.opt, p); err != nil {
			return err
		}
	}
	return nil
}

// replaceAuthority moves the fleet to another authority: all trust both, then all have certificates of the new
// one, then all trust that one alone.
func replaceAuthority(ctx context.Context, f *fleet) error {
	const bundle = "ca.pem"
	old, next := f.files.ca, f.files.ca+"+"
	if err := akidbd(ctx, f.opt, "pki", "init", "--dir", next); err != nil {
		return err
	}
	oldCert, err := os.ReadFile(filepath.Join(old, bundle))
	if err != nil {
		return err
	}
	newCert, err := os.ReadFile(filepath.Join(next, bundle))
	if err != nil {
		return err
	}
	both := append(append([]byte(nil), oldCert...), newCert...)
	for _, step := range []struct {
		ca     string
		trusts []byte
	}{{old, both}, {next, both}, {next, newCert}} {
		f.files.ca = step.ca
		if err := os.WriteFile(filepath.Join(step.ca, bundle), step.trusts, 0o644); err != nil {
			return err
		}
		if err := reissue(ctx, f); err != nil {
			return err
		}
		if !pause(ctx, certSettle) {
			return ctx.Err()
		}
	}
	return nil
}

const denyFile = "deny.txt"

func deny(name string) func(context.Context, *fleet) error {
	return func(_ context.Context, f *fleet) error {
		for _, n := range f.nodes {
			if n.name == name {
				continue
			}
			file := filepath.Join(f.files.certs(n.name), denyFile)
			if err := os.WriteFile(file+".new", []byte(name+"\n"), 0o644); err != nil {
				return err
			}
			if err := os.Rename(file+".new", file); err != nil {
				return err
			}
		}
		return nil
	}
}

func allow(_ context.Context, f *fleet) error {
	for _, n := range f.nodes {
		if err := os.Remove(filepath.Join(f.files.certs(n.name), denyFile)); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	return nil
}
