package gpu

import (
	"bufio"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// Render is one render node that VA-API may encode on.
type Render struct {
	Path   string `json:"path"`            // "/dev/dri/renderD128"
	Driver string `json:"driver"`          // the kernel's: "i915", "amdgpu"
	State  State  `json:"state,omitempty"` // "" = ok
	Detail string `json:"detail,omitempty"`
}

// Renders lists the render nodes of a machine whose root is at root ("/"); the
// NVIDIA driver's own are left out, they are reached through NVENC.
func Renders(root string) []Render {
	found, _ := filepath.Glob(filepath.Join(root, "dev/dri/renderD*")) // the pattern is well formed
	slices.Sort(found)
	var out []Render
	for _, f := range found {
		name := filepath.Base(f)
		driver := "unknown"
		if link, err := os.Readlink(filepath.Join(root, "sys/class/drm", name, "device/driver")); err == nil {
			driver = filepath.Base(link)
		}
		if driver == "nvidia" {
			continue
		}
		out = append(out, Render{Path: "/dev/dri/" + name, Driver: driver})
	}
	return out
}

// Machine gives the processor's model and the number of cores.
func Machine() (model string, cores int) {
	model, cores = "unknown processor", runtime.NumCPU()
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return model, cores
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		key, value, ok := strings.Cut(lines.Text(), ":")
		if ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value), cores
		}
	}
	return model, cores
}
