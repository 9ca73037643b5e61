package encoder

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/xproto"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/media"
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

// start runs a program until the test ends.
func start(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		ended := make(chan struct{})
		go func() { _ = cmd.Wait(); close(ended) }()
		select {
		case <-ended:
		case <-time.After(2 * time.Second):
			_ = cmd.Process.Kill()
			<-ended
		}
	})
}

func startXvfb(t testing.TB, screen string) string {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	cmd := exec.Command("Xvfb", "-displayfd", "3", "-nolisten", "tcp", "-noreset", "-screen", "0", screen)
	cmd.ExtraFiles = []*os.File{w}
	start(t, cmd)
	_ = w.Close()
	if err := r.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		t.Fatalf("Xvfb did not start: %v", err)
	}
	return ":" + strings.TrimSpace(line)
}

func startPulse(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	socket, script := filepath.Join(dir, "pulse.sock"), filepath.Join(dir, "inst.pa")
	if err := os.WriteFile(script, []byte("load-module module-native-protocol-unix auth-anonymous=1 socket="+socket+
		"\nload-module module-null-sink\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("pulseaudio", "-n", "-F", script, "--daemonize=no", "--exit-idle-time=-1", "--disallow-exit", "--disable-shm=yes")
	cmd.Env = []string{"HOME=" + dir, "XDG_RUNTIME_DIR=" + dir, "PATH=" + os.Getenv("PATH")}
	start(t, cmd)
	return "unix:" + socket
}

// painter draws on a display as an application would.
type painter struct {
	x    *xgb.Conn
	root xproto.Window
	gc   xproto.Gcontext
}

func newPainter(display string) (*painter, error) {
	x, err := xgb.NewConnDisplay(display)
	if err != nil {
		return nil, err
	}
	p := &painter{x: x, root: xproto.Setup(x).DefaultScreen(x).Root}
	if p.gc, err = xproto.NewGcontextId(x); err != nil {
		return nil, err
	}
	xproto.CreateGC(x, p.gc, xproto.Drawable(p.root), 0, nil)
	return p, nil
}

func (p *painter) fill(x, y, w, h int, rgb uint32) {
	xproto.ChangeGC(p.x, p.gc, xproto.GcForeground, []uint32{rgb})
	xproto.PolyFillRectangle(p.x, xproto.Drawable(p.root), p.gc,
		[]xproto.Rectangle{{X: int16(x), Y: int16(y), Width: uint16(w), Height: uint16(h)}})
}

// stream is the other end: what the stream process does.
type stream struct {
	t      testing.TB
	conn   *media.Conn
	socket net.Conn
	video  chan media.Frame
	audio  chan media.Frame
	states chan media.State
	ended  chan error // Run's answer
}

// startEncoder runs an encode process in this one.
func startEncoder(t testing.TB) *stream {
	t.Helper()
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
	s := serve(t, mine)
	go func() {
		s.ended <- Run(context.Background(), Config{Socket: theirs, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	}()
	t.Cleanup(func() {
		_ = mine.Close()
		select {
		case <-s.ended:
		case <-time.After(10 * time.Second):
			t.Error("Run did not end when its socket closed")
		}
	})
	return s
}

func serve(t testing.TB, socket net.Conn) *stream {
	s := &stream{t: t, conn: media.NewConn(socket), socket: socket,
		video: make(chan media.Frame, 4096), audio: make(chan media.Frame, 4096),
		states: make(chan media.State, 4096), ended: make(chan error, 1)}
	s.send(media.TypeHello, media.Hello{Version: media.ProtocolVersion})
	go func() {
		defer close(s.states)
		for {
			m, err := s.conn.Read()
			if err != nil {
				return
			}
			switch m.Type {
			case media.TypeFrame:
				f, err := media.ParseFrame(m.Payload)
				if err != nil {
					return
				}
				f.Data = append([]byte(nil), f.Data...)
				to := s.video
				if f.Kind == media.Audio {
					to = s.audio
				}
				select {
				case to <- f:
				default:
				}
			case media.TypeState:
				var st media.State
				if m.Decode(&st) == nil {
					s.states <- st
				}
			}
		}
	}()
	return s
}

func (s *stream) send(typ media.Type, v any) {
	s.t.Helper()
	if err := s.conn.Send(typ, v); err != nil {
		s.t.Fatal(err)
	}
}

const patience = 8 * time.Second

// frame waits for the next frame of a kind.
func frame(t testing.TB, from <-chan media.Frame) media.Frame {
	t.Helper()
	select {
	case f := <-from:
		return f
	case <-time.After(patience):
		t.Fatal("no frame")
		return media.Frame{}
	}
}

// until waits for a state that satisfies ok.
func (s *stream) until(what string, ok func(media.State) bool) media.State {
	s.t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case st, open := <-s.states:
			if !open {
				s.t.Fatalf("socket closed while waiting for %s", what)
			}
			if ok(st) {
				return st
			}
		case <-deadline:
			s.t.Fatalf("no state with %s", what)
		}
	}
}

// quiet swallows frames until none comes for a while.
func (s *stream) quiet() (n int) {
	for {
		select {
		case <-s.video:
			n++
		case <-time.After(300 * time.Millisecond):
			return n
		}
	}
}

func configure(display string, c api.Codec) media.Configure {
	return media.Configure{Display: display, Video: true, Codec: c, Pool: api.PoolCPU,
		Screen: api.Screen{Width: 640, Height: 360, FPS: 60}, BitrateKbps: 3000}
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
	display := startXvfb(t, "640x360x24")
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
	if n := s.quiet(); n > refineMost {
		t.Errorf("%d pictures of a still screen", n)
	}
}

func TestKeyframeOfAStillScreen(t *testing.T) {
	display := startXvfb(t, "640x360x24")
	for _, codec := range api.Codecs() {
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
			if n := s.quiet(); n > 3+refineMost {
				t.Errorf("%d pictures for a storm of requests", n)
			}
		})
	}
}

func TestPauseAndResume(t *testing.T) {
	display := startXvfb(t, "640x360x24")
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
	display := startXvfb(t, "1280x720x24")
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
	last := frame(t, s.audio)
	for range 50 {
		f := frame(t, s.audio)
		if d := f.PTS - last.PTS; d != media.FrameDuration {
			t.Fatalf("packets %v apart", d)
		}
		last = f
	}
}

func TestFaultsAreTold(t *testing.T) {
	display := startXvfb(t, "640x360x24")
	for name, c := range map[string]struct {
		change func(*media.Configure)
		names  string
	}{
		"odd size":   {func(c *media.Configure) { c.Screen.Width = 641 }, "width"},
		"no rate":    {func(c *media.Configure) { c.Screen.FPS = 0 }, "fps"},
		"codec":      {func(c *media.Configure) { c.Codec = "H266" }, "codec"},
		"pool":       {func(c *media.Configure) { c.Pool = api.PoolNVENC }, "pool"},
		"no display": {func(c *media.Configure) { c.Display = "elsewhere:0" }, "elsewhere:0"},
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
	err = Run(context.Background(), Config{Socket: theirs, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if !errors.Is(err, media.ErrProtocol) {
		t.Errorf("Run: %v", err)
	}
}

// paintForever is an application that moves 20 rectangles 60 times a second.
func paintForever(display string) {
	p, err := newPainter(display)
	if err != nil {
		os.Exit(1)
	}
	const w, h = 1280, 720
	tick := time.NewTicker(time.Second / 60)
	for i := 0; ; i++ {
		<-tick.C
		for j := range 20 {
			x := func(i int) int { return (i*(3+j%5) + j*61) % w }
			p.fill(x(i-1), j*36, 60, 36, 0x101820)
			p.fill(x(i), j*36, 60, 36, uint32(j*0x0c1d35+0x402010)&0xffffff)
		}
		p.x.Sync()
	}
}
