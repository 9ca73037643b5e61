package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/api/client"
	"github.com/perigee-cloud/perigee/cmd/run/control"
	"github.com/perigee-cloud/perigee/deploy/apps"
)

const (
	devAccount  = "dev"
	devNodes    = "dev-nodes"
	edgeEndTime = 20 * time.Second
	readyTime   = 30 * time.Second
)

// dev is one scheduler in this process and one edge as its child, both with
// ordinary configuration.
type dev struct {
	data, listen, level string
	out                 io.Writer
	log                 *slog.Logger
}

// newDev is `perigee dev`.
func newDev(*options) *cobra.Command {
	var d dev
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Try Perigee: a scheduler and an edge on this machine",
		Long: `Start one scheduler and one edge on this machine, offer the demo
applications that are installed, and print the player's address and a token.
Ctrl-C ends everything; a second start keeps the state.`,
		Example: "  perigee dev\n  perigee dev --listen 127.0.0.1:9000 --data /tmp/try",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if d.log, err = newLogger(d.level); err != nil {
				return err
			}
			d.out = cmd.OutOrStdout()
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			return d.run(ctx)
		},
	}
	f := cmd.Flags()
	f.StringVar(&d.data, "data", defaultDevData(), "directory of the state")
	f.StringVar(&d.listen, "listen", "127.0.0.1:8080", "address of the player and the API")
	f.StringVar(&d.level, "log-level", "warn", "debug, info, warn or error")
	return cmd
}

func defaultDevData() string {
	if dir := os.Getenv("XDG_STATE_HOME"); dir != "" {
		return filepath.Join(dir, "perigee-dev")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = os.TempDir()
	}
	return filepath.Join(home, ".local", "state", "perigee-dev")
}

func (d *dev) run(ctx context.Context) error {
	// The scheduler outlives ctx by as long as the edge needs to end its
	// sessions and say so.
	schedCtx, stopSched := context.WithCancel(context.WithoutCancel(ctx))
	defer stopSched()
	ready := make(chan control.Runtime, 1)
	ended := make(chan error, 1)
	go func() {
		ended <- control.Run(schedCtx, control.Config{
			QueueLength: 1000,
			Data:        filepath.Join(d.data, "scheduler"), Listen: d.listen,
			NATSListen: "127.0.0.1:0", GossipListen: "127.0.0.1:0", Region: "local",
			Heartbeat: time.Second, Lease: 6 * time.Second, Version: version(), Log: d.log,
			Ready: func(r control.Runtime) { ready <- r },
		})
	}()
	var rt control.Runtime
	select {
	case rt = <-ready:
	case err := <-ended:
		return err
	case <-ctx.Done():
		stopSched()
		return <-ended
	}
	err := d.withEdge(ctx, rt, ended)
	stopSched()
	select {
	case e := <-ended:
		return errors.Join(err, e)
	case <-time.After(edgeEndTime):
		return errors.Join(err, errors.New("the scheduler did not end"))
	}
}

// withEdge prepares accounts and applications, runs the edge until ctx ends,
// and then has it end its sessions.
func (d *dev) withEdge(ctx context.Context, rt control.Runtime, sched chan error) error {
	c, err := client.New(client.Config{Socket: rt.Socket})
	if err != nil {
		return err
	}
	defer c.Close()
	first, err := d.putApps(ctx, c)
	if err != nil {
		return err
	}
	token, err := d.userToken(ctx, c, rt.API)
	if err != nil {
		return err
	}
	edge, err := d.startEdge(ctx, c, rt.API)
	if err != nil {
		return err
	}
	exited := make(chan error, 1)
	go func() { exited <- edge.Wait() }()
	if err := d.awaitNode(ctx, c, exited); err == nil {
		_, err := fmt.Fprintf(d.out, "\nPerigee is running. Ctrl-C ends it.\n\n  token %s\n  open %s/?app=%s&token=%s\n\n",
			token, rt.API, url.QueryEscape(first), url.QueryEscape(token))
		if err != nil {
			d.log.Warn("the address could not be shown", "error", err)
		}
	} else if ctx.Err() == nil {
		return errors.Join(err, endEdge(edge, exited))
	}
	select {
	case err := <-exited:
		return fmt.Errorf("the edge ended by itself: %w", errors.Join(err, errors.New("see the messages above")))
	case err := <-sched:
		sched <- err // room for one: run waits for it
		return endEdge(edge, exited)
	case <-ctx.Done():
		return endEdge(edge, exited)
	}
}

// endEdge ends the edge as Ctrl-C does, with its sessions.
func endEdge(edge *exec.Cmd, exited <-chan error) error {
	if err := edge.Process.Signal(syscall.SIGINT); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end edge: %w", err)
	}
	select {
	case err := <-exited:
		if err != nil {
			return fmt.Errorf("the edge ended with a fault: %w", err)
		}
		return nil
	case <-time.After(edgeEndTime):
		return errors.Join(fmt.Errorf("the edge did not end within %s and was killed", edgeEndTime), edge.Process.Kill())
	}
}

// putApps offers the demo applications whose program is installed and gives
// the name of the first.
func (d *dev) putApps(ctx context.Context, c *client.Client) (string, error) {
	offered, err := c.Applications(ctx)
	if err != nil {
		return "", err
	}
	list, err := demoApps()
	if err != nil {
		return "", err
	}
	for _, a := range list {
		if slices.ContainsFunc(offered, func(v api.AppView) bool { return v.Name == a.Name }) {
			continue // kept from an earlier start, perhaps changed since
		}
		if _, err := c.PutApplication(ctx, a); err != nil {
			return "", fmt.Errorf("put %s: %w", a.Name, err)
		}
	}
	if len(list) > 0 {
		return list[0].Name, nil
	}
	if len(offered) > 0 {
		return offered[0].Name, nil
	}
	return "", errors.New("none of the demo applications is installed: apt-get install kobodeluxe xterm")
}

// demoApps reads the embedded manifests, and adds the latency application
// where it was built beside this program.
func demoApps() ([]api.App, error) {
	files, err := apps.Files.ReadDir(".")
	if err != nil {
		return nil, fmt.Errorf("list demo applications: %w", err)
	}
	var out []api.App
	for _, f := range files {
		r, err := apps.Files.Open(f.Name())
		if err != nil {
			return nil, fmt.Errorf("open demo application: %w", err)
		}
		list, err := readManifest(f.Name(), r)
		_ = r.Close() // embedded: nothing to lose
		if err != nil {
			return nil, err
		}
		for _, a := range list {
			if installed(a.Command[0]) {
				out = append(out, a)
			}
		}
	}
	// The player opens with the first: a light one that needs nothing.
	light := []string{"xterm", "kobodeluxe"}
	slices.SortStableFunc(out, func(a, b api.App) int { return slices.Index(light, b.Name) - slices.Index(light, a.Name) })
	bin, err := beside("latencyapp")
	if err == nil {
		out = append(out, api.App{
			Name: "latency", Title: "Latency test", Command: []string{bin, "-tone"}, ReadOnly: []string{filepath.Dir(bin)},
		})
	}
	return out, nil
}

func installed(program string) bool {
	if _, err := exec.LookPath(program); err == nil {
		return true
	}
	_, err := exec.LookPath(filepath.Join("/usr/games", program))
	return err == nil
}

// beside finds a program in this program's folder, else in PATH.
func beside(name string) (string, error) {
	self, err := os.Executable()
	if err == nil {
		if p, err := exec.LookPath(filepath.Join(filepath.Dir(self), name)); err == nil {
			return p, nil
		}
	}
	return exec.LookPath(name)
}

// userToken gives the token of an earlier start while it is good, else a new one.
func (d *dev) userToken(ctx context.Context, c *client.Client, base string) (string, error) {
	file := filepath.Join(d.data, "token")
	if b, err := os.ReadFile(file); err == nil {
		token := strings.TrimSpace(string(b))
		u, err := client.New(client.Config{URL: base, Token: token})
		if err != nil {
			return "", err
		}
		defer u.Close()
		if _, err := u.Applications(ctx); err == nil {
			return token, nil
		}
	}
	a, err := c.CreateToken(ctx, api.TokenSpec{Account: devAccount, Rights: []api.Right{api.RightSessions, api.RightOnBehalf}})
	if err != nil {
		return "", fmt.Errorf("make token: %w", err)
	}
	if err := os.WriteFile(file, []byte(a.Token+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("keep token: %w", err)
	}
	return a.Token, nil
}

func (d *dev) startEdge(ctx context.Context, c *client.Client, base string) (*exec.Cmd, error) {
	bin, err := beside("perigee-edge")
	if err != nil {
		return nil, fmt.Errorf("find perigee-edge beside perigee or in PATH: %w", err)
	}
	join, err := c.CreateToken(ctx, api.TokenSpec{Account: devNodes, Rights: []api.Right{api.RightNode}, TTL: 10 * time.Minute})
	if err != nil {
		return nil, fmt.Errorf("make join token: %w", err)
	}
	cmd := exec.Command(bin, "--data", filepath.Join(d.data, "edge"), "--join", base, "--name", "local", "--region", "local",
		"--advertise", "127.0.0.1", "--media-ports", "0", "--relay-listen", "127.0.0.1:0", "--gossip-listen", "127.0.0.1:0",
		"--log-level", d.level)
	cmd.Env = append(os.Environ(), "PERIGEE_JOIN_TOKEN="+join.Token) // not in the arguments, which every user sees
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	// Ctrl-C goes to the whole foreground group: the edge gets it from us alone,
	// once, in order. It must not outlive us either.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGINT}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start edge: %w", err)
	}
	return cmd, nil
}

func (d *dev) awaitNode(ctx context.Context, c *client.Client, exited chan error) error {
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	for {
		nodes, err := c.Nodes(ctx)
		if err == nil && slices.ContainsFunc(nodes, func(v api.NodeView) bool { return v.Alive }) {
			return nil
		}
		select {
		case err := <-exited:
			exited <- err
			return fmt.Errorf("the edge ended before it joined: %w", err)
		case <-ctx.Done():
			return fmt.Errorf("the edge did not join within %s", readyTime)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
