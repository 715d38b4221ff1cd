// Package graph writes and reads ONNX files. Build makes the graph of a Hugging Face model directory over
// its safetensors file, so that no export is needed; Inspect and CheckExternalData read a ready-made one.
package graph

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Files that Build reads.
const (
	configFile  = "config.json"
	weightsFile = "model.safetensors"

	maxConfigBytes = 4 << 20
)

// Build writes the ONNX graph of the encoder in dir to the file out, which lies in dir too: the graph's
// initializers are external data that point into dir's model.safetensors, and ONNX wants their location
// relative to the graph. It reads config.json and the header of model.safetensors, and checks the name, type
// and shape of every tensor it uses. Equal directories give equal bytes.
//
// The graph has standard operators only. Inputs: input_ids and attention_mask, int64 [batch, sequence], mask
// 1 for a real token and 0 for padding, which must be on the right. A row has at least one real token.
// Output: last_hidden_state, float [batch, sequence, hidden]; vectors of padding have no meaning.
// Every token has type 0, as the tokens of a single text do.
//
// Supported are BERT, RoBERTa, XLM-RoBERTa and DistilBERT with float32 weights; anything else is refused by
// name. out is replaced in one step.
func Build(dir, out string) error {
	if err := build(dir, out); err != nil {
		return fmt.Errorf("building an ONNX graph for %s: %w", dir, err)
	}
	return nil
}

func build(dir, out string) error {
	if same, err := sameDir(dir, filepath.Dir(out)); err != nil {
		return err
	} else if !same {
		return fmt.Errorf("the graph %s must lie in the directory of its weights", out)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()

	b, err := readRegular(root, configFile, maxConfigBytes)
	if err != nil {
		return err
	}
	c, err := parseConfig(b)
	if err != nil {
		return fmt.Errorf("%s: %w", configFile, err)
	}
	f, size, err := openRegular(root, weightsFile)
	if err != nil {
		return err
	}
	defer f.Close()
	tensors, err := readSafetensors(f, size)
	if err != nil {
		return fmt.Errorf("%s: %w", weightsFile, err)
	}
	model, err := encode(c, tensors, weightsFile)
	if err != nil {
		return fmt.Errorf("%s: %w", weightsFile, err)
	}
	return writeAtomic(root, filepath.Base(out), model)
}

func sameDir(a, b string) (bool, error) {
	x, err := os.Stat(a)
	if err != nil {
		return false, err
	}
	y, err := os.Stat(b)
	if err != nil {
		return false, err
	}
	return os.SameFile(x, y), nil
}

// openRegular opens a regular file of root and gives its size. It follows no symbolic link.
func openRegular(root *os.Root, name string) (*os.File, int64, error) {
	info, err := root.Lstat(name)
	if err != nil {
		return nil, 0, err
	}
	if !info.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("%s: not a regular file (%s)", name, info.Mode().Type())
	}
	f, err := root.Open(name)
	if err != nil {
		return nil, 0, err
	}
	if info, err = f.Stat(); err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}

func readRegular(root *os.Root, name string, limit int64) ([]byte, error) {
	f, _, err := openRegular(root, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s: over %d bytes, the limit for this file", name, limit)
	}
	return b, nil
}

// writeAtomic writes a file of root so that name is the old file or the whole new one, also after a crash.
func writeAtomic(root *os.Root, name string, b []byte) (err error) {
	temp := name + ".tmp"
	if err := root.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, root.Remove(temp))
		}
	}()
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return root.Rename(temp, name)
}
