package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// What is known of a journal stands in its store and in the copies. Each of them is whole or is
// not, and says by its life and sequence how new it is. Opening takes the newest there is, however
// it is reached: the store as it is, the store led on by the last groups of a copy, or a store
// made anew from a copy. What it never does is to settle for less than the newest that anything
// tells of.

// ErrForked is returned by Open when two of store and copies went on apart from each other, or
// contradict each other: nobody can tell which of them is right.
var ErrForked = errors.New("journal and its copies went on apart")

// Recovery is what Open did to reach the newest state.
type Recovery struct {
	Why     string // the store was not taken as it was; "": it was
	From    string // the device whose copy it was made from; "": the store is the old one
	Kept    string // where the old store's files are
	LedOn   int    // groups taken from a copy
	Copies  []string
	Records uint64
	Took    time.Duration
}

// Recovery tells what Open had to do.
func (s *Store) Recovery() Recovery { return s.recovery }

// SurveyAll looks what copies there are of the journal of a volume. It reads little of them.
func SurveyAll(places []Place, volume [16]byte) []*Survey {
	surveys := make([]*Survey, len(places))
	var wg sync.WaitGroup
	for i, p := range places {
		wg.Go(func() { surveys[i] = survey(p, volume) })
	}
	wg.Wait()
	return surveys
}

// source is the store or a copy.
type source struct {
	name  string
	life  Life
	lives lives
	state State
}

func (s *Survey) source() source {
	return source{"the copy on device " + s.Place.Name, s.Life, s.lives, s.State}
}

func (a *source) before(b *source) bool {
	if a.life.Number != b.life.Number {
		return a.life.Number < b.life.Number
	}
	return a.state.Seq < b.state.Seq
}

// leftOff returns the last sequence of an older life that can be in s.
func (s *source) leftOff(l Life) Seq {
	if seq := s.lives.left(l); seq > 0 {
		return min(seq, s.state.Seq)
	}
	return s.state.Seq
}

// newest chooses among sources, or returns ErrForked.
func newest(sources []source) (best source, err error) {
	for i, s := range sources {
		if i == 0 || best.before(&s) {
			best = s
		}
	}
	for _, s := range sources {
		same := s.life.Number == best.life.Number && s.state.Seq == best.state.Seq
		switch {
		case same && s.state != best.state:
			return best, fmt.Errorf("%w: %s has %v, %s has %v", ErrForked, s.name, s.state, best.name, best.state)
		case s.life.Number < best.life.Number && s.state.Seq > best.leftOff(s.life)+1:
			// The newer one began before the older one had ended. Of a group that nobody was told of there
			// is one, not more.
			return best, fmt.Errorf("%w: %s has sequence %d of opening %d, of which %s (opening %d) has no more than %d",
				ErrForked, s.name, s.state.Seq, s.life.Number, best.name, best.life.Number, best.leftOff(s.life))
		case s.life == Life{} || best.lives.has(s.life):
		case len(best.lives) > 0 && s.life.Number < best.lives[0].Number: // longer ago than is known
		default:
			return best, fmt.Errorf("%w: %s is of opening %d (%016x), which %s knows nothing of", ErrForked, s.name, s.life.Number, s.life.ID, best.name)
		}
	}
	return best, nil
}

// opener opens a journal that has copies.
type opener struct {
	dir     string
	opts    Options
	surveys []*Survey
	damage  error // why the store cannot be used; nil: it can
	store   *Store
	rec     Recovery
}

// openWithCopies is Open for a journal that may have copies.
func openWithCopies(dir string, opts Options) (*Store, error) {
	o := &opener{dir: dir, opts: opts, surveys: SurveyAll(opts.Places, opts.UUID)}
	start := time.Now()
	for _, v := range o.surveys {
		if errors.Is(v.Err, ErrVersion) {
			return nil, fmt.Errorf("copy of the journal on device %s: %w", v.Place.Name, v.Err)
		}
	}
	plain := opts
	plain.Places, plain.Anchors = nil, nil
	s, err := Open(dir, plain)
	switch {
	case err == nil:
		o.store = s
	case lost(err):
		o.damage = err
	default:
		return nil, err
	}
	err = o.reachNewest()
	if err == nil {
		err = o.live()
	}
	if err != nil {
		if o.store != nil {
			err = errors.Join(err, o.store.Close())
		}
		return nil, err
	}
	o.rec.Took = time.Since(start)
	o.store.recovery, o.store.surveys = o.rec, o.surveys
	return o.store, nil
}

// lost tells an error of a store that is damaged or not there from one that says nothing about it.
func lost(err error) bool {
	return errors.Is(err, ErrCorrupt) || errors.Is(err, fs.ErrNotExist)
}

// reachNewest makes the store the newest that there is.
func (o *opener) reachNewest() error {
	var sources []source
	if o.store != nil {
		ls, err := o.store.readLives()
		if err != nil {
			return err
		}
		o.store.lives = ls
		sources = append(sources, source{"the store", ls.last(), ls, o.store.State()})
	}
	for _, v := range o.surveys {
		if v.Err == nil {
			sources = append(sources, v.source())
		}
	}
	if len(sources) == 0 {
		return o.nothing()
	}
	best, err := newest(sources)
	if err != nil {
		return err
	}
	if err := best.state.Check(o.opts.Anchors); err != nil {
		return o.withCopies(err)
	}
	for _, v := range o.surveys {
		if seen := v.beyondSeq; seen > best.state.Seq {
			return fmt.Errorf("%w: the newest that is whole is %v, device %s has had sequence %d", ErrRolledBack, best.state, v.Place.Name, seen)
		}
	}
	if o.store != nil && o.store.State() == best.state {
		o.store.lives = best.lives
		return nil
	}
	if o.store != nil {
		ok, err := o.leadOn(best.state)
		if err != nil {
			return err
		}
		if ok {
			o.rec.Why = "the store lacked the newest commits"
			o.store.lives = best.lives
			return nil
		}
		o.damage = &RolledBackError{Have: o.store.State(), Anchor: best.state}
		if err := o.store.Close(); err != nil {
			return err
		}
		o.store = nil
	}
	return o.rebuild(best)
}

// nothing is the error of a journal of which nothing is left.
func (o *opener) nothing() error { return o.withCopies(o.damage) }

// withCopies adds to an error why no copy helps.
func (o *opener) withCopies(err error) error {
	if len(o.surveys) == 0 {
		return err
	}
	var list []string
	for _, v := range o.surveys {
		what := v.State.String()
		if v.Err != nil {
			what = v.Err.Error()
		}
		list = append(list, fmt.Sprintf("%s: %s", v.Place.Name, what))
	}
	return fmt.Errorf("%w; copies on the devices: %s", err, strings.Join(list, "; "))
}

// leadOn applies the groups that lead from the store's state to another one, if a copy has them.
func (o *opener) leadOn(to State) (bool, error) {
	for _, v := range o.surveys {
		if v.Err != nil || v.State != to {
			continue
		}
		units, ok, err := v.since(o.store.State())
		if !ok || err != nil {
			continue // another one may do, or a copy as a whole
		}
		for _, u := range units {
			if err := o.store.applyUnit(u); err != nil {
				return false, err
			}
		}
		o.rec.LedOn += len(units)
		return o.store.State() == to, nil
	}
	return false, nil
}

// applyUnit commits a group of a copy.
func (s *Store) applyUnit(u *unit) error {
	ops, err := parseOps(u.payload)
	if err != nil {
		return err
	}
	g := newGroupTxn(s, s.State(), len(ops))
	defer g.txn.Discard()
	for i := range ops {
		if err := g.apply(&ops[i]); err != nil {
			return err
		}
	}
	g.after.Seq = u.state.Seq
	if g.after != u.state {
		return fmt.Errorf("%w: a copy's group leads to %v, it says %v", ErrCorrupt, g.after, u.state)
	}
	if u.state.Seq == g.before.Seq+1 {
		if err := g.trace(ops); err != nil {
			return err
		}
	}
	if err := g.write(); err != nil {
		return err
	}
	s.show(s.newView())
	s.mu.Lock()
	s.state = g.after
	s.mu.Unlock()
	return nil
}

// rebuild makes the store anew from the best copy that leads to a state.
func (o *opener) rebuild(best source) error {
	usable := slices.DeleteFunc(slices.Clone(o.surveys), func(v *Survey) bool { return v.Err != nil })
	slices.SortStableFunc(usable, func(a, b *Survey) int {
		x, y := a.source(), b.source()
		switch {
		case y.before(&x):
			return -1
		case x.before(&y):
			return 1
		}
		return 0
	})
	errs := []error{o.damage}
	for _, v := range usable {
		err := o.rebuildFrom(v)
		if err == nil && o.store.State() != best.state {
			var ok bool
			if ok, err = o.leadOn(best.state); err == nil && !ok {
				err = fmt.Errorf("device %s: %w", v.Place.Name, &RolledBackError{Have: o.store.State(), Anchor: best.state})
			}
		}
		if err == nil {
			o.rec.Why, o.rec.From, o.rec.Records = o.damage.Error(), v.Place.Name, o.store.State().Count
			o.store.lives = best.lives
			return nil
		}
		errs = append(errs, err)
		if o.store != nil {
			errs = append(errs, o.store.Close())
			o.store = nil
		}
		if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrRolledBack) {
			break // another copy would meet the same
		}
		v.Err = err
	}
	return errors.Join(errs...)
}

// rebuildFrom replaces the store by what a copy holds, and opens it.
func (o *opener) rebuildFrom(v *Survey) error {
	if o.opts.Logger != nil {
		o.opts.Logger.Warn("the journal is made anew from a copy", "device", v.Place.Name, "state", v.State.String(), "why", o.damage)
	}
	kept, found, err := rebuildStore(o.dir, o.opts, v)
	if err != nil {
		return err
	}
	o.rec.Kept = kept
	s, verified, err := open(o.dir, o.opts.UUID, o.opts.Logger, func() (*contents, error) { return found, nil })
	if err != nil {
		return err
	}
	if err := s.start(Options{}, verified); err != nil {
		return errors.Join(err, s.shut())
	}
	o.store = s
	return nil
}

// live begins a new life of the store.
func (o *opener) live() error {
	ls, err := o.store.beginLife(o.store.lives)
	o.store.lives = ls
	return err
}

// rebuildStore makes Badger's directory anew from a copy, and verifies it, before it takes the
// place of the old one, which is kept beside it.
func rebuildStore(dir string, opts Options, v *Survey) (kept string, found *contents, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", nil, err
	}
	lock, err := lockDir(dir)
	if err != nil {
		return "", nil, err
	}
	defer lock.Close()
	path := filepath.Join(dir, badgerName)
	if found, err = fillStore(dir, opts, lock, v); err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(filepath.Join(dir, newName)))
	}
	if _, err := os.Lstat(path); err == nil {
		kept = filepath.Join(dir, damagedName)
		if err := os.RemoveAll(kept); err != nil {
			return "", nil, err
		}
		if err := os.Rename(path, kept); err != nil {
			return "", nil, err
		}
	}
	if err := os.Rename(filepath.Join(dir, newName), path); err != nil {
		return "", nil, err
	}
	if err := os.Remove(filepath.Join(dir, backupName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", nil, err
	}
	return kept, found, writeDurably(filepath.Join(dir, storeName), packStoreFile(opts.UUID, time.Now()))
}
