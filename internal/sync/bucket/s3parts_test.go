package bucket_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"
)

// Parts that nobody goes on with are given up: of an upload that somebody else was faster with, and of one so old that a
// rule of the bucket may end it at any moment.
func TestS3AbortsWhatIsOfNoUse(t *testing.T) {
	credentials(t)
	var mu sync.Mutex
	var gone []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		_, _ = io.Copy(io.Discard, r.Body)
		switch {
		case r.Method == http.MethodHead:
			w.WriteHeader(http.StatusNotFound)
		case r.Method == http.MethodGet && q.Has("uploads"):
			fmt.Fprintf(w, `<ListMultipartUploadsResult><Upload><Key>k</Key><UploadId>old</UploadId><Initiated>%s</Initiated></Upload></ListMultipartUploadsResult>`,
				time.Now().Add(-30*24*time.Hour).UTC().Format(time.RFC3339))
		case r.Method == http.MethodPost && q.Has("uploads"):
			fmt.Fprint(w, `<InitiateMultipartUploadResult><Bucket>models</Bucket><Key>k</Key><UploadId>mine</UploadId></InitiateMultipartUploadResult>`)
		case r.Method == http.MethodPut:
			w.Header().Set("ETag", `"e"`)
		case r.Method == http.MethodPost:
			w.WriteHeader(http.StatusPreconditionFailed)
			fmt.Fprint(w, `<Error><Code>PreconditionFailed</Code></Error>`)
		case r.Method == http.MethodDelete:
			mu.Lock()
			defer mu.Unlock()
			gone = append(gone, q.Get("uploadId"))
			w.WriteHeader(http.StatusNoContent)
		}
	}))
	defer srv.Close()
	data := make([]byte, 17<<20)
	err := open(t, srv.URL, "models").Put(t.Context(), "k", bytes.NewReader(data), int64(len(data)), nil)
	if !errors.Is(err, fs.ErrExist) {
		t.Errorf("put: %v", err)
	}
	mu.Lock()
	defer mu.Unlock()
	if slices.Sort(gone); !slices.Equal(gone, []string{"mine", "old"}) {
		t.Errorf("given up: %v", gone)
	}
}

// The clock of the service is the one that it answers with.
func TestS3Now(t *testing.T) {
	credentials(t)
	at := time.Date(2031, 5, 4, 3, 2, 1, 0, time.UTC)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", at.Format(http.TimeFormat))
		fmt.Fprint(w, `<ListBucketResult></ListBucketResult>`)
	}))
	defer srv.Close()
	if got, err := open(t, srv.URL, "models").Now(t.Context()); err != nil || !got.Equal(at) {
		t.Errorf("%v, %v", got, err)
	}
}
