package edge

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/local"
	"github.com/perigee-cloud/perigee/media"
)

// wayOut accounts what leaves the machine.
type wayOut struct {
	operator int // Mb/s, the operator's; 0 = the interfaces' own
	// streams gives the bytes that our streams have sent; nil: nothing is told of
	// others' share.
	streams func() uint64

	sent uint64 // at the last reading
	at   time.Time

	// The foreign part is taken over foreignEvery: streams tell their bytes once a
	// second, so that the difference over one second is noise.
	then, ours uint64
	looked     time.Time
	foreign    int // percent
}

// uplink gives the used share of the way out since the last call, what of it is
// none of our streams', and its speed; zeros where that is unknown.
func (m *procMeter) uplink(now time.Time) (used, foreign, mbps int) {
	sent, mbps, err := m.interfaces()
	if err != nil {
		return 0, 0, 0
	}
	w := &m.way
	if w.operator > 0 {
		mbps = w.operator
	}
	share := func(bytes uint64, since time.Duration) int {
		if mbps == 0 || since <= 0 {
			return 0
		}
		return int(min(float64(bytes)*8/since.Seconds()/float64(mbps)/1e6*100, 100))
	}
	if w.sent > 0 && sent >= w.sent {
		used = share(sent-w.sent, now.Sub(w.at))
	}
	w.sent, w.at = sent, now
	if w.streams != nil && now.Sub(w.looked) >= foreignEvery {
		ours := w.streams()
		w.foreign = 0
		if w.then > 0 && sent >= w.then {
			gone := sent - w.then
			w.foreign = share(gone-min(ours-w.ours, gone), now.Sub(w.looked))
		}
		w.then, w.ours, w.looked = sent, ours, now
	}
	return used, min(w.foreign, used), mbps
}

// interfaces gives the bytes that left by all interfaces but the loopback, and
// their speed in Mb/s, as far as they say.
func (m *procMeter) interfaces() (sent uint64, mbps int, err error) {
	b, err := os.ReadFile(m.root + "/net/dev")
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(b)) {
		name, rest, ok := strings.Cut(line, ":")
		f := strings.Fields(rest)
		name = strings.TrimSpace(name)
		const out = 8
		if !ok || len(f) <= out || name == "lo" {
			continue
		}
		// Bridges and virtual pairs carry what a device carries again.
		if _, err := os.Stat(filepath.Join(m.sys, "class/net", name, "device")); err != nil {
			continue
		}
		n, err := strconv.ParseUint(f[out], 10, 64)
		if err != nil {
			continue
		}
		sent += n
		if speed, err := os.ReadFile(filepath.Join(m.sys, "class/net", name, "speed")); err == nil {
			if v, err := strconv.Atoi(strings.TrimSpace(string(speed))); err == nil && v > 0 {
				mbps += v
			}
		}
	}
	return sent, mbps, nil
}

// carried is how many macroblocks per second of streams at their highest bitrate
// the rest of the way out carries; ok is false when its speed is unknown.
func (l Load) carried() (macroblocks uint64, ok bool) {
	if l.UplinkMbps == 0 {
		return 0, false
	}
	hd := api.Screen{Width: 1280, Height: 720, FPS: 60} // bitrates grow with the macroblocks
	left := uint64(l.UplinkMbps) * 1000 * uint64(100-min(max(l.Uplink, 0), 100)) / 100
	return left * api.Macroblocks(hd.Width, hd.Height, hd.FPS) / uint64(media.BitrateLimits(hd).MaxKbps), true
}

// sentBy adds what a stream has sent since it last told. What it had sent before
// it was first heard of is not counted.
func (a *Agent) sentBy(s local.StreamState, last *uint64, heard *bool) {
	if *heard && s.SentBytes > *last {
		a.sentBytes.Add(s.SentBytes - *last)
	}
	*last, *heard = s.SentBytes, true
}
