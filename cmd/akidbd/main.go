// Command akidbd serves text embeddings. The daemon is `akidbd serve`; the other subcommands look at a running
// one, ask it, or measure it.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/akidb/akidbd/cmd/akidbd/awsctl"
	"github.com/akidb/akidbd/cmd/akidbd/bench"
	"github.com/akidb/akidbd/cmd/akidbd/client"
)

// Exit codes.
const (
	exitFailure = 1
	exitConfig  = 78 // EX_CONFIG of sysexits.h: a restart will not help
)

// exitError carries the code that main exits with.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

func main() { os.Exit(run()) }

func run() int {
	err := rootCommand().Execute()
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "akidbd:", err)
	if e, ok := errors.AsType[*exitError](err); ok {
		return e.code
	}
	return exitFailure
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "akidbd",
		Short: "Text embeddings, served from where you are",
		Long: "akidbd serves text embeddings with ONNX Runtime over HTTP, OpenAI's API and gRPC.\n\n" +
			"  akidbd serve --model all-MiniLM-L6-v2=/path/to/model\n" +
			"  akidbd embed \"Hello world\"",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(
		serveCommand(), checkConfigCommand(), exampleConfigCommand(), statusCommand(), membersCommand(), explainCommand(),
		drainCommand(), undrainCommand(), reloadCommand(), modelCommand(), pkiCommand(), doctorCommand(),
		awsctl.Command(), client.Command(), bench.Command(), versionCommand(), workerCommand(),
	)
	root.AddCommand(buildCommands()...)
	return root
}
