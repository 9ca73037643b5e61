package relay

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// certLook is how often the certificate's files are looked at, by connections.
const certLook = 2 * time.Second

// certificate is what the operator's files hold, read again when they change.
type certificate struct {
	cert, key string
	log       *slog.Logger

	mu     sync.Mutex
	looked time.Time
	stamp  [2]time.Time
	pair   *tls.Certificate
}

// newCertificate reads the files; nil when none are given.
func newCertificate(cfg Config) (*certificate, error) {
	switch {
	case cfg.TLSListen == "" && cfg.Cert == "" && cfg.Key == "":
		return nil, nil
	case cfg.Cert == "" || cfg.Key == "":
		return nil, api.Invalidf("relay certificate", "needs its file and its key's: --relay-cert and --relay-key go together")
	case cfg.TLSListen == "":
		return nil, api.Invalidf("relay TLS address", "is missing: --relay-tls-listen says where, such as :443")
	}
	c := &certificate{cert: cfg.Cert, key: cfg.Key, log: cfg.Log}
	return c, c.load()
}

// load reads the files. mu is held, or c is not shared yet.
func (c *certificate) load() error {
	stamp, err := c.stamps()
	if err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return fmt.Errorf("read --relay-cert and --relay-key: %w", err)
	}
	c.stamp, c.pair = stamp, &pair
	return nil
}

func (c *certificate) stamps() (out [2]time.Time, err error) {
	for i, path := range []string{c.cert, c.key} {
		st, err := os.Stat(path)
		if err != nil {
			return out, fmt.Errorf("read relay's certificate: %w", err)
		}
		out[i] = st.ModTime()
	}
	return out, nil
}

// current gives what the files hold now; what they held when they are broken.
func (c *certificate) current(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.looked) < certLook {
		return c.pair, nil
	}
	c.looked = time.Now()
	stamp, err := c.stamps()
	if err == nil && stamp != c.stamp {
		if err = c.load(); err == nil {
			c.log.Info("relay's certificate was read again", "cert", c.cert)
		}
	}
	if err != nil {
		c.log.Warn("relay's certificate could not be read again", "error", err)
	}
	return c.pair, nil
}

// listenTLS serves TURN over TLS, for networks that let nothing else out.
func (r *relay) listenTLS(ctx context.Context, c *certificate) error {
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", r.cfg.TLSListen)
	if err != nil {
		return fmt.Errorf("serve relay by TLS on %s: %w", r.cfg.TLSListen, err)
	}
	r.onClose(ln.Close)
	secure := tls.NewListener(ln, &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.current})
	r.wg.Go(func() { r.accept(secure) })
	at := ln.Addr().(*net.TCPAddr).AddrPort()
	r.log.Info("relay serves by TLS", "address", at)
	if r.cfg.TLSReady != nil {
		r.cfg.TLSReady(at)
	}
	return nil
}
