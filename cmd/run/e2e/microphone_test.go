package e2e

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/api/client"
	"github.com/perigee-cloud/perigee/cmd/run/site"
)

const beepHz = 880

// beep writes a WAV file of short tones, which no noise suppression takes for noise.
func beep(t *testing.T) string {
	t.Helper()
	const rate, seconds = 48_000, 2
	b := binary.LittleEndian.AppendUint32([]byte("RIFF"), 36+rate*seconds*2)
	b = binary.LittleEndian.AppendUint32(append(b, "WAVEfmt "...), 16)
	for _, v := range []uint16{1, 1, rate & 0xffff, rate >> 16, rate * 2 & 0xffff, rate * 2 >> 16, 2, 16} {
		b = binary.LittleEndian.AppendUint16(b, v) // PCM, one channel
	}
	b = binary.LittleEndian.AppendUint32(append(b, "data"...), rate*seconds*2)
	for i := range rate * seconds {
		v := 0.0
		if i%(rate/2) < rate/5 {
			v = 16_000 * math.Sin(2*math.Pi*beepHz*float64(i)/rate)
		}
		b = binary.LittleEndian.AppendUint16(b, uint16(int16(v)))
	}
	path := filepath.Join(t.TempDir(), "beep.wav")
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// hears gives the loudest that an instance's application heard of the tone, of
// the lines of its log from one on, and how many lines there are.
func (w *world) hears(t *testing.T, id string, from int) (loudest float64, lines int, err error) {
	t.Helper()
	out, err := w.CLI(t.Context(), "instance", "logs", id)
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(out) {
		var l float64
		if _, err := fmt.Sscanf(line, "hears %f", &l); err != nil {
			continue
		}
		if lines++; lines > from {
			loudest = max(loudest, l)
		}
	}
	return loudest, lines, nil
}

// A real browser's microphone is heard by an application that records from its
// default source, where its manifest says so, and only while it is open; an
// application whose manifest does not is sent nothing.
func TestMicrophone(t *testing.T) {
	w := newWorld(t)
	bin, err := site.Bin()
	if err != nil {
		t.Fatal(err)
	}
	admin, err := client.New(client.Config{Socket: filepath.Join(w.SchedulerData(), "admin.sock")})
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	for name, may := range map[string]bool{"listens": true, "deaf": false} {
		if _, err := admin.PutApplication(t.Context(), api.App{Name: name, ReadOnly: []string{bin},
			Command:     []string{filepath.Join(bin, "latencyapp"), "-hear", fmt.Sprint(beepHz)},
			Permissions: api.Permissions{Microphone: may}}); err != nil {
			t.Fatal(err)
		}
	}
	v := w.viewer(t, chromedp.Flag("use-fake-ui-for-media-stream", true), chromedp.Flag("use-fake-device-for-media-stream", true),
		chromedp.Flag("use-file-for-fake-audio-capture", beep(t)))
	defer v.Close()
	answered := func(want string) {
		t.Helper()
		eventually(t, 10*time.Second, func() error {
			got, err := site.Eval[string](v.Tab, "JSON.stringify(site.stream.devices)")
			if err == nil && !strings.Contains(got, want) {
				err = fmt.Errorf("the page hears %s of its devices, want %s", got, want)
			}
			return err
		})
	}
	o := connect(t, v, w.options("listens", map[string]any{"microphone": true, "camera": true}))
	answered(`"microphone":{"taken":true}`)
	answered(`"camera":{"taken":false,"reason":"cameras are not supported`)
	quiet := func() int {
		t.Helper()
		var n int
		eventually(t, 10*time.Second, func() error {
			_, from, err := w.hears(t, o.ID, 0)
			if err != nil {
				return err
			}
			time.Sleep(time.Second) // what must not be heard
			loudest, lines, err := w.hears(t, o.ID, from)
			if err == nil && (lines < from+3 || loudest > 0.001) {
				err = fmt.Errorf("%d lines, the loudest %.4f, of a microphone that is closed", lines-from, loudest)
			}
			n = lines
			return err
		})
		return n
	}
	// The browser takes the time of capture of both.
	if n := eval[int](t, v, `site.stream.peerConnection.currentLocalDescription.sdp.split("abs-capture-time").length - 1`); n != 2 {
		t.Errorf("abs-capture-time is agreed for %d of sound and picture", n)
	}
	n := quiet()
	begun := time.Now()
	eval[any](t, v, "site.stream.setMicrophone(true)")
	eventually(t, 10*time.Second, func() error {
		loudest, lines, err := w.hears(t, o.ID, n)
		if err == nil && loudest < 0.02 {
			err = fmt.Errorf("the application hears %.4f of the tone in %d lines", loudest, lines-n)
		}
		if err == nil {
			t.Logf("heard at level %.3f, %s after the microphone was opened", loudest, time.Since(begun).Round(10*time.Millisecond))
		}
		return err
	})
	eval[any](t, v, "site.stream.setMicrophone(false)")
	quiet()

	connect(t, v, w.options("deaf", map[string]any{"microphone": true}))
	answered("permissions.microphone")
	why := eval[string](t, v, "site.stream.setMicrophone(true).then(() => 'opened', (e) => e.code + ': ' + e.message)")
	if !strings.HasPrefix(why, "forbidden: ") || !strings.Contains(why, "permissions.microphone") {
		t.Errorf("a microphone that is not taken: %s", why)
	}
	if way := eval[string](t, v, `site.stream.peerConnection.getTransceivers().find((t) => t.receiver.track.kind === "audio").currentDirection`); way != "recvonly" {
		t.Errorf("sound goes %s", way)
	}
}
