package relay

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"time"
)

var errFrame = errors.New("not a TURN frame")

// accept gives each TCP connection a TURN server of its own, so that its
// requests are handled one after another.
func (r *relay) accept(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of file descriptors, or the client went already
			time.Sleep(10 * time.Millisecond)
			continue
		}
		from := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
		if !r.enter(from) {
			_ = c.Close()
			continue
		}
		f := &framed{Conn: c, r: bufio.NewReaderSize(c, 4096)}
		f.left = func() { r.exit(f, from) }
		if t, ok := c.(*net.TCPConn); ok {
			_ = t.SetWriteBuffer(tcpBuffer) // larger is later only
		}
		r.mu.Lock()
		r.conns[f] = true
		r.mu.Unlock()
		if _, err := r.serve(f); err != nil {
			r.log.Warn("connection not served", "error", err)
			_ = f.Close()
		}
	}
}

func (r *relay) enter(from netip.Addr) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tcp[from] >= maxTCPPerIP || len(r.conns) >= maxTCP {
		return false
	}
	r.tcp[from]++
	return true
}

func (r *relay) exit(f *framed, from netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, f)
	if r.tcp[from]--; r.tcp[from] <= 0 {
		delete(r.tcp, from)
	}
}

// framed cuts a TCP connection into TURN messages (RFC 8656, 3.1 and 12.5).
// pion's own does not survive a length near 65,536: it spins.
type framed struct {
	net.Conn
	r    *bufio.Reader
	left func()
	gone atomic.Bool
	used atomic.Bool // it has, or had, an allocation
}

const (
	stunHead      = 20
	stunCookie    = 0x2112a442
	stunCookieEnd = 8
	channelHead   = 4
)

// ReadFrom gives the next message.
func (f *framed) ReadFrom(p []byte) (int, net.Addr, error) {
	n, err := f.next(p)
	if err != nil {
		_ = f.Close() // pion's reader ends with the error, but closes nothing
		return 0, nil, err
	}
	return n, f.RemoteAddr(), nil
}

func (f *framed) next(p []byte) (int, error) {
	wait := tcpQuiet
	if f.used.Load() {
		wait = tcpIdle
	}
	if err := f.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return 0, fmt.Errorf("read TURN frame: %w", err)
	}
	head, err := f.r.Peek(channelHead)
	if err != nil {
		return 0, fmt.Errorf("read TURN frame: %w", err)
	}
	n := int(binary.BigEndian.Uint16(head[2:]))
	switch head[0] >> 6 {
	case 0:
		if head, err = f.r.Peek(stunCookieEnd); err != nil {
			return 0, fmt.Errorf("read TURN frame: %w", err)
		}
		if binary.BigEndian.Uint32(head[channelHead:]) != stunCookie {
			return 0, fmt.Errorf("no STUN message: %w", errFrame)
		}
		n += stunHead
	case 1:
		n = (n+3)&^3 + channelHead // padded on streams
	default:
		return 0, fmt.Errorf("first byte %#x: %w", head[0], errFrame)
	}
	if n >= len(p) {
		return 0, fmt.Errorf("%d bytes: %w", n, errFrame)
	}
	if _, err := io.ReadFull(f.r, p[:n]); err != nil {
		return 0, fmt.Errorf("read TURN frame: %w", err)
	}
	return n, nil
}

// WriteTo sends one message; a client that takes none for 2 s is cut off.
func (f *framed) WriteTo(p []byte, _ net.Addr) (int, error) {
	if err := f.SetWriteDeadline(time.Now().Add(tcpWriteMost)); err != nil {
		return 0, fmt.Errorf("send TURN frame: %w", err)
	}
	n, err := f.Write(p)
	if err != nil {
		_ = f.Close() // half a frame may be out: nothing can follow
		return n, fmt.Errorf("send TURN frame: %w", err)
	}
	return n, nil
}

// Close ends the connection and frees its place.
func (f *framed) Close() error {
	if f.gone.Swap(true) {
		return nil
	}
	f.left()
	return f.Conn.Close()
}
