package show

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"ballast/cmd/size"
)

// JSON writes v as one indented document.
func JSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// Line writes v as one line of JSON.
func Line(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// table is text in columns; the first row is the head. A column whose name begins with '>' is
// right-aligned.
type table struct {
	rows [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) write(w io.Writer, indent string) {
	if len(t.rows) == 0 {
		return
	}
	head := t.rows[0]
	right := make([]bool, len(head))
	width := make([]int, len(head))
	for i, name := range head {
		head[i], right[i] = strings.CutPrefix(name, ">")
	}
	for _, row := range t.rows {
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range t.rows {
		var line strings.Builder
		for i, cell := range row {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell))
			if i > 0 {
				line.WriteString("  ")
			}
			if right[i] {
				line.WriteString(pad + cell)
			} else {
				line.WriteString(cell + pad)
			}
		}
		fmt.Fprintln(w, indent+strings.TrimRight(line.String(), " "))
	}
}

// Clean is s with what could disturb a terminal written as an escape.
func Clean(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0 && utf8.ValidString(s) {
		return s
	}
	quoted := fmt.Sprintf("%q", s)
	return quoted[1 : len(quoted)-1]
}

func rate(v float64) string {
	if v < 0.5 {
		return "0 B/s"
	}
	return size.FormatFloat(v) + "/s"
}

// seconds is a time with two digits: "3.1 ms".
func seconds(v float64) string {
	switch {
	case v == 0 || math.IsNaN(v):
		return "-"
	case v < 0.9995e-3:
		return fmt.Sprintf("%.0f us", v*1e6)
	case v < 9.95e-3:
		return fmt.Sprintf("%.1f ms", v*1e3)
	case v < 0.9995:
		return fmt.Sprintf("%.0f ms", v*1e3)
	case v < 9.95:
		return fmt.Sprintf("%.1f s", v)
	default:
		return fmt.Sprintf("%.0f s", v)
	}
}

// percent of a whole, "-" of nothing.
func percent(part, whole int64) string {
	if whole <= 0 {
		return "-"
	}
	p := 100 * float64(part) / float64(whole)
	if p > 0 && p < 1 {
		return "<1%"
	}
	return fmt.Sprintf("%.0f%%", p)
}

func count(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func clock(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }
