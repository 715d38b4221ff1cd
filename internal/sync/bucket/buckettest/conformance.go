package buckettest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/akidb/akidbd/internal/sync/bucket"
)

// Conformance checks what every Bucket promises. open gives an empty bucket. large is the size of a body that the
// bucket writes in parts, in bytes.
func Conformance(t *testing.T, large int64, open func(t *testing.T) bucket.Bucket) {
	for name, test := range map[string]func(*testing.T, bucket.Bucket){
		"PutGet": putGet, "PutOnce": putOnce, "PutRace": putRace, "Ranges": ranges, "Missing": missing,
		"List": list, "Delete": remove, "Canceled": canceled, "ETag": etag,
		"Large": func(t *testing.T, b bucket.Bucket) { largeBody(t, b, large) },
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

func put(t *testing.T, b bucket.Bucket, key string, data []byte) {
	t.Helper()
	if err := b.Put(t.Context(), key, bytes.NewReader(data), int64(len(data)), nil); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, b bucket.Bucket, key string, offset, length int64) []byte {
	t.Helper()
	r, err := b.Get(t.Context(), key, offset, length, "")
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		t.Fatal(err)
	}
	return data
}

func noise(seed uint64, n int64) []byte {
	data := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed)})
	_, _ = r.Read(data)
	return data
}

func putGet(t *testing.T, b bucket.Bucket) {
	for _, n := range []int64{0, 1, 4096, 1 << 20} {
		key := fmt.Sprintf("models/m/blobs/size-%d", n)
		data := noise(1, n)
		var seen int64
		if err := b.Put(t.Context(), key, bytes.NewReader(data), n, func(n int64) { seen += n }); err != nil {
			t.Fatal(err)
		}
		if seen != n {
			t.Errorf("%d bytes: progress told of %d", n, seen)
		}
		if got := get(t, b, key, 0, -1); !bytes.Equal(got, data) {
			t.Errorf("%d bytes: got %d others", n, len(got))
		}
		o, err := b.Head(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		if o.Key != key || o.Size != n || o.ETag == "" || o.Modified.IsZero() {
			t.Errorf("head: %+v", o)
		}
	}
}

func putOnce(t *testing.T, b bucket.Bucket) {
	put(t, b, "models/m/k", []byte("first"))
	err := b.Put(t.Context(), "models/m/k", strings.NewReader("second"), 6, nil)
	if !errors.Is(err, fs.ErrExist) {
		t.Errorf("the second Put: %v", err)
	}
	if got := get(t, b, "models/m/k", 0, -1); string(got) != "first" {
		t.Errorf("the object is %q", got)
	}
}

func putRace(t *testing.T, b bucket.Bucket) {
	const writers = 8
	var wg sync.WaitGroup
	errs := make([]error, writers)
	for i := range writers {
		wg.Go(func() {
			body := strings.Repeat(fmt.Sprint(i), 100)
			errs[i] = b.Put(t.Context(), "models/m/race", strings.NewReader(body), int64(len(body)), nil)
		})
	}
	wg.Wait()
	won := -1
	for i, err := range errs {
		switch {
		case err == nil && won >= 0:
			t.Errorf("writers %d and %d both won", won, i)
		case err == nil:
			won = i
		}
	}
	if won < 0 {
		t.Fatalf("nobody won: %v", errs)
	}
	if got, want := string(get(t, b, "models/m/race", 0, -1)), strings.Repeat(fmt.Sprint(won), 100); got != want {
		t.Errorf("writer %d won, the object is %q", won, got)
	}
}

func ranges(t *testing.T, b bucket.Bucket) {
	data := noise(2, 10_000)
	put(t, b, "models/m/r", data)
	for _, r := range [][2]int64{{0, 10_000}, {0, 1}, {9_999, 1}, {5_000, 2_500}, {5_000, -1}} {
		end := r[0] + r[1]
		if r[1] < 0 {
			end = int64(len(data))
		}
		if got := get(t, b, "models/m/r", r[0], r[1]); !bytes.Equal(got, data[r[0]:end]) {
			t.Errorf("range %v: got %d bytes", r, len(got))
		}
	}
	// More than there is is an error, not a short body that looks whole.
	r, err := b.Get(t.Context(), "models/m/r", 9_000, 2_000, "")
	if err == nil {
		_, err = io.ReadAll(r)
		err = errors.Join(err, r.Close())
	}
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a range past the end: %v", err)
	}
}

func missing(t *testing.T, b bucket.Bucket) {
	put(t, b, "models/m/here", []byte("x"))
	if r, err := b.Get(t.Context(), "models/m/gone", 0, -1, ""); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			r.Close()
		}
		t.Errorf("Get: %v", err)
	}
	if _, err := b.Head(t.Context(), "models/m/gone"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Head: %v", err)
	}
	for o, err := range b.List(t.Context(), "models/nobody/") {
		t.Errorf("List of nothing gives %+v, %v", o, err)
	}
}

func list(t *testing.T, b bucket.Bucket) {
	want := []string{}
	for _, name := range []string{"a", "b", "b-c"} {
		for i := range 3 {
			key := fmt.Sprintf("models/%s/versions/%d", name, i)
			put(t, b, key, []byte(key))
			if name == "b" {
				want = append(want, key)
			}
		}
	}
	var got []string
	for o, err := range b.List(t.Context(), "models/b/") {
		if err != nil {
			t.Fatal(err)
		}
		if o.Size != int64(len(o.Key)) || o.ETag == "" || time.Since(o.Modified).Abs() > time.Hour {
			t.Errorf("listed as %+v", o)
		}
		got = append(got, o.Key)
	}
	if !slices.Equal(got, want) {
		t.Errorf("listed %v, want %v", got, want)
	}
	for _, err := range b.List(t.Context(), "models/") {
		if err != nil {
			t.Error(err)
		}
		break // and nothing bad happens
	}
}

func remove(t *testing.T, b bucket.Bucket) {
	put(t, b, "models/m/k", []byte("first"))
	for range 2 {
		if err := b.Delete(t.Context(), "models/m/k"); err != nil {
			t.Fatal(err)
		}
	}
	put(t, b, "models/m/k", []byte("second"))
	if got := get(t, b, "models/m/k", 0, -1); string(got) != "second" {
		t.Errorf("got %q", got)
	}
}

func canceled(t *testing.T, b bucket.Bucket) {
	put(t, b, "models/m/k", []byte("x"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Head(ctx, "models/m/k"); !errors.Is(err, context.Canceled) {
		t.Errorf("Head: %v", err)
	}
	if err := b.Put(ctx, "models/m/k2", strings.NewReader("x"), 1, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Put: %v", err)
	}
	if r, err := b.Get(ctx, "models/m/k", 0, -1, ""); !errors.Is(err, context.Canceled) {
		if err == nil {
			r.Close()
		}
		t.Errorf("Get: %v", err)
	}
}

func etag(t *testing.T, b bucket.Bucket) {
	put(t, b, "models/m/k", []byte("first"))
	before, err := b.Head(t.Context(), "models/m/k")
	if err != nil {
		t.Fatal(err)
	}
	r, err := b.Get(t.Context(), "models/m/k", 0, -1, before.ETag)
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	if err := b.Delete(t.Context(), "models/m/k"); err != nil {
		t.Fatal(err)
	}
	put(t, b, "models/m/k", []byte("other"))
	if after, err := b.Head(t.Context(), "models/m/k"); err != nil || after.ETag == before.ETag {
		t.Errorf("other content has the same ETag %s, %v", after.ETag, err)
	}
	if r, err := b.Get(t.Context(), "models/m/k", 0, -1, before.ETag); !errors.Is(err, bucket.ErrChanged) {
		if err == nil {
			r.Close()
		}
		t.Errorf("Get of what was there before: %v", err)
	}
}

func largeBody(t *testing.T, b bucket.Bucket, n int64) {
	data := noise(3, n)
	var mu sync.Mutex
	var seen int64
	err := b.Put(t.Context(), "models/m/large", bytes.NewReader(data), n, func(n int64) {
		mu.Lock()
		defer mu.Unlock()
		seen += n
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen != n {
		t.Errorf("progress told of %d of %d bytes", seen, n)
	}
	if got := get(t, b, "models/m/large", 0, -1); !bytes.Equal(got, data) {
		t.Errorf("got %d bytes, not the %d that were written", len(got), n)
	}
	if err := b.Put(t.Context(), "models/m/large", bytes.NewReader(data), n, nil); !errors.Is(err, fs.ErrExist) {
		t.Errorf("the second Put: %v", err)
	}
}
