package journal_test

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ballast/journal"
	"ballast/journal/journaltest"
)

var (
	kills = flag.Int("kills", 25, "how many writers TestKill kills")
	seed  = flag.Uint64("seed", 1, "seed of random tests")
)

const writers = 4

// The writer's batch i replaces its head, adds two records, and deletes one of an older batch.
// Later ones are large, so that logs fill up and tables are compacted while writers are killed.
func writerBatch(writer, i int) *journal.Batch {
	b := &journal.Batch{}
	b.Put(job(writer), fmt.Append(nil, i))
	for k := range 2 {
		size := 20 + i%200
		if k == 0 && writer > 1 && i >= 1000 {
			size = 40_000
		}
		v := bytes.Repeat([]byte{byte(i)}, size)
		b.Put(journal.MakeKey('x', uint64(writer), uint64(2*i+k)), strconv.AppendInt(v, int64(i), 10))
	}
	if i >= 5 {
		b.Delete(journal.MakeKey('x', uint64(writer), uint64(2*(i-5))))
	}
	return b
}

// writerModel is what a writer leaves after its first n batches.
func writerModel(model map[journal.Key]string, writer, n int) {
	for i := range n {
		for _, op := range writerBatch(writer, i).Ops {
			if op.Value == nil {
				delete(model, op.Key)
			} else {
				model[op.Key] = string(op.Value)
			}
		}
	}
}

// heads returns how many batches of each writer the journal holds.
func heads(t require.TestingT, j journal.Journal) (n [writers]int) {
	for w := range n {
		v, err := j.Get(job(w))
		if err == journal.ErrNotFound {
			continue
		}
		require.NoError(t, err)
		i, err := strconv.Atoi(string(v))
		require.NoError(t, err)
		n[w] = i + 1
	}
	return n
}

// writerMain is a child that commits until it is killed, or until each writer has done limit
// batches, and then waits to be killed. It prints each acknowledged batch.
func writerMain(dir, limit string) int {
	max, err := strconv.Atoi(limit)
	if err != nil {
		panic(err)
	}
	s, err := journal.Open(dir, journal.Options{UUID: volume})
	if err != nil {
		fmt.Println("error", err)
		return 1
	}
	fmt.Println("open")
	start := heads(panics{}, s)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := start[w]; max == 0 || i < max; i++ {
				if err := s.Commit(context.Background(), writerBatch(w, i)); err != nil {
					fmt.Println("error", err)
					return
				}
				fmt.Println("ack", w, i)
			}
		})
	}
	wg.Wait()
	fmt.Println("done")
	select {}
}

type panics struct{}

func (panics) Errorf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
func (panics) FailNow()                          { panic("failed") }

// killWriter runs a writer on dir and kills it when it has done limit batches, or, if that is 0, some time
// after it was started or, if opened is set, has opened the journal. It returns how many batches of each
// writer were acknowledged.
func killWriter(t *testing.T, dir string, limit int, after time.Duration, opened bool) (acked [writers]int) {
	cmd := exec.Command(executable(t), "journal-writer", dir, strconv.Itoa(limit))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	out, in, err := os.Pipe()
	require.NoError(t, err)
	defer out.Close()
	cmd.Stdout = in
	require.NoError(t, cmd.Start())
	in.Close()
	timer := time.AfterFunc(time.Hour, func() { cmd.Process.Kill() })
	defer timer.Stop()
	if limit == 0 && !opened {
		timer.Reset(after)
	}
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadString('\n')
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		var w, i int
		if n, _ := fmt.Sscanf(line, "ack %d %d", &w, &i); n == 2 {
			acked[w] = i + 1
		} else if line == "done\n" {
			require.NoError(t, cmd.Process.Kill())
		} else if line == "open\n" {
			if opened {
				timer.Reset(after)
			}
		} else {
			cmd.Process.Kill()
			t.Errorf("the writer says %q", line)
		}
	}
	require.Error(t, cmd.Wait(), "it was killed")
	return acked
}

// TestKill kills writers: each batch is there wholly or not at all, and those acknowledged are.
func TestKill(t *testing.T) {
	t.Logf("repeat with -run TestKill -seed %d -kills %d", *seed, *kills)
	rng := rand.New(rand.NewPCG(*seed, 1))
	dir := create(t)
	var last journal.State
	var was [writers]int
	acknowledged := 0
	for n := range *kills {
		acked := killWriter(t, dir, 0, time.Duration(rng.IntN(300))*time.Millisecond, n%2 == 0)
		s := open(t, dir, last)
		found := heads(t, s)
		model := map[journal.Key]string{}
		for w := range found {
			writerModel(model, w, found[w])
			if acked[w] == 0 {
				acked[w] = was[w]
			}
			require.True(t, found[w] == acked[w] || found[w] == acked[w]+1, "writer %d: %d acknowledged, %d found", w, acked[w], found[w])
			acknowledged += acked[w] - was[w]
		}
		require.Equal(t, model, journaltest.Contents(t, s))
		journaltest.CheckState(t, s, model)
		last, was = s.State(), found
		require.NoError(t, s.Close())
	}
	t.Logf("%d kills, %d acknowledged batches, 0 lost", *kills, acknowledged)
	require.Positive(t, acknowledged)
}
