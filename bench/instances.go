package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/xproto"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/api/client"
	"github.com/perigee-cloud/perigee/cmd/run/site"
	"github.com/perigee-cloud/perigee/edge/local"
)

const (
	startTarget = 500 // ms, of the issue
	leakRounds  = 200
	leakAtOnce  = 4
	gapStreams  = 8
	gapTarget   = 100 // ms
	gapFPS      = 30
)

// yard is a site with one edge and no browser.
type yard struct {
	*site.Site
	edge  *site.Edge
	admin *client.Client
	dir   string
}

func newYard(ctx context.Context, args ...string) (_ *yard, err error) {
	dir, err := os.MkdirTemp("/tmp", "pbench") // short: unix sockets lie in it
	if err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	y := &yard{dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, y.close())
		}
	}()
	if y.Site, err = site.Start(ctx, dir); err != nil {
		return nil, err
	}
	if y.edge, err = y.AddEdge(ctx, "edge", args...); err != nil {
		return nil, err
	}
	bin, err := site.Bin()
	if err != nil {
		return nil, err
	}
	for name, args := range map[string][]string{"paints": {filepath.Join(bin, "latencyapp")}, "rects": {filepath.Join(bin, "latencyapp"), "-rects"}, "waits": {"sleep", "1000"}} {
		if _, err := y.CLI(ctx, append([]string{"app", "put", name, "--read-only", bin, "--"}, args...)...); err != nil {
			return nil, err
		}
	}
	y.admin, err = client.New(client.Config{Socket: filepath.Join(y.SchedulerData(), "admin.sock")})
	return y, err
}

func (y *yard) close() error {
	var errs []error
	if y.admin != nil {
		y.admin.Close()
	}
	if y.Site != nil {
		errs = append(errs, y.Site.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(y.dir))...)
}

// launch launches an instance and waits until it runs.
func (y *yard) launch(ctx context.Context, b api.LaunchBody) (api.SessionID, error) {
	op, err := y.admin.LaunchInstance(ctx, b)
	if err == nil {
		op, err = y.admin.WaitOperation(ctx, op.ID)
	}
	if err == nil && op.StatusCode != api.OperationSuccess {
		err = fmt.Errorf("launch %s: %s", b.AppID, op.Err)
	}
	_, id, _ := strings.Cut(op.ID, "-")
	return api.SessionID(id), err
}

func (y *yard) end(ctx context.Context, id api.SessionID) error {
	op, err := y.admin.DeleteInstance(ctx, string(id), false)
	if err == nil {
		_, err = y.admin.WaitOperation(ctx, op.ID)
	}
	return err
}

// instanceStart measures a program's cold start: from the request to the first
// picture on its screen.
func instanceStart(ctx context.Context, runs int) (_ []Result, err error) {
	y, err := newYard(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, y.close()) }()
	ms, err := y.starts(ctx, "paints", max(runs, 3)*5)
	if err != nil {
		return nil, err
	}
	warm, err := y.warmStarts(ctx, "paints", max(runs, 3)*5)
	if err != nil {
		return nil, err
	}
	cold, first, err := y.firstPictures(ctx, "paints", max(runs, 3)*3)
	if err != nil {
		return nil, err
	}
	return []Result{
		Result{Name: "start_ms_program_warm", Value: round(median(warm)), Unit: "ms", Runs: len(warm)}.atMost(warmTarget),
		{Name: "start_ms_program_warm_p95", Value: round(quantile(warm, 0.95)), Unit: "ms", Runs: len(warm)},
		Result{Name: "first_picture_ms_warm", Value: round(median(first)), Unit: "ms", Runs: len(first)}.against("cold", round(median(cold))),
		Result{Name: "start_ms_program_cold", Value: round(median(ms)), Unit: "ms", Runs: len(ms)}.atMost(startTarget),
		{Name: "start_ms_program_cold_p95", Value: round(quantile(ms, 0.95)), Unit: "ms", Runs: len(ms)},
	}, nil
}

// starts launches an application n times, one after the other, and gives how
// long each took from the request to the first picture, in ms.
func (y *yard) starts(ctx context.Context, app string, n int) (ms []float64, err error) {
	for range n {
		begun := time.Now()
		op, err := y.admin.LaunchInstance(ctx, api.LaunchBody{AppID: app})
		if err != nil {
			return nil, err
		}
		_, id, _ := strings.Cut(op.ID, "-")
		if err := y.drawn(ctx, api.SessionID(id)); err != nil {
			return nil, err
		}
		ms = append(ms, float64(time.Since(begun).Microseconds())/1000)
		if err := y.end(ctx, api.SessionID(id)); err != nil {
			return nil, err
		}
	}
	return ms, nil
}

// drawn waits until an instance's screen shows two colours.
func (y *yard) drawn(ctx context.Context, id api.SessionID) error {
	return y.shows(ctx, id, twoColours)
}

// shows waits until an instance's screen is such.
func (y *yard) shows(ctx context.Context, id api.SessionID, such func(*xgb.Conn) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	dirs, err := filepath.Glob(filepath.Join(y.edge.Dir, "run", string(id)+".*"))
	var x *xgb.Conn
	for err == nil && ctx.Err() == nil {
		if len(dirs) == 0 {
			dirs, err = filepath.Glob(filepath.Join(y.edge.Dir, "run", string(id)+".*"))
		} else if x == nil {
			if st, e := local.Session(dirs[0]).ReadInstance(); e == nil && st.Display != "" {
				if x, err = dialDisplay(st.Display, st.XAuth); err == nil {
					defer x.Close()
				}
			}
		} else if is, e := such(x); e != nil || is {
			return e
		}
		time.Sleep(time.Millisecond)
	}
	return errors.Join(err, ctx.Err(), fmt.Errorf("instance %s has drawn nothing", id))
}

// dialDisplay connects with the instance's cookie, which xgb reads from a file.
func dialDisplay(display, xauthority string) (*xgb.Conn, error) {
	if err := os.Setenv("XAUTHORITY", xauthority); err != nil {
		return nil, err
	}
	return xgb.NewConnDisplay(display)
}

func twoColours(x *xgb.Conn) (bool, error) {
	root := xproto.Setup(x).DefaultScreen(x).Root
	r, err := xproto.GetImage(x, xproto.ImageFormatZPixmap, xproto.Drawable(root), 0, 0, 64, 64, ^uint32(0)).Reply()
	if err != nil {
		return false, fmt.Errorf("look at the screen: %w", err)
	}
	for i := 4; i+4 <= len(r.Data); i += 4 {
		if string(r.Data[i:i+3]) != string(r.Data[:3]) {
			return true, nil
		}
	}
	return false, nil
}
