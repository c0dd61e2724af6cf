//go:build bench

package bench

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestTable: a goal is of the ratio where there is one, and may be the most that is allowed.
func TestTable(t *testing.T) {
	list := []figure{
		{Bench: "a", What: "faster", Value: 100, Unit: "MiB/s", Ratio: 0.96, Against: "the bound", Goal: 0.95, More: map[string]float64{"p99 ms": 1.5}},
		{Bench: "a", What: "slower", Value: 100, Unit: "MiB/s", Ratio: 0.94, Against: "the bound", Goal: 0.95},
		{Bench: "b", What: "memory", Value: 170, Unit: "MiB", Goal: 400, AtMost: true},
		{Bench: "b", What: "delay", Value: 2, Unit: "ms", Ratio: 3.5, Against: "base", Goal: 3, AtMost: true},
		{Bench: "b", What: "anything", Value: 2, Unit: "s"},
	}
	verdicts := make([]string, 0, len(list))
	for _, f := range list {
		verdicts = append(verdicts, f.verdict())
	}
	require.Equal(t, []string{"met", "missed", "met", "missed", ""}, verdicts)
	var b strings.Builder
	writeTable(&b, list)
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	require.Len(t, lines, 7)
	require.Regexp(t, `^a +faster +100 MiB/s +0\.96x the bound +met \(goal >= 0\.95\) +p99 ms 1\.5$`, strings.TrimRight(lines[1], " "))
	require.Equal(t, "bench: 5 figures, 2 of 4 goals met", lines[6])
}
