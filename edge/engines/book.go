// Package engines keeps a node's book of promises: which session encodes on
// which engine. Certified capacity is promised once, whoever asks: the book lies
// in the run directory under a lock, so that a stream process finds the next
// engine by itself while the daemon is away.
package engines

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/local"
)

// Files: of the run directory, and of each session's folder.
const (
	fileEngines    = "engines.json"
	fileQuarantine = "quarantine.json"
	fileLock       = "engines.lock"
	fileGrant      = "engine.json"
)

const (
	quarantineFirst = 10 * time.Second
	quarantineMost  = 10 * time.Minute
	lockWait        = 2 * time.Second
	lockPoll        = time.Millisecond
)

// Engine is one engine as it was certified.
type Engine struct {
	Name        string      `json:"name"` // "nvenc0", "cpu"
	Pool        api.Pool    `json:"pool"`
	Device      string      `json:"device,omitempty"`
	Macroblocks uint64      `json:"macroblocks_per_s"`  // in the pool's unit
	Sessions    int         `json:"sessions,omitempty"` // at once; 0 = no limit
	Codecs      []api.Codec `json:"codecs"`
	// Factors are the pool's, as the schedulers were told them.
	Factors []api.CostFactor `json:"cost_factors,omitempty"`
}

// Want is what a stream asks for.
type Want struct {
	Pool   api.Pool // where the schedulers reserved
	Codec  api.Codec
	Screen api.Screen
	Preset api.Preset
}

// Grant is an engine that a session holds.
type Grant struct {
	Engine      string   `json:"engine"` // "" where no engine is listed
	Pool        api.Pool `json:"pool"`
	Device      string   `json:"device,omitempty"`
	Macroblocks uint64   `json:"macroblocks_per_s"`
}

// ErrNone says that no engine takes a stream; its text says why each does not.
var ErrNone = errors.New("no encoder of this node takes the stream")

// Book is a node's book. It may be used by many goroutines and processes.
type Book struct {
	run local.Run
	now func() time.Time
}

// Open gives the book of a run directory; nothing is read yet.
func Open(run local.Run) *Book { return &Book{run: run, now: time.Now} }

// OfSession gives the book that a session's folder belongs to.
func OfSession(s local.Session) *Book { return Open(local.Run(filepath.Dir(string(s)))) }

func (b *Book) path(name string) string { return filepath.Join(string(b.run), name) }

// Write replaces the list of engines. Grants on an engine that is gone or
// smaller stay until their sessions end or move.
func (b *Book) Write(list []Engine) error {
	return b.locked(func() error { return write(b.path(fileEngines), list) })
}

// Take gives the session an engine: the one that it holds, if what it wants fits
// there, else the first down the ladder. Asking again changes nothing.
func (b *Book) Take(s local.Session, want Want) (g Grant, err error) {
	err = b.locked(func() error {
		var err error
		g, err = b.take(s, want)
		return err
	})
	return g, err
}

// Fail puts the engine that failed a session into quarantine and gives the
// session the next one. The processors are never in quarantine: there an encoder
// that fails is started again.
func (b *Book) Fail(s local.Session, want Want, why string) (g Grant, err error) {
	err = b.locked(func() error {
		var held Grant
		if err := read(s.Path(fileGrant), &held); err != nil {
			return err
		}
		if held.Engine != "" && held.Pool != api.PoolCPU {
			if err := b.quarantine(held.Engine, why); err != nil {
				return err
			}
		}
		var err error
		g, err = b.take(s, want)
		return err
	})
	return g, err
}

// Grants lists what is promised, by session folder.
func (b *Book) Grants() (out map[local.Session]Grant, err error) {
	err = b.locked(func() error {
		out, err = b.grants()
		return err
	})
	return out, err
}

// fault is an engine's quarantine.
type fault struct {
	Until time.Time     `json:"until"`
	Pause time.Duration `json:"pause"` // the last one; the next is twice as long
	Why   string        `json:"why"`
}

// Quarantined lists the engines in quarantine with the reason.
func (b *Book) Quarantined() (map[string]string, error) {
	out := map[string]string{}
	err := b.locked(func() error {
		faults, err := b.faults()
		for name, f := range faults {
			if b.now().Before(f.Until) {
				out[name] = f.Why
			}
		}
		return err
	})
	return out, err
}

// Encodable keeps the codecs that an engine of the node encodes now: one in
// quarantine is none. All of them stay where nobody keeps a book, or none would.
func (b *Book) Encodable(codecs []api.Codec) ([]api.Codec, error) {
	var out []api.Codec
	err := b.locked(func() error {
		var list []Engine
		if err := read(b.path(fileEngines), &list); err != nil {
			return err
		}
		faults, err := b.faults()
		for _, c := range codecs {
			if slices.ContainsFunc(list, func(e Engine) bool {
				return slices.Contains(e.Codecs, c) && !b.now().Before(faults[e.Name].Until)
			}) {
				out = append(out, c)
			}
		}
		return err
	})
	if err != nil || len(out) == 0 {
		out = codecs
	}
	return out, err
}

func (b *Book) faults() (map[string]fault, error) {
	faults := map[string]fault{}
	return faults, read(b.path(fileQuarantine), &faults)
}

// quarantine keeps an engine out for 10 s, twice as long each time; a quarantine
// that was over for longer than it took counts no more.
func (b *Book) quarantine(name, why string) error {
	faults, err := b.faults()
	if err != nil {
		return err
	}
	now, f := b.now(), faults[name]
	switch {
	case now.Before(f.Until):
		return nil // others fell with it
	case f.Pause == 0 || now.Sub(f.Until) > max(f.Pause, time.Minute):
		f.Pause = quarantineFirst
	default:
		f.Pause = min(2*f.Pause, quarantineMost)
	}
	f.Until, f.Why = now.Add(f.Pause), strings.ToValidUTF8(why[:min(len(why), 120)], "")
	faults[name] = f
	return write(b.path(fileQuarantine), faults)
}

// ladder is the order in which pools are tried from the wanted one on.
func ladder(want api.Pool) []api.Pool {
	order := []api.Pool{api.PoolNVENC, api.PoolVAAPI, api.PoolCPU}
	at := max(slices.Index(order, want), 0)
	return append(slices.Clone(order[at:]), order[:at]...)
}

func (b *Book) take(s local.Session, want Want) (Grant, error) {
	var list []Engine
	if err := read(b.path(fileEngines), &list); err != nil {
		return Grant{}, err
	}
	if len(list) == 0 { // nobody keeps a book here
		return Grant{Pool: want.Pool}, nil
	}
	grants, err := b.grants()
	if err != nil {
		return Grant{}, err
	}
	faults, err := b.faults()
	if err != nil {
		return Grant{}, err
	}
	held, holds := grants[s]
	delete(grants, s)
	if holds { // where it is first: moving costs a key
		if i := slices.IndexFunc(list, func(e Engine) bool { return e.Name == held.Engine }); i >= 0 {
			list = append([]Engine{list[i]}, slices.Delete(slices.Clone(list), i, i+1)...)
		}
	}
	var refused []string
	pools := ladder(want.Pool)
	if holds && held.Engine != "" {
		pools = append([]api.Pool{held.Pool}, pools...)
	}
	for _, pool := range pools {
		for _, e := range list {
			if e.Pool != pool {
				continue
			}
			g, why := fit(e, want, grants, faults[e.Name], b.now())
			if why != "" {
				refused = append(refused, e.Name+": "+why)
				continue
			}
			if g == held {
				return g, nil
			}
			return g, write(s.Path(fileGrant), g)
		}
	}
	slices.Sort(refused)
	return held, fmt.Errorf("%w: %s", ErrNone, strings.Join(slices.Compact(refused), "; "))
}

// fit says why an engine does not take a stream; "" when it does.
func fit(e Engine, want Want, grants map[local.Session]Grant, f fault, now time.Time) (Grant, string) {
	cost := api.Capacity{Pool: e.Pool, Factors: e.Factors}.Cost(want.Codec, want.Preset, want.Screen)
	var used uint64
	sessions := 0
	for _, g := range grants {
		if g.Engine == e.Name {
			used += g.Macroblocks
			sessions++
		}
	}
	switch {
	case now.Before(f.Until):
		return Grant{}, "in quarantine: " + f.Why
	case !slices.Contains(e.Codecs, want.Codec):
		return Grant{}, "no " + string(want.Codec)
	case e.Sessions > 0 && sessions >= e.Sessions:
		return Grant{}, fmt.Sprintf("all %d sessions are taken", e.Sessions)
	case used+cost > e.Macroblocks:
		return Grant{}, fmt.Sprintf("needs %d macroblocks/s, %d of %d are taken", cost, used, e.Macroblocks)
	}
	return Grant{Engine: e.Name, Pool: e.Pool, Device: e.Device, Macroblocks: cost}, ""
}

// grants reads what every session holds; one whose folder is gone holds nothing.
func (b *Book) grants() (map[local.Session]Grant, error) {
	folders, err := b.run.Sessions()
	if err != nil {
		return nil, err
	}
	out := map[local.Session]Grant{}
	for _, s := range folders {
		var g Grant
		if err := read(s.Path(fileGrant), &g); err != nil {
			return nil, err
		}
		if g.Engine != "" {
			out[s] = g
		}
	}
	return out, nil
}

// locked runs f while nobody else reads or writes the book. The lock goes with
// whoever dies holding it.
func (b *Book) locked(f func() error) error {
	lock, err := os.OpenFile(b.path(fileLock), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("open book of engines: %w", err)
	}
	defer lock.Close() // which unlocks
	for end := time.Now().Add(lockWait); ; {
		err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f()
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) || time.Now().After(end) {
			return fmt.Errorf("lock book of engines: %w", err)
		}
		time.Sleep(lockPoll)
	}
}

// read leaves v as it is when there is no file.
func read(path string, v any) error {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		return fmt.Errorf("read %s of the book of engines: %w", filepath.Base(path), err)
	}
	return nil
}

// write replaces a file whole; a folder that is gone is an error.
func write(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", filepath.Base(path), err)
	}
	next := path + ".new" // the lock is held: nobody else writes it
	if err := os.WriteFile(next, b, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	if err := os.Rename(next, path); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return nil
}
