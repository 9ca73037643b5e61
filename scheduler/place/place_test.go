package place

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/geo"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

var update = flag.Bool("update", false, "rewrite the expected tables")

// world reads one script of a node or a need per line:
//
//	node <id> <region> <lat,lon | -> <pool:streams[:sessions][:codec,...]> ... [drain] [lost] [silent] [used=pool:streams] [pending=pool:streams] [live=pool:streams] [memory=N] [label=k=v] [machine=part:most,...] [taken=part:used,...]
//	place <name...> [from=lat,lon] [region=r] [size=WxH@F] [codecs=A,B] [probes=node:ms,node:silent] [takes=part:amount,...]
//	keep <name...>, as place: a node is kept for who asks so; keep alone: for nobody any more
//	policy <JSON of the application's policy, or nothing>
//	trunk <percent kept for joins>
//	atlas <node:ms:samples> ...
//
// Streams are of 1280x720@60 in H.264.
type world struct {
	t     *testing.T
	state *state.State
	fleet *Fleet
	watch fakeWatch
	op    Operator
	app   *api.PlacementPolicy
	known []geo.Learned
}

// fakeWatch is what the ledger does not know, by node.
type fakeWatch struct {
	silent map[api.NodeID]bool
	live   map[api.NodeID]*api.Headroom
}

func (w fakeWatch) Alive(n *state.Node) bool { return !w.silent[n.ID] }

func (w fakeWatch) Headroom(n *state.Node) (api.Headroom, bool) {
	if h := w.live[n.ID]; h != nil {
		return *h, true
	}
	return api.Headroom{}, false
}

func streamCost(pool api.Pool) uint64 {
	return api.Cost(pool, api.H264, api.Screen{Width: 1280, Height: 720, FPS: 60})
}

func (w *world) apply(cmds ...state.Command) {
	w.t.Helper()
	next, results, err := w.state.Apply(state.EncodeAs(state.EntryVersion, time.Unix(1_790_000_000, 0), cmds...))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, r := range results {
		if r.Err != nil {
			w.t.Fatal(r.Err)
		}
	}
	w.state = next
}

func (w *world) doc(v any) []byte {
	w.t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, state: state.New(), fleet: NewFleet(), op: Operator{DefaultRegion: "eu"},
		watch: fakeWatch{map[api.NodeID]bool{}, map[api.NodeID]*api.Headroom{}}}
	w.apply(&state.PutApp{Doc: w.doc(api.App{Name: "xterm", Kind: api.AppProgram, Command: []string{"xterm"}})})
	return w
}

func location(t *testing.T, s string) api.Location {
	t.Helper()
	if s == "-" {
		return api.Location{}
	}
	l := api.Location{Known: true}
	if _, err := fmt.Sscanf(s, "%f,%f", &l.Latitude, &l.Longitude); err != nil {
		t.Fatalf("location %q: %v", s, err)
	}
	return l
}

func number(t *testing.T, s string) int {
	t.Helper()
	var n int
	if _, err := fmt.Sscanf(s, "%d", &n); err != nil {
		t.Fatalf("number %q: %v", s, err)
	}
	return n
}

// share reads "pool:streams" as macroblocks per second.
func (w *world) share(s string) (api.Pool, uint64) {
	p, n, _ := strings.Cut(s, ":")
	return api.Pool(p), uint64(number(w.t, n)) * streamCost(api.Pool(p))
}

func (w *world) node(f []string) {
	n := api.Node{ID: api.NodeID(f[0]), Region: f[1], Location: location(w.t, f[2]), Boot: "b"}
	held := map[api.Pool]uint64{}
	var later []state.Command
	live := func() *api.Headroom {
		if w.watch.live[n.ID] == nil {
			w.watch.live[n.ID] = &api.Headroom{Boot: "b"}
		}
		return w.watch.live[n.ID]
	}
	for _, x := range f[3:] {
		key, value, _ := strings.Cut(x, "=")
		switch key {
		case "drain":
			later = append(later, &state.DrainNode{ID: n.ID, Drain: true})
		case "lost":
			later = append(later, &state.LoseNode{ID: n.ID})
		case "silent":
			w.watch.silent[n.ID] = true
		case "used":
			pool, mbs := w.share(value)
			for i := range mbs / streamCost(pool) {
				later = append(later, &state.Create{ID: api.SessionID(fmt.Sprint(n.ID, pool, i)), Generation: 1, App: "xterm", AppVersion: 1,
					Node: n.ID, Pool: pool, Codec: api.H264, Reserved: streamCost(pool)})
			}
		case "fast": // what the cheaper preset costs on each of the node's pools
			for i := range n.Pools {
				for _, c := range n.Pools[i].Codecs {
					n.Pools[i].Factors = append(n.Pools[i].Factors, api.CostFactor{Codec: c, Preset: api.PresetFast, Thousandths: uint32(number(w.t, value))})
				}
			}
		case "pending":
			pool, mbs := w.share(value)
			held[pool] = mbs
		case "label":
			k, v, _ := strings.Cut(value, "=")
			if n.Labels == nil {
				n.Labels = map[string]string{}
			}
			n.Labels[k] = v
		case "live":
			pool, mbs := w.share(value)
			live().Pools = append(live().Pools, api.PoolHeadroom{Pool: pool, Free: mbs})
		case "ended": // measured while a session ran that the ledger has no more
			pool, mbs := w.share(value)
			live().Pools = append(live().Pools, api.PoolHeadroom{Pool: pool, Free: mbs, Sessions: 1})
		case "machine":
			n.Machine = machine(w.t, value)
		case "taken":
			later = append(later, &state.Create{ID: api.SessionID(n.ID + "-taken"), Generation: 1, App: "xterm", AppVersion: 1,
				Node: n.ID, Pool: api.PoolNone, Parts: parts(w.t, value)})
		case "memory":
			live().Memory = number(w.t, value)
		default:
			p := strings.Split(x, ":")
			pool := api.Pool(p[0])
			capacity := api.Capacity{Pool: pool, Macroblocks: uint64(number(w.t, p[1])) * streamCost(pool), Codecs: api.SoftwareCodecs()}
			if len(p) > 2 && p[2] != "" {
				capacity.Sessions = number(w.t, p[2])
			}
			if len(p) > 3 {
				capacity.Codecs = codecs(p[3])
			}
			n.Pools = append(n.Pools, capacity)
		}
	}
	w.apply(append([]state.Command{&state.PutNode{Doc: w.doc(n)}}, later...)...)
	w.fleet.Sync(w.state)
	for pool, mbs := range held {
		for ; mbs > 0; mbs -= streamCost(pool) {
			w.fleet.Hold(n.ID, pool, streamCost(pool), api.Parts{})
		}
	}
}

// policy sets the application's; strict, as the API is.
func (w *world) policy(text string) {
	w.app = nil
	if text == "" {
		return
	}
	w.app = &api.PlacementPolicy{}
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(w.app); err != nil {
		w.t.Fatalf("policy %s: %v", text, err)
	}
	if err := w.app.Check(); err != nil {
		w.t.Fatalf("policy %s: %v", text, err)
	}
}

// amountsIn reads "part:amount,...".
func amountsIn(t *testing.T, s string, set func(part string, amount uint64)) {
	t.Helper()
	for _, x := range strings.Split(s, ",") {
		part, amount, _ := strings.Cut(x, ":")
		set(part, uint64(number(t, amount)))
	}
}

func machine(t *testing.T, s string) *api.Machine {
	m := &api.Machine{}
	amountsIn(t, s, func(part string, v uint64) {
		switch part {
		case "cpu":
			m.CPUMillis = v
		case "memory":
			m.MemoryMiB = v
		case "uplink":
			m.UplinkKbps = v
		default:
			m.GPUs = append(m.GPUs, api.GPUMemory{Device: part, VRAMMiB: v})
		}
	})
	return m
}

// parts reads what is taken; a number is a graphics processor's.
func parts(t *testing.T, s string) (p api.Parts) {
	amountsIn(t, s, func(part string, v uint64) {
		switch part {
		case "cpu":
			p.CPUMillis = v
		case "memory":
			p.MemoryMiB = v
		case "uplink":
			p.UplinkKbps = v
		case "vram":
			p.VRAMMiB = v
		default:
			p.GPU, p.VRAMMiB = number(t, part)+1, v
		}
	})
	return p
}

func (w *world) atlas(f []string) {
	w.known = nil
	for _, x := range f {
		p := strings.Split(x, ":")
		w.known = append(w.known, geo.Learned{Node: api.NodeID(p[0]), MS: float64(number(w.t, p[1])), ErrorMS: 2, Samples: number(w.t, p[2])})
	}
}

func probes(t *testing.T, s string) []api.Probe {
	var out []api.Probe
	for _, x := range strings.Split(s, ",") {
		node, ms, _ := strings.Cut(x, ":")
		p := api.Probe{Node: api.NodeID(node), Silent: ms == "silent", RoundTripMS: api.SilentMS}
		if !p.Silent {
			p.RoundTripMS = float64(number(t, ms))
		}
		out = append(out, p)
	}
	return out
}

func codecs(s string) []api.Codec {
	var out []api.Codec
	for _, c := range strings.Split(s, ",") {
		out = append(out, api.Codec(c))
	}
	return out
}

// query reads what is asked.
func (w *world) query(f []string) *Query {
	need := api.Need{App: "xterm", Screen: api.Screen{Width: 1280, Height: 720, FPS: 60}, Codecs: api.SoftwareCodecs()}
	for _, x := range f[1:] {
		key, value, is := strings.Cut(x, "=")
		if !is {
			continue // of the name
		}
		switch key {
		case "from":
			need.Client = location(w.t, value)
		case "region":
			need.Region = value
		case "size":
			if _, err := fmt.Sscanf(value, "%dx%d@%d", &need.Screen.Width, &need.Screen.Height, &need.Screen.FPS); err != nil {
				w.t.Fatalf("size %q: %v", value, err)
			}
		case "codecs":
			need.Codecs = codecs(value)
		case "probes":
			need.Probes = probes(w.t, value)
		case "takes":
			need.Parts, need.Counted = parts(w.t, value), true
		default:
			w.t.Fatalf("unknown word %q", x)
		}
	}
	return &Query{Need: need, Policy: w.app, Learned: w.known}
}

func (w *world) place(f []string) string {
	q := w.query(f)
	lines := w.fleet.Explain(q, w.op, w.watch, 32)
	choice, ok := w.fleet.Place(q, w.op, w.watch)
	refusals := Refusals(lines, q.Need)
	switch {
	case ok && (choice.Node != lines[0].Node || lines[0].Rank != 1 || choice.Pool != lines[0].Pool || choice.Cost != lines[0].Cost || choice.FPS != lines[0].FPS || choice.Preset != lines[0].Preset || choice.Placement.Step != lines[0].Step):
		w.t.Errorf("%v: placed on %+v, the table's first is %+v", f, choice, lines[0])
	case !ok && len(refusals) != max(w.fleet.Len(), 1):
		w.t.Errorf("%v: %d refusals of %d candidates", f, len(refusals), w.fleet.Len())
	}
	if len(lines) == 0 {
		return fmt.Sprintf("%s: %s\n", refusals[0].Code, refusals[0].Detail)
	}
	text := Table(lines)
	if ok {
		text += fmt.Sprintf("placed on %s, rank %d by %s", choice.Node, choice.Placement.Rank, choice.Placement.Source)
		if choice.Placement.ExtraMS > 0 {
			text += fmt.Sprintf(", %.1f ms more than the best", choice.Placement.ExtraMS)
		}
		if choice.Parts.GPU > 0 {
			text += fmt.Sprintf(", graphics processor %d", choice.Parts.GPU)
		}
		if choice.Placement.Step != "" {
			text += ", by the step " + choice.Placement.Step
		}
		text += "\n"
	}
	return text
}

// TestScripts runs testdata/*.txt and compares the score tables in them: a
// change of policy is a change of these files.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := runScript(t, string(text))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			} else if got != string(text) {
				t.Errorf("the tables differ; rewrite them with -update if that is meant\n%s", got)
			}
		})
	}
}

// runScript keeps a script's own lines and replaces the tables, which are
// indented.
func runScript(t *testing.T, text string) string {
	w := newWorld(t)
	var out strings.Builder
	in := bufio.NewScanner(strings.NewReader(text))
	for in.Scan() {
		line := in.Text()
		if strings.HasPrefix(line, "    ") {
			continue
		}
		out.WriteString(line + "\n")
		f := strings.Fields(line)
		switch {
		case len(f) == 0 || strings.HasPrefix(line, "#"):
		case f[0] == "node":
			w.node(f[1:])
		case f[0] == "policy":
			w.policy(strings.TrimSpace(strings.TrimPrefix(line, "policy")))
		case f[0] == "trunk":
			w.op.Trunk = float64(number(w.t, f[1])) / 100
		case f[0] == "atlas":
			w.atlas(f[1:])
		case f[0] == "place":
			for l := range strings.Lines(w.place(f)) {
				out.WriteString("    " + l)
			}
		default:
			t.Fatalf("unknown line %q", line)
		}
	}
	return out.String()
}
