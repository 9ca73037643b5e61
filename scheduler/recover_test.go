package scheduler

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

// openKept opens the log of a directory as a replica does.
func openKept(dir string) (*replica, *witness, error) {
	if err := os.MkdirAll(filepath.Join(dir, logDir), 0o700); err != nil {
		return nil, nil, fmt.Errorf("make log directory: %w", err)
	}
	r := &replica{dir: dir}
	kept, _, err := r.openLog(hclog.NewNullLogger())
	if err != nil {
		return nil, nil, errors.Join(err, r.shut())
	}
	return r, kept.witness, nil
}

// logWithPast makes a log whose tail was once cut, and gives its entries.
func logWithPast(t *testing.T, dir string) map[uint64]string {
	t.Helper()
	r, w, err := openKept(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := map[uint64]string{}
	put := func(term uint64, indexes ...uint64) {
		t.Helper()
		var logs []*raft.Log
		for _, i := range indexes {
			want[i] = fmt.Sprintf("entry %d of term %d %s", i, term, strings.Repeat("x", int(i)))
			logs = append(logs, &raft.Log{Index: i, Term: term, Data: []byte(want[i])})
		}
		if err := w.StoreLogs(logs); err != nil {
			t.Fatal(err)
		}
	}
	put(1, 1)
	put(1, 2, 3, 4)
	put(1, 5, 6, 7)
	if err := w.DeleteRange(6, 7); err != nil {
		t.Fatal(err)
	}
	for i := range uint64(20) {
		put(2, 6+i)
	}
	for key, v := range map[string]uint64{keyTerm: 3, keyVoteTerm: 3} {
		if err := w.SetUint64([]byte(key), v); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Set([]byte(keyVoteFor), []byte("r-one")); err != nil {
		t.Fatal(err)
	}
	if err := r.shut(); err != nil {
		t.Fatal(err)
	}
	return want
}

// look opens a log and says whether it is damaged; one that is not must have
// all that was confirmed.
func look(t *testing.T, what, dir string, want map[uint64]string) (isDamaged bool) {
	t.Helper()
	r, w, err := openKept(dir)
	var d *damage
	if errors.As(err, &d) {
		return true
	}
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return false
	}
	defer func() {
		if err := r.shut(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}()
	for i, text := range want {
		var l raft.Log
		if err := w.GetLog(i, &l); err != nil || string(l.Data) != text {
			t.Errorf("%s: it opens, and entry %d is %q: %v", what, i, l.Data, err)
		}
	}
	if v, err := w.GetUint64([]byte(keyVoteTerm)); err != nil || v != 3 {
		t.Errorf("%s: it opens, and voted in %d: %v", what, v, err)
	}
	return false
}

// segments lists the files of the log, the one that is written last.
func segments(t testing.TB, dir string) []string {
	t.Helper()
	out, err := filepath.Glob(filepath.Join(dir, logDir, "*.wal"))
	if err != nil || len(out) == 0 {
		t.Fatalf("no segments: %v", err)
	}
	return out
}

// end gives where a segment's bytes end: the rest is laid out and empty.
func end(t testing.TB, path string) int64 {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return int64(len(strings.TrimRight(string(b), "\x00")))
}

// small cuts the empty rest of segments off, for faster copies.
func small(t *testing.T, dir string) {
	t.Helper()
	for _, p := range segments(t, dir) {
		if err := os.Truncate(p, end(t, p)+4096); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLogIsWholeOrDamaged cuts and changes the log's files anywhere. What comes
// after the last sync is no loss; before, the log must say that it is damaged,
// or have everything all the same.
func TestLogIsWholeOrDamaged(t *testing.T) {
	origin := dataDir(t)
	want := logWithPast(t, origin)
	small(t, origin)
	if look(t, "as it was", copyOf(t, origin), want) {
		t.Fatal("a log that nobody touched is damaged")
	}
	random := rand.New(rand.NewPCG(1, 1))
	last := segments(t, origin)[len(segments(t, origin))-1]
	size := end(t, last)
	for n := range 60 {
		dir := copyOf(t, origin)
		at := size + int64(random.IntN(40))
		torn := make([]byte, random.IntN(60)+1)
		for i := range torn {
			torn[i] = byte(random.Uint32())
		}
		if n%3 == 0 { // the beginning of a real one
			copy(torn, "\x01\x00\x00\x00\x08\x00\x00\x00abcdefgh")
			at = size
		}
		write(t, filepath.Join(dir, logDir, filepath.Base(last)), at, torn)
		if look(t, fmt.Sprintf("torn at %d after the end", at-size), dir, want) {
			t.Errorf("torn at %d after the end: taken for damage", at-size)
		}
	}
	found := 0
	for range 60 {
		dir := copyOf(t, origin)
		at := int64(random.IntN(int(size)-64) + 64)
		write(t, filepath.Join(dir, logDir, filepath.Base(last)), at, make([]byte, size-at))
		if !look(t, fmt.Sprintf("cut at %d of %d", at, size), dir, want) {
			t.Errorf("cut at %d of %d: not noticed", at, size)
		}
	}
	for range 150 {
		dir := copyOf(t, origin)
		all := segments(t, dir)
		path := all[random.IntN(len(all))]
		at := int64(random.IntN(int(end(t, path))))
		b := make([]byte, 1)
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.ReadAt(b, at); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		b[0] ^= 1 << random.IntN(8)
		write(t, path, at, b)
		if look(t, fmt.Sprintf("a bit of %s at %d", filepath.Base(path), at), dir, want) {
			found++
		}
	}
	if found < 75 {
		t.Errorf("of 150 changed bits %d were noticed", found)
	}
}

// TestForgottenVoteIsDamage puts an old state of the stable store back.
func TestForgottenVoteIsDamage(t *testing.T) {
	dir := dataDir(t)
	r, w, err := openKept(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.SetUint64([]byte(keyTerm), 4); err != nil {
		t.Fatal(err)
	}
	if err := r.shut(); err != nil {
		t.Fatal(err)
	}
	old := copyOf(t, dir)
	if r, w, err = openKept(dir); err != nil {
		t.Fatal(err)
	}
	if err := w.SetUint64([]byte(keyTerm), 5); err != nil {
		t.Fatal(err)
	}
	if err := r.shut(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, witnessFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(old, witnessFile), b, 0o600); err != nil {
		t.Fatal(err)
	}
	var d *damage
	if _, _, err := openKept(old); !errors.As(err, &d) || !strings.Contains(err.Error(), "term 4") {
		t.Errorf("a stable store of term 4 after one of term 5: %v", err)
	}
}

func copyOf(t *testing.T, dir string) string {
	t.Helper()
	to := dataDir(t)
	copyDir(t, dir, to)
	return to
}

func write(t testing.TB, path string, at int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestDamagedReplicaRejoinsWithoutAVote(t *testing.T) {
	synctest.Test(t, testDamagedReplicaRejoinsWithoutAVote)
}

func testDamagedReplicaRejoinsWithoutAVote(t *testing.T) {
	c := newCluster(t, 3)
	w := c.world(c.leader())
	w.app()
	w.edge("one", 100)
	time.Sleep(2 * registerEvery) // so that the others' addresses are noted
	var ids []api.SessionID
	for range 5 {
		ids = append(ids, w.mustCreate().Session.ID)
	}
	hurt := c.follower()
	m := c.members[hurt]
	id := m.s.ID()
	if err := m.stop(); err != nil {
		t.Fatal(err)
	}
	path := segments(t, filepath.Join(m.data, "raft"))[0]
	at := end(t, path) - 20
	write(t, path, at, make([]byte, 20))
	c.start(hurt)
	lead := c.world(c.leader())
	c.eventually("it has no vote", func() bool { _, voters, all := c.roles(c.leader()); return voters == 2 && all == 3 })
	ids = append(ids, lead.mustCreate().Session.ID)
	c.ready(hurt)
	c.eventually("it has settled", func() bool { _, voters, _ := c.roles(c.leader()); return voters == 3 })
	if m.s.ID() != id {
		t.Errorf("it was %s and is %s", id, m.s.ID())
	}
	o := c.world(hurt)
	for _, id := range ids {
		if err := o.s.Consistent(o.ctx()); err != nil {
			t.Fatal(err)
		}
		if _, err := o.s.Session(o.ctx(), id); err != nil {
			t.Errorf("session %s: %v", id, err)
		}
	}
	c.eventually("the recovery is over", func() bool {
		_, err := os.Stat(filepath.Join(m.data, "raft", rejoinFile))
		return errors.Is(err, os.ErrNotExist)
	})
	if _, err := os.Stat(filepath.Join(m.data, "raft", damagedDir, logDir)); err != nil {
		t.Errorf("the damaged log is not kept aside: %v", err)
	}
}

func TestDamagedOnlyReplicaSaysWhatToDo(t *testing.T) {
	synctest.Test(t, testDamagedOnlyReplicaSaysWhatToDo)
}

func testDamagedOnlyReplicaSaysWhatToDo(t *testing.T) {
	data := dataDir(t)
	w := openWorld(t, newBus(), data)
	w.app()
	w.stop()
	path := segments(t, filepath.Join(data, "raft"))[0]
	write(t, path, end(t, path)-20, make([]byte, 20))
	s, err := New(testConfig(t, newBus(), data))
	if err != nil {
		t.Fatal(err)
	}
	var d *damage
	if err := s.Run(t.Context()); !errors.As(err, &d) || !strings.Contains(err.Error(), "perigee snapshot restore") {
		t.Errorf("the only replica, damaged, ends with %v", err)
	}
	if _, err := os.Stat(filepath.Join(data, "raft", rejoinFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its directory was touched: %v", err)
	}
}

func TestUnreadableSnapshotBeforeAShortLogIsDamage(t *testing.T) {
	synctest.Test(t, testUnreadableSnapshotBeforeAShortLogIsDamage)
}

func testUnreadableSnapshotBeforeAShortLogIsDamage(t *testing.T) {
	c := newCluster(t, 3)
	c.world(0).app()
	time.Sleep(2 * registerEvery) // so that the others' addresses are noted
	hurt := c.follower()
	for range keptSnapshots { // so many entries that the log begins after the older snapshot
		lead := c.members[c.leader()].s.replica.Load().raft
		var last raft.ApplyFuture
		for range trailingLogs + 100 {
			last = lead.Apply(state.Encode(time.Now()), time.Minute)
		}
		if err := last.Error(); err != nil {
			t.Fatal(err)
		}
		o := c.world(hurt)
		if err := o.s.Consistent(o.ctx()); err != nil {
			t.Fatal(err)
		}
		if err := o.s.replica.Load().raft.Snapshot().Error(); err != nil {
			t.Fatal(err)
		}
	}
	m := c.members[hurt]
	if err := m.stop(); err != nil {
		t.Fatal(err)
	}
	all, err := filepath.Glob(filepath.Join(m.data, "raft", "snapshots", "*", "state.bin"))
	if err != nil || len(all) != keptSnapshots {
		t.Fatalf("snapshots are %v: %v", all, err)
	}
	newest := all[0]
	for _, p := range all {
		if a, b := modified(t, p), modified(t, newest); a.After(b) {
			newest = p
		}
	}
	write(t, newest, 10, []byte("nothing that was here"))
	c.start(hurt)
	c.ready(hurt)
	if _, err := os.Stat(filepath.Join(m.data, "raft", damagedDir, "snapshots")); err != nil {
		t.Errorf("the replica did not heal: %v", err)
	}
	o := c.world(hurt)
	if apps, err := o.s.Applications(o.ctx()); err != nil || len(apps) != 1 {
		t.Errorf("it shows %d applications: %v", len(apps), err)
	}
}

func modified(t testing.TB, path string) time.Time {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return st.ModTime()
}
