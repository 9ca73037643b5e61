package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/local"
	"github.com/perigee-cloud/perigee/media/rtc"
)

const (
	socketPrefix = "webrtc_data_"
	dataFolder   = "data"
	maxApps      = 4        // connections of the application to one channel
	queueApp     = 256      // messages on their way to one of them
	backlogBytes = 1 << 20  // kept until the application connects
	chunk        = 16 << 10 // of the application's bytes, one message each
)

// channels are the data channels of one viewer, each a unix socket in the
// instance to which the application connects.
type channels struct {
	dir local.Session
	log *slog.Logger
	may bool   // its seat holds them
	of  string // behind the sockets' names: "" of the client
	// own serves a channel of Perigee's until ctx ends; false = there is none.
	own    func(context.Context, *rtc.Channel) bool
	ctx    context.Context
	cancel context.CancelFunc

	mu     sync.Mutex
	open   map[*channel]bool
	owned  map[string]bool // Perigee's own that were opened: one of each
	closed bool
}

// newChannels gives the client the sockets of the wire contract's names, and
// each guest ones of its own, after "@" and the name of its connection: the
// application tells them apart, and a slow guest holds up nobody.
func newChannels(ctx context.Context, dir local.Session, log *slog.Logger, v *viewer, own func(context.Context, *rtc.Channel) bool) *channels {
	s := &channels{dir: dir, log: log, may: v.seat.May(api.MayData), own: own, open: map[*channel]bool{}, owned: map[string]bool{}}
	s.ctx, s.cancel = context.WithCancel(ctx)
	if v.guest() {
		s.of = "@" + v.id
	}
	return s
}

// once says whether a channel of Perigee's own is the connection's first of its
// name: what each may have waiting is bounded.
func (s *channels) once(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	again := s.owned[name]
	s.owned[name] = true
	return !again
}

// add serves a channel that the client opened.
func (s *channels) add(c *rtc.Channel) {
	if strings.HasPrefix(c.Name, rtc.OwnPrefix) {
		if !s.once(c.Name) || s.ctx.Err() != nil || !s.own(s.ctx, c) {
			_ = c.Close() // the connection may be gone already
		}
		return
	}
	if !s.may {
		s.log.Info("data channel refused: the seat has no right to it", "name", c.Name)
		_ = c.Close() // the connection may be gone already
		return
	}
	ln, err := listen(s.dir, c.Name+s.of)
	if err != nil {
		s.log.Error("data channel has no socket", "name", c.Name, "error", err)
		_ = c.Close() // the connection may be gone already
		return
	}
	ch := &channel{rtc: c, ln: ln, log: s.log, apps: map[*app]bool{}}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		ch.close()
		return
	}
	s.open[ch] = true
	s.mu.Unlock()
	c.Handle(ch.fromClient, func() {
		s.mu.Lock()
		delete(s.open, ch)
		s.mu.Unlock()
		ch.close()
	})
	go ch.accept() // until the socket closes
}

// close ends every channel; nil has none.
func (s *channels) close() {
	if s == nil {
		return
	}
	s.cancel()
	s.mu.Lock()
	s.closed = true
	open := s.open
	s.open = map[*channel]bool{}
	s.mu.Unlock()
	for ch := range open {
		ch.close()
	}
}

// listen makes the socket. It is bound through the open folder: the whole path
// may be longer than the 107 bytes that a socket's address holds.
func listen(dir local.Session, name string) (net.Listener, error) {
	folder := filepath.Join(dir.Shared(), dataFolder)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, fmt.Errorf("make data folder: %w", err)
	}
	f, err := os.Open(folder)
	if err != nil {
		return nil, fmt.Errorf("open data folder: %w", err)
	}
	defer func() { _ = f.Close() }() // only read
	path := filepath.Join(folder, socketPrefix+name)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove old data socket: %w", err)
	}
	ln, err := (&net.ListenConfig{}).Listen(context.Background(), "unix", fmt.Sprintf("/proc/self/fd/%d/%s", f.Fd(), socketPrefix+name))
	if err != nil {
		return nil, fmt.Errorf("listen on data socket: %w", err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false) // its path ends with f
	// The application runs as another user.
	if err := os.Chmod(path, 0o666); err != nil {
		return nil, errors.Join(fmt.Errorf("open data socket to the application: %w", err), ln.Close())
	}
	return socket{ln, path}, nil
}

// socket removes its file with itself.
type socket struct {
	net.Listener
	path string
}

func (s socket) Close() error {
	return errors.Join(os.Remove(s.path), s.Listener.Close())
}

// channel joins one data channel to the application's connections.
type channel struct {
	rtc *rtc.Channel
	ln  net.Listener
	log *slog.Logger

	mu      sync.Mutex
	apps    map[*app]bool
	backlog [][]byte // came before the application
	bytes   int
	lost    bool
	closed  bool
}

type app struct {
	c   net.Conn
	out chan []byte // closed when it ends
}

func (c *channel) accept() {
	for {
		conn, err := c.ln.Accept()
		if err != nil {
			return // closed
		}
		a := &app{c: conn, out: make(chan []byte, queueApp)}
		c.mu.Lock()
		if c.closed || len(c.apps) >= maxApps {
			c.mu.Unlock()
			_ = conn.Close()
			continue
		}
		c.apps[a] = true
		for _, b := range c.backlog {
			a.out <- b // fits: see fromClient
		}
		c.backlog, c.bytes = nil, 0
		c.mu.Unlock()
		go a.write()
		go c.fromApp(a)
	}
}

// fromClient queues a message for the application. One that reads too slowly is
// cut off: bytes lost in the middle of its stream would be worse.
func (c *channel) fromClient(b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	if len(c.apps) == 0 {
		if c.bytes+len(b) > backlogBytes || len(c.backlog) >= queueApp {
			if !c.lost {
				c.lost = true
				c.log.Warn("data lost: the application does not listen", "channel", c.rtc.Name)
			}
			return
		}
		c.backlog, c.bytes = append(c.backlog, b), c.bytes+len(b)
		return
	}
	for a := range c.apps {
		select {
		case a.out <- b:
		default:
			c.log.Warn("the application reads its data channel too slowly", "channel", c.rtc.Name)
			c.end(a)
		}
	}
}

// end forgets a connection; mu is held.
func (c *channel) end(a *app) {
	if c.apps[a] {
		delete(c.apps, a)
		close(a.out)
		_ = a.c.Close()
	}
}

func (a *app) write() {
	for b := range a.out {
		if _, err := a.c.Write(b); err != nil {
			_ = a.c.Close() // its reader ends it
			return
		}
	}
}

// fromApp sends what the application writes; the channel's own fullness holds it up.
func (c *channel) fromApp(a *app) {
	buf := make([]byte, chunk)
	for {
		n, err := a.c.Read(buf)
		if n > 0 && c.rtc.Send(buf[:n]) != nil {
			break
		}
		if err != nil {
			break
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.end(a)
}

func (c *channel) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.closed = true
	_ = c.ln.Close() // the folder may be gone already
	for a := range c.apps {
		c.end(a)
	}
}
