package instance

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"testing"
	"time"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/xproto"
	"golang.org/x/sys/unix"

	"github.com/perigee-cloud/perigee/edge/image"
	"github.com/perigee-cloud/perigee/edge/local"
)

// shimEnv makes the test binary run as a shim, as perigee-edge does.
const shimEnv = "PERIGEE_TEST_SHIM"

// drawEnv makes it an application that draws, for containers.
const drawEnv = "PERIGEE_TEST_DRAW"

// draw fills a window with half white until it is ended.
func draw() error {
	x, err := xgb.NewConn()
	if err != nil {
		return err
	}
	s := xproto.Setup(x).DefaultScreen(x)
	w, err := xproto.NewWindowId(x)
	if err != nil {
		return err
	}
	err = xproto.CreateWindowChecked(x, 0, w, s.Root, 0, 0, 50, 50, 0, xproto.WindowClassInputOutput, s.RootVisual,
		xproto.CwBackPixel|xproto.CwOverrideRedirect, []uint32{s.WhitePixel, 1}).Check()
	if err == nil {
		err = xproto.MapWindowChecked(x, w).Check()
	}
	if err != nil {
		return err
	}
	for {
		if e, err := x.WaitForEvent(); e == nil && err == nil {
			return nil
		}
	}
}

func TestMain(m *testing.M) {
	if os.Getenv(drawEnv) != "" {
		if err := draw(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if os.Getenv(padEnv) != "" {
		fmt.Fprintln(os.Stderr, play())
		os.Exit(1)
	}
	dir := os.Getenv(shimEnv)
	if dir == "" {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	cfg := ShimConfig{Dir: local.Session(dir), Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	for _, f := range []struct {
		env string
		v   *time.Duration
	}{{"TEST_GRACE", &cfg.Grace}, {"TEST_START", &cfg.StartDeadline}, {"TEST_ORPHAN", &cfg.Orphan}} {
		if d, err := time.ParseDuration(os.Getenv(f.env)); err == nil {
			*f.v = d
		}
	}
	if dir := os.Getenv("TEST_CDI"); dir != "" {
		cfg.CDI = []string{dir}
	}
	cfg.CgroupRoot = os.Getenv("TEST_CGROUPS")
	cfg.Images = image.Config{Socket: os.Getenv("TEST_CONTAINERD"), Locks: os.Getenv("TEST_LOCKS")}
	if err := RunShim(ctx, cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
