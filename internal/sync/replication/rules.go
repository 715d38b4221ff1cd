package replication

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// RuleError is a rule that is broken.
type RuleError struct {
	Rule string `json:"rule"` // its name
	Text string `json:"text"` // which value breaks it, and what to do
}

func (p *RuleError) Error() string { return p.Rule + ": " + p.Text }

func problem(rule, format string, args ...any) error {
	return &RuleError{Rule: rule, Text: fmt.Sprintf(format, args...)}
}

// Problems takes an error of this package apart; one that is no RuleError gets the rule "".
func Problems(err error) []RuleError {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var list []RuleError
		for _, e := range joined.Unwrap() {
			list = append(list, Problems(e)...)
		}
		return list
	}
	if p, ok := errors.AsType[*RuleError](err); ok {
		return []RuleError{*p}
	}
	return []RuleError{{Text: err.Error()}}
}

var (
	accountForm = regexp.MustCompile(`^[0-9]{12}$`)
	regionForm  = regexp.MustCompile(`^[a-z]{2,3}(-[a-z]{2,12}){1,2}-[0-9]{1,2}$`)
	bucketForm  = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)
	prefixForm  = regexp.MustCompile(`^([A-Za-z0-9._-]+/)+$`) // no wildcard of IAM's
	roleForm    = regexp.MustCompile(`^[A-Za-z0-9+=,.@_-]+$`)
	keyForm     = regexp.MustCompile(`^arn:aws:kms:([a-z0-9-]+):([0-9]{12}):key/[A-Za-z0-9-]+$`)
)

// What S3 keeps for itself in names of buckets.
var (
	reservedStarts = [...]string{"xn--", "sthree-", "amzn-s3-demo-"}
	reservedEnds   = [...]string{"-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"}
)

// maxRole is how long IAM takes a role's name.
const maxRole = 64

// Check holds a spec against the rules. The error joins a RuleError for each that is broken.
func (s Spec) Check() error {
	var errs []error
	add := func(rule, format string, args ...any) { errs = append(errs, problem(rule, format, args...)) }
	if !accountForm.MatchString(s.Account) {
		add("account", "%.40q is no AWS account, must be 12 digits", s.Account)
	}
	if len(s.Sides) != 2 {
		add("two-sides", "%d regions, must be two: each pair of regions has a plan of its own", len(s.Sides))
		return errors.Join(errs...)
	}
	for _, side := range s.Sides {
		errs = append(errs, side.check())
	}
	a, b := s.Sides[0], s.Sides[1]
	if a.Region == b.Region {
		add("region-twice", "%s and %s are both in %s, must be in two regions", a.Bucket, b.Bucket, a.Region)
	}
	if a.Bucket == b.Bucket {
		add("bucket-twice", "%s is the bucket of both %s and %s, must be two buckets", a.Bucket, a.Region, b.Region)
	}
	if a.Prefix != b.Prefix {
		add("prefix", "%q in %s and %q in %s: S3 keeps the keys of objects, so both must be the same", a.Prefix, a.Bucket, b.Prefix, b.Bucket)
	}
	if (a.KMSKey == "") != (b.KMSKey == "") {
		with, without := a, b
		if a.KMSKey == "" {
			with, without = b, a
		}
		add("kms-both", "%s has a KMS key and %s has none: replicas of encrypted objects need a key of their own region, give one for each", with.Region, without.Region)
	}
	for _, name := range []string{s.role(a, b), s.role(b, a)} {
		if len(name) > maxRole || !roleForm.MatchString(name) {
			add("role-name", "%.100q has %d characters, must be at most %d of A-Z, a-z, 0-9 and +=,.@_-: choose another prefix", name, len(name), maxRole)
			break
		}
	}
	return errors.Join(errs...)
}

func (s Side) check() error {
	var errs []error
	if !regionForm.MatchString(s.Region) || strings.HasPrefix(s.Region, "cn-") || strings.HasPrefix(s.Region, "us-gov-") {
		errs = append(errs, problem("region", "%.40q is no region of the partition aws, must look like us-west-2", s.Region))
	}
	if why := bucketTrouble(s.Bucket); why != "" {
		errs = append(errs, problem("bucket-name", "%.80q %s", s.Bucket, why))
	}
	if s.Prefix != "" && (!prefixForm.MatchString(s.Prefix) || len(s.Prefix) > 512) {
		errs = append(errs, problem("prefix", "%.80q, must be at most 512 of A-Z, a-z, 0-9, '.', '_', '-' between slashes", s.Prefix))
	}
	if s.KMSKey != "" {
		switch m := keyForm.FindStringSubmatch(s.KMSKey); {
		case m == nil:
			errs = append(errs, problem("kms-key", "%.200q is no key, must be arn:aws:kms:REGION:ACCOUNT:key/ID (a policy cannot name an alias)", s.KMSKey))
		case m[1] != s.Region:
			errs = append(errs, problem("kms-region", "%.200s is a key of %s, the bucket %s is in %s: S3 needs a key of the bucket's region", s.KMSKey, m[1], s.Bucket, s.Region))
		}
	}
	return errors.Join(errs...)
}

// bucketTrouble says what is wrong with a bucket's name, "" for nothing.
func bucketTrouble(name string) string {
	_, notIP := netip.ParseAddr(name)
	switch {
	case len(name) < 3 || len(name) > 63:
		return fmt.Sprintf("has %d characters, a bucket's name has 3 to 63", len(name))
	case !bucketForm.MatchString(name):
		return "is no bucket's name, must be a-z, 0-9, '.' and '-', a letter or digit first and last"
	case strings.Contains(name, ".."):
		return "has two dots in a row"
	case notIP == nil:
		return "is an IP address"
	}
	for _, s := range reservedStarts {
		if strings.HasPrefix(name, s) {
			return "starts with " + s + ", which S3 keeps for itself"
		}
	}
	for _, s := range reservedEnds {
		if strings.HasSuffix(name, s) {
			return "ends with " + s + ", which S3 keeps for itself"
		}
	}
	return ""
}

// CheckConfiguration says what keeps the configuration of one side's bucket from carrying every model to the other
// side. The error joins a RuleError for each rule that is broken.
func (d Direction) CheckConfiguration(c Configuration) error {
	var errs []error
	add := func(rule, format string, args ...any) { errs = append(errs, problem(rule, format, args...)) }

	priorities, ids := map[int]string{}, map[string]bool{}
	var toOther, covering []Rule
	for i, r := range c.Rules {
		name := cmp.Or(r.ID, "number "+strconv.Itoa(i+1))
		if r.ID != "" && ids[r.ID] {
			add("rule-id", "two rules of %s are called %.255q", d.From.Bucket, r.ID)
		}
		ids[r.ID] = true
		if r.Priority != nil {
			if other, taken := priorities[*r.Priority]; taken {
				add("priority", "the rules %.255s and %.255s of %s both have priority %d, must differ", other, name, d.From.Bucket, *r.Priority)
			}
			priorities[*r.Priority] = name
		}
		if t := r.Destination.ReplicationTime; t != nil && t.Status == enabled {
			if m := r.Destination.Metrics; m == nil || m.Status != enabled || m.EventThreshold == nil || m.EventThreshold.Minutes != RTCMinutes {
				add("rtc-metrics", "rule %.255s of %s has replication time control without metrics: S3 needs Metrics Enabled with an EventThreshold of %d minutes", name, d.From.Bucket, RTCMinutes)
			}
		}
		if r.Destination.Bucket == d.To.arn() && r.Status == enabled {
			toOther = append(toOther, r)
			if prefix, all := r.prefix(); all && strings.HasPrefix(d.From.layout(), prefix) {
				covering = append(covering, r)
			}
		}
	}
	switch {
	case len(toOther) == 0:
		add("destination", "no enabled rule of %s goes to %s", d.From.Bucket, d.To.arn())
	case len(covering) == 0:
		var filters []string
		for _, r := range toOther {
			prefix, all := r.prefix()
			text := strconv.Quote(prefix)
			if !all {
				text += " with tags"
			}
			filters = append(filters, text)
		}
		add("filter", "%s of %s misses manifests, which are at %s<name>/versions/: one filter must be %q or shorter, without tags",
			strings.Join(filters, ", "), d.From.Bucket, d.From.layout(), d.From.layout())
	default: // of several that match an object, S3 goes by the one with the highest priority
		errs = append(errs, d.checkRule(slices.MaxFunc(covering, func(a, b Rule) int { return cmp.Compare(priority(a), priority(b)) })))
	}
	return errors.Join(errs...)
}

func priority(r Rule) int {
	if r.Priority == nil {
		return 0
	}
	return *r.Priority
}

// checkRule checks the rule that carries the models.
func (d Direction) checkRule(r Rule) error {
	var errs []error
	add := func(rule, format string, args ...any) {
		errs = append(errs, problem(rule, "rule %.255s of %s %s", r.ID, d.From.Bucket, fmt.Sprintf(format, args...)))
	}
	if t := r.Destination.ReplicationTime; t == nil || t.Status != enabled || t.Time.Minutes != RTCMinutes {
		add("rtc", "has no replication time control of %d minutes: replicas may take hours", RTCMinutes)
	}
	criteria := r.SourceSelectionCriteria
	if criteria == nil || !criteria.ReplicaModifications.on() {
		add("replica-modifications", "does not replicate changes of replicas, must have ReplicaModifications Enabled on both sides")
	}
	if !r.DeleteMarkerReplication.on() {
		add("delete-markers", "does not replicate delete markers: what `akidbd model gc` removes here stays there")
	}
	if d.From.KMSKey == "" {
		return errors.Join(errs...)
	}
	if criteria == nil || !criteria.SseKmsEncryptedObjects.on() {
		add("kms-selection", "leaves out objects that are encrypted with KMS, must have SseKmsEncryptedObjects Enabled")
	}
	if e := r.Destination.EncryptionConfiguration; e == nil {
		add("kms-replica-key", "has no key for replicas, must be %s", d.To.KMSKey)
	} else if e.ReplicaKmsKeyID != d.To.KMSKey {
		add("kms-replica-key", "has the key %.200s for replicas, must be %s", e.ReplicaKmsKeyID, d.To.KMSKey)
	}
	return errors.Join(errs...)
}
