package rtc

import (
	"sync"
	"testing"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/webrtc/v4"

	"github.com/perigee-cloud/perigee/media"
)

// fromNTP is the reverse of ntpTime.
func fromNTP(v uint64) time.Time {
	const since = 2_208_988_800
	return time.Unix(int64(v>>32)-since, int64(v&(1<<32-1)*uint64(time.Second)>>32))
}

// What a receiver makes of sound's and picture's timestamps by their sender
// reports is when each was captured, on one clock, though a picture is sent much
// later than sound of the same moment, and not always as much.
func TestSenderReportsShareTheClockOfCapture(t *testing.T) {
	c, s := newClient(t, nil), newServer(t, newTransport(t), nil)
	c.run(s)
	if err := s.peer.Offer(); err != nil {
		t.Fatal(err)
	}
	codec := want(t, s.codec, "codec")
	wantState(t, s, StateConnected)
	var mu sync.Mutex
	reports := map[webrtc.RTPCodecType]*rtcp.SenderReport{}
	for _, tr := range c.pc.GetTransceivers() {
		kind, r := tr.Kind(), tr.Receiver()
		go func() {
			for {
				packets, _, err := r.ReadRTCP()
				if err != nil {
					return // the connection is closed
				}
				for _, p := range packets {
					if sr, ok := p.(*rtcp.SenderReport); ok {
						mu.Lock()
						reports[kind] = sr
						mu.Unlock()
					}
				}
			}
		}()
	}
	delays := map[media.Kind]time.Duration{media.Video: 45 * time.Millisecond, media.Audio: 3 * time.Millisecond}
	rates := map[media.Kind]float64{media.Video: videoClock, media.Audio: 48000}
	kinds := map[media.Kind]webrtc.RTPCodecType{media.Video: webrtc.RTPCodecTypeVideo, media.Audio: webrtc.RTPCodecTypeAudio}
	start := media.Now()
	type sent struct {
		stamp    uint32
		captured time.Time
	}
	last := map[media.Kind]sent{}
	deadline := time.Now().Add(patience)
	for i := 0; ; i++ {
		for kind, late := range delays {
			if kind == media.Video && i%10 == 0 {
				late += 5 * time.Millisecond // and never before the picture that was sent before
			}
			captured := media.Now() - int64(late)
			data := []byte{0xfc, 0xff, 0xfe}
			if kind == media.Video {
				data = keyframe(codec, 500)
			}
			wall := time.Now().Add(-late)
			stamp, ok, err := s.peer.WriteFrame(media.Frame{Kind: kind, Key: true, PTS: time.Duration(captured - start + int64(time.Second)), Captured: captured, Data: data})
			if err != nil {
				t.Fatal(err)
			}
			if ok {
				last[kind] = sent{stamp, wall}
			}
		}
		mu.Lock()
		n := len(reports)
		mu.Unlock()
		if n == 2 && len(last) == 2 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d tracks of 2 have reports", n)
		}
		time.Sleep(10 * time.Millisecond)
	}
	mu.Lock()
	defer mu.Unlock()
	for kind, x := range last {
		r := reports[kinds[kind]]
		at := fromNTP(r.NTPTime).Add(time.Duration(float64(int32(x.stamp-r.RTPTime)) / rates[kind] * float64(time.Second)))
		if off := at.Sub(x.captured).Abs(); off > 5*time.Millisecond {
			t.Errorf("a receiver takes %s for captured %s off", kinds[kind], off)
		}
		if r.PacketCount == 0 || r.OctetCount < r.PacketCount {
			t.Errorf("%s: %d packets of %d bytes are reported", kinds[kind], r.PacketCount, r.OctetCount)
		}
	}
}
