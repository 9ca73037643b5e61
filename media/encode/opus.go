package encode

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/asticode/go-astiav"

	"github.com/perigee-cloud/perigee/media"
)

const (
	opusSamples = int(media.SampleRate * media.FrameDuration / time.Second) // of one channel in one packet
	// OpusBlock is the bytes of sound in one packet: 16-bit samples.
	OpusBlock = opusSamples * media.Channels * 2
	// opusKbps is where stereo music is transparent to most (RFC 7587, 3.1.1:
	// 64 to 128 for full-band stereo).
	opusKbps = 96
)

// Opus encodes sound: media.SampleRate, media.Channels, one packet for each
// media.FrameDuration. It is for one goroutine; Close frees it.
type Opus struct {
	ctx    *astiav.CodecContext
	frame  *astiav.Frame
	packet *astiav.Packet
	count  int64
}

// NewOpus opens an encoder: libopus in its low-delay mode (no speech
// detection, 2.5 ms of look-ahead).
func NewOpus() (*Opus, error) {
	astiav.SetLogLevel(astiav.LogLevelQuiet)
	codec := astiav.FindEncoderByName("libopus")
	if codec == nil {
		return nil, fmt.Errorf("FFmpeg has no encoder libopus: %w", ErrConfig)
	}
	o := &Opus{ctx: astiav.AllocCodecContext(codec), frame: astiav.AllocFrame(), packet: astiav.AllocPacket()}
	o.ctx.SetSampleRate(media.SampleRate)
	o.ctx.SetSampleFormat(astiav.SampleFormatS16)
	o.ctx.SetChannelLayout(astiav.ChannelLayoutStereo)
	o.ctx.SetTimeBase(astiav.NewRational(1, media.SampleRate))
	d := astiav.NewDictionary()
	defer d.Free()
	for key, value := range map[string]string{
		"application":    "lowdelay",
		"frame_duration": strconv.Itoa(int(media.FrameDuration / time.Millisecond)),
		"b":              strconv.Itoa(opusKbps * 1000),
		"vbr":            "on",
	} {
		if err := d.Set(key, value, 0); err != nil {
			o.Close()
			return nil, fmt.Errorf("set %s of libopus: %w", key, err)
		}
	}
	if err := o.ctx.Open(codec, d); err != nil {
		o.Close()
		return nil, fmt.Errorf("open encoder libopus: %w", err)
	}
	o.frame.SetSampleFormat(astiav.SampleFormatS16)
	o.frame.SetSampleRate(media.SampleRate)
	o.frame.SetChannelLayout(astiav.ChannelLayoutStereo)
	o.frame.SetNbSamples(opusSamples)
	if err := o.frame.AllocBuffer(0); err != nil {
		o.Close()
		return nil, fmt.Errorf("allocate sound: %w", err)
	}
	return o, nil
}

// Encode turns OpusBlock bytes of 16-bit little-endian stereo into one packet.
func (o *Opus) Encode(pcm []byte) ([]byte, error) {
	if len(pcm) != OpusBlock {
		return nil, fmt.Errorf("sound block of %d bytes, want %d", len(pcm), OpusBlock)
	}
	if !o.frame.IsWritable() {
		if err := o.frame.MakeWritable(); err != nil {
			return nil, fmt.Errorf("copy sound: %w", err)
		}
	}
	if err := o.frame.Data().SetBytes(pcm, 1); err != nil {
		return nil, fmt.Errorf("load sound: %w", err)
	}
	o.frame.SetPts(o.count)
	o.count += int64(opusSamples)
	if err := o.ctx.SendFrame(o.frame); err != nil {
		return nil, fmt.Errorf("encode with libopus: %w", err)
	}
	err := o.ctx.ReceivePacket(o.packet)
	if errors.Is(err, astiav.ErrEagain) {
		return nil, errors.New("libopus held a packet back")
	}
	if err != nil {
		return nil, fmt.Errorf("receive from libopus: %w", err)
	}
	b := o.packet.Data()
	o.packet.Unref()
	return b, nil
}

// Silence is a packet that stands for silence until the next one, however long:
// full-band CELT, 10 ms, stereo, and no data (RFC 6716, 3.1 and 2.1.9). After
// silence it decodes to silence, and a receiver takes what follows for a pause
// of the sender and not for loss.
func Silence() []byte { return []byte{30<<3 | 1<<2} }

// Close frees the encoder.
func (o *Opus) Close() {
	o.ctx.Free()
	o.frame.Free()
	o.packet.Free()
}
