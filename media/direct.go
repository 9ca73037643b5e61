package media

import (
	"errors"
	"fmt"
	"io"
	"syscall"
	"unsafe"
)

// Direct reads and writes a socket that does not block, without telling Go's
// scheduler of each call. Around a system call the scheduler wakes its monitor
// thread, which then looks around 50,000 times a second: with a few short calls
// for each picture that was a tenth of a stream's processor time. Deadlines and
// closing are the socket's own. One goroutine may read and one write.
type Direct struct {
	raw       syscall.RawConn
	in, out   directCall
	read, put func(fd uintptr) bool
}

type directCall struct {
	p   []byte
	n   int
	err error
}

// NewDirect wraps a socket, which the caller closes.
func NewDirect(c syscall.Conn) (*Direct, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("reach socket: %w", err)
	}
	d := &Direct{raw: raw}
	d.read = func(fd uintptr) bool { return d.in.try(syscall.SYS_READ, fd) }
	d.put = func(fd uintptr) bool {
		for len(d.out.p) > 0 {
			if !d.out.try(syscall.SYS_WRITE, fd) {
				return false
			}
			if d.out.err != nil {
				return true
			}
			d.out.p = d.out.p[d.out.n:]
		}
		return true
	}
	return d, nil
}

// try makes one call; false: the socket is not ready.
func (c *directCall) try(call, fd uintptr) bool {
	for {
		n, _, errno := syscall.RawSyscall(call, fd, uintptr(unsafe.Pointer(unsafe.SliceData(c.p))), uintptr(len(c.p)))
		switch {
		case errno == syscall.EINTR:
			continue
		case errno == syscall.EAGAIN:
			return false
		case errno != 0:
			c.n, c.err = 0, errno
		default:
			c.n, c.err = int(n), nil
		}
		return true
	}
}

// Read is io.Reader's.
func (d *Direct) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	d.in = directCall{p: p}
	err := d.raw.Read(d.read)
	if err = errors.Join(err, d.in.err); err == nil && d.in.n == 0 {
		err = io.EOF
	}
	return d.in.n, err
}

// Write is io.Writer's.
func (d *Direct) Write(p []byte) (int, error) {
	d.out = directCall{p: p}
	err := d.raw.Write(d.put)
	return len(p) - len(d.out.p), errors.Join(err, d.out.err)
}
