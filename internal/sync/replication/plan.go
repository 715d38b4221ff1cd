package replication

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Plan is all that two-way replication needs. Equal specs make equal plans, whichever side comes first.
type Plan struct {
	Account    string      `json:"account"`
	Directions []Direction `json:"directions"`
	Commands   []Command   `json:"commands"` // in order
}

// Direction is what carries objects one way.
type Direction struct {
	From          Side           `json:"from"`
	To            Side           `json:"to"`
	RoleName      string         `json:"role_name"`
	Trust         PolicyDocument `json:"trust_policy"`
	Permissions   PolicyDocument `json:"permission_policy"`
	Configuration Configuration  `json:"replication_configuration"`
}

// Command is one of the AWS command line's, with the Files of the plan in its directory.
type Command struct {
	Why string `json:"why"`
	Run string `json:"run"`

	shell string // what the script does, if more than Run
}

// File is a document of a plan.
type File struct {
	Name       string
	Data       []byte
	Executable bool
}

func (s Spec) role(from, to Side) string {
	return cmp.Or(s.RolePrefix, DefaultRolePrefix) + "-" + from.Region + "-to-" + to.Region
}

func ruleID(from, to Side) string { return "akidb-models-" + from.Region + "-to-" + to.Region }

// Build makes a plan. Its error is Spec.Check's.
func Build(s Spec) (*Plan, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	sides := slices.SortedFunc(slices.Values(s.Sides), func(a, b Side) int { return cmp.Compare(a.Region, b.Region) })
	p := &Plan{Account: s.Account, Directions: []Direction{s.direction(sides[0], sides[1]), s.direction(sides[1], sides[0])}}
	p.Commands = p.commands()
	return p, nil
}

func (s Spec) direction(from, to Side) Direction {
	role := s.role(from, to)
	priority, prefix := 1, from.layout()
	rule := Rule{
		ID: ruleID(from, to), Priority: &priority, Status: enabled, Filter: &Filter{Prefix: &prefix},
		SourceSelectionCriteria: &SourceSelectionCriteria{ReplicaModifications: &Switch{enabled}},
		Destination: Destination{
			Bucket:          to.arn(),
			ReplicationTime: &TimeControl{Status: enabled, Time: Minutes{RTCMinutes}},
			Metrics:         &Metrics{Status: enabled, EventThreshold: &Minutes{RTCMinutes}},
		},
		DeleteMarkerReplication: &Switch{enabled},
	}
	if from.KMSKey != "" {
		rule.SourceSelectionCriteria.SseKmsEncryptedObjects = &Switch{enabled}
		rule.Destination.EncryptionConfiguration = &EncryptionConfiguration{ReplicaKmsKeyID: to.KMSKey}
	}
	return Direction{
		From: from, To: to, RoleName: role, Trust: trustPolicy(s.Account, from), Permissions: permissionPolicy(from, to),
		Configuration: Configuration{Role: "arn:aws:iam::" + s.Account + ":role/" + role, Rules: []Rule{rule}},
	}
}

// Files are the documents that the commands name, and the script that runs them.
func (p *Plan) Files() ([]File, error) {
	var files []File
	for _, d := range p.Directions {
		for _, doc := range []struct {
			kind string
			what any
		}{{trustFile, d.Trust}, {policyFile, d.Permissions}, {replicationFile, d.Configuration}} {
			data, err := indented(doc.what)
			if err != nil {
				return nil, err
			}
			files = append(files, File{Name: d.From.Region + doc.kind, Data: data})
		}
	}
	return append(files, File{Name: ScriptName, Data: []byte(p.script()), Executable: true}), nil
}

func indented(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(v)
	return b.Bytes(), err
}

// Summary says in some lines what the plan does.
func (p *Plan) Summary() string {
	var b strings.Builder
	fmt.Fprintf(&b, "two-way replication of %s in account %s\n", p.Directions[0].From.layout(), p.Account)
	for _, d := range p.Directions {
		fmt.Fprintf(&b, "  %s (%s) to %s (%s)\n    rule %s\n    role %s\n", d.From.Bucket, d.From.Region, d.To.Bucket, d.To.Region, d.Configuration.Rules[0].ID, d.RoleName)
		if d.From.KMSKey != "" {
			fmt.Fprintf(&b, "    replicas are encrypted with %s\n", d.To.KMSKey)
		}
	}
	return b.String()
}
