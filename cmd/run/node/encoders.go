package node

import (
	"cmp"
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge"
	"github.com/perigee-cloud/perigee/edge/certify"
	"github.com/perigee-cloud/perigee/edge/engines"
	"github.com/perigee-cloud/perigee/edge/gpu"
)

// Values of --certify.
const (
	certifyIdle  = "idle"
	certifyNever = "never"
)

// encoders is what the machine has to encode with, and what it was measured to do.
type encoders struct {
	inventory gpu.Inventory
	watcher   *gpu.Watcher // nil without a graphics processor
	release   func()       // lets go of the graphics processors

	mu          sync.Mutex // guards the fields below
	certificate *api.Certificate
	signed      *api.SignedCertificate
	fresh       bool // the schedulers do not know it yet
}

// takeEncoders takes the inventory and the stored certificate, if it holds.
func takeEncoders(ctx context.Context, cfg Config, id *edge.Identity) *encoders {
	e := &encoders{release: func() {}}
	if cfg.Program == "" {
		e.inventory.State = gpu.StateNoDriver
		e.inventory.Machine, e.inventory.Cores = gpu.Machine()
		return e
	}
	var err error
	e.inventory, e.release, err = gpu.Claim(cfg.Locks, certify.Take(ctx, certify.SelfCommand(cfg.Program)))
	if err != nil {
		cfg.Log.Warn("graphics processors are not claimed: another daemon of this machine would use them too", "error", err)
	}
	e.tell(cfg.Log)
	if e.inventory.State == gpu.StateFailed {
		cfg.Log.Warn("the machine's encoders could not be listed", "error", e.inventory.Detail)
	}
	if len(e.inventory.Devices)+len(e.inventory.VAAPI) > 0 {
		args := []string{"probe", "watch"}
		for _, r := range e.inventory.VAAPI {
			args = append(args, "--render", r.Path)
		}
		e.watcher = &gpu.Watcher{Log: cfg.Log, Command: func(ctx context.Context) *exec.Cmd {
			return exec.CommandContext(ctx, cfg.Program, args...)
		}}
	}
	e.certificate, e.signed = e.keeper(cfg, id).Stored()
	if c := e.certificate; c != nil && cfg.CPUCapacity > 0 {
		if k, ok := c.Certified(api.PoolCPU); ok && cfg.CPUCapacity > k.Macroblocks {
			cfg.Log.Warn("--cpu-capacity is above what is certified, which holds", "asked", cfg.CPUCapacity, "certified", k.Macroblocks)
		}
	}
	return e
}

// tell logs what was found; what another daemon holds is a warning.
func (e *encoders) tell(log *slog.Logger) {
	level := func(s gpu.State) slog.Level {
		if s == gpu.StateClaimed {
			return slog.LevelWarn
		}
		return slog.LevelInfo
	}
	for _, d := range e.inventory.Devices {
		log.Log(context.Background(), level(d.State), "graphics processor found", "index", d.Index, "model", d.Name, "state", d.State, "detail", d.Detail)
	}
	for _, r := range e.inventory.VAAPI {
		log.Log(context.Background(), level(r.State), "render node found", "path", r.Path, "driver", r.Driver, "state", cmp.Or(r.State, gpu.StateOK), "detail", r.Detail)
	}
}

func (e *encoders) keeper(cfg Config, id *edge.Identity) *certify.Keeper {
	return &certify.Keeper{Path: filepath.Join(cfg.Data, certify.File), Key: id.Key, Inventory: e.inventory, Log: cfg.Log}
}

// sample gives the way to the graphics processors' readings; nil without one.
// Engines in quarantine are shown as such.
func (e *encoders) sample(book *engines.Book) func() gpu.Sample {
	if e.watcher == nil {
		return nil
	}
	return func() gpu.Sample { return quarantined(e.inventory.Steady(e.watcher.Latest()), book) }
}

func quarantined(s gpu.Sample, book *engines.Book) gpu.Sample {
	out, err := book.Quarantined()
	if err != nil {
		return s // the readings are worth more than the mark
	}
	s.Readings = slices.Clone(s.Readings)
	for i, r := range s.Readings {
		if why, there := out[r.Name()]; there && r.State == gpu.StateOK {
			s.Readings[i].State, s.Readings[i].Detail = gpu.StateQuarantined, why
		}
	}
	return s
}

// settle makes the node follow what its pools may carry: its own account and the
// book that streams take their engines from.
func (e *encoders) settle(cfg Config, agent *edge.Agent, pools []api.Capacity) {
	e.mu.Lock()
	list := engines.Certified(e.certificate, pools)
	e.mu.Unlock()
	agent.SetPools(pools)
	var hardware []edge.Engine
	for _, x := range list {
		if x.Pool != api.PoolCPU {
			hardware = append(hardware, edge.Engine{Name: x.Name, Pool: x.Pool, Macroblocks: x.Macroblocks})
		}
	}
	agent.SetEngines(hardware)
	run := runDir(cfg)
	err := os.MkdirAll(string(run), 0o700)
	if err == nil {
		err = engines.Open(run).Write(list)
	}
	if err != nil {
		cfg.Log.Error("streams cannot be given engines anew", "error", err)
	}
}

// offer gives what the node says of its encoders; operator is its operator's own
// figure of the cpu pool, 0 without.
func (e *encoders) offer(operator uint64) ([]api.Capacity, *api.SignedCertificate) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return certify.Pools(e.certificate, e.inventory, operator), e.signed
}

// news says, once, that there is a new certificate.
func (e *encoders) news() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	was := e.fresh
	e.fresh = false
	return was
}

// keep has the encoders measured while no session runs, until all are or ctx ends.
func (e *encoders) keep(ctx context.Context, cfg Config, id *edge.Identity, busy func() bool) {
	k := e.keeper(cfg, id)
	k.Busy = busy
	k.Measure = func(ctx context.Context, full bool) api.Certificate {
		return certify.Measure(ctx, certify.Config{Command: certify.SelfCommand(cfg.Program), Node: id.ID, Inventory: e.inventory, Full: full})
	}
	k.Changed = func(_ context.Context, s api.SignedCertificate, c api.Certificate) {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.certificate, e.signed, e.fresh = &c, &s, true
	}
	k.Run(ctx)
}
