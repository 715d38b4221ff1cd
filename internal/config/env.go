package config

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
)

// envPrefix starts every variable that sets a key.
const envPrefix = "AKIDB_"

// otherVars are variables of akidb's commands that set no key.
var otherVars = []string{"AKIDB_API_KEY", "AKIDB_CACHE", "AKIDB_CONFIG", "AKIDB_URL"}

// serviceVars match what Kubernetes sets in every container for a Service whose name starts with "akidb".
var serviceVars = regexp.MustCompile(`^AKIDB_([A-Z0-9]+_)*(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

// variable is one variable of the environment.
type variable struct{ name, value string }

// splitEnv drops what is empty or no variable.
func splitEnv(env []string) []variable {
	var out []variable
	for _, e := range env {
		if name, value, ok := strings.Cut(e, "="); ok && value != "" {
			out = append(out, variable{name, value})
		}
	}
	return out
}

// applyPlainEnv sets the defaults that variables without our prefix give.
func applyPlainEnv(c *Config, vars []variable) {
	plain := []struct {
		name, path string
		to         *string
	}{
		{"REGION", "node.region", &c.Node.Region},
		{"CLUSTER_NAME", "node.cluster", &c.Node.Cluster},
		{"ENVIRONMENT", "node.environment", &c.Node.Environment},
	}
	for _, v := range vars {
		for _, p := range plain {
			if v.name == p.name {
				*p.to = v.value
				c.origins[p.path] = origin{source: v.name}
			}
		}
	}
}

// envName is the variable that sets the key at path.
func envName(path string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(path, ".", "_"))
}

// applyEnv sets what variables with our prefix say over what the file said.
func applyEnv(c *Config, vars []variable, r *report) {
	all := leaves(reflect.ValueOf(c).Elem(), "")
	names := make([]string, len(all))
	for i, l := range all {
		names[i] = envName(l.path)
	}
	for _, v := range vars {
		if !strings.HasPrefix(v.name, envPrefix) {
			continue
		}
		i := slices.Index(names, v.name)
		if i < 0 {
			if !slices.Contains(otherVars, v.name) && !serviceVars.MatchString(v.name) {
				r.add(Problem{Source: clip(v.name), Message: unknownVar(v.name, names)})
			}
			continue
		}
		for path := range c.origins { // those of list entries and pairs that the file had
			if strings.HasPrefix(path, all[i].path+"[") || strings.HasPrefix(path, all[i].path+".") {
				delete(c.origins, path)
			}
		}
		c.origins[all[i].path] = origin{source: v.name}
		if err := setFromEnv(all[i].value, v.value); err != nil {
			r.add(Problem{Source: v.name, Path: all[i].path, Message: err.Error()})
		}
	}
}

func unknownVar(name string, names []string) string {
	if meant := nearest(name, names); meant != "" {
		return "sets no key, did you mean " + meant + "?"
	}
	return "sets no key: a variable is " + envPrefix + " and the key path in capitals, AKIDB_ENGINE_THREADS for engine.threads"
}

// setFromEnv reads a scalar, a list "a,b" or pairs "a=x,b=y".
func setFromEnv(v reflect.Value, text string) error {
	switch {
	case isSectionList(v.Type()):
		return fmt.Errorf("cannot be set by a variable, set it in the file")
	case v.Kind() == reflect.Slice:
		var list []string
		for item := range strings.SplitSeq(text, ",") {
			list = append(list, strings.TrimSpace(item))
		}
		v.Set(reflect.ValueOf(list))
	case v.Kind() == reflect.Map:
		pairs := make(map[string]string)
		for item := range strings.SplitSeq(text, ",") {
			name, value, ok := strings.Cut(strings.TrimSpace(item), "=")
			if !ok {
				return fmt.Errorf("%s is no pair, write name=value,name=value", quote(item))
			}
			pairs[name] = value
		}
		v.Set(reflect.ValueOf(pairs))
	default:
		return setScalar(v, text)
	}
	return nil
}
