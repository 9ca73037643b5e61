package media

import "golang.org/x/sys/unix"

// Now reads the host's monotonic clock in ns: the clock of Frame.Captured,
// Frame.Encoded and Input.At, the same in every process of the host.
func Now() int64 {
	var t unix.Timespec
	// It fails for an unknown clock only, and this one exists on every Linux.
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t)
	return t.Nano()
}
