package journal

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
)

// tripwire is Badger's logger. Badger only logs some failures that mean that what it
// acknowledged or will acknowledge is at risk: a memtable that cannot be flushed (it tries again
// for ever), a sync of its value log, a compaction. Each such line calls trip.
type tripwire struct {
	log  *slog.Logger
	trip atomic.Pointer[func(error)] // nil while the store opens and closes: then errors are returned
}

// Errorf implements badger.Logger. Badger has no harmless errors, so all of them trip.
func (w *tripwire) Errorf(format string, args ...any) {
	w.fire(slog.LevelError, format, args)
}

// Warningf implements badger.Logger.
func (w *tripwire) Warningf(format string, args ...any) {
	text := strings.ToLower(format)
	for _, word := range []string{"compact", "flush", "sync"} {
		if strings.Contains(text, word) {
			w.fire(slog.LevelWarn, format, args)
			return
		}
	}
	w.write(slog.LevelWarn, format, args)
}

// Infof implements badger.Logger.
func (w *tripwire) Infof(format string, args ...any) { w.write(slog.LevelDebug, format, args) }

// Debugf implements badger.Logger.
func (w *tripwire) Debugf(string, ...any) {}

func (w *tripwire) fire(level slog.Level, format string, args []any) {
	w.write(level, format, args)
	if trip := w.trip.Load(); trip != nil {
		(*trip)(fmt.Errorf("badger: "+strings.TrimSpace(format), args...))
	}
}

func (w *tripwire) write(level slog.Level, format string, args []any) {
	if w.log.Enabled(context.Background(), level) {
		w.log.Log(context.Background(), level, "badger: "+strings.TrimSpace(fmt.Sprintf(format, args...)))
	}
}
