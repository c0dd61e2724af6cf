package size

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	for s, want := range map[string]int64{
		"1": 1, "512": 512, "4K": 4096, "4k": 4096, "4KiB": 4096, "4kib": 4096, "4KB": 4000,
		"1M": 1 << 20, "10GiB": 10 << 30, "1.5GiB": 3 << 29, "2TB": 2e12, "7P": 7 << 50,
		"0.5MiB": 1 << 19, "1.1GiB": 1181114368, "9223372036854775807": math.MaxInt64, "007": 7,
	} {
		got, err := Parse(s)
		require.NoError(t, err, s)
		require.Equal(t, want, got, s)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, s := range []string{
		"", " ", "0", "0GiB", "0.0001K", "-1", "-1GiB", "+1", "1e30", "1E3", "1e3GiB", "NaN", "nan", "inf", "Infinity",
		"10GiB ", " 10GiB", "10 GiB", "10\tGiB", "10GiB\n", "0x10", "1_000", "1,5G", "1.5.5G", ".", ".5G", "5.", "5.G",
		"9223372036854775808", "8589934592G", "9999999999P", "1GiBs", "1Q", "GiB", "١٠GiB", "1０G", "½G",
		"1G\x00", "1111111111111111111111111111111111111",
	} {
		n, err := Parse(s)
		require.Error(t, err, "%q gave %d", s, n)
	}
}

func TestFormat(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1: "1 B", 999: "999 B", 1000: "0.98 KiB", 1024: "1.00 KiB", 10 << 10: "10.0 KiB",
		999 << 10: "999 KiB", 1023 << 10: "1.00 MiB", 1 << 30: "1.00 GiB", 1242459578368: "1.13 TiB",
		443029321728: "413 GiB", math.MaxInt64: "8.00 EiB", -4096: "-4.00 KiB",
	} {
		require.Equal(t, want, Format(n))
	}
}

// Whatever is taken is a positive number of bytes.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"1", "1.5GiB", "1e30", "NaN", "-1", "10GiB "} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := Parse(s)
		if err == nil && n <= 0 {
			t.Errorf("%q gave %d", s, n)
		}
		if err != nil && n != 0 {
			t.Errorf("%q gave %d and %v", s, n, err)
		}
	})
}
