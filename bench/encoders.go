package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/cmd/run/site"
	"github.com/perigee-cloud/perigee/edge/certify"
	"github.com/perigee-cloud/perigee/edge/probe"
	"github.com/perigee-cloud/perigee/media"
)

// encodersProbe times `perigee-edge probe` as an operator runs it.
func encodersProbe(ctx context.Context, runs int) ([]Result, error) {
	bin, err := site.Bin()
	if err != nil {
		return nil, err
	}
	var seconds, streams []float64
	for range runs {
		began := time.Now()
		out, err := exec.CommandContext(ctx, filepath.Join(bin, "perigee-edge"), "probe", "--json").Output()
		if err != nil {
			return nil, fmt.Errorf("run perigee-edge probe: %w", err)
		}
		seconds = append(seconds, time.Since(began).Seconds())
		var c api.Certificate
		if err := json.Unmarshal(out, &c); err != nil {
			return nil, fmt.Errorf("read certificate: %w", err)
		}
		for _, e := range c.Engines {
			if e.Pool == api.PoolCPU && e.Codec == api.H264 {
				streams = append(streams, float64(e.Macroblocks)/108_000)
			}
		}
	}
	return []Result{
		Result{Name: "probe_seconds", Value: round(median(seconds)), Unit: "s", Runs: runs}.atMost(15),
		{Name: "certified_h264_streams_720p30", Value: round(median(streams)), Unit: "streams of the noisy picture", Runs: runs},
	}, nil
}

// encodersCertificate holds loads of the noisy picture and compares how busy
// the processors get with what the certificate says.
func encodersCertificate(ctx context.Context, runs int) ([]Result, error) {
	const phase = 2 * time.Second
	var worst []float64
	for range runs {
		task := probe.Engine(string(api.PoolCPU), api.PoolCPU, "", api.H264, phase)
		e := probe.Measure(ctx, task)
		if e.State != api.EngineCertified {
			return nil, fmt.Errorf("certify libx264: %s: %s", e.State, e.Detail)
		}
		most := 0.0
		for _, percent := range []float64{25, 50, 75, 95} {
			load := float64(e.Macroblocks) / 0.95 * percent / 100 // certified is at 95 % of what it does
			p, err := probe.Hold(ctx, task, load)
			if err != nil {
				return nil, err
			}
			said, ok := certify.Saturation(e, float64(p.Macroblocks))
			if !ok {
				return nil, errors.New("the certificate has no curve")
			}
			most = max(most, math.Abs(said-p.Busy))
		}
		worst = append(worst, most)
	}
	return []Result{Result{Name: "certificate_error_points_max", Value: round(median(worst)), Unit: "points of the processors' time", Runs: runs}.atMost(8)}, nil
}

const (
	densitySeconds = 5
	densityFPS     = 30
	densityKbps    = 2000
	densityMost    = 96 // streams; more are not tried
)

// encodersDensity finds how many streams of a moving 1280x720@30 picture the
// machine encodes in time: ours against Debian's ffmpeg with the same settings,
// capture and conversion included on both sides.
func encodersDensity(ctx context.Context, runs int) (_ []Result, err error) {
	s, err := startScreen(ctx, "-rects")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	var ours, theirs, ratios []float64
	for range runs {
		a, err := mostStreams(func(n int) (bool, error) { return oursInTime(ctx, s.display, n) })
		if err != nil {
			return nil, err
		}
		b, err := mostStreams(func(n int) (bool, error) { return ffmpegInTime(ctx, s.display, n) })
		if err != nil {
			return nil, err
		}
		if b == 0 {
			return nil, errors.New("ffmpeg does not keep up with one stream: the machine is too busy to compare")
		}
		ours, theirs, ratios = append(ours, float64(a)), append(theirs, float64(b)), append(ratios, float64(a)/float64(b))
	}
	r := Result{Name: "software_streams_ratio_vs_ffmpeg", Value: round(median(ratios)), Unit: "ratio", Runs: runs}
	target := 1.3
	met := r.Value >= target
	r.Target, r.Met = &target, &met
	return []Result{r, Result{Name: "software_streams_720p30", Value: median(ours), Unit: "streams", Runs: runs}.against("ffmpeg", median(theirs))}, nil
}

// mostStreams finds the most that work: doubling, then halving the step.
func mostStreams(works func(int) (bool, error)) (int, error) {
	low, high := 0, 0
	for n := 4; high == 0 && n <= densityMost; n *= 2 {
		ok, err := works(n)
		if err != nil {
			return 0, err
		}
		if ok {
			low = n
		} else {
			high = n
		}
	}
	if high == 0 {
		return low, nil
	}
	for high-low > max(1, low/10) {
		n := (low + high) / 2
		ok, err := works(n)
		if err != nil {
			return 0, err
		}
		if ok {
			low = n
		} else {
			high = n
		}
	}
	return low, nil
}

// inTime is the judgement of both sides: 97 % of the pictures came.
func inTime(frames int) bool { return frames >= densitySeconds*densityFPS*97/100 }

// oursInTime runs n encode processes; each must give its pictures, with the
// 95th percentile of encoding within a picture's interval.
func oursInTime(ctx context.Context, display string, n int) (bool, error) {
	bin, err := site.Bin()
	if err != nil {
		return false, err
	}
	var mu sync.Mutex
	late, problems := 0, error(nil)
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			ok, err := encodeInTime(ctx, bin, display)
			mu.Lock()
			defer mu.Unlock()
			problems = errors.Join(problems, err)
			if !ok {
				late++
			}
		})
	}
	wg.Wait()
	return late == 0, problems
}

func encodeInTime(ctx context.Context, bin, display string) (bool, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false, fmt.Errorf("make socket pair: %w", err)
	}
	mine, theirs := os.NewFile(uintptr(fds[0]), "stream"), os.NewFile(uintptr(fds[1]), "encode")
	defer mine.Close()
	ctx, cancel := context.WithTimeout(ctx, (densitySeconds+20)*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "perigee-edge"), "encode", "--log-level", "error")
	cmd.ExtraFiles, cmd.Stderr = []*os.File{theirs}, os.Stderr
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return false, fmt.Errorf("start encode: %w", err)
	}
	defer func() { mine.Close(); _ = cmd.Wait() }() // it ends with its socket
	c := media.NewConn(mine)
	if err := errors.Join(c.Send(media.TypeHello, media.Hello{Version: media.ProtocolVersion, PID: os.Getpid()}),
		c.Send(media.TypeConfigure, media.Configure{Display: display, Video: true, Codec: api.H264, Pool: api.PoolCPU, Threads: 1,
			Screen: api.Screen{Width: 1280, Height: 720, FPS: densityFPS}, BitrateKbps: densityKbps})); err != nil {
		return false, err
	}
	frames, states, slow := 0, 0, 0
	var began time.Time
	for began.IsZero() || time.Since(began) < densitySeconds*time.Second {
		m, err := c.Read()
		if err != nil {
			return false, err
		}
		switch m.Type {
		case media.TypeFrame:
			if frames++; began.IsZero() {
				began, frames = time.Now(), 0
			}
		case media.TypeState:
			var st media.State
			if err := m.Decode(&st); err != nil {
				return false, err
			}
			if st.Error != "" {
				return false, fmt.Errorf("encode: %s", st.Error)
			}
			if states++; st.EncodeMSP95 > 1000.0/densityFPS {
				slow++
			}
		}
	}
	// A state covers 0.3 s, ten pictures: one of its p95 is a single picture.
	return inTime(frames) && slow*10 <= states, nil
}

// ffmpegInTime runs n ffmpeg commands with the same settings.
func ffmpegInTime(ctx context.Context, display string, n int) (bool, error) {
	var mu sync.Mutex
	late, problems := 0, error(nil)
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			frames, err := ffmpegFrames(ctx, display)
			mu.Lock()
			defer mu.Unlock()
			problems = errors.Join(problems, err)
			if !inTime(frames) {
				late++
			}
		})
	}
	wg.Wait()
	return late == 0, problems
}

// ffmpegFrames gives the pictures that one command encoded.
func ffmpegFrames(ctx context.Context, display string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, (densitySeconds+20)*time.Second)
	defer cancel()
	rate := strconv.Itoa(densityKbps) + "k"
	cmd := exec.CommandContext(ctx, "ffmpeg", "-hide_banner", "-nostdin", "-loglevel", "error", "-progress", "-", "-nostats",
		"-f", "x11grab", "-draw_mouse", "0", "-framerate", strconv.Itoa(densityFPS), "-video_size", "1280x720", "-i", display,
		"-t", strconv.Itoa(densitySeconds), "-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-bf", "0", "-threads", "1",
		"-g", "100000", "-b:v", rate, "-maxrate", rate, "-bufsize", rate, "-pix_fmt", "yuv420p", "-fps_mode", "passthrough", "-f", "null", "-")
	var problem bytes.Buffer
	cmd.Stderr = &problem
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("run ffmpeg (package ffmpeg): %w: %s", err, problem.String())
	}
	frames := 0
	for line := range strings.Lines(string(out)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "frame="); ok {
			if n, err := strconv.Atoi(strings.TrimSpace(v)); err == nil {
				frames = n
			}
		}
	}
	return frames, nil
}
