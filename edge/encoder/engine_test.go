package encoder

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/media"
	"github.com/perigee-cloud/perigee/media/encode"
	"github.com/perigee-cloud/perigee/media/xvfb"
)

// breaking stands in for a hardware encoder: a software one that fails after so
// many pictures.
type breaking struct {
	Video
	left int
}

var errDriver = errors.New("the driver says no")

func (b *breaking) Name() string { return "stand-in" }

func (b *breaking) Encode(key bool) (encode.Packet, error) {
	if b.left--; b.left < 0 {
		return encode.Packet{}, errDriver
	}
	return b.Video.Encode(key)
}

// openBreaking makes the encoders of hardware pools fail after so many pictures.
func openBreaking(pictures int) func(encode.Config) (Video, error) {
	return func(c encode.Config) (Video, error) {
		if c.Pool == api.PoolCPU {
			return openVideo(c)
		}
		c.Pool = api.PoolCPU
		v, err := openVideo(c)
		return &breaking{v, pictures}, err
	}
}

// The encode process says whose fault its end is: the ladder goes on only for
// the engine's.
func TestFaultOfTheEngineIsTold(t *testing.T) {
	x := xvfb.Start(t, "-screen", "0", "640x360x24")
	p, err := newPainter(x.Display)
	if err != nil {
		t.Fatal(err)
	}
	defer p.x.Close()
	for name, c := range map[string]struct {
		open   func(encode.Config) (Video, error)
		change func(*media.Configure)
		engine bool
		names  string
	}{
		"a device that is not there":      {nil, func(c *media.Configure) { c.Pool, c.Device = api.PoolNVENC, "7" }, true, "h264_nvenc"},
		"a render node that is not there": {nil, func(c *media.Configure) { c.Pool, c.Device = api.PoolVAAPI, "/dev/dri/renderD999" }, true, "h264_vaapi: no render node"},
		"a render node that is none":      {nil, func(c *media.Configure) { c.Pool, c.Device = api.PoolVAAPI, "/dev/null" }, true, "no VA-API driver answers at /dev/null"},
		"fails at once":                   {openBreaking(0), func(c *media.Configure) { c.Pool = api.PoolNVENC }, true, errDriver.Error()},
		"fails while it works":            {openBreaking(3), func(c *media.Configure) { c.Pool = api.PoolVAAPI }, true, errDriver.Error()},
		"no display":                      {openBreaking(0), func(c *media.Configure) { c.Pool, c.Display = api.PoolNVENC, "elsewhere:0" }, false, "elsewhere"},
	} {
		t.Run(name, func(t *testing.T) {
			s := startEncoderWith(t, c.open)
			cfg := configure(x.Display, api.H264)
			c.change(&cfg)
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
			st := s.until("an error", func(st media.State) bool { return st.Error != "" })
			if st.EngineFault != c.engine || !strings.Contains(st.Error, c.names) {
				t.Errorf("told %+v", st)
			}
			<-s.ended
			s.ended <- nil // for the clean-up
		})
	}
}
