package peer

import (
	"net"
	"sync"
	"time"

	"github.com/quic-go/quic-go/qlog"
	"github.com/quic-go/quic-go/qlogwriter"
)

// sparse lets a log line through now and then.
type sparse struct {
	mu     sync.Mutex
	next   time.Time
	hidden int
}

const noiseEvery = 10 * time.Second

// allow says whether to log now, and how many were hidden since the last time.
func (s *sparse) allow(now time.Time) (hidden int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Before(s.next) {
		s.hidden++
		return 0, false
	}
	hidden, s.hidden, s.next = s.hidden, 0, now.Add(noiseEvery)
	return hidden, true
}

// refuse counts what was refused and logs it, one line in ten seconds for each reason: who sends garbage must
// not be able to fill the log.
func (l *Links) refuse(reason string, from net.Addr, args ...any) {
	l.metrics.refused[reason].Inc()
	if hidden, ok := l.noise[reason].allow(time.Now()); ok {
		args = append([]any{"what", reason, "like_it_since", hidden}, args...)
		if from != nil {
			args = append(args, "from", from.String())
		}
		l.log.Warn("refused on the port of the links", args...)
	}
}

// readGarbage reads what is not QUIC at all.
func (l *Links) readGarbage() {
	var b [1]byte
	for {
		_, from, err := l.tr.ReadNonQUICPacket(l.ctx, b[:])
		if err != nil {
			return
		}
		l.refuse(refusedGarbage, from)
	}
}

// dropped hears of the packets that the transport cannot place. Packets of connections that just ended are
// among them; a restart makes some.
type dropped struct{ l *Links }

// RecordEvent implements qlogwriter.Recorder.
func (d dropped) RecordEvent(e qlogwriter.Event) {
	if _, ok := e.(qlog.PacketDropped); ok {
		d.l.refuse(refusedGarbage, nil)
	}
}

// Close implements qlogwriter.Recorder.
func (dropped) Close() error { return nil }
