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

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/cmd/run/site"
	"github.com/perigee-cloud/perigee/edge/certify"
	"github.com/perigee-cloud/perigee/edge/probe"
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
		task := probe.Engine(string(api.PoolCPU), api.PoolCPU, "", api.H264, phase, false)
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

// encodersDensity finds how many streams of the noisy 1280x720@30 picture the
// machine encodes in time, from BGRA in memory to H.264: ours against Debian's
// ffmpeg with the same settings, which reads the same pictures from a file in
// the page cache.
func encodersDensity(ctx context.Context, runs int) (_ []Result, err error) {
	file := filepath.Join(os.TempDir(), fmt.Sprintf("perigee-density-%d.bgra", os.Getpid()))
	defer os.Remove(file)
	if err := os.WriteFile(file, bytes.Join(probe.Pictures(), nil), 0o600); err != nil {
		return nil, fmt.Errorf("write pictures: %w", err)
	}
	var ours, theirs, ratios []float64
	for range runs {
		a, err := mostStreams(func(n int) (bool, error) { return oursInTime(ctx, n) })
		if err != nil {
			return nil, err
		}
		b, err := mostStreams(func(n int) (bool, error) { return ffmpegInTime(ctx, file, n) })
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
	return []Result{r, Result{Name: "software_streams_720p30", Value: median(ours), Unit: "streams of the noisy picture", Runs: runs}.against("ffmpeg", median(theirs))}, nil
}

// mostStreams finds the most that work: doubling, then halving the step.
func mostStreams(works func(int) (bool, error)) (int, error) {
	low, high := 0, 0
	for n := 8; high == 0 && n <= densityMost; n *= 2 {
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

// oursInTime holds n streams: 97 % of the pictures, and the 95th percentile of
// encoding within a picture's interval.
func oursInTime(ctx context.Context, n int) (bool, error) {
	task := probe.Engine(string(api.PoolCPU), api.PoolCPU, "", api.H264, densitySeconds*time.Second, false)
	p, err := probe.Hold(ctx, task, float64(n)*streamBlocks)
	return p.Macroblocks >= uint64(n)*streamBlocks*97/100 && p.P95MS <= 1000.0/densityFPS, err
}

// ffmpegInTime runs n ffmpeg commands with the same settings that read their
// pictures in real time: 97 % of real time here too, as each command counts it
// itself, without its start. How late single pictures are it does not say.
func ffmpegInTime(ctx context.Context, file string, n int) (bool, error) {
	var mu sync.Mutex
	late, problems := 0, error(nil)
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			speed, err := ffmpegSpeed(ctx, file)
			mu.Lock()
			defer mu.Unlock()
			problems = errors.Join(problems, err)
			if speed < 0.97 {
				late++
			}
		})
	}
	wg.Wait()
	return late == 0, problems
}

const streamBlocks = 108_000 // macroblocks per second of 1280x720@30

// ffmpegSpeed gives the speed that one command reached, 1 being real time.
func ffmpegSpeed(ctx context.Context, file string) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, (densitySeconds+20)*time.Second)
	defer cancel()
	rate := strconv.Itoa(densityKbps) + "k"
	out, err := exec.CommandContext(ctx, "ffmpeg", "-hide_banner", "-nostdin", "-loglevel", "error", "-progress", "pipe:1", "-stream_loop", "-1", "-re",
		"-f", "rawvideo", "-pix_fmt", "bgr0", "-video_size", "1280x720", "-framerate", strconv.Itoa(densityFPS), "-i", file,
		"-t", strconv.Itoa(densitySeconds), "-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-profile:v", "baseline", "-threads", "1",
		"-g", "100000", "-b:v", rate, "-maxrate", rate, "-bufsize", strconv.Itoa(densityKbps*3/densityFPS)+"k", "-pix_fmt", "yuv420p", "-f", "null", "-").CombinedOutput()
	if ctx.Err() != nil && err != nil {
		return 0, nil // so late that it was ended
	}
	if err != nil {
		return 0, fmt.Errorf("run ffmpeg (package ffmpeg): %w: %s", err, out)
	}
	at := bytes.LastIndex(out, []byte("speed="))
	if at < 0 {
		return 0, errors.New("run ffmpeg: it told no speed")
	}
	text, _, _ := strings.Cut(string(out[at+len("speed="):]), "x")
	speed, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	if err != nil {
		return 0, fmt.Errorf("read ffmpeg's speed: %w", err)
	}
	return speed, nil
}
