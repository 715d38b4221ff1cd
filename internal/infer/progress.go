package infer

import (
	"fmt"
	"time"

	"github.com/akidb/akidbd/internal/embedding"
)

// loadGrace is how long a load may go on after Config.LoadTimeout told it to end. A worker process is killed long
// before; a native build in this process may never come back.
const loadGrace = 30 * time.Second

// load is a model that is being opened.
type load struct {
	model   embedding.Model
	started time.Time
}

// beginLoad notes that a model is being opened, until end is called.
func (e *Engine) beginLoad(m embedding.Model) (end func()) {
	l := &load{m, time.Now()}
	e.loadsMu.Lock()
	defer e.loadsMu.Unlock()
	e.loads[l] = struct{}{}
	return func() {
		e.loadsMu.Lock()
		defer e.loadsMu.Unlock()
		delete(e.loads, l)
	}
}

// Overdue names a load that did not end although its limit is over; "" when there is none. It answers also while the
// engine hangs.
func (e *Engine) Overdue() string {
	e.loadsMu.Lock()
	defer e.loadsMu.Unlock()
	for l := range e.loads {
		if took := time.Since(l.started); took > e.cfg.LoadTimeout+loadGrace {
			return fmt.Sprintf("model %s is being loaded for %v, and load_timeout, %v, did not end it", l.model.Name, took.Round(time.Second), e.cfg.LoadTimeout)
		}
	}
	return ""
}
