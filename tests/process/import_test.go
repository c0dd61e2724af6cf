package process

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ballast/cmd/volumes"
	"ballast/tests/harness"

	"github.com/stretchr/testify/require"
)

type imported struct {
	Schema, Volume string
	From           string `json:"journal_from"`
	Devices        []struct{ Path string }
	Missing        []struct{ ID int }
}

// The state directory and one disk are lost in the moment the daemon is killed. The volume is
// imported from the other disks, and has every byte that was flushed.
func TestVolumeLivesOnItsDisks(t *testing.T) {
	harness.Need(t, "nbdcopy")
	for lost := range 3 {
		env := harness.New(t)
		disks := volume(t, env, 2)
		env.Must("export", "create", "v/x", "32MiB")
		d := env.Serve("v")
		data := random(t, 64<<20, uint64(lost))
		harness.Tool(t, "nbdcopy", "--flush", data, d.URI("e"))
		s := newStamper("x", 32<<20, uint64(lost))
		done := make(chan struct{})
		go func() { // ends with the daemon
			defer close(done)
			s.run(d.NBD)
		}()
		for range 20 { // while it goes on, the journal does
			env.Must("status", "v")
		}
		d.Kill()
		<-done
		require.NoError(t, os.RemoveAll(env.State))
		require.NoError(t, os.Remove(disks[lost]))
		left := []string{disks[(lost+1)%3], disks[(lost+2)%3]}

		var i imported
		decode(t, env.Must("import", left[0], left[1], "--json"), &i)
		require.Equal(t, "ballast.import/1", i.Schema)
		require.Equal(t, "v", i.Volume)
		require.Len(t, i.Devices, 2)
		require.Equal(t, lost+1, i.Missing[0].ID)
		d = env.Serve("v")
		out := filepath.Join(t.TempDir(), "out")
		harness.Tool(t, "nbdcopy", d.URI("e"), out)
		requireSame(t, data, out)
		require.NoError(t, s.check(d.NBD))
		await(t, "both disks have a copy", func() bool { return strings.Contains(env.Must("status", "v"), "2 of 2 copies on the devices") })
		require.Zero(t, d.Stop())
		var c checked
		decode(t, env.Must("check", "v", "--json"), &c)
		require.Equal(t, "degraded", c.Verdict)
		require.Empty(t, c.Faults)
	}
}

// A volume moves to another machine and back; then both machines cannot go on with it.
func TestImportElsewhere(t *testing.T) {
	harness.Need(t, "nbdcopy")
	here, there := harness.New(t), harness.New(t)
	disks := volume(t, here, 1)
	data := random(t, 16<<20, 5)
	d := here.Serve("v")
	harness.Tool(t, "nbdcopy", "--flush", data, d.URI("e"))
	refused(t, there.Command("import", disks[0]), 11, "E_DEVICE_BUSY")
	require.Zero(t, d.Stop())

	refused(t, there.Command("import", disks[0], disks[1]), 1, "E_DEVICE_MISSING")
	there.Must("import", disks[0], disks[1], disks[2], "--name", "moved", "--read-only")
	d = there.Serve("moved")
	out := filepath.Join(t.TempDir(), "out")
	harness.Tool(t, "nbdcopy", d.URI("e"), out)
	requireSame(t, data, out)
	require.Contains(t, harness.Tool(t, "nbdinfo", d.URI("e")), "is_read_only: true")
	there.Must("export", "create", "moved/y", "1MiB")
	require.Zero(t, d.Stop())
	refused(t, there.Command("import", disks[0], disks[1], disks[2]), 1, "E_VOLUME_EXISTS")

	// Here it goes on where there it ended: the journal there is the newer one.
	d = here.Serve("v")
	require.Contains(t, here.Must("export", "ls", "v"), "y")
	require.Zero(t, d.Stop())
}

func TestImportRefuses(t *testing.T) {
	env := harness.New(t)
	disks := volume(t, env, 2)
	require.NoError(t, os.Rename(env.State, env.State+".old"))
	refused(t, env.Command("import", "/nowhere"), 1, "E_DEVICE_NOT_FOUND")
	refused(t, env.Command("import", t.TempDir()), 1, "E_DEVICE_KIND")
	foreign := harness.Sparse(t, 32<<20)
	refused(t, env.Command("import", foreign), 1, "E_DEVICE_LABEL")
	harness.Tool(t, "mkfs.ext4", "-q", foreign)
	r := env.Command("import", foreign)
	refused(t, r, 1, "E_DEVICE_LABEL")
	require.Contains(t, r.Stderr, "ext4")
	clone := disks[0] + ".clone"
	harness.Tool(t, "cp", "--sparse=always", disks[0], clone)
	refused(t, env.Command("import", disks[0], clone, disks[1]), 2, "E_DEVICE_TWICE")
	refused(t, env.Command("import", disks[0], disks[0]), 2, "E_DEVICE_TWICE")
	refused(t, env.Command("import", disks[0]), 1, "E_DEVICE_MISSING")
	other := harness.Sparse(t, 64<<20)
	env.Must("create", "w", other)
	refused(t, env.Command("import", disks[0], disks[1], other), 1, "E_DEVICE_MEMBER")
	refused(t, env.Command("import", disks[0], disks[1], "--name", "w"), 1, "E_VOLUME_EXISTS")
	refused(t, env.Command("import", disks[0], disks[1], "--name", "../w"), 2, "E_NAME")
	entries, err := os.ReadDir(env.State)
	require.NoError(t, err)
	require.Len(t, entries, 1, "a refused import leaves nothing behind")
	env.Must("import", disks[0], disks[1], disks[2])
	r = env.Command("salvage", foreign)
	require.Equal(t, 1, r.Code)
	require.Contains(t, r.Stdout, "no copy of the journal")
	require.Contains(t, r.Stderr, "code: E_JOURNAL")
	require.Contains(t, env.Must("salvage", disks[0]), "a whole copy")
	require.Contains(t, env.Must("inspect", disks[0]), "copy of the journal: commit")
}

// served apart, the volume's two halves are not put together again.
func TestServedApart(t *testing.T) {
	here, there := harness.New(t), harness.New(t)
	disks := volume(t, here, 2)
	away := disks[0] + ".away"
	require.NoError(t, os.Rename(disks[0], away))
	for _, side := range []*harness.Env{here, there} {
		if side == there {
			for _, d := range disks[1:] {
				require.NoError(t, os.Rename(d, d+".away"))
			}
			require.NoError(t, os.Rename(away, disks[0]))
			there.Must("import", disks[0], "--degraded")
		}
		d := side.Serve("v")
		side.Must("export", "create", "v/other", "1MiB")
		require.Zero(t, d.Stop())
	}
	for _, d := range disks[1:] {
		require.NoError(t, os.Rename(d+".away", d))
	}
	_, err := here.TryServe("v")
	require.ErrorContains(t, err, "E_JOURNAL_FORKED")
	require.ErrorContains(t, err, "try: ")
}

// The journal's directory is deleted, or its file system fails, under a daemon that serves: it
// acknowledges nothing that it cannot keep, and the next start brings everything back.
func TestJournalDeletedWhileServing(t *testing.T) {
	env := harness.New(t)
	volume(t, env, 2)
	env.Must("export", "create", "v/x", "32MiB")
	d := env.Serve("v")
	s := newStamper("x", 32<<20, 3)
	done := make(chan struct{})
	go func() { // ends with the first error
		defer close(done)
		s.run(d.NBD)
	}()
	for range 10 {
		env.Must("status", "v")
	}
	require.NoError(t, os.RemoveAll(filepath.Join(env.State, "v", "journal")))
	<-done
	require.Contains(t, env.Must("status", "v"), "JOURNAL_FAILED")
	d.Kill()
	d = env.Serve("v")
	require.NoError(t, s.check(d.NBD))
	require.Contains(t, env.Must("status", "v"), "made anew from the copy on device d")
	require.Zero(t, d.Stop())
}

// A table of the store rots under a daemon that serves: the next scrub finds it, the daemon ends
// instead of serving from it, and the next start has everything.
func TestScrubFindsDamagedJournal(t *testing.T) {
	harness.Need(t, "nbdcopy")
	env := harness.New(t)
	volume(t, env, 2)
	env.Must("export", "create", "v/needleneedle", "1MiB")
	d := env.Serve("v")
	data := random(t, 8<<20, 9)
	harness.Tool(t, "nbdcopy", "--flush", data, d.URI("e"))
	env.Must("scrub", "start", "v")
	await(t, "a scrub of a sound volume", func() bool { return strings.Contains(env.Must("job", "ls", "v"), "done") })
	require.Zero(t, d.Stop())
	d = env.Serve("v")
	tables, err := filepath.Glob(filepath.Join(env.State, "v", "journal", "badger", "*.sst"))
	require.NoError(t, err)
	spoilt := 0
	for _, table := range tables {
		b, err := os.ReadFile(table)
		require.NoError(t, err)
		if at := bytes.Index(b, []byte("needleneedle")); at >= 0 {
			f, err := os.OpenFile(table, os.O_WRONLY, 0)
			require.NoError(t, err)
			_, err = f.WriteAt([]byte("N"), int64(at))
			require.NoError(t, err)
			require.NoError(t, f.Close())
			spoilt++
		}
	}
	require.Positive(t, spoilt)
	env.Command("scrub", "start", "v")
	require.NotZero(t, d.Wait())
	require.Contains(t, d.Log(), "the journal's store is damaged")
	d = env.Serve("v")
	require.Contains(t, env.Must("status", "v"), "made anew from the copy on device d")
	require.Contains(t, env.Must("export", "ls", "v"), "needleneedle")
	out := filepath.Join(t.TempDir(), "out")
	harness.Tool(t, "nbdcopy", d.URI("e"), out)
	requireSame(t, data, out)
	require.Zero(t, d.Stop())
}

func TestJournalCommands(t *testing.T) {
	env := harness.New(t)
	disks := volume(t, env, 2)
	backup := filepath.Join(t.TempDir(), "backup")
	d := env.Serve("v")
	for _, c := range [][]string{{"verify", "v"}, {"backup", "v", backup}, {"rebuild", "v"}} {
		refused(t, env.Command(append([]string{"journal"}, c...)...), 11, "E_BUSY")
	}
	require.Zero(t, d.Stop())
	require.Contains(t, env.Must("journal", "verify", "v"), "SOUND")
	env.Must("journal", "backup", "v", backup)
	refused(t, env.Command("journal", "backup", "v", backup), 1, "E_DEVICE_FILE")

	// Everything is lost but the backup.
	dir := filepath.Join(env.State, "v", "journal")
	require.NoError(t, os.RemoveAll(dir))
	for _, disk := range disks {
		eraseCopy(t, disk)
	}
	r := env.Command("journal", "verify", "v")
	require.Equal(t, 3, r.Code)
	require.Contains(t, r.Stdout, "DAMAGED")
	refused(t, env.Command("journal", "rebuild", "v"), 1, "E_JOURNAL")
	require.Contains(t, env.Must("journal", "rebuild", "v", "--from", backup), "made anew from "+backup)
	require.Contains(t, env.Must("journal", "verify", "v"), "SOUND")
	d = env.Serve("v")
	env.Must("export", "create", "v/z", "1MiB")
	require.Zero(t, d.Stop())
	// The backup is older than the disks now.
	refused(t, env.Command("journal", "rebuild", "v", "--from", backup), 1, "E_JOURNAL")
	require.True(t, strings.Contains(env.Must("check", "v"), "SOUND"))

	// check says so if it had to take a copy, and the copy is damaged elsewhere.
	require.NoError(t, os.RemoveAll(dir))
	r = env.Command("check", "v")
	require.Equal(t, 3, r.Code)
	require.Contains(t, r.Stdout, "its copy on device d")
}

// eraseCopy makes the journal area of a disk empty.
func eraseCopy(t *testing.T, disk string) {
	t.Helper()
	l, err := volumes.PeekLabel(disk)
	require.NoError(t, err)
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	require.NoError(t, err)
	_, err = f.WriteAt(make([]byte, l.JournalSize), l.JournalOff)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

// Devices join and leave, and after each change, with or without a clean end, the volume is taken in from
// the disks that are its devices then: whatever is listed on them, and with one of them lost.
func TestImportAfterDevicesCameAndWent(t *testing.T) {
	env := harness.New(t)
	disks := volume(t, env, 2)
	d := env.Serve("v")
	data := random(t, 16<<20, 9)
	harness.Tool(t, "nbdcopy", "--flush", data, d.URI("e"))
	again := func(clean bool, at []string, missing int) {
		t.Helper()
		if clean {
			require.Zero(t, d.Stop())
		} else {
			d.Kill()
		}
		require.NoError(t, os.RemoveAll(env.State))
		var i imported
		decode(t, env.Must(append([]string{"import", "--json"}, at...)...), &i)
		require.Len(t, i.Devices, len(at))
		require.Len(t, i.Missing, missing)
		d = env.Serve("v")
		out := filepath.Join(t.TempDir(), "out")
		harness.Tool(t, "nbdcopy", d.URI("e"), out)
		requireSame(t, data, out)
	}
	for _, clean := range []bool{false, true} {
		added := filepath.Join(t.TempDir(), "added")
		env.Must("device", "add", "v", added+":400MiB")
		again(clean, append(disks, added), 0)
		id := env.Must("device", "ls", "v", "--json")
		require.Contains(t, id, added)
		env.Must("device", "drain", "v", added)
		require.Eventually(t, func() bool { return strings.Contains(env.Must("device", "ls", "v"), "drained") }, harness.Patience, 50*time.Millisecond)
		old := added + ".old" // as it was before it left
		harness.Tool(t, "cp", "--sparse=always", added, old)
		env.Must("device", "remove", "v", added)
		again(clean, disks, 0)
		require.Zero(t, d.Stop())
		require.NoError(t, os.Rename(env.State, env.State+".old"))
		refused(t, env.Command(append([]string{"import", old}, disks...)...), 1, "E_DEVICE_STALE")
		require.NoError(t, os.Rename(env.State+".old", env.State))
		d = env.Serve("v")
	}
	lost := disks[1]
	require.NoError(t, os.Remove(lost))
	again(false, []string{disks[0], disks[2]}, 1)
	env.Must("device", "replace", "v", "d2", lost+":400MiB")
	require.Eventually(t, func() bool { return strings.Contains(env.Must("status", "v"), "ballast device remove v d2") }, harness.Patience, 50*time.Millisecond)
	env.Must("device", "remove", "v", "d2")
	again(false, []string{disks[0], disks[2], lost}, 0)
	require.NoError(t, os.Remove(disks[2])) // of three devices that there are now
	again(false, []string{disks[0], lost}, 1)
	require.Zero(t, d.Stop())
}

// A disk without a copy of the journal cannot be taken in alone: what it lacks is the others.
func TestImportOfADiskWithoutAJournal(t *testing.T) {
	env := harness.New(t)
	disks := volume(t, env, 1)
	added := filepath.Join(t.TempDir(), "added")
	d := env.Serve("v")
	env.Must("device", "add", "v", added+":100MiB")
	require.Zero(t, d.Stop())
	require.NoError(t, os.RemoveAll(env.State))
	tried := 0
	for _, disk := range append(disks, added) {
		if env.Command("salvage", disk).Code == 0 {
			continue
		}
		tried++
		r := env.Command("import", disk)
		refused(t, r, 1, "E_DEVICE_MISSING")
		require.Contains(t, r.Stderr, "--degraded")
		refused(t, env.Command("import", "--degraded", disk), 1, "E_JOURNAL")
	}
	require.Equal(t, 1, tried, "three of four disks have a copy of the journal")
}
