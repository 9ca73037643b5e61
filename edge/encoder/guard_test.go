package encoder

import (
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/media"
	"github.com/perigee-cloud/perigee/media/encode"
	"github.com/perigee-cloud/perigee/media/xvfb"
)

func hangs(g *guard) bool {
	select {
	case <-g.hung:
		return true
	default:
		return false
	}
}

// A call that does not return is known after its limit and not before; one that
// does return, however often and late, is not.
func TestGuardKnowsACallThatDoesNotReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var busy atomic.Int32
		g := newGuard(func() { busy.Add(1) })
		for range 100 {
			g.enter(api.PoolNVENC, "h264_nvenc", hangMost)
			time.Sleep(hangMost - time.Millisecond)
			g.leave()
		}
		time.Sleep(time.Hour)
		if hangs(g) || busy.Load() != 0 {
			t.Fatalf("calls that returned: %v, told %d times", g.fault(), busy.Load())
		}
		g.enter(api.PoolNVENC, "h264_nvenc", hangMost)
		time.Sleep(hangMost - time.Millisecond)
		synctest.Wait()
		if hangs(g) {
			t.Fatal("too early")
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if !hangs(g) || !strings.Contains(g.fault().Error(), "h264_nvenc has not returned for 300ms") {
			t.Errorf("after its limit: %v", g.fault())
		}
		g.leave() // late, after all
	})
}

// Opening may take longer, and is told of meanwhile; software is never judged.
func TestGuardLetsDriversOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var busy atomic.Int32
		g := newGuard(func() { busy.Add(1) })
		for _, pool := range []api.Pool{"", api.PoolCPU} {
			g.enter(pool, "libx264", hangMost)
			time.Sleep(time.Hour)
			g.leave()
		}
		g.enter(api.PoolVAAPI, "opening the encoder", openMost)
		time.Sleep(2*time.Second + time.Millisecond)
		g.leave()
		synctest.Wait()
		if hangs(g) || busy.Load() != int32(2*time.Second/busyEvery) {
			t.Errorf("%v, told %d times", g.fault(), busy.Load())
		}
		g.enter(api.PoolVAAPI, "opening the encoder", openMost)
		time.Sleep(openMost)
		synctest.Wait()
		if !hangs(g) {
			t.Error("an opening that does not end is no hang")
		}
	})
}

// Our own standstill is none of the driver's: ticks that come late do not count.
func TestGuardDoesNotCountItsOwnStandstill(t *testing.T) {
	g := newGuard(func() {})
	g.enter(api.PoolNVENC, "h264_nvenc", hangMost)
	defer g.leave()
	g.timer.Stop() // we tick by hand
	for range 100 {
		g.mu.Lock()
		g.due = time.Now().Add(-guardTick) // a tick late
		g.mu.Unlock()
		g.ticked()
		g.timer.Stop()
	}
	if hangs(g) {
		t.Errorf("late ticks: %v", g.fault())
	}
}

// stuck stands in for a driver: it opens late, and hangs after so many pictures.
type stuck struct {
	Video
	left int
	free chan struct{}
}

func (s *stuck) Encode(key bool) (encode.Packet, error) {
	if s.left--; s.left < 0 {
		<-s.free
	}
	return s.Video.Encode(key)
}

// An encoder that hangs ends the encode process within half a second, with the
// engine's name, and one that takes more than a second to open does not.
func TestHangEndsTheProcess(t *testing.T) {
	x := xvfb.Start(t, "-screen", "0", "640x360x24")
	p, err := newPainter(x.Display)
	if err != nil {
		t.Fatal(err)
	}
	defer p.x.Close()
	free := make(chan struct{})
	defer close(free)
	s := startEncoderWith(t, func(c encode.Config) (Video, error) {
		c.Pool = api.PoolCPU
		time.Sleep(1200 * time.Millisecond)
		v, err := openVideo(c)
		return &stuck{Video: v, left: 5, free: free}, err
	})
	cfg := configure(x.Display, api.H264)
	cfg.Pool = api.PoolNVENC
	s.send(media.TypeConfigure, cfg)
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for i := uint32(0); ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
				p.fill(0, 0, 200, 200, 0x112233*i)
				p.x.Sync()
			}
		}
	}()
	var last time.Time
	for range 5 {
		frame(t, s.video)
		last = time.Now()
	}
	st := s.until("an error", func(st media.State) bool { return st.Error != "" })
	if took := time.Since(last); took > 3*hangMost { // others share the machine
		t.Errorf("told after %s", took)
	}
	if !st.EngineFault || !strings.Contains(st.Error, "libx264 has not returned") {
		t.Errorf("told %+v", st)
	}
	if n := s.busy.Load(); n < 2 {
		t.Errorf("told %d times that it opens", n)
	}
	<-s.ended
	s.ended <- nil // for the clean-up
}
