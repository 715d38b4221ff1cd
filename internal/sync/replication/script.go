package replication

import (
	"fmt"
	"strings"
)

// ScriptName is that of the script among Plan.Files.
const ScriptName = "apply.sh"

// Ends of the names of documents; the region of the source comes before.
const (
	trustFile       = "-trust.json"
	policyFile      = "-policy.json"
	replicationFile = "-replication.json"
)

// commands are in the order that S3 asks for: versions on both sides before any replication, roles before what names
// them. Every value in them is one that the rules have let through, so that none needs quotes.
func (p *Plan) commands() []Command {
	var list []Command
	add := func(why, run, shell string) { list = append(list, Command{Why: why, Run: run, shell: shell}) }

	const whose = "aws sts get-caller-identity --query Account --output text"
	add("the credentials are those of account "+p.Account, whose,
		fmt.Sprintf("account=$(%s)\nif [ \"$account\" != %s ]; then\n  echo \"the credentials are of account $account, the plan is for %s\" >&2\n  exit 1\nfi", whose, p.Account, p.Account))
	for _, d := range p.Directions {
		get := p.s3api("get-bucket-replication", d.From) + " --query 'ReplicationConfiguration.Rules[].ID' --output text"
		add("the plan replaces what "+d.From.Bucket+" has, which must be nothing or this rule", get, guard(get, d))
	}
	for _, d := range p.Directions {
		add("versions in "+d.From.Bucket, p.s3api("put-bucket-versioning", d.From)+" --versioning-configuration Status=Enabled", "")
	}
	for _, d := range p.Directions {
		trust := "file://" + d.From.Region + trustFile
		create := "aws iam create-role --role-name " + d.RoleName + " --assume-role-policy-document " + trust
		add("the role that replicates from "+d.From.Region+" to "+d.To.Region, create, fmt.Sprintf(
			"if aws iam get-role --role-name %[1]s >/dev/null 2>&1; then\n  aws iam update-assume-role-policy --role-name %[1]s --policy-document %[2]s\nelse\n  %[3]s\nfi", d.RoleName, trust, create))
		add("what it may do", "aws iam put-role-policy --role-name "+d.RoleName+" --policy-name replicate --policy-document file://"+d.From.Region+policyFile, "")
		add("it is there", "aws iam wait role-exists --role-name "+d.RoleName, "")
	}
	for _, d := range p.Directions {
		add("replication from "+d.From.Bucket+" to "+d.To.Bucket,
			p.s3api("put-bucket-replication", d.From)+" --replication-configuration file://"+d.From.Region+replicationFile, "")
	}
	return list
}

// s3api names the owner too: a bucket that somebody else has made under the name is not touched.
func (p *Plan) s3api(verb string, s Side) string {
	return "aws s3api " + verb + " --bucket " + s.Bucket + " --region " + s.Region + " --expected-bucket-owner " + p.Account
}

// guard stops before the rules of somebody else are replaced: a bucket has one configuration.
func guard(get string, d Direction) string {
	return fmt.Sprintf(`if found=$(%s 2>&1); then
  if [ "$found" != %s ]; then
    echo "%s has the replication rules $found, which would be lost: bring them together by hand" >&2
    exit 1
  fi
else
  case "$found" in
  *ReplicationConfigurationNotFoundError*) ;;
  *) echo "$found" >&2; exit 1 ;;
  esac
fi`, get, d.Configuration.Rules[0].ID, d.From.Bucket)
}

func (p *Plan) script() string {
	var b strings.Builder
	b.WriteString("#!/bin/sh\n# Written by akidbd aws s3-replication plan. Read it before you run it; it may be run again.\n#\n")
	for line := range strings.Lines(p.Summary()) {
		b.WriteString("# " + line)
	}
	b.WriteString("#\n# The buckets must be there.\nset -eu\ncd -- \"$(dirname -- \"$0\")\"\n")
	for _, c := range p.Commands {
		run := c.Run
		if c.shell != "" {
			run = c.shell
		}
		b.WriteString("\n# " + c.Why + "\n" + run + "\n")
	}
	a, z := p.Directions[0].From, p.Directions[1].From
	fmt.Fprintf(&b, "\necho 'next: akidbd aws s3-replication verify --bucket %s=s3://%s --bucket %s=s3://%s'\n",
		a.Region, strings.TrimSuffix(a.Bucket+"/"+a.Prefix, "/"), z.Region, strings.TrimSuffix(z.Bucket+"/"+z.Prefix, "/"))
	return b.String()
}
