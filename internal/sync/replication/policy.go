package replication

// PolicyDocument is one of IAM's.
type PolicyDocument struct {
	Version   string
	Statement []Statement
}

// Statement allows actions.
type Statement struct {
	Sid       string
	Effect    string
	Principal *Principal `json:",omitempty"`
	Action    []string
	Resource  []string                       `json:",omitempty"`
	Condition map[string]map[string][]string `json:",omitempty"` // operator, key, values
}

// Principal is who.
type Principal struct{ Service string }

const policyVersion = "2012-10-17" // of IAM's language, not a date of ours

// trustPolicy lets S3 take the role for the one bucket alone, and not on behalf of another account.
func trustPolicy(account string, from Side) PolicyDocument {
	return PolicyDocument{Version: policyVersion, Statement: []Statement{{
		Sid: "S3ReplicatesThisBucket", Effect: "Allow", Principal: &Principal{Service: "s3.amazonaws.com"}, Action: []string{"sts:AssumeRole"},
		Condition: map[string]map[string][]string{
			"StringEquals": {"aws:SourceAccount": {account}},
			"ArnLike":      {"aws:SourceArn": {from.arn()}},
		},
	}}}
}

// permissionPolicy is what the role may do: read versions of models here and write replicas there. The actions on tags
// belong to it: without them an object that has tags is not replicated.
func permissionPolicy(from, to Side) PolicyDocument {
	source, replicas := []string{from.arn() + "/" + from.layout() + "*"}, []string{to.arn() + "/" + to.layout() + "*"}
	p := PolicyDocument{Version: policyVersion, Statement: []Statement{
		{Sid: "ReadConfiguration", Effect: "Allow", Action: []string{"s3:GetReplicationConfiguration", "s3:ListBucket"}, Resource: []string{from.arn()}},
		{
			Sid: "ReadVersions", Effect: "Allow", Resource: source,
			Action: []string{"s3:GetObjectVersionForReplication", "s3:GetObjectVersionAcl", "s3:GetObjectVersionTagging"},
		},
		{
			Sid: "WriteReplicas", Effect: "Allow", Resource: replicas,
			Action: []string{"s3:ReplicateObject", "s3:ReplicateDelete", "s3:ReplicateTags"},
		},
	}}
	if from.KMSKey != "" {
		p.Statement = append(p.Statement, keyStatement("DecryptSource", from, "kms:Decrypt"),
			keyStatement("EncryptReplicas", to, "kms:Encrypt", "kms:GenerateDataKey"))
	}
	return p
}

// keyStatement allows the use of a side's key through S3 alone. The context is the object's ARN, or the bucket's where
// S3 Bucket Keys are on.
func keyStatement(sid string, side Side, actions ...string) Statement {
	return Statement{
		Sid: sid, Effect: "Allow", Action: actions, Resource: []string{side.KMSKey},
		Condition: map[string]map[string][]string{
			"StringEquals": {"kms:ViaService": {"s3." + side.Region + ".amazonaws.com"}},
			"StringLike":   {"kms:EncryptionContext:aws:s3:arn": {side.arn(), side.arn() + "/" + side.layout() + "*"}},
		},
	}
}
