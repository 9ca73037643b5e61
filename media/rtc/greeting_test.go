package rtc

import (
	"testing"

	"github.com/pion/webrtc/v4"
)

// What serves a channel speaks first where it has something to tell.
func TestChannelSpeaksFirst(t *testing.T) {
	tr := newTransport(t)
	failed := make(chan error, MaxChannels)
	s, c := newServer(t, tr, func(cfg *PeerConfig) {
		cfg.Events.Channel = func(c *Channel) {
			go func() { failed <- c.Send([]byte(c.Name)) }()
		}
	}), newClient(t, nil)
	got := make(chan string, MaxChannels)
	for i := range MaxChannels {
		dc, err := c.pc.CreateDataChannel("chan-"+string(rune('a'+i)), nil)
		if err != nil {
			t.Fatal(err)
		}
		dc.OnMessage(func(m webrtc.DataChannelMessage) { got <- string(m.Data) })
	}
	c.run(s)
	if err := s.peer.Offer(); err != nil {
		t.Fatal(err)
	}
	for range MaxChannels {
		if err := want(t, failed, "end of a send"); err != nil {
			t.Error(err)
		}
		want(t, got, "greeting")
	}
}
