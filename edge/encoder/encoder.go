// Package encoder is the body of the encode process: it captures a display and
// its sound, encodes both, and sends the frames to the stream process that
// started it. All the C code of a session runs here, so that a crash in a codec
// or driver costs a keyframe and not the session.
package encoder

import (
	"context"
	"errors"
	"fmt"
	"image"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"syscall"
	"time"

	"github.com/jezek/xgb"

	"github.com/perigee-cloud/perigee/media"
	"github.com/perigee-cloud/perigee/media/encode"
)

// Config of an encode process.
type Config struct {
	// Socket leads to the stream process and speaks the protocol of package
	// media. Run closes it.
	Socket net.Conn
	Log    *slog.Logger
	// Open opens an encoder; nil is encode.NewVideo.
	Open func(encode.Config) (Video, error)
}

// Video is an open encoder: encode.Video, or what stands in for one.
type Video interface {
	Load(pix []byte, stride int, changed ...image.Rectangle) error
	Changed() bool
	Fresh() float64
	Favour(content string)
	Encode(key bool) (encode.Packet, error)
	Sharp() bool
	SetBitrate(kbps int) error
	Live() bool
	Name() string
	Close()
}

// Inherited gives the socket that the stream process left open as a file
// descriptor (3 by contract).
func Inherited(fd uintptr) (net.Conn, error) {
	f := os.NewFile(fd, "stream")
	if f == nil {
		return nil, fmt.Errorf("file descriptor %d is not open: this process is started by perigee-edge stream", fd)
	}
	c, err := net.FileConn(f)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("file descriptor %d is no socket: this process is started by perigee-edge stream: %w", fd, err), f.Close())
	}
	return c, f.Close() // the connection holds a copy
}

const (
	helloTimeout = 5 * time.Second
	// writeTimeout is how long a stream process may take no frame: it is
	// stopped or lost then, and this process has no other purpose.
	writeTimeout = 10 * time.Second
	// queue of messages not handled yet; more wait in the socket.
	queue = 64
)

// patient bounds each write to the socket.
type patient struct {
	io.ReadWriter
	socket net.Conn
}

// newPatient goes the direct way where the socket has one.
func newPatient(socket net.Conn) (patient, error) {
	raw, ok := socket.(syscall.Conn)
	if !ok {
		return patient{socket, socket}, nil
	}
	d, err := media.NewDirect(raw)
	return patient{d, socket}, err
}

func (p patient) Write(b []byte) (int, error) {
	if err := p.socket.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, err
	}
	return p.ReadWriter.Write(b)
}

// Run serves the stream process until its socket closes or ctx ends (nil), or
// until it cannot go on (an error, which the stream process was told).
func Run(ctx context.Context, cfg Config) error {
	defer func() { _ = cfg.Socket.Close() }() // the other side sees the end, nothing more is sent
	// xgb writes to stderr by itself; this is the process's only X user.
	xgb.Logger.SetOutput(io.Discard)
	// A picture goes through one goroutine after the other, and the work is in C:
	// with one processor for Go they hand it on without waking threads, which
	// saves a tenth of the processor time. C calls hold it 20 µs at most.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	socket, err := newPatient(cfg.Socket)
	if err != nil {
		return err
	}
	conn := media.NewConn(socket)
	h, err := hello(cfg.Socket, conn)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := newSession(conn, cfg.Log)
	s.calm = h.Calm
	if cfg.Open != nil {
		s.open = cfg.Open
	}
	messages := make(chan any, queue)
	gone := make(chan error, 1)
	go func() {
		gone <- receive(ctx, conn, messages)
		cancel()
	}()
	// Closing the socket is what ends a waiting Read.
	stop := context.AfterFunc(ctx, func() { _ = cfg.Socket.Close() })
	defer stop()
	err = s.guarded(ctx, messages)
	cancel()
	if lost := <-gone; err == nil && lost != nil {
		err = lost
	}
	return err
}

// guarded runs the session until it ends, or hangs in a driver: then it is left
// behind, for this process ends. Should the call return, it cleans up.
func (s *session) guarded(ctx context.Context, messages <-chan any) error {
	ended := make(chan error, 1)
	go func() {
		err := s.run(ctx, messages)
		s.close()
		ended <- err
	}()
	select {
	case err := <-ended:
		return err
	case <-s.guard.hung:
		return s.abandon()
	}
}

// hello exchanges versions and gives the stream process's.
func hello(socket net.Conn, conn *media.Conn) (h media.Hello, err error) {
	if err := conn.Send(media.TypeHello, media.Hello{Version: media.ProtocolVersion, PID: os.Getpid()}); err != nil {
		return h, fmt.Errorf("say hello: %w", err)
	}
	if err := socket.SetReadDeadline(time.Now().Add(helloTimeout)); err != nil {
		return h, fmt.Errorf("wait for hello: %w", err)
	}
	m, err := conn.Read()
	if err != nil {
		return h, fmt.Errorf("wait for hello: %w", err)
	}
	if m.Type != media.TypeHello {
		return h, fmt.Errorf("first message has type %d: %w", m.Type, media.ErrProtocol)
	}
	if err := m.Decode(&h); err != nil {
		return h, err
	}
	if h.Version != media.ProtocolVersion {
		return h, fmt.Errorf("stream process speaks version %d, this one %d: %w", h.Version, media.ProtocolVersion, media.ErrProtocol)
	}
	if err := socket.SetReadDeadline(time.Time{}); err != nil {
		return h, fmt.Errorf("after hello: %w", err)
	}
	return h, nil
}

// keyframe is the message that has no payload.
type keyframe struct{}

// receive hands messages on until the socket closes (nil) or is misused.
func receive(ctx context.Context, conn *media.Conn, to chan<- any) error {
	for {
		m, err := conn.Read()
		if err != nil {
			if errors.Is(err, io.EOF) || ctx.Err() != nil {
				err = nil // the end that is meant to be
			}
			return err
		}
		v, err := parse(m)
		if err != nil {
			return err
		}
		if v == nil {
			continue // a type of a later version that we need not know
		}
		select {
		case to <- v:
		case <-ctx.Done():
			return nil
		}
	}
}

// parse reads a message of a known type; nil for others.
func parse(m media.Message) (v any, err error) {
	switch m.Type {
	case media.TypeConfigure:
		v, err = decode[media.Configure](m)
	case media.TypeBitrate:
		v, err = decode[media.Bitrate](m)
	case media.TypeInput:
		v, err = decode[media.Input](m)
	case media.TypePause:
		v, err = decode[media.Pause](m)
	case media.TypeVoice:
		v, err = media.ParseVoice(m.Payload)
	case media.TypeKeyframe:
		v = keyframe{}
	}
	return v, err
}

func decode[T any](m media.Message) (v T, err error) {
	err = m.Decode(&v)
	return v, err
}
