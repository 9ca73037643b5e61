//go:build anboxsdk

package e2e

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/api/client"
	"github.com/perigee-cloud/perigee/cmd/run/site"
)

// Canonical's SDK is asked for its microphone as its own server asks, and heard.
func TestCanonicalMicrophone(t *testing.T) {
	w := newWorld(t)
	bin, err := site.Bin()
	if err != nil {
		t.Fatal(err)
	}
	admin, err := client.New(client.Config{Socket: filepath.Join(w.SchedulerData(), "admin.sock")})
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	if _, err := admin.PutApplication(t.Context(), api.App{Name: "listens", ReadOnly: []string{bin},
		Command:     []string{filepath.Join(bin, "latencyapp"), "-hear", fmt.Sprint(beepHz)},
		Permissions: api.Permissions{Microphone: true}}); err != nil {
		t.Fatal(err)
	}
	v := w.viewer(t, chromedp.Flag("use-fake-ui-for-media-stream", true), chromedp.Flag("use-fake-device-for-media-stream", true),
		chromedp.Flag("use-file-for-fake-audio-capture", beep(t)))
	defer v.Close()
	eval[bool](t, v, anboxSDK(t)+"\n;true")
	eval[bool](t, v, fmt.Sprintf(`(() => {
		window.anbox = {ready: 0, errors: [], asked: 0};
		document.body.innerHTML = '<div id="anbox" style="position:fixed;inset:0"></div>';
		const connector = new AnboxStreamGatewayConnector({url: location.origin, authToken: %q, session: {app: "listens"}, screen: {width: 1280, height: 720, fps: 30}});
		anbox.stream = new AnboxStream({
			connector, targetElement: "anbox", fullScreen: false, devices: {microphone: true},
			experimental: {disableBrowserBlock: true},
			callbacks: {ready: () => anbox.ready++, error: (e) => anbox.errors.push(e.cause?.code + ": " + e.message), done: () => {},
				requestMicrophoneAccess: () => { anbox.asked++; return true; }},
		});
		anbox.stream.connect();
		return true;
	})()`, w.token))
	anboxReady(t, v)
	sessions, _, err := w.client.Sessions(t.Context(), apiActive)
	if err != nil || len(sessions) != 1 {
		t.Fatalf("sessions %v, %v", sessions, err)
	}
	eventually(t, 15*time.Second, func() error {
		loudest, lines, err := w.hears(t, string(sessions[0].ID), 0)
		if err == nil && loudest < 0.02 {
			asked, _ := site.Eval[string](v.Tab, "anbox.asked + ' ' + JSON.stringify(anbox.errors)")
			err = fmt.Errorf("the application hears %.4f of the tone in %d lines; the page was asked %s", loudest, lines, asked)
		}
		return err
	})
	if n := eval[int](t, v, "anbox.asked"); n != 1 {
		t.Errorf("the page was asked %d times", n)
	}
}
