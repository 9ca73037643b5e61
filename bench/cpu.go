package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/cmd/run/site"
	"github.com/perigee-cloud/perigee/media"
)

const (
	cpuSeconds = 10
	cpuKbps    = 4000
)

var cpuScreen = api.Screen{Width: 1280, Height: 720, FPS: 60, Density: 96}

// cpuRatio compares the processor time of our encode process with Debian's
// ffmpeg command on the same moving picture: capture, conversion and encode on
// both sides, the X server excluded, one encoder thread and the same codec
// settings each, in turn.
func cpuRatio(ctx context.Context, runs int) (_ []Result, err error) {
	s, err := startScreen(ctx, "-rects")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	var out []Result
	for _, c := range []struct {
		codec  api.Codec
		name   string
		target float64
		args   []string
	}{
		{api.H264, "cpu_ratio_h264_vs_ffmpeg", 0.70, []string{"-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-bf", "0"}},
		{api.VP8, "cpu_ratio_vp8_vs_ffmpeg", 0.57, []string{"-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "-6",
			"-lag-in-frames", "0", "-static-thresh", "1", "-qmin", "10", "-qmax", "56"}},
	} {
		var ours, theirs, ratios []float64
		for range runs {
			a, err := encodeCPU(ctx, s.display, c.codec)
			if err != nil {
				return nil, err
			}
			b, err := ffmpegCPU(ctx, s.display, c.args)
			if err != nil {
				return nil, err
			}
			ours, theirs, ratios = append(ours, a), append(theirs, b), append(ratios, a/b)
		}
		r := Result{Name: c.name, Value: round(median(ratios)), Unit: "ratio", Runs: runs}.atMost(c.target)
		out = append(out, r, Result{
			Name: "encode_cpu_percent_" + string(c.codec), Value: round(median(ours)), Unit: "% of a core", Runs: runs,
		}.against("ffmpeg", round(median(theirs))))
	}
	return out, nil
}

// encodeCPU runs `perigee-edge encode` for a while and gives its processor use
// in percent of one core.
func encodeCPU(ctx context.Context, display string, codec api.Codec) (float64, error) {
	bin, err := site.Bin()
	if err != nil {
		return 0, err
	}
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("make socket pair: %w", err)
	}
	mine, theirs := os.NewFile(uintptr(fds[0]), "stream"), os.NewFile(uintptr(fds[1]), "encode")
	defer mine.Close()
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "perigee-edge"), "encode")
	cmd.ExtraFiles, cmd.Stderr = []*os.File{theirs}, os.Stderr
	if err := cmd.Start(); err != nil {
		return 0, errors.Join(fmt.Errorf("start encode: %w", err), theirs.Close())
	}
	theirs.Close()
	frames, err := drive(media.NewConn(mine), display, codec)
	mine.Close()
	_ = cmd.Wait() // it ends with its socket
	if err != nil {
		return 0, err
	}
	if want := cpuSeconds * cpuScreen.FPS * 9 / 10; frames < want {
		return 0, fmt.Errorf("encode gave %d frames in %d s, less than %d: not comparable", frames, cpuSeconds, want)
	}
	used := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return 100 * used.Seconds() / cpuSeconds, nil
}

func drive(c *media.Conn, display string, codec api.Codec) (int, error) {
	if err := c.Send(media.TypeHello, media.Hello{Version: media.ProtocolVersion, PID: os.Getpid()}); err != nil {
		return 0, err
	}
	err := c.Send(media.TypeConfigure, media.Configure{
		Display: display, Video: true, Codec: codec, Pool: api.PoolCPU, Screen: cpuScreen, BitrateKbps: cpuKbps, Threads: 1,
	})
	if err != nil {
		return 0, err
	}
	frames := 0
	for end := time.Now().Add(cpuSeconds * time.Second); time.Now().Before(end); {
		m, err := c.Read()
		if err != nil {
			return 0, err
		}
		switch m.Type {
		case media.TypeFrame:
			frames++
		case media.TypeState:
			var st media.State
			if err := m.Decode(&st); err != nil {
				return 0, err
			}
			if st.Error != "" {
				return 0, fmt.Errorf("encode: %s", st.Error)
			}
		}
	}
	return frames, nil
}

// ffmpegCPU gives the processor use of Debian's ffmpeg with the same task.
func ffmpegCPU(ctx context.Context, display string, codec []string) (float64, error) {
	args := []string{"-hide_banner", "-loglevel", "error", "-f", "x11grab", "-draw_mouse", "0",
		"-framerate", strconv.Itoa(cpuScreen.FPS), "-video_size", fmt.Sprintf("%dx%d", cpuScreen.Width, cpuScreen.Height),
		"-i", display, "-t", strconv.Itoa(cpuSeconds)}
	args = append(args, codec...)
	rate := strconv.Itoa(cpuKbps) + "k"
	args = append(args, "-threads", "1", "-g", "100000", "-b:v", rate, "-maxrate", rate, "-bufsize", rate,
		"-pix_fmt", "yuv420p", "-f", "null", "-")
	cmd := exec.CommandContext(ctx, "ffmpeg", args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("run ffmpeg (package ffmpeg): %w: %s", err, out)
	}
	used := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return 100 * used.Seconds() / cpuSeconds, nil
}
