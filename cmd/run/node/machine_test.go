package node

import (
	"testing"

	"github.com/perigee-cloud/perigee/edge/gpu"
)

func TestMachineIsWhatTheOperatorPromises(t *testing.T) {
	inv := gpu.Inventory{Cores: 8, Devices: []gpu.Device{
		{Index: 0, UUID: "GPU-a", MemoryMiB: 24_576, State: gpu.StateOK}, {Index: 1, MemoryMiB: 81_920, State: gpu.StateNoEncoder}, {Index: 2, MemoryMiB: 4096, State: gpu.StateLost},
	}}
	m := machine(Config{CPURate: 4, MemoryRate: 2, Uplink: 1000}, inv)
	once := machine(Config{MemoryRate: 1}, inv)
	if m.CPUMillis != 32_000 || m.UplinkKbps != 1_000_000 || once.MemoryMiB == 0 || m.MemoryMiB < 2*once.MemoryMiB || m.MemoryMiB > 2*once.MemoryMiB+1 {
		t.Errorf("the machine is %+v, promised once %+v", m, once)
	}
	if len(m.GPUs) != 3 || m.GPUs[0].Device != "GPU-a" || m.GPUs[0].VRAMMiB != 24_576 || m.GPUs[1].Device != "1" || m.GPUs[1].VRAMMiB != 81_920 || m.GPUs[2].VRAMMiB != 0 {
		t.Errorf("its graphics processors are %+v", m.GPUs)
	}
	if m.Check() != nil {
		t.Error(m.Check())
	}
	if open := machine(Config{}, gpu.Inventory{Cores: 8}); open.CPUMillis != 0 || open.MemoryMiB != 0 || open.UplinkKbps != 0 {
		t.Errorf("without rates it is limited: %+v", open)
	}
}
