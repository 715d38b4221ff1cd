package modeldir

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Sizes above which a file is refused before it is read. The largest config.json and
// tokenizer_config.json in use (with thousands of labels or added tokens) stay under 1 MiB.
const (
	maxConfigBytes = 4 << 20
	maxGoldenBytes = 64 << 20
)

// files reads the regular files of one directory. Names are slash-separated and relative.
type files struct{ root *os.Root }

// regular says whether name is a regular file. A symbolic link is an error even when it leads nowhere bad:
// a directory in the store is whole by itself, and a digest over it must not depend on what lies outside.
func (f files) regular(name string) (bool, error) {
	info, err := f.root.Lstat(filepath.FromSlash(name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("%s: %w", name, err)
	case !info.Mode().IsRegular():
		return false, fmt.Errorf("%s: not a regular file (%s); copy the file itself into the directory", name, info.Mode().Type())
	}
	return true, nil
}

// read gives the bytes of name, nil when there is no such file.
func (f files) read(name string, limit int64) ([]byte, error) {
	ok, err := f.regular(name)
	if err != nil || !ok {
		return nil, err
	}
	file, err := f.root.Open(filepath.FromSlash(name))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s: over %d bytes, the limit for this file", name, limit)
	}
	return b, nil
}

// json decodes name into v and says whether the file exists.
func (f files) json(name string, limit int64, v any) (bool, error) {
	b, err := f.read(name, limit)
	if err != nil || b == nil {
		return false, err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return false, fmt.Errorf("%s: %w", name, err)
	}
	return true, nil
}
