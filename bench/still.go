package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/encoder"
	video "github.com/perigee-cloud/perigee/media/encode"
)

const (
	stillKbps   = 4000
	stillPasses = clipFPS // what a session spends on a still picture
	stillDB     = 45      // near-lossless: an error of 1.4 in 255 steps
)

// pictureStill has each codec encode a text that scrolled and then stands, as a
// session does: again after encoder.RefineAfter, at the session's rate, until the
// encoder calls it sharp. It tells the seconds from the last change to the first
// picture within 45 dB of the source, without what encoding and the way take.
func pictureStill(ctx context.Context, runs int) ([]Result, error) {
	took := map[api.Codec][]float64{}
	for range runs {
		if err := stillRun(ctx, took); err != nil {
			return nil, err
		}
	}
	var out []Result
	for _, c := range api.Codecs() {
		if len(took[c]) > 0 {
			out = append(out, Result{Name: "still_sharp_s_" + strings.ToLower(string(c)), Value: round(median(took[c])), Unit: "s", Runs: runs}.atMost(1))
		}
	}
	return out, nil
}

func stillRun(ctx context.Context, took map[api.Codec][]float64) error {
	dir, err := os.MkdirTemp("", "perigee-still")
	if err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	defer os.RemoveAll(dir)
	cl, err := recordClip(ctx, dir, clipApps()[0])
	if err != nil {
		return err
	}
	if err := cl.stand(stillPasses); err != nil {
		return err
	}
	for _, c := range api.SoftwareCodecs() {
		s, err := cl.sharpens(ctx, c)
		if err != nil {
			return fmt.Errorf("%s: %w", c, err)
		}
		took[c] = append(took[c], s)
	}
	return nil
}

// stand repeats the last picture of the source.
func (c *clip) stand(times int) error {
	const size = clipWidth * clipHeight * 3 / 2
	f, err := os.OpenFile(c.source(), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("read source: %w", err)
	}
	defer f.Close()
	last := make([]byte, size)
	at := int64(c.frames) * size
	if _, err := f.ReadAt(last, at-size); err != nil {
		return fmt.Errorf("read source: %w", err)
	}
	for i := range times {
		if _, err := f.WriteAt(last, at+int64(i)*size); err != nil {
			return fmt.Errorf("write source: %w", err)
		}
	}
	return nil
}

// sharpens gives the seconds until the picture that stands is near-lossless; more
// than a session spends on it where it never is.
func (c *clip) sharpens(ctx context.Context, codec api.Codec) (float64, error) {
	v, err := video.NewVideo(video.Config{Codec: codec, Width: clipWidth, Height: clipHeight, FPS: clipFPS, BitrateKbps: stillKbps, Content: api.ContentDetail})
	if err != nil {
		return 0, err
	}
	defer v.Close()
	out := newContainer(codec)
	encode := func() error {
		p, err := v.Encode(false)
		if err == nil {
			out.add(p.Data)
		}
		return errors.Join(err, ctx.Err())
	}
	err = c.replay(func(s step, pix []byte) error {
		if err := v.Load(pix, clipWidth*4, s.parts...); err != nil {
			return err
		}
		return encode()
	})
	for n := 0; err == nil && n < stillPasses && !v.Sharp(); n++ {
		err = encode()
	}
	if err != nil {
		return 0, err
	}
	file, stats := filepath.Join(c.dir, "still"+out.suffix()), filepath.Join(c.dir, "psnr")
	if err := os.WriteFile(file, out.bytes(), 0o600); err != nil {
		return 0, fmt.Errorf("write stream: %w", err)
	}
	args := append([]string{"-r", fmt.Sprint(clipFPS), "-i", file}, c.rawInput()...)
	args = append(args, "-lavfi", "[0:v]setpts=N[a];[1:v]setpts=N[b];[a][b]psnr=shortest=1:stats_file="+stats, "-f", "null", "-")
	if _, err := runFFmpeg(ctx, args...); err != nil {
		return 0, err
	}
	text, err := os.ReadFile(stats)
	if err != nil {
		return 0, fmt.Errorf("read ffmpeg's figures: %w", err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(lines) < c.frames {
		return 0, fmt.Errorf("ffmpeg compared %d of %d pictures", len(lines), out.frames)
	}
	return sharpAt(lines[c.frames-1:])
}

// sharpAt reads ffmpeg's figures of the last picture that changed and of the same
// again, and gives when it was near-lossless.
func sharpAt(lines []string) (float64, error) {
	at := func(n int) float64 {
		if n == 0 {
			return 0 // at once
		}
		return encoder.RefineAfter.Seconds() + float64(n-1)/clipFPS
	}
	for n, line := range lines {
		_, rest, ok := strings.Cut(line, "psnr_avg:")
		f := strings.Fields(rest)
		if !ok || len(f) == 0 {
			return 0, fmt.Errorf("ffmpeg told no PSNR: %q", line)
		}
		db, err := strconv.ParseFloat(f[0], 64) // knows "inf"
		if err != nil {
			return 0, fmt.Errorf("read PSNR of ffmpeg: %w", err)
		}
		if db >= stillDB {
			return at(n), nil
		}
	}
	return at(stillPasses + 1), nil
}
