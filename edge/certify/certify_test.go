package certify

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/gpu"
)

// TestMain is also the measuring child, which does what its codec's turn is to do.
func TestMain(m *testing.M) {
	if os.Getenv("PERIGEE_TEST_ROLE") != "child" {
		os.Exit(m.Run())
	}
	switch role := os.Getenv("PERIGEE_TEST_DOES"); role {
	case "crash":
		_ = syscall.Kill(os.Getpid(), syscall.SIGSEGV)
		time.Sleep(time.Minute)
	case "panic":
		panic("as a fault in C ends")
	case "hang":
		time.Sleep(time.Minute)
	case "fail":
		fmt.Fprintln(os.Stderr, "first\nno such device")
		os.Exit(1)
	case "noise":
		_, _ = os.Stdout.Write(bytes.Repeat([]byte("x"), 1<<20))
	default:
		fmt.Println(role)
	}
	os.Exit(0)
}

// does makes children that do one thing after the other.
func does(roles ...string) func(context.Context, ...string) *exec.Cmd {
	var mu sync.Mutex
	return func(ctx context.Context, args ...string) *exec.Cmd {
		mu.Lock()
		defer mu.Unlock()
		cmd := exec.CommandContext(ctx, os.Args[0])
		cmd.Env = append(os.Environ(), "PERIGEE_TEST_ROLE=child", "PERIGEE_TEST_DOES="+roles[0])
		if len(roles) > 1 {
			roles = roles[1:]
		}
		return cmd
	}
}

func TestWhateverAChildDoesIsAState(t *testing.T) {
	good := `{"state":"certified","encoder":"x","macroblocks_per_s":500}`
	inv := gpu.Inventory{Machine: "m", Cores: 2, Software: "s"}
	jobs := func(n int) []Job { return slices.Repeat([]Job{{Engine: "cpu", Pool: api.PoolCPU, Codec: api.H264}}, n) }
	c := Measure(t.Context(), Config{Command: does(good, "crash", "panic", "fail", "noise", `{"state":"excellent"}`, `{"state":"too_slow"}`), Inventory: inv, Jobs: jobs(7)})
	want := []api.EngineState{api.EngineCertified, api.EngineCrashed, api.EngineCrashed, api.EngineFailed, api.EngineFailed, api.EngineFailed, api.EngineSlow}
	for i, e := range c.Engines {
		if e.State != want[i] || e.Engine != "cpu" || e.Codec != api.H264 || len(e.Detail) > 200 {
			t.Errorf("child %d: %+v, want %s", i, e, want[i])
		}
	}
	if c.State != api.CertificateComplete || c.Machine != "m" || c.Software != "s" || c.Clip != Clip || !strings.Contains(c.Engines[3].Detail, "no such device") {
		t.Errorf("certificate %+v", c)
	}
	if k, ok := c.Certified(api.PoolCPU); !ok || k.Macroblocks != 500 {
		t.Errorf("certified %+v, %v", k, ok)
	}

	if c = Measure(t.Context(), Config{Command: does(`{"state":"too_slow"}`), Jobs: jobs(2)}); c.State != api.CertificateNothing {
		t.Errorf("a machine where nothing certifies is %s", c.State)
	}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var began time.Time
	started, child := 0, does(good, "hang", good)
	c = Measure(ctx, Config{Jobs: jobs(3), Command: func(ctx context.Context, args ...string) *exec.Cmd {
		if started++; started == 2 {
			began = time.Now()
			time.AfterFunc(100*time.Millisecond, cancel)
		}
		return child(ctx, args...)
	}})
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("cut off after %v", took)
	}
	if c.State != api.CertificateInterrupted || c.Engines[0].State != api.EngineCertified || c.Engines[1].State != api.EngineInterrupted || c.Engines[2].Detail != "its turn did not come" {
		t.Errorf("cut off: %+v", c.Engines)
	}
}

func TestInventoryOfABrokenDriver(t *testing.T) {
	inv := Take(t.Context(), does("crash"))
	if inv.State != gpu.StateFailed || inv.Detail == "" || inv.Cores < 1 || inv.Machine == "" {
		t.Errorf("inventory %+v", inv)
	}
	if inv = Take(t.Context(), does(`{"state":"ok","cores":8,"machine":"m"}`)); inv.State != gpu.StateOK || inv.Cores != 8 {
		t.Errorf("inventory %+v", inv)
	}
}

func TestJobs(t *testing.T) {
	inv := gpu.Inventory{VAAPI: []gpu.Render{{Path: "/dev/dri/renderD128"}}, Devices: []gpu.Device{
		{Index: 0, Name: "Tesla T4", Engines: 1, State: gpu.StateOK}, {Index: 1, Name: "NVIDIA L4", Engines: 2, State: gpu.StateOK},
		{Index: 2, Name: "NVIDIA H200", State: gpu.StateNoEncoder}, {Index: 3, Name: "Future", Engines: -1, State: gpu.StateOK},
		{Index: 4, Name: "Tesla T4", Engines: 1, State: gpu.StateLost}, {Index: 5, Name: "NVIDIA L4", Engines: 2, State: gpu.StateOK, MIG: true},
	}}
	want := "nvenc0:H264 nvenc0:H265 nvenc1:H264 nvenc1:H265 nvenc1:AV1 nvenc3:H264 nvenc3:H265 nvenc3:AV1 vaapi0:H264 vaapi0:H265 cpu:H264 cpu:VP8 cpu:VP9 cpu:AV1"
	if got := jobNames(inv); got != want {
		t.Errorf("jobs %s", got)
	}
}

// A certificate is held against what is published, in each codec.
func TestJobsCarryPublishedFigures(t *testing.T) {
	inv := gpu.Inventory{Devices: []gpu.Device{{Name: "NVIDIA L4", Engines: 2, State: gpu.StateOK}, {Index: 1, Name: "Future", Engines: -1, State: gpu.StateOK}}}
	want := map[string]uint64{"nvenc0 H264": 2 * 652 * 8160, "nvenc0 H265": 2 * 494 * 8160, "nvenc0 AV1": 2 * 774 * 8160}
	for _, j := range Jobs(inv) {
		name := j.Engine + " " + string(j.Codec)
		if j.Public != want[name] {
			t.Errorf("%s is published to do %d, want %d", name, j.Public, want[name])
		}
		e := api.EngineCertificate{Engine: j.Engine, Codec: j.Codec, State: api.EngineCertified, Public: j.Public}
		for share, alarms := range map[uint64]int{40: 1, 60: 0, 100: 0, 190: 0, 210: 1} {
			e.Macroblocks = j.Public * share / 100
			if got := Compare(api.Certificate{}, api.Certificate{Engines: []api.EngineCertificate{e}}); j.Public > 0 && len(got) != alarms {
				t.Errorf("%s at %d %% of its model's figure: %q", name, share, got)
			}
		}
		delete(want, name)
	}
	if len(want) > 0 {
		t.Errorf("not measured: %v", want)
	}
}

func key() ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
}

func nodeID() api.NodeID { return api.NodeIDFromKey(key().Public().(ed25519.PublicKey)) }

// certificate is one of a machine without graphics processors.
func certificate(mbs uint64) api.Certificate {
	c := api.Certificate{Version: 1, Node: nodeID(), State: api.CertificateComplete, Machine: "m", Cores: 2, Software: "s", Clip: Clip}
	for _, codec := range api.SoftwareCodecs() {
		c.Engines = append(c.Engines, api.EngineCertificate{Engine: "cpu", Pool: api.PoolCPU, Codec: codec, State: api.EngineCertified, Macroblocks: mbs})
	}
	return c
}

func machine() gpu.Inventory { return gpu.Inventory{Machine: "m", Cores: 2, Software: "s"} }

func TestStoredCertificateMustBeTheNodesOwn(t *testing.T) {
	path := filepath.Join(t.TempDir(), File)
	public := key().Public().(ed25519.PublicKey)
	if _, _, err := Load(path, public); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
	c := certificate(1000)
	if _, err := Save(path, c, key()); err != nil {
		t.Fatal(err)
	}
	got, signed, err := Load(path, public)
	if err != nil || len(got.Engines) != 4 || got.Engines[2].Macroblocks != 1000 {
		t.Fatalf("read %+v, %v", got, err)
	}
	// As it travels: within another document, indented on the way.
	n, err := json.MarshalIndent(api.Node{Certificate: &signed}, "", "   ")
	if err != nil {
		t.Fatal(err)
	}
	var back api.Node
	if err := json.Unmarshal(n, &back); err != nil {
		t.Fatal(err)
	}
	if _, err := back.Certificate.Open(public); err != nil {
		t.Errorf("after its way: %v", err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	stranger := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{8}, ed25519.SeedSize))
	for name, b := range map[string][]byte{
		"cut": whole[:len(whole)/2], "empty": nil, "changed": bytes.Replace(whole, []byte("1000"), []byte("9000"), 1), "no document": []byte("{}"),
	} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := Load(path, public); !errors.Is(err, api.ErrCertificate) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Save(path, c, stranger); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Load(path, public); !errors.Is(err, api.ErrCertificate) {
		t.Errorf("another node's: %v", err)
	}
	if _, _, err := Load(path, stranger.Public().(ed25519.PublicKey)); !errors.Is(err, api.ErrCertificate) {
		t.Errorf("another node's name under its own key: %v", err)
	}
}

func TestOutdated(t *testing.T) {
	if why := Outdated(certificate(1), machine()); why != "" {
		t.Errorf("holds not: %s", why)
	}
	for what, change := range map[string]func(*gpu.Inventory){
		"processor": func(i *gpu.Inventory) { i.Machine = "other" }, "cores": func(i *gpu.Inventory) { i.Cores++ },
		"software": func(i *gpu.Inventory) { i.Software = "new" }, "driver": func(i *gpu.Inventory) { i.Driver = "570" },
		"engines": func(i *gpu.Inventory) { i.VAAPI = []gpu.Render{{Path: "/dev/dri/renderD128"}} },
	} {
		inv := machine()
		change(&inv)
		if why := Outdated(certificate(1), inv); !strings.Contains(why, what) {
			t.Errorf("%s: %q", what, why)
		}
	}
}

func TestCompare(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*api.EngineCertificate)
		alarm  string
	}{
		"the same":         {func(*api.EngineCertificate) {}, ""},
		"a little less":    {func(e *api.EngineCertificate) { e.Macroblocks = 910 }, ""},
		"much less":        {func(e *api.EngineCertificate) { e.Macroblocks = 880 }, "-12 %"},
		"much more":        {func(e *api.EngineCertificate) { e.Macroblocks = 1200 }, "+20 %"},
		"beside others":    {func(e *api.EngineCertificate) { e.Macroblocks, e.Detail = 500, "beside other load" }, ""},
		"broken":           {func(e *api.EngineCertificate) { e.State, e.Detail = api.EngineCrashed, "signal" }, "was certified and is crashed"},
		"cut off":          {func(e *api.EngineCertificate) { e.State = api.EngineInterrupted }, ""},
		"unlike its model": {func(e *api.EngineCertificate) { e.Public = 3000 }, "published"},
	} {
		now := certificate(1000)
		c.change(&now.Engines[0])
		got := Compare(certificate(1000), now)
		if c.alarm == "" && len(got) > 0 || c.alarm != "" && (len(got) != 1 || !strings.Contains(got[0], c.alarm) || !strings.Contains(got[0], "cpu H264")) {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestSaturation(t *testing.T) {
	e := api.EngineCertificate{State: api.EngineCertified, Load: []api.LoadPoint{
		{Macroblocks: 100, Busy: 12}, {Macroblocks: 500, Busy: 50}, {Macroblocks: 400, Busy: 99}, {Macroblocks: 950, Busy: 95}}}
	for mbs, want := range map[float64]float64{0: 0, 50: 6, 100: 12, 300: 31, 500: 50, 725: 72.5, 1000: 100} {
		if got, ok := Saturation(e, mbs); !ok || got < want-0.01 || got > want+0.01 {
			t.Errorf("%v macroblocks/s: %v, want %v", mbs, got, want)
		}
	}
	if _, ok := Saturation(api.EngineCertificate{State: api.EngineCertified}, 5); ok {
		t.Error("predicted without a curve")
	}
	e.State = api.EngineSlow
	if _, ok := Saturation(e, 5); ok {
		t.Error("predicted for what is not certified")
	}
}

func TestPoolsNeverAboveTheCertificate(t *testing.T) {
	inv := machine()
	estimated := Pools(nil, inv, 0)
	if len(estimated) != 1 || estimated[0].Macroblocks != 900_000 {
		t.Errorf("without a certificate: %+v", estimated)
	}
	c := certificate(500_000)
	c.Engines[2].Macroblocks = 200_000 // VP9 binds nobody else
	got := Pools(&c, inv, 0)
	if len(got) != 1 || got[0].Macroblocks != 500_000 || len(got[0].Codecs) != 4 {
		t.Errorf("certified: %+v", got)
	}
	for _, codec := range api.SoftwareCodecs() { // whatever runs alone fits
		hd := api.Screen{Width: 1280, Height: 720, FPS: 30}
		streams := got[0].Macroblocks / got[0].Cost(codec, api.PresetDefault, hd)
		for _, e := range c.Engines {
			if e.Codec == codec && (streams*108_000 > e.Macroblocks || (streams+1)*108_000 <= e.Macroblocks) {
				t.Errorf("%d streams of %s, certified are %d macroblocks/s", streams, codec, e.Macroblocks)
			}
		}
	}
	if got := Pools(&c, inv, 1<<40); got[0].Macroblocks != 500_000 {
		t.Errorf("an operator's figure above the certificate holds: %+v", got)
	}
	if got := Pools(&c, inv, 1000); got[0].Macroblocks != 1000 || len(got[0].Factors) != 4 {
		t.Errorf("an operator's figure below it does not: %+v", got)
	}
	c.Engines[3].State = api.EngineFailed
	if got := Pools(&c, inv, 0); slices.Contains(got[0].Codecs, api.AV1) {
		t.Errorf("a codec that failed is offered: %+v", got)
	}
	for i := range c.Engines {
		c.Engines[i].State = api.EngineSlow
	}
	if got := Pools(&c, inv, 0); len(got) != 1 || got[0].Pool != api.PoolCPU || got[0].Macroblocks != 0 || len(got[0].Codecs) != 0 {
		t.Errorf("nothing certified: %+v", got)
	}
	c.Engines[0].State = api.EngineInterrupted
	if got := Pools(&c, inv, 0); got[0].Macroblocks != 900_000 {
		t.Errorf("half a measurement holds: %+v", got)
	}
	c = certificate(500_000)
	inv.Devices = []gpu.Device{{Name: "Tesla T4", Engines: 1, State: gpu.StateOK}}
	if got := Pools(&c, inv, 0); len(got) != 2 || got[0].Pool != api.PoolNVENC || got[0].Macroblocks != 3_996_000 {
		t.Errorf("the published figure does not stand in: %+v", got)
	}
	c.Engines = append(c.Engines, api.EngineCertificate{Engine: "nvenc0", Pool: api.PoolNVENC, Codec: api.H264, State: api.EngineUnavailable})
	if got := Pools(&c, inv, 0); len(got) != 1 {
		t.Errorf("an engine that failed its measurement is offered: %+v", got)
	}
	c.Engines[4].State, c.Engines[4].Macroblocks, c.Engines[4].Sessions = api.EngineCertified, 4_100_000, 8
	if got := Pools(&c, inv, 0); len(got) != 2 || got[0].Macroblocks != 4_100_000 || got[0].Sessions != 8 {
		t.Errorf("hardware and software side by side: %+v", got)
	}
}

func TestPrint(t *testing.T) {
	c := certificate(216_000)
	c.Engines[0].Encoder, c.Engines[0].FirstFrameMS, c.Engines[0].Foreign = "libx264", 12.3, 30
	c.Engines[0].Load = []api.LoadPoint{{P95MS: 4}, {P95MS: 5}, {P95MS: 9}}
	c.Engines[2].Fast = 777
	c.Engines[3] = api.EngineCertificate{Engine: "cpu", Codec: api.AV1, State: api.EngineSlow, Detail: "late"}
	c.Alarms = []string{"something strays"}
	var b bytes.Buffer
	if err := errors.Join(Print(&b, c), PrintInventory(&b, gpu.Inventory{Machine: "m", State: gpu.StateOK, Driver: "570", Devices: []gpu.Device{{Name: "Tesla T4", Engines: -1, State: gpu.StateLost, Detail: "off the bus"}}})); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"libx264", "preset fast: 777", "2.0", "4.0 / 5.0 / 9.0", "too_slow", "late", "ALARM: something strays", "other programs 30 %", "Tesla T4", "encoders unknown, lost (off the bus)", "driver 570"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is not shown in:\n%s", want, b.String())
		}
	}
}

// Half a certificate judges no pool: the estimate goes on. A machine that is too
// slow for anything has a pool without room, and a graphics processor that fails
// takes nothing from the processors.
func TestPoolsOfABrokenMeasurement(t *testing.T) {
	inv := machine()
	half := certificate(500_000)
	half.State = api.CertificateInterrupted
	half.Engines[2].State, half.Engines[3].State = api.EngineInterrupted, api.EngineInterrupted
	if got := Pools(&half, inv, 0); len(got) != 1 || got[0].Macroblocks != gpu.CPUPool(2).Macroblocks || len(got[0].Factors) != 0 {
		t.Errorf("half a certificate: %+v", got)
	}
	slow := certificate(0)
	slow.State = api.CertificateNothing
	for i := range slow.Engines {
		slow.Engines[i].State = api.EngineSlow
	}
	if got := Pools(&slow, inv, 1<<40); len(got) != 1 || got[0].Pool != api.PoolCPU || got[0].Macroblocks != 0 || len(got[0].Codecs) != 0 {
		t.Errorf("nothing certifies: %+v", got)
	}
	for _, s := range []api.EngineState{api.EngineHung, api.EngineCrashed, api.EngineFailed, api.EngineUnavailable} {
		c, with := certificate(500_000), machine()
		with.Devices = []gpu.Device{{Name: "Tesla T4", UUID: "GPU-a", Engines: 1, State: gpu.StateOK}}
		c.Engines = append([]api.EngineCertificate{{Engine: "nvenc0", Pool: api.PoolNVENC, Device: "0", Codec: api.H264, State: s}}, c.Engines...)
		if got := Pools(&c, with, 0); len(got) != 1 || got[0].Pool != api.PoolCPU || got[0].Macroblocks != 500_000 {
			t.Errorf("a graphics processor that is %s: %+v", s, got)
		}
	}
}
