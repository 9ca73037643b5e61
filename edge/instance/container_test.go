package instance

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/image/imagetest"
)

// harbour is a containerd and a registry of a test's own.
type harbour struct {
	t    *testing.T
	d    *imagetest.Daemon
	host string
	env  []string // for shims
}

func newHarbour(t *testing.T) *harbour {
	t.Helper()
	d, err := imagetest.Start(t.Context(), "")
	if errors.Is(err, imagetest.ErrAbsent) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	host, stop := imagetest.Serve(nil)
	t.Cleanup(func() {
		stop()
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("containerd says:\n%s", d.Warnings())
		}
	})
	return &harbour{t: t, d: d, host: host, env: []string{"TEST_CONTAINERD=" + d.Socket, "TEST_LOCKS=" + t.TempDir()}}
}

// image pushes an image that holds a shell and some tools, and gives its name.
func (h *harbour) image(run v1.Config, more map[string]imagetest.File) string {
	h.t.Helper()
	at := map[string]string{}
	if len(run.Entrypoint) > 0 {
		at[run.Entrypoint[0]] = os.Args[0]
	}
	for _, p := range []string{"sh", "cat", "ls", "id", "touch", "mkdir", "rm", "sleep", "head", "stat", "readlink", "env"} {
		host, err := exec.LookPath(p)
		if err != nil {
			h.t.Fatal(err)
		}
		at["/bin/"+p] = host
	}
	programs, err := imagetest.Programs(at)
	if err != nil {
		h.t.Fatal(err)
	}
	base, err := imagetest.Layer(programs)
	if err != nil {
		h.t.Fatal(err)
	}
	top, err := imagetest.Layer(more)
	if err != nil {
		h.t.Fatal(err)
	}
	img, err := imagetest.Image(run, base, top)
	if err != nil {
		h.t.Fatal(err)
	}
	digest, err := imagetest.Push(h.t.Context(), h.host+"/app:1", img)
	if err != nil {
		h.t.Fatal(err)
	}
	return h.host + "/app@" + digest
}

// asks runs a script in a container whose output is lines of "name=value".
func (h *harbour) asks(app api.App, image, script string) map[string]string {
	h.t.Helper()
	app.Kind, app.Image = api.AppContainer, image
	return asks(h.t, app, script, h.env...)
}

const probes = `
try() { if eval "$2" >/dev/null 2>&1; then echo "$1=yes"; else echo "$1=no"; fi; }
try sees_app 'cat /data/mine'
try sees_other 'cat /data/roots'
try write_own 'echo x >/data/mine'
try write_own_folder 'echo x >/own/new'
try remove_own 'rm /own/old'
try write_other 'echo x >/data/roots'
try write_etc 'echo x >/etc/x'
try read_secret 'cat /data/secret'
try write_home 'echo x >~/x && mkdir ~/y'
try write_tmp 'touch /tmp/x /var/tmp/x /dev/shm/x "$XDG_RUNTIME_DIR/x"'
try host_root 'ls /root/*'
try host_usr 'ls /usr/share'
try sees_shared 'ls /run/perigee'
try write_shared 'touch /run/perigee/x'
try display 'ls /tmp/.X11-unix/X*'
echo uid=$(id -u); echo gid=$(id -g); echo pwd=$(pwd); echo from=$FROM_IMAGE; echo manifest=$FROM_MANIFEST
echo old=$(test -e /own/old && echo there); echo resolv=$(cat /etc/resolv.conf)
for n in pid mnt net ipc uts user cgroup; do echo ns_$n=$(readlink /proc/self/ns/$n); done
while read k v; do case $k in NoNewPrivs:|Seccomp:|CapEff:) echo $k$v;; esac; done </proc/self/status
`

func contents(owner int) map[string]imagetest.File {
	return map[string]imagetest.File{
		"/etc/passwd": {Body: []byte("root:x:0:0::/:/bin/sh\ngamer:x:7:7::/:/bin/sh\n")},
		"/data/mine":  {Body: []byte("m"), UID: owner, Mode: 0o600}, "/data/roots": {Body: []byte("r"), UID: 3}, "/data/secret": {Body: []byte("s"), UID: 3, Mode: 0o600},
		"/own/": {UID: owner}, "/own/old": {Body: []byte("o"), UID: owner}, "/etc/resolv.conf": {Link: "/run/systemd/resolv.conf"},
	}
}

func TestContainer(t *testing.T) {
	t.Parallel()
	h := newHarbour(t)
	for _, c := range []struct {
		user     string
		uid      int
		writeEtc string
	}{{"", 0, "yes"}, {"gamer", 7, "no"}, {"7:7", 7, "no"}} {
		ref := h.image(v1.Config{User: c.user, Env: []string{"FROM_IMAGE=i", "DISPLAY=wrong", "PATH=/bin"}, WorkingDir: "/work"}, contents(c.uid))
		got := h.asks(api.App{Env: map[string]string{"FROM_MANIFEST": "m"}}, ref, probes)
		for k, want := range map[string]string{
			"sees_app": "yes", "sees_other": "yes", "write_own": "yes", "write_own_folder": "yes", "remove_own": "yes",
			"write_other": "no", "read_secret": "no", "write_etc": c.writeEtc, "write_home": "yes", "write_tmp": "yes",
			"host_root": "no", "host_usr": "no", "sees_shared": "yes", "write_shared": "no", "display": "yes", "old": "",
			"uid": itoa(c.uid), "gid": itoa(c.uid), "pwd": "/work", "from": "i", "manifest": "m", "resolv": "",
			"NoNewPrivs:1": "", "Seccomp:2": "", "CapEff:0000000000000000": "",
		} {
			if got[k] != want {
				t.Errorf("user %q: %s is %q, want %q", c.user, k, got[k], want)
			}
		}
		for _, n := range []string{"pid", "mnt", "net", "ipc", "uts", "user", "cgroup"} {
			if host, err := os.Readlink("/proc/thread-self/ns/" + n); err != nil || got["ns_"+n] == host || got["ns_"+n] == "" {
				t.Errorf("namespace %s is %q, the host's is %q (%v)", n, got["ns_"+n], host, err)
			}
		}
		// What one instance changes, no other sees.
		if again := h.asks(api.App{}, ref, "cat /data/mine; echo; echo mine=$(cat /data/mine); echo old=$(cat /own/old)"); again["mine"] != "m" || again["old"] != "o" {
			t.Errorf("user %q: the next instance finds %v", c.user, again)
		}
	}
}

// TestContainerDraws: an application of the image's own draws on the screen, by
// the image's command.
func TestContainerDraws(t *testing.T) {
	t.Parallel()
	h := newHarbour(t)
	ref := h.image(v1.Config{Entrypoint: []string{"/test"}, Cmd: []string{"draw"}, Env: []string{drawEnv + "=1"}}, contents(0))
	s := startShim(t, api.App{Kind: api.AppContainer, Image: ref}, api.Screen{Width: 640, Height: 480}, h.env...)
	st := s.wait(api.ObservedRunning)
	t.Logf("with the image fetched: running after %s", time.Since(s.begun).Round(time.Millisecond))
	x := view(t, st)
	until(t, "picture", 10*time.Second, func() bool { return x.colours(t) > 1 })
	s.stop(false)
	s.nothingLeft(st.Display)
	again := startShim(t, api.App{Kind: api.AppContainer, Image: ref}, api.Screen{Width: 640, Height: 480}, h.env...)
	st = again.wait(api.ObservedRunning)
	t.Logf("with the image here: running after %s", time.Since(again.begun).Round(time.Millisecond))
	// Killed, it leaves nothing either.
	if err := again.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-again.done
	if err := Clean(again.dir); err != nil {
		t.Fatal(err)
	}
	until(t, "end of all processes", 5*time.Second, func() bool { return len(again.processes()) == 0 })
	again.nothingLeft(st.Display)
}

// TestContainerBounds: memory, disk and network are a program's.
func TestContainerBounds(t *testing.T) {
	t.Parallel()
	h := newHarbour(t)
	ref := h.image(v1.Config{}, contents(0))
	got := h.asks(api.App{Resources: api.Resources{MemoryMiB: 64}}, ref, "head -c 100000000 /dev/zero >/big; echo; echo size=$(stat -c %s /big)")
	if n := got["size"]; n == "" || len(n) > 8 {
		t.Errorf("it wrote %q bytes to a disk of 32 MiB", n)
	}
	app := api.App{Kind: api.AppContainer, Image: ref, Resources: api.Resources{MemoryMiB: 48}}
	app.Command = []string{"sh", "-c", "head -c 1 /dev/zero; x=$(head -c 200000000 /dev/zero | cat -v); echo done"}
	if _, st := run(t, app, h.env...); st.Observed != api.ObservedFailed || !strings.Contains(st.Message, "out of memory") {
		t.Errorf("a memory hog ended as %+v", st)
	}
	got = h.asks(api.App{Permissions: api.Permissions{Network: api.NetworkEgress}}, ref, "echo dns=$(cat /etc/resolv.conf); echo net=$(readlink /proc/self/ns/net)")
	host, err := os.Readlink("/proc/thread-self/ns/net")
	if got["dns"] != "nameserver "+egressDNS || got["net"] == host || err != nil {
		t.Errorf("with egress: %v (%v)", got, err)
	}
	got = h.asks(api.App{Permissions: api.Permissions{Network: api.NetworkFull}, Hooks: api.Hooks{PreStart: &api.Hook{Command: []string{"touch", "/hook"}}}}, ref,
		"echo net=$(readlink /proc/self/ns/net); echo hook=$(ls /hook)")
	if got["net"] != host || got["hook"] != "/hook" {
		t.Errorf("with the host's network: %v, want %s", got, host)
	}
}

func TestContainerFails(t *testing.T) {
	t.Parallel()
	h := newHarbour(t)
	hostile := func(link string) string {
		return h.image(v1.Config{Cmd: []string{"sh"}}, map[string]imagetest.File{link: {Link: "/oldroot/etc"}})
	}
	for _, c := range []struct {
		what, image string
		command     []string
		reason      api.Reason
		message     string
	}{
		{"no image", h.host + "/none:1", nil, api.ReasonImageNotFound, "image " + h.host + "/none:1"},
		{"no registry", "127.0.0.1:1/x:1", nil, api.ReasonImageUnreachable, "connection refused"},
		{"no command", h.image(v1.Config{}, contents(0)), nil, api.ReasonStartFailed, "says no command"},
		{"no program", h.image(v1.Config{}, contents(0)), []string{"nowhere"}, api.ReasonStartFailed, "nowhere"},
		{"no user", h.image(v1.Config{User: "ghost", Cmd: []string{"sh"}}, contents(0)), nil, api.ReasonStartFailed, `user "ghost" is not in`},
		{"a link for /tmp", hostile("/tmp"), nil, api.ReasonStartFailed, "no folder at /tmp"},
		{"a link for /run", hostile("/run"), nil, api.ReasonStartFailed, "no folder at /run"},
	} {
		out, st := run(t, api.App{Kind: api.AppContainer, Image: c.image, Command: c.command}, h.env...)
		if st.Observed != api.ObservedFailed || st.Reason != c.reason || !strings.Contains(st.Message, c.message) {
			t.Errorf("%s: ended as %+v and wrote %q", c.what, st, out)
		}
	}
}

// TestContainerAskedToStopWhileFetching: a registry that hangs does not hold it.
func TestContainerAskedToStopWhileFetching(t *testing.T) {
	t.Parallel()
	h := newHarbour(t)
	asked := make(chan struct{}, 16)
	hang := make(chan struct{})
	host, stop := imagetest.Serve(func(http.Handler) http.Handler {
		return http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked <- struct{}{}; <-hang })
	})
	defer stop()
	defer close(hang)
	s := startShim(t, api.App{Kind: api.AppContainer, Image: host + "/game:1"}, api.Screen{}, h.env...)
	s.dial()
	<-asked
	begun := time.Now()
	s.stop(false)
	if took := time.Since(begun); took > 3*time.Second {
		t.Errorf("it took %s", took)
	}
	s.nothingLeft("")
}

func TestNoContainerd(t *testing.T) {
	t.Parallel()
	app := api.App{Kind: api.AppContainer, Image: "registry.example.com/game@sha256:" + strings.Repeat("0", 64)}
	_, st := run(t, app, "TEST_CONTAINERD="+t.TempDir()+"/none")
	if st.Reason != api.ReasonStartFailed || !strings.Contains(st.Message, "runs no containers") {
		t.Errorf("ended as %+v", st)
	}
}

func TestIDMap(t *testing.T) {
	for _, c := range []struct {
		id, host int
		want     string
	}{
		{0, firstUID, "[{0 1900000000 1} {1 1 65533}]"},
		{1000, firstUID, "[{1000 1900000000 1} {0 0 1000} {1001 1001 64533}]"},
		{nobody, nobody, "[{65534 65534 1} {0 0 65534}]"},
		{100000, firstUID, "[{100000 1900000000 1} {0 0 65534}]"},
	} {
		if got := fmt.Sprint(idMap(c.id, c.host)); got != c.want {
			t.Errorf("%d is mapped as %s, want %s", c.id, got, c.want)
		}
	}
}
