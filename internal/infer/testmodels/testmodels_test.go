package testmodels

import (
	"math"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/akidb/akidbd/internal/infer/pooling"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestLoad(t *testing.T) {
	for _, name := range Names() {
		e := Load(t, name)
		if e.Dim != 32 || len(e.Rows) != 8 || len(e.Pooled) != len(pooling.Modes()) {
			t.Errorf("%s: %d dimensions, %d rows, %d poolings", name, e.Dim, len(e.Rows), len(e.Pooled))
		}
		for mode, vectors := range e.Pooled {
			for i, v := range vectors {
				for _, x := range v {
					if math.IsNaN(float64(x)) || math.IsInf(float64(x), 0) {
						t.Fatalf("%s: %s of row %d is not finite", name, mode, i)
					}
				}
			}
		}
	}
}

func TestDirIsACopy(t *testing.T) {
	a, b := Dir(t, BERT), Dir(t, BERT)
	if err := os.WriteFile(filepath.Join(a, "config.json"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadFile(filepath.Join(b, "config.json"))
	if err != nil || len(left) == 0 {
		t.Fatalf("the other copy has %d bytes of config.json, %v", len(left), err)
	}
}
