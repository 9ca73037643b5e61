package capture

import (
	"context"
	"encoding/binary"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/media"
)

// startPulse runs a real sound server with a null sink and gives its address.
func startPulse(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	socket := filepath.Join(dir, "pulse.sock")
	script := filepath.Join(dir, "inst.pa")
	if err := os.WriteFile(script, []byte("load-module module-native-protocol-unix auth-anonymous=1 socket="+socket+
		"\nload-module module-null-sink\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("pulseaudio", "-n", "-F", script, "--daemonize=no", "--exit-idle-time=-1", "--disallow-exit", "--disable-shm=yes")
	cmd.Env = []string{"HOME=" + dir, "XDG_RUNTIME_DIR=" + dir, "PATH=" + os.Getenv("PATH")}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
	})
	return "unix:" + socket
}

// play plays a 440 Hz tone until the test ends.
func play(t testing.TB, server string) {
	t.Helper()
	const rate = 48000
	tone := make([]byte, 0, rate*4*20)
	for i := range rate * 20 {
		v := uint16(int16(12000 * math.Sin(2*math.Pi*440*float64(i)/rate)))
		tone = binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint16(tone, v), v)
	}
	file := filepath.Join(t.TempDir(), "tone.raw")
	if err := os.WriteFile(file, tone, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("pacat", "--server="+server, "--raw", "--format=s16le", "--rate=48000", "--channels=2", "--latency-msec=20", file)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

func TestSoundIsHeard(t *testing.T) {
	server := startPulse(t)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s, err := OpenSound(ctx, server)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	opened := time.Now()
	pcm, _, err := s.Read()
	if err != nil {
		t.Fatal(err)
	}
	if late := time.Since(opened); late > time.Second {
		t.Errorf("first block of an idle sink after %v", late)
	}
	if len(pcm) != 1920 {
		t.Fatalf("block of %d bytes, want 1920", len(pcm))
	}
	play(t, server)
	deadline := time.Now().Add(8 * time.Second)
	for {
		pcm, taken, err := s.Read()
		if err != nil {
			t.Fatal(err)
		}
		if age := media.Now() - taken; age < 0 || age > int64(time.Second) {
			t.Fatalf("block taken %v ago", time.Duration(age))
		}
		peak, crossings := 0, 0
		var before int16
		for i := 0; i < len(pcm); i += 4 {
			v := int16(binary.LittleEndian.Uint16(pcm[i:]))
			peak = max(peak, int(v))
			if before < 0 && v >= 0 {
				crossings++
			}
			before = v
		}
		if peak > 8000 && crossings >= 4 && crossings <= 5 { // 440 Hz in 10 ms
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no tone heard: peak %d, %d crossings", peak, crossings)
		}
	}
}

// TestSoundRests counts how much comes at once: what is left for later reads.
func TestSoundRests(t *testing.T) {
	server := startPulse(t)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s, err := OpenSound(ctx, server)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	// wait reads until ten blocks in a row came in packets of at most this many.
	wait := func(blocks int) {
		t.Helper()
		most, seen := 0, 0
		for end := time.Now().Add(5 * time.Second); seen < 10 || most != blocks; {
			if _, _, err := s.Read(); err != nil {
				t.Fatal(err)
			}
			most, seen = max(most, len(s.block)/soundBlock), seen+1
			if seen == 10 && most != blocks {
				seen, most = 0, 0
			}
			if time.Now().After(end) {
				t.Fatalf("sound does not come %d blocks at once", blocks)
			}
		}
	}
	wait(1)
	for range 2 {
		if err := s.Rest(true); err != nil {
			t.Fatal(err)
		}
		wait(soundRest)
		if err := s.Rest(false); err != nil {
			t.Fatal(err)
		}
		wait(1)
	}
}

func TestSoundCloseEndsRead(t *testing.T) {
	server := startPulse(t)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s, err := OpenSound(ctx, server)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		for {
			if _, _, err := s.Read(); err != nil {
				ended <- err
				return
			}
		}
	}()
	s.Close()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Fatal("Read did not end")
	}
}

func TestSoundServerMissing(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if _, err := OpenSound(ctx, "unix:"+t.TempDir()+"/none"); err == nil {
		t.Error("a server that is not there was opened")
	}
	if _, err := OpenSound(context.Background(), "tcp:127.0.0.1"); err == nil {
		t.Error("a server that is no unix socket was opened")
	}
}
