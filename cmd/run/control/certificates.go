package control

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// lookEvery bounds how often the files are looked at for a change.
const lookEvery = time.Second

// certificates are TLS settings from files that are read again when they
// change: between replicas, where both sides show a certificate and check the
// other's against the authority, or towards clients and edges, without one.
type certificates struct {
	cert, key, ca string
	flags         string // that name the certificate's files
	log           *slog.Logger

	mu     sync.Mutex
	looked time.Time
	stamp  [3]time.Time
	pair   *tls.Certificate
	pool   *x509.CertPool
}

// newCertificates reads the files; nil when none is given.
func newCertificates(cert, key, ca string, log *slog.Logger) (*certificates, error) {
	if cert == "" && key == "" && ca == "" {
		return nil, nil
	}
	for _, f := range []struct{ flag, path string }{{"--tls-cert", cert}, {"--tls-key", key}, {"--tls-ca", ca}} {
		if f.path == "" {
			return nil, api.Invalidf(f.flag, "is missing: --tls-cert, --tls-key and --tls-ca go together")
		}
	}
	c := &certificates{cert: cert, key: key, ca: ca, flags: "--tls-cert and --tls-key", log: log}
	if err := c.load(); err != nil {
		return nil, err
	}
	return c, nil
}

// newFront reads the files of the certificate that clients and edges are shown;
// nil when none is given.
func newFront(cert, key string, log *slog.Logger) (*certificates, error) {
	switch {
	case cert == "" && key == "":
		return nil, nil
	case cert == "":
		return nil, api.Invalidf("--api-cert", "is missing: --api-cert and --api-key go together")
	case key == "":
		return nil, api.Invalidf("--api-key", "is missing: --api-cert and --api-key go together")
	}
	c := &certificates{cert: cert, key: key, flags: "--api-cert and --api-key", log: log}
	if err := c.load(); err != nil {
		return nil, err
	}
	if end := c.pair.Leaf.NotAfter; time.Now().After(end) {
		return nil, api.Invalidf("--api-cert", "%s expired at %s", cert, end.UTC().Format(time.RFC3339))
	}
	return c, nil
}

// Front gives the settings towards clients and edges, which show no certificate.
func (c *certificates) Front() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}, // websockets need it
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { p, _ := c.current(); return p, nil },
	}
}

// load reads the files. c.mu is held, or c is not shared yet.
func (c *certificates) load() error {
	stamp, err := c.stamps()
	if err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return fmt.Errorf("read %s: %w", c.flags, err)
	}
	if c.ca == "" {
		c.stamp, c.pair = stamp, &pair
		return nil
	}
	authority, err := os.ReadFile(c.ca)
	if err != nil {
		return fmt.Errorf("read --tls-ca: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(authority) {
		return api.Invalidf("--tls-ca", "%s holds no certificate in PEM form", c.ca)
	}
	c.stamp, c.pair, c.pool = stamp, &pair, pool
	return nil
}

func (c *certificates) stamps() (out [3]time.Time, err error) {
	for i, path := range []string{c.cert, c.key, c.ca} {
		if path == "" {
			continue
		}
		st, e := os.Stat(path)
		if e != nil {
			err = errors.Join(err, fmt.Errorf("read certificate files: %w", e))
			continue
		}
		out[i] = st.ModTime()
	}
	return out, err
}

// current gives what the files hold now; what they held when they are broken.
func (c *certificates) current() (*tls.Certificate, *x509.CertPool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.looked) >= lookEvery {
		c.looked = time.Now()
		stamp, err := c.stamps()
		if err == nil && stamp != c.stamp {
			if err = c.load(); err == nil {
				c.log.Info("certificates were read again", "cert", c.cert)
			}
		}
		if err != nil {
			c.log.Warn("certificates could not be read again", "error", err)
		}
	}
	return c.pair, c.pool
}

// Server gives the settings of who accepts.
func (c *certificates) Server() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			pair, pool := c.current()
			return &tls.Config{
				MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*pair},
				ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
			}, nil
		},
	}
}

// Client gives the settings of who dials.
func (c *certificates) Client() *tls.Config {
	pair, pool := c.current()
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*pair}, RootCAs: pool}
}

// both gives one setting for both sides, for the bus. Its authority is the one
// of the start; the certificate follows its file.
func (c *certificates) both() *tls.Config {
	_, pool := c.current()
	return &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: pool, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
		GetCertificate:       func(*tls.ClientHelloInfo) (*tls.Certificate, error) { p, _ := c.current(); return p, nil },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { p, _ := c.current(); return p, nil },
	}
}
