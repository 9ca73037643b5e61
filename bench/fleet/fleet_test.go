package fleet

import (
	"math"
	"reflect"
	"testing"
	"time"
)

func small(k Knowledge) Config {
	return Config{Seed: 7, Knowledge: k, Sites: 60, PerSite: 8, Streams: 2, Networks: 150, Sessions: 6000, Span: 24 * time.Hour, Flash: 10}
}

// TestKnowledgeBringsSessionsNearer runs one small world three times: the more
// is known, the less is lost against an oracle. No capacity is given twice, no
// session lost.
func TestKnowledgeBringsSessionsNearer(t *testing.T) {
	var p95 [3]float64
	for k := GeoIP; k <= Probed; k++ {
		r, err := Run(small(k))
		if err != nil {
			t.Fatal(err)
		}
		p95[k] = r.Regret(0.95)
		t.Logf("knowledge %d: %d placed, %d refused, regret p50 %.1f p95 %.1f ms, round trip p50 %.0f p95 %.0f ms",
			k, r.Placed, r.Refused, r.Regret(0.5), p95[k], r.TripP50, r.TripP95)
		if r.DoubleReservations != 0 || r.Lost != 0 || r.Placed < 5000 {
			t.Errorf("knowledge %d: %d placed, %d double reservations, %d lost", k, r.Placed, r.DoubleReservations, r.Lost)
		}
		if r.Regrets[0] < 0 {
			t.Errorf("knowledge %d: somebody did better than the oracle by %v ms", k, -r.Regrets[0])
		}
	}
	if !(p95[Probed] < p95[Atlas] && p95[Atlas] < p95[GeoIP]) {
		t.Errorf("p95 of the regret by knowledge: %v", p95)
	}
}

// TestDelaysOfProductionCostLittle runs the same world with and without them:
// what is heard of late must not make placement much worse, nor anything double.
func TestDelaysOfProductionCostLittle(t *testing.T) {
	c := small(Probed)
	c.PerSite = 1 // little room
	at, err := Run(c)
	if err != nil {
		t.Fatal(err)
	}
	c.Delays = Measured()
	late, err := Run(c)
	if err != nil {
		t.Fatal(err)
	}
	c.Delays = &Delays{Commit: Measured().Commit, Gossip: []time.Duration{time.Minute, time.Hour}}
	deaf, err := Run(c)
	if err != nil {
		t.Fatal(err)
	}
	c.Delays = Stormy()
	storm, err := Run(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("regret p95: %.2f ms without delays, %.2f with production's, %.2f in bad weather, %.2f deaf", at.Regret(0.95), late.Regret(0.95), storm.Regret(0.95), deaf.Regret(0.95))
	if storm.DoubleReservations != 0 || storm.Lost != 0 || storm.Regret(0.95) > deaf.Regret(0.95) {
		t.Errorf("in bad weather %d double, %d lost, regret p95 %.2f ms", storm.DoubleReservations, storm.Lost, storm.Regret(0.95))
	}
	if deaf.Regret(0.95) < 2*late.Regret(0.95) || deaf.DoubleReservations != 0 {
		t.Errorf("schedulers that hear of nothing for half an hour: regret p95 %.2f ms, %d streams given twice", deaf.Regret(0.95), deaf.DoubleReservations)
	}
	if late.DoubleReservations != 0 || late.Lost != 0 || late.Placed < at.Placed*99/100 || late.Regret(0.95) > at.Regret(0.95)+5 {
		t.Errorf("%d placed, %d double, %d lost, regret p95 %.2f ms", late.Placed, late.DoubleReservations, late.Lost, late.Regret(0.95))
	}
}

func TestTheSameSeedGivesTheSameWorld(t *testing.T) {
	c := small(Probed)
	c.Sessions, c.Delays = 1000, Measured()
	a, err := Run(c)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Run(c)
	if err != nil || !reflect.DeepEqual(a, b) {
		t.Errorf("two runs of one seed differ: %v", err)
	}
	c.Seed++
	if b, err = Run(c); err != nil || reflect.DeepEqual(a, b) {
		t.Errorf("two seeds give one world: %v", err)
	}
}

// TestBlockingIsErlangB compares the share turned away with the formula.
func TestBlockingIsErlangB(t *testing.T) {
	for load, want := range map[float64]float64{0.5: 1.0 / 3, 10: 10.0 / 11} {
		if got := ErlangB(load, 1); math.Abs(got-want) > 1e-3 {
			t.Errorf("one server, %v erlangs: %v, want %v", load, got, want)
		}
	}
	got, r, err := Blocking(3, 40, 20_000, 40)
	if err != nil {
		t.Fatal(err)
	}
	if want := ErlangB(40, 40); math.Abs(got-want) > 0.02 || r.DoubleReservations != 0 {
		t.Errorf("40 erlangs on 40 servers: %.3f turned away, want %.3f; %d double reservations", got, want, r.DoubleReservations)
	}
}

// TestHerdTakesNothingTwice sends more at once than there is room for.
func TestHerdTakesNothingTwice(t *testing.T) {
	r, err := Herd(1, 100, 10, 1200)
	if err != nil {
		t.Fatal(err)
	}
	if r.Placed != 1000 || r.Double != 0 || r.Refused == 0 {
		t.Errorf("a herd of 1200 on 1000 streams: %+v", r)
	}
}
