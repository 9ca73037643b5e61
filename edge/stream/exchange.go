package stream

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"sync/atomic"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/media/input"
	"github.com/perigee-cloud/perigee/media/rtc"
)

// Channels of Perigee's own, which the page opens when it was told of them.
const (
	clipboardChannel = rtc.OwnPrefix + "clipboard"
	filesChannel     = rtc.OwnPrefix + "files"
)

// typeExchange tells a page what it may exchange with the instance.
const typeExchange = "perigee::exchange"

type exchangeTold struct {
	Clipboard struct {
		In       bool `json:"in"`
		Out      bool `json:"out"`
		MaxBytes int  `json:"max_bytes"`
	} `json:"clipboard"`
	Files struct {
		Up       bool  `json:"up"`
		Down     bool  `json:"down"`
		MaxBytes int64 `json:"max_bytes"`
	} `json:"files"`
	Gamepads struct {
		Slots int    `json:"slots"`
		Why   string `json:"why,omitempty"` // there are none
	} `json:"gamepads"`
}

// exchange says what a viewer may exchange: what the application's manifest
// permits, with the session's own client where its seat holds data channels.
func (s *session) exchange(v *viewer) exchangeTold {
	var t exchangeTold
	p := s.spec.App.Permissions
	t.Clipboard.MaxBytes, t.Files.MaxBytes = input.MaxClip, maxFile
	if !v.guest() && v.seat.May(api.MayData) {
		t.Clipboard.In, t.Clipboard.Out = p.Clipboard.In(), p.Clipboard.Out()
		t.Files.Up, t.Files.Down = p.Files.Up(), p.Files.Down()
	}
	if v.seat.May(api.MayInput) && p.Gamepads.Allowed() {
		t.Gamepads.Slots, t.Gamepads.Why = s.gamepads.there()
	}
	return t
}

// tellExchange tells a page that takes part what it may exchange.
func (s *session) tellExchange(v *viewer) {
	if v.peer == nil || v.over || !v.listens {
		return
	}
	told := s.exchange(v)
	if err := v.peer.Tell(typeExchange, told); err != nil {
		s.log.Debug("page not told", "viewer", v.id, "error", err)
	}
}

// serveOwn serves a channel of Perigee's until it or ctx ends; false = there is none.
func (s *session) serveOwn(ctx context.Context, v *viewer, c *rtc.Channel) bool {
	may := s.exchange(v)
	var serve func(context.Context, *parcels)
	switch {
	case c.Name == clipboardChannel && (may.Clipboard.In || may.Clipboard.Out):
		serve = s.clips.serve(may.Clipboard.In, may.Clipboard.Out, s.log)
	case c.Name == filesChannel && (may.Files.Up || may.Files.Down):
		serve = serveFiles(s.dir.OpenHome, may.Files.Up, may.Files.Down, s.log)
	default:
		return false
	}
	p := newParcels(c, s.log)
	go func() { // until ctx, which the viewer's end cancels
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stop := context.AfterFunc(ctx, func() { _ = c.Close() }) // the connection may be gone already
		defer stop()
		serve(ctx, p)
		_ = c.Close()
	}()
	return true
}

// A parcel is one message of such a channel: 'j' and JSON, or 'd', the number of
// a transfer (4 bytes, big endian) and the next of its bytes.
const (
	parcelJSON = 'j'
	parcelData = 'd'
	parcelHead = 5
	// maxParcels may wait for us. Clients send no more than a window of bytes
	// unacknowledged; one that does loses its channel.
	maxParcels = 256
	// maxParcelBytes may wait: the largest clip, which is sent without a window, and a
	// window of each file that is sent at once.
	maxParcelBytes = input.MaxClip + 8<<20
	parcelSize     = 64 << 10 // bytes of one parcel of ours
)

// note is a parcel's JSON. ID is the transfer's, chosen by who begins it.
type note struct {
	Op    string     `json:"op"`
	ID    uint32     `json:"id,omitempty"`
	Name  string     `json:"name,omitempty"`
	Type  string     `json:"type,omitempty"`
	Size  int64      `json:"size,omitempty"`
	Bytes int64      `json:"bytes,omitempty"`
	Why   string     `json:"why,omitempty"`
	Files []fileTold `json:"files,omitempty"`
}

// Ops of notes.
const (
	opClip   = "clip"   // something copied follows: type, size
	opPut    = "put"    // a file follows: name, size
	opGet    = "get"    // a file is wanted: name; answered with its size and bytes
	opTaken  = "taken"  // so many bytes of a put are on the disk
	opDone   = "done"   // the transfer is complete; name: what the file is called
	opFailed = "failed" // it is not, and why
	opDrop   = "drop"   // give the transfer up
	opFiles  = "files"  // the list of what there is to get
)

// parcels is a channel with its messages in order.
type parcels struct {
	c     *rtc.Channel
	in    chan []byte // each is given back by took
	bytes atomic.Int64
}

func newParcels(c *rtc.Channel, log logger) *parcels {
	p := &parcels{c: c, in: make(chan []byte, maxParcels)}
	c.Handle(func(b []byte) {
		if p.bytes.Add(int64(len(b))) <= maxParcelBytes {
			select {
			case p.in <- b:
				return
			default:
			}
		}
		log.Warn("a page sends faster than it may", "channel", c.Name)
		_ = c.Close() // the connection may be gone already
	}, func() {})
	return p
}

// took says that a message no longer waits.
func (p *parcels) took(b []byte) { p.bytes.Add(-int64(len(b))) }

// logger is what of slog is used here.
type logger interface {
	Warn(msg string, args ...any)
}

func (p *parcels) tell(n note) error {
	b, err := json.Marshal(n)
	if err != nil {
		return fmt.Errorf("encode note %s: %w", n.Op, err)
	}
	return p.c.Send(append([]byte{parcelJSON}, b...))
}

// fail tells that a transfer failed.
func (p *parcels) fail(id uint32, err error) error {
	return p.tell(note{Op: opFailed, ID: id, Why: err.Error()})
}

// data sends the next bytes of a transfer, at most parcelSize. It waits while
// much is on its way.
func (p *parcels) data(id uint32, b []byte) error {
	head := binary.BigEndian.AppendUint32([]byte{parcelData}, id)
	return p.c.Send(append(head, b...))
}

// parse reads a parcel: a note, or the bytes of a transfer.
func parse(b []byte) (n note, data []byte, err error) {
	switch {
	case len(b) >= parcelHead && b[0] == parcelData:
		return note{ID: binary.BigEndian.Uint32(b[1:])}, b[parcelHead:], nil
	case len(b) > 0 && b[0] == parcelJSON:
		if err := json.Unmarshal(b[1:], &n); err != nil || n.Op == "" {
			return n, nil, api.Invalidf("note", "not understood: %v", err)
		}
		return n, nil, nil
	}
	return n, nil, api.Invalidf("message", "is neither a note nor data")
}
