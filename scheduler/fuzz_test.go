package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/gossip/simnet"
)

// storm is a cluster to which anything happens, while clients create.
type storm struct {
	t    *testing.T
	c    *cluster
	rnd  *rand.Rand
	load *load
	next int // number of the next member
	said map[string]int
}

// TestStorm gives clusters seeded sequences of cuts, slow voters, transfers,
// changes of members, crashes with the log torn after its last sync or damaged
// before it. Afterwards every acknowledged session is there, and none twice.
// PERIGEE_STORM is how many seeds; 3 without it.
func TestStorm(t *testing.T) {
	seeds := uint64(3)
	if text := os.Getenv("PERIGEE_STORM"); text != "" {
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			t.Fatalf("read PERIGEE_STORM: %v", err)
		}
		seeds = n
	}
	said := map[string]int{}
	for seed := range seeds {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { runStorm(t, seed, said) })
		})
	}
	t.Log("what happened:", said)
	if said["seeds"] < int(seeds) {
		return // -run chose some of them
	}
	for _, what := range []string{"cut", "deaf", "slow", "transfer", "join", "leave", "crash", "torn", "damage", "healed"} {
		if said[what] == 0 {
			t.Errorf("%s never happened in %d seeds", what, seeds)
		}
	}
}

func runStorm(t *testing.T, seed uint64, said map[string]int) {
	said["seeds"]++
	s := &storm{
		t: t, rnd: rand.New(rand.NewPCG(seed, 7)), next: 3, said: said,
		c: newCluster(t, 3), load: &load{acked: map[api.SessionID]string{}},
	}
	w := s.c.world(0)
	if _, err := w.s.PutApplication(w.ctx(), api.App{Name: "xterm", Kind: api.AppExternal}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * registerEvery) // so that addresses are noted
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.create(ctx)
	}()
	all := []func(){s.cut, s.deaf, s.slow, s.transfer, s.change, s.crash, s.crash, s.damage}
	for _, i := range append(s.rnd.Perm(len(all)), s.rnd.Perm(len(all))...) {
		all[i]()
		time.Sleep(time.Duration(s.rnd.IntN(500)) * time.Millisecond)
	}
	s.c.net.Cut(nil)
	cancel()
	<-ended
	for i := range s.c.members {
		s.c.ready(i)
	}
	check(t, s.c, s.load)
	if len(s.load.acked) < 50 {
		t.Errorf("only %d creates were acknowledged", len(s.load.acked))
	}
	for i, m := range s.c.members {
		if err := m.stop(); err != nil {
			t.Errorf("member %d: %v", i, err)
		}
	}
}

// create makes sessions through any member that runs, a few at a time, with
// callers that wait and callers that do not.
func (s *storm) create(ctx context.Context) {
	for n := 0; ctx.Err() == nil; n++ {
		s.load.mu.Lock()
		var at *Server
		for _, m := range s.c.members {
			if m.s != nil {
				at = m.s
				break
			}
		}
		s.load.tried++
		s.load.mu.Unlock()
		tag := fmt.Sprint(n)
		limited, cancel := context.WithTimeout(ctx, 100*time.Millisecond+rand.N(2*time.Second))
		a, err := at.CreateSession(limited, api.CreateRequest{
			App: "xterm", IdleMinutes: api.IdleUnset, ExtraData: json.RawMessage(`"` + tag + `"`), Grant: api.Grant{Account: "alice", Rights: []api.Right{api.RightSessions}},
		})
		cancel()
		if err == nil {
			s.load.mu.Lock()
			s.load.acked[a.Session.ID] = tag
			s.load.mu.Unlock()
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// some draws a member.
func (s *storm) some() int {
	var all []int
	for i := range s.next {
		if s.c.members[i] != nil {
			all = append(all, i)
		}
	}
	return all[s.rnd.IntN(len(all))]
}

func (s *storm) hold() {
	time.Sleep(100*time.Millisecond + time.Duration(s.rnd.IntN(2000))*time.Millisecond)
}

func (s *storm) cut() {
	s.said["cut"]++
	host := s.c.host(s.some())
	s.c.net.Cut(func(from, to string) bool { return (from == host) != (to == host) })
	s.hold()
	s.c.net.Cut(nil)
}

func (s *storm) deaf() {
	s.said["deaf"]++
	host, in := s.c.host(s.some()), s.rnd.IntN(2) == 0
	s.c.net.Cut(func(from, to string) bool { return in && to == host || !in && from == host })
	s.hold()
	s.c.net.Cut(nil)
}

func (s *storm) slow() {
	s.said["slow"]++
	host := s.c.host(s.some())
	near := func(string, string) simnet.Path { return simnet.Path{Delay: wire, Jitter: wire / 10} }
	s.c.net.SetPath(func(from, to string) simnet.Path {
		if from == host || to == host {
			return simnet.Path{Delay: 80 * time.Millisecond, Jitter: 30 * time.Millisecond, Loss: 0.05}
		}
		return near(from, to)
	})
	s.hold()
	s.c.net.SetPath(near)
}

func (s *storm) transfer() {
	s.said["transfer"]++
	ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Second)
	defer cancel()
	_ = s.c.members[s.some()].s.TransferLeadership(ctx, "") // it may be refused: nobody could take it
	if s.rnd.IntN(2) == 0 {                                 // and a cut into it
		s.cut()
	}
}

// change lets a new member in, or removes one when there are many.
func (s *storm) change() {
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
	defer cancel()
	if len(s.c.members) < 5 && s.rnd.IntN(3) > 0 {
		s.said["join"]++
		through := s.c.members[s.some()].s
		at := s.next
		s.next++
		s.load.mu.Lock()
		s.c.members[at] = &member{data: dataDir(s.t), at: s.c.address(at)}
		s.load.mu.Unlock()
		s.start(at, func(cfg *Config) {
			cfg.Join = func(ctx context.Context, r api.Replica) error {
				return through.AddReplica(ctx, api.ReplicaJoin{Replica: r})
			}
		})
		s.c.ready(at)
		s.settle()
		return
	}
	if len(s.c.members) <= 3 {
		return
	}
	s.said["leave"]++
	s.settle()
	at := s.some()
	m := s.c.members[at]
	if err := s.c.members[s.c.leader()].s.RemoveReplica(ctx, m.s.ID()); err != nil {
		s.t.Errorf("member %d could not be removed: %v", at, err)
		return
	}
	s.load.mu.Lock()
	delete(s.c.members, at)
	s.load.mu.Unlock()
	if err := m.stop(); err != nil && !errors.Is(err, errRemoved) {
		s.t.Errorf("removed member %d: %v", at, err)
	}
	m.stop = func() error { return nil } // its end was looked at
}

// settle waits until every member has its vote: else the next damage may take
// the majority away.
func (s *storm) settle() {
	s.t.Helper()
	s.c.eventually("all have settled", func() bool {
		w := s.c.world(s.c.leader())
		list, err := w.s.Replicas(w.ctx())
		if err != nil || len(list) != len(s.c.members) {
			return false
		}
		for _, v := range list {
			if !v.Voter || !v.Reached {
				return false
			}
		}
		return true
	})
}

// down stops a member as a crash does: what it says from now on gets nowhere.
func (s *storm) down() (int, *member) {
	at := s.some()
	m := s.c.members[at]
	host := s.c.host(at)
	s.c.net.Cut(func(from, to string) bool { return from == host || to == host })
	s.c.net.Host(host).Crash()
	s.load.mu.Lock()
	m.s = nil
	s.load.mu.Unlock()
	if err := m.stop(); err != nil {
		s.t.Errorf("member %d: %v", at, err)
	}
	s.c.net.Host(host).Crash()
	s.c.net.Cut(nil)
	return at, m
}

func (s *storm) start(at int, change ...func(*Config)) {
	s.load.mu.Lock()
	defer s.load.mu.Unlock()
	s.c.start(at, change...)
}

// crash ends a member, tears what it had not synced, and starts it again.
func (s *storm) crash() {
	s.said["crash"]++
	at, m := s.down()
	if s.rnd.IntN(2) == 0 {
		s.said["torn"]++
		path := s.tail(m)
		torn := make([]byte, s.rnd.IntN(200)+1)
		for i := range torn {
			torn[i] = byte(s.rnd.Uint32())
		}
		write(s.t, path, end(s.t, path)+int64(s.rnd.IntN(8)), torn)
	}
	s.hold()
	s.start(at)
	s.c.ready(at)
	if _, err := os.Stat(filepath.Join(m.data, "raft", rejoinFile)); !errors.Is(err, fs.ErrNotExist) {
		s.t.Errorf("member %d took a torn end for damage", at)
	}
}

// damage cuts a member's log before its last sync, or changes a byte there.
func (s *storm) damage() {
	s.settle()
	s.said["damage"]++
	at, m := s.down()
	path := s.tail(m)
	last := end(s.t, path)
	if s.rnd.IntN(2) == 0 {
		from := 64 + int64(s.rnd.IntN(int(last-64)))
		write(s.t, path, from, make([]byte, last-from))
	} else {
		// In the text of an entry: elsewhere it might change nothing.
		b, err := os.ReadFile(path)
		if err != nil {
			s.t.Fatal(err)
		}
		at := int(last) - 60 - s.rnd.IntN(200)
		write(s.t, path, int64(max(at, 64)), []byte{^b[max(at, 64)]})
	}
	s.hold()
	s.start(at)
	s.c.ready(at)
	s.settle()
	if _, err := os.Stat(filepath.Join(m.data, "raft", damagedDir)); err == nil {
		s.said["healed"]++
	}
}

// tail is the segment that is written last.
func (s *storm) tail(m *member) string {
	all := segments(s.t, filepath.Join(m.data, "raft"))
	return all[len(all)-1]
}
