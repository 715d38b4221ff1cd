package config

import (
	"fmt"
	"net/url"
	"strings"
	"time"
)

// Sync is how models arrive by themselves: those of models that have no path. A node gets them from the nodes around
// it and from the bucket of its region; with neither, every model needs a path.
type Sync struct {
	// Bucket of this region, s3://name or s3://name/prefix. Credentials come from the SDK's chain: environment,
	// shared files, web identity, instance role. Default "": other nodes carry everything.
	Bucket string `yaml:"bucket" reload:"restart"`
	// Endpoint is the URL of an S3 service that is not Amazon's. Default "": Amazon's.
	Endpoint string `yaml:"endpoint" reload:"restart"`
	// AWSRegion is the bucket's, as the service names regions. Default "": what the SDK's chain says, else us-east-1.
	AWSRegion string `yaml:"aws_region" reload:"restart"`
	// PathStyle asks for https://endpoint/bucket, as most services but Amazon's need. Default false.
	PathStyle bool `yaml:"path_style" reload:"restart"`
	// Remotes are the buckets of other regions, which one node of this region copies from. Default none: nodes of
	// other regions carry what is missing; at most 16.
	Remotes []Remote `yaml:"remotes" reload:"restart"`
	// Replicate says whether that one node copies into Bucket what it lacks, on or off: off where the service
	// replicates itself and nodes may only read. Default on.
	Replicate string `yaml:"replicate" reload:"restart"`
	// Interval is how often everything is looked at, should nobody tell. Default 5m; 10s to 24h.
	Interval Duration `yaml:"interval" reload:"restart"`
	// Rate limits what is fetched, in bytes per second. Default 0: no limit; else at least 64KiB.
	Rate Bytes `yaml:"rate" reload:"restart"`
	// Keep is how many versions of a model stay on this node, those that are pinned or serve among them. Default 2;
	// 1 to 1000.
	Keep int `yaml:"keep" reload:"restart"`
	// MaxBytes bounds the copies of models on this node. What serves stays in any case. Default 0: no limit.
	MaxBytes Bytes `yaml:"max_bytes" reload:"restart"`
	// TrustedKeys are minisign public keys, as `akidbd model keygen` prints them. Versions that none of them signed
	// are not taken. Default none: everybody who can write into a bucket, and every node, is believed. At most 16.
	TrustedKeys []string `yaml:"trusted_keys" reload:"restart"`
}

// Remote is the bucket of another region.
type Remote struct {
	// Region is the node.region of the nodes there.
	Region string `yaml:"region" reload:"restart"`
	// Bucket, Endpoint, AWSRegion and PathStyle are as in Sync.
	Bucket    string `yaml:"bucket" reload:"restart"`
	Endpoint  string `yaml:"endpoint" reload:"restart"`
	AWSRegion string `yaml:"aws_region" reload:"restart"`
	PathStyle bool   `yaml:"path_style" reload:"restart"`
}

// Synced says whether models can arrive by themselves.
func (c *Config) Synced() bool { return c.Meshed() || c.Sync.Bucket != "" || len(c.Sync.Remotes) > 0 }

// SyncedModels are the names of those that do.
func (c *Config) SyncedModels() []string {
	var names []string
	for _, m := range c.Models {
		if m.Path == "" {
			names = append(names, m.Name)
		}
	}
	return names
}

const minRate = 64 << 10

func (k checker) sync(s Sync) {
	k.bucket("sync.bucket", s.Bucket, false)
	k.endpoint("sync.endpoint", s.Endpoint)
	if s.Endpoint != "" && s.Bucket == "" {
		k.problem("sync.endpoint", "set, but sync.bucket is not: which bucket there?")
	}
	k.atMost("sync.remotes", len(s.Remotes), 16, "buckets")
	for i, r := range s.Remotes {
		at := fmt.Sprintf("sync.remotes[%d]", i)
		if !placeName.MatchString(r.Region) {
			k.problem(at+".region", "%s, must be %s", quote(r.Region), placeNameRule)
		}
		k.bucket(at+".bucket", r.Bucket, true)
		k.endpoint(at+".endpoint", r.Endpoint)
		if r.Bucket != "" && r.Bucket == s.Bucket && r.Endpoint == s.Endpoint {
			k.problem(at+".bucket", "%s is sync.bucket, the one of this region", quote(r.Bucket))
		}
	}
	k.oneOf("sync.replicate", s.Replicate, switches)
	within(k, "sync.interval", s.Interval, Duration(10*time.Second), Duration(24*time.Hour))
	if s.Rate != 0 {
		within(k, "sync.rate", s.Rate, minRate, 1<<40)
	}
	within(k, "sync.keep", s.Keep, 1, 1000)
	within(k, "sync.max_bytes", s.MaxBytes, 0, 1<<50)
	k.atMost("sync.trusted_keys", len(s.TrustedKeys), 16, "keys")
	for i, key := range s.TrustedKeys {
		if len(key) != 56 || !strings.HasPrefix(key, "RW") {
			k.problem(fmt.Sprintf("sync.trusted_keys[%d]", i), "%s is no minisign public key, 56 characters that begin with RW", quote(key))
		}
	}
}

func (k checker) bucket(path, value string, required bool) {
	if value == "" {
		if required {
			k.problem(path, "missing, write for example s3://models-eu")
		}
		return
	}
	u, err := url.Parse(value)
	if err != nil || u.Scheme != "s3" || u.Host == "" || u.Port() != "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		k.problem(path, "%s is no bucket, write for example s3://models-eu or s3://models-eu/prefix", quote(value))
	}
}

func (k checker) endpoint(path, value string) {
	if value == "" {
		return
	}
	u, err := url.Parse(value)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		k.problem(path, "%s is no endpoint, write for example https://s3.example.org:9000", quote(value))
	}
}
