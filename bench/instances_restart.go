package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/cmd/run/site"
)

// daemonRestart ends the daemon by SIGTERM under live streams, starts the next,
// and takes the longest gap between two pictures of any stream; beside it the
// longest gap of as much time without a restart.
func daemonRestart(ctx context.Context, runs int) (_ []Result, err error) {
	y, err := newYard(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, y.close()) }()
	var viewers []*receiver
	defer func() {
		for _, v := range viewers {
			v.close()
		}
	}()
	width, height, fps := 320, 180, gapFPS
	for range gapStreams {
		b := api.LaunchBody{AppID: "rects"}
		b.Config = api.InstanceConfig{EnableStreaming: true, Display: &api.ScreenBody{Width: &width, Height: &height, FPS: &fps}}
		id, err := y.launch(ctx, b)
		if err != nil {
			return nil, err
		}
		v, err := watch(ctx, y.admin, id)
		if err != nil {
			return nil, err
		}
		viewers = append(viewers, v)
	}
	var gaps, quiet []float64
	for range runs {
		q, err := longestGap(ctx, viewers, func() error { return nil })
		if err != nil {
			return nil, err
		}
		g, err := longestGap(ctx, viewers, func() error {
			if err := y.edge.Process.Stop(syscall.SIGTERM); err != nil {
				return err
			}
			// Not StartEdge: the command line that it asks takes as much of the
			// processors as the daemon's start.
			if err := y.LaunchEdge(y.edge); err != nil {
				return err
			}
			// Its lease still holds: what counts is that it has its sessions.
			return site.Poll(ctx, 20*time.Second, func() error {
				if n := strings.Count(y.edge.Process.Output(), "session adopted"); n < gapStreams {
					return fmt.Errorf("the next daemon has adopted %d of %d sessions", n, gapStreams)
				}
				return nil
			})
		})
		if err != nil {
			return nil, err
		}
		quiet, gaps = append(quiet, q), append(gaps, g)
	}
	return []Result{Result{Name: "daemon_restart_gap_ms_max", Value: round(slices.Max(gaps)), Unit: "ms", Runs: runs}.
		against("no restart", round(slices.Max(quiet))).atMost(gapTarget)}, nil
}

// longestGap is the longest time without a picture on any of the streams while
// f runs and for two seconds around it.
func longestGap(ctx context.Context, viewers []*receiver, f func() error) (float64, error) {
	for _, v := range viewers {
		v.reset()
	}
	pause := func() error {
		select {
		case <-time.After(2 * time.Second):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := errors.Join(pause(), f(), pause()); err != nil {
		return 0, err
	}
	most := time.Duration(0)
	for _, v := range viewers {
		gap, pictures := v.gap()
		if pictures < gapFPS {
			return 0, fmt.Errorf("a stream showed %d pictures in over 4 s", pictures)
		}
		most = max(most, gap)
	}
	return float64(most.Microseconds()) / 1000, nil
}

// clock notes when pictures come.
type clock struct {
	mu       sync.Mutex // guards the fields below
	last     time.Time
	longest  time.Duration
	pictures int
}

func (c *clock) tick(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pictures > 0 {
		c.longest = max(c.longest, now.Sub(c.last))
	}
	c.last = now
	c.pictures++
}

func (c *clock) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.longest, c.pictures = 0, 0
}

func (c *clock) gap() (time.Duration, int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return max(c.longest, time.Since(c.last)), c.pictures
}
