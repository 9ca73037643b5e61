package main

import (
	"context"
	"fmt"
	"image"
	"log/slog"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/encoder"
	"github.com/perigee-cloud/perigee/media/encode"
)

const (
	encodeEnv = "PERIGEE_TEST_ENCODE"  // this program is an encode process whose hardware breaks so
	edgeEnv   = "PERIGEE_TEST_EDGE"    // this program is perigee-edge
	nvmlEnv   = "PERIGEE_TEST_LIBRARY" // the driver's library of its probes; "" = the machine's
)

// TestMain is also this program, and its encode process on a machine whose
// graphics processor breaks.
func TestMain(m *testing.M) {
	if how := os.Getenv(encodeEnv); how != "" {
		encodeBreaking(how)
		return
	}
	if os.Getenv(edgeEnv) != "" {
		root := newRoot()
		args := os.Args[1:]
		if lib := os.Getenv(nvmlEnv); lib != "" && len(args) > 1 && (args[1] == "inventory" || args[1] == "watch") {
			args = append(args, "--nvml", lib)
		}
		root.SetArgs(args)
		if err := root.ExecuteContext(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, "perigee-edge:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// encodeBreaking is the encode process as it is, but that hardware encoders are
// software ones which break: the stand-in for go-astiav's.
func encodeBreaking(how string) {
	conn, err := encoder.Inherited(3)
	if err != nil {
		os.Exit(4)
	}
	err = encoder.Run(context.Background(), encoder.Config{Socket: conn, Log: slog.New(slog.DiscardHandler),
		Open: func(c encode.Config) (encoder.Video, error) {
			hardware := c.Pool != api.PoolCPU
			if hardware && how == "refuses" {
				return nil, fmt.Errorf("open encoder h264_nvenc: out of memory")
			}
			if hardware && how == "no device" { // FFmpeg's own VA-API, at what is no render node
				c.Pool, c.Device = api.PoolVAAPI, "/dev/null"
				return encode.NewVideo(c)
			}
			c.Pool, c.Device = api.PoolCPU, ""
			v, err := encode.NewVideo(c)
			if err != nil || !hardware {
				return v, err
			}
			return &breaking{v, how, goodPictures}, nil
		}})
	if err != nil {
		os.Exit(1)
	}
}

// goodPictures is how many a stand-in encodes before it breaks.
const goodPictures = 40

type breaking struct {
	*encode.Video
	how  string
	left int
}

func (b *breaking) Load(pix []byte, stride int, changed ...image.Rectangle) error {
	return b.Video.Load(pix, stride, changed...)
}

func (b *breaking) Encode(key bool) (encode.Packet, error) {
	if b.left--; b.left >= 0 {
		return b.Video.Encode(key)
	}
	switch b.how {
	case "crashes":
		_ = syscall.Kill(os.Getpid(), syscall.SIGSEGV)
		time.Sleep(time.Minute)
	case "hangs":
		time.Sleep(time.Minute)
	}
	return encode.Packet{}, fmt.Errorf("h264_nvenc: generic error in an external library")
}
