//go:build !manpages

package main

import "github.com/spf13/cobra"

// buildCommands: the released program has none.
func buildCommands() []*cobra.Command { return nil }
