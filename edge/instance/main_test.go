package instance

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/perigee-cloud/perigee/edge/local"
)

// shimEnv makes the test binary run as a shim, as perigee-edge does.
const shimEnv = "PERIGEE_TEST_SHIM"

func TestMain(m *testing.M) {
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
	cfg.CgroupRoot = os.Getenv("TEST_CGROUPS")
	if err := RunShim(ctx, cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
