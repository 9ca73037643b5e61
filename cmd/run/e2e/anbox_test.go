//go:build anboxsdk

package e2e

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/cmd/run/site"
)

// Canonical's own anbox-stream-sdk.js, unmodified, against real processes. The
// file is theirs and not copied here: name it by PERIGEE_ANBOX_SDK
// (make test-anbox SDK=path/to/anbox-stream-sdk.js).
func anboxSDK(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(os.Getenv("PERIGEE_ANBOX_SDK"))
	if err != nil {
		t.Fatalf("PERIGEE_ANBOX_SDK must name Canonical's anbox-stream-sdk.js: %v", err)
	}
	// It is a module that also sets globals; evaluated as a script it exports nothing.
	script := regexp.MustCompile(`(?m)^export \{[^}]*\};?$`).ReplaceAllString(string(b), "")
	return "{" + regexp.MustCompile(`(?m)^export `).ReplaceAllString(script, "") + "}"
}

// apiActive selects what runs.
var apiActive = api.SessionQuery{Status: api.StatusActive}

const anboxPage = `
window.anbox = {ready: 0, errors: [], done: 0, data: []};
window.anboxStart = (session, apiVersion) => {
	document.body.innerHTML = '<div id="anbox" style="position:fixed;inset:0"></div>';
	const connector = new AnboxStreamGatewayConnector({
		url: location.origin, authToken: %q, session, screen: {width: 1280, height: 720, fps: 30},
	});
	const none = () => {};
	anbox.stream = new AnboxStream({
		connector, targetElement: "anbox", fullScreen: false, apiVersion: apiVersion,
		dataChannels: {echo: {callbacks: {open: none, close: none, error: none, message: (m) => anbox.data.push(typeof m === "string" ? m : new TextDecoder().decode(m))}}},
		experimental: {disableBrowserBlock: true},
		callbacks: {ready: () => anbox.ready++, error: (e) => anbox.errors.push(e.cause?.code + ": " + e.message), done: () => anbox.done++},
	});
	anbox.stream.connect();
};
window.anboxVideo = () => document.querySelector("#anbox video");
`

func (w *world) anboxViewer(t *testing.T) *site.Viewer {
	t.Helper()
	v := w.viewer(t)
	for _, script := range []string{anboxSDK(t), fmt.Sprintf(anboxPage, w.token)} {
		eval[bool](t, v, script+"\n;true")
	}
	return v
}

func anboxReady(t *testing.T, v *site.Viewer) {
	t.Helper()
	eventually(t, 20*time.Second, func() error {
		n, err := site.Eval[int](v.Tab, "anbox.ready")
		if err == nil && n == 0 {
			why, _ := site.Eval[string](v.Tab, "JSON.stringify(anbox.errors)")
			err = fmt.Errorf("not ready: %s", why)
		}
		return err
	})
}

// shows reads the latency application's picture in Canonical's video element.
func anboxShows(t *testing.T, v *site.Viewer, want func(cells) error) cells {
	t.Helper()
	var c *cells
	eventually(t, 15*time.Second, func() error {
		var err error
		if c, err = site.Eval[*cells](v.Tab, "latency.read(anboxVideo())"); err != nil {
			return err
		}
		if c == nil {
			return errors.New("the picture cannot be read")
		}
		return want(*c)
	})
	return *c
}

func TestCanonicalSDK(t *testing.T) {
	w := newWorld(t)
	for _, version := range []int{2, 1} {
		t.Run(fmt.Sprintf("v%d", version), func(t *testing.T) {
			v := w.anboxViewer(t)
			defer v.Close()
			eval[any](t, v, fmt.Sprintf(`anboxStart({app: "latency", joinable: true}, %d)`, version))
			anboxReady(t, v)
			before := anboxShows(t, v, func(cells) error { return nil })
			eval[bool](t, v, `["keydown", "keyup"].forEach(k => window.dispatchEvent(new KeyboardEvent(k, {code: "KeyA", key: "a"}))), true`)
			anboxShows(t, v, func(c cells) error {
				if c.Counter <= before.Counter || c.Clock == before.Clock {
					return fmt.Errorf("counter %d, was %d", c.Counter, before.Counter)
				}
				return nil
			})
			eventually(t, 10*time.Second, func() error {
				got, err := site.Eval[string](v.Tab, `anbox.stream.sendData("echo", "ping"), anbox.data.join("")`)
				if err == nil && got == "" {
					err = errors.New("the channel does not echo")
				}
				return err
			})
			// Another client takes over: this one is told as Canonical's server does.
			sessions, _, err := w.client.Sessions(t.Context(), apiActive)
			if err != nil || len(sessions) != 1 {
				t.Fatalf("sessions %v, %v", sessions, err)
			}
			next := w.anboxViewer(t)
			defer next.Close()
			eval[any](t, next, fmt.Sprintf(`anboxStart({id: %q}, %d)`, sessions[0].ID, version))
			anboxReady(t, next)
			eventually(t, 10*time.Second, func() error {
				why, err := site.Eval[string](v.Tab, "JSON.stringify(anbox.errors)")
				if err == nil && !regexp.MustCompile(`"14: `).MatchString(why) {
					err = fmt.Errorf("the first client saw %s, want code 14", why)
				}
				return err
			})
			if err := w.end(sessions[0].ID); err != nil {
				t.Error(err)
			}
		})
	}
}
