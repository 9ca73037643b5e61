package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"
)

const echoRetry = 50 * time.Millisecond

// echo sends everything that comes on a user data channel back, until ctx
// ends. The socket appears when a viewer opens the channel and goes with the
// viewer: so it is tried again for ever.
func echo(ctx context.Context, folder, name string) error {
	path := filepath.Join(folder, "webrtc_data_"+name)
	retry := time.NewTicker(echoRetry)
	defer retry.Stop()
	var d net.Dialer
	for {
		if c, err := d.DialContext(ctx, "unix", path); err == nil {
			copyBack(ctx, c)
		}
		select {
		case <-retry.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// copyBack echoes one connection until it or ctx ends.
func copyBack(ctx context.Context, c net.Conn) {
	stop := context.AfterFunc(ctx, func() { _ = c.Close() }) // a second close is harmless
	defer stop()
	defer func() { _ = c.Close() }()
	if _, err := io.Copy(c, c); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "latencyapp: data channel:", err)
	}
}
