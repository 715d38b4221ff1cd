package config

import (
	"math"
	"testing"
	"time"

	"gopkg.in/yaml.v3"
)

func TestDurationText(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0": 0, "250ms": 250 * time.Millisecond, "10s": 10 * time.Second, "1h30m": 90 * time.Minute, "1.5s": 1500 * time.Millisecond,
	} {
		var d Duration
		if err := d.UnmarshalText([]byte(text)); err != nil || d.Std() != want {
			t.Errorf("%s: %v, %v", text, d, err)
		}
	}
	for d, want := range map[time.Duration]string{
		0: "0s", 10 * time.Second: "10s", 10 * time.Minute: "10m", 20 * time.Hour: "20h", 90 * time.Minute: "1h30m", time.Hour + time.Second: "1h0m1s",
	} {
		got := Duration(d).String()
		var back Duration
		if err := back.UnmarshalText([]byte(got)); got != want || err != nil || back.Std() != d {
			t.Errorf("%v is written %q, read %v, %v", d, got, back, err)
		}
	}
	for _, bad := range []string{"", "s", "10", "10 s", "-", "1e99h"} {
		var d Duration
		if err := d.UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q was read as %v", bad, d)
		}
	}
}

func TestBytesText(t *testing.T) {
	for text, want := range map[string]Bytes{
		"0": 0, "123": 123, "1KiB": 1024, "8MiB": 8 << 20, "8 MiB": 8 << 20, "3kB": 3000, "2MB": 2e6, "1GiB": 1 << 30, "2TB": 2e12,
		"9223372036854775807": math.MaxInt64, "8388607TiB": 8388607 << 40,
	} {
		var b Bytes
		if err := b.UnmarshalText([]byte(text)); err != nil || b != want {
			t.Errorf("%s: %d, %v", text, b, err)
			continue
		}
		var back Bytes
		if err := back.UnmarshalText([]byte(b.String())); err != nil || back != b {
			t.Errorf("%d is written %q, read %d, %v", b, b.String(), back, err)
		}
	}
	for _, bad := range []string{"", "MiB", "-1", "1.5MiB", "8M", "8mib", "9223372036854775808", "8388608TiB", "0x10", "1_000"} {
		var b Bytes
		if err := b.UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q was read as %d", bad, b)
		}
	}
}

func TestScalarsDecodeWithYAMLItself(t *testing.T) {
	var got struct {
		D, E Duration
		B    Bytes
	}
	if err := yaml.Unmarshal([]byte("d: &d 10s\ne: *d\nb: 4KiB\n"), &got); err != nil || got.D.Std() != 10*time.Second || got.E != got.D || got.B != 4096 {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"d: 10", "b: [1]", "d: {a: b}"} {
		if err := yaml.Unmarshal([]byte(bad), &got); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}
