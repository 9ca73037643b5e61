package rtc

import (
	"time"

	"github.com/pion/rtcp"

	"github.com/perigee-cloud/perigee/media"
)

// reportEvery is how often each track says which of its timestamps is now (RTCP
// sender reports, RFC 3550, 6.4.1).
const reportEvery = time.Second

// ntpTime is a time in seconds since 1900, 32.32 bits.
func ntpTime(t time.Time) uint64 {
	const since = 2_208_988_800 // seconds from 1900 to 1970
	return uint64(t.Unix()+since)<<32 | uint64(t.Nanosecond())<<32/uint64(time.Second)
}

// counted is what a track has sent, and which of its timestamps was captured when.
type counted struct {
	packets, octets uint32
	stamp           uint32
	captured        int64 // monotonic, ns; 0 = nothing yet
}

// frame takes note of one that went out.
func (c *counted) frame(stamp uint32, captured int64) {
	if captured == 0 {
		captured = media.Now()
	}
	c.stamp, c.captured = stamp, captured
}

// report says which timestamp of the track is now, had it been captured now. It
// is the time of capture and not, as pion's own has it, of sending: a picture
// takes many times longer to encode than a block of sound, and a receiver would
// put the two that much apart.
func (t *track) report(mono int64, now time.Time) *rtcp.SenderReport {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.out == nil || t.sums.captured == 0 {
		return nil
	}
	since := (mono - t.sums.captured) / 1000 // µs
	return &rtcp.SenderReport{SSRC: t.ssrc, NTPTime: ntpTime(now), RTPTime: t.sums.stamp + uint32(since*int64(t.clock.rate)/1_000_000),
		PacketCount: t.sums.packets, OctetCount: t.sums.octets}
}

// report tells the viewer the clocks of sound and picture, when that is due.
func (p *Peer) report(now time.Time) {
	if !p.connected.Load() || now.Sub(p.reported) < reportEvery {
		return
	}
	p.reported = now
	var list []rtcp.Packet
	mono, wall := media.Now(), time.Now() // a tick's own time is of when it was due
	for _, t := range []*track{p.audio, p.video} {
		if t == nil {
			continue
		}
		if r := t.report(mono, wall); r != nil {
			list = append(list, r)
		}
	}
	if len(list) == 0 {
		return
	}
	if err := p.pc.WriteRTCP(list); err != nil {
		p.cfg.Log.Debug("sender reports not sent", "error", err)
	}
}
