package api

import (
	"net/http/httptest"
	"strings"
	"testing"
)

// TestMaxMemory: the bytes of requests and answers in progress are bounded, and given back.
func TestMaxMemory(t *testing.T) {
	d := newDoor(t, Config{MaxBodyBytes: 4096, MaxMemory: 4096})
	d.fake.hold()
	first := make(chan *httptest.ResponseRecorder)
	go func() { first <- d.do("POST", "/api/v1/embed", `{"text":"wait"`+strings.Repeat(" ", 2500)+`}`) }()
	<-d.fake.waiting
	w := d.do("POST", "/api/v1/embed", `{"text":"x"`+strings.Repeat(" ", 2500)+`}`)
	checkFailure(t, w, "/api/v1/embed", 429, "in progress take", "")
	close(d.fake.gate)
	if w := <-first; w.Code != 200 {
		t.Errorf("the first got %d: %s", w.Code, w.Body)
	}
	if held := d.held.Load(); held != 0 {
		t.Errorf("%d bytes are still held", held)
	}
	texts := strings.TrimSuffix(strings.Repeat(`"a",`, 500), ",") // 2 kB that ask for more than 4 kB of numbers
	w = d.do("POST", "/api/v1/embed", `{"texts":[`+texts+`]}`)
	checkFailure(t, w, "/api/v1/embed", 429, "in progress take", "")
	if held := d.held.Load(); held != 0 {
		t.Errorf("%d bytes are still held", held)
	}
}
