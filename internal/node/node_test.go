package node

import (
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/akidb/akidbd/internal/embedding"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAnswers(t *testing.T) {
	digest := strings.Repeat("ab", 32)
	s := Served{Model: embedding.Model{Name: "m", Digest: "sha256-" + digest}, Aliases: []string{"default", "org/m"}, Active: true}
	old := s
	old.Active = false
	for _, c := range []struct {
		asked          string
		active, oldToo bool
	}{
		{"m", true, false}, {"", true, false}, {"default", true, false}, {"org/m", true, false}, {"x", false, false},
		{"m@" + digest, true, true}, {"m@sha256-" + digest, true, true}, {"m@" + digest[:12], true, true},
		{"org/m@" + digest[:12], true, true}, {"m@" + digest[:11], false, false}, {"m@" + strings.Repeat("cd", 32), false, false},
		{"x@" + digest, false, false},
	} {
		if got := s.Answers(c.asked); got != c.active {
			t.Errorf("active, %q: %v", c.asked, got)
		}
		if got := old.Answers(c.asked); got != c.oldToo {
			t.Errorf("older digest, %q: %v", c.asked, got)
		}
	}
}

func TestValidID(t *testing.T) {
	for id, want := range map[ID]bool{
		"a": true, "Z": true, "0": true, "eu-1": true, "n.example-2.": true, "a-": true, ID(strings.Repeat("a", 64)): true,
		"": false, ID(strings.Repeat("a", 65)): false, ".a": false, "-a": false, "a_b": false, "a/b": false, "a b": false,
		"a:1": false, "a\n": false, "\na": false, "a\x00": false, "é": false, "aé": false, "a\xff": false,
	} {
		if got := id.Valid(); got != want {
			t.Errorf("%q: %v", id, got)
		}
	}
}

func TestNewer(t *testing.T) {
	for _, c := range []struct {
		w, o  Word
		newer bool
	}{
		{Word{Epoch: 2}, Word{Epoch: 1, Seq: 9}, true},
		{Word{Epoch: 1, Seq: 9}, Word{Epoch: 2}, false},
		{Word{Epoch: 1, Seq: 2}, Word{Epoch: 1, Seq: 1}, true},
		{Word{Epoch: 1, Seq: 1}, Word{Epoch: 1, Seq: 1}, false},
	} {
		if got := c.w.Newer(c.o); got != c.newer {
			t.Errorf("%+v newer than %+v: %v", c.w, c.o, got)
		}
	}
}
