//go:build bench

package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"testing"

	"ballast/tests/harness"

	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(ramVariable); dir != "" {
		if err := serveRAM(dir, os.Getenv(checkedVariable) != ""); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	code := harness.Main(m)
	if err := finish(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

const mib = 1 << 20

// job is one fio run.
type job struct {
	rw      string // write, read, randread, randwrite
	bs      int
	depth   int
	jobs    int // connections
	size    int64
	seconds int    // 0: until size is done
	ramp    int    // seconds not counted
	uri     string // NBD, or
	file    string // a device
	fsync   bool   // flush at the end, within the time
	rate    int    // requests per second at most; 0: no limit

	readShare int // of randrw, in percent; the result is of the reads alone, but for bytesPerSecond
}

// result is what fio measured.
type result struct {
	bytesPerSecond float64
	iops           float64
	p99, p999      float64 // seconds
	p50            float64
	cpu            float64 // of fio, in cores
}

func (j job) run(t testing.TB) result {
	harness.Need(t, "fio")
	args := []string{"--name=bench", "--rw=" + j.rw, fmt.Sprintf("--bs=%d", j.bs), fmt.Sprintf("--iodepth=%d", j.depth),
		"--output-format=json", "--group_reporting", "--randrepeat=0", "--norandommap"}
	if j.uri != "" {
		args = append(args, "--ioengine=nbd", "--uri="+j.uri)
	} else {
		args = append(args, "--ioengine=libaio", "--direct=1", "--filename="+j.file)
	}
	if j.size > 0 {
		args = append(args, fmt.Sprintf("--size=%d", j.size))
	}
	if j.jobs > 1 {
		args = append(args, fmt.Sprintf("--numjobs=%d", j.jobs), "--thread")
	}
	if j.seconds > 0 {
		args = append(args, fmt.Sprintf("--runtime=%d", j.seconds), "--time_based", fmt.Sprintf("--ramp_time=%d", j.ramp))
	}
	if j.readShare > 0 {
		args = append(args, fmt.Sprintf("--rwmixread=%d", j.readShare))
	}
	if reads := j.rate * j.readShare / 100; reads > 0 {
		args = append(args, fmt.Sprintf("--rate_iops=%d,%d", reads, j.rate-reads), "--rate_process=poisson")
	} else if j.rate > 0 {
		args = append(args, fmt.Sprintf("--rate_iops=%d", j.rate), "--rate_process=poisson")
	}
	if j.fsync {
		args = append(args, "--end_fsync=1")
	}
	cmd := exec.Command("fio", args...)
	cmd.Dir = t.TempDir()
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	require.NoError(t, err, "%s", out)
	i := slices.Index(out, '{')
	require.GreaterOrEqual(t, i, 0, "%s", out)
	var parsed struct {
		Jobs []struct {
			Error       int
			UsrCPU      float64 `json:"usr_cpu"`
			SysCPU      float64 `json:"sys_cpu"`
			Read, Write struct {
				BW      float64 `json:"bw_bytes"`
				IOPS    float64
				Runtime float64 // ms
				IOBytes float64 `json:"io_bytes"`
				Clat    struct {
					Percentile map[string]float64
				} `json:"clat_ns"`
			}
			JobRuntime float64 `json:"job_runtime"`
		}
	}
	require.NoError(t, json.Unmarshal(out[i:], &parsed), "%s", out)
	require.Len(t, parsed.Jobs, 1)
	p := parsed.Jobs[0]
	require.Zero(t, p.Error)
	dir := p.Read
	if dir.IOBytes == 0 {
		dir = p.Write
	}
	r := result{bytesPerSecond: dir.BW, iops: dir.IOPS, p50: dir.Clat.Percentile["50.000000"] / 1e9, p99: dir.Clat.Percentile["99.000000"] / 1e9,
		p999: dir.Clat.Percentile["99.900000"] / 1e9, cpu: (p.UsrCPU + p.SysCPU) / 100}
	if j.readShare > 0 {
		r.bytesPerSecond += p.Write.BW
	}
	if j.fsync && j.seconds == 0 && p.JobRuntime > 0 {
		// The time of the closing flush counts: data that only stands in RAM is not written.
		r.bytesPerSecond = dir.IOBytes / (p.JobRuntime / 1000)
	}
	return r
}

func median(xs []float64) float64 {
	s := slices.Sorted(slices.Values(xs))
	return s[len(s)/2]
}
