package instance

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/perigee-cloud/perigee/api"
)

// groupName is the folder under which our cgroups lie.
const groupName = "perigee"

// cfsPeriod is the scheduler's accounting period in microseconds; the kernel's default.
const cfsPeriod = 100_000

// controllers that bound an instance.
func controllers() []string { return []string{"cpu", "memory", "pids"} }

// cgroups is where a machine's control groups are made.
type cgroups struct {
	v2    bool
	bases []string // v2: one folder; v1: one per controller, in controllers' order
}

// group is one control group; the nil group bounds nothing.
type group struct {
	v2   bool
	dirs []string // as cgroups.bases
}

// errNoCgroups says that no cgroup can be made here.
var errNoCgroups = errors.New("no writable cgroup")

// findCgroups looks for a place to make groups: under /sys/fs/cgroup/perigee,
// else, for an ordinary user, under the nearest delegated ancestor of our own group.
func findCgroups(root string, own []byte) (*cgroups, error) {
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err == nil {
		return findUnified(root, own)
	}
	c := &cgroups{}
	for _, ctl := range controllers() {
		if _, err := os.Stat(filepath.Join(root, ctl, "cgroup.procs")); err != nil {
			return nil, fmt.Errorf("find cgroup: %w", errors.Join(errNoCgroups, err))
		}
		base := filepath.Join(root, ctl, groupName)
		if err := os.MkdirAll(base, 0o755); err != nil {
			return nil, fmt.Errorf("make cgroup: %w", errors.Join(errNoCgroups, err))
		}
		c.bases = append(c.bases, base)
	}
	return c, nil
}

func findUnified(root string, own []byte) (*cgroups, error) {
	places := []string{root}
	for line := range strings.Lines(string(own)) {
		if p, ok := strings.CutPrefix(strings.TrimSpace(line), "0::/"); ok && p != "" {
			for dir := filepath.Dir(p); dir != "."; dir = filepath.Dir(dir) {
				places = append(places, filepath.Join(root, dir))
			}
		}
	}
	var errs []error
	for _, p := range places {
		base := filepath.Join(p, groupName)
		err := os.MkdirAll(base, 0o755)
		for _, dir := range []string{p, base} {
			if err == nil {
				err = enableControllers(dir)
			}
		}
		if err == nil {
			return &cgroups{v2: true, bases: []string{base}}, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("make cgroup: %w", errors.Join(append(errs, errNoCgroups)...))
}

func enableControllers(dir string) error {
	path := filepath.Join(dir, "cgroup.subtree_control")
	have, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for _, ctl := range controllers() {
		if strings.Contains(" "+strings.TrimSpace(string(have))+" ", " "+ctl+" ") {
			continue
		}
		if err := os.WriteFile(path, []byte("+"+ctl), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// make makes a group with bounds; it takes over what an earlier one of the name left.
func (c *cgroups) make(name string, r api.Resources) (*group, error) {
	g := &group{v2: c.v2}
	for _, base := range c.bases {
		g.dirs = append(g.dirs, filepath.Join(base, name))
	}
	for _, dir := range g.dirs {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, errors.Join(fmt.Errorf("make cgroup: %w", err), g.remove())
		}
	}
	if err := g.limit(r); err != nil {
		return nil, errors.Join(fmt.Errorf("limit cgroup: %w", err), g.remove())
	}
	return g, nil
}

func (g *group) limit(r api.Resources) error {
	bytes := strconv.FormatInt(int64(r.MemoryMiB)<<20, 10)
	quota := strconv.Itoa(max(r.CPUMillis*cfsPeriod/1000, 1000)) // the kernel takes 1 ms at least
	procs := strconv.Itoa(r.Processes)
	type setting struct {
		dir, file, value string
		optional         bool
	}
	var s []setting
	if g.v2 {
		d := g.dirs[0]
		s = []setting{
			{d, "cpu.max", quota + " " + strconv.Itoa(cfsPeriod), false},
			{d, "memory.max", bytes, false},
			{d, "memory.swap.max", "0", true}, // absent without swap accounting
			{d, "pids.max", procs, false},
		}
	} else {
		s = []setting{
			{g.dirs[0], "cpu.cfs_period_us", strconv.Itoa(cfsPeriod), false},
			{g.dirs[0], "cpu.cfs_quota_us", quota, false},
			{g.dirs[1], "memory.limit_in_bytes", bytes, false},
			{g.dirs[1], "memory.memsw.limit_in_bytes", bytes, true},
			{g.dirs[2], "pids.max", procs, false},
		}
	}
	for _, x := range s {
		err := os.WriteFile(filepath.Join(x.dir, x.file), []byte(x.value), 0o644)
		absent := errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)
		if err != nil && (!x.optional || !absent) {
			return err
		}
	}
	return nil
}

// enter makes the child that this thread starts next be born in the group;
// leave takes the thread back. Nothing runs outside its bounds even for a moment.
func (g *group) enter(attr *syscall.SysProcAttr) (leave func() error, err error) {
	if g == nil {
		return func() error { return nil }, nil
	}
	if g.v2 {
		d, err := os.Open(g.dirs[0])
		if err != nil {
			return nil, fmt.Errorf("open cgroup: %w", err)
		}
		attr.UseCgroupFD, attr.CgroupFD = true, int(d.Fd())
		return d.Close, nil
	}
	own, err := os.ReadFile("/proc/thread-self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("read own cgroup: %w", err)
	}
	back := v1Paths(own)
	tid := []byte(strconv.Itoa(unix.Gettid()))
	leave = func() error {
		var errs []error
		for i, ctl := range controllers() {
			root := filepath.Dir(filepath.Dir(g.dirs[i])) // …/<controller>
			errs = append(errs, os.WriteFile(filepath.Join(root, back[ctl], "tasks"), tid, 0o644))
		}
		return errors.Join(errs...)
	}
	for _, dir := range g.dirs {
		if err := os.WriteFile(filepath.Join(dir, "tasks"), tid, 0o644); err != nil {
			return nil, errors.Join(fmt.Errorf("enter cgroup: %w", err), leave())
		}
	}
	return leave, nil
}

// v1Paths reads /proc/<pid>/cgroup: controller → path.
func v1Paths(b []byte) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(string(b)) {
		if f := strings.SplitN(strings.TrimSpace(line), ":", 3); len(f) == 3 {
			for _, ctl := range strings.Split(f[1], ",") {
				out[ctl] = f[2]
			}
		}
	}
	return out
}

// pids lists the processes in the group.
func (g *group) pids() []int {
	if g == nil {
		return nil
	}
	var out []int
	seen := map[int]bool{}
	for _, dir := range g.dirs {
		b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			continue // removed already
		}
		for _, f := range strings.Fields(string(b)) {
			if pid, err := strconv.Atoi(f); err == nil && pid > 1 && !seen[pid] {
				seen[pid] = true
				out = append(out, pid)
			}
		}
	}
	return out
}

// oomKills counts how often the group met its memory bound with a killing.
func (g *group) oomKills() int {
	if g == nil {
		return 0
	}
	path := filepath.Join(g.dirs[0], "memory.events")
	if !g.v2 {
		path = filepath.Join(g.dirs[1], "memory.oom_control")
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "oom_kill "); ok {
			n, _ := strconv.Atoi(strings.TrimSpace(v)) // the kernel writes a number
			return n
		}
	}
	return 0
}

// free is how many bytes of memory the group may take yet, what the kernel can
// drop of it (files' cached pages) counted as free; ok is false without a bound.
func (g *group) free() (n int64, ok bool) {
	if g == nil {
		return 0, false
	}
	dir, bound, usage := g.dirs[0], "memory.max", "memory.current"
	if !g.v2 {
		dir, bound, usage = g.dirs[1], "memory.limit_in_bytes", "memory.usage_in_bytes"
	}
	var values [2]int64
	for i, name := range []string{bound, usage} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			values[i], err = strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
		}
		if err != nil { // "max", too
			return 0, false
		}
	}
	stat, err := os.ReadFile(filepath.Join(dir, "memory.stat"))
	if err != nil {
		return 0, false
	}
	n = values[0] - values[1]
	for line := range strings.Lines(string(stat)) {
		if f := strings.Fields(line); len(f) == 2 && (f[0] == "inactive_file" || f[0] == "active_file") {
			cached, _ := strconv.ParseInt(f[1], 10, 64) // the kernel writes a number
			n += cached
		}
	}
	return max(n, 0), true
}

// kill ends every process of the group until none is left.
func (g *group) kill() error {
	if g == nil {
		return nil
	}
	deadline := time.Now().Add(killWait)
	for {
		if g.v2 { // at once, where the kernel has it (5.14)
			_ = os.WriteFile(filepath.Join(g.dirs[0], "cgroup.kill"), []byte("1"), 0o644)
		}
		left := g.pids()
		if len(left) == 0 {
			return nil
		}
		for _, pid := range left {
			_ = unix.Kill(pid, unix.SIGKILL) // gone already: nothing to do
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("kill cgroup: %d processes are left after %s", len(left), killWait)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// remove removes the group; its processes must have ended. The kernel may hold
// it for a moment after the last one.
func (g *group) remove() error {
	if g == nil {
		return nil
	}
	var errs []error
	for _, dir := range g.dirs {
		deadline := time.Now().Add(time.Second)
		err := unix.Rmdir(dir)
		for errors.Is(err, unix.EBUSY) && time.Now().Before(deadline) {
			time.Sleep(5 * time.Millisecond)
			err = unix.Rmdir(dir)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove cgroup: %w", err))
		}
		_ = unix.Rmdir(filepath.Dir(dir)) // the last instance takes the common folder along
	}
	return errors.Join(errs...)
}
