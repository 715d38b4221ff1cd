package awsctl

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	modelsync "github.com/akidb/akidbd/internal/sync"
	"github.com/akidb/akidbd/internal/sync/replication"
)

const regions = "us-west-1=akidb-models-us-west,eu-central-1=akidb-models-eu-central"

func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd := Command()
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	cmd.SetOut(&out)
	cmd.SetArgs(append([]string{"s3-replication"}, args...))
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func plan(t *testing.T, args ...string) (string, error) {
	t.Helper()
	return run(t, append([]string{"plan", "--account", "123456789012", "--regions", regions}, args...)...)
}

func TestPlanWritesAndPrintsTheSame(t *testing.T) {
	printed, err := plan(t)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "plan")
	if out, err := plan(t, "--out", dir); err != nil || !strings.Contains(out, "sh "+dir+"/apply.sh") {
		t.Fatalf("%s, %v", out, err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 7 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(printed, "== "+f.Name()+" ==\n"+string(data)) {
			t.Errorf("%s is not printed", f.Name())
		}
	}
	if info, err := os.Stat(filepath.Join(dir, "apply.sh")); err != nil || info.Mode().Perm()&0o100 == 0 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestPlanJSON(t *testing.T) {
	out, err := plan(t, "--json")
	if err != nil {
		t.Fatal(err)
	}
	var p replication.Plan
	if err := json.Unmarshal([]byte(out), &p); err != nil {
		t.Fatal(err)
	}
	if len(p.Directions) != 2 || p.Directions[0].From.Region != "eu-central-1" || len(p.Commands) == 0 || p.Commands[0].Run == "" {
		t.Errorf("%s", out)
	}
}

func TestPlanSaysWhatIsWrong(t *testing.T) {
	for _, test := range []struct {
		want string
		args []string
	}{
		{"bucket-twice: models is the bucket of both", []string{"--regions", "us-west-2=models,eu-central-1=models"}},
		{`account: "12" is no AWS account`, []string{"--account", "12"}},
		{"--kms: kms-region", []string{"--kms", "ap-south-1=arn:aws:kms:ap-south-1:123456789012:key/x"}},
		{"--regions: ", []string{"--regions", "us-west-2"}},
		{"--check: no bucket of --regions", []string{"--check", "us-west-2=x"}},
	} {
		if _, err := plan(t, test.args...); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v: %v", test.args, err)
		}
	}
	if _, err := run(t, "plan"); err == nil || !strings.Contains(err.Error(), "required") {
		t.Errorf("no flags: %v", err)
	}
}

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	if _, err := plan(t, "--out", dir); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "us-west-1-replication.json")
	if out, err := plan(t, "--check", "us-west-1="+file); err != nil || out != "akidb-models-us-west (us-west-1): as it should be\n" {
		t.Errorf("%s, %v", out, err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, bytes.ReplaceAll(data, []byte(`"models/"`), []byte(`"test/"`)), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := plan(t, "--check", "us-west-1="+file)
	if err == nil || err.Error() != "broken rules: 1" || !strings.Contains(out, `filter: "test/" of akidb-models-us-west misses manifests`) {
		t.Errorf("%s, %v", out, err)
	}
	if out, err = plan(t, "--json", "--check", "us-west-1="+file); err == nil || !strings.Contains(out, `"rule": "filter"`) {
		t.Errorf("%s, %v", out, err)
	}
}

func TestVerifySaysWhatIsWrong(t *testing.T) {
	a, b := "us-west-1=s3://models-us/x", "eu-central-1=models-eu"
	for _, test := range []struct {
		want string
		args []string
	}{
		{"is given 1 times", []string{"--bucket", a}},
		{"models-eu is both sides", []string{"--bucket", b, "--bucket", "s3://models-eu"}},
		{"--timeout 1h0m0s", []string{"--bucket", a, "--bucket", b, "--timeout", "1h"}},
		{"--interval 1ms", []string{"--bucket", a, "--bucket", b, "--interval", "1ms"}},
		{"is not s3://bucket", []string{"--bucket", a, "--bucket", "http://x"}},
		{"--endpoint is no endpoint", []string{"--bucket", a, "--bucket", b, "--endpoint", "http://user:secret@host"}},
		{"--endpoint is given 3 times", []string{"--bucket", a, "--bucket", b, "--endpoint", "x", "--endpoint", "y", "--endpoint", "z"}},
	} {
		if _, err := run(t, append([]string{"verify"}, test.args...)...); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v: %v", test.args, err)
		}
	}
	f := verifyFlags{buckets: []string{a, b}, endpoints: []string{"http://one"}, timeout: time.Minute, interval: time.Second}
	sides, err := f.where()
	if err != nil || sides[0].URL != "s3://models-us/x" || sides[0].Region != "us-west-1" || sides[1].URL != "s3://models-eu" || sides[1].Endpoint != "http://one" {
		t.Errorf("%+v, %v", sides, err)
	}
}

func TestReport(t *testing.T) {
	good := replication.Probe{From: "us", To: "eu", Arrived: true, Seconds: 3.25, Removed: true}
	bad := replication.Probe{From: "eu", To: "us", Seconds: 60, Removed: true, Error: "not there after 1m0s"}
	var out bytes.Buffer
	f := verifyFlags{}
	err := f.report(&out, replication.Report{Probes: []replication.Probe{good, bad}})
	want := "FROM  TO  ARRIVED  AFTER   REMOVED\nus    eu  yes      3.2 s   yes\neu    us  no       60.0 s  yes\n\neu to us: not there after 1m0s\n"
	if err == nil || err.Error() != "1 of 2 probes did not arrive" || out.String() != want {
		t.Errorf("%v\n%s", err, out.String())
	}
	out.Reset()
	f.json = true
	if err := f.report(&out, replication.Report{Probes: []replication.Probe{good, good}}); err != nil || !strings.Contains(out.String(), `"seconds": 3.25`) {
		t.Errorf("%v\n%s", err, out.String())
	}
}

// The filter of a plan carries what the nodes write.
func TestKeys(t *testing.T) {
	for _, key := range []string{modelsync.BlobKey("m", strings.Repeat("0", 64)), modelsync.ManifestKey(&modelsync.Manifest{Name: "m", Node: "n"})} {
		if !strings.HasPrefix(key, replication.Layout) {
			t.Errorf("%s is not below %s", key, replication.Layout)
		}
	}
}
