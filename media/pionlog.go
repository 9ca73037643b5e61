package media

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/pion/logging"
)

// PionLog hands pion's log lines to log, all at debug level: most of them can
// be caused by whoever sends us packets.
func PionLog(log *slog.Logger) logging.LoggerFactory { return pionLog{log} }

type pionLog struct{ log *slog.Logger }

func (p pionLog) NewLogger(scope string) logging.LeveledLogger {
	return pionScope{p.log.With("scope", scope)}
}

type pionScope struct{ log *slog.Logger }

func (p pionScope) line(level string, format string, args []any) {
	if p.log.Enabled(context.Background(), slog.LevelDebug) {
		p.log.Debug("pion", "level", level, "text", fmt.Sprintf(format, args...))
	}
}

func (pionScope) Trace(string)                   {}
func (pionScope) Tracef(string, ...any)          {}
func (pionScope) Debug(string)                   {}
func (pionScope) Debugf(string, ...any)          {}
func (p pionScope) Info(msg string)              { p.line("info", "%s", []any{msg}) }
func (p pionScope) Infof(f string, args ...any)  { p.line("info", f, args) }
func (p pionScope) Warn(msg string)              { p.line("warn", "%s", []any{msg}) }
func (p pionScope) Warnf(f string, args ...any)  { p.line("warn", f, args) }
func (p pionScope) Error(msg string)             { p.line("error", "%s", []any{msg}) }
func (p pionScope) Errorf(f string, args ...any) { p.line("error", f, args) }
