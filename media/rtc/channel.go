package rtc

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"

	"github.com/pion/webrtc/v4"

	"github.com/perigee-cloud/perigee/api"
)

const (
	controlLabel = "control"
	// MaxChannels is how many data channels of its own a client may have.
	MaxChannels = 5
	// OwnPrefix begins the names of Perigee's own channels, which do not count there.
	OwnPrefix = "perigee."
	maxOwn    = 4
	// MaxControl bounds a message of the control channel in bytes.
	MaxControl = 64 << 10
	// MaxChannelMessage bounds a message of a user's data channel in bytes.
	MaxChannelMessage = 256 << 10

	sendHigh = 1 << 20 // bytes on their way at which Send waits
	sendLow  = 256 << 10
)

// Channel is a data channel that the client opened, named by the client.
type Channel struct {
	Name string
	dc   *webrtc.DataChannel

	mu      sync.Mutex
	onData  func([]byte)
	onClose func()
	closed  bool
	open    chan struct{} // closed once it can send
	low     chan struct{} // a place in the send buffer
	gone    chan struct{}
}

// opened is called for each data channel of the client.
func (p *Peer) opened(dc *webrtc.DataChannel) {
	if dc.Label() == controlLabel {
		p.mu.Lock()
		p.control = dc
		p.mu.Unlock()
		dc.OnMessage(func(m webrtc.DataChannelMessage) { p.heard(m.Data) })
		if p.cfg.Events.Opened != nil {
			dc.OnOpen(p.cfg.Events.Opened)
		}
		return
	}
	p.mu.Lock()
	n, most := &p.channels, MaxChannels
	if strings.HasPrefix(dc.Label(), OwnPrefix) {
		n, most = &p.own, maxOwn
	}
	ok := *n < most && validChannel(dc.Label())
	if ok {
		*n++
	}
	open := *n
	p.mu.Unlock()
	if !ok {
		p.cfg.Log.Warn("data channel refused", "name", dc.Label(), "open", open)
		_ = dc.Close() // the connection may be gone already
		return
	}
	c := &Channel{Name: dc.Label(), dc: dc, low: make(chan struct{}, 1), open: make(chan struct{}), gone: make(chan struct{})}
	dc.OnOpen(func() { close(c.open) })
	dc.SetBufferedAmountLowThreshold(sendLow)
	dc.OnBufferedAmountLow(func() {
		select {
		case c.low <- struct{}{}:
		default:
		}
	})
	dc.OnMessage(func(m webrtc.DataChannelMessage) { c.received(m.Data) })
	dc.OnClose(func() {
		p.mu.Lock()
		*n--
		p.mu.Unlock()
		c.ended()
	})
	p.cfg.Events.Channel(c)
}

// validChannel says whether a name can name a socket in the instance.
func validChannel(name string) bool {
	if name == "" || len(name) > 64 {
		return false
	}
	for _, c := range name {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.':
		default:
			return false
		}
	}
	return true
}

// Control is a message of the control channel.
type Control struct {
	Type string
	Data []byte // JSON; nil = none
	// ID is the client's own of an input; 0 = it gave none.
	ID uint64
	// Width and Height are of the picture by whose pixels a position counts; 0 = not said.
	Width, Height int
}

// controlMessage is how one looks on the wire. Everything of ours in it lies
// under one key.
type controlMessage struct {
	Type    string          `json:"type"`
	Data    json.RawMessage `json:"data,omitempty"`
	Perigee *struct {
		ID     uint64 `json:"id"`
		Width  int    `json:"width"`
		Height int    `json:"height"`
	} `json:"perigee,omitempty"`
}

// heard reads a message of the control channel; what is not one is ignored.
func (p *Peer) heard(b []byte) {
	if len(b) > MaxControl {
		p.cfg.Log.Warn("control message too large", "bytes", len(b))
		return
	}
	var m controlMessage
	if err := json.Unmarshal(b, &m); err != nil || m.Type == "" {
		p.cfg.Log.Debug("control message not understood", "error", err)
		return
	}
	c := Control{Type: m.Type, Data: m.Data}
	if m.Perigee != nil {
		c.ID, c.Width, c.Height = m.Perigee.ID, m.Perigee.Width, m.Perigee.Height
	}
	p.cfg.Events.Control(c)
}

// Tell sends a message on the control channel. It does not wait: a client that
// takes nothing loses it.
func (p *Peer) Tell(typ string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode message %s: %w", typ, err)
	}
	b, err := json.Marshal(controlMessage{Type: typ, Data: data})
	if err != nil {
		return fmt.Errorf("encode message %s: %w", typ, err)
	}
	p.mu.Lock()
	dc := p.control
	p.mu.Unlock()
	if dc == nil || dc.BufferedAmount() > MaxControl {
		return nil
	}
	if err := dc.SendText(string(b)); err != nil {
		return fmt.Errorf("send message %s: %w", typ, err)
	}
	return nil
}

func (c *Channel) received(b []byte) {
	c.mu.Lock()
	f := c.onData
	c.mu.Unlock()
	if f != nil && len(b) <= MaxChannelMessage {
		f(b)
	}
}

func (c *Channel) ended() {
	c.mu.Lock()
	was := c.closed
	c.closed = true
	f := c.onClose
	c.mu.Unlock()
	if was {
		return
	}
	close(c.gone)
	if f != nil {
		f()
	}
}

// Handle says who takes the messages, in order and from one goroutine, and who
// is told of the end, once; neither may block. It is called before
// Events.Channel returns, so that no message is missed.
func (c *Channel) Handle(data func([]byte), closed func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onData, c.onClose = data, closed
}

// Done is closed with the channel.
func (c *Channel) Done() <-chan struct{} { return c.gone }

// Send sends one binary message of at most 256 KiB. It waits until the channel is
// open, so not within Events.Channel, and while much is on its way, until it ends.
func (c *Channel) Send(b []byte) error {
	if len(b) > MaxChannelMessage {
		return api.Errorf(api.CodeTooLarge, "a message of %d bytes is over %d", len(b), MaxChannelMessage)
	}
	select {
	case <-c.open: // pion says that there is one before it can send
	case <-c.gone:
		return fmt.Errorf("send on channel %s: %w", c.Name, errClosed)
	}
	waited := false
	for c.dc.BufferedAmount() > sendHigh {
		select {
		case <-c.low:
			waited = true
		case <-c.gone:
			return fmt.Errorf("send on channel %s: %w", c.Name, errClosed)
		}
	}
	if waited { // it is told once for all who wait: what we send may not fill the channel again
		select {
		case c.low <- struct{}{}:
		default:
		}
	}
	if err := c.dc.Send(b); err != nil {
		return fmt.Errorf("send on channel %s: %w", c.Name, err)
	}
	return nil
}

// Close ends the channel.
func (c *Channel) Close() error {
	if err := c.dc.Close(); err != nil {
		return fmt.Errorf("close channel %s: %w", c.Name, err)
	}
	return nil
}
