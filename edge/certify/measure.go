// Package certify keeps a node's encoder certificate: it has child processes
// measure each engine, signs, stores and compares the result, and says what a
// load will make of the machine. Pure Go: what enters C is in the children.
package certify

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/gpu"
)

const (
	quickPhase = 300 * time.Millisecond
	fullPhase  = 3 * time.Second
	// quickTotal bounds the quick measurement; what has not had its turn by then
	// is interrupted.
	quickTotal  = 13500 * time.Millisecond
	quickEngine = 6 * time.Second
	fullEngine  = 2 * time.Minute
	maxOutput   = 64 << 10
	// Clip is the reference picture that the children encode.
	Clip = "noisy-720p-1"
)

// Job is one codec on one engine.
type Job struct {
	Engine string // "cpu", "nvenc0", "vaapi0"
	Pool   api.Pool
	Device string // for vaapi the render node, for nvenc the device's index
	Codec  api.Codec
	Public uint64 // what is published of its model, macroblocks per second; 0 = nothing
}

// Jobs lists what is to be measured of a machine: hardware first.
func Jobs(inv gpu.Inventory) []Job {
	var out []Job
	for _, d := range inv.Devices {
		if !d.Encodes() {
			continue
		}
		p, known := gpu.PublishedOf(d.Name)
		codecs := []api.Codec{api.H264, api.H265, api.AV1}
		if known {
			codecs = p.Codecs()
		}
		for _, c := range codecs {
			out = append(out, Job{Engine: fmt.Sprintf("nvenc%d", d.Index), Pool: api.PoolNVENC, Device: fmt.Sprint(d.Index), Codec: c, Public: p.Rates[c]})
		}
	}
	for i, r := range inv.VAAPI {
		if r.State != "" {
			continue
		}
		for _, c := range []api.Codec{api.H264, api.H265} {
			out = append(out, Job{Engine: fmt.Sprintf("vaapi%d", i), Pool: api.PoolVAAPI, Device: r.Path, Codec: c})
		}
	}
	for _, c := range gpu.Software() {
		out = append(out, Job{Engine: string(api.PoolCPU), Pool: api.PoolCPU, Codec: c})
	}
	return out
}

// Config of a measurement.
type Config struct {
	// Command makes a child: this program's "probe" with more arguments.
	Command   func(ctx context.Context, args ...string) *exec.Cmd
	Node      api.NodeID // "" outside a daemon
	Inventory gpu.Inventory
	Full      bool             // long phases; else in under 15 s
	Jobs      []Job            // nil: Jobs of the inventory
	Now       func() time.Time // nil: the clock
}

// SelfCommand runs a program's "probe" with more arguments.
func SelfCommand(program string) func(context.Context, ...string) *exec.Cmd {
	return func(ctx context.Context, args ...string) *exec.Cmd {
		return exec.CommandContext(ctx, program, append([]string{"probe"}, args...)...)
	}
}

// Measure measures each engine in a process of its own. It always gives a
// certificate: what went wrong is a state in it. When ctx ends, the rest is
// interrupted.
func Measure(ctx context.Context, cfg Config) api.Certificate {
	now := time.Now
	if cfg.Now != nil {
		now = cfg.Now
	}
	began := now()
	inv := cfg.Inventory
	c := api.Certificate{
		Version: api.CertificateVersion, Node: cfg.Node, TakenAt: began.UTC().Truncate(time.Second), Full: cfg.Full,
		Machine: inv.Machine, Cores: inv.Cores, Software: inv.Software, Driver: inv.Driver, Clip: Clip,
	}
	jobs := cfg.Jobs
	if jobs == nil {
		jobs = Jobs(inv)
	}
	if !cfg.Full {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, quickTotal)
		defer cancel()
	}
	for _, j := range jobs {
		e := cfg.one(ctx, j)
		e.Engine, e.Pool, e.Device, e.Codec, e.Public = j.Engine, j.Pool, j.Device, j.Codec, j.Public
		c.Engines = append(c.Engines, e)
	}
	c.Seconds = math.Round(now().Sub(began).Seconds()*10) / 10
	c.State = stateOf(c.Engines)
	return c
}

func stateOf(engines []api.EngineCertificate) api.CertificateState {
	certified := false
	for _, e := range engines {
		if e.State == api.EngineInterrupted {
			return api.CertificateInterrupted
		}
		certified = certified || e.State == api.EngineCertified
	}
	if !certified {
		return api.CertificateNothing
	}
	return api.CertificateComplete
}

// one has a child measure one job.
func (cfg Config) one(ctx context.Context, j Job) api.EngineCertificate {
	if ctx.Err() != nil {
		return api.EngineCertificate{State: api.EngineInterrupted, Detail: "its turn did not come"}
	}
	phase, limit := quickPhase, quickEngine
	if cfg.Full {
		phase, limit = fullPhase, fullEngine
	}
	wait, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	args := []string{"engine", "--engine", j.Engine, "--pool", string(j.Pool), "--codec", string(j.Codec), "--phase", phase.String()}
	if j.Device != "" {
		args = append(args, "--device", j.Device)
	}
	if cfg.Full {
		args = append(args, "--yield", "--fast")
	}
	var e api.EngineCertificate
	err := child(wait, cfg.Command, &e, args...)
	var exit *exec.ExitError
	fail := func(s api.EngineState, detail string) api.EngineCertificate {
		return api.EngineCertificate{State: s, Detail: clip(detail)}
	}
	switch {
	case err == nil && known(e.State):
		return e
	case err == nil:
		return fail(api.EngineFailed, fmt.Sprintf("the measurement answers with the unknown state %q", e.State))
	case ctx.Err() != nil:
		return fail(api.EngineInterrupted, "cut off")
	case wait.Err() != nil:
		return fail(api.EngineHung, fmt.Sprintf("no result after %s; the process was killed", limit))
	case errors.As(err, &exit) && signalled(exit):
		return fail(api.EngineCrashed, err.Error())
	}
	return fail(api.EngineFailed, err.Error())
}

func known(s api.EngineState) bool {
	switch s {
	case api.EngineCertified, api.EngineSlow, api.EngineUnavailable, api.EngineFailed, api.EngineInterrupted:
		return true
	}
	return false
}

func signalled(e *exec.ExitError) bool {
	w, ok := e.Sys().(syscall.WaitStatus)
	const goPanic = 2 // the runtime's own end after a fault in C
	return ok && (w.Signaled() || w.ExitStatus() == goPanic)
}

// child runs a process and reads the JSON that it writes.
func child(ctx context.Context, command func(context.Context, ...string) *exec.Cmd, v any, args ...string) error {
	cmd := command(ctx, args...)
	var out, problem limited
	cmd.Stdout, cmd.Stderr = &out, &problem
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("measure in a child process: %w: %s", err, lastLine(problem.String()))
	}
	if err := json.Unmarshal(out.Bytes(), v); err != nil {
		return fmt.Errorf("read the child's result: %w", err)
	}
	return nil
}

// inventoryLimit is generous: a driver that initialises its devices may need
// seconds.
const inventoryLimit = 10 * time.Second

// Take has a child take the machine's inventory. A driver that crashes or hangs
// is a state of it.
func Take(ctx context.Context, command func(context.Context, ...string) *exec.Cmd) gpu.Inventory {
	ctx, cancel := context.WithTimeout(ctx, inventoryLimit)
	defer cancel()
	var inv gpu.Inventory
	if err := child(ctx, command, &inv, "inventory"); err != nil {
		inv = gpu.Inventory{State: gpu.StateFailed, Detail: clip(err.Error())}
		inv.Machine, inv.Cores = gpu.Machine()
	}
	return inv
}

// limited keeps the first maxOutput bytes.
type limited struct{ bytes.Buffer }

func (l *limited) Write(b []byte) (int, error) {
	if room := maxOutput - l.Len(); room > 0 {
		l.Buffer.Write(b[:min(room, len(b))])
	}
	return len(b), nil
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}

func clip(s string) string { return strings.ToValidUTF8(s[:min(len(s), 200)], "") }
