package control

import (
	"context"
	"runtime/debug"
	"testing"
)

func TestCollectorIsLeftAloneWhenTheHeapIsLarge(t *testing.T) {
	for live, want := range map[uint64]int{0: 400, 1 << 20: 400, 96 << 20: 400, 100 << 20: 380, 128 << 20: 300, 384 << 20: 100, 4 << 30: 100} {
		if got := collectAt(live); got != want {
			t.Errorf("with %d MiB it collects at %d %%, want %d", live>>20, got, want)
		}
	}
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	TuneCollector(ctx)
	if after := debug.SetGCPercent(100); after != 100 {
		t.Errorf("afterwards it collects at %d %%", after)
	}
}
