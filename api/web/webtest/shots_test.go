package webtest

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

var shots = flag.String("shots", "", "folder for screenshots of every view, to look at")

// TestShots shows every view at each size and in both colour schemes: nothing
// may reach beyond the window's width.
func TestShots(t *testing.T) {
	browser := newBrowser(t)
	for _, form := range []struct {
		name          string
		width, height int64
		scheme        string
	}{
		{"wide-light", 1280, 760, "light"}, {"wide-dark", 1280, 760, "dark"},
		{"phone-light", 390, 844, "light"}, {"phone-dark", 390, 844, "dark"},
	} {
		if *shots == "" && (form.name == "wide-dark" || form.name == "phone-light") {
			continue // the same layouts again
		}
		t.Run(form.name, func(t *testing.T) {
			t.Parallel()
			g := newGateway(t)
			p := newTab(t, browser)
			call(p, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
				Width: form.width, Height: form.height, DeviceScaleFactor: 1, Mobile: form.width < 500,
			})
			call(p, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
				{Name: "prefers-color-scheme", Value: form.scheme}, {Name: "prefers-reduced-motion", Value: "reduce"},
			}})
			shot := func(view string) {
				t.Helper()
				if over := eval[float64](p, "document.documentElement.scrollWidth - innerWidth"); over > 0 {
					t.Errorf("%s is %v pixels too wide", view, over)
				}
				if over := eval[float64](p, "document.documentElement.scrollHeight - innerHeight"); over > 0 && form.width > 500 && view != "settings" && view != "ended" {
					t.Errorf("%s is %v pixels too high", view, over)
				}
				if *shots == "" {
					return
				}
				png, err := chromedp.Run(p.ctx, chromedp.CaptureScreenshot())
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(*shots, view+"-"+form.name+".png"), png, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			p.open(g.URL + "/")
			p.until(shown("token"))
			shot("sign-in")
			p.open(g.URL + "/?token=secret")
			p.until("document.querySelectorAll('#apps a').length === 2")
			shot("choose")
			p.do(chromedp.Click("#apps li:first-child a"))
			p.until(shown("play"))
			shot("launch")
			p.do(chromedp.Click("#settings summary"))
			shot("settings")
			g.set(func() { g.discover = nil })
			p.do(chromedp.Click("#play"))
			p.until("perigee.state === 'starting'")
			shot("progress")
			p.do(chromedp.Click("#cancel"))
			p.until(shown("play"))
			g.set(func() {
				g.discover = map[string]any{"type": "resp:discover", "max_api_version": 2}
				g.refusal = noCapacity()
			})
			p.do(chromedp.Click("#play"))
			p.until(shown("again"))
			shot("ended")
			g.set(func() { g.refusal = nil })
			p.do(chromedp.Click("#again"))
			p.until("perigee.state === 'live'")
			eval[chromedp.Void](p, "document.getElementById('stats').click()")
			if *shots != "" {
				p.until("document.querySelectorAll('#numbers dd').length > 8 && Number(document.querySelector('#numbers dd').textContent) > 5")
			}
			shot("live")
			eval[chromedp.Void](p, "document.getElementById('share').click()")
			eval[chromedp.Void](p, "document.getElementById('share-make').click()")
			p.until("document.querySelectorAll('#shares li').length === 1")
			shot("sharing")
		})
	}
}

func noCapacity() *refusal {
	return &refusal{404, map[string]any{
		"error": "no node can host the session now",
		"perigee": map[string]any{"code": "no_capacity", "refusals": []any{
			map[string]any{"node": "4hcskqzm0aeh1t2b", "region": "eu-north", "code": "encoder", "detail": "needs 216,000 macroblocks per second, 12,400 are left"},
			map[string]any{"node": "9wz1t0mmb3c6k5ra", "region": "eu-west", "code": "drain", "detail": "takes no new sessions"},
		}},
	}}
}
