package replication

import (
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

var update = flag.Bool("update", false, "write the golden files")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func spec() Spec {
	return Spec{Account: "123456789012", Sides: []Side{
		{Region: "us-west-1", Bucket: "akidb-models-us-west"}, {Region: "eu-central-1", Bucket: "akidb-models-eu-central"},
	}}
}

func encrypted() Spec {
	s := spec()
	s.Sides[0].KMSKey = "arn:aws:kms:us-west-1:123456789012:key/11111111-2222-3333-4444-555555555555"
	s.Sides[1].KMSKey = "arn:aws:kms:eu-central-1:123456789012:key/mrk-66666666777788889999aaaaaaaaaaaa"
	return s
}

func build(t *testing.T, s Spec) *Plan {
	t.Helper()
	p, err := Build(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func text(t *testing.T, p *Plan) string {
	t.Helper()
	files, err := p.Files()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, f := range files {
		b.WriteString("== " + f.Name + "\n" + string(f.Data))
	}
	return b.String()
}

func TestPlan(t *testing.T) {
	for name, s := range map[string]Spec{"plain": spec(), "kms": encrypted()} {
		t.Run(name, func(t *testing.T) {
			got := text(t, build(t, s))
			golden := filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("differs from %s (go test -update writes it):\n%s", golden, got)
			}
			slices.Reverse(s.Sides)
			if text(t, build(t, s)) != got {
				t.Error("the order of the sides changes the plan")
			}
		})
	}
}

// What a plan makes passes its own checks, also after a way through the AWS command line, and its script is one.
func TestPlanIsRight(t *testing.T) {
	withPrefix := encrypted()
	withPrefix.Sides[0].Prefix, withPrefix.Sides[1].Prefix = "team/a/", "team/a/"
	for name, s := range map[string]Spec{"plain": spec(), "kms": encrypted(), "prefix": withPrefix} {
		t.Run(name, func(t *testing.T) {
			p := build(t, s)
			for _, d := range p.Directions {
				data, err := json.Marshal(map[string]any{"ReplicationConfiguration": d.Configuration})
				if err != nil {
					t.Fatal(err)
				}
				c, err := ParseConfiguration(data)
				if err != nil {
					t.Fatal(err)
				}
				if !reflect.DeepEqual(c, d.Configuration) {
					t.Errorf("read back: %+v", c)
				}
				if err := d.CheckConfiguration(c); err != nil {
					t.Error(err)
				}
			}
			script := filepath.Join(t.TempDir(), ScriptName)
			if err := os.WriteFile(script, []byte(p.script()), 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.CommandContext(t.Context(), "sh", "-n", script).CombinedOutput(); err != nil {
				t.Errorf("sh -n: %v\n%s", err, out)
			}
		})
	}
}

// The script, run by a shell with a stand-in for the aws command that writes down what it is asked.
func TestScript(t *testing.T) {
	const notFound = "An error occurred (ReplicationConfigurationNotFoundError) when calling GetBucketReplication"
	tests := []struct {
		name, account, found, foundErr, role string
		fails                                string // what it says
		has, hasNot                          []string
	}{
		{
			name: "new", account: "123456789012", foundErr: notFound,
			has: []string{"iam create-role --role-name akidb-s3-replication-us-west-1-to-eu-central-1 --assume-role-policy-document file://us-west-1-trust.json", "s3api put-bucket-replication --bucket akidb-models-us-west"},
		},
		{
			name: "again", account: "123456789012", found: "akidb-models-$2", role: "there",
			has: []string{"iam update-assume-role-policy", "s3api put-bucket-replication --bucket akidb-models-eu-central"}, hasNot: []string{"create-role"},
		},
		{name: "other account", account: "999999999999", fails: "of account 999999999999, the plan is for 123456789012", hasNot: []string{"put-", "create-"}},
		{name: "other rules", account: "123456789012", found: "somebody-elses", fails: "has the replication rules somebody-elses", hasNot: []string{"put-", "create-"}},
		{name: "denied", account: "123456789012", foundErr: "An error occurred (AccessDenied)", fails: "AccessDenied", hasNot: []string{"put-", "create-"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			files, err := build(t, spec()).Files()
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range files {
				if err := os.WriteFile(filepath.Join(dir, f.Name), f.Data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			aws := `#!/bin/sh
echo "$*" >> "$LOG"
case "$1 $2 $*" in
"sts get-caller-identity "*) echo "$ACCOUNT" ;;
"s3api get-bucket-replication "*)
  [ -z "$FOUND_ERR" ] || { echo "$FOUND_ERR" >&2; exit 254; }
  case "$FOUND $*" in
  'akidb-models-$2 '*--region\ us-west-1*) echo akidb-models-us-west-1-to-eu-central-1 ;;
  'akidb-models-$2 '*) echo akidb-models-eu-central-1-to-us-west-1 ;;
  *) echo "$FOUND" ;;
  esac ;;
"iam get-role "*) [ -n "$ROLE" ] ;;
esac
`
			if err := os.WriteFile(filepath.Join(dir, "aws"), []byte(aws), 0o700); err != nil { //nolint:gosec // a program
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), "sh", filepath.Join(dir, ScriptName))
			log := filepath.Join(dir, "log")
			cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "LOG="+log, "ACCOUNT="+test.account, "FOUND="+test.found, "FOUND_ERR="+test.foundErr, "ROLE="+test.role)
			out, err := cmd.CombinedOutput()
			if (err != nil) != (test.fails != "") || !strings.Contains(string(out), test.fails) {
				t.Errorf("%v, %s", err, out)
			}
			asked, err := os.ReadFile(log)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range test.has {
				if !strings.Contains(string(asked), want) {
					t.Errorf("not asked: %s\n%s", want, asked)
				}
			}
			for _, not := range test.hasNot {
				if strings.Contains(string(asked), not) {
					t.Errorf("asked: %s\n%s", not, asked)
				}
			}
			versions := strings.LastIndex(string(asked), "put-bucket-versioning")
			if replication := strings.Index(string(asked), "put-bucket-replication"); replication >= 0 && replication < versions {
				t.Errorf("replication before versions:\n%s", asked)
			}
		})
	}
}

func TestParseSides(t *testing.T) {
	got, err := ParseSides("us-west-2=bucket-a, eu-central-1=s3://bucket-b/team/")
	want := []Side{{Region: "us-west-2", Bucket: "bucket-a"}, {Region: "eu-central-1", Bucket: "bucket-b", Prefix: "team/"}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"", "us-west-2", "=b", "us-west-2=", "us-west-2=http://x", "a=b,", strings.Repeat("a=b,", 2000)} {
		if got, err := ParseSides(bad); err == nil {
			t.Errorf("%.40q: %+v", bad, got)
		}
	}
}

// Whatever passes the rules makes a script without a value that a shell would take for more than a word.
func FuzzSpec(f *testing.F) {
	f.Add("us-west-2=bucket-a,eu-central-1=bucket-b", "123456789012", "akidb")
	f.Add("us-west-2=s3://a-b/x/,eu-central-1=s3://b-a/x/", "123456789012", "a$(id)")
	f.Fuzz(func(t *testing.T, regions, account, role string) {
		sides, err := ParseSides(regions)
		if err != nil {
			return
		}
		p, err := Build(Spec{Account: account, RolePrefix: role, Sides: sides})
		if err != nil {
			if len(Problems(err)) == 0 {
				t.Errorf("an error without problems: %v", err)
			}
			return
		}
		for _, c := range p.Commands {
			if strings.ContainsAny(strings.ReplaceAll(c.Run, "'ReplicationConfiguration.Rules[].ID'", ""), "$`'\"\\;|&<>()*?[]{}~#!\n\t") {
				t.Errorf("%q", c.Run)
			}
		}
	})
}

func FuzzParseConfiguration(f *testing.F) {
	p, err := Build(encrypted())
	if err != nil {
		f.Fatal(err)
	}
	for _, d := range p.Directions {
		data, err := json.Marshal(d.Configuration)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(`{"ReplicationConfiguration":{"Rules":[{"Prefix":"x","Priority":1},{"Filter":{"And":{}}}]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ParseConfiguration(data)
		if err != nil {
			return
		}
		for _, problem := range Problems(p.Directions[0].CheckConfiguration(c)) {
			if problem.Rule == "" {
				t.Errorf("no rule: %s", problem.Text)
			}
		}
	})
}
