package scheduler

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

// join adds a member by the API of another one.
func (c *cluster) join(i int, through *Server) {
	c.t.Helper()
	c.members[i] = &member{data: dataDir(c.t), at: c.address(i)}
	c.start(i, func(cfg *Config) {
		cfg.Join = func(ctx context.Context, r api.Replica) error {
			return through.AddReplica(ctx, api.ReplicaJoin{Replica: r})
		}
	})
	c.ready(i)
}

// roles gives each member's role as one member sees it.
func (c *cluster) roles(i int) (leaders, voters, all int) {
	c.t.Helper()
	w := c.world(i)
	list, err := w.s.Replicas(w.ctx())
	if err != nil {
		c.t.Fatal(err)
	}
	for _, v := range list {
		all++
		if v.Leader {
			leaders++
		}
		if v.Voter {
			voters++
		}
	}
	return leaders, voters, all
}

func TestMembersJoinSettleLeadAndLeave(t *testing.T) {
	synctest.Test(t, testMembersJoinSettleLeadAndLeave)
}

func testMembersJoinSettleLeadAndLeave(t *testing.T) {
	c := newCluster(t, 1)
	c.world(0).app()
	c.join(1, c.members[0].s)
	if _, voters, all := c.roles(1); voters != 1 || all != 2 {
		t.Errorf("right after the join there are %d voters of %d", voters, all)
	}
	c.join(2, c.members[1].s) // through one that does not lead
	c.eventually("all have settled", func() bool { _, voters, all := c.roles(2); return voters == 3 && all == 3 })
	if apps, err := c.members[2].s.Applications(t.Context()); err != nil || len(apps) != 1 {
		t.Errorf("the last member shows %v: %v", apps, err)
	}
	next := c.members[2].s
	if err := c.members[1].s.TransferLeadership(t.Context(), next.ID()); err != nil {
		t.Fatal(err)
	}
	c.eventually("the chosen one leads", next.leads)
	// The leader leaves: it hands on, is removed, and ends by itself.
	if err := c.members[0].s.RemoveReplica(t.Context(), next.ID()); err != nil {
		t.Fatal(err)
	}
	c.eventually("two are left", func() bool { _, _, all := c.roles(0); return all == 2 })
	select {
	case <-next.stopped:
	case <-time.After(5 * time.Second):
		t.Fatal("the removed replica goes on")
	}
	if err := c.members[2].stop(); !errors.Is(err, errRemoved) {
		t.Errorf("the removed replica ended with %v", err)
	}
	again, err := New(next.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Run(t.Context()); !errors.Is(err, errRemoved) {
		t.Errorf("the removed replica started again with %v", err)
	}
	c.members[2].stop = func() error { return nil } // its end was looked at
	if err := c.members[0].s.RemoveReplica(t.Context(), "r-none"); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("a replica that is not there: %v", err)
	}
}

func TestDeadMemberIsReplaced(t *testing.T) { synctest.Test(t, testDeadMemberIsReplaced) }

func testDeadMemberIsReplaced(t *testing.T) {
	c := newCluster(t, 3)
	dead := c.follower()
	id := c.members[dead].s.ID()
	c.eventually("all are known", func() bool { return len(c.members[c.leader()].s.root().Replicas()) == 3 })
	if err := c.members[dead].stop(); err != nil {
		t.Fatal(err)
	}
	through := c.members[c.leader()].s
	if err := through.RemoveReplica(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	c.join(3, through)
	c.eventually("the new one has settled", func() bool { _, voters, all := c.roles(3); return voters == 3 && all == 3 })
}

func TestClusterStartsAgainWithItsState(t *testing.T) {
	synctest.Test(t, testClusterStartsAgainWithItsState)
}

func testClusterStartsAgainWithItsState(t *testing.T) {
	c := newCluster(t, 3)
	c.world(1).app()
	for _, m := range c.members {
		if err := m.stop(); err != nil {
			t.Fatal(err)
		}
	}
	for i := range c.members {
		c.start(i)
	}
	for i := range c.members {
		c.ready(i)
		w := c.world(i)
		if apps, err := w.s.Applications(w.ctx()); err != nil || len(apps) != 1 {
			t.Errorf("member %d shows %v: %v", i, apps, err)
		}
	}
}

func TestNoLeaderIsUnavailable(t *testing.T) { synctest.Test(t, testNoLeaderIsUnavailable) }

func testNoLeaderIsUnavailable(t *testing.T) {
	c := newCluster(t, 3)
	last := c.follower()
	for i, m := range c.members {
		if i != last {
			if err := m.stop(); err != nil {
				t.Fatal(err)
			}
		}
	}
	s := c.members[last].s
	_, err := s.PutApplication(deadline(t, 300*time.Millisecond), api.App{Name: "xterm", Command: []string{"x"}})
	if api.CodeOf(err) != api.CodeUnavailable || !strings.Contains(err.Error(), "no leader") {
		t.Errorf("without a majority: %v", err)
	}
	if _, err := s.Applications(t.Context()); err != nil {
		t.Errorf("a plain read without a majority: %v", err)
	}
	c.eventually("its state grows old", func() bool { return s.Staleness() > 100*time.Millisecond })
}

func TestRestoredSnapshotIsOnEveryMember(t *testing.T) {
	synctest.Test(t, testRestoredSnapshotIsOnEveryMember)
}

func testRestoredSnapshotIsOnEveryMember(t *testing.T) {
	c := newCluster(t, 3)
	w := c.world(c.follower())
	w.app()
	var saved bytes.Buffer
	if err := w.s.SaveSnapshot(w.ctx(), &saved); err != nil {
		t.Fatal(err)
	}
	if _, err := w.s.PutApplication(w.ctx(), api.App{Name: "later", Command: []string{"x"}}); err != nil {
		t.Fatal(err)
	}
	c.eventually("all are known", func() bool { return len(w.s.root().Replicas()) == 3 })
	if err := w.s.RestoreSnapshot(w.ctx(), bytes.NewReader(saved.Bytes()[:saved.Len()-1])); api.CodeOf(err) != api.CodeInvalid {
		t.Errorf("a snapshot that was cut: %v", err)
	}
	if err := w.s.RestoreSnapshot(w.ctx(), &saved); err != nil {
		t.Fatal(err)
	}
	for i := range c.members {
		o := c.world(i)
		if err := o.s.Consistent(o.ctx()); err != nil {
			t.Fatal(err)
		}
		apps, err := o.s.Applications(o.ctx())
		if err != nil || len(apps) != 1 || apps[0].Name != "xterm" || len(o.s.root().Replicas()) != 3 {
			t.Errorf("member %d shows %v and %d replicas: %v", i, apps, len(o.s.root().Replicas()), err)
		}
	}
	w.mustPut("after")
}

func (w *world) mustPut(name string) {
	w.t.Helper()
	if _, err := w.s.PutApplication(w.ctx(), api.App{Name: name, Command: []string{"x"}}); err != nil {
		w.t.Fatal(err)
	}
}

// TestEntryVersionIsTheLowestOfAll holds that a later version is written only
// when every member reads it, and that nobody who does not is let in then.
func TestEntryVersionIsTheLowestOfAll(t *testing.T) {
	synctest.Test(t, testEntryVersionIsTheLowestOfAll)
}

func testEntryVersionIsTheLowestOfAll(t *testing.T) {
	next := state.EntryVersion + 1
	c := newCluster(t, 1, func(cfg *Config) { cfg.EntryVersion = next })
	old := func(cfg *Config) { cfg.EntryVersion = state.EntryVersion }
	c.eventually("the version is raised", func() bool { return c.members[0].s.root().EntryVersion() == next })
	err := c.members[0].s.AddReplica(t.Context(), api.ReplicaJoin{Replica: api.Replica{ID: "r-old", Raft: "127.0.0.1:1", Entry: state.EntryVersion}})
	if api.CodeOf(err) != api.CodeConflict || !strings.Contains(err.Error(), "install the version") {
		t.Errorf("a replica of the old version: %v", err)
	}
	d := newCluster(t, 1, old)
	time.Sleep(2 * tendEvery) // long enough to have been raised
	if v := d.members[0].s.root().EntryVersion(); v != state.EntryVersion {
		t.Errorf("the version is %d with a member that reads %d", v, state.EntryVersion)
	}
}

// authority signs certificates for loopback.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	a.cert = a.sign(&x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, a.key).Leaf
	return a
}

func (a *authority) sign(c *x509.Certificate, key *ecdsa.PrivateKey) tls.Certificate {
	a.t.Helper()
	c.SerialNumber, c.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: "test"}
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent := a.cert
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// fixedCertificates are one certificate of an authority.
type fixedCertificates struct {
	pair tls.Certificate
	pool *x509.CertPool
}

func (a *authority) certificates() fixedCertificates {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return fixedCertificates{pool: pool, pair: a.sign(&x509.Certificate{
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, key)}
}

func (f fixedCertificates) Server() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{f.pair}, ClientCAs: f.pool, ClientAuth: tls.RequireAndVerifyClientCert}
}

func (f fixedCertificates) Client() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{f.pair}, RootCAs: f.pool}
}

func TestReplicasTalkByMutualTLS(t *testing.T) {
	a := newAuthority(t)
	c := newClusterOn(t, nil, 3, func(cfg *Config) { cfg.Certificates = a.certificates() })
	w := c.world(c.follower())
	w.app()
	stranger := newAuthority(t).certificates()
	at := c.members[0].at
	trusting := stranger.Client()
	trusting.RootCAs = a.certificates().pool
	if conn, err := tls.Dial("tcp", at, trusting); err == nil {
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		_, werr := conn.Write([]byte{wayCall})
		_, rerr := conn.Read(make([]byte, 1))
		if werr == nil && rerr == nil {
			t.Error("a replica answers to a stranger's certificate")
		}
		_ = conn.Close()
	}
	plain, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = plain.Close() }()
	_ = plain.SetDeadline(time.Now().Add(5 * time.Second))
	_, _ = plain.Write([]byte("CGET /hello HTTP/1.1\r\nHost: x\r\n\r\n"))
	answer := make([]byte, 64)
	if n, _ := plain.Read(answer); strings.Contains(string(answer[:n]), "HTTP") {
		t.Errorf("a replica answers without TLS: %q", answer[:n])
	}
}

func TestBadClusterConfiguration(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*Config)
		field  string
	}{
		"open without certificates": {func(c *Config) { c.RaftListen = "0.0.0.0:0"; c.RaftAdvertise = "192.0.2.1:1" }, "--raft-listen"},
		"no host to dial":           {func(c *Config) { c.RaftListen, c.Certificates = ":7000", fixedCertificates{} }, "--raft-advertise"},
		"no port":                   {func(c *Config) { c.RaftListen = "127.0.0.1" }, "--raft-listen"},
		"peers without a port":      {func(c *Config) { c.Peers = []string{"127.0.0.1:1"} }, "--raft-listen"},
		"expects without peers":     {func(c *Config) { c.RaftListen, c.Expect = "127.0.0.1:0", 3 }, "--peer"},
		"expects too many":          {func(c *Config) { c.RaftListen, c.Expect = "127.0.0.1:0", 30 }, "--bootstrap-expect"},
		"profile":                   {func(c *Config) { c.Profile = "moon" }, "--profile"},
		"joins and founds": {func(c *Config) {
			c.RaftListen, c.Expect, c.Peers = "127.0.0.1:0", 3, []string{"127.0.0.1:1"}
			c.Join = func(context.Context, api.Replica) error { return nil }
		}, "--join"},
	} {
		cfg := testConfig(t, newBus(), dataDir(t))
		tt.change(&cfg)
		_, err := New(cfg)
		var e *api.Error
		if !errors.As(err, &e) || e.Field != tt.field {
			t.Errorf("%s: %v, want a complaint about %s", name, err, tt.field)
		}
	}
}
