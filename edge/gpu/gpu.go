// Package gpu says what a node's graphics processors can encode and how busy
// they are: a small Driver, and its honest twin for machines without one.
package gpu

import (
	"context"
	"errors"
	"fmt"

	"github.com/perigee-cloud/perigee/api"
)

// Device is one graphics processor.
type Device struct {
	Index     int    `json:"index"`
	UUID      string `json:"uuid"` // stays the same over restarts; "" when unknown
	Name      string `json:"name"`
	MemoryMiB int    `json:"memory_mib"`
}

// Reading is what a device measured of itself. Shares are percent, 0 to 100.
type Reading struct {
	Index       int `json:"index"`
	GPU         int `json:"gpu"`
	Encoder     int `json:"encoder"`
	Decoder     int `json:"decoder"`
	Memory      int `json:"memory"`
	Sessions    int `json:"sessions"` // encoder sessions of all programs
	Temperature int `json:"temperature_c"`
}

// Driver reads the graphics processors of one vendor. Its methods are for one
// goroutine at a time.
type Driver interface {
	// Devices lists the processors; the order is by Index.
	Devices(ctx context.Context) ([]Device, error)
	// Pools says what the processors together can encode.
	Pools(ctx context.Context) ([]api.Capacity, error)
	// Read measures every device.
	Read(ctx context.Context) ([]Reading, error)
	Close() error
}

// ErrUnavailable says that there is no graphics processor to read, or no
// driver for it.
var ErrUnavailable = errors.New("no graphics processor is available")

// Unavailable is the Driver of a machine without: it has no device and says
// why instead of inventing zeros.
type Unavailable struct {
	// Reason is what kept the real driver from loading, for the operator.
	Reason string
}

var _ Driver = Unavailable{}

// Devices gives none.
func (Unavailable) Devices(context.Context) ([]Device, error) { return nil, nil }

// Pools gives none.
func (Unavailable) Pools(context.Context) ([]api.Capacity, error) { return nil, nil }

// Read fails with ErrUnavailable and the reason.
func (u Unavailable) Read(context.Context) ([]Reading, error) {
	if u.Reason == "" {
		return nil, ErrUnavailable
	}
	return nil, fmt.Errorf("%s: %w", u.Reason, ErrUnavailable)
}

// Close does nothing.
func (Unavailable) Close() error { return nil }

// macroblocksPerCore is what one core may be asked to encode, in H.264
// macroblocks a second. 1280x720@60 is 216,000 and took 22 to 30 % of a core
// with capture and conversion (EPYC, 2026-11-20): a whole core would carry
// 720,000 to 980,000. The rest is left to the applications and X servers of
// those same sessions.
const macroblocksPerCore = 450_000

// CPUPool estimates what a machine of so many cores may encode in software.
// An operator who measured his machine overrides it.
func CPUPool(cores int) api.Capacity {
	return api.Capacity{
		Pool:        api.PoolCPU,
		Macroblocks: uint64(max(cores, 0)) * macroblocksPerCore,
		Codecs:      api.Codecs(),
	}
}
