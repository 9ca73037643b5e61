package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/perigee-cloud/perigee/cmd/run/site"
	"github.com/perigee-cloud/perigee/media/link"
)

const (
	wideKbps = 6000
	cutKbps  = 1000
	cutFor   = 10 * time.Second
	// calm is how long a stream settles before it is judged.
	calm = 8 * time.Second
)

// cut is one run through a link that is cut and opened again.
type cut struct {
	freeze, freezeAfter, recover, above, usedPercent float64
}

// pictureLink cuts the link from 6 to 1 Mb/s for 10 s: 40 ms of round trip, a
// queue of 150 ms.
func pictureLink(ctx context.Context, runs int) (_ []Result, err error) {
	st, err := newLinkStage(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, st.close()) }()
	var freeze, after, recovered, above, used []float64
	for range runs {
		c, err := st.cut(ctx)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(os.Stderr, "  %+v\n", c)
		freeze, recovered, above = append(freeze, c.freeze), append(recovered, c.recover), append(above, c.above)
		after, used = append(after, c.freezeAfter), append(used, c.usedPercent)
	}
	return []Result{
		Result{Name: "link_cut_freeze_ms", Value: round(median(freeze)), Unit: "ms", Runs: runs}.atMost(500),
		Result{Name: "link_cut_recover_s", Value: round(median(recovered)), Unit: "s", Runs: runs}.atMost(3),
		Result{Name: "link_cut_above_s", Value: round(median(above)), Unit: "s", Runs: runs}.atMost(1),
		{Name: "link_open_freeze_ms", Value: round(median(after)), Unit: "ms", Runs: runs},
		{Name: "link_cut_used_percent", Value: round(median(used)), Unit: "% of the cut link", Runs: runs},
	}, nil
}

func (st *stage) cut(ctx context.Context) (c cut, err error) {
	shape := link.Shape{Kbps: wideKbps, Queue: 150 * time.Millisecond, Delay: 20 * time.Millisecond}
	n, err := openNarrow(ctx, st, shape)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, n.close(ctx)) }()
	if err := errors.Join(pause(ctx, calm), n.settle(ctx, wideKbps*9/10, calm)); err != nil {
		return c, err
	}
	narrowAt := time.Now()
	shape.Kbps = cutKbps
	n.set(shape)
	var passed int64
	if err := pause(ctx, cutFor/2); err != nil {
		return c, err
	}
	passed = n.link.Bytes()
	if err := pause(ctx, cutFor/2); err != nil {
		return c, err
	}
	openAt := time.Now()
	passed = n.link.Bytes() - passed
	shape.Kbps = wideKbps
	n.set(shape)
	if err := pause(ctx, cutFor); err != nil {
		return c, err
	}
	shown, err := n.shown()
	if err != nil {
		return c, err
	}
	end := narrowAt.Add(cutFor)
	c.freeze = float64(longestFreeze(shown, narrowAt, end).Microseconds()) / 1000
	c.freezeAfter = float64(longestFreeze(shown, openAt, openAt.Add(cutFor)).Microseconds()) / 1000
	c.recover = cutFor.Seconds() // not at all
	for at := openAt; at.Before(openAt.Add(cutFor)); at = at.Add(10 * time.Millisecond) {
		if n.rate(at) >= wideKbps*9/10 {
			c.recover = at.Sub(openAt).Seconds()
			break
		}
	}
	c.above = n.above(narrowAt, openAt).Seconds()
	c.usedPercent = 100 * float64(passed) * 8 / 1000 / (cutFor / 2).Seconds() / cutKbps
	if os.Getenv("PERIGEE_BENCH_TRACE") != "" {
		n.trace(shown, narrowAt)
	}
	return c, n.ended
}

// trace prints the estimates and the gaps around a time.
func (n *narrow) trace(shown []time.Time, from time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range n.kbps {
		fmt.Fprintf(os.Stderr, "  %7.2f s: %d kb/s\n", e.at.Sub(from).Seconds(), e.kbps)
	}
	for i := 1; i < len(shown); i++ {
		if gap := shown[i].Sub(shown[i-1]); gap > 120*time.Millisecond {
			fmt.Fprintf(os.Stderr, "  %7.2f s: gap of %s\n", shown[i-1].Sub(from).Seconds(), gap.Round(time.Millisecond))
		}
	}
	s, err := site.Eval[map[string]any](n.viewer.Tab, "link.stats()")
	passed, dropped, lost := n.link.Counts()
	fmt.Fprintln(os.Stderr, "  passed", passed, "dropped", dropped, "lost", lost, err)
	for _, k := range []string{"packetsReceived", "packetsLost", "nackCount", "pliCount", "retransmittedPacketsReceived", "fecPacketsReceived",
		"fecPacketsDiscarded", "framesReceived", "framesDecoded", "framesDropped", "keyFramesDecoded", "freezeCount", "totalFreezesDuration", "frameWidth",
		"jitterBufferDelay", "jitterBufferEmittedCount", "framesPerSecond"} {
		fmt.Fprintf(os.Stderr, " %s=%v", k, s[k])
	}
	fmt.Fprintln(os.Stderr)
}

// above is the longest time in which the estimate stood above a cut link.
func (n *narrow) above(from, to time.Time) time.Duration {
	const step = 10 * time.Millisecond
	var longest, now time.Duration
	for at := from; at.Before(to); at = at.Add(step) {
		now += step
		if n.rate(at) <= cutKbps {
			now = 0
		}
		longest = max(longest, now)
	}
	return longest
}

const (
	lossFor   = 15 * time.Second
	burstLoss = 0.3
	// A stream has recovered from a burst after the last gap longer than this.
	visibleGap = 100 * time.Millisecond
)

// pictureLoss judges 5 % of random loss, both ways, at 50 ms of round trip, and
// a second of 30 %.
func pictureLoss(ctx context.Context, runs int) (_ []Result, err error) {
	st, err := newLinkStage(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, st.close()) }()
	var freeze, ratio, burst []float64
	for range runs {
		l, err := st.loss(ctx)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(os.Stderr, "  %+v\n", l)
		freeze, ratio, burst = append(freeze, l.freeze), append(ratio, l.ratio), append(burst, l.burst)
	}
	r := Result{Name: "loss5_fps_ratio", Value: round(median(ratio)), Unit: "of the pictures without loss", Runs: runs}
	return []Result{
		Result{Name: "loss5_freeze_ms_max", Value: round(median(freeze)), Unit: "ms", Runs: runs}.atMost(200),
		r.atLeast(0.95),
		Result{Name: "burst30_recover_ms", Value: round(median(burst)), Unit: "ms", Runs: runs}.atMost(1000),
	}, nil
}

type lossy struct{ freeze, ratio, burst, fps float64 }

func (st *stage) loss(ctx context.Context) (l lossy, err error) {
	clean := link.Shape{Kbps: 20_000, Queue: 150 * time.Millisecond, Delay: 25 * time.Millisecond}
	n, err := openNarrow(ctx, st, clean)
	if err != nil {
		return l, err
	}
	defer func() { err = errors.Join(err, n.close(ctx)) }()
	if err := pause(ctx, calm); err != nil {
		return l, err
	}
	with := func(loss float64, d time.Duration) (from, to time.Time, err error) {
		s := clean
		s.Loss = loss
		n.set(s)
		from = time.Now()
		err = pause(ctx, d)
		return from, time.Now(), err
	}
	from0, to0, err0 := with(0, lossFor/2)
	_, _, err1 := with(0.05, 2*time.Second) // until the stream has seen what the way is like
	from1, to1, err2 := with(0.05, lossFor)
	_, _, err3 := with(0, lossFor/2)
	_, burstEnd, err4 := with(burstLoss, time.Second)
	_, end, err5 := with(0, 5*time.Second)
	if err := errors.Join(err0, err1, err2, err3, err4, err5); err != nil {
		return l, err
	}
	shown, err := n.shown()
	if err != nil {
		return l, err
	}
	l.freeze = float64(longestFreeze(shown, from1, to1).Microseconds()) / 1000
	l.fps = framesBetween(shown, from0, to0)
	l.ratio = framesBetween(shown, from1, to1) / l.fps
	for i := 1; i < len(shown); i++ {
		if shown[i].After(burstEnd) && shown[i].Sub(shown[i-1]) > visibleGap {
			l.burst = float64(shown[i].Sub(burstEnd).Microseconds()) / 1000
		}
	}
	if len(shown) == 0 || end.Sub(shown[len(shown)-1]) > visibleGap*5 {
		return l, errors.New("the picture stands still after the burst")
	}
	if os.Getenv("PERIGEE_BENCH_TRACE") != "" {
		n.trace(shown, from1)
	}
	return l, n.ended
}
