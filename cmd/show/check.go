package show

import (
	"fmt"
	"io"
	"strings"

	"ballast/cmd/size"
	"ballast/cmd/verify"
)

// faultsShown is how many faults people are shown; JSON has more.
const faultsShown = 50

// CheckReport writes the result of ballast check for people.
func CheckReport(w io.Writer, r *verify.Report) {
	fmt.Fprintf(w, "volume %s is %s: %s in %s compared with their sums\n", r.Volume, strings.ToUpper(r.Verdict), size.Format(r.Bytes), count(r.Chunks, "chunk", "chunks"))
	var newest []string
	for _, c := range r.Journal {
		if c.Newest {
			newest = append(newest, c.Device)
		}
	}
	fmt.Fprintf(w, "  journal: newest copies on the devices: %s\n", orDash(strings.Join(newest, ", ")))
	if len(r.Missing) > 0 {
		fmt.Fprintf(w, "  missing: %s, with %s\n", strings.Join(r.Missing, ", "), count(r.Unreadable, "copy", "copies"))
	}
	if r.Stale > 0 {
		fmt.Fprintf(w, "  stale:   %s, which rebuilding replaces\n", count(r.Stale, "copy", "copies"))
	}
	if r.Unnamed > 0 {
		fmt.Fprintf(w, "  unnamed: %s of files that a crash came before, which serving gives back\n", count(r.Unnamed, "chunk", "chunks"))
	}
	if r.FaultCount == 0 {
		return
	}
	fmt.Fprintf(w, "  faults:  %d\n\n", r.FaultCount)
	t := &table{}
	t.add("DEVICE", "OBJECT", ">CHUNK", ">OFFSET", "WHAT")
	for _, f := range r.Faults[:min(len(r.Faults), faultsShown)] {
		t.add(orDash(f.Device), orDash(Clean(f.Object)), number(f.Chunk, "%d"), number(f.Off, "%#x"), Clean(f.What))
	}
	t.write(w, "  ")
	if more := r.FaultCount - int64(min(len(r.Faults), faultsShown)); more > 0 {
		fmt.Fprintf(w, "  and %d more\n", more)
	}
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func number(n *int64, format string) string {
	if n == nil {
		return "-"
	}
	return fmt.Sprintf(format, *n)
}
