package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/perigee-cloud/perigee/cmd/run/site"
)

// screen is an X server with one program painting on it.
type screen struct {
	display string
	server  *exec.Cmd
	painter *exec.Cmd
}

// startScreen starts Xvfb at 1280x720 and the latency application with args.
func startScreen(ctx context.Context, args ...string) (*screen, error) {
	return startScreenOf(ctx, "", args...)
}

// startScreenOf starts Xvfb and a program; "" is the latency application.
func startScreenOf(ctx context.Context, program string, args ...string) (*screen, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make display pipe: %w", err)
	}
	defer r.Close()
	s := &screen{server: exec.CommandContext(ctx, "Xvfb", "-displayfd", "3", "-screen", "0", "1280x720x24",
		"-nolisten", "tcp", "-noreset")}
	s.server.ExtraFiles = []*os.File{w}
	if err := s.server.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start Xvfb (package xvfb): %w", err), w.Close())
	}
	w.Close()
	if err := r.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return nil, errors.Join(fmt.Errorf("wait for Xvfb: %w", err), s.close())
	}
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		return nil, errors.Join(fmt.Errorf("wait for Xvfb: %w", err), s.close())
	}
	s.display = ":" + strings.TrimSpace(line)
	if program == "" {
		bin, err := site.Bin()
		if err != nil {
			return nil, errors.Join(err, s.close())
		}
		program = filepath.Join(bin, "latencyapp")
	}
	s.painter = exec.CommandContext(ctx, program, args...)
	s.painter.Env = append(os.Environ(), "DISPLAY="+s.display)
	s.painter.Stderr = os.Stderr
	if err := s.painter.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", program, err), s.close())
	}
	return s, nil
}

func (s *screen) close() error {
	var errs []error
	for _, c := range []*exec.Cmd{s.painter, s.server} {
		if c == nil || c.Process == nil {
			continue
		}
		if err := c.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			errs = append(errs, err)
		}
		_ = c.Wait() // ended by our signal: its status says only that
	}
	return errors.Join(errs...)
}
