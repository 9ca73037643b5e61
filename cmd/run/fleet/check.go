package fleet

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge"
	"github.com/perigee-cloud/perigee/edge/local"
)

const (
	lookEvery   = time.Second
	listEvery   = 5 * time.Second
	wrongFor    = 20 * time.Second // what two replicas see differently for so long is a finding
	settleTime  = 60 * time.Second
	maxFindings = 20
)

// find notes something that must never be.
func (f *Fleet) find(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.result.Findings) < maxFindings {
		at := time.Since(f.begun).Round(time.Millisecond)
		f.result.Findings = append(f.result.Findings, fmt.Sprintf("%s: ", at)+fmt.Sprintf(format, args...))
	}
	f.result.Violations++
}

// watch holds the invariants all along.
func (f *Fleet) watch(ctx context.Context) {
	for n := 0; pause(ctx, lookEvery); n++ {
		f.checkRooms(ctx)
		f.checkMachines()
		if n%int(listEvery/lookEvery) == 0 {
			f.checkSessions(ctx, false)
		}
	}
}

// checkRooms holds that no ledger gives a pool away twice.
func (f *Fleet) checkRooms(ctx context.Context) {
	for _, s := range f.up() {
		list, err := s.ListNodes(ctx)
		if err != nil {
			continue // it is starting
		}
		for _, v := range list {
			f.noteLost(v.Node)
			for _, p := range v.Node.Pools {
				if used := v.Reserved[p.Pool]; used > p.Macroblocks {
					f.count(func(r *Result) { r.DoubleReservations++ })
					f.find("node %s: %d of %d macroblocks/s are reserved", v.Node.Name, used, p.Macroblocks)
				}
			}
		}
	}
}

// noteLost counts the nodes that are declared lost, once each time.
func (f *Fleet) noteLost(n api.Node) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n.Lost && time.Since(f.lostAt[n.ID]) > settleTime/2 {
		f.result.NodesLost[f.weather]++
	}
	if n.Lost {
		f.lostAt[n.ID] = time.Now()
	}
}

// claim is one generation of a session.
type claim struct {
	id  api.SessionID
	gen api.Generation
}

// checkMachines holds that no machine really encodes more than it has, and that
// no generation of a session runs twice.
func (f *Fleet) checkMachines() {
	runs := map[claim]string{}
	for _, n := range f.nodes {
		var used uint64
		for _, c := range n.kids.running(edge.RoleStream) {
			used += api.Cost(c.spec.Pool, c.spec.Codecs[0], c.spec.Screen)
		}
		if most := n.pools()[0].Macroblocks; used > most {
			f.find("node %s encodes %d of %d macroblocks/s", n.name, used, most)
		}
		for _, c := range n.kids.running(edge.RoleShim) {
			k := claim{c.session, c.gen}
			if at, twice := runs[k]; twice {
				f.find("session %s.%d runs on %s and on %s", c.session, c.gen, at, n.name)
			}
			runs[k] = n.name
		}
	}
}

// checkSessions holds that what was acknowledged is there, and that sessions of
// lost nodes show it. Everything is looked at through the leader. With last, the
// fleet has had time to settle: then machines and ledger must be the same.
func (f *Fleet) checkSessions(ctx context.Context, last bool) {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	f.mu.Lock()
	known := make([]api.SessionID, 0, len(f.acked))
	for id := range f.acked {
		known = append(known, id)
	}
	f.mu.Unlock()
	r := f.leader(ctx)
	if r == nil {
		return // the outages are measured elsewhere
	}
	s := r.server()
	if s == nil || s.Consistent(ctx) != nil {
		return
	}
	nodes, err := s.ListNodes(ctx)
	if err != nil {
		return
	}
	list, _, err := s.ListSessions(ctx, api.SessionQuery{})
	if err != nil {
		return
	}
	byID := make(map[api.SessionID]api.Session, len(list))
	for _, v := range list {
		byID[v.ID] = v
	}
	for _, id := range known {
		if _, there := byID[id]; !there {
			f.count(func(r *Result) { r.Lost++ })
			f.find("acknowledged session %s is not there", id)
		}
	}
	lost := map[api.NodeID]bool{}
	for _, v := range nodes {
		lost[v.Node.ID] = v.Node.Lost
	}
	wrong := map[string]bool{}
	for _, v := range list {
		if over := api.Final(v.Observed); !over && v.Node != "" && lost[v.Node] && v.Status() != api.StatusError {
			wrong[fmt.Sprintf("session %s is %s on a lost node", v.ID, v.Status())] = true
		}
	}
	f.persistent(wrong)
	if last {
		f.checkReconciled(nodes, list)
	}
}

// persistent finds what has looked wrong for too long: state and lists are not
// read at one moment.
func (f *Fleet) persistent(wrong map[string]bool) {
	f.mu.Lock()
	var found []string
	for w := range wrong {
		if since, known := f.suspect[w]; !known {
			f.suspect[w] = time.Now()
		} else if time.Since(since) > wrongFor {
			found = append(found, w)
		}
	}
	for w := range f.suspect {
		if !wrong[w] {
			delete(f.suspect, w)
		}
	}
	f.mu.Unlock()
	for _, w := range found {
		f.find("%s", w)
	}
}

// checkReconciled holds that each machine runs exactly what the ledger says.
func (f *Fleet) checkReconciled(nodes []api.NodeView, list []api.Session) {
	want := map[api.NodeID]map[claim]uint64{}
	for _, v := range list {
		if !api.Final(v.Observed) && v.Node != "" {
			if want[v.Node] == nil {
				want[v.Node] = map[claim]uint64{}
			}
			want[v.Node][claim{v.ID, v.Generation}] = v.Reserved
		}
	}
	for _, v := range nodes {
		n := f.byNode[v.Node.ID]
		if n == nil {
			continue
		}
		if !v.Alive || v.Node.Lost {
			f.find("node %s is not back", n.name)
		}
		runs, sum := map[claim]bool{}, uint64(0)
		for _, c := range n.kids.running(edge.RoleShim) {
			runs[claim{c.session, c.gen}] = true
		}
		for k, reserved := range want[v.Node.ID] {
			sum += reserved
			if !runs[k] {
				f.find("session %s.%d does not run on %s", k.id, k.gen, n.name)
			}
		}
		for k := range runs {
			if _, wanted := want[v.Node.ID][k]; !wanted {
				f.find("%s runs session %s.%d, which is not its", n.name, k.id, k.gen)
			}
		}
		if v.Reserved[api.PoolCPU] != sum {
			f.find("node %s: %d macroblocks/s are reserved, its sessions have %d", n.name, v.Reserved[api.PoolCPU], sum)
		}
		dirs, err := local.Run(n.dir + "/run").Sessions()
		if err != nil || len(dirs) != len(runs) {
			f.find("node %s has %d folders for %d sessions: %v", n.name, len(dirs), len(runs), err)
		}
	}
}

// settle mends everything and gives the fleet time, then looks for the last time.
func (f *Fleet) settle(ctx context.Context) {
	f.mend()
	pause(ctx, settleTime)
	f.checkRooms(ctx)
	f.checkMachines()
	f.checkSessions(ctx, true)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.result.Packets = f.net.Stats().Packets
}

// Result of a simulation. Durations are of virtual time: what processors and
// disks take is not in them.
type Result struct {
	Created, Refused, Unanswered int
	DaemonEnds                   int            // daemons that were refused and started again
	NodesLost                    map[string]int // by the step that was the last to begin
	Violations                   int
	Findings                     []string // the first of them, in words
	DoubleReservations, Lost     int
	LeaderLoss, LeaderCut        []time.Duration // without an acknowledged write
	Packets                      uint64

	creates, gossip, ages []time.Duration
	Create                []time.Duration // quantiles: from a client's call to its answer
	Gossip                []time.Duration // quantiles: from an edge's publishing to a replica's hearing
	Age                   []time.Duration // quantiles: for how long what a replica knows of a node's room has been out of date
}

// Quantiles is how many parts a distribution is cut into.
const Quantiles = 20

func (r *Result) finish() {
	r.Create, r.Gossip, r.Age = cut(r.creates), cut(r.gossip), cut(r.ages)
}

// cut gives the least, the quantiles and the greatest; nil of nothing.
func cut(v []time.Duration) []time.Duration {
	if len(v) == 0 {
		return nil
	}
	slices.SortFunc(v, func(a, b time.Duration) int { return cmp.Compare(a, b) })
	out := make([]time.Duration, Quantiles+1)
	for i := range out {
		out[i] = v[min(i*len(v)/Quantiles, len(v)-1)]
	}
	return out
}
