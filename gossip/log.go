package gossip

import (
	"bytes"
	"context"
	"log"
	"log/slog"
)

// newLogger hands memberlist's lines to slog at their own level. What
// memberlist says at INFO is routine: membership changes, probes.
func newLogger(l *slog.Logger) *log.Logger { return log.New(lineWriter{l}, "", 0) }

type lineWriter struct{ log *slog.Logger }

func (w lineWriter) Write(p []byte) (int, error) {
	level := slog.LevelDebug
	text := bytes.TrimSpace(p)
	for _, t := range []struct {
		tag   string
		level slog.Level
	}{{"[ERR] ", slog.LevelWarn}, {"[WARN] ", slog.LevelInfo}, {"[INFO] ", slog.LevelDebug}, {"[DEBUG] ", slog.LevelDebug}} {
		if rest, ok := bytes.CutPrefix(text, []byte(t.tag)); ok {
			text, level = rest, t.level
			break
		}
	}
	w.log.Log(context.Background(), level, "gossip notice", "text", string(bytes.TrimPrefix(text, []byte("memberlist: "))))
	return len(p), nil
}
