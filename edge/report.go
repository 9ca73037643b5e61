package edge

import (
	"context"
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

const (
	reportTimeout = 2 * time.Second
	reportFirst   = 100 * time.Millisecond // first pause before a report is sent again
	reportMost    = 5 * time.Second
)

// reporter sends one session's latest report until it is acknowledged. A newer
// report takes the place of an older one that is still on its way.
type reporter struct {
	a    *Agent
	wake chan struct{} // of one place

	mu     sync.Mutex // guards the fields below
	latest api.Report
	sent   bool // the latest is acknowledged
}

func newReporter(a *Agent) *reporter {
	return &reporter{a: a, wake: make(chan struct{}, 1), sent: true}
}

// set puts a report in place of the one before.
func (r *reporter) set(rep api.Report) {
	rep.Node, rep.Boot = r.a.cfg.Identity.ID, r.a.cfg.Identity.Boot
	r.mu.Lock()
	if same := rep; r.latest.Seq != 0 {
		same.Seq = r.latest.Seq
		if same == r.latest {
			r.mu.Unlock()
			return
		}
	}
	rep.Seq = r.a.seq.Add(1)
	r.latest, r.sent = rep, false
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *reporter) get() (rep api.Report, sent bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.latest, r.sent
}

// run sends until a final report is acknowledged, or the agent leaves. unwanted
// (nil = ignored) is called when the schedulers want the generation stopped.
func (r *reporter) run(unwanted func()) {
	pause := reportFirst
	for {
		rep, sent := r.get()
		if sent {
			if api.Final(rep.Observed) {
				return
			}
			select {
			case <-r.wake:
			case <-r.a.flush.Done():
				return
			case <-r.a.leaving:
				return
			}
			pause = reportFirst
			continue
		}
		ctx, cancel := context.WithTimeout(r.a.flush, reportTimeout)
		ack, err := r.a.cfg.Bus.Report(ctx, rep)
		cancel()
		if err == nil && (ack.OK || ack.Stop) {
			r.mu.Lock()
			r.sent = r.latest.Seq == rep.Seq
			r.mu.Unlock()
			if ack.Stop && unwanted != nil && !api.Final(rep.Observed) {
				unwanted()
			}
			continue
		}
		if err == nil {
			r.a.log.Debug("report was refused", "session", rep.Session, "error", ack.Error)
		}
		select {
		case <-time.After(pause):
		case <-r.wake: // something newer: at once
		case <-r.a.flush.Done():
			return
		case <-r.a.leaving:
			return
		}
		pause = min(2*pause, reportMost)
	}
}
