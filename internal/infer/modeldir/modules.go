package modeldir

import (
	"encoding/json"
	"fmt"
	"math"
	"path/filepath"
	"strings"

	"github.com/akidb/akidbd/internal/infer/pooling"
)

// module is an entry of modules.json: a step of sentence-transformers' chain.
type module struct {
	Path string `json:"path"` // folder of its settings
	Type string `json:"type"` // a Python class
}

const supportedModules = "supported: Transformer, Pooling and, after them, Normalize"

// kind is the class of a module, "" when it is not one of sentence-transformers' own.
func (m module) kind() string {
	if !strings.HasPrefix(m.Type, "sentence_transformers.") {
		return ""
	}
	return m.Type[strings.LastIndexByte(m.Type, '.')+1:]
}

// readModules sets Pooling and Normalize.
func readModules(f files, c config, spec *Spec) error {
	var modules []module
	ok, err := f.json("modules.json", maxConfigBytes, &modules)
	if err != nil {
		return err
	}
	if !ok {
		spec.Normalize = true
		spec.Pooling = pooling.Mean
		if c.causal() {
			spec.Pooling = pooling.Last
		}
		modules = []module{{Type: "sentence_transformers.models.Transformer"}}
		if has, err := f.regular("1_Pooling/config.json"); err != nil || !has {
			return err
		}
		modules = append(modules, module{Path: "1_Pooling", Type: "sentence_transformers.models.Pooling"})
	}
	for i, m := range modules {
		if err := readModule(f, i, m, spec); err != nil {
			return err
		}
	}
	if len(modules) < 2 {
		return fmt.Errorf("modules.json: %d modules, no Pooling among them; %s", len(modules), supportedModules)
	}
	return nil
}

func readModule(f files, i int, m module, spec *Spec) error {
	kind := m.kind()
	if i > 0 && (m.Path == "" && kind == "Pooling" || m.Path != "" && !filepath.IsLocal(filepath.FromSlash(m.Path))) {
		return fmt.Errorf("modules.json: path %q of module %d is not a folder of the model directory", m.Path, i)
	}
	switch {
	case i == 0 && kind == "Transformer":
		if m.Path != "" {
			return fmt.Errorf("modules.json: path of module 0 is %q; a Transformer in a folder of its own is not supported, move its files into the model directory", m.Path)
		}
		return nil
	case i == 1 && kind == "Pooling":
		return readPooling(f, m.Path+"/config.json", spec)
	case i == 2 && kind == "Normalize":
		spec.Normalize = true
		return checkNormalize(f, m.Path)
	}
	return fmt.Errorf("modules.json: module %d of type %q is not supported here; %s", i, m.Type, supportedModules)
}

// poolingFlags is the keys that were used before pooling_mode, in the order in which sentence-transformers
// puts their results behind each other.
func poolingFlags() [][2]string {
	return [][2]string{
		{"pooling_mode_cls_token", "cls"},
		{"pooling_mode_max_tokens", "max"},
		{"pooling_mode_mean_tokens", "mean"},
		{"pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens"},
		{"pooling_mode_weightedmean_tokens", "weightedmean"},
		{"pooling_mode_lasttoken", "lasttoken"},
	}
}

// readPooling sets Pooling from the settings of a Pooling module.
func readPooling(f files, name string, spec *Spec) error {
	var keys map[string]json.RawMessage
	ok, err := f.json(name, maxConfigBytes, &keys)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("%s: no such file, but modules.json names it", name)
	}
	modes, err := poolingModes(keys)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if len(modes) != 1 {
		return fmt.Errorf("%s: %d poolings at once (%s) are not supported; supported: one", name, len(modes), strings.Join(modes, ", "))
	}
	if spec.Pooling, err = pooling.Parse(modes[0]); err != nil {
		return fmt.Errorf("%s: pooling_mode: %w", name, err)
	}
	for _, key := range []string{"word_embedding_dimension", "embedding_dimension"} {
		raw, ok := keys[key]
		if !ok {
			continue
		}
		var dim int
		if err := json.Unmarshal(raw, &dim); err != nil {
			return fmt.Errorf("%s: %s: %w", name, key, err)
		}
		if dim != spec.Hidden {
			return fmt.Errorf("%s: %s is %d, but the hidden size of config.json is %d", name, key, dim, spec.Hidden)
		}
	}
	include := true
	if raw, ok := keys["include_prompt"]; ok {
		if err := json.Unmarshal(raw, &include); err != nil {
			return fmt.Errorf("%s: include_prompt: %w", name, err)
		}
	}
	if !include {
		return fmt.Errorf("%s: include_prompt false (tokens of the prompt left out of the pooling) is not supported; supported: true", name)
	}
	return nil
}

// poolingModes gives the names of the poolings in use and refuses keys that it does not know.
func poolingModes(keys map[string]json.RawMessage) ([]string, error) {
	known := map[string]bool{
		"pooling_mode": true, "word_embedding_dimension": true, "embedding_dimension": true, "include_prompt": true,
	}
	var modes []string
	for _, flag := range poolingFlags() {
		known[flag[0]] = true
		raw, ok := keys[flag[0]]
		if !ok {
			continue
		}
		var on bool
		if err := json.Unmarshal(raw, &on); err != nil {
			return nil, fmt.Errorf("%s: %w", flag[0], err)
		}
		if on {
			modes = append(modes, flag[1])
		}
	}
	for key := range keys {
		if !known[key] {
			return nil, fmt.Errorf("unknown key %q", key)
		}
	}
	raw, ok := keys["pooling_mode"]
	if !ok {
		if len(modes) == 0 {
			return []string{"mean"}, nil
		}
		return modes, nil
	}
	var one string
	if json.Unmarshal(raw, &one) == nil {
		return []string{one}, nil
	}
	var several []string
	if err := json.Unmarshal(raw, &several); err != nil {
		return nil, fmt.Errorf("pooling_mode is neither a name nor a list of names")
	}
	return several, nil
}

// checkNormalize refuses a Normalize module that works on anything but the pooled vector.
func checkNormalize(f files, folder string) error {
	if folder == "" {
		return nil
	}
	var s struct {
		Input  *string `json:"module_input_name"`
		Output *string `json:"module_output_name"`
	}
	name := folder + "/config.json"
	if _, err := f.json(name, maxConfigBytes, &s); err != nil {
		return err
	}
	for key, v := range map[string]*string{"module_input_name": s.Input, "module_output_name": s.Output} {
		if v != nil && *v != "sentence_embedding" {
			return fmt.Errorf("%s: %s %q is not supported; supported: sentence_embedding", name, key, *v)
		}
	}
	return nil
}

// readPrompts sets Prompts and DefaultPrompt.
func readPrompts(f files, spec *Spec) error {
	const name = "config_sentence_transformers.json"
	var s struct {
		Prompts map[string]*string `json:"prompts"`
		Default *string            `json:"default_prompt_name"`
	}
	if _, err := f.json(name, maxConfigBytes, &s); err != nil {
		return err
	}
	for key, text := range s.Prompts {
		if spec.Prompts == nil {
			spec.Prompts = make(map[string]string, len(s.Prompts))
		}
		if text == nil {
			spec.Prompts[key] = ""
			continue
		}
		spec.Prompts[key] = *text
	}
	if s.Default == nil {
		return nil
	}
	if _, ok := spec.Prompts[*s.Default]; !ok {
		return fmt.Errorf("%s: default_prompt_name %q is not a key of prompts", name, *s.Default)
	}
	spec.DefaultPrompt = *s.Default
	return nil
}

// readGolden reads golden.json, nil when there is none.
func readGolden(f files, spec Spec) (*Golden, error) {
	const name = "golden.json"
	var g Golden
	ok, err := f.json(name, maxGoldenBytes, &g)
	if err != nil || !ok {
		return nil, err
	}
	if len(g.Texts) == 0 || len(g.Texts) != len(g.Vectors) {
		return nil, fmt.Errorf("%s: %d texts and %d vectors; want as many of each and at least one", name, len(g.Texts), len(g.Vectors))
	}
	for i, v := range g.Vectors {
		if len(v) != spec.Hidden {
			return nil, fmt.Errorf("%s: vector %d has %d dimensions, the model has %d", name, i, len(v), spec.Hidden)
		}
		var sum float64
		for _, x := range v {
			sum += float64(x) * float64(x)
		}
		if sum == 0 || math.IsInf(sum, 0) {
			return nil, fmt.Errorf("%s: vector %d has no direction", name, i)
		}
	}
	return &g, nil
}
