package journal

import "github.com/dgraph-io/badger/v4"

// view is what readers see: the records as of the last commit, in a transaction of Badger's that they
// share until the next. One of its own for each of them would cost more than reading does: its begin and end
// each go through a goroutine of Badger's, and it waits for the commit under way, with its flush of the disk.
type view struct {
	txn   *badger.Txn
	users int // readers inside, and one more while it is the newest; guarded by Store.mu
}

// enter lets a reader in, and leave out; Close waits for those inside.
func (s *Store) enter() (*view, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	if s.damaged != nil {
		return nil, s.damaged
	}
	s.readers++
	s.view.users++
	return s.view, nil
}

func (s *Store) leave(v *view) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v.unuseLocked() {
		s.mu.Unlock()
		v.txn.Discard() // before Close goes on
		s.mu.Lock()
	}
	s.readers--
	if s.readers == 0 && s.closed {
		close(s.idle)
	}
}

// unuseLocked gives up a use of the view, and reports whether that was the last. Called with Store.mu.
func (v *view) unuseLocked() bool {
	v.users--
	return v.users == 0
}

// newView returns a view of what is committed now. Only who commits may call it: it would wait for others.
func (s *Store) newView() *view { return &view{txn: s.db.NewTransaction(false), users: 1} }

// show makes v what readers see from now on; nil once there are none any more.
func (s *Store) show(v *view) {
	s.mu.Lock()
	before := s.view
	s.view = v
	last := before != nil && before.unuseLocked()
	s.mu.Unlock()
	if last {
		before.txn.Discard()
	}
}
