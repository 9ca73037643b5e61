package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/cmd/run/site"
)

// measured is what the SDK's probe gives.
type measured struct {
	Nodes []struct {
		Node        string  `json:"node"`
		RoundTripMS float64 `json:"roundTripMs"`
		Silent      bool    `json:"silent"`
	} `json:"nodes"`
}

// measure probes in the page and keeps the result in window.probes. Relay
// addresses in detour are replaced: the gateway does not know how far it is.
func measure(t *testing.T, v *site.Viewer, token string, detour map[string]string) measured {
	t.Helper()
	if detour == nil {
		detour = map[string]string{}
	}
	by, err := json.Marshal(detour)
	if err != nil {
		t.Fatal(err)
	}
	return eval[measured](t, v, fmt.Sprintf(`(async () => {
		const { probe } = await import("/static/perigee-sdk.js");
		const detour = %s;
		const real = window.fetch;
		window.fetch = async (...a) => {
			const e = await (await real(...a)).json();
			for (const target of e.metadata) target.addresses = target.addresses.map((at) => detour[at] ?? at);
			return new Response(JSON.stringify(e), { status: e.status_code });
		};
		const began = performance.now();
		try {
			window.probes = await probe({ token: %q });
		} finally {
			window.fetch = real;
		}
		window.probeTook = performance.now() - began;
		return window.probes;
	})()`, by, token))
}

// slackMS is what a busy test machine may add to a round trip.
const slackMS = 30

// line is a long way to a relay: it carries UDP both ways, each packet later by
// half of a round trip. A negative round trip carries nothing.
func line(t *testing.T, relay string, roundTrip time.Duration) string {
	t.Helper()
	to, err := net.ResolveUDPAddr("udp", relay)
	if err != nil {
		t.Fatal(err)
	}
	near, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	far := map[string]*net.UDPConn{} // by client
	t.Cleanup(func() {
		_ = near.Close()
		mu.Lock()
		defer mu.Unlock()
		for _, c := range far {
			_ = c.Close()
		}
	})
	carry := func(p []byte, send func([]byte)) {
		if roundTrip >= 0 {
			p = append([]byte(nil), p...)
			time.AfterFunc(roundTrip/2, func() { send(p) })
		}
	}
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := near.ReadFromUDP(buf)
			if err != nil {
				return
			}
			mu.Lock()
			out := far[from.String()]
			if out == nil {
				if out, err = net.DialUDP("udp", nil, to); err != nil {
					mu.Unlock()
					return
				}
				far[from.String()] = out
				go func() {
					buf := make([]byte, 2048)
					for {
						n, err := out.Read(buf)
						if err != nil {
							return
						}
						carry(buf[:n], func(p []byte) { _, _ = near.WriteToUDP(p, from) }) // may be closed by then
					}
				}()
			}
			mu.Unlock()
			carry(buf[:n], func(p []byte) { _, _ = out.Write(p) })
		}
	}()
	return near.LocalAddr().String()
}

// A page measures every node offered, by connectivity checks alone.
func TestBrowserMeasuresNodes(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"second", "third"} {
		if _, err := w.AddEdge(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	offered, err := w.client.Probes(t.Context(), "")
	if err != nil || len(offered) != 3 {
		t.Fatalf("offered are %+v, %v", offered, err)
	}
	v := w.viewer(t)
	near := map[string]time.Duration{}
	for _, o := range offered {
		near[string(o.Node)] = 0
	}
	measures(t, v, w.token, near, nil)

	// The first choice of the gateway is the farthest, the last one is nearest.
	far := map[string]time.Duration{}
	detour := map[string]string{}
	for i, d := range []time.Duration{-1, 90 * time.Millisecond, 30 * time.Millisecond} {
		far[string(offered[i].Node)] = d
		detour[offered[i].Addresses[0]] = line(t, offered[i].Addresses[0], d)
	}
	measures(t, v, w.token, far, detour)
}

// What the page measured decides, not what the map says: the session leaves the
// node that it would have had for the one that the network has nearest.
func TestMeasuredNodeWins(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"second", "third"} {
		if _, err := w.AddEdge(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	offered, err := w.client.Probes(t.Context(), "")
	if err != nil || len(offered) != 3 {
		t.Fatalf("offered are %+v, %v", offered, err)
	}
	blind, err := w.client.CreateSession(t.Context(), api.CreateBody{App: "xterm", Joinable: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.end(blind.ID); err != nil {
		t.Fatal(err)
	}
	// The node of the blind choice is farthest, another one nearest.
	i := slices.IndexFunc(offered, func(p api.ProbeTarget) bool { return p.Node == blind.Perigee.Node })
	far, detour := map[string]time.Duration{}, map[string]string{}
	for k, d := range []time.Duration{-1, 30 * time.Millisecond, 120 * time.Millisecond} {
		o := offered[(i+k)%len(offered)]
		far[string(o.Node)] = d
		detour[o.Addresses[0]] = line(t, o.Addresses[0], d)
	}
	v := w.viewer(t)
	measures(t, v, w.token, far, detour)
	options, err := json.Marshal(w.options("xterm", nil))
	if err != nil {
		t.Fatal(err)
	}
	o := eval[site.Opened](t, v, fmt.Sprintf("site.open({...%s, probes: window.probes})", options))
	if far[o.Node] != 30*time.Millisecond {
		t.Errorf("the session runs on %s, %v away; blindly it was %s", o.Node, far[o.Node], blind.Perigee.Node)
	}
	sess, err := w.client.Session(t.Context(), api.SessionID(o.ID))
	if err != nil {
		t.Fatal(err)
	}
	if ms := sess.Perigee.EstimateMS; ms == nil || *ms < 29 || *ms > 30+slackMS || sess.Perigee.Rank != 1 {
		t.Errorf("its node is %v ms away by rank %d", ms, sess.Perigee.Rank)
	}
	eval[bool](t, v, "site.stream.disconnect().then(() => true)")
}

// measures probes until every node measures as far as it is; a busy test
// machine may need a second try. Less than the truth is never measured.
func measures(t *testing.T, v *site.Viewer, token string, want map[string]time.Duration, detour map[string]string) {
	t.Helper()
	eventually(t, 20*time.Second, func() error {
		m := measure(t, v, token, detour)
		if len(m.Nodes) != len(want) {
			return fmt.Errorf("measured %d of %d nodes", len(m.Nodes), len(want))
		}
		for _, n := range m.Nodes {
			d, ms := want[n.Node], float64(want[n.Node].Milliseconds())
			switch {
			case d < 0 && (!n.Silent || n.RoundTripMS != api.SilentMS):
				t.Fatalf("a node that does not answer measures %v ms, silent %v", n.RoundTripMS, n.Silent)
			case d >= 0 && (n.RoundTripMS <= 0 || n.RoundTripMS < ms-1):
				t.Fatalf("a node %v away measures %v ms", d, n.RoundTripMS)
			case d >= 0 && (n.Silent || n.RoundTripMS > ms+slackMS):
				return fmt.Errorf("a node %v away measures %v ms, silent %v", d, n.RoundTripMS, n.Silent)
			}
		}
		t.Logf("measured %+v in %.0f ms", m.Nodes, eval[float64](t, v, "probeTook"))
		return nil
	})
}
