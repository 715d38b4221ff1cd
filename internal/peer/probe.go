package peer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/quic-go/quic-go"
	"google.golang.org/protobuf/proto"

	peerv1 "github.com/akidb/akidbd/internal/gen/akidb/peer/v1"
	"github.com/akidb/akidbd/internal/node"
)

// Datagrams begin with a byte that says what they are.
//
//	probe: u64 number · u64 hash of the models held · padding    reply: u64 number · peerv1.ProbeReply
//
// A reply of number 0 was not asked for: the word changed.
const (
	datagramProbe  = 1
	datagramReply  = 2
	datagramGossip = 3

	// maxDatagram fits a QUIC packet of 1232 bytes.
	maxDatagram = 1150
	// probeSize makes the packet longer than 42 bytes: quic-go answers no shorter one with a stateless reset.
	probeSize = 40
)

// probe asks the peer every interval whether it lives, and more often while it does not answer. It ends with the connection, which it then takes from the table.
func (k *link) probe() {
	l := k.l
	interval := l.cfg.ProbeInterval
	slot := time.Now() // begin of the interval that is judged
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-k.nudge:
		case <-k.conn.Context().Done():
			k.countBytes()
			l.drop(k)
			return
		}
		now := time.Now()
		k.countBytes()
		l.mu.Lock()
		if now.Sub(slot) >= interval {
			if k.heard.Before(slot) {
				k.misses++
				l.refresh(k.id)
			}
			slot = now
		}
		doomed, verdict := k.condemned(now)
		next := slot.Add(interval)
		ask := now.Equal(slot) || k.heard.Before(slot) || k.suspect != 0
		var b []byte
		if ask {
			k.seq++
			k.sent[k.seq%uint64(len(k.sent))] = now
			// A second probe soon when this one stays without a reply: a node that comes back is noticed by it.
			if soon := now.Add(max(interval/5, 2*k.rtt+10*time.Millisecond)); soon.Before(next) {
				next = soon
			}
			b = probeDatagram(k.seq, l.held(k.id))
		}
		l.mu.Unlock()
		if doomed {
			code := codeClosed
			if verdict == causeClosed {
				code = codeDuplicate
			}
			k.close(code, verdict, "another connection is kept")
			continue
		}
		if ask {
			push(k.urgent, b)
		}
		timer.Reset(max(time.Until(next), 0))
	}
}

// condemned says whether the connection is to be closed now. The caller holds Links.mu.
func (k *link) condemned(now time.Time) (bool, string) {
	if k.doomed.IsZero() || now.Before(k.doomed) {
		return false, ""
	}
	if k.active.Load() > 0 && k.misses == 0 && now.Sub(k.doomed) < k.l.cfg.MaxDeadline { // it answers: its requests may end
		return false, ""
	}
	if k.suspect == 0 { // a duplicate: only when what is kept instead answers
		best := k.l.best(k.id)
		if best == k || best == nil || !best.heard.After(best.born) || !best.heard.After(k.born) {
			k.doomed = now.Add(k.l.cfg.ProbeInterval)
			return false, ""
		}
	}
	return true, k.verdict
}

// push sends without waiting and says whether there was room.
func push[T any](c chan<- T, v T) bool {
	select {
	case c <- v:
		return true
	default:
		return false
	}
}

func probeDatagram(seq, held uint64) []byte {
	b := make([]byte, 1, probeSize)
	b[0] = datagramProbe
	b = binary.BigEndian.AppendUint64(b, seq)
	b = binary.BigEndian.AppendUint64(b, held)
	return b[:probeSize]
}

func replyDatagram(seq, held uint64, w node.Word) []byte {
	m := &peerv1.ProbeReply{Word: wordMessage(w)}
	m.ModelsHash = modelsHash(m.Word)
	m.ModelsIncluded = m.ModelsHash != held
	models := m.Word.Models
	if !m.ModelsIncluded {
		m.Word.Models = nil
	}
	b := make([]byte, 1, 256)
	b[0] = datagramReply
	b = binary.BigEndian.AppendUint64(b, seq)
	full, err := proto.MarshalOptions{}.MarshalAppend(b, m)
	if err == nil && len(full) > maxDatagram && models != nil {
		m.Word.Models, m.ModelsIncluded = nil, false
		full, err = proto.MarshalOptions{}.MarshalAppend(b, m)
	}
	if err != nil {
		return b // a reply without a word still says that the node lives
	}
	return full
}

// datagram takes what came. The error says that it makes no sense.
func (k *link) datagram(b []byte, at time.Time) error {
	if len(b) == 0 {
		return errors.New("empty datagram")
	}
	switch kind, rest := b[0], b[1:]; kind {
	case datagramProbe:
		if len(rest) < 16 {
			return fmt.Errorf("probe of %d bytes", len(b))
		}
		push(k.urgent, replyDatagram(binary.BigEndian.Uint64(rest), binary.BigEndian.Uint64(rest[8:]), k.l.me().Word))
	case datagramReply:
		if len(rest) < 8 {
			return fmt.Errorf("probe reply of %d bytes", len(b))
		}
		var m peerv1.ProbeReply
		if err := proto.Unmarshal(rest[8:], &m); err != nil {
			return fmt.Errorf("probe reply: %w", err)
		}
		k.reply(binary.BigEndian.Uint64(rest), &m, at)
	case datagramGossip:
		k.use()
		if k.l.onPacket != nil {
			k.l.onPacket(k.id, k.addr(), rest, at)
		}
	default:
		return fmt.Errorf("datagram of type %d", kind)
	}
	return nil
}

func (k *link) reply(seq uint64, m *peerv1.ProbeReply, at time.Time) {
	l := k.l
	l.mu.Lock()
	if k.gone {
		l.mu.Unlock()
		return
	}
	if seq > 0 && seq <= k.seq && k.seq-seq < uint64(len(k.sent)) {
		if sent := &k.sent[seq%uint64(len(k.sent))]; !sent.IsZero() {
			k.measure(at.Sub(*sent))
			*sent = time.Time{}
		}
	}
	missed := k.misses > 0
	k.heard, k.misses = at, 0
	if m.GetWord() != nil {
		k.state = stateOf(m.GetWord().GetState())
	}
	var oldest *link
	var copies []*link
	if k.suspect != 0 && seq >= k.suspect {
		oldest, copies = l.twins(k)
	}
	fetch := m.GetWord() != nil && l.hear(k, wordOf(m.GetWord()), m.GetModelsHash(), m.GetModelsIncluded())
	if missed {
		l.refresh(k.id)
	}
	l.mu.Unlock()
	for _, c := range copies {
		l.log.Error("two nodes have the same name: the younger is sent away", "node", k.id, "older_addr", oldest.conn.RemoteAddr().String(), "younger_addr", c.conn.RemoteAddr().String())
		l.metrics.refused[refusedClone].Inc()
		l.spawn(func() {
			c.close(codeClone, causeUnauthorized, cloneNotice(k.id, oldest.conn.RemoteAddr().String()))
		})
	}
	if fetch && k.fetching.CompareAndSwap(false, true) {
		l.spawn(k.fetchWord)
	}
}

// measure takes one round trip. The caller holds Links.mu.
func (k *link) measure(d time.Duration) {
	k.l.metrics.rtt.Observe(d.Seconds())
	if k.rtt == 0 {
		k.rtt = d
	} else {
		k.rtt += (d - k.rtt) / 8
	}
	k.l.setSlow(k.conn.RemoteAddr().String(), k.rtt > slowPath)
	if r := k.l.remotes[k.id]; r != nil && r.best == k {
		r.info.Link.RTT = k.rtt
		k.l.mark()
	}
}

// fetchWord asks for a word that does not fit into a datagram.
func (k *link) fetchWord() {
	defer k.fetching.Store(false)
	ctx, cancel := context.WithTimeout(k.l.ctx, helloTimeout)
	defer cancel()
	m, err := k.askWord(ctx)
	if err != nil {
		return // the next reply asks again
	}
	w, hash := wordOf(m), modelsHash(m)
	k.l.mu.Lock()
	defer k.l.mu.Unlock()
	if !k.gone {
		k.l.hear(k, w, hash, true)
	}
}

func (k *link) askWord(ctx context.Context) (*peerv1.Word, error) {
	st, err := k.openStream(ctx, streamWord)
	if err != nil {
		return nil, err
	}
	defer st.CancelRead(streamCanceled)
	if err := st.Close(); err != nil {
		return nil, err
	}
	if at, ok := ctx.Deadline(); ok {
		_ = st.SetReadDeadline(at)
	}
	var m peerv1.Word
	if err := readMessage(st, &m, maxMessage); err != nil {
		return nil, err
	}
	return &m, readEnd(st)
}

func (k *link) serveWord(st *quic.Stream) {
	b, err := appendMessage(nil, wordMessage(k.l.me().Word))
	if err == nil {
		_ = st.SetWriteDeadline(time.Now().Add(headTimeout))
		_, err = st.Write(b)
	}
	if err != nil {
		reset(st, streamCanceled)
		return
	}
	_ = st.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(st, 1)) // either way the stream is done with
	st.CancelRead(streamCanceled)
}

// Tell says this node's word on all links now, without waiting for their probes.
func (l *Links) Tell() {
	b := replyDatagram(0, 0, l.me().Word)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.remotes {
		for _, k := range r.links {
			push(k.urgent, b)
		}
	}
}

// countBytes adds what the connection moved since the last time. Only its probe goroutine calls it.
func (k *link) countBytes() {
	s := k.conn.ConnectionStats()
	k.l.metrics.bytes[dirIn].Add(float64(s.BytesReceived - k.in))
	k.l.metrics.bytes[dirOut].Add(float64(s.BytesSent - k.out))
	k.in, k.out = s.BytesReceived, s.BytesSent
}
