package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/media/capture"
	video "github.com/perigee-cloud/perigee/media/encode"
)

const (
	clipWidth, clipHeight, clipFPS = 1280, 720, 60

	clipFrames = 180
	clipSettle = 2 * time.Second  // for the application to start
	clipMost   = 30 * time.Second // for the frames to come
)

// clipApp is a program worth recording.
type clipApp struct {
	name    string
	program string
	args    []string
}

// clipApps are a terminal with scrolling text, a game, and moving rectangles.
func clipApps() []clipApp {
	scroll := `find /usr/share/doc /usr/lib | while read -r line; do echo "$line"; sleep 0.03; done`
	return []clipApp{
		{"text", "xterm", []string{"-geometry", "210x55+0+0", "-e", "sh", "-c", scroll}},
		{"game", "/usr/games/kobodl", []string{"-fullscreen", "-nosound"}},
		{"rects", "", []string{"-rects"}},
	}
}

// clip is a recording of an application's screen: what changed, picture by
// picture, and the same pictures as an encoder sees them (I420) for comparison.
type clip struct {
	dir    string
	frames int
}

// step is one picture: the parts that changed.
type step struct{ parts []image.Rectangle }

func (c *clip) changes() string { return filepath.Join(c.dir, "changes") }
func (c *clip) source() string  { return filepath.Join(c.dir, "source.yuv") }

func (c *clip) remove() error {
	return errors.Join(os.Remove(c.changes()), os.Remove(c.source()))
}

// rawInput is ffmpeg's input of the source.
func (c *clip) rawInput() []string {
	return []string{"-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", fmt.Sprintf("%dx%d", clipWidth, clipHeight),
		"-r", strconv.Itoa(clipFPS), "-i", c.source()}
}

// recordClip runs an application on a screen of its own and records it.
func recordClip(ctx context.Context, dir string, app clipApp) (_ *clip, err error) {
	s, err := startScreenOf(ctx, app.program, app.args...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	c := &clip{dir: dir}
	ctx, cancel := context.WithTimeout(ctx, clipMost)
	defer cancel()
	if err := pause(ctx, clipSettle); err != nil {
		return nil, err
	}
	if err := c.record(ctx, s.display); err != nil {
		return nil, err
	}
	return c, c.writeSource()
}

// record takes the pictures, as they are drawn and at clipFPS at most.
func (c *clip) record(ctx context.Context, display string) error {
	screen, err := capture.Open(ctx, capture.Config{Display: display, Width: clipWidth, Height: clipHeight, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	runCtx, stop := context.WithCancel(ctx)
	go func() {
		defer close(ended)
		_ = screen.Run(runCtx) // Grab tells it, too
	}()
	defer func() {
		stop()
		<-ended
		screen.Close()
	}()
	f, err := os.Create(c.changes())
	if err != nil {
		return fmt.Errorf("write recording: %w", err)
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	tick := time.NewTicker(time.Second / clipFPS)
	defer tick.Stop()
	for c.frames < clipFrames {
		select {
		case <-ctx.Done():
			return fmt.Errorf("only %d of %d pictures were drawn: %w", c.frames, clipFrames, ctx.Err())
		case <-tick.C:
		}
		p, ok, err := screen.Grab()
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if err := writeStep(w, p); err != nil {
			return fmt.Errorf("write recording: %w", err)
		}
		c.frames++
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write recording: %w", err)
	}
	return nil
}

// writeStep writes how many parts, where they are, and their pixels.
func writeStep(w io.Writer, p capture.Picture) error {
	head := binary.LittleEndian.AppendUint32(nil, uint32(len(p.Changed)))
	for _, r := range p.Changed {
		for _, n := range []int{r.Min.X, r.Min.Y, r.Max.X, r.Max.Y} {
			head = binary.LittleEndian.AppendUint32(head, uint32(n))
		}
	}
	if _, err := w.Write(head); err != nil {
		return err
	}
	for _, r := range p.Changed {
		for y := r.Min.Y; y < r.Max.Y; y++ {
			if _, err := w.Write(p.Pix[y*p.Stride+r.Min.X*4 : y*p.Stride+r.Max.X*4]); err != nil {
				return err
			}
		}
	}
	return nil
}

// replay gives each picture of the clip to f.
func (c *clip) replay(f func(s step, pix []byte) error) error {
	file, err := os.Open(c.changes())
	if err != nil {
		return fmt.Errorf("read recording: %w", err)
	}
	defer file.Close()
	r := bufio.NewReaderSize(file, 1<<20)
	pix := make([]byte, clipWidth*clipHeight*4)
	for range c.frames {
		s, err := readStep(r, pix)
		if err != nil {
			return fmt.Errorf("read recording: %w", err)
		}
		if err := f(s, pix); err != nil {
			return err
		}
	}
	return nil
}

func readStep(r io.Reader, pix []byte) (s step, err error) {
	var n uint32
	if err := binary.Read(r, binary.LittleEndian, &n); err != nil {
		return s, err
	}
	corners := make([]uint32, 4*n)
	if err := binary.Read(r, binary.LittleEndian, corners); err != nil {
		return s, err
	}
	for i := range int(n) {
		k := corners[4*i:]
		p := image.Rect(int(k[0]), int(k[1]), int(k[2]), int(k[3]))
		for y := p.Min.Y; y < p.Max.Y; y++ {
			at := (y*clipWidth + p.Min.X) * 4
			if _, err := io.ReadFull(r, pix[at:at+p.Dx()*4]); err != nil {
				return s, err
			}
		}
		s.parts = append(s.parts, p)
	}
	return s, nil
}

// writeSource writes the pictures as an encoder is given them.
func (c *clip) writeSource() error {
	v, err := video.NewVideo(video.Config{Codec: api.VP8, Width: clipWidth, Height: clipHeight, FPS: clipFPS, BitrateKbps: 1000})
	if err != nil {
		return err
	}
	defer v.Close()
	f, err := os.Create(c.source())
	if err != nil {
		return fmt.Errorf("write source: %w", err)
	}
	defer f.Close()
	err = c.replay(func(s step, pix []byte) error {
		if err := v.Load(pix, clipWidth*4, s.parts...); err != nil {
			return err
		}
		planes, err := v.Planes()
		if err != nil {
			return err
		}
		_, err = f.Write(planes)
		return err
	})
	return errors.Join(err, f.Close())
}

// container makes packets a file that ffmpeg reads: IVF, or H.264's byte stream.
type container struct {
	codec  api.Codec
	data   []byte
	frames int
}

func newContainer(codec api.Codec) *container {
	c := &container{codec: codec}
	if codec == api.H264 {
		return c
	}
	c.data = append([]byte("DKIF\x00\x00\x20\x00"), map[api.Codec]string{api.VP8: "VP80", api.VP9: "VP90", api.AV1: "AV01"}[codec]...)
	c.data = binary.LittleEndian.AppendUint16(c.data, clipWidth)
	c.data = binary.LittleEndian.AppendUint16(c.data, clipHeight)
	c.data = binary.LittleEndian.AppendUint32(c.data, clipFPS)
	c.data = binary.LittleEndian.AppendUint32(c.data, 1)
	c.data = append(c.data, make([]byte, 8)...)
	return c
}

func (c *container) add(packet []byte) {
	if c.codec != api.H264 {
		c.data = binary.LittleEndian.AppendUint32(c.data, uint32(len(packet)))
		c.data = binary.LittleEndian.AppendUint64(c.data, uint64(c.frames))
	}
	c.data = append(c.data, packet...)
	c.frames++
}

func (c *container) bytes() []byte { return c.data }

func (c *container) suffix() string {
	if c.codec == api.H264 {
		return ".h264"
	}
	return ".ivf"
}

// runFFmpeg runs Debian's ffmpeg and gives what it says.
func runFFmpeg(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "ffmpeg", append([]string{"-hide_banner", "-nostdin"}, args...)...)
	var text bytes.Buffer
	cmd.Stderr = &text
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("run ffmpeg (package ffmpeg): %w: %s", err, text.String())
	}
	return text.String(), nil
}

// after reads the number behind the last occurrence of a word.
func after(text, word string) (float64, error) {
	i := strings.LastIndex(text, word)
	if i < 0 {
		return 0, fmt.Errorf("ffmpeg told no %s", word)
	}
	f := strings.Fields(text[i+len(word):])
	if len(f) == 0 {
		return 0, fmt.Errorf("ffmpeg told no %s", word)
	}
	if f[0] == "inf" {
		return 100, nil // the same picture; JSON knows no infinity
	}
	n, err := strconv.ParseFloat(f[0], 64)
	if err != nil {
		return 0, fmt.Errorf("read %s of ffmpeg: %w", word, err)
	}
	return n, nil
}
