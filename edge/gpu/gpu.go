// Package gpu says what a node's encoders are and how busy they are: the
// inventory of the machine, a small Driver with an honest twin for machines
// without a graphics processor, and the published figures that stand in until
// something was measured. Pure Go.
package gpu

import (
	"context"
	"fmt"

	"github.com/perigee-cloud/perigee/api"
)

// State names how a driver, a device or a reading is. Every one is ordinary.
type State string

// States.
const (
	StateOK        State = "ok"
	StateNoDriver  State = "no_driver"      // the driver's library is not there
	StateNoGPU     State = "no_gpu"         // a driver without a device
	StateNoEncoder State = "no_encoder"     // a device without an encoder: H100, H200
	StateSymbol    State = "missing_symbol" // the driver is too old (or too new) for what is needed
	StateLost      State = "lost"           // fell off the bus
	StateNonsense  State = "nonsense"       // answers that cannot be
	StateDenied    State = "no_permission"
	StateFailed    State = "failed" // any other fault; the detail has its text
	// StateQuarantined is an engine that is kept out for a while after it failed a stream.
	StateQuarantined State = "quarantined"
	StateClaimed     State = "claimed" // another daemon of this machine encodes on it
)

// Device is one graphics processor, or one MIG instance of it.
type Device struct {
	Index     int    `json:"index"`
	UUID      string `json:"uuid"` // stays the same over restarts; "" when unknown
	Name      string `json:"name"`
	PCI       string `json:"pci,omitempty"` // "00000000:01:00.0"
	MemoryMiB int    `json:"memory_mib"`
	// Engines is how many encoders it is published to have; -1 = not published.
	Engines int `json:"engines"`
	// MIG says that the device is split: its instances have no encoder of their
	// own use here, and the whole has none to give.
	MIG    bool   `json:"mig,omitempty"`
	State  State  `json:"state"`
	Detail string `json:"detail,omitempty"`
}

// Encodes says whether the device may be asked to encode.
func (d Device) Encodes() bool { return d.State == StateOK && d.Engines != 0 && !d.MIG }

// Reading is what a device measured of itself. Shares are percent, 0 to 100;
// -1 means that the device does not say.
type Reading struct {
	Engine      string `json:"engine,omitempty"` // "vaapi0"; "" = NVENC of the device's index
	Index       int    `json:"index"`
	UUID        string `json:"uuid"`
	State       State  `json:"state"`
	Detail      string `json:"detail,omitempty"`
	GPU         int    `json:"gpu"`
	Encoder     int    `json:"encoder"`
	Memory      int    `json:"memory"`     // share of its memory in use
	Sessions    int    `json:"sessions"`   // encoder sessions of all programs
	FPS         int    `json:"fps"`        // average of the sessions
	LatencyUS   int    `json:"latency_us"` // average of the sessions
	Temperature int    `json:"temperature_c"`
}

// Silent is a reading of a device that says nothing of itself but its state.
func Silent(s State, detail string) Reading {
	return Reading{State: s, Detail: detail, GPU: -1, Encoder: -1, Memory: -1, Sessions: -1, FPS: -1, LatencyUS: -1, Temperature: -1}
}

// Name gives the engine's, as it stands in certificates: "nvenc0", "vaapi1".
func (r Reading) Name() string {
	if r.Engine != "" {
		return r.Engine
	}
	return fmt.Sprintf("%s%d", api.PoolNVENC, r.Index)
}

// Inventory is what a machine has to encode with.
type Inventory struct {
	State    State    `json:"state"` // of the NVIDIA driver
	Detail   string   `json:"detail,omitempty"`
	Driver   string   `json:"driver,omitempty"` // its version
	Devices  []Device `json:"devices,omitempty"`
	VAAPI    []Render `json:"vaapi,omitempty"`
	Machine  string   `json:"machine"` // processor model
	Cores    int      `json:"cores"`
	Software string   `json:"software"` // what encodes: versions of FFmpeg and of this program
}

// Driver reads the graphics processors of one vendor. Its methods are for one
// goroutine at a time; none fails: what is wrong is a named state.
type Driver interface {
	// Devices lists the processors by Index, with the state of the driver.
	Devices(ctx context.Context) ([]Device, State, string)
	// Version is the driver's; "" when it does not say.
	Version() string
	// Read measures every device that Devices listed.
	Read(ctx context.Context) []Reading
	Close()
}

// Unavailable is the Driver of a machine without: it has no device and says
// why instead of inventing zeros.
type Unavailable struct {
	State  State
	Detail string // for the operator
}

var _ Driver = Unavailable{}

// Devices gives none and the reason.
func (u Unavailable) Devices(context.Context) ([]Device, State, string) {
	return nil, u.State, u.Detail
}

// Version is unknown.
func (Unavailable) Version() string { return "" }

// Read gives nothing.
func (Unavailable) Read(context.Context) []Reading { return nil }

// Close does nothing.
func (Unavailable) Close() {}

// macroblocksPerCore stands in for a certificate: what one core may be asked to
// encode, in H.264 macroblocks a second. 1280x720@60 of a moving screen is
// 216,000 and took 22 to 30 % of a core with capture and conversion; of the
// noisy reference picture a core did 330,000 to 690,000 (EPYC, 2026-11-21).
const macroblocksPerCore = 450_000

// CPUPool estimates what a machine of so many cores may encode in software. It
// holds until the first certificate.
func CPUPool(cores int) api.Capacity {
	return api.Capacity{
		Pool:        api.PoolCPU,
		Macroblocks: uint64(max(cores, 0)) * macroblocksPerCore,
		Codecs:      Software(),
	}
}

// Sample is one look at all devices: a line of `perigee-edge probe watch`.
type Sample struct {
	State    State     `json:"state"` // of the driver
	Detail   string    `json:"detail,omitempty"`
	Devices  []Device  `json:"devices,omitempty"`
	Readings []Reading `json:"readings,omitempty"`
}
