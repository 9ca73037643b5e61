package instance

import (
	"io"
	"sync"

	"github.com/perigee-cloud/perigee/api"
)

// feedBytes is how much may wait: several times what a link has under way, as
// what does not fit is sent again only after a while.
const feedBytes = 4 * api.LinkBytes

// feed is what came for a visit and was not read yet: a reader for one goroutine.
type feed struct {
	mu    sync.Mutex // guards the fields below
	come  *sync.Cond
	parts [][]byte
	bytes int
	over  bool
	err   error // after the parts; nil = the end
}

func newFeed() *feed {
	f := &feed{}
	f.come = sync.NewCond(&f.mu)
	return f
}

// put adds a part, which it keeps. Its caller asks full before.
func (f *feed) put(b []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.over {
		f.parts, f.bytes = append(f.parts, b), f.bytes+len(b)
		f.come.Signal()
	}
}

// full says whether so much waits that more must not come yet.
func (f *feed) full() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.bytes >= feedBytes
}

// ended says whether the end was told, and nothing is left before it.
func (f *feed) ended() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.over && f.err == nil && len(f.parts) == 0
}

// close ends the feed after what it holds; with an error at once.
func (f *feed) close(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over && f.err != nil {
		return
	}
	if err != nil {
		f.parts, f.bytes = nil, 0
	}
	f.over, f.err = true, err
	f.come.Signal()
}

// Read waits for a part.
func (f *feed) Read(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.parts) == 0 && !f.over {
		f.come.Wait()
	}
	if len(f.parts) == 0 {
		if f.err != nil {
			return 0, f.err
		}
		return 0, io.EOF
	}
	n := copy(p, f.parts[0])
	f.bytes -= n
	if f.parts[0] = f.parts[0][n:]; len(f.parts[0]) == 0 {
		f.parts = f.parts[1:]
	}
	return n, nil
}
