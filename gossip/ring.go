package gossip

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/perigee-cloud/perigee/api"
)

const (
	gossipEvery = 100 * time.Millisecond
	gossipNodes = 4
	pushPull    = 15 * time.Second
	// systemRetransmits halves memberlist's own rumours of who is there: they go
	// before headroom in every packet, and after a mass join hold it up for as long
	// as they take. State exchanges bring what they miss.
	systemRetransmits = 2
	leaveTimeout      = 2 * time.Second
	tcpTimeout        = 3 * time.Second
	joinFirst         = 100 * time.Millisecond // between two tries to join
	joinMost          = 10 * time.Second
	rejoinEvery       = 5 * time.Second // looks whether a seed is still seen
	resyncAfter       = time.Second
)

// Config of a Ring. Listen, Key, Meta and Log are needed.
type Config struct {
	Listen    string // host:port, TCP and UDP; port 0 takes a free one
	Advertise string // address, or address:port, where others reach it; "" = the one it listens on
	Key       []byte // encrypts the ring: 16, 24 or 32 bytes
	Meta      Meta
	Log       *slog.Logger
	// Transport replaces the sockets; nil in production.
	Transport memberlist.Transport
}

// Ring is one member of a region's ring.
type Ring struct {
	log   *slog.Logger
	list  *memberlist.Config
	view  *view
	queue memberlist.TransmitLimitedQueue
	ready chan struct{} // closed when members and addr are set

	members *memberlist.Memberlist
	addr    string

	mu   sync.Mutex
	meta []byte // encoded
}

// New checks the configuration; nothing listens yet.
func New(c Config) (*Ring, error) {
	if c.Log == nil {
		return nil, errors.New("gossip needs a log")
	}
	if n := len(c.Key); n != 16 && n != 24 && n != 32 {
		return nil, api.Invalidf("gossip.key", "must have 16, 24 or 32 bytes, has %d", n)
	}
	meta, err := c.Meta.encode()
	if err != nil {
		return nil, err
	}
	r := &Ring{
		log: c.Log, meta: meta, ready: make(chan struct{}),
		view: newView(c.Meta.ID, uint64(time.Now().UnixMilli())),
	}
	if r.list, err = c.memberlist(r); err != nil {
		return nil, err
	}
	r.queue = memberlist.TransmitLimitedQueue{
		NumNodes:       func() int { return powers(transmissions(r.members.NumMembers())) },
		RetransmitMult: 1,
	}
	return r, nil
}

const (
	// Each member tells a headroom so many times. memberlist's own rule, 4 log10 n,
	// makes 12 of it at 100 members and at 999, and the traffic of each member grow
	// with their number: from transmitBudget members on it is kept level, down to 5,
	// by which a change misses 0.7 % of the members (1-r = 1-exp(-5(1-r))), who hear
	// the next one.
	transmitMost   = 12
	transmitLeast  = 5
	transmitBudget = 2500 // members times transmissions
)

// transmissions is how often each of n members tells a headroom.
func transmissions(n int) int {
	return min(max(transmitBudget/max(n, 1), transmitLeast), transmitMost)
}

// powers gives the number of members for which memberlist's rule, with a
// multiplier of 1, is k transmissions: ceil(log10(n+1)).
func powers(k int) int {
	n := 1
	for range k {
		n *= 10
	}
	return n - 1
}

func (c Config) memberlist(r *Ring) (*memberlist.Config, error) {
	m := memberlist.DefaultLANConfig()
	// A name of its own for each start: a node that comes back at another port
	// is no conflict with what is left of it.
	m.Name = string(c.Meta.ID) + "." + rand.Text()[:8]
	m.GossipInterval, m.GossipNodes, m.PushPullInterval, m.TCPTimeout = gossipEvery, gossipNodes, pushPull, tcpTimeout
	m.EnableCompression = false // tens of bytes
	m.RetransmitMult = systemRetransmits
	m.SecretKey, m.Delegate, m.Events, m.Transport = c.Key, r, r, c.Transport
	m.Logger = newLogger(c.Log)
	var err error
	if m.BindAddr, m.BindPort, err = split("gossip.listen", c.Listen); err != nil {
		return nil, err
	}
	if m.BindAddr == "" {
		m.BindAddr = "0.0.0.0"
	}
	m.AdvertisePort = m.BindPort
	if c.Advertise == "" {
		return m, nil
	}
	if net.ParseIP(c.Advertise) != nil {
		m.AdvertiseAddr = c.Advertise
		return m, nil
	}
	if m.AdvertiseAddr, m.AdvertisePort, err = split("gossip.advertise", c.Advertise); err != nil {
		return nil, err
	}
	if net.ParseIP(m.AdvertiseAddr) == nil {
		return nil, api.Invalidf("gossip.advertise", "%q is not an IP address", m.AdvertiseAddr)
	}
	return m, nil
}

func split(field, address string) (string, int, error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, api.Invalidf(field, "%q is not host:port: %v", address, err)
	}
	port, err := strconv.Atoi(text)
	if err != nil || port < 0 || port > 65535 {
		return "", 0, api.Invalidf(field, "%q has no port from 0 to 65535", address)
	}
	return host, port, nil
}

// Run takes part in the ring until ctx ends, and then tells the others, which
// takes at most 2 s. It can be called once.
func (r *Ring) Run(ctx context.Context) error {
	m, err := memberlist.Create(r.list)
	if err != nil {
		return fmt.Errorf("start gossip: %w", err)
	}
	r.members, r.addr = m, m.LocalNode().Address()
	close(r.ready)
	r.log.Info("gossip listens", "address", r.Addr())
	<-ctx.Done()
	if err := m.Leave(leaveTimeout); err != nil {
		r.log.Warn("gossip left without telling", "error", err)
	}
	if err := m.Shutdown(); err != nil {
		return fmt.Errorf("stop gossip: %w", err)
	}
	return nil
}

// Ready waits until the ring listens.
func (r *Ring) Ready(ctx context.Context) error {
	select {
	case <-r.ready:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for gossip: %w", ctx.Err())
	}
}

func (r *Ring) running() bool {
	select {
	case <-r.ready:
		return true
	default:
		return false
	}
}

// Addr is where others reach this member, host:port; "" before Ready.
func (r *Ring) Addr() string {
	if !r.running() {
		return ""
	}
	return r.addr
}

// Join keeps the member in the ring of the given members (host:port) until ctx
// ends: it tries until one answers, exchanges everything once more soon after,
// which brings a ring that many join at once to the same view, and joins again
// when it sees none of them. Without an address it returns at once.
func (r *Ring) Join(ctx context.Context, addresses []string) {
	if len(addresses) == 0 || r.Ready(ctx) != nil {
		return
	}
	wait, exchanged := joinFirst, 0
	for {
		pause := rejoinEvery
		if exchanged < 2 || !r.sees(addresses) {
			reached, err := r.members.Join(slices.Clone(addresses))
			switch {
			case reached > 0:
				wait = joinFirst
				if exchanged++; exchanged == 1 {
					r.log.Info("gossip joined", "members", r.members.NumMembers())
					pause = resyncAfter
				}
			default:
				if wait == joinFirst {
					r.log.Warn("gossip cannot join yet", "addresses", addresses, "error", err)
				}
				pause, exchanged, wait = wait, 0, min(2*wait, joinMost)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// sees says whether one of the addresses is another live member.
func (r *Ring) sees(addresses []string) bool {
	return slices.ContainsFunc(r.view.members(), func(m Member) bool { return m.Address != r.addr && slices.Contains(addresses, m.Address) })
}

// Publish spreads this node's headroom: some tens of bytes to every member in
// tenths of a second. h.Seq must grow within h.Boot. It never waits.
func (r *Ring) Publish(h api.Headroom) {
	e := r.view.publish(h, time.Now())
	if r.running() { // before, the state exchange of the join carries it
		r.spread(e)
	}
}

// Latest gives a node's newest headroom and when it was measured, as far as
// this machine's clock can tell.
func (r *Ring) Latest(id api.NodeID) (api.Headroom, time.Time, bool) {
	h, ok := r.view.latest(id)
	return h.headroom, h.at, ok
}

// Member is one member that is thought to be alive.
type Member struct {
	Meta    Meta
	Address string // host:port of its gossip
}

// Members lists the members thought to be alive, this one included; nil before
// Ready. It is no judgement: the lease decides that a node is lost.
func (r *Ring) Members() []Member {
	if !r.running() {
		return nil
	}
	return r.view.members()
}

// SetMeta replaces this member's meta and spreads it; the id must stay.
func (r *Ring) SetMeta(m Meta) error {
	if m.ID != r.view.self {
		return api.Invalidf("meta.id", "the member is %s", r.view.self)
	}
	b, err := m.encode()
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.meta = b
	r.mu.Unlock()
	if r.running() {
		if err := r.members.UpdateNode(leaveTimeout); err != nil {
			return fmt.Errorf("spread gossip meta: %w", err)
		}
	}
	return nil
}
