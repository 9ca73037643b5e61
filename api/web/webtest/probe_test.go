package webtest

import (
	"errors"
	"net"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/pion/stun/v4"
)

const probePassword = "password-of-thirty-two-character"

// silentNode is a relay that hears and does not answer.
func silentNode(t *testing.T) (target map[string]any, heard *net.UDPConn) {
	t.Helper()
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return map[string]any{"node": "silent1", "region": "eu", "addresses": []string{c.LocalAddr().String()},
		"ticket": "AQticket+/0", "password": probePassword}, c
}

// checks reads what came until nothing more comes, and checks each.
func checks(t *testing.T, c *net.UDPConn) (n int) {
	t.Helper()
	for b := make([]byte, 2048); ; n++ {
		if err := c.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		size, err := c.Read(b)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return n
		}
		if err != nil {
			t.Fatal(err)
		}
		m := &stun.Message{Raw: b[:size]}
		var user stun.Username
		if err := errors.Join(m.Decode(), user.GetFrom(m), stun.NewShortTermIntegrity(probePassword).Check(m), stun.Fingerprint.Check(m)); err != nil {
			t.Fatalf("%d bytes are no connectivity check: %v", size, err)
		}
		if m.Type != stun.BindingRequest || !strings.HasPrefix(string(user), "AQticket+/0:") {
			t.Fatalf("a check is %v by %q", m.Type, user)
		}
	}
}

// TestProbe measures a node that is silent; nodes that answer are measured on
// real relays by the end-to-end tests.
func TestProbe(t *testing.T) {
	browser := newBrowser(t)
	t.Run("sdk", func(t *testing.T) {
		t.Parallel()
		g, p := newGateway(t), newTab(t, browser)
		target, relay := silentNode(t)
		g.probes = []map[string]any{target}
		p.open(g.URL + "/module.html")
		p.until("window.sdk && window.Perigee")
		got := eval[[]map[string]any](p, `Perigee.probe({token: "secret"}).then((p) => { window.probes = p; return p.nodes; })`)
		want := []map[string]any{{"node": "silent1", "roundTripMs": 250.0, "silent": true}}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("measured %v", got)
		}
		if checks(t, relay) < 2 || checks(t, relay) != 0 {
			t.Error("it did not ask several times and then stop")
		}
		stream := func(probes string) {
			eval[chromedp.Void](p, `(async () => {
				const s = new sdk.PerigeeStream({token: "secret", app: "demo", container: document.getElementById("box"), probes: `+probes+`});
				await s.connect();
				await s.disconnect();
			})()`)
		}
		stream("window.probes")
		stream("{...window.probes, at: Date.now() - 11 * 60000}")
		sent := map[string]any{"probes": []any{map[string]any{"node": "silent1", "round_trip_ms": 250.0, "silent": true}}}
		if len(g.creates) != 2 || !reflect.DeepEqual(g.creates[0]["perigee"], sent) || g.creates[1]["perigee"] != nil {
			t.Errorf("the creates are %v", g.creates)
		}
	})
	t.Run("no gateway, no token, an old gateway", func(t *testing.T) {
		t.Parallel()
		g, p := newGateway(t), newTab(t, browser)
		p.open(g.URL + "/module.html")
		p.until("window.sdk")
		code := func(options string) string {
			return eval[string](p, `sdk.probe(`+options+`).then((p) => "nodes: " + p.nodes.length, (e) => e.code)`)
		}
		for options, want := range map[string]string{
			`{token: "a", url: location.origin + "/old"}`: "nodes: 0",
			`{}`:                "invalid",
			`{token: "secret"}`: "nodes: 0",
			`{token: "a", url: "http://127.0.0.1:1"}`: "network",
		} {
			if got := code(options); got != want {
				t.Errorf("probe(%s): %s, want %s", options, got, want)
			}
		}
	})
	t.Run("player", func(t *testing.T) {
		t.Parallel()
		g, p := newGateway(t), newTab(t, browser)
		target, _ := silentNode(t)
		g.probes = []map[string]any{target}
		call(p, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: `
			window.peersClosed = 0;
			const close = RTCPeerConnection.prototype.close;
			RTCPeerConnection.prototype.close = function () { close.call(this); peersClosed++; };`})
		p.open(g.URL + "/?app=demo&token=secret")
		p.until("peersClosed === 1") // before any click
		p.do(chromedp.Click("#play"))
		p.until("perigee.state === 'live'")
		if perigee, _ := g.creates[0]["perigee"].(map[string]any); len(g.creates) != 1 || perigee["probes"] == nil {
			t.Errorf("the create was %v", g.creates)
		}
	})
}
