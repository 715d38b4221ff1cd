// Package hub fetches models from the Hugging Face Hub, or a server that answers like it: the list of files of a
// revision, and of those the ones that serving needs. Every file is compared with the hash that the list gives: the
// SHA-256 of those in LFS, the object id of those in git.
package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/akidb/akidbd/internal/store"
)

// Scheme starts a reference to a model of the Hub: hf://org/name or hf://org/name@revision.
const Scheme = "hf://"

// DefaultEndpoint is used unless HF_ENDPOINT says another.
const DefaultEndpoint = "https://huggingface.co"

const (
	maxListing = 8 << 20 // bytes of a list of files
	apiTimeout = 30 * time.Second
	maxFiles   = 10_000
)

var (
	partForm     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$`)
	revisionForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$`)
	commitForm   = regexp.MustCompile(`^[0-9a-f]{40}$`)
	sha256Form   = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// Ref names a revision of a model.
type Ref struct {
	Repo     string // org/name
	Revision string // branch, tag or commit; "main" when none was given
}

// Is says whether text is meant for this package.
func Is(text string) bool { return strings.HasPrefix(text, Scheme) }

// ParseRef reads hf://org/name[@revision].
func ParseRef(text string) (Ref, error) {
	rest, ok := strings.CutPrefix(text, Scheme)
	repo, revision, pinned := strings.Cut(rest, "@")
	org, name, two := strings.Cut(repo, "/")
	if !pinned {
		revision = "main"
	}
	if !ok || !two || !partForm.MatchString(org) || !partForm.MatchString(name) || !revisionForm.MatchString(revision) || strings.Contains(revision, "..") {
		return Ref{}, fmt.Errorf("%.200q is not hf://org/name or hf://org/name@revision", text)
	}
	return Ref{Repo: repo, Revision: revision}, nil
}

// String is the form that ParseRef reads.
func (r Ref) String() string { return Scheme + r.Repo + "@" + r.Revision }

// Pinned says whether the revision is a commit, which never changes.
func (r Ref) Pinned() bool { return commitForm.MatchString(r.Revision) }

// Client asks one server.
type Client struct {
	Endpoint string       // default DefaultEndpoint
	Token    string       // sent to the endpoint only; "" for public models
	HTTP     *http.Client // default http.DefaultClient

	stall time.Duration // default stallLimit
}

// FromEnv makes a Client of HF_ENDPOINT and HF_TOKEN.
func FromEnv(getenv func(string) string) Client {
	return Client{Endpoint: strings.TrimRight(getenv("HF_ENDPOINT"), "/"), Token: getenv("HF_TOKEN")}
}

// Listing is a revision as the server describes it.
type Listing struct {
	Ref    Ref
	Commit string
	Files  []File // those that serving needs, sorted by path
}

// File is one of its files.
type File struct {
	Path   string
	Size   int64
	SHA256 string // of a file in LFS; "" for others
	GitID  string // SHA-1 of "blob <size>\0" and the content; "" when the server does not say
}

// Bytes is the size of all files.
func (l Listing) Bytes() (n int64) {
	for _, f := range l.Files {
		n += f.Size
	}
	return n
}

// List asks what a revision has.
func (c Client) List(ctx context.Context, ref Ref) (Listing, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	body, err := c.get(ctx, "/api/models/"+ref.Repo+"/revision/"+url.PathEscape(ref.Revision)+"?blobs=true", 0)
	if err != nil {
		return Listing{}, fmt.Errorf("%s: %w", ref, err)
	}
	data, err := io.ReadAll(io.LimitReader(body, maxListing+1))
	if err := errors.Join(err, body.Close()); err != nil {
		return Listing{}, fmt.Errorf("%s: %w", ref, err)
	}
	if len(data) > maxListing {
		return Listing{}, fmt.Errorf("%s: the list of files is over %d bytes", ref, maxListing)
	}
	l, err := parseListing(data)
	if err != nil {
		return Listing{}, fmt.Errorf("%s: %w", ref, err)
	}
	l.Ref = ref
	return l, nil
}

// parseListing reads the answer of the API.
func parseListing(data []byte) (Listing, error) {
	var answer struct {
		SHA      string `json:"sha"`
		Siblings []struct {
			Path   string `json:"rfilename"`
			Size   int64  `json:"size"`
			BlobID string `json:"blobId"`
			LFS    *struct {
				SHA256 string `json:"sha256"`
				Size   int64  `json:"size"`
			} `json:"lfs"`
		} `json:"siblings"`
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return Listing{}, fmt.Errorf("the list of files: %w", err)
	}
	if !commitForm.MatchString(answer.SHA) {
		return Listing{}, fmt.Errorf("the list of files names no commit but %.80q", answer.SHA)
	}
	if len(answer.Siblings) > maxFiles {
		return Listing{}, fmt.Errorf("%d files, the limit is %d", len(answer.Siblings), maxFiles)
	}
	byPath := map[string]File{}
	var paths []string
	for _, s := range answer.Siblings {
		f := File{Path: s.Path, Size: s.Size}
		switch {
		case s.LFS != nil && !sha256Form.MatchString(s.LFS.SHA256):
			return Listing{}, fmt.Errorf("%.200q has no SHA-256 but %.80q", s.Path, s.LFS.SHA256)
		case s.LFS != nil:
			f.SHA256, f.Size = s.LFS.SHA256, s.LFS.Size
		case commitForm.MatchString(s.BlobID):
			f.GitID = s.BlobID
		}
		if _, twice := byPath[f.Path]; twice || f.Size < 0 {
			return Listing{}, fmt.Errorf("%.200q is listed twice, or with a size of %d", f.Path, f.Size)
		}
		byPath[f.Path] = f
		paths = append(paths, f.Path)
	}
	slices.Sort(paths)
	l := Listing{Commit: answer.SHA}
	check := []store.File{}
	for _, p := range store.ServedPaths(paths) {
		l.Files = append(l.Files, byPath[p])
		check = append(check, store.File{Path: p, Size: byPath[p].Size, SHA256: strings.Repeat("0", 64)})
	}
	if err := store.CheckFiles(check); err != nil {
		return Listing{}, fmt.Errorf("the files that serving needs: %w", err)
	}
	return l, nil
}

// get opens a resource from offset on.
func (c Client) get(ctx context.Context, path string, offset int64) (io.ReadCloser, error) {
	endpoint := c.Endpoint
	if endpoint == "" {
		endpoint = DefaultEndpoint
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint+path, nil)
	if err != nil {
		return nil, err
	}
	if c.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.Token) // net/http drops it when another host is pointed to
	}
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	client := c.HTTP
	if client == nil {
		client = http.DefaultClient
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	want := http.StatusOK
	if offset > 0 {
		want = http.StatusPartialContent
	}
	if res.StatusCode == want {
		return res.Body, nil
	}
	status := res.Status
	if err := res.Body.Close(); err != nil {
		return nil, err
	}
	switch res.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		return nil, fmt.Errorf("%s says %s: the model is not there, or is private or gated: set HF_TOKEN", endpoint, status)
	case http.StatusNotFound:
		return nil, fmt.Errorf("%s says %s: no such model or revision", endpoint, status)
	case http.StatusOK, http.StatusRequestedRangeNotSatisfiable:
		return nil, errNoRange
	}
	return nil, fmt.Errorf("%s says %s", endpoint, status)
}

// errNoRange says that a file must be read from its beginning.
var errNoRange = errors.New("the server does not give a part of the file")
