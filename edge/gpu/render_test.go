package gpu

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// kernel is a machine's /dev, /sys and /proc in a folder.
type kernel struct {
	t    *testing.T
	root string
}

func (k kernel) write(path, text string) {
	k.t.Helper()
	full := filepath.Join(k.root, path)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		k.t.Fatal(err)
	}
	if err := os.WriteFile(full, []byte(text), 0o600); err != nil {
		k.t.Fatal(err)
	}
}

func (k kernel) link(path, to string) {
	k.t.Helper()
	full := filepath.Join(k.root, path)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		k.t.Fatal(err)
	}
	if err := os.Symlink(to, full); err != nil {
		k.t.Fatal(err)
	}
}

func (k kernel) remove(path string) {
	k.t.Helper()
	if err := os.RemoveAll(filepath.Join(k.root, path)); err != nil {
		k.t.Fatal(err)
	}
}

// node adds a render node with its device and driver.
func (k kernel) node(n int, pci, driver string) {
	name := fmt.Sprint("renderD", 128+n)
	k.write("dev/dri/"+name, "")
	k.link("sys/class/drm/"+name+"/device", "../../../devices/"+pci)
	k.link("sys/devices/"+pci+"/driver", "../../bus/pci/drivers/"+driver)
}

// program is a handle that has encoded for so long.
func (k kernel) program(pid, id int, pci, engine string, spent time.Duration) {
	fd := fmt.Sprintf("proc/%d/fd/7", pid)
	k.remove(fd)
	k.link(fd, "/dev/dri/renderD128")
	k.write(fmt.Sprintf("proc/%d/fdinfo/7", pid), fmt.Sprintf("pos:\t0\ndrm-driver:\tx\ndrm-pdev:\t%s\ndrm-client-id:\t%d\n%s:\t%d ns\ndrm-engine-render:\t999 ns\n", pci, id, engine, spent.Nanoseconds()))
}

const amd, intel = "0000:03:00.0", "0000:00:02.0"

func TestRenderNodesAreRead(t *testing.T) {
	k := kernel{t, t.TempDir()}
	k.node(0, amd, "amdgpu")
	k.node(1, intel, "i915")
	k.write("sys/devices/"+amd+"/gpu_busy_percent", "37\n")
	k.write("sys/devices/"+amd+"/mem_info_vram_used", "1000\n")
	k.write("sys/devices/"+amd+"/mem_info_vram_total", "8000\n")
	k.program(10, 1, amd, "drm-engine-enc", time.Second)
	k.program(11, 2, amd, "drm-engine-enc_1", time.Second)
	k.program(12, 3, intel, "drm-engine-video", time.Second)
	k.write("proc/12/fdinfo/7", "drm-pdev: "+intel+"\ndrm-client-id: 3\ndrm-engine-capacity-video: 2\ndrm-engine-video: 1000000000 ns\n")
	k.write("proc/13/fdinfo/7", "no handle")
	k.link("proc/13/fd/7", "/dev/dri/renderD128")
	m := &RenderMeter{Root: k.root, Paths: []string{"/dev/dri/renderD128", "/dev/dri/renderD129"}}
	now := time.Unix(1000, 0)
	first := m.Read(now)
	if len(first) != 2 || first[0].Name() != "vaapi0" || first[1].Name() != "vaapi1" || first[0].Encoder != -1 {
		t.Fatalf("first %+v", first)
	}
	want := Reading{Engine: "vaapi0", State: StateOK, GPU: 37, Encoder: -1, Memory: 12, Sessions: -1, FPS: -1, LatencyUS: -1, Temperature: -1}
	if first[0] != want || first[1].GPU != -1 || first[1].Memory != -1 {
		t.Errorf("read %+v", first)
	}
	// Ten seconds later: 2 + 1 s of encoding on one device, 6 s on the other's two engines.
	k.program(10, 1, amd, "drm-engine-enc", 3*time.Second)
	k.program(11, 2, amd, "drm-engine-enc_1", 2*time.Second)
	k.program(14, 4, amd, "drm-engine-enc", 50*time.Second) // new: since when, nobody knows
	k.write("proc/12/fdinfo/7", "drm-pdev: "+intel+"\ndrm-client-id: 3\ndrm-engine-capacity-video: 2\ndrm-engine-video: 7000000000 ns\n")
	if r := m.Read(now.Add(time.Second)); r[0].Encoder != -1 {
		t.Errorf("looked at all processes each second: %+v", r[0])
	}
	r := m.Read(now.Add(10 * time.Second))
	if r[0].Encoder != 30 || r[0].Sessions != 2 || r[1].Encoder != 30 || r[1].Sessions != 1 {
		t.Errorf("encoding %+v", r)
	}
	// One says nonsense, the other is taken out and put back.
	k.write("sys/devices/"+amd+"/gpu_busy_percent", "4000\n")
	k.remove("sys/devices/" + intel + "/driver")
	r = m.Read(now.Add(11 * time.Second))
	if r[0].State != StateNonsense || r[0].GPU != -1 || r[1].State != StateLost || r[1].Detail == "" {
		t.Errorf("broken %+v", r)
	}
	k.write("sys/devices/"+amd+"/gpu_busy_percent", "5\n")
	k.write("sys/devices/"+amd+"/mem_info_vram_used", "9000\n")
	k.remove("dev/dri/renderD129")
	r = m.Read(now.Add(12 * time.Second))
	if r[0].State != StateNonsense || r[1].State != StateLost || r[1].Encoder != -1 {
		t.Errorf("broken otherwise %+v", r)
	}
	k.write("sys/devices/"+amd+"/mem_info_vram_used", "800\n")
	k.write("dev/dri/renderD129", "")
	k.link("sys/devices/"+intel+"/driver", "../../bus/pci/drivers/i915")
	if r = m.Read(now.Add(13 * time.Second)); r[0].State != StateOK || r[1].State != StateOK {
		t.Errorf("put back %+v", r)
	}
	if r := (&RenderMeter{Root: k.root}).Read(now); len(r) != 0 {
		t.Errorf("without a node: %+v", r)
	}
}

// This machine's own render nodes, whatever they are.
func TestRenderNodesHere(t *testing.T) {
	var paths []string
	for _, r := range Renders("/") {
		paths = append(paths, r.Path)
	}
	m := &RenderMeter{Root: "/", Paths: paths}
	for i, r := range m.Read(time.Now()) {
		t.Logf("%s: %+v", paths[i], r)
		if r.State == StateOK && (r.GPU > 100 || r.Memory > 100) {
			t.Errorf("read %+v", r)
		}
	}
}
