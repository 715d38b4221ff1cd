package gossip

import (
	"bytes"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/node"
)

func exampleWord(models int) spoken {
	w := spoken{
		id: "n1", list: listAll, listSeq: 5, labels: map[string]string{"gpu": "none"},
		Word: node.Word{State: node.Draining, Load: 0.123, QueueDelay: 1500 * time.Microsecond, Epoch: 7, Seq: 9},
	}
	for i := range models {
		w.Models = append(w.Models, node.Served{
			Model:   embedding.Model{Name: fmt.Sprintf("model-%d", i), Digest: digestPrefix + strings.Repeat("0f", 32), Precision: "fp16"},
			Aliases: []string{"default", "org/m"}, Active: i == 0, Since: 1700000000000,
		})
	}
	return w
}

func TestWordRoundTrip(t *testing.T) {
	odd := exampleWord(1)
	odd.Models[0].Digest = "sha256-ABC"
	short := exampleWord(0)
	short.list, short.labels = listNone, nil
	for _, w := range []spoken{exampleWord(2), exampleWord(0), odd, short} {
		got, err := decodeWord(encodeWord(w, 0))
		if err != nil || !reflect.DeepEqual(got, w) {
			t.Errorf("%+v\nbecame\n%+v, %v", w, got, err)
		}
	}
	if n := len(encodeWord(short, 0)); n > 32 {
		t.Errorf("a word without its list has %d bytes", n)
	}
}

func TestWordIsCutForAPacket(t *testing.T) {
	b := encodeWord(exampleWord(100), maxNews)
	w, err := decodeWord(b)
	if err != nil || len(b) > maxNews || w.list != listPart || len(w.Models) < 5 {
		t.Errorf("%d bytes, list %d with %d models, %v", len(b), w.list, len(w.Models), err)
	}
	words := 0
	for w, err := range decodeWords(encodeWords([]spoken{exampleWord(100), exampleWord(1)})) {
		if words++; err != nil || w.list != listAll {
			t.Errorf("list %d, %v", w.list, err)
		}
	}
	if words != 2 {
		t.Errorf("%d words", words)
	}
}

func TestNewerReleaseIsUnderstood(t *testing.T) {
	b := encodeWord(exampleWord(1), 0)
	b = appendUint(b, 99, 1)
	b = appendString(b, 100, "new")
	b = protowire.AppendFixed64(protowire.AppendTag(b, 101, protowire.Fixed64Type), 1)
	b = appendUint(b, 4, 17) // a state not known here
	w, err := decodeWord(b)
	if err != nil || w.State != node.Starting || len(w.Models) != 1 {
		t.Errorf("%+v, %v", w, err)
	}
}

func TestMetaFits(t *testing.T) {
	f := facts{region: strings.Repeat("r", maxNameBytes), zone: strings.Repeat("z", maxNameBytes), addr: strings.Repeat("a", maxAddrBytes),
		version: strings.Repeat("v", maxNameBytes), epoch: 1 << 63, labels: map[string]string{"a": "1", "b": strings.Repeat("x", 200), "c": "3"}}
	b, rest := encodeMeta(f, 512)
	if len(b) > 512 {
		t.Fatalf("%d bytes", len(b))
	}
	got, err := decodeMeta(b)
	if err != nil {
		t.Fatal(err)
	}
	if maps.Copy(got.labels, rest); len(rest) == 0 || !reflect.DeepEqual(got, f) {
		t.Errorf("%+v, rest %v", got, rest)
	}
}

func TestLimits(t *testing.T) {
	long := strings.Repeat("x", maxText+1)
	for what, w := range map[string]spoken{
		"name": {id: node.ID(long), Word: node.Word{State: node.Ready}}, "no name": {Word: node.Word{State: node.Ready}},
		"model": {id: "n", list: listAll, Word: node.Word{State: node.Ready, Models: []node.Served{{Model: embedding.Model{Name: long}}}}},
		"label": {id: "n", list: listAll, Word: node.Word{State: node.Ready}, labels: map[string]string{"k": long + long}},
	} {
		if _, err := decodeWord(encodeWord(w, 0)); err == nil {
			t.Errorf("%s: taken", what)
		}
	}
	b := encodeWord(exampleWord(0), 0)
	for range maxModels + 1 {
		b = appendBytes(b, 9, nil)
	}
	if _, err := decodeWord(b); err == nil {
		t.Error("too many models are taken")
	}
}

// Words of one node come in any order, whole or in part, and the newest of each part stays.
func TestHear(t *testing.T) {
	list := func(epoch, seq, listSeq uint64, list listKind, models ...string) spoken {
		w := spoken{id: "n", list: list, listSeq: listSeq, Word: node.Word{State: node.Ready, Epoch: epoch, Seq: seq, Load: float64(seq) / 100}}
		for _, m := range models {
			w.Models = append(w.Models, node.Served{Model: embedding.Model{Name: m}})
		}
		return w
	}
	tab := newTable("self", newMetrics(prometheus.NewRegistry()))
	for i, step := range []struct {
		w      spoken
		news   news
		seq    uint64
		models string
	}{
		{list(2, 5, 3, listAll, "a"), newsUrgent, 5, "a"},
		{list(2, 4, 2, listAll, "old"), newsNone, 5, "a"},
		{list(1, 9, 9, listAll, "older"), newsNone, 5, "a"},
		{list(2, 9, 7, listNone), newsLoad, 9, "a"},             // the list of 7 is still to come
		{list(2, 8, 7, listPart, "b"), newsUrgent, 9, "b"},      // its beginning
		{list(2, 7, 7, listAll, "b", "c"), newsUrgent, 9, "bc"}, // all of it, said earlier
		{list(2, 9, 7, listPart, "b"), newsNone, 9, "bc"},
		{list(3, 1, 1, listAll), newsUrgent, 1, ""},
		{list(2, 99, 99, listAll, "stale"), newsNone, 1, ""},
	} {
		got := tab.hear(step.w)
		h := tab.words["n"].word
		var models string
		for _, m := range h.Models {
			models += m.Name
		}
		if got != step.news || h.Seq != step.seq || models != step.models || h.Load != float64(step.seq)/100 {
			t.Errorf("step %d: news %d, seq %d, models %q, load %v", i, got, h.Seq, models, h.Load)
		}
	}
	if tab.hear(spoken{id: "self", Word: node.Word{Epoch: 9}}) != newsNone {
		t.Error("somebody speaks for this node")
	}
}

func TestPlain(t *testing.T) {
	label := append([]byte{typeLabel, 5}, "akidb"...)
	compound := func(parts ...[]byte) []byte {
		b := []byte{typeCompound, byte(len(parts))}
		for _, p := range parts {
			b = append(b, byte(len(p)>>8), byte(len(p)))
		}
		return append(b, bytes.Join(parts, nil)...)
	}
	crc := func(b []byte) []byte { return append([]byte{typeCRC, 0, 0, 0, 0}, b...) }
	ping, bomb := []byte{0, 1, 2}, []byte{typeCompress, 1, 2}
	for _, ok := range [][]byte{ping, append(label, ping...), append(label, crc(ping)...), append(label, crc(compound(ping, ping))...)} {
		if !plain(ok) {
			t.Errorf("%v is refused", ok)
		}
	}
	alive, user := []byte{4, 1}, []byte{8, 1}
	for _, p := range [][]byte{alive, append(label, crc(compound(alive, user))...)} {
		if !tells(p) {
			t.Errorf("%v is no news", p)
		}
	}
	for _, p := range [][]byte{ping, append(label, crc(compound(user, []byte{typeAck, 1}))...), compound(alive, ping), {typeNack, 1}, {typeIndirect, 1}} {
		if tells(p) {
			t.Errorf("%v asks or answers", p)
		}
	}
	deep := ping
	for range 10 {
		deep = compound(deep)
	}
	for _, bad := range [][]byte{nil, bomb, append(label, bomb...), append(label, crc(bomb)...), compound(ping, bomb), compound(compound(bomb)), deep, {typeCompound, 9}, {typeLabel, 9, 1}} {
		if plain(bad) {
			t.Errorf("%v is taken", bad)
		}
	}
}

func FuzzWire(f *testing.F) {
	f.Add(encodeWord(exampleWord(3), 0))
	f.Add(encodeWord(exampleWord(0), maxNews))
	f.Add(encodeWords([]spoken{exampleWord(1), exampleWord(2)}))
	meta, _ := encodeMeta(facts{region: "r", addr: "a:1", epoch: 3, labels: map[string]string{"a": "b"}}, 512)
	f.Add(meta)
	f.Add([]byte{typeCompound, 2, 0, 1, 0, 1, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		plain(b)
		for w, err := range decodeWords(b) {
			if err == nil && !w.id.Valid() {
				t.Errorf("name %q", w.id)
			}
		}
		if m, err := decodeMeta(b); err == nil && (len(m.region) > 3*maxNameBytes || len(m.labels) > maxLabels) {
			t.Errorf("%+v", m)
		}
		w, err := decodeWord(b)
		if err != nil {
			return
		}
		if len(w.Models) > maxModels || !(w.Load >= 0 && w.Load <= 1) || w.QueueDelay < 0 || w.QueueDelay > maxDelay {
			t.Errorf("%+v", w)
		}
		if w.list == listNone {
			w.Models, w.labels = nil, nil
		}
		again, err := decodeWord(encodeWord(w, 0))
		if err == nil && again.Newer(w.Word) || err == nil && again.State != w.State {
			t.Errorf("%+v became %+v", w, again)
		}
	})
}

func FuzzSnapshot(f *testing.F) {
	f.Add([]byte(`{"version":1,"peers":[{"id":"a","addr":"10.0.0.1:7946","region":"r","missed":2}]}`))
	f.Add([]byte(`{"version":2}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		peers, err := readSnapshot(bytes.NewReader(b))
		for _, p := range peers {
			if err != nil || !p.ID.Valid() || p.Addr == "" || p.Missed < 0 {
				t.Errorf("%+v, %v", p, err)
			}
		}
	})
}
