package instance

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"gopkg.in/yaml.v3"
)

// cdiKind is how NVIDIA names its processors in CDI; a device's name is its
// number or its UUID (nvidia-ctk cdi generate).
const cdiKind = "nvidia.com/gpu"

// maxCDI bounds one specification in bytes; NVIDIA's has 20 KiB.
const maxCDI = 1 << 20

// cdiDirs are where specifications lie, a later one before an earlier one
// (Container Device Interface, CDI JSON Specification).
func cdiDirs() []string { return []string{"/etc/cdi", "/var/run/cdi"} }

// cdiSpec is what we read of a specification.
type cdiSpec struct {
	Version string `yaml:"cdiVersion"`
	Kind    string `yaml:"kind"`
	Devices []struct {
		Name  string   `yaml:"name"`
		Edits cdiEdits `yaml:"containerEdits"`
	} `yaml:"devices"`
	Edits cdiEdits `yaml:"containerEdits"`
}

// cdiEdits are what a device needs in a sandbox.
type cdiEdits struct {
	Env   []string `yaml:"env"`
	Nodes []struct {
		Path string `yaml:"path"`
		Host string `yaml:"hostPath"`
	} `yaml:"deviceNodes"`
	Mounts []struct {
		Host    string   `yaml:"hostPath"`
		Path    string   `yaml:"containerPath"`
		Options []string `yaml:"options"`
	} `yaml:"mounts"`
	Hooks  []any    `yaml:"hooks"`
	Groups []uint32 `yaml:"additionalGids"`
}

// device is a graphics processor as a sandbox is given it. The nil device is none.
type device struct {
	env    map[string]string
	nodes  [][2]string // on the host, in the sandbox
	mounts [][2]string // the same; read-only
	groups []uint32    // who may open the nodes
	hooks  int         // of its specification, which we do not run
}

// errNoCDI says that no specification names the device.
var errNoCDI = errors.New("no CDI specification names it")

// cdiDevice reads what the device of a kind is; of several specifications that
// name it, the one in the later folder holds.
func cdiDevice(dirs []string, kind, name string) (*device, error) {
	for _, dir := range slices.Backward(dirs) {
		files, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("read CDI specifications: %w", err)
		}
		for _, f := range files {
			if ext := filepath.Ext(f.Name()); ext != ".json" && ext != ".yaml" && ext != ".yml" {
				continue
			}
			p := filepath.Join(dir, f.Name())
			spec, err := readCDI(p)
			if err != nil {
				return nil, fmt.Errorf("read CDI specification %s: %w", p, err)
			}
			if spec.Kind != kind {
				continue
			}
			for _, d := range spec.Devices {
				if d.Name != name {
					continue
				}
				out := &device{env: map[string]string{}}
				if err := errors.Join(out.edit(spec.Edits), out.edit(d.Edits)); err != nil {
					return nil, fmt.Errorf("CDI specification %s: %w", p, err)
				}
				return out, nil
			}
		}
	}
	return nil, errNoCDI
}

func readCDI(p string) (spec cdiSpec, err error) {
	st, err := os.Stat(p)
	if err != nil {
		return spec, err
	}
	if st.Size() > maxCDI {
		return spec, fmt.Errorf("it has %d bytes, more than %d", st.Size(), maxCDI)
	}
	b, err := os.ReadFile(p)
	if err != nil {
		return spec, err
	}
	if err := yaml.Unmarshal(b, &spec); err != nil { // JSON is YAML
		return spec, err
	}
	if spec.Version == "" || !strings.Contains(spec.Kind, "/") {
		return spec, errors.New("it names no cdiVersion and no kind of the form vendor/class")
	}
	return spec, nil
}

// edit takes over what a specification says.
func (d *device) edit(e cdiEdits) error {
	for _, kv := range e.Env {
		k, v, ok := strings.Cut(kv, "=")
		if !ok || k == "" {
			return fmt.Errorf("env %q must be NAME=VALUE", kv)
		}
		d.env[k] = v
	}
	for _, n := range e.Nodes {
		host := n.Host
		if host == "" {
			host = n.Path
		}
		if !strings.HasPrefix(path.Clean(n.Path), "/dev/") || !path.IsAbs(host) {
			return fmt.Errorf("device node %q of %q must lie in /dev", n.Path, host)
		}
		if err := d.node(host, path.Clean(n.Path)); err != nil {
			return err
		}
	}
	for _, m := range e.Mounts {
		if !path.IsAbs(m.Host) || !path.IsAbs(m.Path) {
			return fmt.Errorf("mount of %q at %q must have absolute paths", m.Host, m.Path)
		}
		if _, err := os.Stat(m.Host); err != nil {
			return fmt.Errorf("mount at %s: %w", m.Path, err)
		}
		d.mounts = append(d.mounts, [2]string{m.Host, path.Clean(m.Path)})
	}
	d.groups = append(d.groups, e.Groups...)
	d.hooks += len(e.Hooks)
	return nil
}

// node adds a device file, with the group that may open it where not all may.
func (d *device) node(host, at string) error {
	var st unix.Stat_t
	if err := unix.Stat(host, &st); err != nil {
		return fmt.Errorf("device node %s: %w", host, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR && st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return fmt.Errorf("device node %s is no device", host)
	}
	if st.Mode&0o006 != 0o006 && st.Mode&0o060 == 0o060 && st.Gid != 0 && !slices.Contains(d.groups, st.Gid) {
		d.groups = append(d.groups, st.Gid)
	}
	d.nodes = append(d.nodes, [2]string{host, at})
	return nil
}

// plainDevice gives the driver's own files of the processor with a UUID, for
// programs, who see the driver's libraries in the host's /usr.
func plainDevice(root, uuid string) (*device, error) {
	found, err := filepath.Glob(filepath.Join(root, "proc/driver/nvidia/gpus/*/information"))
	if err != nil {
		return nil, fmt.Errorf("find the driver's devices: %w", err)
	}
	for _, f := range found {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // it went
		}
		has := map[string]string{}
		for line := range strings.Lines(string(b)) {
			k, v, _ := strings.Cut(line, ":")
			has[strings.TrimSpace(k)] = strings.TrimSpace(v)
		}
		if has["GPU UUID"] != uuid {
			continue
		}
		names := []string{"nvidia" + has["Device Minor"], "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset"}
		renders, _ := filepath.Glob(filepath.Join(root, "sys/bus/pci/devices", filepath.Base(filepath.Dir(f)), "drm/renderD*")) // well formed
		for _, r := range renders {
			names = append(names, "dri/"+filepath.Base(r))
		}
		d := &device{}
		for _, n := range names {
			if err := d.node(filepath.Join(root, "dev", n), "/dev/"+n); errors.Is(err, unix.ENOENT) {
				continue // not every driver makes all of them
			} else if err != nil {
				return nil, err
			}
		}
		return d, nil
	}
	return nil, fmt.Errorf("the driver shows no graphics processor %s", uuid)
}

// arguments are bubblewrap's.
func (d *device) arguments() []string {
	if d == nil {
		return nil
	}
	var a []string
	for _, n := range d.nodes {
		a = append(a, "--dev-bind", n[0], n[1])
	}
	for _, m := range d.mounts {
		a = append(a, "--ro-bind", m[0], m[1])
	}
	return a
}

// graphics finds the graphics processor whose memory was reserved.
func (s *shim) graphics() (*device, error) {
	uuid := s.spec.GPU
	if uuid == "" {
		return nil, nil
	}
	d, err := cdiDevice(s.cfg.CDI, cdiKind, uuid)
	switch {
	case errors.Is(err, errNoCDI) && s.img == nil:
		d, err = plainDevice("/", uuid)
	case errors.Is(err, errNoCDI):
		return nil, fmt.Errorf("the node knows no CDI device %s=%s: run \"nvidia-ctk cdi generate --device-name-strategy=uuid --output=/etc/cdi/nvidia.yaml\" there", cdiKind, uuid)
	}
	if err != nil {
		return nil, err
	}
	if d.hooks > 0 {
		s.log.Warn("hooks of the graphics processor's CDI specification are not run", "count", d.hooks)
	}
	return d, nil
}
