package main

import (
	"debug/elf"
	"fmt"
	"strconv"
	"strings"
)

// oldestSystem has these versions of symbols, the newest a package may ask for: Ubuntu 20.04, glibc 2.31 and the
// libstdc++ and libgcc of GCC 10.
func oldestSystem() map[string]string {
	return map[string]string{"GLIBC": glibc, "GLIBCXX": "3.4.28", "CXXABI": "1.3.12", "GCC": "10.0.0"}
}

var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

// checkSymbols fails for a file that asks for newer versions of symbols than these.
func checkSymbols(file, arch string, newest map[string]string) error {
	f, err := elf.Open(file)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	defer f.Close()
	if f.Machine != machines[arch] {
		return fmt.Errorf("%s is built for %v", file, f.Machine)
	}
	symbols, err := f.ImportedSymbols()
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	most := map[string]string{}
	for _, s := range symbols {
		family, version, ok := strings.Cut(s.Version, "_")
		limit, known := newest[family]
		if !ok || !known {
			continue
		}
		if newer(version, limit) {
			return fmt.Errorf("%s needs %s of %s, newer than %s_%s: it would not load on Ubuntu 20.04", file, s.Name, s.Version, family, limit)
		}
		if newer(version, most[family]) {
			most[family] = version
		}
	}
	fmt.Printf("%s: %d symbols from outside, the newest of %v\n", file, len(symbols), most)
	return nil
}

// newer compares versions like 2.31 and 2.4 by their numbers; what is no number, like PRIVATE, is old.
func newer(a, b string) bool {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i := range max(len(as), len(bs)) {
		if x, y := part(as, i), part(bs, i); x != y {
			return x > y
		}
	}
	return false
}

func part(parts []string, i int) int {
	if i >= len(parts) {
		return 0
	}
	n, err := strconv.Atoi(parts[i])
	if err != nil {
		return 0
	}
	return n
}
