package gpu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

const (
	// silentMost is how long the reading process may say nothing: it says
	// something each second, and a driver that hangs holds it up.
	silentMost  = 5 * time.Second
	restartLow  = time.Second
	restartMost = 30 * time.Second
	maxLine     = 256 << 10
)

// Watcher keeps the latest Sample of a process that reads the graphics
// processors, and starts another when it crashes or hangs. Its fields are set
// before Run and not changed.
type Watcher struct {
	// Command makes the process: `perigee-edge probe watch`.
	Command func(ctx context.Context) *exec.Cmd
	Log     *slog.Logger
	Silent  time.Duration // 0 is 5 s

	mu     sync.Mutex // guards the fields below
	latest Sample
}

// Latest gives the newest sample; the zero Sample before the first.
func (w *Watcher) Latest() Sample {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.latest
}

func (w *Watcher) set(s Sample) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.latest = s
}

// Run reads until ctx ends.
func (w *Watcher) Run(ctx context.Context) {
	pause := restartLow
	for ctx.Err() == nil {
		begun := time.Now()
		err := w.read(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(begun) > restartMost {
			pause = restartLow
		}
		w.Log.Warn("the process that reads the graphics processors ended", "error", err, "again_in", pause)
		w.set(Sample{State: StateFailed, Detail: err.Error()}) // old figures are none
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, restartMost)
	}
}

var errHangs = errors.New("it said nothing: the driver hangs")

// read has one process read until it ends or hangs.
func (w *Watcher) read(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r, out, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("read graphics processors: %w", err)
	}
	defer r.Close()
	cmd := w.Command(ctx)
	cmd.Stdout, cmd.WaitDelay = out, time.Second
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	err = cmd.Start()
	_ = out.Close() // the process has its own copy
	if err != nil {
		return fmt.Errorf("read graphics processors: %w", err)
	}
	silent := w.Silent
	if silent == 0 {
		silent = silentMost
	}
	alarm := time.AfterFunc(silent, func() { cancel(errHangs) }) // which kills it
	defer alarm.Stop()
	// What it may have started holds its output open.
	stop := context.AfterFunc(ctx, func() { _ = r.Close() })
	defer stop()
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var s Sample
		if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
			cancel(fmt.Errorf("it wrote no reading: %w", err))
			break
		}
		alarm.Reset(silent)
		w.set(s)
	}
	ended := cmd.Wait()
	if why := context.Cause(ctx); why != nil {
		return why
	}
	return fmt.Errorf("read graphics processors: %w", errors.Join(ended, lines.Err(), errors.New("its output ended")))
}
