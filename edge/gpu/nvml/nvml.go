// Package nvml is the gpu.Driver of NVIDIA's processors. It loads the driver's
// libnvidia-ml.so.1 at run time and enters C: only a child process of
// `perigee-edge probe` may use it, so that a driver's crash is a result.
package nvml

import (
	"context"
	"fmt"
	"strings"

	"github.com/NVIDIA/go-nvml/pkg/dl"
	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/perigee-cloud/perigee/edge/gpu"
)

// DefaultLibrary is the driver's library as the loader finds it.
const DefaultLibrary = "libnvidia-ml.so.1"

// maxDevices bounds what is believed: the largest machines have 16, split ones
// seven instances each, which are not devices of their own here.
const maxDevices = 64

// needed are the symbols without which nothing works; one of each group. A
// symbol that is called and absent would end the process, so all are looked up.
func needed() [][]string {
	return [][]string{
		{"nvmlInit_v2", "nvmlInit"}, {"nvmlShutdown"}, {"nvmlErrorString"},
		{"nvmlDeviceGetCount_v2", "nvmlDeviceGetCount"}, {"nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetHandleByIndex"},
		{"nvmlDeviceGetName"}, {"nvmlDeviceGetUUID"},
	}
}

// Driver reads through NVML.
type Driver struct {
	lib     nvml.Interface
	has     map[string]bool // optional symbols that are there
	devices []gpu.Device
	handles []nvml.Device
}

var _ gpu.Driver = (*Driver)(nil)

// Open loads a library ("" = DefaultLibrary) and gives its Driver, or the
// honest twin that says why there is none.
func Open(path string) gpu.Driver {
	if path == "" {
		path = DefaultLibrary
	}
	has, problem := symbols(path)
	if problem.State != "" {
		return problem
	}
	lib := nvml.New(nvml.WithLibraryPath(path))
	if ret := lib.Init(); ret != nvml.SUCCESS {
		return gpu.Unavailable{State: stateOf(ret), Detail: "initialise NVML: " + lib.ErrorString(ret)}
	}
	return &Driver{lib: lib, has: has}
}

// symbols looks up what the library has.
func symbols(path string) (map[string]bool, gpu.Unavailable) {
	l := dl.New(path, dl.RTLD_LAZY|dl.RTLD_GLOBAL)
	if err := l.Open(); err != nil {
		return nil, gpu.Unavailable{State: gpu.StateNoDriver, Detail: err.Error()}
	}
	defer func() { _ = l.Close() }() // NVML itself holds it open again
	found := func(names ...string) bool {
		for _, n := range names {
			if l.Lookup(n) == nil {
				return true
			}
		}
		return false
	}
	for _, group := range needed() {
		if !found(group...) {
			return nil, gpu.Unavailable{State: gpu.StateSymbol, Detail: fmt.Sprintf("%s has no %s: install a matching driver", path, group[0])}
		}
	}
	has := map[string]bool{}
	for _, n := range []string{"nvmlSystemGetDriverVersion", "nvmlDeviceGetMemoryInfo", "nvmlDeviceGetUtilizationRates",
		"nvmlDeviceGetEncoderUtilization", "nvmlDeviceGetEncoderStats", "nvmlDeviceGetTemperature", "nvmlDeviceGetMigMode"} {
		has[n] = found(n)
	}
	has["nvmlDeviceGetPciInfo"] = found("nvmlDeviceGetPciInfo_v3", "nvmlDeviceGetPciInfo_v2", "nvmlDeviceGetPciInfo")
	return has, gpu.Unavailable{}
}

func stateOf(r nvml.Return) gpu.State {
	switch r {
	case nvml.SUCCESS:
		return gpu.StateOK
	case nvml.ERROR_LIBRARY_NOT_FOUND, nvml.ERROR_DRIVER_NOT_LOADED:
		return gpu.StateNoDriver
	case nvml.ERROR_FUNCTION_NOT_FOUND, nvml.ERROR_LIB_RM_VERSION_MISMATCH:
		return gpu.StateSymbol
	case nvml.ERROR_GPU_IS_LOST, nvml.ERROR_NOT_FOUND:
		return gpu.StateLost
	case nvml.ERROR_NO_PERMISSION:
		return gpu.StateDenied
	}
	return gpu.StateFailed
}

// Version is the driver's.
func (d *Driver) Version() string {
	if !d.has["nvmlSystemGetDriverVersion"] {
		return ""
	}
	v, ret := d.lib.SystemGetDriverVersion()
	if ret != nvml.SUCCESS {
		return ""
	}
	return strings.ToValidUTF8(v, "")
}

// Devices lists the processors anew: one that was put back is found again.
func (d *Driver) Devices(context.Context) ([]gpu.Device, gpu.State, string) {
	d.devices, d.handles = nil, nil
	n, ret := d.lib.DeviceGetCount()
	switch {
	case ret != nvml.SUCCESS:
		return nil, stateOf(ret), "count devices: " + d.lib.ErrorString(ret)
	case n == 0:
		return nil, gpu.StateNoGPU, "the driver has no device"
	case n < 0 || n > maxDevices:
		return nil, gpu.StateNonsense, fmt.Sprintf("the driver counts %d devices", n)
	}
	for i := range n {
		h, ret := d.lib.DeviceGetHandleByIndex(i)
		if ret != nvml.SUCCESS {
			h = nil
			d.devices = append(d.devices, gpu.Device{Index: i, Engines: -1, State: stateOf(ret), Detail: d.lib.ErrorString(ret)})
		} else {
			d.devices = append(d.devices, d.describe(i, h))
		}
		d.handles = append(d.handles, h)
	}
	return d.devices, gpu.StateOK, ""
}

// describe says what a device is.
func (d *Driver) describe(i int, h nvml.Device) gpu.Device {
	out := gpu.Device{Index: i, Engines: -1, State: gpu.StateOK}
	fail := func(what string, ret nvml.Return) gpu.Device {
		out.State, out.Detail = stateOf(ret), what+": "+d.lib.ErrorString(ret)
		return out
	}
	var ret nvml.Return
	if out.Name, ret = h.GetName(); ret != nvml.SUCCESS {
		return fail("read name", ret)
	}
	out.Name = strings.ToValidUTF8(out.Name, "")
	if out.UUID, ret = h.GetUUID(); ret != nvml.SUCCESS && ret != nvml.ERROR_NOT_SUPPORTED {
		return fail("read UUID", ret)
	}
	if d.has["nvmlDeviceGetMemoryInfo"] {
		m, ret := h.GetMemoryInfo()
		if ret != nvml.SUCCESS && ret != nvml.ERROR_NOT_SUPPORTED {
			return fail("read memory", ret)
		}
		out.MemoryMiB = int(m.Total >> 20)
	}
	if d.has["nvmlDeviceGetPciInfo"] {
		if p, ret := h.GetPciInfo(); ret == nvml.SUCCESS {
			out.PCI = cString(p.BusId[:])
		}
	}
	if d.has["nvmlDeviceGetMigMode"] {
		if mode, _, ret := h.GetMigMode(); ret == nvml.SUCCESS {
			out.MIG = mode == nvml.DEVICE_MIG_ENABLE
		}
	}
	if p, known := gpu.PublishedOf(out.Name); known {
		out.Engines = p.Engines
	} else if d.has["nvmlDeviceGetEncoderUtilization"] {
		if _, _, ret := h.GetEncoderUtilization(); ret == nvml.ERROR_NOT_SUPPORTED {
			out.Engines = 0
		}
	}
	switch {
	case out.Name == "":
		out.State, out.Detail = gpu.StateNonsense, "a device without a name"
	case out.Engines == 0:
		out.State, out.Detail = gpu.StateNoEncoder, "this model encodes no video"
	}
	return out
}

func cString(chars []int8) string {
	var b []byte
	for _, c := range chars {
		if c == 0 {
			break
		}
		b = append(b, byte(c))
	}
	return strings.ToValidUTF8(string(b), "")
}

// Read measures each device. One that fell off the bus is read no more until
// Devices lists it again.
func (d *Driver) Read(context.Context) []gpu.Reading {
	out := make([]gpu.Reading, 0, len(d.devices))
	for i, dev := range d.devices {
		r := gpu.Silent(dev.State, dev.Detail)
		r.Index, r.UUID = dev.Index, dev.UUID
		if h := d.handles[i]; h != nil && (dev.State == gpu.StateOK || dev.State == gpu.StateNoEncoder) {
			d.read(h, &r)
			if r.State == gpu.StateLost {
				d.devices[i].State, d.devices[i].Detail = r.State, r.Detail
			}
		}
		out = append(out, r)
	}
	return out
}

// read fills what the device answers; the first fault names the state.
func (d *Driver) read(h nvml.Device, r *gpu.Reading) {
	note := func(what string, ret nvml.Return) bool {
		if ret != nvml.SUCCESS && ret != nvml.ERROR_NOT_SUPPORTED && r.State != gpu.StateLost {
			r.State, r.Detail = stateOf(ret), what+": "+d.lib.ErrorString(ret)
		}
		return ret == nvml.SUCCESS
	}
	share := func(what string, v uint32) int {
		if v > 100 {
			r.State, r.Detail = gpu.StateNonsense, fmt.Sprintf("%s of %d %%", what, v)
			return -1
		}
		return int(v)
	}
	if d.has["nvmlDeviceGetUtilizationRates"] {
		if u, ret := h.GetUtilizationRates(); note("read utilisation", ret) {
			r.GPU = share("utilisation", u.Gpu)
		}
	}
	if d.has["nvmlDeviceGetMemoryInfo"] {
		if m, ret := h.GetMemoryInfo(); note("read memory", ret) {
			if m.Total == 0 || m.Used > m.Total {
				r.State, r.Detail = gpu.StateNonsense, fmt.Sprintf("%d of %d bytes of memory used", m.Used, m.Total)
			} else {
				r.Memory = int(float64(m.Used) * 100 / float64(m.Total))
			}
		}
	}
	if d.has["nvmlDeviceGetEncoderUtilization"] {
		if u, _, ret := h.GetEncoderUtilization(); note("read encoder utilisation", ret) {
			r.Encoder = share("encoder utilisation", u)
		}
	}
	if d.has["nvmlDeviceGetEncoderStats"] {
		if n, fps, latency, ret := h.GetEncoderStats(); note("read encoder sessions", ret) {
			const most = 4096
			if n < 0 || n > most || latency > 1<<30 {
				r.State, r.Detail = gpu.StateNonsense, fmt.Sprintf("%d encoder sessions with a latency of %d µs", n, latency)
			} else {
				r.Sessions, r.FPS, r.LatencyUS = n, int(min(fps, 1<<20)), int(latency)
			}
		}
	}
	if d.has["nvmlDeviceGetTemperature"] {
		if t, ret := h.GetTemperature(nvml.TEMPERATURE_GPU); note("read temperature", ret) && t < 1000 {
			r.Temperature = int(t)
		}
	}
}

// Close lets go of the library.
func (d *Driver) Close() { _ = d.lib.Shutdown() } // nothing is left to do with its fault
