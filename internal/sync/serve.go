package sync

import (
	"bytes"
	"context"
	"io"
	"path/filepath"
)

// Blob gives a part of a blob to another node: length bytes from offset on, to its end when length is negative. Only
// what this node says of its catalog, manifests and files that they name are given out: never anything else, such as
// an engine that was built here. ErrNoBlob and ErrComing say why not.
func (s *Syncer) Blob(_ context.Context, sha string, offset, length int64) (io.ReadCloser, error) {
	if data, ok := s.small(sha); ok {
		return memory(data, offset, length)
	}
	size, ok := s.catalog.blobSize(sha)
	if !ok || offset < 0 || offset > size || length > size-offset {
		return nil, ErrNoBlob
	}
	if length < 0 {
		length = size - offset
	}
	r, err := s.blob(sha, size, offset, length)
	if err != nil {
		return nil, err
	}
	s.metrics.served.Add(float64(length))
	return r, nil
}

func (s *Syncer) small(sha string) ([]byte, bool) {
	s.mu.Lock()
	for _, d := range s.docs {
		if d.sha == sha {
			s.mu.Unlock()
			return d.data, true
		}
	}
	s.mu.Unlock()
	if r, ok := s.catalog.manifest(sha); ok {
		return r.raw, true
	}
	return nil, false
}

func memory(data []byte, offset, length int64) (io.ReadCloser, error) {
	if offset < 0 || offset > int64(len(data)) || length > int64(len(data))-offset {
		return nil, ErrNoBlob
	}
	data = data[offset:]
	if length >= 0 {
		data = data[:length]
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

func (s *Syncer) blob(sha string, size, offset, length int64) (io.ReadCloser, error) {
	// In the order in which a blob moves on, so that it is always met somewhere: download, incoming, store.
	if d := s.flights.get(sha); d != nil {
		if d.covers(offset, length) {
			return d.read(offset, length)
		}
		return nil, ErrComing
	}
	if r, err := openSection(filepath.Join(s.incoming, sha), offset, length); err == nil {
		return r, nil
	}
	if place, n, ok := s.store.Blob(sha); ok && n == size {
		return openSection(place, offset, length)
	}
	if s.fetches(sha) {
		return nil, ErrComing
	}
	return nil, ErrNoBlob
}

// fetches says whether a version with that file is being fetched now.
func (s *Syncer) fetches(sha string) bool {
	s.mu.Lock()
	targets := map[string]string{}
	for name, m := range s.models {
		if m.target != "" {
			targets[name] = m.target
		}
	}
	s.mu.Unlock()
	for name, digest := range targets {
		for _, r := range s.catalog.records(name) {
			if _, ok := shas(r)[sha]; ok && r.Digest == digest {
				return true
			}
		}
	}
	return false
}
