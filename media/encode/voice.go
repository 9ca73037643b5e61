package encode

/*
#cgo pkg-config: opus
#include <opus.h>
*/
import "C"

import (
	"fmt"
	"time"

	"github.com/perigee-cloud/perigee/media"
)

// voiceMost is the samples of the longest Opus packet, 120 ms (RFC 6716, 3.2.5).
const voiceMost = int(media.SampleRate * 120 * time.Millisecond / time.Second)

// Voice decodes a microphone's Opus packets to one channel of media.SampleRate.
// It is libopus's own decoder: FFmpeg's wrapper neither conceals what was lost
// nor reads the copy of it that the next packet may hold. It is for one
// goroutine; Close frees it.
type Voice struct {
	dec *C.OpusDecoder
	pcm []int16
}

// NewVoice opens a decoder.
func NewVoice() (*Voice, error) {
	var fault C.int
	dec := C.opus_decoder_create(media.SampleRate, 1, &fault)
	if dec == nil || fault != C.OPUS_OK {
		return nil, fmt.Errorf("open decoder libopus: code %d", int(fault))
	}
	return &Voice{dec: dec, pcm: make([]int16, voiceMost)}, nil
}

// Decode gives a packet's samples, valid until the next call.
func (v *Voice) Decode(packet []byte) ([]int16, error) {
	if len(packet) == 0 {
		return nil, fmt.Errorf("empty packet of a microphone: %w", media.ErrProtocol)
	}
	return v.decode(packet, voiceMost, 0)
}

// Conceal gives samples in place of a lost packet of that many: from the copy in
// the packet after it, or without one (nil) from what was heard before.
func (v *Voice) Conceal(next []byte, samples int) ([]int16, error) {
	// libopus takes multiples of 2.5 ms there.
	const step = media.SampleRate / 400
	return v.decode(next, min(max(samples/step*step, step), voiceMost), 1)
}

func (v *Voice) decode(packet []byte, samples int, fec C.int) ([]int16, error) {
	var data *C.uchar
	if len(packet) > 0 {
		data = (*C.uchar)(&packet[0])
	} else {
		fec = 0
	}
	n := C.opus_decode(v.dec, data, C.opus_int32(len(packet)), (*C.opus_int16)(&v.pcm[0]), C.int(samples), fec)
	if n < 0 {
		return nil, fmt.Errorf("decode sound: libopus says %d", int(n))
	}
	return v.pcm[:n], nil
}

// Close frees the decoder.
func (v *Voice) Close() {
	C.opus_decoder_destroy(v.dec)
	v.dec = nil
}
