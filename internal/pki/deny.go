package pki

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"path/filepath"
	"strings"

	"github.com/akidb/akidbd/internal/node"
)

// denyList holds node names and serial numbers, the latter in lower-case hex without leading zeros.
type denyList struct {
	nodes   map[node.ID]bool
	serials map[string]bool
}

const (
	maxDenied       = 10000 // entries of a deny list
	maxSerialDigits = 2 * 20
)

// parseDenyList reads one entry a line, a node's name or a serial number in hex, with or without colons; #
// begins a comment. What can be read as both denies both: serial numbers are random, names are seldom hex.
func parseDenyList(data []byte) (denyList, error) {
	d := denyList{nodes: map[node.ID]bool{}, serials: map[string]bool{}}
	n := 0
	for line := range bytes.Lines(data) {
		n++
		text, _, _ := strings.Cut(string(line), "#")
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		serial, isSerial := parseSerial(text)
		isName := node.ID(text).Valid()
		if !isSerial && !isName {
			return denyList{}, fmt.Errorf("line %d: %.80q is neither a node's name nor a serial number in hex; write one a line", n, text)
		}
		if isSerial {
			d.serials[serial] = true
		}
		if isName {
			d.nodes[node.ID(text)] = true
		}
		if max(len(d.nodes), len(d.serials)) > maxDenied {
			return denyList{}, fmt.Errorf("line %d: there may be %d entries", n, maxDenied)
		}
	}
	return d, nil
}

// readDenyList is the text of the list in dir, nil when there is none.
func readDenyList(dir string) ([]byte, error) {
	dir, err := filepath.EvalSymlinks(dir) // a directory that is gone is not one without a list
	if err != nil {
		return nil, err
	}
	data, err := readFile(filepath.Join(dir, DenyFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

func parseSerial(text string) (string, bool) {
	digits := strings.ReplaceAll(text, ":", "")
	if len(digits) > maxSerialDigits || strings.ContainsAny(digits, "+-") { // SetString takes a sign
		return "", false
	}
	s, ok := new(big.Int).SetString(digits, 16)
	if !ok {
		return "", false
	}
	return s.Text(16), true
}

// match says which entry denies a certificate, "" when none does.
func (d denyList) match(id node.ID, serial *big.Int) string {
	if d.nodes[id] {
		return "node " + string(id)
	}
	if serial != nil && d.serials[serial.Text(16)] {
		return "serial " + serial.Text(16)
	}
	return ""
}
