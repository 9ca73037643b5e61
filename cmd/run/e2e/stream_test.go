package e2e

import (
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/cmd/run/site"
)

// cells is what the latency application's picture says.
type cells struct {
	Clock   uint32 `json:"clock"`
	Counter int    `json:"counter"`
	X       int    `json:"x"`
	Y       int    `json:"y"`
	Kind    int    `json:"kind"`
	Detail  int    `json:"detail"`
	Width   int    `json:"width"`
}

// read decodes the picture that shows; it waits until one can be read and
// satisfies want.
func read(t *testing.T, v *site.Viewer, want func(cells) error) cells {
	t.Helper()
	var c *cells
	eventually(t, 15*time.Second, func() error {
		var err error
		if c, err = site.Eval[*cells](v.Tab, "latency.read(site.stream.video)"); err != nil {
			return err
		}
		if c == nil {
			return errors.New("the picture cannot be read")
		}
		return want(*c)
	})
	return *c
}

func anything(cells) error { return nil }

// moves proves that the picture is the application's and changes: its clock
// goes on and is close to ours.
func moves(t *testing.T, v *site.Viewer) {
	t.Helper()
	first := read(t, v, anything)
	second := read(t, v, func(c cells) error {
		if c.Clock == first.Clock {
			return errors.New("the clock stands still")
		}
		return nil
	})
	if age := uint32(time.Now().UnixMilli()) - second.Clock; age > 2000 {
		t.Errorf("the picture is %d ms old", age)
	}
}

func TestStreamsEachCodec(t *testing.T) {
	w := newWorld(t)
	for _, codec := range api.SoftwareCodecs() {
		t.Run(string(codec), func(t *testing.T) {
			v := w.viewer(t)
			defer v.Close()
			connect(t, v, w.options("latency", map[string]any{"codecs": []api.Codec{codec}, "dataChannels": []string{"echo"}}))
			moves(t, v)

			eventually(t, 5*time.Second, func() error {
				got, err := site.Eval[string](v.Tab, "site.stream.stats().then(s => s.codec)")
				if err == nil && got != string(codec) {
					err = fmt.Errorf("the browser decodes %q, want %s", got, codec)
				}
				return err
			})
			pressChangesThePicture(t, v)
			pointerMoves(t, v)
			hearsTheTone(t, v)
			channelEchoes(t, v)
			picturesNeedEachOther(t, v)
			eval[any](t, v, "site.stream.disconnect()")
		})
	}
}

// picturesNeedEachOther shows that the browser knows which pictures need earlier
// ones: one that takes each for a keyframe passes over those that come late and
// decodes the rest from the wrong picture, without asking for another.
func picturesNeedEachOther(t *testing.T, v *site.Viewer) {
	t.Helper()
	type counts struct{ Decoded, Keys int }
	eventually(t, 5*time.Second, func() error {
		got, err := site.Eval[counts](v.Tab, `site.stream.peerConnection.getStats().then(all => {
			const s = [...all.values()].find(s => s.type === "inbound-rtp" && s.kind === "video");
			return {Decoded: s.framesDecoded, Keys: s.keyFramesDecoded};
		})`)
		if err == nil && (got.Decoded < 40 || got.Keys < 1 || got.Keys > got.Decoded/4) {
			err = fmt.Errorf("of %d pictures the browser took %d for keyframes", got.Decoded, got.Keys)
		}
		return err
	})
}

func pressChangesThePicture(t *testing.T, v *site.Viewer) {
	t.Helper()
	before := read(t, v, anything)
	eval[bool](t, v, `(() => {
		const s = site.stream.surface;
		s.focus();
		for (const type of ["keydown", "keyup"])
			s.dispatchEvent(new KeyboardEvent(type, {code: "KeyQ", key: "q", bubbles: true, cancelable: true}));
		return true;
	})()`)
	read(t, v, func(c cells) error {
		if c.Counter != before.Counter+1 || c.Kind != 1 {
			return fmt.Errorf("counter %d of kind %d, want %d of kind 1 (key)", c.Counter, c.Kind, before.Counter+1)
		}
		return nil
	})
}

func pointerMoves(t *testing.T, v *site.Viewer) {
	t.Helper()
	eval[bool](t, v, `(() => {
		const v = site.stream.video.getBoundingClientRect(), s = site.stream.surface;
		const at = {clientX: v.left + v.width / 2, clientY: v.top + v.height / 2, bubbles: true, cancelable: true, pointerType: "mouse", button: -1};
		for (const [E, type] of [[PointerEvent, "pointermove"], [MouseEvent, "mousemove"]]) s.dispatchEvent(new E(type, at));
		return true;
	})()`)
	read(t, v, func(c cells) error {
		if math.Abs(float64(c.X)-640) > 3 || math.Abs(float64(c.Y)-360) > 3 {
			return fmt.Errorf("the pointer is at %d,%d, want the middle", c.X, c.Y)
		}
		return nil
	})
}

func hearsTheTone(t *testing.T, v *site.Viewer) {
	t.Helper()
	type tone struct{ Hz, DB float64 }
	eventually(t, 15*time.Second, func() error {
		got, err := site.Eval[tone](v.Tab, "site.tone()")
		if err == nil && (math.Abs(got.Hz-440) > 12 || got.DB < -60) {
			err = fmt.Errorf("the page hears %.0f Hz at %.0f dB, want 440 Hz", got.Hz, got.DB)
		}
		return err
	})
}

func channelEchoes(t *testing.T, v *site.Viewer) {
	t.Helper()
	eventually(t, 10*time.Second, func() error {
		got, err := site.Eval[string](v.Tab, `(async () => {
			site.data.length = 0;
			site.stream.sendData("echo", new TextEncoder().encode("hello perigee"));
			for (let i = 0; i < 20 && !site.data.length; i++) await new Promise(r => setTimeout(r, 25));
			return site.data.map(d => d[0] + ":" + d[1]).join("");
		})()`)
		if err == nil && got != "echo:hello perigee" {
			err = fmt.Errorf("the channel answered %q", got)
		}
		return err
	})
}

func TestRelayOnly(t *testing.T) {
	w := newWorld(t)
	v := w.viewer(t)
	defer v.Close()
	connect(t, v, w.options("latency", map[string]any{"iceTransportPolicy": "relay"}))
	moves(t, v)
	eventually(t, 5*time.Second, func() error {
		relayed, err := site.Eval[bool](v.Tab, "site.stream.stats().then(s => s.relayed)")
		if err == nil && !relayed {
			err = errors.New("the media does not go through the relay")
		}
		return err
	})
	pressChangesThePicture(t, v)
}

func TestRealApplications(t *testing.T) {
	w := newWorld(t)
	for _, app := range []string{"xterm", "kobo"} {
		t.Run(app, func(t *testing.T) {
			v := w.viewer(t)
			defer v.Close()
			connect(t, v, w.options(app, nil))
			first := eval[int](t, v, "site.hash()")
			eventually(t, 15*time.Second, func() error {
				// The terminal answers to typing; the game moves by itself.
				h, err := site.Eval[int](v.Tab, `(() => {
					const s = site.stream.surface;
					s.focus();
					for (const type of ["keydown", "keyup"])
						s.dispatchEvent(new KeyboardEvent(type, {code: "KeyA", key: "a", bubbles: true, cancelable: true}));
					return site.hash();
				})()`)
				if err == nil && h == first {
					err = errors.New("the picture does not change")
				}
				return err
			})
		})
	}
}
