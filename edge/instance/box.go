package instance

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/local"
)

// etcShown are the parts of /etc that programs need to draw and speak; nothing
// of the machine's own identity, accounts or secrets.
func etcShown() []string {
	return []string{
		"alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "fonts", "localtime", "timezone",
		"ssl/certs", "ca-certificates", "ca-certificates.conf", "X11", "xdg", "gtk-2.0", "gtk-3.0", "gtk-4.0",
		"pulse", "alsa", "drirc", "glvnd", "vulkan", "OpenCL", "openal", "mime.types", "magic", "terminfo",
		"debian_version", "os-release", "java-17-openjdk", "java-21-openjdk", "libreoffice", "chromium.d",
		"kernel-img.conf", "protocols", "services", "inputrc", "bash.bashrc", "profile",
	}
}

// boxFiles are files of /etc made for the sandbox.
func boxFiles(network api.NetworkAccess) map[string]string {
	f := map[string]string{
		"passwd": "root:x:0:0:root:/root:/usr/sbin/nologin\n" +
			boxUser + ":x:" + boxUID + ":" + boxUID + ":" + boxUser + ":" + boxHome + ":/bin/sh\n" +
			"nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
		"group":         "root:x:0:\n" + boxUser + ":x:" + boxUID + ":\nnogroup:x:65534:\n",
		"nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
		"machine-id":    "00000000000000000000000000000001\n",
	}
	if network == api.NetworkEgress {
		f["resolv.conf"] = "nameserver " + egressDNS + "\n"
	}
	if network != api.NetworkFull {
		f["hosts"] = "127.0.0.1 localhost perigee\n::1 localhost\n"
	}
	for _, d := range []string{"/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64"} {
		if _, err := os.Stat(d + "/alsa-lib/libasound_module_pcm_pulse.so"); err == nil {
			f["asound.conf"] = "pcm.!default { type pulse }\nctl.!default { type pulse }\n"
		}
	}
	return f
}

// boxConfig is what a sandbox is made of.
type boxConfig struct {
	spec   api.Spec
	dir    local.Session
	stage  *stage
	group  *group
	x      *xserver
	sound  *sound
	shared string // the shared folder, as the launcher's thread sees it
	home   string // the same of its home; "" = a new one for each sandbox
	net    *network
	pads   *pads             // nil = none
	root   *root             // of a container; nil for a program, which sees the host's /usr
	files  map[string]string // of boxFiles: where they are on the stage
	temps  map[string]string // of boxTemps: the same; nil = new ones for each sandbox
	more   map[string]string // of the environment, for one command
	gpu    *device
}

// find gives the command as the sandbox finds it; in a container that is left
// to the sandbox.
func (b *boxConfig) find() (string, error) {
	if b.root != nil {
		return b.spec.App.Command[0], nil
	}
	return findCommand(b.spec.App)
}

// findCommand resolves an application's command on the host; the sandbox shows
// the same /usr.
func findCommand(app api.App) (string, error) {
	name := app.Command[0]
	if strings.Contains(name, "/") {
		if st, err := os.Stat(name); err != nil || st.IsDir() || st.Mode()&0o111 == 0 {
			return "", fmt.Errorf("command %s is not an executable file of this node", name)
		}
		if !visible(name, app.ReadOnly) {
			return "", fmt.Errorf("command %s lies outside the sandbox: add its folder to read_only", name)
		}
		return name, nil
	}
	for dir := range strings.SplitSeq(boxPath, ":") {
		p := filepath.Join(dir, name)
		if st, err := os.Stat(p); err == nil && !st.IsDir() && st.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", fmt.Errorf("command %s is not in %s: install it on this node", name, boxPath)
}

func visible(path string, shown []string) bool {
	for _, p := range append([]string{"/usr", "/bin", "/sbin", "/lib", "/lib64"}, shown...) {
		if path == p || strings.HasPrefix(path, p+"/") {
			return true
		}
	}
	return false
}

// arguments are bubblewrap's for the application, without the command.
func (b *boxConfig) arguments() []string { return append(b.ownSpaces(), b.inSpaces()...) }

// ownSpaces are the arguments that only the application's process has: the
// namespaces that it makes, its user there, its session.
func (b *boxConfig) ownSpaces() []string {
	a := []string{"--unshare-user", "--unshare-pid", "--new-session", "--uid", b.root.uid(), "--gid", b.root.gid()}
	if b.net == nil && b.spec.App.Permissions.Network != api.NetworkFull {
		a = append(a, "--unshare-net")
	}
	return a
}

// inSpaces are the arguments of every process in the sandbox, the
// application's and those beside it: mounts, bounds, environment. What a
// client chose is among them, so nobody may look for options in them.
func (b *boxConfig) inSpaces() []string {
	a := []string{
		"--unshare-uts", "--unshare-cgroup-try", "--hostname", "perigee",
		"--die-with-parent", "--clearenv", "--cap-drop", "ALL",
	}
	if !b.stage.l.private { // else the launcher's thread has one, and the X server shares it
		a = append(a, "--unshare-ipc")
	}
	access := b.spec.App.Permissions.Network
	if b.root != nil {
		a = append(a, "--bind", b.root.path, "/")
	} else {
		a = append(a, "--ro-bind", "/usr", "/usr")
		for _, d := range []string{"/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"} {
			if to, err := os.Readlink(d); err == nil {
				a = append(a, "--symlink", to, d)
			} else {
				a = append(a, "--ro-bind-try", d, d)
			}
		}
	}
	// Their pages count as the application's memory, so half of it bounds each.
	size := strconv.Itoa(max(b.spec.App.Resources.MemoryMiB/2, 1) << 20)
	a = append(a, "--proc", "/proc", "--dev", "/dev")
	for _, d := range append(boxTemps(), boxHome) {
		at := b.temps[d]
		if d == boxHome {
			at = b.home
		}
		if at != "" {
			a = append(a, "--bind", at, d)
			continue
		}
		a = append(a, "--perms", tempMode(d), "--size", size, "--tmpfs", d)
	}
	if b.root == nil {
		a = append(a, "--symlink", "/run", "/var/run",
			"--ro-bind-try", "/var/cache/fontconfig", "/var/cache/fontconfig")
		for _, e := range etcShown() {
			a = append(a, "--ro-bind-try", "/etc/"+e, "/etc/"+e)
		}
	}
	if access == api.NetworkFull {
		for _, e := range []string{"resolv.conf", "hosts", "gai.conf"} {
			a = append(a, "--ro-bind-try", "/etc/"+e, "/etc/"+e)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(b.files)) {
		a = append(a, "--ro-bind", b.files[name], "/etc/"+name)
	}
	socket := socketOf(b.x.number)
	a = append(a, "--ro-bind", socket, socket,
		"--ro-bind", b.x.staged, boxPlace+"/xauth",
		"--ro-bind", b.sound.staged, boxPlace+"/pulse",
		"--ro-bind", b.shared, boxShared)
	a = append(a, b.pads.arguments()...)
	for _, p := range b.spec.App.ReadOnly {
		a = append(a, "--ro-bind", p, p)
	}
	a = append(a, b.gpu.arguments()...)
	if b.root == nil {
		a = append(a, "--remount-ro", "/")
	}
	a = append(a, "--chdir", b.root.dir())
	for _, kv := range b.environment() {
		k, v, _ := strings.Cut(kv, "=")
		a = append(a, "--setenv", k, v)
	}
	return a
}

// boxTemps are the sandbox's own folders in memory, beside its home.
func boxTemps() []string { return []string{"/dev/shm", "/tmp", "/var/tmp", boxRuntime} }

func tempMode(d string) string {
	if d == boxHome || d == boxRuntime {
		return "0700"
	}
	return "1777"
}

// environment is the application's, sorted.
func (b *boxConfig) environment() []string {
	env := map[string]string{
		"PATH": boxPath, "HOME": boxHome, "USER": boxUser, "LOGNAME": boxUser, "SHELL": "/bin/sh",
		"LANG": "C.UTF-8", "TMPDIR": "/tmp", "XDG_RUNTIME_DIR": boxRuntime,
		"DISPLAY": b.x.display(), "XAUTHORITY": boxPlace + "/xauth",
		"PULSE_SERVER": "unix:" + boxPlace + "/pulse/" + pulseName,
	}
	if !b.stage.l.private { // the X server is in another IPC namespace: Qt does not notice by itself
		env["QT_X11_NO_MITSHM"] = "1"
	}
	if b.pads != nil { // there is no device manager, so SDL must look by itself
		env["SDL_JOYSTICK_DISABLE_UDEV"] = "1"
	}
	if b.root != nil {
		for _, kv := range b.root.img.Env {
			k, v, _ := strings.Cut(kv, "=")
			if _, ours := env[k]; !ours || k == "PATH" || k == "LANG" || k == "SHELL" {
				env[k] = v
			}
		}
	}
	if b.gpu != nil {
		maps.Copy(env, b.gpu.env)
	}
	if len(b.spec.ExtraData) > 0 {
		env["PERIGEE_EXTRA_DATA"] = string(b.spec.ExtraData)
	}
	for k, v := range b.spec.App.Env {
		env[k] = v
	}
	maps.Copy(env, b.more)
	out := make([]string, 0, len(env))
	for k, v := range env {
		out = append(out, k+"="+v)
	}
	slices.Sort(out)
	return out
}

// attr makes a sandbox run as the stage's user, in the groups of its devices.
func (b *boxConfig) attr() *syscall.SysProcAttr {
	a := b.stage.attr()
	if b.gpu != nil && a.Credential != nil {
		a.Credential.Groups = b.gpu.groups
	}
	return a
}

// prepare puts the sandbox's files of /etc on the stage.
func (b *boxConfig) prepare() error {
	b.files = map[string]string{}
	for name, text := range boxFiles(b.spec.App.Permissions.Network) {
		if b.root != nil && !b.root.takes(name) {
			continue // the image brings its own
		}
		p, err := b.stage.write("etc-"+name, []byte(text), 0o644)
		if err != nil {
			return err
		}
		b.files[name] = p
	}
	return nil
}
