package gpu

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Two daemons on one machine share no encoder: the second says who has it, and
// takes it once the first has ended.
func TestTwoDaemonsOnOneProcessor(t *testing.T) {
	dir := t.TempDir()
	inv := Inventory{State: StateOK, Devices: []Device{
		{Index: 0, UUID: "GPU-a", Name: "Tesla T4", Engines: 1, State: StateOK},
		{Index: 1, UUID: "GPU-b", Name: "NVIDIA H200", State: StateNoEncoder},
		{Index: 2, UUID: "../../../etc/x", Name: "NVIDIA L4", Engines: 2, State: StateOK},
	}, VAAPI: []Render{{Path: "/dev/dri/renderD128", Driver: "i915"}}}
	first, release, err := Claim(dir, inv)
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range first.Devices {
		if d != inv.Devices[i] {
			t.Errorf("the first got %+v", d)
		}
	}
	second, letGo, err := Claim(dir, inv)
	if err != nil {
		t.Fatal(err)
	}
	defer letGo()
	if d := second.Devices[0]; d.State != StateClaimed || d.Encodes() || !strings.Contains(d.Detail, "process ") {
		t.Errorf("the second got %+v", d)
	}
	if second.Devices[1] != inv.Devices[1] || second.Devices[2].State != StateClaimed || second.VAAPI[0].State != StateClaimed {
		t.Errorf("the second got %+v", second)
	}
	if inv.Devices[0].State != StateOK || inv.VAAPI[0].State != "" {
		t.Error("the inventory was changed")
	}
	if _, known := Estimate(second.Devices); known {
		t.Error("the second offers what the first has")
	}
	release()
	third, letGo3, err := Claim(dir, inv)
	defer letGo3()
	if err != nil || third.Devices[0].State != StateOK || third.VAAPI[0].State != "" {
		t.Errorf("after the first: %+v, %v", third, err)
	}
	if found, _ := filepath.Glob(filepath.Join(dir, "*.lock")); len(found) != 3 {
		t.Errorf("locks %v", found)
	}
}

// Where nothing can be locked the encoders are used all the same, and it is said.
func TestClaimWithoutAPlace(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{filepath.Join(t.TempDir(), "absent"), file} {
		out, release, err := Claim(dir, Inventory{VAAPI: []Render{{Path: "/dev/dri/renderD128"}}})
		release()
		if err == nil || !strings.Contains(err.Error(), "renderD128") || out.VAAPI[0].State != "" {
			t.Errorf("%+v, %v", out, err)
		}
	}
}
