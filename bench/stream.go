package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/cmd/run/site"
)

// decodeJS reads the latency application's pictures in a page.
//
//go:embed latencyapp/decode.js
var decodeJS string

// sweepFPS is a little off the browser's 60 pictures a second, so that the
// application's pictures meet every phase of the display's in ten seconds. At 60
// a whole run has one phase by accident, worth from 0 to 17 ms.
const sweepFPS = "59.9"

// stage is a site with one edge, a browser and the test applications.
type stage struct {
	*site.Site
	edge    *site.Edge
	browser *site.Browser
	dir     string
}

func newStage(ctx context.Context) (_ *stage, err error) {
	dir, err := os.MkdirTemp("/tmp", "pbench") // short: unix sockets lie in it
	if err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	st := &stage{dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, st.close())
		}
	}()
	if st.Site, err = site.Start(ctx, dir); err != nil {
		return nil, err
	}
	if st.edge, err = st.AddEdge(ctx, "edge"); err != nil {
		return nil, err
	}
	bin, err := site.Bin()
	if err != nil {
		return nil, err
	}
	app := filepath.Join(bin, "latencyapp")
	for name, args := range map[string][]string{"latency": {"-fps", sweepFPS}, "rects": {"-rects"}, "still": {"-still"}} {
		put := append([]string{"app", "put", name, "--read-only", bin, "--", app}, args...)
		if _, err := st.CLI(ctx, put...); err != nil {
			return nil, err
		}
	}
	st.browser, err = site.NewBrowser(ctx)
	return st, err
}

func (st *stage) close() error {
	var errs []error
	if st.browser != nil {
		st.browser.Close()
	}
	if st.Site != nil {
		errs = append(errs, st.Site.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(st.dir))...)
}

func (st *stage) open(app string, codec api.Codec, fps int) (*site.Viewer, site.Opened, error) {
	v, err := st.Viewer(st.browser, decodeJS)
	if err != nil {
		return nil, site.Opened{}, err
	}
	o, err := v.Connect(map[string]any{
		"token": st.Token, "app": app, "codecs": []api.Codec{codec},
		"screen": map[string]int{"width": 1280, "height": 720, "fps": fps},
	})
	if err != nil {
		v.Close()
		return nil, o, err
	}
	return v, o, nil
}

// leave ends the stream and waits until its session's processes are gone, so
// that the next measurement has the machine to itself.
func (st *stage) leave(ctx context.Context, v *site.Viewer, o site.Opened) error {
	_, err := site.Eval[any](v.Tab, "site.stream.disconnect()")
	v.Close()
	return errors.Join(err, site.Poll(ctx, 20*time.Second, func() error {
		if left := site.Children(st.edge.Dir, o.ID, "stream"); len(left) > 0 {
			return fmt.Errorf("session %s still runs", o.ID)
		}
		return nil
	}))
}

// streamStart measures the cold start: from the click to the first picture.
func streamStart(ctx context.Context, runs int) (_ []Result, err error) {
	st, err := newStage(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, st.close()) }()
	var ms []float64
	for range max(runs, 3) * 3 {
		v, o, err := st.open("latency", api.H264, 60)
		if err != nil {
			return nil, err
		}
		ms = append(ms, o.FirstFrameMS)
		if err := st.leave(ctx, v, o); err != nil {
			return nil, err
		}
	}
	return []Result{
		Result{Name: "click_to_first_frame_ms_p50", Value: round(median(ms)), Unit: "ms", Runs: len(ms)}.atMost(1000),
		{Name: "click_to_first_frame_ms_p95", Value: round(quantile(ms, 0.95)), Unit: "ms", Runs: len(ms)},
	}, nil
}

// streamLatency measures glass to glass and input to photon in the page, from
// the test application's pixels.
func streamLatency(ctx context.Context, runs int) (_ []Result, err error) {
	st, err := newStage(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, st.close()) }()
	var out []Result
	for _, codec := range []api.Codec{api.H264, api.VP8} {
		var s samples
		for range runs {
			if err := st.sample(ctx, codec, &s); err != nil {
				return nil, err
			}
		}
		suffix := ""
		judge := func(r Result, bound float64) Result { return r.atMost(bound) }
		if codec != api.H264 {
			suffix = "_" + strings.ToLower(string(codec))
			judge = func(r Result, _ float64) Result { return r } // the targets are for H.264
		}
		out = append(out,
			judge(s.result("glass_to_glass_ms_p50"+suffix, s.glass50, runs), 20),
			s.result("glass_to_glass_ms_p95"+suffix, s.glass95, runs),
			judge(s.result("input_to_photon_ms_p50"+suffix, s.input50, runs), 16),
			judge(s.result("input_to_photon_ms_p95"+suffix, s.input95, runs), 28),
			s.result("input_to_photon_ms_mean"+suffix, s.input, runs),
			s.result("input_to_presented_ms_mean"+suffix, s.present, runs),
			s.result("browser_display_ms_mean"+suffix, s.display, runs),
			s.result("browser_decode_ms_p50"+suffix, s.decode, runs),
			Result{Name: "frames_per_s" + suffix, Value: round(median(s.fps)), Unit: "1/s", Runs: runs},
		)
	}
	return out, nil
}

type samples struct {
	glass50, glass95, input50, input95, fps []float64
	input, present, display                 []float64 // means, for the parts add up
	decode                                  []float64 // from the last packet until it is presented
}

func (s *samples) result(name string, v []float64, runs int) Result {
	return Result{Name: name, Value: round(median(v)), Unit: "ms", Runs: runs}
}

// sample takes one run: ten seconds of pictures, then sixty key presses.
func (st *stage) sample(ctx context.Context, codec api.Codec, s *samples) error {
	v, o, err := st.open("latency", codec, 60)
	if err != nil {
		return err
	}
	type taken struct{ P50, P95, FPS, Decode float64 }
	glass, err := site.Eval[taken](v.Tab, `(async () => {
		const sleep = (ms) => new Promise(r => setTimeout(r, ms));
		await sleep(2000);
		latency.startMeasure(site.stream.video);
		await sleep(10000);
		const list = latency.stopMeasure(), l = list.map(s => s.latency);
		return {P50: latency.percentile(l, 50), P95: latency.percentile(l, 95), FPS: l.length / 10,
			Decode: latency.percentile(list.map(s => s.decode).filter(isFinite), 50)};
	})()`)
	if err != nil {
		return errors.Join(err, st.leave(ctx, v, o))
	}
	type pressed struct {
		P50, P95, Mean, Present, Display float64
		Lost                             int
	}
	input, err := site.Eval[pressed](v.Tab, `latency.measureInput(60, {video: site.stream.video, surface: site.stream.surface}).then(r => {
		const part = (name) => latency.mean(r.parts.map(p => p[name]));
		return {P50: latency.percentile(r.samples, 50), P95: latency.percentile(r.samples, 95), Mean: latency.mean(r.samples), Lost: r.lost,
			Present: part("present"), Display: part("display")};
	})`)
	if err = errors.Join(err, st.leave(ctx, v, o)); err != nil {
		return err
	}
	if input.Lost > 0 {
		return fmt.Errorf("%d of 60 key presses did not show", input.Lost)
	}
	s.glass50, s.glass95 = append(s.glass50, glass.P50), append(s.glass95, glass.P95)
	s.input50, s.input95 = append(s.input50, input.P50), append(s.input95, input.P95)
	s.fps = append(s.fps, glass.FPS)
	s.input, s.present, s.display = append(s.input, input.Mean), append(s.present, input.Present), append(s.display, input.Display)
	s.decode = append(s.decode, glass.Decode)
	return nil
}

// streamCost measures what a stream takes of the machine beside its application
// and X server: processor time of stream and encode for a still and for a
// moving picture, and their memory.
func streamCost(ctx context.Context, runs int) (_ []Result, err error) {
	st, err := newStage(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, st.close()) }()
	var still, stillEncode, transport, rss []float64
	for range runs {
		c, err := st.cost(ctx, "still")
		if err != nil {
			return nil, err
		}
		still, stillEncode = append(still, c.encode+c.stream), append(stillEncode, c.encode)
		if c, err = st.cost(ctx, "rects"); err != nil {
			return nil, err
		}
		transport, rss = append(transport, c.stream), append(rss, c.rssMiB)
	}
	return []Result{
		Result{Name: "still_desktop_cpu_percent", Value: round(median(still)), Unit: "% of a core", Runs: runs}.atMost(1),
		{Name: "still_encode_cpu_percent", Value: round(median(stillEncode)), Unit: "% of a core", Runs: runs},
		{Name: "transport_cpu_percent", Value: round(median(transport)), Unit: "% of a core", Runs: runs},
		{Name: "stream_rss_mib", Value: round(median(rss)), Unit: "MiB", Runs: runs},
	}, nil
}

type cost struct{ encode, stream, rssMiB float64 }

const costSeconds = 8

func (st *stage) cost(ctx context.Context, app string) (cost, error) {
	v, o, err := st.open(app, api.H264, 60)
	if err != nil {
		return cost{}, err
	}
	c, err := st.measureCost(ctx, o)
	return c, errors.Join(err, st.leave(ctx, v, o))
}

func (st *stage) measureCost(ctx context.Context, o site.Opened) (cost, error) {
	encode, stream := site.Children(st.edge.Dir, o.ID, "encode"), site.Children(st.edge.Dir, o.ID, "stream")
	if len(encode) != 1 || len(stream) != 1 {
		return cost{}, fmt.Errorf("found %d encode and %d stream processes, want one of each", len(encode), len(stream))
	}
	if err := pause(ctx, 4*time.Second); err != nil { // the start is over, a still picture refined
		return cost{}, err
	}
	e0, err0 := cpuSecondsOf(encode[0])
	s0, err1 := cpuSecondsOf(stream[0])
	began := time.Now()
	if err := errors.Join(err0, err1, pause(ctx, costSeconds*time.Second)); err != nil {
		return cost{}, err
	}
	e1, err0 := cpuSecondsOf(encode[0])
	s1, err1 := cpuSecondsOf(stream[0])
	wall := time.Since(began).Seconds()
	re, err2 := rssMiB(encode[0])
	rs, err3 := rssMiB(stream[0])
	return cost{100 * (e1 - e0) / wall, 100 * (s1 - s0) / wall, re + rs}, errors.Join(err0, err1, err2, err3)
}

// cpuSecondsOf reads user and system time of a process (proc(5), stat).
func cpuSecondsOf(pid int) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("read processor time: %w", err)
	}
	const utime, stime, ticks = 11, 12, 100 // after the name; USER_HZ
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	u, err1 := strconv.ParseFloat(f[utime], 64)
	s, err2 := strconv.ParseFloat(f[stime], 64)
	return (u + s) / ticks, errors.Join(err1, err2)
}

func rssMiB(pid int) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("read memory: %w", err)
	}
	_, rest, ok := strings.Cut(string(b), "VmRSS:")
	f := strings.Fields(rest)
	if !ok || len(f) == 0 {
		return 0, fmt.Errorf("process %d shows no memory", pid)
	}
	kib, err := strconv.ParseFloat(f[0], 64)
	return kib / 1024, err
}
