package main

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// power gives how strong a pitch is in 16-bit mono samples (Goertzel).
func power(samples []int16, hz float64) float64 {
	w := 2 * math.Pi * hz / sampleRate
	var a, b float64
	for _, v := range samples {
		a, b = float64(v)+2*math.Cos(w)*a-b, a
	}
	return (a*a + b*b - 2*math.Cos(w)*a*b) / float64(len(samples)) / float64(len(samples))
}

func TestToneIsContinuous(t *testing.T) {
	var all []byte
	for at := 0; at < 2*sampleRate; at += 480 {
		all = tone(all, at, 480)
	}
	whole := tone(nil, 0, 2*sampleRate)
	if string(all) != string(whole) {
		t.Fatal("chunks differ from the whole: the tone would click")
	}
	left := make([]int16, 2*sampleRate)
	for i := range left {
		left[i] = int16(binary.LittleEndian.Uint16(whole[4*i:]))
		if right := int16(binary.LittleEndian.Uint16(whole[4*i+2:])); right != left[i] {
			t.Fatalf("frame %d: left %d, right %d", i, left[i], right)
		}
	}
	if on, off := power(left, pitch), power(left, 600); on < 1000*off {
		t.Errorf("440 Hz has power %g, 600 Hz %g", on, off)
	}
}

func TestToneReachesTheSoundServer(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "native")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	// Without --system it refuses root only by a warning; it gets a home of its own.
	server := exec.CommandContext(ctx, "pulseaudio", "-n", "-F", "/dev/stdin", "--daemonize=no", "--exit-idle-time=-1",
		"--disallow-exit", "--disable-shm=yes")
	server.Env = append(os.Environ(), "HOME="+dir, "XDG_RUNTIME_DIR="+dir)
	in, err := server.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatalf("start pulseaudio: %v", err)
	}
	defer func() {
		_ = server.Process.Kill() // it may have ended
		_ = server.Wait()         // killed: the status says nothing
	}()
	_, _ = io.WriteString(in, "load-module module-native-protocol-unix auth-anonymous=1 socket="+socket+"\n"+
		"load-module module-null-sink sink_name=out rate=48000\n")
	_ = in.Close()

	t.Setenv("PULSE_SERVER", "unix:"+socket)
	t.Setenv("HOME", dir)
	t.Setenv("XDG_RUNTIME_DIR", dir)
	played := make(chan error, 1)
	play, stop := context.WithCancel(ctx)
	go func() { played <- playTone(play) }()
	defer func() {
		stop()
		if err := <-played; !errors.Is(err, context.Canceled) {
			t.Errorf("playTone ended with %v", err)
		}
	}()

	for end := time.Now().Add(20 * time.Second); ; {
		samples := record(ctx)
		if len(samples) > 0 && power(samples, pitch) > 1e5 && power(samples, pitch) > 100*power(samples, 600) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the sound server never played 440 Hz; %d samples, power %g", len(samples), power(samples, pitch))
		}
	}
}

// record takes a fifth of a second from the sink; nothing when the server is not there yet.
func record(ctx context.Context) []int16 {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "parec", "--device=out.monitor", "--format=s16le", "--rate=48000", "--channels=1", "--latency-msec=20")
	out, err := cmd.StdoutPipe()
	if err != nil || cmd.Start() != nil {
		return nil
	}
	raw := make([]byte, 2*sampleRate/5)
	_, err = io.ReadFull(out, raw)
	_ = cmd.Process.Kill() // it may have ended
	_ = cmd.Wait()         // killed: the status says nothing
	if err != nil {
		return nil
	}
	samples := make([]int16, len(raw)/2)
	for i := range samples {
		samples[i] = int16(binary.LittleEndian.Uint16(raw[2*i:]))
	}
	return samples
}
