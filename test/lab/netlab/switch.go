//go:build linux

package netlab

import (
	"container/heap"
	"math/rand/v2"
	"sync"
	"time"
)

// maxQueued is how many packets may be under way to one host.
const maxQueued = 50_000

// packet is under way.
type packet struct {
	due  time.Time
	seq  uint64
	data []byte
}

// outbox holds the packets under way to one host, the next due first.
type outbox struct {
	mu      sync.Mutex
	packets []packet
	seq     uint64
	wake    chan struct{}
}

func newOutbox() *outbox { return &outbox{wake: make(chan struct{}, 1)} }

func (o *outbox) Len() int      { return len(o.packets) }
func (o *outbox) Swap(i, j int) { o.packets[i], o.packets[j] = o.packets[j], o.packets[i] }
func (o *outbox) Push(x any)    { o.packets = append(o.packets, x.(packet)) }
func (o *outbox) Less(i, j int) bool {
	a, b := o.packets[i], o.packets[j]
	return a.due.Before(b.due) || (a.due.Equal(b.due) && a.seq < b.seq)
}
func (o *outbox) Pop() any {
	last := len(o.packets) - 1
	p := o.packets[last]
	o.packets[last] = packet{}
	o.packets = o.packets[:last]
	return p
}

// add drops what there is no room for.
func (o *outbox) add(due time.Time, data []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.packets) >= maxQueued {
		return
	}
	o.seq++
	heap.Push(o, packet{due: due, seq: o.seq, data: data})
	if o.packets[0].seq == o.seq {
		select {
		case o.wake <- struct{}{}:
		default:
		}
	}
}

// next gives a packet that is due, or for how long there is none.
func (o *outbox) next(now time.Time) (data []byte, wait time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.packets) == 0 {
		return nil, time.Hour
	}
	if wait := o.packets[0].due.Sub(now); wait > 0 {
		return nil, wait
	}
	return heap.Pop(o).(packet).data, 0
}

// read takes what the host sends and puts it on its way, until the network is closed.
func (h *Host) read() {
	buf := make([]byte, mtu+100)
	for {
		size, err := h.tun.Read(buf)
		select {
		case <-h.net.done:
			return
		default:
		}
		if err != nil { // the interface is down for a while
			time.Sleep(10 * time.Millisecond)
			continue
		}
		if to := h.net.destination(buf[:size]); to != nil {
			h.send(to, buf[:size])
		}
	}
}

// destination is the host that an IPv4 packet is for.
func (n *Net) destination(p []byte) *Host {
	if len(p) < 20 || p[0]>>4 != 4 || p[16] != 10 || p[17] != 203 || p[18] != 0 {
		return nil
	}
	if i := int(p[19]) - 1; i >= 0 && i < len(n.hosts) {
		return n.hosts[i]
	}
	return nil
}

func (h *Host) send(to *Host, data []byte) {
	n := h.net
	p := (*n.paths.Load())[h.index*len(n.hosts)+to.index]
	if p.Cut || (p.Loss > 0 && rand.Float64() < p.Loss) {
		return
	}
	delay := p.Delay
	if p.Jitter > 0 {
		delay += time.Duration((2*rand.Float64() - 1) * float64(p.Jitter))
	}
	now := time.Now()
	due := now.Add(delay)
	if last := h.lastDue[to.index]; due.Before(last) {
		due = last // a path keeps the order
	}
	if !due.After(now) {
		to.deliver(data)
		return
	}
	h.lastDue[to.index] = due
	to.out.add(due, append([]byte(nil), data...))
}

// write delivers what is due, until the network is closed.
func (h *Host) write() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		data, wait := h.out.next(time.Now())
		if data != nil {
			h.deliver(data)
			continue
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-h.out.wake:
		case <-h.net.done:
			return
		}
	}
}

func (h *Host) deliver(data []byte) {
	_, _ = h.tun.Write(data) // lost when the interface is down or its queue is full
}
