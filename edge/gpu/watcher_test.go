package gpu

import (
	"context"
	"log/slog"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestWatcherOutlivesItsProcess(t *testing.T) {
	var starts atomic.Int32
	scripts := []string{
		`echo '{"state":"ok","readings":[{"encoder":7}]}'; sleep 60`,                  // hangs after a line
		`echo '{"state":"ok","readings":[{"encoder":8}]}'; kill -SEGV $$`,             // crashes
		`echo nonsense; sleep 60`,                                                     // writes no reading
		`while echo '{"state":"ok","readings":[{"encoder":9}]}'; do sleep 0.05; done`, // works
	}
	w := &Watcher{Log: slog.New(slog.DiscardHandler), Silent: 200 * time.Millisecond, Command: func(ctx context.Context) *exec.Cmd {
		n := min(int(starts.Add(1)), len(scripts))
		return exec.CommandContext(ctx, "sh", "-c", scripts[n-1])
	}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { w.Run(ctx); close(done) }()
	seen := map[string]bool{}
	for end := time.Now().Add(20 * time.Second); !seen["9"]; time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("saw only %v", seen)
		}
		switch s := w.Latest(); {
		case s.State == StateFailed && strings.Contains(s.Detail, "hangs"):
			seen["hangs"] = true
		case s.State == StateFailed && strings.Contains(s.Detail, "segmentation"):
			seen["crash"] = true
		case s.State == StateFailed && strings.Contains(s.Detail, "no reading"):
			seen["nonsense"] = true
		case len(s.Readings) == 1:
			seen[string(rune('0'+s.Readings[0].Encoder))] = true
		}
	}
	cancel()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Fatal("Run does not end")
	}
	for _, what := range []string{"7", "hangs", "crash", "nonsense"} {
		if !seen[what] {
			t.Errorf("%s was not seen: %v", what, seen)
		}
	}
}
