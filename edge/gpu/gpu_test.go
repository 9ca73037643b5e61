package gpu

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/perigee-cloud/perigee/api"
)

func TestUnavailableIsHonest(t *testing.T) {
	ctx := context.Background()
	var d Driver = Unavailable{Reason: "libnvidia-ml.so.1 was not found"}
	if devices, err := d.Devices(ctx); len(devices) != 0 || err != nil {
		t.Errorf("devices are %v, %v", devices, err)
	}
	if pools, err := d.Pools(ctx); len(pools) != 0 || err != nil {
		t.Errorf("pools are %v, %v", pools, err)
	}
	r, err := d.Read(ctx)
	if len(r) != 0 || !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "libnvidia-ml") {
		t.Errorf("reading is %v, %v", r, err)
	}
	if _, err := (Unavailable{}).Read(ctx); !errors.Is(err, ErrUnavailable) {
		t.Errorf("reading without a reason is %v", err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

func TestCPUPoolCarriesWhatWasMeasured(t *testing.T) {
	hd := api.Screen{Width: 1280, Height: 720, FPS: 60}
	for _, c := range []struct {
		cores    int
		codec    api.Codec
		sessions uint64
	}{
		{2, api.H264, 4}, {2, api.VP8, 3}, {2, api.AV1, 1}, {1, api.H264, 2}, {16, api.H264, 33}, {0, api.H264, 0}, {-1, api.H264, 0},
	} {
		p := CPUPool(c.cores)
		if got := p.Macroblocks / api.Cost(api.PoolCPU, c.codec, hd); got != c.sessions {
			t.Errorf("%d cores carry %d sessions of %s, want %d", c.cores, got, c.codec, c.sessions)
		}
		if p.Pool != api.PoolCPU || len(p.Codecs) != len(api.Codecs()) {
			t.Errorf("pool is %+v", p)
		}
	}
}
