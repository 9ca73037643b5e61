package fleet

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/scheduler"
)

// Applications of the simulation.
const (
	appGame  = "game"
	appAgain = "again" // may be started anew on another node
	appProbe = "probe" // takes no node: the ledger's service alone
)

const (
	tryTimeout     = 10 * time.Second // of one try of a client
	createPatience = 60 * time.Second // how long a client asks again with its key
	probeEvery     = 20 * time.Millisecond
	probeBefore    = time.Second
	probeAfter     = 10 * time.Second
)

// acked is a session that a client was told of.
type acked struct {
	at    time.Time
	ended bool // its client asked for its end
}

func grant() api.Grant { return api.Grant{Account: "alice", Rights: []api.Right{api.RightSessions}} }

// arrivals starts clients, as a Poisson stream.
func (f *Fleet) arrivals(ctx context.Context, wg *sync.WaitGroup) {
	if f.cfg.Rate <= 0 {
		return
	}
	for n := 0; ; n++ {
		if !pause(ctx, time.Duration(f.rnd.ExpFloat64()/f.cfg.Rate*float64(time.Second))) {
			return
		}
		stay := time.Duration(f.rnd.ExpFloat64() * float64(f.cfg.Stay))
		region, app := f.regions[f.rnd.IntN(len(f.regions))], appGame
		if n%3 == 0 {
			app = appAgain
		}
		wg.Go(func() { f.client(ctx, fmt.Sprint("client-", n), app, region, stay) })
	}
}

// client asks for a session until it has an answer, stays, and ends it.
func (f *Fleet) client(ctx context.Context, key, app string, region Region, stay time.Duration) {
	begun := time.Now()
	var a api.Admission
	for {
		err := f.try(ctx, func(ctx context.Context, s *scheduler.Server) (err error) {
			a, err = s.CreateSession(ctx, api.CreateRequest{
				App: app, Joinable: true, IdleMinutes: api.IdleUnset, IdempotencyKey: key, Grant: grant(),
				Client: api.Client{Location: api.Location{Known: true, Latitude: region.Latitude, Longitude: region.Longitude}},
			})
			return err
		})
		if err == nil {
			break
		}
		if code := api.CodeOf(err); code == api.CodeNoCapacity {
			f.count(func(r *Result) { r.Refused++ })
			return
		}
		if time.Since(begun) > createPatience || !pause(ctx, 100*time.Millisecond) {
			f.count(func(r *Result) { r.Unanswered++ })
			return
		}
	}
	id := a.Session.ID
	f.mu.Lock()
	f.acked[id] = &acked{at: time.Now()}
	f.result.Created++
	f.result.creates = append(f.result.creates, time.Since(begun))
	f.mu.Unlock()
	if !pause(ctx, stay) {
		return
	}
	f.mu.Lock()
	f.acked[id].ended = true
	f.mu.Unlock()
	for ctx.Err() == nil {
		err := f.try(ctx, func(ctx context.Context, s *scheduler.Server) error {
			return s.EndSession(ctx, id, api.EndRequest{Grant: grant()})
		})
		if err == nil || api.CodeOf(err) == api.CodeNotFound {
			return
		}
		pause(ctx, 500*time.Millisecond)
	}
}

// try makes one call to any scheduler that runs.
func (f *Fleet) try(ctx context.Context, call func(context.Context, *scheduler.Server) error) error {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	up := f.up()
	if len(up) == 0 {
		return api.Errorf(api.CodeUnavailable, "no scheduler runs")
	}
	return call(ctx, up[rand.IntN(len(up))])
}

// outage measures for how long a step leaves clients without an acknowledged
// write: it writes all the time, and gives the longest gap.
func (f *Fleet) outage(ctx context.Context, wg *sync.WaitGroup, through func() *scheduler.Server, note func(time.Duration)) {
	ctx, cancel := context.WithTimeout(ctx, probeBefore+probeAfter)
	wg.Go(func() {
		defer cancel()
		var writers sync.WaitGroup
		var mu sync.Mutex
		last, gap := time.Now(), time.Duration(0)
		for pause(ctx, probeEvery) {
			s := through()
			if s == nil {
				continue
			}
			writers.Go(func() {
				a, err := s.CreateSession(ctx, api.CreateRequest{App: appProbe, IdleMinutes: api.IdleUnset, Grant: grant()})
				if err != nil {
					return
				}
				mu.Lock()
				gap, last = max(gap, time.Since(last)), time.Now()
				mu.Unlock()
				_ = s.EndSession(ctx, a.Session.ID, api.EndRequest{Grant: grant()}) // its last ticket expires anyway
			})
		}
		mu.Lock()
		if silence := time.Since(last); silence > time.Second {
			gap = max(gap, silence) // it never came back
		}
		mu.Unlock()
		writers.Wait()
		note(gap)
	})
	pause(ctx, probeBefore)
}
