//go:build !faults

package main

import "github.com/akidb/akidbd/internal/infer"

// withFaults leaves the backend as it is; the program that the end-to-end tests build plants faults here.
func withFaults(open infer.Open) infer.Open { return open }

// withEngineFaults likewise, for faults in the daemon itself.
func withEngineFaults(open infer.Open) infer.Open { return open }
