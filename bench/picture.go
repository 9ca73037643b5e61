package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/perigee-cloud/perigee/api"
	video "github.com/perigee-cloud/perigee/media/encode"
)

// pictureRates are the bitrates at which pictures are judged, in kb/s.
var pictureRates = []int{1000, 2000, 4000}

// picturePeer gives the arguments of Debian's ffmpeg for the same task: speed,
// quantiser bounds, and what a picture may take of the bitrate, as ours, since a
// larger buffer buys quality with delay. nil: it has no such encoder.
func picturePeer(c api.Codec, kbps int) []string {
	rate := fmt.Sprintf("%dk", kbps)
	common := []string{"-threads", "1", "-g", "100000", "-b:v", rate, "-maxrate", rate}
	switch c {
	case api.H264:
		return append(common, "-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-profile:v", "baseline", "-bf", "0",
			"-bufsize", fmt.Sprint(kbps*1000/clipFPS*3))
	case api.VP8, api.VP9:
		args := append(common, "-deadline", "realtime", "-lag-in-frames", "0", "-minrate", rate, "-bufsize", fmt.Sprint(kbps*300),
			"-rc_init_occupancy", fmt.Sprint(kbps*150), "-max-intra-rate", "900", "-undershoot-pct", "100", "-overshoot-pct", "15",
			"-qmin", "10", "-qmax", "56", "-auto-alt-ref", "0", "-error-resilient", "default")
		if c == api.VP8 {
			return append(args, "-c:v", "libvpx", "-cpu-used", "-6", "-static-thresh", "1")
		}
		return append(args, "-c:v", "libvpx-vp9", "-cpu-used", "8", "-aq-mode", "0", "-row-mt", "0", "-tile-columns", "0")
	}
	return nil
}

// judged is one recording in one codec at one bitrate.
type judged struct {
	cpu        float64 // % of a core at the recording's pictures, 60 a second
	p50, p95   float64 // ms to convert and encode a picture
	kbps       float64 // really
	psnr, ssim float64
}

// pictureCodecs takes all codecs through recordings of real applications, made
// now: what a stream costs without capture, and how near the picture is.
func pictureCodecs(ctx context.Context, _ int) ([]Result, error) {
	dir, err := os.MkdirTemp("", "perigee-picture")
	if err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	defer os.RemoveAll(dir)
	ours, theirs := map[api.Codec]map[int][]judged{}, map[api.Codec]map[int][]judged{}
	for _, c := range api.Codecs() {
		ours[c], theirs[c] = map[int][]judged{}, map[int][]judged{}
	}
	for _, app := range clipApps() {
		cl, err := recordClip(ctx, dir, app)
		if err != nil {
			return nil, fmt.Errorf("record %s: %w", app.name, err)
		}
		for _, c := range api.Codecs() {
			for _, kbps := range pictureRates {
				j, err := cl.judge(ctx, c, kbps)
				if err != nil {
					return nil, fmt.Errorf("%s of %s at %d kb/s: %w", c, app.name, kbps, err)
				}
				ours[c][kbps] = append(ours[c][kbps], j)
				line := fmt.Sprintf("  %-6s %-4s %4d kb/s: %5.0f kb/s, PSNR %.2f dB, SSIM %.4f, %.1f ms, %.1f %%", app.name, c, kbps, j.kbps, j.psnr, j.ssim, j.p50, j.cpu)
				if args := picturePeer(c, kbps); args != nil {
					p, err := cl.judgePeer(ctx, c, args)
					if err != nil {
						return nil, fmt.Errorf("peer's %s of %s at %d kb/s: %w", c, app.name, kbps, err)
					}
					theirs[c][kbps] = append(theirs[c][kbps], p)
					line += fmt.Sprintf("; ffmpeg %5.0f kb/s, PSNR %.2f dB, SSIM %.4f", p.kbps, p.psnr, p.ssim)
				}
				fmt.Fprintln(os.Stderr, line)
			}
		}
		if err := cl.remove(); err != nil {
			return nil, err
		}
	}
	return pictureResults(ours, theirs), nil
}

// pictureResults gives medians over the recordings.
func pictureResults(ours, theirs map[api.Codec]map[int][]judged) (out []Result) {
	of := func(list []judged, f func(judged) float64) float64 {
		var v []float64
		for _, j := range list {
			v = append(v, f(j))
		}
		return round(median(v))
	}
	for _, c := range api.Codecs() {
		name := "picture_" + strings.ToLower(string(c))
		var all []judged
		for _, kbps := range pictureRates {
			all = append(all, ours[c][kbps]...)
		}
		add := func(what, unit string, list []judged, f func(judged) float64) Result {
			return Result{Name: name + what, Value: of(list, f), Unit: unit, Runs: len(list)}
		}
		out = append(out,
			add("_cpu_percent", "% of a core", all, func(j judged) float64 { return j.cpu }),
			add("_encode_ms_p50", "ms", all, func(j judged) float64 { return j.p50 }),
			add("_encode_ms_p95", "ms", all, func(j judged) float64 { return j.p95 }))
		for _, kbps := range pictureRates {
			psnr, ssim := func(j judged) float64 { return j.psnr }, func(j judged) float64 { return j.ssim }
			p := add(fmt.Sprintf("_psnr_db_%dmbps", kbps/1000), "dB", ours[c][kbps], psnr)
			s := add(fmt.Sprintf("_ssim_%dmbps", kbps/1000), "", ours[c][kbps], ssim)
			if peer := theirs[c][kbps]; len(peer) > 0 {
				p, s = p.against("ffmpeg", of(peer, psnr)), s.against("ffmpeg", of(peer, ssim))
			}
			out = append(out, p, s)
		}
	}
	return out
}

// judge encodes the clip as a session would and compares what decodes from it.
func (c *clip) judge(ctx context.Context, codec api.Codec, kbps int) (j judged, err error) {
	v, err := video.NewVideo(video.Config{Codec: codec, Width: clipWidth, Height: clipHeight, FPS: clipFPS, BitrateKbps: kbps})
	if err != nil {
		return j, err
	}
	defer v.Close()
	var ms []float64
	var cpu time.Duration
	out := newContainer(codec)
	err = c.replay(func(s step, pix []byte) error {
		began, used := time.Now(), processorTime()
		if err := v.Load(pix, clipWidth*4, s.parts...); err != nil {
			return err
		}
		p, err := v.Encode(false)
		if err != nil {
			return err
		}
		cpu += processorTime() - used
		ms = append(ms, float64(time.Since(began).Microseconds())/1000)
		out.add(p.Data)
		return ctx.Err()
	})
	if err != nil {
		return j, err
	}
	file := filepath.Join(c.dir, "ours"+out.suffix())
	if err := os.WriteFile(file, out.bytes(), 0o600); err != nil {
		return j, fmt.Errorf("write stream: %w", err)
	}
	j, err = c.compare(ctx, file)
	j.cpu = 100 * cpu.Seconds() / (float64(len(ms)) / clipFPS)
	j.p50, j.p95 = median(ms), quantile(ms, 0.95)
	return j, err
}

// processorTime is what this process has used so far, codecs' own threads too.
func processorTime() time.Duration {
	var u syscall.Rusage
	// It fails for an unknown "who" only.
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// judgePeer has Debian's ffmpeg encode the same pictures.
func (c *clip) judgePeer(ctx context.Context, codec api.Codec, args []string) (judged, error) {
	file := filepath.Join(c.dir, "peer"+newContainer(codec).suffix())
	all := append(append([]string{"-y"}, c.rawInput()...), args...)
	all = append(all, file)
	if _, err := runFFmpeg(ctx, all...); err != nil {
		return judged{}, err
	}
	return c.compare(ctx, file)
}

// compare decodes a stream and compares it with the clip's pictures.
func (c *clip) compare(ctx context.Context, file string) (judged, error) {
	info, err := os.Stat(file)
	if err != nil {
		return judged{}, fmt.Errorf("measure stream: %w", err)
	}
	j := judged{kbps: float64(info.Size()*8) / 1000 / (float64(c.frames) / clipFPS)}
	args := append([]string{"-r", fmt.Sprint(clipFPS), "-i", file}, c.rawInput()...)
	args = append(args, "-lavfi", "[0:v]setpts=N,split[a][b];[1:v]setpts=N,split[c][d];[a][c]psnr;[b][d]ssim", "-f", "null", "-")
	text, err := runFFmpeg(ctx, args...)
	if err != nil {
		return j, err
	}
	j.psnr, err = after(text, "average:")
	ssim, err2 := after(text, "All:")
	j.ssim = ssim
	return j, errors.Join(err, err2)
}
