package scheduler

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

type ed25519Public = ed25519.PublicKey

// Bounds of what a node may say of itself.
const (
	maxPools     = 16
	maxFactors   = 16
	maxAddresses = 16
	maxNodeText  = 255
	minSecret    = 16
	maxSecret    = 128
)

// JoinNode records a node whose daemon starts. A new key needs a token with the
// right to join; a known one proves itself. While another start of the same
// daemon is heard it answers CodeConflict.
func (s *Server) JoinNode(ctx context.Context, j api.NodeJoin, remote string) (api.NodeJoined, error) {
	return onLeader(ctx, s, "node.join", nodeJoinCall{Join: j, Remote: remote}, s.joinNode)
}

type nodeJoinCall struct {
	Join   api.NodeJoin
	Remote string
}

func (s *Server) joinNode(ctx context.Context, c nodeJoinCall) (api.NodeJoined, error) {
	j, remote := c.Join, c.Remote
	if err := checkJoin(&j); err != nil {
		return api.NodeJoined{}, err
	}
	token, err := s.mayJoin(ctx, j)
	if err != nil {
		return api.NodeJoined{}, err
	}
	if err := s.onlyDaemon(ctx, j.Node); err != nil {
		return api.NodeJoined{}, err
	}
	host := remote
	if h, _, err := net.SplitHostPort(remote); err == nil {
		host = h
	}
	n := s.complete(j.Node, host)
	doc, err := json.Marshal(n)
	if err != nil {
		return api.NodeJoined{}, &api.Error{Code: api.CodeInvalid, Field: "node", Message: "cannot be kept", Err: err}
	}
	if _, err := s.propose(ctx, &state.PutNode{Doc: doc, RelaySecret: j.RelaySecret, Token: token}); err != nil {
		return api.NodeJoined{}, err
	}
	s.leases.hear(n.ID, n.Boot, 0, api.Headroom{}, s.cfg.Clock())
	root := s.root()
	kept, ok := root.Node(n.ID)
	if !ok {
		return api.NodeJoined{}, api.Errorf(api.CodeConflict, "the node was removed while it joined")
	}
	for id := range kept.Sessions() {
		s.dispatch.kick(id)
	}
	s.cfg.Log.Info("node joined", "node", n.ID, "name", n.Name, "region", n.Region, "boot", n.Boot, "address", host)
	return api.NodeJoined{
		Node: kept.Node, NATS: s.everywhere(s.cfg.NATSURLs(), func(r api.Replica) string { return r.NATS }),
		Gossip: s.everywhere(s.cfg.Gossip(kept.Region), func(r api.Replica) string { return r.Gossip[kept.Region] }), RingKey: root.Secrets().RingKey,
		TicketKey:   s.signer().Public().(ed25519Public),
		HeartbeatMS: int(s.cfg.HeartbeatEvery / time.Millisecond), LeaseMS: int(s.cfg.Lease / time.Millisecond),
		PublicAddress: host,
		STUN:          s.everywhere(s.cfg.STUN(), func(r api.Replica) string { return r.STUN }),
		Schedulers:    s.everywhere(nil, func(r api.Replica) string { return r.API }),
	}, nil
}

// everywhere lists an address of every replica, this one's own first.
func (s *Server) everywhere(own []string, of func(api.Replica) string) []string {
	out := slices.Clone(own)
	for _, r := range s.root().Replicas() {
		if a := of(r); a != "" && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// checkJoin checks what a node says of itself and its signature.
func checkJoin(j *api.NodeJoin) error {
	n := &j.Node
	if len(n.PublicKey) != ed25519.PublicKeySize {
		return api.Invalidf("node.public_key", "must be an Ed25519 key of %d bytes, got %d", ed25519.PublicKeySize, len(n.PublicKey))
	}
	id := api.NodeIDFromKey(n.PublicKey)
	if n.ID != "" && n.ID != id {
		return api.Invalidf("node.id", "is %q, its key makes it %q: leave it out", n.ID, id)
	}
	n.ID = id
	if !api.ValidID(n.Boot) {
		return api.Invalidf("node.boot", "must be 1 to 64 characters of [a-zA-Z0-9-_:], drawn at each start")
	}
	if !ed25519.Verify(n.PublicKey, api.JoinPayload(*n), j.Signature) {
		return api.Errorf(api.CodeUnauthorized, "the join is not signed by the node's key")
	}
	if n.Region != "" && !api.ValidID(n.Region) {
		return api.Invalidf("node.region", "must be 1 to 64 characters of [a-zA-Z0-9-_:], got %q", n.Region)
	}
	if len(n.Name) > maxNodeText || len(n.Version) > maxNodeText {
		return api.Invalidf("node.name", "name and version may have %d bytes each", maxNodeText)
	}
	if len(n.Addresses) > maxAddresses || len(n.Relay) > maxAddresses {
		return api.Invalidf("node.addresses", "at most %d addresses and %d relay URLs", maxAddresses, maxAddresses)
	}
	if k := len(j.RelaySecret); k != 0 && (k < minSecret || k > maxSecret) {
		return api.Invalidf("relay_secret", "must have %d to %d bytes, got %d", minSecret, maxSecret, k)
	}
	if n.RelayPort < 0 || n.RelayPort > 65535 {
		return api.Invalidf("node.relay_port", "must be a port, got %d", n.RelayPort)
	}
	if l := n.Location; l.Known && (l.Latitude < -90 || l.Latitude > 90 || l.Longitude < -180 || l.Longitude > 180 || l.Latitude != l.Latitude || l.Longitude != l.Longitude) {
		return api.Invalidf("node.location", "must be degrees within 90 and 180, got %v, %v", l.Latitude, l.Longitude)
	}
	if err := api.CheckLabels(n.Labels); err != nil {
		return err
	}
	if err := checkPools(n.Pools); err != nil {
		return err
	}
	if err := n.Machine.Check(); err != nil {
		return err
	}
	return checkCertificate(*n)
}

func checkPools(pools []api.Capacity) error {
	if len(pools) == 0 || len(pools) > maxPools {
		return api.Invalidf("node.pools", "a node has 1 to %d pools of encoders, got %d", maxPools, len(pools))
	}
	seen := map[api.Pool]bool{}
	for _, p := range pools {
		switch p.Pool {
		case api.PoolCPU, api.PoolNVENC, api.PoolVAAPI:
		default:
			return api.Invalidf("node.pools.pool", "%q is not a pool; use nvenc, vaapi or cpu", p.Pool)
		}
		if seen[p.Pool] {
			return api.Invalidf("node.pools.pool", "%q is listed twice", p.Pool)
		}
		seen[p.Pool] = true
		if p.Sessions < 0 || p.Macroblocks > 1<<50 {
			return api.Invalidf("node.pools", "pool %s has an impossible capacity", p.Pool)
		}
		if len(p.Factors) > maxFactors {
			return api.Invalidf("node.pools.cost_factors", "at most %d, got %d", maxFactors, len(p.Factors))
		}
		for _, f := range p.Factors {
			if !slices.Contains(p.Codecs, f.Codec) || f.Preset != api.PresetDefault && f.Preset != api.PresetFast || f.Thousandths < 1 || f.Thousandths > api.MaxFactor {
				return api.Invalidf("node.pools.cost_factors", "pool %s: %s with the preset %q at %d thousandths is not usable", p.Pool, f.Codec, f.Preset, f.Thousandths)
			}
		}
		for _, c := range p.Codecs {
			if _, err := api.ParseCodec(string(c)); err != nil {
				return err
			}
		}
	}
	return nil
}

// mayJoin says which token a new node joins by.
func (s *Server) mayJoin(ctx context.Context, j api.NodeJoin) (string, error) {
	if _, known := s.root().Node(j.Node.ID); known {
		return "", nil
	}
	if j.Token == "" {
		return "", api.Errorf(api.CodeUnauthorized, "the node is new here: give it a token with the right %q (perigee node token)", api.RightNode)
	}
	g, err := s.Authenticate(ctx, j.Token)
	if err != nil {
		return "", err
	}
	if !g.Can(api.RightNode) {
		return "", api.Errorf(api.CodeForbidden, "the token may not let nodes join: it needs the right %q", api.RightNode)
	}
	return g.TokenID, nil
}

// onlyDaemon refuses a second daemon with one key. Whoever was heard within the
// lease gets the time of two heartbeats to be heard once more: a daemon that was
// killed is silent and its successor need not wait out the lease.
func (s *Server) onlyDaemon(ctx context.Context, n api.Node) error {
	boot, first, ok := s.leases.last(n.ID)
	if !ok || boot == n.Boot || s.cfg.Clock().Sub(first) >= s.cfg.Lease {
		return nil
	}
	limit := time.NewTimer(2*s.cfg.HeartbeatEvery + s.cfg.HeartbeatEvery/2)
	defer limit.Stop()
	look := time.NewTicker(s.cfg.HeartbeatEvery / 10)
	defer look.Stop()
	for {
		select {
		case <-limit.C:
			return nil
		case <-ctx.Done():
			return &api.Error{Code: api.CodeTimeout, Message: "an earlier start of the daemon may still run", Err: ctx.Err()}
		case <-s.stopping:
			return api.Errorf(api.CodeUnavailable, "the scheduler is stopping")
		case <-look.C:
		}
		now, heard, ok := s.leases.last(n.ID)
		if !ok || now == n.Boot {
			return nil
		}
		if heard.After(first) {
			return api.Errorf(api.CodeConflict, "another daemon with this node's key is running: stop it, or give this one its own data directory")
		}
	}
}

// complete fills what a node left open: the address it came from, its relay's
// URLs, its location and region.
func (s *Server) complete(n api.Node, host string) api.Node {
	n.Lost, n.RelaySecret = false, nil
	if len(n.Addresses) == 0 && net.ParseIP(host) != nil {
		n.Addresses = []string{host}
	}
	if len(n.Relay) == 0 && n.RelayPort > 0 {
		for _, a := range n.Addresses {
			at := net.JoinHostPort(a, strconv.Itoa(n.RelayPort))
			n.Relay = append(n.Relay, "stun:"+at, "turn:"+at+"?transport=udp", "turn:"+at+"?transport=tcp")
		}
	}
	if !n.Location.Known && s.cfg.Locator != nil {
		for _, a := range append(slices.Clone(n.Addresses), host) {
			if l := s.cfg.Locator.Locate(a); l.Known {
				n.Location = l
				break
			}
		}
	}
	if n.Region == "" {
		n.Region = s.cfg.DefaultRegion
	}
	return n
}

// ListNodes gives every node with what is known of it now, by id.
func (s *Server) ListNodes(context.Context) ([]api.NodeView, error) {
	if err := s.serving(); err != nil {
		return nil, err
	}
	out := []api.NodeView{}
	now, own := s.cfg.Clock(), s.ownLatency()
	for n := range s.root().Nodes() {
		v := api.NodeView{Node: n.Node, OwnLatency: own[n.ID], Reserved: map[api.Pool]uint64{}, Running: map[api.Pool]int{}, Sessions: n.SessionCount(), Alive: s.leases.alive(n, now, s.cfg.Lease)}
		v.Headroom, _ = s.headroom(n)
		_, v.HeardAt, _ = s.leases.last(n.ID)
		v.HeardAt = v.HeardAt.Round(0)
		for _, p := range n.Pools {
			v.Reserved[p.Pool], v.Running[p.Pool] = n.Reserved(p.Pool)
		}
		v.Parts, v.Alarms = n.Parts(), s.leases.alarms(n.ID)
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b api.NodeView) int { return cmp.Compare(a.Node.ID, b.Node.ID) })
	return out, nil
}

// SetDrain says whether a node takes new sessions.
func (s *Server) SetDrain(ctx context.Context, id api.NodeID, drain bool) error {
	_, err := onLeader(ctx, s, "node.drain", drainCall{ID: id, Drain: drain}, s.setDrain)
	return err
}

type drainCall struct {
	ID    api.NodeID
	Drain bool
}

func (s *Server) setDrain(ctx context.Context, c drainCall) (nothing, error) {
	if _, err := s.propose(ctx, &state.DrainNode{ID: c.ID, Drain: c.Drain}); err != nil {
		return nothing{}, err
	}
	s.cfg.Log.Info("node drain set", "node", c.ID, "drain", c.Drain)
	return nothing{}, nil
}

// RemoveNode forgets a node and ends what it ran.
func (s *Server) RemoveNode(ctx context.Context, id api.NodeID) error {
	_, err := onLeader(ctx, s, "node.remove", id, s.removeNode)
	return err
}

func (s *Server) removeNode(ctx context.Context, id api.NodeID) (nothing, error) {
	if _, err := s.propose(ctx, &state.RemoveNode{ID: id}); err != nil {
		return nothing{}, err
	}
	s.cfg.Log.Info("node removed", "node", id)
	if s.cfg.Kick != nil {
		if err := s.cfg.Kick(id); err != nil {
			s.cfg.Log.Warn("removed node could not be disconnected", "node", id, "error", err)
		}
	}
	return nothing{}, nil
}
