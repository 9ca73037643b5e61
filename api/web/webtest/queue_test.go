package webtest

import (
	"context"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// TestPlayerWaitsInTheQueue holds that the player shows its place while every
// machine is busy, and the stream once there is room.
func TestPlayerWaitsInTheQueue(t *testing.T) {
	browser := newBrowser(t)
	g, p := newGateway(t), newTab(t, browser)
	g.queue = map[string]any{"position": 4, "length": 5}
	say, room := make(chan string), make(chan struct{})
	g.socket = func(c *websocket.Conn) bool {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		put := func(frame string) {
			if err := c.Write(ctx, websocket.MessageText, []byte(frame)); err != nil {
				t.Errorf("tell the page: %v", err)
			}
		}
		for {
			select {
			case frame := <-say:
				put(frame)
			case <-room:
				put(`{"type":"perigee.placed","stun_servers":[],"perigee":{"node":"node2","region":"eu-south","rank":2,"distance_km":12}}`)
				return false
			case <-ctx.Done():
				t.Error("the page was never given room")
				return true
			}
		}
	}
	p.open(g.URL + "/?app=demo&token=secret")
	p.until(`!document.getElementById("launch").hidden`)
	eval[any](p, `document.getElementById("play").click()`)
	say <- `{"type":"perigee.queue","position":3,"length":5,"eta_s":40}`
	p.until(`window.perigee.state === "queued" && document.getElementById("queue-text").innerText === "You are number 3 of 5, in about 40 seconds."`)
	p.until(`document.querySelector("[data-step=queued]").className === "now" && !document.querySelector("[data-step=queued]").hidden`)
	say <- `{"type":"perigee.queue","position":1,"length":4}`
	p.until(`document.getElementById("queue-text").innerText === "You are next."`)
	close(room)
	p.until(`window.perigee.state === "live"`)
	if node := eval[string](p, `window.perigee.session.node`); node != "node2" {
		t.Errorf("the page shows the node %q", node)
	}
	g.mu.Lock()
	asked, _ := g.creates[0]["perigee"].(map[string]any)
	g.mu.Unlock()
	if asked["wait_s"] != 600.0 {
		t.Errorf("the player asked to wait %v s", asked["wait_s"])
	}
}
