package local

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// Version of the local protocol. Version n+1 of a daemon speaks version n.
const Version = 1

// Kind of a local message.
type Kind string

// Kinds. The daemon dials; shim and stream listen and serve any number of
// connections, so that a new daemon may come while the old one still leaves.
const (
	KindHello  Kind = "hello"  // both ways, first: Version
	KindState  Kind = "state"  // stream/shim → daemon: Instance or Stream, on change and after hello
	KindStop   Kind = "stop"   // daemon → stream/shim: end; Force does not wait for the application
	KindAdmit  Kind = "admit"  // daemon → stream/shim: Viewer may connect, earlier ones are cut; Screen resizes
	KindSignal Kind = "signal" // both ways, stream only: one api.Signal
	KindClaim  Kind = "claim"  // daemon → stream/shim: the started instance has its session, as Spec says it
	KindShares Kind = "shares" // daemon → stream: Shares that are there; who came by others is cut
)

// StreamState is what a stream process says of its session.
type StreamState struct {
	PID         int        `json:"pid"`
	Connected   bool       `json:"connected"` // a viewer's connection is up
	Viewer      uint32     `json:"viewer"`
	Encoding    bool       `json:"encoding"` // pictures flow from the encode process
	Drawn       bool       `json:"drawn"`    // the application has drawn something
	Codec       api.Codec  `json:"codec,omitempty"`
	Pool        api.Pool   `json:"pool,omitempty"`
	Engine      string     `json:"engine,omitempty"` // of the pool, where it has several
	Screen      api.Screen `json:"screen,omitzero"`
	RoundTripMS float64    `json:"round_trip_ms,omitempty"`
	SentBytes   uint64     `json:"sent_bytes,omitempty"` // to all viewers since the process began, headers included
	Failed      string     `json:"failed,omitempty"`     // why the stream cannot go on
	Inactive    bool       `json:"inactive,omitempty"`   // its client did nothing for the application's time
	Kbps        int        `json:"kbps,omitempty"`       // that the picture is encoded at: what the way to the viewer carries
	// Latency is what was measured since the stream began; nil = nothing. It is
	// replaced, never changed.
	Latency *api.Latency `json:"latency,omitempty"`
}

// Message is one local message; the fields of other kinds are empty.
type Message struct {
	Kind     Kind           `json:"kind"`
	Version  int            `json:"version,omitempty"`
	Force    bool           `json:"force,omitempty"`
	Reason   api.Reason     `json:"reason,omitempty"`
	Viewer   uint32         `json:"viewer,omitempty"`
	Screen   *api.Screen    `json:"screen,omitempty"`
	Signal   *api.Signal    `json:"signal,omitempty"`
	Shares   *api.ShareList `json:"shares,omitempty"`
	Spec     *api.Spec      `json:"spec,omitempty"`
	Instance *InstanceState `json:"instance,omitempty"`
	Stream   *StreamState   `json:"stream,omitempty"`
}

const (
	maxLocal     = 1 << 20
	writeTimeout = 2 * time.Second
	helloTimeout = 2 * time.Second
)

// ErrVersion says that the other process speaks a protocol we do not.
var ErrVersion = errors.New("local protocol version is not supported")

// Conn is one end of a local socket: 4-byte big-endian length, JSON. Read is
// for one goroutine, Send for many.
type Conn struct {
	c  net.Conn
	r  *bufio.Reader
	mu sync.Mutex // one message at a time is written
}

// Dial connects to a shim's or stream's socket and says hello.
func Dial(ctx context.Context, path string) (*Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("dial local socket: %w", err)
	}
	return Handshake(c)
}

// Handshake says hello on a connected socket and checks the other's version;
// it closes the socket when that fails.
func Handshake(c net.Conn) (*Conn, error) {
	l := &Conn{c: c, r: bufio.NewReader(c)}
	fail := func(err error) (*Conn, error) { return nil, errors.Join(err, c.Close()) }
	if err := l.Send(Message{Kind: KindHello, Version: Version}); err != nil {
		return fail(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(helloTimeout)); err != nil {
		return fail(fmt.Errorf("set deadline: %w", err))
	}
	m, err := l.Read()
	if err != nil {
		return fail(err)
	}
	if m.Kind != KindHello || m.Version < 1 {
		return fail(fmt.Errorf("hello of version %d: %w", m.Version, ErrVersion))
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		return fail(fmt.Errorf("clear deadline: %w", err))
	}
	return l, nil
}

// Send writes one message; it waits 2 s at most.
func (l *Conn) Send(m Message) error {
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode local message: %w", err)
	}
	if len(b) > maxLocal {
		return fmt.Errorf("local message of %d bytes is over %d", len(b), maxLocal)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.c.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return fmt.Errorf("set deadline: %w", err)
	}
	if _, err := l.c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)); err != nil {
		return fmt.Errorf("write local message: %w", err)
	}
	return nil
}

// Read waits for the next message.
func (l *Conn) Read() (Message, error) {
	var head [4]byte
	if _, err := io.ReadFull(l.r, head[:]); err != nil {
		return Message{}, fmt.Errorf("read local message: %w", err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxLocal {
		return Message{}, fmt.Errorf("local message of %d bytes is over %d", n, maxLocal)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(l.r, b); err != nil {
		return Message{}, fmt.Errorf("read local message: %w", err)
	}
	var m Message
	if err := json.Unmarshal(b, &m); err != nil {
		return Message{}, fmt.Errorf("decode local message: %w", err)
	}
	return m, nil
}

// Close ends the connection; a waiting Read returns.
func (l *Conn) Close() error { return l.c.Close() }
