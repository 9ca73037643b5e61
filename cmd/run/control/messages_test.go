package control

import (
	"net"
	"strings"
	"testing"
)

// A stranger must read whose port it is, not that something was cancelled.
func TestTakenPortIsNamed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cfg := testConfig(t)
	cfg.NATSListen = l.Addr().String()
	err = Run(t.Context(), cfg)
	for _, want := range []string{"--nats-listen", cfg.NATSListen, "address already in use"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %v: %q is not in it", err, want)
		}
	}
}

// The schedulers' password speaks for everybody: no node may learn it.
func TestNodesAreNotToldTheSchedulersPassword(t *testing.T) {
	for _, c := range []struct {
		cfg  Config
		want string
	}{
		{Config{NATSURL: "nats://user:secret@host:4222"}, "nats://host:4222"},
		{Config{NATSURL: "nats://host:4222"}, "nats://host:4222"},
		{Config{NATSURL: "nats://a:b@host:1", NATSNodeURL: "nats://n:m@host:1"}, "nats://n:m@host:1"},
	} {
		if got := nodeURL(c.cfg); got != c.want {
			t.Errorf("%+v: nodes are told %s, want %s", c.cfg, got, c.want)
		}
	}
}

func TestReachable(t *testing.T) {
	for _, c := range [][3]string{
		{"127.0.0.1:4222", "", "127.0.0.1:4222"},
		{"[::]:4222", "nats.example", "nats.example:4222"},
		{"0.0.0.0:4222", "2001:db8::1", "[2001:db8::1]:4222"},
	} {
		if got := reachable(c[0], c[1]); got != c[2] {
			t.Errorf("%s advertised as %q: %s, want %s", c[0], c[1], got, c[2])
		}
	}
}
