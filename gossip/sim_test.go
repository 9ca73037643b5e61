package gossip

import (
	"context"
	"encoding/hex"
	"fmt"
	"math"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/gossip/simnet"
)

// live is what a machine with engines says of itself.
func live(seq uint64) api.Headroom {
	return api.Headroom{
		Boot: "0123456789abcdef", Seq: seq, CPU: 41, Memory: 12, Saturation: 77, Binding: "nvenc0", Foreign: 9, Uplink: 35,
		Pools: []api.PoolHeadroom{{Pool: api.PoolNVENC, Free: 3600 * seq, Sessions: 3}, {Pool: api.PoolCPU, Free: 720_000}},
		Engines: []api.EngineHeadroom{
			{Engine: "nvenc0", State: "ok", Encoder: 64, Foreign: 12, SM: 22, VRAM: 25, Sessions: 24, LatencyUS: 4100},
			{Engine: "nvenc1", State: "lost", Encoder: api.Unknown, Foreign: api.Unknown, SM: api.Unknown, VRAM: api.Unknown},
		},
	}
}

// The bytes on the wire: members of several versions share a ring.
func TestGossipedBytes(t *testing.T) {
	e := entry{id: "0123456789abcdef", era: 1 << 40, headroom: live(300)}
	plain := e
	plain.headroom.Foreign, plain.headroom.Uplink, plain.headroom.Engines = 0, 0, nil
	got := fmt.Sprintf("broadcast %x\nbroadcast %x\nstate %x\n", encodeBroadcast(plain), encodeBroadcast(e), encodeState([]aged{{e, 1500 * time.Millisecond}, {plain, 0}}))
	later := e // came later, behind what the lines above hold
	later.headroom.ForeignMemory, later.headroom.ForeignUplink = 11, 23
	got += fmt.Sprintf("broadcast %x\n", encodeBroadcast(later))
	const file = "testdata/messages_v1.txt"
	if os.Getenv("PERIGEE_REWRITE") != "" {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil || got != string(want) {
		t.Fatalf("the bytes are\n%swant\n%s(%v)", got, want, err)
	}
	for line := range strings.Lines(string(want)) {
		kind, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		b, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		if kind == "state" {
			list, err := decodeState(b)
			if err != nil || len(list) != 2 || len(list[0].headroom.Engines) != 2 || list[1].headroom.Engines != nil {
				t.Errorf("state %+v, %v", list, err)
			}
			continue
		}
		if len(b) > 120 {
			t.Errorf("a broadcast of %d bytes", len(b))
		}
		if e, err := decodeBroadcast(b); err != nil || e.headroom.Seq != 300 {
			t.Errorf("broadcast %+v, %v", e, err)
		}
	}
}

// A ring in virtual time, on a network that loses packets.
func TestSpreadOnALossyNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := simnet.New(1, func(string, string) simnet.Path {
			return simnet.Path{Delay: 20 * time.Millisecond, Jitter: 5 * time.Millisecond, Drop: 0.02}
		})
		defer network.Close()
		const members = 40
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var rings []*Ring
		for i := range members {
			way, err := network.Host(fmt.Sprintf("10.0.0.%d", i+1)).Transport(7946)
			if err != nil {
				t.Fatal(err)
			}
			r, err := New(Config{Listen: "10.0.0.1:7946", Key: key(), Log: quiet(), Meta: Meta{ID: api.NodeID(fmt.Sprint("n", i))}, Transport: way})
			if err != nil {
				t.Fatal(err)
			}
			rings = append(rings, r)
			wg.Go(func() {
				if err := r.Run(ctx); err != nil {
					t.Error(err)
				}
			})
			if err := r.Ready(ctx); err != nil {
				t.Fatal(err)
			}
			first := rings[0].Addr()
			wg.Go(func() { r.Join(ctx, []string{first}) })
		}
		all := func(ok func(*Ring) bool) bool {
			for _, r := range rings {
				if !ok(r) {
					return false
				}
			}
			return true
		}
		wait := func(what string, most time.Duration, ok func(*Ring) bool) {
			t.Helper()
			began := time.Now()
			for !all(ok) {
				if time.Since(began) > most {
					t.Fatalf("%s: not after %v", what, most)
				}
				time.Sleep(5 * time.Millisecond)
			}
			t.Logf("%s after %v", what, time.Since(began))
		}
		wait("a mass join", 10*time.Second, func(r *Ring) bool { return len(r.Members()) == members })
		before := network.Stats()
		for seq := uint64(1); seq <= 3; seq++ {
			rings[7].Publish(live(seq))
			wait("a change", 1500*time.Millisecond, func(r *Ring) bool {
				h, _, ok := r.Latest("n7")
				return ok && h.Seq == seq && len(h.Engines) == 2
			})
		}
		if now := network.Stats(); now.Lost == before.Lost {
			t.Errorf("nothing was lost of %d packets", now.Packets-before.Packets)
		}
		cancel()
		wg.Wait()
		time.Sleep(time.Minute) // memberlist's last timers
	})
}

func TestTransmissionsAreBounded(t *testing.T) {
	for n, want := range map[int]int{1: 12, 100: 12, 208: 12, 300: 8, 500: 5, 1000: 5, 10_000: 5} {
		if got := transmissions(n); got != want {
			t.Errorf("%d members: each tells %d times, want %d", n, got, want)
		}
		if got := retransmits(transmissions(n)); got != want {
			t.Errorf("%d members: memberlist is told %d", n, got)
		}
	}
}

// retransmits is memberlist's rule (util.go) for a multiplier of 1.
func retransmits(k int) int { return int(math.Ceil(math.Log10(float64(powers(k) + 1)))) }
