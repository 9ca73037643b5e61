package media

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Now reads the host's monotonic clock in ns: the clock of Frame.Captured,
// Frame.Encoded and Input.At, the same in every process of the host. It is asked
// as Direct asks, since it is read several times for a picture.
func Now() int64 {
	var t unix.Timespec
	// It fails for an unknown clock only, and this one exists on every Linux.
	_, _, _ = syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, unix.CLOCK_MONOTONIC, uintptr(unsafe.Pointer(&t)), 0)
	return t.Nano()
}
