package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/api/client"
	"github.com/perigee-cloud/perigee/cmd/run/site"
)

// selfSigned writes a certificate of this host that is its own authority.
func selfSigned(t *testing.T, dir string) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "api.pem"), filepath.Join(dir, "api.key")
	for path, b := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// TestEverythingByTLS holds that an edge joins, takes commands and reports over
// TLS alone.
func TestEverythingByTLS(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "pe2e")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	cert, key := selfSigned(t, dir)
	s, err := site.Start(t.Context(), dir, "--api-cert", cert, "--api-key", key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if !strings.HasPrefix(s.API, "https://") {
		t.Fatalf("the API is at %s", s.API)
	}
	if _, err := s.AddEdge(t.Context(), "edge", "--ca", cert); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CLI(t.Context(), "app", "put", "xterm", "--", "xterm"); err != nil {
		t.Fatal(err)
	}
	c, err := client.New(client.Config{URL: s.API, Token: s.Token, CA: cert})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	a, err := c.CreateSession(t.Context(), api.CreateBody{App: "xterm"})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(a.URL, "wss://") {
		t.Errorf("the websocket is at %s", a.URL)
	}
	status := func(want api.Status) {
		t.Helper()
		if err := site.Poll(t.Context(), 15*time.Second, func() error {
			v, err := c.Session(t.Context(), a.ID)
			if err == nil && v.Status != want {
				err = api.Errorf(api.CodeConflict, "it is %s", v.Status)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	status(api.StatusActive)
	if err := c.DeleteSession(t.Context(), a.ID, client.End{Sync: true}); err != nil {
		t.Error(err)
	}
	status(api.StatusTerminated)
}

// A bad relay certificate is an alarm of its node, with reason and remedy, until
// the files are mended; the rest of the node goes on.
func TestRelayCertificateAlarm(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := ln.Addr().String()
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.AddEdge(t.Context(), "secure", "--relay-tls-listen", address, "--relay-host", "127.0.0.1", "--relay-cert", cert, "--relay-key", key); err != nil {
		t.Fatal(err)
	}
	shows := func(what string, ok func(show, list string) bool) {
		t.Helper()
		eventually(t, 10*time.Second, func() error {
			show, err := w.CLI(t.Context(), "node", "show", "secure")
			if err != nil {
				return err
			}
			list, err := w.CLI(t.Context(), "node", "list")
			if err == nil && !ok(show, list) {
				err = fmt.Errorf("no %s:\n%s%s", what, show, list)
			}
			return err
		})
	}
	shows("alarm", func(show, list string) bool {
		return strings.Contains(show, "ALARM relay certificate") && strings.Contains(show, "no such file") && strings.Contains(show, "--relay-cert") &&
			strings.Contains(list, "1 alarm")
	})
	made, madeKey := selfSigned(t, dir)
	for from, to := range map[string]string{made: cert, madeKey: key} {
		if from == to {
			continue
		}
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	shows("end of the alarm", func(show, list string) bool {
		return !strings.Contains(show+list, "larm") && !strings.Contains(show, "ALARM")
	})
	pool := x509.NewCertPool()
	text, err := os.ReadFile(cert)
	if err != nil || !pool.AppendCertsFromPEM(text) {
		t.Fatal(err)
	}
	c, err := (&tls.Dialer{Config: &tls.Config{RootCAs: pool, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12}}).DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
}
