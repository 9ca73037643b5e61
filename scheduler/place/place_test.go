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
	"github.com/perigee-cloud/perigee/scheduler/state"
)

var update = flag.Bool("update", false, "rewrite the expected tables")

// world reads one script of a node or a need per line:
//
//	node <id> <region> <lat,lon | -> <pool:streams[:sessions][:codec,...]> ... [drain] [lost] [silent] [used=pool:streams] [pending=pool:streams] [live=pool:streams] [memory=N]
//	place <name...> [from=lat,lon] [region=r] [size=WxH@F] [codecs=A,B]
//
// Streams are of 1280x720@60 in H.264.
type world struct {
	t     *testing.T
	state *state.State
	extra map[api.NodeID]Candidate
	order []api.NodeID
}

func streamCost(pool api.Pool) uint64 {
	return api.Cost(pool, api.H264, api.Screen{Width: 1280, Height: 720, FPS: 60})
}

func (w *world) apply(cmds ...state.Command) {
	w.t.Helper()
	next, results, err := w.state.Apply(state.Encode(time.Unix(1_790_000_000, 0), cmds...))
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
	w := &world{t: t, state: state.New(), extra: map[api.NodeID]Candidate{}}
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
	c := Candidate{Alive: true, Pending: map[api.Pool]Pending{}}
	var later []state.Command
	live := func() *api.Headroom {
		if c.Live == nil {
			c.Live = &api.Headroom{Boot: "b"}
		}
		return c.Live
	}
	for _, x := range f[3:] {
		key, value, _ := strings.Cut(x, "=")
		switch key {
		case "drain":
			later = append(later, &state.DrainNode{ID: n.ID, Drain: true})
		case "lost":
			later = append(later, &state.LoseNode{ID: n.ID})
		case "silent":
			c.Alive = false
		case "used":
			pool, mbs := w.share(value)
			for i := range mbs / streamCost(pool) {
				later = append(later, &state.Create{ID: api.SessionID(fmt.Sprint(n.ID, pool, i)), Generation: 1, App: "xterm", AppVersion: 1,
					Node: n.ID, Pool: pool, Codec: api.H264, Reserved: streamCost(pool)})
			}
		case "pending":
			pool, mbs := w.share(value)
			c.Pending[pool] = Pending{Reserved: mbs, Sessions: int(mbs / streamCost(pool))}
		case "live":
			pool, mbs := w.share(value)
			live().Pools = append(live().Pools, api.PoolHeadroom{Pool: pool, Free: mbs})
		case "memory":
			live().Memory = number(w.t, value)
		default:
			p := strings.Split(x, ":")
			pool := api.Pool(p[0])
			capacity := api.Capacity{Pool: pool, Macroblocks: uint64(number(w.t, p[1])) * streamCost(pool), Codecs: api.Codecs()}
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
	w.extra[n.ID] = c
	w.order = append(w.order, n.ID)
}

func codecs(s string) []api.Codec {
	var out []api.Codec
	for _, c := range strings.Split(s, ",") {
		out = append(out, api.Codec(c))
	}
	return out
}

func (w *world) candidates() []Candidate {
	var out []Candidate
	for _, id := range w.order {
		c := w.extra[id]
		c.Node, _ = w.state.Node(id)
		out = append(out, c)
	}
	return out
}

func (w *world) place(f []string) string {
	need := api.Need{App: "xterm", Screen: api.Screen{Width: 1280, Height: 720, FPS: 60}, Codecs: api.Codecs()}
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
		default:
			w.t.Fatalf("unknown word %q", x)
		}
	}
	policy := Policy{DefaultRegion: "eu"}
	lines := Explain(need, w.candidates(), policy)
	choice, refusals := Place(need, w.candidates(), policy)
	switch {
	case len(refusals) > 0 && choice.Node != "":
		w.t.Errorf("%v: a choice and refusals", f)
	case len(refusals) == 0 && choice != lines[0].Choice:
		w.t.Errorf("%v: placed on %s, the table's first is %s", f, choice.Node, lines[0].Choice.Node)
	case len(refusals) > 0 && len(w.order) > 0 && len(refusals) != len(w.order):
		w.t.Errorf("%v: %d refusals of %d candidates", f, len(refusals), len(w.order))
	}
	if len(lines) == 0 {
		return fmt.Sprintf("%s: %s\n", refusals[0].Code, refusals[0].Detail)
	}
	return Table(lines)
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

func BenchmarkPlaceAmong1000(b *testing.B) {
	s := state.New()
	for i := range 1000 {
		doc, err := json.Marshal(api.Node{ID: api.NodeID(fmt.Sprintf("n%04d", i)), Region: "eu",
			Location: api.Location{Known: true, Latitude: float64(i%120) - 60, Longitude: float64(i%300) - 150},
			Pools:    []api.Capacity{{Pool: api.PoolCPU, Macroblocks: 10 * streamCost(api.PoolCPU), Codecs: api.Codecs()}}})
		if err != nil {
			b.Fatal(err)
		}
		if s, _, err = s.Apply(state.Encode(time.Unix(1, 0), &state.PutNode{Doc: doc})); err != nil {
			b.Fatal(err)
		}
	}
	var all []Candidate
	for n := range s.Nodes() {
		all = append(all, Candidate{Node: n, Alive: true})
	}
	need := api.Need{Screen: api.Screen{Width: 1280, Height: 720, FPS: 60}, Codecs: api.Codecs(), Client: api.Location{Known: true, Latitude: 48, Longitude: 11}}
	for b.Loop() {
		if _, refusals := Place(need, all, Policy{}); len(refusals) > 0 {
			b.Fatal(refusals)
		}
	}
}
