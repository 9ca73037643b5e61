package gateway

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// maxSocketPath is what the kernel takes in sockaddr_un, without the final zero.
const maxSocketPath = 107

// ListenAdmin opens the admin socket: a unix socket of mode 0600 that only
// processes of the caller's own user and of root may use, checked again by the
// peer's user at each connection. A socket that a dead scheduler left is
// replaced; one that answers is an error.
func ListenAdmin(path string) (net.Listener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("open admin socket: %q is %d bytes, over the kernel's %d; use a shorter data folder", path, len(path), maxSocketPath)
	}
	if err := clearSocket(path); err != nil {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("open admin socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("protect admin socket: %w", err), l.Close())
	}
	return &peerListener{Listener: l, allowed: func(uid uint32) bool { return uid == 0 || int(uid) == os.Getuid() }}, nil
}

// clearSocket removes a socket that nobody listens on.
func clearSocket(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at admin socket: %w", err)
	}
	if info.Mode()&os.ModeSocket == 0 {
		return fmt.Errorf("open admin socket: %s exists and is no socket; move it away", path)
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = c.Close() // it only showed that somebody answers
		return fmt.Errorf("open admin socket: another scheduler serves %s; stop it or use another data folder", path)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove stale admin socket: %w", err)
	}
	return nil
}

// peerListener hands out only connections of allowed users.
type peerListener struct {
	net.Listener
	allowed func(uid uint32) bool
}

// Accept waits for the next connection of an allowed user; others are closed.
func (l *peerListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if uid, err := peerUID(c); err == nil && l.allowed(uid) {
			return c, nil
		}
		_ = c.Close() // a stranger is owed no word
	}
}

func peerUID(c net.Conn) (uint32, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return 0, fmt.Errorf("read peer of %s: not a unix socket", c.RemoteAddr().Network())
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("read peer: %w", err)
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, fmt.Errorf("read peer: %w", err)
	}
	if credErr != nil {
		return 0, fmt.Errorf("read peer: %w", credErr)
	}
	return cred.Uid, nil
}
