package names

import (
	"context"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"

	"ballast/journal"

	"github.com/stretchr/testify/require"
)

// page lists up to n entries behind a cookie, as the kernel does.
func (r *rig) page(dir Ino, after uint64, n int) (list []Entry) {
	require.NoError(r.t, r.ReadDir(context.Background(), dir, max(after, cookieDotDot), n, func(e Entry) bool {
		if len(list) == n {
			return false
		}
		list = append(list, e)
		return true
	}))
	return list
}

// TestListingInPagesSeesEachChange lists directories page by page while names come, go and move, some of
// them committed and some not: what is behind the page must be listed as it is at that moment.
func TestListingInPagesSeesEachChange(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	r := newRig(t, rigConfig{})
	ctx := context.Background()
	var dirs []Ino
	there := map[Ino]map[string]bool{}
	for i := range maxListings + 3 {
		d := r.mkdir(Root, fmt.Sprint("dir", i)).Ino
		dirs, there[d] = append(dirs, d), map[string]bool{}
	}
	at := map[Ino]uint64{} // cookies
	for step := range 20_000 {
		d := dirs[rng.IntN(len(dirs))]
		name := fmt.Sprint(rng.IntN(40))
		switch rng.IntN(8) {
		case 0:
			if !there[d][name] {
				r.file(d, name)
				there[d][name] = true
			}
		case 1:
			if there[d][name] {
				require.NoError(t, r.Unlink(ctx, d, name))
				delete(there[d], name)
			}
		case 2:
			if to := dirs[rng.IntN(len(dirs))]; there[d][name] && to != d {
				require.NoError(t, r.Rename(ctx, d, name, to, name, 0))
				delete(there[d], name)
				there[to][name] = true
			}
		case 3:
			if rng.IntN(20) == 0 {
				require.NoError(t, r.Sync(ctx))
			}
		default:
			list := r.page(d, at[d], 5)
			var want []string
			for n := range there[d] {
				if r.hash(n)<<slotBits > at[d] {
					want = append(want, n)
				}
			}
			if at[d] = 0; len(want) > 5 {
				at[d] = list[4].Cookie
			}
			require.Len(t, list, min(len(want), 5), "step %d", step)
			for i, e := range list {
				require.Contains(t, want, e.Name, "step %d", step)
				require.True(t, i == 0 || list[i-1].Cookie < e.Cookie)
			}
		}
		require.LessOrEqual(t, len(r.delta.listings), maxListings)
	}
	require.NoError(t, r.close())
}

// TestListingIsNotKeptWhenNamesChangeMeanwhile: what was read before a change does not outlive it.
func TestListingIsNotKeptWhenNamesChangeMeanwhile(t *testing.T) {
	r := newRig(t, rigConfig{})
	d := r.mkdir(Root, "dir").Ino
	r.file(d, "old")
	kept, begun := r.delta.listing(uint64(d), 1)
	require.Nil(t, kept)
	r.file(d, "new")
	r.delta.listed(begun, &listing{dir: uint64(d), made: true})
	require.ElementsMatch(t, []string{"old", "new"}, r.list(d))
	require.NoError(t, r.close())
}

// TestReferAllIsReferForEach compares the two for inodes that are in memory or not, neighbours and far from each
// other, ahead of their records, and gone; and sees that each reference counts.
func TestReferAllIsReferForEach(t *testing.T) {
	r := newRig(t, rigConfig{})
	ctx := context.Background()
	d := r.mkdir(Root, "dir").Ino
	var inos []Ino
	for i := range 100 {
		a := r.file(d, fmt.Sprint(i))
		if i < 30 || i%7 == 0 {
			inos = append(inos, a.Ino)
		}
	}
	link, err := r.Create(ctx, d, "link", New{Mode: journal.TypeSymlink | 0o777, Target: "there"})
	require.NoError(t, err)
	gone := r.file(d, "gone").Ino
	require.NoError(t, r.Unlink(ctx, d, "gone"))
	require.NoError(t, r.close())
	r.open()
	held, err := r.Refer(inos[3])
	require.NoError(t, err)
	require.NoError(t, r.Unlink(ctx, d, "3"))
	r.write(inos[5], 0, []byte("ahead"))
	require.NoError(t, r.SetXattr(ctx, inos[6], "user.x", []byte("y"), 0)) // its record is in the delta

	inos = append(inos, link.Ino, inos[7], 0, d, gone, 1<<40)
	rand.New(rand.NewPCG(3, 4)).Shuffle(len(inos), func(i, j int) { inos[i], inos[j] = inos[j], inos[i] })
	for range 2 { // from the journal, and from memory
		for i, a := range r.referAll(pageOf(inos)) {
			if inos[i] == 0 {
				require.Zero(t, a)
				continue
			}
			want, err := r.Refer(inos[i])
			if err != nil {
				require.ErrorIs(t, err, syscall.ESTALE)
				require.Contains(t, []Ino{gone, 1 << 40}, inos[i])
			}
			require.Equal(t, want, a)
			if err == nil {
				r.Forget(a.Ino, 1)
			}
		}
	}
	r.Forget(held.Ino, 1)
	require.NoError(t, r.reclaim(ctx))
	_, err = r.Attr(ctx, held.Ino)
	require.NoError(t, err, "two references are left")
	r.Forget(held.Ino, 2)
	require.NoError(t, r.reclaim(ctx))
	_, err = r.Attr(ctx, held.Ino)
	require.ErrorIs(t, err, syscall.ESTALE)
	require.Zero(t, r.refs.get(gone))
	require.NoError(t, r.close())
}

// pageOf makes entries of inodes; 0 stands for ".".
func pageOf(inos []Ino) (page []Entry) {
	for _, ino := range inos {
		e := Entry{Ino: ino, Cookie: 100}
		if ino == 0 {
			e = Entry{Name: ".", Ino: Root, Cookie: cookieDot}
		}
		page = append(page, e)
	}
	return page
}

// TestReadDirPlusInPages lists a directory in pages while files are written, deleted and made: each page is as
// Refer has it at that moment, and each entry is referred to once.
func TestReadDirPlusInPages(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	r := newRig(t, rigConfig{})
	ctx := context.Background()
	d := r.mkdir(Root, "dir").Ino
	for i := range 500 {
		r.Forget(r.file(d, fmt.Sprint(i)).Ino, 1)
	}
	for round := range 100 {
		refs := map[Ino]uint64{}
		var after uint64
		for n := 21; n > 20; {
			if round%3 > 0 && rng.IntN(5) == 0 {
				r.changeBehind(rng, d, after)
			}
			n = 0
			require.NoError(t, r.ReadDirPlus(ctx, d, after, 20, func(string) bool { n++; return n <= 20 }, func(e *Entry, a *Attr) bool {
				if after = e.Cookie; e.isDot() {
					require.Zero(t, *a)
					return true
				}
				want, err := r.Attr(ctx, e.Ino)
				require.NoError(t, err)
				require.Equal(t, want, *a)
				refs[a.Ino]++
				return true
			}))
		}
		for ino, n := range refs {
			require.EqualValues(t, 1, n)
			require.Equal(t, n, r.refs.get(ino))
			r.Forget(ino, n)
		}
	}
	require.NoError(t, r.close())
}

// changeBehind writes to a file that is about to be listed, or makes or deletes one.
func (r *rig) changeBehind(rng *rand.Rand, d Ino, after uint64) {
	ctx := context.Background()
	name := fmt.Sprint(rng.IntN(600))
	if list := r.page(d, after, 3); rng.IntN(2) == 0 && len(list) == 3 {
		r.write(list[2].Ino, 0, []byte(name))
		if rng.IntN(2) == 0 {
			require.NoError(r.t, r.Sync(ctx))
		}
	} else if a, err := r.Lookup(ctx, d, name); err != nil {
		r.Forget(r.file(d, name).Ino, 1)
	} else {
		require.NoError(r.t, r.Unlink(ctx, d, name))
		r.Forget(a.Ino, 1)
	}
}
