package rtc

import (
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pion/transport/v4/vnet"
	pion "github.com/pion/turn/v3"
	"github.com/pion/webrtc/v4"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/media"
)

// internet is a virtual one: the server behind a 1:1 NAT, the client behind an
// ordinary one, and a share of the packets lost.
func internet(t *testing.T, lossPercent int) (server, client *vnet.Net) {
	t.Helper()
	log := media.PionLog(slog.New(slog.DiscardHandler))
	router := func(c vnet.RouterConfig) *vnet.Router {
		c.LoggerFactory, c.QueueSize = log, 4096
		r, err := vnet.NewRouter(&c)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	wan := router(vnet.RouterConfig{CIDR: "0.0.0.0/0", MinDelay: 5 * time.Millisecond})
	cloud := router(vnet.RouterConfig{CIDR: "10.0.0.0/24", StaticIPs: []string{"203.0.113.7/10.0.0.2"},
		NATType: &vnet.NATType{Mode: vnet.NATModeNAT1To1}})
	home := router(vnet.RouterConfig{CIDR: "192.168.0.0/24", StaticIPs: []string{"198.51.100.9"}, NATType: &vnet.NATType{
		MappingBehavior: vnet.EndpointAddrPortDependent, FilteringBehavior: vnet.EndpointAddrPortDependent}}) // symmetric
	host := func(r *vnet.Router, ip string) *vnet.Net {
		n, err := vnet.NewNet(&vnet.NetConfig{StaticIPs: []string{ip}})
		if err == nil {
			err = r.AddNet(n)
		}
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	server, client = host(cloud, "10.0.0.2"), host(home, "192.168.0.5")
	for _, r := range []*vnet.Router{cloud, home} {
		if err := wan.AddRouter(r); err != nil {
			t.Fatal(err)
		}
	}
	// By chance: every twentieth packet met the same ones again and again, whose
	// repetition comes every 100 ms as 40 others do.
	dice := rand.New(rand.NewPCG(1, 2))
	wan.AddChunkFilter(func(vnet.Chunk) bool { return dice.IntN(100) >= lossPercent }) // one goroutine calls it
	if err := wan.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = wan.Stop() })
	return server, client
}

func TestThroughNATsWithLoss(t *testing.T) {
	const parts = 3 // packets of feed's pictures of 3,010 bytes
	inside, outside := internet(t, 5)
	tr, err := NewTransport(TransportConfig{Ports: Ports{40000, 40000}, Net: inside,
		Advertise: []netip.Addr{netip.MustParseAddr("203.0.113.7")}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tr.Close() })
	// feed sends 2.4 Mb/s whatever the target is, and what may be sent again is a
	// share of the target: on a slow machine a lower one leaves too little.
	s := newServer(t, tr, func(c *PeerConfig) {
		c.Codecs, c.Limits = []api.Codec{api.VP8}, media.Limits{MinKbps: 2500, MaxKbps: 4000}
	})
	c := newClient(t, func(e *webrtc.SettingEngine) { e.SetNet(outside) })
	c.run(s)
	if err := s.peer.Offer(); err != nil {
		t.Fatal(err)
	}
	want(t, s.codec, "codec")
	wantState(t, s, StateConnected)
	// One keyframe at the start: what lies before one is of no use, and not sent again.
	feedKeys(t, s.peer, api.VP8, func(i int) bool { return i == 0 })
	var r *webrtc.TrackRemote
	for r == nil || r.Kind() != webrtc.RTPCodecTypeVideo {
		if r = want(t, c.tracks, "track"); r.Kind() == webrtc.RTPCodecTypeAudio {
			go read(r)
		}
	}
	// Without retransmission 86 of 100 pictures would be whole. The last ones may
	// still wait for theirs.
	const pictures, pending = 200, 60
	got := map[uint32]int{}
	var order []uint32
	for deadline := time.Now().Add(patience); len(order) < pictures; {
		p, _, err := r.ReadRTP()
		if err != nil {
			t.Fatal(err)
		}
		if got[p.Timestamp]++; got[p.Timestamp] == 1 {
			order = append(order, p.Timestamp)
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d pictures", len(order))
		}
	}
	whole := 0
	for _, ts := range order[:pictures-pending] {
		if got[ts] >= parts {
			whole++
		}
	}
	if whole*100 < (pictures-pending)*96 {
		t.Errorf("%d of %d pictures are whole", whole, pictures-pending)
	}
}

// The stream may use a relay of the operator's to be reached.
func TestOwnRelay(t *testing.T) {
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	relay, err := pion.NewServer(pion.ServerConfig{Realm: "x", LoggerFactory: media.PionLog(slog.New(slog.DiscardHandler)),
		AuthHandler: func(u, realm string, _ net.Addr) ([]byte, bool) {
			return pion.GenerateAuthKey(u, realm, "secret"), true
		},
		PacketConnConfigs: []pion.PacketConnConfig{{PacketConn: conn, RelayAddressGenerator: &pion.RelayAddressGeneratorStatic{
			RelayAddress: net.IPv4(127, 0, 0, 1), Address: "127.0.0.1"}}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = relay.Close() })
	tr := newTransport(t)
	s := newServer(t, tr, func(c *PeerConfig) {
		c.ICEServers = []api.ICEServer{{URLs: []string{"stun:127.0.0.1:1", "turn:" + conn.LocalAddr().String()}, Username: "u", Password: "secret"}}
	})
	if err := s.peer.Offer(); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(patience)
	for {
		select {
		case f := <-s.frames:
			if m, err := ParseMessage(f); err == nil && strings.Contains(m.Candidate.Line, "typ relay") {
				return
			}
		case <-deadline:
			t.Fatal("no candidate of the relay")
		}
	}
}
