package sync

import (
	"fmt"
	"strings"

	"github.com/akidb/akidbd/internal/node"
)

// The layout of a bucket, below its prefix:
//
//	models/<name>/blobs/sha256-<hex>            a file of a version, named by its content
//	models/<name>/versions/<clock>-<node>.json  a Manifest
//	models/<name>/<path>                        the plain layout: what somebody copied by hand
//
// Every key of the first two kinds is written once, so that buckets which are replicated both ways cannot disagree.
// The blobs of a version are there before its manifest.
const (
	modelsPrefix = "models/"
	blobsPart    = "blobs/"
	versionsPart = "versions/"
	blobPrefix   = "sha256-"
	jsonSuffix   = ".json"
)

func modelPrefix(name string) string    { return modelsPrefix + name + "/" }
func blobsPrefix(name string) string    { return modelPrefix(name) + blobsPart }
func versionsPrefix(name string) string { return modelPrefix(name) + versionsPart }

// BlobKey is the key of a file with the SHA-256 in hex.
func BlobKey(name, sha string) string { return blobsPrefix(name) + blobPrefix + sha }

// ManifestKey is the key of m.
func ManifestKey(m *Manifest) string { return versionsPrefix(m.Name) + m.ID() + jsonSuffix }

// splitKey gives the model that a key belongs to and the rest of it.
func splitKey(key string) (name, rest string, ok bool) {
	rest, ok = strings.CutPrefix(key, modelsPrefix)
	if !ok {
		return "", "", false
	}
	name, rest, ok = strings.Cut(rest, "/")
	return name, rest, ok && nameForm.MatchString(name) && rest != ""
}

// parseManifestKey gives the model, clock and node that a key promises.
func parseManifestKey(key string) (name string, clock Clock, id node.ID, err error) {
	name, rest, ok := splitKey(key)
	rest, version := strings.CutPrefix(rest, versionsPart)
	rest, isJSON := strings.CutSuffix(rest, jsonSuffix)
	if !ok || !version || !isJSON || len(rest) < clockDigits+2 || rest[clockDigits] != '-' {
		return "", 0, "", fmt.Errorf("%.200q is no key of a manifest", key)
	}
	if clock, err = ParseClock(rest[:clockDigits]); err != nil {
		return "", 0, "", err
	}
	if id = node.ID(rest[clockDigits+1:]); !id.Valid() {
		return "", 0, "", fmt.Errorf("%.200q is no key of a manifest", key)
	}
	return name, clock, id, nil
}

// parseBlobKey gives the model and the SHA-256 that a key promises.
func parseBlobKey(key string) (name, sha string, ok bool) {
	name, rest, ok := splitKey(key)
	rest, blob := strings.CutPrefix(rest, blobsPart)
	return name, strings.TrimPrefix(rest, blobPrefix), ok && blob && digestForm.MatchString(rest)
}
