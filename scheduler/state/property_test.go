package state

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// TestRandomHistories applies random entries and holds the promises: two
// replicas have the same bytes, one that was restored from a snapshot goes on as
// the others, the ledger is the sum of the sessions, and no create takes what is
// not free.
func TestRandomHistories(t *testing.T) {
	var seen tally
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 7))
		a, b := New(), New()
		now := epoch
		start := Encode(now, node(t, "n0", 4), node(t, "n1", 8), app(t, "app0", "a"), app(t, "app1", "a"), app(t, "app1", "b"))
		a, _, _ = a.Apply(start)
		b, _, _ = b.Apply(start)
		if version := min(1+int(seed%8), EntryVersion); version > 1 {
			raise := Encode(now, &Raise{Version: version})
			a, _, _ = a.Apply(raise)
			b, _, _ = b.Apply(raise)
		}
		for range 400 {
			now = now.Add(time.Duration(r.IntN(600)-60) * time.Second) // a new leader's clock may be behind
			cmds := make([]Command, 1+r.IntN(4))
			for i := range cmds {
				cmds[i] = randomCommand(t, r, a)
			}
			entry := EncodeAs(a.EntryVersion(), now, cmds...)
			before := a
			var results []Result
			var err error
			if a, results, err = a.Apply(entry); err != nil {
				t.Fatal(err)
			}
			if b, _, err = b.Apply(entry); err != nil {
				t.Fatal(err)
			}
			if a.Now().Before(before.Now()) {
				t.Fatalf("time went back from %s to %s", before.Now(), a.Now())
			}
			checkLedger(t, a)
			checkQueue(t, a)
			if !joins(cmds) { // within one entry a node may come back smaller, with and without sessions
				neverAbove(t, before, a)
			}
			seen.hold(t, a, cmds, results)
			if r.IntN(40) == 0 {
				if b, err = Read(bytes.NewReader(dump(t, b))); err != nil {
					t.Fatal(err)
				}
				checkLedger(t, b)
				checkQueue(t, b)
			}
		}
		if x, y := dump(t, a), dump(t, b); !bytes.Equal(x, y) {
			t.Fatalf("seed %d: two replicas differ: %d and %d bytes", seed, len(x), len(y))
		}
	}
	if seen.created < 500 || seen.failed < 500 || seen.placed < 100 || seen.shares < 20 || seen.claimed < 20 || seen.bound[api.RefusedVRAM] < 10 || seen.bound[api.RefusedUplink] < 10 {
		t.Fatalf("the histories show little: %+v", seen)
	}
}

// tally counts what random histories showed.
type tally struct {
	created, failed, placed, shares, claimed int
	bound                                    map[api.RefusalCode]int
}

// hold holds that an entry of one command which took something took only what
// was free.
func (y *tally) hold(t *testing.T, s *State, cmds []Command, results []Result) {
	t.Helper()
	if y.bound == nil {
		y.bound = map[api.RefusalCode]int{}
	}
	took := func(n api.NodeID, p api.Pool) {
		if len(cmds) == 1 {
			noOvercharge(t, s, n, p)
		}
	}
	for i, c := range cmds {
		switch m := c.(type) {
		case *Place:
			if results[i].Err == nil {
				y.placed++
				took(m.Node, m.Pool)
			}
		case *PutShare:
			if results[i].Err == nil {
				y.shares++
			}
		case *Claim:
			if results[i].Err == nil && !results[i].Duplicate {
				y.claimed++
				took(m.Create.Node, m.Create.Pool)
			}
		case *Create:
			var e *api.Error
			switch {
			case errors.As(results[i].Err, &e):
				y.failed++
				for _, r := range e.Refusals {
					y.bound[r.Code]++
				}
			case results[i].Duplicate || m.Node == "":
			default:
				y.created++
				took(m.Node, m.Pool)
			}
		}
	}
}

// noOvercharge holds that a pool which just took a session is within its capacity.
func noOvercharge(t *testing.T, s *State, id api.NodeID, p api.Pool) {
	t.Helper()
	n, _ := s.Node(id)
	capacity, _ := n.Capacity(p)
	used, sessions := n.Reserved(p)
	if used > capacity.Macroblocks || capacity.Sessions > 0 && sessions > capacity.Sessions {
		t.Fatalf("%s/%s was given a session and holds %d of %d macroblocks/s, %d of %d sessions",
			id, p, used, capacity.Macroblocks, sessions, capacity.Sessions)
	}
}

func joins(cmds []Command) bool {
	return slices.ContainsFunc(cmds, func(c Command) bool { _, is := c.(*PutNode); return is })
}

// neverAbove holds that an entry reserved nothing of any part beyond what the
// node has of it: only a node that came back smaller shows more, and then less
// and less.
func neverAbove(t *testing.T, before, after *State) {
	t.Helper()
	for n := range after.Nodes() {
		old := map[string]uint64{}
		if was, ok := before.Node(n.ID); ok {
			for _, u := range was.Parts() {
				old[string(u.Part)+u.Device] = u.Reserved
			}
		}
		for _, u := range n.Parts() {
			limited := u.Most > 0 || u.Part == api.PartVRAM
			if limited && u.Reserved > u.Most && u.Reserved > old[string(u.Part)+u.Device] && n.Machine != nil {
				t.Fatalf("%s holds %d of %d %s of %s %s, %d before", n.ID, u.Reserved, u.Most, u.Part.Unit(), u.Part, u.Device, old[string(u.Part)+u.Device])
			}
		}
	}
}

// TestOldRootsStay holds that a root which a snapshot took is not disturbed.
func TestOldRootsStay(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	s := New()
	type kept struct {
		s     *State
		bytes []byte
	}
	var roots []kept
	for i := range 600 {
		var err error
		if s, _, err = s.Apply(Encode(epoch.Add(time.Duration(i)*time.Minute), randomCommand(t, r, s))); err != nil {
			t.Fatal(err)
		}
		if i%50 == 0 {
			roots = append(roots, kept{s, dump(t, s)})
		}
	}
	for i, k := range roots {
		if !bytes.Equal(dump(t, k.s), k.bytes) {
			t.Errorf("root %d changed after it was taken", i)
		}
	}
}

func TestSnapshotRefusesBrokenBytes(t *testing.T) {
	r := newRig(t)
	r.do(creation("s1", "n1"))
	good := dump(t, r.s)
	if _, err := Read(bytes.NewReader(good)); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 5, len(snapshotMagic), len(good) / 2, len(good) - 1} {
		if _, err := Read(bytes.NewReader(good[:n])); err == nil {
			t.Errorf("a snapshot cut to %d of %d bytes was read", n, len(good))
		}
	}
	other := bytes.Replace(good, []byte("state\x01"), []byte("state\x02"), 1)
	if _, err := Read(bytes.NewReader(other)); err == nil {
		t.Error("a snapshot of a later version was read")
	}
}

func TestTenThousandSessionsFit(t *testing.T) {
	s := New()
	apply := func(cmds ...Command) {
		t.Helper()
		next, results, err := s.Apply(Encode(epoch, cmds...))
		if err != nil {
			t.Fatal(err)
		}
		for _, res := range results {
			if res.Err != nil {
				t.Fatal(res.Err)
			}
		}
		s = next
	}
	apply(node(t, "n1", 20_000), app(t, "xterm", "xterm"))
	var id [api.SessionIDBytes]byte
	for i := range 10_000 {
		id[0], id[1] = byte(i), byte(i>>8)
		c := creation(string(api.NewSessionID(id)), "n1")
		apply(c)
	}
	b := dump(t, s)
	back, err := Read(bytes.NewReader(b))
	if err != nil || back.LiveCount() != 10_000 {
		t.Fatalf("%d sessions came back: %v", back.LiveCount(), err)
	}
	checkLedger(t, back)
}
