package rtc

import (
	"fmt"
	"net"
	"sync"

	"github.com/pion/transport/v4"
)

// gathering is the network as one connection's search for ways uses it. It
// keeps the sockets on which relays are asked, so that the search can be given up:
// ICE itself waits 8 s for a relay that does not answer.
type gathering struct {
	transport.Net

	mu    sync.Mutex
	over  bool
	conns []net.PacketConn
}

// ListenPacket opens a socket; after giveUp it is closed already.
func (g *gathering) ListenPacket(network, address string) (net.PacketConn, error) {
	c, err := g.Net.ListenPacket(network, address)
	if err != nil {
		return nil, fmt.Errorf("open socket to a relay: %w", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.over {
		_ = c.Close()
		return c, nil
	}
	g.conns = append(g.conns, c)
	return c, nil
}

// giveUp closes the sockets: what is asked next on them fails.
func (g *gathering) giveUp() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.over = true
	for _, c := range g.conns {
		_ = c.Close() // nothing more is sent
	}
	g.conns = nil
}
