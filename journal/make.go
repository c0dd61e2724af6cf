package journal

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// A store that is made anew is written through memory maps, and where the disk has errors the kernel
// answers that with SIGBUS. So it is made in a process of its own that gets the records through a pipe. Then
// it is read again from the disk: what takes the place of a store has been seen to be readable.

// makePipe is how many bytes wait in the pipe: what a user without privileges may ask for.
const makePipe = 1 << 20

// maker makes a store in dir/badger.new of the records that it reads; it has the lock of dir until it ends.
type maker func(dir string, lock *os.File, records io.Reader) error

// run hands a maker the records that fn adds by ascending key.
func (m maker) run(dir string, lock *os.File, fn func(add func(*Op) error) error) error {
	if m == nil {
		m = func(dir string, _ *os.File, records io.Reader) error { return makeStore(dir, records) }
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	// With the 64 KiB that a pipe has, the two sides would run in turn. Who may not have more, waits.
	_, _ = unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, makePipe)
	sent := make(chan error, 1)
	go func() { // ends with the last record, or when the pipe's other end is closed
		err := send(w, fn)
		sent <- errors.Join(err, w.Close())
	}()
	err = m(dir, lock, r)
	r.Close()
	if cut := <-sent; cut != nil && !errors.Is(cut, unix.EPIPE) {
		err = cut // the maker has only seen that the records end too soon
	}
	return err
}

// send writes what fn adds, and then a change that no store can hold: so the end is known from a cut.
func send(w io.Writer, fn func(add func(*Op) error) error) error {
	to := bufio.NewWriterSize(w, 256<<10)
	var buf []byte
	add := func(op *Op) error {
		buf = appendOps(buf[:0], []Op{*op})
		_, err := to.Write(buf)
		return err
	}
	err := fn(add)
	if err == nil {
		err = add(&Op{Key: metaKey})
	}
	if err == nil {
		err = to.Flush()
	}
	return err
}

// makeStore is a maker in this process.
func makeStore(dir string, records io.Reader) error {
	path := filepath.Join(dir, newName)
	in := &fileRun{r: bufio.NewReaderSize(records, 256<<10), buf: []byte{}}
	first, _, err := in.next()
	if err != nil {
		return err
	}
	m, err := parseMeta(first.Value)
	if err != nil {
		return err
	}
	s := newStore(dir, m.UUID, nil)
	s.space.name = newName
	if err := s.build(path, &first, in); err != nil {
		return err
	}
	return errors.Join(forgetPages(path), syncDir(path))
}

// readBack reads a store that was just made from the disk.
func readBack(path string, uuid [16]byte) (*contents, error) {
	c, err := readTables(path, uuid)
	if errors.Is(err, errTable) || errors.As(err, new(*fs.PathError)) {
		err = fmt.Errorf("%w: it is not read as it was written: %w", ErrNoStore, err)
	}
	return c, err
}

// build makes Badger's files of records, whose first was read already.
func (s *Store) build(path string, first *Op, in *fileRun) error {
	b, err := openBuilder(path, s.wire) // an empty directory: it is not what is read
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoStore, err)
	}
	op, ok, bytes := *first, true, fillCheck
	for op.Value != nil {
		if bytes += op.Bytes(); bytes >= fillCheck {
			bytes = 0
			err = s.space.roomToFill()
		}
		if err == nil {
			err = b.add(op.Key, op.Value)
		}
		if err == nil {
			op, ok, err = in.next()
		}
		if err == nil && !ok {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			b.abandon()
			return err
		}
	}
	if err := b.finish(); err != nil {
		return fmt.Errorf("%w: %w", ErrNoStore, err)
	}
	return b.db.Close()
}

// forgetPages has what files hold read from the disk the next time.
func forgetPages(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		f, err := os.Open(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		err = errors.Join(unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED), f.Close())
		if err != nil {
			return fmt.Errorf("%s: %w", f.Name(), err)
		}
	}
	return nil
}

// MakeMain is the child's part of RunMake, as PreflightMain is that of RunPreflight.
func MakeMain(dir string, stdin io.Reader, stdout io.Writer) int {
	return judge(stdout, func() (State, error) { return State{}, makeStore(dir, stdin) })
}

// MakeFlag is what RunMake adds to the command of RunPreflight.
const MakeFlag = "--make"

// RunMake makes a store of records in a child process: argv with dir and MakeFlag added, which must call
// MakeMain. A child that dies of a fault means a disk that cannot be used: ErrNoStore.
func RunMake(ctx context.Context, argv []string, dir string, lock *os.File, records io.Reader) error {
	child := exec.CommandContext(ctx, argv[0], append(append([]string{}, argv[1:]...), dir, MakeFlag)...)
	child.Stdin = records
	if lock != nil {
		child.ExtraFiles = []*os.File{lock}
	}
	_, how, err := runJudge(ctx, child)
	if how != "" {
		err = fmt.Errorf("%w: the disk of %s kills who writes there: %s", ErrNoStore, dir, how)
	}
	return err
}

// InChild has all that may kill a process done by children: argv as in RunSettle and RunMake. Without
// one, this process does it.
func (o *Options) InChild(ctx context.Context, argv []string) {
	if len(argv) == 0 {
		return
	}
	o.Preflight = func(dir string) error { return RunSettle(ctx, argv, dir) }
	o.Make = func(dir string, lock *os.File, records io.Reader) error {
		return RunMake(ctx, argv, dir, lock, records)
	}
}

// Try has a store of nothing made in dir, and removes it: whether the disk takes one.
func (o *Options) Try(dir string) error {
	path := filepath.Join(dir, newName)
	if err := os.Mkdir(path, 0o700); err != nil {
		return err
	}
	err := maker(o.Make).run(dir, nil, func(add func(*Op) error) error {
		m := meta{UUID: o.UUID}
		return add(&Op{metaKey, m.pack()})
	})
	if err == nil {
		_, err = readBack(path, o.UUID)
	}
	return errors.Join(err, os.RemoveAll(path))
}
