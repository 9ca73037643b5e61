package certify

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// world drives a keeper in virtual time.
type world struct {
	mu    sync.Mutex
	busy  bool
	runs  []string
	told  []api.Certificate
	mbs   uint64
	state api.CertificateState
}

func (w *world) set(busy bool) { w.mu.Lock(); w.busy = busy; w.mu.Unlock() }

func (w *world) keeper(t *testing.T, path string) *Keeper {
	return &Keeper{Path: path, Key: key(), Inventory: machine(), Log: slog.New(slog.DiscardHandler),
		Busy: func() bool { w.mu.Lock(); defer w.mu.Unlock(); return w.busy },
		Measure: func(ctx context.Context, full bool) api.Certificate {
			w.mu.Lock()
			w.runs = append(w.runs, fmt.Sprint(full))
			c := certificate(w.mbs)
			c.State = w.state
			w.mu.Unlock()
			c.Full = full
			select {
			case <-ctx.Done():
				c.State, c.Engines = api.CertificateInterrupted, nil
			case <-time.After(10 * time.Second):
			}
			return c
		},
		Changed: func(_ context.Context, s api.SignedCertificate, c api.Certificate) {
			if _, err := s.Open(key().Public().(ed25519.PublicKey)); err != nil {
				t.Errorf("told a certificate that is not the node's: %v", err)
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			w.told = append(w.told, c)
		}}
}

func TestKeeperMeasuresWhileIdle(t *testing.T) {
	path := filepath.Join(t.TempDir(), File)
	synctest.Test(t, func(t *testing.T) {
		w := &world{busy: true, mbs: 1000, state: api.CertificateComplete}
		k := w.keeper(t, path)
		done := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { k.Run(ctx); close(done) }()
		time.Sleep(time.Hour)
		if len(w.runs) != 0 {
			t.Fatalf("measured beside a session: %v", w.runs)
		}
		w.set(false)
		time.Sleep(25 * time.Second) // settled, and half way
		w.set(true)
		time.Sleep(time.Minute)
		if len(w.runs) != 1 || len(w.told) != 0 {
			t.Fatalf("did not give way: runs %v, told %d", w.runs, len(w.told))
		}
		w.set(false)
		<-done
		if !slices.Equal(w.runs, []string{"false", "false", "true"}) || len(w.told) != 2 || w.told[0].Full || !w.told[1].Full {
			t.Errorf("runs %v, told %+v", w.runs, w.told)
		}
		if c, _ := k.Stored(); c == nil || !c.Full {
			t.Errorf("stored %+v", c)
		}
	})
	synctest.Test(t, func(t *testing.T) { // the next start: nothing to do, until the software changes
		w := &world{mbs: 800, state: api.CertificateComplete}
		k := w.keeper(t, path)
		k.Run(t.Context())
		if len(w.runs) != 0 {
			t.Errorf("measured again: %v", w.runs)
		}
		k.Inventory.Software = "newer"
		if c, _ := k.Stored(); c != nil {
			t.Error("an outdated certificate holds")
		}
		ctx, cancel := context.WithTimeout(t.Context(), 35*time.Second)
		defer cancel()
		k.Run(ctx)
		if len(w.told) != 1 || len(w.told[0].Alarms) != 4 {
			t.Errorf("no alarm of a change by 20 %%: %+v", w.told)
		}
	})
	synctest.Test(t, func(t *testing.T) { // nothing certifies: told once, named, no end of trying
		w := &world{state: api.CertificateNothing}
		w.keeper(t, filepath.Join(t.TempDir(), File)).Run(t.Context())
		if len(w.told) != 2 || w.told[1].State != api.CertificateNothing {
			t.Errorf("told %+v", w.told)
		}
	})
}
