package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestParseSince(t *testing.T) {
	now := time.Date(2026, 3, 10, 12, 0, 0, 0, time.Local)
	for text, want := range map[string]time.Time{
		"":                     {},
		"2026-01-31":           time.Date(2026, 1, 31, 0, 0, 0, 0, time.Local),
		"2026-01-31 08:30":     time.Date(2026, 1, 31, 8, 30, 0, 0, time.Local),
		"2026-01-31T08:30:00Z": time.Date(2026, 1, 31, 8, 30, 0, 0, time.UTC),
		"7d":                   time.Date(2026, 3, 3, 12, 0, 0, 0, time.Local),
		"36h":                  time.Date(2026, 3, 9, 0, 0, 0, 0, time.Local),
		"0s":                   now,
	} {
		got, err := parseSince(text, now)
		require.NoError(t, err, text)
		require.True(t, want.Equal(got), "%s: %v", text, got)
	}
	for _, text := range []string{"soon", "-1h", "-3d", "d", "31.1.2026", "2026-13-01", "99999999999d"} {
		_, err := parseSince(text, now)
		require.ErrorContains(t, err, "--since", text)
	}
}
