// Package node builds an edge daemon from its configuration: identity, join,
// bus, gossip and agent, and runs them as one. No cgo.
package node

import (
	"cmp"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/api/client"
	"github.com/perigee-cloud/perigee/edge/image"
	"github.com/perigee-cloud/perigee/media/rtc"
)

// Config of one edge daemon.
type Config struct {
	Data         string   // directory of the node's keys and of its sessions
	Join         []string // base URLs of schedulers; any one will do
	CA           string   // PEM file of authorities that schedulers are trusted by, beside the system's; "" = none
	Token        string   // admits the node the first time
	Name         string   // "" = the host's name
	Region       string
	Location     string   // "latitude,longitude"; "" = where its public address is
	Labels       []string // "key=value" each, which placement policies name
	Advertise    []string // public addresses; empty = those that the schedulers see
	MediaPorts   string   // "40000-40999"; "0" = any free one
	RelayTLS     RelayTLS
	RelayListen  string       // host:port of TURN and STUN, UDP and TCP; port 0 takes a free one
	GossipListen string       // host:port
	CPUCapacity  uint64       // macroblocks per second of the cpu pool, at most what is certified; 0 = that
	Uplink       int          // Mb/s of the way out; 0 = as fast as the interfaces say
	Certify      string       // "idle" (default): measure the encoders while no session runs; "never"
	Locks        string       // directory where the daemons of this machine claim its graphics processors; "" = /run/lock
	Images       image.Config // of containers; a Socket of "none" = the node runs none
	Program      string       // perigee-edge, run again as shim, stream and relay
	LogLevel     string       // handed to those
	Version      string
	Log          *slog.Logger

	CPURate    float64 // how often each processor may be promised to applications; 0 = not counted
	MemoryRate float64 // and its memory

	Look   time.Duration // between two looks at the public address; 0 = 5 min
	Silent time.Duration // without an answer the node joins again; 0 = 30 s
}

// defaultLocks is where every user of a machine may lock (Filesystem Hierarchy
// Standard 3.0, 5.9).
const defaultLocks = "/run/lock"

// maxRate bounds how often a machine is promised.
const maxRate = 1000

// defaultRegion is where a node is when its operator does not say.
const defaultRegion = "default"

func (c Config) check() (Config, error) {
	if c.Data == "" {
		return c, api.Invalidf("--data", "is missing: name a directory for the node's keys and sessions")
	}
	var err error
	if c.Data, err = filepath.Abs(c.Data); err != nil {
		return c, fmt.Errorf("find data directory: %w", err)
	}
	if len(c.Join) == 0 {
		return c, api.Invalidf("--join", "is missing: give a scheduler's address, for example http://10.0.0.1:8080")
	}
	if _, err := client.Roots(c.CA); err != nil {
		return c, err
	}
	if c.Name == "" {
		if c.Name, err = os.Hostname(); err != nil {
			return c, fmt.Errorf("read host name: %w", err)
		}
	}
	if c.Region == "" {
		c.Region = defaultRegion
	}
	c.Look, c.Silent = cmp.Or(c.Look, defaultLook), cmp.Or(c.Silent, defaultSilent)
	if _, err := c.labels(); err != nil {
		return c, err
	}
	c.Locks = cmp.Or(c.Locks, defaultLocks)
	c.Images.Locks = filepath.Join(c.Data, "images")
	for _, n := range []struct {
		flag string
		v    int
	}{{"--image-cache-mib", c.Images.MaxMiB}, {"--disk-spare-mib", c.Images.SpareMiB}, {"--uplink-mbps", c.Uplink}} {
		if n.v < 0 {
			return c, api.Invalidf(n.flag, "must be 0 or more, got %d", n.v)
		}
	}
	for _, r := range []struct {
		flag string
		v    float64
	}{{"--cpu-allocation-rate", c.CPURate}, {"--memory-allocation-rate", c.MemoryRate}} {
		if !(r.v >= 0 && r.v <= maxRate) {
			return c, api.Invalidf(r.flag, "must be above 0 and at most %d, or 0 to count nothing, got %v", maxRate, r.v)
		}
	}
	switch c.Certify {
	case "":
		c.Certify = certifyIdle
	case certifyIdle, certifyNever:
	default:
		return c, api.Invalidf("--certify", "%q is not known; use %s or %s", c.Certify, certifyIdle, certifyNever)
	}
	for _, a := range c.Advertise {
		if _, err := netip.ParseAddr(a); err != nil {
			return c, api.Invalidf("--advertise", "%q is not an IP address", a)
		}
	}
	if _, err := rtc.ParsePorts(c.MediaPorts); err != nil {
		return c, api.Invalidf("--media-ports", "%v", err)
	}
	for _, l := range []struct{ flag, value string }{{"--relay-listen", c.RelayListen}, {"--gossip-listen", c.GossipListen}} {
		if _, _, err := net.SplitHostPort(l.value); err != nil {
			return c, api.Invalidf(l.flag, "%q is not host:port, for example :3478", l.value)
		}
	}
	if err := c.RelayTLS.check(); err != nil {
		return c, err
	}
	return c, nil
}

// location reads "latitude,longitude" in degrees.
func (c Config) location() (api.Location, error) {
	if c.Location == "" {
		return api.Location{}, nil
	}
	a, b, ok := strings.Cut(c.Location, ",")
	lat, err1 := strconv.ParseFloat(strings.TrimSpace(a), 64)
	lon, err2 := strconv.ParseFloat(strings.TrimSpace(b), 64)
	if !ok || err1 != nil || err2 != nil || !(lat >= -90 && lat <= 90) || !(lon >= -180 && lon <= 180) {
		return api.Location{}, api.Invalidf("--location", "%q is not latitude,longitude in degrees, for example 48.86,2.35", c.Location)
	}
	return api.Location{Latitude: lat, Longitude: lon, Known: true, Source: "operator"}, nil
}

// labels reads the node's own marks; nil when it has none.
func (c Config) labels() (map[string]string, error) {
	var out map[string]string
	for _, l := range c.Labels {
		k, v, err := api.ParseLabel(l)
		if err != nil {
			return nil, api.Invalidf("--label", "%q must be key=value, each 1 to 64 characters of [a-zA-Z0-9._/-]", l)
		}
		if strings.HasPrefix(k, "perigee/") {
			return nil, api.Invalidf("--label", "%q: the node itself gives labels under perigee/", l)
		}
		if _, twice := out[k]; twice {
			return nil, api.Invalidf("--label", "%q is given twice: a node has one value for each key", k)
		}
		if out == nil {
			out = map[string]string{}
		}
		out[k] = v
	}
	if len(out) > api.MaxLabels {
		return nil, api.Invalidf("--label", "at most %d, got %d", api.MaxLabels, len(out))
	}
	return out, nil
}

// relayAddress settles the relay's address before the node joins, because the
// schedulers hand it out: port 0 becomes a free one below the ephemeral range,
// kept for the node's next start.
func relayAddress(data, listen string) (string, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil || port != "0" {
		return listen, err
	}
	file := filepath.Join(data, "relay.port")
	if b, err := os.ReadFile(file); err == nil {
		return net.JoinHostPort(host, strings.TrimSpace(string(b))), nil
	}
	const low, span, tries = 20_000, 12_000, 100
	for range tries {
		port := strconv.Itoa(low + rand.IntN(span))
		if free(net.JoinHostPort(host, port)) {
			if err := os.WriteFile(file, []byte(port+"\n"), 0o600); err != nil {
				return "", fmt.Errorf("keep relay port: %w", err)
			}
			return net.JoinHostPort(host, port), nil
		}
	}
	return "", api.Invalidf("--relay-listen", "no free port found from %d to %d on %q", low, low+span, host)
}

func free(address string) bool {
	u, err := net.ListenPacket("udp", address)
	if err != nil {
		return false
	}
	defer u.Close()
	t, err := net.Listen("tcp", address)
	if err != nil {
		return false
	}
	return t.Close() == nil
}
