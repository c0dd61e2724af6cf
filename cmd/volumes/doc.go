// Package volumes is what a machine knows of its volumes: where their state lives, what they are
// made of, and how one is made.
//
// [Dirs] finds the state and run directories. A [Config] is a volume's volume.json. [ParseDevice]
// reads DEVICE arguments and [Create] makes a volume: it checks everything first, tells all faults
// at once, and only then writes. [Import] makes one known out of disks that were a volume already, and
// [JournalWork] verifies, backs up and rebuilds the journal of one that nobody serves.
//
// # On disk
//
//	STATE_DIR/VOLUME/volume.json    the Config, replaced atomically
//	STATE_DIR/VOLUME/journal/       the journal's own directory
//
// Directories are 0700, files 0600. volume.json says where devices were last found; which device is
// which stands in their labels alone.
package volumes
