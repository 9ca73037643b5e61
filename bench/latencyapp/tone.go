package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"time"
)

const (
	sampleRate = 48_000
	pitch      = 440 // Hz
	chunk      = 10 * time.Millisecond
	startLimit = 15 * time.Second // for a sound server that is still starting
)

// playTone plays the tone until ctx ends. pacat reads it from a pipe, which
// paces us; it is started again when it ends early in the program's life.
func playTone(ctx context.Context) error {
	return withSound(ctx, "-tone", "pacat", func() error { return pacat(ctx) })
}

// withSound runs a program of the sound server until ctx ends, and again where
// it ends early in our life: the server may still be starting.
func withSound(ctx context.Context, flag, program string, run func() error) error {
	began := time.Now()
	for {
		err := run()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, exec.ErrNotFound) {
			return fmt.Errorf("%s needs %s: install the package pulseaudio-utils: %w", flag, program, err)
		}
		if time.Since(began) > startLimit {
			return fmt.Errorf("run %s: %w", program, err)
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func pacat(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "pacat", "--playback", "--format=s16le", "--rate=48000", "--channels=2",
		"--latency-msec=20", "--client-name=latencyapp")
	cmd.Stderr = os.Stderr
	cmd.WaitDelay = time.Second
	in, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("pipe to pacat: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start pacat: %w", err)
	}
	werr := writeTone(in)
	err = cmd.Wait()
	return errors.Join(err, werr)
}

// writeTone writes the tone until the reader goes away.
func writeTone(to io.WriteCloser) error {
	defer func() { _ = to.Close() }() // the reader is gone or going
	frames := int(sampleRate * chunk / time.Second)
	buf := make([]byte, 0, frames*4)
	for at := 0; ; at += frames {
		buf = tone(buf[:0], at, frames)
		if _, err := to.Write(buf); err != nil {
			return fmt.Errorf("write to pacat: %w", err)
		}
	}
}

// tone appends stereo frames of the sine, 16 bits little endian, from frame at on.
func tone(buf []byte, at, frames int) []byte {
	for i := range frames {
		// Reduced to one second first, so that hours of it stay exact.
		phase := float64((at+i)%sampleRate) * pitch / sampleRate
		v := int16(8000 * math.Sin(2*math.Pi*phase))
		buf = binary.LittleEndian.AppendUint16(buf, uint16(v))
		buf = binary.LittleEndian.AppendUint16(buf, uint16(v))
	}
	return buf
}
