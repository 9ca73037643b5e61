package capture

import (
	"fmt"
	"os"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/shm"
	"golang.org/x/sys/unix"
)

// segment is memory shared with the X server. It is a memfd handed over the
// socket, not System V memory: it works when the server lives in another IPC
// namespace, and the kernel frees it however this process ends.
type segment struct {
	id  shm.Seg
	pix []byte
}

// newSegment makes size bytes that the server may write.
func newSegment(x *xgb.Conn, l *link, size int) (*segment, error) {
	fd, err := unix.MemfdCreate("perigee-capture", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make shared memory: %w", err)
	}
	// The mapping and the server's copy of fd keep it alive.
	f := os.NewFile(uintptr(fd), "perigee-capture")
	defer func() { _ = f.Close() }()
	if err := f.Truncate(int64(size)); err != nil {
		return nil, fmt.Errorf("size shared memory: %w", err)
	}
	pix, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map shared memory: %w", err)
	}
	id, err := shm.NewSegId(x)
	if err == nil {
		l.expectFd(x.Extensions["MIT-SHM"], fd)
		err = shm.AttachFdChecked(x, id, false).Check()
	}
	if err != nil {
		_ = unix.Munmap(pix) // nothing else holds it
		return nil, fmt.Errorf("share memory with the X server: %w", err)
	}
	return &segment{id: id, pix: pix}, nil
}

// release gives the memory back on both sides.
func (s *segment) release(x *xgb.Conn) {
	shm.Detach(x, s.id)
	s.unmap()
}

// unmap gives up our side only; the server's goes with the connection.
func (s *segment) unmap() {
	_ = unix.Munmap(s.pix) // it fails for memory that is not mapped only
}
