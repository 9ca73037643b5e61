package site

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// Cluster is several schedulers on loopback, each a process.
type Cluster struct {
	Members []*Site // each with its own data directory, API and CLI
	raft    []string
	args    []string
}

// StartCluster runs n schedulers in dir that found a cluster together, and
// makes an account, whose token every member has.
func StartCluster(ctx context.Context, dir string, n int, args ...string) (*Cluster, error) {
	bin, err := Bin()
	if err != nil {
		return nil, err
	}
	c := &Cluster{args: args}
	for range n {
		at, err := freeAddress()
		if err != nil {
			return nil, err
		}
		c.raft = append(c.raft, at)
	}
	// They wait for each other: all must run before one is awaited.
	ready := make(chan error, n)
	for i := range n {
		s := &Site{Dir: filepath.Join(dir, strconv.Itoa(i)), bin: bin, args: c.memberArgs(i)}
		c.Members = append(c.Members, s)
		if err := os.MkdirAll(s.Dir, 0o700); err != nil {
			return nil, fmt.Errorf("make member directory: %w", err)
		}
		go func() { ready <- s.StartScheduler(ctx) }()
	}
	for range n {
		err = errors.Join(err, <-ready)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	token, err := c.Members[0].account(ctx)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	for _, m := range c.Members {
		m.Token = token
	}
	return c, nil
}

func (c *Cluster) memberArgs(i int) []string {
	args := append([]string{"--raft-listen", c.raft[i], "--nats-cluster-listen", "127.0.0.1:0", "--bootstrap-expect", strconv.Itoa(len(c.raft))}, c.args...)
	for j, peer := range c.raft {
		if j != i {
			args = append(args, "--peer", peer)
		}
	}
	return args
}

// leaderWait bounds how long Leader waits: an election, and a member's start.
const leaderWait = 20 * time.Second

// Replicas is what a member says of all of them.
func (s *Site) Replicas(ctx context.Context) ([]api.ReplicaView, error) {
	out, err := s.CLI(ctx, "scheduler", "members", "--json")
	if err != nil {
		return nil, err
	}
	var list []api.ReplicaView
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return nil, fmt.Errorf("read members: %w", err)
	}
	return list, nil
}

// Leader waits until everyone reaches everyone, and gives who leads.
func (c *Cluster) Leader(ctx context.Context) (int, error) {
	lead := -1
	err := Poll(ctx, leaderWait, func() error {
		lead = -1
		for i, m := range c.Members {
			list, err := m.Replicas(ctx)
			if err != nil {
				return err
			}
			for _, v := range list {
				if !v.Reached || !v.Voter {
					return fmt.Errorf("%s is not there yet", v.Replica.ID)
				}
				if v.Self && v.Leader {
					lead = i
				}
			}
		}
		if lead < 0 {
			return errors.New("nobody leads")
		}
		return nil
	})
	return lead, err
}

// Close ends every member the way Ctrl-C does.
func (c *Cluster) Close() error {
	var errs []error
	for _, m := range c.Members {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}

// Kill ends a member without warning, and waits until it is gone.
func (c *Cluster) Kill(i int) error { return c.Members[i].Sched.Stop(syscall.SIGKILL) }

// freeAddress finds a port that nobody listens on: the members are told each
// other's before they run.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return l.Addr().String(), l.Close()
}

// PollFast is Poll with a shorter pause, for what is timed.
func PollFast(ctx context.Context, deadline time.Duration, f func() error) error {
	return poll(ctx, deadline, 2*time.Millisecond, f)
}
