package journal

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// fuzzRecord feeds any bytes to the parser of one kind, as they are and with the checksum made
// right: it never panics, and what it takes is packed to the very same bytes.
func fuzzRecord(f *testing.F, name string) {
	for _, k := range kinds() {
		if k.name != name {
			continue
		}
		f.Add(k.key[:], k.sample)
		f.Add(k.key[:], k.sample[:len(k.sample)/2])
		f.Fuzz(func(t *testing.T, rawKey, b []byte) {
			key := k.key
			copy(key[2:], rawKey)
			if k.key == metaKey {
				key = metaKey
			}
			for range 2 {
				again, err := k.repack(key, b)
				if err == nil {
					require.Equal(t, b, again)
				}
				if len(b) < 1+crcSize {
					return
				}
				b = sum(key, append([]byte(nil), b...))
			}
		})
	}
}

func FuzzVolume(f *testing.F)  { fuzzRecord(f, "volume") }
func FuzzDevice(f *testing.F)  { fuzzRecord(f, "device") }
func FuzzObject(f *testing.F)  { fuzzRecord(f, "object") }
func FuzzChunk(f *testing.F)   { fuzzRecord(f, "chunk") }
func FuzzIntent(f *testing.F)  { fuzzRecord(f, "intent") }
func FuzzEvent(f *testing.F)   { fuzzRecord(f, "event") }
func FuzzInode(f *testing.F)   { fuzzRecord(f, "inode") }
func FuzzSymlink(f *testing.F) { fuzzRecord(f, "inode-symlink") }
func FuzzEntries(f *testing.F) { fuzzRecord(f, "entries") }
func FuzzXattrs(f *testing.F)  { fuzzRecord(f, "xattrs") }
func FuzzTree(f *testing.F)    { fuzzRecord(f, "tree") }
func FuzzJob(f *testing.F)     { fuzzRecord(f, "job") }
func FuzzMeta(f *testing.F)    { fuzzRecord(f, "meta") }
