package names

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"ballast/journal"

	"github.com/stretchr/testify/require"
)

// The test below has several clients work on one name space at once: each has a directory that
// nobody else uses and all have one in common, with few names, between which entries move. Each
// operation is noted with the moments at which it was called and returned and with its result. What
// the clients saw must be what they would have seen one after the other in some order in which no
// operation that had returned comes after one that was called later: so a name is made once and
// removed once, and a rename shows neither both names nor none.

// history is what the clients of one episode did.
type history struct {
	clock atomic.Int64
	mu    sync.Mutex
	ops   []histOp
}

type histOp struct {
	client       int
	called, done int64
	kind         string
	a, b         string // names, with their directory
	ino          Ino    // of the result, or that is linked
	err          error
}

func (o histOp) String() string {
	return fmt.Sprintf("client %d [%d,%d] %s %s %s: inode %d, %v", o.client, o.called, o.done, o.kind, o.a, o.b, o.ino, o.err)
}

// step tells whether an operation may have had its result with these names, and what they are then.
func (o *histOp) step(state map[string]Ino) (map[string]Ino, bool) {
	src, dst := state[o.a], state[o.b]
	var want error
	var put map[string]Ino
	switch o.kind {
	case "lookup":
		if src == 0 {
			want = syscall.ENOENT
		} else if o.ino != src {
			return nil, false
		}
	case "create", "link":
		if put = map[string]Ino{o.a: o.ino}; src != 0 {
			want = syscall.EEXIST
		}
	case "unlink":
		if put = map[string]Ino{o.a: 0}; src == 0 {
			want = syscall.ENOENT
		}
	case "rename", "noreplace", "exchange":
		switch {
		case src == 0, o.kind == "exchange" && dst == 0:
			want = syscall.ENOENT
		case o.kind == "noreplace" && dst != 0:
			want = syscall.EEXIST
		case o.kind == "exchange":
			put = map[string]Ino{o.a: dst, o.b: src}
		case src != dst:
			put = map[string]Ino{o.a: 0, o.b: src}
		}
	}
	if !errors.Is(o.err, want) {
		return nil, false
	}
	if want != nil {
		return state, true
	}
	after := maps.Clone(state)
	for name, ino := range put {
		if ino == 0 {
			delete(after, name)
		} else {
			after[name] = ino
		}
	}
	return after, true
}

// linearize looks for an order of all operations that explains their results and ends with these
// names.
func linearize(ops []histOp, begin, end map[string]Ino) bool {
	seen := map[string]bool{}
	var search func(left uint64, state map[string]Ino) bool
	search = func(left uint64, state map[string]Ino) bool {
		if left == 0 {
			return maps.Equal(state, end)
		}
		at := fmt.Sprint(left, state)
		if seen[at] {
			return false
		}
		seen[at] = true
		first := int64(1<<62 - 1) // the earliest return of what is left: whoever was called later comes later
		for i := range ops {
			if left&(1<<i) != 0 {
				first = min(first, ops[i].done)
			}
		}
		for i := range ops {
			if left&(1<<i) == 0 || ops[i].called > first {
				continue
			}
			if after, ok := ops[i].step(state); ok && search(left&^(1<<i), after) {
				return true
			}
		}
		return false
	}
	return search(1<<len(ops)-1, begin)
}

// crowd is several clients of one tree.
type crowd struct {
	*rig
	dirs map[string]Ino
}

const (
	crowdClients = 4
	crowdOps     = 6 // of each client in an episode
)

// client is one of them in one episode.
func (c *crowd) client(h *history, number int, rng *rand.Rand) {
	ctx := context.Background()
	own := fmt.Sprint("own", number)
	pick := func() (string, Ino, string) {
		dir := "shared"
		if rng.IntN(3) == 0 {
			dir = own
		}
		name := fmt.Sprint("n", rng.IntN(3))
		return dir + "/" + name, c.dirs[dir], name
	}
	var known Ino // with a reference
	defer func() {
		if known != 0 {
			c.Forget(known, 1)
		}
	}()
	for range crowdOps {
		a, dirA, nameA := pick()
		b, dirB, nameB := pick()
		o := histOp{client: number, a: a, called: h.clock.Add(1)}
		var got Attr
		switch k := rng.IntN(8); {
		case k < 2:
			o.kind = "create"
			if got, o.err = c.Create(ctx, dirA, nameA, New{Mode: journal.TypeRegular | 0o600}); o.err == nil {
				o.ino = got.Ino
			}
		case k == 2 && known != 0:
			o.kind, o.ino = "link", known
			if _, o.err = c.Link(ctx, known, dirA, nameA); o.err == nil {
				c.Forget(known, 1)
			}
		case k < 4:
			o.kind = "unlink"
			o.err = c.Unlink(ctx, dirA, nameA)
		case k < 6:
			flags := rng.IntN(3)
			o.kind, o.b = []string{"rename", "noreplace", "exchange"}[flags], b
			o.err = c.Rename(ctx, dirA, nameA, dirB, nameB, []uint32{0, RenameNoReplace, RenameExchange}[flags])
		default:
			o.kind = "lookup"
			if got, o.err = c.Lookup(ctx, dirA, nameA); o.err == nil {
				o.ino = got.Ino
			}
		}
		o.done = h.clock.Add(1)
		h.mu.Lock()
		h.ops = append(h.ops, o)
		h.mu.Unlock()
		if got.Ino != 0 && o.err == nil {
			c.content(got.Ino, o.kind == "create")
			if known != 0 {
				c.Forget(known, 1)
			}
			known = got.Ino
		}
	}
}

// content writes a file's inode number into it when it is new, and else sees that it has that or
// nothing: with or without a name, it is nobody else's data.
func (c *crowd) content(ino Ino, isNew bool) {
	ctx := context.Background()
	f, err := c.OpenFile(ctx, ino, isNew)
	if err != nil {
		c.t.Errorf("inode %d, to which there is a reference: %v", ino, err)
		return
	}
	defer f.Close()
	p := binary.LittleEndian.AppendUint64(nil, uint64(ino))
	if isNew {
		err = f.WriteAt(ctx, p, 0)
	} else {
		var n int
		if n, err = f.ReadAt(ctx, p, 0); err == nil && n != 0 && binary.LittleEndian.Uint64(p) != uint64(ino) {
			err = fmt.Errorf("data of inode %d", binary.LittleEndian.Uint64(p))
		}
	}
	if err != nil {
		c.t.Errorf("inode %d: %v", ino, err)
	}
}

// names lists all the entries, and compares the links of each inode with their number.
func (c *crowd) names() map[string]Ino {
	all, links := map[string]Ino{}, map[Ino]uint32{}
	for dir, ino := range c.dirs {
		for _, name := range c.list(ino) {
			if name[0] == 'n' {
				all[dir+"/"+name] = c.lookup(ino, name).Ino
			}
		}
	}
	for _, ino := range all {
		links[ino]++
	}
	for ino, n := range links {
		a, err := c.Attr(context.Background(), ino)
		require.NoError(c.t, err)
		require.Equal(c.t, n, a.Links, "inode %d", ino)
	}
	return all
}

// TestClientsAtOnce runs episodes of several clients beside somebody who lists the shared directory,
// in which some names stay, and beside commits.
func TestClientsAtOnce(t *testing.T) {
	const episodes = 250
	r := newRig(t, rigConfig{latency: 200 * time.Microsecond, tree: Options{FlushInterval: 5 * time.Millisecond, CacheLimit: 4 << 10}})
	c := &crowd{r, map[string]Ino{"shared": r.mkdir(Root, "shared").Ino}}
	for i := range crowdClients {
		name := fmt.Sprint("own", i)
		c.dirs[name] = r.mkdir(Root, name).Ino
	}
	var stay []string
	for i := range 40 {
		stay = append(stay, fmt.Sprint("stays", i))
		r.file(c.dirs["shared"], stay[i])
	}
	slices.Sort(stay)
	stop := make(chan struct{})
	var beside sync.WaitGroup
	beside.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-t.Context().Done():
				return
			default:
			}
			var got []string
			for _, name := range c.list(c.dirs["shared"]) {
				if name[0] == 's' {
					got = append(got, name)
				}
			}
			slices.Sort(got)
			if !slices.Equal(stay, got) {
				t.Errorf("of the names that stay, a listing has %q", got)
			}
			if err := r.SyncDir(context.Background(), Root); err != nil {
				t.Errorf("fsync of a directory: %v", err)
			}
		}
	})
	begin := map[string]Ino{}
	for e := range episodes {
		h := &history{}
		var wg sync.WaitGroup
		for i := range crowdClients {
			wg.Go(func() { c.client(h, i, rand.New(rand.NewPCG(uint64(e), uint64(i)))) })
		}
		wg.Wait()
		end := c.names()
		if !linearize(h.ops, begin, end) {
			slices.SortFunc(h.ops, func(a, b histOp) int { return int(a.called - b.called) })
			for _, o := range h.ops {
				t.Log(o)
			}
			t.Fatalf("episode %d: no order of these operations leads from %v to %v", e, begin, end)
		}
		begin = end
	}
	close(stop)
	beside.Wait()
	require.NoError(t, r.close())
	r.open()
	require.Equal(t, begin, c.names())
	require.NoError(t, r.close())
}
