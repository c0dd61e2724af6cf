package volumes

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"ballast/cmd/control"
)

// SchemaConfig is the schema of volume.json.
const SchemaConfig = "ballast.volume/1"

// Config is a volume's volume.json.
type Config struct {
	Schema    string         `json:"schema"`
	Name      string         `json:"name"`
	UUID      UUID           `json:"uuid"`
	ChunkSize int64          `json:"chunk_size_bytes"`
	Copies    int            `json:"copies"`
	Created   time.Time      `json:"created"`
	Devices   []ConfigDevice `json:"devices"`
	// ReadOnly lets clients only read: the volume was imported so.
	ReadOnly bool `json:"read_only,omitempty"`
}

// ConfigDevice is a device of a Config.
type ConfigDevice struct {
	ID   uint16 `json:"id"`
	UUID UUID   `json:"uuid"`
	Path string `json:"path"` // where it was last found
	Size int64  `json:"size_bytes"`
	// Domain is the failure domain as it was given to create; what counts stands in the journal.
	Domain string `json:"domain,omitempty"`
}

// UUID is 16 bytes, written with dashes.
type UUID [16]byte

func (u UUID) String() string {
	h := hex.EncodeToString(u[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// MarshalText is String.
func (u UUID) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// UnmarshalText is the reverse of String.
func (u *UUID) UnmarshalText(text []byte) error {
	raw, err := hex.DecodeString(string(bytes.ReplaceAll(text, []byte("-"), nil)))
	if err != nil || len(raw) != len(u) {
		return fmt.Errorf("%q is not a UUID", text)
	}
	copy(u[:], raw)
	if u.String() != string(text) {
		return fmt.Errorf("%q is not a UUID", text)
	}
	return nil
}

// configMax is more than 64 devices with the longest paths need.
const configMax = 1 << 20

// ReadConfig returns the volume's configuration.
func ReadConfig(d Dirs, name string) (*Config, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	path := filepath.Join(d.Volume(name), "volume.json")
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		r := control.Refuse("E_NO_VOLUME", "there is no volume %s in %s", name, d.State)
		if names, _ := d.Names(); len(names) > 0 {
			return nil, r.WithTry("ballast list")
		}
		return nil, r.WithTry("ballast create %s DEVICE...", name).WithTry("--state-dir DIR, if it lives elsewhere")
	case err != nil:
		return nil, accessRefusal(err, path)
	}
	c, err := parseConfig(text)
	if err == nil && c.Name != name {
		err = fmt.Errorf("it is that of volume %q", c.Name)
	}
	if err != nil {
		return nil, control.Refuse("E_STATE", "%s: %v", path, err)
	}
	return c, nil
}

// parseConfig refuses what it does not know: a key of a newer version may change what others mean.
func parseConfig(text []byte) (*Config, error) {
	if len(text) > configMax {
		return nil, fmt.Errorf("%d bytes are too many", len(text))
	}
	var head struct {
		Schema string `json:"schema"`
	}
	if err := json.Unmarshal(text, &head); err != nil {
		return nil, err
	}
	if head.Schema != SchemaConfig {
		return nil, fmt.Errorf("schema %q is not %s", head.Schema, SchemaConfig)
	}
	c := &Config{}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(c); err != nil {
		return nil, err
	}
	if decoder.More() {
		return nil, errors.New("there is more after the document")
	}
	return c, c.validate()
}

func (c *Config) validate() error {
	if err := CheckName(c.Name); err != nil {
		return err
	}
	if err := checkGeometry(c.Copies, c.ChunkSize, len(c.Devices)); err != nil {
		return err
	}
	ids, uuids := map[uint16]bool{}, map[UUID]bool{}
	for _, d := range c.Devices {
		if d.ID == 0 || ids[d.ID] || uuids[d.UUID] || d.UUID == (UUID{}) || d.Size <= 0 {
			return fmt.Errorf("device %d is listed wrongly", d.ID)
		}
		ids[d.ID], uuids[d.UUID] = true, true
	}
	return nil
}

// Write replaces the volume's volume.json; after a crash there is the old one or the new one.
func (c *Config) Write(d Dirs) error { return c.writeTo(d.Volume(c.Name)) }

func (c *Config) writeTo(dir string) error {
	text, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(dir, "volume.json")
	f, err := os.CreateTemp(dir, "volume.json.*") // 0600
	if err != nil {
		return accessRefusal(err, dir)
	}
	_, err = f.Write(append(text, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		os.Remove(f.Name())
		return control.Refuse("E_STATE", "writing %s: %v", path, err)
	}
	return nil
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
