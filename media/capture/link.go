package capture

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/perigee-cloud/perigee/media"
	"github.com/perigee-cloud/perigee/media/xauth"
)

// link is the socket to an X server as xgb wants it, with two things that xgb
// lacks: the cookie comes from a named file and not from the environment, and
// MIT-SHM's AttachFd carries its file descriptor.
type link struct {
	*net.UnixConn
	direct *media.Direct
	r      *bufio.Reader // X events are 32 bytes: one read takes many
	setup  []byte        // sent in place of xgb's own connection setup

	mu      sync.Mutex
	closing bool   // the last bound stays
	attach  []byte // how an AttachFd request starts; nil until MIT-SHM is known
	fds     []int  // one for each AttachFd request to come, oldest first
}

// attachFdOpcode is MIT-SHM's minor opcode of ShmAttachFd.
const attachFdOpcode = 6

// dial connects to a display: ":7", or the path of the server's socket.
func dial(ctx context.Context, display, authority string) (*link, error) {
	path, number, err := xauth.Socket(display)
	if err != nil {
		return nil, err
	}
	setup, err := xauth.SetupFrom(authority, number)
	if err != nil {
		return nil, err
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("connect to X display %s: %w", display, err)
	}
	socket := c.(*net.UnixConn)
	direct, err := media.NewDirect(socket)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connect to X display %s: %w", display, err), c.Close())
	}
	return &link{UnixConn: socket, direct: direct, r: bufio.NewReaderSize(direct, 8<<10), setup: setup}, nil
}

// expectFd says that MIT-SHM has this major opcode and that the next AttachFd
// request carries fd.
func (l *link) expectFd(major byte, fd int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.attach = []byte{major, attachFdOpcode}
	l.fds = append(l.fds, fd)
}

// bound limits how long the server may be silent from now on; 0 = no limit.
// When it runs out the connection ends, and every waiting request with it.
func (l *link) bound(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closing {
		return
	}
	var t time.Time
	if d > 0 {
		t = time.Now().Add(d)
	}
	_ = l.SetReadDeadline(t) // it fails on a closed socket only
}

// end bounds what is left to say before the connection is closed.
func (l *link) end(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closing {
		l.closing = true
		_ = l.SetReadDeadline(time.Now().Add(d)) // it fails on a closed socket only
	}
}

// takeFd gives the descriptor that must travel with a request.
func (l *link) takeFd(request []byte) (int, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.fds) == 0 || len(request) < 2 || request[0] != l.attach[0] || request[1] != l.attach[1] {
		return 0, false
	}
	fd := l.fds[0]
	l.fds = l.fds[1:]
	return fd, true
}

// Read is xgb's.
func (l *link) Read(p []byte) (int, error) { return l.r.Read(p) }

// Write is xgb's: one request a call.
func (l *link) Write(p []byte) (int, error) {
	if l.setup != nil {
		_, err := l.UnixConn.Write(l.setup)
		l.setup = nil
		return len(p), err
	}
	fd, ok := l.takeFd(p)
	if !ok {
		return l.direct.Write(p)
	}
	n, _, err := l.WriteMsgUnix(p, unix.UnixRights(fd), nil)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	return n, err
}
