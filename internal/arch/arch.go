// Package arch holds the architecture as a test: which package may import which, and who owns each dependency
// that reaches into the outside world. ARCHITECTURE.md draws what arch_test.go enforces.
package arch
