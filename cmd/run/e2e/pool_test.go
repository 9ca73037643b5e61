package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// pool gives a pool of one application as the command line shows it.
func (w *world) pool(t *testing.T, app string) api.WarmPoolState {
	t.Helper()
	out, err := w.CLI(t.Context(), "app", "pool", "list", app, "--json")
	if err != nil {
		t.Fatal(err)
	}
	var list []api.WarmPoolState
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list) != 1 {
		t.Fatalf("the pools are %s, %v", out, err)
	}
	return list[0]
}

func (w *world) poolReady(t *testing.T, app string, n int) {
	t.Helper()
	eventually(t, 20*time.Second, func() error {
		if p := w.pool(t, app); p.Ready != n || p.Starting != 0 {
			return fmt.Errorf("the pool is %+v, %d are wanted", p, n)
		}
		return nil
	})
}

// warmInstances lists the instances that nobody has yet.
func (w *world) warmInstances(t *testing.T) (ids []string) {
	t.Helper()
	out, err := w.CLI(t.Context(), "instance", "list", "--json")
	if err != nil {
		t.Fatal(err)
	}
	var list []api.InstanceView
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatalf("the instances are %s, %v", out, err)
	}
	for _, v := range list {
		if v.Perigee.Warm && v.StatusCode == api.InstanceRunning {
			ids = append(ids, v.Name)
		}
	}
	return ids
}

// TestPoolOfOne holds a warm pool on real processes and a real page: the started
// instance becomes the session of the first client, at the client's own size, is
// driven like any other, and the pool fills again.
func TestPoolOfOne(t *testing.T) {
	w := newWorld(t)
	out, err := w.CLI(t.Context(), "node", "list", "--json")
	if err != nil {
		t.Fatal(err)
	}
	var nodes []api.NodeView
	if err := json.Unmarshal([]byte(out), &nodes); err != nil || len(nodes) != 1 {
		t.Fatalf("the nodes are %s, %v", out, err)
	}
	if _, err := w.CLI(t.Context(), "app", "pool", "set", "latency", "--region", nodes[0].Node.Region, "--target-idle", "1", "--always-on", "1", "--max", "3"); err != nil {
		t.Fatal(err)
	}
	w.poolReady(t, "latency", 1)
	started := w.warmInstances(t)
	if len(started) != 1 {
		t.Fatalf("started are %v", started)
	}
	v := w.viewer(t)
	begun := time.Now()
	o := connect(t, v, w.options("latency", map[string]any{"screen": map[string]int{"width": 960, "height": 540, "fps": 30}}))
	t.Logf("first picture %s after the click (%.0f ms by the page)", time.Since(begun).Round(time.Millisecond), o.FirstFrameMS)
	if api.InstanceName(api.SessionID(o.ID)) != started[0] {
		t.Errorf("the session is %s, the started instance was %s", o.ID, started[0])
	}
	// The application itself has the client's size, and hears its keys.
	read(t, v, func(c cells) error {
		if c.Width != 960 {
			return fmt.Errorf("the application is %d wide", c.Width)
		}
		return nil
	})
	moves(t, v)
	inst, err := w.client.Session(t.Context(), api.SessionID(o.ID))
	if err != nil || !inst.Perigee.FromPool || inst.Perigee.Warm {
		t.Errorf("the session is %+v, %v", inst.Perigee, err)
	}
	pressChangesThePicture(t, v)
	w.poolReady(t, "latency", 1)
	if next := w.warmInstances(t); len(next) != 1 || next[0] == started[0] {
		t.Errorf("the pool was filled with %v", next)
	}
	if p := w.pool(t, "latency"); p.Sessions != 1 || p.Wanted != 1 {
		t.Errorf("the pool is %+v", p)
	}
	if _, err := w.CLI(t.Context(), "app", "pool", "delete", "latency", "--region", nodes[0].Node.Region); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, func() error {
		if ids := w.warmInstances(t); len(ids) > 0 {
			return fmt.Errorf("%v are still kept", ids)
		}
		return nil
	})
	if out, err := w.CLI(t.Context(), "app", "pool", "list"); err != nil || !strings.Contains(out, "no pools") {
		t.Errorf("then the list says %q, %v", out, err)
	}
	if err := w.end(api.SessionID(o.ID)); err != nil {
		t.Error(err)
	}
}
