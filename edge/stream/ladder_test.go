package stream

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pion/webrtc/v4"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/engines"
	"github.com/perigee-cloud/perigee/edge/local"
)

// onNVENC reserves on a node with these engines; the stand-ins break there.
func onNVENC(t *testing.T, list ...engines.Engine) option {
	return func(c *Config, s *api.Spec) {
		s.Pool = api.PoolNVENC
		if err := engines.OfSession(c.Dir).Write(list); err != nil {
			t.Fatal(err)
		}
	}
}

func engine(name string, pool api.Pool, mbs uint64) engines.Engine {
	return engines.Engine{Name: name, Pool: pool, Macroblocks: mbs, Codecs: []api.Codec{api.VP8}}
}

const roomy = 10_000_000

// A failed encoder is replaced by the next engine of the node: same connection,
// a keyframe within half a second.
func TestNextEngineTakesOver(t *testing.T) {
	for name, within := range map[string]time.Duration{
		"fails":   500 * time.Millisecond,
		"crashes": 500 * time.Millisecond,
		"hangs":   silenceMost + 500*time.Millisecond, // until it is known to hang
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, role(name), onNVENC(t, engine("nvenc0", api.PoolNVENC, roomy), engine("cpu", api.PoolCPU, roomy)))
			v := r.join("1-abc")
			v.settings(nil)
			last := v.picture("picture", func(shown) bool { return true })
			old := last.pid
			fresh := v.picture("picture of the next engine", func(s shown) bool {
				if s.pid == old {
					last = s
				}
				return s.pid != old
			})
			took := fresh.at.Sub(last.at)
			t.Logf("pictures again after %s", took)
			if took > 3*within { // three times: other tests share the machine
				t.Errorf("pictures again after %s, want %s", took, within)
			}
			if fresh.keys != 1 {
				t.Errorf("the next engine began with %d keys", fresh.keys)
			}
			if v.pc.ConnectionState() != webrtc.PeerConnectionStateConnected {
				t.Errorf("connection is %s", v.pc.ConnectionState())
			}
			r.wait("state", func() bool { return r.last().Pool == api.PoolCPU && r.last().Engine == "cpu" && r.last().Failed == "" })
			q, err := engines.OfSession(r.dir).Quarantined()
			if err != nil || q["nvenc0"] == "" {
				t.Errorf("in quarantine %v, %v", q, err)
			}
		})
	}
}

// All the way down within one start: two engines refuse, the processors take it.
func TestLadderWithinOneStart(t *testing.T) {
	t.Parallel()
	r := start(t, role("refuses"), onNVENC(t, engine("nvenc0", api.PoolNVENC, roomy), engine("nvenc1", api.PoolNVENC, roomy), engine("cpu", api.PoolCPU, roomy)))
	r.join("1-abc").watch()
	r.wait("state", func() bool { return r.last().Pool == api.PoolCPU })
	if q, err := engines.OfSession(r.dir).Quarantined(); err != nil || len(q) != 2 || q["nvenc1"] != "out of memory" {
		t.Errorf("in quarantine %v, %v", q, err)
	}
}

// The budget of the processors holds here, too: the schedulers hear why.
func TestNoEngineLeft(t *testing.T) {
	t.Parallel()
	r := start(t, role("refuses"), onNVENC(t, engine("nvenc0", api.PoolNVENC, roomy), engine("cpu", api.PoolCPU, 1000)))
	v := r.join("1-abc")
	v.settings(nil)
	r.wait("end", func() bool { return r.last().Failed != "" })
	for _, want := range []string{"nvenc0: in quarantine: out of memory", "cpu: needs", "of 1000 are taken"} {
		if !strings.Contains(r.last().Failed, want) {
			t.Errorf("%q does not say %q", r.last().Failed, want)
		}
	}
}

// What is no fault of the engine moves nobody.
func TestLostDisplayBlamesNoEngine(t *testing.T) {
	t.Parallel()
	r := start(t, role("loses the display"), onNVENC(t, engine("nvenc0", api.PoolNVENC, roomy), engine("cpu", api.PoolCPU, roomy)))
	v := r.join("1-abc")
	v.settings(nil)
	old := v.picture("picture", func(shown) bool { return true }).pid
	v.picture("picture of another process", func(s shown) bool { return s.pid != old })
	if q, err := engines.OfSession(r.dir).Quarantined(); err != nil || len(q) != 0 || r.last().Pool != api.PoolNVENC {
		t.Errorf("in quarantine %v, %v; on %s", q, err, r.last().Pool)
	}
}

// At the start an engine that another session still holds is waited for.
func TestRoomIsWaitedFor(t *testing.T) {
	t.Parallel()
	mbs := api.Cost(api.PoolCPU, api.VP8, api.Screen{Width: 640, Height: 360, FPS: 60})
	var book *engines.Book
	other := local.Session("")
	r := start(t, func(c *Config, s *api.Spec) {
		book = engines.OfSession(c.Dir)
		other = local.Run(filepath.Dir(string(c.Dir))).Session("other", 1)
		if err := errors.Join(book.Write([]engines.Engine{engine("cpu", api.PoolCPU, mbs)}), os.MkdirAll(string(other), 0o700)); err != nil {
			t.Fatal(err)
		}
		if _, err := book.Take(other, engines.Want{Pool: api.PoolCPU, Codec: api.VP8, Screen: s.Screen}); err != nil {
			t.Fatal(err)
		}
	})
	time.AfterFunc(400*time.Millisecond, func() { _ = os.RemoveAll(string(other)) })
	r.join("1-abc").watch()
	if g, err := book.Grants(); err != nil || g[r.dir].Macroblocks != mbs {
		t.Errorf("granted %v, %v", g, err)
	}
}

// What was reserved is given, though the viewer's codec costs more.
func TestReservedIsGiven(t *testing.T) {
	spec := api.Spec{Pool: api.PoolCPU, Codecs: []api.Codec{api.H264, api.VP9}, Screen: api.Screen{Width: 640, Height: 360, FPS: 60}}
	mbs := api.Cost(api.PoolCPU, api.H264, spec.Screen)
	dir := local.Run(t.TempDir()).Session(sessionID, 1)
	if err := os.MkdirAll(string(dir), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := engines.OfSession(dir).Write([]engines.Engine{{Name: "cpu", Pool: api.PoolCPU, Macroblocks: mbs, Codecs: spec.Codecs}}); err != nil {
		t.Fatal(err)
	}
	l := newLadder(dir, spec, slog.New(slog.DiscardHandler))
	if g, err := l.assign(api.VP9, spec.Screen); err != nil || g.Engine != "cpu" || g.Macroblocks != mbs {
		t.Errorf("granted %+v, %v", g, err)
	}
}

// The daemon hears what went out: it tells its own from foreign load of the uplink.
func TestSentBytesAreTold(t *testing.T) {
	t.Parallel()
	r := start(t)
	r.join("1-abc").watch()
	r.wait("bytes", func() bool { return r.last().SentBytes > 0 })
	first := r.last().SentBytes
	r.wait("more bytes", func() bool { return r.last().SentBytes > first })
}
