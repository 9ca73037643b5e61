package node

import (
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/gpu"
)

// machine is what the node has beside its encoders, as far as its operator lets
// it be promised; what is not known is left out and not limited.
func machine(cfg Config, inv gpu.Inventory) *api.Machine {
	m := &api.Machine{CPUMillis: uint64(float64(inv.Cores) * 1000 * cfg.CPURate), UplinkKbps: uint64(cfg.Uplink) * 1000}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		m.MemoryMiB = uint64(float64(info.Totalram*uint64(info.Unit)>>20) * cfg.MemoryRate)
	}
	for _, d := range inv.Devices {
		g := api.GPUMemory{Device: d.UUID}
		if g.Device == "" {
			g.Device = strconv.Itoa(d.Index)
		}
		if d.State == gpu.StateOK || d.State == gpu.StateNoEncoder { // others keep their number, with nothing to give
			g.VRAMMiB = uint64(max(d.MemoryMiB, 0))
		}
		m.GPUs = append(m.GPUs, g)
	}
	return m
}
