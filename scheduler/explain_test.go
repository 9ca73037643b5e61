package scheduler

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// TestPlacementIsExplained creates a session and reads why it runs there.
func TestPlacementIsExplained(t *testing.T) { synctest.Test(t, testPlacementIsExplained) }

func testPlacementIsExplained(t *testing.T) {
	w := newWorld(t)
	w.app()
	w.edge("near", 2, func(n *api.Node) { n.Location = api.Location{Known: true, Latitude: 48, Longitude: 11} })
	w.edge("far", 2, func(n *api.Node) { n.Location = api.Location{Known: true, Latitude: 40, Longitude: -74} })
	a := w.mustCreate(func(r *api.CreateRequest) {
		r.Client = api.Client{Address: "203.0.113.9", Location: api.Location{Known: true, Latitude: 48.1, Longitude: 11.5}}
	})
	x, err := w.s.Placement(w.ctx(), a.Session.ID)
	if err != nil {
		t.Fatal(err)
	}
	if x.Session != a.Session.ID || x.Nodes != 2 || len(x.Candidates) != 2 || x.Candidates[0].Node != a.Session.Node || x.Candidates[0].Source != "distance" ||
		x.Request.Network != "203.0.113.0/24" || x.At.IsZero() {
		t.Errorf("explained by %+v", x)
	}
	if _, err := w.s.Placement(w.ctx(), "never"); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("a session that never was: %v", err)
	}
}

func explanation(id string) *api.Explanation {
	return &api.Explanation{Session: api.SessionID(id), Nodes: 3, Candidates: []api.ExplainedCandidate{{Rank: 1, Node: "n", Source: "probe", EstimateMS: 12}}}
}

func TestExplanationsSurviveARestartAndATornWrite(t *testing.T) {
	dir := dataDir(t)
	known := func(api.SessionID) bool { return true }
	var e explanations
	for i := range 20 {
		if err := e.put(dir, explanation(fmt.Sprint("s", i)), known); err != nil {
			t.Fatal(err)
		}
	}
	name := segmentPath(dir, 1)
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, b[:len(b)-3], 0o600); err != nil {
		t.Fatal(err)
	}
	var again explanations
	for i := range 20 {
		x, ok, err := again.get(dir, api.SessionID(fmt.Sprint("s", i)))
		if err != nil || ok != (i < 19) || ok && x.Candidates[0].EstimateMS != 12 {
			t.Errorf("s%d after a torn write: %v, %v", i, ok, err)
		}
	}
	if err := again.put(dir, explanation("s19"), known); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := again.get(dir, "s19"); !ok || err != nil {
		t.Errorf("put again: %v, %v", ok, err)
	}
}

func TestExplanationsAreBounded(t *testing.T) {
	dir := dataDir(t)
	alive := map[api.SessionID]bool{}
	known := func(id api.SessionID) bool { return alive[id] }
	var e explanations
	big := func(id string) *api.Explanation {
		x := explanation(id)
		// What cannot be compressed fills a file with few records.
		for i := range 4000 {
			x.Candidates = append(x.Candidates, api.ExplainedCandidate{Node: api.NodeID(fmt.Sprintf("%x", uint64(i+1)*uint64(len(id)+i)*0x9e3779b97f4a7c15))})
		}
		return x
	}
	alive["s3"] = true
	for i := range 400 {
		if err := e.put(dir, big(fmt.Sprint("s", i)), known); err != nil {
			t.Fatal(err)
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) != len(e.segments) || len(files) > explainSegments {
		t.Errorf("%d files for %d segments: %v", len(files), len(e.segments), err)
	}
	if _, ok, err := e.get(dir, "s3"); !ok || err != nil {
		t.Errorf("a session that lives lost its explanation: %v, %v", ok, err)
	}
	delete(alive, "s3")
	e.mu.Lock()
	err = e.prune(dir, known)
	e.mu.Unlock()
	if _, ok, _ := e.get(dir, "s3"); ok || err != nil || len(e.segments) != 1 {
		t.Errorf("nobody is known, %d segments are left: %v", len(e.segments), err)
	}
	now := time.Unix(5, 0)
	kept := 0
	for range 3 * explainPerSecond {
		if e.mayKeep(now) {
			kept++
		}
	}
	if kept != explainPerSecond || !e.mayKeep(now.Add(time.Second)) {
		t.Errorf("%d kept in one second", kept)
	}
}

func FuzzReadExplained(f *testing.F) {
	var e explanations
	b, err := e.record("s1", []byte(strings.Repeat(`{"nodes":3}`, 20)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:len(b)-1])
	f.Add([]byte{explainVersion, 1, 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		id, doc, err := readExplained(b)
		if err != nil {
			return
		}
		again, err := e.record(id, doc)
		if err != nil {
			t.Fatal(err)
		}
		if id2, doc2, err := readExplained(again); err != nil || id2 != id || string(doc2) != string(doc) {
			t.Fatalf("%q came back as %q: %v", id, id2, err)
		}
	})
}

func BenchmarkKeepExplanation(b *testing.B) {
	var e explanations
	dir := b.TempDir()
	x := explanation("s")
	for i := range maxExplained - 1 {
		x.Candidates = append(x.Candidates, api.ExplainedCandidate{Rank: i + 2, Node: api.NodeID(fmt.Sprintf("node%012d", i)), Region: "eu", Source: "distance",
			Location: api.Location{Known: true, Latitude: 48 + float64(i)/7, Longitude: 11}, DistanceKM: float64(i) * 11.1, EstimateMS: float64(i), ErrorMS: 1.5, ScoreMS: float64(i),
			Pools: []api.PoolRecord{{Capacity: api.Capacity{Pool: api.PoolCPU, Macroblocks: 864000, Codecs: api.SoftwareCodecs()}, Reserved: uint64(i) * 1000}}})
	}
	n := 0
	for b.Loop() {
		x.Session = api.SessionID(fmt.Sprint("s", n))
		if err := e.put(dir, x, func(api.SessionID) bool { return false }); err != nil {
			b.Fatal(err)
		}
		n++
	}
}
