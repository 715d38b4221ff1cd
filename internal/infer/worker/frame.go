package worker

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"

	"github.com/akidb/akidbd/internal/infer"
)

// A frame is a header of 13 bytes, the length of the payload (uint32), the kind (byte) and the id of the call
// (uint64), then the payload. Numbers are little-endian. Every length is checked against what may come now before
// memory is taken for it.
const headerBytes = 13

type kind byte

// To the worker.
const (
	kindHello  kind = 1 // JSON hello; answered by ready or failed
	kindOpen   kind = 2 // JSON open; answered by opened or failed
	kindRun    kind = 3 // answered by vectors or failed
	kindCancel kind = 4 // abort the run of that id; the run is answered anyhow
	kindClose  kind = 5 // end when the runs are answered
)

// From the worker.
const (
	kindReady   kind = 16 // JSON ready
	kindOpened  kind = 17 // JSON infer.Caps
	kindVectors kind = 18
	kindFailed  kind = 19 // a byte, 1 when the run was canceled, and the message
	kindBeat    kind = 20 // resident memory in bytes (uint64)
)

const (
	maxJSON    = 1 << 20
	maxMessage = 32 << 10
	beatBytes  = 8
	runHead    = 5 // wide (byte), rows (uint32)
	outHead    = 8 // rows, dimensions (uint32 each)
)

type header struct {
	kind   kind
	id     uint64
	length int
}

func readHeader(r io.Reader) (header, error) {
	var b [headerBytes]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return header{}, err
	}
	return header{length: int(binary.LittleEndian.Uint32(b[:])), kind: kind(b[4]), id: binary.LittleEndian.Uint64(b[5:])}, nil
}

// readPayload reads what the header announced, if it is no more than limit.
func readPayload(r io.Reader, h header, limit int) ([]byte, error) {
	if h.length > limit {
		return nil, fmt.Errorf("a frame of kind %d has %d bytes, at most %d are taken", h.kind, h.length, limit)
	}
	b := make([]byte, h.length)
	_, err := io.ReadFull(r, b)
	return b, err
}

// begin starts a frame in buf; seal writes its length.
func begin(buf []byte, k kind, id uint64) []byte {
	buf = append(buf[:0], 0, 0, 0, 0, byte(k))
	return binary.LittleEndian.AppendUint64(buf, id)
}

func seal(buf []byte) []byte {
	binary.LittleEndian.PutUint32(buf, uint32(len(buf)-headerBytes))
	return buf
}

// frameWriter writes frames to w, one at a time. It is safe for concurrent use.
type frameWriter struct {
	mu  sync.Mutex
	w   io.Writer
	buf []byte // of the frame being written
}

// send writes one frame; payload, which may be nil, appends to what it is given.
func (f *frameWriter) send(k kind, id uint64, payload func([]byte) []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.buf = begin(f.buf, k, id)
	if payload != nil {
		f.buf = payload(f.buf)
	}
	_, err := f.w.Write(seal(f.buf))
	return err
}

// sendJSON writes v in a frame whose payload has at most limit bytes.
func (f *frameWriter) sendJSON(k kind, v any, limit int) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(data) > limit {
		return fmt.Errorf("the description of the model has %d bytes, at most %d are sent", len(data), limit)
	}
	return f.send(k, 0, func(buf []byte) []byte { return append(buf, data...) })
}

// runLimit is the largest payload of a run for a backend: no row is empty, so there are no more rows than tokens.
func runLimit(c infer.Caps) int { return runHead + 8*c.MaxTokens }

func appendBatch(buf []byte, b infer.Batch) []byte {
	wide := byte(0)
	if b.Wide {
		wide = 1
	}
	buf = append(buf, wide)
	buf = binary.LittleEndian.AppendUint32(buf, uint32(len(b.Rows)))
	for _, r := range b.Rows {
		buf = binary.LittleEndian.AppendUint32(buf, uint32(len(r)))
	}
	for _, r := range b.Rows {
		for _, id := range r {
			buf = binary.LittleEndian.AppendUint32(buf, uint32(id))
		}
	}
	return buf
}

var errBatch = errors.New("the payload of a run does not add up")

func parseBatch(data []byte) (infer.Batch, error) {
	if len(data) < runHead || data[0] > 1 {
		return infer.Batch{}, errBatch
	}
	b := infer.Batch{Wide: data[0] == 1}
	rows := uint64(binary.LittleEndian.Uint32(data[1:]))
	data = data[runHead:]
	if rows*4 > uint64(len(data)) {
		return infer.Batch{}, errBatch
	}
	lengths, ids := data[:rows*4], data[rows*4:]
	flat := make([]int32, len(ids)/4)
	for i := range flat {
		flat[i] = int32(binary.LittleEndian.Uint32(ids[4*i:]))
	}
	b.Rows = make([][]int32, rows)
	at := uint64(0)
	for i := range b.Rows {
		n := uint64(binary.LittleEndian.Uint32(lengths[4*i:]))
		if n > uint64(len(flat))-at {
			return infer.Batch{}, errBatch
		}
		b.Rows[i] = flat[at : at+n : at+n]
		at += n
	}
	if at*4 != uint64(len(ids)) {
		return infer.Batch{}, errBatch
	}
	return b, nil
}

func appendVectors(buf []byte, vectors [][]float32, dims int) []byte {
	buf = binary.LittleEndian.AppendUint32(buf, uint32(len(vectors)))
	buf = binary.LittleEndian.AppendUint32(buf, uint32(dims))
	for _, v := range vectors {
		for _, x := range v {
			buf = binary.LittleEndian.AppendUint32(buf, math.Float32bits(x))
		}
	}
	return buf
}

// parseVectors wants exactly that many vectors of that size.
func parseVectors(data []byte, rows, dims int) ([][]float32, error) {
	if len(data) != outHead+4*rows*dims || int(binary.LittleEndian.Uint32(data)) != rows || int(binary.LittleEndian.Uint32(data[4:])) != dims {
		return nil, fmt.Errorf("the worker answered %d bytes, %d vectors of %d dimensions are expected", len(data), rows, dims)
	}
	data = data[outHead:]
	flat := make([]float32, rows*dims)
	for i := range flat {
		flat[i] = math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:]))
	}
	vectors := make([][]float32, rows)
	for i := range vectors {
		vectors[i] = flat[i*dims : (i+1)*dims : (i+1)*dims]
	}
	return vectors, nil
}

// hello is the first word to a worker.
type hello struct {
	Library string
	Debug   bool // log at debug
	OOM     int  // oom_score_adj to take
}

type ready struct{ Version string }

type open struct {
	Artifact infer.Artifact
	Options  infer.Options
}
