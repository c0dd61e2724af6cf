//go:build bench

package bench

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
)

// figure is one thing that was measured: a line of the table and an object of the JSON.
type figure struct {
	Bench   string             `json:"bench"`
	What    string             `json:"what"`
	Value   float64            `json:"value"`
	Unit    string             `json:"unit"`
	Ratio   float64            `json:"ratio,omitempty"`   // value to what Against names, measured in the same run
	Against string             `json:"against,omitempty"` // a bound or a peer
	Goal    float64            `json:"goal,omitempty"`    // of Ratio, or of Value where there is no ratio
	AtMost  bool               `json:"at_most,omitempty"` // Goal is the most, not the least
	More    map[string]float64 `json:"more,omitempty"`    // what else was measured with it, by name and unit
}

// jsonVariable names the file that the figures are written to as JSON.
const jsonVariable = "BALLAST_BENCH_JSON"

var figures struct {
	mu   sync.Mutex
	list []figure
}

// report prints f at once, so that a run that is broken off has said what it measured, and keeps it
// for the table.
func report(f figure) {
	figures.mu.Lock()
	defer figures.mu.Unlock()
	figures.list = append(figures.list, f)
	fmt.Println(strings.Join(slices.DeleteFunc(f.cells(), func(s string) bool { return s == "" }), "  "))
}

// verdict is "met" or "missed", or nothing without a goal.
func (f figure) verdict() string {
	got := f.Ratio
	if f.Against == "" {
		got = f.Value
	}
	switch {
	case f.Goal == 0:
		return ""
	case f.AtMost == (got <= f.Goal):
		return "met"
	}
	return "missed"
}

func (f figure) cells() []string {
	ratio, goal := "", ""
	if f.Against != "" {
		ratio = fmt.Sprintf("%.2fx %s", f.Ratio, f.Against)
	}
	if f.Goal != 0 {
		sign := ">="
		if f.AtMost {
			sign = "<="
		}
		goal = fmt.Sprintf("%s (goal %s %g)", f.verdict(), sign, f.Goal)
	}
	more := make([]string, 0, len(f.More))
	for name, v := range f.More {
		more = append(more, fmt.Sprintf("%s %.4g", name, v))
	}
	slices.Sort(more)
	return []string{f.Bench, f.What, fmt.Sprintf("%.4g %s", f.Value, f.Unit), ratio, goal, strings.Join(more, ", ")}
}

// writeTable writes all figures, one a line, and how many of their goals were met.
func writeTable(w io.Writer, list []figure) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "BENCH\tWHAT\tFIGURE\tRATIO\tGOAL\tBESIDE IT")
	met, goals := 0, 0
	for _, f := range list {
		fmt.Fprintln(t, strings.Join(f.cells(), "\t"))
		if v := f.verdict(); v != "" {
			goals++
			if v == "met" {
				met++
			}
		}
	}
	_ = t.Flush()
	fmt.Fprintf(w, "bench: %d figures, %d of %d goals met\n", len(list), met, goals)
}

// finish prints the table and writes the JSON, if it is asked for.
func finish() error {
	figures.mu.Lock()
	defer figures.mu.Unlock()
	if len(figures.list) == 0 {
		return nil
	}
	list := slices.Clone(figures.list)
	slices.SortStableFunc(list, func(a, b figure) int { return cmp.Compare(a.Bench, b.Bench) })
	fmt.Println()
	writeTable(os.Stdout, list)
	path := os.Getenv(jsonVariable)
	if path == "" {
		return nil
	}
	b, err := json.MarshalIndent(list, "", "  ")
	if err == nil {
		err = os.WriteFile(path, append(b, '\n'), 0o666)
	}
	return err
}
