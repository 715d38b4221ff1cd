package router

import "time"

const windowSeconds = 10

// A window counts two kinds of events over the last 10 s, in steps of a second.
type window struct {
	base    time.Time // of the seconds, which are counted by the monotonic clock
	second  [windowSeconds]int64
	all     [windowSeconds]int
	special [windowSeconds]int
}

// add counts events, special of them of the second kind.
func (w *window) add(now time.Time, all, special int) {
	s := w.at(now)
	i := s % windowSeconds
	if w.second[i] != s {
		w.second[i], w.all[i], w.special[i] = s, 0, 0
	}
	w.all[i] += all
	w.special[i] += special
}

// at is the second of now, beyond the window of a zero value.
func (w *window) at(now time.Time) int64 {
	if w.base.IsZero() {
		w.base = now
	}
	return windowSeconds + int64(now.Sub(w.base)/time.Second)
}

func (w *window) sum(now time.Time) (all, special int) {
	oldest := w.at(now) - windowSeconds
	for i, s := range w.second {
		if s > oldest {
			all += w.all[i]
			special += w.special[i]
		}
	}
	return all, special
}
