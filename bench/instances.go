package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/xproto"
	"golang.org/x/sync/errgroup"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/api/client"
	"github.com/perigee-cloud/perigee/cmd/run/site"
	"github.com/perigee-cloud/perigee/edge/local"
)

const (
	startTarget = 500 // ms, of the issue
	leakRounds  = 200
	leakAtOnce  = 4
	gapStreams  = 8
	gapTarget   = 100 // ms
	gapFPS      = 30
)

// yard is a site with one edge and no browser.
type yard struct {
	*site.Site
	edge  *site.Edge
	admin *client.Client
	dir   string
}

func newYard(ctx context.Context, args ...string) (_ *yard, err error) {
	dir, err := os.MkdirTemp("/tmp", "pbench") // short: unix sockets lie in it
	if err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	y := &yard{dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, y.close())
		}
	}()
	if y.Site, err = site.Start(ctx, dir); err != nil {
		return nil, err
	}
	if y.edge, err = y.AddEdge(ctx, "edge", args...); err != nil {
		return nil, err
	}
	bin, err := site.Bin()
	if err != nil {
		return nil, err
	}
	for name, args := range map[string][]string{"paints": {filepath.Join(bin, "latencyapp")}, "rects": {filepath.Join(bin, "latencyapp"), "-rects"}, "waits": {"sleep", "1000"}} {
		if _, err := y.CLI(ctx, append([]string{"app", "put", name, "--read-only", bin, "--"}, args...)...); err != nil {
			return nil, err
		}
	}
	y.admin, err = client.New(client.Config{Socket: filepath.Join(y.SchedulerData(), "admin.sock")})
	return y, err
}

func (y *yard) close() error {
	var errs []error
	if y.admin != nil {
		y.admin.Close()
	}
	if y.Site != nil {
		errs = append(errs, y.Site.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(y.dir))...)
}

// launch launches an instance and waits until it runs.
func (y *yard) launch(ctx context.Context, b api.LaunchBody) (api.SessionID, error) {
	op, err := y.admin.LaunchInstance(ctx, b)
	if err == nil {
		op, err = y.admin.WaitOperation(ctx, op.ID)
	}
	if err == nil && op.StatusCode != api.OperationSuccess {
		err = fmt.Errorf("launch %s: %s", b.AppID, op.Err)
	}
	_, id, _ := strings.Cut(op.ID, "-")
	return api.SessionID(id), err
}

func (y *yard) end(ctx context.Context, id api.SessionID) error {
	op, err := y.admin.DeleteInstance(ctx, string(id), false)
	if err == nil {
		_, err = y.admin.WaitOperation(ctx, op.ID)
	}
	return err
}

// instanceStart measures a program's cold start: from the request to the first
// picture on its screen.
func instanceStart(ctx context.Context, runs int) (_ []Result, err error) {
	y, err := newYard(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, y.close()) }()
	ms, err := y.starts(ctx, "paints", max(runs, 3)*5)
	if err != nil {
		return nil, err
	}
	return []Result{
		Result{Name: "start_ms_program_cold", Value: round(median(ms)), Unit: "ms", Runs: len(ms)}.atMost(startTarget),
		{Name: "start_ms_program_cold_p95", Value: round(quantile(ms, 0.95)), Unit: "ms", Runs: len(ms)},
	}, nil
}

// starts launches an application n times, one after the other, and gives how
// long each took from the request to the first picture, in ms.
func (y *yard) starts(ctx context.Context, app string, n int) (ms []float64, err error) {
	for range n {
		begun := time.Now()
		op, err := y.admin.LaunchInstance(ctx, api.LaunchBody{AppID: app})
		if err != nil {
			return nil, err
		}
		_, id, _ := strings.Cut(op.ID, "-")
		if err := y.drawn(ctx, api.SessionID(id)); err != nil {
			return nil, err
		}
		ms = append(ms, float64(time.Since(begun).Microseconds())/1000)
		if err := y.end(ctx, api.SessionID(id)); err != nil {
			return nil, err
		}
	}
	return ms, nil
}

// drawn waits until an instance's screen shows two colours.
func (y *yard) drawn(ctx context.Context, id api.SessionID) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	dirs, err := filepath.Glob(filepath.Join(y.edge.Dir, "run", string(id)+".*"))
	var x *xgb.Conn
	for err == nil && ctx.Err() == nil {
		if len(dirs) == 0 {
			dirs, err = filepath.Glob(filepath.Join(y.edge.Dir, "run", string(id)+".*"))
		} else if x == nil {
			if st, e := local.Session(dirs[0]).ReadInstance(); e == nil && st.Display != "" {
				if x, err = dialDisplay(st.Display, st.XAuth); err == nil {
					defer x.Close()
				}
			}
		} else if two, e := twoColours(x); e != nil || two {
			return e
		}
		time.Sleep(time.Millisecond)
	}
	return errors.Join(err, ctx.Err(), fmt.Errorf("instance %s has drawn nothing", id))
}

// dialDisplay connects with the instance's cookie, which xgb reads from a file.
func dialDisplay(display, xauthority string) (*xgb.Conn, error) {
	if err := os.Setenv("XAUTHORITY", xauthority); err != nil {
		return nil, err
	}
	return xgb.NewConnDisplay(display)
}

func twoColours(x *xgb.Conn) (bool, error) {
	root := xproto.Setup(x).DefaultScreen(x).Root
	r, err := xproto.GetImage(x, xproto.ImageFormatZPixmap, xproto.Drawable(root), 0, 0, 64, 64, ^uint32(0)).Reply()
	if err != nil {
		return false, fmt.Errorf("look at the screen: %w", err)
	}
	for i := 4; i+4 <= len(r.Data); i += 4 {
		if string(r.Data[i:i+3]) != string(r.Data[:3]) {
			return true, nil
		}
	}
	return false, nil
}

// instanceLeaks starts and ends many instances, every fourth with a stream, and
// counts what they leave on the node.
func instanceLeaks(ctx context.Context, _ int) (_ []Result, err error) {
	y, err := newYard(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, y.close()) }()
	round1 := func(n int) error {
		var g errgroup.Group
		g.SetLimit(leakAtOnce)
		for k := range n {
			g.Go(func() error {
				b := api.LaunchBody{AppID: "waits"}
				b.Config.EnableStreaming = k%4 == 0
				id, err := y.launch(ctx, b)
				if err != nil {
					return err
				}
				return y.end(ctx, id)
			})
		}
		return g.Wait()
	}
	if err := round1(leakAtOnce * 4); err != nil { // what is opened once
		return nil, err
	}
	before, err := y.traces(ctx)
	if err != nil {
		return nil, err
	}
	begun := time.Now()
	if err := round1(leakRounds); err != nil {
		return nil, err
	}
	took := time.Since(begun)
	after, err := y.traces(ctx)
	if err != nil {
		return nil, err
	}
	left := 0
	for name, n := range after.counts {
		if more := n - before.counts[name]; more > 0 {
			fmt.Fprintf(os.Stderr, "  %d %s are left\n", more, name)
			left += more
		}
	}
	return []Result{
		Result{Name: "leaked_after_200", Value: float64(left), Unit: "things", Runs: leakRounds}.atMost(0),
		{Name: "daemon_rss_growth_after_200", Value: round(after.rssMiB - before.rssMiB), Unit: "MiB", Runs: leakRounds},
		{Name: "instances_started_and_ended_per_s", Value: round(leakRounds / took.Seconds()), Unit: "1/s", Runs: leakRounds},
	}, nil
}

type traces struct {
	counts map[string]int
	rssMiB float64
}

// traces counts what the edge's sessions may leave, once the daemon has
// forgotten the last of them.
func (y *yard) traces(ctx context.Context) (traces, error) {
	folders := func() int {
		dirs, _ := local.Run(filepath.Join(y.edge.Dir, "run")).Sessions()
		return len(dirs)
	}
	_ = site.Poll(ctx, 10*time.Second, func() error { // what is still there is counted
		if n := folders(); n > 0 {
			return fmt.Errorf("%d folders are left", n)
		}
		return nil
	})
	pid := strconv.Itoa(y.edge.Process.Cmd.Process.Pid)
	t := traces{counts: map[string]int{"folders": folders()}}
	for name, pattern := range map[string]string{
		"descriptors": "/proc/" + pid + "/fd/*", "displays": "/tmp/.X1*-lock", "cgroups": "/sys/fs/cgroup/*/perigee/*", "cgroups (v2)": "/sys/fs/cgroup/perigee/*/",
	} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return t, err
		}
		t.counts[name] = len(found)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return t, fmt.Errorf("read mounts: %w", err)
	}
	t.counts["mounts"] = strings.Count(string(mounts), "\n")
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return t, err
	}
	for _, p := range procs {
		if b, err := os.ReadFile(p); err == nil && strings.Contains(string(b), y.edge.Dir) {
			t.counts["processes"]++
		}
	}
	status, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		return t, fmt.Errorf("read the daemon's memory: %w", err)
	}
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmRSS:" {
			kib, _ := strconv.ParseFloat(f[1], 64) // the kernel writes a number
			t.rssMiB = kib / 1024
		}
	}
	return t, nil
}

// daemonRestart ends the daemon by SIGTERM under live streams, starts the next,
// and takes the longest gap between two pictures of any stream; beside it the
// longest gap of as much time without a restart.
func daemonRestart(ctx context.Context, runs int) (_ []Result, err error) {
	y, err := newYard(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, y.close()) }()
	var viewers []*receiver
	defer func() {
		for _, v := range viewers {
			v.close()
		}
	}()
	width, height, fps := 320, 180, gapFPS
	for range gapStreams {
		b := api.LaunchBody{AppID: "rects"}
		b.Config = api.InstanceConfig{EnableStreaming: true, Display: &api.ScreenBody{Width: &width, Height: &height, FPS: &fps}}
		id, err := y.launch(ctx, b)
		if err != nil {
			return nil, err
		}
		v, err := watch(ctx, y.admin, id)
		if err != nil {
			return nil, err
		}
		viewers = append(viewers, v)
	}
	var gaps, quiet []float64
	for range runs {
		q, err := longestGap(ctx, viewers, func() error { return nil })
		if err != nil {
			return nil, err
		}
		g, err := longestGap(ctx, viewers, func() error {
			if err := y.edge.Process.Stop(syscall.SIGTERM); err != nil {
				return err
			}
			if err := y.StartEdge(ctx, y.edge); err != nil {
				return err
			}
			// Its lease still holds: what counts is that it has its sessions.
			return site.Poll(ctx, 20*time.Second, func() error {
				if n := strings.Count(y.edge.Process.Output(), "session adopted"); n < gapStreams {
					return fmt.Errorf("the next daemon has adopted %d of %d sessions", n, gapStreams)
				}
				return nil
			})
		})
		if err != nil {
			return nil, err
		}
		quiet, gaps = append(quiet, q), append(gaps, g)
	}
	return []Result{Result{Name: "daemon_restart_gap_ms_max", Value: round(slices.Max(gaps)), Unit: "ms", Runs: runs}.
		against("no restart", round(slices.Max(quiet))).atMost(gapTarget)}, nil
}

// longestGap is the longest time without a picture on any of the streams while
// f runs and for two seconds around it.
func longestGap(ctx context.Context, viewers []*receiver, f func() error) (float64, error) {
	for _, v := range viewers {
		v.reset()
	}
	pause := func() error {
		select {
		case <-time.After(2 * time.Second):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := errors.Join(pause(), f(), pause()); err != nil {
		return 0, err
	}
	most := time.Duration(0)
	for _, v := range viewers {
		gap, pictures := v.gap()
		if pictures < gapFPS {
			return 0, fmt.Errorf("a stream showed %d pictures in over 4 s", pictures)
		}
		most = max(most, gap)
	}
	return float64(most.Microseconds()) / 1000, nil
}

// clock notes when pictures come.
type clock struct {
	mu       sync.Mutex // guards the fields below
	last     time.Time
	longest  time.Duration
	pictures int
}

func (c *clock) tick(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pictures > 0 {
		c.longest = max(c.longest, now.Sub(c.last))
	}
	c.last = now
	c.pictures++
}

func (c *clock) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.longest, c.pictures = 0, 0
}

func (c *clock) gap() (time.Duration, int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return max(c.longest, time.Since(c.last)), c.pictures
}
