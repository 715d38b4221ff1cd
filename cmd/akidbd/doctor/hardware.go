package doctor

import (
	"context"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// power says in which mode a Jetson runs: most come with one that leaves cores off or slow.
func power(ctx context.Context, x *examination) []Finding {
	const check = "power mode"
	if x.tegra == "" {
		return skipped(check, "not a Jetson")
	}
	out, err := x.sys.run(ctx, "nvpmodel", "-q")
	if err != nil {
		return yellow(check, fmt.Sprintf("nvpmodel -q: %v", err), "sudo apt install nvidia-l4t-nvpmodel")
	}
	name := "unknown"
	for line := range strings.Lines(out) {
		if _, mode, ok := strings.Cut(line, "NV Power Mode:"); ok {
			name = strings.TrimSpace(mode)
		}
	}
	if strings.HasPrefix(name, "MAXN") {
		return green(check, name)
	}
	return yellow(check, name+", which is not the fastest", "sudo nvpmodel -m 0 is the fastest on most modules (/etc/nvpmodel.conf lists them), if cooling and supply allow it")
}

// throttling finds what slows the machine down now, or did since it started.
func throttling(_ context.Context, x *examination) []Finding {
	const check = "throttling"
	var found []Finding
	slow := func(text, do string) { found = append(found, yellow(check, text, do)...) }

	hottest, where := int64(0), ""
	for _, zone := range glob(x.Files, "/sys/class/thermal/thermal_zone*") {
		temp, ok := number(x.Files, zone+"/temp")
		if !ok {
			continue
		}
		name := read(x.Files, zone+"/type")
		if temp > hottest {
			hottest, where = temp, name
		}
		if limit := passive(x.Files, zone); limit > 0 && temp >= limit {
			slow(fmt.Sprintf("%s has %d °C and is slowed down from %d °C on", name, temp/1000, limit/1000), "cool it better, or choose a smaller power mode")
		}
	}
	for _, device := range glob(x.Files, "/sys/class/thermal/cooling_device*") {
		kind := read(x.Files, device+"/type")
		if strings.Contains(kind, "fan") {
			continue
		}
		if now, ok := number(x.Files, device+"/cur_state"); ok && now > 0 {
			slow(fmt.Sprintf("%s is held back, step %d of %s", kind, now, read(x.Files, device+"/max_state")), "cool the machine better")
		}
	}
	for _, file := range glob(x.Files, "/sys/class/hwmon/hwmon*/oc*_event_cnt") {
		if n, ok := number(x.Files, file); ok && n > 0 {
			slow(fmt.Sprintf("%s since the machine started (%s)", plural(int(n), "over-current event"), path.Base(file)), "a stronger power supply, or a smaller power mode")
		}
	}
	capped := 0
	for _, dir := range glob(x.Files, "/sys/devices/system/cpu/cpu[0-9]*/cpufreq") {
		most, ok1 := number(x.Files, dir+"/cpuinfo_max_freq")
		allowed, ok2 := number(x.Files, dir+"/scaling_max_freq")
		if ok1 && ok2 && allowed < most {
			capped++
		}
	}
	if capped > 0 {
		slow(plural(capped, "core")+" may not run at full speed", "raise scaling_max_freq, or choose a faster power mode")
	}
	if offline := read(x.Files, "/sys/devices/system/cpu/offline"); offline != "" {
		slow("cores "+offline+" are switched off", "choose a power mode with all cores (nvpmodel)")
	}
	switch {
	case len(found) > 0:
		return found
	case where == "":
		return skipped(check, "this machine shows no temperatures")
	}
	return green(check, fmt.Sprintf("nothing is held back; the hottest part is %s with %d °C", where, hottest/1000))
}

// passive is the temperature from which a thermal zone is slowed down, in thousandths of a degree; 0 when none is.
func passive(files fs.FS, zone string) int64 {
	lowest := int64(0)
	for _, kind := range glob(files, zone+"/trip_point_*_type") {
		if read(files, kind) != "passive" {
			continue
		}
		at, ok := number(files, strings.TrimSuffix(kind, "_type")+"_temp")
		if ok && at > 0 && (lowest == 0 || at < lowest) {
			lowest = at
		}
	}
	return lowest
}

// Disks: below these a model may not find room, or a state file not be written.
const (
	lowSpace = 2 << 30
	noSpace  = 256 << 20
)

func disk(_ context.Context, x *examination) []Finding {
	const check = "disk"
	if x.Config == nil {
		return nil
	}
	var found []Finding
	for _, d := range []struct{ key, dir string }{{"state_dir", x.Config.StateDir}, {"cache_dir", x.Config.CacheDir}} {
		total, free, readOnly, err := x.sys.space(d.dir)
		text := fmt.Sprintf("%s, %s: %s of %s are free", d.key, d.dir, gib(free), gib(total))
		switch {
		case err != nil:
			found = append(found, yellow(check, fmt.Sprintf("%s: %v", d.key, err), "systemd-tmpfiles --create akidbd.conf makes it")...)
		case readOnly:
			found = append(found, red(check, fmt.Sprintf("%s, %s, is on a file system that is read-only", d.key, d.dir), "dmesg says why; a card that wears out is a common cause")...)
		case free < noSpace:
			found = append(found, red(check, text, "free some space, or set "+d.key+" to another disk")...)
		case free < lowSpace:
			found = append(found, yellow(check, text, "free some space, or set "+d.key+" to another disk")...)
		default:
			found = append(found, green(check, text)...)
		}
	}
	return found
}

func gib(bytes uint64) string {
	return strconv.FormatFloat(float64(bytes)/(1<<30), 'f', 1, 64) + " GiB"
}

// cores says where a crash leaves its core, because nobody finds out afterwards.
func cores(_ context.Context, x *examination) []Finding {
	const check = "core dumps"
	pattern := read(x.Files, "/proc/sys/kernel/core_pattern")
	how := "the unit makes none (LimitCORE=0); systemctl edit akidbd with LimitCORE=infinity makes them"
	switch {
	case pattern == "":
		return skipped(check, "/proc/sys/kernel/core_pattern cannot be read")
	case strings.HasPrefix(pattern, "|"):
		return green(check, "they go to "+pattern[1:]+"; "+how)
	case strings.HasPrefix(pattern, "/"):
		return green(check, "they go to "+pattern+"; "+how)
	}
	return green(check, "they go to "+pattern+" in the daemon's directory, /, where it may not write; "+how)
}
