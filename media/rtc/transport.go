package rtc

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/pion/ice/v4"
	"github.com/pion/logging"
	"github.com/pion/transport/v4"
	"github.com/pion/transport/v4/stdnet"
	"github.com/pion/webrtc/v4"

	"github.com/perigee-cloud/perigee/media"
)

// Ports is a range of UDP ports, both ends included. The zero Ports lets the
// system choose.
type Ports struct{ Min, Max uint16 }

// ParsePorts reads "40000-40999", "40000" or "" (the system chooses).
func ParsePorts(s string) (Ports, error) {
	if s == "" {
		return Ports{}, nil
	}
	var a, b = s, s
	for i := range s {
		if s[i] == '-' {
			a, b = s[:i], s[i+1:]
			break
		}
	}
	lo, err1 := strconv.ParseUint(a, 10, 16)
	hi, err2 := strconv.ParseUint(b, 10, 16)
	if err1 != nil || err2 != nil || lo > hi || lo == 0 && hi != 0 {
		return Ports{}, fmt.Errorf("ports %q: want a range such as 40000-40999", s)
	}
	return Ports{Min: uint16(lo), Max: uint16(hi)}, nil
}

// TransportConfig configures a Transport.
type TransportConfig struct {
	Ports Ports
	// Advertise are the addresses under which the port is reached from outside
	// (1:1 NAT), one or more per family.
	Advertise []netip.Addr
	// Gone is how long nothing comes of a viewer until it counts as disconnected;
	// 0 is GoneAfter.
	Gone time.Duration
	// Net is the network; nil is the host's.
	Net transport.Net
	Log *slog.Logger
}

// Transport is one UDP port, bound on every address of the host, that all
// connections of the process share.
type Transport struct {
	cfg   TransportConfig
	port  uint16
	addrs []netip.Addr
	mux   *ice.MultiUDPMuxDefault
	log   logging.LoggerFactory

	mu        sync.Mutex // guards advertise
	advertise []netip.Addr
}

const (
	sendBuffer    = 2 << 20
	receiveBuffer = 512 << 10
	portTries     = 64
)

// NewTransport binds the port on all of the host's addresses, loopback
// included: the relay of this host and viewers on it use that.
func NewTransport(cfg TransportConfig) (*Transport, error) {
	if cfg.Net == nil {
		host, err := stdnet.NewNet()
		if err != nil {
			return nil, fmt.Errorf("open the host's network: %w", err)
		}
		cfg.Net = host
	}
	addrs, err := hostAddresses(cfg.Net)
	if err != nil {
		return nil, err
	}
	t := &Transport{cfg: cfg, addrs: addrs, log: media.PionLog(cfg.Log), advertise: cfg.Advertise}
	var conns []transport.UDPConn
	for _, port := range cfg.Ports.candidates() {
		if conns, err = bindAll(cfg.Net, addrs, port); err == nil {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("bind media port in %d-%d: %w", cfg.Ports.Min, cfg.Ports.Max, err)
	}
	t.port = conns[0].LocalAddr().(*net.UDPAddr).AddrPort().Port()
	muxes := make([]ice.UDPMux, 0, len(conns))
	for _, c := range conns {
		// A smaller buffer than asked for only loses packets earlier.
		_ = c.SetWriteBuffer(sendBuffer)
		_ = c.SetReadBuffer(receiveBuffer)
		muxes = append(muxes, ice.NewUDPMuxDefault(ice.UDPMuxParams{UDPConn: c, Net: cfg.Net, Logger: t.log.NewLogger("mux")}))
	}
	t.mux = ice.NewMultiUDPMuxDefault(muxes...)
	return t, nil
}

// candidates lists the ports to try: the whole range from a random start.
func (p Ports) candidates() []uint16 {
	n := int(p.Max) - int(p.Min) + 1
	if p.Min == 0 {
		return make([]uint16, portTries) // zeros: the system chooses, again when one is half taken
	}
	start := rand.IntN(n)
	out := make([]uint16, 0, n)
	for i := range n {
		out = append(out, p.Min+uint16((start+i)%n))
	}
	return out
}

func bindAll(n transport.Net, addrs []netip.Addr, port uint16) ([]transport.UDPConn, error) {
	var conns []transport.UDPConn
	for _, a := range addrs {
		c, err := n.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, port)))
		if err != nil {
			for _, c := range conns {
				err = errors.Join(err, c.Close())
			}
			return nil, fmt.Errorf("listen on %s: %w", a, err)
		}
		conns = append(conns, c)
		port = c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	}
	return conns, nil
}

// hostAddresses lists the host's unicast addresses, but for link-local ones
// (their zone means nothing to others).
func hostAddresses(n transport.Net) ([]netip.Addr, error) {
	list, err := n.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var out []netip.Addr
	for _, i := range list {
		addrs, err := i.Addrs()
		if err != nil {
			continue // it has none
		}
		for _, addr := range addrs {
			if a, ok := usable(n, addr); ok {
				out = append(out, a)
			}
		}
	}
	if len(out) == 0 {
		return nil, errors.New("this host has no usable address")
	}
	return out, nil
}

func usable(n transport.Net, addr net.Addr) (netip.Addr, bool) {
	ipnet, ok := addr.(*net.IPNet)
	if !ok {
		return netip.Addr{}, false
	}
	a, ok := netip.AddrFromSlice(ipnet.IP)
	a = a.Unmap()
	if !ok || a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsUnspecified() {
		return netip.Addr{}, false
	}
	// An address may be listed and yet not be usable: a down interface, IPv6 off.
	probe, err := n.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 0)))
	if err != nil {
		return netip.Addr{}, false
	}
	return a, probe.Close() == nil
}

// Port is the UDP port.
func (t *Transport) Port() uint16 { return t.port }

// Candidates lists every "ip:port" under which the port may be reached.
func (t *Transport) Candidates() []string {
	var out []string
	for _, a := range append(append([]netip.Addr(nil), t.addrs...), t.outside()...) {
		out = append(out, netip.AddrPortFrom(a, t.port).String())
	}
	return out
}

// outside lists the advertised addresses that are not the host's own.
func (t *Transport) outside() []netip.Addr {
	t.mu.Lock()
	advertise := t.advertise
	t.mu.Unlock()
	var out []netip.Addr
next:
	for _, a := range advertise {
		for _, own := range t.addrs {
			if own == a {
				continue next
			}
		}
		out = append(out, a)
	}
	return out
}

// Close ends the port and every connection on it.
func (t *Transport) Close() error {
	if err := t.mux.Close(); err != nil {
		return fmt.Errorf("close media port: %w", err)
	}
	return nil
}

const (
	// GoneAfter is how long nothing comes of a viewer until it counts as gone: known
	// within 10 s, as ICE looks once a second, while a gap of some seconds changes nothing.
	GoneAfter = 8500 * time.Millisecond

	iceFailed    = 20 * time.Second // after GoneAfter: it may come back by a restart
	iceKeepalive = time.Second
	// iceChecks is how often a way is tried, five times a second, before it is given
	// up: as long as a viewer may come back. The default, seven, ended a restart that
	// began 1.4 s before the way was there again.
	iceChecks = 140
	// sctpMost bounds the wait before control messages are sent again after a gap;
	// the default is a minute.
	sctpMost = 2 * time.Second
	// relayWait gives a direct way the chance to be there first; ICE's own
	// default of 2 s is what a relayed viewer would wait for nothing.
	relayWait = 200 * time.Millisecond
)

func (t *Transport) settings(n transport.Net) webrtc.SettingEngine {
	var s webrtc.SettingEngine
	s.LoggerFactory = t.log
	s.SetNet(n)
	s.SetICEUDPMux(t.mux)
	s.SetNetworkTypes([]webrtc.NetworkType{webrtc.NetworkTypeUDP4, webrtc.NetworkTypeUDP6})
	s.SetIncludeLoopbackCandidate(true)
	s.DisableActiveTCP(true)
	s.SetICEMulticastDNSMode(ice.MulticastDNSModeDisabled)
	s.SetICEMaxBindingRequests(iceChecks)
	s.SetSCTPRTOMax(sctpMost)
	s.SetICETimeouts(cmp.Or(t.cfg.Gone, GoneAfter), iceFailed, iceKeepalive)
	s.SetHostAcceptanceMinWait(0)
	s.SetSrflxAcceptanceMinWait(0)
	// Browsers hide their addresses behind mDNS names, so their direct ways
	// come as peer-reflexive ones.
	s.SetPrflxAcceptanceMinWait(0)
	s.SetRelayAcceptanceMinWait(relayWait)
	return s
}
