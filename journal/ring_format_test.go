package journal

import (
	"encoding/hex"
	"flag"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var updateRing = flag.Bool("update-ring", false, "write the samples of the ring's format")

func sampleRing() (*ring, State) {
	r := &ring{id: ringID{[16]byte{1, 2, 3}, [16]byte{4, 5, 6}, 0x0102030405060708}, size: 64 << 10, life: Life{3, 0x1122334455667788}, head: 8192, tail: 4096, prev: 0xdeadbeef}
	return r, State{Seq: 81, Count: 2, Digest: Digest{0xaa, 0xbb}}
}

func sampleOps() []Op {
	return []Op{{MakeKey(SpaceChunk, 6, 81), []byte("value")}, {MakeKey(SpaceJob, 0, 1), nil}, {MakeKey(SpaceJob, 0, 2), []byte{}}}
}

// The samples of version 2 are read by every later version. Those of version 1, which had another digest and
// were in no release, are refused.
func TestRingSamples(t *testing.T) {
	r, state := sampleRing()
	w := r.add(unitGroup, state, 8192, 4096, appendOps(nil, sampleOps()))
	h := ringHeader{ringID: r.id, size: r.size, writes: 7, at: 8192, lives: lives{{Life: Life{2, 1}}, {Life: Life{3, 0x1122334455667788}}}}
	later := h // as written since headers say where lives began
	later.lives = lives{{Life{2, 1}, 70}, {Life{3, 0x1122334455667788}, 80}}
	for name, b := range map[string][]byte{"frame": w.buf, "ring": h.pack(), "ring-began": later.pack()} {
		path := "testdata/v2/" + name + ".hex"
		text := hex.Dump(b)
		if *updateRing {
			require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
		}
		want, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, string(want), text, strings.ToUpper(name))
	}
	f, id, err := parseFrame(w.buf)
	require.NoError(t, err)
	require.Equal(t, r.id, id)
	require.Equal(t, state, f.State)
	require.Equal(t, r.life, f.life)
	require.NoError(t, checkPayload(w.buf, &f))
	ops, err := parseOps(w.buf[frameHeader : frameHeader+f.length])
	require.NoError(t, err)
	require.Equal(t, sampleOps(), ops)
	for _, h := range []ringHeader{h, later} {
		back, err := parseRingHeader(h.pack())
		require.NoError(t, err)
		require.Equal(t, h, back)
	}
	_, _, err = parseFrame(unhex(t, "testdata/v1/frame.hex"))
	require.ErrorIs(t, err, ErrVersion)
	_, err = parseRingHeader(unhex(t, "testdata/v1/ring.hex"))
	require.ErrorIs(t, err, ErrVersion)
}

// unhex is the reverse of hex.Dump.
func unhex(t *testing.T, path string) (b []byte) {
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "|")
		if fields := strings.Fields(line); len(fields) > 1 {
			row, err := hex.DecodeString(strings.Join(fields[1:], ""))
			require.NoError(t, err)
			b = append(b, row...)
		}
	}
	return b
}

// The store's record of lives is read as it was before it said where they began.
func TestLivesRecord(t *testing.T) {
	ls := lives{{Life{2, 1}, 70}, {Life{3, 0x1122334455667788}, 80}}
	b := ls.pack()
	back, err := parseLives(b)
	require.NoError(t, err)
	require.Equal(t, ls, back)
	old, err := parseLives(appendCRC(slices.Clone(b[:1+2*16]), 0, &livesKey))
	require.NoError(t, err)
	require.Equal(t, lives{{Life: ls[0].Life}, {Life: ls[1].Life}}, old)
	for n := range len(b) - crcSize - 1 {
		if n == 16 || n == 2*16 {
			continue // what may have been written before
		}
		_, err := parseLives(appendCRC(slices.Clone(b[:1+n]), 0, &livesKey))
		require.Equal(t, n != 0, err != nil, "%d bytes", n)
	}
	require.Equal(t, Seq(70), ls.left(Life{1, 9}), "what is older than all of them")
	require.Equal(t, Seq(80), ls.left(Life{2, 1}))
	require.Zero(t, ls.left(Life{3, 0x1122334455667788}))
}

// Every bit of a frame and of a header is covered by a checksum.
func TestRingBits(t *testing.T) {
	r, state := sampleRing()
	payload := appendOps(nil, sampleOps())
	frame := r.add(unitGroup, state, 8192, 4096, payload).buf
	for i := range (frameHeader + len(payload)) * 8 {
		frame[i/8] ^= 1 << (i % 8)
		f, _, err := parseFrame(frame)
		if err == nil {
			err = checkPayload(frame, &f)
		}
		require.ErrorIs(t, err, ErrCorrupt, i)
		frame[i/8] ^= 1 << (i % 8)
	}
	header := (&ringHeader{ringID: r.id, size: r.size, writes: 7, at: 8192, lives: lives{{Life{2, 1}, 70}}}).pack()
	for i := range len(header) * 8 {
		header[i/8] ^= 1 << (i % 8)
		_, err := parseRingHeader(header)
		require.ErrorIs(t, err, ErrCorrupt, i)
		header[i/8] ^= 1 << (i % 8)
	}
}

// Units of every length at every place of a ring take what unitSize says, and are read back.
func TestUnitPlaces(t *testing.T) {
	for pos := uint64(0); pos < 48<<10; pos += ringBlock {
		for _, n := range []int{0, 1, 3935, 3936, 3937, 8031, 8032, 8033, 20000} {
			r := &ring{size: 40 << 10, head: pos, tail: pos}
			want := unitSize(pos, r.size, n)
			payload := make([]byte, n)
			for i := range payload {
				payload[i] = byte(i*7 + n)
			}
			w := r.add(unitGroup, State{}, pos, pos, payload)
			require.Equal(t, pos+want, r.head)
			require.Len(t, w.buf, int(want))
			a := &flatArea{make([]byte, ringStart+r.size)}
			require.NoError(t, writeRing(a, r.size, w.pos, w.buf))
			u, err := newRingReader(a, r.id, r.size).unit(pos, nil)
			require.NoError(t, err)
			require.Equal(t, r.head, u.end)
			require.Equal(t, r.prev, u.sum)
			require.Equal(t, string(payload), string(u.payload))
		}
	}
}

type flatArea struct{ b []byte }

func (a *flatArea) ReadAt(p []byte, off int64) (int, error)  { return copy(p, a.b[off:]), nil }
func (a *flatArea) WriteAt(p []byte, off int64) (int, error) { return copy(a.b[off:], p), nil }
func (a *flatArea) Sync() error                              { return nil }
func (a *flatArea) Size() int64                              { return int64(len(a.b)) }

func FuzzRing(f *testing.F) {
	r, state := sampleRing()
	f.Add(r.add(unitGroup, state, 8192, 4096, appendOps(nil, sampleOps())).buf)
	f.Add((&ringHeader{ringID: r.id, size: r.size, at: 8192, lives: lives{{Life{2, 1}, 70}}}).pack())
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := parseRingHeader(b); err == nil {
			back, err := parseRingHeader(h.pack())
			require.NoError(t, err)
			require.Equal(t, h, back)
		}
		if ops, err := parseOps(b); err == nil {
			require.Equal(t, string(b), string(appendOps(nil, ops)))
		}
		if f, _, err := parseFrame(b); err == nil && f.size() <= uint64(len(b)) {
			_ = checkPayload(b, &f)
		}
	})
}
