package instance

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

func itoa(n int) string { return strconv.Itoa(n) }

// asks runs a script in a sandbox whose output is lines of "name=value".
func asks(t *testing.T, app api.App, script string, env ...string) map[string]string {
	t.Helper()
	app.Command = []string{"sh", "-c", script}
	out, st := run(t, app, env...)
	if st.Observed != api.ObservedStopped {
		t.Fatalf("the script ended as %+v and wrote\n%s", st, out)
	}
	got := map[string]string{}
	for line := range strings.Lines(out) {
		if k, v, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "="); ok {
			got[k] = v
		}
	}
	return got
}

func TestSandboxHidesTheHost(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("host"), 0o644); err != nil {
		t.Fatal(err)
	}
	cwd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("HOST_SECRET", "host")
	got := asks(t, api.App{Env: map[string]string{"GREETING": "a=b c"}}, `
try() { if eval "$2" >/dev/null 2>&1; then echo "$1=yes"; else echo "$1=no"; fi; }
try host_root 'ls /root'
try host_checkout 'ls `+cwd+`'
try host_tmp 'cat `+secret+`'
try host_run 'ls /run/dbus || ls /run/systemd || ls /run/lock'
try host_sys 'ls /sys/class'
try host_shadow 'cat /etc/shadow'
try host_hostname 'cat /etc/hostname'
try other_displays 'test "$(ls /tmp/.X11-unix | wc -l)" != 1'
try write_usr 'touch /usr/x'
try write_etc 'touch /etc/x'
try write_root 'touch /x'
try write_shared 'touch /run/perigee/x'
try write_home 'echo x >~/x && mkdir ~/y'
try write_tmp 'touch /tmp/x /var/tmp/x /dev/shm/x "$XDG_RUNTIME_DIR/x"'
try sees_shared 'ls /run/perigee'
try host_process 'kill -0 `+itoa(os.Getpid())+`'
try sysctl 'echo x >/proc/sys/kernel/core_pattern'
try mount 'mount -t tmpfs x /tmp'
try userns 'unshare -U true'
try newns 'unshare -m true'
try vsock "perl -e 'socket(S,40,1,0) or exit 1'"
try packet "perl -e 'socket(S,17,3,0) or exit 1'"
try unix_socket "perl -e 'socket(S,1,1,0) or exit 1'"
try keyctl "perl -e 'exit(syscall(250,0,-3,0,0,0) == -1)'"
try clone3 "perl -e 'syscall(435,0,0); exit(\$!{ENOSYS} ? 1 : 0)' -MErrno"
try reboot "perl -e 'exit(syscall(169,0,0,0,0) == -1)'"
try suid 'test -n "$(su -c id root </dev/null)"'
echo uid=$(id -u) ; echo user=$(id -un); echo home=$HOME; echo pwd=$(pwd); echo secret=$HOST_SECRET; echo greeting=$GREETING
echo processes=$(ls -d /proc/[0-9]* | wc -l)
perl -e 'opendir(D, "/proc/self/fd"); print "fds=", join(" ", sort grep { /^[0-9]+$/ && $_ != fileno(D) && readlink("/proc/self/fd/$_") } readdir(D)), "\n"'
echo core=$(ulimit -c)
echo interfaces=$(grep -c : /proc/net/dev)
echo routes=$(tail -n +2 /proc/net/route | wc -l)
for k in NoNewPrivs Seccomp CapEff CapPrm CapBnd; do echo $k=$(grep ^$k: /proc/self/status | cut -f2); done
for n in pid mnt net ipc uts user cgroup; do echo ns_$n=$(readlink /proc/self/ns/$n); done
`)
	for _, k := range []string{
		"host_root", "host_checkout", "host_tmp", "host_run", "host_sys", "host_shadow", "host_hostname", "other_displays",
		"write_usr", "write_etc", "write_root", "write_shared", "host_process", "sysctl",
		"mount", "userns", "newns", "vsock", "packet", "keyctl", "reboot", "suid", "clone3",
	} {
		if got[k] != "no" {
			t.Errorf("%s is possible: %q", k, got[k])
		}
	}
	for _, k := range []string{"write_home", "write_tmp", "sees_shared", "unix_socket"} {
		if got[k] != "yes" {
			t.Errorf("%s is not possible: %q", k, got[k])
		}
	}
	for k, want := range map[string]string{
		"uid": "1000", "user": "app", "home": "/home/app", "pwd": "/home/app", "secret": "", "greeting": "a=b c",
		"fds": "0 1 2", "core": "0", "interfaces": "1", "routes": "0", "NoNewPrivs": "1", "Seccomp": "2",
		"CapEff": "0000000000000000", "CapPrm": "0000000000000000",
	} {
		if got[k] != want {
			t.Errorf("%s is %q, want %q", k, got[k], want)
		}
	}
	if n, err := strconv.Atoi(got["processes"]); err != nil || n > 6 {
		t.Errorf("%q processes are seen", got["processes"])
	}
	for _, n := range []string{"pid", "mnt", "net", "ipc", "uts", "user", "cgroup"} {
		host, err := os.Readlink("/proc/thread-self/ns/" + n)
		if err != nil || got["ns_"+n] == host || got["ns_"+n] == "" {
			t.Errorf("namespace %s is %q, the host's is %q (%v)", n, got["ns_"+n], host, err)
		}
	}
}

func TestNetworkOnlyWhereAsked(t *testing.T) {
	t.Parallel()
	// Not of the process: its first thread may be one that another test left in a
	// network of its own.
	host, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	script := "echo net=$(readlink /proc/self/ns/net); test -s /etc/hosts && echo hosts=yes"
	if got := asks(t, api.App{Network: true}, script); got["net"] != host || got["hosts"] != "yes" {
		t.Errorf("with the network: %v", got)
	}
	if got := asks(t, api.App{}, script); got["net"] == host || got["hosts"] != "yes" {
		t.Errorf("without the network: %v", got)
	}
}

func TestReadOnlyFolders(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("/srv", "pg") // not below the sandbox's own /tmp
	if err != nil {
		t.Skip("/srv cannot be written: not root")
	}
	defer os.RemoveAll(dir)
	if err := errJoin(os.Chmod(dir, 0o755), os.WriteFile(dir+"/game", []byte("#!/bin/sh\necho played=yes\ntouch "+dir+"/x 2>/dev/null && echo wrote=yes\n"), 0o755)); err != nil {
		t.Fatal(err)
	}
	out, st := run(t, api.App{Command: []string{dir + "/game"}, ReadOnly: []string{dir}})
	if !strings.Contains(out, "played=yes") || strings.Contains(out, "wrote") {
		t.Errorf("the game wrote %q and ended as %+v", out, st)
	}
}

func errJoin(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func TestHostUserHasNoRights(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("not root: the sandbox runs as its owner")
	}
	s := startShim(t, sh("sleep 60"), api.Screen{})
	st := s.wait(api.ObservedRunning)
	ipc := map[string]bool{}
	found := 0
	for _, pid := range allPids() {
		cg, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if !strings.Contains(string(cg), filepath.Base(string(s.dir))) {
			continue
		}
		found++
		info, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
		if err != nil {
			continue
		}
		if uid := info.Sys().(*syscall.Stat_t).Uid; uid < firstUID {
			cmd, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			t.Errorf("%q runs as user %d", cmd, uid)
		}
		if ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/ipc", pid)); err == nil {
			ipc[ns] = true
		}
	}
	if found < 5 { // X, sound, bubblewrap twice, the application
		t.Errorf("%d processes are in the session's cgroups", found)
	}
	// The application shares System V memory with its X server, and with nobody else.
	host, err := os.Readlink("/proc/thread-self/ns/ipc")
	if err != nil || len(ipc) != 1 || ipc[host] {
		t.Errorf("IPC namespaces are %v, the host's is %s (%v)", ipc, host, err)
	}
	s.stop(true)
	s.nothingLeft(st.Display)
}

func TestDisplayNeedsTheCookie(t *testing.T) {
	t.Parallel()
	s := startShim(t, sh("sleep 60"), api.Screen{})
	st := s.wait(api.ObservedRunning)
	n, err := strconv.Atoi(strings.TrimPrefix(st.Display, ":"))
	if err != nil {
		t.Fatal(err)
	}
	if c, err := dialX(socketOf(n), make([]byte, 16)); err == nil {
		c.close()
		t.Error("a wrong cookie opens the display")
	}
	if info, err := os.Stat(st.XAuth); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the cookie's file has mode %v (%v)", info.Mode(), err)
	}
	s.stop(true)
}

func TestSoundIsThereAndHarmless(t *testing.T) {
	t.Parallel()
	got := asks(t, api.App{}, `
pactl info | sed -n 's/^Default Sink: /sink=/p; s/^Default Source: /source=/p'
pactl load-module module-null-sink >/dev/null 2>&1 && echo module=yes
pactl exit >/dev/null 2>&1
pactl info >/dev/null && echo still=yes
`)
	if got["sink"] != "perigee" || got["source"] != "perigee.monitor" || got["module"] != "" || got["still"] != "yes" {
		t.Errorf("the sound server answers %v", got)
	}
}

// With the permission the default source is what the encode process plays into
// the microphone's sink, not what the application itself plays.
func TestMicrophoneIsTheDefaultSource(t *testing.T) {
	t.Parallel()
	got := asks(t, api.App{Permissions: api.Permissions{Microphone: true}}, `
pactl info | sed -n 's/^Default Sink: /sink=/p; s/^Default Source: /source=/p'
pactl list short sinks | grep -q perigee_microphone && echo into=yes
timeout 1 parec --raw --latency-msec=20 | head -c 9600 | wc -c | sed 's/^/heard=/'
`)
	if got["sink"] != "perigee" || got["source"] != "microphone" || got["into"] != "yes" || got["heard"] != "9600" {
		t.Errorf("the sound server answers %v", got)
	}
}

func TestExtraData(t *testing.T) {
	t.Parallel()
	b := boxConfig{spec: api.Spec{ExtraData: []byte(`{"level":3}`)}, x: &xserver{number: 7}, stage: &stage{l: &launcher{}}}
	env := strings.Join(b.environment(), "\n")
	for _, want := range []string{`PERIGEE_EXTRA_DATA={"level":3}`, "DISPLAY=:7", "LANG=C.UTF-8", "QT_X11_NO_MITSHM=1"} {
		if !strings.Contains(env, want) {
			t.Errorf("environment lacks %s", want)
		}
	}
}

func TestMemoryHogIsKilledAlone(t *testing.T) {
	t.Parallel()
	needCgroups(t)
	other := startShim(t, sh("sleep 60"), api.Screen{})
	other.wait(api.ObservedRunning)
	app := sh("x=$(head -c 500000000 /dev/zero | tr '\\0' x); echo survived")
	app.Resources = api.Resources{MemoryMiB: 64}
	out, st := run(t, app)
	if st.Reason != api.ReasonAppCrashed || !strings.Contains(st.Message, "out of memory (limit 64 MiB)") || strings.Contains(out, "survived") {
		t.Errorf("the hog ended as %+v and wrote %q", st, out)
	}
	// Files in the sandbox count as well.
	app = sh("head -c 500000000 /dev/zero >/dev/shm/x; ls -s /dev/shm/x; exit 1")
	app.Resources = api.Resources{MemoryMiB: 64}
	if out, st := run(t, app); st.Reason != api.ReasonAppCrashed || !strings.Contains(out, "No space left") {
		t.Errorf("the file ended as %+v and wrote %q", st, out)
	}
	if now, err := other.dir.ReadInstance(); err != nil || now.Observed != api.ObservedRunning {
		t.Errorf("the other instance is %+v (%v)", now, err)
	}
	other.stop(true)
}

func TestForkBombIsHeld(t *testing.T) {
	needCgroups(t)
	app := sh("(while :; do sleep 60 & done); while :; do (while :; do sleep 60 & done); sleep 0.01; done")
	app.Resources = api.Resources{Processes: 40, CPUMillis: 500}
	s := startShim(t, app, api.Screen{})
	st := s.wait(api.ObservedRunning)
	var g group
	b, err := os.ReadFile(s.dir.Path(fileCgroups))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range strings.Fields(string(b)) {
		if strings.HasSuffix(d, "-app") {
			g.dirs = append(g.dirs, d)
		}
	}
	count := func() int { // as the kernel counts, in one reading
		for _, d := range g.dirs {
			if b, err := os.ReadFile(filepath.Join(d, "pids.current")); err == nil {
				n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
				return n
			}
		}
		return 0
	}
	until(t, "many processes", 5*time.Second, func() bool { return count() > 35 })
	for range 20 {
		if n := count(); n > 40 {
			t.Fatalf("%d processes, the bound is 40", n)
		}
		time.Sleep(5 * time.Millisecond)
	}
	s.stop(true)
	s.nothingLeft(st.Display)
}

func needCgroups(t *testing.T) {
	t.Helper()
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := findCgroups(defaultCgroups, own); err != nil {
		t.Skipf("no cgroups here: %v", err)
	}
}

func TestWithoutCgroups(t *testing.T) {
	t.Parallel()
	app := sh("ulimit -d; x=$(head -c 500000000 /dev/zero | tr '\\0' x); echo survived")
	app.Resources = api.Resources{MemoryMiB: 64}
	out, st := run(t, app, "TEST_CGROUPS="+t.TempDir())
	if st.Observed != api.ObservedFailed || !strings.HasPrefix(out, "65536\n") || strings.Contains(out, "survived") {
		t.Errorf("ended as %+v and wrote %q", st, out)
	}
}

func TestOutputIsBounded(t *testing.T) {
	t.Parallel()
	s := startShim(t, sh("head -c 5000000 /dev/zero | tr '\\0' '\\n'; echo the last words"), api.Screen{})
	if !s.ended(20 * time.Second) {
		t.Fatal("the application does not end")
	}
	var total int64
	for _, f := range []string{"app.log", "app.log.1"} {
		info, err := os.Stat(s.dir.Path(f))
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
	}
	if total > maxLog+64<<10 {
		t.Errorf("%d bytes are kept", total)
	}
	b, err := os.ReadFile(s.dir.Path("app.log"))
	if err != nil || !strings.HasSuffix(string(b), "the last words\n") {
		t.Errorf("the last words are lost (%v)", err)
	}
}

// TestAsAnOrdinaryUser runs the shim as a user of no rights, as on a machine
// without root.
func TestAsAnOrdinaryUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("not root: every other test shows it")
	}
	for _, f := range []string{"/proc/sys/kernel/unprivileged_userns_clone", "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"} {
		if b, err := os.ReadFile(f); err == nil && strings.TrimSpace(string(b)) != map[bool]string{true: "1", false: "0"}[strings.HasSuffix(f, "clone")] {
			t.Skipf("%s keeps ordinary users from sandboxes", f)
		}
	}
	s := prepare(t, sh("echo uid=$(id -u); echo shared=$(ls -d /run/perigee); xterm -e true 2>/dev/null && echo drawn=yes; pactl info >/dev/null && echo sound=yes"), api.Screen{})
	bin := filepath.Join(filepath.Dir(string(s.dir)), "shim")
	b, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	base := filepath.Dir(string(s.dir))
	if err := errJoin(os.WriteFile(bin, b, 0o755), os.Chmod(base, 0o755)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("chown", "-R", itoa(nobody), string(s.dir)).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s.cmd = exec.Command(bin)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	s.cmd.Dir = "/"
	s.begin()
	if !s.ended(20 * time.Second) {
		t.Fatal("the application does not end")
	}
	out, err := os.ReadFile(s.dir.Path("app.log"))
	if err != nil || string(out) != "uid=1000\nshared=/run/perigee\ndrawn=yes\nsound=yes\n" {
		t.Errorf("the application wrote %q (%v)", out, err)
	}
	st, err := s.dir.ReadInstance()
	if err != nil || st.Observed != api.ObservedStopped {
		t.Errorf("state is %+v (%v)", st, err)
	}
	s.nothingLeft(st.Display)
	if n := strings.Count(s.log.String(), "no cgroups"); n != 1 {
		t.Errorf("the lack of cgroups is told %d times", n)
	}
}
