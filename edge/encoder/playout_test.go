package encoder

import (
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/media"
)

// counter is a decoder whose samples are their packet's number; made up ones are -1.
type counter struct{ copies int }

func (c *counter) Decode(p []byte) ([]int16, error) {
	if p[0] == 0xff {
		return nil, errors.New("not Opus")
	}
	return flat(int16(p[0])<<8|int16(p[1]), playFrame), nil
}

func (c *counter) Conceal(next []byte, n int) ([]int16, error) {
	if next != nil {
		c.copies++
	}
	return flat(-1, n), nil
}

func flat(v int16, n int) []int16 {
	out := make([]int16, n)
	for i := range out {
		out[i] = v
	}
	return out
}

func number(n int) []byte { return []byte{byte(n >> 8 & 0x7f), byte(n)} }

// network carries a client's packets of 20 ms to a playout that is asked for
// 10 ms at a time.
type network struct {
	rate  float64                   // of the client's clock to ours
	delay func(n int) time.Duration // of a packet; below 0: lost
	heard func(at time.Duration, out []int16, waiting int)
}

func (w network) run(t *testing.T, p *playout, length time.Duration) {
	t.Helper()
	type packet struct {
		n  int
		at time.Duration
	}
	var way []packet
	sent := 0
	out := make([]int16, 10*sampleMS)
	for now := time.Duration(0); now < length; now += 10 * time.Millisecond {
		for ; time.Duration(float64(sent)*float64(20*time.Millisecond)/w.rate) <= now; sent++ {
			if d := w.delay(sent); d >= 0 {
				way = append(way, packet{sent, now + d})
			}
		}
		kept := way[:0]
		for _, x := range way {
			if x.at <= now {
				p.add(uint16(65_500+x.n), number(x.n)) // it wraps early
			} else {
				kept = append(kept, x)
			}
		}
		way = kept
		p.take(out)
		w.heard(now, out, p.waiting())
	}
}

func steady(int) time.Duration { return 30 * time.Millisecond }

// A minute of a steady way: nothing is made up, nothing lost, and next to
// nothing waits.
func TestPlayoutOfASteadyWay(t *testing.T) {
	p := newPlayout(&counter{})
	last, silent, most := int16(-1), 0, 0
	network{rate: 1, delay: steady, heard: func(at time.Duration, out []int16, waiting int) {
		if at < time.Second {
			last = out[len(out)-1]
			return
		}
		most = max(most, waiting)
		for _, v := range out {
			if v != last && v != last+1 {
				silent++
			}
			last = v
		}
	}}.run(t, p, time.Minute)
	if silent > 0 {
		t.Errorf("%d breaks in the sound", silent)
	}
	if most > 50*sampleMS {
		t.Errorf("%d ms wait on a way without jitter", most/sampleMS)
	}
}

// Clocks that run apart by 0.5 % either way, fifty times what computers do: in
// ten minutes the delay neither grows nor is there more than a little made up.
func TestPlayoutFollowsTheClock(t *testing.T) {
	for name, rate := range map[string]float64{"fast": 1.005, "slow": 0.995} {
		t.Run(name, func(t *testing.T) {
			p := newPlayout(&counter{})
			most, made, samples := 0, 0, 0
			network{rate: rate, delay: steady, heard: func(at time.Duration, out []int16, waiting int) {
				if at < 5*time.Second {
					return
				}
				most = max(most, waiting)
				for _, v := range out {
					samples++
					if v < 1 { // made up, or silence
						made++
					}
				}
			}}.run(t, p, 10*time.Minute)
			if most > 100*sampleMS {
				t.Errorf("%d ms wait", most/sampleMS)
			}
			if share := float64(made) / float64(samples); share > 0.02 {
				t.Errorf("%.1f %% of the sound is made up", share*100)
			}
		})
	}
}

// Jitter of up to 60 ms: after the first seconds hardly anything comes too late;
// when the way is calm again, the delay goes down again.
func TestPlayoutLearnsTheJitter(t *testing.T) {
	dice := rand.New(rand.NewPCG(1, 2))
	p := newPlayout(&counter{})
	made, calm := 0, 0
	network{rate: 1, delay: func(n int) time.Duration {
		if n > 60*50 {
			return steady(n)
		}
		return 30*time.Millisecond + time.Duration(dice.IntN(60))*time.Millisecond
	}, heard: func(at time.Duration, out []int16, waiting int) {
		switch {
		case at > 10*time.Second && at < 60*time.Second && out[0] < 1:
			made++
		case at > 4*time.Minute:
			calm = max(calm, waiting)
		}
	}}.run(t, p, 5*time.Minute)
	if made > 50*100/50 { // 2 % of fifty seconds
		t.Errorf("%d of 5,000 blocks are made up", made)
	}
	if calm > 60*sampleMS {
		t.Errorf("%d ms wait three minutes after the jitter", calm/sampleMS)
	}
}

// One packet in ten is lost: the next one's copy takes its place.
func TestPlayoutMendsLoss(t *testing.T) {
	c := &counter{}
	p := newPlayout(c)
	network{rate: 1, delay: func(n int) time.Duration {
		if n%10 == 5 {
			return -1
		}
		return steady(n)
	}, heard: func(time.Duration, []int16, int) {}}.run(t, p, 20*time.Second)
	if c.copies < 90 {
		t.Errorf("%d of 100 lost packets were mended", c.copies)
	}
}

// A client that stops and comes again, one whose network holds everything back
// for seconds, and one that sends what is no Opus: the delay stays bounded.
func TestPlayoutIsBounded(t *testing.T) {
	p := newPlayout(&counter{})
	most, silent := 0, 0
	network{rate: 1, delay: func(n int) time.Duration {
		switch at := n * 20; {
		case at > 5000 && at < 8000:
			return -1 // muted
		case at > 10_000 && at < 12_000:
			return time.Duration(12_000-at) * time.Millisecond // all at once
		}
		return 0
	}, heard: func(at time.Duration, out []int16, waiting int) {
		most = max(most, waiting)
		if at > 6*time.Second && at < 7*time.Second && out[0] == 0 {
			silent++
		}
	}}.run(t, p, 20*time.Second)
	if most > playMost+playFrame*playPackets {
		t.Errorf("%d ms wait", most/sampleMS)
	}
	if silent < 95 {
		t.Errorf("%d of 100 blocks of the pause are silent", silent)
	}
	for n := range 200 {
		p.add(uint16(n), []byte{0xff, 1})
	}
	out := make([]int16, media.SampleRate)
	p.take(out)
	if len(p.packets) > playPackets {
		t.Errorf("%d packets wait", len(p.packets))
	}
	if p.waiting() > playMost {
		t.Errorf("%d ms wait", p.waiting()/sampleMS)
	}
}
