package arch

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/akidb/akidbd/"

// arrows says what each package may import of this module, floor by floor: an arrow never goes up, and services
// never import services. A new package needs a line here. Tests may also import what testArrows gives.
var arrows = map[string][]string{
	// floor 0: words, and what knows no word
	"internal/embedding":                         {},
	"internal/config":                            {},
	"internal/telemetry":                         {},
	"internal/telemetry/otlptest":                {},
	"internal/atomicfile":                        {},
	"internal/testlog":                           {},
	"internal/loadgen":                           {"internal/embedding"},
	"conf":                                       {},
	"internal/gen/akidb/v1":                      {},
	"internal/gen/akidb/v1/akidbv1connect":       {"internal/gen/akidb/v1"},
	"internal/gen/akidb/admin/v1":                {},
	"internal/gen/akidb/peer/v1":                 {},
	"internal/gen/akidb/admin/v1/adminv1connect": {"internal/gen/akidb/admin/v1"},
	"internal/tokenizer":                         {},
	"internal/infer/pooling":                     {},
	"internal/infer/graph":                       {},
	"internal/infer/modeldir":                    {"internal/infer/pooling"},
	"internal/infer/testmodels":                  {},
	"internal/infer/testmodels/reference":        {},
	"internal/arch":                              {},

	// floor 1: the engine, the store, the door
	"internal/node":      {"internal/embedding"},
	"internal/store":     {"internal/atomicfile", "internal/embedding"},
	"internal/infer":     {"internal/embedding", "internal/tokenizer", "internal/infer/graph", "internal/infer/modeldir", "internal/infer/pooling"},
	"internal/api":       {"internal/embedding", "internal/gen/akidb/v1", "internal/gen/akidb/v1/akidbv1connect"},
	"internal/api/admin": {"internal/embedding", "internal/node", "internal/gen/akidb/admin/v1", "internal/gen/akidb/admin/v1/adminv1connect"},

	// floor 2: who answers, and what computes
	"internal/pki":                    {"internal/atomicfile", "internal/node"},
	"internal/peer":                   {"internal/atomicfile", "internal/embedding", "internal/node", "internal/gen/akidb/peer/v1"},
	"internal/gossip":                 {"internal/atomicfile", "internal/node"},
	"internal/router":                 {"internal/embedding", "internal/node"},
	"internal/sync":                   {"internal/atomicfile", "internal/embedding", "internal/node", "internal/store", "internal/sync/bucket"},
	"internal/sync/bucket":            {},
	"internal/sync/bucket/buckettest": {"internal/sync/bucket"},
	"internal/sync/hub":               {"internal/store"},
	"internal/sync/replication":       {"internal/sync/bucket"},
	"internal/infer/worker":           {"internal/embedding", "internal/infer", "internal/infer/modeldir", "internal/infer/pooling"},
	"internal/infer/ort":              {"internal/embedding", "internal/infer", "internal/infer/graph", "internal/infer/modeldir", "internal/infer/pooling"},
	"internal/infer/backendtest":      {"internal/infer"},

	// floor 3: the node
	"internal/daemon": {
		"internal/api", "internal/api/admin", "internal/atomicfile", "internal/config", "internal/embedding", "internal/infer", "internal/node",
		"internal/gossip", "internal/peer", "internal/pki", "internal/router", "internal/store", "internal/sync", "internal/sync/bucket", "internal/sync/hub", "internal/telemetry",
	},
	"internal/daemon/daemontest": {
		"internal/config", "internal/daemon", "internal/embedding", "internal/infer", "internal/infer/backendtest", "internal/infer/testmodels",
		"internal/node", "internal/pki", "internal/telemetry",
	},

	// floor 4: the machine
	"cmd/akidbd": {
		"conf", "cmd/akidbd/awsctl", "cmd/akidbd/bench", "cmd/akidbd/client", "cmd/akidbd/modelctl", "cmd/akidbd/doctor", "internal/api/admin", "internal/config", "internal/daemon",
		"internal/gen/akidb/admin/v1", "internal/gen/akidb/admin/v1/adminv1connect", "internal/infer", "internal/infer/ort", "internal/infer/worker",
		"internal/node", "internal/pki", "internal/sync/bucket",
		"internal/telemetry",
	},
	"cmd/akidbd/awsctl": {"internal/sync", "internal/sync/bucket", "internal/sync/replication"}, // internal/sync: its test alone
	"cmd/akidbd/bench":  {"cmd/akidbd/client", "internal/loadgen"},
	"cmd/akidbd/client": {"internal/embedding"},
	"cmd/akidbd/modelctl": {
		"internal/config", "internal/embedding", "internal/gen/akidb/admin/v1", "internal/gen/akidb/admin/v1/adminv1connect", "internal/node",
		"internal/store", "internal/sync", "internal/sync/bucket", "internal/sync/hub",
	},
	"cmd/akidbd/doctor": {"internal/config", "internal/infer", "internal/pki"},

	// beside the product
	"systemd":         {},
	"systemd/package": {},
	"test/systemd":    {"test/lab/netlab"},
	"test/clients":    {},
	"test/fetch":      {},
	"test/mesh":       {},
	"test/lab": {
		"internal/config", "internal/daemon", "internal/infer", "internal/infer/backendtest", "internal/loadgen", "internal/telemetry",
		"test/lab/netlab",
	},
	"test/lab/netlab": {},
	"test/bench":      {"internal/api", "internal/embedding", "internal/infer", "internal/infer/graph", "internal/infer/modeldir", "internal/infer/ort", "internal/infer/pooling", "internal/infer/worker", "internal/loadgen", "internal/tokenizer", "internal/daemon", "internal/config", "internal/telemetry"},
	"test/e2e":        {},
}

// testArrows is what any test may import besides.
var testArrows = []string{"internal/testlog", "internal/embedding", "internal/infer/testmodels", "internal/infer/testmodels/reference", "internal/infer/backendtest", "internal/infer/modeldir", "internal/infer/pooling", "internal/sync/bucket/buckettest", "internal/telemetry/otlptest"}

// owners says which packages may import a dependency that reaches outside the process. Keys are prefixes.
var owners = map[string][]string{
	"C":                                      {"internal/infer/ort"},
	"github.com/yalue/onnxruntime_go":        {"internal/infer/ort"},
	"github.com/hashicorp/memberlist":        {"internal/gossip"},
	"github.com/quic-go/quic-go":             {"internal/peer"},
	"github.com/aws/aws-sdk-go-v2":           {"internal/sync/bucket", "internal/mesh"},
	"istio.io/api":                           {"internal/mesh"},
	"github.com/envoyproxy/go-control-plane": {"internal/mesh"},
	"go.opentelemetry.io/otel/sdk":           {"internal/telemetry"},
	"go.opentelemetry.io/otel/exporters":     {"internal/telemetry"},
	"github.com/coreos/go-systemd":           {"cmd/akidbd"},
	"gopkg.in/yaml.v3":                       {"internal/config"},
	"github.com/spf13/cobra":                 {"cmd/akidbd", "cmd/akidbd/awsctl", "cmd/akidbd/bench", "cmd/akidbd/client", "cmd/akidbd/modelctl"},
	"connectrpc.com":                         {"internal/api", "internal/api/admin", "internal/gen/akidb/v1/akidbv1connect", "internal/gen/akidb/admin/v1/adminv1connect", "cmd/akidbd", "cmd/akidbd/modelctl"},
}

type goFile struct {
	pkg, name string
	imports   []string
}

// goFiles parses every Go file of this module. It reads the files itself: a test that asked `go list` would be
// cached although they changed.
func goFiles(t *testing.T) []goFile {
	t.Helper()
	const root = "../.."
	var files []goFile
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if p != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata") {
				return filepath.SkipDir
			}
			if _, err := os.Stat(filepath.Join(p, "go.mod")); err == nil && p != root {
				return filepath.SkipDir // a tool with a module of its own
			}
			return nil
		}
		if !strings.HasSuffix(p, ".go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, filepath.Dir(p))
		if err != nil {
			return err
		}
		g := goFile{pkg: filepath.ToSlash(rel), name: path.Base(p)}
		for _, imp := range f.Imports {
			name, err := strconv.Unquote(imp.Path.Value)
			if err != nil {
				return err
			}
			g.imports = append(g.imports, name)
		}
		files = append(files, g)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestArrows(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range goFiles(t) {
		allowed, known := arrows[f.pkg]
		if !known {
			t.Errorf("%s/%s: package %s is not in the map: give it a floor", f.pkg, f.name, f.pkg)
			continue
		}
		seen[f.pkg] = true
		test := strings.HasSuffix(f.name, "_test.go")
		for _, imp := range f.imports {
			to, own := strings.CutPrefix(imp, module)
			if !own || to == f.pkg || slices.Contains(allowed, to) || (test && slices.Contains(testArrows, to)) {
				continue
			}
			t.Errorf("%s/%s imports %s: %s may import %v", f.pkg, f.name, to, f.pkg, allowed)
		}
	}
	for pkg := range arrows {
		if !seen[pkg] {
			t.Errorf("package %s is in the map but not in the tree: remove its line", pkg)
		}
	}
}

func TestOwners(t *testing.T) {
	for _, f := range goFiles(t) {
		for _, imp := range f.imports {
			for dep, pkgs := range owners {
				if (imp == dep || strings.HasPrefix(imp, dep+"/")) && !slices.Contains(pkgs, f.pkg) &&
					!strings.HasSuffix(f.name, "_test.go") {
					t.Errorf("%s/%s imports %s, which belongs to %v", f.pkg, f.name, imp, pkgs)
				}
			}
		}
	}
}

// TestGoleakIsOn: a package with tests proves that it leaves no goroutine behind.
func TestGoleakIsOn(t *testing.T) {
	on := map[string]bool{}
	for _, f := range goFiles(t) {
		if !strings.HasSuffix(f.name, "_test.go") || !strings.HasPrefix(f.pkg, "internal/") || f.pkg == "internal/arch" {
			continue
		}
		on[f.pkg] = on[f.pkg] || slices.Contains(f.imports, "go.uber.org/goleak")
	}
	for pkg, ok := range on {
		if !ok {
			t.Errorf("no test of %s imports goleak: add a TestMain that calls goleak.VerifyTestMain", pkg)
		}
	}
}

// TestMapHasNoCycle also proves that the floors exist: a graph without a cycle can be laid out in floors.
func TestMapHasNoCycle(t *testing.T) {
	state := map[string]int{}
	var visit func(pkg string, trail []string)
	visit = func(pkg string, trail []string) {
		switch state[pkg] {
		case 1:
			t.Fatalf("cycle: %v", append(trail, pkg))
		case 2:
			return
		}
		state[pkg] = 1
		for _, to := range arrows[pkg] {
			visit(to, append(trail, pkg))
		}
		state[pkg] = 2
	}
	for pkg := range arrows {
		visit(pkg, nil)
	}
}
