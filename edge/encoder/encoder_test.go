package encoder

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jezek/xgb"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/media"
	"github.com/perigee-cloud/perigee/media/xvfb"
)

// TestMain is also the encode process and the painting application of the tests
// that measure: each is this program run again.
func TestMain(m *testing.M) {
	switch os.Getenv("PERIGEE_TEST_ROLE") {
	case "encode":
		c, err := Inherited(3)
		if err == nil {
			err = Run(context.Background(), Config{Socket: c, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
		}
		if err != nil {
			slog.Error("encode", "error", err)
			os.Exit(1)
		}
		os.Exit(0)
	case "paint":
		paintForever(os.Args[1])
	}
	xgb.Logger.SetOutput(io.Discard)
	os.Exit(m.Run())
}

// h264Key tells whether an H.264 access unit begins with a sequence parameter set.
func h264Key(b []byte) bool {
	for i := 0; i+4 < len(b) && i < 64; i++ {
		if binary.BigEndian.Uint32(b[i:]) == 1 && b[i+4]&31 == 7 {
			return true
		}
	}
	return false
}

func TestPicturesFollowTheScreen(t *testing.T) {
	display := xvfb.Start(t, "-screen", "0", "640x360x24").Display
	p, err := newPainter(display)
	if err != nil {
		t.Fatal(err)
	}
	defer p.x.Close()
	s := startEncoder(t)
	s.send(media.TypeConfigure, configure(display, api.H264))
	first := frame(t, s.video)
	if !first.Key || !h264Key(first.Data) {
		t.Error("the first picture is no key")
	}
	st := s.until("ready", func(st media.State) bool { return st.Ready })
	if st.Encoder != "libx264" || st.Screen.Width != 640 || st.Screen.Height != 360 || st.Drawn != 0 {
		t.Errorf("state %+v", st)
	}
	s.quiet()
	s.send(media.TypeInput, media.Input{ID: 7, At: media.Now()})
	time.Sleep(5 * time.Millisecond) // the input reaches the encoder as it would: before the drawing does
	drawn := media.Now()
	p.fill(100, 100, 200, 100, 0xff8000)
	f := frame(t, s.video)
	if f.Key || f.Captured < drawn || f.Encoded < f.Captured || f.PTS <= first.PTS || f.Input != 7 {
		t.Errorf("frame key %v, captured %d after drawing, encoded %d later, pts %v after %v, input %d",
			f.Key, f.Captured-drawn, f.Encoded-f.Captured, f.PTS, first.PTS, f.Input)
	}
	if late := time.Duration(f.Captured - drawn); late > 100*time.Millisecond {
		t.Errorf("taken %v after it was drawn", late)
	}
	s.until("something drawn", func(st media.State) bool { return st.Drawn > 0 })
	if n := s.quiet(); n > simplePasses {
		t.Errorf("%d pictures of a still screen", n)
	}
}

// simplePasses is in how many a picture of a few colours is sharp, at most.
const simplePasses = 6

// What is painted again as it was gives no pictures; a key can be had all the same.
func TestPaintedAgainIsStill(t *testing.T) {
	display := xvfb.Start(t, "-screen", "0", "640x360x24").Display
	p, err := newPainter(display)
	if err != nil {
		t.Fatal(err)
	}
	defer p.x.Close()
	s := startEncoder(t)
	s.send(media.TypeConfigure, configure(display, api.H264))
	p.fill(0, 0, 300, 300, 0x3050a0)
	frame(t, s.video)
	s.quiet()
	again := func() (n int) {
		for range 50 {
			p.fill(0, 0, 300, 300, 0x3050a0)
			p.x.Sync()
			time.Sleep(5 * time.Millisecond) // each is seen by itself; no picture must come
		}
		return len(s.video)
	}
	if n := again(); n > 0 {
		t.Errorf("%d pictures of what did not change", n)
	}
	s.send(media.TypeKeyframe, nil)
	if n := again(); n > 1+simplePasses || !frame(t, s.video).Key {
		t.Errorf("%d pictures, or no key first", n)
	}
	s.quiet()
	p.fill(10, 10, 5, 5, 0xffffff)
	frame(t, s.video)
}

func TestKeyframeOfAStillScreen(t *testing.T) {
	display := xvfb.Start(t, "-screen", "0", "640x360x24").Display
	for _, codec := range api.SoftwareCodecs() {
		t.Run(string(codec), func(t *testing.T) {
			s := startEncoder(t)
			s.send(media.TypeConfigure, configure(display, codec))
			frame(t, s.video)
			s.quiet()
			asked := media.Now()
			s.send(media.TypeKeyframe, nil)
			f := frame(t, s.video)
			if !f.Key {
				t.Error("no key came")
			}
			if took := time.Duration(f.Encoded - asked); took > 300*time.Millisecond {
				t.Errorf("the key took %v", took)
			}
			// A storm of requests gives few keys.
			s.quiet()
			for range 50 {
				s.send(media.TypeKeyframe, nil)
			}
			if n := s.quiet(); n > 3+simplePasses {
				t.Errorf("%d pictures for a storm of requests", n)
			}
		})
	}
}

func TestStatesAreRareWhileNothingHappens(t *testing.T) {
	s := startEncoder(t)
	s.send(media.TypeConfigure, configure(xvfb.Start(t, "-screen", "0", "640x360x24").Display, api.H264))
	frame(t, s.video)
	// The X server may still report what was drawn at first.
	rested, last := false, time.Now()
	s.until("a long rest before it", func(st media.State) bool {
		before, gap := rested, time.Since(last)
		rested, last = st.Rests, time.Now()
		return before && rested && gap > media.CalmEvery*3/4
	})
	asked := time.Now()
	s.send(media.TypeKeyframe, nil)
	s.until("work", func(st media.State) bool { return !st.Rests && st.Frames > 0 })
	if took := time.Since(asked); took > media.CalmEvery*3/4 {
		t.Errorf("a State %s after something was asked for, want %s", took, stateEvery)
	}
}

func TestStatesAreFrequentForAStreamProcessThatKnowsNoRest(t *testing.T) {
	s := newSession(nil, slog.New(slog.DiscardHandler))
	s.tick = time.NewTicker(stateEvery)
	defer s.tick.Stop()
	s.paused = true
	if s.rest(); s.rests {
		t.Error("rests, though it would be killed for its silence")
	}
	s.calm = true
	if s.rest(); !s.rests {
		t.Error("does not rest")
	}
}

func TestPauseAndResume(t *testing.T) {
	display := xvfb.Start(t, "-screen", "0", "640x360x24").Display
	p, err := newPainter(display)
	if err != nil {
		t.Fatal(err)
	}
	defer p.x.Close()
	s := startEncoder(t)
	s.send(media.TypeConfigure, configure(display, api.VP8))
	frame(t, s.video)
	s.send(media.TypePause, media.Pause{Paused: true})
	s.quiet()
	p.fill(0, 0, 300, 300, 0x00ff00)
	if n := s.quiet(); n > 0 {
		t.Errorf("%d pictures while paused", n)
	}
	s.send(media.TypePause, media.Pause{})
	if f := frame(t, s.video); !f.Key {
		t.Error("resumed without a key")
	}
}

func TestConfigureAgain(t *testing.T) {
	display := xvfb.Start(t, "-screen", "0", "1280x720x24").Display
	s := startEncoder(t)
	cfg := configure(display, api.H264)
	s.send(media.TypeConfigure, cfg)
	frame(t, s.video)
	cfg.Screen.Width, cfg.Screen.Height = 1280, 720
	s.send(media.TypeConfigure, cfg)
	s.until("the new size", func(st media.State) bool { return st.Screen.Width == 1280 && st.Screen.Height == 720 })
	s.quiet()
	cfg.Codec = api.VP9
	s.send(media.TypeConfigure, cfg)
	if f := frame(t, s.video); !f.Key {
		t.Error("a new codec began without a key")
	}
	s.until("the new codec", func(st media.State) bool { return st.Encoder == "libvpx-vp9" })
	s.quiet() // it gets sharper first
	s.send(media.TypeBitrate, media.Bitrate{Kbps: 700})
	s.send(media.TypeBitrate, media.Bitrate{Kbps: 1}) // refused, and survived
	s.send(media.TypeKeyframe, nil)
	if f := frame(t, s.video); !f.Key {
		t.Error("no key after the bitrate changed")
	}
}

func TestSoundFlows(t *testing.T) {
	s := startEncoder(t)
	s.send(media.TypeConfigure, media.Configure{Audio: true, Pulse: startPulse(t)})
	// Silence: each block at first, then one packet for many.
	last := frame(t, s.audio)
	for range soundQuiet - 1 {
		f := frame(t, s.audio)
		if d := f.PTS - last.PTS; d != media.FrameDuration {
			t.Fatalf("packets %v apart", d)
		}
		last = f
	}
	for i := range 3 {
		f := frame(t, s.audio)
		want := soundKeep * media.FrameDuration
		if i == 0 {
			want = media.FrameDuration
		}
		if d := f.PTS - last.PTS; d != want || len(f.Data) != 1 {
			t.Errorf("packets of %d bytes %v apart in silence, want 1 and %v", len(f.Data), d, want)
		}
		last = f
	}
}

func TestSoundClock(t *testing.T) {
	const block = media.FrameDuration
	var c soundClock
	at := 3 * time.Second
	last := c.next(at)
	if last != at {
		t.Fatalf("the first block has %v, want %v", last, at)
	}
	step := func(at, want time.Duration) {
		t.Helper()
		if got := c.next(at); got != want {
			t.Fatalf("a block read at %v after one of %v has %v, want %v", at, last, got, want)
		}
		last = want
	}
	for i := range 500 { // jitter, and a stall of 0.2 s after which what waited comes at once
		at += block
		read := at + time.Duration(i%4)*3*time.Millisecond
		if i%100 >= 50 && i%100 < 70 {
			read = at - at%(100*block) + 70*block
		}
		step(max(read, at), last+block)
	}
	at += 20 * block // the server left out as much
	jumped := time.Duration(0)
	for range 2 * soundWindow {
		at += block
		got := c.next(at)
		if got-last < block {
			t.Fatalf("time went from %v to %v", last, got)
		}
		jumped += got - last - block
		last = got
	}
	if jumped != 20*block {
		t.Errorf("it made up for %v, want %v", jumped, 20*block)
	}
	step(at-200*time.Millisecond, at-200*time.Millisecond)
}

func TestFaultsAreTold(t *testing.T) {
	display := xvfb.Start(t, "-screen", "0", "640x360x24").Display
	for name, c := range map[string]struct {
		change func(*media.Configure)
		names  string
	}{
		"odd size":     {func(c *media.Configure) { c.Screen.Width = 641 }, "width"},
		"no rate":      {func(c *media.Configure) { c.Screen.FPS = 0 }, "fps"},
		"codec":        {func(c *media.Configure) { c.Codec = "H266" }, "codec"},
		"pool":         {func(c *media.Configure) { c.Pool = "tpu" }, "pool"},
		"pool's codec": {func(c *media.Configure) { c.Pool, c.Codec = api.PoolNVENC, api.VP9 }, "pool"},
		"no display":   {func(c *media.Configure) { c.Display = "elsewhere:0" }, "elsewhere:0"},
	} {
		t.Run(name, func(t *testing.T) {
			s := startEncoder(t)
			cfg := configure(display, api.H264)
			c.change(&cfg)
			s.send(media.TypeConfigure, cfg)
			st := s.until("an error", func(st media.State) bool { return st.Error != "" })
			if !strings.Contains(st.Error, c.names) {
				t.Errorf("error %q does not name %s", st.Error, c.names)
			}
			if err := <-s.ended; !errors.Is(err, errEnd) {
				t.Errorf("Run ended with %v", err)
			}
			s.ended <- nil // for the clean-up
		})
	}
}

func TestForeignProtocolEndsTheProcess(t *testing.T) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := Inherited(uintptr(fds[0]))
	if err != nil {
		t.Fatal(err)
	}
	mine, err := Inherited(uintptr(fds[1]))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = mine.Close() }()
	if err := media.NewConn(mine).Send(media.TypeHello, media.Hello{Version: 99}); err != nil {
		t.Fatal(err)
	}
	err = Run(context.Background(), Config{Socket: theirs, Log: slog.New(slog.DiscardHandler)})
	if !errors.Is(err, media.ErrProtocol) {
		t.Errorf("Run: %v", err)
	}
}

// On a narrow way a smaller picture is encoded, beginning with a key though the
// screen is still, and the whole one again when there is room.
func TestPictureIsMadeSmaller(t *testing.T) {
	display := xvfb.Start(t, "-screen", "0", "640x360x24").Display
	p, err := newPainter(display)
	if err != nil {
		t.Fatal(err)
	}
	defer p.x.Close()
	s := startEncoder(t)
	s.send(media.TypeConfigure, configure(display, api.H264))
	p.fill(0, 0, 300, 300, 0x3050a0)
	frame(t, s.video)
	s.quiet()
	for _, c := range []struct{ quarters, width, height int }{{3, 480, 270}, {2, 320, 180}, {4, 640, 360}, {2, 320, 180}, {0, 640, 360}} {
		s.send(media.TypeBitrate, media.Bitrate{Kbps: 1000, Quarters: c.quarters})
		if f := frame(t, s.video); !f.Key {
			t.Errorf("the first picture of %d quarters is no key", c.quarters)
		}
		s.until("its size", func(st media.State) bool { return st.Screen.Width == c.width && st.Screen.Height == c.height })
		s.quiet()
		p.fill(100, 100, 40, 20, uint32(0xff8000+c.quarters))
		if f := frame(t, s.video); f.Key {
			t.Errorf("the picture behind it is a key at %d quarters", c.quarters)
		}
		s.quiet()
	}
}
