package edge

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/image"
	"github.com/perigee-cloud/perigee/edge/local"
)

// startDeadline is the node's, and what the application's hooks and the fetching
// of a container's image may take.
func (u *unit) startDeadline() time.Duration {
	d := u.a.cfg.StartDeadline + u.spec.App.Hooks.StartTime()
	if u.spec.App.Kind == api.AppContainer {
		d += image.FetchLimit
	}
	return d
}

// drawDeadline is the application's, else the node's.
func (u *unit) drawDeadline() time.Duration {
	if s := u.spec.App.Watchdog.DrawS; s > 0 {
		return time.Duration(s) * time.Second
	}
	return u.a.cfg.DrawDeadline
}

func how(p *process) string {
	if p.err == nil {
		return ""
	}
	return ": " + p.err.Error()
}

// finish ends both processes, the stream first, and removes every trace.
func (u *unit) finish(out outcome) {
	m := local.Message{Kind: local.KindStop, Reason: out.reason, Force: out.force}
	for _, e := range []struct {
		l *link
		p *process
	}{{u.strmL, u.strmP}, {u.shimL, u.shimP}} {
		if e.p == nil || e.p.ended() {
			continue
		}
		if !e.l.now(m) { // not connected: the shim and the stream take SIGTERM as stop
			e.p.signal(unix.SIGTERM)
		}
	}
	limit := stopMargin
	if !out.force {
		limit += u.a.cfg.StopGrace + u.spec.App.Hooks.StopTime()
	}
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	late := false
	for _, p := range []*process{u.strmP, u.shimP} {
		for p != nil && !p.ended() && !late {
			select {
			case <-p.done:
			case <-u.shimL.states: // of no interest any more
			case m := <-u.strmL.states:
				if m.Stream != nil {
					u.stream = *m.Stream // what it measured last
				}
			case c := <-u.asked:
				if c.Verb == api.VerbStop && c.Force {
					deadline.Reset(0)
				}
			case <-deadline.C:
				late = true
			}
		}
	}
	var errs []error
	for _, p := range []*process{u.strmP, u.shimP} {
		if p != nil && !p.ended() {
			u.log.Warn("a process does not end and is killed", "pid", p.PID)
			errs = append(errs, p.kill(killWait))
		}
	}
	errs = append(errs, keepLog(u.a.cfg.Run, u.dir), scrap(u.dir))
	if err := errors.Join(errs...); err != nil {
		u.log.Error("session could not be cleaned", "error", err)
	}
}

// fileLast holds the last report until it is acknowledged, so that the
// schedulers learn the end even if this daemon ends too.
const fileLast = "last.json"

func (u *unit) noteLast(r api.Report) error {
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode last report: %w", err)
	}
	if err := os.MkdirAll(string(u.dir), 0o700); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	return writeWhole(u.dir.Path(fileLast), b)
}

func (u *unit) lastReport() (api.Report, bool) {
	var r api.Report
	b, err := os.ReadFile(u.dir.Path(fileLast))
	if err != nil || json.Unmarshal(b, &r) != nil {
		return r, false
	}
	return r, r.Session == u.id && r.Generation == u.generation && api.Final(r.Observed)
}
