package instance

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/local"
)

// maxLog bounds the output kept of one process in bytes: the file and the one
// before it hold half each.
const maxLog = 1 << 20

// output keeps what a process writes, in a bounded file, and its last line.
type output struct {
	path string
	r    *os.File
	done chan struct{}

	mu   sync.Mutex // guards the fields below
	f    *os.File
	n    int
	prev int    // bytes of the file before it
	gone int64  // bytes that were dropped before that
	line []byte // being written, at most api.MaxMessage bytes
	last string // the last whole line that says something
	err  error
}

// newOutput opens path and gives the file that the process writes to; the
// caller closes that once the process has it.
func newOutput(path string) (*output, *os.File, error) {
	// What an earlier run or a hook wrote stays.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("open log: %w", err)
	}
	n, _ := f.Seek(0, io.SeekEnd) // at worst the file grows to twice its bound
	prev := 0
	if st, err := os.Stat(local.LogBefore(path)); err == nil {
		prev = int(st.Size())
	}
	b, _ := os.ReadFile(local.LogGone(path)) // none: nothing was dropped yet
	gone, _ := strconv.ParseInt(string(b), 10, 64)
	r, w, err := os.Pipe()
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("make pipe: %w", err)
	}
	o := &output{path: path, r: r, f: f, n: int(n), prev: prev, gone: gone, done: make(chan struct{})}
	go func() {
		defer close(o.done)
		_, _ = io.Copy(o, r) // ends when every writer has ended, or at close
	}()
	return o, w, nil
}

// Write keeps p. It never fails: a full disk must not stop the application.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.keepLine(p)
	if o.n+len(p) > maxLog/2 {
		o.rotate()
	}
	if o.f != nil {
		n, err := o.f.Write(p)
		o.n += n
		o.err = err
	}
	return len(p), nil
}

func (o *output) rotate() {
	if o.f != nil {
		o.f.Close()
	}
	if o.prev > 0 { // readers count all that was ever written
		o.gone += int64(o.prev)
		_ = os.WriteFile(local.LogGone(o.path), strconv.AppendInt(nil, o.gone, 10), 0o600) // at worst they see a jump
	}
	_ = os.Rename(o.path, local.LogBefore(o.path)) // at worst the file is truncated below
	o.n, o.prev = 0, o.n
	if o.f, o.err = os.OpenFile(o.path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600); o.err != nil {
		o.f = nil
	}
}

func (o *output) keepLine(p []byte) {
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		part := p
		if i >= 0 {
			part = p[:i]
		}
		if room := api.MaxMessage - len(o.line); room > 0 {
			o.line = append(o.line, part[:min(room, len(part))]...)
		}
		if i < 0 {
			return
		}
		if t := bytes.TrimSpace(o.line); len(t) > 0 {
			o.last = string(t)
		}
		o.line, p = o.line[:0], p[i+1:]
	}
}

// lastLine gives the last line that was not empty.
func (o *output) lastLine() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if t := bytes.TrimSpace(o.line); len(t) > 0 {
		return string(t)
	}
	return o.last
}

// settle waits a moment for what an ended process has written last.
func (o *output) settle() {
	select {
	case <-o.done:
	case <-time.After(200 * time.Millisecond):
	}
}

// close ends the copying; every writer must have ended or be of no interest.
func (o *output) close() {
	o.r.Close()
	<-o.done
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.f != nil {
		o.f.Close()
	}
}

// clip cuts a message to api.MaxMessage bytes of valid text.
func clip(s string) string {
	return strings.ToValidUTF8(s[:min(len(s), api.MaxMessage)], "")
}
