package control

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/api/bus"
	"github.com/perigee-cloud/perigee/api/client"
)

// files are the three that --tls-cert, --tls-key and --tls-ca name.
type files struct{ cert, key, ca string }

// issue writes an authority and a certificate of it for loopback.
func issue(t *testing.T, dir string) files {
	t.Helper()
	f := files{filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "ca.pem")}
	caKey, ca := sign(t, nil, nil)
	key, leaf := sign(t, caKey, ca)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{
		f.ca:   {Type: "CERTIFICATE", Bytes: ca.Raw},
		f.cert: {Type: "CERTIFICATE", Bytes: leaf.Raw},
		f.key:  {Type: "PRIVATE KEY", Bytes: der},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func sign(t *testing.T, by *ecdsa.PrivateKey, parent *x509.Certificate) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	if by == nil {
		by, parent = key, c
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, by)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return key, cert
}

func TestCertificatesAreReadAgain(t *testing.T) {
	dir, log := t.TempDir(), slog.New(slog.DiscardHandler)
	f := issue(t, dir)
	c, err := newCertificates(f.cert, f.key, f.ca, log)
	if err != nil {
		t.Fatal(err)
	}
	shown := func() string {
		pair, _ := c.current()
		return string(pair.Certificate[0])
	}
	first := shown()
	issue(t, dir) // in place
	c.mu.Lock()
	c.looked = time.Time{}
	c.stamp = [3]time.Time{} // as an earlier time of the files: they may be written within one tick
	c.mu.Unlock()
	if shown() == first {
		t.Error("a new certificate is not shown")
	}
	second := shown()
	if err := os.WriteFile(f.cert, []byte("half a certif"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	c.looked, c.stamp = time.Time{}, [3]time.Time{}
	c.mu.Unlock()
	if shown() != second {
		t.Error("a broken file takes the last good certificate away")
	}
	for name, bad := range map[string]files{
		"no key":       {cert: f.cert, ca: f.ca},
		"not there":    {cert: f.cert + "x", key: f.key, ca: f.ca},
		"no authority": {cert: f.ca, key: f.key, ca: f.key},
	} {
		if _, err := newCertificates(bad.cert, bad.key, bad.ca, log); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if none, err := newCertificates("", "", "", log); none != nil || err != nil {
		t.Errorf("without files: %v %v", none, err)
	}
}

func poll(t *testing.T, what string, f func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v", what, err)
}

func TestBusesMeetByMutualTLS(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	dir := t.TempDir()
	f := issue(t, dir)
	stranger := issue(t, t.TempDir())
	start := func(f files) *bus.Server {
		t.Helper()
		c, err := newCertificates(f.cert, f.key, f.ca, log)
		if err != nil {
			t.Fatal(err)
		}
		s, err := bus.NewServer(bus.ServerConfig{
			Listen: "127.0.0.1:0", Known: func([]byte) bool { return false }, Log: log,
			Cluster: "127.0.0.1:0", ClusterSecret: routeSecret, ClusterTLS: c.both(),
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
		if err := s.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		return s
	}
	a, b, other := start(f), start(f), start(stranger)
	to := []string{a.ClusterAddr().String()}
	r, spy := router{server: b, missing: map[string]time.Time{}}, router{server: other, missing: map[string]time.Time{}}
	for _, x := range []*router{&r, &spy} {
		if err := x.tend(map[string]string{to[0]: a.ID()}, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	poll(t, "the buses meet", func() error {
		routed, err := b.Routed()
		if err == nil && !routed[a.ID()] {
			err = errors.New("not yet")
		}
		return err
	})
	if routed, err := other.Routed(); err != nil || len(routed) != 0 {
		t.Errorf("a stranger's certificate is let in: %v %v", routed, err)
	}
	before := r.named
	if err := r.tend(map[string]string{to[0]: a.ID(), "127.0.0.1:1": "absent"}, time.Now()); err != nil || len(r.named) != len(before) {
		t.Errorf("a server that is not there for a moment is named at once: %v %v", r.named, err)
	}
	if err := r.tend(map[string]string{to[0]: a.ID(), "127.0.0.1:1": "absent"}, time.Now().Add(routePatience)); err != nil || len(r.named) != 2 {
		t.Errorf("a server that is not there for long is not named: %v %v", r.named, err)
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// testConfig is a scheduler's on loopback; its data lies where a socket's path
// may be.
func testConfig(t *testing.T) Config {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "pctl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return Config{
		Data: dir, Listen: "127.0.0.1:0", NATSListen: "127.0.0.1:0", GossipListen: "127.0.0.1:0",
		Heartbeat: time.Second, Lease: 5 * time.Second, Log: slog.New(slog.DiscardHandler),
	}
}

func run(t *testing.T, cfg Config) <-chan Runtime {
	t.Helper()
	ready := make(chan Runtime, 1)
	cfg.Ready = func(r Runtime) { ready <- r }
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, cfg) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return ready
}

func TestThreeSchedulersByTLS(t *testing.T) {
	f := issue(t, t.TempDir())
	var peers []string
	for range 3 {
		peers = append(peers, freePort(t))
	}
	var ready []<-chan Runtime
	for _, at := range peers {
		cfg := testConfig(t)
		cfg.RaftListen, cfg.NATSCluster, cfg.Peers, cfg.Expect = at, "127.0.0.1:0", peers, 3
		cfg.TLSCert, cfg.TLSKey, cfg.TLSCA = f.cert, f.key, f.ca
		ready = append(ready, run(t, cfg))
	}
	var sockets []string
	for _, r := range ready {
		select {
		case rt := <-r:
			sockets = append(sockets, rt.Socket)
		case <-time.After(20 * time.Second):
			t.Fatal("a scheduler does not come up")
		}
	}
	for i, socket := range sockets {
		c, err := client.New(client.Config{Socket: socket})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		poll(t, "all are known", func() error {
			list, err := c.Replicas(t.Context())
			for _, v := range list {
				if !v.Reached || v.Replica.Route == "" || v.Replica.API == "" || v.Replica.Gossip["default"] == "" {
					return fmt.Errorf("%+v", v)
				}
			}
			if err == nil && len(list) != 3 {
				err = fmt.Errorf("%d of 3", len(list))
			}
			return err
		})
		if _, err := c.CreateAccount(t.Context(), api.TokenSpec{Account: fmt.Sprintf("a%d", i)}); err != nil {
			t.Errorf("replica %d: %v", i, err)
		}
	}
	if conn, err := tls.Dial("tcp", peers[0], &tls.Config{InsecureSkipVerify: true}); err == nil { // who shows no certificate
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		_, _ = conn.Write([]byte("C"))
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("a client without a certificate is answered")
		}
		_ = conn.Close()
	}
}

func TestOpenClusterPortsNeedCertificates(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*Config)
		field  string
	}{
		"raft":           {func(c *Config) { c.RaftListen, c.NATSCluster = "0.0.0.0:7000", "127.0.0.1:0" }, "--raft-listen"},
		"bus":            {func(c *Config) { c.RaftListen, c.NATSCluster = "127.0.0.1:0", ":6222" }, "--nats-cluster-listen"},
		"raft no port":   {func(c *Config) { c.RaftListen = "here" }, "--raft-listen"},
		"half a trio":    {func(c *Config) { c.RaftListen, c.NATSCluster, c.TLSKey = "127.0.0.1:0", "127.0.0.1:0", "x" }, "--tls-cert"},
		"advertise":      {func(c *Config) { c.RaftListen, c.RaftAdvertise = "127.0.0.1:0", "here" }, "--raft-advertise"},
		"raft by wanted": {func(c *Config) { c.RaftListen = "192.0.2.1:7000" }, "--nats-cluster-listen"},
	} {
		cfg := testConfig(t)
		tt.change(&cfg)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		err := Run(ctx, cfg)
		cancel()
		var e *api.Error
		if !errors.As(err, &e) || e.Field != tt.field {
			t.Errorf("%s: %v, want a complaint about %s", name, err, tt.field)
		}
	}
}
