// Package xauth finds a local X display's socket and says hello with a cookie
// from a named file: xgb takes both from the environment, which a process with
// displays of its own must not touch. Pure; the caller dials.
package xauth

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	// SocketFolder is where X servers' sockets lie.
	SocketFolder = "/tmp/.X11-unix"
	// CookieName is the one way of access that we use.
	CookieName = "MIT-MAGIC-COOKIE-1"

	familyWild = 0xffff // any address, in an Xauthority record
)

// ErrDisplay says that a display's name cannot be used; no retry heals it.
var ErrDisplay = errors.New("not a local X display such as \":7\" or the path of its socket")

// Socket gives the unix socket and the number of a display: ":7", or the path
// of the server's socket.
func Socket(display string) (path, number string, err error) {
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
	return filepath.Join(SocketFolder, "X"+number), number, nil
}

// SetupFrom builds a client's first bytes with the cookie that an Xauthority
// file holds for a display number; file "" means none.
func SetupFrom(file, number string) ([]byte, error) {
	if file == "" {
		return Setup(nil), nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read X cookie: %w", err)
	}
	cookie := find(b, number)
	if cookie == nil {
		return nil, fmt.Errorf("read X cookie: %s has no %s for display %s", file, CookieName, number)
	}
	return Setup(cookie), nil
}

// Setup builds a client's first bytes (X protocol, Encoding, Connection Setup);
// a nil cookie means none.
func Setup(cookie []byte) []byte {
	name := ""
	if cookie != nil {
		name = CookieName
	}
	pad := func(b []byte) []byte { return append(b, make([]byte, -len(b)&3)...) }
	b := []byte{'l', 0, 11, 0, 0, 0} // little endian, version 11.0
	b = binary.LittleEndian.AppendUint16(b, uint16(len(name)))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(cookie)))
	return pad(append(pad(append(append(b, 0, 0), name...)), cookie...))
}

// File makes an Xauthority file whose one cookie fits any address and display.
func File(cookie []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, familyWild)
	for _, f := range [][]byte{nil, nil, []byte(CookieName), cookie} {
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(f))), f...)
	}
	return b
}

// find reads an Xauthority file: records of a 16-bit family and four counted
// strings (address, display number, name, data), big endian.
func find(b []byte, number string) []byte {
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
		if string(f[2]) == CookieName && (len(f[1]) == 0 || string(f[1]) == number) {
			return f[3]
		}
	}
	return nil
}
