package simnet

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/hashicorp/memberlist"
)

const inbox = 4096 // packets that wait for memberlist; more are lost

// Transport carries memberlist's packets and streams.
type Transport struct {
	host    *Host
	at      int
	streams *listener
	packets chan *memberlist.Packet
	accepts chan net.Conn
}

var _ memberlist.Transport = (*Transport)(nil)

// Transport opens a port for packets and streams; 0 takes a free one.
func (h *Host) Transport(port int) (*Transport, error) {
	l, err := h.Listen(net.JoinHostPort(h.ip, strconv.Itoa(port)))
	if err != nil {
		return nil, err
	}
	t := &Transport{host: h, streams: l.(*listener), packets: make(chan *memberlist.Packet, inbox), accepts: make(chan net.Conn)}
	t.at = t.streams.at
	h.net.mu.Lock()
	h.packets[t.at] = t
	h.net.mu.Unlock()
	go t.accept()
	return t, nil
}

func (t *Transport) accept() {
	for {
		c, err := t.streams.Accept()
		if err != nil {
			return
		}
		select {
		case t.accepts <- c:
		case <-t.streams.done:
			_ = c.Close() // nobody takes it
			return
		}
	}
}

// FinalAdvertiseAddr is the host's address and the transport's port.
func (t *Transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return net.ParseIP(t.host.ip), t.at, nil
}

// WriteTo sends one packet; it may be lost.
func (t *Transport) WriteTo(b []byte, address string) (time.Time, error) {
	now := time.Now()
	to, text, err := net.SplitHostPort(address)
	if err != nil {
		return now, fmt.Errorf("send packet: %w", err)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return now, fmt.Errorf("send packet: %w", err)
	}
	n := t.host.net
	d, ok := n.draw(t.host.ip, to, true)
	n.mu.Lock()
	n.stats.Packets++
	if !ok {
		n.stats.Lost++
	}
	n.mu.Unlock()
	if !ok {
		return now, nil
	}
	p := &memberlist.Packet{Buf: append([]byte(nil), b...), From: &net.UDPAddr{IP: net.ParseIP(t.host.ip), Port: t.at}}
	time.AfterFunc(d, func() { n.deliver(to, port, p) })
	return now, nil
}

// deliver hands a packet to whoever listens.
func (n *Net) deliver(to string, port int, p *memberlist.Packet) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if h := n.hosts[to]; h != nil && h.packets[port] != nil {
		p.Timestamp = time.Now()
		select {
		case h.packets[port].packets <- p:
			return
		default: // as a full socket buffer drops
		}
	}
	n.stats.Lost++
}

// PacketCh gives what has arrived.
func (t *Transport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// DialTimeout opens a stream to another member.
func (t *Transport) DialTimeout(address string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return t.host.Dial(ctx, address)
}

// StreamCh gives the streams that others open.
func (t *Transport) StreamCh() <-chan net.Conn { return t.accepts }

// Shutdown ends the transport.
func (t *Transport) Shutdown() error {
	t.host.net.mu.Lock()
	if t.host.packets[t.at] == t {
		delete(t.host.packets, t.at)
	}
	t.host.net.mu.Unlock()
	return t.streams.Close()
}
