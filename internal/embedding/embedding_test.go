package embedding

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestModelString(t *testing.T) {
	m := Model{Name: "m", Digest: "sha256-" + strings.Repeat("ab", 32)}
	if m.String() != "m@abababababab" || m.LogValue().String() != m.String() {
		t.Errorf("got %s, %s", m, m.LogValue())
	}
	if s := (Model{Name: "m"}).String(); s != "m" {
		t.Errorf("without a digest: %s", s)
	}
	for asked, want := range map[string][2]string{
		"m": {"m", ""}, "m@abc": {"m", "abc"}, "m@sha256-abc": {"m", "abc"}, "": {"", ""}, "@abc": {"", "abc"},
	} {
		if name, digest := SplitModel(asked); name != want[0] || digest != want[1] {
			t.Errorf("%q: %q, %q", asked, name, digest)
		}
	}
}

func TestAsError(t *testing.T) {
	cause := errors.New("secret cause")
	coded := &Error{Code: CodeOverloaded, Message: "full", Err: cause}
	for _, c := range []struct {
		err  error
		code Code
	}{
		{coded, CodeOverloaded},
		{fmt.Errorf("around: %w", coded), CodeOverloaded},
		{fmt.Errorf("around: %w", context.DeadlineExceeded), CodeDeadline},
		{context.Canceled, CodeCanceled},
		{cause, CodeInternal},
	} {
		e := AsError(c.err)
		if e.Code != c.code || strings.Contains(e.Message, "secret") {
			t.Errorf("%v: got %s %q", c.err, e.Code, e.Message)
		}
		if !slices.Contains(Codes(), e.Code) {
			t.Errorf("code %s is not listed", e.Code)
		}
	}
	if AsError(nil) != nil {
		t.Error("nil became an error")
	}
	if !errors.Is(coded, cause) || !strings.Contains(coded.Error(), "secret") {
		t.Error("the cause is lost for the log")
	}
}

func TestTotalTokens(t *testing.T) {
	if n := (Result{Tokens: []int{3, 4}}).TotalTokens(); n != 7 {
		t.Errorf("got %d", n)
	}
}
