package journal

import (
	"encoding/hex"
	"fmt"
)

// String shows the digest in hex.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// MarshalText is String.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText is the reverse of MarshalText.
func (d *Digest) UnmarshalText(text []byte) error {
	if hex.DecodedLen(len(text)) != len(d) {
		return fmt.Errorf("digest of %d digits, want %d", len(text), hex.EncodedLen(len(d)))
	}
	_, err := hex.Decode(d[:], text)
	return err
}

// String shows the state for people.
func (s State) String() string {
	return fmt.Sprintf("sequence %d with %d records and digest %v", s.Seq, s.Count, s.Digest)
}

// Check returns a RolledBackError if a journal in state s is older than an anchor, or as old and
// different. Anchors of sequence 0 say nothing.
func (s State) Check(anchors []State) error {
	for _, a := range anchors {
		if a.Seq > 0 && (s.Seq < a.Seq || s.Seq == a.Seq && s != a) {
			return &RolledBackError{Have: s, Anchor: a}
		}
	}
	return nil
}
