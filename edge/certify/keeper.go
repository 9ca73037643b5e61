package certify

import (
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"os"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/gpu"
)

const (
	defaultSettle = 20 * time.Second
	lookEvery     = 200 * time.Millisecond
)

// Keeper sees to it that a node has a certificate that holds: the quick one
// first, then the full one, while no session runs. Its fields are set before
// Run and not changed.
type Keeper struct {
	Path      string // of the stored certificate
	Key       ed25519.PrivateKey
	Inventory gpu.Inventory
	// Measure takes a measurement; it ends soon after ctx does.
	Measure func(ctx context.Context, full bool) api.Certificate
	// Busy says whether a session runs: then nothing is measured, and what is
	// being measured is cut off.
	Busy func() bool
	// Changed takes each new certificate, as it was signed and stored.
	Changed func(ctx context.Context, s api.SignedCertificate, c api.Certificate)
	// Settle is how long no session must have run; 0 is 20 s.
	Settle time.Duration
	Log    *slog.Logger
}

// Stored gives the certificate that holds; nil when there is none, or none that
// holds for this machine any more.
func (k *Keeper) Stored() (*api.Certificate, *api.SignedCertificate) {
	c, s, err := Load(k.Path, k.Key.Public().(ed25519.PublicKey))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, nil
	case err != nil:
		k.Log.Warn("stored encoder certificate is not used", "error", err)
		return nil, nil
	}
	if why := Outdated(c, k.Inventory); why != "" {
		k.Log.Info("stored encoder certificate holds no more", "reason", why)
		return nil, nil
	}
	return &c, &s
}

// Run measures what is missing until all is, or ctx ends.
func (k *Keeper) Run(ctx context.Context) {
	have, _ := k.Stored()
	for have == nil || !have.Full || have.State == api.CertificateInterrupted {
		if !k.idle(ctx) {
			return
		}
		full := have != nil && have.State != api.CertificateInterrupted
		c := k.measure(ctx, full)
		if ctx.Err() != nil {
			return
		}
		if c.State == api.CertificateInterrupted && (have != nil || !anyCertified(c)) {
			k.Log.Info("encoder measurement gave way to a session", "full", full)
			continue // what is known already is better than half
		}
		have = k.keep(ctx, c)
	}
}

func anyCertified(c api.Certificate) bool {
	for _, e := range c.Engines {
		if e.State == api.EngineCertified {
			return true
		}
	}
	return false
}

// keep compares, stores and tells. What cannot be stored holds until the end.
func (k *Keeper) keep(ctx context.Context, c api.Certificate) *api.Certificate {
	if before, _, err := Load(k.Path, k.Key.Public().(ed25519.PublicKey)); err == nil {
		c.Alarms = Compare(before, c)
	} else {
		c.Alarms = Compare(api.Certificate{}, c)
	}
	for _, a := range c.Alarms {
		k.Log.Warn("encoder certificate strays", "alarm", a)
	}
	if c.State == api.CertificateNothing {
		k.Log.Error("no encoder of this machine keeps up with one stream: it takes no sessions")
	}
	s, err := Save(k.Path, c, k.Key)
	if err != nil {
		k.Log.Warn("encoder certificate could not be stored", "error", err)
		if len(s.Signature) == 0 {
			return &c
		}
	}
	k.Log.Info("encoders certified", "state", c.State, "full", c.Full, "seconds", c.Seconds)
	k.Changed(ctx, s, c)
	return &c
}

// idle waits until no session has run for Settle; false when ctx ended.
func (k *Keeper) idle(ctx context.Context) bool {
	settle := k.Settle
	if settle == 0 {
		settle = defaultSettle
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for since := time.Now(); time.Since(since) < settle; {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
		if k.Busy() {
			since = time.Now()
		}
	}
	return true
}

// measure is cut off by the first session.
func (k *Keeper) measure(ctx context.Context, full bool) api.Certificate {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watch := make(chan struct{})
	go func() {
		defer close(watch)
		tick := time.NewTicker(lookEvery)
		defer tick.Stop()
		for !k.Busy() {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
		cancel()
	}()
	c := k.Measure(ctx, full)
	cancel()
	<-watch
	return c
}
