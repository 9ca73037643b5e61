package fleet

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"net"
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// The bus's times are those of api/bus.
const (
	askTimeout   = time.Second
	pingEvery    = 5 * time.Second
	deadAfter    = 3 * pingEvery // without a word
	writeTimeout = 5 * time.Second
	backOffFirst = 100 * time.Millisecond
	backOffMost  = 5 * time.Second
	maxFrame     = 8 << 20
)

// Kinds of frames.
const (
	kindHello     = "hello" // first: Node of an edge, "" and At of a hub
	kindPing      = "ping"
	kindCommand   = "command"
	kindReport    = "report"
	kindHeartbeat = "heartbeat"
	kindAnswer    = "answer"
)

// frame is one message of the bus. An answer goes to Node, or to hub At when
// that is empty.
type frame struct {
	Kind string          `json:"k"`
	ID   uint64          `json:"i,omitempty"`
	Node api.NodeID      `json:"n,omitempty"`
	At   int             `json:"a,omitempty"`
	Data json.RawMessage `json:"d,omitempty"`
}

// wire carries frames over one connection. read is for one goroutine, pump for
// another.
type wire struct {
	c   net.Conn
	r   *bufio.Reader
	out chan []byte
}

// maxQueued frames wait for a connection; one that takes none is closed, as
// NATS closes a slow consumer's.
const maxQueued = 4096

func newWire(c net.Conn) *wire {
	return &wire{c: c, r: bufio.NewReader(c), out: make(chan []byte, maxQueued)}
}

// send queues a frame. It never waits: a mutex held over a write would hold a
// bubble's time.
func (w *wire) send(f frame) {
	b, err := json.Marshal(f)
	if err != nil {
		panic(fmt.Sprintf("a frame cannot be encoded: %v", err)) // all its parts were
	}
	select {
	case w.out <- append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...):
	default:
		_ = w.c.Close() // its reader notices
	}
}

// pump writes what is queued, and pings, until done is closed.
func (w *wire) pump(done <-chan struct{}) {
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
			w.send(frame{Kind: kindPing})
		case b := <-w.out:
			err := w.c.SetWriteDeadline(time.Now().Add(writeTimeout))
			if err == nil {
				_, err = w.c.Write(b)
			}
			if err != nil {
				_ = w.c.Close() // its reader notices
			}
		}
	}
}

// read waits for the next frame; a connection that is silent for too long ends.
func (w *wire) read() (f frame, err error) {
	if err := w.c.SetReadDeadline(time.Now().Add(deadAfter)); err != nil {
		return f, fmt.Errorf("bound read: %w", err)
	}
	var head [4]byte
	if _, err := io.ReadFull(w.r, head[:]); err != nil {
		return f, fmt.Errorf("read frame: %w", err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxFrame {
		return f, fmt.Errorf("read frame: %d bytes are over %d", n, maxFrame)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(w.r, b); err != nil {
		return f, fmt.Errorf("read frame: %w", err)
	}
	if err := json.Unmarshal(b, &f); err != nil {
		return f, fmt.Errorf("decode frame: %w", err)
	}
	return f, nil
}

// lanes run handlers as api/bus does: of one key in order, of different keys
// side by side, and none when too many wait.
type lanes struct {
	work []chan func()
	wg   sync.WaitGroup
}

const (
	laneCount = 64
	laneDepth = 128
)

func newLanes(done <-chan struct{}) *lanes {
	l := &lanes{work: make([]chan func(), laneCount)}
	for i := range l.work {
		l.work[i] = make(chan func(), laneDepth)
		l.wg.Go(func() {
			for {
				select {
				case <-done:
					return
				case f := <-l.work[i]:
					f()
				}
			}
		})
	}
	return l
}

func (l *lanes) add(key string, f func()) {
	h := fnv.New32a()
	_, _ = h.Write([]byte(key)) // never fails
	select {
	case l.work[h.Sum32()%laneCount] <- f:
	default: // its sender sends it again
	}
}

// asked are the questions that wait for an answer.
type asked struct {
	mu   sync.Mutex // guards the fields below
	next uint64
	open map[uint64]chan json.RawMessage
}

func (a *asked) add() (uint64, chan json.RawMessage) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.open == nil {
		a.open = map[uint64]chan json.RawMessage{}
	}
	a.next++
	c := make(chan json.RawMessage, 1)
	a.open[a.next] = c
	return a.next, c
}

func (a *asked) drop(id uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.open, id)
}

func (a *asked) answer(f frame) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.open[f.ID]; c != nil {
		c <- f.Data
		delete(a.open, f.ID)
	}
}
