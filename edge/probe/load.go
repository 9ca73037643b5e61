package probe

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ran is what a phase of a measurement showed.
type ran struct {
	frames   int
	due      int // frames that should have come; 0 = as many as possible
	wall     time.Duration
	own      time.Duration // processor time of this process
	steal    float64       // shares of all cores, 0 to 1
	foreign  float64
	latency  []time.Duration
	problems error
}

func (r ran) rate() float64 { return float64(r.frames*frameBlock) / r.wall.Seconds() }

// busy is the share of all cores that this process took.
func (r ran) busy(cores int) float64 {
	return r.own.Seconds() / (r.wall.Seconds() * float64(cores))
}

func (r ran) quantile(q float64) float64 {
	if len(r.latency) == 0 {
		return 0
	}
	slices.Sort(r.latency)
	return float64(r.latency[min(int(q*float64(len(r.latency))), len(r.latency)-1)].Microseconds()) / 1000
}

// disturbed says whether others took so much of the machine that lateness says
// nothing of the encoder.
func (r ran) disturbed() bool { return r.steal+r.foreign > 0.05 }

// meter accounts processor time between two moments.
type meter struct {
	cores int
	began time.Time
	own   time.Duration
	stat  stat
}

func newMeter(cores int) meter {
	return meter{cores: cores, began: time.Now(), own: ownTime(), stat: readStat()}
}

func (m meter) end(r *ran) {
	r.wall, r.own = time.Since(m.began), ownTime()-m.own
	now := readStat()
	if total := float64(now.total - m.stat.total); total > 0 {
		r.steal = float64(now.steal-m.stat.steal) / total
		used := float64(now.busy-m.stat.busy)/total - r.busy(m.cores)
		r.foreign = max(used, 0)
	}
}

// ownTime is the processor time that this process has used.
func ownTime() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// stat is the machine's processor time in ticks; busy has no steal in it.
type stat struct{ busy, steal, total uint64 }

func readStat() (s stat) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return s // nothing is taken out then
	}
	line, _, _ := strings.Cut(string(b), "\n")
	for i, f := range strings.Fields(line) {
		n, err := strconv.ParseUint(f, 10, 64)
		const name, idle, iowait, steal, guest = 0, 4, 5, 8, 9
		switch {
		case i == name || i >= guest || err != nil:
			continue
		case i == steal:
			s.steal = n
		case i != idle && i != iowait:
			s.busy += n
		}
		s.total += n
	}
	return s
}

// stage is the encoders of one engine, open and past their first picture.
type stage struct {
	task     Task
	clip     [][]byte
	encoders []Encoder
}

// grow opens encoders until there are n; each encodes its first picture, which
// is slow for reasons of its own.
func (s *stage) grow(ctx context.Context, n int) error {
	for len(s.encoders) < n {
		if err := ctx.Err(); err != nil {
			return err
		}
		e, err := s.task.Open()
		if err != nil {
			return err
		}
		s.encoders = append(s.encoders, e)
		if err := s.encode(e, len(s.encoders), true); err != nil {
			return err
		}
	}
	return nil
}

func (s *stage) close() {
	for _, e := range s.encoders {
		e.Close()
	}
	s.encoders = nil
}

func (s *stage) encode(e Encoder, n int, key bool) error {
	if err := e.Load(s.clip[n%len(s.clip)], clipWidth*4, all); err != nil {
		return err
	}
	p, err := e.Encode(key)
	if err == nil && len(p.Data) == 0 {
		err = errors.New("an encoder gave an empty packet")
	}
	return err
}

// run has n encoders work for a while, each at fps pictures a second (0: as
// fast as they can).
func (s *stage) run(ctx context.Context, n int, fps float64, phase time.Duration) (ran, error) {
	if err := s.grow(ctx, n); err != nil {
		return ran{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, phase)
	defer cancel()
	results := make([]ran, n)
	var wg sync.WaitGroup
	m := newMeter(s.task.Cores)
	for i := range n {
		wg.Go(func() { results[i] = s.stream(ctx, i, n, fps, m.began.Add(phase)) })
	}
	wg.Wait()
	var sum ran
	m.end(&sum)
	for _, r := range results {
		sum.frames, sum.due = sum.frames+r.frames, sum.due+r.due
		sum.latency = append(sum.latency, r.latency...)
		sum.problems = errors.Join(sum.problems, r.problems)
	}
	return sum, sum.problems
}

// stream is one encoder at work.
func (s *stage) stream(ctx context.Context, i, n int, fps float64, end time.Time) (r ran) {
	var every time.Duration
	due := time.Now()
	if fps > 0 {
		every = time.Duration(float64(time.Second) / fps)
		due = due.Add(every * time.Duration(i) / time.Duration(n)) // not all at once
		r.due = int(end.Sub(due)/every) + 1
	}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for k := 0; ; k++ {
		if wait := time.Until(due); wait > 0 {
			timer.Reset(wait)
			select {
			case <-ctx.Done():
				return r
			case <-timer.C:
			}
		}
		if ctx.Err() != nil || !time.Now().Before(end) {
			return r
		}
		begun := time.Now()
		if err := s.encode(s.encoders[i], i*3+k, false); err != nil {
			r.problems = fmt.Errorf("picture %d: %w", k, err)
			return r
		}
		r.frames++
		r.latency = append(r.latency, time.Since(begun))
		due = due.Add(every)
	}
}
