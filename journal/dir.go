package journal

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The names in a journal's directory. Part of the format.
const (
	storeName   = "store"        // says whose journal this is
	lockName    = "lock"         // locked while the journal is open
	ballastName = "ballast"      // space to give back on a full file system
	backupName  = "MANIFEST.bak" // second name of Badger's MANIFEST, as of the last open
	badgerName  = "badger"       // Badger's directory
)

// The file `store`, part of the format: magic (8 bytes), version (1), UUID of the volume (16),
// created (12), CRC32C (4).
const (
	storeMagic   = "ballastJ"
	storeVersion = 2 // 1: the digest was another one
	storeSize    = 8 + 1 + 16 + 12 + crcSize
)

func packStoreFile(uuid [16]byte, created time.Time) []byte {
	b := append([]byte(storeMagic), storeVersion)
	b = append(b, uuid[:]...)
	b = appendTime(b, created)
	return le.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// parseStoreFile returns whose journal it is.
func parseStoreFile(b []byte) (uuid [16]byte, err error) {
	switch {
	case len(b) < storeSize || !bytes.HasPrefix(b, []byte(storeMagic)):
		return uuid, fmt.Errorf("%w: %d bytes, not the mark of a journal", ErrCorrupt, len(b))
	case crc32.Checksum(b[:storeSize-crcSize], castagnoli) != le.Uint32(b[storeSize-crcSize:]):
		return uuid, fmt.Errorf("%w: checksum", ErrCorrupt)
	case b[8] != storeVersion:
		return uuid, fmt.Errorf("%w: %d, this program knows %d", ErrVersion, b[8], storeVersion)
	case len(b) != storeSize:
		return uuid, fmt.Errorf("%w: %d bytes, want %d", ErrCorrupt, len(b), storeSize)
	}
	copy(uuid[:], b[9:])
	return uuid, nil
}

// readStoreFile returns the UUID of the volume whose journal is in dir and checks that it is want,
// unless that is zero.
func readStoreFile(dir string, want [16]byte) ([16]byte, error) {
	path := filepath.Join(dir, storeName)
	b, err := os.ReadFile(path)
	if err != nil {
		return want, fmt.Errorf("journal without its mark: %w", err)
	}
	have, err := parseStoreFile(b)
	if err != nil {
		return want, fmt.Errorf("%s: %w", path, err)
	}
	if want != [16]byte{} && have != want {
		return want, fmt.Errorf("%s: %w: %x, want %x", path, ErrForeign, have, want)
	}
	return have, nil
}

// badgerFiles are the names Badger makes; it fails or worse on others that look like its own.
var badgerFiles = regexp.MustCompile(
	`^(MANIFEST|MANIFEST-REWRITE|KEYREGISTRY|REWRITE-KEYREGISTRY|DISCARD|LOCK|[0-9]{5}\.mem|[0-9]{6}\.(sst|vlog))$`)

// checkBadgerDir refuses a Badger directory that Badger would open wrongly: without its MANIFEST
// it takes all tables for garbage and deletes them, and it stumbles over names it did not make.
func checkBadgerDir(dir string) error {
	path := filepath.Join(dir, badgerName)
	if info, err := os.Lstat(path); err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	} else if !info.IsDir() {
		return fmt.Errorf("%w: %s is no directory", ErrCorrupt, path)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	manifest := false
	var foreign []string
	for _, e := range entries {
		manifest = manifest || e.Name() == "MANIFEST" && e.Type().IsRegular()
		if !badgerFiles.MatchString(e.Name()) || !e.Type().IsRegular() {
			foreign = append(foreign, e.Name())
		}
	}
	if len(foreign) > 0 {
		return fmt.Errorf("%w: %s has files that are not the journal's: %q; try: move them away",
			ErrCorrupt, path, foreign)
	}
	if !manifest {
		return fmt.Errorf("%w: %s has no MANIFEST, and opening it would delete its tables (%s in %s is the one of the last start)",
			ErrCorrupt, path, backupName, dir)
	}
	return nil
}

// removeEmptyLogs removes the logs of length zero that a kill can leave behind, and which stop
// Badger from opening (dgraph-io/badger issue 2207). They never held anything acknowledged, or
// else the digest or an anchor tells.
func removeEmptyLogs(dir string) error {
	for _, pattern := range []string{"*.mem", "*.vlog"} {
		paths, err := filepath.Glob(filepath.Join(escapeGlob(dir), badgerName, pattern))
		if err != nil {
			return err
		}
		for _, path := range paths {
			info, err := os.Lstat(path)
			if err != nil {
				return err
			}
			if info.Size() > 0 {
				continue
			}
			if err := os.Remove(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// escapeGlob makes a directory's name mean only itself in a pattern.
func escapeGlob(dir string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(dir)
}

// backUpManifest gives MANIFEST a second name outside Badger's reach, or a copy where the file
// system has no links.
func backUpManifest(dir string) error {
	from, to := filepath.Join(dir, badgerName, "MANIFEST"), filepath.Join(dir, backupName)
	tmp := to + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Link(from, tmp); err != nil {
		b, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		if err := os.WriteFile(tmp, b, 0o600); err != nil {
			return err
		}
	}
	// Rename does nothing if both are the same file already, and leaves tmp.
	if err := os.Rename(tmp, to); err != nil {
		return err
	}
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// lockWait is how long a lock that somebody else has is waited for: a process that was killed while
// it looked at the journal, or the child of one, may take a moment to go.
var lockWait = 2 * time.Second

// lockPause is between two attempts.
var lockPause = func() { time.Sleep(10 * time.Millisecond) }

// awaitLock repeats try, at least once, while somebody else has the lock, which isLocked tells by its error.
func awaitLock(try func() error, isLocked func(error) bool) error {
	err := try()
	for until := time.Now().Add(lockWait); isLocked(err) && time.Now().Before(until); {
		lockPause()
		err = try()
	}
	return err
}

// lockDir takes the journal's lock, which the end of the process gives back.
func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, lockName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	taken := func(err error) bool { return errors.Is(err, unix.EWOULDBLOCK) }
	if err = awaitLock(func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }, taken); err != nil {
		f.Close()
		if taken(err) {
			return nil, fmt.Errorf("%s: %w", dir, ErrBusy)
		}
		return nil, &fs.PathError{Op: "flock", Path: path, Err: err}
	}
	return f, nil
}

// writeDurably makes a file that is there wholly or not at all.
func writeDurably(path string, b []byte) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	return err
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// diskSize returns the bytes that the files in a directory take.
func diskSize(dir string) (int64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, e := range entries {
		var st unix.Stat_t
		err := unix.Lstat(filepath.Join(dir, e.Name()), &st)
		if errors.Is(err, unix.ENOENT) { // Badger removes files while we look
			continue
		}
		if err != nil {
			return 0, &fs.PathError{Op: "lstat", Path: filepath.Join(dir, e.Name()), Err: err}
		}
		sum += st.Blocks * 512
	}
	return sum, nil
}
