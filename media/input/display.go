package input

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/xtest"

	"github.com/perigee-cloud/perigee/media/xauth"
)

const (
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

// connect opens a display and its XTest. The socket still has the deadline of the setup.
func connect(ctx context.Context, display, authority string) (*xgb.Conn, net.Conn, error) {
	x, c, err := dial(ctx, display, authority)
	if err != nil {
		return nil, nil, err
	}
	if err := xtest.Init(x); err != nil {
		x.Close()
		return nil, nil, fmt.Errorf("open X display %s for input: extension XTEST: %w", display, err)
	}
	return x, c, nil
}

// dial opens a display (":7" or the path of its socket). The socket still has
// the deadline of the setup.
func dial(ctx context.Context, display, authority string) (*xgb.Conn, net.Conn, error) {
	fail := func(err error) (*xgb.Conn, net.Conn, error) {
		return nil, nil, fmt.Errorf("open X display %s for input: %w", display, err)
	}
	path, number, err := xauth.Socket(display)
	if err != nil {
		return fail(err)
	}
	setup, err := xauth.SetupFrom(authority, number)
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
	return x, c, nil
}
