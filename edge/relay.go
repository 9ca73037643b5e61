package edge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	relayFirst  = 200 * time.Millisecond // first pause before the relay is started again
	relayMost   = 10 * time.Second
	relaySteady = time.Minute // one that ran for so long starts with the first pause again
	relayLeave  = 3 * time.Second

	fileRelayProcess = "relay.json"
)

// relay keeps the node's relay process running, adopting one that an earlier
// daemon started. run tells by its cause whether the relay ends with the daemon.
func (a *Agent) relay(ctx, run context.Context) error {
	if a.cfg.Start(RoleRelay, "") == nil {
		return nil
	}
	note := filepath.Join(a.cfg.Identity.Data, fileRelayProcess)
	left := make(chan struct{})
	defer close(left)
	p := a.adoptRelay(note, left)
	pause := relayFirst
	for {
		begun := time.Now()
		if p == nil && ctx.Err() == nil {
			var err error
			if p, err = a.startRelay(note); err != nil {
				a.log.Error("relay cannot be started", "error", err)
			}
		}
		if p != nil {
			select {
			case <-p.done:
				if ctx.Err() == nil {
					a.log.Warn("relay ended and is started again", "error", p.err)
				}
			case <-ctx.Done():
				if errors.Is(context.Cause(run), ErrEndSessions) {
					return endRelay(p, note)
				}
				return nil
			}
			p = nil
		}
		if time.Since(begun) > relaySteady {
			pause = relayFirst
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		pause = min(2*pause, relayMost)
	}
}

func (a *Agent) adoptRelay(note string, left <-chan struct{}) *process {
	b, err := os.ReadFile(note)
	if err != nil {
		return nil
	}
	p := &process{}
	if json.Unmarshal(b, p) != nil || !p.runs() {
		return nil
	}
	p.adopt(left)
	a.log.Info("relay adopted", "pid", p.PID)
	return p
}

func (a *Agent) startRelay(note string) (*process, error) {
	p, err := spawn(a.cfg.Start(RoleRelay, ""), filepath.Join(a.cfg.Identity.Data, "relay.log"))
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(p)
	if err == nil {
		err = writeWhole(note, b)
	}
	if err != nil {
		a.log.Warn("relay's process could not be noted: the next daemon will not find it", "error", err)
	}
	return p, nil
}

func endRelay(p *process, note string) error {
	p.signal(unix.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(relayLeave):
		if err := p.kill(killWait); err != nil {
			return fmt.Errorf("end relay: %w", err)
		}
	}
	_ = os.Remove(note) // a stale one does no harm
	return nil
}
