package edge

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/local"
)

const (
	dirLogs  = "logs" // of the run directory: what applications wrote, after their end
	keptLogs = 256    // files; each is bounded by the shim
)

// logText is what is left of a log; first is the offset of its first byte.
type logText struct {
	text  []byte
	first int64
}

// readLive reads the log of a running instance. The shim may rotate it
// meanwhile: then it is read again.
func readLive(dir local.Session) (logText, error) {
	path := dir.AppLog()
	for try := 0; ; try++ {
		gone, err := readIfThere(local.LogGone(path))
		var before, now, again []byte
		for _, f := range []struct {
			path string
			into *[]byte
		}{{local.LogBefore(path), &before}, {path, &now}, {local.LogGone(path), &again}} {
			if err == nil {
				*f.into, err = readIfThere(f.path)
			}
		}
		if err != nil {
			return logText{}, fmt.Errorf("read log: %w", err)
		}
		if bytes.Equal(gone, again) || try == 3 {
			first, _ := strconv.ParseInt(string(again), 10, 64) // none: nothing was dropped
			return logText{append(before, now...), first}, nil
		}
	}
}

func readIfThere(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

// keepLog moves what an application wrote out of its session's folder, which
// is about to be removed, and forgets the oldest beyond keptLogs.
func keepLog(run local.Run, dir local.Session) error {
	l, err := readLive(dir)
	if err != nil || len(l.text) == 0 {
		return err
	}
	folder := filepath.Join(string(run), dirLogs)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return fmt.Errorf("keep log: %w", err)
	}
	name := fmt.Sprintf("%s.%d.log", filepath.Base(string(dir)), l.first)
	if err := writeWhole(filepath.Join(folder, name), l.text); err != nil {
		return fmt.Errorf("keep log: %w", err)
	}
	return pruneLogs(folder)
}

func pruneLogs(folder string) error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return fmt.Errorf("list logs: %w", err)
	}
	type kept struct {
		name string
		at   int64
	}
	var all []kept
	for _, e := range entries {
		if info, err := e.Info(); err == nil { // else another session's end removed it
			all = append(all, kept{e.Name(), info.ModTime().UnixNano()})
		}
	}
	slices.SortFunc(all, func(a, b kept) int { return int(min(max(a.at-b.at, -1), 1)) })
	var errs []error
	for _, k := range all[:max(len(all)-keptLogs, 0)] {
		if err := os.Remove(filepath.Join(folder, k.name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("forget log: %w", err))
		}
	}
	return errors.Join(errs...)
}

// readLog gives the part of an instance's log that a query asks for, of a
// running instance or of one that has ended.
func readLog(run local.Run, q api.LogQuery) (api.LogPart, error) {
	if !api.ValidID(string(q.Session)) {
		return api.LogPart{}, api.Invalidf("session", "%q is not an id", q.Session)
	}
	dir := run.Session(q.Session, q.Generation)
	if _, err := os.Stat(string(dir)); err == nil {
		l, err := readLive(dir)
		if err != nil || len(l.text) > 0 {
			return l.part(q, false), err
		}
	}
	prefix := filepath.Join(string(run), dirLogs, filepath.Base(string(dir))+".")
	names, err := filepath.Glob(prefix + "*.log")
	if err != nil {
		return api.LogPart{}, fmt.Errorf("find log: %w", err)
	}
	if len(names) == 0 {
		if _, err := os.Stat(string(dir)); err == nil {
			return logText{}.part(q, false), nil // it has written nothing yet
		}
		return api.LogPart{}, api.Errorf(api.CodeNotFound, "the node has no log of it: it wrote nothing, or its log was dropped for later ones")
	}
	text, err := os.ReadFile(names[0])
	if err != nil {
		return api.LogPart{}, fmt.Errorf("read log: %w", err)
	}
	first, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(names[0], prefix), ".log"), 10, 64) // our own name
	return logText{text, first}.part(q, true), nil
}

// part cuts out what a query asks for.
func (l logText) part(q api.LogQuery, ended bool) api.LogPart {
	last := l.first + int64(len(l.text))
	from := q.Offset
	if q.Tail > 0 {
		from = last - int64(q.Tail)
	}
	from = min(max(from, l.first), last)
	to := min(last, from+api.MaxLogPart)
	return api.LogPart{
		Text: strings.ToValidUTF8(string(l.text[from-l.first:to-l.first]), "\uFFFD"), From: from, Next: to, Ended: ended && to == last,
	}
}

// showLog answers the schedulers' question for a part of a log.
func (a *Agent) showLog(c api.Command) api.Ack {
	q := api.LogQuery{}
	if c.Log != nil {
		q = *c.Log
	}
	q.Session, q.Generation = c.Session, c.Generation
	p, err := readLog(a.cfg.Run, q)
	if err != nil {
		return refuse("%v", err)
	}
	return api.Ack{OK: true, Log: &p}
}
