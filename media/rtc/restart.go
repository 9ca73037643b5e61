package rtc

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/pion/webrtc/v4"

	"github.com/perigee-cloud/perigee/api"
)

// Restart looks for a way to the viewer anew (ICE restart, RFC 8445, 2.4): it
// sends an offer, which the viewer answers as the first one, then candidates.
// Keys, tracks and channels stay. Only where the server offered: the clients
// that offer themselves (version 1) know no second negotiation. An offer that
// was not answered yet is sent once more.
func (p *Peer) Restart() error {
	p.mu.Lock()
	refused := p.offered
	p.mu.Unlock()
	if refused || p.pc.CurrentRemoteDescription() == nil {
		return api.Invalidf("restart", "is for a connection that the server offered and the client answered")
	}
	if p.pc.SignalingState() == webrtc.SignalingStateHaveLocalOffer {
		p.repeat()
		return nil
	}
	p.mu.Lock()
	p.sent, p.described = false, false
	p.mine, p.early, p.candidates = nil, nil, 0
	p.mu.Unlock()
	offer, err := p.pc.CreateOffer(&webrtc.OfferOptions{ICERestart: true})
	if err != nil {
		return fmt.Errorf("make offer to restart: %w", err)
	}
	if err := p.pc.SetLocalDescription(offer); err != nil {
		return fmt.Errorf("apply own offer to restart: %w", err)
	}
	p.describe(TypeOffer, offer.SDP)
	return nil
}

// Heard is when something last came of the viewer; zero: not known, as while a
// restart goes on.
func (p *Peer) Heard() time.Time {
	pair, ok := p.pc.SCTP().Transport().ICETransport().GetSelectedCandidatePairStats()
	if !ok || pair.LastPacketReceivedTimestamp <= 0 {
		return time.Time{}
	}
	return pair.LastPacketReceivedTimestamp.Time()
}

// repeat sends the offer that waits for its answer once more, with all candidates.
func (p *Peer) repeat() {
	d := p.pc.PendingLocalDescription()
	if d == nil {
		return // answered meanwhile
	}
	p.cfg.Events.Signal(sdpFrame(TypeOffer, d.SDP))
	p.mu.Lock()
	mine := slices.Clone(p.mine)
	p.mu.Unlock()
	for _, f := range mine {
		p.cfg.Events.Signal(f)
	}
}

// SetAdvertise changes the addresses under which the port is reached from
// outside, for connections and restarts that begin after it. It says whether
// that is a change.
func (t *Transport) SetAdvertise(list []netip.Addr) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if slices.Equal(list, t.advertise) {
		return false
	}
	t.advertise = slices.Clone(list)
	return true
}
