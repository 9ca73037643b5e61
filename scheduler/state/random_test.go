package state

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// drawer draws commands with names from a small world, so that they meet.
type drawer struct {
	t testing.TB
	r *rand.Rand
	s *State
}

// randomCommand draws any command that the state's version of entries has.
func randomCommand(t testing.TB, r *rand.Rand, s *State) Command {
	d := &drawer{t, r, s}
	draws := []struct {
		weight int
		since  int
		draw   func() Command
	}{
		{6, 1, d.create}, {2, 1, d.end}, {1, 1, d.join}, {5, 1, d.report}, {1, 1, d.missing},
		{1, 1, d.put}, {1, 1, d.gone}, {1, 1, d.back}, {1, 1, d.app}, {1, 1, d.token}, {1, 1, d.seldom}, {1, 1, d.tick},
		{3, 2, d.queue}, {3, 2, d.place}, {1, 2, d.learn},
		{4, 3, d.share}, {1, 3, d.unshare},
		{1, WarmSince, d.pool}, {2, WarmSince, d.prepare}, {3, WarmSince, d.claim},
	}
	sum := 0
	for _, x := range draws {
		if x.since <= s.EntryVersion() {
			sum += x.weight
		}
	}
	at := r.IntN(sum)
	for _, x := range draws {
		if x.since > s.EntryVersion() {
			continue
		}
		if at -= x.weight; at < 0 {
			return x.draw()
		}
	}
	return &Tick{}
}

func (d *drawer) pick(prefix string, n int) string { return fmt.Sprintf("%s%d", prefix, d.r.IntN(n)) }
func (d *drawer) node() api.NodeID                 { return api.NodeID(d.pick("n", 4)) }
func (d *drawer) session() api.SessionID           { return api.SessionID(d.pick("s", 60)) }
func (d *drawer) oneIn(n int) bool                 { return d.r.IntN(n) == 0 }

// parts draws what a session takes beside its pool.
func (d *drawer) parts() (p api.Parts) {
	if d.oneIn(4) {
		return p
	}
	p = api.Parts{CPUMillis: uint64(d.r.IntN(3)) * 1000, MemoryMiB: uint64(d.r.IntN(3)) * 512, UplinkKbps: uint64(d.r.IntN(3)) * 2500}
	if d.oneIn(3) {
		p.VRAMMiB, p.GPU = uint64(1+d.r.IntN(3))*2048, d.r.IntN(4)
	}
	return p
}

func (d *drawer) create() Command {
	c := creation(string(d.session()), string(d.node()))
	c.App, c.Account = d.pick("app", 3), d.pick("acc", 3)
	c.AppVersion = 1 + d.r.IntN(2)
	c.Pool = []api.Pool{api.PoolCPU, api.PoolNVENC}[d.r.IntN(2)]
	c.Reserved = api.Cost(c.Pool, c.Codec, hd)
	c.Parts = d.parts()
	if d.oneIn(3) {
		c.Key = d.pick("key", 10)
	}
	if d.oneIn(3) {
		c.Token = d.pick("tok", 4)
	}
	if d.oneIn(12) {
		c.Node, c.Parts = "", api.Parts{}
	}
	return c
}

func (d *drawer) end() Command {
	return &End{ID: d.session(), Reason: api.ReasonDeleted, Force: d.oneIn(2)}
}

func (d *drawer) join() Command {
	j := &Join{ID: d.session()}
	if d.oneIn(2) {
		j.Screen = api.Screen{Width: 640 * (1 + d.r.IntN(3)), Height: 360, FPS: 30, Density: 240}
	}
	return j
}

func (d *drawer) report() Command {
	m := &Report{ID: d.session(), Generation: 1, Node: d.node(), Boot: d.pick("b", 2), Seq: d.r.Uint64N(1000), Connected: d.oneIn(2)}
	if v, ok := d.s.Live(m.ID); ok && !d.oneIn(4) {
		m.Node, m.Generation = v.Node, v.Generation
	}
	m.Observed = []api.Observed{api.ObservedStarting, api.ObservedRunning, api.ObservedRunning, api.ObservedStopped, api.ObservedFailed}[d.r.IntN(5)]
	if d.oneIn(8) {
		m.Pool, m.Codec = api.PoolCPU, api.VP9
	}
	return m
}

// share makes a share of a session, or changes one.
func (d *drawer) share() Command {
	m := &PutShare{ID: d.session(), Seat: api.Seat{Role: api.RoleViewer}, Description: d.pick("d", 3), Expires: d.s.Now().Add(time.Hour)}
	for v := range d.s.Sessions() {
		if v.Status() == api.StatusActive && d.oneIn(3) {
			m.ID = v.ID
		}
	}
	if d.oneIn(3) {
		m.Number = uint32(1 + d.r.IntN(2))
	}
	return m
}

func (d *drawer) unshare() Command {
	return &DropShare{ID: d.session(), Number: 1 + uint32(d.r.IntN(3))}
}

func (d *drawer) missing() Command {
	return &Missing{ID: d.session(), Generation: 1, Node: d.node()}
}

// put joins a node, also one that is known, with more or less than before.
func (d *drawer) put() Command {
	if d.oneIn(3) {
		return node(d.t, string(d.node()), 1+d.r.Uint64N(8))
	}
	m := &api.Machine{CPUMillis: d.r.Uint64N(5) * 1000, MemoryMiB: d.r.Uint64N(5) * 512, UplinkKbps: d.r.Uint64N(4) * 2500}
	for i := range d.r.IntN(3) {
		m.GPUs = append(m.GPUs, api.GPUMemory{Device: fmt.Sprint(i), VRAMMiB: d.r.Uint64N(4) * 2048})
	}
	return nodeWith(d.t, string(d.node()), 1+d.r.Uint64N(8), m)
}

func (d *drawer) gone() Command {
	if d.oneIn(3) {
		return &RemoveNode{ID: d.node()}
	}
	return &LoseNode{ID: d.node()}
}

func (d *drawer) back() Command {
	m := &BackNode{ID: d.node()}
	for v := range d.s.Sessions() {
		if d.oneIn(2) {
			m.Running = append(m.Running, api.Running{Session: v.ID, Generation: v.Generation, Observed: api.ObservedRunning, Connected: d.oneIn(2)})
		}
	}
	return m
}

func (d *drawer) app() Command {
	if d.oneIn(4) {
		return &DeleteApp{Name: d.pick("app", 3)}
	}
	return app(d.t, d.pick("app", 3), d.pick("cmd", 2))
}

func (d *drawer) token() Command {
	return &PutToken{Account: d.pick("acc", 3), ID: d.pick("tok", 4), Rights: []api.Right{api.RightCreate}, Expires: epoch.Add(time.Duration(d.r.IntN(100)) * time.Hour), Uses: d.r.IntN(5) - 1}
}

func (d *drawer) seldom() Command {
	switch d.r.IntN(4) {
	case 0:
		return &RevokeToken{Account: d.pick("acc", 3)}
	case 1:
		return &DeleteAccount{Name: d.pick("acc", 3)}
	case 2:
		return &DrainNode{ID: d.node(), Drain: d.oneIn(2)}
	default:
		return &Secrets{TicketSeed: []byte(d.pick("seed", 9)), RingKey: []byte("ring")}
	}
}

func (d *drawer) tick() Command {
	if d.oneIn(2) {
		return &Tick{}
	}
	return &Demand{Cells: []api.DemandCell{{Minute: d.s.Now().Unix() / 60, App: "xterm", Codec: api.H264, Size: "1280x720@60", Reason: api.RefusedEncoder, Count: 3}}}
}

func (d *drawer) queue() Command {
	c := creation(string(d.session()), "")
	c.App, c.Account, c.Pool, c.Codec, c.Reserved = d.pick("app", 3), d.pick("acc", 3), "", "", 0
	if d.oneIn(3) {
		c.Token = d.pick("tok", 4)
	}
	return &Queue{Create: *c, Until: d.s.Now().Add(time.Hour), Limit: 12, AccountLimit: 8, Ask: Ask{Region: "eu"}}
}

func (d *drawer) place() Command {
	m := &Place{ID: d.session(), From: 1, Generation: 1, Node: d.node(), Pool: api.PoolCPU, Codec: api.H264, Region: "eu", Reserved: oneHD(), Screen: hd, Parts: d.parts()}
	for v := range d.s.Waiting {
		m.ID = v.ID // the first one
		break
	}
	if v, ok := d.s.Live(m.ID); ok && !d.oneIn(4) {
		m.From, m.Generation = v.Generation, v.Generation
		if v.Observed == api.ObservedLost {
			m.Generation++
		}
	}
	return m
}

func (d *drawer) learn() Command {
	if d.oneIn(2) {
		return &PutPolicy{Account: d.pick("acc", 3), Doc: []byte(`{"trunk":true}`)}
	}
	return &Routes{Routes: []Route{{Network: d.pick("net", 5), Node: d.node(), Tenths: d.r.Uint64N(500), At: d.s.Now().Unix() / 60}}}
}
