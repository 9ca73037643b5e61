package media

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// pair is two ends of a unix socket.
func pair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	d, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); d.Close() })
	return c.(*net.UnixConn), d.(*net.UnixConn)
}

func direct(t *testing.T, c *net.UnixConn) *Direct {
	t.Helper()
	d, err := NewDirect(c)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// More than a socket holds arrives whole, in order, and the end after it.
func TestDirectCarriesAll(t *testing.T) {
	a, b := pair(t)
	sent := make([]byte, 8<<20)
	for i := range sent {
		sent[i] = byte(i * 7 >> 3)
	}
	wrote := make(chan error, 1)
	go func() {
		n, err := direct(t, a).Write(sent)
		if err == nil && n != len(sent) {
			err = io.ErrShortWrite
		}
		wrote <- errors.Join(err, a.Close())
	}()
	got, err := io.ReadAll(direct(t, b))
	if err != nil {
		t.Fatal(err)
	}
	if err := <-wrote; err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, sent) {
		t.Errorf("read %d bytes, not the %d sent", len(got), len(sent))
	}
}

// A deadline, closing and a peer that went end what waits.
func TestDirectEnds(t *testing.T) {
	a, b := pair(t)
	d := direct(t, a)
	if err := a.SetDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := d.Read(make([]byte, 8)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read %d, %v at the deadline", n, err)
	}
	if n, err := d.Write(make([]byte, 8<<20)); n == 8<<20 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("wrote %d, %v at the deadline", n, err)
	}
	if err := errors.Join(a.SetDeadline(time.Time{}), b.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Write([]byte("x")); err == nil {
		t.Error("wrote to a peer that is gone")
	}
	closed := make(chan error, 1)
	c, _ := pair(t)
	go func() {
		_, err := direct(t, c).Read(make([]byte, 8))
		closed <- err
	}()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-closed; !errors.Is(err, net.ErrClosed) {
		t.Errorf("read %v of a closed socket", err)
	}
}
