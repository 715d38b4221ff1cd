package backendtest

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/akidb/akidbd/internal/infer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFakeConforms(t *testing.T) {
	Conformance(t, func(*testing.T) Subject {
		return Subject{
			Backend:   NewFake(infer.Caps{Provider: "cpu", Lanes: 2, MaxTokens: 256, Dimensions: 8, Wide: true}, 64),
			MaxTokens: 64, Vocab: 1000,
		}
	})
}
