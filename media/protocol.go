package media

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// ProtocolVersion of the socket between stream and encode. Both sides say Hello
// first; a side that meets an unknown version ends the connection.
const ProtocolVersion = 1

// Type of a message. A message is a 4-byte big-endian length of what follows,
// one type byte, and the payload: JSON, but for frames.
type Type uint8

// Types of message.
const (
	TypeHello     Type = 1 // both ways, first: Hello
	TypeConfigure Type = 2 // stream → encode: Configure, at start and on change of codec or size
	TypeBitrate   Type = 3 // stream → encode: Bitrate
	TypeKeyframe  Type = 4 // stream → encode: no payload
	TypeInput     Type = 5 // stream → encode: Input, an input was injected
	TypeFrame     Type = 6 // encode → stream: binary Frame
	TypeState     Type = 7 // encode → stream: State
	TypePause     Type = 8 // stream → encode: Pause, nobody watches
	TypeDrawn     Type = 9 // encode → stream: 8 bytes, Drawn of the video frame that follows
	// TypeBusy is encode → stream, no payload: a driver takes long to open, this is
	// no hang. An older stream process passes over it, having heard it.
	TypeBusy Type = 10
	// TypeVoice is stream → encode: binary Voice. An older encode process passes over it.
	TypeVoice Type = 16
)

// Hello opens the protocol.
type Hello struct {
	Version int `json:"version"`
	PID     int `json:"pid"`
	// Calm says that a State may come every CalmEvery only while nothing happens.
	Calm bool `json:"calm,omitempty"`
}

// CalmEvery is how often an encode process that rests says that it lives.
const CalmEvery = time.Second

// Configure says what to capture and how to encode it.
type Configure struct {
	Display     string     `json:"display"` // X display, for example ":7"
	XAuth       string     `json:"xauth"`   // Xauthority file, "" = none
	Pulse       string     `json:"pulse"`   // sound server: "unix:/path"; "" = no sound
	Video       bool       `json:"video"`
	Audio       bool       `json:"audio"`
	Codec       api.Codec  `json:"codec"`
	Pool        api.Pool   `json:"pool"`
	Device      string     `json:"device,omitempty"` // of a hardware pool: an index, or a render node
	Screen      api.Screen `json:"screen"`
	BitrateKbps int        `json:"bitrate_kbps"`
	Threads     int        `json:"threads"`
	Preset      api.Preset `json:"preset,omitempty"`
	Cursor      bool       `json:"cursor"` // draw the pointer into the picture
	// Content is what the application says of its picture: api.ContentDetail,
	// api.ContentMotion, api.ContentAuto or "" = it is measured.
	Content string `json:"content,omitempty"`
}

// Bitrate changes the video bitrate while streaming, in kb/s, and how many
// pictures a second are taken at most: 0, and more than Configure's, is as many
// as that says. Quarters of the configured width and height are encoded: 0 is all
// four. An older encode process keeps to the configured rate and size.
type Bitrate struct {
	Kbps     int `json:"kbps"`
	FPS      int `json:"fps,omitempty"`
	Quarters int `json:"quarters,omitempty"`
}

// Input says that an input with this id reached the X server at At (CLOCK_MONOTONIC ns).
type Input struct {
	ID uint64 `json:"id"`
	At int64  `json:"at"`
}

// Pause stops capture (true) or resumes it with a keyframe (false).
type Pause struct {
	Paused bool `json:"paused"`
}

// State reports the encode process's own state.
type State struct {
	Ready bool   `json:"ready"`           // pictures flow
	Error string `json:"error,omitempty"` // why it is about to end
	// EngineFault says that the error is the encoder's or its driver's: another
	// engine may do.
	EngineFault bool       `json:"engine_fault,omitempty"`
	Encoder     string     `json:"encoder"` // "libx264", "libvpx-vp9" ...
	Screen      api.Screen `json:"screen"`  // the size that is really captured
	// Since the last State (one a second): frames and encode time.
	Frames      int     `json:"frames"`
	EncodeMSP50 float64 `json:"encode_ms_p50"`
	EncodeMSP95 float64 `json:"encode_ms_p95"`
	// Content is what the picture is, as said or measured: api.ContentDetail,
	// api.ContentMotion, "" = nothing was sent yet. Motion is how much of it changes
	// in each picture, in percent over the last second.
	Content string `json:"content,omitempty"`
	Motion  int    `json:"motion,omitempty"`
	// Drawn counts pictures that showed a change since start: 0 = nothing drawn yet.
	Drawn uint64 `json:"drawn"`
	// Rests says that nothing happens and the next State may take CalmEvery.
	Rests bool `json:"rests,omitempty"`
}

// MaxMessage bounds one message in bytes: a 4K keyframe fits many times.
const MaxMessage = 16 << 20

// ErrProtocol says that the other side does not speak this protocol.
var ErrProtocol = errors.New("media protocol violated")

// Message is one received message.
type Message struct {
	Type    Type
	Payload []byte // valid until the next Read
}

// Decode reads a JSON payload.
func (m Message) Decode(v any) error {
	if err := json.Unmarshal(m.Payload, v); err != nil {
		return fmt.Errorf("decode media message %d: %w", m.Type, err)
	}
	return nil
}

// Conn speaks the protocol over a stream socket. Read is for one goroutine;
// the writing methods may be called from many.
type Conn struct {
	r   *bufio.Reader
	buf []byte

	mu   sync.Mutex
	w    io.Writer
	wbuf []byte
}

// NewConn wraps a socket; the caller closes it.
func NewConn(rw io.ReadWriter) *Conn {
	return &Conn{r: bufio.NewReaderSize(rw, 64<<10), w: rw}
}

// Read gives the next message; its payload is valid until the next Read.
func (c *Conn) Read() (Message, error) {
	var head [5]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		return Message{}, fmt.Errorf("read media message: %w", err)
	}
	n := binary.BigEndian.Uint32(head[:4])
	if n < 1 || n > MaxMessage {
		return Message{}, fmt.Errorf("message of %d bytes: %w", n, ErrProtocol)
	}
	n--
	if cap(c.buf) < int(n) {
		c.buf = make([]byte, n)
	}
	c.buf = c.buf[:n]
	if _, err := io.ReadFull(c.r, c.buf); err != nil {
		return Message{}, fmt.Errorf("read media message: %w", err)
	}
	return Message{Type: Type(head[4]), Payload: c.buf}, nil
}

// Send writes a message with a JSON payload; nil v sends none.
func (c *Conn) Send(t Type, v any) error {
	var payload []byte
	if v != nil {
		var err error
		if payload, err = json.Marshal(v); err != nil {
			return fmt.Errorf("encode media message %d: %w", t, err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.write(t, payload, nil)
}

const frameHead = 1 + 1 + 8 + 8 + 8 + 8

// SendFrame writes one frame, and before it when it was drawn, if that is known:
// in a message of its own, which an older stream process passes over.
func (c *Conn) SendFrame(f Frame) error {
	var head [frameHead]byte
	head[0] = byte(f.Kind)
	if f.Key {
		head[1] = 1
	}
	binary.BigEndian.PutUint64(head[2:], uint64(f.PTS))
	binary.BigEndian.PutUint64(head[10:], uint64(f.Captured))
	binary.BigEndian.PutUint64(head[18:], uint64(f.Encoded))
	binary.BigEndian.PutUint64(head[26:], f.Input)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wbuf = c.wbuf[:0]
	if f.Drawn != 0 {
		var at [8]byte
		binary.BigEndian.PutUint64(at[:], uint64(f.Drawn))
		if err := c.add(TypeDrawn, at[:], nil); err != nil {
			return err
		}
	}
	if err := c.add(TypeFrame, head[:], f.Data); err != nil {
		return err
	}
	return c.flush()
}

func (c *Conn) write(t Type, a, b []byte) error {
	c.wbuf = c.wbuf[:0]
	if err := c.add(t, a, b); err != nil {
		return err
	}
	return c.flush()
}

// add puts a message behind those that wait for flush.
func (c *Conn) add(t Type, a, b []byte) error {
	n := 1 + len(a) + len(b)
	if n > MaxMessage {
		return fmt.Errorf("message of %d bytes: %w", n, ErrProtocol)
	}
	c.wbuf = binary.BigEndian.AppendUint32(c.wbuf, uint32(n))
	c.wbuf = append(append(append(c.wbuf, byte(t)), a...), b...)
	return nil
}

func (c *Conn) flush() error {
	if _, err := c.w.Write(c.wbuf); err != nil {
		return fmt.Errorf("write media message: %w", err)
	}
	return nil
}

// ParseDrawn reads a TypeDrawn payload.
func ParseDrawn(p []byte) (int64, error) {
	if len(p) < 8 {
		return 0, fmt.Errorf("time of %d bytes: %w", len(p), ErrProtocol)
	}
	return int64(binary.BigEndian.Uint64(p)), nil
}

// ParseFrame reads a TypeFrame payload; Data aliases it and Drawn is not in it.
func ParseFrame(p []byte) (Frame, error) {
	if len(p) < frameHead || p[0] != byte(Video) && p[0] != byte(Audio) {
		return Frame{}, fmt.Errorf("frame of %d bytes: %w", len(p), ErrProtocol)
	}
	return Frame{
		Kind:     Kind(p[0]),
		Key:      p[1] == 1,
		PTS:      time.Duration(binary.BigEndian.Uint64(p[2:])),
		Captured: int64(binary.BigEndian.Uint64(p[10:])),
		Encoded:  int64(binary.BigEndian.Uint64(p[18:])),
		Input:    binary.BigEndian.Uint64(p[26:]),
		Data:     p[frameHead:],
	}, nil
}
