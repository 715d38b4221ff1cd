package api

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/akidb/akidbd/internal/embedding"
)

// appendVector appends v as a JSON array; the numbers are the shortest that read back as the same float32.
// Every element is finite: checkResult saw to it.
func appendVector(b []byte, v []float32) []byte {
	b = append(b, '[')
	for i, f := range v {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendFloat(b, float64(f), 'g', -1, 32)
	}
	return append(b, ']')
}

// appendBase64 appends v as a JSON string: base64 of its float32 bits, little-endian, as OpenAI does.
func appendBase64(b []byte, v []float32) []byte {
	b = append(b, '"')
	var raw [3 * 256]byte // a multiple of 3 bytes: only the last piece needs padding
	for len(v) > 0 {
		piece := v[:min(len(v), len(raw)/4)]
		for i, f := range piece {
			binary.LittleEndian.PutUint32(raw[4*i:], math.Float32bits(f))
		}
		b = base64.StdEncoding.AppendEncode(b, raw[:4*len(piece)])
		v = v[len(piece):]
	}
	return append(b, '"')
}

// appendString appends s as a JSON string.
func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			quoted, err := json.Marshal(s)
			if err != nil {
				panic(err) // a string always marshals
			}
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

// answerSize guesses the bytes of an answer: a number takes 12 to 13 with its comma.
func answerSize(res embedding.Result) int {
	return 512 + len(res.Vectors)*(64+13*len(res.Vectors[0]))
}
