package infer

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/akidb/akidbd/internal/embedding"
)

// TestOverdue: a load is progress within its limit, and is not when that did not end it.
func TestOverdue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &Engine{cfg: Config{LoadTimeout: 10 * time.Minute}, loads: map[*load]struct{}{}}
		end := e.beginLoad(embedding.Model{Name: "big"})
		time.Sleep(10*time.Minute + loadGrace)
		if got := e.Overdue(); got != "" {
			t.Errorf("within the limit: %q", got)
		}
		time.Sleep(time.Second)
		if got := e.Overdue(); !strings.Contains(got, "model big is being loaded for 10m31s") {
			t.Errorf("after the limit: %q", got)
		}
		end()
		if got := e.Overdue(); got != "" {
			t.Errorf("after it ended: %q", got)
		}
	})
}
