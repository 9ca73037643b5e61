package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/perigee-cloud/perigee/api"
)

// fileIn reads INSTANCE:PATH.
func fileIn(arg string) (instance, p string, err error) {
	instance, p, ok := strings.Cut(arg, ":")
	if !ok || instance == "" {
		return "", "", usagef("%q must be INSTANCE:PATH, for example lab:Documents/notes.txt; a path without / in front begins at the application's home", arg)
	}
	return instance, p, nil
}

func instancePush(o *options) *cobra.Command {
	var mode string
	cmd := &cobra.Command{
		Use:   "push FILE INSTANCE:PATH",
		Short: "Write a file into an instance",
		Long: `Write a file into an instance, as its application's user: whole, or not at all.
A path without / in front begins at the application's home; one that ends with /
is the folder for the file's own name. FILE may be - for standard input.`,
		Example: "  perigee instance push notes.txt lab:Documents/notes.txt\n  perigee instance push level.zip lab:\n  tar c maps | perigee instance push - lab:maps.tar",
		Args:    exactly("the file", "the instance and the path in it, INSTANCE:PATH,"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, to, err := fileIn(args[1])
			if err != nil {
				return err
			}
			if to == "" || strings.HasSuffix(to, "/") {
				if args[0] == "-" {
					return usagef("name the file in the instance: standard input has no name")
				}
				to += filepath.Base(args[0])
			}
			in, size, perm, err := localFile(cmd, args[0])
			if err != nil {
				return err
			}
			defer func() { _ = in.Close() }() // only read
			if mode != "" {
				n, err := strconv.ParseUint(mode, 8, 32)
				if err != nil || n == 0 || n > 0o777 {
					return usagef("--mode %q must be in octal, as in 755", mode)
				}
				perm = uint32(n)
			}
			c, err := o.client()
			if err != nil {
				return err
			}
			p := newProgress(cmd, size)
			v, err := c.PushFile(cmd.Context(), id, to, perm, size, p.reader(in))
			p.done()
			if err != nil {
				return err
			}
			return o.show(cmd, v, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s: %d bytes written\n", v.Path, v.Size)
				return err
			})
		},
	}
	cmd.Flags().StringVar(&mode, "mode", "", "the file's mode there, in octal (default as here)")
	return cmd
}

// localFile opens what is pushed; its size is below 0 where it is not known.
func localFile(cmd *cobra.Command, name string) (io.ReadCloser, int64, uint32, error) {
	if name == "-" {
		return io.NopCloser(cmd.InOrStdin()), -1, 0, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, 0, 0, fmt.Errorf("open file: %w", err)
	}
	st, err := f.Stat()
	if err == nil && st.IsDir() {
		err = usagef("%s is a folder: pack it, as in: tar c %s | perigee instance push - INSTANCE:%s.tar", name, name, filepath.Base(name))
	}
	if err != nil {
		return nil, 0, 0, errors.Join(err, f.Close())
	}
	size := st.Size()
	if !st.Mode().IsRegular() {
		size = -1
	}
	return f, size, uint32(st.Mode().Perm()), nil
}

func instancePull(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pull INSTANCE:PATH [FILE]",
		Short: "Read a file of an instance",
		Long: `Read a file of an instance, as its application's user. FILE may be - for
standard output, or a folder; without it the file keeps its name.`,
		Example: "  perigee instance pull lab:Documents/notes.txt\n  perigee instance pull lab:/tmp/screen.png shots/\n  perigee instance pull lab:save.dat - | sha256sum",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 || len(args) > 2 {
				return usagef("give INSTANCE:PATH and at most one FILE; see %s --help", cmd.CommandPath())
			}
			id, from, err := fileIn(args[0])
			if err != nil {
				return err
			}
			if from == "" {
				return usagef("%q names no file: put it after the colon", args[0])
			}
			to := path.Base(from)
			if len(args) == 2 {
				to = args[1]
				if st, err := os.Stat(to); err == nil && st.IsDir() {
					to = filepath.Join(to, path.Base(from))
				}
			}
			c, err := o.client()
			if err != nil {
				return err
			}
			in, v, err := c.PullFile(cmd.Context(), id, from)
			if err != nil {
				return err
			}
			defer func() { _ = in.Close() }() // only read
			p := newProgress(cmd, v.Size)
			if to == "-" {
				_, err = io.Copy(cmd.OutOrStdout(), p.reader(in))
				p.done()
				return broken(err)
			}
			err = keepFile(to, v, p.reader(in))
			p.done()
			if err != nil {
				return err
			}
			return o.show(cmd, v, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s: %d bytes read\n", to, v.Size)
				return err
			})
		},
	}
	return cmd
}

func broken(err error) error {
	if err != nil {
		return fmt.Errorf("the transfer broke: %w", err)
	}
	return nil
}

// keepFile writes what was pulled: whole, or not at all.
func keepFile(name string, v api.FileView, in io.Reader) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".perigee-*")
	if err != nil {
		return fmt.Errorf("write file: %w", err)
	}
	_, err = io.Copy(f, in)
	err = broken(err)
	if n, bad := strconv.ParseUint(v.Mode, 8, 32); bad == nil {
		err = errors.Join(err, f.Chmod(os.FileMode(n)&0o777))
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// progress shows on a terminal how far a transfer is.
type progress struct {
	to    io.Writer // nil = nobody looks
	whole int64     // below 0 = not known
	have  int64
	shown time.Time
}

const progressEvery = 200 * time.Millisecond

func newProgress(cmd *cobra.Command, whole int64) *progress {
	p := &progress{whole: whole}
	if f, ok := terminal(cmd.ErrOrStderr()); ok {
		p.to = f
	}
	return p
}

func (p *progress) reader(r io.Reader) io.Reader {
	if p.to == nil {
		return r
	}
	return io.TeeReader(r, p)
}

// Write counts what went by.
func (p *progress) Write(b []byte) (int, error) {
	p.have += int64(len(b))
	if time.Since(p.shown) >= progressEvery {
		p.shown = time.Now()
		p.show()
	}
	return len(b), nil
}

func (p *progress) show() {
	text := fmt.Sprintf("%.1f MiB", float64(p.have)/(1<<20))
	if p.whole > 0 {
		text += fmt.Sprintf(" of %.1f MiB, %d %%", float64(p.whole)/(1<<20), 100*p.have/p.whole)
	}
	_, _ = fmt.Fprintf(p.to, "\r%s\x1b[K", text) // only for the eye
}

func (p *progress) done() {
	if p.to != nil && !p.shown.IsZero() {
		_, _ = fmt.Fprint(p.to, "\r\x1b[K") // only for the eye
	}
}
