package engines

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/local"
)

func hd(fps int) api.Screen { return api.Screen{Width: 1280, Height: 720, FPS: fps} }

func h264() []api.Codec { return []api.Codec{api.H264} }

// machine has two NVENC engines, one VA-API, and processors.
func machine() []Engine {
	return []Engine{
		{Name: "nvenc0", Pool: api.PoolNVENC, Device: "0", Macroblocks: 300_000, Codecs: h264()},
		{Name: "nvenc1", Pool: api.PoolNVENC, Device: "1", Macroblocks: 300_000, Sessions: 1, Codecs: h264()},
		{Name: "vaapi0", Pool: api.PoolVAAPI, Device: "/dev/dri/renderD128", Macroblocks: 300_000, Codecs: h264()},
		{Name: "cpu", Pool: api.PoolCPU, Macroblocks: 700_000, Codecs: api.SoftwareCodecs()},
	}
}

type desk struct {
	t    *testing.T
	book *Book
	run  local.Run
	now  time.Time
}

func newDesk(t *testing.T, list []Engine) *desk {
	t.Helper()
	d := &desk{t: t, run: local.Run(t.TempDir()), now: time.Unix(1000, 0)}
	d.book = Open(d.run)
	d.book.now = func() time.Time { return d.now }
	if list != nil {
		if err := d.book.Write(list); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func (d *desk) session(n int) local.Session {
	d.t.Helper()
	s := d.run.Session(api.SessionID(fmt.Sprint("s", n)), 1)
	if err := os.MkdirAll(string(s), 0o700); err != nil {
		d.t.Fatal(err)
	}
	return s
}

func TestLadder(t *testing.T) {
	d := newDesk(t, machine())
	want := Want{Pool: api.PoolNVENC, Codec: api.H264, Screen: hd(60)}
	var sessions []local.Session
	for i, name := range []string{"nvenc0", "nvenc1", "vaapi0", "cpu", "cpu", "cpu"} {
		s := d.session(i)
		sessions = append(sessions, s)
		g, err := OfSession(s).Take(s, want)
		if err != nil || g.Engine != name || g.Macroblocks != 216_000 {
			t.Fatalf("session %d: %+v, %v; want %s", i, g, err, name)
		}
		if again, err := d.book.Take(s, want); err != nil || again != g {
			t.Errorf("session %d asked again: %+v, %v", i, again, err)
		}
	}
	s := d.session(9)
	_, err := d.book.Take(s, want)
	if !errors.Is(err, ErrNone) || !strings.Contains(err.Error(), "nvenc0: needs 216000 macroblocks/s, 216000 of 300000 are taken") || !strings.Contains(err.Error(), "cpu: ") {
		t.Errorf("a full node says %v", err)
	}
	if g, err := d.book.Take(s, Want{Pool: api.PoolNVENC, Codec: api.H264, Screen: hd(20)}); err != nil || g.Engine != "nvenc0" {
		t.Errorf("a small one: %+v, %v", g, err)
	}
	// Resized where it is; too large, it moves; too large for all, it keeps what it has.
	if g, err := d.book.Take(s, Want{Pool: api.PoolNVENC, Codec: api.H264, Screen: hd(23)}); err != nil || g.Engine != "nvenc0" || g.Macroblocks != 82_800 {
		t.Errorf("resized: %+v, %v", g, err)
	}
	if err := os.RemoveAll(string(sessions[1])); err != nil {
		t.Fatal(err)
	}
	if g, err := d.book.Take(s, want); err != nil || g.Engine != "nvenc1" {
		t.Errorf("grown out of its engine: %+v, %v", g, err)
	}
	if g, err := d.book.Take(s, Want{Pool: api.PoolNVENC, Codec: api.H264, Screen: hd(240)}); !errors.Is(err, ErrNone) || g.Engine != "nvenc1" {
		t.Errorf("grown out of all: %+v, %v", g, err)
	}
	if g, err := d.book.Take(d.session(10), Want{Pool: api.PoolNVENC, Codec: api.VP8, Screen: hd(1)}); err != nil || g.Pool != api.PoolCPU {
		t.Errorf("a codec that only processors do: %+v, %v", g, err)
	}
}

func TestQuarantine(t *testing.T) {
	d := newDesk(t, machine())
	want := Want{Pool: api.PoolNVENC, Codec: api.H264, Screen: hd(30)}
	a, b := d.session(1), d.session(2)
	take := func(s local.Session, name string) {
		t.Helper()
		if g, err := d.book.Take(s, want); err != nil || g.Engine != name {
			t.Fatalf("%+v, %v; want %s", g, err, name)
		}
	}
	take(a, "nvenc0")
	take(b, "nvenc0")
	for i, name := range []string{"nvenc1", "vaapi0", "cpu", "cpu"} {
		g, err := d.book.Fail(a, want, "hangs")
		if err != nil || g.Engine != name {
			t.Fatalf("fault %d: %+v, %v; want %s", i, g, err, name)
		}
	}
	if q, err := d.book.Quarantined(); err != nil || len(q) != 3 || q["nvenc0"] != "hangs" {
		t.Errorf("in quarantine %v, %v", q, err)
	}
	take(b, "cpu") // what it had is in quarantine
	_, err := d.book.Take(d.session(3), Want{Pool: api.PoolNVENC, Codec: api.H264, Screen: hd(240)})
	if !errors.Is(err, ErrNone) || !strings.Contains(err.Error(), "nvenc0: in quarantine: hangs") {
		t.Errorf("says %v", err)
	}
	if err := os.RemoveAll(string(a)); err != nil {
		t.Fatal(err)
	}
	c := d.session(4)
	pause := quarantineFirst
	d.now = d.now.Add(pause)
	for range 10 { // each time longer, up to a bound
		d.now = d.now.Add(time.Second)
		take(c, "nvenc0")
		if _, err := d.book.Fail(c, want, "again"); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(string(c)); err != nil {
			t.Fatal(err)
		}
		c = d.session(4)
		pause = min(2*pause, quarantineMost)
		d.now = d.now.Add(pause - 2*time.Second)
		if q, _ := d.book.Quarantined(); q["nvenc0"] == "" {
			t.Fatalf("out before %v", pause)
		}
		d.now = d.now.Add(2 * time.Second)
	}
	d.now = d.now.Add(time.Hour) // long well: all is forgotten
	take(c, "nvenc0")
	if _, err := d.book.Fail(c, want, "once more"); err != nil {
		t.Fatal(err)
	}
	d.now = d.now.Add(quarantineFirst)
	if q, _ := d.book.Quarantined(); len(q) != 0 {
		t.Errorf("in quarantine %v", q)
	}
}

// What only hardware encodes is not there while the hardware is out.
func TestEncodable(t *testing.T) {
	list := machine()
	list[2].Codecs = append(h264(), api.H265)
	d := newDesk(t, list)
	ask := []api.Codec{api.H265, api.VP8}
	check := func(want ...api.Codec) {
		t.Helper()
		if got, err := d.book.Encodable(ask); err != nil || !slices.Equal(got, want) {
			t.Errorf("encodable %v, %v; want %v", got, err, want)
		}
	}
	check(api.H265, api.VP8)
	s, want := d.session(1), Want{Pool: api.PoolVAAPI, Codec: api.H265, Screen: hd(30)}
	if g, err := d.book.Take(s, want); err != nil || g.Engine != "vaapi0" {
		t.Fatalf("%+v, %v", g, err)
	}
	if _, err := d.book.Fail(s, want, "hangs"); !errors.Is(err, ErrNone) {
		t.Errorf("H.265 goes on without its engine: %v", err)
	}
	check(api.VP8)
	ask = []api.Codec{api.H265}
	check(api.H265) // nothing else is left: the start says why it cannot be
	d.now = d.now.Add(quarantineFirst)
	check(api.H265)
}

func TestWithoutABook(t *testing.T) {
	d := newDesk(t, nil)
	g, err := d.book.Take(d.session(1), Want{Pool: api.PoolCPU, Codec: api.VP8, Screen: hd(60)})
	if err != nil || g != (Grant{Pool: api.PoolCPU}) {
		t.Errorf("%+v, %v", g, err)
	}
	if err := os.WriteFile(d.book.path(fileEngines), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.book.Take(d.session(1), Want{}); err == nil || !strings.Contains(err.Error(), fileEngines) {
		t.Errorf("a broken book: %v", err)
	}
}

// Whatever the order of starts, stops, resizes and failures, by many processes
// at once: no engine is promised beyond what was certified.
func TestCertifiedCapacityIsPromisedOnce(t *testing.T) {
	for seed := range uint64(6) {
		list := machine()
		d := newDesk(t, list)
		check := func() {
			t.Helper()
			grants, err := d.book.Grants()
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range list {
				var used uint64
				sessions := 0
				for _, g := range grants {
					if g.Engine == e.Name {
						used += g.Macroblocks
						sessions++
					}
				}
				if used > e.Macroblocks || e.Sessions > 0 && sessions > e.Sessions {
					t.Fatalf("seed %d: %s is promised %d of %d macroblocks/s to %d sessions", seed, e.Name, used, e.Macroblocks, sessions)
				}
			}
		}
		var wg sync.WaitGroup
		for worker := range 4 {
			r := rand.New(rand.NewPCG(seed, uint64(worker)))
			wg.Go(func() {
				book := Open(d.run) // each its own, as processes have
				for range 60 {
					// Workers share sessions: a daemon and a stream may act for one at once.
					s := d.run.Session(api.SessionID(fmt.Sprint("s", r.IntN(12))), api.Generation(1+r.IntN(2)))
					want := Want{Pool: []api.Pool{api.PoolNVENC, api.PoolVAAPI, api.PoolCPU}[r.IntN(3)],
						Codec: api.SoftwareCodecs()[r.IntN(2)], Screen: hd(15 * (1 + r.IntN(5)))}
					var err error
					switch r.IntN(4) {
					case 0:
						err = os.RemoveAll(string(s))
						if err == nil {
							continue
						}
					case 1:
						_, err = book.Fail(s, want, "property")
					default:
						if err = os.MkdirAll(string(s), 0o700); err == nil {
							_, err = book.Take(s, want)
						}
					}
					if err != nil && !errors.Is(err, ErrNone) && !errors.Is(err, os.ErrNotExist) && !strings.Contains(err.Error(), "not empty") {
						t.Errorf("seed %d: %v", seed, err)
					}
				}
			})
		}
		done := make(chan struct{})
		go func() { wg.Wait(); close(done) }()
		for running := true; running; {
			select {
			case <-done:
				running = false
			default:
			}
			check()
		}
	}
}

func TestCertified(t *testing.T) {
	c := api.Certificate{Engines: []api.EngineCertificate{
		{Engine: "nvenc0", Pool: api.PoolNVENC, Device: "0", Codec: api.H264, State: api.EngineCertified, Macroblocks: 900, Sessions: 8},
		{Engine: "nvenc0", Pool: api.PoolNVENC, Device: "0", Codec: api.AV1, State: api.EngineCertified, Macroblocks: 700, Sessions: 8},
		{Engine: "nvenc1", Pool: api.PoolNVENC, Device: "1", Codec: api.H264, State: api.EngineCrashed},
		{Engine: "cpu", Pool: api.PoolCPU, Codec: api.H264, State: api.EngineCertified, Macroblocks: 50},
	}}
	nvenc, _ := c.Certified(api.PoolNVENC)
	pools := []api.Capacity{nvenc, {Pool: api.PoolCPU, Macroblocks: 5, Codecs: h264()}}
	got := fmt.Sprint(Certified(&c, pools))
	if want := "[{nvenc0 nvenc 0 900 8 [H264 AV1] [{H264  1000} {AV1  1286}]} {cpu cpu  5 0 [H264] []}]"; got != want {
		t.Errorf("engines %s", got)
	}
	pools[0] = api.Capacity{Pool: api.PoolNVENC, Macroblocks: 9}
	got = fmt.Sprint(Certified(nil, pools))
	if want := "[{nvenc0 nvenc  9 0 [] []} {cpu cpu  5 0 [H264] []}]"; got != want {
		t.Errorf("engines without a certificate %s", got)
	}
}

// The book promises at the costs that the schedulers were told.
func TestFactorsAreThePools(t *testing.T) {
	d := newDesk(t, []Engine{{Name: "cpu", Pool: api.PoolCPU, Macroblocks: 6 * 108_000, Codecs: api.SoftwareCodecs(), Factors: []api.CostFactor{
		{Codec: api.VP9, Thousandths: 4000}, {Codec: api.VP9, Preset: api.PresetFast, Thousandths: 2000}}}})
	want := Want{Pool: api.PoolCPU, Codec: api.VP9, Screen: hd(30)}
	if g, err := d.book.Take(d.session(1), want); err != nil || g.Macroblocks != 4*108_000 {
		t.Errorf("granted %+v, %v", g, err)
	}
	if _, err := d.book.Take(d.session(2), want); !errors.Is(err, ErrNone) {
		t.Errorf("granted beyond the engine: %v", err)
	}
	want.Preset = api.PresetFast
	if g, err := d.book.Take(d.session(2), want); err != nil || g.Macroblocks != 2*108_000 {
		t.Errorf("granted by the faster preset %+v, %v", g, err)
	}
}
