package state

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// TestRandomHistories applies random entries and holds the promises: two
// replicas have the same bytes, one that was restored from a snapshot goes on as
// the others, the ledger is the sum of the sessions, and no create takes what is
// not free.
func TestRandomHistories(t *testing.T) {
	created, failed, placed := 0, 0, 0
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 7))
		a, b := New(), New()
		now := epoch
		start := Encode(now, node(t, "n0", 4), node(t, "n1", 8), app(t, "app0", "a"), app(t, "app1", "a"), app(t, "app1", "b"))
		a, _, _ = a.Apply(start)
		b, _, _ = b.Apply(start)
		if seed%2 == 1 {
			raise := Encode(now, &Raise{Version: EntryVersion})
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
			for i, c := range cmds {
				if p, is := c.(*Place); is && results[i].Err == nil {
					placed++
					if len(cmds) == 1 {
						noOvercharge(t, a, &Create{Node: p.Node, Pool: p.Pool})
					}
				}
				m, is := c.(*Create)
				if !is {
					continue
				}
				if results[i].Err != nil {
					failed++
					continue
				}
				if results[i].Duplicate || m.Node == "" {
					continue
				}
				created++
				if len(cmds) == 1 {
					noOvercharge(t, a, m)
				}
			}
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
	if created < 500 || failed < 500 || placed < 100 {
		t.Fatalf("%d creates succeeded, %d failed, %d were placed later: the histories show little", created, failed, placed)
	}
}

// noOvercharge holds that a pool which just took a session is within its capacity.
func noOvercharge(t *testing.T, s *State, m *Create) {
	t.Helper()
	n, _ := s.Node(m.Node)
	capacity, _ := n.Capacity(m.Pool)
	used, sessions := n.Reserved(m.Pool)
	if used > capacity.Macroblocks || capacity.Sessions > 0 && sessions > capacity.Sessions {
		t.Fatalf("%s/%s was given a session and holds %d of %d macroblocks/s, %d of %d sessions",
			m.Node, m.Pool, used, capacity.Macroblocks, sessions, capacity.Sessions)
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
