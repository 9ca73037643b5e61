package edge

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/local"
)

const (
	maxAsked   = 16  // commands waiting for a unit; a repeated one may be dropped
	maxSignals = 256 // signals waiting for a stream process; they are re-sent by their sender

	// stopMargin is what shim and stream need to clean up after the
	// application's grace; then they are killed.
	stopMargin = 3 * time.Second
	killWait   = 5 * time.Second
)

// unit is one session on this node: its processes and what is known of them.
type unit struct {
	trip       float64 // ms, the round trip that was reported last
	a          *Agent
	id         api.SessionID
	generation api.Generation
	dir        local.Session
	spec       api.Spec
	log        *slog.Logger
	adopted    bool
	reporter   *reporter

	asked  chan api.Command
	claims chan claimed
	shimL  *link
	strmL  *link
	shimP  *process
	strmP  *process
	halted chan struct{} // closed when run ends: helpers end too

	// Of run's goroutine:
	inst   local.InstanceState
	stream local.StreamState
	sent   uint64 // bytes that the stream last told
	heard  bool   // the stream told them before

	mu         sync.Mutex // guards the fields below
	cost       poolCost
	measured   *api.Latency // as last reported
	measuredAt time.Time
}

// poolCost is what a session takes of a pool.
type poolCost struct {
	pool   api.Pool
	mbs    uint64
	engine string // "nvenc0"; "" where the stream does not say
}

// outcome is how a session ends.
type outcome struct {
	observed api.Observed
	reason   api.Reason
	message  string
	force    bool
}

func (a *Agent) newUnit(id api.SessionID, g api.Generation, spec api.Spec) *unit {
	u := &unit{
		a: a, id: id, generation: g, dir: a.cfg.Run.Session(id, g), spec: spec,
		log: a.log.With("session", id, "generation", g), reporter: newReporter(a),
		asked: make(chan api.Command, maxAsked), claims: make(chan claimed), halted: make(chan struct{}),
	}
	u.shimL = newLink(a.dial, u.dir.ShimSocket(), u.halted, u.up)
	u.strmL = newLink(a.dial, u.dir.StreamSocket(), u.halted, u.up)
	u.setCost(local.StreamState{})
	return u
}

// ask hands a command to the unit; it never waits. A full queue drops it: the
// scheduler sends again what it still wants.
func (u *unit) ask(c api.Command) {
	select {
	case <-u.halted: // it has ended, and only its last report is under way
		return
	default:
	}
	select {
	case u.asked <- c:
	default:
		u.log.Warn("too many commands wait", "verb", c.Verb)
	}
}

func (u *unit) report() api.Report {
	r, _ := u.reporter.get()
	return r
}

// setCost notes what the session takes of a pool: as the stream says, else as
// it was reserved.
func (u *unit) setCost(s local.StreamState) {
	pool, codec, size := u.spec.Pool, api.Codec(""), u.spec.Screen
	if len(u.spec.Codecs) > 0 {
		codec = u.spec.Codecs[0]
	}
	if s.Codec != "" {
		codec = s.Codec
	}
	if s.Pool != "" {
		pool = s.Pool
	}
	if s.Screen.Width != 0 {
		size = s.Screen
	}
	mbs := u.a.capacity(pool).Cost(codec, u.spec.Preset, size)
	if !u.streams() {
		mbs = 0
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.cost = poolCost{pool, mbs, s.Engine}
}

func (u *unit) takes() poolCost {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.cost
}

// run brings the session up, or adopts it, and sees it to its end.
func (u *unit) run(adopt bool) {
	u.a.talk.Go(u.talk)
	if last, ok := u.lastReport(); adopt && ok {
		close(u.halted)
		u.reporter.set(last) // it ended under an earlier daemon, which was not heard
		return
	}
	var err error
	if adopt {
		u.adopt()
	} else {
		u.tell(api.ObservedStarting)
		err = u.begin()
	}
	var out outcome
	if err != nil {
		out = outcome{api.ObservedFailed, api.ReasonStartFailed, err.Error(), true}
	} else {
		u.a.work.Go(u.shimL.run)
		if u.streams() {
			u.a.work.Go(u.strmL.run)
		}
		var left bool
		if out, left = u.watch(); left {
			close(u.halted)
			return
		}
	}
	u.finish(out)
	close(u.halted)
	u.log.Info("session ended", "observed", out.observed, "reason", out.reason, "message", out.message)
	last := api.Report{
		Session: u.id, Generation: u.generation, Observed: out.observed, Reason: out.reason,
		Message: clip(out.message), Screen: u.inst.Screen, Latency: u.latency(true),
	}
	if err := u.noteLast(last); err != nil {
		u.log.Warn("last report could not be noted", "error", err)
	}
	u.reporter.set(last)
}

// talk sends the unit's reports, and forgets the unit when the last one is heard.
func (u *unit) talk() {
	u.reporter.run(func() { u.ask(api.Command{Verb: api.VerbStop, Reason: api.ReasonSuperseded}) })
	if r, sent := u.reporter.get(); sent && api.Final(r.Observed) {
		u.a.forget(u, r)
	}
}

// begin makes the folder and starts both processes at once.
func (u *unit) begin() error {
	// A folder of this name without a unit is a remainder: a command that came
	// again after a crash of the machine.
	if err := scrap(u.dir); err != nil {
		return err
	}
	if err := os.MkdirAll(u.dir.Shared()+"/data", 0o755); err != nil {
		return fmt.Errorf("make session folder: %w", err)
	}
	if err := os.Chmod(string(u.dir), 0o700); err != nil {
		return fmt.Errorf("close session folder: %w", err)
	}
	if err := u.dir.WriteSpec(u.spec); err != nil {
		return err
	}
	var err error
	if u.shimP, err = u.spawn(RoleShim); err != nil {
		return err
	}
	if !u.streams() {
		return processes{Shim: u.shimP}.write(u.dir.Path(fileProcesses))
	}
	if u.strmP, err = u.spawn(RoleStream); err != nil {
		return err
	}
	return processes{u.shimP, u.strmP}.write(u.dir.Path(fileProcesses))
}

// adopt finds the processes that an earlier daemon started. One that has ended
// meanwhile is dealt with like one that ends now.
func (u *unit) adopt() {
	p, err := readProcesses(u.dir.Path(fileProcesses))
	if err != nil {
		u.log.Warn("processes of an adopted session are not known", "error", err)
	}
	u.shimP, u.strmP = p.Shim, p.Stream
	for _, q := range []**process{&u.shimP, &u.strmP} {
		if q == &u.strmP && !u.streams() {
			continue
		}
		if *q == nil {
			*q = &process{}
		}
		u.find(*q)
		(*q).adopt(u.halted)
	}
	if u.inst, err = u.dir.ReadInstance(); err != nil && !errors.Is(err, os.ErrNotExist) {
		u.log.Warn("state of an adopted instance cannot be read", "error", err)
	}
	u.tellClaim()
	if !u.shimP.ended() && (u.strmP == nil || !u.strmP.ended()) {
		u.log.Info("session adopted", "observed", u.inst.Observed)
	}
	if !api.Final(u.inst.Observed) {
		u.tell(u.inst.Observed)
	}
}

// tell reports what is known now. A final state is told after the cleaning.
func (u *unit) tell(o api.Observed) {
	if o == api.ObservedNone {
		o = api.ObservedStarting
	}
	u.trip = settled(u.trip, u.stream.RoundTripMS)
	u.reporter.set(api.Report{
		Session: u.id, Generation: u.generation, Observed: o, Connected: u.stream.Connected,
		Pool: u.stream.Pool, Codec: u.stream.Codec, Screen: u.inst.Screen, RoundTripMS: u.trip, Latency: u.latency(false),
	})
}

// settled gives a round trip as it is reported, in steps of 0.5 ms: the last
// one until it is off by an eighth, so that each wobble is not a report.
func settled(last, now float64) float64 {
	switch {
	case !(now > 0): // nobody is connected, or nothing was measured yet
		return 0
	case last > 0 && math.Abs(now-last) <= max(0.5, last/8):
		return last
	default:
		return max(math.Round(2*now)/2, 0.5)
	}
}

// latencyEvery is how often a session's measured latency is reported.
const latencyEvery = 30 * time.Second

// latency gives what the stream measured, as it was at most latencyEvery ago,
// so that it is not a report each second; the last report (now) has it all.
func (u *unit) latency(now bool) *api.Latency {
	if l := u.stream.Latency; l != nil && (now || time.Since(u.measuredAt) >= latencyEvery) {
		u.measured, u.measuredAt = l, time.Now()
	}
	return u.measured
}

// watch waits for the first reason to end, or for the daemon to leave (left).
func (u *unit) watch() (out outcome, left bool) {
	start := time.NewTimer(u.startDeadline())
	defer start.Stop()
	draw := time.NewTimer(u.a.cfg.DrawDeadline)
	draw.Stop()
	defer draw.Stop()
	drawing := false
	for {
		select {
		case <-u.a.leaving:
			return outcome{}, true
		case c := <-u.asked:
			if c.Verb == api.VerbStop {
				return outcome{api.ObservedStopped, c.Reason, "", c.Force}, false
			}
			u.admit(c)
		case c := <-u.claims:
			c.done <- u.claim(c.spec)
		case m := <-u.shimL.states:
			if m.Instance == nil {
				continue
			}
			u.inst = *m.Instance
			if api.Final(u.inst.Observed) {
				return u.instanceEnd(), false
			}
			if u.inst.Observed == api.ObservedRunning {
				start.Stop()
			}
			u.tell(u.inst.Observed)
		case m := <-u.strmL.states:
			if m.Stream == nil {
				continue
			}
			u.stream = *m.Stream
			u.setCost(u.stream)
			u.a.sentBy(u.stream, &u.sent, &u.heard)
			if u.stream.Inactive {
				return outcome{api.ObservedStopped, api.ReasonInactive, "", false}, false
			}
			if u.stream.Failed != "" {
				return outcome{api.ObservedFailed, api.ReasonStreamFailed, u.stream.Failed, false}, false
			}
			if now := u.stream.Encoding && !u.stream.Drawn; now != drawing {
				if drawing = now; now && !u.spec.App.Watchdog.Off {
					draw.Reset(u.drawDeadline())
				} else {
					draw.Stop()
				}
			}
			u.tell(u.inst.Observed)
		case <-u.shimP.done:
			return u.shimEnd(), false
		case <-u.strmP.end():
			return outcome{api.ObservedFailed, api.ReasonStreamFailed, "the stream process ended" + how(u.strmP), false}, false
		case <-start.C:
			if u.inst.Observed != api.ObservedRunning {
				return outcome{api.ObservedFailed, api.ReasonStartFailed,
					fmt.Sprintf("the instance does not run after %s", u.startDeadline()), true}, false
			}
		case <-draw.C:
			return outcome{api.ObservedFailed, api.ReasonAppHung,
				fmt.Sprintf("the application has drawn nothing in %s", u.drawDeadline()), false}, false
		}
	}
}

// streams says whether the instance has a stream: one launched without never gets it.
func (u *unit) streams() bool { return u.spec.Pool != api.PoolNone }

// admit lets the next client in: the stream cuts the one before, the shim resizes.
func (u *unit) admit(c api.Command) {
	m := local.Message{Kind: local.KindAdmit, Viewer: c.Viewer, Screen: c.Screen}
	u.strmL.keep(m)
	if c.Screen != nil {
		u.shimL.keep(m)
	}
}

func (u *unit) instanceEnd() outcome {
	return outcome{u.inst.Observed, u.inst.Reason, u.inst.Message, true}
}

// shimEnd is the outcome when the shim's process has ended: as it said itself,
// perhaps this moment, else a fault.
func (u *unit) shimEnd() outcome {
	if st, err := u.dir.ReadInstance(); err == nil {
		u.inst = st
	}
	if api.Final(u.inst.Observed) {
		return u.instanceEnd()
	}
	reason := api.ReasonAppCrashed
	if u.inst.Observed != api.ObservedRunning {
		reason = api.ReasonStartFailed
	}
	return outcome{api.ObservedFailed, reason, "the shim process ended" + how(u.shimP), true}
}
