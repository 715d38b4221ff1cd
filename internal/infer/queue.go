package infer

import (
	"slices"
	"sort"
	"time"
)

// An item is one distinct input that waits or runs. Requests with the same ids share it.
type item struct {
	in       *instance
	ids      []int32
	hash     uint64
	seq      uint64 // order of arrival, breaks ties of tag
	enqueued time.Time
	waiters  []waiter
	calls    []*call // of the waiters, each once
	run      *run    // nil while it waits
	solo     bool    // its batch failed: runs alone, so that only the culprit fails
	suspect  bool    // a backend was lost with it: runs with nothing beside it, solo too
}

// A waiter is one place of one call's answer.
type waiter struct {
	call  *call
	index int
}

// wait adds a waiter and says whether it is its call's first one.
func (it *item) wait(w waiter) (first bool) {
	it.waiters = append(it.waiters, w)
	if n := len(it.calls); n > 0 && it.calls[n-1] == w.call { // a call's waiters come in one go
		return false
	}
	it.calls = append(it.calls, w.call)
	return true
}

// tag is the place in the order of service: that of the call, of those that wait for it, which comes first.
func (it *item) tag() uint64 {
	tag := it.calls[0].tag()
	for _, c := range it.calls[1:] {
		tag = min(tag, c.tag())
	}
	return tag
}

func (it *item) before(other *item) bool {
	if a, b := it.tag(), other.tag(); a != b {
		return a < b
	}
	return it.seq < other.seq
}

// queue holds the waiting items of one instance, sorted by length so that a run takes near-equal rows.
//
// Order of service is fair queueing over requests, all of one weight: next is the request that has been served least
// since it came. Its tag is the engine's virtual time at its arrival plus the tokens computed for it, and virtual time
// passes by the tokens computed over the number of requests that wait. A request of a thousand texts therefore lets
// later small requests in between, and no one starves: small ones that keep coming get later tags, and the head, the
// smallest tag, is in the next run whatever its length.
type queue struct {
	byLen  []*item
	byHash map[uint64]*item
	tokens int
}

func (q *queue) push(it *item) {
	i := sort.Search(len(q.byLen), func(i int) bool { return len(q.byLen[i].ids) > len(it.ids) })
	q.byLen = slices.Insert(q.byLen, i, it)
	q.tokens += len(it.ids)
	if q.byHash == nil {
		q.byHash = map[uint64]*item{}
	}
	q.byHash[it.hash] = it
}

// find gives the waiting item with exactly these ids, or nil.
func (q *queue) find(hash uint64, ids []int32) *item {
	if it := q.byHash[hash]; it != nil && !it.solo && slices.Equal(it.ids, ids) {
		return it
	}
	return nil
}

// remove takes the item out and says whether it was there.
func (q *queue) remove(it *item) bool {
	i := sort.Search(len(q.byLen), func(i int) bool { return len(q.byLen[i].ids) >= len(it.ids) })
	for ; i < len(q.byLen) && len(q.byLen[i].ids) == len(it.ids); i++ {
		if q.byLen[i] == it {
			q.cut(i, i+1)
			return true
		}
	}
	return false
}

// cut takes byLen[lo:hi] out of the queue.
func (q *queue) cut(lo, hi int) {
	for _, it := range q.byLen[lo:hi] {
		q.tokens -= len(it.ids)
		if q.byHash[it.hash] == it {
			delete(q.byHash, it.hash)
		}
	}
	q.byLen = slices.Delete(q.byLen, lo, hi)
}

// head is the index of the item to be served next, -1 when the queue is empty.
func (q *queue) head() int {
	best, least := -1, uint64(0)
	for i, it := range q.byLen {
		tag := it.tag()
		if best < 0 || tag < least || tag == least && it.seq < q.byLen[best].seq {
			best, least = i, tag
		}
	}
	return best
}

// take removes and returns the head and its neighbours in length, at most budget padded tokens. The head is
// returned even when it alone is over the budget. rows is the most rows, as Caps.MaxRows limits them. overhead is what
// a run costs besides its rows, in padded tokens.
func (q *queue) take(budget, rows, overhead int) []*item {
	h := q.head()
	if h < 0 {
		return nil
	}
	lo, hi := h, h+1
	if !q.byLen[h].solo {
		lo, hi = q.window(h, budget, rows, overhead)
	}
	batch := slices.Clone(q.byLen[lo:hi])
	q.cut(lo, hi)
	return batch
}

// window is the [lo,hi) around the head that computes the most real tokens per cost, the cost being the padded
// tokens and the overhead of the run: a short row joins longer ones when its padding costs less than a run of
// its own would.
func (q *queue) window(h, budget, rows, overhead int) (lo, hi int) {
	lo, hi = h, h+1
	best := 0.0
	real := 0 // of [h, end)
	for end := h + 1; end <= len(q.byLen) && !q.byLen[end-1].solo; end++ {
		longest := len(q.byLen[end-1].ids)
		if end > h+1 && (longest*(end-h) > budget || end-h > rows) {
			break
		}
		real += longest
		from, sum := h, real
		gain := func() float64 { return float64(sum) / float64(overhead+longest*(end-from)) }
		// Rows get shorter to the left, so the first that does not help is followed by none that does.
		for from > 0 && !q.byLen[from-1].solo && longest*(end-from+1) <= budget && end-from < rows &&
			float64(len(q.byLen[from-1].ids)) >= gain()*float64(longest) {
			from--
			sum += len(q.byLen[from].ids)
		}
		if g := gain(); g > best {
			best, lo, hi = g, from, end
		}
	}
	return lo, hi
}
