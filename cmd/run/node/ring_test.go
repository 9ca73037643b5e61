package node

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/gossip"
)

func joinedAt(address string, key byte) api.NodeJoined {
	k := make([]byte, 16)
	k[0] = key
	return api.NodeJoined{Node: api.Node{ID: "n1", Region: "eu", Addresses: []string{address}}, RingKey: k}
}

// seen waits until the node's membership is such, and gives it.
func seen(t *testing.T, r *ring, ok func(*gossip.Ring) bool) *gossip.Ring {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		r.mu.Lock()
		m := r.now
		r.mu.Unlock()
		if ok(m) {
			return m
		}
		if time.Now().After(end) {
			t.Fatal("the membership does not change")
		}
	}
}

func TestRingFollowsTheJoins(t *testing.T) {
	r := newRing(Config{GossipListen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.run(ctx, joinedAt("127.0.0.5", 1)) }()
	at := func(host string) func(*gossip.Ring) bool {
		return func(m *gossip.Ring) bool { return m != nil && strings.HasPrefix(m.Addr(), host+":") }
	}
	seen(t, r, at("127.0.0.5"))
	r.follow(joinedAt("127.0.0.5", 1)) // nothing new
	r.follow(joinedAt("127.0.0.6", 1))
	second := seen(t, r, at("127.0.0.6"))
	r.follow(joinedAt("127.0.0.6", 2)) // another cluster's key
	seen(t, r, func(m *gossip.Ring) bool { return m != second && at("127.0.0.6")(m) })
	bad := joinedAt("127.0.0.6", 2)
	bad.RingKey = nil
	r.follow(bad) // the node goes on without
	seen(t, r, func(m *gossip.Ring) bool { return m == nil })
	r.Publish(api.Headroom{})
	r.follow(joinedAt("127.0.0.5", 1))
	seen(t, r, at("127.0.0.5"))
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestTakenGossipPortNamesTheFlag(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	r := newRing(Config{GossipListen: l.Addr().String(), Log: slog.New(slog.DiscardHandler)})
	if err := r.run(t.Context(), joinedAt("127.0.0.1", 1)); err == nil || !strings.Contains(err.Error(), "--gossip-listen") {
		t.Errorf("a port that is taken: %v", err)
	}
}
