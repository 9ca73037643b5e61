package probe

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/perigee-cloud/perigee/edge/gpu"
)

// Watch writes what the driver's devices and the render nodes measure of
// themselves, one line of JSON each time, until ctx ends or nobody reads. It
// closes the driver. The devices are listed anew in every relist: one that was
// lost may have been put back.
func Watch(ctx context.Context, w io.Writer, d gpu.Driver, renders *gpu.RenderMeter, every, relist time.Duration) error {
	defer d.Close()
	out := json.NewEncoder(w)
	tick := time.NewTicker(every)
	defer tick.Stop()
	var s gpu.Sample
	var listed time.Time
	for {
		now := time.Now()
		if now.Sub(listed) >= relist || listed.IsZero() {
			s.Devices, s.State, s.Detail = d.Devices(ctx)
			listed = now
		}
		s.Readings = append(d.Read(ctx), renders.Read(now)...)
		if err := out.Encode(s); err != nil {
			return fmt.Errorf("write reading: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
