package gateway

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestClientAddress(t *testing.T) {
	r := newRig(t, func(c *Config) { c.TrustedProxies = []string{"10.0.0.0/8", "192.0.2.1", "2001:db8::/32"} })
	for _, c := range []struct {
		remote, forwarded, want string
	}{
		{"203.0.113.5:99", "", "203.0.113.5"},
		{"203.0.113.5:99", "198.51.100.1", "203.0.113.5"}, // not a proxy of ours: anybody can write that
		{"10.1.2.3:99", "198.51.100.1", "198.51.100.1"},
		{"10.1.2.3:99", "1.2.3.4, 198.51.100.1", "198.51.100.1"}, // the left one is the client's own claim
		{"10.1.2.3:99", "198.51.100.1, 10.9.9.9, 192.0.2.1", "198.51.100.1"},
		{"10.1.2.3:99", "10.5.5.5", "10.5.5.5"},
		{"10.1.2.3:99", "", "10.1.2.3"},
		{"10.1.2.3:99", "unknown", "10.1.2.3"},
		{"10.1.2.3:99", "198.51.100.1, junk, 10.9.9.9", "10.9.9.9"},
		{"10.1.2.3:99", "198.51.100.1:4711", "198.51.100.1"},
		{"10.1.2.3:99", "[2001:db9::7]:4711", "2001:db9::7"},
		{"10.1.2.3:99", "2001:db9::7", "2001:db9::7"},
		{"[2001:db8::1]:99", "::ffff:198.51.100.1", "198.51.100.1"},
		{"[::ffff:10.0.0.1]:99", "198.51.100.1", "198.51.100.1"},
		{"[fe80::1%eth0]:99", "", "fe80::1"},
	} {
		req := httptest.NewRequest(http.MethodGet, "/", nil)
		req.RemoteAddr = c.remote
		if c.forwarded != "" {
			req.Header.Set("X-Forwarded-For", c.forwarded)
		}
		if got, ok := r.srv.clientAddress(req); !ok || got.String() != c.want {
			t.Errorf("%s forwarding %q: %v, want %s", c.remote, c.forwarded, got, c.want)
		}
	}
	req := httptest.NewRequest(http.MethodGet, "/", nil)
	req.RemoteAddr = "@"
	if got, ok := r.srv.clientAddress(req); ok {
		t.Errorf("a unix socket has the address %v", got)
	}
}

func TestLocationByForwardedAddress(t *testing.T) {
	r := newRig(t, func(c *Config) { c.TrustedProxies = []string{"127.0.0.1"} })
	r.call("POST", "/1.0/sessions", `{"app":"xterm"}`, "X-Forwarded-For", "203.0.113.77")
	if got := r.creates[0].Client; got.Address != "203.0.113.77" || got.Location.Source != "mmdb" {
		t.Errorf("client %+v", got)
	}
	near := newRig(t)
	near.call("POST", "/1.0/sessions", `{"app":"xterm"}`, "X-Forwarded-For", "203.0.113.77")
	if got := near.creates[0].Client; got.Address != "127.0.0.1" || got.Location.Known {
		t.Errorf("client behind an untrusted proxy %+v", got)
	}
}

func TestSocketAddress(t *testing.T) {
	for _, c := range []struct {
		public  string
		trusted string
		headers string // comma separated pairs
		want    string
	}{
		{"", "", "", "ws://HOST/1.0/sessions/"},
		{"https://play.example", "", "", "wss://play.example/1.0/sessions/"},
		{"http://play.example:8080/base/", "", "", "ws://play.example:8080/base/1.0/sessions/"},
		{"", "", "X-Forwarded-Proto=https,X-Forwarded-Host=evil.example", "ws://HOST/1.0/sessions/"},
		{"", "127.0.0.1", "X-Forwarded-Proto=https,X-Forwarded-Host=play.example", "wss://play.example/1.0/sessions/"},
		{"", "127.0.0.1", "X-Forwarded-Proto=HTTPS", "wss://HOST/1.0/sessions/"},
		{"", "127.0.0.1", "X-Forwarded-Proto=gopher,X-Forwarded-Host=a b/c", "ws://HOST/1.0/sessions/"},
		{"", "127.0.0.1", "X-Forwarded-Host=user@evil.example", "ws://HOST/1.0/sessions/"},
	} {
		r := newRig(t, func(cfg *Config) {
			cfg.PublicURL = c.public
			if c.trusted != "" {
				cfg.TrustedProxies = []string{c.trusted}
			}
		})
		var headers []string
		for _, pair := range strings.Split(c.headers, ",") {
			if k, v, ok := strings.Cut(pair, "="); ok {
				headers = append(headers, k, v)
			}
		}
		a := r.call("POST", "/1.0/sessions", `{"app":"xterm"}`, headers...)
		want := strings.Replace(c.want, "HOST", strings.TrimPrefix(r.url, "http://"), 1)
		if !strings.Contains(a.body, `"url":"`+want) {
			t.Errorf("public %q, %s: %s, want %s", c.public, c.headers, a.body, want)
		}
	}
}

func TestConfigurationIsChecked(t *testing.T) {
	f := newFake(t)
	good := Config{Sessions: f, Catalog: f, Accounts: f, Nodes: f, Cluster: f, Signals: f, Locator: f, Log: slog.New(slog.DiscardHandler)}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Config){
		"Signals":       func(c *Config) { c.Signals = nil },
		"Log":           func(c *Config) { c.Log = nil },
		"public URL":    func(c *Config) { c.PublicURL = "play.example" },
		"local URL":     func(c *Config) { c.LocalURL = "ws://x" },
		"trusted proxy": func(c *Config) { c.TrustedProxies = []string{"10.0.0.0/99"} },
		"CORS origin":   func(c *Config) { c.CORSOrigins = []string{"app.example"} },
	} {
		c := good
		change(&c)
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func TestHTTPServerHasDeadlines(t *testing.T) {
	r := newRig(t)
	h := r.srv.HTTPServer(r.srv.Handler())
	if h.ReadHeaderTimeout <= 0 || h.ReadTimeout <= 0 || h.WriteTimeout < r.srv.cfg.SyncTimeout || h.IdleTimeout <= 0 || h.Handler == nil {
		t.Errorf("server %+v", h)
	}
}
