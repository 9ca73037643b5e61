package stream

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pion/webrtc/v4"

	"github.com/perigee-cloud/perigee/edge/local"
	"github.com/perigee-cloud/perigee/edge/relay"
	"github.com/perigee-cloud/perigee/media/turn"
)

// startRelay runs the node's relay beside the stream.
func (r *rig) startRelay(secret []byte) netip.AddrPort {
	r.t.Helper()
	key := filepath.Join(r.t.TempDir(), "relay.key")
	if err := os.WriteFile(key, secret, 0o600); err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan netip.AddrPort, 1), make(chan error, 1)
	go func() {
		ended <- relay.Run(ctx, relay.Config{Listen: "127.0.0.1:0", SecretFile: key, Run: local.Run(filepath.Dir(string(r.dir))),
			Log: slog.New(slog.DiscardHandler), Ready: func(a netip.AddrPort) { ready <- a }})
	}()
	r.t.Cleanup(func() { cancel(); <-ended })
	select {
	case a := <-ready:
		return a
	case err := <-ended:
		r.t.Fatal(err)
		return netip.AddrPort{}
	}
}

func TestRelayOnly(t *testing.T) {
	secret := []byte("0123456789abcdef0123456789abcdef")
	for _, transport := range []string{"udp", "tcp"} {
		t.Run(transport, func(t *testing.T) {
			r := start(t)
			at := r.startRelay(secret)
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
