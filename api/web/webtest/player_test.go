package webtest

import (
	"context"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/coder/websocket"
)

// TestPlayer goes through the player's life in one browser, a tab for each part.
func TestPlayer(t *testing.T) {
	browser := newBrowser(t)
	for name, test := range map[string]func(*testing.T, *gateway, *tab){
		"live": live, "sign in": signIn, "page token": pageToken, "choose": choose, "join": join, "leave": leave,
		"busy": busy, "wrong token": wrongToken, "error frame": errorFrame, "socket lost": socketLost,
		"old server": oldServer, "taken over": takenOver, "app exited": appExited, "keyboard only": keyboardOnly,
		"settings": settingsFromURL, "sound": sound, "share link": shareLink,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, p := newGateway(t), newTab(t, browser)
			call(p, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: 1280, Height: 800, DeviceScaleFactor: 1})
			test(t, g, p)
		})
	}
}

// goLive opens the player on the demo and plays it.
func goLive(g *gateway, p *tab) {
	p.t.Helper()
	p.open(g.URL + "/?app=demo&token=secret")
	p.until(shown("play"))
	p.do(chromedp.Click("#play"))
	p.until("perigee.state === 'live'")
	openControl(g, p, "perigee")
}

// openControl waits until input arrives: before its channel is open, it is dropped.
func openControl(g *gateway, p *tab, stream string) {
	p.t.Helper()
	tap := func(code string) {
		eval[chromedp.Void](p, `for (const t of ["keydown", "keyup"]) `+stream+`.surface.dispatchEvent(new KeyboardEvent(t, {code: "`+code+`"}))`)
	}
	eventually(p.t, "the control channel opens", func() bool {
		tap("F9")
		return len(g.messages("input::key")) >= 2
	})
	tap("F8") // the channel keeps the order: what comes after this is not of these
	eventually(p.t, "the last key arrives", func() bool {
		m := g.messages("input::key")
		return m[len(m)-1].Data["code"] == 65.0 && m[len(m)-1].Data["pressed"] == false
	})
	g.clear()
}

func live(t *testing.T, g *gateway, p *tab) {
	p.open(g.URL + "/?app=demo&token=secret")
	p.until(shown("play"))
	if url := eval[string](p, "location.href"); strings.Contains(url, "secret") {
		t.Errorf("the token stays in the address: %s", url)
	}
	eval[chromedp.Void](p, `window.told = []; new MutationObserver(() => told.push(document.getElementById("status").textContent))
		.observe(document.getElementById("status"), {childList: true})`)
	p.do(chromedp.Click("#play"))
	p.until("perigee.state === 'live'")

	told := strings.Join(eval[[]string](p, "told"), "|")
	for _, want := range []string{"Placing", "Starting", "Connecting", "Live"} {
		if !strings.Contains(told, want) {
			t.Errorf("a screen reader was not told %q: %s", want, told)
		}
	}
	want := map[string]any{"app": "demo", "region": "", "joinable": false, "extra_data": nil, "perigee": map[string]any{"wait_s": 600.0},
		"screen": map[string]any{"width": 1280.0, "height": 720.0, "fps": 60.0, "density": 240.0}}
	if !reflect.DeepEqual(g.creates, []map[string]any{want}) {
		t.Errorf("the create was %v, want %v", g.creates, want)
	}
	g.mu.Lock()
	frames := g.frames
	g.mu.Unlock()
	if len(frames) < 3 || frames[0]["type"] != "discover" || len(frames[0]) != 1 || frames[1]["type"] != "settings" {
		t.Fatalf("the first frames are %v", frames)
	}
	s := frames[1]
	for key, v := range map[string]any{"api_version": 2.0, "enable_speaker": true, "enable_microphone": true,
		"enable_video": true, "enable_camera": false, "data_channels": []any{}} {
		if !reflect.DeepEqual(s[key], v) {
			t.Errorf("settings.%s is %v, want %v", key, s[key], v)
		}
	}
	codecs := s["video"].(map[string]any)["preferred_decoder_codecs"].([]any)
	if len(codecs) == 0 || len(codecs) > 4 {
		t.Errorf("preferred codecs are %v", codecs)
	}
	eventually(t, "the client closes the websocket once ICE is connected", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.wsClosed
	})
	if d := eval[float64](p, "perigee.peerConnection.getReceivers().find((r) => r.track.kind === 'video').jitterBufferTarget"); d != 0 {
		t.Errorf("jitterBufferTarget is %v", d)
	}
	p.until("perigee.stats().then((s) => s.framesDecoded > 10 && s.codec === 'VP8' && s.width === 320)")
	if eval[string](p, "document.activeElement.id") != "surface" {
		t.Error("the stream does not have the keyboard")
	}
}

func signIn(t *testing.T, g *gateway, p *tab) {
	p.open(g.URL + "/")
	p.until(shown("token"))
	p.do(chromedp.SendKeys("#token", "wrong\r"))
	p.until(shown("token-problem"))
	if text := eval[string](p, "document.getElementById('token-problem').textContent"); !strings.Contains(text, "not accepted") {
		t.Errorf("a wrong token is told as %q", text)
	}
	p.do(chromedp.SendKeys("#token", " secret \r"))
	p.until("document.querySelectorAll('#apps a').length === 2")
	p.do(chromedp.Reload())
	p.until("document.querySelectorAll('#apps a').length === 2")
	p.do(chromedp.Click("#forget"))
	p.until(shown("token"))
	if eval[bool](p, "'perigee.token' in sessionStorage") {
		t.Error("the forgotten token is still stored")
	}
}

func pageToken(t *testing.T, g *gateway, p *tab) {
	g.refusal = &refusal{403, map[string]any{"error": "this token may only create", "perigee": map[string]any{"code": "forbidden"}}}
	p.open(g.URL + "/#token=secret")
	p.until(shown("apps-note"))
	if text := eval[string](p, "document.getElementById('apps-note').textContent"); !strings.Contains(text, "one application only") {
		t.Errorf("a page token without its application is told %q", text)
	}
	if url := eval[string](p, "location.href"); strings.Contains(url, "secret") {
		t.Errorf("the token stays in the address: %s", url)
	}
}

func choose(t *testing.T, g *gateway, p *tab) {
	p.open(g.URL + "/?token=secret")
	p.until("document.querySelectorAll('#apps a').length === 2")
	p.do(chromedp.Click("#apps li:nth-child(2) a"))
	p.until(shown("play"))
	if got := eval[string](p, "document.getElementById('launch-title').textContent + location.search"); got != "Terminal?app=xterm" {
		t.Errorf("the choice shows %q", got)
	}
	p.do(chromedp.NavigateBack())
	p.until(shown("apps"))
}

func join(t *testing.T, g *gateway, p *tab) {
	p.open(g.URL + "/?session=" + sessionID + "&token=secret")
	p.until(shown("play"))
	p.do(chromedp.Click("#play"))
	p.until("perigee.state === 'live'")
	if len(g.creates) != 0 || len(g.joins) != 1 {
		t.Errorf("%d creates and %d joins", len(g.creates), len(g.joins))
	}
	if id := eval[string](p, "perigee.session.id"); id != sessionID {
		t.Errorf("joined %q", id)
	}
}

func leave(t *testing.T, g *gateway, p *tab) {
	goLive(g, p)
	p.do(chromedp.Click("#leave"))
	p.until(shown("again"))
	eventually(t, "the goodbye arrives", func() bool { return len(g.messages("stream::disconnect")) == 1 })
	if got := eval[string](p, "perigee.ended.reason"); got != "left" {
		t.Errorf("ended by %q", got)
	}
	if eval[bool](p, "!!document.querySelector('#surface video') || document.querySelectorAll('video').length > 0") {
		t.Error("the video stays on the page")
	}
	p.do(chromedp.Click("#rejoin"))
	p.until("perigee.state === 'live'")
	if len(g.joins) != 1 {
		t.Errorf("%d joins", len(g.joins))
	}
}

func busy(t *testing.T, g *gateway, p *tab) {
	g.refusal = noCapacity()
	p.open(g.URL + "/?app=demo&token=secret")
	p.until(shown("play"))
	p.do(chromedp.Click("#play"))
	ended(t, p, "Every machine is busy", "no_capacity", "12,400 are left", "drain", "smaller size")
}

// ended waits for the end and checks what it says.
func ended(t *testing.T, p *tab, wants ...string) {
	t.Helper()
	p.until(shown("ended-title"))
	text := eval[string](p, "document.getElementById('ended').innerText + document.getElementById('ended-refusals').innerHTML")
	for _, want := range wants {
		if want != "drain" && !strings.Contains(text, want) {
			t.Errorf("the end does not say %q:\n%s", want, text)
		}
	}
	if focus := eval[string](p, "document.activeElement.id"); focus != "ended-title" {
		t.Errorf("the focus is on %q", focus)
	}
}

func wrongToken(t *testing.T, g *gateway, p *tab) {
	p.open(g.URL + "/?app=demo&token=stale")
	p.until(shown("play"))
	p.do(chromedp.Click("#play"))
	ended(t, p, "not accepted", "The token is unknown.", "unauthorized")
}

func errorFrame(t *testing.T, g *gateway, p *tab) {
	g.socket = func(c *websocket.Conn) bool {
		b, _ := json.Marshal(map[string]any{"type": "error", "message": "the instance did not start: no such program"})
		_ = c.Write(context.Background(), websocket.MessageText, b)
		_, _, _ = c.Read(context.Background()) // until the client closes
		return true
	}
	p.open(g.URL + "/?app=demo&token=secret")
	p.until(shown("play"))
	p.do(chromedp.Click("#play"))
	ended(t, p, "could not be set up", "The instance did not start: no such program.", "signaling", sessionID)
}

func socketLost(t *testing.T, g *gateway, p *tab) {
	g.socket = func(c *websocket.Conn) bool {
		_ = c.Close(websocket.StatusInternalError, "going down")
		return true
	}
	p.open(g.URL + "/?app=demo&token=secret")
	p.until(shown("play"))
	p.do(chromedp.Click("#play"))
	ended(t, p, "could not be set up", "going down")
}

func oldServer(t *testing.T, g *gateway, p *tab) {
	g.discover = map[string]any{"type": "resp:discover", "max_api_version": 1}
	p.open(g.URL + "/?app=demo&token=secret")
	p.until(shown("play"))
	p.do(chromedp.Click("#play"))
	ended(t, p, "unsupported", "version 1")
}

func takenOver(t *testing.T, g *gateway, p *tab) {
	goLive(g, p)
	g.closePeer()
	ended(t, p, "Someone else is watching now", "taken_over")
}

func appExited(t *testing.T, g *gateway, p *tab) {
	goLive(g, p)
	g.set(func() { g.status, g.reason = "terminated", "app_exited" })
	g.closePeer()
	ended(t, p, "The application was closed", "app_exited")
}

func keyboardOnly(t *testing.T, g *gateway, p *tab) {
	p.open(g.URL + "/?app=demo&token=secret")
	p.until("document.activeElement.id === 'play'")
	p.do(chromedp.KeyEvent("\r"))
	p.until("perigee.state === 'live' && document.activeElement.id === 'surface'")
	// Ctrl+Alt+Shift gives the keyboard back, arrows move, Enter leaves.
	press(p, "ControlLeft", "Control", 2)
	press(p, "AltLeft", "Alt", 3)
	press(p, "ShiftLeft", "Shift", 11)
	p.until("document.activeElement.id === 'full'")
	for _, want := range []string{"lock", "type", "mute", "stats", "share", "leave"} {
		p.do(chromedp.KeyEvent("\u0303")) // right arrow
		if got := eval[string](p, "document.activeElement.id"); got != want {
			t.Fatalf("the right arrow went to %q, want %q", got, want)
		}
	}
	p.do(chromedp.KeyEvent("\r"))
	p.until(shown("again"))
}

func settingsFromURL(t *testing.T, g *gateway, p *tab) {
	p.open(g.URL + "/?app=demo&token=secret&size=640x360&fps=24&codec=vp8&joinable=1")
	p.until(shown("play"))
	p.do(chromedp.Click("#play"))
	p.until("perigee.state === 'live'")
	c := g.creates[0]
	want := map[string]any{"width": 640.0, "height": 360.0, "fps": 24.0, "density": 240.0}
	if !reflect.DeepEqual(c["screen"], want) || c["joinable"] != true {
		t.Errorf("the create was %v", c)
	}
	if !reflect.DeepEqual(c["perigee"], map[string]any{"codecs": []any{"VP8"}, "wait_s": 600.0}) {
		t.Errorf("the codec was asked for by %v", c["perigee"])
	}
}

func sound(t *testing.T, g *gateway, p *tab) {
	goLive(g, p)
	p.until("!perigee.audio.paused && perigee.audio.srcObject.getAudioTracks().length === 1")
	p.do(chromedp.Click("#mute"))
	if !eval[bool](p, "perigee.muted && document.getElementById('mute').getAttribute('aria-pressed') === 'true'") {
		t.Error("mute does not mute")
	}
	p.do(chromedp.Click("#mute"))
	if eval[bool](p, "perigee.muted") {
		t.Error("a second click does not bring the sound back")
	}
}

// shareLink opens what somebody shared: no token is asked for, and none stays
// in the address.
func shareLink(t *testing.T, g *gateway, p *tab) {
	p.open(g.URL + "/?session=" + sessionID + "#share=t")
	p.until(shown("play"))
	if label := eval[string](p, "document.getElementById('play-label').textContent"); label != "Watch" {
		t.Errorf("the button says %q", label)
	}
	if url := eval[string](p, "location.href"); strings.Contains(url, "share=") {
		t.Errorf("the token stays in the address: %s", url)
	}
	p.do(chromedp.Click("#play"))
	p.until("perigee.state === 'live'")
	if eval[bool](p, shown("share")) {
		t.Error("a guest is offered to share")
	}
	g.closePeer()
	p.until(shown("again"))
	if text := eval[string](p, "document.getElementById('ended-text').textContent"); !strings.Contains(text, "not shared with you any more") {
		t.Errorf("the end says %q", text)
	}
}
