package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/api/client"
)

// exitError ends the program with a command's own status, without a word.
type exitError struct{ status int }

func (e exitError) Error() string { return fmt.Sprintf("the command ended with status %d", e.status) }

func instanceExec(o *options) *cobra.Command {
	var r api.EnterRequest
	var env []string
	var plain, force bool
	cmd := &cobra.Command{
		Use:   "exec INSTANCE -- COMMAND [ARG...]",
		Short: "Run a command in an instance, beside its application",
		Long: `Run a command in an instance, beside its application: as its user, in its
sandbox, under its limits and with its display. The command has a terminal where
this one is one; its exit status is passed on. It ends with this command, and
with the instance.`,
		Example: "  perigee instance exec lab -- sh\n  perigee instance exec lab -- ps ax\n  perigee instance exec lab -- tar c Documents > documents.tar\n  perigee instance exec lab --env LANG=de_DE.UTF-8 -- xmessage hello",
		RunE: func(cmd *cobra.Command, args []string) error {
			dash := cmd.ArgsLenAtDash()
			switch {
			case len(args) == 0 || dash == 0:
				return usagef("the instance's id or name is missing; see %s --help", cmd.CommandPath())
			case len(args) == 1:
				return usagef("the command is missing: put it after --, as in: perigee instance exec %s -- sh", args[0])
			case dash != 1:
				return usagef("put the command after --, as in: perigee instance exec %s -- %s", args[0], strings.Join(args[1:], " "))
			case plain && force:
				return usagef("--terminal and --no-terminal exclude each other")
			case o.json:
				return usagef("the command's output is its own: leave --json out")
			}
			r.Command = args[1:]
			for _, kv := range env {
				k, v, ok := strings.Cut(kv, "=")
				if !ok || k == "" {
					return usagef("--env %q must be NAME=VALUE", kv)
				}
				if r.Environment == nil {
					r.Environment = map[string]string{}
				}
				r.Environment[k] = v
			}
			c, err := o.client()
			if err != nil {
				return err
			}
			in, inTerminal := terminal(cmd.InOrStdin())
			_, outTerminal := terminal(cmd.OutOrStdout())
			r.Interactive = force || inTerminal && outTerminal && !plain
			return execIn(cmd, c, args[0], r, in, inTerminal)
		},
	}
	fl := cmd.Flags()
	fl.StringArrayVar(&env, "env", nil, "variable of its environment, NAME=VALUE; repeat for more")
	fl.StringVar(&r.Dir, "cwd", "", "absolute path in the instance to run in (default the application's)")
	fl.BoolVarP(&force, "terminal", "t", false, "give it a terminal (default where this is one)")
	fl.BoolVarP(&plain, "no-terminal", "T", false, "give it none")
	return cmd
}

// terminal says whether a stream is one of ours.
func terminal(v any) (*os.File, bool) {
	f, ok := v.(*os.File)
	if !ok {
		return nil, false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return f, err == nil
}

// execIn runs the command; our own terminal hands all keys to it meanwhile.
func execIn(cmd *cobra.Command, c *client.Client, id string, r api.EnterRequest, in *os.File, raw bool) error {
	with := client.ExecIO{Input: cmd.InOrStdin(), Output: cmd.OutOrStdout(), Errors: cmd.ErrOrStderr()}
	if r.Interactive && raw {
		restore, err := rawTerminal(int(in.Fd()))
		if err != nil {
			return err
		}
		defer restore()
		ctx, stop := context.WithCancel(cmd.Context())
		defer stop()
		r.Width, r.Height = terminalSize(int(in.Fd()))
		with.Sizes = sizesOf(ctx, int(in.Fd()))
	}
	status, err := c.Exec(cmd.Context(), id, r, with)
	if err != nil && status > 0 { // there is no such command
		_, _ = fmt.Fprintln(cmd.ErrOrStderr(), "perigee:", err) // its status says the same
		return exitError{status}
	}
	if err != nil {
		return err
	}
	if status != 0 {
		return exitError{status}
	}
	return nil
}

// rawTerminal hands keys on as they are (cfmakeraw of termios(3)).
func rawTerminal(fd int) (restore func(), err error) {
	old, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("read terminal: %w", err)
	}
	t := *old
	t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &t); err != nil {
		return nil, fmt.Errorf("set terminal: %w", err)
	}
	return func() { _ = unix.IoctlSetTermios(fd, unix.TCSETS, old) }, nil // it is as good as gone when that fails
}

func terminalSize(fd int) (width, height int) {
	w, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ)
	if err != nil || w.Col == 0 || w.Row == 0 {
		return 80, 24
	}
	return int(w.Col), int(w.Row)
}

// sizesOf tells the terminal's size at each change.
func sizesOf(ctx context.Context, fd int) <-chan [2]int {
	out, changed := make(chan [2]int), make(chan os.Signal, 1)
	signal.Notify(changed, unix.SIGWINCH)
	go func() {
		defer signal.Stop(changed)
		for {
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
			w, h := terminalSize(fd)
			select {
			case out <- [2]int{w, h}:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}
