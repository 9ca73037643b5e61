package webtest

import (
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
)

// sdkPage is somebody else's page that uses the SDK as a module and as a
// plain script.
const sdkPage = `<!doctype html><title>SDK</title>
<script src="/static/perigee-sdk.iife.js"></script>
<script type="module">
import * as sdk from "/static/perigee-sdk.js";
window.sdk = sdk;
</script>
<style>body { margin: 0 } #box { position: absolute; left: 100px; top: 50px; width: 640px; height: 400px; background: #000 }</style>
<div id="box"></div>`

// TestSDK uses the SDK as somebody else's page would.
func TestSDK(t *testing.T) {
	browser := newBrowser(t)
	for name, test := range map[string]func(*testing.T, *gateway, *tab){
		"data channels echo": sdkChannels,
		"states in order, a video of one's own, clean end": sdkStates,
		"errors are clear":                     sdkErrors,
		"cancel while placing":                 sdkCancel,
		"leaving in a callback leaves nothing": sdkLeaves,
		"pure parts":                           sdkPure,
		"leaving the page says goodbye":        sdkGoodbye,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, p := newGateway(t), newTab(t, browser)
			p.open(g.URL + "/module.html")
			p.until("window.sdk && window.Perigee")
			test(t, g, p)
		})
	}
}

func sdkChannels(t *testing.T, g *gateway, p *tab) {
	got := eval[[]string](p, `(async () => {
		const got = [];
		const open = [];
		let done;
		const all = new Promise((r) => { done = r; });
		window.stream = new sdk.PerigeeStream({
			token: "secret", app: "demo", container: document.getElementById("box"), dataChannels: ["chat", "files"],
			screen: {width: 640, height: 360},
			onDataState: (name, is) => {
				if (!is) return;
				open.push(name);
				if (open.length === 2) {
					stream.sendData("chat", "hello");
					stream.sendData("files", new Uint8Array([1, 2, 250]));
				}
			},
			onData: (name, d) => {
				got.push(name + ":" + (typeof d === "string" ? d : [...new Uint8Array(d)].join()));
				if (got.length === 2) done();
			},
			onMessage: (type, d) => { window.greeting = type + JSON.stringify(d); },
		});
		await stream.connect();
		await all;
		return got.sort();
	})()`)
	if strings.Join(got, " ") != "chat:hello files:1,2,250" {
		t.Errorf("the channels echoed %q", got)
	}
	p.until(`window.greeting === 'greeting{"hello":"page"}'`)
	g.mu.Lock()
	channels := g.frames[1]["data_channels"].([]any)
	g.mu.Unlock()
	if len(channels) != 2 || channels[0] != "chat" || channels[1] != "files" {
		t.Errorf("settings name the channels %v", channels)
	}
	for expr, want := range map[string]string{
		`stream.sendData("nothing", "x")`: "dataChannels",
		`stream.connect()`:                "connects once",
	} {
		if msg := eval[string](p, `(async () => { try { await `+expr+`; return "" } catch (e) { return e.message } })()`); !strings.Contains(msg, want) {
			t.Errorf("%s gives %q, want it to say %q", expr, msg, want)
		}
	}
}

func sdkStates(t *testing.T, g *gateway, p *tab) {
	got := eval[string](p, `(async () => {
		const video = document.createElement("video");
		video.style.cssText = "width:320px;height:180px";
		document.body.append(video);
		const states = [];
		window.stats = 0;
		window.stream = new Perigee.PerigeeStream({
			url: location.origin + "/", pageToken: "secret", app: "demo", video, statsInterval: 100, audio: false,
			onState: (s) => states.push(s), onStats: (s) => { if (s.fps > 5) window.stats++; },
		});
		await stream.connect();
		while (window.stats < 2) await new Promise((r) => setTimeout(r, 20));
		await stream.disconnect();
		window.after = window.stats;
		return states.join() + " " + (video.srcObject === null) + document.body.contains(video);
	})()`)
	if got != "placing,starting,connecting,live,ended truetrue" {
		t.Errorf("it went %q", got)
	}
	eventually(t, "the goodbye arrives", func() bool { return len(g.messages("stream::disconnect")) == 1 })
	if g.frames[1]["enable_speaker"] != false {
		t.Error("sound was asked for")
	}
	left := eval[bool](p, `new Promise((r) => setTimeout(() => r(window.stats !== window.after), 300))`)
	if left {
		t.Error("statistics go on after the end")
	}
}

func sdkErrors(t *testing.T, g *gateway, p *tab) {
	g.refusal = noCapacity()
	got := eval[string](p, `(async () => {
		const said = [];
		const s = new sdk.PerigeeStream({token: "secret", app: "demo", container: document.getElementById("box"), onError: (e) => said.push("onError")});
		try { await s.connect(); } catch (e) { said.push(e.name, e.code, e.status, e.refusals.length, e.message); }
		return said.join("|") + "|" + s.state + "|" + document.querySelectorAll("#box video").length;
	})()`)
	if got != "onError|StreamError|no_capacity|404|2|no node can host the session now|ended|0" {
		t.Errorf("got %q", got)
	}
	for options, field := range map[string]string{
		`{app: "demo", container: document.body}`:                                          "token",
		`{token: "x", container: document.body}`:                                           "app",
		`{token: "x", app: "demo"}`:                                                        "container",
		`{token: "x", app: "demo", container: document.body, dataChannels: [..."abcdef"]}`: "dataChannels",
	} {
		if got := eval[string](p, `(() => { try { new sdk.PerigeeStream(`+options+`); return "" } catch (e) { return e.field + " " + e.code } })()`); got != field+" invalid" {
			t.Errorf("%s: %q, want field %s", options, got, field)
		}
	}
	got = eval[string](p, `(async () => {
		const s = new sdk.PerigeeStream({url: "http://127.0.0.1:1", token: "x", app: "demo", container: document.getElementById("box")});
		return s.connect().then(() => "", (e) => e.code);
	})()`)
	if got != "network" {
		t.Errorf("an unreachable gateway gives %q", got)
	}
}

func sdkCancel(t *testing.T, g *gateway, p *tab) {
	g.discover = nil // it never gets past starting
	eval[chromedp.Void](p, `{
		window.s = new sdk.PerigeeStream({token: "secret", app: "demo", container: document.getElementById("box")});
		window.end = s.connect().then(() => "live", (e) => e.code);
		undefined; // or the end is waited for here
	}`)
	eventually(t, "the discover arrives", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return len(g.frames) == 1
	})
	got := eval[string](p, `s.disconnect().then(() => end).then((code) => code + " " + s.ended.reason)`)
	if got != "aborted left" {
		t.Errorf("got %q", got)
	}
	eventually(t, "the websocket closes", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.wsClosed
	})
}

func sdkLeaves(t *testing.T, g *gateway, p *tab) {
	got := eval[string](p, `(async () => {
		const s = new sdk.PerigeeStream({token: "secret", app: "demo", container: document.getElementById("box"),
			onState: (state, stream) => { if (state === "starting") void stream.disconnect(); }});
		const code = await s.connect().then(() => "live", (e) => e.code);
		return code + " " + s.peerConnection;
	})()`)
	if got != "aborted null" || len(g.frames) != 0 {
		t.Errorf("got %q and %d frames", got, len(g.frames))
	}
}

func sdkPure(t *testing.T, _ *gateway, p *tab) {
	for expr, want := range map[string]string{
		`sdk.keyNumber({code: "KeyA", key: "a"})`:                                                                                     "4",
		`sdk.keyNumber({code: "KeyZ", key: "z"})`:                                                                                     "29",
		`sdk.keyNumber({code: "Digit1", key: "!"})`:                                                                                   "30",
		`sdk.keyNumber({code: "Digit0", key: "0"})`:                                                                                   "39",
		`sdk.keyNumber({code: "Slash", key: "/"})`:                                                                                    "56",
		`sdk.keyNumber({code: "F12", key: "F12"})`:                                                                                    "69",
		`sdk.keyNumber({code: "PageDown", key: "PageDown"})`:                                                                          "78",
		`sdk.keyNumber({code: "ArrowRight", key: "ArrowRight"})`:                                                                      "79",
		`sdk.keyNumber({code: "ControlRight", key: "Control"})`:                                                                       "83",
		`sdk.keyNumber({code: "AltRight", key: "Alt"})`:                                                                               "85",
		`sdk.keyNumber({code: "NumLock", key: "NumLock"})`:                                                                            "88",
		`sdk.keyNumber({code: "Numpad7", key: "7"})`:                                                                                  "36",
		`sdk.keyNumber({code: "Numpad7", key: "Home"})`:                                                                               "74",
		`sdk.keyNumber({code: "Lang1", key: "HangulMode"})`:                                                                           "undefined",
		`JSON.stringify(sdk.toPixel(0, 0, sdk.pictureBox({left: 0, top: 0, width: 1000, height: 500}, 100, 100), 100, 100))`:          `{"x":0,"y":0}`,
		`JSON.stringify(sdk.toPixel(500, 250, sdk.pictureBox({left: 0, top: 0, width: 1000, height: 500}, 100, 100), 100, 100))`:      `{"x":50,"y":50}`,
		`(() => { const s = new sdk.Steps(); return [s.add(3, 1, 0), s.add(1, 2, 800), s.add(9e9, 0, 0), s.add(0, 0, 0)].join() })()`: "1,5,5,0",
		`(() => { const s = new sdk.Steps(); return [s.add(40, 0, 0), s.add(-40, 0, 0), s.add(-10, 0, 0)].join() })()`:                "0,0,-1",
	} {
		if got := eval[string](p, "String("+expr+")"); got != want {
			t.Errorf("%s = %s, want %s", expr, got, want)
		}
	}
}

func sdkGoodbye(t *testing.T, g *gateway, p *tab) {
	eval[chromedp.Void](p, `(async () => {
		window.stream = new sdk.PerigeeStream({token: "secret", app: "demo", container: document.getElementById("box")});
		await stream.connect();
	})()`)
	openControl(g, p, "stream")
	p.open("about:blank")
	eventually(t, "the goodbye arrives", func() bool { return len(g.messages("stream::disconnect")) == 1 })
}
