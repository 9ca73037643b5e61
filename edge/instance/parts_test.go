package instance

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/local"
)

// tree makes a folder that looks like a mounted cgroup hierarchy.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		p := filepath.Join(root, name)
		if err := errJoin(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func TestUnifiedCgroups(t *testing.T) {
	root := tree(t, map[string]string{
		"cgroup.controllers": "cpu io memory pids", "cgroup.subtree_control": "cpu memory pids",
		"perigee/cgroup.subtree_control": "cpu",
	})
	c, err := findCgroups(root, []byte("0::/\n"))
	if err != nil {
		t.Fatal(err)
	}
	if !c.v2 || len(c.bases) != 1 || c.bases[0] != filepath.Join(root, "perigee") {
		t.Fatalf("groups are %+v", c)
	}
	// The last that was enabled stands in the file of this imitation.
	if got := content(t, filepath.Join(root, "perigee/cgroup.subtree_control")); got != "+pids" {
		t.Errorf("subtree_control is %q", got)
	}
	g, err := c.make("s.1-app", api.Resources{CPUMillis: 1500, MemoryMiB: 64, Processes: 40})
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		"cpu.max": "150000 100000", "memory.max": "67108864", "memory.swap.max": "0", "pids.max": "40",
	} {
		if got := content(t, filepath.Join(g.dirs[0], file)); got != want {
			t.Errorf("%s is %q, want %q", file, got, want)
		}
	}
	if err := os.WriteFile(filepath.Join(g.dirs[0], "memory.events"), []byte("low 0\noom 3\noom_kill 2\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if n := g.oomKills(); n != 2 {
		t.Errorf("%d killings are counted", n)
	}
	var attr syscall.SysProcAttr
	leave, err := g.enter(&attr)
	if err != nil || !attr.UseCgroupFD {
		t.Fatalf("enter: %v, %+v", err, attr)
	}
	if err := leave(); err != nil {
		t.Error(err)
	}
}

func TestUnifiedCgroupsOfAnOrdinaryUser(t *testing.T) {
	root := tree(t, map[string]string{
		"cgroup.controllers":                                 "", // the root gives no subtree_control away
		"user.slice/cgroup.subtree_control":                  "cpu memory pids",
		"user.slice/mine/cgroup.subtree_control":             "cpu memory pids",
		"user.slice/mine/perigee/cgroup.subtree_control":     "",
		"user.slice/mine/own.scope/cgroup.subtree_control":   "",
		"user.slice/mine/own.scope/x/cgroup.subtree_control": "",
	})
	c, err := findCgroups(root, []byte("1:name=systemd:/x\n0::/user.slice/mine/own.scope\n"))
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(root, "user.slice/mine/perigee"); c.bases[0] != want {
		t.Errorf("groups are made in %s, want %s", c.bases[0], want)
	}
	if _, err := findCgroups(root, []byte("0::/elsewhere/own.scope\n")); !errors.Is(err, errNoCgroups) {
		t.Errorf("without a delegated group: %v", err)
	}
}

func TestClassicCgroups(t *testing.T) {
	root := tree(t, map[string]string{"cpu/cgroup.procs": "", "memory/cgroup.procs": ""})
	if _, err := findCgroups(root, nil); !errors.Is(err, errNoCgroups) {
		t.Fatalf("without the pids controller: %v", err)
	}
	root = tree(t, map[string]string{"cpu/cgroup.procs": "", "memory/cgroup.procs": "", "pids/cgroup.procs": ""})
	c, err := findCgroups(root, nil)
	if err != nil {
		t.Fatal(err)
	}
	g, err := c.make("s.1-app", api.Resources{CPUMillis: 1, MemoryMiB: 1, Processes: 1})
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		"cpu/perigee/s.1-app/cpu.cfs_quota_us":         "1000", // the kernel's least
		"cpu/perigee/s.1-app/cpu.cfs_period_us":        "100000",
		"memory/perigee/s.1-app/memory.limit_in_bytes": "1048576",
		"pids/perigee/s.1-app/pids.max":                "1",
	} {
		if got := content(t, filepath.Join(root, file)); got != want {
			t.Errorf("%s is %q, want %q", file, got, want)
		}
	}
	if err := os.WriteFile(filepath.Join(g.dirs[1], "memory.oom_control"), []byte("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if n := g.oomKills(); n != 1 {
		t.Errorf("%d killings are counted", n)
	}
	got := v1Paths([]byte("8:pids:/a\n4:memory:/b/c\n1:cpu,cpuacct:/\n0::/z\n"))
	for ctl, want := range map[string]string{"pids": "/a", "memory": "/b/c", "cpu": "/", "cpuacct": "/"} {
		if got[ctl] != want {
			t.Errorf("path of %s is %q", ctl, got[ctl])
		}
	}
}

func TestNoGroupBoundsNothing(t *testing.T) {
	var g *group
	leave, err := g.enter(nil)
	if err = errors.Join(err, leave(), g.kill(), g.remove()); err != nil || g.pids() != nil || g.oomKills() != 0 {
		t.Errorf("the nil group does something: %v", err)
	}
}

func TestCleanTouchesOnlyItsOwn(t *testing.T) {
	other := t.TempDir()
	dir := local.Session(filepath.Join(t.TempDir(), "s.1"))
	if err := errJoin(os.MkdirAll(string(dir), 0o700),
		os.WriteFile(dir.Path(fileCgroups), []byte(other+"\n/sys/fs/cgroup\n\n"), 0o600),
		dir.WriteInstance(local.InstanceState{PID: 1, Display: ":0"})); err != nil {
		t.Fatal(err)
	}
	if err := Clean(dir); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(other); err != nil {
		t.Errorf("a folder of another was removed: %v", err)
	}
	// A display that has gone to another process.
	n, err := takeDisplay()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = freeDisplay(n) }()
	if err := errJoin(dir.WriteInstance(local.InstanceState{PID: os.Getpid() + 1, Display: fmt.Sprintf(":%d", n)}), Clean(dir)); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(fmt.Sprintf(lockPattern, n)); err != nil {
		t.Errorf("another's display was freed: %v", err)
	}
	if err := errJoin(dir.WriteInstance(local.InstanceState{PID: os.Getpid(), Display: fmt.Sprintf(":%d", n)}), Clean(dir)); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(fmt.Sprintf(lockPattern, n)); err == nil {
		t.Error("the lock of a dead shim is left")
	}
}

func TestOutputKeepsTheLastLine(t *testing.T) {
	o, w, err := newOutput(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ write, last string }{
		{"one\n", "one"}, {"two", "two"}, {" and more\n", "two and more"}, {"\n  \n", "two and more"},
		{"a\nb\nc\n", "c"}, {strings.Repeat("x", 500), strings.Repeat("x", api.MaxMessage)}, {"\nend\n", "end"},
	} {
		if _, err := w.WriteString(c.write); err != nil {
			t.Fatal(err)
		}
		until(t, fmt.Sprintf("last line %.20q", c.last), time.Second, func() bool { return o.lastLine() == c.last })
	}
	w.Close()
	o.settle()
	o.close()
	if b := content(t, o.path); !strings.HasPrefix(b, "one\ntwo and more") {
		t.Errorf("log is %.40q", b)
	}
}

func TestClip(t *testing.T) {
	for _, s := range []string{"", "short", strings.Repeat("x", 300), strings.Repeat("ü", 150), "bad \xff byte"} {
		if c := clip(s); len(c) > api.MaxMessage || !utf8.ValidString(c) || len(c) < min(len(s), api.MaxMessage)-1 {
			t.Errorf("%.20q was cut to %d bytes: %q", s, len(c), c)
		}
	}
}

func TestHostUserIsMapped(t *testing.T) {
	for _, c := range []struct {
		text string
		uid  int
		want bool
	}{
		{"         0          0 4294967295\n", firstUID, true},
		{"0 100000 65536\n", firstUID, false},
		{"0 100000 65536\n", nobody, true},
		{"0 1000 1\n1 100000 65536\n", nobody, true},
		{"1000 1000 1\n", nobody, false},
		{"", 0, false},
		{"a b c\n", 0, false},
	} {
		if got := mapped([]byte(c.text), c.uid); got != c.want {
			t.Errorf("%d in %q: %v", c.uid, c.text, got)
		}
	}
}

func TestStageAvoidsWhatIsShown(t *testing.T) {
	a, err := mountPoint(nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := mountPoint([]string{a + "/games"})
	if err != nil {
		t.Fatal(err)
	}
	if a == b {
		t.Errorf("%s hides %s/games", b, a)
	}
	if c, err := mountPoint([]string{"/mnt", "/media/x", "/srv/x", "/opt/x/y"}); err == nil {
		t.Errorf("%s is not free", c)
	}
}

func TestBadSpecs(t *testing.T) {
	for name, c := range map[string]struct{ spec, want string }{
		"none":      {"", "spec.json"},
		"rubbish":   {"{", "spec.json"},
		"no app":    {"{}", "app"},
		"huge size": {`{"app":{"name":"x","command":["x"]},"screen":{"width":10000}}`, "screen.width"},
	} {
		dir := local.Session(filepath.Join(t.TempDir(), "s.1"))
		if err := os.MkdirAll(string(dir), 0o700); err != nil {
			t.Fatal(err)
		}
		if c.spec != "" {
			if err := os.WriteFile(dir.Path("spec.json"), []byte(c.spec), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		err := RunShim(t.Context(), ShimConfig{Dir: dir})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestSocketFolderIsNotAnybodys(t *testing.T) {
	dir := t.TempDir()
	made := filepath.Join(dir, "made")
	for range 2 {
		if err := makeSocketFolder(made); err != nil {
			t.Fatal(err)
		}
	}
	if st, err := os.Stat(made); err != nil || st.Mode() != os.ModeDir|os.ModeSticky|0o777 {
		t.Errorf("mode is %v (%v)", st.Mode(), err)
	}
	target, link, file := filepath.Join(dir, "target"), filepath.Join(dir, "link"), filepath.Join(dir, "file")
	if err := errJoin(os.Mkdir(target, 0o700), os.Symlink(target, link), os.WriteFile(file, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{link, file} {
		if err := makeSocketFolder(p); err == nil || !strings.Contains(err.Error(), p) {
			t.Errorf("%s: got %v", p, err)
		}
	}
	if st, err := os.Stat(target); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("the link's target was changed to %v (%v)", st.Mode(), err)
	}
	if os.Geteuid() == 0 {
		theirs := filepath.Join(dir, "theirs")
		if err := errJoin(os.Mkdir(theirs, 0o777), os.Chown(theirs, nobody, nobody)); err != nil {
			t.Fatal(err)
		}
		if err := makeSocketFolder(theirs); err == nil {
			t.Error("a folder of another user was taken")
		}
	}
}
