package edge

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/gpu"
)

const (
	measureEvery = time.Second
	publishEvery = 5 * time.Second // at the latest
	publishStep  = 5               // points of percent that are worth a message at once
)

// meter measures the node's headroom and publishes it when it has changed.
type meter struct {
	agent *Agent

	mu   sync.Mutex // guards the fields below
	now  api.Headroom
	seq  uint64
	last time.Time // when it was published

	states map[string]gpu.State // of the engines, at the last look; run's goroutine's
}

// latest gives the last measured headroom.
func (m *meter) latest() api.Headroom {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now
}

func (m *meter) run(ctx context.Context) error {
	tick := time.NewTicker(measureEvery)
	defer tick.Stop()
	failing := false
	for {
		load, err := m.agent.cfg.Measure()
		if (err != nil) != failing {
			failing = err != nil
			if failing {
				m.agent.log.Warn("the machine's load cannot be measured", "error", err)
			}
		}
		m.update(load, time.Now())
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// update takes a measurement in and publishes it if it tells something new.
func (m *meter) update(load Load, now time.Time) {
	a := m.agent
	sample := a.sample()
	m.alarm(sample)
	h := compute(measured{pools: a.pools(), costs: a.costs(), load: load, sample: sample, engines: a.engines()})
	h.Boot = m.agent.cfg.Identity.Boot
	m.mu.Lock()
	tell := m.last.IsZero() || now.Sub(m.last) >= publishEvery || changed(m.now, h)
	if tell {
		m.seq++
		m.last = now
		h.Seq = m.seq
		m.now = h
	}
	m.mu.Unlock()
	if tell && m.agent.cfg.Publish != nil {
		m.agent.cfg.Publish.Publish(h)
	}
}

// costs lists what each running session takes.
func (a *Agent) costs() []poolCost {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make([]poolCost, 0, len(a.units))
	for _, u := range a.units {
		if !api.Final(u.report().Observed) {
			out = append(out, u.takes())
		}
	}
	return out
}

// foreignMost is the most of the processors' free room that foreign programs are
// counted to take, in percent: the kernel shares the processors, so a stream of
// ours gets its part even beside a program that wants them all.
const foreignMost = 50

// measured is all that a headroom is made of.
type measured struct {
	pools   []api.Capacity
	costs   []poolCost
	load    Load
	sample  gpu.Sample
	engines []Engine
}

// compute makes a headroom: what runs is taken from what the pools may carry,
// and what others take of the machine, too.
func compute(m measured) api.Headroom {
	h := api.Headroom{CPU: m.load.CPU, Memory: m.load.Memory, Foreign: m.load.Foreign, Uplink: m.load.Uplink,
		ForeignMemory: m.load.ForeignMemory, ForeignUplink: m.load.ForeignUplink,
		Saturation: m.load.CPU, Binding: "cpu"}
	bind := func(name string, share int) {
		if share > h.Saturation {
			h.Saturation, h.Binding = share, name
		}
	}
	bind("memory", m.load.Memory)
	bind("uplink", m.load.Uplink)
	foreign := m.graphics(&h, bind)
	for _, p := range m.pools {
		var used uint64
		sessions := 0
		for _, c := range m.costs {
			if c.pool == p.Pool {
				used += c.mbs
				sessions++
			}
		}
		room := api.PoolHeadroom{Pool: p.Pool, Sessions: sessions}
		if taken := used + foreign[p.Pool]; taken < p.Macroblocks {
			room.Free = p.Macroblocks - taken
		}
		if p.Pool == api.PoolCPU {
			room.Free -= room.Free * uint64(min(max(m.load.Foreign, 0), foreignMost)) / 100
		}
		if carried, known := m.load.carried(); known {
			room.Free = min(room.Free, carried)
		}
		h.Pools = append(h.Pools, room)
		if p.Macroblocks > 0 {
			bind("pool:"+string(p.Pool), int(min(used*100/p.Macroblocks, 100)))
		}
		if p.Sessions > 0 {
			bind("sessions:"+string(p.Pool), min(sessions*100/p.Sessions, 100))
		}
	}
	return h
}

// changed says whether the difference is worth a message at once.
func changed(a, b api.Headroom) bool {
	far := func(x, y int) bool { return x-y >= publishStep || y-x >= publishStep }
	if far(a.CPU, b.CPU) || far(a.Memory, b.Memory) || far(a.Saturation, b.Saturation) || len(a.Pools) != len(b.Pools) {
		return true
	}
	for i := range a.Pools {
		if a.Pools[i].Sessions != b.Pools[i].Sessions || steps(a.Pools[i].Free, b.Pools[i].Free) {
			return true
		}
	}
	if far(a.Uplink, b.Uplink) || far(a.Foreign, b.Foreign) || far(a.ForeignMemory, b.ForeignMemory) || far(a.ForeignUplink, b.ForeignUplink) || len(a.Engines) != len(b.Engines) {
		return true
	}
	for i, e := range a.Engines {
		f := b.Engines[i]
		if e.Engine != f.Engine || e.State != f.State || e.Sessions != f.Sessions || far(e.Encoder, f.Encoder) || far(e.Foreign, f.Foreign) ||
			far(e.SM, f.SM) || far(e.VRAM, f.VRAM) {
			return true
		}
	}
	return false
}

// freeStep is a change of a pool's room that is worth a message at once: half a
// stream of 1280x720@30. What the processors leave wavers all the time.
const freeStep = 54_000

func steps(a, b uint64) bool { return a > b+freeStep || b > a+freeStep }

var errProc = errors.New("/proc cannot be understood")

// parseStat reads the first line of /proc/stat: ticks spent busy and in all.
func parseStat(s string) (busy, total uint64, err error) {
	line, _, _ := strings.Cut(s, "\n")
	f := strings.Fields(line)
	if len(f) < 5 || f[0] != "cpu" {
		return 0, 0, fmt.Errorf("read stat: %w", errProc)
	}
	const idle, iowait, guest = 3, 4, 8 // guest time is part of user time
	for i, v := range f[1:] {
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("read stat: %w", errors.Join(errProc, err))
		}
		if i >= guest {
			break
		}
		total += n
		if i != idle && i != iowait {
			busy += n
		}
	}
	return busy, total, nil
}

// parseMeminfo gives the memory in use and in all, in KiB.
func parseMeminfo(s string) (used, total uint64, err error) {
	var available uint64
	for line := range strings.Lines(s) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		n, err := strconv.ParseUint(f[1], 10, 64)
		if err != nil {
			continue
		}
		switch f[0] {
		case "MemTotal:":
			total = n
		case "MemAvailable:":
			available = n
		}
	}
	if total == 0 || available > total {
		return 0, 0, fmt.Errorf("read meminfo: %w", errProc)
	}
	return total - available, total, nil
}
