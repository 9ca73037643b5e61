package scheduler

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/perigee-cloud/perigee/api"
)

// What a client did to session number tag of at most 64, and what it saw.
type (
	step struct {
		do  string // create, delete or list
		tag int
	}
	seen struct {
		unsure bool   // no answer: it may have happened, or not
		live   uint64 // list: the sessions, one bit each
	}
)

// sessionsModel is a set of sessions, as a client may think of it.
func sessionsModel() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return uint64(0) },
		Step: func(state, input, output any) (bool, any) {
			live, in, out := state.(uint64), input.(step), output.(seen)
			bit := uint64(1) << in.tag
			switch in.do {
			case "create":
				return true, live | bit
			case "delete":
				return true, live &^ bit
			default:
				return out.unsure || out.live == live, live
			}
		},
		DescribeOperation: func(input, output any) string {
			in, out := input.(step), output.(seen)
			return fmt.Sprintf("%s %d → %b unsure=%t", in.do, in.tag, out.live, out.unsure)
		},
	}
}

// recorder drives a cluster and keeps what happened.
type recorder struct {
	t     *testing.T
	c     *cluster
	begun time.Time

	mu   sync.Mutex
	ops  []porcupine.Operation
	ids  map[int]api.SessionID
	next int
	up   map[int]*Server

	unsure int // steps without an answer
}

func (r *recorder) server() *Server {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.up { // in random order
		return s
	}
	return nil
}

func (r *recorder) set(i int, s *Server) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.up, i)
	if s != nil {
		r.up[i] = s
	}
}

// record carries one step out. One that has no answer never returned.
func (r *recorder) record(client int, in step, do func(context.Context, *Server) (seen, error)) {
	// Some clients do not wait for an election, and never learn what became of it.
	ctx, cancel := context.WithTimeout(r.t.Context(), 150*time.Millisecond+rand.N(3*time.Second))
	defer cancel()
	s := r.server()
	op := porcupine.Operation{ClientId: client, Input: in, Call: int64(time.Since(r.begun))}
	out, err := do(ctx, s)
	op.Output, op.Return = out, int64(time.Since(r.begun))
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.unsure++
		if in.do == "list" {
			return // it says nothing of any order
		}
		op.Output, op.Return = seen{unsure: true}, math.MaxInt64
	}
	r.ops = append(r.ops, op)
}

func (r *recorder) create(client int) {
	r.mu.Lock()
	tag := r.next
	r.next++
	r.mu.Unlock()
	r.record(client, step{"create", tag}, func(ctx context.Context, s *Server) (seen, error) {
		a, err := s.CreateSession(ctx, api.CreateRequest{
			App: "cave", IdleMinutes: api.IdleUnset, ExtraData: json.RawMessage(strconv.Itoa(tag)),
			Grant: api.Grant{Account: "alice", Rights: []api.Right{api.RightSessions}},
		})
		if err == nil {
			r.mu.Lock()
			r.ids[tag] = a.Session.ID
			r.mu.Unlock()
		}
		return seen{}, err
	})
}

func (r *recorder) delete(client int) {
	r.mu.Lock()
	tag, id := -1, api.SessionID("")
	for t, i := range r.ids { // any one
		tag, id = t, i
		delete(r.ids, t)
		break
	}
	r.mu.Unlock()
	if tag < 0 {
		return
	}
	r.record(client, step{"delete", tag}, func(ctx context.Context, s *Server) (seen, error) {
		return seen{}, s.EndSession(ctx, id, api.EndRequest{Grant: api.Grant{Account: "alice", Rights: []api.Right{api.RightSessions}}})
	})
}

func (r *recorder) list(client int) {
	r.record(client, step{do: "list"}, func(ctx context.Context, s *Server) (seen, error) {
		if err := s.Consistent(ctx); err != nil {
			return seen{}, err
		}
		all, _, err := s.ListSessions(ctx, api.SessionQuery{})
		var out seen
		for _, v := range all {
			if !api.Final(v.Observed) {
				var tag int
				if e := json.Unmarshal(v.ExtraData, &tag); e != nil {
					r.t.Errorf("session %s carries %q", v.ID, v.ExtraData)
				}
				if out.live&(1<<tag) != 0 {
					r.t.Errorf("create %d made two sessions", tag)
				}
				out.live |= 1 << tag
			}
		}
		return out, err
	})
}

// faults are what TestSessionsAreLinearizable does to the replicas, in turn.
func (r *recorder) faults() []func() {
	c := r.c
	cut := func(host string, in, out bool) {
		c.net.Cut(func(from, to string) bool { return in && to == host || out && from == host })
		time.Sleep(700 * time.Millisecond)
		c.net.Cut(nil)
	}
	return []func(){
		func() { c.members[c.leader()].s.Yield() },
		func() { // killed
			lead := c.leader()
			r.set(lead, nil)
			if err := c.members[lead].stop(); err != nil {
				r.t.Error(err)
			}
			c.start(lead)
			c.ready(lead)
			r.set(lead, c.members[lead].s)
		},
		func() { cut(c.host(c.leader()), true, true) },   // in the minority
		func() { cut(c.host(c.follower()), true, true) }, // likewise
		func() { cut(c.host(c.leader()), true, false) },  // deaf: it sends and hears nothing
		func() { cut(c.host(c.leader()), false, true) },  // mute: it hears and nothing gets out
		func() { cut(c.host(c.follower()), false, true) },
	}
}

// TestSessionsAreLinearizable records what clients of all replicas see of
// creates, deletes and lists while leaders end, hand on and are cut off in one
// direction or both, and looks for an order of the steps in which one client
// alone would have seen the same.
func TestSessionsAreLinearizable(t *testing.T) { synctest.Test(t, testSessionsAreLinearizable) }

func testSessionsAreLinearizable(t *testing.T) {
	for seed := range uint64(4) {
		linearizable(t, seed)
	}
}

func linearizable(t *testing.T, seed uint64) {
	c := newCluster(t, 3)
	w := c.world(0)
	if _, err := w.s.PutApplication(w.ctx(), api.App{Name: "cave", Kind: api.AppExternal}); err != nil {
		t.Fatal(err)
	}
	r := &recorder{t: t, c: c, begun: time.Now(), ids: map[int]api.SessionID{}, up: map[int]*Server{}}
	for i, m := range c.members {
		r.set(i, m.s)
	}
	stop := make(chan struct{})
	var faults, clients sync.WaitGroup
	done := 0
	faults.Go(func() {
		all := r.faults()
		random := rand.New(rand.NewPCG(seed, 2))
		for order := random.Perm(len(all)); ; done++ {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Millisecond):
			}
			all[order[done%len(all)]]()
		}
	})
	for client := range 4 {
		clients.Go(func() {
			random := rand.New(rand.NewPCG(uint64(client), seed))
			for n := range 40 {
				switch {
				case n%3 == 0 && n/3 < 12:
					r.create(client)
				case random.IntN(3) == 0:
					r.delete(client)
				default:
					r.list(client)
				}
				time.Sleep(time.Duration(random.IntN(60)) * time.Millisecond) // let the faults fall anywhere
			}
		})
	}
	clients.Wait()
	close(stop)
	faults.Wait()
	t.Logf("seed %d: %d steps of some effect, %d without an answer, %d faults", seed, len(r.ops), r.unsure, done)
	if done < 5 || len(r.ops) < 80 || len(r.ops) > 160 {
		t.Errorf("seed %d: %d faults and %d steps are no test", seed, done, len(r.ops))
	}
	switch porcupine.CheckOperationsTimeout(sessionsModel(), r.ops, 10*time.Second) {
	case porcupine.Illegal:
		for _, op := range r.ops {
			t.Logf("%d: %d–%d %+v %+v", op.ClientId, op.Call, op.Return, op.Input, op.Output)
		}
		t.Errorf("seed %d: no order of the steps explains what the clients saw", seed)
	case porcupine.Unknown:
		t.Errorf("seed %d: the history was not checked in time: make it shorter", seed)
	}
	for i, m := range c.members {
		if err := m.stop(); err != nil {
			t.Errorf("member %d: %v", i, err)
		}
	}
	c.net.Close()
}

// TestModelFindsLostSessions holds that the check can fail.
func TestModelFindsLostSessions(t *testing.T) {
	lost := []porcupine.Operation{
		{ClientId: 0, Input: step{"create", 1}, Output: seen{}, Call: 0, Return: 1},
		{ClientId: 1, Input: step{do: "list"}, Output: seen{live: 0}, Call: 2, Return: 3},
	}
	if porcupine.CheckOperations(sessionsModel(), lost) {
		t.Error("a lost session passes")
	}
}
