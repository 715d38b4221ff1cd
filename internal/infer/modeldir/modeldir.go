// Package modeldir reads a model directory in the layout of Hugging Face and sentence-transformers: what the
// model is, how its token vectors become one vector, how long an input may be. What it does not know how to
// serve it refuses, naming file and key.
package modeldir

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
)

// Read reads the model directory dir. It opens regular files of that directory only, follows no symbolic
// link and reads no weights. Errors name the file and the key at fault, and what is supported.
func Read(dir string) (Spec, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Spec{}, fmt.Errorf("model directory: %w", err)
	}
	defer root.Close()
	spec, err := read(files{root})
	if err != nil {
		return Spec{}, fmt.Errorf("model directory %s: %w", dir, err)
	}
	return spec, nil
}

func read(f files) (Spec, error) {
	var spec Spec
	cfg, err := readConfig(f)
	if err != nil {
		return Spec{}, err
	}
	if err := cfg.fill(&spec); err != nil {
		return Spec{}, fmt.Errorf("config.json: %w", err)
	}
	if err := readModules(f, cfg, &spec); err != nil {
		return Spec{}, err
	}
	if spec.MaxTokens, err = maxTokens(f, cfg, spec); err != nil {
		return Spec{}, err
	}
	if err := readPrompts(f, &spec); err != nil {
		return Spec{}, err
	}
	if err := findWeights(f, &spec); err != nil {
		return Spec{}, err
	}
	if spec.Golden, err = readGolden(f, spec); err != nil {
		return Spec{}, err
	}
	return spec, nil
}

// findWeights sets ONNX and Safetensors.
func findWeights(f files, spec *Spec) error {
	const weights = "model.safetensors"
	ok, err := f.regular(weights)
	if err != nil {
		return err
	}
	if ok {
		spec.Safetensors = weights
	}
	for _, name := range []string{"model.onnx", "onnx/model.onnx"} {
		if ok, err = f.regular(name); err != nil {
			return err
		}
		if ok {
			spec.ONNX = name
			return nil
		}
	}
	var found []string
	entries, err := fs.ReadDir(f.root.FS(), "onnx")
	if err == nil {
		for _, e := range entries {
			if ok, _ := path.Match("model*.onnx", e.Name()); ok && e.Type().IsRegular() {
				found = append(found, "onnx/"+e.Name())
			}
		}
	}
	switch {
	case len(found) == 1:
		spec.ONNX = found[0]
	case spec.Safetensors != "":
	case len(found) > 1:
		return fmt.Errorf("several graphs and no model.onnx among them: %s; name one of them model.onnx", strings.Join(found, ", "))
	default:
		return noWeights(f)
	}
	return nil
}

func noWeights(f files) error {
	const want = "no model.onnx, onnx/model*.onnx or model.safetensors"
	for name, hint := range map[string]string{
		"model.safetensors.index.json": "weights cut into several safetensors files are not supported; save the model as one file",
		"pytorch_model.bin":            "pytorch_model.bin is not read (pickle runs code); save the model as model.safetensors",
	} {
		if ok, _ := f.regular(name); ok {
			return fmt.Errorf("%s: %s", want, hint)
		}
	}
	return fmt.Errorf("%s", want)
}
