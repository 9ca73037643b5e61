package instance

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/local"
)

// The sandbox's own user and places.
const (
	boxUID     = "1000"
	boxUser    = "app"
	boxHome    = "/home/app"
	boxRuntime = "/run/user/1000"
	boxShared  = "/run/perigee"
	boxPlace   = "/run/instance" // cookie and sound
	boxPath    = "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games"
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

// application is the application in its sandbox.
type application struct {
	*child
	out   *output
	group *group
	// started is closed when the application itself has been executed.
	started chan struct{}
	init    atomic.Int64 // the sandbox's first process, as the host numbers it; 0 = none yet
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
	files  map[string]string // of boxFiles: where they are on the stage
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

// arguments are bubblewrap's, without the command.
func (b *boxConfig) arguments() []string {
	a := []string{
		"--unshare-user", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try",
		"--uid", boxUID, "--gid", boxUID, "--hostname", "perigee",
		"--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL",
	}
	if !b.stage.l.private { // else the launcher's thread has one, and the X server shares it
		a = append(a, "--unshare-ipc")
	}
	access := b.spec.App.Permissions.Network
	if b.net == nil && access != api.NetworkFull {
		a = append(a, "--unshare-net")
	}
	a = append(a, "--ro-bind", "/usr", "/usr")
	for _, d := range []string{"/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"} {
		if to, err := os.Readlink(d); err == nil {
			a = append(a, "--symlink", to, d)
		} else {
			a = append(a, "--ro-bind-try", d, d)
		}
	}
	// Their pages count as the application's memory, so half of it bounds each.
	size := strconv.Itoa(max(b.spec.App.Resources.MemoryMiB/2, 1) << 20)
	a = append(a, "--proc", "/proc", "--dev", "/dev")
	for _, d := range []string{"/dev/shm", "/tmp", "/var/tmp", boxHome, boxRuntime} {
		if d == boxHome && b.home != "" {
			a = append(a, "--bind", b.home, boxHome)
			continue
		}
		mode := "1777"
		if d == boxHome || d == boxRuntime {
			mode = "0700"
		}
		a = append(a, "--perms", mode, "--size", size, "--tmpfs", d)
	}
	a = append(a, "--symlink", "/run", "/var/run",
		"--ro-bind-try", "/var/cache/fontconfig", "/var/cache/fontconfig")
	for _, e := range etcShown() {
		a = append(a, "--ro-bind-try", "/etc/"+e, "/etc/"+e)
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
	for _, p := range b.spec.App.ReadOnly {
		a = append(a, "--ro-bind", p, p)
	}
	a = append(a, "--remount-ro", "/", "--chdir", boxHome)
	for _, kv := range b.environment() {
		k, v, _ := strings.Cut(kv, "=")
		a = append(a, "--setenv", k, v)
	}
	return a
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
	if len(b.spec.ExtraData) > 0 {
		env["PERIGEE_EXTRA_DATA"] = string(b.spec.ExtraData)
	}
	for k, v := range b.spec.App.Env {
		env[k] = v
	}
	out := make([]string, 0, len(env))
	for k, v := range env {
		out = append(out, k+"="+v)
	}
	slices.Sort(out)
	return out
}

// prepare puts the sandbox's files of /etc on the stage.
func (b *boxConfig) prepare() error {
	b.files = map[string]string{}
	for name, text := range boxFiles(b.spec.App.Permissions.Network) {
		p, err := b.stage.write("etc-"+name, []byte(text), 0o644)
		if err != nil {
			return err
		}
		b.files[name] = p
	}
	return nil
}

// startApplication starts the command in its sandbox.
func startApplication(b boxConfig, command string) (*application, error) {
	tool, err := lookTool("bwrap", "bubblewrap")
	if err != nil {
		return nil, err
	}
	args, err := memory("perigee-args", []byte(strings.Join(b.arguments(), "\x00")+"\x00"))
	if err != nil {
		return nil, err
	}
	defer args.Close()
	filter, err := memory("perigee-seccomp", seccompFilter())
	if err != nil {
		return nil, err
	}
	defer filter.Close()
	status, statusW, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make pipe: %w", err)
	}
	defer statusW.Close()
	out, w, err := newOutput(b.dir.Path("app.log"))
	if err != nil {
		status.Close()
		return nil, err
	}
	defer w.Close()
	argv := []string{tool, "--args", "3", "--seccomp", "4", "--json-status-fd", "5", "--", command}
	if b.group == nil { // the next best bound
		if p, err := exec.LookPath("prlimit"); err == nil {
			argv = append([]string{p, "--data=" + strconv.Itoa(b.spec.App.Resources.MemoryMiB<<20), "--"}, argv...)
		}
	}
	cmd := exec.Command(argv[0], append(argv[1:], b.spec.App.Command[1:]...)...)
	cmd.Dir, cmd.Env = "/", []string{"PATH=/usr/bin:/bin"}
	cmd.Stdout, cmd.Stderr = w, w
	cmd.ExtraFiles = []*os.File{args, filter, statusW}
	cmd.SysProcAttr = b.stage.attr()
	c, err := b.stage.l.startIn(b.net.namespace(), "application", cmd, b.group)
	if err != nil {
		status.Close()
		out.close()
		return nil, err
	}
	a := &application{child: c, out: out, group: b.group, started: make(chan struct{})}
	go a.watch(status)
	return a, nil
}

// watch reads bubblewrap's status and finds the moment when the application
// itself has been executed. It ends with the sandbox.
func (a *application) watch(status *os.File) {
	defer status.Close()
	r := bufio.NewReader(status)
	defer func() { _, _ = io.Copy(io.Discard, r) }() // it writes once more at its end, and must be able to
	line, err := r.ReadBytes('\n')
	var first struct {
		Child int `json:"child-pid"`
	}
	if err != nil || json.Unmarshal(line, &first) != nil || first.Child <= 0 {
		return // it failed: the caller sees it end
	}
	a.init.Store(int64(first.Child))
	for a.alive() && len(a.mains()) == 0 {
		time.Sleep(time.Millisecond)
	}
	if a.alive() {
		close(a.started)
	}
}

// mains lists the children of the sandbox's first process that are no longer
// bubblewrap: the application, and orphans that it left to that process.
func (a *application) mains() []int {
	init := strconv.FormatInt(a.init.Load(), 10)
	pids := a.group.pids()
	if a.group == nil {
		pids = allPids()
	}
	var out []int
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue // it has ended
		}
		s := string(b)
		open, shut := strings.IndexByte(s, '('), strings.LastIndexByte(s, ')')
		if open < 0 || shut < open {
			continue
		}
		f := strings.Fields(s[shut+1:]) // state, parent
		if len(f) > 1 && f[1] == init && s[open+1:shut] != "bwrap" {
			out = append(out, pid)
		}
	}
	return out
}

func allPids() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var out []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			out = append(out, pid)
		}
	}
	return out
}

// errNotExecuted says that the application ended before it began.
var errNotExecuted = errors.New("the sandbox could not be started")

// waitStarted waits until the application runs.
func (a *application) waitStarted(ctx context.Context) error {
	select {
	case <-a.started:
		return nil
	case <-a.ended:
	case <-ctx.Done():
		return fmt.Errorf("wait for the application: %w", context.Cause(ctx))
	}
	select {
	case <-a.started: // both: it was quick
		return nil
	default:
	}
	a.out.settle()
	if last := a.out.lastLine(); strings.HasPrefix(last, "bwrap: ") {
		return fmt.Errorf("%w: %s", errNotExecuted, strings.TrimPrefix(last, "bwrap: "))
	}
	return nil // it ran and ended at once
}

// stop ends everything in the sandbox and waits until nothing is left.
func (a *application) stop(grace time.Duration) error {
	if grace > 0 && a.alive() {
		for _, pid := range a.mains() { // bubblewrap itself would take all down at once
			_ = unix.Kill(pid, unix.SIGTERM) // gone already: nothing to do
		}
		select {
		case <-a.ended:
		case <-time.After(grace):
		}
	}
	return a.end()
}

// end removes what is left of the sandbox, and what is in its group.
func (a *application) end() error {
	a.kill(0)
	err := a.group.kill()
	a.out.settle()
	a.out.close()
	return err
}

// endAlone removes the sandbox without what shares its group: with bubblewrap
// ends its PID namespace.
func (a *application) endAlone() {
	a.kill(0)
	a.out.settle()
	a.out.close()
}
