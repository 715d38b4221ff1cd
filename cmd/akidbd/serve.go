package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/akidb/akidbd/cmd/akidbd/doctor"
	"github.com/akidb/akidbd/internal/config"
	"github.com/akidb/akidbd/internal/daemon"
	"github.com/akidb/akidbd/internal/telemetry"
)

// defaultConfig is read when it is there and no other file is named.
const defaultConfig = "/etc/akidbd/akidbd.yaml"

// configFlags choose the configuration: of serve and check-config.
type configFlags struct {
	file   string
	models []string
	chosen *string // the file of the first load: one that is missing later fails a reload
}

func (f *configFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&f.file, "config", "c", os.Getenv("AKIDB_CONFIG"), "configuration file (default "+defaultConfig+" when it exists; or $AKIDB_CONFIG)")
	cmd.Flags().StringArrayVarP(&f.models, "model", "m", nil, "serve the model in a directory, as NAME=DIR or DIR, besides the configured ones; may be repeated")
	_ = cmd.MarkFlagFilename("config", "yaml", "yml")
}

// path is the file to read, "" for none.
func (f *configFlags) path() string {
	if f.chosen == nil {
		path := f.file
		if _, err := os.Stat(defaultConfig); path == "" && !errors.Is(err, os.ErrNotExist) {
			path = defaultConfig
		}
		f.chosen = &path
	}
	return *f.chosen
}

// load reads file, environment and flags.
func (f *configFlags) load() (*config.Config, error) {
	cfg, err := config.Load(f.path(), os.Environ())
	if err != nil {
		return nil, &exitError{exitConfig, err}
	}
	for _, m := range f.models {
		name, dir, ok := strings.Cut(m, "=")
		if !ok {
			name, dir = filepath.Base(m), m
		}
		cfg.Models = append(cfg.Models, config.Model{Name: name, Path: dir, Precision: "fp32"})
	}
	if err := cfg.Validate(); err != nil {
		return nil, &exitError{exitConfig, err}
	}
	if cfg.Admin.Socket == "" {
		cfg.Admin.Socket = config.DefaultAdminSocket(os.Getenv, os.Getuid())
	}
	return cfg, nil
}

func serveCommand() *cobra.Command {
	var flags configFlags
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve embeddings until SIGTERM",
		Long: "Serves embeddings until SIGTERM or SIGINT, then drains: readiness turns to 503, drain_delay passes, what was\n" +
			"accepted is answered. A second signal ends at once. SIGHUP reads the configuration again.\n" +
			"Exit code 78: the configuration or the ONNX Runtime library must be mended before a restart helps.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := flags.load()
			if err != nil {
				return err
			}
			return serve(cmd.Context(), cfg, &flags, cmd.ErrOrStderr())
		},
	}
	flags.add(cmd)
	return cmd
}

func serve(ctx context.Context, cfg *config.Config, flags *configFlags, w io.Writer) error {
	build := telemetry.ReadBuild(version)
	tel := telemetry.New(telemetry.Config{Level: cfg.Log.SlogLevel(), Format: cfg.Log.Format, Build: build}, w)
	signals := listenForSignals(tel.Logger)
	defer signals.stop()
	compute, err := loadBackend(ctx, cfg, tel)
	if err != nil {
		return &exitError{exitConfig, err}
	}

	opt := daemon.Options{
		Config: cfg, ConfigFile: flags.path(), Load: flags.load, Open: withEngineFaults(compute.open), Telemetry: tel, Version: build.Version, Board: doctor.Board(),
	}
	if err := underSystemd(&opt); err != nil {
		return errors.Join(err, compute.close())
	}
	d, err := daemon.New(opt)
	if err != nil {
		return errors.Join(err, compute.close())
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var beside sync.WaitGroup
	beside.Go(func() { signals.handle(ctx, cancel) })
	beside.Go(func() {
		signals.reload(ctx, func() {
			if _, err := d.Reload(ctx); err != nil {
				tel.Logger.Error("configuration not reloaded as a whole", "err", err)
			}
		})
	})
	if isTerminal(w) {
		beside.Go(func() { greet(ctx, w, d) })
	}
	if err := d.Run(ctx); err != nil {
		return err // something still runs: ONNX Runtime must not go away under it
	}
	cancel()
	beside.Wait()
	return errors.Join(compute.close(), tel.Shutdown(context.WithoutCancel(ctx)))
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// greet tells a person at a terminal what to try once the models are loaded.
func greet(ctx context.Context, w io.Writer, d *daemon.Daemon) {
	select {
	case <-ctx.Done():
		return
	case <-d.Loaded():
	}
	addrs := d.Addrs()
	if len(addrs) == 0 || !d.Health().Ready {
		return
	}
	_, port, err := net.SplitHostPort(addrs[0].String())
	if err != nil {
		return
	}
	fmt.Fprintf(w, `
  akidbd answers on :%[1]s. Try, in another terminal:

    curl -s localhost:%[1]s/api/v1/embed -d '{"text": "Hello world"}'
    curl -s localhost:%[1]s/v1/embeddings -d '{"model": "default", "input": "Hello world"}'
    %[2]s embed "a cat on the mat" "a kitten on the rug"
    %[2]s status

`, port, os.Args[0])
}
