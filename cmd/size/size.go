// Package size reads and writes numbers of bytes as people do.
//
// [Parse] takes what is unambiguous and refuses the rest, [Format] rounds to what fits a column.
package size

import (
	"fmt"
	"math/big"
	"strings"
)

// units by suffix: K and KiB are 1024, KB is 1000.
var units = map[string]int64{
	"": 1, "B": 1,
	"K": 1 << 10, "KIB": 1 << 10, "KB": 1e3,
	"M": 1 << 20, "MIB": 1 << 20, "MB": 1e6,
	"G": 1 << 30, "GIB": 1 << 30, "GB": 1e9,
	"T": 1 << 40, "TIB": 1 << 40, "TB": 1e12,
	"P": 1 << 50, "PIB": 1 << 50, "PB": 1e15,
}

// Parse returns the number of bytes that s names: ASCII digits, at most one point, and a unit of
// units, in any case. A number with a fraction is rounded down to whole blocks of 4 KiB. Signs,
// exponents, spaces, other digits, zero and what exceeds 2^63-1 are errors.
func Parse(s string) (int64, error) {
	end := strings.IndexFunc(s, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	if end < 0 {
		end = len(s)
	}
	number, suffix := s[:end], s[end:]
	unit, known := units[strings.ToUpper(suffix)]
	whole, fraction, pointed := strings.Cut(number, ".")
	switch {
	case s == "":
		return 0, fmt.Errorf("an empty size")
	case number == "":
		return 0, fmt.Errorf("size %q does not start with a digit", s)
	case !known:
		return 0, fmt.Errorf("size %q has no unit we know after %s", s, number)
	case whole == "" || pointed && (fraction == "" || strings.Contains(fraction, ".")):
		return 0, fmt.Errorf("size %q is not a number", s)
	case len(number) > 30:
		return 0, fmt.Errorf("size %.40q... has too many digits", s)
	}
	value, ok := new(big.Rat).SetString(number)
	if !ok {
		return 0, fmt.Errorf("size %q is not a number", s)
	}
	value.Mul(value, new(big.Rat).SetInt64(unit))
	bytes := new(big.Int).Quo(value.Num(), value.Denom())
	if !bytes.IsInt64() {
		return 0, fmt.Errorf("size %q is more than 8 EiB", s)
	}
	n := bytes.Int64()
	if pointed {
		n &^= 4095
	}
	if n == 0 {
		return 0, fmt.Errorf("size %q is nothing", s)
	}
	return n, nil
}

var steps = []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}

// Format returns n with three significant digits and a unit: "1.13 TiB".
func Format(n int64) string {
	if n < 0 {
		return "-" + Format(-n)
	}
	return FormatFloat(float64(n))
}

// FormatFloat is Format for rates.
func FormatFloat(v float64) string {
	step := 0
	for v >= 999.5 && step < len(steps)-1 {
		v /= 1024
		step++
	}
	switch {
	case step == 0 || v >= 99.95:
		return fmt.Sprintf("%.0f %s", v, steps[step])
	case v >= 9.995:
		return fmt.Sprintf("%.1f %s", v, steps[step])
	default:
		return fmt.Sprintf("%.2f %s", v, steps[step])
	}
}
