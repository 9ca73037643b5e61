package stream

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/webrtc/v4"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/local"
)

func TestViewerWatches(t *testing.T) {
	r := start(t)
	m, err := r.dir.ReadMedia()
	if err != nil || len(m.Candidates) == 0 {
		t.Fatalf("media.json: %+v, %v", m, err)
	}
	for _, c := range m.Candidates {
		if _, err := netip.ParseAddrPort(c); err != nil {
			t.Errorf("candidate %q: %v", c, err)
		}
	}
	c := r.join("1-abc")
	c.say(map[string]any{"type": "discover"})
	c.watch()
	got(t, c.sound, "sound")
	got(t, c.open, "control channel")
	r.wait("state", func() bool {
		s := r.last()
		return s.Connected && s.Viewer == 1 && s.Codec == api.VP8 && s.Encoding && s.Drawn && s.RoundTripMS > 0
	})
	if d := c.said("resp:discover"); len(d) != 1 || d[0]["max_api_version"] != 2.0 || d[0]["fps"] != 60.0 {
		t.Errorf("answer to discover: %v", d)
	}
	c.closeWebsocket()
	closed := time.Now()
	c.picture("pictures after the websocket closed", func(s shown) bool { return s.at.After(closed.Add(50 * time.Millisecond)) })
	// The client says goodbye on the control channel.
	if err := c.control.SendText(`{"type":"stream::disconnect","data":{}}`); err != nil {
		t.Fatal(err)
	}
	r.wait("end of the connection", func() bool { s := r.last(); return !s.Connected && !s.Encoding })
}

func TestOldClientOffers(t *testing.T) {
	r := start(t)
	c := r.join("1-abc")
	for _, k := range []webrtc.RTPCodecType{webrtc.RTPCodecTypeAudio, webrtc.RTPCodecTypeVideo} {
		if _, err := c.pc.AddTransceiverFromKind(k, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionRecvonly}); err != nil {
			t.Fatal(err)
		}
	}
	o, err := c.pc.CreateOffer(nil)
	if err != nil {
		t.Fatal(err)
	}
	c.say(map[string]any{"type": "settings", "api_version": 1})
	c.say(map[string]any{"type": "offer", "sdp": b64(o.SDP), "dataChannels": []string{"control"}})
	if err := c.pc.SetLocalDescription(o); err != nil {
		t.Fatal(err)
	}
	c.picture("picture", func(shown) bool { return true })
	got(t, c.sound, "sound")
	got(t, c.open, "control channel")
}

func TestKeyframeOnRequest(t *testing.T) {
	r := start(t)
	c := r.join("1-abc")
	c.watch()
	var video *webrtc.TrackRemote
	select {
	case video = <-c.videos:
	case <-time.After(patience):
		t.Fatal("no video")
	}
	time.Sleep(150 * time.Millisecond) // requests are not passed on more often than ten times a second
	var n int
	for len(c.pictures) > 0 {
		n = (<-c.pictures).keys
	}
	if err := c.pc.WriteRTCP([]rtcp.Packet{&rtcp.PictureLossIndication{MediaSSRC: uint32(video.SSRC())}}); err != nil {
		t.Fatal(err)
	}
	c.picture("keyframe", func(s shown) bool { return s.keys > n })
}

func TestNextViewerCutsTheOneBefore(t *testing.T) {
	r := start(t)
	first := r.join("1-abc")
	first.watch()
	got(t, first.open, "control channel")
	second := r.join("2-def")
	second.watch()
	got(t, first.gone, "cut of the first viewer")
	r.wait("second viewer", func() bool { s := r.last(); return s.Viewer == 2 && s.Connected })
	late := r.join("1-late")
	late.settings(nil)
	r.wait("refusal", func() bool { _, closed := late.closedBy(); return closed })
	if e := late.said("error"); len(e) != 1 || !strings.Contains(e[0]["message"].(string), "another client") {
		t.Errorf("the late one was told %v", e)
	}
	// The same ticket once more: its newer websocket counts.
	third := r.join("2-ghi")
	third.watch()
	got(t, second.gone, "cut of the second viewer")
	if s := r.last(); !s.Connected {
		t.Error("a client that came again counted as gone")
	}
}

func TestEncodeProcessIsReplaced(t *testing.T) {
	for name, c := range map[string]struct {
		signal syscall.Signal
		within time.Duration
	}{
		"killed":  {syscall.SIGKILL, 500 * time.Millisecond},
		"stopped": {syscall.SIGSTOP, silenceMost + 500*time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t)
			v := r.join("1-abc")
			v.settings(nil)
			old := v.picture("picture", func(shown) bool { return true }).pid
			v.closeWebsocket()
			hit := time.Now()
			if err := syscall.Kill(old, c.signal); err != nil {
				t.Fatal(err)
			}
			fresh := v.picture("picture of another process", func(s shown) bool { return s.pid != old })
			took := fresh.at.Sub(hit)
			t.Logf("pictures again after %s", took)
			if took > c.within*3 { // three times: other tests share the machine
				t.Errorf("pictures again after %s, want %s", took, c.within)
			}
			if v.pc.ConnectionState() != webrtc.PeerConnectionStateConnected {
				t.Errorf("connection is %s", v.pc.ConnectionState())
			}
			if err := syscall.Kill(old, 0); !errors.Is(err, syscall.ESRCH) {
				t.Errorf("the old process: %v", err)
			}
		})
	}
}

func TestEncodeProcessThatShowsNothingIsReplaced(t *testing.T) {
	t.Parallel()
	var begun atomic.Int32
	r := start(t, func(c *Config, _ *api.Spec) {
		c.Encode = func() *exec.Cmd {
			if begun.Add(1) == 1 {
				return encodeAs("blind")()
			}
			return encodeAs("yes")()
		}
	})
	c := r.join("1-abc")
	c.watch()
}

func TestNoEncodeProcessAtAll(t *testing.T) {
	t.Parallel()
	r := start(t, role("dead"))
	deadline := time.Now().Add(time.Minute)
	for r.last().Failed == "" {
		if time.Now().After(deadline) {
			t.Fatal("never failed")
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func TestDataChannelReachesTheApplication(t *testing.T) {
	r := start(t)
	c := r.join("1-abc")
	dc, err := c.pc.CreateDataChannel("game", nil)
	if err != nil {
		t.Fatal(err)
	}
	back := make(chan []byte, 64)
	dc.OnMessage(func(m webrtc.DataChannelMessage) { back <- m.Data })
	opened := make(chan struct{})
	dc.OnOpen(func() {
		_ = dc.Send([]byte("before the application listens;"))
		close(opened)
	})
	c.settings(map[string]any{"data_channels": []string{"game"}})
	got(t, opened, "data channel")
	path := filepath.Join(r.dir.Shared(), "data", "webrtc_data_game")
	var app net.Conn
	r.wait("socket", func() bool {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o666 {
			return false
		}
		app, err = dialLong(path)
		return err == nil
	})
	defer app.Close()
	big := bytes.Repeat([]byte("0123456789abcdef"), 4096) // 64 KiB
	if err := dc.Send(big); err != nil {
		t.Fatal(err)
	}
	want := append([]byte("before the application listens;"), big...)
	buf := make([]byte, len(want))
	if err := app.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(app, buf); err != nil || !bytes.Equal(buf, want) {
		t.Fatalf("the application read %.40q…, %v", buf, err)
	}
	if _, err := app.Write(buf); err != nil {
		t.Fatal(err)
	}
	var echoed []byte
	r.wait("echo", func() bool {
		for len(back) > 0 {
			echoed = append(echoed, <-back...)
		}
		return len(echoed) >= len(want)
	})
	if !bytes.Equal(echoed, want) {
		t.Error("the echo differs")
	}
	c.leave()
	if _, err := io.Copy(io.Discard, app); err != nil {
		t.Errorf("the application was not told of the end: %v", err)
	}
	r.wait("removal of the socket", func() bool { _, err := os.Stat(path); return errors.Is(err, os.ErrNotExist) })
}

// dialLong connects to a socket whose path may be longer than an address.
func dialLong(path string) (net.Conn, error) {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return net.Dial("unix", "/proc/self/fd/"+strconv.Itoa(int(d.Fd()))+"/"+filepath.Base(path))
}

func TestBadSignalling(t *testing.T) {
	for name, c := range map[string]struct {
		frame any
		want  string
	}{
		"not json":          {[]byte("hello"), "JSON"},
		"no type":           {map[string]any{}, "type"},
		"api version 3":     {map[string]any{"type": "settings", "api_version": 3}, "api_version"},
		"settings of text":  {map[string]any{"type": "settings", "api_version": "two"}, "settings"},
		"answer at first":   {map[string]any{"type": "answer", "sdp": b64("v=0")}, "answer"},
		"offer not base64":  {map[string]any{"type": "offer", "sdp": "%"}, "sdp"},
		"offer of nonsense": {map[string]any{"type": "offer", "sdp": b64("nonsense")}, "offer"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t)
			v := r.join("1-abc")
			v.say(map[string]any{"type": "who-knows"}) // ignored
			v.say(c.frame)
			r.wait("end of the link", func() bool { _, closed := v.closedBy(); return closed })
			if e := v.said("error"); len(e) != 1 || !strings.Contains(e[0]["message"].(string), c.want) {
				t.Errorf("told %v, want a word of %q", e, c.want)
			}
			// It does not hurt the next.
			r.join("1-def").watch()
		})
	}
}

func TestResizeReachesEncoder(t *testing.T) {
	r := start(t)
	c := r.join("1-abc")
	c.watch()
	if err := r.daemon.Send(local.Message{Kind: local.KindAdmit, Viewer: 2, Screen: &api.Screen{Width: 801, Height: 600}}); err != nil {
		t.Fatal(err)
	}
	c.picture("picture of the new size", func(s shown) bool { return s.width == 802 })
	r.wait("state", func() bool { return r.last().Screen.Width == 802 && r.last().Screen.FPS == 60 })
}

func TestStopEndsEverything(t *testing.T) {
	r := start(t)
	c := r.join("1-abc")
	c.settings(nil)
	pid := c.picture("picture", func(shown) bool { return true }).pid
	got(t, c.open, "control channel")
	if err := r.daemon.Send(local.Message{Kind: local.KindStop, Reason: api.ReasonDeleted}); err != nil {
		t.Fatal(err)
	}
	if err := r.waitEnd(); err != nil {
		t.Errorf("Run: %v", err)
	}
	got(t, c.gone, "end of the viewer's connection")
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the encode process: %v", err)
	}
}

func TestStopTellsAClientThatSignsIn(t *testing.T) {
	r := start(t)
	c := r.join("1-abc")
	c.say(map[string]any{"type": "discover"})
	r.wait("answer", func() bool { return len(c.said("resp:discover")) == 1 })
	if err := r.daemon.Send(local.Message{Kind: local.KindStop}); err != nil {
		t.Fatal(err)
	}
	r.wait("error frame", func() bool { return len(c.said("error")) == 1 })
}

func TestEndsWithItsFolder(t *testing.T) {
	r := start(t)
	if err := os.RemoveAll(string(r.dir)); err != nil {
		t.Fatal(err)
	}
	if err := r.waitEnd(); err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestEndsWhenNobodyWantsIt(t *testing.T) {
	r := start(t, func(c *Config, _ *api.Spec) { c.OrphanAfter = 300 * time.Millisecond })
	c := r.join("1-abc")
	c.watch()
	if err := r.daemon.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-r.ended:
		t.Fatal("ended under its viewer")
	case <-time.After(time.Second):
	}
	r.connect() // the next daemon finds it
	r.wait("state", func() bool { return r.last().Connected })
	c.leave()
	r.wait("end of the viewer", func() bool { return !r.last().Connected })
	if err := r.daemon.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.waitEnd(); err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestBadConfiguration(t *testing.T) {
	dir := local.Run(t.TempDir()).Session(sessionID, 1)
	if err := Run(t.Context(), Config{Dir: local.Session(t.TempDir())}); err == nil {
		t.Error("a folder that is no session's")
	}
	if err := Run(t.Context(), Config{Dir: dir}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no spec: %v", err)
	}
	if err := os.MkdirAll(string(dir), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := dir.WriteSpec(api.Spec{}); err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), Config{Dir: dir, Advertise: []string{"example.com"}}); api.CodeOf(err) != api.CodeInvalid {
		t.Errorf("a name to advertise: %v", err)
	}
	left, err := os.ReadDir(string(dir))
	if err != nil || slices.ContainsFunc(left, func(e os.DirEntry) bool { return e.Name() != "spec.json" }) {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
