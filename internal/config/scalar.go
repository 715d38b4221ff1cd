package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// Duration is a time.Duration written as Go writes it: "250ms", "10s", "1h30m". A number needs its unit; only
// 0 stands alone.
type Duration time.Duration

// Std is d as the standard library has it.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// String drops the zero units that time.Duration keeps: "10m", not "10m0s".
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// MarshalText gives String.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what String writes.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		if _, numErr := strconv.ParseFloat(string(text), 64); numErr == nil {
			return fmt.Errorf("%q has no unit, write %ss, %sms or %sm", text, text, text, text)
		}
		return fmt.Errorf("%q is not a duration, write for example 250ms, 10s or 1h30m", clip(string(text)))
	}
	*d = Duration(v)
	return nil
}

// UnmarshalYAML reads a scalar, for programs that decode a Duration with yaml.v3 itself.
func (d *Duration) UnmarshalYAML(n *yaml.Node) error { return unmarshalScalar(n, d) }

// Bytes is a size: a plain number of bytes, or a whole number with KiB, MiB, GiB, TiB (powers of 1024) or kB,
// MB, GB, TB (powers of 1000).
type Bytes int64

var byteUnits = []struct {
	suffix string
	size   Bytes
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3},
}

// String uses the largest power of 1024 that divides b, else plain bytes.
func (b Bytes) String() string {
	for _, u := range byteUnits[:4] {
		if b != 0 && b%u.size == 0 {
			return strconv.FormatInt(int64(b/u.size), 10) + u.suffix
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// MarshalText gives String.
func (b Bytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// UnmarshalText reads what String writes and the powers of 1000.
func (b *Bytes) UnmarshalText(text []byte) error {
	number, unit := string(text), Bytes(1)
	for _, u := range byteUnits {
		if n, ok := strings.CutSuffix(string(text), u.suffix); ok {
			number, unit = strings.TrimSuffix(n, " "), u.size
			break
		}
	}
	v, err := strconv.ParseUint(number, 10, 63)
	if err != nil {
		return fmt.Errorf("%q is not a size, write a whole number of bytes or for example 64KiB, 8MiB, 1GiB", clip(string(text)))
	}
	if Bytes(v) > math.MaxInt64/unit {
		return fmt.Errorf("%q is over the largest size, %d bytes", text, int64(math.MaxInt64))
	}
	*b = Bytes(v) * unit
	return nil
}

// UnmarshalYAML reads a scalar, for programs that decode Bytes with yaml.v3 itself.
func (b *Bytes) UnmarshalYAML(n *yaml.Node) error { return unmarshalScalar(n, b) }

func unmarshalScalar(n *yaml.Node, to interface{ UnmarshalText([]byte) error }) error {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind != yaml.ScalarNode {
		return fmt.Errorf("line %d: %s where a single value is expected", n.Line, kindName(n))
	}
	if err := to.UnmarshalText([]byte(n.Value)); err != nil {
		return fmt.Errorf("line %d: %w", n.Line, err)
	}
	return nil
}

// clip bounds what an error repeats of a value.
func clip(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}
