package nvml

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/edge/gpu"
)

// TestMain is also the process that enters the driver: each test has one of its
// own, as `perigee-edge probe` has. It answers each line of its input with what
// it sees.
func TestMain(m *testing.M) {
	if os.Getenv("PERIGEE_TEST_ROLE") != "nvml" {
		os.Exit(m.Run())
	}
	d := Open(os.Getenv("PERIGEE_TEST_LIBRARY"))
	in, out := bufio.NewScanner(os.Stdin), json.NewEncoder(os.Stdout)
	for in.Scan() {
		var s seen
		if in.Text() == "devices" {
			s.Devices, s.State, s.Detail = d.Devices(context.Background())
			s.Driver = d.Version()
		}
		s.Readings = d.Read(context.Background())
		if out.Encode(s) != nil {
			os.Exit(1)
		}
	}
	d.Close()
	os.Exit(0)
}

type seen struct {
	Devices  []gpu.Device
	State    gpu.State
	Detail   string
	Driver   string
	Readings []gpu.Reading
}

// library builds the stub as the loader would find it.
func library(t *testing.T, flags ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), DefaultLibrary)
	args := append([]string{"-shared", "-fPIC", "-o", path, "testdata/stub.c"}, flags...)
	if out, err := exec.Command("gcc", args...).CombinedOutput(); err != nil {
		t.Fatalf("build the stub: %v: %s", err, out)
	}
	return path
}

// world is a process on a library that plays a script.
type world struct {
	t      *testing.T
	cmd    *exec.Cmd
	script string
	in     *os.File
	out    *bufio.Reader
}

func start(t *testing.T, library, script string) *world {
	t.Helper()
	w := &world{t: t, script: filepath.Join(t.TempDir(), "script")}
	w.play(script)
	r, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	w.in = in
	w.cmd = exec.Command(os.Args[0])
	w.cmd.Env = append(os.Environ(), "PERIGEE_TEST_ROLE=nvml", "PERIGEE_TEST_LIBRARY="+library, "NVML_STUB="+w.script)
	w.cmd.Stdin = r
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	w.out = bufio.NewReader(out)
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = r.Close()
	t.Cleanup(func() {
		_ = w.in.Close()
		timer := time.AfterFunc(5*time.Second, func() { _ = w.cmd.Process.Kill() })
		defer timer.Stop()
		_ = w.cmd.Wait()
	})
	return w
}

func (w *world) play(script string) {
	w.t.Helper()
	next := w.script + ".new"
	if err := os.WriteFile(next, []byte(script), 0o600); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(next, w.script); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) ask(what string) (s seen) {
	w.t.Helper()
	if _, err := fmt.Fprintln(w.in, what); err != nil {
		w.t.Fatal(err)
	}
	line, err := w.out.ReadBytes('\n')
	if err != nil {
		w.t.Fatalf("the process gave no answer: %v", err)
	}
	if err := json.Unmarshal(line, &s); err != nil {
		w.t.Fatal(err)
	}
	return s
}

const t4 = "count 1\ndriver 570.86.15\nname Tesla T4\nuuid GPU-aaaa\npci 00000000:3B:00.0\nmemory_mib 15360\nused_mib 3840\n" +
	"gpu 22\nencoder 64\nsessions 24\nfps 30\nlatency 4100\ntemperature 61\n"

func TestDevices(t *testing.T) {
	lib := library(t)
	for name, c := range map[string]struct {
		script  string
		state   gpu.State
		engines int
		device  gpu.State
		encodes bool
	}{
		"a T4":                            {t4, gpu.StateOK, 1, gpu.StateOK, true},
		"an L4":                           {"count 1\nname NVIDIA L4\nmemory_mib 23034\n", gpu.StateOK, 2, gpu.StateOK, true},
		"a GeForce":                       {"count 1\nname NVIDIA GeForce RTX 4070\n", gpu.StateOK, 1, gpu.StateOK, true},
		"an H200":                         {"count 1\nname NVIDIA H200\nmemory_mib 143771\nfail.encoder 3\n", gpu.StateOK, 0, gpu.StateNoEncoder, false},
		"an unknown model":                {"count 1\nname NVIDIA Future 1\n", gpu.StateOK, -1, gpu.StateOK, true},
		"an unknown one without encoder":  {"count 1\nname NVIDIA Future 2\nfail.encoder 3\n", gpu.StateOK, 0, gpu.StateNoEncoder, false},
		"a split one":                     {"count 1\nname NVIDIA L40S\nmig 1\n", gpu.StateOK, 3, gpu.StateOK, false},
		"lost at the start":               {"count 1\nname Tesla T4\nfail.name 15\n", gpu.StateOK, -1, gpu.StateLost, false},
		"no handle":                       {"count 1\nfail.handle 4\n", gpu.StateOK, -1, gpu.StateDenied, false},
		"no name":                         {"count 1\nname \n", gpu.StateOK, -1, gpu.StateNonsense, false},
		"no device":                       {"count 0\n", gpu.StateNoGPU, 0, "", false},
		"a million devices":               {"count 1000000\n", gpu.StateNonsense, 0, "", false},
		"the driver not loaded":           {"fail.init 9\n", gpu.StateNoDriver, 0, "", false},
		"library and driver of two kinds": {"fail.init 18\n", gpu.StateSymbol, 0, "", false},
		"any other fault":                 {"fail.init 999\n", gpu.StateFailed, 0, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, lib, c.script).ask("devices")
			if s.State != c.state || s.State != gpu.StateOK && s.Detail == "" {
				t.Fatalf("state %s (%s), want %s", s.State, s.Detail, c.state)
			}
			if c.device == "" {
				if len(s.Devices) != 0 || len(s.Readings) != 0 {
					t.Errorf("has devices: %+v", s)
				}
				return
			}
			d := s.Devices[0]
			if d.Engines != c.engines || d.State != c.device || d.Encodes() != c.encodes {
				t.Errorf("device %+v", d)
			}
		})
	}
}

func TestReadings(t *testing.T) {
	w := start(t, library(t), t4)
	s := w.ask("devices")
	want := gpu.Device{UUID: "GPU-aaaa", Name: "Tesla T4", PCI: "00000000:3B:00.0", MemoryMiB: 15360, Engines: 1, State: gpu.StateOK}
	if len(s.Devices) != 1 || s.Devices[0] != want || s.Driver != "570.86.15" {
		t.Fatalf("saw %+v", s)
	}
	busy := gpu.Reading{UUID: "GPU-aaaa", State: gpu.StateOK, GPU: 22, Encoder: 64, Memory: 25, Sessions: 24, FPS: 30, LatencyUS: 4100, Temperature: 61}
	if len(s.Readings) != 1 || s.Readings[0] != busy {
		t.Fatalf("read %+v", s.Readings)
	}
	for name, c := range map[string]struct {
		change string
		state  gpu.State
	}{
		"utilisation of 4 billion": {"gpu 4294967295\n", gpu.StateNonsense},
		"encoder above all":        {"encoder 101\n", gpu.StateNonsense},
		"more memory than it has":  {"used_mib 99999\n", gpu.StateNonsense},
		"a million sessions":       {"sessions 1000000\n", gpu.StateNonsense},
		"a fault":                  {"fail.stats 999\n", gpu.StateFailed},
		"not supported":            {"fail.encoder 3\nfail.stats 3\n", gpu.StateOK},
	} {
		w.play(c.change + t4) // the first line of a key holds
		r := w.ask("read").Readings[0]
		if r.State != c.state || r.State != gpu.StateOK && r.Detail == "" {
			t.Errorf("%s: %+v", name, r)
		}
		for _, v := range []int{r.GPU, r.Encoder, r.Memory} {
			if v < -1 || v > 100 {
				t.Errorf("%s: a share of %d", name, v)
			}
		}
	}
}

// A processor that falls off the bus and is put back, while its neighbour works on.
func TestGPULostAndPutBack(t *testing.T) {
	two := "count 2\n1.name NVIDIA L4\n1.uuid GPU-bbbb\n" + strings.ReplaceAll(t4, "count 1\n", "")
	w := start(t, library(t), two)
	states := func(s seen) (out []gpu.State) {
		for _, r := range s.Readings {
			out = append(out, r.State)
		}
		return out
	}
	if got := states(w.ask("devices")); !slices.Equal(got, []gpu.State{gpu.StateOK, gpu.StateOK}) {
		t.Fatalf("states %v", got)
	}
	const calls = "0.fail.utilization 15\n0.fail.memory 15\n0.fail.encoder 15\n0.fail.stats 15\n0.fail.temperature 15\n"
	w.play(calls + two)
	if got := states(w.ask("read")); !slices.Equal(got, []gpu.State{gpu.StateLost, gpu.StateOK}) {
		t.Errorf("states %v after a loss", got)
	}
	w.play(two)
	if got := states(w.ask("read")); got[0] != gpu.StateLost {
		t.Errorf("a lost device came back without being listed again: %v", got)
	}
	if got := states(w.ask("devices")); !slices.Equal(got, []gpu.State{gpu.StateOK, gpu.StateOK}) {
		t.Errorf("states %v after it was put back", got)
	}
}

func TestMissingSymbols(t *testing.T) {
	s := start(t, library(t, "-DWITHOUT_ENCODER"), t4).ask("devices")
	if s.State != gpu.StateOK || s.Readings[0].Encoder != -1 || s.Readings[0].Sessions != -1 || s.Readings[0].GPU != 22 {
		t.Errorf("without the encoder's symbols: %+v", s)
	}
	s = start(t, library(t, "-DWITHOUT_COUNT"), t4).ask("devices")
	if s.State != gpu.StateSymbol || !strings.Contains(s.Detail, "nvmlDeviceGetCount") {
		t.Errorf("without a needed symbol: %+v", s)
	}
	s = start(t, filepath.Join(t.TempDir(), "absent.so"), t4).ask("devices")
	if s.State != gpu.StateNoDriver || s.Detail == "" {
		t.Errorf("without a library: %+v", s)
	}
	text := filepath.Join(t.TempDir(), "text.so")
	if err := os.WriteFile(text, []byte("no library"), 0o600); err != nil {
		t.Fatal(err)
	}
	if s = start(t, text, t4).ask("devices"); s.State != gpu.StateNoDriver {
		t.Errorf("with a text in place of the library: %+v", s)
	}
}

// This machine's own driver, whatever it is.
func TestThisMachine(t *testing.T) {
	s := start(t, "", "").ask("devices")
	t.Logf("driver %s %q (%s), devices %+v, readings %+v", s.State, s.Driver, s.Detail, s.Devices, s.Readings)
	if s.State == gpu.StateOK && len(s.Devices) == 0 || s.State != gpu.StateOK && s.Detail == "" {
		t.Errorf("saw %+v", s)
	}
}
