package stream

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perigee-cloud/perigee/media"
)

// watching runs a watch over an encode process that rests, and gives the moment of
// the verdict.
func watching(t *testing.T) (e *encoder, verdict chan time.Duration) {
	t.Helper()
	ours, theirs := net.Pipe()
	go func() { _, _ = io.Copy(io.Discard, theirs) }()
	e = newEncoder(nil, slog.New(slog.DiscardHandler), sink{})
	e.conn, e.calm = media.NewConn(ours), true
	begun, hung, stop := time.Now(), make(chan error, 1), make(chan struct{})
	verdict = make(chan time.Duration, 1)
	go e.watch(t.Context(), ours, hung, stop)
	go func() {
		select {
		case why := <-hung:
			if !errors.Is(why, errSilent) {
				t.Errorf("verdict: %v", why)
			}
			verdict <- time.Since(begun)
		case <-stop:
		}
	}()
	t.Cleanup(func() { close(stop); _, _ = ours.Close(), theirs.Close() })
	return e, verdict
}

// lives has the process say that it lives now and then.
func lives(e *encoder, every time.Duration, times int) {
	for range times {
		time.Sleep(every)
		e.heard.Add(1)
	}
}

func TestProcessThatRestsMayBeSilentForLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, verdict := watching(t)
		lives(e, media.CalmEvery, 60)
		select {
		case at := <-verdict:
			t.Fatalf("taken for hung after %s", at)
		default:
		}
		last := time.Now()
		<-verdict
		if took := time.Since(last); took > 4*time.Second {
			t.Errorf("hung while it rested, noticed after %s", took)
		}
	})
}

func TestProcessThatIsToldSomethingMayNotRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, verdict := watching(t)
		lives(e, media.CalmEvery, 5)
		told := time.Now()
		e.input(media.Input{ID: 1})
		<-verdict
		if took := time.Since(told); took < silenceMost || took > silenceMost+watchEvery {
			t.Errorf("hung at an input, noticed after %s, want %s", took, silenceMost)
		}
	})
}
