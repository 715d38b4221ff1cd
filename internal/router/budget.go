package router

import (
	"sync"
	"time"
)

// Limits of the budget.
const (
	budgetShare = 0.1 // of the requests of the last 10 s
	budgetFloor = 3   // a second besides, so that a quiet node can hedge at all
)

// budget bounds what the router adds to the fleet's work: hedges, and retries of work that a node may have begun.
// Moving on from a node that refused, or that cannot be reached, is free.
type budget struct {
	mu     sync.Mutex
	window window // requests, and extra attempts of them
}

// earn notes a request.
func (b *budget) earn(now time.Time) {
	b.mu.Lock()
	b.window.add(now, 1, 0)
	b.mu.Unlock()
}

// spend takes one extra attempt out of the budget, or says that there is none left.
func (b *budget) spend(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	requests, spent := b.window.sum(now)
	if float64(spent+1) > budgetShare*float64(requests)+budgetFloor*windowSeconds {
		return false
	}
	b.window.add(now, 0, 1)
	return true
}
