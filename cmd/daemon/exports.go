package daemon

import (
	"context"
	"errors"
	"fmt"

	"ballast/journal"
	"ballast/nbd"
	"ballast/striping"
)

// exportSet offers a volume's exports over NBD.
type exportSet struct {
	volume   *striping.Volume
	readOnly bool   // all of them
	only     string // the one that is offered; "": all are
	rotates  bool
}

var _ nbd.Exports = (*exportSet)(nil)

// List implements nbd.Exports.
func (s *exportSet) List() []nbd.Info {
	var list []nbd.Info
	for _, e := range s.volume.Exports() {
		if s.only == "" || s.only == e.Name {
			list = append(list, s.info(e.Name, e.ReadOnly))
		}
	}
	return list
}

func (s *exportSet) info(name string, readOnly bool) nbd.Info {
	return nbd.Info{Name: name, Description: "Ballast export " + name, ReadOnly: readOnly || s.readOnly, Rotational: s.rotates}
}

// Open implements nbd.Exports. The default export is the only one there is, if there is one.
func (s *exportSet) Open(name string) (nbd.Export, nbd.Info, func(), error) {
	if s.only != "" && (name == "" || name == s.only) {
		name = s.only
	} else if s.only != "" {
		return nil, nbd.Info{}, nil, fmt.Errorf("%w: only %s is served here", nbd.ErrNoExport, s.only)
	}
	if name == "" {
		if all := s.volume.Exports(); len(all) == 1 {
			name = all[0].Name
		}
	}
	e, err := s.volume.OpenExport(name)
	if err != nil {
		if errors.Is(err, striping.ErrNotExist) {
			err = fmt.Errorf("%w: %w", nbd.ErrNoExport, err)
		}
		return nil, nbd.Info{}, nil, err
	}
	return &export{e}, s.info(name, e.ReadOnly()), e.Close, nil
}

// export is an open export as the NBD server wants it: the methods are the volume's, only types of
// the one package become those of the other.
type export struct{ *striping.Export }

var (
	_ nbd.Export     = (*export)(nil)
	_ nbd.Inliner    = (*export)(nil)
	_ nbd.Receiver   = (*export)(nil)
	_ nbd.Zeroer     = (*export)(nil)
	_ nbd.Trimmer    = (*export)(nil)
	_ nbd.Mapper     = (*export)(nil)
	_ nbd.Prefetcher = (*export)(nil)
)

// sink is nbd.Data as a striping.Sink.
type sink nbd.Data

// Append implements striping.Sink.
func (s *sink) Append(b []byte, owner interface{ Release() }) { (*nbd.Data)(s).Append(b, owner) }

// AppendHole implements striping.Sink.
func (s *sink) AppendHole(size int64) { (*nbd.Data)(s).AppendHole(size) }

// Read implements nbd.Export.
func (e *export) Read(ctx context.Context, off, size int64, data *nbd.Data) error {
	return translate(e.Export.Read(ctx, off, size, (*sink)(data)))
}

// TryRead implements nbd.Inliner.
func (e *export) TryRead(off, size int64, data *nbd.Data) (bool, error) {
	done, err := e.Export.TryRead(off, size, (*sink)(data))
	return done, translate(err)
}

// WriteAt implements nbd.Export.
func (e *export) WriteAt(ctx context.Context, p []byte, off int64, fua bool) error {
	return translate(e.Export.WriteAt(ctx, p, off, fua))
}

// TryWriteAt implements nbd.Inliner.
func (e *export) TryWriteAt(p []byte, off int64) (bool, error) {
	done, err := e.Export.TryWriteAt(p, off)
	return done, translate(err)
}

// Sync implements nbd.Export.
func (e *export) Sync(ctx context.Context) error { return translate(e.Export.Sync(ctx)) }

// Trim implements nbd.Trimmer.
func (e *export) Trim(ctx context.Context, off, size int64, fua bool) error {
	return translate(e.Export.Trim(ctx, off, size, fua))
}

// Prefetch implements nbd.Prefetcher.
func (e *export) Prefetch(ctx context.Context, off, size int64) error {
	return translate(e.Export.Prefetch(ctx, off, size))
}

// Buffer implements nbd.Receiver.
func (e *export) Buffer(size int) nbd.Payload { return e.Export.Buffer(size) }

// WriteBuffer implements nbd.Receiver.
func (e *export) WriteBuffer(ctx context.Context, b nbd.Payload, off int64, fua bool) error {
	return translate(e.Export.WriteBuffer(ctx, b.(*striping.Buffer), off, fua))
}

// WriteZeroes implements nbd.Zeroer.
func (e *export) WriteZeroes(ctx context.Context, off, size int64, noHole, fua, fast bool) error {
	return translate(e.Export.WriteZeroes(ctx, off, size, noHole, fua, fast))
}

// Extents implements nbd.Mapper.
func (e *export) Extents(ctx context.Context, ext []nbd.Extent, off, size int64, limit int) ([]nbd.Extent, error) {
	found, err := e.Export.Extents(ctx, nil, off, size, limit)
	for _, x := range found {
		ext = append(ext, nbd.Extent(x))
	}
	return ext, translate(err)
}

// translate makes errors of the volume those that the server knows.
func translate(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, striping.ErrRemoved):
		return fmt.Errorf("%w: %w", nbd.ErrRemoved, err)
	case errors.Is(err, journal.ErrFull):
		return fmt.Errorf("%w: %w", striping.ErrNoSpace, err)
	case errors.Is(err, striping.ErrNotFast):
		return fmt.Errorf("%w: %w", nbd.ErrNotSupported, err)
	}
	return err
}
