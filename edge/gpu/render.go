package gpu

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// clientsEvery is how often the open files of all processes are looked at.
const clientsEvery = 5 * time.Second

// RenderMeter reads how busy the render nodes of VA-API are, from what the
// kernel says of them: time on the engines by program (Linux,
// Documentation/gpu/drm-usage-stats.rst), and what amdgpu shows of its processor
// and memory. Programs of other users are seen with the rights to (root). Root
// and Paths are set before the first Read; it is for one goroutine.
type RenderMeter struct {
	Root  string   // "/"
	Paths []string // "/dev/dri/renderD128", ...; the first is vaapi0

	looked time.Time
	spent  map[client]uint64 // ns of encoding at the last look
	latest map[string]encoding
}

// client is one program's handle of a device, by its PCI address.
type client struct{ device, id string }

// encoding is what all programs do on a device.
type encoding struct{ percent, sessions int }

// Read measures every node; one that is gone, or whose driver let go of it, is lost.
func (m *RenderMeter) Read(now time.Time) []Reading {
	if len(m.Paths) > 0 && now.Sub(m.looked) >= clientsEvery {
		m.look(now)
	}
	out := make([]Reading, 0, len(m.Paths))
	for i, path := range m.Paths {
		r := Silent(StateOK, "")
		r.Engine, r.Index = fmt.Sprintf("%s%d", api.PoolVAAPI, i), i
		device := m.device(path)
		if _, err := os.Stat(filepath.Join(m.Root, path)); err != nil {
			r.State, r.Detail = StateLost, "its device file is gone"
		} else if _, err := os.Lstat(filepath.Join(device, "driver")); err != nil {
			r.State, r.Detail = StateLost, "its kernel driver has let go of it"
		}
		if r.State == StateOK {
			m.read(path, device, &r)
		}
		out = append(out, r)
	}
	return out
}

// device is the folder of the node's device in sysfs.
func (m *RenderMeter) device(path string) string {
	return filepath.Join(m.Root, "sys/class/drm", filepath.Base(path), "device")
}

func (m *RenderMeter) read(path, device string, r *Reading) {
	if e, known := m.latest[m.address(path)]; known {
		r.Encoder, r.Sessions = e.percent, e.sessions
	}
	if busy, ok := number(filepath.Join(device, "gpu_busy_percent")); ok {
		if busy > 100 {
			r.State, r.Detail = StateNonsense, fmt.Sprintf("utilisation of %d %%", busy)
			return
		}
		r.GPU = int(busy)
	}
	used, ok1 := number(filepath.Join(device, "mem_info_vram_used"))
	total, ok2 := number(filepath.Join(device, "mem_info_vram_total"))
	if !ok1 || !ok2 {
		return
	}
	if total == 0 || used > total {
		r.State, r.Detail = StateNonsense, fmt.Sprintf("%d of %d bytes of memory used", used, total)
		return
	}
	r.Memory = int(float64(used) * 100 / float64(total))
}

// address is the PCI address of a node, as programs' handles name it.
func (m *RenderMeter) address(path string) string {
	link, err := os.Readlink(m.device(path))
	if err != nil {
		return path // which no handle names
	}
	return filepath.Base(link)
}

func number(path string) (uint64, bool) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	return n, err == nil
}

// look sums what each program spent encoding since the last look. A device of
// which no program says so stays unknown.
func (m *RenderMeter) look(now time.Time) {
	spent, engines := map[client]uint64{}, map[string]uint64{}
	fds, _ := filepath.Glob(filepath.Join(m.Root, "proc/[0-9]*/fd/*")) // the pattern is well formed
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err != nil || !strings.HasPrefix(to, "/dev/dri/") {
			continue
		}
		info, err := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(fd)), "fdinfo", filepath.Base(fd)))
		if err != nil {
			continue // closed meanwhile
		}
		if c, ns, count, ok := parseClient(info); ok {
			spent[c], engines[c.device] = ns, max(engines[c.device], count)
		}
	}
	latest := map[string]encoding{}
	since := float64(now.Sub(m.looked).Nanoseconds())
	for c, ns := range spent {
		e := latest[c.device]
		if before, known := m.spent[c]; known && ns > before && since > 0 {
			e.percent += int(float64(ns-before) * 100 / since / float64(engines[c.device]))
			e.sessions++
		}
		latest[c.device] = e
	}
	for device, e := range latest {
		e.percent = min(e.percent, 100)
		latest[device] = e
	}
	if m.looked.IsZero() {
		latest = nil // a difference takes two looks
	}
	m.spent, m.latest, m.looked = spent, latest, now
}

// parseClient reads a handle's fdinfo: who it is, how long it has encoded, and on
// how many engines of that kind. amdgpu counts encoding, i915 all video work.
func parseClient(info []byte) (c client, ns, count uint64, ok bool) {
	count = 1
	lines := bufio.NewScanner(bytes.NewReader(info))
	for lines.Scan() {
		key, value, found := strings.Cut(lines.Text(), ":")
		f := strings.Fields(value)
		if !found || len(f) == 0 {
			continue
		}
		switch {
		case key == "drm-pdev":
			c.device = f[0]
		case key == "drm-client-id":
			c.id = f[0]
		case key == "drm-engine-capacity-video", key == "drm-engine-capacity-enc":
			if n, err := strconv.ParseUint(f[0], 10, 16); err == nil && n > 0 {
				count = n
			}
		case key == "drm-engine-video", strings.HasPrefix(key, "drm-engine-enc"):
			if n, err := strconv.ParseUint(f[0], 10, 64); err == nil && len(f) == 2 && f[1] == "ns" {
				ns, ok = ns+n, true
			}
		}
	}
	return c, ns, count, ok && c.device != "" && c.id != ""
}
