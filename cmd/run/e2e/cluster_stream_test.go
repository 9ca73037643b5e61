package e2e

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/cmd/run/site"
)

// TestStreamThroughEveryReplica opens a stream by a websocket on each replica,
// whichever of them the edge is connected to; the streams go on when the
// leader is killed.
func TestStreamThroughEveryReplica(t *testing.T) {
	c := newCluster(t)
	lead := leaderOf(t, c)
	if _, err := c.Members[lead].AddEdge(t.Context(), "edge"); err != nil {
		t.Fatal(err)
	}
	bin, err := site.Bin()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Members[0].CLI(t.Context(), "app", "put", "latency", "--read-only", bin, "--", filepath.Join(bin, "latencyapp")); err != nil {
		t.Fatal(err)
	}
	b, err := site.NewBrowser(context.WithoutCancel(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	var last *site.Viewer
	for i, m := range c.Members {
		v, err := m.Viewer(b, decodeJS(t))
		if err != nil {
			t.Fatal(err)
		}
		o := connect(t, v, map[string]any{"token": m.Token, "app": "latency", "screen": map[string]int{"width": 640, "height": 360, "fps": 30}})
		moves(t, v)
		t.Logf("first picture through replica %d after %.0f ms", i, o.FirstFrameMS)
		if i == lead {
			v.Close()
			continue
		}
		if last != nil {
			last.Close()
		}
		last = v
	}
	if err := c.Kill(lead); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
		moves(t, last)
	}
	if err := c.Members[lead].StartScheduler(t.Context()); err != nil {
		t.Fatal(err)
	}
	leaderOf(t, c)
	moves(t, last)
	last.Close()
}
