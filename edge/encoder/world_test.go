package encoder

import (
	"context"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/xproto"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/media"
	"github.com/perigee-cloud/perigee/media/encode"
)

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

func startPulse(t testing.TB, modules ...string) string {
	t.Helper()
	dir := t.TempDir()
	socket, script := filepath.Join(dir, "pulse.sock"), filepath.Join(dir, "inst.pa")
	if err := os.WriteFile(script, []byte("load-module module-native-protocol-unix auth-anonymous=1 socket="+socket+
		"\nload-module module-null-sink\n"+strings.Join(modules, "")), 0o600); err != nil {
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
	busy   atomic.Int32
}

// startEncoder runs an encode process in this one.
func startEncoder(t testing.TB) *stream {
	t.Helper()
	return startEncoderWith(t, nil)
}

// startEncoderWith opens encoders by open; nil is the real way.
func startEncoderWith(t testing.TB, open func(encode.Config) (Video, error)) *stream {
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
		s.ended <- Run(context.Background(), Config{Socket: theirs, Log: slog.New(slog.DiscardHandler), Open: open})
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
	s.send(media.TypeHello, media.Hello{Version: media.ProtocolVersion, Calm: true})
	go func() {
		defer close(s.states)
		for {
			m, err := s.conn.Read()
			if err != nil {
				return
			}
			switch m.Type {
			case media.TypeBusy:
				s.busy.Add(1)
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
