package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/api/client"
	"github.com/perigee-cloud/perigee/cmd/run/site"
)

const (
	leaderKills   = 20
	beforeKill    = 20 // creates
	signalling    = 10 // clients of each replica
	strandedWait  = 5 * time.Second
	failoverApp   = "cave" // nothing runs: what is measured is the schedulers
	createTimeout = 10 * time.Second
)

// schedulerFailover kills leaders, real processes, by kill -9 and takes the time
// to the next acknowledged create through another replica; then counts the
// clients that a killed replica leaves in the middle of signalling.
func schedulerFailover(ctx context.Context, _ int) (_ []Result, err error) {
	dir, err := os.MkdirTemp("/tmp", "pbench") // short: it holds sockets
	if err != nil {
		return nil, fmt.Errorf("make directory of the replicas: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	c, err := site.StartCluster(ctx, dir, 3)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if _, err := c.Members[0].CLI(ctx, "app", "put", failoverApp, "--kind", "external"); err != nil {
		return nil, err
	}
	var took []float64
	for range leaderKills {
		d, err := killLeader(ctx, c)
		if err != nil {
			return nil, err
		}
		took = append(took, ms(d))
	}
	stranded, clients, err := strand(ctx, c)
	if err != nil {
		return nil, err
	}
	return []Result{
		{Name: "failover_ms_p50", Value: round(quantile(took, 0.5)), Unit: "ms", Runs: leaderKills},
		Result{Name: "failover_ms_p95", Value: round(quantile(took, 0.95)), Unit: "ms", Runs: leaderKills}.atMost(700),
		Result{Name: "websockets_stranded_by_kill", Value: float64(stranded), Runs: 1}.against("clients in mid-signalling", float64(clients)),
	}, nil
}

func gatewayOf(s *site.Site) (*client.Client, error) {
	return client.New(client.Config{URL: s.API, Token: s.Token})
}

// killLeader ends the leader and starts it again; it gives the time without an
// acknowledged create.
func killLeader(ctx context.Context, c *site.Cluster) (time.Duration, error) {
	lead, err := c.Leader(ctx)
	if err != nil {
		return 0, err
	}
	through, err := gatewayOf(c.Members[(lead+1)%len(c.Members)])
	if err != nil {
		return 0, err
	}
	defer through.Close()
	create := func() error {
		ctx, cancel := context.WithTimeout(ctx, createTimeout)
		defer cancel()
		_, err := through.CreateSession(ctx, api.CreateBody{App: failoverApp})
		return err
	}
	for range beforeKill {
		if err := create(); err != nil {
			return 0, err
		}
	}
	killed := time.Now()
	if err := c.Kill(lead); err != nil {
		return 0, err
	}
	if err := create(); err != nil {
		return 0, fmt.Errorf("create after the leader's end: %w", err)
	}
	took := time.Since(killed)
	return took, c.Members[lead].StartScheduler(ctx)
}

// strand opens signalling websockets on all replicas, kills one, and counts the
// clients that were cut off without a word.
func strand(ctx context.Context, c *site.Cluster) (stranded, clients int, err error) {
	lead, err := c.Leader(ctx)
	if err != nil {
		return 0, 0, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex
	var open sync.WaitGroup
	defer open.Wait()
	defer cancel()
	for _, m := range c.Members {
		through, err := gatewayOf(m)
		if err != nil {
			return 0, 0, err
		}
		defer through.Close()
		for range signalling {
			a, err := through.CreateSession(ctx, api.CreateBody{App: failoverApp})
			if err != nil {
				return 0, 0, err
			}
			s, err := client.DialSignal(ctx, a.URL)
			if err != nil {
				return 0, 0, err
			}
			if err := s.Send(ctx, client.Message{Type: "settings", MaxAPIVersion: 2}); err != nil {
				return 0, 0, err
			}
			clients++
			open.Go(func() {
				for {
					m, err := s.Receive(ctx)
					if err == nil && m.Type != "error" {
						continue
					}
					if err != nil && ctx.Err() == nil {
						mu.Lock()
						stranded++
						mu.Unlock()
					}
					return
				}
			})
		}
	}
	if err := c.Kill(lead); err != nil {
		return 0, 0, err
	}
	_ = site.PollFast(ctx, strandedWait, func() error { // all of one replica: then nobody else follows
		mu.Lock()
		defer mu.Unlock()
		if stranded < signalling {
			return errors.New("not all yet")
		}
		return nil
	})
	mu.Lock()
	defer mu.Unlock()
	return stranded, clients, c.Members[lead].StartScheduler(ctx)
}
