package store

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"
)

// limits bound what a source may be.
type limits struct {
	files  int   // that count
	seen   int   // looked at, those that do not count and directories included
	depth  int   // directories in directories
	bytes  int64 // in all
	length int   // of a path
}

// defaultLimits leave room for the largest embedding models there are (about 50 files, 30 GB).
func defaultLimits() limits {
	return limits{files: 1000, seen: 10_000, depth: 8, bytes: 256 << 30, length: maxPath}
}

const maxPath = 512

// print is what a file of a source looked like without reading it.
type print struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"`
	MTime  int64  `json:"mtime_ns"`
	CTime  int64  `json:"ctime_ns"`
	Inode  uint64 `json:"inode"`
	Device uint64 `json:"device"`
}

func printOf(path string, info fs.FileInfo) print {
	p := print{Path: path, Size: info.Size(), MTime: info.ModTime().UnixNano()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		p.CTime, p.Inode, p.Device = st.Ctim.Nano(), st.Ino, st.Dev
	}
	return p
}

// served says whether a file of a model directory counts: whether it is copied and part of the digest. Left
// out are, at any depth and whatever the case,
//
//   - names that start with "." (.git, .cache, .gitattributes) or with "akidb-",
//   - texts for people and programs: *.md, *.py, *.ipynb, README*, LICENSE*, NOTICE*,
//   - weights in formats that are not served: pytorch_model*.bin and training_args.bin, *.pt, *.pth, *.ckpt,
//     *.pkl, *.h5, *.msgpack, *.ot, *.tflite, *.gguf, *.mlmodel, and directories openvino, coreml, gguf and
//     *.mlpackage.
//
// scan further leaves out variants of an ONNX graph: beside a model.onnx, every other *.onnx and its data.
// These rules are part of what a digest means: to change them is to give existing models new digests.
func served(name string, dir bool) bool {
	name = strings.ToLower(name)
	if strings.HasPrefix(name, ".") || strings.HasPrefix(name, ownPrefix) {
		return false
	}
	if dir {
		return !slices.Contains([]string{"openvino", "coreml", "gguf"}, name) && path.Ext(name) != ".mlpackage"
	}
	for _, prefix := range []string{"readme", "license", "notice"} {
		if strings.HasPrefix(name, prefix) {
			return false
		}
	}
	if path.Ext(name) == ".bin" {
		return !strings.HasPrefix(name, "pytorch_model") && name != "training_args.bin"
	}
	return !slices.Contains([]string{
		".md", ".py", ".ipynb",
		".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack", ".ot", ".tflite", ".gguf", ".mlmodel",
	}, path.Ext(name))
}

// goodPath says that p is a clean relative path of slashes that stays inside, one line of printable text.
func goodPath(p string) bool {
	return p != "" && len(p) <= maxPath && p == path.Clean(p) && filepath.IsLocal(p) && utf8.ValidString(p) &&
		!strings.ContainsFunc(p, func(r rune) bool { return !unicode.IsPrint(r) || r == '\\' })
}

// scanner lists the files of a source that count.
type scanner struct {
	root   *os.Root
	limits limits
	seen   int
	bytes  int64
	files  []print
}

// scan lists the files of root that count, sorted by path. A link to a file inside root counts as that file;
// a link that leads outside, a link to a directory and everything that is no file is an error.
func scan(root *os.Root, l limits) ([]print, error) {
	s := &scanner{root: root, limits: l}
	if err := s.dir(".", 0); err != nil {
		return nil, err
	}
	if len(s.files) == 0 {
		return nil, errors.New("no file of a model in it")
	}
	slices.SortFunc(s.files, func(a, b print) int { return cmp.Compare(a.Path, b.Path) })
	return s.files, nil
}

func (s *scanner) dir(dir string, depth int) error {
	if depth > s.limits.depth {
		return fmt.Errorf("%s is over %d directories deep", dir, s.limits.depth)
	}
	entries, err := s.list(dir)
	if err != nil {
		return err
	}
	variants := slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == "model.onnx" })
	for _, e := range entries {
		if !served(e.Name(), e.IsDir()) || variants && isVariant(e.Name()) {
			continue
		}
		name := path.Join(dir, e.Name())
		if !goodPath(name) {
			return fmt.Errorf("%q is a name that cannot be kept: must be printable UTF-8 without a backslash, the path at most %d bytes", name, s.limits.length)
		}
		if e.IsDir() {
			err = s.dir(name, depth+1)
		} else {
			err = s.file(name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// isVariant says that a file beside model.onnx is another graph or the data of one: model_fp16.onnx,
// model_fp16.onnx_data.
func isVariant(name string) bool {
	graph, _, found := strings.Cut(name, ".onnx")
	return found && graph != "model"
}

// list reads a directory, never more of it than may be looked at.
func (s *scanner) list(dir string) ([]fs.DirEntry, error) {
	f, err := s.root.Open(filepath.FromSlash(dir))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	entries, err := f.ReadDir(s.limits.seen - s.seen + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if s.seen += len(entries); s.seen > s.limits.seen {
		return nil, fmt.Errorf("over %d files and directories in it", s.limits.seen)
	}
	return entries, nil
}

func (s *scanner) file(name string) error {
	info, err := s.root.Stat(filepath.FromSlash(name)) // follows links, but not out of root
	switch {
	case err != nil:
		if link, lerr := s.root.Lstat(filepath.FromSlash(name)); lerr == nil && link.Mode()&fs.ModeSymlink != 0 {
			return fmt.Errorf("%s is a link that leads outside or nowhere (%w): copy the directory with its links resolved, cp -rL", name, err)
		}
		return err
	case info.IsDir():
		return fmt.Errorf("%s is a link to a directory: copy the directory with its links resolved, cp -rL", name)
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file (%s)", name, info.Mode().Type())
	}
	if s.files = append(s.files, printOf(name, info)); len(s.files) > s.limits.files {
		return fmt.Errorf("over %d files of a model in it", s.limits.files)
	}
	if s.bytes += info.Size(); s.bytes > s.limits.bytes {
		return fmt.Errorf("over %d bytes of a model in it", s.limits.bytes)
	}
	return nil
}

// source remembers what an imported directory looked like, so that the next start knows it without reading it:
// hashing 90 MB takes 50 to 200 ms, tens of gigabytes take a minute. The price: somebody who changes the
// bytes of a file and leaves its size, times and inode as they were is not noticed. Times alone can be set
// back, but ctime cannot without root. For that certainty, Verify compares the copy, and removing the entry
// makes the next import read everything.
type source struct {
	Path   string  `json:"path"` // absolute
	Digest string  `json:"digest"`
	Files  []print `json:"files"`
}

// settled is how old the youngest file must be to be remembered. Two writes within one tick of the file
// system's clock (10 ms at most on Linux's own, 2 s on FAT) leave the same times.
const settled = 2 * time.Second

func (s *Store) readSource(name string) (source, bool) {
	root, err := os.OpenRoot(s.nameDir(name))
	if err != nil {
		return source{}, false
	}
	defer root.Close()
	data, err := readLimited(root, sourceName)
	if err != nil {
		return source{}, false
	}
	var src source
	if err := json.Unmarshal(data, &src); err != nil || !digestForm.MatchString(src.Digest) {
		return source{}, false // it only saves time, and the next import writes it anew
	}
	return src, true
}

// remember writes the source record. seen is when the files were listed.
func (s *Store) remember(name string, src source, seen time.Time) error {
	for _, f := range src.Files {
		if max(f.MTime, f.CTime) > seen.Add(-settled).UnixNano() {
			err := os.Remove(filepath.Join(s.nameDir(name), sourceName))
			if errors.Is(err, fs.ErrNotExist) {
				err = nil
			}
			return err
		}
	}
	data, err := json.Marshal(src)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(s.dir, tempPrefix)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(s.nameDir(name), sourceName))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
