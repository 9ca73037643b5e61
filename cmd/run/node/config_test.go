package node

import (
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/perigee-cloud/perigee/api"
)

func TestCheckNamesTheFlag(t *testing.T) {
	good := Config{Data: t.TempDir(), Join: []string{"http://x"}, MediaPorts: "0", RelayListen: ":0", GossipListen: ":0"}
	if _, err := good.check(); err != nil {
		t.Fatal(err)
	}
	for flag, change := range map[string]func(*Config){
		"--data":          func(c *Config) { c.Data = "" },
		"--join":          func(c *Config) { c.Join = nil },
		"--advertise":     func(c *Config) { c.Advertise = []string{"example.com"} },
		"--label":         func(c *Config) { c.Labels = []string{"tier=gold", "tier=silver"} },
		"--media-ports":   func(c *Config) { c.MediaPorts = "9-8" },
		"--relay-listen":  func(c *Config) { c.RelayListen = "3478" },
		"--gossip-listen": func(c *Config) { c.GossipListen = "" },
		"--uplink-mbps":   func(c *Config) { c.Uplink = -1 },
		"--certify":       func(c *Config) { c.Certify = "always" },
	} {
		c := good
		change(&c)
		_, err := c.check()
		var e *api.Error
		if !errors.As(err, &e) || e.Field != flag {
			t.Errorf("%s: got %v", flag, err)
		}
	}
}

func TestLocation(t *testing.T) {
	l, err := Config{Location: "48.86, 2.35"}.location()
	if err != nil || !l.Known || l.Latitude != 48.86 || l.Longitude != 2.35 {
		t.Errorf("got %+v, %v", l, err)
	}
	for _, bad := range []string{"48", "91,0", "0,181", "a,b", "NaN,0"} {
		if _, err := (Config{Location: bad}).location(); err == nil {
			t.Errorf("%q passes as a place", bad)
		}
	}
}

func TestLabels(t *testing.T) {
	l, err := Config{Labels: []string{"tier=gold", "rack=a/3"}}.labels()
	if err != nil || len(l) != 2 || l["tier"] != "gold" || l["rack"] != "a/3" {
		t.Errorf("got %+v, %v", l, err)
	}
	for _, bad := range []string{"gold", "=x", "x=", "a b=c", "k=v=w"} {
		if _, err := (Config{Labels: []string{bad}}).labels(); err == nil {
			t.Errorf("%q passes as a label", bad)
		}
	}
}

func TestRelayAddressIsKept(t *testing.T) {
	data := t.TempDir()
	a, err := relayAddress(data, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if _, port, _ := net.SplitHostPort(a); port == "0" {
		t.Errorf("port 0 was not settled: %s", a)
	}
	if b, err := relayAddress(data, "127.0.0.1:0"); err != nil || b != a {
		t.Errorf("second start: %s, %v; first %s", b, err, a)
	}
	if c, err := relayAddress(data, ":3478"); err != nil || c != ":3478" {
		t.Errorf("fixed port: %s, %v", c, err)
	}
}

func TestHostsThatSchedulersLeaveOpen(t *testing.T) {
	for _, tt := range []struct{ nats, base, want string }{
		{"nats://0.0.0.0:4222", "http://10.0.0.1:8080", "nats://10.0.0.1:4222"},
		{"nats://[::]:4222", "https://scheduler.example", "nats://scheduler.example:4222"},
		{"nats://10.0.0.2:4222", "http://10.0.0.1:8080", "nats://10.0.0.2:4222"},
		{"nats://user:secret@nats.example:4222", "http://10.0.0.1:8080", "nats://user:secret@nats.example:4222"},
		{"nats://:4222", "http://[2001:db8::1]:8080", "nats://[2001:db8::1]:4222"},
	} {
		if got := natsURLs([]string{tt.nats}, tt.base); len(got) != 1 || got[0] != tt.want {
			t.Errorf("%s joined by %s: %v, want %s", tt.nats, tt.base, got, tt.want)
		}
		if got := stunServers([]string{tt.nats[strings.LastIndexAny(tt.nats, "/@")+1:]}, tt.base); len(got) != 1 || got[0] != tt.want[strings.LastIndexAny(tt.want, "/@")+1:] {
			t.Errorf("STUN of %s joined by %s: %v", tt.nats, tt.base, got)
		}
	}
}
