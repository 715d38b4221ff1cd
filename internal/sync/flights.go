package sync

import (
	"context"
	gosync "sync"
)

// flights are the downloads of now.
type flights struct {
	mu    gosync.Mutex
	busy  map[string]chan struct{} // closed at the end
	under map[string]*download
}

// lock waits until nobody else fetches a blob.
func (f *flights) lock(ctx context.Context, sha string) (unlock func(), err error) {
	for {
		f.mu.Lock()
		if f.busy == nil {
			f.busy, f.under = map[string]chan struct{}{}, map[string]*download{}
		}
		other, taken := f.busy[sha]
		if !taken {
			mine := make(chan struct{})
			f.busy[sha] = mine
			f.mu.Unlock()
			return func() {
				f.mu.Lock()
				delete(f.busy, sha)
				f.mu.Unlock()
				close(mine)
			}, nil
		}
		f.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (f *flights) put(sha string, d *download) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.under[sha] = d
}

func (f *flights) drop(sha string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.under, sha)
}

func (f *flights) get(sha string) *download {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.under[sha]
}
