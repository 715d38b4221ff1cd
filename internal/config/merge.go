package config

import "gopkg.in/yaml.v3"

// pair is one key of a mapping.
type pair struct {
	key   string
	value *yaml.Node
	line  int
}

// pairs lists the keys of a mapping, those merged in by "<<" last and only where the mapping or an earlier
// merge does not say otherwise. Keys that occur twice in one mapping are a problem.
func (d *decoder) pairs(n *yaml.Node, path string) []pair {
	var out []pair
	d.collect(n, path, make(map[string]bool), &out, 0)
	return out
}

func (d *decoder) collect(n *yaml.Node, path string, taken map[string]bool, out *[]pair, depth int) {
	here := make(map[string]int)
	var merges []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := follow(n.Content[i]), n.Content[i+1]
		if !d.spend(k) {
			return
		}
		if k.Kind != yaml.ScalarNode {
			d.problem(n.Content[i].Line, path, "%s where a key is expected", kindName(k))
			continue
		}
		if k.ShortTag() == "!!merge" {
			merges = append(merges, v)
			continue
		}
		line := n.Content[i].Line
		if first, twice := here[k.Value]; twice {
			d.problem(line, join(path, clip(k.Value)), "set twice, first on line %d", first)
			continue
		}
		here[k.Value] = line
		if !taken[k.Value] {
			*out = append(*out, pair{key: k.Value, value: v, line: line})
		}
	}
	for k := range here {
		taken[k] = true
	}
	for _, m := range merges {
		d.merge(m, path, taken, out, depth+1)
	}
}

// merge reads what "<<" leads to: a mapping or a list of mappings.
func (d *decoder) merge(n *yaml.Node, path string, taken map[string]bool, out *[]pair, depth int) {
	line := n.Line
	n = follow(n)
	switch {
	case !d.spend(n):
	case depth > maxMerges:
		d.problem(line, path, "<< leads through more than %d mappings", maxMerges)
	case n.Kind == yaml.MappingNode:
		d.collect(n, path, taken, out, depth)
	case n.Kind == yaml.SequenceNode:
		for _, e := range n.Content {
			d.merge(e, path, taken, out, depth+1)
		}
	default:
		d.problem(line, path, "<< merges a mapping or a list of mappings, here is %s", kindName(n))
	}
}
