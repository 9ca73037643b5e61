package encoder

import (
	"encoding/binary"
	"io"
	"math"
	"os/exec"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/media"
	"github.com/perigee-cloud/perigee/media/encode"
)

// microphoneModules is the instance's own script for the microphone
// (edge/instance/sound.go).
const microphoneModules = "load-module module-null-sink sink_name=" + media.MicrophoneSink + " rate=48000 channels=1 norewinds=1\n" +
	"load-module module-remap-source source_name=microphone master=" + media.MicrophoneSink + ".monitor\n" +
	"set-default-source microphone\n"

// listen is an application that records from the default source: it gives the
// level of a tone in each 10 ms, with when it came.
func listen(t *testing.T, server string, hz float64) <-chan heard {
	t.Helper()
	cmd := exec.Command("parec", "--server="+server, "--raw", "--format=s16le", "--rate=48000", "--channels=1", "--latency-msec=10")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	start(t, cmd)
	c := make(chan heard, 4096)
	go func() {
		buf := make([]byte, 960)
		for {
			if _, err := io.ReadFull(out, buf); err != nil {
				close(c)
				return
			}
			select {
			case c <- heard{time.Now(), tone(buf, hz)}:
			default:
			}
		}
	}()
	return c
}

type heard struct {
	at    time.Time
	level float64 // of the tone, 1 = full scale
}

// tone measures a frequency in 16-bit samples of one channel (Goertzel).
func tone(pcm []byte, hz float64) float64 {
	n := len(pcm) / 2
	k := 2 * math.Cos(2*math.Pi*hz/media.SampleRate)
	var a, b float64
	for i := range n {
		a, b = float64(int16(binary.LittleEndian.Uint16(pcm[2*i:])))/32768+k*a-b, a
	}
	return math.Sqrt(max(a*a+b*b-k*a*b, 0)) * 2 / float64(n)
}

// A viewer's microphone is heard by an application that records from the
// instance's default source; what is lost on the way is not.
func TestVoiceIsHeardInTheInstance(t *testing.T) {
	const hz = 1000
	server := startPulse(t, microphoneModules)
	s := startEncoder(t)
	s.send(media.TypeConfigure, media.Configure{Pulse: server, Audio: true})
	frame(t, s.audio) // the server is up
	app := listen(t, server, hz)
	opus, err := encode.NewOpus()
	if err != nil {
		t.Fatal(err)
	}
	defer opus.Close()
	speak := func(seq int, loud bool) {
		t.Helper()
		pcm := make([]byte, encode.OpusBlock)
		for i := range encode.OpusBlock / 4 {
			if loud {
				v := uint16(int16(16000 * math.Sin(2*math.Pi*hz*float64(seq*480+i)/media.SampleRate)))
				binary.LittleEndian.PutUint16(pcm[4*i:], v)
				binary.LittleEndian.PutUint16(pcm[4*i+2:], v)
			}
		}
		packet, err := opus.Encode(pcm)
		if err != nil {
			t.Fatal(err)
		}
		if seq%20 == 7 {
			return // lost
		}
		if err := s.conn.SendVoice(media.Voice{Viewer: 1, Seq: uint16(seq), Data: packet}); err != nil {
			t.Fatal(err)
		}
	}
	begun := time.Now()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	var loud, first time.Time
	var on, off int
	for seq := 0; seq < 400; seq++ {
		<-tick.C
		if seq == 200 {
			loud = time.Now()
		}
		speak(seq, seq >= 200)
		for len(app) > 0 {
			switch h := <-app; {
			case h.level > 0.2 && first.IsZero():
				first = h.at
			case !first.IsZero() && h.level > 0.2:
				on++
			case !first.IsZero():
				off++
			}
		}
	}
	if first.Before(loud) || loud.Before(begun) {
		t.Fatal("the tone was not heard, or before it was there")
	}
	t.Logf("heard after %s; then in %d blocks of %d", first.Sub(loud).Round(time.Millisecond), on, on+off)
	if late := first.Sub(loud); late > time.Second { // of a machine that is busy: 40 ms of one that is not
		t.Errorf("heard %s after it was said", late)
	}
	if on < 100 {
		t.Errorf("heard in %d blocks of 10 ms of two seconds", on)
	}
}
