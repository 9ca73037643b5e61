package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/cmd/run/site"
)

// shareBy makes a share with the command line and gives its link's token.
func (w *world) shareBy(t *testing.T, session string, flags ...string) (api.ShareView, string) {
	t.Helper()
	out, err := w.CLI(t.Context(), append([]string{"session", "share", session, "--json"}, flags...)...)
	if err != nil {
		t.Fatal(err)
	}
	var x api.ShareView
	if err := json.Unmarshal([]byte(out), &x); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	u, err := url.Parse(x.URL)
	if err != nil {
		t.Fatal(err)
	}
	return x, u.Query().Get("token")
}

func watching(t *testing.T, v *site.Viewer, want string) {
	t.Helper()
	eventually(t, 5*time.Second, func() error {
		got, err := site.Eval[string](v.Tab, "site.stream.viewers ? site.stream.viewers.count + ' ' + site.stream.viewers.role : ''")
		if err == nil && got != want {
			err = fmt.Errorf("the page hears %q of its viewers, want %q", got, want)
		}
		return err
	})
}

// press sends a key from a page.
func press(t *testing.T, v *site.Viewer) {
	t.Helper()
	eval[bool](t, v, `(() => {
		for (const type of ["keydown", "keyup"])
			site.stream.surface.dispatchEvent(new KeyboardEvent(type, {code: "KeyQ", key: "q", bubbles: true, cancelable: true}));
		return true;
	})()`)
}

// Others watch beside the session's client, from the same encode; what they may
// do the node decides, and a share that is taken back cuts them.
func TestShare(t *testing.T) {
	w := newWorld(t)
	owner := w.viewer(t)
	defer owner.Close()
	o := connect(t, owner, w.options("latency", map[string]any{"codecs": []string{"VP8"}}))
	moves(t, owner)

	_, watch := w.shareBy(t, o.ID, "--description", "Ann")
	drive, token := w.shareBy(t, o.ID, "--control", "--expiry", "1h")
	watcher, driver := w.viewer(t), w.viewer(t)
	defer watcher.Close()
	defer driver.Close()
	begun := time.Now()
	connect(t, watcher, map[string]any{"sessionId": o.ID, "shareToken": watch})
	t.Logf("a guest's first picture after %s", time.Since(begun).Round(time.Millisecond))
	connect(t, driver, map[string]any{"sessionId": o.ID, "shareToken": token})
	for _, v := range []*site.Viewer{watcher, driver, owner} {
		moves(t, v)
	}
	watching(t, owner, "3 control")
	watching(t, watcher, "3 viewer")
	watching(t, driver, "3 control")

	before := read(t, owner, anything)
	press(t, watcher)
	press(t, driver)
	pressed := func(c cells) error {
		if c.Counter != before.Counter+1 || c.Kind != 1 {
			return fmt.Errorf("counter %d of kind %d, want %d of kind 1", c.Counter, c.Kind, before.Counter+1)
		}
		return nil
	}
	for _, v := range []*site.Viewer{watcher, driver, owner} {
		read(t, v, pressed)
	}

	if _, err := w.CLI(t.Context(), "share", "delete", drive.ID); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, func() error {
		state, err := site.Eval[string](driver.Tab, "site.stream.state")
		if err == nil && state != "ended" {
			err = errors.New("the revoked guest still watches")
		}
		return err
	})
	watching(t, owner, "2 control")
	if _, err := driver.Connect(map[string]any{"sessionId": o.ID, "shareToken": token}); err == nil || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("a share that was taken back lets in: %v", err)
	}
	moves(t, watcher)
	moves(t, owner)
	list, err := w.CLI(t.Context(), "share", "list", "--session-id", o.ID)
	if err != nil || !strings.Contains(list, "Ann") || strings.Contains(list, drive.ID) {
		t.Errorf("shares: %s, %v", list, err)
	}
}
