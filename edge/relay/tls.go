package relay

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/local"
)

const (
	// certLook is how often the certificate's files are looked at.
	certLook = 2 * time.Second
	// certSoon is how long before its end a certificate is an alarm.
	certSoon = 7 * 24 * time.Hour
	clip     = api.MaxMessage
)

// Parts of the relay that may be an alarm.
const (
	partCertificate = "relay certificate"
	partTLS         = "relay TLS address"
)

// certificate is what the operator's files hold, read again when they change.
type certificate struct {
	cert, key, host string
	log             *slog.Logger

	mu    sync.Mutex // guards pair
	pair  *tls.Certificate
	stamp [2]time.Time // of the files that were read last; of whoever looks
	bad   error        // what was wrong with them
}

// newCertificate checks that all is given; nil when nothing is. What the files
// hold is looked at later: a bad certificate costs TLS and not the relay.
func newCertificate(cfg Config) (*certificate, error) {
	switch {
	case cfg.TLSListen == "" && cfg.Cert == "" && cfg.Key == "":
		return nil, nil
	case cfg.Cert == "" || cfg.Key == "":
		return nil, api.Invalidf("relay certificate", "needs its file and its key's: --relay-cert and --relay-key go together")
	case cfg.TLSListen == "":
		return nil, api.Invalidf("relay TLS address", "is missing: --relay-tls-listen says where, such as :443")
	}
	return &certificate{cert: cfg.Cert, key: cfg.Key, host: cfg.Host, log: cfg.Log}, nil
}

// look reads the files if they changed and says what is wrong; nil: nothing. It
// is for one goroutine.
func (c *certificate) look(now time.Time) error {
	stamp, err := c.stamps()
	if err != nil {
		return err
	}
	if stamp != c.stamp {
		c.stamp = stamp
		var pair tls.Certificate
		if pair, c.bad = tls.LoadX509KeyPair(c.cert, c.key); c.bad == nil {
			c.mu.Lock()
			c.pair = &pair
			c.mu.Unlock()
			c.log.Info("relay's certificate was read", "cert", c.cert)
		}
	}
	if c.bad != nil {
		return fmt.Errorf("read --relay-cert and --relay-key: %w", c.bad)
	}
	return fault(c.pair.Leaf, c.host, now)
}

// fault says why browsers would not take a certificate, or soon will not.
func fault(leaf *x509.Certificate, host string, now time.Time) error {
	const form = "2006-01-02 15:04 MST"
	switch {
	case now.Before(leaf.NotBefore):
		return fmt.Errorf("the certificate is not valid before %s", leaf.NotBefore.UTC().Format(form))
	case now.After(leaf.NotAfter):
		return fmt.Errorf("the certificate expired at %s", leaf.NotAfter.UTC().Format(form))
	}
	if host != "" {
		if err := leaf.VerifyHostname(host); err != nil {
			return fmt.Errorf("the certificate is not of --relay-host: %w", err)
		}
	}
	// Of one that was made for hours, the end is always near.
	if left := leaf.NotAfter.Sub(now); left < certSoon && left < leaf.NotAfter.Sub(leaf.NotBefore)/3 {
		return fmt.Errorf("the certificate expires at %s", leaf.NotAfter.UTC().Format(form))
	}
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

var errNoCertificate = errors.New("the relay has no certificate that can be read")

// current gives the last certificate that could be read.
func (c *certificate) current(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pair == nil {
		return nil, errNoCertificate
	}
	return c.pair, nil
}

// secure serves TURN over TLS, for networks that let nothing else out, and says
// what keeps it from doing so, until ctx ends.
func (r *relay) secure(ctx context.Context, c *certificate) {
	tick := time.NewTicker(certLook)
	defer tick.Stop()
	serves, told := false, []api.Alarm(nil)
	for first := true; ; first = false {
		var now []api.Alarm
		if err := c.look(time.Now()); err != nil {
			now = append(now, api.Alarm{Part: partCertificate, Reason: err.Error(),
				Remedy: "put a valid certificate and its key into the files of --relay-cert and --relay-key; they are read again within seconds"})
		}
		if !serves {
			err := r.listenTLS(ctx, c)
			if serves = err == nil; !serves && ctx.Err() == nil {
				now = append(now, api.Alarm{Part: partTLS, Reason: err.Error(),
					Remedy: "free the address, or name another with --relay-tls-listen; it is tried again every few seconds"})
			}
		}
		if fresh, changed := r.since(told, now); changed || first {
			told = fresh
			r.say(told...)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// since dates alarms, and logs and tells which are new or over.
func (r *relay) since(told, now []api.Alarm) (out []api.Alarm, changed bool) {
	for _, a := range now {
		a.Reason = a.Reason[:min(len(a.Reason), clip)]
		i := slices.IndexFunc(told, func(o api.Alarm) bool { return o.Part == a.Part && o.Reason == a.Reason })
		if i >= 0 {
			out = append(out, told[i])
			continue
		}
		changed = true
		a.Since = time.Now().UTC().Truncate(time.Second)
		r.log.Warn("relay needs somebody", "part", a.Part, "reason", a.Reason, "remedy", a.Remedy)
		out = append(out, a)
	}
	for _, o := range told {
		if !slices.ContainsFunc(now, func(a api.Alarm) bool { return a.Part == o.Part }) {
			changed = true
			r.log.Info("relay's trouble is over", "part", o.Part)
		}
	}
	return out, changed
}

// say tells the daemon how the relay is.
func (r *relay) say(alarms ...api.Alarm) {
	if r.cfg.Run == "" {
		return
	}
	if err := r.cfg.Run.SetRelay(local.RelayState{Alarms: alarms}); err != nil {
		r.log.Warn("the daemon cannot be told how the relay is", "error", err)
	}
}

// listenTLS serves one address by TLS.
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
