package stream

import (
	"testing"
	"time"

	"github.com/pion/webrtc/v4"

	"github.com/perigee-cloud/perigee/media/turn"
)

func TestRelayOnly(t *testing.T) {
	secret := []byte("0123456789abcdef0123456789abcdef")
	for _, transport := range []string{"udp", "tcp"} {
		t.Run(transport, func(t *testing.T) {
			r := start(t)
			at := relayAt(t, r.dir.Run(), secret)
			user, password := turn.Credentials(secret, sessionID, 1, time.Now().Add(time.Hour))
			begun := time.Now()
			c := r.join("1-abc", func(cfg *webrtc.Configuration) {
				cfg.ICETransportPolicy = webrtc.ICETransportPolicyRelay
				cfg.ICEServers = []webrtc.ICEServer{{URLs: []string{"turn:" + at.String() + "?transport=" + transport},
					Username: user, Credential: password}}
			})
			c.watch()
			took := time.Since(begun)
			t.Logf("pictures through the relay after %s", took)
			pair, err := c.pc.SCTP().Transport().ICETransport().GetSelectedCandidatePair()
			if err != nil || pair == nil || pair.Local.Typ != webrtc.ICECandidateTypeRelay {
				t.Errorf("the way is %v, %v", pair, err)
			}
			if took > 2*time.Second {
				t.Errorf("it took %s: longer than ICE's own wait for relays", took)
			}
		})
	}
}
