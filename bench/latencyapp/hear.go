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

const hearFor = 200 * time.Millisecond // of sound for each line

// hear records from the default source through parec and writes to standard
// output how loud a frequency is in it, 1 being full scale, until ctx ends.
func hear(ctx context.Context, hz float64, to io.Writer) error {
	return withSound(ctx, "-hear", "parec", func() error { return parec(ctx, hz, to) })
}

func parec(ctx context.Context, hz float64, to io.Writer) error {
	cmd := exec.CommandContext(ctx, "parec", "--raw", "--format=s16le", "--rate=48000", "--channels=1",
		"--latency-msec=20", "--client-name=latencyapp")
	cmd.Stderr = os.Stderr
	cmd.WaitDelay = time.Second
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("pipe from parec: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start parec: %w", err)
	}
	buf := make([]byte, 2*sampleRate*hearFor/time.Second)
	for {
		if _, err = io.ReadFull(out, buf); err != nil {
			break
		}
		if _, err = fmt.Fprintf(to, "hears %.4f\n", level(buf, hz)); err != nil {
			break
		}
	}
	_ = cmd.Process.Kill() // it may have ended already
	return errors.Join(err, cmd.Wait())
}

// level measures a frequency in 16-bit samples of one channel (Goertzel's
// algorithm).
func level(pcm []byte, hz float64) float64 {
	n := len(pcm) / 2
	k := 2 * math.Cos(2*math.Pi*hz/sampleRate)
	var a, b float64
	for i := range n {
		a, b = float64(int16(binary.LittleEndian.Uint16(pcm[2*i:])))/(1<<15)+k*a-b, a
	}
	return 2 * math.Sqrt(max(a*a+b*b-k*a*b, 0)) / float64(n)
}
