package rtc

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/pion/sdp/v3"
	"github.com/pion/webrtc/v4"

	"github.com/perigee-cloud/perigee/api"
)

// Offer makes the server's offer (version 2 of the signalling) and sends it,
// then the candidates.
func (p *Peer) Offer() error {
	// The data channel puts the application m-line into the offer, without which
	// the client's own channels would never open. It is negotiated out of band,
	// so that the client sees nothing of it.
	negotiated, id := true, uint16(1022)
	if _, err := p.pc.CreateDataChannel("perigee", &webrtc.DataChannelInit{Negotiated: &negotiated, ID: &id}); err != nil {
		return fmt.Errorf("make data channel: %w", err)
	}
	for _, t := range []*track{p.audio, p.video} {
		if t == nil {
			continue
		}
		tr, err := p.pc.AddTransceiverFromTrack(t, webrtc.RTPTransceiverInit{Direction: p.direction(t.kind)})
		if err != nil {
			return fmt.Errorf("add %s: %w", t.kind, err)
		}
		p.listen(tr.Sender())
	}
	if p.audio == nil && p.cfg.Microphone {
		if _, err := p.pc.AddTransceiverFromKind(webrtc.RTPCodecTypeAudio, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionRecvonly}); err != nil {
			return fmt.Errorf("add microphone: %w", err)
		}
	}
	offer, err := p.pc.CreateOffer(nil)
	if err != nil {
		return fmt.Errorf("make offer: %w", err)
	}
	if err := p.pc.SetLocalDescription(offer); err != nil {
		return fmt.Errorf("apply own offer: %w", err)
	}
	p.describe(TypeOffer, offer.SDP)
	return nil
}

// Answered takes the client's answer.
func (p *Peer) Answered(text string) error {
	if p.pc.SignalingState() != webrtc.SignalingStateHaveLocalOffer {
		return api.Invalidf("answer", "came without an offer")
	}
	if err := p.pc.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeAnswer, SDP: text}); err != nil {
		return api.Invalidf("answer", "cannot be used: %v", err)
	}
	return p.flush()
}

// Offered takes the client's offer (version 1) and sends the answer, then the
// candidates. What the offer has room for is sent.
func (p *Peer) Offered(text string) error {
	p.mu.Lock()
	again := p.offered || p.sent
	p.offered = true
	p.mu.Unlock()
	if again {
		return api.Invalidf("offer", "came a second time")
	}
	var d sdp.SessionDescription
	if err := d.UnmarshalString(text); err != nil {
		return api.Invalidf("offer", "cannot be read: %v", err)
	}
	var audio, video bool
	for _, m := range d.MediaDescriptions {
		audio = audio || m.MediaName.Media == "audio"
		video = video || m.MediaName.Media == "video"
	}
	if err := p.pc.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeOffer, SDP: text}); err != nil {
		return api.Invalidf("offer", "cannot be used: %v", err)
	}
	for _, t := range []*track{p.audio, p.video} {
		if t == nil || t.kind == webrtc.RTPCodecTypeAudio && !audio || t.kind == webrtc.RTPCodecTypeVideo && !video {
			continue
		}
		// AddTrack, so that the track takes the client's own m-line.
		s, err := p.pc.AddTrack(t)
		if err != nil {
			return fmt.Errorf("add %s: %w", t.kind, err)
		}
		p.listen(s)
	}
	answer, err := p.pc.CreateAnswer(nil)
	if err != nil {
		return api.Invalidf("offer", "cannot be answered: %v", err)
	}
	if err := p.pc.SetLocalDescription(answer); err != nil {
		return api.Invalidf("offer", "cannot be answered: %v", err)
	}
	p.describe(TypeAnswer, answer.SDP)
	return p.flush()
}

// describe sends the own description and what candidates were found meanwhile.
func (p *Peer) describe(kind, text string) {
	p.cfg.Events.Signal(sdpFrame(kind, text))
	p.mu.Lock()
	held := p.held
	p.held, p.sent = nil, true
	p.mu.Unlock()
	for _, f := range held {
		p.cfg.Events.Signal(f)
	}
}

// found is called for each candidate of ours.
func (p *Peer) found(c *webrtc.ICECandidate) {
	if c == nil {
		return
	}
	line := c.ToJSON().Candidate
	lines := []string{line}
	for i, a := range p.t.outside() {
		if l, ok := seenFromOutside(*c, line, a, i); ok {
			lines = append(lines, l)
		}
	}
	mid := p.firstMid()
	p.mu.Lock()
	var now [][]byte
	for _, l := range lines {
		f := candidateFrame(l, mid)
		p.mine = append(p.mine, f)
		if p.sent {
			now = append(now, f)
		} else {
			p.held = append(p.held, f)
		}
	}
	p.mu.Unlock()
	for _, f := range now {
		p.cfg.Events.Signal(f)
	}
}

// seenFromOutside gives the line of a host candidate as the 1:1 NAT in front of
// this host shows it. Checks that arrive there reach the same socket.
func seenFromOutside(c webrtc.ICECandidate, line string, outside netip.Addr, n int) (string, bool) {
	own, err := netip.ParseAddr(c.Address)
	if err != nil || c.Typ != webrtc.ICECandidateTypeHost || own.IsLoopback() || own.Is4() != outside.Is4() {
		return "", false
	}
	f := strings.Fields(line)
	if len(f) < 6 {
		return "", false
	}
	f[0] += strconv.Itoa(n + 1) // another foundation: another way
	f[4] = outside.String()
	return strings.Join(f, " "), true
}

func (p *Peer) firstMid() string {
	d := p.pc.LocalDescription()
	if d == nil {
		return "0"
	}
	_, after, ok := strings.Cut(d.SDP, "a=mid:")
	if !ok {
		return "0"
	}
	mid, _, _ := strings.Cut(after, "\r\n")
	return mid
}

// AddCandidate takes a candidate of the client; those that come before its
// description wait. More than 64 are refused.
func (p *Peer) AddCandidate(c Candidate) error {
	if c.Line == "" {
		return nil
	}
	p.mu.Lock()
	p.candidates++
	if p.candidates > maxCandidates {
		p.mu.Unlock()
		return api.Invalidf("candidate", "at most %d are taken", maxCandidates)
	}
	if !p.described {
		p.early = append(p.early, c)
		p.mu.Unlock()
		return nil
	}
	p.mu.Unlock()
	return p.add(c)
}

func (p *Peer) add(c Candidate) error {
	if err := p.pc.AddICECandidate(webrtc.ICECandidateInit{Candidate: c.Line, SDPMid: c.Mid, SDPMLineIndex: c.Index}); err != nil {
		return api.Invalidf("candidate", "cannot be used: %v", err)
	}
	return nil
}

// flush adds the candidates that came before the client's description.
func (p *Peer) flush() error {
	p.mu.Lock()
	early := p.early
	p.early, p.described = nil, true
	p.mu.Unlock()
	for _, c := range early {
		if err := p.add(c); err != nil {
			return err
		}
	}
	return nil
}
