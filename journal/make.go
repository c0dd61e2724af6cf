package journal

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// A store that is made anew is written through memory maps, and where the disk has errors the kernel
// answers that with SIGBUS. So it is made, and read again from the disk, in a process of its own that
// gets the records through a pipe: what takes the place of a store has been seen to be readable.

// maker makes a store in dir/badger.new of the records that it reads; it has the lock of dir until it ends.
type maker func(dir string, lock *os.File, records io.Reader) (State, error)

// run hands a maker the records that fn adds by ascending key.
func (m maker) run(dir string, lock *os.File, fn func(add func(*Op) error) error) (State, error) {
	if m == nil {
		m = func(dir string, _ *os.File, records io.Reader) (State, error) { return makeStore(dir, records) }
	}
	r, w, err := os.Pipe()
	if err != nil {
		return State{}, err
	}
	sent := make(chan error, 1)
	go func() { // ends with the last record, or when the pipe's other end is closed
		err := send(w, fn)
		sent <- errors.Join(err, w.Close())
	}()
	state, err := m(dir, lock, r)
	r.Close()
	if cut := <-sent; cut != nil && !errors.Is(cut, unix.EPIPE) {
		err = cut // the maker has only seen that the records end too soon
	}
	return state, err
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
func makeStore(dir string, records io.Reader) (State, error) {
	path := filepath.Join(dir, newName)
	in := &fileRun{r: bufio.NewReaderSize(records, 256<<10), buf: []byte{}}
	first, _, err := in.next()
	if err != nil {
		return State{}, err
	}
	m, err := parseMeta(first.Value)
	if err != nil {
		return State{}, err
	}
	s := &Store{dir: dir, uuid: m.UUID, log: slog.New(slog.DiscardHandler), space: space{dir: dir, name: newName, statfs: unix.Statfs}}
	s.wire = &tripwire{log: s.log}
	if err := s.build(path, &first, in); err != nil {
		return State{}, err
	}
	if err := forgetPages(path); err != nil {
		return State{}, err
	}
	options := badgerOptions(dir, s.wire)
	options.Dir, options.ValueDir = path, path
	if s.db, err = openBadger(options); err != nil {
		return State{}, fmt.Errorf("%w: it is not read as it was written: %w", ErrNoStore, err)
	}
	found, err := s.verify()
	return found, errors.Join(err, s.db.Close(), syncDir(path))
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
	return judge(stdout, func() (State, error) { return makeStore(dir, stdin) })
}

// MakeFlag is what RunMake adds to the command of RunPreflight.
const MakeFlag = "--make"

// RunMake makes a store of records in a child process: argv with dir and MakeFlag added, which must call
// MakeMain. A child that dies of a fault means a disk that cannot be used: ErrNoStore.
func RunMake(ctx context.Context, argv []string, dir string, lock *os.File, records io.Reader) (State, error) {
	child := exec.CommandContext(ctx, argv[0], append(append([]string{}, argv[1:]...), dir, MakeFlag)...)
	child.Stdin = records
	if lock != nil {
		child.ExtraFiles = []*os.File{lock}
	}
	state, how, err := runJudge(ctx, child)
	if how != "" {
		err = fmt.Errorf("%w: the disk of %s kills who writes there: %s", ErrNoStore, dir, how)
	}
	return state, err
}

// InChild has all that may kill a process done by children: argv as in RunPreflight and RunMake. Without
// one, this process does it.
func (o *Options) InChild(ctx context.Context, argv []string) {
	if len(argv) == 0 {
		return
	}
	o.Preflight = func(dir string) (State, error) { return RunPreflight(ctx, argv, dir) }
	o.Make = func(dir string, lock *os.File, records io.Reader) (State, error) {
		return RunMake(ctx, argv, dir, lock, records)
	}
}

// Try has a store of nothing made in dir, and removes it: whether the disk takes one.
func (o *Options) Try(dir string) error {
	path := filepath.Join(dir, newName)
	if err := os.Mkdir(path, 0o700); err != nil {
		return err
	}
	_, err := maker(o.Make).run(dir, nil, func(add func(*Op) error) error {
		m := meta{UUID: o.UUID}
		return add(&Op{metaKey, m.pack()})
	})
	return errors.Join(err, os.RemoveAll(path))
}
