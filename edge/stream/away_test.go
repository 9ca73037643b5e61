package stream

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pion/webrtc/v4"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/local"
	"github.com/perigee-cloud/perigee/edge/relay"
	"github.com/perigee-cloud/perigee/media/turn"
)

// relayAt runs the relay of a node with a run directory.
func relayAt(t *testing.T, run local.Run, secret []byte) netip.AddrPort {
	t.Helper()
	key := filepath.Join(t.TempDir(), "relay.key")
	if err := os.WriteFile(key, secret, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan netip.AddrPort, 1), make(chan error, 1)
	go func() {
		ended <- relay.Run(ctx, relay.Config{Listen: "127.0.0.1:0", SecretFile: key, Run: run,
			Log: slog.New(slog.DiscardHandler), Ready: func(a netip.AddrPort) { ready <- a }})
	}()
	t.Cleanup(func() { cancel(); <-ended })
	select {
	case a := <-ready:
		return a
	case err := <-ended:
		t.Fatal(err)
		return netip.AddrPort{}
	}
}

// The viewer's only way is the relay of another node, which knows nothing of the
// session: the stream process meets it there.
func TestThroughAnotherNodesRelay(t *testing.T) {
	secret := []byte("the secret of another node ......")
	run := local.Run(t.TempDir())
	if err := run.SetAddresses([]string{"198.51.100.7"}); err != nil { // nothing leads back from there
		t.Fatal(err)
	}
	at := relayAt(t, run, secret)
	expiry := time.Now().Add(time.Hour)
	streamUser, streamPassword := turn.StreamCredentials(secret, sessionID, 1, expiry)
	r := start(t, func(_ *Config, spec *api.Spec) {
		spec.ICEServers = []api.ICEServer{{URLs: []string{"turn:" + at.String() + "?transport=udp"}, Username: streamUser, Password: streamPassword}}
	})
	for _, transport := range []string{"udp", "tcp"} {
		t.Run(transport, func(t *testing.T) {
			user, password := turn.Credentials(secret, sessionID, 1, expiry)
			begun := time.Now()
			c := r.join("1-"+transport, func(cfg *webrtc.Configuration) {
				cfg.ICETransportPolicy = webrtc.ICETransportPolicyRelay
				cfg.ICEServers = []webrtc.ICEServer{{URLs: []string{"turn:" + at.String() + "?transport=" + transport}, Username: user, Credential: password}}
			})
			c.watch()
			took := time.Since(begun)
			t.Logf("pictures through another node's relay after %s", took)
			pair, err := c.pc.SCTP().Transport().ICETransport().GetSelectedCandidatePair()
			if err != nil || pair == nil || pair.Local.Typ != webrtc.ICECandidateTypeRelay || pair.Remote.Typ != webrtc.ICECandidateTypeRelay {
				t.Errorf("the way is %v, %v", pair, err)
			}
			if took > 2*time.Second {
				t.Errorf("it took %s: longer than ICE's own wait for relays", took)
			}
			c.leave()
		})
	}
}

// Another node's relay that is gone delays neither the viewer nor the end.
func TestAnotherNodesRelayIsGone(t *testing.T) {
	silent, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	user, password := turn.StreamCredentials([]byte("0123456789abcdef"), sessionID, 1, time.Now().Add(time.Hour))
	r := start(t, func(_ *Config, spec *api.Spec) {
		spec.ICEServers = []api.ICEServer{{URLs: []string{"turn:" + silent.LocalAddr().String() + "?transport=udp"}, Username: user, Password: password}}
	})
	begun := time.Now()
	c := r.join("1-abc")
	c.watch()
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("pictures after %s", took)
	}
	if err := silent.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := silent.ReadFrom(make([]byte, 2048)); err != nil {
		t.Errorf("the relay was not asked: %v", err)
	}
	begun = time.Now()
	if err := r.daemon.Send(local.Message{Kind: local.KindStop}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-r.ended:
	case <-time.After(patience):
		t.Fatal("the stream does not end")
	}
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("the end took %s", took)
	}
}
