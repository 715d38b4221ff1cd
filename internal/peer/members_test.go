package peer

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/akidb/akidbd/internal/node"
)

func selfless() node.Info { return node.Info{ID: "me", Word: node.Word{State: node.Ready}} }

func fleet(n int, region string) []node.Info {
	var infos []node.Info
	for i := range n {
		infos = append(infos, node.Info{ID: node.ID(fmt.Sprintf("%s-%d", region, i)), Region: region})
	}
	return infos
}

func TestTargets(t *testing.T) {
	all := slices.Concat(fleet(40, "eu"), fleet(40, "us"), fleet(3, "ap"))
	got := targets("eu-0", "eu", all, 8)
	count := map[string]int{}
	for _, id := range got {
		count[string(id)[:2]]++
	}
	if count["eu"] != 39 || count["us"] != 8 || count["ap"] != 3 || slices.Contains(got, "eu-0") {
		t.Errorf("got %v", count)
	}
	slices.Reverse(all)
	if again := targets("eu-0", "eu", all, 8); !slices.Equal(got, again) {
		t.Error("the order of the members counts")
	}
	// Taking one out moves only its own place.
	less := slices.DeleteFunc(slices.Clone(all), func(n node.Info) bool { return n.ID == got[len(got)-1] })
	if again := targets("eu-0", "eu", less, 8); len(again) != len(got) {
		t.Errorf("%d targets", len(again))
	} else {
		for _, id := range got[:len(got)-1] {
			if !slices.Contains(again, id) {
				t.Errorf("%s was dropped", id)
			}
		}
	}
}

// TestTargetsAreEven: in a large region no node is left out and none is everybody's.
func TestTargetsAreEven(t *testing.T) {
	all := fleet(200, "eu")
	chosen := map[node.ID]int{}
	for _, n := range all {
		for _, id := range targets(n.ID, "eu", all, 8) {
			chosen[id]++
		}
	}
	for _, n := range all {
		if c := chosen[n.ID]; c < 32 || c > 110 {
			t.Errorf("%s is chosen by %d, 64 is the mean", n.ID, c)
		}
	}
}

func TestResetKeyIsKept(t *testing.T) {
	dir := t.TempDir()
	one, err := loadKeys(dir)
	if err != nil {
		t.Fatal(err)
	}
	two, err := loadKeys(dir)
	if err != nil || one != two {
		t.Errorf("the keys changed: %v", err)
	}
	if slices.Equal(one.reset[:], one.token[:]) {
		t.Error("one key for two uses")
	}
	path := filepath.Join(dir, keyFile)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if other, err := loadKeys(""); err != nil || other == one {
		t.Errorf("without a directory: %v", err)
	}
	if err := os.WriteFile(path, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadKeys(dir); err == nil {
		t.Error("a short key was taken")
	}
	if _, err := loadKeys(filepath.Join(dir, "absent")); err == nil {
		t.Error("an absent directory was taken")
	}
}
