package relay

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pion "github.com/pion/turn/v3"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/media"
	"github.com/perigee-cloud/perigee/media/turn"
)

// issue writes a certificate for relay.example, and gives who trusts it.
func issue(t *testing.T, cert, key string, serial int64) *x509.CertPool {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "relay.example"}, DNSNames: []string{"relay.example"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	priv, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: priv}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(c)
	return pool
}

func TestTURNOverTLS(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	trust := issue(t, cert, key, 1)
	ready := make(chan netip.AddrPort, 1)
	r := startWith(t, func(c *Config) {
		c.TLSListen, c.Cert, c.Key, c.TLSReady = "127.0.0.1:0", cert, key, func(a netip.AddrPort) { ready <- a }
	})
	at := <-ready
	dial := func(trust *x509.CertPool) (*tls.Conn, error) {
		c, err := (&tls.Dialer{Config: &tls.Config{RootCAs: trust, ServerName: "relay.example", MinVersion: tls.VersionTLS12}}).DialContext(t.Context(), "tcp", at.String())
		if err != nil {
			return nil, err
		}
		return c.(*tls.Conn), nil
	}
	conn, err := dial(trust)
	if err != nil {
		t.Fatal(err)
	}
	user, password := turn.Credentials(r.secret, "s1", 1, time.Now().Add(time.Hour))
	framed := pion.NewSTUNConn(conn)
	c, err := pion.NewClient(&pion.ClientConfig{STUNServerAddr: at.String(), TURNServerAddr: at.String(), Conn: framed,
		Username: user, Password: password, Realm: turn.Realm, LoggerFactory: media.PionLog(r.quiet)})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Listen(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); _ = framed.Close() })
	port := r.session("s1", 1)
	if !echoes(t, r.allocate(c), port.LocalAddr(), patience) {
		t.Error("nothing comes back over TLS")
	}
	// A new certificate is shown without a restart.
	fresh := issue(t, cert, key, 2)
	later := time.Now().Add(time.Minute) // file systems' clocks are coarse
	for _, f := range []string{cert, key} {
		if err := os.Chtimes(f, later, later); err != nil {
			t.Fatal(err)
		}
	}
	deadline := time.Now().Add(2 * patience)
	for {
		c, err := dial(fresh)
		if err == nil {
			_ = c.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the new certificate is not shown: %v", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// A certificate that cannot be read costs TLS and nothing else; the node's daemon
// is told, and that it is over once the files are mended.
func TestBadCertificateIsAnAlarm(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	ready := make(chan netip.AddrPort, 1)
	r := startWith(t, func(c *Config) {
		c.TLSListen, c.Cert, c.Key, c.Host, c.TLSReady = "127.0.0.1:0", cert, key, "relay.example", func(a netip.AddrPort) { ready <- a }
	})
	at := <-ready
	told := func(want string) {
		t.Helper()
		deadline := time.Now().Add(2 * patience)
		for {
			alarms := r.run.Relay().Alarms
			if want == "" && len(alarms) == 0 || len(alarms) == 1 && want != "" && strings.Contains(alarms[0].Reason, want) {
				if want != "" && (alarms[0].Part != partCertificate || !strings.Contains(alarms[0].Remedy, "--relay-cert") || alarms[0].Since.IsZero()) {
					t.Errorf("alarm %+v", alarms[0])
				}
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("alarms are %+v, want %q", alarms, want)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	told("no such file")
	port := r.session("s1", 1)
	user, password := turn.Credentials(r.secret, "s1", 1, time.Now().Add(time.Hour))
	if !echoes(t, r.allocate(r.client("udp", user, password)), port.LocalAddr(), patience) {
		t.Error("the relay does not serve without its certificate")
	}
	trust := issue(t, cert, key, 1)
	told("")
	conn, err := (&tls.Dialer{Config: &tls.Config{RootCAs: trust, ServerName: "relay.example", MinVersion: tls.VersionTLS12}}).DialContext(t.Context(), "tcp", at.String())
	if err != nil {
		t.Fatalf("the mended certificate is not shown: %v", err)
	}
	_ = conn.Close()
	if err := os.WriteFile(cert, []byte("no PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	told("failed to find any PEM data")
	if conn, err = (&tls.Dialer{Config: &tls.Config{RootCAs: trust, ServerName: "relay.example", MinVersion: tls.VersionTLS12}}).DialContext(t.Context(), "tcp", at.String()); err != nil {
		t.Fatalf("the certificate before is not shown any more: %v", err)
	}
	_ = conn.Close()
}

func TestCertificateFaults(t *testing.T) {
	const day = 24 * time.Hour
	now := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	for want, c := range map[string]struct {
		from, to time.Duration
		host     string
	}{
		"":                       {-30 * day, 60 * day, "relay.example"},
		"not valid before 2026":  {day, 60 * day, "relay.example"},
		"expired at 2026-04-30":  {-30 * day, -day, "relay.example"},
		"not of --relay-host":    {-30 * day, 60 * day, "other.example"},
		"expires at 2026-05-07":  {-80 * day, 6 * day, ""},
		"expired at 2026-04-29 ": {-30 * day, -2 * day, ""},
	} {
		leaf := &x509.Certificate{NotBefore: now.Add(c.from), NotAfter: now.Add(c.to), DNSNames: []string{"relay.example"}}
		err := fault(leaf, c.host, now)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if err := fault(&x509.Certificate{NotBefore: now.Add(-time.Hour), NotAfter: now.Add(5 * time.Hour)}, "", now); err != nil {
		t.Errorf("one made for hours: %v", err)
	}
}

// An address that is taken costs TLS alone, and is tried again.
func TestTLSAddressIsTriedAgain(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	issue(t, cert, key, 1)
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ready := make(chan netip.AddrPort, 1)
	r := startWith(t, func(c *Config) {
		c.TLSListen, c.Cert, c.Key, c.TLSReady = other.Addr().String(), cert, key, func(a netip.AddrPort) { ready <- a }
	})
	deadline := time.Now().Add(patience)
	for a := r.run.Relay().Alarms; len(a) != 1 || a[0].Part != partTLS; a = r.run.Relay().Alarms {
		if time.Now().After(deadline) {
			t.Fatalf("alarms are %+v", a)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ready:
	case <-time.After(2 * patience):
		t.Fatal("the address is not tried again")
	}
}

func TestBadCertificate(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("0123456789abcdef"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]Config{
		"no key":     {TLSListen: "127.0.0.1:0", Cert: "x"},
		"no address": {Cert: "x", Key: "y"},
	} {
		c.Listen, c.SecretFile, c.Log = "127.0.0.1:0", secret, slog.New(slog.DiscardHandler)
		if err := Run(context.Background(), c); api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}
