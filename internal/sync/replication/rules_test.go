package replication

import (
	"encoding/json"
	"strings"
	"testing"
)

// broken checks that an error names the rule once, and the value.
func broken(t *testing.T, err error, rule, value string) {
	t.Helper()
	list := Problems(err)
	if len(list) != 1 || list[0].Rule != rule || !strings.Contains(list[0].Text, value) {
		t.Errorf("%+v, want rule %s with %q", list, rule, value)
	}
}

func TestSpecRules(t *testing.T) {
	tests := []struct {
		name, rule, value string
		change            func(*Spec)
	}{
		{"no account", "account", `""`, func(s *Spec) { s.Account = "" }},
		{"account", "account", "12345678901x", func(s *Spec) { s.Account = "12345678901x" }},
		{"one side", "two-sides", "1 regions", func(s *Spec) { s.Sides = s.Sides[:1] }},
		{"three sides", "two-sides", "3 regions", func(s *Spec) { s.Sides = append(s.Sides, Side{Region: "x", Bucket: "y"}) }},
		{"same region", "region-twice", "us-west-1", func(s *Spec) { s.Sides[1].Region = "us-west-1" }},
		{"same bucket", "bucket-twice", "akidb-models-us-west", func(s *Spec) { s.Sides[1].Bucket = "akidb-models-us-west" }},
		{"region", "region", "us_west_2", func(s *Spec) { s.Sides[0].Region = "us_west_2" }},
		{"other partition", "region", "cn-north-1", func(s *Spec) { s.Sides[0].Region = "cn-north-1" }},
		{"short bucket", "bucket-name", "2 characters", func(s *Spec) { s.Sides[0].Bucket = "ab" }},
		{"long bucket", "bucket-name", "64 characters", func(s *Spec) { s.Sides[0].Bucket = strings.Repeat("a", 64) }},
		{"upper case bucket", "bucket-name", "Models", func(s *Spec) { s.Sides[0].Bucket = "Models" }},
		{"bucket of dots", "bucket-name", "two dots", func(s *Spec) { s.Sides[0].Bucket = "a..b" }},
		{"bucket of an address", "bucket-name", "IP address", func(s *Spec) { s.Sides[0].Bucket = "192.168.0.1" }},
		{"reserved start", "bucket-name", "xn--", func(s *Spec) { s.Sides[0].Bucket = "xn--models" }},
		{"reserved end", "bucket-name", "--x-s3", func(s *Spec) { s.Sides[0].Bucket = "models--x-s3" }},
		{"two prefixes", "prefix", `"a/"`, func(s *Spec) { s.Sides[0].Prefix = "a/" }},
		{"role", "role-name", "a$(id)", func(s *Spec) { s.RolePrefix = "a$(id)" }},
		{"long role", "role-name", "at most 64", func(s *Spec) { s.RolePrefix = strings.Repeat("r", 50) }},
		{"one key", "kms-both", "eu-central-1", func(s *Spec) { s.Sides[0].KMSKey = encrypted().Sides[0].KMSKey }},
		{"key of the other region", "kms-region", "a key of eu-central-1", func(s *Spec) {
			*s = encrypted()
			s.Sides[0].KMSKey = s.Sides[1].KMSKey
		}},
		{"alias", "kms-key", "alias/models", func(s *Spec) {
			*s = encrypted()
			s.Sides[0].KMSKey = "arn:aws:kms:us-west-1:123456789012:alias/models"
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := spec()
			test.change(&s)
			_, err := Build(s)
			broken(t, err, test.rule, test.value)
		})
	}
	t.Run("wildcards in prefix", func(t *testing.T) {
		s := spec()
		s.Sides[0].Prefix, s.Sides[1].Prefix = "*/", "*/"
		if list := Problems(s.Check()); len(list) != 2 || list[0].Rule != "prefix" || !strings.Contains(list[0].Text, `"*/"`) {
			t.Errorf("%+v", list)
		}
	})
	t.Run("key of no side", func(t *testing.T) {
		s := spec()
		broken(t, s.AddKMSKey("ap-south-1="+encrypted().Sides[0].KMSKey), "kms-region", "ap-south-1")
	})
	t.Run("two keys", func(t *testing.T) {
		s := encrypted()
		broken(t, s.AddKMSKey("us-west-1=other"), "kms-region", "two KMS keys")
	})
}

func TestConfigurationRules(t *testing.T) {
	prefix := func(s string) *Filter { return &Filter{Prefix: &s} }
	other := func(c *Configuration) *Rule {
		r := c.Rules[0]
		two := 2
		r.ID, r.Priority, r.Filter, r.Destination = "other", &two, prefix("logs/"), Destination{Bucket: "arn:aws:s3:::elsewhere"}
		c.Rules = append(c.Rules, r)
		return &c.Rules[1]
	}
	tests := []struct {
		name, rule, value string
		change            func(c *Configuration)
	}{
		{"rule of another purpose", "", "", func(c *Configuration) { other(c) }},
		{"shorter filter", "", "", func(c *Configuration) { c.Rules[0].Filter = prefix("mod") }},
		{"no prefix", "", "", func(c *Configuration) { c.Rules[0].Filter = &Filter{} }},
		{"priority", "priority", "priority 2", func(c *Configuration) {
			other(c)
			c.Rules[0].Priority = c.Rules[1].Priority
		}},
		{"rule id", "rule-id", `"other"`, func(c *Configuration) {
			other(c)
			c.Rules[0].ID = "other"
		}},
		{"rtc without metrics", "rtc-metrics", "akidb-models-eu-central-1-to-us-west-1", func(c *Configuration) { c.Rules[0].Destination.Metrics = nil }},
		{"rtc without a threshold", "rtc-metrics", "15 minutes", func(c *Configuration) { c.Rules[0].Destination.Metrics = &Metrics{Status: enabled} }},
		{"no rtc", "rtc", "15 minutes", func(c *Configuration) { c.Rules[0].Destination.ReplicationTime = nil }},
		{"filter of one model", "filter", `"models/m/"`, func(c *Configuration) { c.Rules[0].Filter = prefix("models/m/") }},
		{"filter of tags", "filter", "with tags", func(c *Configuration) { c.Rules[0].Filter.Tag = &Tag{"a", "b"} }},
		{"filter of and", "filter", "with tags", func(c *Configuration) { c.Rules[0].Filter = &Filter{And: &AndFilter{Tags: []Tag{{"a", "b"}}}} }},
		{"disabled", "destination", "arn:aws:s3:::akidb-models-us-west", func(c *Configuration) { c.Rules[0].Status = "Disabled" }},
		{"elsewhere", "destination", "arn:aws:s3:::akidb-models-us-west", func(c *Configuration) { c.Rules[0].Destination.Bucket = "arn:aws:s3:::elsewhere" }},
		{"replica modifications", "replica-modifications", "akidb-models-eu-central", func(c *Configuration) { c.Rules[0].SourceSelectionCriteria.ReplicaModifications = nil }},
		{"delete markers", "delete-markers", "akidb-models-eu-central", func(c *Configuration) { c.Rules[0].DeleteMarkerReplication = &Switch{"Disabled"} }},
		{"kms left out", "kms-selection", "SseKmsEncryptedObjects", func(c *Configuration) { c.Rules[0].SourceSelectionCriteria.SseKmsEncryptedObjects = nil }},
		{"no replica key", "kms-replica-key", "key/1111", func(c *Configuration) { c.Rules[0].Destination.EncryptionConfiguration = nil }},
		{"replica key of the source", "kms-replica-key", "mrk-6666", func(c *Configuration) {
			c.Rules[0].Destination.EncryptionConfiguration.ReplicaKmsKeyID = encrypted().Sides[1].KMSKey
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			d := build(t, encrypted()).Directions[0]
			test.change(&d.Configuration)
			err := d.CheckConfiguration(d.Configuration)
			if test.rule == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			broken(t, err, test.rule, test.value)
		})
	}
}

// What people write by hand who leave out what S3 does not ask for.
func TestConfigurationByHand(t *testing.T) {
	c, err := ParseConfiguration([]byte(`{"Role": "arn:aws:iam::123456789012:role/x", "Rules": [{
		"Status": "Enabled", "Priority": 1, "DeleteMarkerReplication": {"Status": "Enabled"}, "Filter": {},
		"Destination": {"Bucket": "arn:aws:s3:::akidb-models-us-west", "ReplicationTime": {"Status": "Enabled", "Time": {"Minutes": 15}},
			"Metrics": {"Status": "Enabled", "EventThreshold": {"Minutes": 15}}}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	broken(t, build(t, spec()).Directions[0].CheckConfiguration(c), "replica-modifications", "both sides")
}

func TestParseConfigurationLimits(t *testing.T) {
	many, err := json.Marshal(Configuration{Rules: make([]Rule, maxRules+1)})
	if err != nil {
		t.Fatal(err)
	}
	for want, data := range map[string][]byte{
		"without rules": []byte("{}"), "in JSON": []byte("nothing"), "at most 2097152": make([]byte, maxConfiguration+1), "of 1001 rules": many,
	} {
		if _, err := ParseConfiguration(data); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
