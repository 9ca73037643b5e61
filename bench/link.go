package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/cmd/run/site"
	"github.com/perigee-cloud/perigee/edge/local"
	"github.com/perigee-cloud/perigee/media/link"
)

// linkJS leads a page's stream through the link.
//
//go:embed link.js
var linkJS string

// linkApp fills whatever rate it is given; its ceiling is above the links'.
const linkApp = `name: noise
command: [%q, -noise]
read_only: [%q]
video: {max_kbps: 8000}
`

// narrow is a stream of the noise application through a link of ours.
type narrow struct {
	*stage
	link   *link.Forwarder
	viewer *site.Viewer
	opened site.Opened
	stop   context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	kbps    []estimate
	leaving bool // the stream is being ended: its socket may close
	ended   error
}

// headers is how much more a picture takes on the wire, which the link counts,
// than what its encoder is told.
const headers = 1.06

// estimate is what the stream took the way to carry, from a time on.
type estimate struct {
	at   time.Time
	kbps int
}

// openNarrow starts a stream through a link of the given shapes.
func openNarrow(ctx context.Context, st *stage, shape link.Shape) (_ *narrow, err error) {
	run, stop := context.WithCancel(ctx)
	n := &narrow{stage: st, stop: stop}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.close(ctx))
		}
	}()
	if n.link, err = link.NewForwarder(st.mediaPort); err != nil {
		return nil, err
	}
	n.set(shape)
	n.wg.Go(func() {
		if err := n.link.Run(run); err != nil {
			n.fail(err)
		}
	})
	if n.viewer, err = st.Viewer(st.browser, decodeJS, fmt.Sprintf("globalThis.linkPort = %d;", n.link.Addr().Port()), linkJS); err != nil {
		return nil, err
	}
	n.opened, err = n.viewer.Connect(map[string]any{"token": st.Token, "app": "noise", "codecs": []api.Codec{api.H264},
		"screen": map[string]int{"width": 1280, "height": 720, "fps": 60}})
	if err != nil {
		return nil, err
	}
	if err = n.follow(run); err != nil {
		return nil, err
	}
	_, err = site.Eval[any](n.viewer.Tab, "link.watch(site.stream.video)")
	return n, err
}

// set gives both directions a shape; only the way to the viewer is narrow.
func (n *narrow) set(s link.Shape) {
	n.link.Set(link.Shape{Delay: s.Delay, Loss: s.Loss}, s)
}

// mediaPort is the loopback address of the one stream that runs.
func (st *stage) mediaPort() (netip.AddrPort, bool) {
	dirs, err := local.Run(filepath.Join(st.edge.Dir, "run")).Sessions()
	if err != nil {
		return netip.AddrPort{}, false
	}
	for _, d := range dirs {
		m, err := d.ReadMedia()
		if err != nil {
			continue
		}
		for _, c := range m.Candidates {
			if a, err := netip.ParseAddrPort(c); err == nil && a.Addr().IsLoopback() && a.Addr().Is4() {
				return a, true
			}
		}
	}
	return netip.AddrPort{}, false
}

// follow notes what the stream process says of the rate, as a daemon hears it.
func (n *narrow) follow(ctx context.Context) error {
	dirs, err := local.Run(filepath.Join(n.edge.Dir, "run")).Sessions()
	if err != nil {
		return err
	}
	if len(dirs) != 1 {
		return fmt.Errorf("found %d sessions, want one", len(dirs))
	}
	conn, err := local.Dial(ctx, dirs[0].StreamSocket())
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = conn.Close() }) // ends the reader below
	n.wg.Go(func() {
		for {
			m, err := conn.Read()
			if err != nil {
				if ctx.Err() == nil {
					n.fail(err)
				}
				return
			}
			if m.Stream != nil {
				n.mu.Lock()
				n.kbps = append(n.kbps, estimate{time.Now(), int(float64(m.Stream.Kbps) * headers)})
				n.mu.Unlock()
			}
		}
	})
	return nil
}

func (n *narrow) fail(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.leaving {
		n.ended = errors.Join(n.ended, err)
	}
}

// close ends the stream and the link.
func (n *narrow) close(ctx context.Context) error {
	n.mu.Lock()
	n.leaving = true
	n.mu.Unlock()
	var err error
	if n.viewer != nil {
		err = n.leave(ctx, n.viewer, n.opened)
	}
	n.stop()
	n.wg.Wait()
	if n.link != nil {
		n.link.Close()
	}
	return errors.Join(err, n.ended)
}

// shown gives when pictures were presented since the last call.
func (n *narrow) shown() ([]time.Time, error) {
	ms, err := site.Eval[[]float64](n.viewer.Tab, "link.take()")
	if err != nil {
		return nil, err
	}
	out := make([]time.Time, 0, len(ms))
	for _, m := range ms {
		out = append(out, time.UnixMicro(int64(m*1000)))
	}
	return out, nil
}

// rate gives the estimate that holds at a time; 0 before the first.
func (n *narrow) rate(at time.Time) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	var v int
	for _, e := range n.kbps {
		if e.at.After(at) {
			break
		}
		v = e.kbps
	}
	return v
}

// settle waits until the estimate reaches a rate, or a while.
func (n *narrow) settle(ctx context.Context, kbps int, most time.Duration) error {
	deadline := time.Now().Add(most)
	for n.rate(time.Now()) < kbps && time.Now().Before(deadline) {
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// longestFreeze gives the longest time between two presented pictures of which a
// part lies between two times.
func longestFreeze(shown []time.Time, from, to time.Time) time.Duration {
	var longest time.Duration
	for i := 1; i < len(shown); i++ {
		if shown[i].After(from) && shown[i-1].Before(to) {
			longest = max(longest, shown[i].Sub(shown[i-1]))
		}
	}
	if len(shown) == 0 || shown[len(shown)-1].Before(to) { // and it has not ended
		last := from
		if len(shown) > 0 {
			last = shown[len(shown)-1]
		}
		longest = max(longest, to.Sub(last))
	}
	return longest
}

// framesBetween counts presented pictures a second.
func framesBetween(shown []time.Time, from, to time.Time) float64 {
	var n int
	for _, s := range shown {
		if s.After(from) && s.Before(to) {
			n++
		}
	}
	return float64(n) / to.Sub(from).Seconds()
}

// newLinkStage is a stage with the noise application.
func newLinkStage(ctx context.Context) (*stage, error) {
	st, err := newStage(ctx)
	if err != nil {
		return nil, err
	}
	bin, err := site.Bin()
	if err == nil {
		file := filepath.Join(st.dir, "noise.yaml")
		if err = os.WriteFile(file, fmt.Appendf(nil, linkApp, filepath.Join(bin, "latencyapp"), bin), 0o600); err == nil {
			_, err = st.CLI(ctx, "app", "put", "--file", file)
		}
	}
	if err != nil {
		return nil, errors.Join(err, st.close())
	}
	return st, nil
}
