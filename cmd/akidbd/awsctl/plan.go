package awsctl

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/akidb/akidbd/internal/sync/replication"
)

type planFlags struct {
	regions, account, rolePrefix, out string
	kms, check                        []string
	json                              bool
}

func planCommand() *cobra.Command {
	var f planFlags
	cmd := &cobra.Command{
		Use:   "plan --account ID --regions REGION=BUCKET,REGION=BUCKET",
		Short: "Write the policies, configurations and commands of two-way replication",
		Long: "Prints, or with --out writes, all that two-way replication of models needs: versioning, one role for each direction and\n" +
			"what it may do, the replication configurations, and a script of aws commands that applies them. Asks nobody and changes\n" +
			"nothing. With --check, says instead whether configurations that are in force do what the plan would.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := f.plan()
			switch {
			case err != nil:
				return err
			case len(f.check) > 0:
				return f.checkFiles(cmd.OutOrStdout(), p)
			case f.out != "":
				return f.write(cmd.OutOrStdout(), p)
			case f.json:
				return printJSON(cmd.OutOrStdout(), p)
			}
			return printPlan(cmd.OutOrStdout(), p)
		},
	}
	cmd.Flags().StringVar(&f.regions, "regions", "", "the two regions and their buckets, REGION=BUCKET,REGION=BUCKET; a bucket may be s3://name/prefix (required)")
	cmd.Flags().StringVar(&f.account, "account", "", "AWS account that owns the buckets, 12 digits (required)")
	cmd.Flags().StringArrayVar(&f.kms, "kms", nil, "REGION=ARN of the KMS key that encrypts the bucket there; once for each region")
	cmd.Flags().StringVar(&f.rolePrefix, "role-prefix", replication.DefaultRolePrefix, "start of the names of the two roles")
	cmd.Flags().StringVar(&f.out, "out", "", "directory to write the files and apply.sh into, instead of printing them")
	cmd.Flags().StringArrayVar(&f.check, "check", nil, "REGION=FILE, what aws s3api get-bucket-replication printed for the bucket there: hold it against the rules")
	cmd.Flags().BoolVar(&f.json, "json", false, "print JSON")
	_ = cmd.MarkFlagRequired("regions")
	_ = cmd.MarkFlagRequired("account")
	cmd.MarkFlagsMutuallyExclusive("out", "check")
	return cmd
}

func (f *planFlags) plan() (*replication.Plan, error) {
	sides, err := replication.ParseSides(f.regions)
	if err != nil {
		return nil, fmt.Errorf("--regions: %w", err)
	}
	spec := replication.Spec{Account: f.account, RolePrefix: f.rolePrefix, Sides: sides}
	for _, text := range f.kms {
		if err := spec.AddKMSKey(text); err != nil {
			return nil, fmt.Errorf("--kms: %w", err)
		}
	}
	return replication.Build(spec)
}

// printPlan prints every file: what is not written must be there to be read.
func printPlan(w io.Writer, p *replication.Plan) error {
	files, err := p.Files()
	if err != nil {
		return err
	}
	if _, err := io.WriteString(w, p.Summary()); err != nil {
		return err
	}
	for _, file := range files {
		if _, err := fmt.Fprintf(w, "\n== %s ==\n%s", file.Name, file.Data); err != nil {
			return err
		}
	}
	return nil
}

func (f *planFlags) write(w io.Writer, p *replication.Plan) error {
	files, err := p.Files()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(f.out, 0o755); err != nil {
		return err
	}
	var paths []string
	for _, file := range files {
		mode := os.FileMode(0o644)
		if file.Executable {
			mode = 0o755
		}
		path := filepath.Join(f.out, file.Name)
		if err := os.WriteFile(path, file.Data, mode); err != nil {
			return err
		}
		paths = append(paths, path)
	}
	if f.json {
		return printJSON(w, p)
	}
	_, err = fmt.Fprintf(w, "%s\n%s\n\nread them, then: sh %s\n", p.Summary(), strings.Join(paths, "\n"), filepath.Join(f.out, replication.ScriptName))
	return err
}

// checked is what --check found of one region.
type checked struct {
	Region   string                  `json:"region"`
	Bucket   string                  `json:"bucket"`
	Problems []replication.RuleError `json:"problems"`
}

func (f *planFlags) checkFiles(w io.Writer, p *replication.Plan) error {
	var results []checked
	broken := 0
	for _, text := range f.check {
		region, file, ok := strings.Cut(text, "=")
		if !ok {
			return fmt.Errorf("--check: %.200q is not REGION=FILE", text)
		}
		d, err := direction(p, region)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		c, err := replication.ParseConfiguration(data)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		problems := replication.Problems(d.CheckConfiguration(c))
		broken += len(problems)
		results = append(results, checked{Region: region, Bucket: d.From.Bucket, Problems: append([]replication.RuleError{}, problems...)})
	}
	if f.json {
		if err := printJSON(w, results); err != nil {
			return err
		}
	} else if err := printChecked(w, results); err != nil {
		return err
	}
	if broken > 0 {
		return fmt.Errorf("broken rules: %d", broken)
	}
	return nil
}

func direction(p *replication.Plan, region string) (replication.Direction, error) {
	for _, d := range p.Directions {
		if d.From.Region == region {
			return d, nil
		}
	}
	return replication.Direction{}, fmt.Errorf("--check: no bucket of --regions is in %.40q", region)
}

func printChecked(w io.Writer, results []checked) error {
	var errs []error
	for _, r := range results {
		if len(r.Problems) == 0 {
			_, err := fmt.Fprintf(w, "%s (%s): as it should be\n", r.Bucket, r.Region)
			errs = append(errs, err)
		}
		for _, p := range r.Problems {
			_, err := fmt.Fprintf(w, "%s (%s): %s: %s\n", r.Bucket, r.Region, p.Rule, p.Text)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
