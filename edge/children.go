package edge

import (
	"context"
	"fmt"
	"net"

	"golang.org/x/sys/unix"

	"github.com/perigee-cloud/perigee/edge/local"
)

// Children starts and reaches the processes of the sessions. In production
// they are processes of this machine (Config.Start); a simulated fleet, whose
// time no kernel keeps, brings its own.
type Children interface {
	// Start starts a session's process, which outlives the daemon.
	Start(role Role, dir local.Session) (Child, error)
	// Find gives a process that an earlier daemon started and that still runs.
	Find(pid int) (Child, bool)
	// Dial connects to a process's socket.
	Dial(ctx context.Context, socket string) (net.Conn, error)
}

// Child is one such process.
type Child interface {
	PID() int
	Done() <-chan struct{} // closed when it has ended
	Signal(sig unix.Signal)
}

// spawn starts one of the session's processes.
func (u *unit) spawn(role Role) (*process, error) {
	if u.a.cfg.Children == nil {
		return spawn(u.a.cfg.Start(role, u.dir), u.dir.Path(string(role)+".log"))
	}
	c, err := u.a.cfg.Children.Start(role, u.dir)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", role, err)
	}
	p := &process{PID: c.PID(), child: c, done: make(chan struct{})}
	go func() {
		<-c.Done()
		close(p.done)
	}()
	return p, nil
}

// find looks for the process among the children of an earlier daemon.
func (u *unit) find(p *process) {
	if u.a.cfg.Children == nil {
		return
	}
	if c, runs := u.a.cfg.Children.Find(p.PID); runs {
		p.child = c
	}
}

// dial connects to one of a session's processes.
func (a *Agent) dial(ctx context.Context, socket string) (*local.Conn, error) {
	if a.cfg.Children == nil {
		return local.Dial(ctx, socket)
	}
	c, err := a.cfg.Children.Dial(ctx, socket)
	if err != nil {
		return nil, fmt.Errorf("dial process: %w", err)
	}
	return local.Handshake(c)
}
