// Package replication sets up Amazon S3's own replication between the buckets of two regions, both ways, and measures
// whether it works.
//
// Build makes the documents and the commands of a plan; it asks nobody. Check and CheckConfiguration hold it, or what
// a bucket has already, against the rules: those of S3, and those without which models would not arrive. Verify writes
// a probe on each side and waits for it on the other.
package replication

import (
	"fmt"
	"strings"

	"github.com/akidb/akidbd/internal/sync/bucket"
)

const (
	// Layout is where models are in a bucket, below its prefix: blobs and manifests.
	Layout = "models/"
	// DefaultRolePrefix starts the names of the roles.
	DefaultRolePrefix = "akidb-s3-replication"
	// RTCMinutes is what S3 Replication Time Control promises for 99.99 % of objects, and the only value that it takes.
	RTCMinutes = 15
)

// Side is the bucket of one region.
type Side struct {
	Region string `json:"region"` // as AWS names it, us-west-2
	Bucket string `json:"bucket"`
	Prefix string `json:"prefix,omitempty"`  // "", or with a slash at its end; models are below it
	KMSKey string `json:"kms_key,omitempty"` // ARN of the key that encrypts the objects; "": S3's own keys
}

// layout is the prefix of all keys that must be replicated.
func (s Side) layout() string { return s.Prefix + Layout }

func (s Side) arn() string { return "arn:aws:s3:::" + s.Bucket }

// Spec is what a plan is made of.
type Spec struct {
	Account    string // 12 digits; owns both buckets
	RolePrefix string // "": DefaultRolePrefix
	Sides      []Side // two
}

// ParseSides reads "us-west-2=bucket-a,eu-central-1=bucket-b"; a bucket may also be s3://bucket or s3://bucket/prefix.
// It reads the form alone: Spec.Check knows the rules.
func ParseSides(text string) ([]Side, error) {
	if len(text) > 4096 {
		return nil, fmt.Errorf("regions and buckets are %d characters long, at most 4096", len(text))
	}
	var sides []Side
	for part := range strings.SplitSeq(text, ",") {
		region, name, ok := strings.Cut(strings.TrimSpace(part), "=")
		if !ok || region == "" || name == "" {
			return nil, fmt.Errorf("%.80q is not REGION=BUCKET, write for example us-west-2=models-us,eu-central-1=models-eu", part)
		}
		side := Side{Region: region, Bucket: name}
		if strings.Contains(name, "://") {
			var err error
			if side.Bucket, side.Prefix, err = bucket.ParseS3URL(name); err != nil {
				return nil, err
			}
		}
		sides = append(sides, side)
	}
	return sides, nil
}

// AddKMSKey sets the key of a region from "us-west-2=arn:aws:kms:us-west-2:123456789012:key/...".
func (s *Spec) AddKMSKey(text string) error {
	region, arn, ok := strings.Cut(text, "=")
	if !ok || region == "" || arn == "" {
		return fmt.Errorf("%.200q is not REGION=ARN of a KMS key", text)
	}
	for i := range s.Sides {
		if s.Sides[i].Region != region {
			continue
		}
		if s.Sides[i].KMSKey != "" {
			return problem("kms-region", "region %s has two KMS keys, %.100s and %.100s", region, s.Sides[i].KMSKey, arn)
		}
		s.Sides[i].KMSKey = arn
		return nil
	}
	return problem("kms-region", "a KMS key is given for region %.40q, which has no bucket", region)
}
