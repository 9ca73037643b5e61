package instance

import "golang.org/x/sys/unix"

const (
	nativeArch  = unix.AUDIT_ARCH_X86_64
	x32Possible = true // call numbers with bit 30 set are another way in
)
