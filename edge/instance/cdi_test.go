package instance

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/perigee-cloud/perigee/api"
)

// cdiWorld makes a specification of a processor that is two harmless devices,
// the second closed to all but a group, and a library.
func cdiWorld(t *testing.T) (dir string) {
	t.Helper()
	needRoot(t)
	dir, err := os.MkdirTemp("", "cdi")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for name, mode := range map[string]uint32{"zero": 0o666, "null": 0o660} {
		minor := map[string]uint32{"null": 3, "zero": 5}[name] // of the memory devices, major 1
		p := filepath.Join(dir, name)
		if err := errors.Join(unix.Mknod(p, unix.S_IFCHR|mode, int(unix.Mkdev(1, minor))), os.Chmod(p, os.FileMode(mode)), os.Chown(p, 0, 4242)); err != nil {
			t.Skip("no device files can be made here: ", err)
		}
	}
	if f, err := os.Open(filepath.Join(dir, "zero")); err != nil {
		t.Skip("device files cannot be used here: ", err)
	} else {
		f.Close()
	}
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(filepath.Join(dir, "lib.so"), []byte("driver"), 0o644)); err != nil {
		t.Fatal(err)
	}
	spec := `cdiVersion: "0.6.0"
kind: nvidia.com/gpu
containerEdits:
  env: [GPU_SEEN=all, GPU_OVER=cdi]
  hooks: [{hookName: createContainer, path: /usr/bin/nvidia-cdi-hook}]
devices:
- name: GPU-1
  containerEdits:
    env: [GPU_SEEN=one]
    deviceNodes:
    - {path: /dev/fakegpu0, hostPath: DIR/zero}
    - {path: /dev/fake/ctl, hostPath: DIR/null}
    mounts:
    - {hostPath: DIR/lib.so, containerPath: AT/lib.so, options: [ro, nosuid, nodev, bind]}
`
	spec = strings.NewReplacer("DIR", dir, "AT", "/tmp/driver").Replace(spec)
	if err := os.WriteFile(filepath.Join(dir, "nvidia.yaml"), []byte(spec), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

const cdiProbe = `echo zero=$(head -c 3 /dev/fakegpu0 | wc -c); echo x >/dev/fake/ctl && echo ctl=yes; echo lib=$(cat /tmp/driver/lib.so)
echo seen=$GPU_SEEN; echo over=$GPU_OVER; (echo x >/tmp/driver/lib.so) 2>/dev/null || echo sealed=yes`

func TestGraphicsProcessorByCDI(t *testing.T) {
	dir := cdiWorld(t)
	check := func(t *testing.T, got map[string]string) {
		t.Helper()
		for k, want := range map[string]string{"zero": "3", "ctl": "yes", "lib": "driver", "seen": "one", "over": "manifest", "sealed": "yes"} {
			if got[k] != want {
				t.Errorf("%s is %q, want %q", k, got[k], want)
			}
		}
	}
	app := api.App{Env: map[string]string{"GPU_OVER": "manifest"}}
	t.Run("program", func(t *testing.T) { check(t, onGPU(t, app, "GPU-1", cdiProbe, "TEST_CDI="+dir)) })
	t.Run("container", func(t *testing.T) {
		h := newHarbour(t)
		app := app
		app.Kind, app.Image = api.AppContainer, h.image(v1.Config{User: "0"}, nil)
		got := onGPU(t, app, "GPU-1", strings.ReplaceAll(cdiProbe, "| wc -c)", "| (cat >/tmp/z; stat -c %s /tmp/z))"), append(h.env, "TEST_CDI="+dir)...)
		check(t, got)
	})
}

// onGPU runs a script that says name=value on a graphics processor.
func onGPU(t *testing.T, app api.App, uuid, script string, env ...string) map[string]string {
	t.Helper()
	app.Command = []string{"sh", "-c", script}
	s := prepare(t, app, api.Screen{})
	spec, err := s.dir.ReadSpec()
	if err != nil {
		t.Fatal(err)
	}
	spec.GPU = uuid
	if err := s.dir.WriteSpec(spec); err != nil {
		t.Fatal(err)
	}
	s.begin(env...)
	s.wait(api.ObservedStopped)
	out := map[string]string{}
	for line := range strings.Lines(content(t, s.dir.Path("app.log"))) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			out[k] = v
		}
	}
	return out
}

func TestCDISpecifications(t *testing.T) {
	const head = "cdiVersion: \"0.6.0\"\nkind: nvidia.com/gpu\ndevices:\n- name: \"0\"\n  containerEdits:\n"
	for name, c := range map[string]struct{ text, says string }{
		"not yaml":         {"{", "read CDI specification"},
		"no kind":          {"cdiVersion: \"0.6.0\"", "kind"},
		"outside of /dev":  {head + "    deviceNodes: [{path: /etc/passwd}]", "must lie in /dev"},
		"way out of /dev":  {head + "    deviceNodes: [{path: /dev/../etc/passwd}]", "must lie in /dev"},
		"no device":        {head + "    deviceNodes: [{path: /dev/x, hostPath: /etc/hostname}]", "is no device"},
		"gone device":      {head + "    deviceNodes: [{path: /dev/nosuch}]", "no such file"},
		"relative mount":   {head + "    mounts: [{hostPath: lib, containerPath: /lib}]", "absolute"},
		"gone mount":       {head + "    mounts: [{hostPath: /nosuch, containerPath: /lib}]", "no such file"},
		"env without name": {head + "    env: [\"=x\"]", "NAME=VALUE"},
		"another device":   {"cdiVersion: \"0.6.0\"\nkind: nvidia.com/gpu\ndevices: [{name: \"1\"}]", errNoCDI.Error()},
		"another kind":     {"cdiVersion: \"0.6.0\"\nkind: intel.com/gpu\ndevices: [{name: \"0\"}]", errNoCDI.Error()},
	} {
		dir := tree(t, map[string]string{"gpu.yaml": c.text, "README": "{"})
		if _, err := cdiDevice([]string{filepath.Join(dir, "none"), dir}, cdiKind, "0"); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
	early := tree(t, map[string]string{"a.json": `{"cdiVersion":"0.6.0","kind":"nvidia.com/gpu","devices":[{"name":"0","containerEdits":{"env":["A=1"]}}]}`})
	late := tree(t, map[string]string{"a.yaml": head + "    env: [A=2]"})
	d, err := cdiDevice([]string{early, late}, cdiKind, "0")
	if err != nil || d.env["A"] != "2" {
		t.Errorf("of two specifications %+v, %v", d, err)
	}
}

func TestDriversOwnFiles(t *testing.T) {
	root := tree(t, map[string]string{"proc/driver/nvidia/gpus/0000:41:00.0/information": "Model: \t H200\nGPU UUID: \t GPU-7\nDevice Minor: \t 3\n"})
	d, err := plainDevice(root, "GPU-7")
	if err != nil || len(d.nodes) != 0 { // no such files here
		t.Errorf("%+v, %v", d, err)
	}
	if _, err := plainDevice(root, "GPU-8"); err == nil || !strings.Contains(err.Error(), "GPU-8") {
		t.Errorf("an unknown one: %v", err)
	}
}
