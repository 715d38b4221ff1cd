package tokenizer

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// benchTexts are the texts that testdata/bench_reference.py measures the reference on.
func benchTexts(b *testing.B) map[string]string {
	data, err := os.ReadFile(filepath.Join("testdata", "bench_texts.json"))
	if err != nil {
		b.Fatal(err)
	}
	var texts map[string]struct {
		Text   string
		Repeat int
	}
	if err := json.Unmarshal(data, &texts); err != nil {
		b.Fatal(err)
	}
	all := make(map[string]string)
	for name, t := range texts {
		var text []byte
		for range t.Repeat {
			text = append(text, t.Text...)
		}
		all[name] = string(text)
	}
	return all
}

func benchmarkEncode(b *testing.B, name string) {
	tok := loadMinilm(b)
	text := benchTexts(b)[name]
	if text == "" {
		b.Fatalf("no text %q", name)
	}
	tokens := tok.Encode(text, 0).Full
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		tok.Encode(text, 0)
	}
	b.ReportMetric(float64(tokens)*float64(b.N)/b.Elapsed().Seconds(), "tokens/s")
	b.ReportMetric(float64(tokens), "tokens")
}

func BenchmarkEncodeShort(b *testing.B)    { benchmarkEncode(b, "short") }
func BenchmarkEncodeLong(b *testing.B)     { benchmarkEncode(b, "long") }
func BenchmarkEncodeGerman(b *testing.B)   { benchmarkEncode(b, "german") }
func BenchmarkEncodeRussian(b *testing.B)  { benchmarkEncode(b, "russian") }
func BenchmarkEncodeChinese(b *testing.B)  { benchmarkEncode(b, "chinese") }
func BenchmarkEncodeKorean(b *testing.B)   { benchmarkEncode(b, "korean") }
func BenchmarkEncode100kB(b *testing.B)    { benchmarkEncode(b, "100kB") }
func BenchmarkEncodeOneWord(b *testing.B)  { benchmarkEncode(b, "1MB_one_word") }
func BenchmarkEncodeMarks(b *testing.B)    { benchmarkEncode(b, "1MB_marks") }
func BenchmarkEncodeBrackets(b *testing.B) { benchmarkEncode(b, "1MB_brackets") }

func BenchmarkEncodeParallel(b *testing.B) {
	tok := loadMinilm(b)
	text := benchTexts(b)["short"]
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			tok.Encode(text, 256)
		}
	})
}

func BenchmarkLoad(b *testing.B) {
	data := minilmJSON(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Load(data); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkUnicode is what the first Load of a process pays for its tables.
func BenchmarkUnicode(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		parseUnicode(unicodeText)
	}
}
