package volumes

import (
	"bytes"
	"crypto/sha256"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"ballast/cmd/control"
	"ballast/devices"
	"ballast/journal"
	"ballast/striping"

	"github.com/stretchr/testify/require"
)

// place is a directory with files to make volumes of.
type place struct {
	t    *testing.T
	dir  string
	dirs Dirs
}

func newPlace(t *testing.T) *place {
	dir := t.TempDir()
	return &place{t, dir, Dirs{State: filepath.Join(dir, "state"), Run: filepath.Join(dir, "run")}}
}

func (p *place) path(name string) string { return filepath.Join(p.dir, name) }

func (p *place) file(name string, size int64) string {
	p.t.Helper()
	f, err := os.Create(p.path(name))
	require.NoError(p.t, err)
	require.NoError(p.t, f.Truncate(size))
	require.NoError(p.t, f.Close())
	return p.path(name)
}

func (p *place) options(name string, devs ...string) CreateOptions {
	return CreateOptions{Dirs: p.dirs, Name: name, Devices: devs, Copies: 1, Chunk: 1 << 20}
}

func (p *place) create(o CreateOptions) (*Config, error) { return Create(p.t.Context(), o) }

// sums is what all files below the directory hold, to see that nothing was touched.
func (p *place) sums() map[string][32]byte {
	p.t.Helper()
	found := map[string][32]byte{}
	require.NoError(p.t, filepath.WalkDir(p.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		found[path] = [32]byte{}
		if d.Type().IsRegular() {
			data, err := os.ReadFile(path)
			found[path] = sha256.Sum256(data)
			return err
		}
		return nil
	}))
	return found
}

func codes(err error) []string {
	var all []string
	for _, r := range control.AsRefusals(err) {
		all = append(all, r.Code)
	}
	return all
}

const mib = 1 << 20

func TestCreateMakesAVolume(t *testing.T) {
	p := newPlace(t)
	there := p.file("there", 10*mib)
	c, err := p.create(p.options("vault", there, p.path("made:1.img")+":12MiB"))
	require.NoError(t, err)
	require.Equal(t, []string{there, p.path("made:1.img")}, []string{c.Devices[0].Path, c.Devices[1].Path})
	again, err := ReadConfig(p.dirs, "vault")
	require.NoError(t, err)
	require.Equal(t, c, again)
	opened, err := OpenDevices(c, nil)
	require.NoError(t, err)
	defer CloseDevices(opened)
	var anchors []journal.State
	for i, o := range opened {
		require.Equal(t, devices.ID(i+1), o.Label.ID)
		require.Len(t, o.Label.Members, 2)
		anchors = append(anchors, journal.State{Seq: journal.Seq(o.Label.Anchor.Seq), Count: o.Label.Anchor.Count, Digest: o.Label.Anchor.Digest})
	}
	j, err := journal.Open(p.dirs.Journal("vault"), journal.Options{UUID: c.UUID, Anchors: anchors})
	require.NoError(t, err)
	require.Equal(t, uint64(3), j.State().Count)
	require.NoError(t, j.Close())
	for _, path := range []string{p.dirs.State, p.dirs.Volume("vault")} {
		st, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o700), st.Mode().Perm(), path)
	}
	entries, err := os.ReadDir(p.dirs.State)
	require.NoError(t, err)
	require.Len(t, entries, 1)
}

// grouped makes options for a volume of the files a, b and c, which the domains name.
func grouped(copies int, domains ...string) func(p *place) CreateOptions {
	return func(p *place) CreateOptions {
		o := p.options("v", p.file("a", 9*mib), p.file("b", 9*mib), p.path("c")+":9MiB")
		o.Copies = copies
		for _, d := range domains {
			name, list, ok := strings.Cut(d, "=")
			devs := strings.Split(list, ",")
			for i := range devs {
				if devs[i] != "" {
					devs[i] = p.path(devs[i])
				}
			}
			if ok {
				name += "="
			}
			o.Domains = append(o.Domains, name+strings.Join(devs, ","))
		}
		return o
	}
}

func TestCreateGroupsDevices(t *testing.T) {
	p := newPlace(t)
	link := p.path("link")
	require.NoError(t, os.Symlink(p.dir, link))
	o := p.options("v", p.file("a", 9*mib), p.file("b,c", 9*mib), p.path("d")+":9MiB", p.file("e", 9*mib))
	o.Copies = 3
	// By path, by another way to it, by a name with a comma, and as it was typed with its size.
	o.Domains = []string{"left=" + p.path("a"), "left=" + filepath.Join(link, "b,c"), "right=" + p.path("d") + ":9MiB"}
	c, err := p.create(o)
	require.NoError(t, err)
	j, err := journal.Open(p.dirs.Journal("v"), journal.Options{UUID: c.UUID})
	require.NoError(t, err)
	defer j.Close()
	_, records, err := striping.LoadConfig(j)
	require.NoError(t, err)
	for i, want := range []string{"left", "left", "right", ""} {
		require.Equal(t, want, records[i].Domain)
		require.Equal(t, want, c.Devices[i].Domain)
	}
}

func TestCreateRefusesAndTouchesNothing(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(p *place) CreateOptions
		codes   []string
	}{
		"nothing there":         {func(p *place) CreateOptions { return p.options("v", p.path("none")) }, []string{"E_DEVICE_NOT_FOUND"}},
		"empty path":            {func(p *place) CreateOptions { return p.options("v", "") }, []string{"E_DEVICE_NOT_FOUND"}},
		"nul in the path":       {func(p *place) CreateOptions { return p.options("v", "a\x00b") }, []string{"E_DEVICE_NOT_FOUND"}},
		"a directory":           {func(p *place) CreateOptions { return p.options("v", p.dir) }, []string{"E_DEVICE_KIND"}},
		"/dev/null":             {func(p *place) CreateOptions { return p.options("v", "/dev/null") }, []string{"E_DEVICE_KIND"}},
		"a pipe":                {fifo, []string{"E_DEVICE_KIND"}},
		"too small":             {func(p *place) CreateOptions { return p.options("v", p.file("a", mib)) }, []string{"E_DEVICE_SMALL"}},
		"made too small":        {func(p *place) CreateOptions { return p.options("v", p.path("a")+":100K") }, []string{"E_DEVICE_SMALL"}},
		"size 1e30":             {func(p *place) CreateOptions { return p.options("v", p.path("a")+":1e30") }, []string{"E_SIZE"}},
		"size NaN":              {func(p *place) CreateOptions { return p.options("v", p.path("a")+":NaN") }, []string{"E_SIZE"}},
		"negative size":         {func(p *place) CreateOptions { return p.options("v", p.path("a")+":-1GiB") }, []string{"E_SIZE"}},
		"blank after size":      {func(p *place) CreateOptions { return p.options("v", p.path("a")+":10GiB ") }, []string{"E_SIZE"}},
		"arabic digits":         {func(p *place) CreateOptions { return p.options("v", p.path("a")+":١٠GiB") }, []string{"E_SIZE"}},
		"size without path":     {func(p *place) CreateOptions { return p.options("v", ":10GiB") }, []string{"E_DEVICE_NOT_FOUND"}},
		"file to make exists":   {func(p *place) CreateOptions { p.file("a", 0); return p.options("v", p.path("a")+":10MiB") }, []string{"E_DEVICE_FILE"}},
		"no such directory":     {func(p *place) CreateOptions { return p.options("v", p.path("no/a")+":10MiB") }, []string{"E_DEVICE_FILE"}},
		"same path twice":       {func(p *place) CreateOptions { a := p.file("a", 9*mib); return p.options("v", a, a) }, []string{"E_DEVICE_TWICE"}},
		"symbolic link":         {symlinked, []string{"E_DEVICE_TWICE"}},
		"hard link":             {hardlinked, []string{"E_DEVICE_TWICE"}},
		"dots in the path":      {func(p *place) CreateOptions { return p.options("v", p.file("a", 9*mib), p.dir+"/./x/../a") }, []string{"E_DEVICE_TWICE"}},
		"one file made twice":   {func(p *place) CreateOptions { return p.options("v", p.path("a")+":9MiB", p.dir+"/./a:10MiB") }, []string{"E_DEVICE_TWICE"}},
		"locked by another":     {locked, []string{"E_DEVICE_BUSY"}},
		"partition table":       {func(p *place) CreateOptions { return p.options("v", p.marked("a", 512, "EFI PART")) }, []string{"E_DEVICE_SIGNATURE"}},
		"file system":           {func(p *place) CreateOptions { return p.options("v", p.marked("a", 0x10040, "_BHRfS_M")) }, []string{"E_DEVICE_SIGNATURE"}},
		"unknown content":       {func(p *place) CreateOptions { return p.options("v", p.marked("a", 5000, "my thesis")) }, []string{"E_DEVICE_SIGNATURE"}},
		"of another volume":     {member, []string{"E_DEVICE_MEMBER"}},
		"name taken":            {taken, []string{"E_VOLUME_EXISTS"}},
		"name ..":               {func(p *place) CreateOptions { return p.options("..", p.file("a", 9*mib)) }, []string{"E_NAME"}},
		"name with slash":       {func(p *place) CreateOptions { return p.options("a/b", p.file("a", 9*mib)) }, []string{"E_NAME"}},
		"name like an option":   {func(p *place) CreateOptions { return p.options("-v", p.file("a", 9*mib)) }, []string{"E_NAME"}},
		"name too long":         {func(p *place) CreateOptions { return p.options(strings.Repeat("v", 65), p.file("a", 9*mib)) }, []string{"E_NAME"}},
		"name with newline":     {func(p *place) CreateOptions { return p.options("v\n", p.file("a", 9*mib)) }, []string{"E_NAME"}},
		"2 copies, 1 device":    {func(p *place) CreateOptions { o := p.options("v", p.file("a", 9*mib)); o.Copies = 2; return o }, []string{"E_COPIES"}},
		"0 copies":              {func(p *place) CreateOptions { o := p.options("v", p.file("a", 9*mib)); o.Copies = 0; return o }, []string{"E_COPIES"}},
		"4 copies":              {func(p *place) CreateOptions { o := p.options("v", p.file("a", 9*mib)); o.Copies = 4; return o }, []string{"E_COPIES"}},
		"chunk 0":               {func(p *place) CreateOptions { return p.chunk(0) }, []string{"E_CHUNK"}},
		"chunk 1":               {func(p *place) CreateOptions { return p.chunk(1) }, []string{"E_CHUNK"}},
		"chunk 3 MiB":           {func(p *place) CreateOptions { return p.chunk(3 * mib) }, []string{"E_CHUNK"}},
		"chunk 2^62":            {func(p *place) CreateOptions { return p.chunk(1 << 62) }, []string{"E_CHUNK"}},
		"65 devices":            {many, []string{"E_USAGE"}},
		"domain without name":   {grouped(1, "=a"), []string{"E_DOMAIN"}},
		"domain of nothing":     {grouped(1, "x"), []string{"E_DOMAIN"}},
		"domain of nobody":      {grouped(1, "x=a,"), []string{"E_DOMAIN"}},
		"domain of a stranger":  {grouped(1, "x=a,z"), []string{"E_DOMAIN"}},
		"domain like a device":  {grouped(1, "d2=a"), []string{"E_DOMAIN"}},
		"two domains":           {grouped(1, "x=a", "y=b,a"), []string{"E_DOMAIN"}},
		"3 copies, 2 domains":   {grouped(3, "x=a,b"), []string{"E_COPIES"}},
		"2 copies, 1 domain":    {grouped(2, "x=a", "x=b,c"), []string{"E_COPIES"}},
		"domains and no device": {func(p *place) CreateOptions { o := grouped(2, "x=a")(p); o.Devices = o.Devices[:1]; return o }, []string{"E_COPIES"}},
		"all faults at once":    {allFaults, []string{"E_NAME", "E_COPIES", "E_SIZE", "E_DEVICE_NOT_FOUND", "E_DEVICE_KIND", "E_DEVICE_SMALL", "E_DEVICE_TWICE"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			o := c.prepare(p)
			before := p.sums()
			_, err := p.create(o)
			require.Error(t, err)
			got := codes(err)
			for _, want := range c.codes {
				require.Contains(t, got, want)
			}
			require.Subset(t, c.codes, got, "more faults than there are: %v", err)
			require.Equal(t, before, p.sums())
		})
	}
}

func fifo(p *place) CreateOptions {
	require.NoError(p.t, syscall.Mkfifo(p.path("pipe"), 0o600))
	return p.options("v", p.path("pipe"))
}

func symlinked(p *place) CreateOptions {
	a := p.file("a", 9*mib)
	require.NoError(p.t, os.Symlink(a, p.path("by-id")))
	return p.options("v", a, p.path("by-id"))
}

func hardlinked(p *place) CreateOptions {
	a := p.file("a", 9*mib)
	require.NoError(p.t, os.Link(a, p.path("b")))
	return p.options("v", a, p.path("b"))
}

func locked(p *place) CreateOptions {
	a := p.file("a", 9*mib)
	f, err := devices.Open(a, devices.FileOptions{})
	require.NoError(p.t, err)
	p.t.Cleanup(func() { f.Close() })
	return p.options("v", a)
}

// marked is a file with some bytes in it.
func (p *place) marked(name string, off int64, mark string) string {
	a := p.file(name, 9*mib)
	f, err := os.OpenFile(a, os.O_WRONLY, 0)
	require.NoError(p.t, err)
	_, err = f.WriteAt([]byte(mark), off)
	require.NoError(p.t, err)
	require.NoError(p.t, f.Close())
	return a
}

func member(p *place) CreateOptions {
	a := p.file("a", 9*mib)
	_, err := p.create(p.options("other", a))
	require.NoError(p.t, err)
	return p.options("v", a)
}

func taken(p *place) CreateOptions {
	_, err := p.create(p.options("v", p.file("a", 9*mib)))
	require.NoError(p.t, err)
	return p.options("v", p.file("b", 9*mib))
}

func (p *place) chunk(n int64) CreateOptions {
	o := p.options("v", p.file("a", 64*mib))
	o.Chunk = n
	return o
}

func many(p *place) CreateOptions {
	var devs []string
	for i := range 65 {
		devs = append(devs, p.path(string(rune('A'+i)))+":9MiB")
	}
	return p.options("v", devs...)
}

func allFaults(p *place) CreateOptions {
	a := p.file("a", mib)
	o := p.options(".", a, a, p.path("b")+":x", p.path("none"), "/dev/null")
	o.Copies = 9
	return o
}

func TestForceOverwritesWhatWasThere(t *testing.T) {
	p := newPlace(t)
	a := p.marked("a", 512, "EFI PART")
	o := p.options("v", a)
	o.Force = true
	_, err := p.create(o)
	require.NoError(t, err)
	in, err := devices.Inspect(a)
	require.NoError(t, err)
	require.Empty(t, in.Signatures)
	// A member of another volume, too.
	o = p.options("w", a)
	o.Force = true
	_, err = p.create(o)
	require.NoError(t, err)
	l, err := PeekLabel(a)
	require.NoError(t, err)
	require.Equal(t, "w", l.Name)
}

func TestCreateThatFailsHalfWayTakesBackWhatItDid(t *testing.T) {
	p := newPlace(t)
	a := p.file("a", 9*mib)
	// The state directory is a file, which shows only once the journal is to be made.
	require.NoError(t, os.WriteFile(p.dirs.State, nil, 0o600))
	before := p.sums()
	_, err := p.create(p.options("v", a, p.path("b")+":9MiB"))
	require.Error(t, err)
	require.Equal(t, before, p.sums())
}

func TestDevicesAreKnownByLabelNotByPath(t *testing.T) {
	p := newPlace(t)
	a, b := p.file("a", 9*mib), p.file("b", 10*mib)
	c, err := p.create(p.options("v", a, b))
	require.NoError(t, err)
	// The disks change places.
	require.NoError(t, os.Rename(a, p.path("x")))
	require.NoError(t, os.Rename(b, a))
	require.NoError(t, os.Rename(p.path("x"), b))
	opened, err := OpenDevices(c, []string{a, b})
	require.NoError(t, err)
	require.Equal(t, []string{b, a}, []string{opened[0].Config.Path, opened[1].Config.Path})
	require.NotNil(t, opened[0].File)
	require.NotNil(t, opened[1].File)
	CloseDevices(opened)
	// One has gone.
	require.NoError(t, os.Remove(a))
	opened, err = OpenDevices(c, []string{a, b})
	require.NoError(t, err)
	require.NotNil(t, opened[0].File)
	require.Nil(t, opened[1].File)
	require.Error(t, opened[1].Fault)
	CloseDevices(opened)
}

func TestACopyOfADeviceIsRefused(t *testing.T) {
	p := newPlace(t)
	c, err := p.create(p.options("v", p.file("a", 9*mib)))
	require.NoError(t, err)
	data, err := os.ReadFile(p.path("a"))
	require.NoError(t, err)
	require.NoError(t, os.Rename(p.path("a"), p.path("moved")))
	require.NoError(t, os.WriteFile(p.path("copy"), data, 0o600))
	_, err = OpenDevices(c, []string{p.path("moved"), p.path("copy")})
	require.Equal(t, []string{"E_DEVICE_TWICE"}, codes(err))
	opened, err := OpenDevices(c, []string{p.path("moved"), p.path("moved")})
	require.NoError(t, err)
	CloseDevices(opened)
}

func TestAShrunkDeviceIsRefused(t *testing.T) {
	p := newPlace(t)
	c, err := p.create(p.options("v", p.file("a", 9*mib)))
	require.NoError(t, err)
	require.NoError(t, os.Truncate(p.path("a"), 8*mib))
	_, err = OpenDevices(c, nil)
	require.Equal(t, []string{"E_DEVICE_SMALL"}, codes(err))
}

func TestConfigRefusesWhatItDoesNotKnow(t *testing.T) {
	p := newPlace(t)
	c, err := p.create(p.options("v", p.file("a", 9*mib)))
	require.NoError(t, err)
	path := filepath.Join(p.dirs.Volume("v"), "volume.json")
	good, err := os.ReadFile(path)
	require.NoError(t, err)
	for name, change := range map[string]func([]byte) []byte{
		"unknown key": func(b []byte) []byte {
			return bytes.Replace(b, []byte(`"copies"`), []byte(`"encrypted": true, "copies"`), 1)
		},
		"another schema": func(b []byte) []byte { return bytes.Replace(b, []byte("volume/1"), []byte("volume/2"), 1) },
		"empty":          func([]byte) []byte { return nil },
		"cut":            func(b []byte) []byte { return b[:len(b)/2] },
		"more after it":  func(b []byte) []byte { return append(slices.Clone(b), b...) },
		"another name":   func(b []byte) []byte { return bytes.Replace(b, []byte(`"name": "v"`), []byte(`"name": "w"`), 1) },
		"copies 0":       func(b []byte) []byte { return bytes.Replace(b, []byte(`"copies": 1`), []byte(`"copies": 0`), 1) },
		"copies 1e99":    func(b []byte) []byte { return bytes.Replace(b, []byte(`"copies": 1`), []byte(`"copies": 1e99`), 1) },
		"chunk odd":      func(b []byte) []byte { return bytes.Replace(b, []byte("1048576"), []byte("1048577"), 1) },
		"device ID 0":    func(b []byte) []byte { return bytes.Replace(b, []byte(`"id": 1`), []byte(`"id": 0`), 1) },
		"bad UUID":       func(b []byte) []byte { return bytes.Replace(b, []byte(c.UUID.String()), []byte("xyz"), 1) },
		"deep":           func([]byte) []byte { return bytes.Repeat([]byte(`{"a":`), 100000) },
		"too long":       func([]byte) []byte { return bytes.Repeat([]byte(" "), 2<<20) },
		"not an object":  func([]byte) []byte { return []byte(`[1,2]`) },
		"device twice":   func(b []byte) []byte { return duplicateDevice(b) },
		"size negative": func(b []byte) []byte {
			return bytes.Replace(b, []byte(`"size_bytes": 9437184`), []byte(`"size_bytes": -1`), 1)
		},
		"no devices": func(b []byte) []byte {
			i := bytes.Index(b, []byte(`"devices"`))
			return append(slices.Clone(b[:i]), []byte(`"devices": []}`)...)
		},
	} {
		bad := change(good)
		require.NotEqual(t, good, bad, name)
		require.NoError(t, os.WriteFile(path, bad, 0o600))
		_, err := ReadConfig(p.dirs, "v")
		require.Equal(t, []string{"E_STATE"}, codes(err), name)
	}
	require.NoError(t, os.WriteFile(path, good, 0o600))
	_, err = ReadConfig(p.dirs, "v")
	require.NoError(t, err)
	_, err = ReadConfig(p.dirs, "w")
	require.Equal(t, []string{"E_NO_VOLUME"}, codes(err))
	_, err = ReadConfig(p.dirs, "../v")
	require.Equal(t, []string{"E_NAME"}, codes(err))
}

func duplicateDevice(b []byte) []byte {
	i, j := bytes.Index(b, []byte("    {")), bytes.Index(b, []byte("    }"))
	return slices.Concat(b[:j+5], []byte(",\n"), b[i:])
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"schema":"ballast.volume/1","name":"v","uuid":"bd269b5f-33af-442d-8078-fd7e98268503","chunk_size_bytes":1048576,"copies":1,"created":"2026-11-22T07:02:11Z","devices":[{"id":1,"uuid":"ad269b5f-33af-442d-8078-fd7e98268503","path":"/a","size_bytes":9437184}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := parseConfig(text)
		if err == nil && (c.Copies < 1 || len(c.Devices) < c.Copies || c.Name == "") {
			t.Errorf("took %s", text)
		}
	})
}

func TestParseDevice(t *testing.T) {
	none := func(string) bool { return false }
	s, err := ParseDevice("/dev/disk/by-path/pci-0000:00:1f.2-ata-1", func(string) bool { return true })
	require.NoError(t, err)
	require.Equal(t, "/dev/disk/by-path/pci-0000:00:1f.2-ata-1", s.Path)
	require.Zero(t, s.Size)
	s, err = ParseDevice("/a:b/c", none) // a colon in a directory
	require.NoError(t, err)
	require.Equal(t, "/a:b/c", s.Path)
	s, err = ParseDevice("/a\n$(x)'\":10M", none)
	require.NoError(t, err)
	require.Equal(t, Spec{Given: "/a\n$(x)'\":10M", Path: "/a\n$(x)'\"", Size: 10 * mib}, s)
	s, err = ParseDevice("rel:10M", none)
	require.NoError(t, err)
	require.True(t, filepath.IsAbs(s.Path))
}

func TestFindDirs(t *testing.T) {
	t.Setenv("BALLAST_STATE_DIR", "/e/state")
	t.Setenv("BALLAST_RUN_DIR", "")
	t.Setenv("XDG_RUNTIME_DIR", "/x/run")
	d, err := FindDirs("", "/f/run")
	require.NoError(t, err)
	require.Equal(t, Dirs{"/e/state", "/f/run"}, d)
	d, err = FindDirs("/f/state", "")
	require.NoError(t, err)
	require.Equal(t, "/f/state", d.State)
	want := "/run/ballast"
	if os.Geteuid() != 0 {
		want = "/x/run/ballast"
	}
	require.Equal(t, want, d.Run)
}

func TestExportNames(t *testing.T) {
	volume, export, err := SplitExport("v/gold image ü")
	require.NoError(t, err)
	require.Equal(t, []string{"v", "gold image ü"}, []string{volume, export})
	for _, arg := range []string{"v", "v/", "/x", "v/a/b", "v/a\nb", "v/a\x00", "v/ a", "../x", "v/\xff", "v/" + strings.Repeat("x", 256)} {
		_, _, err := SplitExport(arg)
		require.Error(t, err, "%q", arg)
	}
}

func TestUUID(t *testing.T) {
	u := UUID(devices.NewUUID())
	text, err := u.MarshalText()
	require.NoError(t, err)
	var back UUID
	require.NoError(t, back.UnmarshalText(text))
	require.Equal(t, u, back)
	for _, bad := range []string{"", "x", u.String() + "0", strings.ToUpper("ab269b5f-33af-442d-8078-fd7e98268503"), strings.ReplaceAll(u.String(), "-", "")} {
		require.Error(t, back.UnmarshalText([]byte(bad)), bad)
	}
}
