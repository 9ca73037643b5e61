package capture

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// link is the socket to an X server as xgb wants it, with two things that xgb
// lacks: the cookie comes from a named file and not from the environment, and
// MIT-SHM's AttachFd carries its file descriptor.
type link struct {
	*net.UnixConn
	r     *bufio.Reader // X events are 32 bytes: one read takes many
	setup []byte        // sent in place of xgb's own connection setup

	mu      sync.Mutex
	closing bool   // the last bound stays
	attach  []byte // how an AttachFd request starts; nil until MIT-SHM is known
	fds     []int  // one for each AttachFd request to come, oldest first
}

const (
	socketFolder   = "/tmp/.X11-unix"
	cookieName     = "MIT-MAGIC-COOKIE-1"
	attachFdOpcode = 6 // MIT-SHM minor opcode of ShmAttachFd
)

// dial connects to a display: ":7", or the path of the server's socket.
func dial(ctx context.Context, display, xauth string) (*link, error) {
	path, number, err := socketPath(display)
	if err != nil {
		return nil, err
	}
	setup, err := connectionSetup(xauth, number)
	if err != nil {
		return nil, err
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("connect to X display %s: %w", display, err)
	}
	return &link{UnixConn: c.(*net.UnixConn), r: bufio.NewReaderSize(c, 8<<10), setup: setup}, nil
}

// ErrDisplay says that a display's name cannot be used; no retry heals it.
var ErrDisplay = errors.New("not a local X display such as \":7\" or the path of its socket")

// socketPath gives the unix socket and the number of a display.
func socketPath(display string) (path, number string, err error) {
	if filepath.IsAbs(display) && !strings.Contains(display, ":") {
		return display, strings.TrimLeft(filepath.Base(display), "X"), nil
	}
	host, number, ok := strings.Cut(display, ":")
	number, _, _ = strings.Cut(number, ".") // the screen: Xvfb has one
	n, convErr := strconv.ParseUint(number, 10, 16)
	if !ok || convErr != nil || host != "" && host != "unix" {
		return "", "", fmt.Errorf("display %q: %w", display, ErrDisplay)
	}
	number = strconv.FormatUint(n, 10)
	return filepath.Join(socketFolder, "X"+number), number, nil
}

// connectionSetup builds the first bytes a client sends (X protocol, Encoding,
// Connection Setup), with the display's cookie if there is a cookie file.
func connectionSetup(xauth, number string) ([]byte, error) {
	var name string
	var cookie []byte
	if xauth != "" {
		f, err := os.ReadFile(xauth)
		if err != nil {
			return nil, fmt.Errorf("read X cookie: %w", err)
		}
		if cookie = findCookie(f, number); cookie == nil {
			return nil, fmt.Errorf("read X cookie: %s has no %s for display %s", xauth, cookieName, number)
		}
		name = cookieName
	}
	pad := func(b []byte) []byte { return append(b, make([]byte, -len(b)&3)...) }
	b := []byte{'l', 0, 11, 0, 0, 0} // little endian, version 11.0
	b = binary.LittleEndian.AppendUint16(b, uint16(len(name)))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(cookie)))
	b = append(b, 0, 0)
	return pad(append(pad(append(b, name...)), cookie...)), nil
}

// findCookie reads an Xauthority file: records of a 16-bit big-endian family
// and four counted strings (address, display number, name, data).
func findCookie(b []byte, number string) []byte {
	field := func() ([]byte, bool) {
		if len(b) < 2 {
			return nil, false
		}
		n := int(binary.BigEndian.Uint16(b))
		if len(b) < 2+n {
			return nil, false
		}
		f := b[2 : 2+n]
		b = b[2+n:]
		return f, true
	}
	for len(b) >= 2 {
		b = b[2:]
		var f [4][]byte
		for i := range f {
			var ok bool
			if f[i], ok = field(); !ok {
				return nil
			}
		}
		if string(f[2]) == cookieName && (len(f[1]) == 0 || string(f[1]) == number) {
			return f[3]
		}
	}
	return nil
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
		return l.UnixConn.Write(p)
	}
	n, _, err := l.WriteMsgUnix(p, unix.UnixRights(fd), nil)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	return n, err
}
