package input

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/xtest"
)

const (
	socketFolder = "/tmp/.X11-unix"
	cookieName   = "MIT-MAGIC-COOKIE-1"
	setupTimeout = 2 * time.Second
	writeTimeout = time.Second
)

// setupConn is the socket to an X server. xgb takes the cookie from the
// environment, which a process with displays of its own must not touch, so its
// first write is replaced by a connection setup with the cookie of a named file.
type setupConn struct {
	net.Conn
	setup []byte
}

func (c *setupConn) Write(p []byte) (int, error) {
	// A stopped server must not stop us: the connection ends instead.
	if err := c.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, err
	}
	if c.setup == nil {
		return c.Conn.Write(p)
	}
	_, err := c.Conn.Write(c.setup)
	c.setup = nil
	return len(p), err
}

// connect opens a display (":7" or the path of its socket) and its XTest.
func connect(ctx context.Context, display, xauth string) (*xgb.Conn, net.Conn, error) {
	fail := func(err error) (*xgb.Conn, net.Conn, error) {
		return nil, nil, fmt.Errorf("open X display %s for input: %w", display, err)
	}
	path, number, err := socketPath(display)
	if err != nil {
		return fail(err)
	}
	setup, err := connectionSetup(xauth, number)
	if err != nil {
		return fail(err)
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return fail(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(setupTimeout)); err != nil {
		return fail(errors.Join(err, c.Close()))
	}
	x, err := xgb.NewConnNet(&setupConn{Conn: c, setup: setup})
	if err != nil {
		return fail(errors.Join(err, c.Close()))
	}
	if err := xtest.Init(x); err != nil {
		x.Close()
		return fail(fmt.Errorf("extension XTEST: %w", err))
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		x.Close()
		return fail(err)
	}
	return x, c, nil
}

// socketPath gives the unix socket and the number of a display.
func socketPath(display string) (path, number string, err error) {
	if filepath.IsAbs(display) && !strings.Contains(display, ":") {
		return display, strings.TrimLeft(filepath.Base(display), "X"), nil
	}
	host, number, ok := strings.Cut(display, ":")
	number, _, _ = strings.Cut(number, ".")
	n, convErr := strconv.ParseUint(number, 10, 16)
	if !ok || convErr != nil || host != "" && host != "unix" {
		return "", "", errors.New(`it must be like ":7" or the path of the server's socket`)
	}
	number = strconv.FormatUint(n, 10)
	return filepath.Join(socketFolder, "X"+number), number, nil
}

// connectionSetup builds the first bytes of a client (X protocol, Encoding,
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
			return nil, fmt.Errorf("%s has no %s for display %s", xauth, cookieName, number)
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

// findCookie reads an Xauthority file: records of a 16-bit family and four
// counted strings (address, display number, name, data), big endian.
func findCookie(b []byte, number string) []byte {
	for len(b) >= 2 {
		b = b[2:]
		var f [4][]byte
		for i := range f {
			if len(b) < 2 {
				return nil
			}
			n := int(binary.BigEndian.Uint16(b))
			if len(b) < 2+n {
				return nil
			}
			f[i], b = b[2:2+n], b[2+n:]
		}
		if string(f[2]) == cookieName && (len(f[1]) == 0 || string(f[1]) == number) {
			return f[3]
		}
	}
	return nil
}
