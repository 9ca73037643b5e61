// Package site runs Perigee as an operator would, as real processes on
// loopback, for the end-to-end tests and the bench: one scheduler, edges, and a
// real browser.
package site

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Bin is the folder of the built programs, found above the working directory.
func Bin() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find programs: %w", err)
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			bin := filepath.Join(dir, "bin")
			if _, err := os.Stat(filepath.Join(bin, "perigee-edge")); err != nil {
				return "", fmt.Errorf("find programs: run `make build` first: %w", err)
			}
			return bin, nil
		}
	}
	return "", errors.New("find programs: no go.mod above the working directory")
}

// Process is one program that was started, with its output kept.
type Process struct {
	Cmd  *exec.Cmd
	name string
	done chan struct{}
	err  error

	mu  sync.Mutex
	out bytes.Buffer
}

const keepOutput = 4 << 20

// Write keeps the process's output, up to 4 MiB.
func (p *Process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.out.Len() < keepOutput {
		p.out.Write(b)
	}
	return len(b), nil
}

// Output gives what the process printed so far.
func (p *Process) Output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

func start(name string, args []string, env ...string) (*Process, error) {
	p := &Process{Cmd: exec.Command(name, args...), name: filepath.Base(name), done: make(chan struct{})}
	p.Cmd.Stdout, p.Cmd.Stderr = p, p
	p.Cmd.Env = append(os.Environ(), env...)
	p.Cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// A child that outlives the daemon keeps the pipe open; do not wait for it.
	p.Cmd.WaitDelay = time.Second
	if err := p.Cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	go func() {
		p.err = p.Cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// Stop sends a signal and waits for the end, 20 s at most.
func (p *Process) Stop(sig syscall.Signal) error {
	if err := p.Cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %s: %w", p.name, err)
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(20 * time.Second):
		_ = p.Cmd.Process.Kill()
		return fmt.Errorf("%s did not end within 20 s of %s:\n%s", p.name, sig, tail(p.Output()))
	}
}

func tail(s string) string { return s[max(0, len(s)-4000):] }

// Runtime is what a scheduler writes of itself to <data>/runtime.json.
type Runtime struct {
	API    string `json:"api"`
	Socket string `json:"socket"`
	NATS   string `json:"nats"`
	Gossip string `json:"gossip"`
}

// Site is one scheduler and its edges.
type Site struct {
	Dir   string
	API   string // http://127.0.0.1:port
	Token string // an account's token: sessions and on_behalf
	Sched *Process
	bin   string
	args  []string
	edges []*Edge

	runtime *Runtime // of the last start
}

// Edge is one running edge daemon.
type Edge struct {
	Process *Process
	Dir     string
	args    []string
}

// Start runs a scheduler in dir with extra arguments and makes an account.
func Start(ctx context.Context, dir string, args ...string) (*Site, error) {
	bin, err := Bin()
	if err != nil {
		return nil, err
	}
	s := &Site{Dir: dir, bin: bin, args: args}
	if err := s.StartScheduler(ctx); err != nil {
		return nil, err
	}
	if s.Token, err = s.account(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// account makes the account of the tests and gives its token.
func (s *Site) account(ctx context.Context) (string, error) {
	out, err := s.CLI(ctx, "account", "create", "tester", "--json")
	if err != nil {
		return "", err
	}
	var made struct {
		Token string `json:"token"`
	}
	if err := json.Unmarshal([]byte(out), &made); err != nil || made.Token == "" {
		return "", fmt.Errorf("read token from %q: %w", out, err)
	}
	return made.Token, nil
}

// StartScheduler starts the scheduler's process again, or for the first time.
func (s *Site) StartScheduler(ctx context.Context) error {
	data := s.SchedulerData()
	if err := os.Remove(filepath.Join(data, "runtime.json")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove old runtime: %w", err)
	}
	// A restarted scheduler listens where it did, as a configured one does.
	was := Runtime{API: "http://127.0.0.1:0", NATS: "nats://127.0.0.1:0", Gossip: "127.0.0.1:0"}
	if s.runtime != nil {
		was = *s.runtime
	}
	p, err := start(filepath.Join(s.bin, "perigee"), append([]string{"scheduler", "--data", data,
		"--listen", was.API[len("http://"):], "--nats-listen", was.NATS[len("nats://"):], "--gossip-listen", was.Gossip,
		"--log-level", "debug"}, s.args...))
	if err != nil {
		return err
	}
	s.Sched = p
	var r Runtime
	err = Poll(ctx, 15*time.Second, func() error {
		b, err := os.ReadFile(filepath.Join(data, "runtime.json"))
		if err != nil {
			return err
		}
		return json.Unmarshal(b, &r)
	})
	if err != nil {
		return errors.Join(fmt.Errorf("scheduler did not come up: %w\n%s", err, tail(p.Output())), p.Stop(syscall.SIGKILL))
	}
	s.API, s.runtime = r.API, &r
	return nil
}

// SchedulerData is the scheduler's data directory.
func (s *Site) SchedulerData() string { return filepath.Join(s.Dir, "scheduler") }

// CLI runs the perigee command line as admin and gives its standard output.
func (s *Site) CLI(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, "perigee"), append([]string{"--socket",
		filepath.Join(s.SchedulerData(), "admin.sock")}, args...)...)
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("perigee %v: %w: %s", args, err, errOut.String())
	}
	return string(out), nil
}

// AddEdge joins one edge with extra arguments and waits until it is alive.
func (s *Site) AddEdge(ctx context.Context, name string, args ...string) (*Edge, error) {
	token, err := s.CLI(ctx, "account", "token", "edges", "--right", "node", "--json")
	if err != nil {
		return nil, err
	}
	var t struct {
		Token string `json:"token"`
	}
	if err := json.Unmarshal([]byte(token), &t); err != nil {
		return nil, fmt.Errorf("read node token: %w", err)
	}
	e := &Edge{Dir: filepath.Join(s.Dir, name), args: append([]string{"--data", filepath.Join(s.Dir, name),
		"--join", s.API, "--token", t.Token, "--name", name, "--advertise", "127.0.0.1", "--media-ports", "0",
		"--relay-listen", "127.0.0.1:0", "--gossip-listen", "127.0.0.1:0", "--certify", "never", "--cpu-allocation-rate", "32", "--log-level", "debug"}, args...)}
	if err := s.StartEdge(ctx, e); err != nil {
		return nil, err
	}
	s.edges = append(s.edges, e)
	return e, nil
}

// LaunchEdge starts an edge's daemon and does not wait for it.
func (s *Site) LaunchEdge(e *Edge) (err error) {
	e.Process, err = start(filepath.Join(s.bin, "perigee-edge"), e.args)
	return err
}

// StartEdge starts an edge's daemon again, or for the first time, and waits
// until the scheduler has heard it.
func (s *Site) StartEdge(ctx context.Context, e *Edge) error {
	if err := s.LaunchEdge(e); err != nil {
		return err
	}
	p, name := e.Process, filepath.Base(e.Dir)
	err := Poll(ctx, 15*time.Second, func() error {
		select {
		case <-p.done:
			return fmt.Errorf("the edge ended: %w", errors.Join(errEnded, p.err))
		default:
		}
		out, err := s.CLI(ctx, "node", "list", "--json")
		if err != nil {
			return err
		}
		var nodes []struct {
			Node struct {
				Name string `json:"name"`
			} `json:"node"`
			Alive bool `json:"alive"`
		}
		if err := json.Unmarshal([]byte(out), &nodes); err != nil {
			return err
		}
		for _, n := range nodes {
			if n.Node.Name == name && n.Alive {
				return nil
			}
		}
		return errors.New("not alive yet")
	})
	if err != nil {
		return errors.Join(fmt.Errorf("edge %s did not join: %w\n%s", name, err, tail(p.Output())), p.Stop(syscall.SIGKILL))
	}
	return nil
}

var errEnded = errors.New("process ended")

// Close ends everything the way Ctrl-C does and says what did not end well.
func (s *Site) Close() error {
	var errs []error
	for _, e := range s.edges {
		errs = append(errs, e.Process.Stop(syscall.SIGINT))
	}
	if s.Sched != nil {
		errs = append(errs, s.Sched.Stop(syscall.SIGINT))
	}
	return errors.Join(errs...)
}

// Poll calls f every 20 ms until it succeeds, the deadline passes or ctx ends;
// it then gives f's last error. errEnded stops it early.
func Poll(ctx context.Context, deadline time.Duration, f func() error) error {
	return poll(ctx, deadline, 20*time.Millisecond, f)
}

func poll(ctx context.Context, deadline, pause time.Duration, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	for {
		err := f()
		if err == nil || errors.Is(err, errEnded) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("after %s: %w", deadline, err)
		case <-time.After(pause):
		}
	}
}

// Children lists the processes of a session on an edge that run as a role
// ("shim", "stream", "encode"): those whose command line has the role and whose
// own or parent's names the session.
func Children(edgeDir, session, role string) []int {
	var out []int
	entries, _ := filepath.Glob("/proc/[0-9]*") // the pattern is well formed
	for _, p := range entries {
		cmd := cmdline(p)
		if !bytes.Contains(cmd, []byte("perigee-edge\x00"+role)) {
			continue
		}
		parent := ""
		if stat, err := os.ReadFile(filepath.Join(p, "stat")); err == nil {
			f := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
			parent = string(f[1])
		}
		mark := []byte(session)
		both := append(cmd, cmdline(filepath.Join("/proc", parent))...)
		if bytes.Contains(both, mark) && bytes.Contains(both, []byte(edgeDir)) {
			if pid, err := strconv.Atoi(filepath.Base(p)); err == nil {
				out = append(out, pid)
			}
		}
	}
	return out
}

func cmdline(proc string) []byte {
	b, err := os.ReadFile(filepath.Join(proc, "cmdline"))
	if err != nil {
		return nil // it ended
	}
	return b
}
