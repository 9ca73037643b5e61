package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/perigee-cloud/perigee/api"
)

const (
	helloPath    = "/hello"
	restorePath  = "/restore"
	helloTimeout = time.Second
	maxHello     = 64 << 10
	idleCalls    = 256 // connections kept to each replica
)

// target is a replica to call.
type target struct {
	address string
	leads   context.Context // ends when it is found to lead no more; nil = do not care
}

// peers is what this replica knows of the others beside the state.
type peers struct {
	client *http.Client

	mu     sync.Mutex
	leader target
	depose context.CancelFunc
	spare  *port                  // to dial by while the replica is not open
	met    map[string]api.Replica // by id, as they said themselves
}

func (p *peers) init(s *Server) {
	p.met = map[string]api.Replica{}
	p.client = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			way := p.spareWay()
			if r := s.replica.Load(); r != nil {
				way = r.port
			}
			if way == nil {
				return nil, errDial
			}
			c, err := way.dial(ctx, address, wayCall)
			if err != nil {
				return nil, fmt.Errorf("%w: %w", errDial, err)
			}
			return c, nil
		},
		MaxIdleConnsPerHost: idleCalls, IdleConnTimeout: time.Minute, DisableCompression: true,
	}}
}

func (p *peers) setSpare(way *port) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.spare = way
}

func (p *peers) spareWay() *port {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.spare
}

// startCalls serves the other replicas' calls.
func (s *Server) startCalls(ctx context.Context, r *replica, owned *sync.WaitGroup) {
	if r.port == nil {
		return
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+callPath+"{name}", s.serveCall)
	mux.HandleFunc("GET "+helloPath, s.serveHello)
	mux.HandleFunc("POST "+restorePath, s.serveRestore)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: greetTimeout, IdleTimeout: 2 * time.Minute}
	owned.Go(func() { _ = server.Serve(r.port.call) }) // ends with Close
	owned.Go(func() {
		<-ctx.Done()
		<-s.stopping // whoever is being answered gets the answer
		_ = server.Close()
		s.peers.client.CloseIdleConnections()
	})
}

// watchLeader follows who leads: a call to one who does no more is given up.
func (s *Server) watchLeader(ctx context.Context, r *replica) {
	changes := make(chan raft.Observation, 16)
	o := raft.NewObserver(changes, false, func(o *raft.Observation) bool {
		_, ok := o.Data.(raft.LeaderObservation)
		return ok
	})
	r.raft.RegisterObserver(o)
	defer r.raft.DeregisterObserver(o)
	// An observation may be dropped when many come at once: look now and then too.
	for {
		address, id := r.raft.LeaderWithID()
		s.peers.setLeader(string(address), string(id))
		select {
		case <-ctx.Done():
			s.peers.setLeader("", "")
			return
		case <-changes:
		case <-time.After(pollEvery):
		}
	}
}

func (p *peers) setLeader(address, _ string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if address == p.leader.address {
		return
	}
	if p.depose != nil {
		p.depose()
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.leader, p.depose = target{address: address, leads: ctx}, cancel
}

// leader gives the replica that is known to lead.
func (s *Server) leader() (target, bool) {
	s.peers.mu.Lock()
	defer s.peers.mu.Unlock()
	return s.peers.leader, s.peers.leader.address != ""
}

// hello is what a replica says of itself to whoever asks.
type hello struct {
	Replica api.Replica `json:"replica"`
	Member  bool        `json:"member"` // it has a cluster
	Leader  string      `json:"leader"` // where the leader is reached
	Index   uint64      `json:"index"`  // of its state
	Expect  int         `json:"expect"`
}

func (s *Server) serveHello(w http.ResponseWriter, _ *http.Request) {
	r := s.replica.Load()
	address, _ := r.raft.LeaderWithID()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(hello{
		Replica: s.describe(r), Member: len(r.configuration()) > 0, Leader: string(address),
		Index: r.fsm.index.Load(), Expect: s.cfg.Expect,
	}) // it is gone if this fails
}

// greetPeer asks a replica who it is.
func (s *Server) greetPeer(ctx context.Context, address string) (hello, error) {
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+helloPath, nil)
	if err != nil {
		return hello{}, fmt.Errorf("greet replica: %w", err)
	}
	res, err := s.peers.client.Do(req)
	if err != nil {
		return hello{}, fmt.Errorf("greet replica: %w", err)
	}
	defer func() { _ = res.Body.Close() }() // read below
	var h hello
	if err := json.NewDecoder(io.LimitReader(res.Body, maxHello)).Decode(&h); err != nil {
		return h, fmt.Errorf("read greeting of %s: %w", address, err)
	}
	if h.Replica.ID == "" {
		return h, errors.New("greet replica: it does not say who it is")
	}
	s.peers.mu.Lock()
	s.peers.met[h.Replica.ID] = h.Replica
	s.peers.mu.Unlock()
	return h, nil
}

// describe is what this replica says of itself.
func (s *Server) describe(r *replica) api.Replica {
	d := api.Replica{ID: string(r.id), Raft: r.address, Entry: s.cfg.EntryVersion}
	if s.cfg.Describe != nil {
		s.cfg.Describe(&d)
	}
	return d
}

// Members gives what is known of the replicas, this one included: what the
// state says of the cluster's members, or what they said when they were met.
func (s *Server) Members() []api.Replica {
	r := s.replica.Load()
	if r == nil || r.raft == nil {
		return nil
	}
	s.peers.mu.Lock()
	met := maps.Clone(s.peers.met)
	s.peers.mu.Unlock()
	members := r.configuration()
	if len(members) == 0 {
		return slices.Collect(maps.Values(met))
	}
	var out []api.Replica
	for _, m := range members {
		d, ok := s.root().Replica(string(m.ID))
		if !ok {
			d, ok = met[string(m.ID)]
		}
		if ok {
			out = append(out, d)
		}
	}
	return out
}

// ID is this replica's name in the cluster; "" before Run.
func (s *Server) ID() string {
	if r := s.replica.Load(); r != nil {
		return string(r.id)
	}
	return ""
}
