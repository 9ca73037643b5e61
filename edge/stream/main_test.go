package stream

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/media"
)

const (
	patience  = 10 * time.Second
	roleEnv   = "PERIGEE_TEST_ENCODE"
	sessionID = api.SessionID("c25k8fh3pn6a8q46taug")
)

// TestMain runs this program again as an encode process of its own.
func TestMain(m *testing.M) {
	if role := os.Getenv(roleEnv); role != "" {
		fakeEncode(role)
		return
	}
	os.Exit(m.Run())
}

// fakeEncode speaks the media protocol and sends pictures that say who made
// them: a VP8 keyframe's header or a delta's, then "pid key-number input width".
func fakeEncode(role string) {
	if role == "dead" {
		os.Exit(3)
	}
	f := os.NewFile(3, "stream")
	c, err := net.FileConn(f)
	if err != nil {
		os.Exit(4)
	}
	conn := media.NewConn(c)
	_ = conn.Send(media.TypeHello, media.Hello{Version: media.ProtocolVersion, PID: os.Getpid()})
	messages := make(chan any, 64)
	go func() {
		for {
			m, err := conn.Read()
			if err != nil {
				os.Exit(0)
			}
			var v any
			switch m.Type {
			case media.TypeConfigure:
				c := media.Configure{}
				_ = m.Decode(&c)
				v = c
			case media.TypePause:
				p := media.Pause{}
				_ = m.Decode(&p)
				v = p
			case media.TypeInput:
				i := media.Input{}
				_ = m.Decode(&i)
				v = i
			case media.TypeVoice:
				v, _ = media.ParseVoice(m.Payload)
			case media.TypeKeyframe:
				v = "key"
			default:
				continue
			}
			messages <- v
		}
	}()
	e := fakeEncoder{conn: conn, start: time.Now(), want: true}
	picture, state := time.NewTicker(10*time.Millisecond), time.NewTicker(100*time.Millisecond)
	for {
		select {
		case m := <-messages:
			e.handle(m)
		case <-picture.C:
			if e.cfg.Pool == api.PoolNVENC {
				e.breaks(role)
			}
			if role != "blind" {
				e.picture()
			}
		case <-state.C:
			_ = conn.Send(media.TypeState, media.State{Ready: e.cfg.Video, Encoder: "fake", Screen: e.cfg.Screen, Drawn: e.count})
		}
	}
}

type fakeEncoder struct {
	conn   *media.Conn
	start  time.Time
	cfg    media.Configure
	paused bool
	want   bool
	keys   int
	input  uint64
	count  uint64
}

func (e *fakeEncoder) handle(m any) {
	switch m := m.(type) {
	case media.Configure:
		e.cfg, e.want = m, true
	case media.Pause:
		e.paused = m.Paused
		e.want = e.want || !m.Paused
	case media.Input:
		e.input = m.ID
	case media.Voice: // told as an input, whose number says who spoke and how much
		e.input = uint64(m.Viewer)*1_000_000 + uint64(len(m.Data))
	case string:
		e.want = true
	}
}

// breaks fails as encoders of graphics processors do: at once, or after a while.
func (e *fakeEncoder) breaks(role string) {
	if role == "refuses" || role == "fails" && e.count > 20 {
		_ = e.conn.Send(media.TypeState, media.State{Error: "out of memory", EngineFault: true})
		os.Exit(1)
	}
	switch {
	case e.count <= 20:
	case role == "crashes":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		time.Sleep(time.Minute)
	case role == "hangs":
		time.Sleep(time.Minute)
	case role == "loses the display":
		_ = e.conn.Send(media.TypeState, media.State{Error: "display went"})
		os.Exit(1)
	}
}

func (e *fakeEncoder) picture() {
	if e.paused || !e.cfg.Video {
		return
	}
	data := []byte{0x11, 0, 0}
	if e.want {
		e.keys++
		data = []byte{0x10, 0, 0, 0x9d, 0x01, 0x2a, 0x40, 0x01, 0xf0, 0x00}
	}
	data = fmt.Appendf(data, "@%d %d %d %d %s", os.Getpid(), e.keys, e.input, e.cfg.Screen.Width, e.cfg.Codec)
	e.count++
	pts := time.Since(e.start)
	_ = e.conn.SendFrame(media.Frame{Kind: media.Video, Key: e.want, PTS: pts, Captured: media.Now(), Data: data})
	_ = e.conn.SendFrame(media.Frame{Kind: media.Audio, PTS: pts, Data: []byte{0xfc, 0xff, 0xfe}})
	e.want = false
}

// shown is what a picture said of itself.
type shown struct {
	pid, keys, width int
	input            uint64
	codec            string
	at               time.Time
}

func parseShown(b []byte) (shown, bool) {
	at := strings.LastIndexByte(string(b), '@')
	if at < 0 {
		return shown{}, false
	}
	f := strings.Fields(string(b[at+1:]))
	if pid, err := strconv.Atoi(f[0]); len(f) != 5 || err != nil || pid <= 1 {
		return shown{}, false
	}
	n := func(i int) int { v, _ := strconv.Atoi(f[i]); return v }
	return shown{pid: n(0), keys: n(1), input: uint64(n(2)), width: n(3), codec: f[4], at: time.Now()}, true
}
