package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

const (
	listEvery  = time.Second
	homeRetry  = 100 * time.Millisecond
	maxUploads = 4  // at once
	maxGets    = 16 // that wait; one is sent at a time
	takenEvery = 256 << 10
)

// files serves one page's channel of files.
type files struct {
	p    *parcels
	log  *slog.Logger
	home *os.File
	up   *folder // nil = not permitted
	down *folder
	puts map[uint32]*upload
	gets chan note
	drop chan uint32
	told []fileTold
}

// serveFiles gives what serves one page's channel.
func serveFiles(home func(context.Context) (*os.File, error), up, down bool, log *slog.Logger) func(context.Context, *parcels) {
	return func(ctx context.Context, p *parcels) {
		s := &files{p: p, log: log, puts: map[uint32]*upload{}, gets: make(chan note, maxGets), drop: make(chan uint32, maxGets)}
		if err := s.open(ctx, home, up, down); err != nil {
			log.Warn("no files are exchanged", "error", err)
			_ = p.fail(0, err) // the channel closes anyway
			return
		}
		defer s.close()
		s.run(ctx)
	}
}

func (s *files) open(ctx context.Context, home func(context.Context) (*os.File, error), up, down bool) error {
	var h *os.File
	var err error
	for begun := time.Now(); ; { // a page may be there before the instance is
		if h, err = home(ctx); err == nil {
			break
		}
		if ctx.Err() != nil || time.Since(begun) > displayWait {
			return err
		}
		select {
		case <-time.After(homeRetry):
		case <-s.p.c.Done():
			return err
		case <-ctx.Done():
			return err
		}
	}
	s.home = h
	if up {
		s.up, err = openFolder(h, uploads)
	}
	if down && err == nil {
		s.down, err = openFolder(h, downloads)
	}
	if err != nil {
		s.close()
	}
	return err
}

func (s *files) close() {
	for _, u := range s.puts {
		u.drop()
	}
	_ = s.home.Close()
	for _, d := range []*folder{s.up, s.down} {
		if d != nil {
			_ = d.Close() // only read
		}
	}
}

func (s *files) run(ctx context.Context) {
	sent := make(chan struct{})
	ctx, cancel := context.WithCancel(ctx)
	go func() { defer close(sent); s.send(ctx) }()
	defer func() { cancel(); <-sent }()
	tick := time.NewTicker(listEvery)
	defer tick.Stop()
	s.list()
	for {
		select {
		case b := <-s.p.in:
			s.p.took(b)
			n, data, err := parse(b)
			if err == nil {
				err = s.take(n, data)
			}
			if err != nil {
				s.log.Info("file not exchanged", "error", err)
				if u := s.puts[n.ID]; u != nil {
					u.drop()
					delete(s.puts, n.ID)
				}
				_ = s.p.fail(n.ID, err) // its end is seen here
			}
		case <-tick.C:
			s.list()
		case <-s.p.c.Done():
			return
		case <-ctx.Done():
			return
		}
	}
}

// take takes one parcel of the page.
func (s *files) take(n note, data []byte) error {
	switch n.Op {
	case "": // data
		u := s.puts[n.ID]
		if u == nil {
			return nil // of one that failed or was dropped
		}
		if err := u.write(data); err != nil {
			return err
		}
		return s.taken(n.ID, u)
	case opPut:
		switch {
		case s.up == nil:
			return api.Errorf(api.CodeForbidden, "this application takes no files")
		case n.ID == 0 || s.puts[n.ID] != nil:
			return api.Invalidf("id", "%d is no new transfer", n.ID)
		case len(s.puts) >= maxUploads:
			return api.Errorf(api.CodeConflict, "at most %d files at once", maxUploads)
		}
		if err := s.up.again(s.home); err != nil {
			return err
		}
		u, err := s.up.create(n.Name, n.Size)
		if err != nil {
			return err
		}
		s.puts[n.ID] = u
		return s.taken(n.ID, u)
	case opGet:
		if s.down == nil {
			return api.Errorf(api.CodeForbidden, "this application gives no files")
		}
		select {
		case s.gets <- n:
		default:
			return api.Errorf(api.CodeConflict, "at most %d files wait", maxGets)
		}
	case opDrop:
		if u := s.puts[n.ID]; u != nil {
			u.drop()
			delete(s.puts, n.ID)
			return nil
		}
		select {
		case s.drop <- n.ID:
		default: // many were dropped that were never sent
		}
	}
	return nil
}

// taken tells the page how far its file is: it sends only so far ahead.
func (s *files) taken(id uint32, u *upload) error {
	if u.got >= u.size {
		delete(s.puts, id)
		name, err := u.finish()
		if err != nil {
			return err
		}
		s.log.Info("a file came", "name", name, "bytes", u.size)
		return s.p.tell(note{Op: opDone, ID: id, Name: name})
	}
	if u.got == 0 || u.got-u.told >= takenEvery {
		u.told = u.got
		return s.p.tell(note{Op: opTaken, ID: id, Bytes: u.got})
	}
	return nil
}

// list tells what there is to fetch, when it has changed.
func (s *files) list() {
	if s.down == nil {
		return
	}
	err := s.down.again(s.home)
	var now []fileTold
	if err == nil {
		now, err = s.down.list()
	}
	if err != nil {
		s.log.Debug("files not listed", "error", err)
		return
	}
	if s.told != nil && slices.Equal(now, s.told) {
		return
	}
	s.told = append([]fileTold{}, now...)
	if err := s.p.tell(note{Op: opFiles, Files: now}); err != nil {
		s.log.Debug("files not told", "error", err)
	}
}

// send sends files that were asked for, one after the other.
func (s *files) send(ctx context.Context) {
	for {
		select {
		case n := <-s.gets:
			if err := s.sendOne(ctx, n); err != nil {
				s.log.Info("file not sent", "error", err)
				_ = s.p.fail(n.ID, err) // the channel may be gone
			}
		case <-s.p.c.Done():
			return
		case <-ctx.Done():
			return
		}
	}
}

var errDropped = errors.New("it is not wanted any more")

func (s *files) sendOne(ctx context.Context, n note) error {
	f, size, err := s.down.open(n.Name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	if err := s.p.tell(note{Op: opGet, ID: n.ID, Name: n.Name, Size: size}); err != nil {
		return err
	}
	buf := make([]byte, parcelSize)
	for left := size; left > 0; {
		k, err := io.ReadFull(f, buf[:min(left, parcelSize)])
		if err != nil {
			return fmt.Errorf("the file became shorter: %w", err)
		}
		if err := s.p.data(n.ID, buf[:k]); err != nil {
			return err
		}
		left -= int64(k)
		select {
		case id := <-s.drop:
			if id == n.ID {
				return errDropped
			}
		case <-ctx.Done():
			return ctx.Err()
		default:
		}
	}
	return s.p.tell(note{Op: opDone, ID: n.ID, Name: n.Name})
}
