// Package systemd runs akidbd under a real systemd, installed by a real apt: `make e2e-systemd`.
package systemd
