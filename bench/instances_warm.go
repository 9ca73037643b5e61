package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/xproto"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/cmd/run/site"
)

const (
	warmTarget  = 100 // ms, of the issue
	warmWithin  = 20 * time.Second
	warmWidth   = 960 // another size than instances are started with
	warmHeight  = 540
	warmSettles = 300 * time.Millisecond // for the instance that took the last one's place to have drawn
)

// region is the one of the yard's only edge.
func (y *yard) region(ctx context.Context) (string, error) {
	nodes, err := y.admin.Nodes(ctx)
	if err != nil {
		return "", err
	}
	if len(nodes) != 1 {
		return "", fmt.Errorf("%d nodes where one is", len(nodes))
	}
	return nodes[0].Node.Region, nil
}

// withPool keeps one instance of an application started while f runs.
func (y *yard) withPool(ctx context.Context, app string, f func(ready func() error) error) error {
	region, err := y.region(ctx)
	if err != nil {
		return err
	}
	if err := y.admin.SetWarmPool(ctx, api.WarmPool{App: app, Region: region, TargetIdle: 1}); err != nil {
		return err
	}
	ready := func() error {
		err := site.Poll(ctx, warmWithin, func() error {
			pools, err := y.admin.WarmPools(ctx, app)
			if err == nil && (len(pools) != 1 || pools[0].Ready != 1 || pools[0].Starting != 0 || pools[0].Sessions != 0) {
				err = fmt.Errorf("the pool is %+v", pools)
			}
			return err
		})
		time.Sleep(warmSettles)
		return err
	}
	return errors.Join(f(ready), y.admin.DropWarmPool(ctx, app, region), site.Poll(ctx, warmWithin, func() error {
		list, _, err := y.admin.Instances(ctx, api.InstanceQuery{})
		for _, v := range list {
			if v.Perigee.Warm {
				return fmt.Errorf("instance %s is still kept", v.Name)
			}
		}
		return err
	}))
}

// session creates one of the size that is measured with.
func (y *yard) session(ctx context.Context, app string) (api.CreateAnswer, error) {
	w, h, fps := warmWidth, warmHeight, 30
	return y.admin.CreateSession(ctx, api.CreateBody{App: app, Screen: &api.ScreenBody{Width: &w, Height: &h, FPS: &fps}})
}

// warmStarts creates a session n times where an instance is kept started, and
// gives how long each took from the call to the application's picture on a screen
// of the session's size, in ms.
func (y *yard) warmStarts(ctx context.Context, app string, n int) (ms []float64, err error) {
	err = y.withPool(ctx, app, func(ready func() error) error {
		for range n {
			if err := ready(); err != nil {
				return err
			}
			begun := time.Now()
			s, err := y.session(ctx, app)
			if err != nil {
				return err
			}
			if !s.Perigee.FromPool {
				return fmt.Errorf("session %s did not come from the pool", s.ID)
			}
			if err := y.shows(ctx, s.ID, func(x *xgb.Conn) (bool, error) {
				g, err := xproto.GetGeometry(x, xproto.Drawable(xproto.Setup(x).DefaultScreen(x).Root)).Reply()
				if err != nil || int(g.Width) != warmWidth || int(g.Height) != warmHeight {
					return false, err
				}
				return twoColours(x)
			}); err != nil {
				return err
			}
			ms = append(ms, float64(time.Since(begun).Microseconds())/1000)
			if err := y.end(ctx, s.ID); err != nil {
				return err
			}
		}
		return nil
	})
	return ms, err
}

// firstPictures gives how long a viewer waits from the create call to the first
// packet of the first picture, in ms, without a pool and with one.
func (y *yard) firstPictures(ctx context.Context, app string, n int) (cold, warm []float64, err error) {
	once := func(to *[]float64) error {
		begun := time.Now()
		s, err := y.session(ctx, app)
		if err != nil {
			return err
		}
		v, err := watchURL(ctx, s.URL)
		if err != nil {
			return err
		}
		*to = append(*to, float64(time.Since(begun).Microseconds())/1000)
		v.close()
		return y.end(ctx, s.ID)
	}
	for range n {
		if err := once(&cold); err != nil {
			return nil, nil, err
		}
	}
	err = y.withPool(ctx, app, func(ready func() error) error {
		for range n {
			if err := errors.Join(ready(), once(&warm)); err != nil {
				return err
			}
		}
		return nil
	})
	return cold, warm, err
}
