// Package conf carries the configuration files of this directory inside the program: `akidbd example-config`
// prints them where nothing is installed.
package conf

import _ "embed"

// Example is akidbd.yaml: every key with its default and a comment.
//
//go:embed akidbd.yaml
var Example []byte

// Minimal is akidbd.minimal.yaml: the least that serves a model.
//
//go:embed akidbd.minimal.yaml
var Minimal []byte
