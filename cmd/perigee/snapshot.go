package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

func newSnapshot(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "snapshot",
		Short: "Snapshots: save, restore and inspect the schedulers' state",
		Long: `Save, restore and inspect the schedulers' state. A snapshot holds the cluster's
keys and the relays' secrets: keep it as you keep those.`,
		Example: "  perigee snapshot save monday.snap\n  perigee snapshot inspect monday.snap",
	}
	group(cmd)
	cmd.AddCommand(snapshotSave(o), snapshotRestore(o), snapshotInspect(o))
	return cmd
}

func snapshotSave(o *options) *cobra.Command {
	return &cobra.Command{
		Use:     "save FILE",
		Short:   "Save the whole state to a file",
		Example: "  perigee snapshot save /var/backups/perigee.snap",
		Args:    exactly("the file to write"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			c, err := o.client()
			if err != nil {
				return err
			}
			tmp := args[0] + ".new"
			f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
			if err != nil {
				return fmt.Errorf("write snapshot: %w", err)
			}
			err = c.SaveSnapshot(cmd.Context(), f)
			if err == nil {
				err = f.Sync()
			}
			var info api.SnapshotInfo
			if err == nil {
				info, err = readSnapshot(f)
			}
			if err = errors.Join(err, f.Close()); err != nil {
				return errors.Join(err, os.Remove(tmp))
			}
			if err := os.Rename(tmp, args[0]); err != nil {
				return fmt.Errorf("write snapshot: %w", err)
			}
			return o.done(cmd, "saved %d sessions, %d nodes, %d applications to %s", info.Sessions, info.Nodes, info.Applications, args[0])
		},
	}
}

// readSnapshot reads a whole snapshot: one that was cut is found here.
func readSnapshot(f *os.File) (api.SnapshotInfo, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return api.SnapshotInfo{}, fmt.Errorf("read snapshot: %w", err)
	}
	s, err := state.Read(f)
	if err != nil {
		return api.SnapshotInfo{}, err
	}
	return s.Info(), nil
}

func openSnapshot(file string) (*os.File, api.SnapshotInfo, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, api.SnapshotInfo{}, fmt.Errorf("read snapshot: %w", err)
	}
	info, err := readSnapshot(f)
	if err != nil {
		return nil, info, errors.Join(err, f.Close())
	}
	return f, info, nil
}

func snapshotRestore(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "restore FILE",
		Short: "Replace the state of every scheduler by a saved one",
		Long: `Replace the whole state by a saved one, on every scheduler. What was made since
it was saved is forgotten: sessions that the nodes run and the snapshot does not
know are stopped. The members of the cluster stay.`,
		Example: "  perigee snapshot restore /var/backups/perigee.snap",
		Args:    exactly("the file to read"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.client()
			if err != nil {
				return err
			}
			f, info, err := openSnapshot(args[0])
			if err != nil {
				return err
			}
			defer func() { _ = f.Close() }() // it was only read
			if _, err := f.Seek(0, io.SeekStart); err != nil {
				return fmt.Errorf("read snapshot: %w", err)
			}
			if err := c.RestoreSnapshot(cmd.Context(), f); err != nil {
				return err
			}
			return o.done(cmd, "restored the state of %s", when(info.At))
		},
	}
}

func snapshotInspect(o *options) *cobra.Command {
	return &cobra.Command{
		Use:     "inspect FILE",
		Short:   "Show what a saved state holds",
		Example: "  perigee snapshot inspect /var/backups/perigee.snap",
		Args:    exactly("the file to read"),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, info, err := openSnapshot(args[0])
			if err != nil {
				return err
			}
			_ = f.Close() // it was only read
			return o.show(cmd, info, func(w io.Writer) error {
				return fields(w, "at", when(info.At), "entries", "version "+strconv.Itoa(info.Entry),
					"applications", strconv.Itoa(info.Applications), "accounts", strconv.Itoa(info.Accounts),
					"nodes", strconv.Itoa(info.Nodes), "sessions", strconv.Itoa(info.Sessions),
					"finished", strconv.Itoa(info.Finished), "replicas", strconv.Itoa(len(info.Replicas)))
			})
		},
	}
}
