package media

import (
	"encoding/binary"
	"fmt"
)

// MicrophoneSink is the sink of an instance's sound server into which its
// clients' microphones are played, where the application may hear them.
const MicrophoneSink = "perigee_microphone"

// MaxVoice bounds an Opus packet in bytes (RFC 6716, 3.4: one frame of 1,275,
// and what stands before it).
const MaxVoice = 1400

// Voice is one Opus packet of a viewer's microphone.
type Voice struct {
	Viewer uint32 // tells the microphones of one stream process apart
	Seq    uint16 // of RTP
	Data   []byte
}

const voiceHead = 4 + 2

// SendVoice writes a packet of a microphone.
func (c *Conn) SendVoice(v Voice) error {
	var head [voiceHead]byte
	binary.BigEndian.PutUint32(head[:], v.Viewer)
	binary.BigEndian.PutUint16(head[4:], v.Seq)
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.write(TypeVoice, head[:], v.Data)
}

// ParseVoice reads a TypeVoice payload; Data is a copy.
func ParseVoice(p []byte) (Voice, error) {
	if len(p) <= voiceHead || len(p) > voiceHead+MaxVoice {
		return Voice{}, fmt.Errorf("packet of a microphone of %d bytes: %w", len(p), ErrProtocol)
	}
	return Voice{
		Viewer: binary.BigEndian.Uint32(p), Seq: binary.BigEndian.Uint16(p[4:]),
		Data: append([]byte(nil), p[voiceHead:]...),
	}, nil
}
