package probe

import (
	"context"
	"encoding/json"
	"errors"
	"hash/fnv"
	"image"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/gpu"
	"github.com/perigee-cloud/perigee/media/encode"
)

// stand is a stand-in for an encoder: it takes its time and may fail.
type stand struct {
	takes time.Duration
	after int // pictures until it fails; 0 = never
	n     int
	open  *int
	rests bool // takes its time without work: for a test's virtual clock
}

var errStand = errors.New("the driver says no")

func (s *stand) Load([]byte, int, ...image.Rectangle) error { return nil }
func (s *stand) Name() string                               { return "stand" }
func (s *stand) Close()                                     { *s.open-- }
func (s *stand) Encode(key bool) (encode.Packet, error) {
	if s.n++; s.after > 0 && s.n > s.after {
		return encode.Packet{}, errStand
	}
	if s.rests {
		time.Sleep(s.takes)
		return encode.Packet{Data: []byte{1}, Key: key}, nil
	}
	for end := time.Now().Add(s.takes); time.Now().Before(end); { // work, as far as the accounts can tell
	}
	return encode.Packet{Data: []byte{1}, Key: key}, nil
}

func standIn(takes time.Duration, after, limit int) (Task, *int) {
	open := new(int)
	return Task{Engine: "nvenc0", Pool: api.PoolNVENC, Codec: api.H264, Phase: 60 * time.Millisecond, Cores: 2,
		Open: func() (Encoder, error) {
			if limit > 0 && *open >= limit {
				return nil, errors.New("out of memory")
			}
			*open++
			return &stand{takes: takes, after: after, open: open}, nil
		}}, open
}

func TestEngineStates(t *testing.T) {
	for name, c := range map[string]struct {
		takes        time.Duration
		after, limit int
		state        api.EngineState
		sessions     int
	}{
		"a fast one":         {100 * time.Microsecond, 0, 0, api.EngineCertified, 0},
		"a session limit":    {100 * time.Microsecond, 0, 3, api.EngineCertified, 3},
		"a slow one":         {400 * time.Millisecond, 0, 1, api.EngineSlow, 1},
		"fails at the fifth": {100 * time.Microsecond, 5, 2, api.EngineFailed, 2},
	} {
		task, open := standIn(c.takes, c.after, c.limit)
		e := Measure(t.Context(), task)
		if e.State != c.state || e.Sessions != c.sessions || (e.State == api.EngineCertified) != (e.Macroblocks > 0) || e.Encoder != "stand" {
			t.Errorf("%s: %+v", name, e)
		}
		if *open != 0 {
			t.Errorf("%s: %d encoders stay open", name, *open)
		}
		if e.State == api.EngineCertified && (len(e.Load) != 3 || e.Load[0].Streams != 1 || e.Load[2].Macroblocks < e.Load[0].Macroblocks) {
			t.Errorf("%s: curve %+v", name, e.Load)
		}
	}
	none := Task{Engine: "vaapi0", Pool: api.PoolVAAPI, Codec: api.H264, Phase: time.Millisecond, Open: func() (Encoder, error) { return nil, errStand }}
	if e := Measure(t.Context(), none); e.State != api.EngineUnavailable || e.Detail != errStand.Error() {
		t.Errorf("an engine that is not there: %+v", e)
	}
}

// The faster preset counts only as far as it was measured to be faster, and what
// is wrong with it takes nothing from the default.
func TestFasterPreset(t *testing.T) {
	for name, c := range map[string]struct {
		takes time.Duration
		after int
		fast  bool
	}{
		"faster": {time.Millisecond, 0, true}, "as fast": {2 * time.Millisecond, 0, false}, "slower": {4 * time.Millisecond, 0, false}, "broken": {time.Millisecond, 3, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			open := 0
			opens := func(takes time.Duration, after int) func() (Encoder, error) {
				return func() (Encoder, error) {
					if open == 1 {
						return nil, errStand
					}
					open++
					return &stand{takes: takes, after: after, open: &open, rests: true}, nil
				}
			}
			e := Measure(t.Context(), Task{Engine: "nvenc0", Pool: api.PoolNVENC, Codec: api.H264, Phase: time.Second, Cores: 2,
				Open: opens(2*time.Millisecond, 0), OpenFast: opens(c.takes, c.after)})
			if e.State != api.EngineCertified || (e.Fast > e.Macroblocks) != c.fast || !c.fast && e.Fast != 0 || open != 0 {
				t.Errorf("%s: %+v, %d open", name, e, open)
			}
		})
	}
	for codec, want := range map[api.Codec]bool{api.H264: false, api.VP8: true, api.VP9: true, api.AV1: false} {
		if task := Engine("cpu", api.PoolCPU, "", codec, time.Second, true); (task.OpenFast != nil) != want {
			t.Errorf("%s has a faster preset: %v", codec, !want)
		}
	}
	if task := Engine("cpu", api.PoolCPU, "", api.VP9, time.Second, false); task.OpenFast != nil {
		t.Error("measured unasked")
	}
}

func TestCutOffIsInterrupted(t *testing.T) {
	task, open := standIn(time.Millisecond, 0, 2)
	task.Phase = time.Minute
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if e := Measure(ctx, task); e.State != api.EngineInterrupted || e.Macroblocks != 0 || *open != 0 {
		t.Errorf("cut off: %+v, %d open", e, *open)
	}
}

func TestSoftwareIsMeasured(t *testing.T) {
	task := Engine("cpu", api.PoolCPU, "", api.H264, 150*time.Millisecond, false)
	e := Measure(t.Context(), task)
	if e.State != api.EngineCertified || e.Encoder != "libx264" || e.FirstFrameMS <= 0 || e.Macroblocks < streamRate || len(e.Load) == 0 {
		t.Fatalf("measured %+v", e)
	}
	for _, p := range e.Load {
		if p.Busy <= 0 || p.P95MS < p.P50MS || p.Streams < 1 {
			t.Errorf("point %+v", p)
		}
	}
	t.Logf("%+v", e)
}

// Figures of two machines are compared: the picture must be the same on each.
func TestClipIsTheSameEverywhere(t *testing.T) {
	h := fnv.New64a()
	pictures := clip()
	for _, b := range pictures {
		h.Write(b)
	}
	const want = 0x84b3a0692cb810b4
	if got := h.Sum64(); got != want {
		t.Errorf("the reference picture is another one (%#x): give it another name", got)
	}
	if string(pictures[0]) == string(pictures[1]) {
		t.Error("the picture stands still")
	}
}

// fakeDriver has one device, which is lost and comes back when listed again.
type fakeDriver struct{ listed, read, closed int }

func (d *fakeDriver) Devices(context.Context) ([]gpu.Device, gpu.State, string) {
	d.listed++
	return []gpu.Device{{Name: "fake"}}, gpu.StateOK, ""
}
func (d *fakeDriver) Version() string { return "1" }
func (d *fakeDriver) Read(context.Context) []gpu.Reading {
	d.read++
	return []gpu.Reading{{Encoder: d.read}}
}
func (d *fakeDriver) Close() { d.closed++ }

func TestWatchWritesALineEachTime(t *testing.T) {
	r, w := io.Pipe()
	d := &fakeDriver{}
	ended := make(chan error, 1)
	go func() {
		ended <- Watch(t.Context(), w, d, &gpu.RenderMeter{Paths: []string{"/nowhere"}}, time.Millisecond, time.Minute)
	}()
	in := json.NewDecoder(r)
	for i := 1; i <= 5; i++ {
		var s gpu.Sample
		if err := in.Decode(&s); err != nil || s.State != gpu.StateOK || len(s.Readings) != 2 || s.Readings[0].Encoder != i || s.Readings[1].State != gpu.StateLost {
			t.Fatalf("line %d: %+v, %v", i, s, err)
		}
	}
	_ = r.Close() // nobody reads any more
	if err := <-ended; err == nil || d.listed != 1 || d.closed != 1 {
		t.Errorf("ended with %v, listed %d times, closed %d", err, d.listed, d.closed)
	}
}
