package replication

import (
	"encoding/json"
	"fmt"
)

// Limits of ParseConfiguration: S3 takes 1000 rules and 2 MB.
const (
	maxConfiguration = 2 << 20
	maxRules         = 1000
)

// Configuration is S3's replication configuration of one bucket, as `aws s3api put-bucket-replication` reads it.
type Configuration struct {
	Role  string
	Rules []Rule
}

// Rule is one of a Configuration. The fields that a plan does not use are those that its checks read.
type Rule struct {
	ID                      string
	Priority                *int `json:",omitempty"`
	Status                  string
	Prefix                  *string                  `json:",omitempty"` // of the first version of configurations, in place of Filter
	Filter                  *Filter                  `json:",omitempty"`
	SourceSelectionCriteria *SourceSelectionCriteria `json:",omitempty"`
	Destination             Destination
	DeleteMarkerReplication *Switch `json:",omitempty"`
}

// Filter says which objects a Rule is for; empty: all.
type Filter struct {
	Prefix *string    `json:",omitempty"`
	Tag    *Tag       `json:",omitempty"`
	And    *AndFilter `json:",omitempty"`
}

// AndFilter is for objects with the prefix and all tags.
type AndFilter struct {
	Prefix *string `json:",omitempty"`
	Tags   []Tag   `json:",omitempty"`
}

// Tag is one of an object.
type Tag struct{ Key, Value string }

// Switch is on with Status "Enabled".
type Switch struct{ Status string }

const enabled = "Enabled"

func (s *Switch) on() bool { return s != nil && s.Status == enabled }

// SourceSelectionCriteria switches on what S3 leaves out by itself.
type SourceSelectionCriteria struct {
	ReplicaModifications   *Switch `json:",omitempty"` // changes of the metadata of replicas
	SseKmsEncryptedObjects *Switch `json:",omitempty"`
}

// Destination is where replicas go.
type Destination struct {
	Bucket                  string                   // ARN
	EncryptionConfiguration *EncryptionConfiguration `json:",omitempty"`
	ReplicationTime         *TimeControl             `json:",omitempty"`
	Metrics                 *Metrics                 `json:",omitempty"`
}

// EncryptionConfiguration names the key of replicas whose source is encrypted with KMS.
type EncryptionConfiguration struct{ ReplicaKmsKeyID string }

// TimeControl is S3 Replication Time Control.
type TimeControl struct {
	Status string
	Time   Minutes
}

// Metrics are of replication: latency, bytes and operations pending, failures.
type Metrics struct {
	Status         string
	EventThreshold *Minutes `json:",omitempty"`
}

// Minutes is a time of S3's.
type Minutes struct{ Minutes int }

// prefix is what the keys of a rule start with, and whether all objects with it are meant.
func (r Rule) prefix() (prefix string, all bool) {
	switch f := r.Filter; {
	case f == nil:
		return deref(r.Prefix), true
	case f.And != nil:
		return deref(f.And.Prefix), len(f.And.Tags) == 0
	default:
		return deref(f.Prefix), f.Tag == nil
	}
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// ParseConfiguration reads what `aws s3api get-bucket-replication` prints, or what put-bucket-replication takes; at
// most 2 MiB and 1000 rules.
func ParseConfiguration(data []byte) (Configuration, error) {
	if len(data) > maxConfiguration {
		return Configuration{}, fmt.Errorf("a replication configuration of %d bytes, at most %d", len(data), maxConfiguration)
	}
	var in struct {
		ReplicationConfiguration *Configuration
		Configuration
	}
	if err := json.Unmarshal(data, &in); err != nil {
		return Configuration{}, fmt.Errorf("no replication configuration in JSON: %w", err)
	}
	c := in.Configuration
	if in.ReplicationConfiguration != nil {
		c = *in.ReplicationConfiguration
	}
	switch {
	case len(c.Rules) == 0:
		return Configuration{}, fmt.Errorf("a replication configuration without rules: is it what `aws s3api get-bucket-replication` printed?")
	case len(c.Rules) > maxRules:
		return Configuration{}, fmt.Errorf("a replication configuration of %d rules, at most %d", len(c.Rules), maxRules)
	}
	return c, nil
}
