package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge"
	"github.com/perigee-cloud/perigee/edge/certify"
	"github.com/perigee-cloud/perigee/edge/gpu"
	"github.com/perigee-cloud/perigee/edge/local"
)

// driver is a libnvidia-ml.so.1 that plays a script, and this program's probes on it.
type driver struct {
	t               *testing.T
	library, script string
}

func newDriver(t *testing.T) *driver {
	t.Helper()
	dir := t.TempDir()
	d := &driver{t, filepath.Join(dir, "libnvidia-ml.so.1"), filepath.Join(dir, "script")}
	if out, err := exec.Command("gcc", "-shared", "-fPIC", "-o", d.library, "../../edge/gpu/nvml/testdata/stub.c").CombinedOutput(); err != nil {
		t.Fatalf("build the stub: %v: %s", err, out)
	}
	return d
}

func (d *driver) play(lines ...string) {
	d.t.Helper()
	next := d.script + ".new"
	err := os.WriteFile(next, []byte(strings.Join(lines, "\n")+"\n"), 0o600)
	if err == nil {
		err = os.Rename(next, d.script)
	}
	if err != nil {
		d.t.Fatal(err)
	}
}

// probe is `perigee-edge probe` on the driver.
func (d *driver) probe(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0], append([]string{"probe"}, args...)...)
	cmd.Env = append(os.Environ(), edgeEnv+"=yes", nvmlEnv+"="+d.library, "NVML_STUB="+d.script)
	return cmd
}

// silent is a bus on which nobody answers.
type silent struct{}

var errSilent = errors.New("nobody answers")

func (silent) OnCommand(func(context.Context, api.Command) api.Ack) error { return nil }
func (silent) OnSignal(func(api.Signal)) error                            { return nil }
func (silent) SendSignal(api.Signal) error                                { return nil }
func (silent) Report(context.Context, api.Report) (api.Ack, error)        { return api.Ack{}, errSilent }
func (silent) Heartbeat(context.Context, api.Heartbeat) (api.HeartbeatAnswer, error) {
	return api.HeartbeatAnswer{}, errSilent
}

// ear hears what the daemon publishes.
type ear struct {
	mu   sync.Mutex
	last api.Headroom
}

func (e *ear) Publish(h api.Headroom) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.last = h
}

func (e *ear) engines() (h api.Headroom, by map[string]api.EngineHeadroom) {
	e.mu.Lock()
	defer e.mu.Unlock()
	by = map[string]api.EngineHeadroom{}
	for _, x := range e.last.Engines {
		by[x.Engine] = x
	}
	return e.last, by
}

// The whole way: a driver's library by its symbols, the reading process, the
// daemon, its headroom as it is published; with a processor that falls off the
// bus, one that speaks nonsense, a driver that crashes and one that hangs. What
// is wrong is named, its room is gone, and its neighbour's is not.
func TestDriversFaultsReachTheHeadroom(t *testing.T) {
	d := newDriver(t)
	two := []string{"count 2", "driver 570.86.15", "0.name Tesla T4", "0.uuid GPU-a", "1.name NVIDIA L4", "1.uuid GPU-b", "memory_mib 15360",
		"used_mib 1536", "gpu 5", "0.encoder 40", "1.encoder 10", "sessions 3", "fps 30", "latency 4100", "temperature 50"}
	with := func(lines ...string) { d.play(append(lines, two...)...) } // the first line of a key holds
	with()
	inv := certify.Take(t.Context(), d.probe)
	if inv.State != gpu.StateOK || inv.Driver != "570.86.15" || len(inv.Devices) != 2 || inv.Devices[0].Name != "Tesla T4" {
		t.Fatalf("inventory %+v", inv)
	}
	id, err := edge.OpenIdentity(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = id.Close() })
	log := slog.New(slog.DiscardHandler)
	w := &gpu.Watcher{Log: log, Silent: 2 * time.Second, Command: func(ctx context.Context) *exec.Cmd {
		return d.probe(ctx, "watch", "--every", "50ms", "--relist", "1s", "--render", "/dev/dri/renderD999")
	}}
	var heard ear
	agent, err := edge.New(edge.Config{Identity: id, Run: local.Run(t.TempDir()), Bus: silent{}, Publish: &heard, Log: log,
		Pools: []api.Capacity{{Pool: api.PoolNVENC, Macroblocks: 3000, Codecs: []api.Codec{api.H264}}, {Pool: api.PoolCPU, Macroblocks: 500, Codecs: []api.Codec{api.H264}}},
		Start: func(edge.Role, local.Session) *exec.Cmd { return exec.Command("sleep", "1000") }, Measure: func() (edge.Load, error) { return edge.Load{CPU: 1}, nil },
		Graphics: func() gpu.Sample { return inv.Steady(w.Latest()) }})
	if err != nil {
		t.Fatal(err)
	}
	agent.SetEngines([]edge.Engine{{Name: "nvenc0", Pool: api.PoolNVENC, Macroblocks: 1000}, {Name: "nvenc1", Pool: api.PoolNVENC, Macroblocks: 2000}})
	ctx, end := context.WithCancelCause(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { w.Run(ctx) })
	wg.Go(func() { _ = agent.Run(ctx) })
	t.Cleanup(func() { end(edge.ErrEndSessions); wg.Wait() })

	free := func(want uint64, first, second gpu.State) {
		t.Helper()
		until(t, string(first)+" and "+string(second), func() bool {
			h, by := heard.engines()
			return by["nvenc0"].State == string(first) && by["nvenc1"].State == string(second) && len(h.Pools) == 2 && h.Pools[0].Free == want && h.Pools[1].Free == 500
		})
	}
	free(3000-400-200, gpu.StateOK, gpu.StateOK) // all foreign: no session runs
	if h, by := heard.engines(); h.Binding != "nvenc0" || h.Saturation != 40 || by["nvenc0"].LatencyUS != 4100 || by["nvenc1"].Foreign != 10 || by["vaapi0"].State != string(gpu.StateLost) {
		t.Errorf("headroom %+v", h)
	}
	with("0.fail.utilization 15", "0.fail.memory 15", "0.fail.encoder 15", "0.fail.stats 15", "0.fail.temperature 15")
	free(2000-200, gpu.StateLost, gpu.StateOK)
	with("1.encoder 250")
	free(1000-400, gpu.StateOK, gpu.StateNonsense) // the lost one was put back: devices are listed anew
	with("abort 1")
	until(t, "a crash", func() bool { return w.Latest().State == gpu.StateFailed })
	with()
	free(3000-400-200, gpu.StateOK, gpu.StateOK)
	with("hang 1")
	until(t, "a hang", func() bool { s := w.Latest(); return s.State == gpu.StateFailed && strings.Contains(s.Detail, "hangs") })
	with("count 0")
	free(0, gpu.StateLost, gpu.StateLost)
}

// The JSON says what the tables say: a machine whose processor encodes no video
// is told from one without.
func TestProbeAsJSON(t *testing.T) {
	var out bytes.Buffer
	inv := gpu.Inventory{State: gpu.StateOK, Driver: "570", Devices: []gpu.Device{{Name: "NVIDIA H200", State: gpu.StateNoEncoder, Detail: "this model encodes no video"}}}
	if err := printJSON(&out, api.Certificate{State: api.CertificateComplete, Engines: []api.EngineCertificate{{Engine: "cpu"}}}, inv); err != nil {
		t.Fatal(err)
	}
	var c api.Certificate
	var rest struct{ Inventory gpu.Inventory }
	if err := errors.Join(json.Unmarshal(out.Bytes(), &c), json.Unmarshal(out.Bytes(), &rest)); err != nil || len(c.Engines) != 1 ||
		len(rest.Inventory.Devices) != 1 || rest.Inventory.Devices[0].State != gpu.StateNoEncoder {
		t.Errorf("%v: %s", err, out.String())
	}
}

// This machine's own graphics processors, whatever they are: what encodes no
// video is named so and given nothing to measure, and what is read can be.
func TestThisMachinesProcessors(t *testing.T) {
	self := func(ctx context.Context, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, os.Args[0], append([]string{"probe"}, args...)...)
		cmd.Env = append(os.Environ(), edgeEnv+"=yes")
		return cmd
	}
	inv := certify.Take(t.Context(), self)
	t.Logf("driver %s %s (%s), devices %+v, render nodes %+v", inv.State, inv.Driver, inv.Detail, inv.Devices, inv.VAAPI)
	if inv.State == gpu.StateFailed || inv.State == gpu.StateNonsense || inv.Cores < 1 {
		t.Errorf("inventory %+v", inv)
	}
	jobs := certify.Jobs(inv)
	for _, d := range inv.Devices {
		p, known := gpu.PublishedOf(d.Name)
		if known && p.Engines == 0 && !d.MIG && d.State != gpu.StateNoEncoder {
			t.Errorf("%s encodes no video and is %s", d.Name, d.State)
		}
		for _, j := range jobs {
			if j.Pool == api.PoolNVENC && j.Device == "0" && d.Index == 0 && !d.Encodes() {
				t.Errorf("%s is to be measured: %+v", d.Name, j)
			}
		}
	}
	if len(inv.Devices) == 0 {
		t.Skip("no NVIDIA graphics processor in this machine: nothing to read")
	}
	w := &gpu.Watcher{Log: slog.New(slog.DiscardHandler), Command: func(ctx context.Context) *exec.Cmd { return self(ctx, "watch", "--every", "100ms") }}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { w.Run(ctx) })
	defer func() { cancel(); wg.Wait() }()
	until(t, "readings", func() bool { return len(w.Latest().Readings) == len(inv.Devices) })
	for _, r := range w.Latest().Readings {
		t.Logf("%s: %+v", r.Name(), r)
		if r.State == gpu.StateNonsense || r.GPU > 100 || r.Encoder > 100 || r.Memory > 100 {
			t.Errorf("read %+v", r)
		}
	}
}
