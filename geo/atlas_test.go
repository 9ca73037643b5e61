package geo

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

func TestNetworkOf(t *testing.T) {
	for address, want := range map[string]string{
		"203.0.113.77": "203.0.113.0/24", "::ffff:203.0.113.77": "203.0.113.0/24", "2001:db8:1:2::3": "2001:db8:1::/48",
		"fe80::1%eth0": "fe80::/48", "": "", "localhost": "", "203.0.113.77:80": "",
	} {
		if got := NetworkOf(address); got != want {
			t.Errorf("%s is of %q, want %q", address, got, want)
		}
	}
}

var day = time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)

// TestAtlasLearnsTheMean feeds noisy samples: the estimate comes near the truth,
// its error is honest and shrinks, and a spike does not carry it away.
func TestAtlasLearnsTheMean(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 9))
	a := NewAtlas(10)
	a.Learn("n", "a", 30, day)
	first := a.Nodes(nil, "n", day)[0]
	for i := range 60 {
		a.Learn("n", "a", 25+rnd.ExpFloat64()*3, day.Add(time.Duration(i)*time.Minute))
	}
	got := a.Nodes(nil, "n", day.Add(time.Hour))[0]
	if math.Abs(got.MS-28) > 2 || got.Samples != 61 || got.ErrorMS >= first.ErrorMS/3 || got.ErrorMS <= 0 {
		t.Errorf("learned %+v after %+v", got, first)
	}
	a.Learn("n", "a", 5000, day.Add(time.Hour))
	if spiked := a.Nodes(nil, "n", day.Add(time.Hour))[0]; spiked.MS > got.MS+2 {
		t.Errorf("one spike moved %v to %v", got.MS, spiked.MS)
	}
}

// TestAtlasForgets lets samples grow old: the error widens, a new one counts
// more, and at last nothing is said.
func TestAtlasForgets(t *testing.T) {
	a := NewAtlas(10)
	for range 20 {
		a.Learn("n", "a", 30, day)
	}
	fresh := a.Nodes(nil, "n", day)[0]
	old := a.Nodes(nil, "n", day.Add(14*24*time.Hour))[0]
	if old.ErrorMS <= fresh.ErrorMS {
		t.Errorf("the error went from %v to %v in a fortnight", fresh.ErrorMS, old.ErrorMS)
	}
	a.Learn("n", "a", 50, day.Add(14*24*time.Hour))
	if got := a.Nodes(nil, "n", day.Add(14*24*time.Hour))[0].MS; got < 38 {
		t.Errorf("after a fortnight a new sample counts too little: %v", got)
	}
	if got := a.Nodes(nil, "n", day.Add(365*24*time.Hour)); len(got) != 0 {
		t.Errorf("after a year it still says %+v", got)
	}
}

// TestAtlasIsBounded teaches it more than it may hold.
func TestAtlasIsBounded(t *testing.T) {
	rnd := rand.New(rand.NewPCG(4, 4))
	a := NewAtlas(100)
	for i := range 5000 {
		a.Learn(fmt.Sprint("n", rnd.IntN(1000)), api.NodeID(fmt.Sprint(rnd.IntN(40))), 1+rnd.Float64()*100, day.Add(time.Duration(i)*time.Second))
		if a.Len() > 100 {
			t.Fatalf("%d networks", a.Len())
		}
	}
	for i := range 100 {
		a.Learn("kept", api.NodeID(fmt.Sprint(i)), 10, day.Add(2*time.Hour))
	}
	if got := a.Nodes(nil, "kept", day.Add(2*time.Hour)); len(got) != MaxLearned {
		t.Errorf("%d nodes of one network", len(got))
	}
	order := 0
	for n := a.oldest; n != nil; n = n.newer {
		order++
	}
	if order != a.Len() {
		t.Errorf("%d networks in the order of leaving, %d there are", order, a.Len())
	}
	a.Forget("99")
	for _, l := range a.Nodes(nil, "kept", day.Add(2*time.Hour)) {
		if l.Node == "99" {
			t.Error("a forgotten node is still known")
		}
	}
	for _, ms := range []float64{0, -1, math.NaN(), math.Inf(1), 60_001} {
		a.Learn("bad", "a", ms, day)
	}
	a.Learn("", "a", 1, day)
	if len(a.Nodes(nil, "bad", day)) != 0 || len(a.Nodes(nil, "", day)) != 0 {
		t.Error("what is no round trip was learned")
	}
}
