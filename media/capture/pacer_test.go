package capture

import (
	"slices"
	"testing"
	"time"
)

// drawing is one of an application's: when, and whether an input caused it.
type drawing struct {
	at    time.Duration
	input bool
}

// paced runs an application's drawings past a Pacer as the encode process does
// and gives for each picture when it was taken, and for each drawing how long it
// was until a picture showed it.
func paced(p *Pacer, app []drawing) (taken []time.Duration, late []time.Duration) {
	slices.SortStableFunc(app, func(a, b drawing) int { return int(a.at - b.at) })
	waiting := 0 // drawings not shown yet
	take := func(at time.Duration) {
		p.Take(at)
		taken = append(taken, at)
		for _, d := range app[len(late) : len(late)+waiting] {
			late = append(late, at-d.at)
		}
		waiting = 0
	}
	for _, d := range app {
		for now := latest(taken); waiting > 0; {
			now = max(now, app[len(late)+waiting-1].at)
			due := now + p.Delay(now)
			if due >= d.at {
				break
			}
			if p.Delay(due) == 0 {
				take(due)
			}
			now = due
		}
		if d.input {
			p.Input(d.at)
		}
		p.Drawn(d.at)
		waiting++
		if p.Delay(d.at) == 0 {
			take(d.at)
		}
	}
	if waiting > 0 {
		last := app[len(app)-1].at
		take(last + p.Delay(last))
	}
	return taken, late
}

// latest is when the last picture was taken.
func latest(taken []time.Duration) time.Duration {
	if len(taken) == 0 {
		return 0
	}
	return taken[len(taken)-1]
}

// ticks are an application's drawings at a rate, with some jitter.
func ticks(fps int, n int) (app []drawing) {
	interval := time.Second / time.Duration(fps)
	for i := range n {
		app = append(app, drawing{at: time.Second + time.Duration(i)*interval + time.Duration(i%3)*interval/16})
	}
	return app
}

// atMost checks the promise: never more pictures in a time than the rate allows.
func atMost(t *testing.T, taken []time.Duration, fps int) {
	t.Helper()
	for i := range taken {
		for j := i + 1; j < len(taken); j++ {
			most := (taken[j]-taken[i]).Seconds()*float64(fps) + pacerBurst + pacerOverdraft
			if n := float64(j - i); n > most {
				t.Fatalf("%v pictures in %v at %d a second", n, taken[j]-taken[i], fps)
			}
		}
	}
}

func TestPacerHoldsNothingBackAtTheRate(t *testing.T) {
	p := NewPacer(60)
	_, late := paced(&p, ticks(60, 600))
	for i, d := range late {
		if d > 0 {
			t.Fatalf("drawing %d is %v late", i, d)
		}
	}
}

// The application draws at the rate and once more for each of eight inputs a
// second: the inputs' drawings are shown at once, the others do not stay late.
func TestPacerShowsInputsAtOnce(t *testing.T) {
	const fps, interval = 60, time.Second / 60
	for _, phase := range []time.Duration{1, 3, 5, 8, 11, 14, 16} {
		app := ticks(fps, 600)
		for i := range 80 {
			at := time.Second + time.Duration(i)*125*time.Millisecond
			app = append(app, drawing{at: at - at%interval + phase*time.Millisecond, input: true})
		}
		p := NewPacer(fps)
		taken, late := paced(&p, app)
		atMost(t, taken, fps)
		held := 0
		for i, d := range late {
			if app[i].input && d > interval/4 {
				t.Errorf("phase %d ms: the input's drawing at %v is %v late", phase, app[i].at, d)
			}
			if d > 0 {
				held++
			}
			if d > 2*interval {
				t.Errorf("phase %d ms: a drawing is %v late", phase, d)
			}
		}
		// Two or so for each input: itself, what pays for it.
		if held > 3*80 {
			t.Errorf("phase %d ms: %d of %d drawings are late", phase, held, len(late))
		}
	}
}

// An application without limits gets the rate, and its inputs within an interval.
func TestPacerCapsTheRate(t *testing.T) {
	for _, fps := range []int{30, 60} {
		for _, draws := range []int{61, 75, 90, 144, 200, 1000} {
			app := ticks(draws, draws*10)
			for i := range app {
				app[i].input = i%(draws/8) == 0
			}
			p := NewPacer(fps)
			taken, late := paced(&p, app)
			atMost(t, taken, fps)
			if n := len(taken); n < fps*10*8/10 {
				t.Errorf("%d drawings a second at %d: %d pictures in 10 s", draws, fps, n)
			}
			interval := time.Second / time.Duration(fps)
			for i, d := range late {
				if d > 2*interval || app[i].input && d > interval*9/8 {
					t.Errorf("%d drawings a second at %d: drawing %d is %v late", draws, fps, i, d)
					break
				}
			}
		}
	}
}

// Nothing follows: what was drawn is shown all the same.
func TestPacerShowsTheLast(t *testing.T) {
	const interval = time.Second / 60
	p := NewPacer(60)
	var app []drawing
	for i := range 20 {
		app = append(app, drawing{at: time.Second + time.Duration(i)*time.Millisecond})
	}
	_, late := paced(&p, app)
	if len(late) != len(app) {
		t.Fatalf("%d of %d drawings are shown", len(late), len(app))
	}
	if last := late[len(late)-1]; last > interval*5/4 {
		t.Errorf("the last drawing is %v late", last)
	}
}

func TestPacerZeroAllowsEverything(t *testing.T) {
	var p Pacer
	p.Take(time.Second)
	p.Drawn(time.Second)
	if d := p.Delay(time.Second); d != 0 {
		t.Errorf("it waits %v", d)
	}
}
