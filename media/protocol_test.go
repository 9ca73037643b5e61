package media

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"reflect"
	"sync"
	"testing"

	"github.com/perigee-cloud/perigee/api"
)

func TestConnCarriesMessagesAndFrames(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	ca, cb := NewConn(a), NewConn(b)
	want := Configure{Display: ":7", Video: true, Codec: api.VP9, Screen: api.Screen{Width: 640, Height: 360}}
	frame := Frame{Kind: Video, Key: true, PTS: 5, Captured: 6, Encoded: 7, Input: 8, Data: bytes.Repeat([]byte{1, 2}, 90_000)}
	go func() {
		_ = ca.Send(TypeConfigure, want)
		_ = ca.Send(TypeKeyframe, nil)
		_ = ca.SendFrame(frame)
	}()
	m, err := cb.Read()
	var got Configure
	if err != nil || m.Type != TypeConfigure || m.Decode(&got) != nil || got != want {
		t.Fatalf("configure: %v %+v %v", m.Type, got, err)
	}
	if m, err = cb.Read(); err != nil || m.Type != TypeKeyframe || len(m.Payload) != 0 {
		t.Fatalf("keyframe: %v %v", m, err)
	}
	m, err = cb.Read()
	if err != nil || m.Type != TypeFrame {
		t.Fatalf("frame: %v %v", m.Type, err)
	}
	f, err := ParseFrame(m.Payload)
	if err != nil || !reflect.DeepEqual(f, frame) {
		t.Fatalf("frame differs: %v", err)
	}
	frame.Drawn = 4
	go func() { _ = ca.SendFrame(frame) }()
	if m, err = cb.Read(); err != nil || m.Type != TypeDrawn {
		t.Fatalf("time of drawing: %v %v", m.Type, err)
	}
	if at, err := ParseDrawn(m.Payload); err != nil || at != 4 {
		t.Fatalf("drawn at %d, %v", at, err)
	}
	if _, err := ParseDrawn([]byte{1}); !errors.Is(err, ErrProtocol) {
		t.Errorf("a short time of drawing: %v", err)
	}
	if m, err = cb.Read(); err != nil || m.Type != TypeFrame {
		t.Fatalf("frame behind it: %v %v", m.Type, err)
	}
}

func TestConnKeepsConcurrentMessagesWhole(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	ca, cb := NewConn(a), NewConn(b)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for range 50 {
				_ = ca.SendFrame(Frame{Kind: Audio, Data: bytes.Repeat([]byte{byte(i)}, 1000)})
			}
		})
	}
	for range 200 {
		m, err := cb.Read()
		if err != nil {
			t.Fatal(err)
		}
		f, err := ParseFrame(m.Payload)
		if err != nil || !bytes.Equal(f.Data, bytes.Repeat(f.Data[:1], 1000)) {
			t.Fatalf("a frame was torn: %v", err)
		}
	}
	wg.Wait()
}

func TestConnRefusesNonsense(t *testing.T) {
	for name, b := range map[string][]byte{
		"zero length": {0, 0, 0, 0, 1},
		"too long":    binary.BigEndian.AppendUint32(nil, MaxMessage+1),
	} {
		b = append(b, 0)
		if _, err := NewConn(rw{bytes.NewReader(b), io.Discard}).Read(); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %v", name, err)
		}
	}
	cut := []byte{0, 0, 0, 9, 1, 2}
	if _, err := NewConn(rw{bytes.NewReader(cut), io.Discard}).Read(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut: %v", err)
	}
	if err := NewConn(rw{nil, io.Discard}).SendFrame(Frame{Data: make([]byte, MaxMessage)}); !errors.Is(err, ErrProtocol) {
		t.Errorf("oversized frame: %v", err)
	}
}

func FuzzParseFrame(f *testing.F) {
	f.Add(make([]byte, frameHead))
	f.Add(append([]byte{1, 1}, make([]byte, 40)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		fr, err := ParseFrame(b)
		if err == nil && len(fr.Data) != len(b)-frameHead {
			t.Errorf("%d bytes became %d", len(b), len(fr.Data))
		}
	})
}

type rw struct {
	io.Reader
	io.Writer
}

func TestBitrateLimits(t *testing.T) {
	hd := BitrateLimits(api.Screen{Width: 1280, Height: 720, FPS: 60})
	if hd != (Limits{api.MinKbps, 5000}) {
		t.Errorf("720p60: %+v", hd)
	}
	for _, s := range []api.Screen{{Width: 16, Height: 16, FPS: 1}, {Width: 3840, Height: 2160, FPS: 240}} {
		if l := BitrateLimits(s); l.MinKbps < 100 || l.MaxKbps > 30_000 || l.MinKbps > l.MaxKbps {
			t.Errorf("%v: %+v", s, l)
		}
	}
}
