package rtc

import (
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"

	"github.com/perigee-cloud/perigee/media"
)

// direction of an m-line of ours: sound goes both ways where the client is heard.
func (p *Peer) direction(kind webrtc.RTPCodecType) webrtc.RTPTransceiverDirection {
	if kind == webrtc.RTPCodecTypeAudio && p.cfg.Microphone {
		return webrtc.RTPTransceiverDirectionSendrecv
	}
	return webrtc.RTPTransceiverDirectionSendonly
}

// received is pion's, for each track of the client. What was not asked for is
// not read.
func (p *Peer) received(t *webrtc.TrackRemote, _ *webrtc.RTPReceiver) {
	if t.Kind() != webrtc.RTPCodecTypeAudio || !p.cfg.Microphone || p.cfg.Events.Voice == nil {
		p.cfg.Log.Debug("a track of the client is not taken", "kind", t.Kind())
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.hears {
		return
	}
	p.hears = true
	p.done.Go(func() { p.hear(t) })
}

// hear hands the microphone's packets on until the connection ends.
func (p *Peer) hear(t *webrtc.TrackRemote) {
	buf := make([]byte, 1500)
	for {
		n, _, err := t.Read(buf)
		if err != nil {
			return
		}
		var packet rtp.Packet
		if packet.Unmarshal(buf[:n]) != nil || len(packet.Payload) == 0 || len(packet.Payload) > media.MaxVoice {
			continue // padding, or nothing of ours
		}
		p.cfg.Events.Voice(packet.SequenceNumber, packet.Payload)
	}
}
