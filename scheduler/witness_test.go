package scheduler

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/raft"
)

const sector = 512 // bytes that a disk writes whole

// slowDisk is a witness's disk of which a test knows what a power cut leaves.
type slowDisk struct {
	path string

	mu   sync.Mutex
	kept []byte        // what the latest sync that ended had before it
	held chan struct{} // a sync waits for it; nil when none does
}

func (d *slowDisk) sync() error {
	b, err := os.ReadFile(d.path)
	if err != nil {
		return fmt.Errorf("read witness: %w", err)
	}
	d.mu.Lock()
	held := d.held
	d.mu.Unlock()
	if held != nil {
		<-held
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.kept = b
	return nil
}

// hold has the syncs that begin from here on wait until what it gives is closed.
func (d *slowDisk) hold() chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.held = make(chan struct{})
	return d.held
}

// cut gives what a power cut leaves: what was synced, and of the rest the
// sectors that random lets through.
func (d *slowDisk) cut(t *testing.T, random *rand.Rand) []byte {
	t.Helper()
	now, err := os.ReadFile(d.path)
	if err != nil {
		t.Fatal(err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	b := slices.Clone(d.kept)
	for at := 0; at < len(b); at += sector {
		if to := min(at+sector, len(b)); random.IntN(2) == 0 {
			copy(b[at:to], now[at:to])
		}
	}
	return b
}

func onSlowDisk(t *testing.T, dir string) (*replica, *witness, *slowDisk) {
	t.Helper()
	r, w, err := openKept(dir)
	if err != nil {
		t.Fatal(err)
	}
	d := &slowDisk{path: filepath.Join(dir, witnessFile)}
	w.flush = d.sync
	if err := d.sync(); err != nil {
		t.Fatal(err)
	}
	return r, w, d
}

func entries(term, from, to uint64) []*raft.Log {
	var out []*raft.Log
	for i := from; i <= to; i++ {
		out = append(out, &raft.Log{Index: i, Term: term, Data: fmt.Appendf(nil, "entry %d of term %d %s", i, term, strings.Repeat("x", int(i%50)))})
	}
	return out
}

// TestWitnessIsAtMostABatchBehind confirms a batch while its witness is not yet
// on the disk, and no second one.
func TestWitnessIsAtMostABatchBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w, d := onSlowDisk(t, dataDir(t))
		held := d.hold()
		if err := w.StoreLogs(entries(1, 1, 3)); err != nil {
			t.Fatal(err)
		}
		second := make(chan error, 1)
		go func() { second <- w.StoreLogs(entries(1, 4, 4)) }()
		synctest.Wait()
		select {
		case err := <-second:
			t.Errorf("a second batch was confirmed before the witness of the first was on the disk: %v", err)
		default:
		}
		d.mu.Lock()
		if _, _, top := w.parse(d.kept); top != 0 {
			t.Errorf("entry %d is on the disk while its sync is held", top)
		}
		d.mu.Unlock()
		close(held)
		if err := <-second; err != nil {
			t.Error(err)
		}
		// Nothing more is written: the last batch's witness comes by itself.
		synctest.Wait()
		d.mu.Lock()
		if _, _, top := w.parse(d.kept); top != 4 {
			t.Errorf("the witness on the disk ends at entry %d", top)
		}
		d.mu.Unlock()
		if err := r.shut(); err != nil {
			t.Error(err)
		}
	})
}

// TestWitnessThatCannotBeSyncedEndsConfirming fails a sync that nobody waits
// for: what it left unwritten stays so, whatever a later one says.
func TestWitnessThatCannotBeSyncedEndsConfirming(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w, d := onSlowDisk(t, dataDir(t))
		failed := errors.New("a bad sector")
		w.flush = func() error { return failed }
		if err := w.StoreLogs(entries(1, 1, 1)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		w.flush = d.sync
		for i := uint64(2); i < 4; i++ {
			if err := w.StoreLogs(entries(1, i, i)); !errors.Is(err, failed) {
				t.Errorf("entry %d after a sync that failed: %v", i, err)
			}
		}
		if err := w.SetUint64([]byte(keyTerm), 2); !errors.Is(err, failed) {
			t.Errorf("a term after a sync that failed: %v", err)
		}
		if err := r.shut(); !errors.Is(err, failed) {
			t.Errorf("closing after a sync that failed: %v", err)
		}
	})
}

// TestPowerCut cuts the power after each step of a log's life, with the last
// sync of the witness still on its way. A log that is whole is never damage, nor
// is one that lacks only the entries that nobody was promised; one that lacks a
// batch before the last always is.
func TestPowerCut(t *testing.T) { synctest.Test(t, testPowerCut) }

func testPowerCut(t *testing.T) {
	p := &powerCut{t: t, rnd: rand.New(rand.NewPCG(1, 2)), dir: dataDir(t), term: 1}
	var r *replica
	r, p.w, p.d = onSlowDisk(t, p.dir)
	p.log = p.w.log
	for p.step = range 40 {
		if p.last > 4 && p.rnd.IntN(5) == 0 {
			p.takeBack()
		} else {
			p.store()
		}
	}
	if p.stored < 20 || p.cuts < 40 {
		t.Errorf("%d batches were written, and the log was cut %d times", p.stored, p.cuts)
	}
	if err := r.shut(); err != nil {
		t.Error(err)
	}
}

// powerCut is a log whose power is cut.
type powerCut struct {
	t            *testing.T
	rnd          *rand.Rand
	dir          string
	w            *witness
	d            *slowDisk
	log          raft.LogStore
	step         int
	last, term   uint64
	ends         []int64 // where each batch ended since entries were last taken back
	stored, cuts int
}

// expect cuts the power, changes what is left, and says whether it is damage.
func (p *powerCut) expect(isDamage bool, what string, change func(tail string)) {
	p.t.Helper()
	dir := copyOf(p.t, p.dir)
	if err := os.WriteFile(filepath.Join(dir, witnessFile), p.d.cut(p.t, p.rnd), 0o600); err != nil {
		p.t.Fatal(err)
	}
	change(tailOf(p.t, dir))
	r, _, err := openKept(dir)
	if err == nil {
		err = r.shut()
	}
	var d *damage
	if is := errors.As(err, &d); is != isDamage || err != nil && !is {
		p.t.Errorf("step %d: %s: damage %t: %v", p.step, what, is, err)
	}
}

// cutTo cuts the log's end off.
func (p *powerCut) cutTo(at int64) func(string) {
	p.cuts++
	return func(tail string) { write(p.t, tail, at, make([]byte, end(p.t, tail)-at)) }
}

func untouched(string) {}

// takeBack deletes the last entries, as a follower of a new leader does.
func (p *powerCut) takeBack() {
	from := p.last - uint64(p.rnd.IntN(3))
	if err := p.w.DeleteRange(from, p.last); err != nil {
		p.t.Fatal(err)
	}
	small(p.t, p.dir)
	p.last, p.term, p.ends = from-1, p.term+1, nil // in a new segment from here on
	p.expect(false, "entries were taken back", untouched)
}

// store writes a batch, cutting the power at each turn.
func (p *powerCut) store() {
	p.t.Helper()
	logs := entries(p.term, p.last+1, p.last+1+uint64(p.rnd.IntN(40)))
	p.w.log = noDisk{p.log}
	if err := p.w.StoreLogs(logs); err == nil {
		p.t.Fatal("a batch that the log did not take is confirmed")
	}
	p.w.log = p.log
	if p.last > 0 {
		p.expect(false, "a batch did not reach the log", untouched)
	}
	held := p.d.hold()
	if err := p.w.StoreLogs(logs); err != nil {
		p.t.Fatal(err)
	}
	small(p.t, p.dir)
	p.last += uint64(len(logs))
	p.stored++
	p.ends = append(p.ends, end(p.t, tailOf(p.t, p.dir)))
	p.expect(false, "nothing is lost", untouched)
	torn := bytes.Repeat([]byte{byte(p.step + 1)}, 40)
	p.expect(false, "a torn end", func(tail string) { write(p.t, tail, end(p.t, tail), torn) })
	n := len(p.ends)
	if n > 2 {
		p.expect(true, "the last two batches are gone", p.cutTo(p.ends[n-3]))
	}
	if n > 1 {
		p.expect(true, "the batch before the last is torn", p.cutTo(p.ends[n-2]-9))
	}
	close(held)
	synctest.Wait()
	if n > 1 {
		p.expect(true, "the last batch is gone, and its witness is on the disk", p.cutTo(p.ends[n-2]))
	}
}

// noDisk is a log that the power cut keeps a batch off.
type noDisk struct{ raft.LogStore }

func (noDisk) StoreLogs([]*raft.Log) error { return errors.New("the power is cut") }

// tailOf is the segment that is written last.
func tailOf(t *testing.T, dir string) string {
	t.Helper()
	all := segments(t, dir)
	return all[len(all)-1]
}
